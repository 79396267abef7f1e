"""The densities' parameters and their integrals, and a run that fits them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from experiments import _flow_fits, flow_densities
from experiments import _flow_targets as targets
from experiments._config import execute, resolve
from experiments._flow_targets import DENSITIES, PLANE

LOG_EVIDENCE = {  # by the trapezoid rule in float64
    "banana": 1.550194994,
    "ring": 2.756815600,
    "two moons": 1.877501626,
    "grid of nine": 4.035101644,
    "funnel": 2.936489355,
    "Student product": 2.001777699,
    "spiral": 5.335408617,
    "correlated": 1.007511463,
}
REACHES = {  # half the side of the square that holds the mass, and nodes on it
    "banana": (36.0, 3001),
    "ring": (8.0, 801),
    "two moons": (8.0, 801),
    "grid of nine": (15.0, 401),
    "spiral": (12.0, 2401),
    "correlated": (9.0, 401),
}


def test_the_parameters_are_those_on_record():
    assert (targets.BEND, targets.BANANA_SCALES) == (0.5, (1.5, 0.5))
    assert (targets.RADIUS, targets.RING_WIDTH) == (2.5, 0.4)
    moons = targets.MOON_RADIUS, targets.MOON_WIDTH, targets.MOON_AT, targets.MOON_SCALE
    assert moons == (2.0, 0.4, 2.0, 0.6)
    assert (targets.SPACING, targets.FUNNEL_SCALE, targets.DEGREES, targets.RHO) == (
        2.5, 3.0, 3.0, 0.9,
    )  # fmt: skip
    spiral = targets.SPIRAL_RADIUS, targets.SPIRAL_WIDTH, targets.WINDING, targets.CONTRAST
    assert spiral == (3.0, 0.9, 1.0, 3.0)
    assert {name: round(PLANE[name].log_evidence, 9) for name in PLANE} == LOG_EVIDENCE


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", REACHES)
def test_the_integral_is_the_trapezoid_rules(name):
    reach, nodes = REACHES[name]
    x = jnp.linspace(-reach, reach, nodes)

    @jax.jit
    def integral(x):
        z = jnp.stack(jnp.meshgrid(x, x, indexing="ij"), axis=-1)
        return jax.nn.logsumexp(PLANE[name].log_density(z)) + 2 * jnp.log(x[1] - x[0])

    assert integral(x) == pytest.approx(LOG_EVIDENCE[name], abs=2e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_the_others_are_normalised_by_what_they_are_made_of():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(7, 50)))
    student = dist.StudentT(targets.DEGREES).log_prob(z[:, :2]).sum(-1)
    covariance = np.linalg.inv(targets.PRECISION)
    exact = {
        "Student product": student,
        "Gaussian-50": dist.MultivariateNormal(jnp.zeros(50), jnp.asarray(covariance)).log_prob(z),
    }
    for name, size in (("funnel", 2), ("funnel-10", 10)):
        first, rest = z[:, :1], z[:, 1:size]
        below = dist.Normal(0.0, jnp.exp(first / 2)).log_prob(rest).sum(-1)
        exact[name] = dist.Normal(0.0, targets.FUNNEL_SCALE).log_prob(first[:, 0]) + below
    for name, log_p in exact.items():
        held = DENSITIES[name]
        ours = held.log_density(z[:, : held.size]) - held.log_evidence
        np.testing.assert_allclose(ours, log_p, rtol=1e-9)
    assert np.linalg.matrix_rank(covariance - np.diag(0.5 + np.arange(50) / 50)) == 5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("flows")
    config = flow_densities.Config(preset="smoke", progress=False, out=out)
    held = flow_densities.PRESETS, flow_densities.experiment, "flow_densities"
    return out, execute(config, *held)


def test_a_run_measures_draws_and_writes(run):
    out, record = run
    assert {"diagonal normal/correlated, KL", "spline flow/correlated, KL"} < set(record.metrics)
    assert (out / "densities.png").stat().st_size > 10_000
    draws = np.load(out / "arrays.npz")["correlated/spline flow/draws"]
    assert draws.shape == (flow_densities.SHOWN, 2)
    assert np.isfinite(draws).all()


def test_the_divergence_is_that_of_known_normals():
    """KL(N(0, I), correlated) is 3.432792, and the twin without the evidence is off by its log."""
    density = DENSITIES["correlated"]
    family = _flow_fits.families("correlated", density, flow_densities.Config(num_layers=2))[0]
    q = family.make_q(family.init(jax.random.key(0)))
    z = q.sample(jax.random.key(1), (20_000,))
    log_w = np.asarray(density.log_density(z) - density.log_evidence - q.log_prob(z))[None]
    metric = flow_densities.divergence(log_w)
    assert metric.value is not None
    assert metric.stderr is not None
    assert abs(metric.value - 3.432792) < 5 * metric.stderr
    twin = flow_densities.divergence(log_w + density.log_evidence)
    assert twin.value is not None
    assert abs(twin.value - 3.432792) > 5 * metric.stderr


def test_what_would_fail_late_is_refused_by_its_flag():
    for fields, message in (
        ({"densities": ("circle",)}, "--densities must name densities, once each"),
        ({"data": "mnist"}, "--data must be left alone"),
        ({"num_layers": 1}, "--num-layers must be an integer of at least 2"),
    ):
        config = resolve(flow_densities.Config(preset="smoke", **fields), flow_densities.PRESETS)
        with pytest.raises(ValueError, match=message):
            flow_densities.check(config)


@pytest.mark.slow
def test_normals_of_three_ranks_reach_a_gaussian(tmp_path):
    """Exact-target table B: mean-field variances are 1 / precision_ii."""
    config = flow_densities.Config(
        densities=("Gaussian-50",), progress=False, out=tmp_path, num_samples=64
    )
    held = flow_densities.PRESETS, flow_densities.experiment, "flow_densities"
    metrics = execute(config, *held).metrics
    value = {name: metric.value for name, metric in metrics.items()}
    assert value["diagonal normal/Gaussian-50, error of a variance"] < 0.05
    assert value["full rank/Gaussian-50, KL"] < 1e-3
    assert value["low rank/Gaussian-50, KL"] < 1e-2
    log_det = np.linalg.slogdet(targets.PRECISION)[1]
    mean_field = 0.5 * (np.log(np.diagonal(targets.PRECISION)).sum() - log_det)
    assert value["diagonal normal/Gaussian-50, KL"] == pytest.approx(mean_field, rel=0.01)
    assert math.isfinite(mean_field)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANE)
def test_spline_flows_reach_every_density(name, tmp_path):
    config = flow_densities.Config(densities=(name,), progress=False, out=tmp_path)
    held = flow_densities.PRESETS, flow_densities.experiment, "flow_densities"
    metrics = execute(config, *held).metrics
    assert metrics[f"spline flow/{name}, KL"].value < 0.02
