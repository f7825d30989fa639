"""Tiny fairseq models and texts that the tests share."""

import argparse
import contextlib
import importlib
import io
import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.sequence_generator import SequenceGenerator
from forked import python

from fairseq_phm import PHMLinear, PHMTransformerModel
from fairseq_phm.modules.factors import FACTORS
from fairseq_phm.substitution import find_projections

for name, examples in {"few": 30, "many": 2000}.items():  # many: for a nightly run
    hypothesis.settings.register_profile(
        name,
        max_examples=examples,
        derandomize=name == "few",
        deadline=None,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))

ROOT = Path(__file__).resolve().parent.parent
LINES = {"train": 90, "valid": 9, "test": 10}
"""Of the generated texts."""

TINY = dict(
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=64,
    encoder_layers=2,
    encoder_attention_heads=4,
    decoder_layers=2,
    decoder_attention_heads=4,
    decoder_ffn_embed_dim=64,
    dropout=0.0,
    max_source_positions=64,
    max_target_positions=64,
)


def run(tool, *arguments, cwd=ROOT, check=True, stdin="", env=None):
    """Output of ``fairseq-TOOL``; fails with that output when the tool fails."""
    env = {"OMP_NUM_THREADS": "2", **os.environ, **(env or {})}
    done = python(
        "-m", f"fairseq_cli.{tool}", *arguments,
        cwd=cwd, env=env, stdin=stdin, merged=True, check=check,
    )  # fmt: skip
    return done.stdout


def hydra_train(config, folder):
    """Run fairseq-hydra-train with a configuration, from and in ``folder``."""
    config = {**config, "hydra": {"run": {"dir": str(folder / "hydra")}}}
    (folder / "tiny.yaml").write_text("# @package _group_\n" + json.dumps(config))
    run("hydra_train", "--config-dir", folder, "--config-name", "tiny", cwd=folder)


class Task:
    """What a model asks of a fairseq task: the two dictionaries."""

    def __init__(self, words=40):
        self.source_dictionary = self.target_dictionary = Dictionary()
        for i in range(words):
            self.source_dictionary.add_symbol(f"w{i}")
        self.src_dict = self.tgt_dict = self.source_dictionary


@pytest.fixture
def task():
    return Task()


def tiny_transformer(task, arch="phm_transformer", seed=0, **options):
    """A built model of ``arch`` in the size TINY, with ``options`` in its namespace."""
    torch.manual_seed(seed)
    args = argparse.Namespace(**{**TINY, **options})
    ARCH_CONFIG_REGISTRY[arch](args)
    return PHMTransformerModel.build_model(args, task)


def assert_same_state(first, second, rtol=0, atol=0):
    """Two state dicts hold the same; but for what fairseq 0.12.2 never fills."""
    first, second = (
        {key: state[key] for key in state if not key.endswith("_float_tensor")}
        for state in (first, second)
    )
    torch.testing.assert_close(first, second, rtol=rtol, atol=atol)


def with_weights(model):
    """Entries of a PHM model with the weight H of each layer in place of its factors.

    Made apart from the product's own, which the tests compare with it.
    """
    state = model.state_dict()
    for found in find_projections(model, types=(PHMLinear,)):
        for name in FACTORS:
            state.pop(f"{found.path}.{name}", None)
        state[f"{found.path}.weight"] = found.module.weight.detach().clone()
    return state


def padded_batch(task, sources=((5, 6, 7, 8, 9), (12, 13, 14), (10, 11))):
    """A batch with left-padded sources, right-padded targets: tokens (batch, time)."""
    pad, eos = task.source_dictionary.pad(), task.source_dictionary.eos()
    longest = max(map(len, sources)) + 1
    src = torch.full((len(sources), longest), pad)
    prev = torch.full((len(sources), longest), pad)
    for row, source in enumerate(sources):
        tokens = torch.tensor([*source, eos])
        src[row, -len(tokens) :] = tokens
        prev[row, : len(tokens)] = torch.tensor([eos, *reversed(source)])
    return {
        "src_tokens": src,
        "src_lengths": src.ne(pad).sum(1),
        "prev_output_tokens": prev,
    }


