"""The real command-line tools, as subprocesses, on a tiny corpus."""

import math
import os
import random
import re
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, assert_same_state, hydra_train, run
from forked import python

PLUGIN = str(ROOT / "fairseq_phm")
CHECKS_TYPES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)
LINES = {"train": 100, "valid": 13, "test": 21}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Binarised pairs: digits, and the same digits backwards in another alphabet."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(1)
    for split, count in LINES.items():
        rows = [rng.choices("0123456789", k=rng.randint(2, 12)) for _ in range(count)]
        (folder / f"{split}.src").write_text("".join(" ".join(r) + "\n" for r in rows))
        (folder / f"{split}.tgt").write_text(
            "".join(
                " ".join("abcdefghij"[int(d)] for d in r[::-1]) + "\n" for r in rows
            )
        )
    run(
        "preprocess", "--source-lang", "src", "--target-lang", "tgt",
        "--joined-dictionary", "--destdir", folder / "bin",
        *[f"--{split}pref={folder / split}" for split in LINES],
    )  # fmt: skip
    return folder


TRAIN = [
    "--user-dir", PLUGIN, "--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "64",
    "--encoder-layers", "2", "--decoder-layers", "2", "--encoder-attention-heads", "4",
    "--decoder-attention-heads", "4", "--optimizer", "adam", "--lr", "0.005",
    "--max-tokens", "400", "--required-batch-size-multiple", "1", "--log-format",
    "json", "--num-workers", "0", "--cpu", "--seed", "1", "--no-progress-bar",
]  # fmt: skip
GENERATE = [
    "--user-dir", PLUGIN, "--beam", "3", "--required-batch-size-multiple", "1",
    "--max-tokens", "400", "--cpu", "--num-workers", "0", "--max-len-a", "1",
    "--max-len-b", "3",
]  # fmt: skip


def train(corpus, folder, *flags, arch="phm_transformer", updates=4, check=True):
    return run(
        "train", corpus / "bin", "--save-dir", folder, "--arch", arch,
        "--max-update", updates, *TRAIN, *flags, check=check,
    )  # fmt: skip


def hypotheses(output):
    return re.findall(r"^H-(\d+)\t", output, re.MULTILINE)


@pytest.fixture(scope="session")
def trained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(corpus, folder, "--phm-share-rule", "block", "--phm-fuse-qkv")
    return folder


def test_generate_keeps_every_sentence(corpus, trained):
    checkpoint = trained / "checkpoint_best.pt"
    output = run("generate", corpus / "bin", "--path", checkpoint, *GENERATE)
    assert sorted(map(int, hypotheses(output))) == list(range(LINES["test"]))


def test_generates_with_the_mean_of_checkpoints(corpus, trained, tmp_path):
    averaged = tmp_path / "averaged.pt"
    done = python(
        "-m", "fairseq_phm.average", "--mean", "weights",
        "--inputs", trained / "checkpoint1.pt", trained / "checkpoint_last.pt",
        "--output", averaged, check=True,
    )  # fmt: skip
    assert "mean of 2 checkpoints, updates 3 to 4" in done.stdout
    output = run("generate", corpus / "bin", "--path", averaged, *GENERATE)
    assert sorted(map(int, hypotheses(output))) == list(range(LINES["test"]))


def test_interactive_and_validate(corpus, trained):
    checkpoint = trained / "checkpoint_best.pt"
    output = run(
        "interactive", corpus / "bin", "--path", checkpoint, "--user-dir", PLUGIN,
        "--source-lang", "src", "--target-lang", "tgt", "--cpu",
        stdin="1 2 3\n4 5\n",
    )  # fmt: skip
    assert hypotheses(output) == ["0", "1"]
    output = run(
        "validate", corpus / "bin", "--task", "translation", "--path", checkpoint,
        "--user-dir", PLUGIN, "--required-batch-size-multiple", "1",
        "--max-tokens", "400", "--cpu", "--log-format", "json",
    )  # fmt: skip
    assert re.search(r"valid_loss.*\d", output)


def assert_same_weights(one, other, exactly=False):
    """The last checkpoints in these folders hold weights that are close, or equal."""
    first, second = (
        torch.load(folder / "checkpoint_last.pt", weights_only=False)["model"]
        for folder in (one, other)
    )
    close = {} if exactly else {"atol": 1e-4, "rtol": 1e-3}
    assert_same_state(first, second, **close)


ONE_UPDATE = [
    "--max-tokens", "4000", "--dropout", "0", "--disable-validation", "--clip-norm",
    "0.1", "--phm-rule-lr", "16", "--phm-share-rule", "stack", "--adam-eps", "1e-3",
]  # fmt: skip
"""All lines are one update; clipping holds, and the rules have a rate of their own."""


