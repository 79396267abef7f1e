"""Gradient estimators: a bound to an objective, for every bound.

``dreg(iwae)`` reads as ``jax.grad(f)`` does. An estimator is a rule of three coefficients per
sample; ``estimator`` makes one of yours.
"""

from vi.gradients._engine import Evaluation
from vi.gradients._estimators import Estimator, dreg, estimator, reparam
from vi.gradients._held import fixed, wake
from vi.gradients._mixed import mixed
from vi.gradients._nvil import SignalMoments, nvil
from vi.gradients._objective import Objective
from vi.gradients._replicated import Replicated, replicated
from vi.gradients._score import Baseline, score, vimco

__all__ = [
    "Baseline",
    "Estimator",
    "Evaluation",
    "Objective",
    "Replicated",
    "SignalMoments",
    "dreg",
    "estimator",
    "fixed",
    "mixed",
    "nvil",
    "reparam",
    "replicated",
    "score",
    "vimco",
    "wake",
]
