"""Recurrent layers and cells. All their parameters start uniform on ±1/√hidden_size."""

from __future__ import annotations

import math
import warnings
from typing import Any

from core._tensor import Tensor
from core.creation import empty, zeros
from core.errors import ArgumentError, DTypeError, ShapeError
from core.nn import functional as F
from core.nn import init
from core.nn.modules.module import Module
from core.nn.parameter import Parameter
from core.ops import index as _index
from core.ops import rnn as _ops
from core.ops import shape as _shape

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


class RNNBase(Module):
    """Layers of recurrence, in one direction or two: (T, N, I), or (N, T, I) with `batch_first`, (T, I), or a packed
    batch.

    Parameters of layer k: `weight_ih_lk` (G·H, I), `weight_hh_lk` (G·H, H), `bias_ih_lk`, `bias_hh_lk`, `weight_hr_lk`
    (P, H); those of the other direction end in `_reverse`. Between layers there is dropout while training.
    """

    def __init__(
        self, mode: str, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
            batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        if mode not in _GATES:
            raise ArgumentError(f"Unrecognized RNN mode: expected {', '.join(_GATES)}, got {mode!r}")
        if isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ArgumentError(
                f"dropout should be a number in range [0, 1] representing the probability of an element being zeroed, "
                f"got {dropout}"
            )
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                "num_layers greater than 1, "
                f"but got dropout={dropout} and num_layers={num_layers}",
                stacklevel=3,
            )
        if not isinstance(hidden_size, int):
            raise TypeError(f"hidden_size should be of type int, got: {type(hidden_size).__name__}")
        if hidden_size <= 0 or num_layers <= 0:
            raise ArgumentError(
                f"hidden_size and num_layers must be greater than zero, got {hidden_size} and {num_layers}"
            )
        if not 0 <= proj_size < hidden_size:
            raise ArgumentError(
                f"proj_size has to be smaller than hidden_size and not negative, got {proj_size} for {hidden_size}")
        self.mode, self.input_size, self.hidden_size, self.num_layers = mode, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        rows = _GATES[mode] * hidden_size
        directions = 2 if bidirectional else 1
        width = proj_size or hidden_size
        self._flat_weights_names: list[str] = []
        self._all_weights: list[list[str]] = []
        for layer in range(num_layers):
            for suffix in ("", "_reverse")[:directions]:
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (rows, input_size if layer == 0 else width * directions),
                    "weight_hh": (rows, width),
                }
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                names = [f"{name}_l{layer}{suffix}" for name in shapes]
                for name, shape in zip(names, shapes.values()):
                    setattr(self, name, Parameter(empty(*shape, device=device, dtype=dtype)))
                self._flat_weights_names += names
                self._all_weights.append(names)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def flatten_parameters(self) -> None:
        """Nothing to do: there is no cuDNN buffer. Here so that scripts run."""

    @property
    def all_weights(self) -> list[list[Parameter]]:
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def extra_repr(self) -> str:
        s = f"{self.input_size}, {self.hidden_size}"
        if self.proj_size:
            s += f", proj_size={self.proj_size}"
        if self.num_layers != 1:
            s += f", num_layers={self.num_layers}"
        if self.bias is not True:
            s += f", bias={self.bias}"
        if self.batch_first is not False:
            s += f", batch_first={self.batch_first}"
        if self.dropout:
            s += f", dropout={self.dropout}"
        return s if self.bidirectional is False else s + f", bidirectional={self.bidirectional}"

    # -- running -------------------------------------------------------------------------------------------------------

    def forward(self, input: Any, hx: Any = None) -> Any:
        from core.nn.utils.rnn import PackedSequence

        packed = isinstance(input, PackedSequence)
        single = False
        order = None
        if packed:
            x, sizes = input.data, tuple(int(n) for n in input.batch_sizes.tolist())
            order = input.sorted_indices
        else:
            if input.dim() not in (2, 3):
                raise ShapeError(
                    f"{type(self).__name__}: Expected input to be 2D or 3D, got {input.dim()}D instead"
                )
            single = input.dim() == 2
            x = input.unsqueeze(1) if single else input.transpose(0, 1) if self.batch_first else input
            steps, n = x._a.shape[:2]
            if not steps:
                raise ShapeError(f"{type(self).__name__}: Expected sequence length to be larger than 0 in RNN")
            sizes, x = (n,) * steps, x.reshape(steps * n, -1)
        if x._a.shape[1] != self.input_size:
            raise ShapeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x._a.shape[1]}"
            )
        weight = getattr(self, self._flat_weights_names[0])
        if x.dtype != weight.dtype:
            raise DTypeError(f"{type(self).__name__}: input must have the type {weight.dtype}, got type {x.dtype}")
        states = self._states(hx, x, sizes[0], single, order)
        y, last = self._layers(x, states, sizes)
        if order is not None:
            last = [_index.index_select(s, input.unsorted_indices, dim=1) for s in last]
        last = [s.squeeze(1) for s in last] if single else last
        if packed:
            y = PackedSequence(y, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
        else:
            y = y.reshape(len(sizes), sizes[0], -1)
            y = y.squeeze(1) if single else y.transpose(0, 1) if self.batch_first else y
        return y, self._out(last)

    def _states(self, hx: Any, x: Tensor, n: int, single: bool, order: Tensor | None) -> list[Tensor]:
        """The initial states (layers·directions, N, H): zeros, or the caller's, sorted as the sequences are."""
        count = self.num_layers * (2 if self.bidirectional else 1)
        widths = [self.proj_size or self.hidden_size, self.hidden_size][: 2 if self.mode == "LSTM" else 1]
        if hx is None:
            return [zeros(count, n, w, dtype=x.dtype, device=x.device) for w in widths]
        given = list(hx) if self.mode == "LSTM" else [hx]
        out = []
        for s, w, name in zip(given, widths, ("hidden[0]", "hidden[1]")):
            s = s.unsqueeze(1) if single and s.dim() == 2 else s
            if s._a.shape != (count, n, w):
                raise ShapeError(f"Expected {name} size {(count, n, w)}, got {list(s.size())}")
            out.append(s if order is None else _index.index_select(s, order, dim=1))
        return out

    def _layers(self, x: Tensor, states: list[Tensor], sizes: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
        directions = 2 if self.bidirectional else 1
        last: list[list[Tensor]] = [[] for _ in states]
        for layer in range(self.num_layers):
            outs = []
            for reverse in range(directions):
                k = layer * directions + reverse
                y, *new = self._one(x, [s[k] for s in states], self._all_weights[k], sizes, bool(reverse))
                outs.append(y)
                for kept, s in zip(last, new):
                    kept.append(s)
            x = outs[0] if directions == 1 else _shape.cat(outs, dim=1)
            if self.dropout and layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        return x, [_shape.stack(s, dim=0) for s in last]

    def _one(self, x: Tensor, states: list[Tensor], names: list[str], sizes: Any, reverse: bool) -> Any:
        w, u, *rest = (getattr(self, name) for name in names)
        b, c = rest[:2] if self.bias else (None, None)
        return _layer(self.mode, x, states, w, u, b, c, rest[-1] if self.proj_size else None, sizes, reverse)

    def _out(self, last: list[Tensor]) -> Any:
        return last[0]


def _layer(
    mode: str, x: Tensor, states: list[Tensor], w: Any, u: Any, b: Any, c: Any, r: Any, sizes: Any, reverse: bool
) -> Any:
    """One layer in one direction: y, last states"""
    if mode == "LSTM":
        return _ops.lstm_layer([x, *states, w, u, b, c, r], sizes=sizes, reverse=reverse, want_dx=x.requires_grad)
    if mode == "GRU":
        return _ops.gru_layer([x, *states, w, u, b, c], sizes=sizes, reverse=reverse)
    return _ops.rnn_layer([x, *states, w, u, b, c], sizes=sizes, reverse=reverse, relu=mode == "RNN_RELU")


class RNN(RNNBase):
    """h' = tanh(W x + b + U h + c), or relu. Returns the outputs (T, N, D·H) and the last states (D·layers, N, H).
    Elman 1990.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, device: Any = None,
        dtype: Any = None,
    ):  # fmt: skip
        if nonlinearity not in ("tanh", "relu"):
            raise ArgumentError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    """Long short-term memory, gates i f g o. Returns the outputs (T, N, D·H) and (last h, last c). Hochreiter &
    Schmidhuber 1997.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device,
            dtype
        )

    def _out(self, last: list[Tensor]) -> Any:
        return tuple(last)


class GRU(RNNBase):
    """Gated recurrent unit, gates r z n. Returns the outputs (T, N, D·H) and the last states (D·layers, N, H). Cho et
    al. 2014.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device=device,
            dtype=dtype
        )


class RNNCellBase(Module):
    """One step of recurrence: (N, I) or (I), and the state (N, H) or (H)."""

    mode: str

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None
    ):
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = num_chunks * hidden_size
        self.weight_ih = Parameter(empty(rows, input_size, device=device, dtype=dtype))
        self.weight_hh = Parameter(empty(rows, hidden_size, device=device, dtype=dtype))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter(empty(rows, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def extra_repr(self) -> str:
        s = f"{self.input_size}, {self.hidden_size}"
        if self.bias is not True:
            s += f", bias={self.bias}"
        nonlinearity = getattr(self, "nonlinearity", "tanh")
        return s if nonlinearity == "tanh" else s + f", nonlinearity={nonlinearity}"

    def _step(self, input: Tensor, states: Any, count: int) -> list[Tensor]:
        name = type(self).__name__
        if input.dim() not in (1, 2):
            raise ShapeError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        x = input.unsqueeze(0) if input.dim() == 1 else input
        if x._a.shape[1] != self.input_size:
            raise ShapeError(
                f"{name}: input has inconsistent input_size: got {x._a.shape[1]} expected {self.input_size}")
        n = x._a.shape[0]
        if states is None:
            states = [zeros(n, self.hidden_size, dtype=x.dtype, device=x.device)] * count
        states = [s.unsqueeze(0) if s.dim() == 1 else s for s in states]
        for s in states:
            if s._a.shape != (n, self.hidden_size):
                raise ShapeError(f"{name}: expected hidden states {(n, self.hidden_size)}, got {tuple(s.shape)}")
        _, *new = _layer(
            self.mode, x, states, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, None, (n,), False
        )
        return [s.squeeze(0) for s in new] if input.dim() == 1 else new


class RNNCell(RNNCellBase):
    """h' = tanh(W x + b + U h + c), or relu"""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", device: Any = None,
            dtype: Any = None
    ):  # fmt: skip
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        if nonlinearity not in ("tanh", "relu"):
            raise ArgumentError(f"Unknown nonlinearity: {nonlinearity}; expected 'tanh' or 'relu'")
        self.nonlinearity, self.mode = nonlinearity, f"RNN_{nonlinearity.upper()}"

    def forward(self, input: Tensor, hx: Any = None) -> Tensor:
        return self._step(input, None if hx is None else [hx], 1)[0]


class LSTMCell(RNNCellBase):
    """One step of `LSTM`: takes and returns (h, c)"""

    mode = "LSTM"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None):
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Tensor]:
        h, c = self._step(input, hx, 2)
        return h, c


class GRUCell(RNNCellBase):
    """One step of `GRU`"""

    mode = "GRU"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None):
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Any = None) -> Tensor:
        return self._step(input, None if hx is None else [hx], 1)[0]
