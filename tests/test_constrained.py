"""Families carried to a constraint: the right density, shapes and refusals."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from flax import nnx
from numpyro.distributions import constraints

import vi
from vi.bounds import elbo
from vi.families import constrained, normal

LOC, SCALE = np.array([0.3, -0.4]), np.array([0.5, 0.8])


def unconstrained(loc=LOC, scale=SCALE):
    return normal(jnp.asarray(loc, float), scale=jnp.asarray(scale, float))


def logit_normal(z, loc, scale):
    return scipy.stats.norm(loc, scale).logpdf(np.log(z / (1 - z))) - np.log(z * (1 - z))


SCALARS = {
    "positive": (
        constraints.positive,
        lambda z: scipy.stats.lognorm(SCALE, scale=np.exp(LOC)).logpdf(z),
    ),
    "above 2": (
        constraints.greater_than(2.0),
        lambda z: scipy.stats.lognorm(SCALE, loc=2.0, scale=np.exp(LOC)).logpdf(z),
    ),
    "below 1": (
        constraints.less_than(1.0),
        lambda z: scipy.stats.lognorm(SCALE, loc=-1.0, scale=np.exp(LOC)).logpdf(-z),
    ),
    "an interval per entry": (
        constraints.interval(np.array([-1.0, 2.0]), np.array([1.0, 5.0])),
        lambda z: (
            logit_normal((z - [-1.0, 2.0]) / [2.0, 3.0], LOC, SCALE) - np.log([2.0, 3.0])
        ),
    ),
    "the line": (constraints.real, scipy.stats.norm(LOC, SCALE).logpdf),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALARS)
@pytest.mark.usefixtures("x64")
def test_numbers_have_scipys_density(name):
    support, logpdf = SCALARS[name]

    @jax.jit
    def draw(q, key):
        z, log_q = q.rsample_and_log_prob(key, (500,))
        return z, log_q, q.log_prob(z), q.support(z)

    q = constrained(unconstrained(), support)
    z, log_q, again, inside = draw(q, jax.random.key(0))
    assert inside.all()
    assert (q.batch_shape, q.event_shape) == ((), (2,))
    np.testing.assert_allclose(log_q, logpdf(np.asarray(z)).sum(-1), rtol=1e-9)
    np.testing.assert_allclose(again, log_q, rtol=1e-9)


VECTORS = {
    "simplex": (constraints.simplex, (2,), lambda z: z[..., :2]),
    "ordered": (constraints.ordered_vector, (2,), lambda z: z),
    "positive ordered": (constraints.positive_ordered_vector, (2,), lambda z: z),
    "lower cholesky": (
        constraints.lower_cholesky,
        (3,),
        lambda z: z[..., jnp.array([0, 1, 1]), jnp.array([0, 0, 1])],
    ),
    "positive definite": (
        constraints.positive_definite,
        (3,),
        lambda z: z[..., jnp.array([0, 1, 1]), jnp.array([0, 0, 1])],
    ),
    "correlation": (constraints.corr_cholesky, (1,), lambda z: z[..., 1, :1]),
    "two simplices": (constraints.simplex, (2, 2), lambda z: z[..., :2].reshape(*z.shape[:-2], 4)),
}


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.usefixtures("x64")
def test_vectors_have_the_density_of_a_full_jacobian(name):
    """``log N(u) - log |det dc/du|`` in free coordinates c of the draw, by ``jax.jacobian``."""
    support, shape, coordinates = VECTORS[name]
    base = dist.Normal(jnp.zeros((4, *shape)) + 0.2, 0.7).to_event(len(shape))
    q = constrained(base, support)
    carry = dist.biject_to(support)

    @jax.jit
    def compute(key):
        z, log_q = q.rsample_and_log_prob(key, (3,))
        u = carry.inv(z)

        def volume(u):
            flat = jax.jacobian(lambda u: coordinates(carry(u.reshape(shape))))(u.reshape(-1))
            return jnp.linalg.slogdet(flat)[1]

        volumes = jax.vmap(jax.vmap(volume))(u)
        return z, log_q, q.log_prob(z), base.log_prob(u) - volumes, volumes

    z, log_q, again, by_hand, volumes = compute(jax.random.key(0))
    assert z.shape == (3, 4, *q.event_shape)
    assert log_q.shape == (3, 4)
    np.testing.assert_allclose(log_q, by_hand, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(again, log_q, rtol=1e-7, atol=1e-9)
    assert abs(volumes).max() > 0.1  # a density without the Jacobian would not pass


@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_a_log_normal():
    """KL(LogNormal || LogNormal) in closed form, under every estimator's mean."""
    prior = dist.LogNormal(0.0, 1.0)
    params = {"loc": jnp.array([0.4, -0.2]), "log_scale": jnp.array([-0.3, 0.2])}

    def make_q(params):
        u = normal(params["loc"], log_scale=params["log_scale"])
        return constrained(u, constraints.positive)

    def exact(params):
        variance = jnp.exp(2 * params["log_scale"])
        return -(0.5 * (variance + params["loc"] ** 2 - 1) - params["log_scale"]).sum()

    truth = jax.grad(exact)(params)
    for seed, estimator in enumerate((vi.gradients.reparam, vi.gradients.dreg)):
        report = vi.testing.check_gradient(
            estimator(elbo), make_q, params, lambda _: lambda z: prior.log_prob(z).sum(-1),
            key=jax.random.key(seed), num_samples=2, num_replicates=2000, truth=truth,
        )  # fmt: skip
        assert report.passed, str(report)


