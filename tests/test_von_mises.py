"""Angles: the implicit derivative against integrals, and what a path needs of the target."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from vi.families import von_mises
from vi.families._von_mises import VonMises, _slope

CONCENTRATIONS = [1e-3, 0.1, 1.0, 5.0, 30.0, 1e3, 1e4]


def integral(function, lower, upper):
    return scipy.integrate.quad(function, lower, upper, epsabs=0, epsrel=1e-13, limit=500)[0]


def one_minus_ratio(concentration):
    """``1 - I_1 / I_0`` by adaptive quadrature, over a range that holds all of the mass."""
    end = min(np.pi, 12 / concentration**0.5)

    def weight(t):
        return np.exp(-2 * concentration * np.sin(t / 2) ** 2)

    mean = integral(lambda t: 2 * np.sin(t / 2) ** 2 * weight(t), 0, end)
    return mean / integral(weight, 0, end)


def exact_slope(x, concentration):
    """``dx / d concentration`` by adaptive quadrature, over the whole of [0, x] or of the tail."""
    rest = one_minus_ratio(concentration)

    def integrand(t):
        fall = -2 * concentration * np.sin((t + x) / 2) * np.sin((t - x) / 2)
        return np.exp(fall) * (rest - 2 * np.sin(t / 2) ** 2)

    if 2 * np.sin(x / 2) ** 2 <= rest:
        return -integral(integrand, 0, x)
    versines = np.sin(x / 2) ** 2 + np.arange(41) / (2 * concentration)  # a nat each
    ends = np.append(2 * np.arcsin(np.sqrt(versines[versines < 1])), np.pi)[:41]
    return sum(integral(integrand, a, b) for a, b in itertools.pairwise(ends))


def points(concentration):
    spread = min(1.5, concentration**-0.5)
    return np.clip(spread * np.array([0.01, 0.3, 0.8, 1.0, 1.3, 2.0, 3.0, 5.0]), 0, 3.1)


def slopes(dtype):
    x = jnp.asarray([points(k) for k in CONCENTRATIONS], dtype)
    at = jnp.asarray(CONCENTRATIONS, dtype)[:, None]
    return np.asarray(jax.jit(_slope)(x, jnp.broadcast_to(at, x.shape)))


def test_the_slope_is_the_integral_at_every_concentration():
    exact = np.array([[exact_slope(x, k) for x in points(k)] for k in CONCENTRATIONS])
    np.testing.assert_allclose(slopes(jnp.float32), exact, rtol=2e-5)
    with jax.enable_x64(True):
        np.testing.assert_allclose(slopes(jnp.float64), exact, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("concentration", [0.5, 2.0, 20.0])
def test_the_slope_is_the_derivative_of_the_quantile(concentration):
    """By differences of SciPy's, which shares no line with ours."""
    x, step = points(concentration)[1:-1], 1e-4
    law = scipy.stats.vonmises
    u = law.cdf(x, concentration)
    ends = [law.ppf(u, concentration + sign * step) for sign in (1, -1)]
    at = jnp.full(x.shape, concentration)
    np.testing.assert_allclose(_slope(jnp.asarray(x), at), (ends[0] - ends[1]) / (2 * step), 1e-4)


def test_the_score_in_the_concentration_keeps_its_digits_where_numpyros_loses_them():
    def worst(make, concentration):
        x = jnp.asarray(points(concentration), jnp.float32)
        of = jax.grad(lambda k, x: make(jnp.float32(0), k).log_prob(x))
        score = jax.jit(jax.vmap(of, (None, 0)))(jnp.float32(concentration), x)
        rest = one_minus_ratio(concentration)
        exact = rest - 2 * np.sin(np.asarray(x, float) / 2) ** 2
        return np.abs(score - exact).max() / rest

    assert max(worst(VonMises, k) for k in CONCENTRATIONS) < 5e-6
    assert worst(dist.VonMises, 1e4) > 5e-4


def p_value(x, concentration):
    """Of a Kolmogorov-Smirnov test; a normal where the cumulants beyond two are lost in float32."""
    law = scipy.stats.vonmises(concentration)
    if concentration > 1e5:
        law = scipy.stats.norm(scale=concentration**-0.5)
    return scipy.stats.kstest(np.asarray(x, float), law.cdf).pvalue


def test_draws_follow_the_law_at_every_concentration():
    at = jnp.array([1e-3, 0.3, 1.0, 5.0, 300.0, 1e4, 1e8, 1e12])

    @jax.jit
    def compute(at, key):
        return von_mises(jnp.zeros(at.shape), at).sample(key, (20_000,))

    z = np.asarray(compute(at, jax.random.key(0)))
    assert z.min() >= -np.pi
    assert z.max() < np.pi
    for x, concentration in zip(z.T, np.asarray(at, float), strict=True):
        assert p_value(x, concentration) > 1e-6
        assert concentration < 0.1 or p_value(1.1 * x, concentration) < 1e-6  # the twin