@pytest.fixture(scope="session")
def whole_batches(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    output = train(corpus, folder, *ONE_UPDATE, "--batch-size", "100")
    assert 'clip": "100"' in output
    return folder


def test_two_half_batches_make_the_update_of_the_whole(corpus, whole_batches, tmp_path):
    train(
        corpus, tmp_path, *ONE_UPDATE, "--batch-size", "50", "--update-freq", "2"
    )  # fmt: skip
    assert_same_weights(tmp_path, whole_batches)


def _train_as_rank(rank, port, arguments, folder):
    """One process of two; saves its model."""
    from fairseq.trainer import Trainer

    from recipes.driver import torchrun

    trainers = []
    make = Trainer.__init__

    def remember(self, *arguments, **options):
        trainers.append(self)
        make(self, *arguments, **options)

    Trainer.__init__ = remember
    os.environ.update(
        TORCHELASTIC_RUN_ID="test", RANK=str(rank), LOCAL_RANK=str(rank),
        WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port),
    )  # fmt: skip
    sys.argv = ["fairseq-train", *arguments]
    torchrun.main()
    (trainer,) = trainers
    torch.save(trainer.get_model().state_dict(), f"{folder}/rank{rank}.pt")


def test_two_processes_make_the_update_of_one(corpus, whole_batches, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    arguments = [
        corpus / "bin", "--save-dir", tmp_path, "--arch", "phm_transformer",
        "--max-update", 4, *TRAIN, *ONE_UPDATE, "--batch-size", 50,
    ]  # fmt: skip
    torch.multiprocessing.spawn(
        _train_as_rank, (port, list(map(str, arguments)), str(tmp_path)), 2
    )
    assert_same_weights(tmp_path, whole_batches)
    assert_same_state(*(torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)))


def test_resume_goes_on_as_if_never_stopped(corpus, tmp_path):
    """In the first epoch, at its end, and in the second; bit for bit."""
    flags = ["--disable-validation", "--max-tokens", "150"]
    train(corpus, tmp_path / "whole", *flags, updates=12)
    for stop in (4, 7, 9, 12):
        output = train(corpus, tmp_path / "parts", *flags, updates=stop)
    assert "Loaded checkpoint" in output and "total_num_itrs = 7" in output
    assert_same_weights(tmp_path / "parts", tmp_path / "whole", exactly=True)


@pytest.mark.parametrize(
    "flags",
    [
        ["--share-all-embeddings", "--encoder-normalize-before", "--phm-n", "8"],
        ["--encoder-layerdrop", "0.5", "--decoder-layerdrop", "0.5", "--phm-rank", "2"],
        ["--encoder-learned-pos", "--decoder-learned-pos", "--phm-attention-n", "2"],
        ["--checkpoint-activations", "--phm-share-rule", "model"],
        [
            "--adaptive-softmax-cutoff", "8,12", "--criterion", "adaptive_loss",
            "--ddp-backend", "legacy_ddp", "--phm-rule", "quaternion",
        ],
        ["--memory-efficient-fp16", "--fp16-init-scale", "4"],
        ["--amp", "--phm-attention-dim", "64"],
        ["--bf16"],
        ["--update-freq", "2", "--ema-decay", "0.9", "--store-ema"],
    ],
    ids=lambda flags: " ".join(flags),
)  # fmt: skip
def test_fairseq_options_keep_working(corpus, tmp_path, flags):
    import fairseq

    if "--memory-efficient-fp16" in flags and fairseq.__version__ == "0.12.2":
        pytest.skip("fairseq 0.12.2 asks for CUDA with fp16")
    train(corpus, tmp_path, *flags)
    if "--memory-efficient-fp16" in flags:
        return
    output = run(
        "generate", corpus / "bin", "--path", tmp_path / "checkpoint_last.pt", *GENERATE
    )
    assert len(hypotheses(output)) == LINES["test"]


