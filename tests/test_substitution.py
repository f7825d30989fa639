"""Which projections become PHM layers, with which n, rule and variance."""

import argparse
import copy

import pytest
import torch
from conftest import assert_same_state, padded_batch, tiny_transformer
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.fconv import FConvEncoder
from fairseq.models.transformer import TransformerModel
from torch import nn

from fairseq_phm import PHMLinear, PHMTransformerModel, count_parameters, substitute
from fairseq_phm.functional import multiplication_rule
from fairseq_phm.models.architectures import SIZES
from fairseq_phm.substitution import SHARE_RULE, find_projections

DENSE_44M = 44_040_192
OTHER = PHMLinear(64, 64, 4)
LEARNED = OTHER.rule


def base_model(task, arch="phm_transformer", **options):
    args = argparse.Namespace(**options)
    ARCH_CONFIG_REGISTRY[arch](args)
    return PHMTransformerModel.build_model(args, task)


@pytest.mark.parametrize(
    "arch,options,projections",
    [
        ("phm_transformer", dict(phm_n=1), DENSE_44M),
        # Rules: 2 in each of 18 attention blocks and 24 in FFNs by default.
        ("phm_transformer", dict(phm_n=2), 22_020_096 + 60 * 8),
        ("phm_transformer", dict(phm_n=4), 11_010_048 + 60 * 64),
        ("phm_transformer", dict(phm_n=8), 5_505_024 + 60 * 512),
        ("phm_transformer", dict(phm_n=16), 2_752_512 + 60 * 4096),
        ("phm_transformer", dict(phm_n=2, phm_share_rule="none"), 22_020_864),
        ("phm_transformer", dict(phm_n=4, phm_share_rule="none"), 11_016_192),
        ("phm_transformer", dict(phm_n=8, phm_share_rule="none"), 5_554_176),
        ("phm_transformer", dict(phm_n=16, phm_share_rule="none"), 3_145_728),
        ("phm_transformer", dict(phm_n=16, phm_share_rule="block"), 2_924_544),
        (
            "phm_transformer",
            dict(phm_n=16, phm_share_rule="value"),
            2_752_512 + 78 * 4096,
        ),
        ("phm_transformer", dict(phm_n=16, phm_share_rule="model"), 2_752_512 + 4096),
        ("phm_transformer", dict(phm_n=16, phm_share_rule="stack"), 2_752_512 + 8192),
        (
            "phm_transformer",
            dict(phm_n=16, phm_share_rule="layer"),
            2_752_512 + 12 * 4096,
        ),
        ("quaternion_transformer", {}, 11_010_048),
        ("phm_transformer", dict(phm_n=4, phm_freeze_rule=True), 11_010_048),
        # Fused: one rule in a block of self-attention, two in one of cross-attention.
        ("phm_transformer", dict(phm_n=4, phm_fuse_qkv=True), 11_010_048 + 48 * 64),
        (
            "phm_transformer",
            dict(phm_n=4, phm_fuse_qkv=True, phm_share_rule="none"),
            11_010_048 + 66 * 64,
        ),
        ("phm_transformer_wide", dict(phm_n=2), DENSE_44M + 60 * 8),
        ("phm_transformer_wide", dict(phm_n=4), 22_020_096 + 60 * 64),
        ("phm_transformer_wide", dict(phm_n=8), 11_010_048 + 60 * 512),
        ("phm_transformer_wide", dict(phm_n=1), 2 * DENSE_44M),
        (
            "phm_transformer",
            dict(phm_n=4, phm_rule_rank=4, phm_decoder_n=1),
            18_874_368 // 4 + 24 * 32 + DENSE_44M - 18_874_368,
        ),
    ],
)
def test_counts_of_the_base_model(task, arch, options, projections):
    model = base_model(task, arch, **options)
    counts = count_parameters(model)
    assert counts["projections"] == projections
    assert counts["total"] == sum(p.numel() for p in model.parameters())
    biases = 18 * 4 * 512 + 12 * (2048 + 512)
    if arch == "phm_transformer_wide":
        biases = 18 * (3 * 1024 + 512) + 12 * (4096 + 512)
    norms = (12 + 18) * 2 * 512
    assert counts["non_embedding"] == projections + biases + norms


