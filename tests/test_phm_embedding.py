"""PHMEmbedding: rows of a Kronecker sum as word vectors, and the tied projection."""

import argparse
import copy
import io
import random
import re

import pytest
import torch
from conftest import (
    ROOT,
    Task,
    assert_same_hypotheses,
    padded_batch,
    run,
    tiny_transformer,
)
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.sequence_generator import SequenceGenerator
from forked import python
from torch import nn

from fairseq_phm import (
    PHMEmbedding,
    PHMTransformerLanguageModel,
    PHMTransformerModel,
    count_parameters,
    substitute,
)
from fairseq_phm.average import average
from fairseq_phm.modules import PHMLinear, PHMLinearRows

VARIANTS = {
    "full rule": dict(n=4),
    "n=1": dict(n=1),
    "n=3": dict(n=3),
    "quaternion": dict(n=4, rule="quaternion", freeze_rule=True),
    "rule rank": dict(n=4, rule_rank=4),
    "low rank": dict(n=2, rank=3),
    "rate": dict(n=4, rule_lr=8.0),
}
WORDS, DIM, PAD = 23, 24, 1


@pytest.fixture(params=VARIANTS, ids=str)
def words(request):
    torch.manual_seed(1)
    return PHMEmbedding(WORDS, DIM, padding_idx=PAD, **VARIANTS[request.param])


def kronecker_sum(layer):
    """E by its definition, with the rows behind the words."""
    rule, blocks = layer.full_rule(), layer.full_blocks()
    if rule is None:
        return blocks[0]
    return sum(torch.kron(A, S) for A, S in zip(rule, blocks))


@pytest.mark.parametrize("name", VARIANTS)
def test_reset_makes_what_was_on_the_meta_device(name):
    empty = PHMEmbedding(WORDS, DIM, padding_idx=PAD, device="meta", **VARIANTS[name])
    empty = empty.to_empty(device="cpu")
    for tensor in (*empty.parameters(), *empty.buffers()):
        tensor.data.fill_(float("nan"))
    empty.reset_parameters(generator=torch.Generator().manual_seed(1))
    again = PHMEmbedding(
        WORDS, DIM, padding_idx=PAD, generator=torch.Generator().manual_seed(1),
        **VARIANTS[name],
    )  # fmt: skip
    assert torch.isfinite(empty.weight).all()
    stds = [words.weight.std().item() for words in (empty, again)]
    assert stds[0] == pytest.approx(stds[1], rel=0.1)
    assert not empty(torch.tensor([PAD])).any()


