"""The two gaps: the best q where it is known, log p(x) against quadrature, and a short run."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vi
from experiments import _flow_plane, _gaps_plots, _gaps_report, _gaps_truth, inference_gaps
from experiments._config import execute, resolve
from experiments._data import load_digits
from experiments._flow_vae import build, heads
from experiments._gaps_local import Climb, local_family, normal, optimise, score
from experiments._gaps_plane import best_of_families
from experiments._gaps_truth import Annealing, Decoder, annealed, bidirectional
from experiments._results import Metric
from experiments._vae import log_joint, posterior

HEADS = heads(num_layers=2, flow_hidden=8)
X = jnp.asarray(load_digits().test[:3] > 0.5, jnp.float32)


@functools.cache
def model(kind, latent=4) -> Any:
    """Its decoder's first weights are enlarged, so that what z is matters to the pixels."""
    made = build(load_digits(), 12, latent, HEADS[kind], nnx.Rngs(0))
    made.decoder.first.kernel[...] *= 3
    return made


@pytest.mark.parametrize("kind", ["diagonal", "full", "iaf", "refined"])
def test_the_search_begins_at_the_encoders_q(kind):
    @jax.jit
    def both(model):
        start, make_q = local_family(model, X[0])
        key = jax.random.key(0)
        objective = vi.gradients.reparam(vi.bounds.elbo)
        moved = jax.tree.map(lambda leaf: leaf + 0.1, start)
        each = posterior(model, X[0]), make_q(start), make_q(moved)
        log_p = log_joint(model, X[0])
        return [objective(jax.random.clone(key), q, log_p, 5) for q in each]

    encoders, begun, moved = both(model(kind))
    np.testing.assert_allclose(begun, encoders, rtol=1e-5)
    assert abs(moved - encoders) > 1e-3


def test_a_flows_weights_are_among_what_is_searched():
    start, _ = jax.eval_shape(lambda: (local_family(model("iaf"), X[0])[0], 0))
    flow = jax.tree.leaves(nnx.state(model("iaf").head.flow, nnx.Param))
    assert len(jax.tree.leaves(start)) == len(flow) + 2
    assert {leaf.shape for leaf in flow} <= {leaf.shape for leaf in jax.tree.leaves(start)}


def test_the_best_normal_is_the_closed_forms():
    """Of a linear-Gaussian posterior: mean-field has the precision's diagonal, full is exact."""
    exact = vi.testing.LinearGaussian(
        jnp.array([[1.0, 0.5], [0.2, 0.8]]), jnp.zeros(2), jnp.array(0.5)
    )
    x = jnp.array([1.0, -0.5])
    zero = jnp.zeros(2)
    climb = Climb(num_steps=400, num_samples=10, learning_rate=0.05)

    @jax.jit
    def run(key):
        keys = jax.random.split(key)
        log_p = exact.log_joint(x)
        start = {"loc": zero, "log_scale": zero}
        diagonal = optimise(keys[0], start, normal, log_p, climb)
        full = optimise(keys[1], start | {"below": jnp.zeros((2, 2))}, normal, log_p, climb)
        precision = jnp.linalg.inv(exact.posterior(x).covariance_matrix)
        mean, scale = exact.posterior(x).mean, jnp.diagonal(precision) ** -0.5
        q = normal(full)
        return {
            "start": exact.elbo(x, zero, jnp.ones(2)),
            "diagonal": exact.elbo(x, diagonal["loc"], jnp.exp(diagonal["log_scale"])),
            "best": exact.elbo(x, mean, scale),
            "full": exact.expected_log_joint(x, q.loc, q.covariance_matrix) + q.entropy(),
            "evidence": exact.log_evidence(x),
        }

    got = {name: float(value) for name, value in run(jax.random.key(0)).items()}
    assert got["start"] < got["best"] - 1
    np.testing.assert_allclose(got["diagonal"], got["best"], atol=2e-3)
    np.testing.assert_allclose(got["full"], got["evidence"], atol=2e-3)
    assert got["evidence"] > got["best"] + 0.05


def by_quadrature(model, x):
    """``log p(x)`` of a decoder with two latents, ``[B]``."""
    at = jnp.linspace(-6.0, 6.0, 241)
    z = jnp.stack(jnp.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 1, 2)
    z = jnp.broadcast_to(z, (len(z), len(x), 2))
    return jax.nn.logsumexp(log_joint(model, x)(z), 0) + 2 * jnp.log(at[1] - at[0])


def test_each_bound_is_below_the_evidence_and_the_best_q_is_better():
    """By far more than the noise of 2,000 draws, whose log-weights have deviations below 1."""
    climb = Climb(num_steps=60, num_samples=5, learning_rate=0.05)
    begun = model("diagonal", 2)
    held = score(jax.random.key(0), begun, X, climb=climb, num_samples=2000)
    evidence = by_quadrature(begun, X)
    assert all(value.shape == (3,) for value in held.values())
    noise = 5 / 2000**0.5
    assert (held["optimal"] > held["elbo"]).all()
    assert (held["optimal"] < evidence + noise).all()
    assert (held["elbo"] < evidence - noise).all()
    assert (np.abs(held["iwae"] - evidence) < noise).all()


def test_annealing_is_exact_whatever_the_temperatures():
    """A z-test of 60 runs; the prior bounds the weights, so that every moment exists."""
    decoder, how = Decoder(model("diagonal", 2)), Annealing(8, 6, 2)

    @jax.jit
    def run(keys):
        got = jax.vmap(lambda key: annealed(key, decoder, X, how))(keys)
        return got["ais"] - by_quadrature(decoder, X), got["acceptance"]

    off, acceptance = run(jax.random.split(jax.random.key(0), 60))
    weight = np.exp(np.asarray(off, np.float64))
    stderr = weight.std(0, ddof=1) / 60**0.5
    assert (np.abs(weight.mean(0) - 1) < 5 * stderr).all()
    assert (np.abs(0.5 * weight.mean(0) - 1) > 5 * stderr).any(), "half of it passes"
    assert 0.5 < acceptance.mean() < 1


