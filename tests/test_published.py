"""The published experiments: what the declarations say and the recipes make of it."""

import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

from data_prep import DataError, declaration
from recipes.driver.classification import declared_flags
from recipes.driver.models import Model
from recipes.driver.options import parse_classification, parse_translation
from recipes.driver.settings import slug
from recipes.driver.translation import training_flags

TRANSLATION = {  # script: name, updates, warm-up, layers; score of dense and of n = 16
    "iwslt14_de_en": ("De-En", 50_000, 16_000, 0, 36.68, 33.89),
    "iwslt14_ro_en": ("Ro-En", 50_000, 16_000, 0, 34.60, 31.53),
    "iwslt15_en_vi": ("En-Vi", 50_000, 16_000, 0, 28.43, 29.04),
    "iwslt17_en_id": ("En-Id", 50_000, 16_000, 0, 47.40, 33.48),
    "setimes_en_mk": ("En-Mk", 100_000, 16_000, 0, 13.96, 11.97),
    "style_shakespeare": ("Shakespeare", 10_000, 3333, 4, 11.65, 10.76),
    "wmt18_en_et": ("En-Et", 100_000, 16_000, 0, 14.17, 12.15),
    "wmt18_en_ro": ("En-Ro", 100_000, 16_000, 0, 22.79, 19.63),
}
NLI = (
    "--word-tokenizer treebank --lowercase --optimizer adam --lr 4e-4 --batch-size 256"
)
SVA = (
    "--min-count 2 --optimizer adam --adam-betas (0.9,0.98) --clip-norm 1.0 "
    "--batch-size 256 --lr 1e-3 --lr-scheduler inverse_sqrt --warmup-updates 200"
)
CLASSIFICATION = {  # script: name, architecture, n, epochs, flags, score of dense
    "nli_dialogue": ("DialogueNLI", "phm_lstm", "2 5 10", 10, NLI, 85.16),
    "nli_multinli": ("MultiNLI", "phm_lstm", "2 5 10", 10, NLI, 71.89),
    "nli_qnli": ("QNLI", "phm_lstm", "2 5 10", 10, NLI, 84.44),
    "nli_scitail": ("SciTail", "phm_lstm", "2 5 10", 30, NLI + " --patience 5", 74.36),
    "nli_snli": ("SNLI", "phm_lstm", "2 5 10", 10, NLI, 84.18),
    "sva": ("SVA", "phm_transformer", "2 4 8", 15, SVA + " --patience 4", 94.80),
}


OTHERS = "quickstart quality speed translate language_model compress".split()


def test_all_scripts_are_here():
    scripts = {path.stem for path in (ROOT / "recipes").glob("*.sh")}
    assert scripts == {*TRANSLATION, *CLASSIFICATION, *OTHERS}