def test_rows_of_the_kronecker_sum(words):
    E = kronecker_sum(words)
    assert len(E) == -(-WORDS // words.n) * words.n
    tokens = torch.tensor([[0, PAD, 22, 7], [22, 0, 5, PAD]])
    expected = E[tokens].masked_fill(tokens.eq(PAD).unsqueeze(-1), 0)
    torch.testing.assert_close(words(tokens), expected)
    assert words(tokens).shape == (2, 4, DIM) and not words(tokens)[0, 1].any()
    everything = torch.arange(WORDS)
    torch.testing.assert_close(words(everything), words.weight)
    assert words.weight.shape == (WORDS, DIM)
    assert (words.num_embeddings, words.embedding_dim, words.padding_idx) == (
        WORDS,
        DIM,
        PAD,
    )
    assert words(tokens[:0]).shape == (0, 4, DIM)


def test_gradients(words):
    words = words.double()
    tokens = torch.tensor([0, PAD, 22, 7, 7])
    names = [name for name, _ in words.named_parameters()]

    def vectors(*values):
        return torch.func.functional_call(words, dict(zip(names, values)), (tokens,))

    if words.rule_lr == 1 or words.n == 1:
        assert torch.autograd.gradcheck(vectors, tuple(words.parameters()))
    upstream = torch.randn(5, DIM, dtype=torch.double)
    words(tokens).backward(upstream)
    found = [p.grad.clone() for p in words.parameters()]
    words.zero_grad()
    E = kronecker_sum(words)[tokens].masked_fill(tokens.eq(PAD).unsqueeze(-1), 0)
    E.backward(upstream)
    for gradient, parameter in zip(found, words.parameters()):
        torch.testing.assert_close(gradient, parameter.grad)


def test_start_is_that_of_fairseq(words):
    std = kronecker_sum(words).square().mean().sqrt()
    torch.testing.assert_close(std, torch.tensor(DIM**-0.5))


@pytest.mark.parametrize("training", [True, False])
def test_tied_projection(words, training):
    projection = words.projection().train(training)
    x = torch.randn(5, 3, DIM)
    expected = x @ kronecker_sum(words)[:WORDS].t()
    torch.testing.assert_close(projection(x), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for tokens in (x, x[:1, :1]):
            expected = tokens @ kronecker_sum(words)[:WORDS].t()
            found = projection(tokens)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
            assert found.is_contiguous()
    own = {id(p) for p in words.parameters()}
    assert {id(p) for p in projection.parameters()} == own


@pytest.mark.parametrize("path", ["CP rank", "factored"])
def test_projection_by_each_path(path, monkeypatch):
    monkeypatch.setattr("fairseq_phm.modules.linear.choose_path", lambda *_: path)
    words = PHMEmbedding(WORDS, DIM, n=4, rule_rank=4)
    projection, x = words.projection(), torch.randn(7, DIM)
    expected = x @ kronecker_sum(words)[:WORDS].t()
    torch.testing.assert_close(projection(x), expected, atol=1e-5, rtol=1e-5)
    assert projection._path(x) == path


def test_words_that_are_not_there(words):
    for token in (-1, WORDS, 24):
        with pytest.raises(IndexError):
            words(torch.tensor([0, token]))


@pytest.mark.parametrize(
    "sizes,options,message",
    [
        ((10, 9), dict(n=4), "n=4 does not fit"),
        ((0, 8), dict(n=4), "at least 1"),
        ((10, 8), dict(n=0), "at least 1"),
        ((10, 8), dict(n="4"), "at least 1, got 10 and '4'"),
        ((10, 8), dict(n=2.0), "at least 1, got 10 and 2.0"),
        ((10, 0), dict(n=4), "at least 1, got in_features=0"),
        ((10, 8), dict(n=4, padding_idx=10), "padding_idx=10 is none of 10 words"),
        ((10, 8), dict(n=2, rule="quaternion"), "has size 4x4x4"),
    ],
)
def test_bad_arguments(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        PHMEmbedding(*sizes, **options)


def test_a_padding_that_counts_from_the_end():
    words = PHMEmbedding(10, 8, n=4, padding_idx=-1)
    assert words.padding_idx == 9 and not words(torch.tensor(9)).any()
    with pytest.raises(ValueError, match="padding_idx=-11 is none of 10 words"):
        PHMEmbedding(10, 8, n=4, padding_idx=-11)


def test_vmap_over_tokens(words):
    tokens = torch.randint(WORDS, (3, 5))
    torch.testing.assert_close(torch.func.vmap(words)(tokens), words(tokens))


def test_rate_of_the_rule():
    """A step of the optimizer moves A rule_lr times as far; checkpoints hold A."""
    torch.manual_seed(1)
    words = PHMEmbedding(WORDS, DIM, n=4, rule_lr=8.0)
    plain = PHMEmbedding(WORDS, DIM, n=4, rule_lr=1)
    plain.load_state_dict(words.state_dict())
    before = plain.rule.detach().clone()
    for one in (words, plain):
        one(torch.arange(WORDS)).square().sum().backward()
        torch.optim.SGD(one.parameters(), lr=0.01).step()
    moved = plain.rule - before
    assert moved.abs().max() > 0
    torch.testing.assert_close(words.rule - before, 8 * moved)
    torch.testing.assert_close(words.blocks, plain.blocks)


def test_scripts_and_copies(words):
    tokens = torch.tensor([[3, PAD, 22]])
    torch.testing.assert_close(torch.jit.script(words)(tokens), words(tokens))
    torch.testing.assert_close(copy.deepcopy(words)(tokens), words(tokens))


def vocabulary(kind):
    """Names of embeddings in models -> options of the model."""
    return {
        "own": dict(),
        "tied": dict(share_decoder_input_output_embed=True),
        "all": dict(share_all_embeddings=True),
    }[kind]


KINDS = ("own", "tied", "all")
WORD_COUNTS = {"own": 3, "tied": 2, "all": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_model_has_a_quarter(kind):
    """128/512, 2 + 2 layers, 1000 words."""
    task, sizes = Task(1000 - 4), []
    assert len(task.source_dictionary) == 1000
    for options in (dict(phm_n=1), dict(phm_n=4, phm_embeddings=4)):
        args = argparse.Namespace(**options, **vocabulary(kind))
        ARCH_CONFIG_REGISTRY["phm_transformer_tiny"](args)
        model = PHMTransformerModel.build_model(args, task)
        sizes.append(count_parameters(model))
    dense, phm = sizes
    assert phm["total"] <= 0.27 * dense["total"]
    assert phm["total"] == sum(p.numel() for p in model.parameters())
    embeddings = WORD_COUNTS[kind] * (1000 * 128 // 4 + 64)
    assert phm["total"] - phm["non_embedding"] == embeddings


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 8])
def test_equals_a_model_with_the_same_dense_embeddings(task, kind, n):
    options = dict(**vocabulary(kind), phm_n=4)
    model = tiny_transformer(task, phm_embeddings=n, **options)
    twin = tiny_transformer(task, **options)
    count = len(task.source_dictionary)
    assert count % 8 and model.encoder.embed_tokens.blocks.size(1) * n > count - n
    state = twin.state_dict()
    own = model.state_dict()
    state.update((key, own[key]) for key in state if key in own)
    for stack in (model.encoder, model.decoder):
        name = "encoder" if stack is model.encoder else "decoder"
        full = kronecker_sum(stack.embed_tokens)[:count].detach()
        state[f"{name}.embed_tokens.weight"] = full
    state["decoder.output_projection.weight"] = (
        model.decoder.output_projection.weight.detach()
    )
    twin.load_state_dict(state)
    batch = padded_batch(task)
    real = batch["prev_output_tokens"].ne(task.source_dictionary.pad())
    outputs = [one(**batch)[0] for one in (model, twin)]
    assert outputs[0].shape[-1] == count
    torch.testing.assert_close(outputs[0][real], outputs[1][real], atol=1e-5, rtol=1e-4)
    assert_same_hypotheses((model, twin), task)


@pytest.mark.parametrize("kind", KINDS)
def test_types_and_ties(task, kind):
    model = tiny_transformer(task, phm_embeddings=4, **vocabulary(kind))
    encoder, decoder = model.encoder.embed_tokens, model.decoder.embed_tokens
    projection = model.decoder.output_projection
    assert (encoder is decoder) == (kind == "all")
    assert isinstance(encoder, PHMEmbedding) and isinstance(projection, PHMLinearRows)
    assert (projection.blocks is decoder.blocks) == (kind != "own")
    assert not any(isinstance(module, nn.Embedding) for module in model.modules())
    assert projection.out_features == len(task.target_dictionary)
    std = projection.weight.std().item()
    assert std == pytest.approx(encoder.embedding_dim**-0.5, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", ["none", "pairs", "stack"])
@pytest.mark.parametrize("rank", [0, 4])
def test_state_dict(task, kind, share, rank):
    options = dict(phm_share_rule=share, phm_rule_rank=rank, **vocabulary(kind))
    model = tiny_transformer(task, phm_embeddings=4, **options)
    with torch.no_grad():  # rules that all differ
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    state = model.state_dict()
    fixed = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    projections = [k for k in state if "output_projection" in k and k not in fixed]
    assert bool(projections) == (kind == "own")
    assert not any(key.endswith("embed_tokens.weight") for key in state)
    if kind == "all":
        names = [f"{side}.embed_tokens.blocks" for side in ("encoder", "decoder")]
        assert len({state[name].data_ptr() for name in names}) == 1
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    other = tiny_transformer(task, seed=1, phm_embeddings=4, **options)
    other.load_state_dict(torch.load(file))
    for one, two in zip(model.parameters(), other.parameters()):
        assert torch.equal(one, two)
    batch = padded_batch(task)
    torch.testing.assert_close(other(**batch)[0], model(**batch)[0])


def test_pruned_stack_finds_its_rule_not_that_of_the_embeddings(task):
    options = dict(phm_share_rule="stack", phm_embeddings=4, phm_n=4)
    model = tiny_transformer(task, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    keep = dict(encoder_layers_to_keep="1", decoder_layers_to_keep="1")
    pruned = tiny_transformer(task, seed=1, **options, **keep)
    args = argparse.Namespace(arch="phm_transformer", **keep)
    pruned.load_state_dict(model.state_dict(), model_cfg=args)
    for stack in ("encoder", "decoder"):
        kept = getattr(pruned, stack).layers[0].fc1.weight
        assert torch.equal(kept, getattr(model, stack).layers[1].fc1.weight)
        words = getattr(pruned, stack).embed_tokens.weight
        assert torch.equal(words, getattr(model, stack).embed_tokens.weight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", ["pairs", "stack"])
def test_mean_of_checkpoints(task, tmp_path, kind, share):
    options = dict(phm_embeddings=4, phm_share_rule=share, **vocabulary(kind))
    models = [tiny_transformer(task, seed=seed, **options) for seed in (0, 0)]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    paths = []
    for number, model in enumerate(models):
        paths.append(tmp_path / f"checkpoint{number}.pt")
        torch.save({"model": model.state_dict()}, paths[-1])
    weights = [m.decoder.embed_tokens.weight.detach() for m in models]
    expected = sum(weights) / 2
    far = (weights[1] - expected).norm()
    for mean in ("factors", "weights"):
        found = average(paths, mean)
        made = tiny_transformer(task, seed=3, **options)
        made.load_state_dict(found.checkpoint["model"])
        near = (made.decoder.embed_tokens.weight - expected).norm()
        assert near < 0.5 * far
        rules = [k for k in found.distances[mean] if "embed_tokens" in k]
        assert len(rules) == 2
        if kind != "own":
            projection = made.decoder.output_projection
            assert projection.blocks is made.decoder.embed_tokens.blocks


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_incremental_decoding(task, kind):
    model = tiny_transformer(task, phm_embeddings=4, **vocabulary(kind)).eval()
    batch = padded_batch(task)
    encoder_out = model.encoder(batch["src_tokens"], batch["src_lengths"])
    prev, state = batch["prev_output_tokens"], {}
    whole = model.decoder(prev, encoder_out)[0]
    for step in range(1, prev.size(1) + 1):
        one = model.decoder(prev[:, :step], encoder_out, incremental_state=state)[0]
        torch.testing.assert_close(one[0, -1], whole[0, step - 1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_torchscript_beam_search(task, kind):
    model = tiny_transformer(task, phm_embeddings=4, **vocabulary(kind)).eval()
    generator = SequenceGenerator([model], task.target_dictionary, beam_size=3)
    scripted = torch.jit.script(generator)
    net_input = padded_batch(task)
    del net_input["prev_output_tokens"]
    sample = {"net_input": net_input}
    for one, other in zip(generator.forward(sample), scripted.forward(sample)):
        assert [h["tokens"].tolist() for h in one] == [
            h["tokens"].tolist() for h in other
        ]


def test_padding_vector_is_zero_and_its_score_learns(task):
    model = tiny_transformer(task, phm_embeddings=4, share_all_embeddings=True)
    words, pad = model.decoder.embed_tokens, task.source_dictionary.pad()
    assert not words(torch.tensor([pad])).any() and not words.weight[pad].any()
    assert model.decoder.output_projection.weight[pad].any()


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(phm_embeddings=3), "embed_tokens: n=3 does not fit in_features=32"),
        (dict(phm_embeddings=-1), "at least 1"),
        (dict(phm_embeddings=2, phm_rule="quaternion"), "has size 4x4x4, but n=2"),
        (dict(phm_embeddings=4, phm_share_rule="model"), "'stack', not 'model'"),
        (
            dict(phm_embeddings=4, adaptive_softmax_cutoff="5,10"),
            "not adaptive or character ones",
        ),
        (dict(phm_embeddings=4, encoder_embed_path="x"), "drop --encoder-embed-path"),
    ],
)
def test_refusals(task, options, message, monkeypatch):
    with pytest.raises(ValueError, match=message):
        tiny_transformer(task, **options)


def test_other_models_are_refused_and_left_as_they_are():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)

    model = Layer()
    with pytest.raises(ValueError, match="Layer has no embedding embed_tokens"):
        substitute(model, 4, embeddings=4)
    model.embed_tokens, model.lm_head = nn.Embedding(6, 8), nn.Linear(8, 6)
    model.lm_head.weight = model.embed_tokens.weight
    with pytest.raises(ValueError, match="lm_head has the same weight as embed_tok"):
        substitute(model, 4, embeddings=4)
    assert not any(isinstance(module, PHMLinear) for module in model.modules())


@pytest.mark.parametrize("tied", [True, False])
def test_language_model(task, tied):
    def build(**options):
        args = argparse.Namespace(
            decoder_embed_dim=32, decoder_ffn_embed_dim=64, decoder_layers=2,
            decoder_attention_heads=4, tokens_per_sample=32,
            share_decoder_input_output_embed=tied, **options,
        )  # fmt: skip
        ARCH_CONFIG_REGISTRY["phm_transformer_lm"](args)
        return PHMTransformerLanguageModel.build_model(args, task)

    model = build(phm_embeddings=4).eval()
    counts = count_parameters(model)
    rows = len(task.source_dictionary)
    assert rows == 44 and counts["total"] - counts["non_embedding"] == (2 - tied) * (
        44 * 32 // 4 + 64
    )
    assert model(torch.tensor([[2, 5, 6]]))[0].shape == (1, 3, 44)
    if tied:
        return  # fairseq does not tie adaptive inputs to a dense projection
    with pytest.raises(ValueError, match="not adaptive or character ones"):
        build(
            phm_embeddings=4, adaptive_input=True, adaptive_input_cutoff="10",
            character_embeddings=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Binarised pairs: digits, and the same digits backwards."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(1)
    for split, count in {"train": 60, "valid": 9, "test": 11}.items():
        rows = [rng.choices("0123456789", k=rng.randint(2, 9)) for _ in range(count)]
        for side, step in (("src", 1), ("tgt", -1)):
            text = "".join(" ".join(row[::step]) + "\n" for row in rows)
            (folder / f"{split}.{side}").write_text(text)
    run(
        "preprocess", "--source-lang", "src", "--target-lang", "tgt",
        "--joined-dictionary", "--destdir", folder / "bin", "--padding-factor", "1",
        *[f"--{split}pref={folder / split}" for split in ("train", "valid", "test")],
    )  # fmt: skip
    return folder / "bin"


def test_command_line(corpus, tmp_path):
    """Training with fp32, the mean of checkpoints, generation; 14 words, n = 4."""
    common = [
        "--user-dir", str(ROOT / "fairseq_phm"), "--required-batch-size-multiple",
        "1", "--num-workers", "0", "--cpu",
    ]  # fmt: skip
    sizes = [
        f"--{side}-{name}"
        for side in ("encoder", "decoder")
        for name in (
            "embed-dim=32", "ffn-embed-dim=64", "layers=1", "attention-heads=4"
        )
    ]  # fmt: skip
    output = run(
        "train", corpus, "--arch", "phm_transformer", *common, *sizes,
        "--phm-embeddings", "4", "--share-all-embeddings", "--optimizer", "adam",
        "--lr", "0.01", "--max-tokens", "300", "--max-epoch", "3", "--save-dir",
        tmp_path, "--log-format", "json",
    )  # fmt: skip
    losses = [float(x) for x in re.findall(r'"valid_loss": "([\d.]+)"', output)]
    assert losses[-1] < losses[0]
    averaged = tmp_path / "averaged.pt"
    python(
        "-m", "fairseq_phm.average", "--mean", "weights",
        "--inputs", tmp_path / "checkpoint2.pt", tmp_path / "checkpoint3.pt",
        "--output", averaged, check=True,
    )  # fmt: skip
    for checkpoint in (tmp_path / "checkpoint_best.pt", averaged):
        output = run("generate", corpus, "--path", checkpoint, *common, "--beam", "3")
        assert len(re.findall(r"^H-\d+\t", output, re.MULTILINE)) == 11
    state = torch.load(averaged, weights_only=False)["model"]
    assert state["encoder.embed_tokens.blocks"].shape == (4, 4, 8)


@torch.no_grad()
def test_logits_are_contiguous():
    projection = PHMEmbedding(2047, 512, 4).projection().eval()
    assert projection(torch.randn(2, 3, 512)).is_contiguous()