def test_the_two_ends_enclose_what_the_model_makes(monkeypatch):
    decoder, how = Decoder(model("diagonal", 2)), Annealing(4, 3, 1)

    def width():
        held = bidirectional(jax.random.key(0), decoder, 400, how)
        gap = np.asarray(held["upper"] - held["lower"], np.float64)
        return gap.mean() / (gap.std(ddof=1) / 400**0.5)

    assert width() > 5
    made = _gaps_truth._made

    def other(*args, **options):
        z, x = made(*args, **options)
        return jnp.roll(z, 1, 0), x

    monkeypatch.setattr(_gaps_truth, "_made", other)
    assert width() < 0, "draws of another image's posterior bound nothing"


def test_the_gaps_sum_to_the_total():
    random = np.random.default_rng(0)
    names = "ais", "iwae", "optimal", "elbo", "upper", "lower", "acceptance"
    held = {name: random.normal(size=(2, 50)).astype(np.float32) for name in names}
    found = _gaps_report.gaps(held)
    np.testing.assert_allclose(
        found["approximation gap"] + found["amortisation gap"], found["total gap"], atol=1e-14
    )
    for seed in range(2):
        larger = max(("ais", "iwae"), key=lambda name: held[name][seed].mean())
        np.testing.assert_array_equal(found["log p(x)"][seed], held[larger][seed])
    each = np.maximum(held["ais"], held["iwae"]).mean()
    assert each > found["log p(x)"].mean() + 0.3, "the larger of each image's is of the noise"
    config = resolve(inference_gaps.Config(preset="smoke"), inference_gaps.PRESETS)
    metrics = _gaps_report.table(config, {"diagonal": held, "iaf": held})
    assert metrics["iaf/total gap - diagonal's, paired"].value == 0
    assert metrics["diagonal/total gap"].reference is None
    mnist = resolve(inference_gaps.Config(preset="cpu", data="mnist"), inference_gaps.PRESETS)
    metrics = _gaps_report.table(mnist, {"diagonal": held, "iaf": held})
    reference = metrics["diagonal/total gap"].reference
    assert reference is not None
    assert reference.how == "recalled"
    assert metrics["iaf/total gap"].reference is None


def test_on_the_plane_the_best_q_is_nearer():
    climb = Climb(num_steps=100, num_samples=10, learning_rate=0.05)
    begun = model("diagonal", 2)
    models = best_of_families(begun, load_digits(), {"diagonal": HEADS["diagonal"]}, climb)
    assert list(models) == ["encoder's", "best diagonal"]
    held = _flow_plane.panels(models, X[:2])
    assert (held["best diagonal/kl"] < held["encoder's/kl"]).all()
    np.testing.assert_array_equal(held["best diagonal/p"], held["encoder's/p"])
    metric = Metric(1.0)
    named = ("approximation gap", "amortisation gap")
    figure = _gaps_plots.gaps({f"diagonal/{name}": metric for name in named}, ["diagonal"], held)
    assert len(figure.subfigs[1].axes) == 4


def test_a_run_at_smoke_splits_the_whole_gap(tmp_path):
    config = inference_gaps.Config(preset="smoke", progress=False, out=tmp_path)
    record = execute(config, inference_gaps.PRESETS, inference_gaps.experiment, "inference_gaps")
    value: dict[str, Any] = {name: metric.value for name, metric in record.metrics.items()}
    parts = value["diagonal/approximation gap"] + value["diagonal/amortisation gap"]
    np.testing.assert_allclose(parts, value["diagonal/total gap"], rtol=1e-9)


@pytest.mark.slow
def test_a_run_writes_every_metric_and_goes_on(tmp_path, monkeypatch):
    def run():
        config = inference_gaps.Config(preset="smoke", progress=False, out=tmp_path)
        experiment = inference_gaps.experiment
        return execute(config, inference_gaps.PRESETS, experiment, "inference_gaps")

    record = run()
    value: dict[str, Any] = {name: metric.value for name, metric in record.metrics.items()}
    for kind in ("diagonal", "iaf"):
        parts = value[f"{kind}/approximation gap"] + value[f"{kind}/amortisation gap"]
        np.testing.assert_allclose(parts, value[f"{kind}/total gap"], rtol=1e-9)
    assert "iaf/amortisation gap - diagonal's, paired" in value
    assert (tmp_path / "gaps.png").stat().st_size > 5_000
    (tmp_path / "results.json").unlink()
    monkeypatch.setattr(inference_gaps, "scores", None)
    assert run().metrics == record.metrics


def test_what_would_fail_late_is_refused_by_its_flag():
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"posteriors": ("iaf", "iaf")}, "--posteriors must name each posterior once"),
        ({"posteriors": ("spline",), "latent": 5}, "--latent must be even"),
        ({"num_temperatures": 0}, "--num-temperatures must be an integer of at least 1"),
        ({"local_rate": 0.0}, "--local-rate must be positive"),
        ({"plane_steps": -1}, "--plane-steps must be an integer of at least 0"),
    )
    for fields, message in cases:
        config = inference_gaps.Config(preset="smoke", **fields)
        with pytest.raises(ValueError, match=message):
            inference_gaps.check(resolve(config, inference_gaps.PRESETS))
