"""Whole models: training steps with Adam and clipping, and beam search."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, Tuple

import torch
from fairseq import utils
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
)
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, MODEL_REGISTRY, BaseFairseqModel
from fairseq.optim.adam import Adam
from fairseq.sequence_generator import SequenceGenerator

import fairseq_phm  # noqa: F401, registers the models
from fairseq_phm.modules import batched_weights

from .timing import Row, interleave, rows

WORDS = 10_000
LENGTH = 24
"""Tokens of each source sentence and of each hypothesis."""
BEAM = 5
TRANSFORMER = "transformer, 512/2048, 6+6"
LSTM = "lstm, 512, 1+1"
SIZES: Dict[str, Dict[str, Any]] = {
    "transformer": {},  # fairseq's defaults: the base sizes
    "lstm": {},
}


TINY = {
    f"{stack}_{name}": size
    for stack in ("encoder", "decoder")
    for name, size in dict(embed_dim=32, ffn_embed_dim=64, attention_heads=4).items()
}


class Vocabulary:
    """What a model asks of a fairseq task."""

    def __init__(self, words: int = WORDS) -> None:
        self.target_dictionary = self.source_dictionary = Dictionary()
        for i in range(words):
            self.target_dictionary.add_symbol(f"w{i}")


def training(options: argparse.Namespace) -> List[Row]:
    """Measure a step of the base Transformer: dense twin, fairseq's own, PHM."""
    task, sample = Vocabulary(), _sample(32, options.device)
    calls = {
        name: _step(model.train(), sample, task)
        for name, model in _transformers(task, options).items()
    }
    tokens = sample["ntokens"]
    about = {"benchmark": "training", "in x out": TRANSFORMER, "tokens": tokens}
    return rows(interleave(calls, options), **about, mode="step with Adam, clipping")


def overhead(options: argparse.Namespace) -> List[Row]:
    """Measure steps so small that their kernels take no time, as most of a GPU's do.

    PHM layers build their weights one by one, and at once, as on a GPU.
    """
    task, sample = Vocabulary(words=50), _sample(4, options.device, words=50)
    calls: Dict[str, Callable[[], None]] = {}

    def on(devices: Tuple[str, ...], step: Callable[[], None]) -> Callable[[], None]:
        def steps() -> None:
            batched_weights.DEVICES = devices
            for _ in range(10):
                step()

        return steps

    before = batched_weights.DEVICES
    for name, model in _transformers(task, options, **TINY).items():
        step = _step(model.train(), sample, task)
        if "n=" in name:
            calls[name] = on((), step)
            name += " at once"
        calls[name] = on((options.device.partition(":")[0],), step)
    about = {"benchmark": "overhead", "in x out": "transformer, 32/64, 6+6"}
    try:
        times = interleave(calls, options)
    finally:
        batched_weights.DEVICES = before
    return rows(times, **about, tokens=sample["ntokens"], mode="10 steps")


def decoding(options: argparse.Namespace) -> List[Row]:
    """Measure beam search with Transformer and LSTM, batches of 1, 8 and 32."""
    task = Vocabulary()
    families = {TRANSFORMER: _transformers, LSTM: _lstms}
    result: List[Row] = []
    for size, build in families.items():
        models = {name: m.eval() for name, m in build(task, options).items()}
        for model in models.values():
            model.make_generation_fast_(need_attn=False)  # as fairseq-generate does
        for sentences in (1, 8, 32):
            batch = _batch(sentences, options.device)
            calls = {n: _search(m, batch, task) for n, m in models.items()}
            about = {"benchmark": "decoding", "in x out": size, "tokens": sentences}
            times = interleave(calls, options)
            result += rows(times, **about, mode=f"sentences, beam {BEAM}")
    return result


def _transformers(
    task: Vocabulary, options: argparse.Namespace, **sizes: int
) -> Dict[str, BaseFairseqModel]:
    models = {"dense": _build("phm_transformer", task, options, phm_n=1, **sizes)}
    for n in options.n:
        for name, rule_rank in ((f"n={n}", 0), (f"n={n} R={n}", n)):
            flags = dict(phm_n=n, phm_rule_rank=rule_rank, **sizes)
            models[name] = _build("phm_transformer", task, options, **flags)
    return {**models, "stock": _build("transformer", task, options, **sizes)}


def _lstms(
    task: Vocabulary, options: argparse.Namespace
) -> Dict[str, BaseFairseqModel]:
    models = {"dense": _build("lstm", task, options)}
    for n in options.n:
        models[f"n={n}"] = _build("phm_lstm", task, options, phm_n=n)
    return models


def _build(
    arch: str, task: Vocabulary, options: argparse.Namespace, **flags: Any
) -> BaseFairseqModel:
    family = arch.replace("phm_", "")
    args = SimpleNamespace(share_all_embeddings=family == "transformer", **flags)
    vars(args).update(SIZES[family])
    args.criterion = "cross_entropy"
    ARCH_CONFIG_REGISTRY[arch](args)
    torch.manual_seed(1)
    model = MODEL_REGISTRY[arch].build_model(args, task)
    return model.to(device=options.device, dtype=getattr(torch, options.dtype))


def _batch(sentences: int, device: str, words: int = WORDS) -> Dict[str, Any]:
    torch.manual_seed(1)
    tokens = torch.randint(4, words, (sentences, LENGTH), device=device)
    lengths = torch.full((sentences,), LENGTH, device=device)
    return {"net_input": {"src_tokens": tokens, "src_lengths": lengths}}


def _sample(sentences: int, device: str, words: int = WORDS) -> Dict[str, Any]:
    """Make a batch of training, whose targets are its sources."""
    batch = _batch(sentences, device, words)
    tokens = batch["net_input"]["src_tokens"]
    batch["net_input"]["prev_output_tokens"] = tokens
    return {**batch, "target": tokens, "ntokens": tokens.numel()}


def _step(
    model: BaseFairseqModel, sample: Dict[str, Any], task: Vocabulary
) -> Callable[[], None]:
    criterion = LabelSmoothedCrossEntropyCriterion(task, False, 0.1)
    parameters = list(model.parameters())
    optimizer = Adam(parameters, lr=1e-4, betas=(0.9, 0.98))

    def step() -> None:
        optimizer.zero_grad()
        loss, size, _ = criterion(model, sample)
        (loss / size).backward()
        utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def _search(
    model: BaseFairseqModel, batch: Dict[str, Any], task: Vocabulary
) -> Callable[[], None]:
    generator = SequenceGenerator(
        [model],
        task.target_dictionary,
        beam_size=BEAM,
        min_len=LENGTH,
        max_len_a=0,
        max_len_b=LENGTH,
    )

    def search() -> None:
        hypotheses = generator.generate([model], batch)
        if {len(h["tokens"]) for beam in hypotheses for h in beam} != {LENGTH + 1}:
            raise RuntimeError("hypotheses of different lengths cannot be compared")

    return search
