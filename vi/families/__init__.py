"""Variational families: what an encoder's outputs, or free parameters, become.

A family returns a NumPyro distribution, or an object with the same ``sample``, ``rsample`` and
``log_prob``.
"""

from vi.families._adapt import Adapted, adapt
from vi.families._bernoulli import bernoulli
from vi.families._block_diagonal import BlockDiagonal, block_diagonal
from vi.families._chain import Chain, chain
from vi.families._concrete import binary_concrete, concrete
from vi.families._constrained import Constrained, constrained
from vi.families._coupled import Coupled, antithetic, quasi, stratified
from vi.families._full_rank import full_rank
from vi.families._global_local import GlobalLocal, global_local
from vi.families._independent import Product, independent
from vi.families._low_rank import low_rank
from vi.families._markov import Markov, markov, markov_from_precision
from vi.families._mixture import ComponentDraws, Mixture, component_draws, mixture
from vi.families._normal import normal
from vi.families._straight_through import (
    straight_through_bernoulli,
    straight_through_categorical,
)
from vi.families._von_mises import von_mises

__all__ = [
    "Adapted",
    "BlockDiagonal",
    "Chain",
    "ComponentDraws",
    "Constrained",
    "Coupled",
    "GlobalLocal",
    "Markov",
    "Mixture",
    "Product",
    "adapt",
    "antithetic",
    "bernoulli",
    "binary_concrete",
    "block_diagonal",
    "chain",
    "component_draws",
    "concrete",
    "constrained",
    "full_rank",
    "global_local",
    "independent",
    "low_rank",
    "markov",
    "markov_from_precision",
    "mixture",
    "normal",
    "quasi",
    "straight_through_bernoulli",
    "straight_through_categorical",
    "stratified",
    "von_mises",
]
