"""What is fitted to each density: how its parameters begin, and the q that they make."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import vi
from experiments._flow_targets import LATENT_RANK, Density
from vi.flows import autoregressive, coupling

BOUND = 5.0  # a spline acts from -5 to 5 of its input


class Family(NamedTuple):
    """A q to fit."""

    name: str
    init: Callable[[jax.Array], Any]  # a key to parameters
    make_q: Callable[[Any], vi.types.Variational]
    gradient: Callable[[vi.types.Bound], vi.gradients.Objective]
    rate: float = 1.0  # times the learning rate


def families(name: str, density: Density, config: Any) -> list[Family]:
    """The diagonal normal, and what should come closer to this density."""
    size = density.size
    if name == "Gaussian-50":
        return [_diagonal(size), _low_rank(size), _full_rank(size)]
    if name == "funnel-10":
        return [_diagonal(size), _spline_flow(size, autoregressive, config.num_layers // 2, config)]
    return [_diagonal(size), _spline_flow(size, coupling, config.num_layers, config)]


def _diagonal(size: int) -> Family:
    def init(key):
        del key
        return {"loc": jnp.zeros(size), "log_scale": jnp.zeros(size)}

    def make_q(params):
        return vi.families.normal(params["loc"], log_scale=params["log_scale"])

    return Family("diagonal normal", init, make_q, vi.gradients.dreg, rate=5.0)


def _low_rank(size: int) -> Family:
    def init(key):
        factor = 0.1 * jax.random.normal(key, (size, LATENT_RANK))
        return {"loc": jnp.zeros(size), "log_var": jnp.zeros(size), "factor": factor}

    def make_q(params):
        variances = jnp.exp(params["log_var"])
        return vi.families.low_rank(params["loc"], factor=params["factor"], variances=variances)

    return Family("low rank", init, make_q, vi.gradients.dreg, rate=5.0)


def _full_rank(size: int) -> Family:
    def init(key):
        del key
        return {"loc": jnp.zeros(size), "below": jnp.zeros((size, size)), "log": jnp.zeros(size)}

    def make_q(params):
        scale_tril = jnp.tril(params["below"], -1) + jnp.diag(jnp.exp(params["log"]))
        return vi.families.full_rank(params["loc"], scale_tril=scale_tril)

    return Family("full rank", init, make_q, vi.gradients.dreg, rate=5.0)


def _spline_flow(size: int, build: Callable[..., Any], num_layers: int, config: Any) -> Family:
    def init(key):
        spline = vi.flows.spline(num_bins=config.num_bins, bound=BOUND)
        return build(
            size,
            num_layers=num_layers,
            transformer=vi.flows.composed(spline, vi.flows.affine()),
            hidden=(config.hidden, config.hidden),
            rngs=nnx.Rngs(key),
        )

    def make_q(flow):
        return flow(vi.families.normal(jnp.zeros(size), scale=jnp.ones(size)))

    return Family("spline flow", init, make_q, vi.gradients.reparam)
