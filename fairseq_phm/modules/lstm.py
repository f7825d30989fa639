"""PHMLSTM and PHMLSTMCell: LSTMs whose eight projections are PHM layers."""

import math
import re
import threading
from contextlib import contextmanager
from typing import Any, Iterator, List, Optional, Tuple, TypeVar, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.rnn import PackedSequence

from ..functional.tracing import is_compiling
from ..spec import PHMSpec, check_sizes
from .cache import KeepsWeights, WeightCache
from .linear import PHMLinear

GATES = ("separate", "fused")
State = Tuple[Tensor, Tensor]
Built = TypeVar("Built", nn.LSTM, nn.LSTMCell)

_sequence = threading.local()
"""``weights`` of the sequence that this thread is in, by the ids of the cells."""


class PHMLSTMCell(KeepsWeights, nn.Module):
    """``nn.LSTMCell`` with PHM layers (Zhang et al., ICLR 2021, section 3.2).

    i, f, g, o = split(PHM(x) + PHM(h) + b); c' = sig(f) c + sig(i) tanh(g);
    h' = sig(o) tanh(c'). (The paper prints h' = o * c'; this is the ordinary cell,
    which a fused kernel computes.)

    Args:
        input_size, hidden_size: as in ``nn.LSTMCell``; n divides both.
        n: n of all projections, or a :class:`PHMSpec`; 1 is the dense cell.
        bias: one vector of 4 * hidden_size numbers, or none.
        gates: ``"separate"``: each gate has its own PHM layer of the input and of the
            hidden state, eight layers with a rule each, as the paper's counts have it.
            ``"fused"``: one PHM layer with 4 * hidden_size outputs for the input and
            one for the hidden state, as in the paper's text.
        std: standard deviations of the input's and the hidden state's weights at the
            start; default 1/sqrt(3 hidden_size) for both, as ``nn.LSTMCell``.
        device, dtype: of the parameters.
        options: the other fields of :class:`PHMSpec`; the weights of an LSTM are always
            built, so that rule_rank saves no time here.

    Raises:
        ValueError: as :class:`PHMLinear`, or for an unknown ``gates``.

    Shapes: input (batch, input_size) or (input_size,); states likewise.

    >>> cell = PHMLSTMCell(300, 300, n=5)
    >>> sum(p.numel() for p in cell.parameters())
    146200
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        n: Union[int, PHMSpec],
        bias: bool = True,
        *,
        gates: str = "separate",
        std: Optional[Tuple[float, float]] = None,
        device: Any = None,
        dtype: Optional[torch.dtype] = None,
        **options: Any,
    ) -> None:
        super().__init__()
        spec = PHMSpec.of(n, **options)
        if gates not in GATES:
            raise ValueError(
                f"unknown gates {gates!r}: choose one of {', '.join(GATES)}"
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.n = spec.n
        self.gates = gates
        self._cache_ih, self._cache_hh = WeightCache(), WeightCache()
        layers = 4 if gates == "separate" else 1
        check_sizes(input_size, hidden_size, spec.n)
        if std is None:
            std = (1 / math.sqrt(3 * hidden_size),) * 2

        def phm(in_features: int, std: float) -> nn.ModuleList:
            return nn.ModuleList(
                PHMLinear(
                    in_features,
                    4 * hidden_size // layers,
                    spec,
                    bias=False,
                    std=std,
                    device=device,
                    dtype=dtype,
                )
                for _ in range(layers)
            )

        self.ih = phm(input_size, std[0])
        self.hh = phm(hidden_size, std[1])
        self.bias = None
        if bias:
            self.bias = nn.Parameter(
                torch.empty(4 * hidden_size, device=device, dtype=dtype)
            )
            self._draw_bias()

    def _draw_bias(self) -> None:
        bound = 1 / math.sqrt(self.hidden_size)
        nn.init.uniform_(self.bias, -bound, bound)

    def reset_parameters(self) -> None:
        """Draw all anew as ``nn.LSTMCell`` does; see :class:`PHMLinear` for rules."""
        for phm in (*self.ih, *self.hh):
            phm.reset_parameters(1 / math.sqrt(3 * self.hidden_size))
        if self.bias is not None:
            self._draw_bias()

    @property
    def weight_ih(self) -> Tensor:
        """Weights of the input, (4 * hidden_size, input_size); gates i, f, g, o."""
        return self._weight(self.ih, self._cache_ih)

    @property
    def weight_hh(self) -> Tensor:
        """Weights of the hidden state, (4 * hidden_size, hidden_size)."""
        return self._weight(self.hh, self._cache_hh)

    def _weight(self, layers: nn.ModuleList, cache: WeightCache) -> Tensor:
        for phm in layers:
            for hook in phm._forward_pre_hooks.values():
                if isinstance(hook, BasePruningMethod):
                    hook(phm, ())  # sets the pruned factor, as before a forward pass

        def build() -> Tensor:
            return torch.cat([phm.build_weight() for phm in layers])

        if self.training:
            return torch.cat([phm.weight for phm in layers])
        sources = [source for phm in layers for source in phm._sources()]
        return cache.get(sources, build, tuple(phm.rule_lr for phm in layers))

    @property
    def bias_ih(self) -> Optional[Tensor]:
        """The bias, (4 * hidden_size,), under one of ``nn.LSTMCell``'s two names."""
        return self.bias

    @property
    def bias_hh(self) -> Optional[Tensor]:
        """Zeros: ``nn.LSTMCell`` adds two biases, this cell has one."""
        return None if self.bias is None else torch.zeros_like(self.bias)

    @contextmanager
    def using(self, weight_ih: Tensor, weight_hh: Tensor) -> Iterator[None]:
        """Have steps take these weights meanwhile, in this thread, for H built anew."""
        weights = vars(_sequence).setdefault("weights", {})
        weights[id(self)] = (weight_ih, weight_hh)
        try:
            yield
        finally:
            del weights[id(self)]

    def forward(self, input: Tensor, hx: Optional[State] = None) -> State:
        built = getattr(_sequence, "weights", {}).get(id(self))
        weight_ih, weight_hh = built or (self.weight_ih, self.weight_hh)
        if hx is None:
            zeros = input.new_zeros(*input.shape[:-1], self.hidden_size)
            hx = (zeros, zeros)
        h, c = hx
        mixed = F.linear(input, weight_ih, self.bias) + F.linear(h, weight_hh)
        i, f, g, o = mixed.chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def built(self) -> nn.LSTMCell:
        """Return an ``nn.LSTMCell`` with the weights H, in the same mode."""
        made = nn.LSTMCell(self.input_size, self.hidden_size, self.bias is not None)
        return _filled(made, self, self.weight_ih)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}, n={self.n}"
        return f"{text}, gates={self.gates!r}, bias={self.bias is not None}"


