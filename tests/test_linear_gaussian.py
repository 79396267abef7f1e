"""Table G: the linear-Gaussian model, where every number has a closed form to be held to."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import integrate, stats

from vi.bounds import elbo, iwae
from vi.testing import LinearGaussian, ppca
from vi.types import log_weights

pytestmark = pytest.mark.usefixtures("x64")
RTOL = 1e-11  # float64, a few matrix products


def make(P=4, D=2) -> LinearGaussian:
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(P, D)), rng.normal(size=P)
    return LinearGaussian(jnp.asarray(W, float), jnp.asarray(b, float), jnp.array(0.7))


def make_data(model, num_data):
    """Data, and a mean-field q for each: its means and its standard deviations."""
    rng, (P, D) = np.random.default_rng(1), model.weights.shape
    x, loc = 2 * rng.normal(size=(num_data, P)), rng.normal(size=(num_data, D))
    scale = np.exp(0.3 * rng.normal(size=(num_data, D)))
    return tuple(jnp.asarray(a, float) for a in (x, loc, scale))


@jax.jit
def exact(model, x, loc, scale):
    """(ELBO, KL, log-evidence), compiled once a shape."""
    terms = model.elbo(x, loc, scale), model.kl_to_posterior(x, loc, scale)
    return *terms, model.log_evidence(x)


@pytest.mark.parametrize("dims", [(1, 1), (4, 2), (3, 5)])
def test_evidence_is_elbo_plus_kl(dims):
    model = make(*dims)
    value, kl, log_evidence = map(np.asarray, exact(model, *make_data(model, 6)))
    np.testing.assert_allclose(value + kl, log_evidence, rtol=RTOL)
    assert (kl > 0.01).all(), "the identity is tested away from KL = 0"


def test_both_decompositions_agree_in_closed_form():
    model = make()
    x, loc, scale = make_data(model, 6)

    @jax.jit
    def both():
        q = dist.Normal(loc, scale).to_event(1)
        residual = ((x - model.bias - loc @ model.weights.T) ** 2).sum(-1)
        spread = (scale**2 @ model.weights.T**2).sum(-1)
        normaliser = 4 * jnp.log(model.noise_scale * jnp.sqrt(2 * jnp.pi))
        log_lik = -0.5 * (residual + spread) / model.noise_scale**2 - normaliser
        covariance = jax.vmap(jnp.diag)(scale**2)
        joint = model.expected_log_joint(x, loc, covariance)
        return log_lik - dist.kl_divergence(q, model.prior), joint + q.entropy()

    for value in both():
        np.testing.assert_allclose(value, exact(model, x, loc, scale)[0], rtol=RTOL)


def test_the_kl_is_that_of_two_gaussians():
    model = make()
    x, loc, scale = make_data(model, 6)

    @jax.jit
    def numpyro_kl():
        q = dist.MultivariateNormal(loc, jax.vmap(jnp.diag)(scale**2))
        return dist.kl_divergence(q, model.posterior(x))

    np.testing.assert_allclose(exact(model, x, loc, scale)[1], numpyro_kl(), rtol=1e-10)


def test_every_weight_is_the_evidence_where_q_is_the_posterior():
    model = make()
    x, _, _ = make_data(model, 6)

    @jax.jit
    def weights_and_bounds(key):
        posterior = model.posterior(x)
        log_w = log_weights(posterior.sample(key, (5,)), posterior, model.log_joint(x))
        return model.log_evidence(x), (log_w, elbo(log_w), iwae(log_w))

    log_evidence, all_equal = weights_and_bounds(jax.random.key(3))
    for value in all_equal:
        np.testing.assert_allclose(value, np.broadcast_to(log_evidence, value.shape), rtol=RTOL)


def test_the_evidence_against_scipy_and_quadrature():
    model = make(P=2, D=1)
    x, _, _ = make_data(model, 3)
    W, variance = np.asarray(model.weights), float(model.noise_scale) ** 2
    reference = stats.multivariate_normal(model.bias, W @ W.T + variance * np.eye(2))
    log_evidence = jax.jit(model.log_evidence)(x)
    np.testing.assert_allclose(log_evidence, reference.logpdf(x), rtol=RTOL)

    grid = np.linspace(-12, 12, 4001)[:, None, None]
    density = np.exp(jax.jit(model.log_joint(x))(np.broadcast_to(grid, (4001, 3, 1))))
    evidence = integrate.trapezoid(density, dx=24 / 4000, axis=0)
    np.testing.assert_allclose(np.log(evidence), log_evidence, rtol=RTOL)


def test_samples_have_the_moments_of_the_model():
    model, N = make(), 20_000
    z, x = map(np.asarray, model.sample(jax.random.key(4), N))
    model = jax.tree.map(np.asarray, model)
    covariance = model.weights @ model.weights.T + model.noise_scale**2 * np.eye(4)
    stderr = np.sqrt(np.diag(covariance) / N)
    assert (np.abs(x.mean(0) - model.bias) < 5 * stderr).all()
    products = (x - model.bias)[:, :, None] * (x - model.bias)[:, None]
    assert (np.abs(products.mean(0) - covariance) < 5 * products.std(0) / N**0.5).all()
    cross = (x - model.bias)[:, :, None] * z[:, None]  # Cov(x, z) = W
    assert (np.abs(cross.mean(0) - model.weights) < 5 * cross.std(0) / N**0.5).all()


def test_gradients_are_those_of_finite_differences():
    model = make()
    x, loc, scale = make_data(model, 3)

    def total(model, loc, scale):
        return model.elbo(x, loc, scale).sum() + model.log_evidence(x).sum()

    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(model, loc, scale)
    step = 1e-5  # central: error step^2 times a third derivative, and rounding over step
    flat, unflatten = jax.flatten_util.ravel_pytree((model, loc, scale))
    nudged = flat + step * jnp.concatenate([jnp.eye(flat.size), -jnp.eye(flat.size)])
    up, down = np.split(jax.jit(jax.vmap(lambda one: total(*unflatten(one))))(nudged), 2)
    closed_form, _ = jax.flatten_util.ravel_pytree(gradient)
    np.testing.assert_allclose(closed_form, (up - down) / (2 * step), rtol=1e-6, atol=1e-6)


def test_the_mean_field_optimum_has_the_inverse_of_the_precision_diagonal():
    model = make()
    x, _, _ = make_data(model, 3)
    posterior = model.posterior(x)
    precision = jnp.linalg.inv(posterior.covariance_matrix.reshape(2, 2))
    loc, scale = posterior.mean, jnp.tile(jnp.diag(precision) ** -0.5, (3, 1))
    gradient_of = jax.jit(jax.grad(lambda *q: model.elbo(x, *q).sum(), argnums=(0, 1)))
    gradient = gradient_of(loc, scale)
    np.testing.assert_allclose(jnp.concatenate(gradient), 0.0, atol=1e-10)


@pytest.fixture(scope="module")
def data():
    """Data that no model here made: a rank-three signal in noise of unequal scale."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 5))
        return jnp.asarray(x + rng.normal(size=(60, 5)) * [0.2, 0.4, 0.6, 0.8, 1.0] + 1.0)


