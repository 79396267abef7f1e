"""The signal-to-noise experiment: its closed forms, the law at toy size, and what it writes."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vi
from experiments import _snr_report, _snr_toy, _snr_vae, gradient_snr
from experiments._config import execute, resolve
from experiments._data import load_digits
from experiments._snr_plots import fit_slope
from experiments._snr_report import BLOCKS, NAMES, NETWORKS
from experiments._vae import Architecture

SAMPLES = (16, 64, 256)
SMALL = 48  # data of the toy


@pytest.fixture(scope="module")
def toy():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_snr_toy, "N", SMALL)
        yield _snr_toy.make_toy(jax.random.key(3))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on a toy of few data: its folder and its record."""
    out = tmp_path_factory.mktemp("snr")
    return out, executed(out)


def executed(out, **fields):
    config = gradient_snr.Config(preset="smoke", progress=False, out=out, **fields)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_snr_toy, "N", SMALL)
        return execute(config, gradient_snr.PRESETS, gradient_snr.experiment, "gradient_snr")


def test_the_ratios_at_one_sample_are_the_closed_form(toy):
    """Each z is Student's t with 19 degrees of freedom, where 7 is as rare as 5 of a normal."""
    losses = {repr(o): _snr_toy.make_loss(o, 1, toy.x) for o in gradient_snr.IWAE}
    meter = vi.diagnostics.gradient_meter(
        jax.random.key(0), losses, toy.params, num_replicates=2000, batch_size=100, num_timings=0
    )
    assert meter.names == NAMES
    assert meter.blocks == BLOCKS
    value, stderr = meter.snr
    exact, twin = (
        np.array([[held[name][block] for block in BLOCKS] for name in NAMES])
        for held in (_snr_toy.exact_snr(toy.x, p) for p in (toy.params, toy.matched))
    )
    assert (np.abs(value - exact) < 7 * stderr).all()
    assert (np.abs(value - twin) > 7 * stderr).all()  # at other parameters


def test_matched_parameters_give_the_posterior_mean(toy):
    held = toy.matched
    posterior_mean = (toy.x + held["mu"]) / 2
    np.testing.assert_allclose(toy.x @ held["A"].T + held["b"], posterior_mean, rtol=1e-5)
    np.testing.assert_array_equal(held["mu"], toy.params["mu"])
    best = toy.x.mean(0)
    offsets = [np.ravel(toy.params["A"] - held["A"]), toy.params["b"] - best / 2]
    offsets = np.concatenate([*offsets, toy.params["mu"] - best])
    sd = offsets.std(ddof=1)
    assert abs(sd - 0.01) < 5 * 0.01 / np.sqrt(2 * (len(offsets) - 1))


def test_a_slope_is_that_of_the_law_and_so_is_its_error():
    samples, errors = np.array([1.0, 4.0, 16.0, 64.0]), np.array([0.1, 0.2, 0.05, 0.1])
    law = 3.0 * samples**-0.5
    slope = fit_slope(samples, law, errors * law)
    np.testing.assert_allclose(slope.value, -0.5)
    np.testing.assert_allclose(np.exp(slope.level), 3.0)
    noise = np.random.default_rng(0).normal(size=(4000, 4)) * errors
    each = [fit_slope(samples, law * np.exp(n), errors * law).value for n in noise]
    spread, stderr = np.std(each), slope.stderr / np.sqrt(2 * len(each))
    assert abs(spread - slope.stderr) < 5 * stderr
    assert abs(spread - 1.1 * slope.stderr) > 5 * stderr


def test_slopes_are_fitted_to_the_larger_half():
    assert [_snr_report.larger_half(n) for n in (2, 3, 4, 5, 6)] == [0, 1, 2, 2, 3]


@pytest.mark.slow
def test_the_law_holds_at_toy_size(toy):
    """Of the inference network: the ratio falls as K^(-1/2) under reparam, and rises under dreg."""
    samples, tables = np.array([64.0, 256.0]), []
    for k in map(int, samples):
        losses = {repr(o): _snr_toy.make_loss(o, k, toy.x) for o in gradient_snr.IWAE}
        key = jax.random.key(k)
        meter = vi.diagnostics.gradient_meter(
            key, losses, toy.params, num_replicates=60, num_timings=0
        )
        tables.append(meter.snr_with(NAMES[1]))
    values, errors = np.moveaxis(np.array(tables), 1, 0)  # [K, E, G] each
    for i, law in enumerate((-0.5, 0.5)):
        slope = fit_slope(samples, values[:, i, 0], errors[:, i, 0])
        assert abs(slope.value - law) < 0.1
        assert slope.stderr < 0.03
        assert abs(slope.value + law) > 0.8  # the other estimator's


