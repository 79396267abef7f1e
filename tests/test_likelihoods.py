"""Every likelihood: normalised, equal to SciPy's, finite in float32 where float64 is."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

import vi

LIKELIHOODS = {
    "bernoulli": lambda p: vi.likelihoods.bernoulli(p),
    "normal": lambda p: vi.likelihoods.normal(p, scale=0.7),
}
table = pytest.mark.parametrize("make", LIKELIHOODS.values(), ids=LIKELIHOODS)


@table
def test_sums_the_event_and_keeps_the_batch(make):
    params = jax.random.normal(jax.random.key(0), (5, 3, 4))
    for data in (jnp.ones((5, 3, 4)), jnp.ones((3, 4)), jnp.ones(4)):
        assert make(params).log_prob(data).shape == (5, 3)


@table
def test_batch_equals_vmap_and_jit_equals_eager(make):
    params, x = jax.random.normal(jax.random.key(0), (5, 3, 4)), jnp.ones((3, 4))

    def log_prob(p, x):
        return make(p).log_prob(x)

    whole = log_prob(params, x)
    chex.assert_trees_all_close(jax.vmap(log_prob, in_axes=(0, None))(params, x), whole, rtol=1e-6)
    chex.assert_trees_all_close(jax.jit(log_prob)(params, x), whole, rtol=1e-6)


@table
def test_survives_being_a_pytree(make):
    params, x = jnp.array([[0.3, -1.0]]), jnp.array([[1.0, 0.0]])
    leaves, tree = jax.tree.flatten(make(params))
    again = jax.tree.unflatten(tree, leaves)
    chex.assert_trees_all_equal(again.log_prob(x), make(params).log_prob(x))
    with pytest.raises(ValueError, match="must fit the parameters"):
        again.log_prob(x[:, :1])


def test_bernoulli_has_the_right_derivative_at_zero_where_numpyro_has_not():
    def derivative(make):
        return jax.grad(lambda logit: make(logit[None]).log_prob(jnp.ones(1)).sum())(jnp.zeros(()))

    assert derivative(vi.likelihoods.bernoulli) == 0.5
    assert derivative(dist.BernoulliLogits) != 0.5  # should this fail, NumPyro's may be used again


def test_bernoulli_sums_to_one():
    logits = jnp.array([0.3, -2.0, 1.5])
    every = jnp.array(list(itertools.product([0.0, 1.0], repeat=3)))
    likelihood = vi.likelihoods.bernoulli(jnp.broadcast_to(logits, every.shape))
    np.testing.assert_allclose(jnp.exp(likelihood.log_prob(every)).sum(), 1.0, rtol=1e-6)


def test_bernoulli_is_x_l_minus_softplus():
    logits, x = jnp.array([[0.3, -2.0, 1.5]]), jnp.array([[1.0, 0.0, 1.0]])
    direct = (x * logits - jax.nn.softplus(logits)).sum(-1)
    chex.assert_trees_all_close(vi.likelihoods.bernoulli(logits).log_prob(x), direct, rtol=1e-6)
    truth = scipy.stats.bernoulli(1 / (1 + np.exp(-logits))).logpmf(x).sum(-1)
    np.testing.assert_allclose(direct, truth, rtol=1e-5)


@pytest.mark.parametrize("logit", [-1e30, -1e4, -100.0, 0.0, 100.0, 1e4, 1e30])
@pytest.mark.parametrize("bit", [0.0, 1.0])
def test_bernoulli_is_finite_for_any_logit(logit, bit):
    def value(logit):
        return vi.likelihoods.bernoulli(logit[None]).log_prob(jnp.array([bit]))

    log_prob, gradient = jax.value_and_grad(value)(jnp.float32(logit))
    assert jnp.isfinite(log_prob)
    np.testing.assert_allclose(
        gradient, bit - 1 / (1 + np.exp(-np.float64(min(max(logit, -700), 700)))), atol=1e-6
    )
    np.testing.assert_allclose(
        log_prob, bit * logit - np.logaddexp(0.0, np.float64(logit)), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("scale", [1e-6, 0.7, 1e6])
def test_normal_is_scipys(scale):
    loc, x = jnp.array([[0.3, -2.0, 1.5]]), jnp.array([[1.0, 0.5, 1.0]])
    truth = scipy.stats.norm(loc, scale).logpdf(x).sum(-1)
    ours = vi.likelihoods.normal(loc, scale=scale).log_prob(x)
    np.testing.assert_allclose(ours, truth, rtol=1e-5)


def test_normal_integrates_to_one():
    grid = jnp.linspace(-8, 8, 4001)
    scale = jnp.array([0.4])
    density = jnp.exp(
        vi.likelihoods.normal(jnp.zeros((4001, 1)), scale=scale).log_prob(grid[:, None])
    )
    np.testing.assert_allclose(jnp.trapezoid(density, grid), 1.0, rtol=1e-5)


def test_sum_of_squares_is_variance_one_half():
    loc, x = jnp.array([[0.3, -2.0], [1.0, 0.2]]), jnp.array([[1.0, 0.5], [0.0, 0.1]])
    likelihood = vi.likelihoods.normal(loc, scale=0.5**0.5)
    constant = -loc.shape[-1] * 0.5 * np.log(np.pi)
    chex.assert_trees_all_close(
        likelihood.log_prob(x), constant - ((x - loc) ** 2).sum(-1), rtol=1e-6
    )


def test_normal_scale_may_have_the_trailing_axes_of_loc():
    loc = jnp.zeros((5, 3, 4))
    for scale in (1.0, jnp.ones(4), jnp.ones((3, 4)), jnp.ones((5, 3, 4))):
        assert vi.likelihoods.normal(loc, scale=scale).log_prob(jnp.ones(4)).shape == (5, 3)


def test_images_may_keep_their_axes():
    likelihood = vi.likelihoods.bernoulli(jnp.zeros((5, 3, 8, 8)), event_ndims=2)
    chex.assert_trees_all_close(
        likelihood.log_prob(jnp.ones((3, 8, 8))), jnp.full((5, 3), 64 * jnp.log(0.5)), rtol=1e-6
    )
