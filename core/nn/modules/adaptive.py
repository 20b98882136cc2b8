"""The adaptive softmax for large vocabularies. Grave et al. 2017."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from core._tensor import Tensor
from core.errors import ArgumentError, RangeError, ShapeError
from core.nn import functional as F
from core.nn.modules.container import ModuleList, Sequential
from core.nn.modules.linear import Linear
from core.nn.modules.module import Module
from core.ops import index as _index
from core.ops import reduce as _reduce
from core.ops import shape as _shape

_ASMoutput = namedtuple("_ASMoutput", ["output", "loss"])


class AdaptiveLogSoftmaxWithLoss(Module):
    """Frequent classes have a logit each, rare ones share those of clusters: (N, in_features), (N) ->
    log-probabilities of the targets, loss.

    Classes are sorted by frequency; `cutoffs` are where clusters begin. The projection of cluster k has in_features /
    div_valueᵏ⁺¹ features.
    """

    def __init__(
        self, in_features: int, n_classes: int, cutoffs: Any, div_value: float = 4.0, head_bias: bool = False,
            device: Any = None,
        dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        cutoffs = list(cutoffs)
        if (
            not cutoffs or cutoffs != sorted(set(cutoffs)) or min(cutoffs) <= 0 or max(cutoffs) > n_classes - 1
            or any(int(c) != c for c in cutoffs)
        ):  # fmt: skip
            raise ArgumentError(
                "cutoffs should be a sequence of unique, positive integers sorted in an increasing order, where each "
                "value is between 1 "
                f"and n_classes-1, got {cutoffs} for {n_classes} classes"
            )
        self.in_features, self.n_classes, self.div_value, self.head_bias = in_features, n_classes, div_value, head_bias
        self.cutoffs = [*cutoffs, n_classes]
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, bias=head_bias, device=device, dtype=dtype)
        self.tail = ModuleList()
        for k in range(self.n_clusters):
            width = int(in_features // (div_value ** (k + 1)))
            size = self.cutoffs[k + 1] - self.cutoffs[k]
            self.tail.append(
                Sequential(
                    Linear(in_features, width, bias=False, device=device, dtype=dtype),
                    Linear(width, size, bias=False, device=device, dtype=dtype),
                )
            )

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        self.head.reset_parameters()
        for projection, out in self.tail:
            projection.reset_parameters()
            out.reset_parameters()

    def forward(self, input_: Tensor, target_: Tensor) -> Any:
        single = target_.dim() == 0
        x, target = (input_.unsqueeze(0), target_.unsqueeze(0)) if single else (input_, target_)
        if x.dim() != 2 or target._a.shape != x._a.shape[:1]:
            raise ShapeError(
                f"Input and target should have the same size in the batch dimension: expected (N, {self.in_features}) "
                f"and (N), got "
                f"{tuple(input_.shape)} and {tuple(target_.shape)}"
            )
        if target._a.size and not (0 <= int(target._a.min()) and int(target._a.max()) < self.n_classes):
            raise RangeError(
                f"Target values should be in [0, {self.n_classes - 1}], but values in range "
                f"[{int(target._a.min())}, {int(target._a.max())}] were found."
            )
        output = _index.gather(self.log_prob(x), target.unsqueeze(1), dim=1).squeeze(1)
        loss = _reduce.mean(output) * -1
        return _ASMoutput(output.squeeze(0) if single else output, loss)

    def log_prob(self, input: Tensor) -> Tensor:
        """(N, in_features) -> (N, n_classes): log-probabilities of all classes"""
        head = F.log_softmax(self.head(input), dim=1)
        parts = [_shape.narrow(head, dim=1, start=0, length=self.shortlist_size)]
        for k, tail in enumerate(self.tail):
            cluster = _shape.narrow(head, dim=1, start=self.shortlist_size + k, length=1)
            parts.append(F.log_softmax(tail(input), dim=1) + cluster)
        return _shape.cat(parts, dim=1)

    def predict(self, input: Tensor) -> Tensor:
        """(N, in_features) -> (N): the most probable class"""
        return self.log_prob(input).argmax(1)
