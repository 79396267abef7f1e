"""Bounds and estimators inside NumPyro: a loss for SVI, log-weights, training steps, targets."""

from vi.numpyro._log_weights import log_weights
from vi.numpyro._loss import Loss
from vi.numpyro._short_forms import ELBO, IWAE, Renyi

__all__ = ["ELBO", "IWAE", "Loss", "Renyi", "log_weights"]
