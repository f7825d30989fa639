"""The options of each recipe, and the typed values that they become."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Sequence, Union

from data_prep import SPLITS

from ..models import CLASSIFIERS, DENSE, LANGUAGE_MODELS, LM
from ..settings import (
    QUALITY_MODELS,
    SIZES,
    SPEED_MODELS,
    STAGES,
    VIEWS,
    WAYS,
    Classification,
    Compression,
    LanguageModel,
    Machine,
    Quality,
    QualityReport,
    Search,
    Source,
    Speed,
    Training,
    Translation,
)
from .arguments import (
    add_beam,
    add_machine,
    add_pairs,
    add_raw,
    add_runs,
    add_search,
    add_size,
    add_stages,
    new_parser,
)
from .checks import check_alone, check_comparison, check_models, check_pairs, parse


def parse_translation(arguments: Sequence[str]) -> Translation:
    """Read the options of translation; those that cannot be end the program."""
    parser = _translation_parser()
    given = parse(parser, arguments, "parallel")
    check_pairs(parser, given)
    if given.slurm and given.size != "paper":
        parser.error("--slurm is for --size paper")
    if given.slurm and any(word.startswith("-") for word in given.extra):
        parser.error("--slurm takes overrides after --, as model.encoder.layers=4")
    training = _training(given)
    if given.compare:
        first = next((m for m in given.models if m.family == "PHM"), DENSE)
        peers = [m for m in first.peers(training.arch) if m not in given.models]
        given.models = (*given.models, *peers)
    check_models(parser, given, training.arch)
    return Translation(**_shared(given), training=training, search=_search(given))


def _translation_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "translation",
        "Prepares sentence pairs, trains PHM-Transformers and their dense twin, "
        "averages the last checkpoints, translates the test set and scores it.",
        "tiny is a dry run of all stages: the first lines of the data, few updates.",
    )
    add_pairs(parser, "small")
    parser.add_argument(
        "--compare", action="store_true",
        help="train what shows what a PHM model is for: the same with R = n, its dense "
        "twin, and dense/N, of about equal parameters",
    )  # fmt: skip
    add_runs(parser, ["dense", "4"], [1])
    add_stages(parser, STAGES)
    size = add_size(parser)
    size("--lr", type=float, help="peak learning rate")
    size("--save-interval", type=int, help="updates between checkpoints")
    add_search(parser, "factors")
    add_machine(parser).add_argument(
        "--slurm", nargs="?", const="submitit_slurm", metavar="LAUNCHER",
        help="train by fairseq-hydra-train, one Slurm job for each model and seed, or "
        "by another launcher of hydra; what follows -- are overrides of the "
        "configuration then, e.g. hydra.launcher.partition=gpu",
    )  # fmt: skip
    return parser


def parse_quality(arguments: Sequence[str]) -> Union[Quality, QualityReport]:
    """Read the options of the quality benchmark; ``--report`` has its own type."""
    parser = _quality_parser()
    given = parse(parser, arguments, "parallel", as_published=False)
    if given.report:
        check_alone(parser, arguments, ("report", "views"))
        return QualityReport(tuple(given.report), tuple(given.views))
    check_comparison(parser, given)
    if given.gpus > 1 and "time" in given.views:
        parser.error(
            "--gpus: throughput is measured on one; --views updates parameters"
        )
    own = SIZES[given.size].lr
    lrs = sorted(set(given.lrs or (own / 2, own, own * 2)))
    training = _training(given)
    check_models(parser, given, training.arch, compared=True)
    return Quality(
        **_shared(given), training=training, search=_search(given), lrs=tuple(lrs),
        extend=given.extend, views=tuple(given.views),
        validations=given.validations, rounds=given.rounds,
    )  # fmt: skip


def _quality_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "quality",
        "Trains models on sentence pairs, each at its best of the same learning rates "
        "by validation loss, with several seeds, for as many updates and for as much "
        "time as the dense one. Without a data set: the demo corpus.",
    )
    add = parser.add_argument
    add_pairs(parser, "demo")
    add_runs(parser, QUALITY_MODELS, [1, 2, 3])
    add(
        "--lrs", type=float, nargs="+", metavar="LR",
        help="peak learning rates; default: the size's own, its half and its double",
    )  # fmt: skip
    add(
        "--extend", type=int, default=0, metavar="TIMES",
        help="a model whose best rate is at the edge of the sweep gets the next one, "
        "half or double, at most so many times",
    )  # fmt: skip
    add("--views", nargs="+", choices=VIEWS, default=VIEWS, help="what is compared")
    add("--validations", type=int, default=12, help="of each run")
    add("--rounds", type=int, default=15, help="of the measurement of throughput")
    add_size(parser)
    add_search(parser, "none")
    add_machine(parser)
    add(
        "--report", type=Path, nargs="+", metavar="FILE",
        help="train nothing: tables and figures from these results.jsonl, or folders "
        "with one, into the folder of the first",
    )  # fmt: skip
    parser.set_defaults(stages=STAGES)
    return parser


def parse_speed(arguments: Sequence[str]) -> Speed:
    """Read the options of the benchmark of speed; those that cannot be end it."""
    parser = _speed_parser()
    given = parse(parser, arguments, "parallel", as_published=False)
    if given.gpus > 1:
        parser.error("--gpus: the benchmark measures one")
    check_comparison(parser, given)
    training = _training(given)
    check_models(parser, given, training.arch, compared=True)
    return Speed(
        **_shared(given), training=training, search=_search(given),
        sentences=given.sentences, rounds=given.rounds,
    )  # fmt: skip


def _speed_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "speed",
        "Times training steps and beam search of untrained models on the same "
        "batches, in turn. Without a data set: the demo corpus.",
        "Times are measured anew.",
    )
    add = parser.add_argument
    add_pairs(parser, "small")
    add_runs(parser, SPEED_MODELS)
    add("--sentences", type=int, default=256, help="of the test set to translate")
    add("--rounds", type=int, default=5, help="that count; two more come before them")
    add_size(parser, trains=False)
    add_beam(parser, 4)
    add_machine(parser)
    parser.set_defaults(
        stages=STAGES, seeds=[1], jobs=1, mean="none", num_checkpoints=1
    )
    return parser


def parse_compress(arguments: Sequence[str]) -> Compression:
    """Read the options of compression; those that cannot be end the program."""
    parser = _compress_parser()
    given = parse(parser, arguments, "parallel", as_published=False)
    check_comparison(parser, given)
    for model in given.models:
        if model.n == 1 or model.wide or model.whole:
            parser.error(
                f"--models {model}: PHM or quaternion of the dense widths, not whole"
            )
    if given.checkpoint and not given.checkpoint.is_file():
        parser.error(f"--checkpoint {given.checkpoint}: no such file")
    training = _training(given)
    training = training.of_length(training.updates, given.validations)
    on = training.of_length(
        given.updates_on or max(1, training.updates // 4), given.validations
    )
    on = replace(on, lr=training.lr / 4 if given.lr_on is None else given.lr_on)
    check_models(parser, given, training.arch)
    ways = [way for way in WAYS if way != "distilled" or given.distill]
    if given.rows:
        wanted = [row.replace("-", " ") for row in given.rows]
        ways = [w for w in ways if w in wanted or w == "distilled"]
    return Compression(
        **_shared(given), training=training, search=_search(given),
        checkpoint=given.checkpoint and given.checkpoint.absolute(),
        updates_of_checkpoint=given.updates or 0, on=on,
        validations=given.validations, ways=tuple(ways),
    )  # fmt: skip


def _compress_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "compress",
        "Trains a dense Transformer on sentence pairs, or takes a checkpoint, "
        "compresses it to PHM models and trains these on; and trains PHM models from "
        "scratch, for as many updates as both. Without a data set: the demo corpus.",
        "tiny is a dry run of all stages: the first lines of the data, few updates.",
    )
    add = parser.add_argument
    add_pairs(parser, "demo")
    add_runs(parser, ["2", "4", "4r4"], [1])
    add(
        "--checkpoint", type=Path, metavar="FILE",
        help="of a dense model of this size that was trained on these data; --updates "
        "are then those of its training, if it was not the last checkpoint",
    )  # fmt: skip
    add(
        "--updates-on", type=int, metavar="UPDATES",
        help="of training after compression; default: a quarter of --updates",
    )  # fmt: skip
    add(
        "--lr-on", type=float, metavar="LR",
        help="its peak learning rate; default: a quarter of --lr",
    )  # fmt: skip
    add(
        "--distill", action="store_true",
        help="train on, too, with the dense model's translations of the training set "
        "as targets",
    )  # fmt: skip
    add(
        "--rows", nargs="+", metavar="ROW",
        choices=[way.replace(" ", "-") for way in WAYS if way != "distilled"],
        help="only these, with --distill that one as well, and what they need, of "
        "dense, compressed, trained-on, from-scratch",
    )  # fmt: skip
    add("--validations", type=int, default=12, help="of each training")
    size = add_size(parser)
    size("--lr", type=float, help="peak learning rate")
    add_search(parser, "none")
    add_machine(parser)
    parser.set_defaults(stages=(*STAGES, "validate", "compress"))
    return parser


def parse_language_model(arguments: Sequence[str]) -> LanguageModel:
    """Read the options of language models; those that cannot be end the program."""
    parser = _language_model_parser()
    given = parse(parser, arguments, "text")
    if not given.raw:
        parser.error("--raw FOLDER is needed")
    own = SIZES[given.size].arch.replace("phm_transformer", LM)
    given.arch = given.arch or own
    given.name = given.name or given.raw.resolve().name or "text"
    check_models(parser, given, given.arch, tuple(LANGUAGE_MODELS))
    shared = _shared(given)
    shared["source"] = replace(shared["source"], languages=("txt",))
    training, block = _training(given), given.tokens_per_sample
    if block > training.max_tokens:
        parser.error(
            f"--tokens-per-sample {block}: longer than a batch, --max-tokens "
            f"{training.max_tokens}"
        )
    return LanguageModel(**shared, training=training, tokens_per_sample=block)


def _language_model_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "language_model",
        "Prepares a text, trains Transformer language models with PHM layers and their "
        "dense twin, and prints the perplexity of the test set, by subwords and by "
        "words.",
        "tiny is a dry run of all stages: the first lines of the data, few updates.",
    )
    parser.set_defaults(data_set=None)
    add_raw(parser, "train.txt, valid.txt (or dev.txt) and test.txt")
    parser.add_argument("--name", help="of the experiment; default: the folder's")
    sizes = [name for name in SIZES if name != "paper"]
    parser.add_argument(
        "--size", default="small", choices=sizes, help="of models and training"
    )
    add_runs(parser, ["dense", "4"], [1])
    add_stages(parser, ("prepare", "train", "score"))
    size = add_size(parser)
    size("--lr", type=float, help="peak learning rate")
    size("--save-interval", type=int, help="updates between checkpoints")
    parser.add_argument(
        "--tokens-per-sample", type=int, default=256,
        help="subwords of a block; the text is cut into blocks across its lines",
    )  # fmt: skip
    add_machine(parser)
    return parser


def parse_classification(arguments: Sequence[str]) -> Classification:
    """Read the options of classification; those that cannot be end the program."""
    parser = _classification_parser()
    given = parse(parser, arguments, "table")
    tiny, paper = given.size == "tiny", given.paper
    if given.data and (given.raw or given.lines or tiny):
        other = "raw" if given.raw else "lines" if given.lines else "size tiny"
        parser.error(f"--data takes files as they are, not with --{other}: use --raw")
    if given.raw and not given.data_set:
        parser.error("--raw needs the name of a data set, whose columns it has")
    if not (given.data_set or given.data):
        parser.error("a data set or --data FOLDER is needed")
    if given.data and not given.data.is_dir():
        parser.error(f"--data {given.data}: no such folder")
    vectors = given.vectors
    if vectors and vectors.is_dir():
        files = [file for file in vectors.iterdir() if ".txt" in file.name]
        if len(files) != 1:
            parser.error(f"--vectors {vectors}: {len(files)} .txt files there")
        vectors = files[0]
    if vectors and not vectors.is_file():
        parser.error(f"--vectors {vectors}: no such file")
    arch = given.arch or (paper and paper.arch) or "phm_lstm_classifier"
    check_models(parser, given, arch, tuple(CLASSIFIERS))
    return Classification(
        **_shared(given), arch=arch, epochs=given.epochs or (1 if tiny else 10),
        tables=given.data, vectors=vectors, flags=paper.flags if paper else "",
        groups=paper.groups if paper else "",
    )  # fmt: skip


def _classification_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "classification",
        "Trains sentence classifiers, several seeds each, keeps the checkpoint with "
        "the best validation accuracy and prints test accuracies.",
        "tiny is a dry run of all stages: the first rows of the data, one epoch.",
    )
    add = parser.add_argument
    add("data_set", nargs="?", help="name (python -m data_prep --list) or .toml file")
    add_raw(parser, "train.tsv, valid.tsv (or dev.tsv) and test.tsv")
    add("--data", type=Path, metavar="FOLDER", help="such files, taken as they are")
    add("--vectors", type=Path, help="GloVe vectors: a file, or a folder with one")
    add("--name", help="of the experiment; default: the data set's")
    add("--size", default="paper", choices=("paper", "tiny"), help="of the training")
    add("--arch", help="fairseq architecture phm_...")
    add("--epochs", type=int, help="length of a training")
    add("--lines", type=int, help="training rows; a tenth for the rest; 0: all")
    add_runs(parser, ["dense", "2"], [1], wide=False)
    add_stages(parser, [stage for stage in STAGES if stage != "average"])
    add_machine(parser)
    return parser


def _shared(given: argparse.Namespace) -> Dict[str, Any]:
    """The fields of :class:`Experiment`."""
    languages = (given.src, given.tgt) if given.src else ()
    stem = Path(given.data_set).stem if given.data_set else "-".join(languages)
    paper, size = given.paper, SIZES[given.size]
    subwords = given.vocab_size or size.vocab_size if "vocab_size" in given else 0
    return dict(
        name=given.name or (paper and paper.name) or stem or given.data.absolute().stem,
        size=given.size,
        models=given.models,
        seeds=tuple(given.seeds),
        stages=given.stages,
        out=given.out,
        source=Source(
            data_set=given.data_set or "",
            raw=given.raw,
            prefixes={s: getattr(given, s) for s in SPLITS} if given.train else {},
            languages=languages,
            subwords=subwords,
            lines=given.lines if given.lines is not None else size.lines or None,
        ),
        machine=Machine(
            given.jobs, given.gpus, given.fp16, given.bf16, given.cpu, given.nodes,
            given.node_rank, given.master or "", given.slurm or "",
        ),
        published=paper.published if paper else {},
        extra=given.extra,
    )  # fmt: skip


def _training(given: argparse.Namespace) -> Training:
    """What ``--size`` says, where the user said nothing."""
    size = SIZES[given.size]
    training = Training(
        arch=given.arch or size.arch,
        updates=size.updates,
        warmup_updates=size.warmup_updates,
        lr=size.lr if given.lr is None else given.lr,
        max_tokens=given.max_tokens or size.max_tokens,
        save_interval=0,
        layers=given.layers or 0,
        dropout=size.dropout if given.dropout is None else given.dropout,
        schedule=size.schedule,
    )
    training = training.of_length(given.updates or size.updates, size.checkpoints)
    return replace(
        training,
        warmup_updates=given.warmup_updates or training.warmup_updates,
        save_interval=given.save_interval or training.save_interval,
    )


def _search(given: argparse.Namespace) -> Search:
    return Search(given.mean, given.num_checkpoints, given.beam, given.lenpen)
