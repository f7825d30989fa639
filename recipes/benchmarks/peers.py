"""The layer as others compute it, for comparison."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_phm import PHMLinear


class KronLoop(PHMLinear):
    """H as a sum of n calls of torch.kron, at every call."""

    def forward(self, input: Tensor) -> Tensor:
        weight = sum(torch.kron(a, s) for a, s in zip(self.rule, self.blocks))
        return F.linear(input, weight, self.bias)


class BroadcastKron(PHMLinear):
    """H as the sum of a temporary of n x out x in numbers, at every call."""

    def forward(self, input: Tensor) -> Tensor:
        products = self.rule[:, :, None, :, None] * self.blocks[:, None, :, None, :]
        weight = products.sum(0).view(self.out_features, self.in_features)
        return F.linear(input, weight, self.bias)