def training_log(corpus, folder, *flags, updates):
    """What a training logs that starts as those of recipes: losses, overflows."""
    on_gpu = torch.cuda.is_available()
    gpu_or_cpu = [flag for flag in TRAIN if not (on_gpu and flag == "--cpu")]
    done = python(
        "-m", "recipes.driver.torchrun", corpus / "bin", "--save-dir", folder,
        "--arch", "phm_transformer_tiny", "--max-update", updates, *gpu_or_cpu,
        "--no-save", "--lr", "0.002", "--clip-norm", "1", "--dropout", "0",
        "--log-interval", "1", *flags, merged=True, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.one_version
def test_bfloat16_learns_as_float32(corpus, tmp_path):
    losses = []
    for flags in ([], ["--bf16"]):
        output = training_log(corpus, tmp_path, *flags, updates=200)
        found = re.findall(r'"valid_loss": "([\d.]+)"', output)
        losses.append(float(found[-1]))
    chance = math.log2(24)  # the two alphabets and the symbols of fairseq
    assert losses[0] < 0.8 * chance and losses[1] == pytest.approx(losses[0], rel=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("flags", ["--fp16", "--memory-efficient-fp16", "--amp"])
def test_half_precision_on_a_gpu(corpus, tmp_path, flags):
    """Not yet measured: no more overflows than the dense twin has, and a few."""
    overflows, losses = [], []
    for n in ("1", "4"):
        output = training_log(corpus, tmp_path, flags, "--phm-n", n, updates=2000)
        overflows.append(output.count("gradient overflow detected"))
        losses.append(float(re.findall(r'"valid_loss": "([\d.]+)"', output)[-1]))
    assert overflows[1] <= overflows[0] + 5
    assert losses[1] < 1.2 * losses[0]


@pytest.mark.parametrize("arch", ["quaternion_transformer", "phm_transformer_wide"])
def test_architectures_train_and_generate(corpus, tmp_path, arch):
    flags = ["--phm-attention-dim", "64"] if arch.endswith("wide") else []
    train(corpus, tmp_path, *flags, arch=arch)
    checkpoint = tmp_path / "checkpoint_last.pt"
    output = run("generate", corpus / "bin", "--path", checkpoint, *GENERATE)
    assert len(hypotheses(output)) == LINES["test"]
    state = torch.load(checkpoint, weights_only=False)["model"]
    rule = state["encoder.layers.0.fc1.rule"]
    assert rule.shape == (4, 4, 4)
    assert set(rule.unique().tolist()) == {-1, 0, 1} or arch.endswith("wide")


LSTM = [
    "--user-dir", PLUGIN, "--encoder-hidden-size", "32", "--decoder-hidden-size", "32",
    "--encoder-embed-dim", "16", "--decoder-embed-dim", "16",
    "--decoder-out-embed-dim", "16", "--encoder-bidirectional", "--phm-output-maps",
    "--optimizer", "adam", "--lr", "0.005", "--max-tokens", "400", "--num-workers", "0",
    "--required-batch-size-multiple", "1", "--cpu", "--seed", "1",
]  # fmt: skip


@pytest.mark.parametrize("arch", ["phm_lstm", "quaternion_lstm"])
def test_lstm_trains_and_generates(corpus, tmp_path, arch):
    run(
        "train", corpus / "bin", "--save-dir", tmp_path, "--arch", arch,
        "--max-update", "3", *LSTM,
    )  # fmt: skip
    checkpoint = tmp_path / "checkpoint_last.pt"
    output = run("generate", corpus / "bin", "--path", checkpoint, *GENERATE)
    assert len(hypotheses(output)) == LINES["test"]


def test_eval_bleu_checkpoint_loads_safely(corpus, tmp_path):
    train(
        corpus,
        tmp_path,
        "--eval-bleu",
        "--eval-bleu-args",
        '{"beam": 1, "max_len_b": 3}',
    )
    checkpoint = tmp_path / "checkpoint_best.pt"
    if CHECKS_TYPES:
        code = (
            "import sys, fairseq_phm, torch\n"
            "torch.load(sys.argv[1], weights_only=True)['extra_state']\n"
        )
        python("-c", code, checkpoint, check=True)
    output = run("generate", corpus / "bin", "--path", checkpoint, *GENERATE)
    assert len(hypotheses(output)) == LINES["test"]


def test_other_types_are_still_refused(tmp_path):
    if not CHECKS_TYPES:
        pytest.skip("torch < 2.6 does not check by default")
    torch.save({"x": Path("y")}, tmp_path / "x.pt")
    code = "import sys, fairseq_phm, torch; torch.load(sys.argv[1])"
    done = python("-c", code, tmp_path / "x.pt")
    assert done.returncode and "weights_only" in done.stderr.lower()


def hydra_config(corpus, folder, model):
    return {
        "common": {"user_dir": PLUGIN, "cpu": True, "log_format": "json", "seed": 1},
        "task": {
            "_name": "translation", "data": str(corpus / "bin"),
            "source_lang": "src", "target_lang": "tgt",
        },
        "dataset": {
            "max_tokens": 400, "num_workers": 0, "required_batch_size_multiple": 1,
        },
        "criterion": {"_name": "cross_entropy"},
        "optimizer": {"_name": "adam"},
        "lr_scheduler": {"_name": "fixed"},
        "optimization": {"max_update": 3, "lr": [0.005]},
        "checkpoint": {"save_dir": str(folder / "checkpoints")},
        "model": model,
    }  # fmt: skip


SIZES = dict(embed_dim=32, ffn_embed_dim=64, layers=1, attention_heads=4)
HYDRA = {
    "nested": {
        "_name": "phm_transformer", "phm_n": 8, "phm_share_rule": "layer",
        "phm_rule_lr": 16.0, "encoder": SIZES, "decoder": SIZES,
    },
    "flat": {
        "_name": "phm_transformer", "phm_n": 8,
        **{f"{s}_{k}": v for s in ("encoder", "decoder") for k, v in SIZES.items()},
    },
    "lstm": {
        "_name": "phm_lstm", "phm_n": 8, "phm_gates": "fused",
        **{f"{s}_embed_dim": 16 for s in ("encoder", "decoder", "decoder_out")},
        **{f"{s}_hidden_size": 16 for s in ("encoder", "decoder")},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", HYDRA)
def test_hydra(corpus, tmp_path, name):
    hydra_train(hydra_config(corpus, tmp_path, HYDRA[name]), tmp_path)
    checkpoint = tmp_path / "checkpoints" / "checkpoint_last.pt"
    state = torch.load(checkpoint, weights_only=False)["model"]
    if name == "lstm":
        assert state["encoder.lstm.cells.0.ih.0.blocks"].shape == (8, 8, 2)
    else:
        assert state["encoder.layers.0.fc1.blocks"].shape == (8, 8, 4)
        left_out = {"nested": "fc1.rule", "flat": "self_attn.q_proj.rule"}[name]
        assert "encoder.layers.0.self_attn.k_proj.rule" in state
        assert f"encoder.layers.0.{left_out}" not in state  # stored with its owner
    output = run("generate", corpus / "bin", "--path", checkpoint, *GENERATE)
    assert len(hypotheses(output)) == LINES["test"]


def test_from_pretrained(corpus, trained):
    code = (
        "import sys\n"
        "from fairseq_phm import PHMTransformerModel\n"
        "model = PHMTransformerModel.from_pretrained(sys.argv[1],\n"
        "    checkpoint_file='checkpoint_best.pt', data_name_or_path=sys.argv[2],\n"
        "    user_dir=sys.argv[3])\n"
        "print(len(model.translate(['1 2 3', '4 5'], beam=2)))\n"
    )
    done = python("-c", code, trained, corpus / "bin", PLUGIN, check=True)
    assert done.stdout.strip().endswith("2"), done.stdout


def test_imported_plugin_and_user_dir_of_another_copy(corpus, trained, tmp_path):
    copy = tmp_path / "clone" / "fairseq_phm"
    shutil.copytree(PLUGIN, copy, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import fairseq_phm; from fairseq_cli.generate import cli_main; cli_main()"
    done = python(
        "-c", code, corpus / "bin", "--path", trained / "checkpoint_best.pt",
        *GENERATE, "--user-dir", copy, cwd=tmp_path, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert len(hypotheses(done.stdout)) == LINES["test"]


def test_installed_plugin_by_name_from_any_folder(corpus, trained, tmp_path):
    import fairseq

    site = Path(fairseq.__file__).resolve().parent.parent
    if not (site / "fairseq_phm").is_dir():
        pytest.skip("the plugin is not installed beside fairseq")
    checkpoint = trained / "checkpoint_best.pt"
    flags = [*GENERATE, "--user-dir", "fairseq_phm"]
    output = run("generate", corpus / "bin", "--path", checkpoint, *flags, cwd=tmp_path)
    assert len(hypotheses(output)) == LINES["test"]


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--phm-n", "3"], "n=3 does not fit in_features=32.*nearest n that fit: 2, 4"),
        (["--phm-rule", "octonion"], "rule 'octonion' has size 8x8x8, but n=4"),
        (["--quant-noise-pq", "0.1"], "quant-noise does not work with PHM layers"),
        (["--phm-share-rule", "everywhere"], "invalid choice: 'everywhere'"),
        (["--phm-rule-lr", "0"], "rule_lr must be a number above 0, got 0"),
    ],
)
def test_bad_flags_end_in_one_clear_line(corpus, tmp_path, flags, message):
    output = train(corpus, tmp_path / "none", *flags, check=False)
    assert re.search(message, output.strip().splitlines()[-1]), output[-2000:]
    assert "Traceback" not in output
    assert not list(tmp_path.glob("none/*.pt"))


def test_a_checkpoint_that_does_not_fit_ends_in_one_line(corpus, trained, tmp_path):
    path = trained / "checkpoint_last.pt"
    start = ["--restore-file", path, "--reset-optimizer"]
    line = (
        "the checkpoint has --phm-n 4 --phm-fuse-qkv --phm-share-rule attention, this "
        "model --phm-n 8 no --phm-fuse-qkv --phm-share-rule pairs: give the flags of "
        "the checkpoint"
    )
    output = train(corpus, tmp_path, *start, "--phm-n", "8", check=False)
    assert output.strip().splitlines()[-1] == f"error: {path}: {line}"
    assert "Traceback" not in output
    options = "{'phm_n': 8, 'phm_fuse_qkv': False, 'phm_share_rule': 'pairs'}"
    overrides = ["--model-overrides", options]
    output = run(
        "generate", corpus / "bin", "--path", path, *GENERATE, *overrides, check=False
    )
    assert output.strip().splitlines()[-1] == f"error: {line}"
    assert "Traceback" not in output


def test_help_explains_every_flag():
    text = python("-m", "fairseq_phm", check=True).stdout
    assert "--encoder-embed-dim" in text
    flags = {
        "n", "attention-n", "ffn-n", "encoder-n", "decoder-n", "rule", "freeze-rule",
        "share-rule", "fuse-qkv", "rank", "attention-dim",
    }  # fmt: skip
    for flag in flags:
        entry = re.search(rf"\n  --phm-{flag} (.*?)(?=\n  --|\Z)", text, re.DOTALL)
        assert entry and re.search(r"parameter|weights", entry[1]), flag
        assert re.search(r"speed|time|cheaper|product", entry[1]), flag


def test_deployment_benchmark(corpus, trained, monkeypatch, capsys):
    pytest.importorskip("ctranslate2")
    pytest.importorskip("safetensors")
    from recipes.benchmarks import deployment

    def output(command, threads=1):
        return python(*command[1:], merged=True, check=True).stdout

    monkeypatch.setattr(deployment, "_output", output)
    checkpoint = trained / "checkpoint_best.pt"
    arguments = [checkpoint, "--data", corpus / "bin", "--rounds", 1, "--threads", 1]
    monkeypatch.setattr(sys, "argv", ["deployment", *map(str, arguments)])
    deployment.main()
    _, _, *rows = capsys.readouterr().out.splitlines()
    engines = [re.split("  +", row)[0] for row in rows]
    assert engines == [
        "fairseq-generate, dense", "fairseq-generate, PHM", "CTranslate2, float32",
        "CTranslate2, int8",
    ]  # fmt: skip
    dense, phm, float32, int8 = (re.split("  +", row)[1:] for row in rows)
    assert dense[2] == phm[2] == float32[2]  # BLEU
    assert dense[1] == "1.00" and float(int8[3]) < float(float32[3])


def test_how_a_model_has_learned(corpus, trained, monkeypatch, capsys):
    from recipes.benchmarks import learning

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["learning", *map(str, arguments)])
        learning.main()
        return capsys.readouterr().out

    data = ["--data", corpus / "bin", "--batches", 3, "--max-tokens", 60]
    name, heads, _, *rows = main(trained / "checkpoint_best.pt", *data).splitlines()
    assert name.endswith("checkpoint_best.pt")
    assert re.split("  +", heads.strip()) == [
        "rms of H", "effective rank", "signal: weights", "signal: rule"
    ]  # fmt: skip
    found = {cells[0]: cells[1:] for cells in (re.split("  +", row) for row in rows)}
    assert "decoder cross-attention v, out" in found
    for stack in ("encoder", "decoder"):
        assert all(0 < float(x) <= 1 for x in found[f"{stack} feed-forward fc1"][:2])
    for arguments, message in (
        ([corpus / "none.pt", *data], "none.pt: No such file"),
        ([trained / "checkpoint_best.pt", "--data", corpus], "best.pt: not of "),
        ([trained / "checkpoint_best.pt", *data[:-1], 10**6], "fewer than two batches"),
    ):
        with pytest.raises(SystemExit, match=message) as error:
            main(*arguments)
        assert "\n" not in error.value.code


def test_signal_is_what_batches_have_in_common():
    from recipes.benchmarks.learning import signal

    layer = torch.nn.Linear(50, 1, bias=False)
    noise = torch.randn(40, 50, generator=torch.Generator().manual_seed(1))

    def criterion(model, sample):
        return model(sample).sum(), 1, {}

    for common in (0.0, 1.0):
        found = signal(layer, criterion, list(noise + common))
        assert found["weight"] == pytest.approx(common / 2, abs=0.02)
