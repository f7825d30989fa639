"""Named sizes: what ``--arch`` chooses.

Each size is a dictionary of defaults for options that the user left open; fairseq's
base architecture fills in the rest. A family is one too: quaternion models have n = 4
and Hamilton's rule, frozen.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any, Callable, ContextManager, Dict, Mapping

from fairseq.models import register_model_architecture
from fairseq.models.transformer.transformer_legacy import base_architecture
from fairseq.models.transformer_lm import base_lm_architecture
from omegaconf import DictConfig, OmegaConf, open_dict


def _in_both(**options: Any) -> Dict[str, Any]:
    """Return options of the encoder, and the same ones of the decoder."""
    stacks = ("encoder", "decoder")
    return {f"{stack}_{k}": v for stack in stacks for k, v in options.items()}


# The decoder's widths follow the encoder's where they are not given.
BASE: Dict[str, Any] = {}
IWSLT_DE_EN = _in_both(ffn_embed_dim=1024, attention_heads=4)
WMT_EN_DE_BIG = {
    "encoder_embed_dim": 1024,
    "dropout": 0.3,
    **_in_both(ffn_embed_dim=4096, attention_heads=16),
}
SMALL = {
    "encoder_embed_dim": 256,
    "encoder_ffn_embed_dim": 512,
    **_in_both(layers=3, attention_heads=4),
}
TINY = {
    "encoder_embed_dim": 128,
    "encoder_ffn_embed_dim": 512,
    **_in_both(layers=2, attention_heads=4),
}
WIDE = {"phm_attention_dim": 1024, **_in_both(ffn_embed_dim=4096)}
SIZES = {
    "": BASE,
    "_iwslt_de_en": IWSLT_DE_EN,
    "_wmt_en_de": BASE,
    "_wmt_en_de_big": WMT_EN_DE_BIG,
    "_small": SMALL,
    "_tiny": TINY,
    "_wide": WIDE,
}
LM_SIZES = {
    ending: {name.replace("encoder", "decoder"): v for name, v in size.items()}
    for ending, size in (("", BASE), ("_small", SMALL), ("_tiny", TINY))
}
FAMILIES: Dict[str, Dict[str, Any]] = {
    "phm": {},
    "quaternion": {"phm_n": 4, "phm_rule": "quaternion", "phm_freeze_rule": True},
}


def register_architectures(
    model: str, sizes: Mapping[str, Callable[[Any], None]]
) -> None:
    """Register each size of a model in each family.

    Args:
        model: its registered name, ``phm_...``.
        sizes: ending of the architecture's name -> function that sets the options that
            a namespace or DictConfig leaves open.
    """
    for family, common in FAMILIES.items():
        for ending, set_size in sizes.items():
            name = model.replace("phm", family, 1) + ending
            architecture = partial(_set, set_size=set_size, common=common)
            register_model_architecture(model, name)(architecture)


def _set(args: Any, set_size: Callable[[Any], None], common: Dict[str, Any]) -> None:
    with writable(args):
        fill(args, common)
        set_size(args)
        if getattr(args, "bf16", False) and not find_spec("torch_xla"):
            args.tpu = False  # with --bf16 fairseq would train on a TPU


def fill(args: Any, defaults: Mapping[str, Any]) -> None:
    """Set those of ``defaults`` that options, writable ones, do not hold."""
    for name, value in defaults.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)


def writable(args: Any) -> ContextManager[Any]:
    """Return a context in which new names can be set in a namespace or a DictConfig."""
    return open_dict(args) if isinstance(args, DictConfig) else nullcontext()


def phm_transformer(args: Any, defaults: Mapping[str, Any] = BASE) -> None:
    """Set the Transformer's options that ``args`` does not hold.

    Args:
        args: a namespace with flat names, or a hydra DictConfig, whose ``encoder``,
            ``decoder`` and ``quant_noise`` sections become flat names here.
        defaults: one of :data:`SIZES`; the base size is 512/2048, 8 heads, 6 + 6
            layers.
    """
    with writable(args):
        if isinstance(args, DictConfig):
            for section in ("encoder", "decoder", "quant_noise"):
                for name, value in (OmegaConf.select(args, section) or {}).items():
                    args[f"{section}_{name}"] = value
                args.pop(section, None)
        fill(args, defaults)
        base_architecture(args)


def phm_transformer_lm(args: Any, defaults: Mapping[str, Any] = LM_SIZES[""]) -> None:
    """Set a language model's options that ``args`` does not hold.

    Args:
        args: a namespace or a hydra DictConfig.
        defaults: one of :data:`LM_SIZES`; the base size is 512/2048, 8 heads, 6 layers.
    """
    with writable(args):
        fill(args, defaults)
        base_lm_architecture(args)


def in_sizes(
    set_size: Callable[..., None], sizes: Mapping[str, Mapping[str, Any]]
) -> Dict[str, Callable[[Any], None]]:
    """Return ending of an architecture's name -> function that sets that size."""
    return {ending: partial(set_size, defaults=size) for ending, size in sizes.items()}