def assert_same_hypotheses(models, task):
    """Beam search of all models gives equal hypotheses and scores."""
    net_input = padded_batch(task)
    del net_input["prev_output_tokens"]
    results = []
    for model in models:
        generator = SequenceGenerator(
            [model.eval()], task.target_dictionary, beam_size=5, max_len_b=12
        )
        results.append(generator.generate([model], {"net_input": net_input}))
    for hypotheses, expected in zip(*results):
        assert len(hypotheses) == len(expected) == 5
        for one, other in zip(hypotheses, expected):
            assert one["tokens"].tolist() == other["tokens"].tolist()
            torch.testing.assert_close(one["score"], other["score"], atol=1e-4, rtol=0)


def write_pairs(folder, sizes):
    """Text of random words in xx, and the same backwards in yy."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(3)
    for split, size in sizes.items():
        rows = [rng.choices("abcdefghij", k=rng.randint(2, 8)) for _ in range(size)]
        for language, words in (("xx", rows), ("yy", [row[::-1] for row in rows])):
            text = "".join(" ".join(row) + "\n" for row in words)
            (folder / f"{split}.{language}").write_text(text)


def cells(text):
    """The rows of tables in Markdown, as lists of cells."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def table(text, words=1):
    """A table in Markdown: first cell, or tuple of so many -> header -> cell."""
    head, _, *rows = cells(text)
    found = {tuple(row[:words]): dict(zip(head, row)) for row in rows}
    return found if words > 1 else {key: row for (key,), row in found.items()}


@pytest.fixture(scope="session")
def handed(tmp_path_factory):
    """A function: the module that a script runs, and its arguments."""
    python = tmp_path_factory.mktemp("bin") / "python"
    python.write_text(
        '#!/bin/sh\n[ "$2" = recipes.driver.options ] && exit\n'
        "shift\nprintf '%s\\0' \"$@\"\n"
    )
    python.chmod(0o755)

    def call(script, *arguments):
        command = [ROOT / "recipes" / script, *map(str, arguments)]
        environment = {**os.environ, "RECIPE_PYTHON": str(python)}
        said = subprocess.check_output(command, env=environment, text=True)
        return said.split("\0")[:-1]

    return call


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Parallel text in all languages of the recipes: words, and the same backwards."""
    folder = tmp_path_factory.mktemp("texts")
    from data_prep import declaration

    sets = map(declaration.load, declaration.names())
    languages = sorted({language for data in sets for language in data.languages})
    rng = random.Random(1)
    for split, count in LINES.items():
        rows = [rng.choices("abcdefghij", k=rng.randint(3, 8)) for _ in range(count)]
        for place, language in enumerate(languages):
            text = "".join(" ".join(row[:: 1 - place % 2 * 2]) + "\n" for row in rows)
            (folder / f"{split}.{language}").write_text(text)
    return folder


@pytest.fixture
def in_process(monkeypatch):
    """Let recipes call fairseq's tools in this process."""
    from recipes.driver import fairseq_process
    from recipes.driver import run as driver_run

    def call(command):
        _, _, module, *arguments = command
        main = "cli_main" if module.startswith("fairseq_cli") else "main"
        out = io.StringIO()
        handler = logging.StreamHandler(out)
        handler.setFormatter(logging.Formatter("| %(name)s | %(message)s"))
        program = importlib.import_module(module)  # some set up logging when imported
        logging.disable(logging.NOTSET)
        logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(logging.INFO)
        # fairseq keeps the best validation loss there as long as its process lives
        vars(
            importlib.import_module("fairseq.checkpoint_utils").save_checkpoint
        ).clear()
        with monkeypatch.context() as patch, contextlib.redirect_stdout(out):
            patch.setattr(sys, "argv", [module, *arguments])
            try:
                getattr(program, main)()
            finally:
                logging.getLogger().removeHandler(handler)
        return out.getvalue()

    def follow(command, log, threads=None):
        text = call(command)
        with log.open("a") as file:
            file.write("$ " + " ".join(command) + "\n" + text)
        return iter(text.splitlines())

    def subprocess_run(command, **_):
        return SimpleNamespace(returncode=0, stdout=call(command))

    for module in (fairseq_process, driver_run):
        monkeypatch.setattr(module, "follow", follow)
    monkeypatch.setattr("data_prep.binarize.subprocess", SimpleNamespace(
        run=subprocess_run, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT,
    ))  # fmt: skip
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
