"""torch.distributions: random variables as objects that draw, weigh what was drawn, and know their moments."""

import core.methods  # Tensor's methods are there, whichever room is entered first
from core.distributions import constraints, kl, transforms, utils
from core.distributions.bernoulli import Bernoulli
from core.distributions.beta import Beta
from core.distributions.binomial import Binomial
from core.distributions.categorical import Categorical
from core.distributions.cauchy import Cauchy
from core.distributions.chi2 import Chi2
from core.distributions.constraint_registry import biject_to, transform_to
from core.distributions.continuous_bernoulli import ContinuousBernoulli
from core.distributions.dirichlet import Dirichlet
from core.distributions.distribution import Distribution
from core.distributions.exp_family import ExponentialFamily
from core.distributions.exponential import Exponential
from core.distributions.fishersnedecor import FisherSnedecor
from core.distributions.gamma import Gamma
from core.distributions.generalized_pareto import GeneralizedPareto
from core.distributions.geometric import Geometric
from core.distributions.gumbel import Gumbel
from core.distributions.half_cauchy import HalfCauchy
from core.distributions.half_normal import HalfNormal
from core.distributions.independent import Independent
from core.distributions.inverse_gamma import InverseGamma
from core.distributions.kl import kl_divergence, register_kl
from core.distributions.kumaraswamy import Kumaraswamy
from core.distributions.laplace import Laplace
from core.distributions.log_normal import LogNormal
from core.distributions.logistic_normal import LogisticNormal
from core.distributions.lowrank_multivariate_normal import LowRankMultivariateNormal
from core.distributions.mixture_same_family import MixtureSameFamily
from core.distributions.multinomial import Multinomial
from core.distributions.multivariate_normal import MultivariateNormal
from core.distributions.negative_binomial import NegativeBinomial
from core.distributions.normal import Normal
from core.distributions.one_hot_categorical import OneHotCategorical, OneHotCategoricalStraightThrough
from core.distributions.pareto import Pareto
from core.distributions.poisson import Poisson
from core.distributions.relaxed_bernoulli import RelaxedBernoulli
from core.distributions.relaxed_categorical import RelaxedOneHotCategorical
from core.distributions.studentT import StudentT
from core.distributions.transformed_distribution import TransformedDistribution
from core.distributions.transforms import *  # noqa: F403
from core.distributions.uniform import Uniform
from core.distributions.von_mises import VonMises
from core.distributions.weibull import Weibull

__all__ = [
    "Bernoulli", "Beta", "Binomial", "Categorical", "Cauchy", "Chi2", "ContinuousBernoulli", "Dirichlet", "Distribution",
    "Exponential", "ExponentialFamily", "FisherSnedecor", "Gamma", "GeneralizedPareto", "Geometric", "Gumbel", "HalfCauchy",
    "HalfNormal", "Independent", "InverseGamma", "Kumaraswamy", "Laplace", "LogNormal", "LogisticNormal",
    "LowRankMultivariateNormal", "MixtureSameFamily", "Multinomial", "MultivariateNormal", "NegativeBinomial", "Normal",
    "OneHotCategorical", "OneHotCategoricalStraightThrough", "Pareto", "Poisson", "RelaxedBernoulli",
    "RelaxedOneHotCategorical", "StudentT", "TransformedDistribution", "Uniform", "VonMises", "Weibull", "biject_to",
    "constraints", "kl_divergence", "register_kl", "transform_to", *transforms.__all__,
]  # fmt: skip
