"""Chunks change memory and nothing else; side outputs come whole."""

import chex
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import vi
from vi.bounds import elbo, iwae
from vi.gradients import dreg, estimator, reparam
from vi.types import Coefficients

X = jnp.array([[0.5, -1.0], [1.5, 0.0], [0.2, 0.3]])


@estimator
def held(bound, log_w):
    first = vi.bounds.first_derivative(bound, log_w)
    return Coefficients(theta=first, score=-first)


class ChunkKeys:
    """Draws K at once from the keys that the chunks would have had."""

    def __init__(self, q, sizes):
        self.q, self.sizes = q, sizes

    def rsample(self, key, sample_shape=()):
        chunks, first = enumerate(self.sizes), jax.random.split(key, 1)[0]
        return jnp.concatenate(
            [self.q.rsample(jax.random.fold_in(first, i), (size,)) for i, size in chunks]
        )

    sample = rsample

    def log_prob(self, z):
        return self.q.log_prob(z)


def value(params, objective, key, num_samples, sizes=None):
    q = vi.families.normal(params["loc"], log_scale=params["log_scale"])
    q = q if sizes is None else ChunkKeys(q, sizes)

    def log_joint(z):
        prior = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
        likelihood = dist.Normal(jnp.tanh(z) * params["w"], 0.5).to_event(1)
        return prior.log_prob(z) + likelihood.log_prob(X)

    return objective(key, q, log_joint, num_samples).sum()


PARAMS = {"loc": 0.1 * X, "log_scale": -0.3 * jnp.ones_like(X), "w": jnp.array([0.7, 1.1])}


@pytest.mark.parametrize("sizes", [(4, 4, 4), (5, 5, 2), (8, 4), (12,)])
@pytest.mark.parametrize("bound", [elbo, iwae], ids=["elbo", "iwae"])
@pytest.mark.parametrize("make", [reparam, dreg, held], ids=["reparam", "dreg", "held"])
def test_chunked_equals_unchunked_given_the_chunks_keys(make, bound, sizes):
    one = len(sizes) == 1
    unchunked = jax.value_and_grad(value)(
        PARAMS, make(bound), jax.random.key(0), 12, None if one else sizes
    )
    chunked = jax.jit(jax.value_and_grad(value), static_argnums=(1, 3))(
        PARAMS, make(bound, chunk_size=sizes[0]), jax.random.key(0), 12
    )
    chex.assert_trees_all_close(chunked, unchunked, rtol=1e-5, atol=1e-5)


def test_memory_follows_the_chunk_and_not_k():
    def temporary_bytes(chunk_size, num_samples):
        objective = dreg(iwae, chunk_size=chunk_size)
        gradient = jax.jit(jax.grad(value), static_argnums=(1, 3))
        analysis = gradient.lower(PARAMS, objective, jax.random.key(0), num_samples).compile()
        return analysis.memory_analysis().temp_size_in_bytes

    whole, chunked = temporary_bytes(None, 2**14), temporary_bytes(2**7, 2**14)
    weights = 2**14 * X.shape[0] * 4
    assert chunked < 8 * weights < whole  # a few copies of the log-weights are all that grows


def test_evaluate_returns_weights_and_aux_of_every_draw():
    q = vi.families.normal(PARAMS["loc"], log_scale=PARAMS["log_scale"])

    def log_joint(z):
        return -(z**2).sum(-1), {"z": z, "index": jnp.arange(z.shape[0])}

    whole = dreg(iwae).evaluate(jax.random.key(0), q, log_joint, 10)
    z = q.rsample(jax.random.key(0), (10,))
    chex.assert_trees_all_close(whole.aux["z"], z)
    chex.assert_trees_all_close(whole.log_weights, -(z**2).sum(-1) - q.log_prob(z), rtol=1e-5)
    chex.assert_trees_all_close(whole.value, iwae(whole.log_weights), rtol=1e-6)
    chunked = dreg(iwae, chunk_size=4).evaluate(jax.random.key(0), q, log_joint, 10)
    assert chunked.log_weights.shape == (10, 3)
    assert chunked.aux["z"].shape == (10, 3, 2)
    assert chunked.aux["index"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_only_the_value_carries_a_gradient(chunk_size):
    def through(params, select):
        q = vi.families.normal(params["loc"], log_scale=params["log_scale"])
        log_joint = lambda z: (-(z**2).sum(-1), z)  # noqa: E731
        objective = dreg(iwae, chunk_size=chunk_size)
        return select(objective.evaluate(jax.random.key(0), q, log_joint, 10)).sum()

    for select in (lambda e: e.log_weights, lambda e: e.aux):
        gradient = jax.grad(through)(PARAMS, select)
        chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, PARAMS))
    both = jax.grad(through)(PARAMS, lambda e: e.value + e.log_weights.sum(0))
    chex.assert_trees_all_close(both, jax.grad(through)(PARAMS, lambda e: e.value))


def test_a_chunked_call_consumes_its_key():
    key = jax.random.key(0)
    value(PARAMS, dreg(iwae, chunk_size=4), key, 12)
    with pytest.raises(jax.errors.KeyReuseError):
        value(PARAMS, dreg(iwae, chunk_size=4), key, 12)