def test_checkpoint_stores_each_number_once(task):
    for options in (
        dict(),
        dict(phm_rule_rank=6),
        dict(phm_share_rule="block"),
        dict(phm_share_rule="model"),
        dict(phm_fuse_qkv=True),
        dict(phm_fuse_qkv=True, phm_share_rule="stack", phm_rank=2),
    ):
        model = tiny_transformer(task, share_all_embeddings=False, **options)
        stored = [
            value.numel()
            for key, value in model.state_dict().items()
            if key.rpartition(".")[2].startswith(("rule", "blocks"))
        ]
        assert sum(stored) == count_parameters(model)["projections"]
        other = tiny_transformer(task, seed=1, share_all_embeddings=False, **options)
        other.load_state_dict(model.state_dict())
        batch = padded_batch(task)
        torch.testing.assert_close(other(**batch)[0], model(**batch)[0])


@pytest.mark.parametrize("share", SHARE_RULE)
@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("rank", [0, 2])
def test_pruned_layers_leave_shared_rules(task, share, fuse, rank):
    options = dict(phm_share_rule=share, phm_fuse_qkv=fuse, phm_ffn_n=2)
    options["phm_rule_rank"] = rank
    model = tiny_transformer(task, **options)
    keep = dict(encoder_layers_to_keep="1", decoder_layers_to_keep="1")
    pruned = tiny_transformer(task, seed=1, **options, **keep)
    args = argparse.Namespace(arch="phm_transformer", **keep)
    pruned.load_state_dict(model.state_dict(), model_cfg=args)
    for stack in ("encoder", "decoder"):
        for name in ("self_attn.v_proj", "fc2"):
            kept = getattr(pruned, stack).layers[0].get_submodule(name)
            original = getattr(model, stack).layers[1].get_submodule(name)
            assert torch.equal(kept.weight, original.weight)


def test_rules_that_differ_do_not_load_into_one(task):
    separate = tiny_transformer(task, phm_share_rule="none", phm_rule="random")
    shared = tiny_transformer(task, phm_share_rule="block")
    flags = "--phm-share-rule none, this model --phm-share-rule attention:"
    with pytest.raises(ValueError, match=f"the checkpoint has {flags}"):
        shared.load_state_dict(separate.state_dict())


def layers_of(model):
    return {
        found.path: found.module
        for found in find_projections(model, types=(PHMLinear,))
    }


def test_n_by_sublayer_and_stack(task):
    model = tiny_transformer(task, phm_n=2, phm_encoder_n=8, phm_ffn_n=4)
    for path, layer in layers_of(model).items():
        ffn, encoder = "fc" in path, path.startswith("encoder")
        assert layer.n == (4 if ffn else 8 if encoder else 2), path
    model = tiny_transformer(task, phm_n=2, phm_decoder_n=1, phm_attention_n=4)
    layers = layers_of(model)
    assert isinstance(model.decoder.layers[0].fc1, nn.Linear)
    assert layers["decoder.layers.0.encoder_attn.q_proj"].n == 4
    assert layers["encoder.layers.1.fc2"].n == 2


@pytest.mark.parametrize("rank", [0, 4])
def test_checkpoints_of_unshared_rules_load_by_default(task, rank):
    """Checkpoints from when a rule for each projection was the default say nothing."""
    options = dict(phm_rule_rank=rank, phm_rule="random", phm_n=4)
    old = tiny_transformer(task, phm_share_rule="none", **options)
    model = tiny_transformer(task, seed=1, **options)
    model.load_state_dict(old.state_dict())
    batch = padded_batch(task)
    torch.testing.assert_close(model(**batch)[0], old(**batch)[0])
    counts = [sum(p.numel() for p in m.parameters()) for m in (old, model)]
    assert counts[0] == counts[1] and "shares" not in repr(model)
    assert model.left_open.phm_share_rule == model.cfg.phm_share_rule == "none"
    again = tiny_transformer(task, seed=2, phm_share_rule="none", **options)
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("shares", [("none", None), ("none", "none"), (None, None)])
@pytest.mark.parametrize("start", ["random", "learned"])
def test_checkpoints_of_other_cp_rules_load(task, shares, fuse, start):
    """With start "random" u is learned, and with the other layer of a pair."""
    old, new = (dict(phm_share_rule=share, phm_fuse_qkv=fuse) for share in shares)
    old = tiny_transformer(task, phm_rule=start, phm_rule_rank=4, **old)
    model = tiny_transformer(task, seed=1, phm_rule_rank=4, **new)
    model.load_state_dict(old.state_dict())
    batch = padded_batch(task)
    torch.testing.assert_close(model(**batch)[0], old(**batch)[0])