@pytest.mark.slow
def test_the_law_holds_in_a_run(tmp_path):
    """Within 0.1 of the limit of large K, to what each slope's error allows."""
    record = executed(
        tmp_path,
        num_samples=SAMPLES,
        num_replicates=100,
        num_draws=10_000,
        num_seeds=2,
        points=("initial", "trained"),
    )
    on_vae = [name for name in record.metrics if "trained" in name]
    assert len(on_vae) == len([name for name in record.metrics if "initial" in name]) == 7
    assert all(record.metrics[name].value > 0 for name in on_vae)
    slopes = {name: m for name, m in record.metrics.items() if "slope" in name}
    assert len(slopes) == 9
    for name, metric in slopes.items():
        assert len(metric.seeds) == 2
        if "/mu: " in name:
            continue  # where the error of q is in it, the law needs a larger K
        assert abs(metric.difference) < 0.1 + 3 * metric.stderr, name
        assert metric.stderr < 0.1, name
        assert metric.reference.how == "exact"
    end = "slope of log SNR, K from 64 to 256"
    reparam, dreg = (slopes[f"{name}/b: {end}"] for name in NAMES)
    assert dreg.value - reparam.value > 0.8
    assert slopes[f"{NAMES[0]}/mu: {end}"] == slopes[f"{NAMES[1]}/mu: {end}"]


def test_a_run_measures_at_one_sample_what_is_exact(run):
    _, record = run
    for name in NAMES:
        for block in BLOCKS:
            metric = record.metrics[f"{name}/{block}: SNR, K = 1"]
            assert abs(metric.difference) < 7 * metric.stderr
    assert {n for n in record.metrics if "slope" in n} == {
        f"{name}/{block}: slope of log {what}, K from 1 to 4"
        for name in NAMES
        for block, what in [*((block, "SNR") for block in BLOCKS), ("b", "sd")]
    } | {f"{NAMES[0]}/mu, q matched: slope of log SNR, all K"}


def test_tables_and_pictures_are_written(run):
    out, record = run
    names = [*NAMES, "reparam(elbo)"]
    rows = {f"initial {block}: SNR, K = 2" for block in NETWORKS}
    on_vae = {f"{name}/{row}" for name in names for row in rows}
    gain = f"{NAMES[1]}/initial encoder: efficiency over {NAMES[0]}'s, K = 2"
    assert {n for n in record.metrics if "initial" in n} == on_vae | {gain}
    assert all(record.metrics[name].value > 0 for name in (*on_vae, gain))
    assert set(record.pictures) == {
        "snr_against_k.png",
        "sd_against_k.png",
        "vae_snr.png",
        "vae_efficiency.png",
    }
    with np.load(out / "arrays.npz") as held:
        assert held["initial/K = 2/snr"].shape == (1, 3, 2)
        assert held["toy/K = 4/snr_stderr"].shape == (1, 2, 3)
        assert held["initial/K = 2/seconds"].shape == (1, 3)


def test_the_training_starts_from_the_initial_state_and_keeps_its_form():
    """Traced alone: a run that trains is among the slow tests."""
    images, fits = load_digits(), []

    def fit(name, step, state, data, *, num_steps, batch_size):
        fits.append((name, num_steps))
        one = jax.tree.map(lambda leaf: leaf[0], state)
        after, metrics = step(one, jax.random.key(0), jnp.asarray(data[:batch_size]))
        assert metrics["loss"].shape == ()
        return types.SimpleNamespace(state=after)

    run = types.SimpleNamespace(key=jax.random.split(jax.random.key(1), 2), fit=fit)
    states = jax.eval_shape(lambda: _snr_vae.states(run, images, Architecture(8, 2, 1), 5))
    assert fits == [("elbo", 5)]
    first = [(leaf.shape[1:], leaf.dtype) for leaf in jax.tree.leaves(states["initial"])]
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(states["trained"])] == first


@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu", "paper"])
@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_every_preset_is_complete(preset, data):
    config = resolve(gradient_snr.Config(preset=preset, data=data), gradient_snr.PRESETS)
    gradient_snr.check(config)
    if preset != "smoke":
        assert config.num_samples == (1, 4, 16, 64, 256, 1024)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_samples": (4,)}, r"--num-samples must be 2 or more counts, ascending \(got '4'\)"),
        ({"num_samples": (4, 1)}, r"--num-samples must .* \(got '4 1'\); try --num-samples 1 4"),
        ({"num_samples": (0, 1)}, "--num-samples must"),
        ({"vae_samples": ()}, "--vae-samples must be 1 or more counts"),
        ({"points": ()}, r"--points must name initial, trained or both, once each \(got ''\)"),
        ({"points": ("trained", "trained")}, "--points must name"),
        ({"num_replicates": 19}, "--num-replicates must be an integer of at least 20"),
        ({"vae_replicates": 1}, "--vae-replicates must be an integer of at least 20"),
        ({"num_steps": 0}, "--num-steps must be an integer of at least 1"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    config = gradient_snr.Config(**({"preset": "smoke"} | fields))
    with pytest.raises(ValueError, match=message):
        gradient_snr.check(resolve(config, gradient_snr.PRESETS))
