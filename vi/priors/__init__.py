"""Priors that NumPyro lacks; any NumPyro distribution, and any flow called on one, is one too."""

from vi.priors._codes import uniform_codes
from vi.priors._gaussian_process import GaussianProcess, gaussian_process
from vi.priors._groups import Groups, autoregressive, hierarchical
from vi.priors._kernels import (
    cauchy,
    matern12,
    matern32,
    matern52,
    periodic,
    squared_exponential,
)
from vi.priors._markov import MarkovPrior, ar1, markov
from vi.priors._mixture import MixturePrior, VampPrior
from vi.priors._topics import laplace_softmax
from vi.priors._weights import Horseshoe, horseshoe, scale_mixture

__all__ = [
    "GaussianProcess",
    "Groups",
    "Horseshoe",
    "MarkovPrior",
    "MixturePrior",
    "VampPrior",
    "ar1",
    "autoregressive",
    "cauchy",
    "gaussian_process",
    "hierarchical",
    "horseshoe",
    "laplace_softmax",
    "markov",
    "matern12",
    "matern32",
    "matern52",
    "periodic",
    "scale_mixture",
    "squared_exponential",
    "uniform_codes",
]
