"""The flows that every test of them runs through: a new one adds a row."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx

import vi
from vi.flows import affine, autoregressive, composed, continuous, coupling, planar, spline

D, C = 4, 3
SHAPE = {"num_layers": 3, "hidden": (16,)}
BOTH = composed(spline(num_bins=4), affine())


def of_layers(make, transformer):
    def flow(context_size, rngs, size=D):
        layers = SHAPE | {"transformer": transformer, "context_size": context_size}
        return make(size, **layers, rngs=rngs)

    return flow


def a_sequence(context_size, rngs, size=D):
    first = of_layers(coupling, affine())(0, rngs, size)
    return vi.flows.sequence(first, of_layers(autoregressive, spline())(context_size, rngs, size))


def masked(context_size, rngs, size=D):
    return vi.flows.inverted(of_layers(autoregressive, affine())(context_size, rngs, size))


def of_planes(context_size, rngs, size=D):
    return planar(size, num_layers=3, context_size=context_size, rngs=rngs)


def of_a_field(context_size, rngs, size=D):
    return continuous(size, hidden=(16,), context_size=context_size, num_steps=8, rngs=rngs)


FLOWS = {
    "coupling-affine": of_layers(coupling, affine()),
    "coupling-spline": of_layers(coupling, spline()),
    "coupling-both": of_layers(coupling, BOTH),
    "autoregressive-affine": of_layers(autoregressive, affine()),
    "autoregressive-spline": of_layers(autoregressive, spline()),
    "masked": masked,
    "sequence": a_sequence,
    "planar": of_planes,
    "continuous": of_a_field,
}
INVERTIBLE = [name for name in FLOWS if name != "planar"]


def make(name, context_size=0, size=D, seed=0):
    return FLOWS[name](context_size, nnx.Rngs(seed), size)


def perturbed(flow, seed, std=0.1):
    """Every parameter off by N(0, std^2)."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: leaf + np.asarray(random.normal(0, std, leaf.shape), leaf.dtype), flow
    )


def several(flow, num=3):
    """The flow as it starts and ``num`` perturbed ones, along a new axis 0 of every parameter."""
    flows = [flow, *(perturbed(flow, seed) for seed in range(num))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *flows)


def points(num, size=D):
    at = np.random.default_rng(9).uniform(-4.0, 4.0, (num, size))
    return jnp.asarray(at, jnp.result_type(float))


def context_of(context_size, batch=()):
    if context_size == 0:
        return None
    context = np.random.default_rng(8).normal(size=(*batch, context_size))
    return jnp.asarray(context, jnp.result_type(float))


def normal(batch=(), size=D):
    return dist.Normal(jnp.zeros((*batch, size)), 1.0).to_event(1)
