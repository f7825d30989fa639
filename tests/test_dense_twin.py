"""A stock fairseq Transformer with the materialised weights is the same model."""

import argparse

import pytest
import torch
from conftest import (
    TINY,
    Task,
    assert_same_hypotheses,
    padded_batch,
    tiny_transformer,
    with_weights,
)
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.transformer import TransformerModel
from fairseq.modules import MultiheadAttention
from fairseq.sequence_generator import SequenceGenerator

from fairseq_phm import PHMLinear
from fairseq_phm.better_transformer import leave_better_transformer
from fairseq_phm.densify import densified
from fairseq_phm.rebuild import build
from fairseq_phm.substitution import find_projections

VARIANTS = {
    "n=2": dict(phm_n=2),
    "n=8": dict(phm_n=8),
    "quaternion": dict(phm_rule="quaternion", phm_freeze_rule=True),
    "fused": dict(phm_fuse_qkv=True),
    "joint attention": dict(
        phm_fuse_qkv=True, no_cross_attention=True, cross_self_attention=True
    ),
    "shared": dict(phm_share_rule="stack"),
    "low rank": dict(phm_rank=2),
    "rule rank": dict(phm_rule_rank=4, phm_fuse_qkv=True),
    "pre-norm": dict(encoder_normalize_before=True, decoder_normalize_before=True),
    "learned positions": dict(encoder_learned_pos=True, decoder_learned_pos=True),
    "shared embeddings": dict(share_all_embeddings=True),
    "gelu": dict(activation_fn="gelu", layernorm_embedding=True),
    "checkpointed": dict(checkpoint_activations=True),
}


def dense_twin(model, task, **options):
    args = argparse.Namespace(**{**TINY, **options})
    ARCH_CONFIG_REGISTRY["transformer"](args)
    twin = TransformerModel.build_model(args, task)
    leave_better_transformer(twin)
    twin.load_state_dict(with_weights(model))
    return twin


@pytest.fixture(params=VARIANTS, ids=str)
def pair(request, task):
    options = VARIANTS[request.param]
    model = tiny_transformer(task, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1)
    options = {k: v for k, v in options.items() if not k.startswith("phm_")}
    return model, dense_twin(model, task, **options)


@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients(pair, task, training):
    batch = padded_batch(task)
    real = batch["prev_output_tokens"].ne(task.source_dictionary.pad())
    outputs = []
    for model in pair:
        model.train(training)
        outputs.append(model(**batch)[0][real])
        outputs[-1].log_softmax(-1).square().mean().backward()  # gradients of about 1
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)
    model, twin = pair
    gradients = dict(twin.named_parameters())
    maps = find_projections(model, types=(PHMLinear,))
    parameters = {id(p): p for found in maps for p in found.module.parameters()}
    expected = torch.autograd.grad(
        [found.module.weight for found in maps],
        list(parameters.values()),
        [gradients[f"{found.path}.weight"].grad for found in maps],
        allow_unused=True,
    )
    for parameter, gradient in zip(parameters.values(), expected):
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-3)
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(
                parameter.grad, gradients[name].grad, atol=1e-6, rtol=1e-3
            )


def test_padding_changes_nothing(pair, task):
    model, _ = pair
    model.eval()
    together = model(**padded_batch(task))[0]
    alone = model(**padded_batch(task, [(10, 11)]))[0]
    torch.testing.assert_close(together[2, :3], alone[0], atol=1e-5, rtol=1e-4)


def test_incremental_decoding(pair, task):
    batch = padded_batch(task)
    for model in pair:
        model.eval()
        encoder_out = model.encoder(batch["src_tokens"], batch["src_lengths"])
        prev = batch["prev_output_tokens"]
        whole = model.decoder(prev, encoder_out)[0]
        state = {}
        for step in range(1, prev.size(1) + 1):
            one = model.decoder(prev[:, :step], encoder_out, incremental_state=state)[0]
            if prev[0, step - 1] != task.source_dictionary.pad():
                torch.testing.assert_close(
                    one[0, -1], whole[0, step - 1], atol=1e-5, rtol=1e-4
                )


def test_beam_search(pair, task):
    assert_same_hypotheses(pair, task)


@pytest.mark.parametrize(
    "options",
    [{}, dict(phm_fuse_qkv=True, phm_rank=2), dict(phm_attention_dim=64)],
    ids=["plain", "fused", "wide"],
)
def test_torchscript_beam_search(task, options):
    model = tiny_transformer(task, **options).eval()
    generator = SequenceGenerator([model], task.target_dictionary, beam_size=3)
    scripted = torch.jit.script(generator)
    net_input = padded_batch(task)
    del net_input["prev_output_tokens"]
    sample = {"net_input": net_input}
    for one, other in zip(generator.forward(sample), scripted.forward(sample)):
        assert [h["tokens"].tolist() for h in one] == [
            h["tokens"].tolist() for h in other
        ]


def test_wide_attention_paths_agree(task):
    """The sizes and results of widened heads fit."""
    model = tiny_transformer(task, phm_attention_dim=64).eval()
    attention = model.decoder.layers[0].self_attn
    assert attention.q_proj.weight.shape == (64, 32)
    assert attention.out_proj.weight.shape == (32, 64)
    x = torch.randn(5, 2, 32)
    y, weights = attention(x, x, x)
    heads = []
    for name in ("q_proj", "k_proj", "v_proj"):
        projected = getattr(attention, name)(x).view(5, 2, 4, 16)
        heads.append(projected.permute(1, 2, 0, 3))
    mixed = torch.nn.functional.scaled_dot_product_attention(*heads)
    expected = attention.out_proj(mixed.permute(2, 0, 1, 3).reshape(5, 2, 64))
    torch.testing.assert_close(y, expected)
    assert weights.shape == (2, 5, 5)


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_dynamic_quantization_needs_the_dense_model(task):
    """The types that it replaces are those of torch: PHM layers are none of them."""

    def quantized(model):
        made = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
        kinds = [type(m) for m in made.modules() if type(m).__name__ == "Linear"]
        return made, sum("quantized" in kind.__module__ for kind in kinds)

    sizes = {"arch": "phm_transformer", "_name": "phm_transformer", **TINY, "phm_n": 4}
    words = len(task.source_dictionary)
    phm = build(argparse.Namespace(**sizes), words, words)
    assert quantized(phm.model)[1] == 0
    dense = densified(phm).model
    leave_better_transformer(dense)
    for module in dense.modules():
        if isinstance(module, MultiheadAttention):
            module._set_skip_embed_dim_check()  # else it reads the biases as tensors
    made, count = quantized(dense)
    assert count == len(find_projections(phm.model, types=PHMLinear)) + 1
    batch = padded_batch(task)
    expected = phm.model(**batch)[0]
    assert (made(**batch)[0] - expected).abs().max() < 0.05 * expected.abs().max()


def test_dense_copies_of_fairseq_0_12_2_are_left_out():
    model = tiny_transformer(Task(), phm_n=1)
    copies = {"encoder.layers.0.in_proj_weight": torch.ones(1)}
    model.load_state_dict({**model.state_dict(), **copies})
