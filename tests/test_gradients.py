"""Every estimator of every bound: the value is the bound, the mean gradient is its derivative."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import vi
from tests.models import (
    GivenNoise,
    exact_bound,
    log_joint,
    mean_gradient,
    renyi,
    scalar_params,
)
from vi.bounds import elbo, iwae
from vi.gradients import dreg, estimator, reparam
from vi.types import Coefficients

ESTIMATORS = {"reparam": reparam, "dreg": dreg}
BOUNDS = {"elbo": elbo, "iwae": iwae, "renyi(0.4)": renyi(0.4), "renyi(-1)": renyi(-1.0)}
PAIRS = [(e, b) for e in ESTIMATORS for b in BOUNDS]
pairs = pytest.mark.parametrize(("estimator_name", "bound_name"), PAIRS)


@estimator
def stop_q(bound, log_w):
    """Sticking the landing beyond the ELBO: biased; the twin that must fail."""
    first = vi.bounds.first_derivative(bound, log_w)
    return Coefficients(theta=first, path=first)


def value_at(objective, params, key, num_samples=8):
    q = vi.families.normal(params["loc"][None], log_scale=params["log_scale"][None])
    return objective(key, q, lambda z: log_joint(params)(z).sum(-1), num_samples)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_samples", [1, 2])
@pairs
def test_mean_gradient_is_the_derivative_of_the_mean(estimator_name, bound_name, num_samples):
    params, bound = scalar_params(), BOUNDS[bound_name]
    exact = jax.grad(lambda p: exact_bound(bound, p, num_samples))(params)
    mean = mean_gradient(ESTIMATORS[estimator_name](bound), params, num_samples)
    # the tolerance is the quadrature's own error, from a coarser rule
    coarse = mean_gradient(ESTIMATORS[estimator_name](bound), params, num_samples, num_nodes=97)
    error = jax.tree.map(lambda a, b: 10 * jnp.abs(a - b) + 1e-12, mean, coarse)
    miss = jax.tree.map(lambda a, b: jnp.abs(a - b), mean, exact)
    assert all(m <= e < 1e-6 for m, e in zip(*map(jax.tree.leaves, (miss, error)), strict=True))


@pytest.mark.usefixtures("x64")
def test_stopping_q_under_iwae_is_caught():
    params = scalar_params()
    exact = jax.grad(lambda p: exact_bound(iwae, p, 2))(params)
    mean = mean_gradient(stop_q(iwae), params, 2)
    assert mean["log_scale"] / exact["log_scale"] > 2.8
    chex.assert_trees_all_close(mean["w"], exact["w"], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_dreg_of_the_elbo_is_sticking_the_landing():
    params, noise = scalar_params(), jnp.array([0.3, -1.2, 0.8])

    def stl(params):
        q = GivenNoise(params["loc"], params["log_scale"], noise)
        held = GivenNoise(*jax.lax.stop_gradient((params["loc"], params["log_scale"])), noise)
        z = q.rsample(None)
        return elbo(log_joint(params)(z) - held.log_prob(z))

    def ours(params):
        q = GivenNoise(params["loc"], params["log_scale"], noise)
        return dreg(elbo)(jax.random.key(0), q, log_joint(params), 3)

    chex.assert_trees_all_close(jax.grad(ours)(params), jax.grad(stl)(params), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_at_one_sample_dreg_is_sticking_the_landing_for_every_lower_bound():
    params, noise = scalar_params(), jnp.array([0.3])
    gradients = [
        jax.grad(
            lambda p, b=bound: dreg(b)(
                jax.random.key(0), GivenNoise(p["loc"], p["log_scale"], noise), log_joint(p), 1
            )
        )(params)
        for bound in BOUNDS.values()
    ]
    for gradient in gradients[1:]:
        chex.assert_trees_all_close(gradient, gradients[0], rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_dreg_of_iwae_has_the_papers_squared_weights():
    params, noise = scalar_params(), jnp.array([0.3, -1.2, 0.8])
    scale = jnp.exp(params["log_scale"])
    z = params["loc"] + scale * noise

    def log_w(z):
        return log_joint(params)(z) - dist.Normal(params["loc"], scale).log_prob(z)

    squared = jax.nn.softmax(log_w(z)) ** 2 * jax.vmap(jax.grad(log_w))(z)

    def ours(params):
        q = GivenNoise(params["loc"], params["log_scale"], noise)
        return dreg(iwae)(jax.random.key(0), q, log_joint(params), 3)

    gradient = jax.grad(ours)(params)
    chex.assert_trees_all_close(gradient["loc"], squared.sum(), rtol=1e-12)
    chex.assert_trees_all_close(gradient["log_scale"], squared @ (scale * noise), rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "bound",
    [
        pytest.param(bound, marks=() if name == "iwae" else pytest.mark.slow, id=name)
        for name, bound in BOUNDS.items()
    ],
)
def test_reparam_is_the_finite_difference_at_fixed_noise(bound):
    params, noise = scalar_params(), jnp.array([0.3, -1.2, 0.8])

    def value(params):
        q = GivenNoise(params["loc"], params["log_scale"], noise)
        return reparam(bound)(jax.random.key(0), q, log_joint(params), 3)

    jax.test_util.check_grads(value, (params,), order=2, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_at_the_posterior_dreg_of_the_elbo_has_no_gradient_and_reparam_has():
    model = vi.testing.LinearGaussian(jnp.eye(2), jnp.zeros(2), jnp.asarray(0.5))
    x = jnp.array([[0.3, -0.4], [1.0, 2.0]])
    posterior = model.posterior(x)  # its covariance is diagonal: the weights are orthogonal
    log_scale = jnp.broadcast_to(0.5 * jnp.log(posterior.variance), x.shape)
    params = {"loc": posterior.mean, "log_scale": log_scale}

    def gradient(objective):
        def value(params):
            q = vi.families.normal(params["loc"], log_scale=params["log_scale"])
            return objective(jax.random.key(0), q, model.log_joint(x), 16).sum()

        return jax.grad(value)(params)

    zeros = jax.tree.map(jnp.zeros_like, params)
    chex.assert_trees_all_close(gradient(dreg(elbo)), zeros, atol=1e-12)
    assert jnp.abs(gradient(reparam(elbo))["log_scale"]).min() > 1e-3


@pytest.mark.usefixtures("x64")
def test_every_estimator_is_unbiased_against_the_linear_gaussian_gradient():
    """Means over 4,000 replicates, z at 5 sigma; the ELBO's terms are Gaussian polynomials."""
    model = vi.testing.LinearGaussian(
        jnp.array([[1.0, 0.3], [-0.5, 0.8]]), jnp.array([0.1, 0.2]), jnp.asarray(0.7)
    )
    x = jnp.array([[0.3, -0.4], [1.0, 2.0]])
    params = (jnp.full((2, 2), 0.2), jnp.full((2, 2), -0.3), model)
    exact = jax.grad(lambda p: p[2].elbo(x, p[0], jnp.exp(p[1])).sum())(params)

    def gradients(objective):
        def value(params, key):
            loc, log_scale, model = params
            q = vi.families.normal(loc, log_scale=log_scale)
            return objective(key, q, model.log_joint(x), 4).sum()

        keys = jax.random.split(jax.random.key(1), 4000)
        return jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))(params, keys)

    def worst(objective):
        def z_score(g, e):
            stderr = g.std(0, ddof=1) / jnp.sqrt(g.shape[0])
            return jnp.max(jnp.abs(g.mean(0) - e) / jnp.maximum(stderr, 1e-12))

        return max(jax.tree.leaves(jax.tree.map(z_score, gradients(objective), exact)))

    @estimator
    def twin(bound, log_w):
        first = vi.bounds.first_derivative(bound, log_w)
        return Coefficients(theta=first, path=1.02 * first, score=-first)

    for make in ESTIMATORS.values():
        assert worst(make(elbo)) < 5
    assert worst(twin(elbo)) > 5