@pytest.fixture(scope="module")
def fitted(data):
    with jax.enable_x64(True):
        return jax.jit(lambda x: ppca(x, 2))(data)


def test_ppca_is_the_maximum_of_the_evidence(data, fitted):
    model = fitted

    @jax.jit
    def total(model):
        return model.log_evidence(data).sum()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(model)):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-9)
    flat, unflatten = jax.flatten_util.ravel_pytree(model)
    nudges = 0.1 * np.random.default_rng(0).normal(size=(50, flat.size))
    perturbed = jax.jit(jax.vmap(lambda nudge: total(unflatten(flat + nudge))))(nudges)
    assert (perturbed < total(model)).all()
    assert (jnp.diff(jnp.linalg.norm(model.weights, axis=0)) < 0).all(), "largest direction first"


def test_the_linear_vae_attains_the_evidence_at_ppca(data, fitted):
    """The posterior covariance is diagonal there: mean-field costs nothing, nothing is better."""
    model, posterior = fitted, jax.jit(LinearGaussian.posterior)(fitted, data)
    covariance = posterior.covariance_matrix.reshape(2, 2)
    np.testing.assert_allclose(covariance[0, 1], 0.0, atol=1e-12)
    scale = jnp.tile(jnp.sqrt(jnp.diag(covariance)), (60, 1))
    value, kl, log_evidence = exact(model, data, posterior.mean, scale)
    np.testing.assert_allclose(value, log_evidence, rtol=RTOL)
    np.testing.assert_allclose(kl, 0.0, atol=1e-12)

    def total(model, loc, scale):  # the linear VAE's objective, amortisation at its best
        return model.elbo(data, loc, scale).sum()

    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(model, posterior.mean, scale)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-9)


