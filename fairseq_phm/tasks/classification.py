"""``tsv_classification``: labels for one or two sentences, read from TSV files."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from fairseq.data import (
    Dictionary,
    FairseqDataset,
    IdDataset,
    ListDataset,
    NestedDictionaryDataset,
    NumelDataset,
    NumSamplesDataset,
    RawLabelDataset,
    RightPadDataset,
    SortDataset,
    data_utils,
)
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II, MISSING
from torch import Tensor

from ..errors import DataError, show_data_errors_in_one_line
from .tsv import (
    OPENERS,
    TOKENIZERS,
    Columns,
    Example,
    read_examples,
    word_tokenizer,
)
from .vectors import read_vectors

logger = logging.getLogger(__name__)

TASK = "tsv_classification"
INPUTS = ("src_tokens", "pair_tokens")
"""Names of the model's inputs: the first and the second sentence of a row."""


def split_file(folder: Union[str, Path], split: str) -> Path:
    """Find ``SPLIT.tsv`` in a folder, or with .gz or .xz; for "valid" also ``dev``."""
    names = [split, "dev"] if split == "valid" else [split]
    paths = [
        Path(folder) / f"{name}.tsv{ending}"
        for name in names
        for ending in ("", *OPENERS)
    ]
    return next((path for path in paths if path.is_file()), paths[0])


@dataclass
class TSVClassificationConfig(FairseqDataclass):
    """Where the sentences are, and how they become words and vectors."""

    data: str = field(
        default=MISSING,
        metadata={
            "help": "folder with train.tsv, valid.tsv (or dev.tsv) and, if you like, "
            "test.tsv, plain, .gz or .xz"
        },
    )
    text_columns: str = field(
        default="1,2",
        metadata={"help": "columns of the one or two sentences, counted from 1"},
    )
    label_column: int = field(
        default=3, metadata={"help": "column of the label, counted from 1"}
    )
    header: bool = field(
        default=False, metadata={"help": "the files' first lines name the columns"}
    )
    labels: Optional[str] = field(
        default=None,
        metadata={
            "help": "the labels, as yes,no; all others are errors. "
            "Default: those of train.tsv"
        },
    )
    word_tokenizer: ChoiceEnum(list(TOKENIZERS)) = field(
        default="space",
        metadata={
            "help": "space: the sentences are tokenised; treebank: NLTK's Penn "
            "Treebank tokeniser, which fits GloVe vectors"
        },
    )
    lowercase: bool = field(
        default=False, metadata={"help": "lower-case the sentences"}
    )
    vectors: Optional[str] = field(
        default=None,
        metadata={
            "help": "pretrained word vectors in GloVe's text format (plain, .gz, .xz), "
            "of any width; they stay fixed and are stored in the checkpoint. "
            "Default: all vectors are learned"
        },
    )
    min_count: int = field(
        default=5,
        metadata={
            "help": "a word without pretrained vector gets a learned one when the "
            "training set has it at least so often; the others share one vector"
        },
    )
    seed: int = II("common.seed")