@pairs
def test_value_is_the_bound_whatever_the_estimator(estimator_name, bound_name):
    params, bound = scalar_params(jnp.float32), BOUNDS[bound_name]
    objective = ESTIMATORS[estimator_name](bound)
    q = vi.families.normal(params["loc"][None], log_scale=params["log_scale"][None])
    z = q.rsample(jax.random.key(3), (8,))
    log_w = vi.types.log_weights(z, q, lambda z: log_joint(params)(z).sum(-1))
    value, gradient = jax.value_and_grad(lambda p: value_at(objective, p, jax.random.key(3)))(
        params
    )
    assert value_at(objective, params, jax.random.key(3)) == value
    chex.assert_trees_all_close(value, bound(log_w), rtol=1e-6)
    chex.assert_tree_all_finite(gradient)


@pairs
def test_jit_equals_eager_and_compiles_once(estimator_name, bound_name):
    objective = ESTIMATORS[estimator_name](BOUNDS[bound_name])
    params = scalar_params(jnp.float32)
    chex.clear_trace_counter()

    def value(params, key):
        return value_at(objective, params, key)

    step = jax.jit(jax.value_and_grad(chex.assert_max_traces(value, n=1)))
    for seed in (0, 1):
        chex.assert_trees_all_close(
            step(params, jax.random.key(seed)),
            jax.value_and_grad(value)(params, jax.random.key(seed)),
            rtol=2e-5,
            atol=1e-6,
        )


