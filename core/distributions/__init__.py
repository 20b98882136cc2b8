"""torch.distributions: the ones that scripts use."""

import core.methods  # Tensor's methods are there, whichever room is entered first
from core.distributions import bernoulli, categorical, kl, normal, uniform
from core.distributions.bernoulli import Bernoulli
from core.distributions.categorical import Categorical
from core.distributions.distribution import Distribution
from core.distributions.kl import kl_divergence, register_kl
from core.distributions.normal import Normal
from core.distributions.uniform import Uniform

__all__ = ["Bernoulli", "Categorical", "Distribution", "Normal", "Uniform", "kl_divergence", "register_kl"]