def test_a_rotated_ppca_has_the_evidence_but_a_lower_mean_field_elbo(data, fitted):
    turn = jnp.array([[0.8, -0.6], [0.6, 0.8]])
    turned = LinearGaussian(fitted.weights @ turn, fitted.bias, fitted.noise_scale)
    posterior = jax.jit(LinearGaussian.posterior)(turned, data)
    precision = jnp.linalg.inv(posterior.covariance_matrix.reshape(2, 2))
    best = jnp.tile(jnp.diag(precision) ** -0.5, (60, 1))
    value, kl, log_evidence = map(np.asarray, exact(turned, data, posterior.mean, best))
    unturned = exact(fitted, data, posterior.mean, best)[2]
    np.testing.assert_allclose(log_evidence, unturned, rtol=RTOL)
    assert (kl > 1e-3).all()
    np.testing.assert_allclose(value, log_evidence - kl, rtol=RTOL)


def em_step(model, x):
    """Tipping and Bishop (1999), eqs. 25 to 28: the posterior, then the best model given it."""
    posterior = model.posterior(x)
    loc, covariance = posterior.mean, posterior.covariance_matrix.reshape(2, 2)
    centred = x - model.bias
    second = len(x) * covariance + loc.T @ loc
    weights = jnp.linalg.solve(second, loc.T @ centred).T
    residual = (centred**2).sum() - 2 * (centred * (loc @ weights.T)).sum()
    variance = (residual + jnp.trace(second @ weights.T @ weights)) / x.size
    return LinearGaussian(weights, model.bias, jnp.sqrt(variance))


def test_em_climbs_the_elbo_and_touches_the_evidence_after_each_e_step(data, fitted):
    best = fitted
    model = LinearGaussian(make(5, 2).weights, data.mean(0), jnp.array(2.0))

    def total_elbo(model, q):
        covariance = q.covariance_matrix.reshape(2, 2)
        return (model.expected_log_joint(data, q.mean, covariance) + q.entropy()).sum()

    def one_step(model, _):
        q = model.posterior(data)
        after = em_step(model, data)
        evidence = model.log_evidence(data).sum()
        return after, (evidence, total_elbo(model, q), total_elbo(after, q))

    model, (evidence, after_e, after_m) = jax.lax.scan(one_step, model, length=300)
    np.testing.assert_allclose(after_e, evidence, rtol=RTOL)
    assert (after_m >= after_e - 1e-9).all(), "the M step never lowers the ELBO"
    assert (jnp.diff(evidence) >= -1e-9).all()
    assert after_m[0] > after_e[0] + 1.0, "and is tested where it climbs"
    np.testing.assert_allclose(
        model.log_evidence(data).sum(), best.log_evidence(data).sum(), rtol=1e-8
    )
    np.testing.assert_allclose(
        model.weights @ model.weights.T, best.weights @ best.weights.T, atol=1e-3
    )


def test_float32_stays_float32_and_near():
    with jax.enable_x64(False):
        model = make()
        value, kl, log_evidence = exact(model, *make_data(model, 6))
        assert value.dtype == kl.dtype == log_evidence.dtype == jnp.float32
        np.testing.assert_allclose(value + kl, log_evidence, rtol=1e-5)


def test_batches_of_any_rank_and_none():
    model = make()
    x, loc, scale = make_data(model, 6)
    expected = exact(model, x, loc, scale)
    reshaped = exact(model, *(a.reshape(2, 3, -1) for a in (x, loc, scale)))
    single = exact(model, x[0], loc[0], scale[0])
    for one, two, three in zip(expected, reshaped, single, strict=True):
        np.testing.assert_allclose(two, one.reshape(2, 3), rtol=1e-10)
        np.testing.assert_allclose(three, one[0], rtol=1e-10)
    assert jax.eval_shape(model.log_joint(x), jnp.zeros((7, 6, 2))).shape == (7, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.log_evidence(jnp.zeros((3, 5))), r"log_evidence: x must end in .* P = 4"),
        (lambda m: m.log_joint(jnp.zeros(())), "log_joint: x must"),
        (lambda m: m.elbo(jnp.zeros(4), jnp.zeros((3, 2)), jnp.ones(2)), "elbo: loc must have"),
        (lambda m: m.elbo(jnp.zeros(4), jnp.zeros(2), jnp.ones(())), "elbo: scale must have"),
        (lambda m: m.kl_to_posterior(jnp.zeros(4), jnp.zeros(3), jnp.ones(3)), "loc must have"),
        (lambda m: m.sample(jax.random.key(0), 0), "sample: num_data must be an integer"),
        (lambda m: m.sample(0, 3), "sample: key must be a typed PRNG key"),
        (lambda m: ppca(jnp.zeros((9, 4)), 4), r"ppca: num_latents must be below P = 4"),
        (lambda m: ppca(jnp.zeros(9), 1), "ppca: x must be a matrix"),
        (lambda m: ppca(jnp.zeros((9, 4)), 0), "ppca: num_latents must be an integer"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(make())