@pairs
def test_declared_and_generic_derivatives_give_one_gradient(estimator_name, bound_name):
    bound, make = BOUNDS[bound_name], ESTIMATORS[estimator_name]
    params = scalar_params(jnp.float32)
    bare = lambda log_w: bound(log_w)  # noqa: E731 - carries no declaration
    gradients = [
        jax.grad(lambda p, b=b: value_at(make(b), p, jax.random.key(5)))(params)
        for b in (bound, bare)
    ]
    chex.assert_trees_all_close(*gradients, rtol=2e-5, atol=1e-6)


def test_half_precision_densities_give_a_float32_bound():
    params = scalar_params(jnp.bfloat16)
    value, gradient = jax.value_and_grad(lambda p: value_at(dreg(iwae), p, jax.random.key(0)))(
        params
    )
    assert value.dtype == jnp.float32
    assert gradient["w"].dtype == jnp.bfloat16


def test_a_weight_of_zero_leaves_the_gradient_finite():
    def value(params, cut):
        q = vi.families.normal(params["loc"][None], log_scale=params["log_scale"][None])

        def restricted(z):
            return jnp.where(z[:, 0] > cut, log_joint(params)(z[:, 0]), -jnp.inf)

        return dreg(iwae)(jax.random.key(0), q, restricted, 16)

    params = scalar_params(jnp.float32)
    some, gradient = jax.value_and_grad(value)(params, 0.4)
    assert jnp.isfinite(some)
    chex.assert_tree_all_finite(gradient)
    none, gradient = jax.value_and_grad(value)(params, 1e6)
    assert none == -jnp.inf
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, params))


@pytest.mark.slow
def test_second_derivatives_under_reparam_are_the_bounds():
    """In float32, with a weight so small that its square underflows, and with F_k = 0."""

    @vi.bounds.declare(direction="divergence", sense="minimise", shift="invariant")
    def variance(log_w):
        return ((log_w - log_w.mean(0)) ** 2).mean(0)

    for bound, noise in ((iwae, jnp.array([0.0, 9.6])), (variance, jnp.array([-1.0, 0.0, 1.0]))):

        def log_p(z, a):
            return -(z**2) * (a + 1)

        def ours(a, bound=bound, noise=noise):
            q = GivenNoise(a, jnp.zeros(()), noise)
            return reparam(bound)(jax.random.key(0), q, lambda z: log_p(z, a), len(noise))

        def plain(a, bound=bound, noise=noise):
            q = GivenNoise(a, jnp.zeros(()), noise)
            return bound(log_p(a + noise, a) - q.log_prob(a + noise))

        at = jnp.zeros(())
        chex.assert_trees_all_close(jax.hessian(ours)(at), jax.hessian(plain)(at), rtol=1e-5)


def test_a_nan_weight_is_not_hidden():
    for bound in (elbo, iwae):
        first, second = vi.bounds.derivatives(bound, jnp.array([[jnp.nan], [-jnp.inf]]))
        assert jnp.isnan(bound(jnp.array([jnp.nan, 0.0])))
    assert jnp.isnan(first).any()
    assert jnp.isnan(second).any()


def test_a_bound_may_hold_parameters_of_each_datum():
    alpha = jnp.array([0.2, 0.5, 0.9])

    def per_datum(log_w):
        return iwae(log_w * alpha) / alpha

    q = vi.families.normal(jnp.zeros((3, 2)), scale=jnp.ones((3, 2)))
    log_joint = lambda z: -(z**2).sum(-1)  # noqa: E731
    for make in (reparam, dreg):
        whole = make(per_datum)(jax.random.key(0), q, log_joint, 4)
        single = make(lambda w: iwae(w * 0.5) / 0.5)(jax.random.key(0), q, log_joint, 4)
        chex.assert_trees_all_close(whole[1], single[1], rtol=1e-6)


def test_a_wrapper_inherits_the_declaration_but_not_the_derivatives():
    tempered = functools.wraps(iwae)(lambda log_w: 2 * iwae(log_w / 2))
    log_w = jnp.array([0.3, -1.0, 2.0])
    generic = jax.grad(lambda w: 2 * iwae(w / 2))(log_w)
    chex.assert_trees_all_close(vi.bounds.first_derivative(tempered, log_w), generic, rtol=1e-5)
    for wrap in (functools.partial, jax.jit, lambda f: functools.wraps(f)(lambda w: f(w))):
        with pytest.raises(ValueError, match="dreg: bound must be smooth"):
            dreg(wrap(vi.bounds.vr_max))


def test_objectives_print_as_they_are_written():
    assert repr(dreg(iwae)) == "dreg(iwae)"
    assert repr(reparam(elbo, chunk_size=8)) == "reparam(elbo, chunk_size=8)"
    assert repr(stop_q(iwae)) == "stop_q(iwae)"
