"""Word vectors of which some are learned and the others fixed."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WordVectors(nn.Module):
    """An embedding whose first rows are trained and whose last rows are not.

    Args:
        trained: number of rows that are trained, the padding among them.
        width: numbers in a vector.
        dim: width of the output, by a learned projection where it is not ``width``.
        fixed: (words, width) vectors of the rows that follow, or None for none.
        padding_idx: row of the padding, which stays zero; one of the trained ones.

    Attributes ``embedding_dim`` (= ``dim``) and ``padding_idx`` are as those of
    ``nn.Embedding``. Trained vectors start normal with the fixed ones' standard
    deviation, or 1/sqrt(dim) without any.

    Shapes: tokens (...) of indices below trained + words, output (..., dim).

    >>> words = WordVectors(4, 100, 300, fixed=torch.rand(6, 100), padding_idx=1)
    >>> words(torch.tensor([[0, 9, 1]])).shape
    torch.Size([1, 3, 300])
    >>> [name for name, _ in words.named_parameters()]
    ['trained', 'project.weight']
    """

    def __init__(
        self,
        trained: int,
        width: int,
        dim: int,
        fixed: Optional[Tensor] = None,
        padding_idx: int = 1,
    ) -> None:
        super().__init__()
        self.embedding_dim = dim
        self.padding_idx = padding_idx
        std = dim**-0.5
        self.fixed: Optional[Tensor]
        self.register_buffer("fixed", fixed)
        if fixed is not None and fixed.numel():
            std = float(fixed.float().square().mean().sqrt())
        self.trained = nn.Parameter(torch.randn(trained, width) * std)
        with torch.no_grad():
            self.trained[padding_idx].zero_()
        self.project = nn.Identity()
        if width != dim:
            self.project = nn.Linear(width, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        count = self.trained.size(0)
        vectors = F.embedding(
            tokens.clamp(max=count - 1), self.trained, self.padding_idx
        )
        if self.fixed is not None:
            is_fixed = (tokens >= count).unsqueeze(-1)
            known = F.embedding((tokens - count).clamp(min=0), self.fixed)
            vectors = torch.where(is_fixed, known, vectors)
        return self.project(vectors)
