"""Bounds and estimators inside NumPyro: a loss for SVI, log-weights, training steps, targets."""

from vi.numpyro._batches import whole
from vi.numpyro._finite import require_finite
from vi.numpyro._log_weights import log_weights
from vi.numpyro._loss import Loss
from vi.numpyro._mean_field import MeanFieldELBO
from vi.numpyro._predictive import WeightedPosterior, WeightedPredictive
from vi.numpyro._short_forms import ELBO, IWAE, Renyi
from vi.numpyro._svi_step import SVIStep, svi_step
from vi.numpyro._target import Target, log_density
from vi.numpyro._variational import as_variational

__all__ = [
    "ELBO",
    "IWAE",
    "Loss",
    "MeanFieldELBO",
    "Renyi",
    "SVIStep",
    "Target",
    "WeightedPosterior",
    "WeightedPredictive",
    "as_variational",
    "log_density",
    "log_weights",
    "require_finite",
    "svi_step",
    "whole",
]
