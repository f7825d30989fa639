"""The dense projections that PHM models keep."""

from torch import Tensor, nn

from ..functional import dense_linear


class DenseLinear(nn.Linear):
    """``nn.Linear``, faster for the few tokens of a step of beam search on the CPU."""

    @classmethod
    def adopt(cls, module: nn.Module) -> None:
        """Make an ``nn.Linear`` one of these, in place; others stay what they are."""
        if type(module) is nn.Linear:
            module.__class__ = cls

    def __prepare_scriptable__(self) -> nn.Linear:
        plain = nn.Linear.__new__(nn.Linear)
        plain.__dict__ = self.__dict__
        return plain

    def forward(self, input: Tensor) -> Tensor:
        return dense_linear(input, self.weight, self.bias)
