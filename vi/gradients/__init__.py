"""Gradient estimators: a bound to an objective, for every bound.

``dreg(iwae)`` reads as ``jax.grad(f)`` does. An estimator is a rule of three coefficients per
sample; ``estimator`` makes one of yours.
"""

from vi.gradients._engine import Evaluation
from vi.gradients._estimators import Estimator, dreg, estimator, reparam
from vi.gradients._held import fixed, wake
from vi.gradients._objective import Objective

__all__ = [
    "Estimator",
    "Evaluation",
    "Objective",
    "dreg",
    "estimator",
    "fixed",
    "reparam",
    "wake",
]
