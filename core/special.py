"""torch.special: special functions, elementwise."""

from core.functions.elementwise import mvlgamma as multigammaln
from core.functions.elementwise import polygamma
from core.ops.activation import normal_cdf as ndtr
from core.ops.arithmetic import exp2
from core.ops.incomplete import igamma as gammainc
from core.ops.incomplete import igammac as gammaincc
from core.ops.nn import log_softmax, softmax
from core.ops.pointwise import expm1, log1p, round
from core.ops.pointwise import sigmoid as expit
from core.ops.reduce import logsumexp
from core.ops.special import (
    digamma,
    entr,
    erf,
    erfc,
    erfinv,
    i0,
    i0e,
    i1,
    i1e,
    log_ndtr,
    logit,
    sinc,
    xlog1py,
    xlogy,
    zeta,
)
from core.ops.special import digamma as psi
from core.ops.special import lgamma as gammaln

__all__ = [
    "digamma", "entr", "erf", "erfc", "erfinv", "exp2", "expit", "expm1", "gammainc", "gammaincc", "gammaln",
    "i0", "i0e", "i1", "i1e", "log1p",
    "log_ndtr", "log_softmax", "logit", "logsumexp", "multigammaln", "ndtr", "ndtri", "polygamma", "psi", "round", "sinc",
    "softmax", "xlog1py", "xlogy", "zeta",
]  # fmt: skip


def ndtri(x):
    """The inverse of the normal distribution function."""
    return erfinv(x * 2 - 1) * 2**0.5