def test_draws_are_wrapped_about_their_loc_and_scored_as_numpyro_does():
    loc, at = jnp.array([3.0, -0.4]), jnp.array([1.5, 1.5])

    @jax.jit
    def compute(loc, at, key):
        q, numpyros = von_mises(loc, at), dist.VonMises(loc, at).to_event(1)
        z = q.sample(key, (20_000,))
        return z, q.log_prob(z), numpyros.log_prob(z)

    z, log_q, expected = compute(loc, at, jax.random.key(0))
    np.testing.assert_allclose(log_q, expected, rtol=1e-3, atol=1e-4)
    assert z.min() >= -np.pi
    assert z.max() < np.pi
    centred = np.mod(np.asarray(z - loc, float) + np.pi, 2 * np.pi) - np.pi
    assert p_value(centred[:, 0], 1.5) > 1e-6
    assert p_value(centred[:, 1], 1.5) > 1e-6


def test_far_beyond_it_is_the_normal_that_it_tends_to_where_numpyros_is_lost():
    at = jnp.array([1e8, 1e12])

    @jax.jit
    def compute(at, key):
        def draw(at):
            return von_mises(jnp.zeros(2), at).rsample(key, (2000,))

        z, push = jax.vjp(draw, at)
        log_q = jax.vmap(lambda z, at: von_mises(jnp.zeros(1), at[None]).log_prob(z[:, None]))
        numpyros = dist.VonMises(jnp.zeros(2), at).sample(jax.random.clone(key), (2000,))
        return z, push(jnp.sign(z))[0], log_q(z.T, at), numpyros

    z, slope, log_q, numpyros = compute(at, jax.random.key(0))
    assert (jnp.isnan(numpyros) | (numpyros == 0)).all()
    expected = scipy.stats.norm(scale=np.asarray(at, float) ** -0.5).logpdf(np.asarray(z, float))
    np.testing.assert_allclose(log_q, expected.T, atol=2e-4)
    np.testing.assert_allclose(slope, -jnp.abs(z).sum(0) / (2 * at), rtol=1e-4)  # z = n kappa^-1/2


def test_a_traced_concentration_below_0_gives_nan_and_an_end():
    draw = jax.jit(lambda at, key: von_mises(jnp.zeros(3), at).sample(key, (4,)))
    z = draw(jnp.array([-1.0, jnp.nan, 1.0]), jax.random.key(0))
    np.testing.assert_array_equal(jnp.isnan(z).all(0), [True, True, False])


def test_a_path_needs_a_periodic_target():
    """At a loc by the seam: right for the cosine, and wrong for the angle itself."""
    loc, concentration, grid = 2.6, 1.5, np.linspace(-np.pi, np.pi, 4001)[:-1]

    def gradient_of(function):
        def value(loc, key):
            return function(von_mises(loc[None], jnp.full(1, concentration)).rsample(key)[0])

        keys = jax.random.split(jax.random.key(0), 20_000)
        each = jax.jit(jax.vmap(jax.grad(value), (None, 0)))(jnp.float32(loc), keys)
        density = np.exp(concentration * np.cos(grid - loc))
        density /= density.sum()
        exact = concentration * (np.sin(grid - loc) * density * np.asarray(function(grid))).sum()
        return abs(each.mean() - exact) / (each.std() / len(keys) ** 0.5 + 1e-6)

    assert gradient_of(lambda z: jnp.cos(z) + 0.3 * jnp.sin(2 * z)) < 5
    assert gradient_of(lambda z: z) > 50


def test_extremes_stay_finite():
    @jax.jit
    def compute(concentration, key):
        def value(concentration):
            q = von_mises(jnp.zeros(5), concentration)
            z = q.rsample(key, (2000,))
            return (jnp.cos(z) + q.log_prob(z)[:, None] / 5).mean()

        return jax.value_and_grad(value)(concentration)

    at = jnp.array([1e-6, 1e-3, 1.0, 1e8, 1e12])
    assert all(jnp.isfinite(x).all() for x in compute(at, jax.random.key(0)))


@pytest.mark.parametrize(
    ("loc", "concentration", "message"),
    [
        (jnp.zeros(()), jnp.ones(()), "loc must have a last axis"),
        (jnp.zeros(2), jnp.ones(1), r"concentration must be \[\*batch, D\]"),
        (jnp.zeros(2), jnp.array([1.0, 0.0]), "concentration must be positive"),
    ],
)
def test_bad_input_is_refused(loc, concentration, message):
    with pytest.raises(ValueError, match=f"von_mises: {message}"):
        von_mises(loc, concentration)
