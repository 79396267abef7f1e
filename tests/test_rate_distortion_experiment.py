"""The sweep over beta: its steps, its frontier, and a short run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import nnx

from experiments import _rate_linear, _rate_sweep, rate_distortion
from experiments._config import execute, resolve
from experiments._data import binarise, load_digits
from experiments._rate_frontier import above_hull, slopes
from experiments._rate_table import Sweep, measure
from experiments._vae import Architecture, build_vae


@functools.cache
def network():
    images = load_digits()
    return build_vae(Architecture(8, 3, 1), images, nnx.Rngs(0)), jnp.asarray(images.train[:4])


def test_every_beta_takes_its_own_step_on_one_noise():
    model, grey = network()
    betas = (0.5, 2.0, 3.5)

    @jax.jit
    def compute(model):
        key = jax.random.key(1)
        stacked = _rate_sweep.stacked(model, betas)
        total = _rate_sweep.of_all(_rate_sweep.loss, lambda step: step * jnp.asarray(betas))
        together = jax.grad(lambda m: total(m, None, key, grey, jnp.float32(1.0))[0])(stacked)
        alone = [
            jax.value_and_grad(_rate_sweep.loss)(model, b, jax.random.clone(key), grey)
            for b in betas
        ]
        bits_key, draws_key = jax.random.split(jax.random.clone(key))
        x = binarise(bits_key, grey)
        q = model.posterior(x)
        rate = dist.kl_divergence(q, model.prior()).mean()
        distortion = -model.observation(q.rsample(draws_key)).log_prob(x).mean()
        return together, alone, rate, distortion

    together, alone, rate, distortion = compute(model)
    for place, (beta, (value, gradient)) in enumerate(zip(betas, alone, strict=True)):
        np.testing.assert_allclose(value, distortion + beta * rate, rtol=1e-5)
        pairs = zip(jax.tree.leaves(together), jax.tree.leaves(gradient), strict=True)
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours[place], theirs, rtol=1e-4, atol=1e-6)


def test_weights_part_from_the_least_beta_and_arrive():
    weights = _rate_sweep.parting((0.1, 1.0, 10.0), 100)
    for step, expected in (
        (0, [0.1] * 3),
        (30, [0.1] * 3),
        (45, [0.1, 0.1 * 10**0.5, 1.0]),
        (60, [0.1, 1.0, 10.0]),
        (100, [0.1, 1.0, 10.0]),
    ):
        np.testing.assert_allclose(weights(jnp.asarray(step)), expected, rtol=1e-5)


def test_the_terms_are_those_of_the_loss():
    """Over many draws the mean loss is D + beta R; z-test at 5 sigma."""
    model, grey = network()

    @jax.jit
    def compute(model):
        terms = _rate_sweep.terms(jax.random.key(2), model, grey, 400)
        keys = jax.random.split(jax.random.key(3), 400)
        return terms, jax.lax.map(lambda key: _rate_sweep.loss(model, 2.0, key, grey), keys)

    (rate, distortion), losses = compute(model)
    apart = losses.mean() - distortion - 2 * rate
    assert abs(apart) < 5 * np.sqrt(2) * losses.std() / np.sqrt(400)
    assert abs(apart + rate) > 5 * np.sqrt(2) * losses.std() / np.sqrt(400)  # with one rate fewer


def test_slopes_are_judged_where_rates_differ_and_lie_between_the_betas():
    """Of the minima of D(R) = exp(3 - R): R = 3 - log beta."""
    betas = np.array([0.5, 1.0, 2.0, 2.2])
    rate = 3 - np.log(betas)
    found = slopes(tuple(betas), rate, betas)
    np.testing.assert_array_equal(found.is_judged, [True, True, False])
    np.testing.assert_allclose(found.expected, -np.sqrt(betas[1:] * betas[:-1]))
    assert ((-betas[1:] <= found.slope) & (found.slope <= -betas[:-1])).all()
    off = found.deviation()
    np.testing.assert_allclose(off[:2], np.abs(-0.5 / np.log(2) / -np.sqrt(0.5) - 1), rtol=1e-6)
    assert np.isnan(off[2])
    assert above_hull(rate, betas) == 0
    bent = betas + np.array([0, 0.4, 0, 0])
    np.testing.assert_allclose(above_hull(rate, bent), 0.4 + 1 - 1.25, rtol=1e-6)
    assert above_hull(np.zeros(3), np.array([2.0, 1.0, 1.5])) == pytest.approx(1.0)


def test_the_table_counts_what_is_within():
    betas = (0.5, 1.0, 2.0)
    rate = 3 - np.log(np.stack([betas, betas]))
    distortion = np.stack([betas, np.array([0.5, 1.0, 4.0])])
    log_p = np.array([[-1.0, 0.0, 0.5], [-1.0, 0.0, -0.5]])
    sweep = Sweep(rate, distortion, np.ones((2, 3)), log_p)
    table = measure(betas, "network", sweep, np.ones((3, 2, 4)), None)
    assert table["network/slopes judged"].seeds == (2, 2)
    assert table["network/slopes within 25 %"].seeds == (2, 1)
    assert table["network/beta of the best log p"].seeds == (2.0, 1.0)
    assert table["network/largest deviation of a slope"].value > 100
    flat = measure(betas, "network", sweep._replace(rate=0 * rate), np.ones((3, 2, 4)), None)
    assert flat["network/largest deviation of a slope"].value is None


def test_a_run_writes_every_metric_and_goes_on(tmp_path, monkeypatch):
    def run(out):
        config = rate_distortion.Config(preset="smoke", progress=False, out=out)
        name = "rate_distortion"
        return execute(config, rate_distortion.PRESETS, rate_distortion.experiment, name)

    record = run(tmp_path)
    assert record.metrics["linear/beta 0.1: rate"].reference.how == "exact"
    names = {"rate", "distortion", "active units", "log p - that at beta 1, paired"}
    assert names <= {n.split(": ")[-1] for n in record.metrics if n.startswith("network/beta 10:")}
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
    (tmp_path / "results.json").unlink()

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(_rate_sweep, "terms", refuse)
    monkeypatch.setattr(_rate_linear, "terms", refuse)
    assert run(tmp_path).metrics == record.metrics


def test_what_would_fail_late_is_refused_by_its_flag():
    for fields, message in (
        ({"betas": (0.5, 2.0)}, "--betas must be positive numbers that rise, with 1 among them"),
        ({"betas": (1.0, 0.5)}, "--betas must be positive numbers that rise"),
        ({"betas": (1.0,)}, "--betas must be positive numbers that rise"),
        ({"linear_latent": 0}, "--linear-latent must be an integer of at least 1"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive"),
    ):
        config = rate_distortion.Config(preset="smoke", **fields)
        with pytest.raises(ValueError, match=message):
            rate_distortion.check(resolve(config, rate_distortion.PRESETS))
