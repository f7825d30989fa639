"""PHMEmbedding, a drop-in for ``nn.Embedding`` with 1/n of its weights."""

from __future__ import annotations

from typing import Any, Optional, Tuple, Union

import torch
from torch import Tensor

from ..functional import kronecker_rows, materialize
from ..functional.tracing import is_plain, is_tracing
from ..spec import PHMSpec, is_int
from .factors import Factors
from .linear import PHMLinear, PHMLinearRows


class PHMEmbedding(Factors):
    """Word vectors that are the rows of E = sum_i kron(A_i, S_i).

    ``rule`` (n, n, n) has the A_i, ``blocks`` (n, ceil(words / n), dim / n) the S_i:
    n words at a distance of ceil(words / n) have mixtures of the same n rows of blocks.
    E has the least multiple of n of rows that is not below ``num_embeddings``; those
    behind are never read, though checkpoints hold the blocks that they are made of.
    A vector is made of n rows of blocks and n^2 numbers of the rule; E is not built.

    ``weight`` is E without the rows behind, (words, dim), computed when it is read. The
    vector of ``padding_idx`` is zero, here and in ``weight``, and has no gradient. It
    is not in :meth:`projection`, which has a score for the padding, as fairseq's tied
    projection has.

    Args:
        num_embeddings: number of words, of any size.
        embedding_dim: numbers in a vector; n divides it.
        n: number of summands, or a :class:`PHMSpec`; n = 1 is the dense embedding.
        padding_idx: word whose vector is zero, or None; -1 is the last word.
        std: standard deviation of E at the start; default 1/sqrt(dim), as fairseq's.
        generator: source of the random start; default: torch's own.
        device, dtype: of the parameters.
        options: the other fields of :class:`PHMSpec`, as for :class:`PHMLinear`.

    Raises:
        ValueError: no words, a padding_idx that is none of them, and what
            :class:`PHMLinear` raises.
        IndexError: in the forward pass on a CPU, for a word that is not there.

    Shapes: tokens (...) of whole numbers, output (..., dim).

    >>> words = PHMEmbedding(10, 8, n=4, padding_idx=1)
    >>> words(torch.tensor([[0, 9, 1]])).shape, words.weight.shape
    (torch.Size([1, 3, 8]), torch.Size([10, 8]))
    >>> words.blocks.shape  # for 12 rows
    torch.Size([4, 3, 2])
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        n: Union[int, PHMSpec],
        padding_idx: Optional[int] = None,
        *,
        std: Optional[float] = None,
        generator: Optional[torch.Generator] = None,
        device: Any = None,
        dtype: Optional[torch.dtype] = None,
        **options: Any,
    ) -> None:
        super().__init__()
        spec = PHMSpec.of(n, **options)
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(
                    f"padding_idx={padding_idx} is none of {num_embeddings} words"
                )
            padding_idx %= num_embeddings
        rows = padded(num_embeddings, spec.n)
        std = max(embedding_dim, 1) ** -0.5 if std is None else std
        whole = PHMLinear(
            embedding_dim, rows, spec, bias=False, std=std, generator=generator,
            device=device, dtype=dtype,
        )  # fmt: skip
        self._share(whole)
        self._tied: Tuple[str, ...] = whole._tied
        self.bias = None
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx

    @property
    def weight(self) -> Tensor:
        """E, of shape (words, dim), differentiable in rule and blocks."""
        rows = materialize(self.full_rule(), self.full_blocks(), 0, self.num_embeddings)
        if self.padding_idx is None:
            return rows
        words = torch.arange(self.num_embeddings, device=rows.device)
        return rows.masked_fill(words.eq(self.padding_idx).unsqueeze(1), 0.0)

    def reset_parameters(
        self, std: Optional[float] = None, generator: Optional[torch.Generator] = None
    ) -> None:
        """Draw blocks and a learned rule anew, as :meth:`PHMLinear.reset_parameters`.

        Args:
            std: standard deviation of E; default 1/sqrt(dim), as fairseq's.
            generator: source of random numbers; default: torch's own.
        """
        self._draw(self.embedding_dim**-0.5 if std is None else std, generator)

    def projection(self) -> PHMLinearRows:
        """Make a layer (..., dim) -> (..., words) that shares rule and blocks.

        A checkpoint stores them once, with the embedding, if the model registers it
        before this layer.
        """
        return PHMLinearRows(self, 0, self.num_embeddings, tied=True)

    def forward(self, tokens: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            self._check(tokens)
        vectors = kronecker_rows(self.full_rule(), self.full_blocks(), tokens)
        if self.padding_idx is not None:
            padding = tokens.eq(self.padding_idx).unsqueeze(-1)
            vectors = vectors.masked_fill(padding, 0.0)
        return vectors

    @torch.jit.unused
    def _check(self, tokens: Tensor) -> None:
        """Raise IndexError for words that are not there; on GPUs this would wait."""
        if not is_tracing() and is_plain(tokens) and tokens.numel():
            if not 0 <= int(tokens.min()) <= int(tokens.max()) < self.num_embeddings:
                raise IndexError(
                    f"words {int(tokens.min())} to {int(tokens.max())} are not within "
                    f"0 to {self.num_embeddings - 1}"
                )

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}, n={self.n}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        return text


def padded(words: int, n: int) -> int:
    """Return the least multiple of n that is not below ``words``.

    Raises:
        ValueError: ``words`` or n is no whole number of at least 1.

    >>> padded(10, 4), padded(12, 4)
    (12, 12)
    """
    if not (is_int(words) and is_int(n)) or min(words, n) < 1:
        raise ValueError(
            f"words and n must be whole numbers of at least 1, got {words!r} and {n!r}"
        )
    return -(-words // n) * n
