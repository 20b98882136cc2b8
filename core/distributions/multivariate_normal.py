"""The multivariate normal distribution."""

from __future__ import annotations

import math
from typing import Any

import core
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.distribution import Distribution
from core.distributions.utils import lazy_property, standard_normal
from core.errors import ArgumentError


def mahalanobis(low: Tensor, x: Tensor) -> Tensor:
    """xᵀ (L Lᵀ)⁻¹ x of vectors (*, n), L (*, n, n)."""
    low = low.expand(*x.shape[:-1], *low.shape[-2:]) if low.dim() <= x.dim() else low
    x = x.expand(*low.shape[:-1])
    y = core.linalg.solve_triangular(low, x.unsqueeze(-1), upper=False).squeeze(-1)
    return y.pow(2).sum(-1)


def _inverse_cholesky(precision: Tensor) -> Tensor:
    """The Cholesky factor of the inverse, by that of the matrix turned by 180°."""
    turned = core.linalg.cholesky(precision.flip((-2, -1)))
    low_inverse = turned.flip((-2, -1)).mT
    eye = core.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    return core.linalg.solve_triangular(low_inverse, eye, upper=False)


class MultivariateNormal(Distribution):
    """Mean `loc` (*, n) and one of `covariance_matrix`, `precision_matrix` (its inverse) and `scale_tril` (its Cholesky factor)."""

    arg_constraints = {
        "loc": constraints.real_vector, "covariance_matrix": constraints.positive_definite,
        "precision_matrix": constraints.positive_definite, "scale_tril": constraints.lower_cholesky,
    }  # fmt: skip
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, loc: Tensor, covariance_matrix: Any = None, precision_matrix: Any = None, scale_tril: Any = None,
        validate_args: bool | None = None,
    ):  # fmt: skip
        named = {"covariance_matrix": covariance_matrix, "precision_matrix": precision_matrix, "scale_tril": scale_tril}
        given = {k: v for k, v in named.items() if v is not None}
        if loc.dim() < 1 or len(given) != 1:
            raise ArgumentError(
                "MultivariateNormal: loc must be at least one-dimensional, and exactly one of covariance_matrix or precision_matrix "
                f"or scale_tril may be specified; got loc of shape {tuple(loc.shape)} and {', '.join(given) or 'none'}"
            )
        ((name, matrix),) = given.items()
        if matrix.dim() < 2:
            raise ArgumentError(
                f"MultivariateNormal: {name} must be at least two-dimensional, got shape {tuple(matrix.shape)}"
            )
        batch = core.broadcast_shapes(matrix.shape[:-2], loc.shape[:-1])
        self.loc = loc.expand(*batch, -1)
        self.__dict__[name] = matrix.expand(*batch, -1, -1)
        super().__init__(batch, self.loc.shape[-1:], validate_args)
        if name == "scale_tril":
            self._low = matrix
        else:
            self._low = core.linalg.cholesky(matrix) if name == "covariance_matrix" else _inverse_cholesky(matrix)

    @lazy_property
    def scale_tril(self) -> Tensor:
        """The Cholesky factor of the covariance."""
        return self._low.expand(*self._batch_shape, *self._event_shape, *self._event_shape)

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        """L Lᵀ"""
        return (self._low @ self._low.mT).expand(*self._batch_shape, *self._event_shape, *self._event_shape)

    @lazy_property
    def precision_matrix(self) -> Tensor:
        """The inverse of the covariance."""
        return core.cholesky_inverse(self._low).expand(*self._batch_shape, *self._event_shape, *self._event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        new = super().expand(batch_shape)
        new._low = self._low.expand(*batch_shape, *self._low.shape[-2:])
        return new

    @property
    def mean(self) -> Tensor:
        return self.loc

    mode = mean

    @property
    def variance(self) -> Tensor:
        return self._low.pow(2).sum(-1).expand(self._batch_shape + self._event_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        x = standard_normal(self._extended_shape(sample_shape), self.loc)
        return self.loc + (self._low @ x.unsqueeze(-1)).squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        m = mahalanobis(self._low, value - self.loc)
        return -0.5 * (self._event_shape[0] * math.log(2 * math.pi) + m) - self._half_log_det()

    def _half_log_det(self) -> Tensor:
        return self._low.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def entropy(self) -> Tensor:
        h = 0.5 * self._event_shape[0] * (1.0 + math.log(2 * math.pi)) + self._half_log_det()
        return h if not self._batch_shape else h.expand(self._batch_shape)
