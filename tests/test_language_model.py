"""Language models with PHM layers: fairseq's transformer_lm, substituted."""

import argparse
import random
import re

import pytest
import torch
from conftest import ROOT, hydra_train, run, with_weights
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.sequence_generator import SequenceGenerator
from forked import python
from torch import nn

from fairseq_phm import PHMLinear, PHMTransformerLanguageModel, count_parameters

TINY = dict(
    decoder_embed_dim=32,
    decoder_ffn_embed_dim=64,
    decoder_layers=2,
    decoder_attention_heads=4,
    dropout=0.0,
    tokens_per_sample=64,
)
VARIANTS = {
    "default": dict(),
    "n=8": dict(phm_n=8),
    "dense": dict(phm_n=1),
    "quaternion": dict(phm_rule="quaternion", phm_freeze_rule=True),
    "fused": dict(phm_fuse_qkv=True),
    "one rule": dict(phm_share_rule="model"),
    "rule rank": dict(phm_rule_rank=4),
    "low rank": dict(phm_rank=2),
    "by sublayer": dict(phm_attention_n=2, phm_ffn_n=8),
    "tied": dict(share_decoder_input_output_embed=True),
    "learned positions": dict(decoder_learned_pos=True),
    "adaptive": dict(
        adaptive_softmax_cutoff="10,20",
        adaptive_input=True,
        adaptive_input_cutoff="10,20",
        tie_adaptive_weights=True,
        tie_adaptive_proj=True,
    ),
}


def tiny_model(task, arch="phm_transformer_lm", seed=0, **options):
    """A built language model in the size TINY."""
    torch.manual_seed(seed)
    args = argparse.Namespace(**{**TINY, **options})
    ARCH_CONFIG_REGISTRY[arch](args)
    return PHMTransformerLanguageModel.build_model(args, task)


def dense_twin(model, task, **options):
    args = argparse.Namespace(**{**TINY, **options})
    ARCH_CONFIG_REGISTRY["phm_transformer_lm"](args)
    fields = PHMTransformerLanguageModel.config.from_args(args)
    fields.max_target_positions, fields.tpu = args.tokens_per_sample, False
    fields.add_bos_token = False
    twin = TransformerLanguageModel.build_model(fields, task)
    twin.load_state_dict(with_weights(model))
    return twin


@pytest.fixture(params=VARIANTS, ids=str)
def pair(request, task):
    options = VARIANTS[request.param]
    model = tiny_model(task, **options)
    options = {k: v for k, v in options.items() if not k.startswith("phm_")}
    return model, dense_twin(model, task, **options)


def tokens_of(task, rows=((5, 6, 7, 8, 9), (12, 13, 14), (10, 11))):
    """Right-padded input of a language model, (batch, time)."""
    dictionary = task.source_dictionary
    tokens = torch.full((len(rows), max(map(len, rows)) + 1), dictionary.pad())
    for row, words in zip(tokens, rows):
        row[: len(words) + 1] = torch.tensor([dictionary.eos(), *words])
    return tokens


def log_probabilities(model, tokens, **more):
    output = model(tokens, **more)
    if model.decoder.adaptive_softmax is None:
        return model.get_normalized_probs(output, log_probs=True)
    target = torch.zeros_like(tokens)
    sample = {"target": target}
    return model.get_normalized_probs(output, log_probs=True, sample=sample)


@pytest.mark.parametrize("training", [True, False])
def test_equals_its_dense_twin(pair, task, training):
    outputs = [log_probabilities(m.train(training), tokens_of(task)) for m in pair]
    assert outputs[0].shape == (3, 6, len(task.target_dictionary))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_incremental_decoding_equals_the_full_forward(pair, task):
    tokens = tokens_of(task)
    whole = log_probabilities(pair[1].eval(), tokens)
    for model in pair:
        state = {}
        for step in range(1, tokens.size(1) + 1):
            some = tokens[:, :step]
            one = log_probabilities(model.eval(), some, incremental_state=state)
            real = tokens[:, step - 1].ne(task.source_dictionary.pad())
            torch.testing.assert_close(
                one[real, -1], whole[real, step - 1], atol=1e-5, rtol=1e-4
            )


def test_beam_search_goes_on_from_a_prefix(pair, task):
    dictionary = task.target_dictionary
    prefix = torch.tensor([[5, 6], [7, 8]])
    lengths = torch.tensor([2, 2])
    sample = {"net_input": {"src_tokens": prefix, "src_lengths": lengths}}
    found = []
    for model in pair:
        model.max_positions = lambda: 12
        generator = SequenceGenerator([model.eval()], dictionary, beam_size=3)
        found.append(generator.generate([model], sample, prefix_tokens=prefix))
    for one, other in zip(*found):
        assert [h["tokens"].tolist() for h in one] == [
            h["tokens"].tolist() for h in other
        ]
        assert len(one) == 3


