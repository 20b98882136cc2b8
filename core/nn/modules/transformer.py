"""The Transformer of Vaswani et al. 2017, norm after or before (`norm_first`) each part."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from core import backend
from core._tensor import Tensor
from core.creation import full
from core.errors import ArgumentError, ShapeError
from core.nn import functional as F
from core.nn import init
from core.nn.functional.attention import _as_float_mask
from core.nn.modules import chains
from core.nn.modules.activation import MultiheadAttention
from core.nn.modules.container import ModuleList
from core.nn.modules.dropout import Dropout
from core.nn.modules.linear import Linear
from core.nn.modules.module import Module
from core.nn.modules.normalization import LayerNorm
from core.ops import shape as _shape


def _generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
    """(sz, sz): −∞ above the diagonal, 0 elsewhere: a position sees itself and those before it"""
    return _shape.triu(full((sz, sz), float("-inf"), device=device, dtype=dtype), diagonal=1)


def _activation(name: Any) -> Callable[[Tensor], Tensor]:
    if callable(name):
        return name
    if name not in ("relu", "gelu"):
        raise ArgumentError(f"activation should be relu/gelu, not {name}")
    return F.relu if name == "relu" else F.gelu


def _copies(module: Module, n: int) -> ModuleList:
    return ModuleList([copy.deepcopy(module) for _ in range(n)])


def _is_causal(mask: Tensor | None, is_causal: bool | None, size: int) -> bool:
    """Whether a mask is the causal one, where the caller has not said."""
    if is_causal is not None or mask is None:
        return bool(is_causal)
    a = mask._a
    if a.shape[-2:] != (size, size):
        return False
    xp = backend.of(a).xp
    return bool((a == _generate_square_subsequent_mask(size, mask.device,
        mask.dtype)._a).all()) if a.dtype.kind == "f" else bool(
        (a == xp.triu(xp.ones((size, size), dtype=bool), 1)).all()
    )


class _Layer(Module):
    """What encoder and decoder layers share: self-attention, the feed-forward part, and norms."""

    def _make(
        self, d_model: int, nhead: int, dim_feedforward: int, dropout: float, activation: Any, eps: float,
            batch_first: bool,
        norm_first: bool, bias: bool, device: Any, dtype: Any, cross: bool,
    ) -> None:  # fmt: skip
        at: dict[str, Any] = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout=dropout, batch_first=batch_first, bias=bias, **at)
        if cross:
            self.multihead_attn = MultiheadAttention(d_model, nhead, dropout=dropout, batch_first=batch_first,
                bias=bias, **at)
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, **at)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, **at)
        self.norm_first = norm_first
        parts = 3 if cross else 2
        for k in range(1, parts + 1):
            setattr(self, f"norm{k}", LayerNorm(d_model, eps=eps, bias=bias, **at))
        for k in range(1, parts + 1):
            setattr(self, f"dropout{k}", Dropout(dropout))
        self.activation = _activation(activation)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        if not hasattr(self, "activation"):
            self.activation = F.relu

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(chains.feed(self.linear1, self.activation, x)))


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward part, each with a residual and a norm: (S, N, E), or (N, S, E) with
    `batch_first`.
    """

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1, activation: Any = F.relu,
        layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False, bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        self._make(
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device,
            dtype, False
        )

    def forward(self, src: Tensor, src_mask: Any = None, src_key_padding_mask: Any = None,
            is_causal: bool = False) -> Tensor:
        padding = _as_float_mask(src_key_padding_mask, src, "src_key_padding_mask")
        mask = _as_float_mask(src_mask, src, "src_mask")
        x = src
        if self.norm_first:
            x = chains.residual(x, self.dropout1, self._attend(self.norm1(x), mask, padding, is_causal))
            return chains.residual(x, self.dropout2, self._feed_forward(self.norm2(x)))
        x = self.norm1(chains.residual(x, self.dropout1, self._attend(x, mask, padding, is_causal)))
        return self.norm2(chains.residual(x, self.dropout2, self._feed_forward(x)))

    def _attend(self, x: Tensor, mask: Any, padding: Any, is_causal: bool) -> Tensor:
        return self.self_attn(
            x, x, x, attn_mask=mask, key_padding_mask=padding, need_weights=False,
            is_causal=is_causal and mask is not None
        )[0]


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to the encoder's output and a feed-forward part, each with a residual and a norm."""

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1, activation: Any = F.relu,
        layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False, bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        self._make(
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device,
            dtype, True
        )

    def forward(
        self, tgt: Tensor, memory: Tensor, tgt_mask: Any = None, memory_mask: Any = None,
            tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None, tgt_is_causal: bool = False, memory_is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        own = {"attn_mask": tgt_mask, "key_padding_mask": tgt_key_padding_mask}
        other = {"attn_mask": memory_mask, "key_padding_mask": memory_key_padding_mask}
        x = tgt
        if self.norm_first:
            h = self.norm1(x)
            x = chains.residual(x, self.dropout1, self.self_attn(h, h, h, need_weights=False, **own)[0])
            h = self.norm2(x)
            seen = self.multihead_attn(h, memory, memory, need_weights=False, **other)[0]
            x = chains.residual(x, self.dropout2, seen)
            return chains.residual(x, self.dropout3, self._feed_forward(self.norm3(x)))
        x = self.norm1(chains.residual(x, self.dropout1, self.self_attn(x, x, x, need_weights=False, **own)[0]))
        seen = self.multihead_attn(x, memory, memory, need_weights=False, **other)[0]
        x = self.norm2(chains.residual(x, self.dropout2, seen))
        return self.norm3(chains.residual(x, self.dropout3, self._feed_forward(x)))


class TransformerEncoder(Module):
    """`num_layers` copies of an encoder layer, one after the other, and a norm."""

    def __init__(
        self, encoder_layer: Module, num_layers: int, norm: Module | None = None, enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.layers = _copies(encoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm
        self.enable_nested_tensor, self.mask_check = enable_nested_tensor, mask_check

    def forward(
        self, src: Tensor, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool | None = None
    ) -> Tensor:
        causal = _is_causal(mask, is_causal, src._a.shape[1 if self._batch_first() else 0])
        for layer in self.layers:
            src = layer(src, src_mask=mask, is_causal=causal, src_key_padding_mask=src_key_padding_mask)
        return src if self.norm is None else self.norm(src)

    def _batch_first(self) -> bool:
        attention = getattr(self.layers[0], "self_attn", None) if len(self.layers) else None
        return bool(getattr(attention, "batch_first", False))


class TransformerDecoder(Module):
    """`num_layers` copies of a decoder layer, one after the other, and a norm."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None):
        super().__init__()
        self.layers = _copies(decoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self, tgt: Tensor, memory: Tensor, tgt_mask: Any = None, memory_mask: Any = None,
            tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None, tgt_is_causal: bool | None = None, memory_is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        for layer in self.layers:
            tgt = layer(
                tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask, tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask, tgt_is_causal=bool(tgt_is_causal),
                memory_is_causal=memory_is_causal,
            )  # fmt: skip
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(Module):
    """Encoder and decoder: src (S, N, E), tgt (T, N, E) -> (T, N, E); N first with `batch_first`. Matrices start
    xavier-uniform.
    """

    def __init__(
        self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6, num_decoder_layers: int = 6,
            dim_feedforward: int = 2048,
        dropout: float = 0.1, activation: Any = F.relu, custom_encoder: Any = None, custom_decoder: Any = None,
        layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False, bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        args = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias,
            device, dtype)

        def norm() -> LayerNorm:
            return LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)

        if custom_encoder is None:
            custom_encoder = TransformerEncoder(TransformerEncoderLayer(*args), num_encoder_layers, norm())
        self.encoder = custom_encoder
        if custom_decoder is None:
            custom_decoder = TransformerDecoder(TransformerDecoderLayer(*args), num_decoder_layers, norm())
        self.decoder = custom_decoder
        self._reset_parameters()
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first

    def _reset_parameters(self) -> None:
        for p in self.parameters():
            if p.dim() > 1:
                init.xavier_uniform_(p)

    def forward(
        self, src: Tensor, tgt: Tensor, src_mask: Any = None, tgt_mask: Any = None, memory_mask: Any = None,
        src_key_padding_mask: Any = None, tgt_key_padding_mask: Any = None, memory_key_padding_mask: Any = None,
        src_is_causal: bool | None = None, tgt_is_causal: bool | None = None, memory_is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        batch = 0 if self.batch_first else 1
        if src.dim() == 3 and src._a.shape[batch] != tgt._a.shape[batch]:
            raise ShapeError("the batch number of src and tgt must be equal")
        if src._a.shape[-1] != self.d_model or tgt._a.shape[-1] != self.d_model:
            raise ShapeError("the feature number of src and tgt must be equal to d_model")
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(
            tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask, tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask, tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )  # fmt: skip

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """(sz, sz): −∞ above the diagonal, 0 elsewhere"""
        return _generate_square_subsequent_mask(sz, device, dtype)