@register_task(TASK, dataclass=TSVClassificationConfig)
class TSVClassificationTask(FairseqTask):
    """Classification of rows of TSV files, for fairseq's criterion sentence_prediction.

    Words, labels and the vectors' width are the task's state, which fairseq keeps in
    checkpoints: prediction needs neither the training data nor the vectors' file.
    """

    def __init__(self, cfg: TSVClassificationConfig) -> None:
        super().__init__(cfg)
        self.columns = Columns.parse(cfg.text_columns, cfg.label_column)
        self.tokenize = word_tokenizer(str(cfg.word_tokenizer), cfg.lowercase)
        self._vectors: Optional[Tensor] = None
        self._examples: Dict[str, List[Example]] = {}
        self._dictionary: Optional[Dictionary] = None
        self.state.add_factory("vocabulary", self._make_vocabulary)

    @classmethod
    def setup_task(
        cls, cfg: TSVClassificationConfig, **kwargs: Any
    ) -> "TSVClassificationTask":
        """Make the task; files are read when a model or a data set is asked for."""
        show_data_errors_in_one_line()
        return cls(cfg)

    @property
    def labels(self) -> List[str]:
        """The classes, in the order of the model's outputs."""
        return self.state.vocabulary["labels"]

    @property
    def trained_words(self) -> int:
        """How many words of the dictionary, its special ones too, are trained."""
        return Dictionary().nspecial + self.state.vocabulary["trained"]

    @property
    def fixed_words(self) -> int:
        """How many words of the dictionary have fixed vectors."""
        return len(self.source_dictionary) - self.trained_words

    @property
    def fixed_vectors(self) -> Optional[Tensor]:
        """(fixed_words, vectors_width), or None without any; zeros from a checkpoint.

        A model that is loaded from a checkpoint finds them there.
        """
        count = self.fixed_words
        if self._vectors is None and count:
            return torch.zeros(count, self.vectors_width)
        return self._vectors

    @property
    def vectors_width(self) -> int:
        """Width of the pretrained vectors; 0 without any."""
        return self.state.vocabulary["width"]

    @property
    def source_dictionary(self) -> Dictionary:
        """The words; first those with trained vectors, then those with fixed ones."""
        if self._dictionary is None:
            self._dictionary = Dictionary()
            for word in self.state.vocabulary["words"]:
                self._dictionary.add_symbol(word)
        return self._dictionary

    @property
    def label_dictionary(self) -> Dictionary:
        """The labels, for the criterion's reports."""
        dictionary = Dictionary()
        for label in self.labels:
            dictionary.add_symbol(label)
        return dictionary

    target_dictionary = label_dictionary

    def load_dataset(
        self, split: str, combine: bool = False, **kwargs: Any
    ) -> FairseqDataset:
        """Read the file that :func:`split_file` finds.

        Raises:
            DataError: as :func:`fairseq_phm.tasks.tsv.read_examples`.
        """
        labels = self.labels
        examples = self._examples.pop(split, None) or self._read(split, labels)
        self.datasets[split] = self.make_dataset(examples)
        logger.info("%s: %d rows", split, len(examples))
        return self.datasets[split]

    def make_dataset(self, examples: Sequence[Example]) -> FairseqDataset:
        """Make batches of padded word indices, of rows of similar length."""
        net_input, sizes = {}, []
        for name, sentences in zip(INPUTS, zip(*(e.sentences for e in examples))):
            tokens = [
                torch.tensor(list(map(self._index, words))) for words in sentences
            ]
            sizes.append(np.array([len(t) for t in tokens]))
            dataset = ListDataset(tokens, sizes[-1])
            net_input[name] = RightPadDataset(dataset, self.source_dictionary.pad())
        first = net_input[INPUTS[0]]
        parts = {
            "id": IdDataset(),
            "net_input": net_input,
            "nsentences": NumSamplesDataset(),
            "ntokens": NumelDataset(first, reduce=True),
        }
        if examples[0].label is not None:
            index = {label: i for i, label in enumerate(self.labels)}
            parts["target"] = RawLabelDataset([index[e.label] for e in examples])
        with data_utils.numpy_seed(self.cfg.seed):
            order = [np.random.permutation(len(examples))]
        # Pairs by both lengths: by their sum alone, half as much again is padding.
        order += [sizes[1], sizes[0] // 4] if len(sizes) > 1 else sizes
        nested = NestedDictionaryDataset(parts, sizes=[np.sum(sizes, axis=0)])
        return SortDataset(nested, sort_order=order)

    def refuse_other_words(self, path: str) -> None:
        """Refuse a checkpoint to train on that has other words or labels than the data.

        Its rows of vectors and its outputs would be taken for those of others.

        Raises:
            DataError: naming both.
        """
        state = load_checkpoint_to_cpu(path).get("task_state", {})
        known = state.get("vocabulary", {})
        for what in ("words", "labels"):
            if known.get(what) != self.state.vocabulary[what]:
                raise DataError(f"{path}: has other {what} than {self.cfg.data}")

    def _index(self, word: str) -> int:
        """Index of a word; of texts that spell <pad> and the like, the unknown word."""
        index = self.source_dictionary.index(word)
        unknown = self.source_dictionary.unk()
        return index if index >= self.source_dictionary.nspecial else unknown

    def _read(self, split: str, labels: Optional[Sequence[str]]) -> List[Example]:
        path = split_file(self.cfg.data, split)
        return read_examples(path, self.columns, self.tokenize, labels, self.cfg.header)

    def _make_vocabulary(self) -> Dict[str, Any]:
        """Read train.tsv, and the words of valid.tsv and test.tsv that have vectors.

        What it reads is kept for ``load_dataset``, so a fault in any of the files
        shows before training starts.
        """
        cfg = self.cfg
        wanted = (
            [part.strip() for part in cfg.labels.split(",")] if cfg.labels else None
        )
        train = self._examples["train"] = self._read("train", wanted)
        labels = wanted or sorted({example.label for example in train})
        if "" in labels or len(set(labels)) < len(labels):
            raise DataError(f"--labels {cfg.labels}: a label is empty or occurs twice")
        if len(labels) < 2:
            raise DataError(
                f"{split_file(cfg.data, 'train')}: all labels are {labels[0]!r}"
            )
        for split in ("valid", "test"):
            if split_file(cfg.data, split).is_file():
                self._examples[split] = self._read(split, labels)
        counts = Counter(
            word for e in train for sentence in e.sentences for word in sentence
        )
        special = Dictionary().symbols
        vectors, width = self._read_vectors() if cfg.vectors else ({}, 0)
        trained = [
            word
            for word, count in counts.most_common()
            if count >= cfg.min_count and word not in vectors and word not in special
        ]
        logger.info(
            "%d words with fixed vectors, %d with trained ones; training labels: %s",
            len(vectors),
            len(trained),
            dict(Counter(example.label for example in train)),
        )
        return {
            "words": trained + list(vectors),
            "trained": len(trained),
            "width": width,
            "labels": list(labels),
        }

    def _read_vectors(self) -> Tuple[Dict[str, np.ndarray], int]:
        """Read the fixed vectors of the words of all files, and their width."""
        seen = {
            word
            for examples in self._examples.values()
            for example in examples
            for sentence in example.sentences
            for word in sentence
        }
        wanted = seen.difference(Dictionary().symbols)
        vectors, width = read_vectors(self.cfg.vectors, wanted)
        if not vectors:
            raise DataError(
                f"{self.cfg.vectors}: no vector for any word of {self.cfg.data}"
            )
        self._vectors = torch.from_numpy(np.stack(list(vectors.values())))
        return vectors, width
