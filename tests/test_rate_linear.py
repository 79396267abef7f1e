"""The linear VAE of the sweep over beta: its closed form, and that training reaches it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vi
from experiments import _rate_linear, _rate_sweep
from experiments._rate_frontier import slopes
from experiments._rate_linear import LinearVAE, Spectrum, optimum

NOISE = 0.3
CONSTANT = 3 * np.log(2 * np.pi * NOISE)  # of six pixels
BETAS = (0.1, 0.4, 1.5, 6.0)


@functools.cache
def data() -> tuple[np.ndarray, Spectrum]:
    """Correlated data of unequal variances, along one axis none."""
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 5)) @ random.normal(size=(5, 6)) + 3.0
    return x, _rate_linear.spectrum(x, 6)


def at_optimum(variances, beta, num_latents) -> LinearVAE:
    """What the module's docstring derives, written down."""
    signal = np.sqrt(np.maximum(0, 1 - beta * NOISE / variances))[:num_latents]
    maps = np.zeros((len(variances), num_latents))
    np.fill_diagonal(maps, signal)
    return LinearVAE(*map(jnp.asarray, (maps, maps, 0.5 * np.log1p(-(signal**2)))))


def on_data(vae: LinearVAE, beta):
    """The loss at ``beta`` and its terms, over all data."""
    x, spectrum = data()
    u = jnp.asarray((x - spectrum.mean) @ spectrum.axes / np.sqrt(spectrum.variances))
    rate, distortion = _rate_linear.terms(vae, u, jnp.asarray(spectrum.variances), NOISE, CONSTANT)
    return (distortion + beta * rate).mean(), (rate.mean(), distortion.mean())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_latents", [2, 5])
def test_the_closed_form_is_a_minimum_and_holds_its_values(num_latents):
    variances = data()[1].variances
    assert len(variances) == 5
    differentiate = jax.jit(jax.value_and_grad(on_data, has_aux=True))
    random = np.random.default_rng(1)
    for beta in BETAS:
        vae = at_optimum(variances, beta, num_latents)
        (least, terms), gradient = differentiate(vae, beta)
        exact = optimum(variances, beta, NOISE, num_latents, CONSTANT)
        np.testing.assert_allclose(terms, exact[:2], rtol=1e-9, atol=1e-9)
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-8
        for size in (0.01, 0.3):
            moved = jax.tree.map(lambda a, s=size: a + s * random.normal(size=a.shape), vae)
            assert differentiate(moved, beta)[0][0] > least
        _, elsewhere = differentiate(vae, 1.3 * beta)
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(elsewhere)) > 1e-4


@pytest.mark.usefixtures("x64")
def test_the_terms_are_those_of_the_linear_gaussian_model():
    """Minus their sum is its ELBO for any q, and at beta 1 with enough latents log p(x)."""
    x, spectrum = data()
    random = np.random.default_rng(2)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape))  # noqa: E731
    u = jnp.asarray((x - spectrum.mean) @ spectrum.axes / np.sqrt(spectrum.variances))
    weights = spectrum.axes * np.sqrt(spectrum.variances)

    def model(vae):
        decoder = jnp.asarray(weights) @ vae.decoder
        return vi.testing.LinearGaussian(decoder, jnp.asarray(spectrum.mean), jnp.sqrt(NOISE))

    vae = LinearVAE(draw(5, 3), draw(5, 3), draw(3))
    rate, distortion = _rate_linear.terms(vae, u, jnp.asarray(spectrum.variances), NOISE, CONSTANT)
    loc = u @ vae.encoder
    elbo = model(vae).elbo(jnp.asarray(x), loc, jnp.broadcast_to(jnp.exp(vae.log_scale), loc.shape))
    np.testing.assert_allclose(-rate - distortion, elbo, rtol=1e-9)
    best = at_optimum(spectrum.variances, 1.0, 5)
    exact = optimum(spectrum.variances, 1.0, NOISE, 5, CONSTANT)
    log_p = model(best).log_evidence(jnp.asarray(x)).mean()
    np.testing.assert_allclose(-exact.rate - exact.distortion, log_p, rtol=1e-9)


def test_the_slope_of_the_closed_form_is_minus_beta():
    variances = data()[1].variances
    for beta in (0.05, 0.3, 1.0, 3.0):
        near = [
            optimum(variances, b, NOISE, 5, CONSTANT)
            for b in (beta * (1 - 1e-5), beta * (1 + 1e-5))
        ]
        slope = (near[1].distortion - near[0].distortion) / (near[1].rate - near[0].rate)
        np.testing.assert_allclose(slope, -beta, rtol=1e-4)
    assert optimum(variances, 1e4, NOISE, 5, CONSTANT).active_units == 0
    noise = _rate_linear.noise_variance(variances, (0.5, 1.0), 3)
    assert [optimum(variances, b, noise, 3, CONSTANT).active_units for b in (0.4999, 0.55)] == [
        3,
        3,
    ]
    assert optimum(variances, 0.5, noise, 4, CONSTANT).active_units == 3


def test_variance_left_out_is_left_to_the_noise():
    x, whole = data()
    part = _rate_linear.spectrum(x, 2)
    assert whole.constant(NOISE) == pytest.approx(CONSTANT, rel=1e-12)
    held = [optimum(s.variances, 5.0, NOISE, 2, s.constant(NOISE)) for s in (part, whole)]
    assert held[0] == pytest.approx(held[1], rel=1e-9)
    assert part.constant(NOISE) > whole.constant(NOISE) + 1


def test_points_stand_for_all_data():
    x, spectrum = data()
    vae = _rate_linear.start(jax.random.key(0), 5, 3)
    u = spectrum.standardise(x)
    np.testing.assert_allclose(u.T @ u / len(u), np.eye(5), atol=1e-5)
    variances = jnp.asarray(spectrum.variances, jnp.float32)
    terms = [
        _rate_linear.terms(vae, jnp.asarray(points), variances, NOISE, CONSTANT)
        for points in (u, _rate_linear.moment_points(5))
    ]
    ours, theirs = (np.array([term.mean() for term in pair]) for pair in terms)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_the_sweep_reaches_the_closed_form():
    variances, betas = data()[1].variances, (0.2, 0.5, 1.0, 2.0)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, 3000, 1e-4))
    start = _rate_sweep.stacked(_rate_linear.start(jax.random.key(3), 5, 4), betas)
    loss = _rate_sweep.of_all(
        _rate_linear.make_loss(variances, NOISE, CONSTANT), _rate_sweep.parting(betas, 3000)
    )
    step = vi.training.stateful_gradient_step(loss, optimizer)

    @jax.jit
    def train(key, state):
        points = _rate_linear.moment_points(5)
        return vi.training.run(key, step, state, points, num_steps=3000, batch_size=5)[0].params

    vaes = train(jax.random.key(4), vi.training.init(start, optimizer))
    held = jax.vmap(lambda vae: on_data(vae, 1.0)[1])(vaes)
    exact = np.array([optimum(variances, b, NOISE, 4, CONSTANT)[:2] for b in betas]).T
    np.testing.assert_allclose(np.array(held), exact, rtol=0.01, atol=0.01)
    found = slopes(betas, *np.array(held)).deviation(slopes(betas, *exact).slope)
    assert np.isfinite(found).any()
    assert np.nanmax(found) < 0.01, found