@torch.no_grad()
def _filled(made: Built, layer: nn.Module, like: Tensor) -> Built:
    """Give a dense layer the weights of a PHM layer, their type and its mode."""
    made.to(like.device, like.dtype)
    for name, parameter in made.named_parameters():
        parameter.copy_(getattr(layer, name))
    return made.train(layer.training)


class PHMLSTM(nn.Module):
    """``nn.LSTM`` with PHM layers, run by the same fused kernel.

    The weights H are built once a call and handed to the kernel of ``nn.LSTM`` (CPU
    and cuDNN), with gradients through them. They can be read under the names that
    ``nn.LSTM`` has: ``weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0``
    (zeros), with other layer numbers and ``_reverse``.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional:
            as in ``nn.LSTM``; n divides the sizes.
        n, gates, options: as in :class:`PHMLSTMCell`.
        device, dtype: of the parameters.

    Raises:
        ValueError: as :class:`PHMLSTMCell`; fewer than one layer; a dropout that is no
            probability; input of the wrong width or number of dimensions.

    Shapes: as in ``nn.LSTM``: input (time, batch, input_size), or (batch, time,
    input_size) with ``batch_first``, or (time, input_size), or a PackedSequence;
    returns output, (h, c).

    >>> lstm = PHMLSTM(300, 300, n=10, bidirectional=True)
    >>> output, (h, c) = lstm(torch.zeros(7, 2, 300))
    >>> output.shape, h.shape
    (torch.Size([7, 2, 600]), torch.Size([2, 2, 300]))
    >>> lstm.weight_ih_l0_reverse.shape
    torch.Size([1200, 300])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        n: Union[int, PHMSpec],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        gates: str = "separate",
        device: Any = None,
        dtype: Optional[torch.dtype] = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be a probability, 0 to 1, got {dropout}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        spec = PHMSpec.of(n, **options)
        self.n = spec.n
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        directions = 2 if bidirectional else 1
        self.cells = nn.ModuleList(
            PHMLSTMCell(
                hidden_size * directions if layer else input_size,
                hidden_size,
                spec,
                bias=bias,
                gates=gates,
                device=device,
                dtype=dtype,
            )
            for layer in range(num_layers)
            for _ in range(directions)
        )

    def __getattr__(self, name: str) -> Any:
        """Return ``weight_ih_l0`` and the other tensors that ``nn.LSTM`` names."""
        match = re.fullmatch(r"((?:weight|bias)_[ih]h)_l(\d+)(_reverse)?", name)
        if match:
            directions = 2 if self.bidirectional else 1
            index = int(match[2]) * directions + (match[3] is not None)
            if index < len(self.cells) and (match[3] is None or self.bidirectional):
                return getattr(self.cells[index], match[1])
        return super().__getattr__(name)

    def built(self) -> nn.LSTM:
        """Return an ``nn.LSTM`` with the weights H, in the same mode."""
        made = nn.LSTM(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bias,
            self.batch_first,
            self.dropout,
            self.bidirectional,
        )
        return _filled(made, self, self.cells[0].weight_ih)

    def reset_parameters(self) -> None:
        """Draw all anew as ``nn.LSTM`` does; see :class:`PHMLinear` for rules."""
        for cell in self.cells:
            cell.reset_parameters()

    def flatten_parameters(self) -> None:
        """Do nothing: ``nn.LSTM`` has this, and code that takes one calls it."""

    def _flat_weights(self) -> List[Tensor]:
        """Return H and biases of all layers and directions, in the kernel's order."""
        flat = []
        for cell in self.cells:
            flat += [cell.weight_ih, cell.weight_hh]
            if self.bias:
                flat += [cell.bias_ih, cell.bias_hh]
        return flat

    def forward(
        self, input: Union[Tensor, PackedSequence], hx: Optional[State] = None
    ) -> Tuple[Union[Tensor, PackedSequence], State]:
        options = (self.bias, self.num_layers, self.dropout, self.training)
        if isinstance(input, PackedSequence):
            data, batch_sizes, sorted_indices, unsorted_indices = input
            hx = self._initial_state(data, int(batch_sizes[0]), hx, sorted_indices)
            output, h, c = _kernel(
                data,
                batch_sizes,
                hx,
                self._flat_weights(),
                *options,
                self.bidirectional,
            )
            packed = PackedSequence(
                output, batch_sizes, sorted_indices, unsorted_indices
            )
            return packed, _permute((h, c), unsorted_indices)
        if input.dim() not in (2, 3):
            raise ValueError(
                f"PHMLSTM takes input of 2 or 3 dimensions, got {input.dim()}"
            )
        batched = input.dim() == 3
        if not batched:
            input = input.unsqueeze(0 if self.batch_first else 1)
            hx = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        hx = self._initial_state(input, input.size(0 if self.batch_first else 1), hx)
        output, h, c = _kernel(
            input,
            hx,
            self._flat_weights(),
            *options,
            self.bidirectional,
            self.batch_first,
        )
        if batched:
            return output, (h, c)
        output = output.squeeze(0 if self.batch_first else 1)
        return output, (h.squeeze(1), c.squeeze(1))

    def _initial_state(
        self,
        input: Tensor,
        batch: int,
        hx: Optional[State],
        sorted_indices: Optional[Tensor] = None,
    ) -> State:
        """Return the state to begin with, in the order of a PackedSequence.

        Raises:
            ValueError: input or state of a size that does not fit.
        """
        if input.size(-1) != self.input_size:
            raise ValueError(
                f"input has width {input.size(-1)}, expected {self.input_size}"
            )
        shape = (len(self.cells), batch, self.hidden_size)
        if hx is None:
            zeros = input.new_zeros(shape)
            return zeros, zeros
        for state in hx:
            if tuple(state.shape) != shape:
                raise ValueError(
                    f"initial state has size {tuple(state.shape)}, expected {shape}"
                )
        return _permute(hx, sorted_indices)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}, n={self.n}"
        for name in ("num_layers", "batch_first", "dropout", "bidirectional"):
            text += f", {name}={getattr(self, name)}"
        return text


def _kernel(*arguments: Any) -> Tuple[Tensor, Tensor, Tensor]:
    """Call the kernel of ``nn.LSTM``, whose gradients torch.compile fails to make."""
    if is_compiling() and torch.is_grad_enabled():
        return torch._dynamo.disable(torch._VF.lstm)(*arguments)
    return torch._VF.lstm(*arguments)


def _permute(state: State, order: Optional[Tensor]) -> State:
    if order is None:
        return state
    return state[0].index_select(1, order), state[1].index_select(1, order)
