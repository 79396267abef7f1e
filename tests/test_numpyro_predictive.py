"""Weighted predictions against exact posterior predictives, which a wrong guide alone misses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive

import vi
from vi.numpyro import WeightedPredictive, log_weights

X = jnp.array([0.5, -1.0, 1.5])
Y = jnp.array([1.2, -1.0, 2.9])
key = jax.random.key


def regression(x, y=None):
    noise = numpyro.param("noise", 9.0)
    w = numpyro.sample("w", dist.Normal(0, 1))
    with numpyro.plate("N", x.shape[0]):
        numpyro.deterministic("mean", w * x)
        numpyro.sample("y", dist.Normal(w * x, noise), obs=y)


def wrong(x, y=None):
    numpyro.sample("w", dist.Normal(numpyro.param("loc", 0.0), numpyro.param("scale", 1.0)))


NOISE = 0.8
VAR = 1 / (1 + (X**2).sum() / NOISE**2)
LOC = VAR * (X * Y).sum() / NOISE**2
PARAMS = {"noise": NOISE, "loc": LOC + VAR**0.5, "scale": 1.6 * VAR**0.5}


@functools.cache
def conditioned(num_particles=20_000, width=1.6, **options):
    params = PARAMS | {"scale": width * VAR**0.5}
    predictive = WeightedPredictive(
        regression, wrong, params, num_particles=num_particles, **options
    )
    return jax.jit(predictive.condition)(key(0), X, Y)


def predicts_the_posterior(y, x, posterior):
    """Whether mean and variance of predictions at x are exact, to 5 standard errors."""
    weights = np.asarray(jax.nn.softmax(posterior.log_weights), np.float64)
    w, loc, var = np.asarray(posterior.samples["w"], np.float64), x * LOC, NOISE**2 + x**2 * VAR
    y = np.asarray(y, np.float64)
    for of_y, of_w, exact in (
        (y, w * x, loc),
        ((y - loc) ** 2, NOISE**2 + (w * x - loc) ** 2, var),
    ):
        of_weights = (weights**2 * (of_w - exact) ** 2).sum()
        error = 5 * (of_weights + of_y.var() / len(y)) ** 0.5
        if abs(of_y.mean() - exact) > error:
            return False
    return True


def test_it_predicts_from_the_posterior_where_the_guide_is_wrong():
    x, posterior = 2.0, conditioned()
    y = jax.jit(posterior)(key(1), jnp.array([x]))["y"][:, 0]
    assert predicts_the_posterior(y, x, posterior)
    plain = Predictive(regression, guide=wrong, params=PARAMS, num_samples=20_000, parallel=True)
    y = jax.jit(plain)(key(2), jnp.array([x]))["y"][:, 0]
    assert not predicts_the_posterior(y, x, posterior)


def test_weights_are_those_of_log_weights():
    posterior = conditioned(100)
    log_w = jax.jit(
        lambda key: log_weights(key, PARAMS, regression, wrong, X, Y, num_particles=100, plates=())
    )(key(0))
    np.testing.assert_array_equal(posterior.log_weights, log_w)
    w = posterior.samples["w"]
    log_p = dist.Normal(0, 1).log_prob(w) + dist.Normal(w[:, None] * X, NOISE).log_prob(Y).sum(1)
    log_q = dist.Normal(PARAMS["loc"], PARAMS["scale"]).log_prob(w)
    np.testing.assert_allclose(posterior.log_weights, log_p - log_q, atol=1e-4)


def test_what_says_whether_to_trust_it():
    wide, narrow = conditioned(), conditioned(width=0.3)
    k = jax.jit(vi.diagnostics.pareto_k)(wide.log_weights)
    size = jax.jit(vi.diagnostics.effective_sample_size)(wide.smoothed)
    np.testing.assert_allclose((wide.pareto_k, wide.effective_sample_size), (k, size), rtol=1e-4)
    assert k < 0.5
    assert size > 5000
    assert narrow.pareto_k > 0.7
    assert narrow.effective_sample_size < 500


@pytest.mark.slow
def test_smoothing_is_a_function():
    smoothed, plain = conditioned(500), conditioned(500, smooth=lambda log_w: log_w)
    expected = jax.jit(vi.diagnostics.pareto_smoothed)(smoothed.log_weights).log_weights
    np.testing.assert_allclose(smoothed.smoothed, expected, rtol=1e-5)
    np.testing.assert_array_equal(plain.smoothed, smoothed.log_weights)
    assert jnp.any(smoothed.smoothed != plain.smoothed)


@pytest.mark.slow
def test_jit_and_eager_agree():
    predictive = WeightedPredictive(regression, wrong, PARAMS, num_particles=30, num_samples=7)
    eager = predictive.condition(key(0), X, y=Y)
    jitted = dataclasses.replace(conditioned(30), num_samples=7)
    np.testing.assert_allclose(eager.log_weights, jitted.log_weights, rtol=1e-5)
    run = jax.jit(lambda posterior, key, x: posterior(key, x))
    for name, value in run(jitted, key(1), X).items():
        np.testing.assert_allclose(value, eager(key(1), X)[name], rtol=1e-5)
        assert value.shape == (7, 3)


def test_draws_are_taken_their_share_of_times():
    posterior = dataclasses.replace(conditioned(100), num_samples=1000)
    particles, weights = posterior.samples["w"], jax.nn.softmax(posterior.smoothed)

    def is_share(w):
        times = (np.asarray(w)[:, None] == np.asarray(particles)).sum(0)
        return np.all(np.abs(times - 1000 * np.asarray(weights)) < 1 + 1e-3)

    drawn = jax.jit(jax.vmap(posterior.resample))(jax.random.split(key(1), 5))["w"]
    assert all(is_share(w) for w in drawn)
    assert not is_share(jax.random.choice(key(2), particles, (1000,), p=weights))

    few = dataclasses.replace(posterior, num_samples=10)
    drawn = jax.jit(jax.vmap(few.resample))(jax.random.split(key(3), 2000))["w"]
    times = (drawn[:, :, None] == particles).sum(1)
    share = np.asarray(10 * weights)
    error = np.sqrt((share % 1) * (1 - share % 1) / 2000)  # a share is rounded up or down
    assert np.all(np.abs(times.mean(0) - share) <= 5 * error + 1e-5)


def test_neighbours_are_not_copies():
    posterior = dataclasses.replace(conditioned(100), num_samples=1000)
    drawn = jax.jit(posterior.resample)(key(1))["w"]
    runs = lambda w: (w[1:] == w[:-1]).mean()  # noqa: E731
    assert runs(drawn) < 0.1 < 0.7 < runs(jnp.sort(drawn))


def test_what_has_no_weight_is_not_drawn():
    posterior = conditioned(30, smooth=lambda log_w: log_w.at[:-1].set(-jnp.inf))
    drawn = posterior.resample(key(1))["w"]
    np.testing.assert_array_equal(drawn, jnp.full(30, posterior.samples["w"][-1]))


def test_discrete_latents():
    def model(y=None):
        c = numpyro.sample("c", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(2.0 * c, 1), obs=y)

    def guide(y=None):
        u = numpyro.sample("u", dist.Normal(0, 1), infer={"is_auxiliary": True})
        numpyro.factor("reverse", -dist.Normal(0, 1).log_prob(u))
        numpyro.sample("c", dist.Bernoulli(0.5))

    predictive = WeightedPredictive(model, guide, {}, num_particles=10_000)
    posterior = jax.jit(predictive.condition)(key(0), 1.5)
    odds = 0.3 / 0.7 * jnp.exp(dist.Normal(2, 1).log_prob(1.5) - dist.Normal(0, 1).log_prob(1.5))
    exact = odds / (1 + odds)
    assert set(posterior.samples) == {"c"}
    weights = jax.nn.softmax(posterior.log_weights)
    c = posterior.resample(key(1))["c"]
    error = 5 * jnp.sqrt((weights**2 * (posterior.samples["c"] - exact) ** 2).sum() + 0.25 / 10_000)
    assert abs(c.mean() - exact) < error
    assert abs(posterior.samples["c"].mean() - exact) > error


def groups(y=None, num=4):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("N", num):
        z = numpyro.sample("z", dist.Normal(mu, 0.1))
        numpyro.sample("y", dist.Normal(z, 0.1), obs=y)


def groups_guide(y=None, num=4):
    numpyro.sample("mu", dist.Normal(y.mean(), 0.3))
    with numpyro.plate("N", num):
        numpyro.sample("z", dist.Normal(y, 0.1))


def test_local_latents_of_new_data_are_drawn_anew():
    y = jnp.array([2.0, 2.2, 1.9, 2.1])
    options = {"num_particles": 2000, "num_samples": 500}
    every = jax.jit(WeightedPredictive(groups, groups_guide, {}, **options).condition)(key(0), y)
    assert jax.jit(every)(key(1))["y"].shape == (500, 4)
    with pytest.raises(ValueError, match=r"draw z in .* \[4\] \(got \[9\]\); .* held_sites"):
        jax.jit(lambda k: every(k, num=9))(key(1))
    predictive = WeightedPredictive(groups, groups_guide, {}, held_sites=["mu"], **options)
    new = jax.jit(lambda k: predictive.condition(key(0), y)(k, num=9))(key(1))
    assert set(new) == {"y", "z"}
    assert new["y"].shape == (500, 9)
    assert abs(new["y"].mean() - 2.04) < 0.1  # the prior's mean is 0


def test_what_is_returned_is_said():
    some, all_sites = (
        jax.jit(dataclasses.replace(conditioned(30), return_sites=sites))(key(1), X)
        for sites in (("mean",), None)
    )
    assert set(some) == {"mean"}
    assert set(all_sites) == {"mean", "y"}
    w = conditioned(30).resample(jax.random.split(key(1))[0])["w"]
    np.testing.assert_allclose(some["mean"], w[:, None] * X, rtol=1e-6)


def test_sites_of_a_scan():
    def model(y):
        def step(past, seen):
            z = numpyro.sample("z", dist.Normal(past, 1))
            numpyro.sample("y", dist.Normal(z, 1), obs=seen)
            return z, z

        numpyro.deterministic("path", scan(step, 0.0, y)[1])

    def guide(y):
        numpyro.sample("z", dist.Normal(y / 2, 1))

    predictive = WeightedPredictive(model, guide, {}, num_particles=30)
    with jax.debug_key_reuse(False):  # a scan of NumPyro's
        posterior = jax.jit(predictive.condition)(key(0), Y)
        path = jax.jit(posterior)(key(1), Y)["path"]
    drawn = posterior.resample(jax.random.split(key(1))[0])
    np.testing.assert_allclose(path, drawn["z"], rtol=1e-6)


def test_refusals():
    def predictive(model=regression, guide=wrong, **options):
        return WeightedPredictive(model, guide, PARAMS, **{"num_particles": 30} | options)

    with pytest.raises(ValueError, match=r"num_particles must be an integer of at least 21"):
        predictive(num_particles=20)
    with pytest.raises(ValueError, match=r"num_samples must be an integer of at least 1"):
        predictive(num_samples=0)
    with pytest.raises(ValueError, match=r"held_sites must be names of sites \(got 'w'\)"):
        predictive(held_sites="w")
    with pytest.raises(ValueError, match=r"held_sites must be latents \(got v\); .* are: w"):
        predictive(held_sites=["v"]).condition(key(0), X, Y)
    with pytest.raises(ValueError, match="key must be a typed PRNG key"):
        predictive().condition(jax.random.PRNGKey(0), X, Y)
    with pytest.raises(ValueError, match="key must be a typed PRNG key"):
        predictive().condition(key(0), X, Y)(0, X)
    impossible = handlers.condition(lambda: numpyro.factor("none", -jnp.inf), {})
    with pytest.raises(ValueError, match=r"guide must draw what has a weight .* -inf"):
        predictive(impossible, lambda: None).condition(key(0))


def test_a_subsample_has_no_weight_of_the_whole():
    def model(y):
        with numpyro.plate("N", 3, subsample_size=2) as i:
            numpyro.sample("y", dist.Normal(numpyro.sample("z", dist.Normal(0, 1)), 1), obs=y[i])

    def guide(y):
        with numpyro.plate("N", 3, subsample_size=2):
            numpyro.sample("z", dist.Normal(0, 1))

    predictive = WeightedPredictive(model, guide, {}, num_particles=30)
    with jax.debug_key_reuse(False), pytest.raises(ValueError, match="subsample_size=None"):
        predictive.condition(key(0), Y)


def test_a_latent_that_only_the_model_draws_is_refused():
    def model(y=None):
        w = numpyro.sample("w", dist.Normal(0, 1))
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(z + w, 0.3), obs=y)

    def guide(y=None):
        numpyro.sample("z", dist.Normal(0, 1))

    predictive = vi.numpyro.WeightedPredictive(model, guide, {}, num_particles=50)
    with (
        pytest.warns(UserWarning, match="Found vars in model but not guide"),
        pytest.raises(ValueError, match=r"every latent of the model \(got none for w\)"),
    ):
        predictive.condition(jax.random.key(0), 2.0)
