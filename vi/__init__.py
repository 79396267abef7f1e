"""Variational inference in JAX.

A bound is a pure function of log-weights; an estimator is three coefficients per sample. Read
``dreg(iwae)`` the way you read ``jax.grad(f)``. Every name has one home, in a room:

==================  =================================================================
``vi.types``        the contracts: ``Bound``, ``Rule``, ``LogDensity``, ``Variational``
``vi.bounds``       log-weights to a bound: ``elbo``, ``iwae``, ``declare`` your own
``vi.gradients``    a bound to an objective: ``reparam``, ``dreg``, ``estimator`` of yours
``vi.families``     variational families: ``normal``, ``chain``
``vi.flows``        bijections that make a rich family of a simple one: ``coupling``, ``spline``
``vi.networks``     Flax modules: ``MLP``, ``MaskedMLP``; codebooks: ``vector_quantise``
``vi.priors``       ``VampPrior``, ``MixturePrior``, ``markov``, ``gaussian_process``, ...
``vi.likelihoods``  observation models, normalised: bits, greys, reals, levels, counts, words
``vi.predictive``   of a trained model: ``reconstruct``, ``generate``, ``impute``, ``interpolate``
``vi.diagnostics``  ``log_evidence``, annealed importance sampling, ``sandwich``, ...
``vi.training``     ``gradient_step``, the pure ``run``, and ``fit`` with a progress bar
``vi.numpyro``      any objective as a loss for NumPyro's ``SVI``
``vi.testing``      exact models, and ``check_bound`` for a bound of your own
==================  =================================================================
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vi import (
        bounds,
        diagnostics,
        families,
        flows,
        gradients,
        likelihoods,
        networks,
        numpyro,
        predictive,
        priors,
        testing,
        training,
        types,
    )

__version__ = "0.1.0"

__all__ = [
    "bounds",
    "diagnostics",
    "families",
    "flows",
    "gradients",
    "likelihoods",
    "networks",
    "numpyro",
    "predictive",
    "priors",
    "testing",
    "training",
    "types",
]


def __getattr__(name: str):
    if name in __all__:
        return importlib.import_module(f"vi.{name}")
    raise AttributeError(f"module 'vi' has no attribute {name!r}; its rooms are {__all__}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
