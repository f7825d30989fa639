"""Sentence classifiers: ``phm_lstm_classifier`` and ``phm_transformer_classifier``."""

import argparse
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.models import BaseFairseqModel, register_model
from fairseq.models.transformer import TransformerConfig, TransformerEncoderBase
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from ..errors import wrong_options_are_data_errors
from ..modules import PHMLSTM, WordVectors
from ..substitution import substitute
from .architectures import register_architectures
from .base import PHMAttentionOptions, PHMGateOptions, PHMModel

HEAD = "sentence_classification_head"
"""The name under which fairseq's criterion sentence_prediction looks for the head."""


class SentenceClassifier(PHMModel, BaseFairseqModel):
    """Encodes each sentence alike, pools it, and classifies the pooled vectors.

    The states of a sentence become their maximum and their mean over time; those of
    both sentences, concatenated, go through two hidden layers (Zhang et al., ICLR
    2021: a siamese encoder, and a two-layer MLP).

    Subclasses name a ``config`` and build the encoder that it describes.

    Args:
        words: embedding of tokens (batch, time) -> (batch, time, dim).
        encoder: states of a sentence: called with vectors (batch, time, dim) and
            padding (batch, time), True at pads; returns (batch, time, dim).
        dim: width of states and of the hidden layers.
        sentences: how many sentences a row has.
        classes: number of labels.
        dropout: probability, before the hidden layers.
    """

    def __init__(
        self,
        words: WordVectors,
        encoder: nn.Module,
        dim: int,
        sentences: int,
        classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.words = words
        self.encoder = encoder
        head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(2 * dim * sentences, dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(dim, dim),
            nn.ReLU(),
            nn.Linear(dim, classes),
        )
        self.classification_heads = nn.ModuleDict({HEAD: head})

    def forward(
        self,
        src_tokens: Tensor,
        pair_tokens: Optional[Tensor] = None,
        features_only: bool = True,
        classification_head_name: str = HEAD,
    ) -> Tuple[Tensor, Dict[str, Any]]:
        """Return logits (batch, classes) for right-padded word indices (batch, time).

        ``features_only`` and ``classification_head_name`` are what fairseq's criterion
        passes to models that have several heads.
        """
        pooled = [self.pool(src_tokens)]
        if pair_tokens is not None:
            pooled.append(self.pool(pair_tokens))
        head = self.classification_heads[classification_head_name]
        return head(torch.cat(pooled, dim=1)), {}

    def pool(self, tokens: Tensor) -> Tensor:
        """Maximum and mean over time of a sentence's states, (batch, 2 dim)."""
        padding = tokens.eq(self.words.padding_idx)
        states = self.encoder(self.words(tokens), padding)
        padding = padding.unsqueeze(-1)
        highest = states.masked_fill(padding, float("-inf")).max(dim=1)[0]
        count = padding.logical_not().sum(dim=1)
        mean = states.masked_fill(padding, 0).sum(dim=1) / count
        return torch.cat([highest, mean], dim=1)

    @staticmethod
    def build_encoder(config: Any, words: WordVectors, task: FairseqTask) -> nn.Module:
        """Build the encoder; for subclasses."""
        raise NotImplementedError

    @classmethod
    @wrong_options_are_data_errors()
    def build_model(cls, args: Any, task: FairseqTask) -> "SentenceClassifier":
        """Build the model for a task's words and labels.

        Args:
            args: namespace or DictConfig with what the subclass's ``config`` lists.
            task: a :class:`fairseq_phm.tasks.TSVClassificationTask`.

        Raises:
            DataError: sizes that n does not divide, or an option that does not fit.
        """
        config = cls.configure(args)
        left_open = config.resolve(args)
        dim = config.encoder_embed_dim
        if min(dim, config.encoder_layers) < 1:
            raise ValueError(
                "--encoder-embed-dim and --encoder-layers must be at least 1"
            )
        words = WordVectors(
            task.trained_words,
            task.vectors_width or dim,
            dim,
            task.fixed_vectors,
            task.source_dictionary.pad(),
        )
        model = cls(
            words,
            cls.build_encoder(config, words, task),
            dim,
            len(task.columns.text),
            len(task.labels),
            config.dropout,
        )
        model.args = config  # fairseq 0.12.2's criterion looks there
        return model.remember_rules(config, left_open)


@dataclass
class LSTMClassifierConfig(PHMGateOptions):
    """Sizes of the LSTM classifier; the paper's are the defaults."""

    encoder_embed_dim: int = field(
        default=300,
        metadata={
            "help": "width of word vectors, states and hidden layers; pretrained "
            "vectors of another width go through a learned projection"
        },
    )
    encoder_layers: int = field(default=1, metadata={"help": "number of layers"})
    dropout: float = field(default=0.1, metadata={"help": "dropout probability"})


@dataclass
class TransformerClassifierConfig(PHMAttentionOptions):
    """Sizes of the Transformer classifier, those for subject-verb agreement."""

    encoder_embed_dim: int = field(
        default=128, metadata={"help": "width of vectors, states and hidden layers"}
    )
    encoder_ffn_embed_dim: int = field(
        default=512, metadata={"help": "inner width of the feed-forward sublayer"}
    )
    encoder_layers: int = field(default=2, metadata={"help": "number of layers"})
    encoder_attention_heads: int = field(default=4, metadata={"help": "heads"})
    dropout: float = field(default=0.1, metadata={"help": "dropout probability"})


class LSTMStates(PHMLSTM):
    """States of a PHM LSTM; those before the padding do not depend on it."""

    def forward(self, vectors: Tensor, padding: Tensor) -> Tensor:
        return super().forward(F.dropout(vectors, self.dropout, self.training))[0]


@register_model("phm_lstm_classifier")
class PHMLSTMClassifier(SentenceClassifier):
    """LSTM classifier of one or two sentences (Zhang et al., ICLR 2021)."""

    config = LSTMClassifierConfig

    @staticmethod
    def build_encoder(config: Any, words: WordVectors, task: FairseqTask) -> nn.Module:
        dim = config.encoder_embed_dim
        return LSTMStates(
            dim,
            dim,
            num_layers=config.encoder_layers,
            batch_first=True,
            dropout=config.dropout,
            **config.phm_options(),
        )


class TransformerStates(TransformerEncoderBase):
    """States of fairseq's Transformer encoder, which adds the positions."""

    def forward(self, vectors: Tensor, padding: Tensor) -> Tensor:
        # Positions follow from the padding alone: any index that is no pad will do.
        tokens = padding.long() * self.padding_idx
        result = super().forward(tokens, token_embeddings=vectors)
        return result["encoder_out"][0].transpose(0, 1)


@register_model("phm_transformer_classifier")
class PHMTransformerClassifier(SentenceClassifier):
    """Transformer classifier of one or two sentences (Zhang et al., ICLR 2021).

    fairseq's encoder, pre-norm with sinusoidal positions, with PHM layers.
    """

    config = TransformerClassifierConfig

    @staticmethod
    def build_encoder(config: Any, words: WordVectors, task: FairseqTask) -> nn.Module:
        dim, heads = config.encoder_embed_dim, config.encoder_attention_heads
        if heads < 1 or dim % heads:
            raise ValueError(
                f"--encoder-attention-heads {heads} does not divide "
                f"--encoder-embed-dim {dim}"
            )
        sizes = argparse.Namespace(
            encoder_embed_dim=dim,
            encoder_ffn_embed_dim=config.encoder_ffn_embed_dim,
            encoder_layers=config.encoder_layers,
            encoder_attention_heads=heads,
            encoder_normalize_before=True,
            dropout=config.dropout,
            no_scale_embedding=words.fixed is not None,
        )
        cfg = TransformerConfig.from_namespace(sizes)
        encoder = TransformerStates(cfg, task.source_dictionary, words)
        encoder.embed_tokens = None  # the classifier has it
        return substitute(encoder, **config.phm_options())


for name in ("phm_lstm_classifier", "phm_transformer_classifier"):
    register_architectures(name, {"": lambda args: None})
