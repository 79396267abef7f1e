"""distrax's distributions as q: run where distrax is, which pins a JAX of its own choosing."""

import chex
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import vi
from vi.bounds import elbo
from vi.families import adapt
from vi.gradients import dreg, reparam, score

pytestmark = pytest.mark.slow
# not a dependency of the tests: its releases follow JAX late, and would hold back all others
distrax = pytest.importorskip("distrax")

LOC, SCALE = jnp.array([[0.4, -0.3], [0.1, 0.2], [0.0, 1.0]]), jnp.array([0.8, 1.3])
PATHS = {
    "normal": (
        lambda loc: distrax.Independent(distrax.Normal(loc, SCALE), 1),
        lambda loc: dist.Normal(loc, SCALE).to_event(1),
    ),
    "multivariate": (
        lambda loc: distrax.MultivariateNormalTri(loc, jnp.array([[0.8, 0.0], [0.5, 1.3]])),
        lambda loc: dist.MultivariateNormal(
            loc, scale_tril=jnp.array([[0.8, 0.0], [0.5, 1.3]])
        ),
    ),
    "transformed": (
        lambda loc: distrax.Independent(
            distrax.Transformed(distrax.Normal(loc, SCALE), distrax.Lambda(jnp.exp)), 1
        ),
        lambda loc: dist.LogNormal(loc, SCALE).to_event(1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_draws_scores_and_gradients(name):
    make, twin = PATHS[name]
    q = adapt(make(LOC))
    assert isinstance(q, dist.Distribution)
    assert (q.batch_shape, q.event_shape, q.has_rsample) == ((3,), (2,), True)

    @jax.jit
    def draw(q, key):
        z, log_q = q.rsample_and_log_prob(key, (5,))
        return z, log_q, q.log_prob(z)

    z, log_q, again = draw(q, jax.random.key(0))
    chex.assert_trees_all_close(log_q, twin(LOC).log_prob(z), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(again, log_q, rtol=1e-4, atol=1e-5)
    assert q.sample(jax.random.key(1), (4, 5)).shape == (4, 5, 3, 2)

    prior = twin(jnp.zeros(2))
    logarithms = PATHS["normal" if name == "transformed" else name][1]  # whose KL is the same
    before = logarithms(jnp.zeros(2))
    truth = jax.grad(lambda loc: -dist.kl_divergence(logarithms(loc), before).sum())(LOC)
    for seed, estimator in enumerate((reparam, dreg)):
        report = vi.testing.check_gradient(
            estimator(elbo), lambda loc: adapt(make(loc)), LOC, lambda _: prior.log_prob,
            key=jax.random.key(seed), num_samples=2, num_replicates=1000, truth=truth,
        )  # fmt: skip
        assert report.passed, str(report)


WITHOUT = {
    "bits": lambda: distrax.Independent(distrax.Bernoulli(jnp.zeros(2)), 1),
    "bits as floats": lambda: distrax.Independent(
        distrax.Bernoulli(jnp.zeros(2), dtype=jnp.float32), 1
    ),
    "categories": lambda: distrax.Categorical(jnp.zeros(3)),
    "mixture": lambda: distrax.MixtureSameFamily(
        distrax.Categorical(jnp.zeros(2)), distrax.Normal(jnp.array([-2.0, 2.0]), 1.0)
    ),
    "clipped": lambda: distrax.ClippedNormal(0.0, 1.0, -1.0, 1.0),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_what_has_no_path_scores_only(name):
    q = adapt(WITHOUT[name]())
    assert not q.has_rsample

    def target(z):
        return jnp.cos(z.reshape(z.shape[0], -1).sum(-1))

    for estimator in (reparam, dreg):
        with pytest.raises(ValueError, match="must be reparameterised"):
            estimator(elbo)(jax.random.key(0), q, target, 2)
    assert jnp.isfinite(score(elbo)(jax.random.key(0), q, target, 2))


def test_refused():
    with pytest.raises(ValueError, match="adapt: condition must be None"):
        adapt(distrax.Normal(0.0, 1.0), condition=jnp.ones(3))
    joint = distrax.Joint({"a": distrax.Normal(0.0, 1.0), "b": distrax.Normal(0.0, 1.0)})
    with pytest.raises(ValueError, match=r"adapt: distribution must draw one array .got Joint"):
        adapt(joint)
