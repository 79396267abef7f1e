"""A 3-bit latent, every outcome of K draws summed: rules without a path term are exact.

The rules are a user's, written here in a few lines each: they prove the engine's score and
parameter terms, and that ``estimator`` takes a rule for discrete latents with any bound.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import vi
from tests.models import renyi
from vi.bounds import elbo, first_derivative, iwae
from vi.gradients import estimator
from vi.types import Coefficients

BITS = 3
BOUNDS = {"elbo": elbo, "iwae": iwae, "renyi(0.4)": renyi(0.4)}


@estimator
def score(bound, log_w):
    first = first_derivative(bound, log_w)
    return Coefficients(theta=first, score=bound(log_w) - first)


@estimator
def leave_one_out(bound, log_w):
    first = first_derivative(bound, log_w)
    num_samples = log_w.shape[0]
    others = (log_w.sum(0) - log_w) / (num_samples - 1)
    without = jnp.stack([bound(log_w.at[k].set(others[k])) for k in range(num_samples)])
    return Coefficients(theta=first, score=bound(log_w) - without - first)


@estimator
def without_its_last_part(bound, log_w):
    """VIMCO as it is often written, the ``- F_k`` forgotten: the twin that must fail."""
    coefficients = leave_one_out(bound).rule(bound, log_w)
    first = first_derivative(bound, log_w)
    return coefficients._replace(score=coefficients.score + first)


class GivenBits:
    """A Bernoulli q whose draws are handed in."""

    def __init__(self, logits, bits):
        self.q, self.bits = dist.Bernoulli(logits=logits).to_event(1), bits

    def sample(self, key, sample_shape=()):
        return self.bits

    def log_prob(self, z):
        return self.q.log_prob(z)


def log_joint(params):
    def value(z):
        prior = dist.Bernoulli(0.4 * jnp.ones(BITS)).to_event(1).log_prob(z)
        return prior + dist.Normal(z @ params["w"] + params["b"], 0.6).log_prob(1.1)

    return value


def parameters():
    return {
        "logits": jnp.array([0.3, -0.8, 0.5]),
        "w": jnp.array([0.9, -0.4, 1.3]),
        "b": jnp.array(0.1),
    }


def outcomes(num_samples):
    every = list(itertools.product([0.0, 1.0], repeat=BITS * num_samples))
    return jnp.array(every).reshape(-1, num_samples, BITS)


def exact(bound, params, num_samples):
    bits = outcomes(num_samples)
    log_q = dist.Bernoulli(logits=params["logits"]).to_event(1).log_prob(bits)
    log_w = log_joint(params)(bits) - log_q
    return jnp.exp(log_q.sum(1)) @ bound(log_w.T)


def mean_gradient(objective, params, num_samples):
    def gradient(bits):
        def value(params):
            q = GivenBits(params["logits"], bits)
            return objective(jax.random.key(0), q, log_joint(params), num_samples)

        return jax.grad(value)(params)

    bits = outcomes(num_samples)
    q = dist.Bernoulli(logits=params["logits"]).to_event(1)
    mass = jnp.exp(q.log_prob(bits).sum(1))
    gradients = jax.jit(jax.vmap(gradient))(bits)
    return jax.tree.map(lambda g: jnp.tensordot(mass, g, 1), gradients)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("make", [score, leave_one_out], ids=["score", "leave_one_out"])
@pytest.mark.parametrize("num_samples", [2, 3])
def test_unbiased_by_enumeration(make, bound, num_samples):
    params = parameters()
    truth = jax.grad(lambda p: exact(bound, p, num_samples))(params)
    mean = mean_gradient(make(bound), params, num_samples)
    chex.assert_trees_all_close(mean, truth, rtol=1e-11, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_forgetting_the_last_part_of_vimco_is_caught():
    params = parameters()
    truth = jax.grad(lambda p: exact(iwae, p, 2))(params)
    mean = mean_gradient(without_its_last_part(iwae), params, 2)
    miss = jnp.abs(mean["logits"] - truth["logits"]) / jnp.abs(truth["logits"])
    assert miss.max() > 0.05
    chex.assert_trees_all_close(mean["w"], truth["w"], rtol=1e-11)


@pytest.mark.usefixtures("x64")
def test_a_discrete_q_needs_no_rsample_without_a_path_term():
    q = dist.Bernoulli(logits=parameters()["logits"]).to_event(1)
    value = leave_one_out(iwae)(jax.random.key(0), q, log_joint(parameters()), 50)
    assert jnp.isfinite(value)
    with pytest.raises(ValueError, match="must be reparameterised"):
        vi.gradients.dreg(iwae)(jax.random.key(1), q, log_joint(parameters()), 50)


def test_renyi_meets_iwae_and_the_elbo():
    log_w = jax.random.normal(jax.random.key(0), (16, 3))
    chex.assert_trees_all_close(renyi(0.0)(log_w), iwae(log_w), rtol=1e-6)
    chex.assert_trees_all_close(renyi(1 - 1e-3)(log_w), elbo(log_w), atol=1e-2)