def test_several_processes_do_not_separate_rules(task, monkeypatch):
    old = tiny_transformer(task, phm_share_rule="none", phm_rule="random")
    model = tiny_transformer(task, seed=1)
    for name, value in (("is_initialized", True), ("get_world_size", 2)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    with pytest.raises(ValueError, match="has --phm-share-rule none, this model"):
        model.load_state_dict(old.state_dict())
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    model.load_state_dict(old.state_dict())  # one process does


@pytest.mark.parametrize("share", SHARE_RULE)
@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("factor", ["scaled_rule", "scaled_rule_v"])
def test_shared_rules(task, share, fuse, factor):
    rank = 2 * factor.endswith("v")
    options = dict(phm_share_rule=share, phm_fuse_qkv=fuse, phm_rule_rank=rank)
    options["phm_rule_lr"] = 4
    model = tiny_transformer(task, **options)
    found = find_projections(model, types=(PHMLinear,))
    assert len(found) == 2 * 6 + 2 * 10
    scopes = {}
    for one in found:
        attention = one.kind != "ffn"
        block = one.parent_path if attention else one.path
        fused = fuse and one.name in ("k_proj", "v_proj")
        fused |= fuse and one.name == "q_proj" and one.kind == "self_attention"
        alone = one.parent_path + " fused" if fused else one.path
        value = one.name in ("v_proj", "out_proj") or fused
        scope = {
            "none": alone,
            "value": block + " vo" if attention and value else alone,
            "pairs": block + (" vo" if value else " qk") * attention,
            "block": block,
            "attention": block,
            "layer": one.layer,
            "stack": one.stack,
            "model": "",
        }[share]
        scopes.setdefault(scope, set()).add(id(getattr(one.module, factor)))
    assert all(len(rules) == 1 for rules in scopes.values())
    assert len(set.union(*scopes.values())) == len(scopes)


def test_fused_projections_are_one_phm_layer(task):
    model = tiny_transformer(task, phm_fuse_qkv=True, phm_n=4)
    attention = model.decoder.layers[1].self_attn
    q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
    assert q.blocks is k.blocks is v.blocks and q.blocks.shape == (4, 24, 8)
    whole = sum(torch.kron(a, s) for a, s in zip(q.rule, q.blocks))
    torch.testing.assert_close(torch.cat([q.weight, k.weight, v.weight]), whole)
    cross = model.decoder.layers[1].encoder_attn
    assert cross.k_proj.blocks is cross.v_proj.blocks
    assert cross.k_proj.blocks.shape == (4, 16, 8)
    assert cross.q_proj.blocks.shape == (4, 8, 8)


def test_projections_with_and_without_bias_are_not_fused(task):
    model = tiny_transformer(task, phm_n=1)
    attention = model.encoder.layers[0].self_attn
    attention.k_proj = nn.Linear(32, 32, bias=False)
    substitute(model, 4, fuse_qkv=True)
    q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
    assert k.bias is None and k.blocks is not v.blocks and q.blocks is v.blocks


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("rule", ["learned", "quaternion"])
@pytest.mark.parametrize("fuse", [False, True])
def test_variance_of_the_replaced_weight(task, rank, rule, fuse):
    args = argparse.Namespace(encoder_layers=1, decoder_layers=1, encoder_embed_dim=256)
    ARCH_CONFIG_REGISTRY["transformer"](args)
    dense = TransformerModel.build_model(args, task)
    with torch.no_grad():
        dense.encoder.layers[0].fc1.weight.mul_(7)
    model = substitute(copy.deepcopy(dense), 4, rank=rank, rule=rule, fuse_qkv=fuse)
    modules = dict(dense.named_modules())
    layers = layers_of(model)
    assert len(layers) == 6 + 10
    for path, layer in layers.items():
        H, W = layer.weight, modules[path].weight
        assert H.shape == W.shape
        assert H.std().item() == pytest.approx(W.std().item(), rel=0.05), path
        assert abs(H.mean().item()) < 0.05 * W.std().item()
        assert torch.equal(layer.bias, modules[path].bias)


def test_wider_attention_starts_smaller(task):
    """As Xavier's start, with gain 2^-0.5 for q, k and v."""
    model = tiny_transformer(task, phm_attention_dim=128)
    attention = model.encoder.layers[0].self_attn
    for name, expected in (("q_proj", 1 / 160), ("out_proj", 2 / 160)):
        std = getattr(attention, name).weight.std().item()
        assert std == pytest.approx(expected**0.5, rel=0.1)


def test_a_model_fairseq_does_not_know():
    class Attention(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in "qkv")
            self.mix = nn.Linear(width, width, bias=False)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.cross_attn = Attention(8), Attention(8)
            self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
            self.head = nn.Linear(8, 5)

    model = nn.Sequential(Block(), Block())
    model[1].down = model[0].down
    projections = {
        "self_attention": ("query", "value"),
        "cross_attention": ("query", "key", "value", "mix"),
        "ffn": ("up", "down"),
    }
    substitute(model, 2, ffn_n=4, projections=projections)
    assert isinstance(model[0].attention.key, nn.Linear)
    assert isinstance(model[0].head, nn.Linear)
    assert model[0].cross_attn.mix.bias is None
    assert model[0].up.n == 4 and model[1].attention.query.n == 2
    assert model[0].down is model[1].down
    assert len(layers_of(model)) == 0
    layers = [m for m in model.modules() if isinstance(m, PHMLinear)]
    weights = {id(p): p.numel() for m in layers for k, p in m.named_parameters()
               if k != "bias"}  # fmt: skip
    assert count_parameters(model, projections)["projections"] == sum(weights.values())
    assert count_parameters(model)["projections"] == 0
    with pytest.raises(ValueError, match="no linear projection called fc1"):
        substitute(nn.Linear(3, 3), 2, projections={"ffn": ("fc1",)})
    with pytest.raises(ValueError, match="unknown kind of sublayer attention"):
        substitute(model, 2, projections={"attention": ("query",)})


def test_only_chosen_projections_of_a_fairseq_model(task):
    model = tiny_transformer(task, phm_n=1)
    substitute(model, 4, projections={"ffn": ("fc1", "fc2")})
    assert {path.rpartition(".")[2] for path in layers_of(model)} == {"fc1", "fc2"}
    substitute(model, 2, projections={"self_attention": ("q_proj", "k_proj")})
    assert model.encoder.layers[0].self_attn.q_proj.n == 2
    assert isinstance(model.encoder.layers[0].self_attn.v_proj, nn.Linear)


def test_the_name_of_one_projection():
    block = nn.Module()
    block.linear1, block.other = nn.Linear(8, 8), nn.Linear(8, 8)
    substitute(block.eval(), 2, projections={"ffn": "linear1"})
    assert isinstance(block.linear1, PHMLinear) and isinstance(block.other, nn.Linear)
    assert not any(module.training for module in block.modules())
    with pytest.raises(ValueError, match="no linear projection called linear2"):
        substitute(block, 2, projections={"ffn": "linear2"})


def test_layers_with_one_weight_are_refused():
    block = nn.Module()
    block.fc1, block.fc2 = nn.Linear(8, 8), nn.Linear(8, 8)
    block.fc2.weight = block.fc1.weight
    with pytest.raises(ValueError, match="^fc1 and fc2 are two layers with one weight"):
        substitute(block, 2)
    block.fc2, block.head = nn.Linear(8, 8), nn.Linear(8, 8)
    block.head.weight = block.fc1.weight
    with pytest.raises(ValueError, match="^fc1 and head are two layers with one"):
        substitute(block, 2)


@pytest.mark.parametrize("options", [{}, dict(freeze_rule=True, share_rule="model")])
def test_a_model_on_the_meta_device(options):
    with torch.device("meta"):
        block = nn.Module()
        block.fc1, block.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)
    substitute(block, 2, rule="complex", **options).to_empty(device="cpu")
    for layer in (block.fc1, block.fc2):
        assert isinstance(layer, PHMLinear) and not layer.weight.is_meta
        layer.reset_parameters()
        assert torch.isfinite(layer(torch.randn(3, layer.in_features))).all()
        assert torch.equal(layer.full_rule(), multiplication_rule("complex"))


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(n=3), "encoder.layers.0.self_attn.k_proj: n=3 does not fit .*32.* 2, 4"),
        (dict(n=2, ffn_n=5), "encoder.layers.0.fc1: n=5 does not fit .*32.*64"),
        (dict(n=0), "n=0"),
        (dict(n=4, rule="octonion"), "k_proj: rule 'octonion' has size 8x8x8.*n=4"),
        (dict(n=4, rule="cayley"), "unknown rule 'cayley'"),
        (dict(n=4, share_rule="all"), "unknown share_rule 'all'.*stack"),
        (dict(n=4, rank=-2), "rank"),
        (dict(n=4, rule_rank=17), "proj: rule_rank=17 .*n=4"),
        (dict(n=4, rule_lr=0), "rule_lr must be a number above 0, got 0"),
        (dict(n=4, attention_dim=30), "attention_dim=30 is not a multiple of its 4"),
        (dict(n=4, ffn_n=2, rule=LEARNED), "fc1: the shared rule has n=4.* n=2"),
    ],
)
def test_errors_change_nothing(task, options, message):
    model = tiny_transformer(task, phm_n=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        substitute(model, **options)
    assert_same_state(model.state_dict(), before)


def test_a_rule_of_another_type_changes_nothing():
    block = nn.Module()
    block.fc1, block.fc2 = nn.Linear(8, 8), nn.Linear(8, 8).double()
    with pytest.raises(ValueError, match="the shared rule is torch.float32, the layer"):
        substitute(block, 2, share_rule="model")
    assert type(block.fc1) is type(block.fc2) is nn.Linear


def test_quant_noise_is_refused(task):
    for name in ("quant_noise_pq", "quant_noise_scalar"):
        with pytest.raises(ValueError, match="quant-noise"):
            tiny_transformer(task, **{name: 0.1})
    args = argparse.Namespace(encoder_layers=1, decoder_layers=1, quant_noise_pq=0.1)
    ARCH_CONFIG_REGISTRY["transformer"](args)
    with pytest.raises(ValueError, match="self_attn.k_proj has the hook of quant"):
        substitute(TransformerModel.build_model(args, task), 4)


def test_has_its_options_as_fairseqs_transformer_has(task):
    model = tiny_transformer(task, phm_n=2)
    assert model.args is model.cfg and model.args.phm_n == 2
    assert model.args.encoder.embed_dim == 32


def test_other_hooks_are_called_by_their_name(task):
    with pytest.raises(ValueError, match="fc1 has the hook of weight norm, .*remove_w"):
        substitute(FConvEncoder(task.source_dictionary, embed_dim=8), 4)
    block = nn.Module()
    block.fc1, block.fc2 = nn.Linear(8, 8), nn.Linear(8, 8)
    block.fc2.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="fc2 has the hook .*lambda.*: remove it"):
        substitute(block, 4)
    for register in ("register_full_backward_hook", "register_full_backward_pre_hook"):
        block.fc1, block.fc2 = nn.Linear(8, 8), nn.Linear(8, 8)
        getattr(block.fc1, register)(lambda *_: None)
        with pytest.raises(ValueError, match="fc1 has the hook .*lambda.*: remove it"):
            substitute(block, 4)
    block.fc1 = nn.utils.parametrizations.orthogonal(nn.Linear(8, 8))
    with pytest.raises(ValueError, match="fc1 has parametrizations.*remove_param"):
        substitute(block, 4)


