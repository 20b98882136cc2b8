"""Embeddings."""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor, _grad_mode
from core.creation import empty
from core.errors import ArgumentError, ShapeError
from core.nn import functional as F
from core.nn import init
from core.nn.functional.sparse import _padding
from core.nn.modules.module import Module
from core.nn.parameter import Parameter


class _Table(Module):
    """`weight` (num_embeddings, embedding_dim) starts standard normal, the row `padding_idx` zero."""

    weight: Any
    padding_idx: int | None

    def _make(self, num: int, dim: int, weight: Any, padding_idx: int | None, freeze: bool, device: Any,
            dtype: Any) -> None:
        self.num_embeddings, self.embedding_dim = num, dim
        self.padding_idx = _padding(padding_idx, num, type(self).__name__)
        if weight is None:
            self.weight = Parameter(empty(num, dim, device=device, dtype=dtype), not freeze)
            self.reset_parameters()
        elif tuple(weight.shape) != (num, dim):
            raise ShapeError(
                f"Shape of weight does not match num_embeddings and embedding_dim: expected {(num, dim)}, got "
                f"{tuple(weight.shape)}"
            )
        else:
            self.weight = Parameter(weight, not freeze)

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        init.normal_(self.weight)
        self._fill_padding_idx_with_zero()

    def _fill_padding_idx_with_zero(self) -> None:
        if self.padding_idx is not None:
            with _grad_mode(False):
                self.weight[self.padding_idx].fill_(0)


class Embedding(_Table):
    """Rows of a table by an index of any shape: (*) -> (*, embedding_dim)"""

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, max_norm: float | None = None,
        norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False, _weight: Any = None,
        _freeze: bool = False,
        device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        self._make(num_embeddings, embedding_dim, _weight, padding_idx, _freeze, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
        )

    def extra_repr(self) -> str:
        s = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.padding_idx is not None:
            s += f", padding_idx={self.padding_idx}"
        if self.max_norm is not None:
            s += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            s += f", norm_type={self.norm_type}"
        s += ", scale_grad_by_freq=True" * bool(self.scale_grad_by_freq)
        return s + ", sparse=True" * bool(self.sparse)

    @classmethod
    def from_pretrained(
        cls, embeddings: Tensor, freeze: bool = True, padding_idx: int | None = None, max_norm: float | None = None,
        norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
    ) -> Any:  # fmt: skip
        """An Embedding of these rows; `freeze`: they do not learn."""
        if embeddings.dim() != 2:
            raise ArgumentError(
                f"Embeddings parameter is expected to be 2-dimensional, got {embeddings.dim()} dimensions")
        rows, cols = embeddings.shape
        return cls(rows, cols, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, embeddings, freeze)


class EmbeddingBag(_Table):
    """The sum, mean or max of the rows of each bag: (B, L), or (ΣL) and offsets (B) -> (B, embedding_dim)"""

    def __init__(
        self, num_embeddings: int, embedding_dim: int, max_norm: float | None = None, norm_type: float = 2.0,
        scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False, _weight: Any = None,
        include_last_offset: bool = False, padding_idx: int | None = None, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        self.max_norm, self.norm_type, self.scale_grad_by_freq = max_norm, norm_type, scale_grad_by_freq
        self.mode, self.sparse, self.include_last_offset = mode, sparse, include_last_offset
        self._make(num_embeddings, embedding_dim, _weight, padding_idx, False, device, dtype)

    def forward(self, input: Tensor, offsets: Any = None, per_sample_weights: Any = None) -> Tensor:
        return F.embedding_bag(
            input, self.weight, offsets, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.mode, self.sparse,
            per_sample_weights, self.include_last_offset, self.padding_idx,
        )  # fmt: skip

    def extra_repr(self) -> str:
        s = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.max_norm is not None:
            s += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            s += f", norm_type={self.norm_type}"
        s += ", scale_grad_by_freq=True" * bool(self.scale_grad_by_freq)
        s += f", mode={self.mode!r}"
        return s if self.padding_idx is None else s + f", padding_idx={self.padding_idx}"

    @classmethod
    def from_pretrained(
        cls, embeddings: Tensor, freeze: bool = True, max_norm: float | None = None, norm_type: float = 2.0,
        scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False, include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> Any:  # fmt: skip
        """An EmbeddingBag of these rows; `freeze`: they do not learn."""
        if embeddings.dim() != 2:
            raise ArgumentError(
                f"Embeddings parameter is expected to be 2-dimensional, got {embeddings.dim()} dimensions")
        rows, cols = embeddings.shape
        made = cls(
            rows, cols, max_norm, norm_type, scale_grad_by_freq, mode, sparse, embeddings, include_last_offset,
            padding_idx
        )
        made.weight.requires_grad_(not freeze)
        return made
