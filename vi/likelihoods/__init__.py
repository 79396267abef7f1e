"""Observation models: normalised log-likelihoods that sum over the event and keep the batch."""

from vi.likelihoods._bernoulli import bernoulli
from vi.likelihoods._event import Observation
from vi.likelihoods._normal import normal

__all__ = ["Observation", "bernoulli", "normal"]
