"""Multivariate normal distributions whose covariance is a few factors and a diagonal."""

from __future__ import annotations

import math
from typing import Any

import core
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.distribution import Distribution
from core.distributions.multivariate_normal import mahalanobis
from core.distributions.utils import lazy_property, standard_normal
from core.errors import ArgumentError


class LowRankMultivariateNormal(Distribution):
    """Covariance W Wᵀ + diag(d): `loc` (*, n), `cov_factor` W (*, n, k), `cov_diag` d (*, n). The k × k matrix 1 + Wᵀ W/d does the work
    (Woodbury; the determinant by the matrix determinant lemma)."""

    arg_constraints = {
        "loc": constraints.real_vector, "cov_factor": constraints.independent(constraints.real, 2),
        "cov_diag": constraints.independent(constraints.positive, 1),
    }  # fmt: skip
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor, validate_args: bool | None = None):
        if (
            loc.dim() < 1
            or cov_factor.dim() < 2
            or cov_factor.shape[-2:-1] != loc.shape[-1:]
            or cov_diag.shape[-1:] != loc.shape[-1:]
        ):
            raise ArgumentError(
                "LowRankMultivariateNormal: expected loc (*, n), cov_factor (*, n, k) and cov_diag (*, n), "
                f"got {tuple(loc.shape)}, {tuple(cov_factor.shape)} and {tuple(cov_diag.shape)}"
            )
        batch = core.broadcast_shapes(loc.shape[:-1], cov_factor.shape[:-2], cov_diag.shape[:-1])
        self.loc, self.cov_diag = loc.expand(*batch, -1), cov_diag.expand(*batch, -1)
        self.cov_factor = cov_factor.expand(*batch, *cov_factor.shape[-2:])
        super().__init__(batch, loc.shape[-1:], validate_args)

    @property
    def _capacitance(self) -> Tensor:
        """The Cholesky factor of 1 + Wᵀ diag(1/d) W."""
        k = self.cov_factor.shape[-1]
        eye = core.eye(k, dtype=self.loc.dtype, device=self.loc.device)
        return core.linalg.cholesky(self.cov_factor.mT / self.cov_diag.unsqueeze(-2) @ self.cov_factor + eye)

    @property
    def mean(self) -> Tensor:
        return self.loc

    mode = mean

    @property
    def variance(self) -> Tensor:
        return self.cov_factor.pow(2).sum(-1) + self.cov_diag

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        """(*, n, n)"""
        return self.cov_factor @ self.cov_factor.mT + self.cov_diag.diag_embed()

    @lazy_property
    def scale_tril(self) -> Tensor:
        """The Cholesky factor of the covariance."""
        return core.linalg.cholesky(self.covariance_matrix)

    @lazy_property
    def precision_matrix(self) -> Tensor:
        """The inverse of the covariance."""
        return core.linalg.inv(self.covariance_matrix)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        w = standard_normal((*shape[:-1], self.cov_factor.shape[-1]), self.loc)
        d = standard_normal(shape, self.loc)
        return self.loc + (self.cov_factor @ w.unsqueeze(-1)).squeeze(-1) + self.cov_diag.sqrt() * d

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        x, low = value - self.loc, self._capacitance
        inside = (self.cov_factor.mT / self.cov_diag.unsqueeze(-2) @ x.unsqueeze(-1)).squeeze(-1)
        m = (x.pow(2) / self.cov_diag).sum(-1) - mahalanobis(low, inside)
        return -0.5 * (self._event_shape[0] * math.log(2 * math.pi) + self._log_det(low) + m)

    def _log_det(self, low: Tensor) -> Tensor:
        return 2 * low.diagonal(dim1=-2, dim2=-1).log().sum(-1) + self.cov_diag.log().sum(-1)

    def entropy(self) -> Tensor:
        return 0.5 * (self._event_shape[0] * (1.0 + math.log(2 * math.pi)) + self._log_det(self._capacitance))
