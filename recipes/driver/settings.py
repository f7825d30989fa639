"""What a recipe is told, in typed groups, and the sizes that fill them.

Needs nothing but Python: options are checked before anything is installed.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Dict, List, Mapping, Optional, Tuple

from .models import Model

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("prepare", "train", "average", "generate", "score")
VIEWS = ("updates", "parameters", "time")
"""What models of the quality benchmark have in common in each of its tables."""

WAYS = ("dense", "compressed", "trained on", "distilled", "from scratch")
"""How the models of a table of compression are made."""

QUALITY_MODELS = "dense quaternion 2 4 8 4r4 8r8 4-wide 8r8-wide dense/4".split()
SPEED_MODELS = "dense quaternion 4 8 4r4 8r8".split()


def slug(experiment: str) -> str:
    """Name the files of an experiment: folders, JSON lines, notes and figures.

    Dots at the start go: ``..`` is another folder.

    >>> slug("SVA with rules of rank n"), slug("En-Vi"), slug("..")
    ('sva-with-rules-of-rank-n', 'en-vi', '-')
    """
    return re.sub(r"[^\w.]+", "-", experiment.lower()).lstrip(".") or "-"


@dataclass(frozen=True)
class Size:
    """Model and training of a translation run; most have an option of the same name."""

    arch: str
    updates: int
    warmup_updates: int  # at most a third of the updates
    lr: float  # at its peak
    max_tokens: int  # of a batch, of its longer side
    vocab_size: int  # of the subwords; 0: what the data set declares
    checkpoints: int  # saved, each after a validation
    schedule: str  # flags of fairseq-train; {decay}: updates after the warm-up
    lines: int = 0  # of the training set, a tenth of it for the others; 0: all
    dropout: float = 0.1


ADAM = "--adam-betas (0.9,0.98) --clip-norm 1.0"
SIZES: Dict[str, Size] = {
    "paper": Size(
        "phm_transformer", 50_000, 16_000, 7e-4, 2048, 0, 50,
        "--lr-scheduler inverse_sqrt --adam-betas (0.9,0.997) --adam-eps 1e-9",
    ),
    "small": Size(
        "phm_transformer_small", 10_000, 1000, 1e-3, 4096, 8000, 25,
        f"--lr-scheduler cosine --lr-period-updates {{decay}} {ADAM}",
    ),
    "tiny": Size(
        "phm_transformer_tiny", 24, 8, 1e-3, 1000, 4000, 12,
        f"--lr-scheduler inverse_sqrt {ADAM}", lines=2000,
    ),
    "laptop": Size(
        "phm_transformer_tiny", 4000, 150, 2e-3, 1500, 4000, 40,
        f"--lr-scheduler cosine --lr-period-updates {{decay}} {ADAM}",
    ),
    "demo": Size(
        "phm_transformer_tiny", 2000, 150, 4e-3, 1500, 2000, 8,
        f"--lr-scheduler cosine --lr-period-updates {{decay}} {ADAM}",
    ),
    "quickstart": Size(
        "phm_transformer_tiny", 2200, 150, 4e-3, 1000, 2000, 8,
        f"--lr-scheduler cosine --lr-period-updates {{decay}} {ADAM}", dropout=0.0,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where the sentences come from: a declared data set, or the user's own files."""

    data_set: str = ""  # name or .toml file
    raw: Optional[Path] = None  # folder with files that are not downloaded
    prefixes: Mapping[str, str] = field(default_factory=dict)  # split -> its own files
    languages: Tuple[str, ...] = ()  # instead of the declared ones
    subwords: int = 0  # 0: what the data set declares
    lines: Optional[int] = None  # of the training set; None: what it declares; 0: all


@dataclass(frozen=True)
class Machine:
    """What trains, and with which type of numbers."""

    jobs: int = 1  # trainings at the same time
    gpus: int = 1  # of this machine; without one, the CPU
    fp16: bool = False
    bf16: bool = False
    cpu: bool = False
    nodes: int = 1
    node_rank: int = 0
    master: str = ""  # HOST:PORT of node 0
    launcher: str = ""  # hydra's, for jobs elsewhere; "": this machine trains

    @property
    def devices(self) -> int:
        """How many train one model, on all nodes."""
        return self.gpus * self.nodes