@pytest.mark.parametrize("options", [dict(phm_rule="random"), dict(phm_rule_rank=6)])
def test_frozen_rules_that_are_drawn_are_shared(task, options):
    """As those that learn: pairs have one for v and out, another for q and k."""
    model = tiny_transformer(task, phm_n=4, phm_freeze_rule=True, **options)
    attention = model.encoder.layers[0].self_attn
    q, k, v, out = (
        getattr(attention, name).full_rule()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj")
    )
    assert torch.equal(v, out) and torch.equal(q, k) and not torch.equal(q, v)


def test_frozen_rules_of_single_layers_stay_theirs(task):
    """In a model whose layers would have drawn one for a stack."""
    options = dict(phm_n=4, phm_rule="random", phm_freeze_rule=True)
    old = tiny_transformer(task, phm_share_rule="none", **options)
    model = tiny_transformer(task, seed=1, phm_share_rule="stack", **options)
    model.load_state_dict(old.state_dict())
    assert_same_state(model.state_dict(), old.state_dict())


def test_no_hidden_dense_parameters(task):
    model = tiny_transformer(task, phm_n=4)
    for name, parameter in model.named_parameters():
        assert parameter.numel() < 64 * 32 or "embed" in name, name
    batch = padded_batch(task)
    model(**batch)[0].sum().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert not unused


def test_every_architecture_is_registered():
    for family in ("phm_transformer", "quaternion_transformer"):
        for suffix in SIZES:
            args = argparse.Namespace()
            ARCH_CONFIG_REGISTRY[family + suffix](args)
            quaternion = getattr(args, "phm_rule", None) == "quaternion"
            assert quaternion == (family == "quaternion_transformer")
