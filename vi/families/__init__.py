"""Variational families: what an encoder's outputs, or free parameters, become.

A family returns a NumPyro distribution, or an object with the same ``sample``, ``rsample`` and
``log_prob``.
"""

from vi.families._bernoulli import bernoulli
from vi.families._chain import Chain, chain
from vi.families._concrete import binary_concrete, concrete
from vi.families._coupled import Coupled, antithetic, quasi, stratified
from vi.families._normal import normal
from vi.families._straight_through import (
    straight_through_bernoulli,
    straight_through_categorical,
)

__all__ = [
    "Chain",
    "Coupled",
    "antithetic",
    "bernoulli",
    "binary_concrete",
    "chain",
    "concrete",
    "normal",
    "quasi",
    "straight_through_bernoulli",
    "straight_through_categorical",
    "stratified",
]