def test_parameter_counts(task):
    six_layers = 6 * (4 * 512**2 + 2 * 512 * 2048)
    for arch, options, expected in (
        ("phm_transformer_lm", dict(phm_n=1), six_layers),
        ("phm_transformer_lm", dict(phm_n=4), six_layers // 4 + 6 * 4 * 64),
        ("quaternion_transformer_lm", {}, six_layers // 4),
        ("quaternion_transformer_lm_tiny", {}, 2 * (4 * 128**2 + 2 * 128 * 512) // 4),
        ("phm_transformer_lm_small", dict(phm_n=1), 3 * 2 * 2 * 256 * (256 + 256)),
    ):
        args = argparse.Namespace(tokens_per_sample=64, **options)
        ARCH_CONFIG_REGISTRY[arch](args)
        model = PHMTransformerLanguageModel.build_model(args, task)
        counts = count_parameters(model)
        assert counts["projections"] == expected, arch
        embeddings = 2 * len(task.source_dictionary) * args.decoder_embed_dim
        assert counts["total"] - counts["non_embedding"] == embeddings


@pytest.mark.parametrize("share", ["none", "pairs", "attention", "layer", "model"])
def test_rules_are_shared_and_stored_once(task, share):
    model = tiny_model(task, phm_share_rule=share)
    state = model.state_dict()
    rules = [key for key in state if key.endswith(".rule")]
    each = {"none": 6, "pairs": 4, "attention": 3, "layer": 1, "model": 0.5}
    assert len(rules) == 2 * each[share]
    other = tiny_model(task, seed=1, phm_share_rule=share)
    other.load_state_dict(state)
    tokens = tokens_of(task)
    torch.testing.assert_close(other(tokens)[0], model(tokens)[0])


def test_sizes_of_the_families(task):
    model = tiny_model(task, "quaternion_transformer_lm")
    rule = model.decoder.layers[0].fc1.rule
    assert not rule.requires_grad and set(rule.unique().tolist()) == {-1, 0, 1}
    assert model.decoder.layer_norm is not None  # fairseq's are pre-norm
    assert model.max_positions() == 64


@pytest.mark.parametrize("option", ["quant_noise_pq", "quant_noise_scalar"])
def test_quant_noise_is_refused(task, option):
    with pytest.raises(ValueError, match="quant-noise does not work with PHM layers"):
        tiny_model(task, **{option: 0.1})


def test_torchscript(task):
    """fairseq's class of language models does not script; its decoder does."""
    model = tiny_model(task, share_decoder_input_output_embed=True).eval()
    tokens = tokens_of(task)
    scripted = torch.jit.script(model.decoder)
    torch.testing.assert_close(scripted(tokens)[0], model.decoder(tokens)[0])


LINES = {"train": 100, "valid": 13, "test": 21}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Binarised lines in which each digit follows the one before it."""
    folder = tmp_path_factory.mktemp("text")
    rng = random.Random(1)
    for split, count in LINES.items():
        rows = [(rng.randrange(10), rng.randint(4, 12)) for _ in range(count)]
        lines = (" ".join(str((a + i) % 10) for i in range(k)) for a, k in rows)
        (folder / f"{split}.txt").write_text("".join(line + "\n" for line in lines))
    run(
        "preprocess", "--only-source", "--destdir", folder / "bin", "--workers", "1",
        *[f"--{split}pref={folder / f'{split}.txt'}" for split in LINES],
    )  # fmt: skip
    return folder / "bin"


PLUGIN = str(ROOT / "fairseq_phm")
TASK = [
    "--task", "language_modeling", "--sample-break-mode", "eos",
    "--tokens-per-sample", "32",
]  # fmt: skip
COMMON = [
    "--user-dir", PLUGIN, "--required-batch-size-multiple", "1", "--num-workers", "0",
    "--cpu",
]  # fmt: skip
SIZES = dict(embed_dim=32, ffn_embed_dim=64, layers=2, attention_heads=4)


def train(corpus, folder, *flags, updates=30):
    sizes = [f"--decoder-{k.replace('_', '-')}={v}" for k, v in SIZES.items()]
    return run(
        "train", corpus, *TASK, *COMMON, *sizes, "--save-dir", folder, "--optimizer",
        "adam", "--lr", "0.01", "--max-tokens", "400", "--max-update", updates,
        "--log-format", "json", *flags,
    )  # fmt: skip


def perplexity(corpus, checkpoint):
    output = run(
        "eval_lm", corpus, *TASK, *COMMON, "--path", checkpoint, "--gen-subset", "test"
    )
    tokens = int(re.search(r"Evaluated (\d+) tokens", output)[1])
    return tokens, float(re.search(r"Perplexity: ([\d.]+)", output)[1])


def generated(corpus, checkpoint):
    output = run(
        "generate", corpus, *TASK, *COMMON, "--path", checkpoint, "--beam", "3",
        "--prefix-size", "3", "--max-len-b", "20",
    )  # fmt: skip
    lines = re.findall(r"^H-(\d+)\t\S+\t(.*)$", output, re.MULTILINE)
    assert sorted(int(number) for number, _ in lines) == list(range(LINES["test"]))
    return [text.split() for _, text in lines]


@pytest.mark.parametrize(
    "flags",
    [
        ["--arch", "phm_transformer_lm", "--share-decoder-input-output-embed"],
        ["--arch", "quaternion_transformer_lm_tiny", "--decoder-learned-pos"],
    ],
    ids=["phm", "quaternion"],
)
def test_trains_evaluates_and_generates(corpus, tmp_path, flags):
    train(corpus, tmp_path, *flags)
    checkpoint = tmp_path / "checkpoint_best.pt"
    tokens, found = perplexity(corpus, checkpoint)
    assert tokens > 100 and found < 7  # 11 words
    lines = generated(corpus, checkpoint)
    follows = [int(b) == (int(a) + 1) % 10 for x in lines for a, b in zip(x, x[1:])]
    assert sum(follows) > 0.9 * len(follows)


@pytest.mark.parametrize("former", ["none", "value"])
def test_older_checkpoints_train_on_and_load_everywhere(corpus, tmp_path, former):
    """Without the flag of the first training; what is saved then has what it needs."""
    arch = ["--arch", "phm_transformer_lm"]
    train(corpus, tmp_path, *arch, "--phm-share-rule", former, updates=2)
    last = tmp_path / "checkpoint_last.pt"
    before = torch.load(last, weights_only=False)
    output = train(corpus, tmp_path, *arch, updates=4)
    assert "more rules than are shared by default" in output
    after = torch.load(last, weights_only=False)
    assert after["optimizer_history"][-1]["num_updates"] == 4
    assert after["model"].keys() == before["model"].keys()
    assert after["cfg"]["model"].phm_share_rule == former
    perplexity(corpus, last)
    for command in (["params", last], ["densify", last, tmp_path / "dense.pt"]):
        python("-m", "fairseq_phm", *command, check=True)
    perplexity(corpus, tmp_path / "dense.pt")
    train(corpus, tmp_path, *arch, updates=5)


def test_adaptive_softmax_trains(corpus, tmp_path):
    train(
        corpus, tmp_path, "--arch", "phm_transformer_lm", "--criterion",
        "adaptive_loss", "--adaptive-softmax-cutoff", "6,10", "--ddp-backend",
        "legacy_ddp", updates=3,
    )  # fmt: skip
    perplexity(corpus, tmp_path / "checkpoint_last.pt")


def test_hydra(corpus, tmp_path):
    config = {
        "common": {"user_dir": PLUGIN, "cpu": True, "seed": 1},
        "task": {
            "_name": "language_modeling", "data": str(corpus),
            "sample_break_mode": "eos", "tokens_per_sample": 32,
        },
        "dataset": {
            "max_tokens": 400, "num_workers": 0, "required_batch_size_multiple": 1,
        },
        "criterion": {"_name": "cross_entropy"},
        "optimizer": {"_name": "adam"},
        "lr_scheduler": {"_name": "fixed"},
        "optimization": {"max_update": 3, "lr": [0.005]},
        "checkpoint": {"save_dir": str(tmp_path / "checkpoints")},
        "model": {
            "_name": "phm_transformer_lm", "phm_n": 8, "phm_share_rule": "layer",
            "decoder_learned_pos": True,
            **{f"decoder_{key}": value for key, value in SIZES.items()},
        },
    }  # fmt: skip
    hydra_train(config, tmp_path)
    checkpoint = tmp_path / "checkpoints" / "checkpoint_last.pt"
    state = torch.load(checkpoint, weights_only=False)["model"]
    assert state["decoder.layers.0.fc1.blocks"].shape == (8, 8, 4)
    assert "decoder.layers.0.fc1.rule" not in state  # stored with k of attention
    assert len(state["decoder.embed_positions.weight"]) == 32 + 2
    perplexity(corpus, checkpoint)
    generated(corpus, checkpoint)


def test_dense_layers_with_n_1(task):
    model = tiny_model(task, phm_n=1)
    assert not any(isinstance(module, PHMLinear) for module in model.modules())
    assert isinstance(model.decoder.layers[0].fc1, nn.Linear)
