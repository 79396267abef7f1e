"""Latents as a dict of dependent parts: exact gradients by quadrature over all of their noise."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import vi
from tests.models import GivenNoise, renyi
from vi.bounds import elbo, first_derivative, iwae
from vi.gradients import dreg, estimator, reparam
from vi.types import Coefficients

K, NODES, REACH = 2, 23, 5.5
BOUNDS = {"elbo": elbo, "iwae": iwae, "renyi(0.4)": renyi(0.4)}


@estimator
def twin(bound, log_w):
    """The path two per cent too strong."""
    first = first_derivative(bound, log_w)
    return Coefficients(theta=first, path=1.02 * first, score=-first)


def parameters():
    values = {"loc": 0.4, "log_scale": -0.7, "slope": 0.8, "inner": -0.6, "w": 0.5}
    return {name: jnp.asarray(value) for name, value in values.items()}


def family(params, noise):
    """z1, then z2 given z1: the path of z1 runs through z2 as well. ``noise`` is ``[2, K]``."""
    return vi.families.chain(
        {
            "z1": GivenNoise(params["loc"], params["log_scale"], noise[0]),
            "z2": lambda z1: GivenNoise(params["slope"] * z1, params["inner"], noise[1]),
        }
    )


def log_joint(params):
    def value(z):
        prior = dist.Normal(0.0, 1.0).log_prob(z["z1"]) + dist.Normal(z["z1"], 1.0).log_prob(
            z["z2"]
        )
        return prior + dist.Normal(params["w"] * z["z2"], 1.2).log_prob(0.9)

    return value


def grid():
    """A trapezoid rule over the noise of both latents and both samples, ``[nodes, 2, K]``."""
    line = np.linspace(-REACH, REACH, NODES)
    mass = np.exp(-(line**2) / 2)
    mass = mass / mass.sum()
    nodes = np.array(list(itertools.product(line, repeat=2 * K))).reshape(-1, 2, K)
    weights = np.array([np.prod(w) for w in itertools.product(mass, repeat=2 * K)])
    heavy = weights > 1e-13  # what is dropped weighs 1e-9 in all
    return jnp.asarray(nodes[heavy]), jnp.asarray(weights[heavy])


def mean_gradient(value):
    nodes, weights = grid()

    def weighted(total, at):
        gradient = jax.vmap(lambda noise: jax.grad(value)(parameters(), noise))(at[0])
        return jax.tree.map(lambda t, g: t + at[1] @ g, total, gradient), None

    size = len(nodes) // 16 * 16
    blocks = nodes[:size].reshape(16, -1, 2, K), weights[:size].reshape(16, -1)
    zero = jax.tree.map(jnp.zeros_like, parameters())
    total, _ = jax.jit(lambda: jax.lax.scan(weighted, zero, blocks))()
    rest, _ = weighted(zero, (nodes[size:], weights[size:]))
    return jax.tree.map(jnp.add, total, rest)


def relative_miss(objective, bound):
    def by_hand(params, noise):
        q = family(params, noise)
        z = q.rsample(jax.random.key(0))
        return bound(log_joint(params)(z) - q.log_prob(z))

    def ours(params, noise):
        return objective(jax.random.key(0), family(params, noise), log_joint(params), K)

    truth, mean = mean_gradient(by_hand), mean_gradient(ours)
    miss = jax.tree.map(lambda a, b: jnp.abs(a - b) / jnp.abs(b), mean, truth)
    return max(jax.tree.leaves(miss))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "bound",
    [
        pytest.param(bound, marks=() if name == "iwae" else pytest.mark.slow, id=name)
        for name, bound in BOUNDS.items()
    ],
)
def test_dreg_through_a_chain(bound):
    assert relative_miss(dreg(bound), bound) < 1e-3


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_reparam_through_a_chain_and_a_twin():
    assert relative_miss(reparam(iwae), iwae) < 1e-10
    assert relative_miss(twin(iwae), iwae) > 1e-2


def test_chunks_of_a_chain_are_finite_and_jit():
    params = parameters()

    def value(params, key):
        q = vi.families.chain(
            {
                "z1": dist.Normal(params["loc"], 1.0),
                "z2": lambda z1: dist.Normal(params["slope"] * z1, 0.5),
            }
        )
        return dreg(iwae, chunk_size=5)(key, q, log_joint(params), 12)

    gradient = jax.jit(jax.grad(value))(params, jax.random.key(0))
    chex.assert_tree_all_finite(gradient)
    assert gradient["slope"] != 0