def test_a_flow_is_carried_too_and_inverted_in_one_pass():
    flow = vi.flows.coupling(
        2, num_layers=2, transformer=vi.flows.affine(), hidden=(8,), rngs=nnx.Rngs(0)
    )
    passes = []

    class Counted(vi.flows.Flow):
        def _forward(self, x, context):
            passes.append("forward")
            return flow.forward(x)

        def _inverse(self, y, context):
            passes.append("inverse")
            return flow.inverse(y)

    base = dist.Normal(jnp.zeros((3, 2)), 1.0).to_event(1)
    q = constrained(Counted(2)(base), constraints.positive)

    @jax.jit
    def draw(key):
        z, log_q = q.rsample_and_log_prob(key, (5,))
        passes.append("then")
        again = q.log_prob(z)
        passes.append("by hand")
        u = jnp.log(z)
        return log_q, again, flow(base).log_prob(u) - u.sum(-1)

    log_q, again, by_hand = draw(jax.random.key(0))
    assert passes == ["forward", "then", "inverse", "by hand"]
    chex.assert_trees_all_close(again, log_q, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(by_hand, log_q, rtol=1e-4, atol=1e-4)


def test_it_is_a_numpyro_distribution():
    q = constrained(dist.Normal(jnp.zeros((3, 2)), 1.0), constraints.positive)
    assert (q.batch_shape, q.event_shape) == ((3, 2), ())
    assert q.to_event(1).event_shape == (2,)
    assert q.expand((4, 3, 2)).batch_shape == (4, 3, 2)
    leaves, structure = jax.tree.flatten(q)
    z = jax.tree.unflatten(structure, leaves).rsample(jax.random.key(0), (5,))
    assert jax.jit(lambda q, z: q.log_prob(z))(q, z).shape == (5, 3, 2)
    with numpyro.handlers.seed(rng_seed=1), jax.debug_key_reuse(False):
        assert numpyro.sample("z", q).shape == (3, 2)


def test_draws_keep_their_score_where_rounding_loses_them():
    """Near 1 a float32 sigmoid cannot be inverted; the draw's own score never is."""
    u = dist.Normal(jnp.full(2, 30.0), 1.0).to_event(1)
    q = constrained(u, constraints.unit_interval)
    key = jax.random.key(0)
    z, log_q = q.rsample_and_log_prob(key, (5,))
    at = np.asarray(u.rsample(jax.random.clone(key), (5,)), np.float64)
    slope = -np.logaddexp(0, at) - np.logaddexp(0, -at)
    by_hand = (scipy.stats.norm(30.0, 1.0).logpdf(at) - slope).sum(-1)
    np.testing.assert_allclose(log_q, by_hand, rtol=1e-5)
    assert abs(q.log_prob(z) - log_q).min() > 10


REFUSALS = {
    "a chain": (
        lambda: constrained(vi.families.chain({"a": unconstrained()}), constraints.positive),
        "constrained: q must be a NumPyro distribution (got Chain)",
    ),
    "bits": (
        lambda: constrained(vi.families.bernoulli(jnp.zeros(2)), constraints.positive),
        "constrained: q must be continuous (got Independent)",
    ),
    "a gamma": (
        lambda: constrained(dist.Gamma(jnp.ones(2), 1.0).to_event(1), constraints.positive),
        "constrained: q must be a family of real numbers (got support",
    ),
    "a simplex of a scalar": (
        lambda: constrained(dist.Normal(jnp.zeros(3), 1.0), constraints.simplex),
        "constrained: q must have an event of rank 1 or more for Simplex (got event shape [])",
    ),
    "no triangle": (
        lambda: constrained(normal(jnp.zeros(4), scale=jnp.ones(4)), constraints.lower_cholesky),
        "constrained: q must have an event that makes one of LowerCholesky (got event shape [4])",
    ),
    "bounds with a batch": (
        lambda: constrained(unconstrained(), constraints.interval(jnp.zeros((5, 2)), 1.0)),
        "constrained: support must keep the shape of q (got [5, 2] from [2])",
    ),
    "integers": (
        lambda: constrained(unconstrained(), constraints.nonnegative_integer),
        "constrained: support must be one that biject_to knows (got IntegerNonnegative)",
    ),
    "no constraint": (
        lambda: constrained(unconstrained(), "positive"),
        "constrained: support must be one that biject_to knows (got str)",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name):
    call, message = REFUSALS[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