@dataclass(frozen=True)
class Training:
    """How long and how fast Transformers learn."""

    arch: str  # phm_...
    updates: int
    warmup_updates: int
    lr: float
    max_tokens: int
    save_interval: int  # updates between checkpoints, each after a validation
    layers: int  # of the encoder and of the decoder, each; 0: the architecture's
    dropout: float
    schedule: str  # flags of fairseq-train; {decay}: updates after the warm-up

    @property
    def schedule_flags(self) -> List[str]:
        """Of fairseq-train, for the learning rate after the warm-up, and for Adam.

        fairseq's cosine ends a period after the warm-up.
        """
        decay = max(1, self.updates - self.warmup_updates)
        return shlex.split(self.schedule.format(decay=decay))

    def of_length(self, updates: int, checkpoints: int) -> Training:
        """Change the length, and the schedule with it.

        Args:
            updates: of the training; with others than before the warm-up is at most a
                third of them.
            checkpoints: how many are saved, each after a validation.
        """
        warmup = self.warmup_updates
        if updates != self.updates:
            warmup = max(1, min(warmup, updates // 3))
        return replace(
            self,
            updates=updates,
            warmup_updates=warmup,
            save_interval=max(1, updates // checkpoints),
        )

    def interval_of_its_own(self, size: str) -> Dict[str, int]:
        """Say how often checkpoints are saved, if not as often as the size has it."""
        usual = self.of_length(self.updates, SIZES[size].checkpoints).save_interval
        own = self.save_interval != usual
        return {"save_interval": self.save_interval} if own else {}


@dataclass(frozen=True)
class Search:
    """What translates, and how."""

    mean: str  # of the checkpoints: "factors", "weights"; "none": the best one
    num_checkpoints: int
    beam: int
    lenpen: float


@dataclass(frozen=True)
class Experiment:
    """Models that are trained and compared on the same data."""

    name: str
    size: str
    models: Tuple[Model, ...]
    seeds: Tuple[int, ...]
    stages: Tuple[str, ...]  # to run, of STAGES
    out: Path  # work folder of all experiments
    source: Source
    machine: Machine
    published: Mapping[str, Tuple[str, float]]  # model -> size and score in the paper
    extra: Tuple[str, ...]  # for fairseq-train; with a launcher overrides for hydra

    prefix: ClassVar[str] = ""
    """Of the folder's name."""

    @property
    def folder(self) -> Path:
        """The folder of this experiment."""
        return self.out / slug(self.prefix + self.name)


@dataclass(frozen=True)
class Transformers(Experiment):
    """An experiment with Transformers, all trained in the same way."""

    training: Training


@dataclass(frozen=True)
class Translation(Transformers):
    """An experiment with Transformers that translate."""

    search: Search


@dataclass(frozen=True)
class LanguageModel(Transformers):
    """An experiment with Transformers that predict the next subword of a text."""

    tokens_per_sample: int  # length of the blocks that the text is cut into


@dataclass(frozen=True)
class Quality(Translation):
    """The quality benchmark: learning rates are searched, lengths follow throughput."""

    lrs: Tuple[float, ...]
    extend: int  # rates beyond them, for models that are best at their edge
    views: Tuple[str, ...]  # of VIEWS
    validations: int  # of each run
    rounds: int  # of the measurement of throughput

    prefix = "quality-"


@dataclass(frozen=True)
class Speed(Translation):
    """The benchmark of speed: untrained models train and translate in turn."""

    sentences: int  # of the test set
    rounds: int

    prefix = "speed-"


@dataclass(frozen=True)
class QualityReport:
    """Results whose tables and figures are made once more."""

    files: Tuple[Path, ...]
    views: Tuple[str, ...]


@dataclass(frozen=True)
class Compression(Translation):
    """Dense models, compressed to PHM and trained on."""

    checkpoint: Optional[Path]  # of the dense model; None: it is trained
    updates_of_checkpoint: int  # of its training; 0: those it tells of itself
    on: Training  # after compression
    validations: int  # of each training
    ways: Tuple[str, ...]  # of WAYS, to run

    prefix = "compress-"


@dataclass(frozen=True)
class Classification(Experiment):
    """An experiment with classifiers of sentences."""

    arch: str  # phm_...
    epochs: int
    tables: Optional[Path]  # folder with rows that are taken as they are
    vectors: Optional[Path]
    flags: str  # of fairseq-train, for task and training
    groups: str  # column by whose values test accuracies are given, too