@pytest.mark.parametrize("script", TRANSLATION)
def test_translation(script, handed):
    def words(*arguments):
        return handed(f"{script}.sh", *arguments)[1:]

    name, updates, warmup, layers, dense, sixteen = TRANSLATION[script]
    found = parse_translation(words("--size", "paper"))
    assert (found.name, found.seeds) == (name, (1,))
    training = found.training
    assert (training.updates, training.save_interval) == (updates, updates // 50)
    style = script == "style_shakespeare"
    models = "dense 2 4 8 16" if style else "dense quaternion 2 4 8 16"
    assert " ".join(map(str, found.models)) == models
    depth = f"--encoder-layers {layers} --decoder-layers {layers}" if layers else ""
    assert " ".join(training_flags(found)) == (
        "--encoder-normalize-before --decoder-normalize-before --share-all-embeddings "
        "--dropout 0.1 --criterion label_smoothed_cross_entropy --label-smoothing 0.1 "
        f"--optimizer adam --lr 0.0007 --warmup-updates {warmup} --max-tokens 2048 "
        "--lr-scheduler inverse_sqrt --adam-betas (0.9,0.997) --adam-eps 1e-9 " + depth
    ).strip()  # fmt: skip
    assert found.published["dense"] == ("" if style else "44M", dense)
    assert found.published["16"][1] == sixteen
    assert {str(model) for model in found.models} <= set(found.published)
    wide = parse_translation(words("--size", "paper", "--wide"))
    assert str(wide.models[-1]) == "16-wide" and wide.folder == found.folder
    given = words("--size", "paper", "--models", "4", "--updates", "9")
    given += ["--layers", "2", "--dropout", "0"]
    found = parse_translation([*given, "--", "--clip-norm", "3"])
    assert (list(map(str, found.models)), found.training.updates) == (["4"], 9)
    assert "--share-all-embeddings --dropout 0 " in " ".join(training_flags(found))
    assert found.training.layers == 2 and found.extra == ("--clip-norm", "3")
    small = parse_translation(words())
    assert list(map(str, small.models)) == ["dense", "4"]
    assert (small.name, small.training.updates) == (name, 10_000)
    assert small.training.layers == 0


@pytest.mark.parametrize("script", CLASSIFICATION)
def test_classification(script, handed):
    def words(*arguments):
        return handed(f"{script}.sh", *arguments)[1:]

    name, arch, n, epochs, flags, dense = CLASSIFICATION[script]
    found = parse_classification(words())
    assert (found.name, found.arch) == (name, f"{arch}_classifier")
    assert (found.epochs, found.seeds) == (epochs, (1, 2, 3))
    assert " ".join(map(str, found.models)) == f"dense quaternion {n}"
    assert found.flags == flags and found.groups == ("attractors" * (name == "SVA"))
    assert found.published["dense"][1] == dense
    assert {str(model) for model in found.models} == set(found.published)
    columns = declared_flags(declaration.load(found.source.data_set))
    place = "2" if name == "SVA" else "3"
    assert columns[columns.index("--label-column") + 1] == place
    tiny = parse_classification(words("--size", "tiny"))
    assert (tiny.epochs, tiny.seeds, tiny.flags) == (1, (1,), flags)


def test_every_published_figure_is_of_a_model():
    found = set()
    for name in declaration.names():
        paper = declaration.load(name).paper
        list(map(Model.parse, [*paper.models, *paper.published]))
        found |= {slug(paper.name)} if paper.name else set()
    assert len(found) == len(TRANSLATION) + len(CLASSIFICATION)


def test_figures_change_no_folder_of_data():
    declared = declaration.load("iwslt14-de-en")
    assert declared.paper.updates and "paper" not in repr(declared)


@pytest.mark.parametrize(
    "text,message",
    [
        ("paper = 3", "3 is not a table of Paper"),
        ("[paper]\nbatch = 3", "unknown key 'batch' (known: name, models, "),
        ('[paper]\nupdates = "3"', "updates = '3' is not of type int"),
        ("[paper.published]\n4 = 28.1", "published '4' must be a size and a score, as"),
        ('[paper.published]\n4 = ["28.1"]', "published '4' must be a size and a score"),
        ('[paper]\ngroups = "x"', "groups 'x' must be one of the columns"),
    ],
)
def test_faulty_declarations_are_one_line(text, message, tmp_path):
    file = Path(tmp_path / "own.toml")
    head = 'title = "x"\nkind = "parallel"\nlanguages = ["xx", "yy"]\n'
    file.write_text(head + text)
    with pytest.raises(DataError) as error:
        declaration.load(str(file))
    assert str(error.value).startswith(f"{file}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("script", [*OTHERS, "wmt18_en_et", "sva"])
def test_messages_begin_with_the_script(script):
    def call(*arguments):
        return subprocess.run(
            [ROOT / "recipes" / f"{script}.sh", *arguments],
            capture_output=True, text=True,
        )  # fmt: skip

    assert call("--help").stdout.startswith(f"usage: {script}.sh [")
    (refused,) = call("--models", "x").stderr.splitlines()
    assert refused.startswith(f"{script}.sh: error: --models x: dense, ")
