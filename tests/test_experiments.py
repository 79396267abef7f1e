"""Each experiment runs, at toy size, and leaves what it promises."""

import json
import re

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import _data, _evaluate, vae
from experiments._config import Config
from experiments._results import Metric, prepare
from experiments._vae import build_vae, posterior

TOY = {"num_steps": 20, "num_samples": 3, "eval_samples": 20, "hidden": 16, "latent": 4}
PICTURES = {
    "reconstructions.png",
    "samples.png",
    "interpolation.png",
    "latent.png",
    "rate_distortion.png",
    "bound_against_k.png",
}


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("vae")
    return out, vae.experiment(Config(**TOY, out=out, progress=False), out)


def test_results_hold_the_protocol_and_every_metric(toy_run):
    out, metrics = toy_run
    record = json.loads((out / "results.json").read_text())
    assert record["experiment"] == "vae"
    assert record["seed"] == 0
    assert {k: record["protocol"][k] for k in TOY} == TOY
    assert set(record["versions"]) >= {"vi", "jax", "flax", "numpyro"}
    for bound in ("elbo", "iwae"):
        for name, metric in metrics[bound].items():
            assert record["metrics"][bound][name]["value"] == metric.value
            assert np.isfinite(metric.value)
    assert "test NLL - elbo's, paired" in metrics["iwae"]
    assert "test NLL - elbo's, paired" not in metrics["elbo"]


def test_pictures_and_metrics_are_written(toy_run):
    out, _ = toy_run
    assert {p.name for p in out.glob("*.png")} == PICTURES
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses if line["bound"] == "iwae"] == list(range(1, 21))
    assert all(np.isfinite(line["loss"]) for line in losses)
    assert sum("rate" in line for line in lines) == 40


def test_a_seed_reproduces(toy_run, tmp_path):
    _, metrics = toy_run
    again = vae.experiment(Config(**TOY, out=tmp_path, progress=False), tmp_path)
    for bound in metrics:
        for name, metric in metrics[bound].items():
            if metric.unit != "s":
                assert again[bound][name] == metric


def test_another_protocol_does_not_overwrite(toy_run):
    out, _ = toy_run
    before = (out / "results.json").read_text()
    other = Config(**{**TOY, "num_steps": 21}, out=out, progress=False)
    with pytest.raises(ValueError, match=r"another protocol \(num_steps differ\); choose another"):
        vae.experiment(other, out)
    assert (out / "results.json").read_text() == before


@pytest.mark.parametrize("held", ["[]", '{"protocol": [1]}', "{", "{}"])
def test_a_folder_of_something_else_is_refused(tmp_path, held):
    (tmp_path / "results.json").write_text(held)
    with pytest.raises(ValueError, match="is not a results file"):
        prepare(tmp_path, {})


def test_an_out_that_cannot_be_written_is_refused_first(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="--out: cannot write to"):
            prepare(out, {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bounds": ()}, "--bounds must name at least one bound"),
        ({"latent": 0}, "--latent must be at least 1"),
        ({"eval_samples": 0}, "--eval-samples must be at least 1"),
        ({"learning_rate": float("nan")}, "--learning-rate must be positive"),
    ],
)
def test_bad_settings_are_refused_before_training(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        vae.experiment(Config(**{**TOY, **fields}), tmp_path)


def test_a_run_that_diverges_is_no_result(tmp_path):
    config = Config(**{**TOY, "num_steps": 3}, learning_rate=1e38, progress=False)
    with (
        pytest.warns(RuntimeWarning, match="non-finite"),
        pytest.raises(ValueError, match=r"training with dreg\(elbo\) stopped at step .*; lower"),
    ):
        vae.experiment(config, tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_one_latent_dimension_has_its_pictures(tmp_path):
    vae.experiment(Config(**{**TOY, "latent": 1}, bounds=("iwae",), progress=False), tmp_path)
    assert {p.name for p in tmp_path.glob("*.png")} == PICTURES


def test_bad_flags_end_in_one_line(monkeypatch, tmp_path, capsys):
    flags = ["vae", "--num-samples", "0", "--out", str(tmp_path), "--progress", "False"]
    monkeypatch.setattr("sys.argv", flags)
    with pytest.raises(SystemExit, match=r"experiments.vae: --num-samples must be at least 1"):
        vae.main()


def test_help_names_every_flag(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["vae", "--help"])
    with pytest.raises(SystemExit):
        vae.main()
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    for flag in ("--bounds", "--gradient", "--num-samples", "--seed", "--out"):
        assert flag in shown
    assert "K, draws of z per image and step" in shown


def test_digits_are_split_once_and_binarised_afresh():
    images = _data.load_digits()
    assert images.train.shape == (1437, 64)
    assert images.test.shape == (360, 64)
    assert 0 <= images.train.min() < images.train.max() <= 1
    rows = {row.tobytes() for row in images.train}
    assert sum(row.tobytes() in rows for row in images.test) == 0
    assert _data.fingerprint(_data.fixed_test(images)) == "f416ee1397c82f09"
    bits = [_data.binarise(jax.random.key(seed), images.train) for seed in range(2)]
    assert set(np.unique(bits[0])) == {0.0, 1.0}
    assert (bits[0] != bits[1]).any()


def test_bounds_rise_with_k_and_end_at_the_evidence():
    images = _data.load_digits()
    x = _data.fixed_test(images)[:40]
    model = build_vae(images.train, 16, 4, nnx.Rngs(0))
    scores = _evaluate.evaluate(jax.random.key(0), model, x, num_samples=2000)
    ladder = [scores.bounds[k].mean() for k in sorted(scores.bounds)]
    assert list(scores.bounds) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]
    assert all(np.diff(ladder[:6]) > 0)
    mean, stderr = _evaluate.paired(scores.bounds[2000], -scores.nll)
    assert abs(mean) < 5 * stderr + 0.01
    elbo = -(scores.rate + scores.distortion)
    mean, stderr = _evaluate.paired(scores.bounds[1], elbo)
    assert abs(mean) < 5 * stderr


def test_the_output_bias_starts_at_the_mean_image():
    images = _data.load_digits()
    model = build_vae(images.train, 16, 4, nnx.Rngs(0))
    bias = model.decoder.heads[0].bias[...]
    np.testing.assert_allclose(
        jax.nn.sigmoid(bias), np.clip(images.train.mean(0), 1e-3, 1 - 1e-3), rtol=1e-4
    )
    assert posterior(model, images.train[:3]).batch_shape == (3,)


def test_paired_differences_are_tighter_than_their_parts():
    rng = np.random.default_rng(0)
    hardness = rng.normal(80, 10, 500)
    a, b = hardness + rng.normal(0, 1, 500), hardness + rng.normal(0.5, 1, 500)
    mean, stderr = _evaluate.paired(a, b)
    np.testing.assert_allclose(mean, (a - b).mean())
    assert stderr < 0.2 * _evaluate.mean_and_stderr(a)[1]


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        (Metric(-1.234, 0.056), "-1.23 ± 0.06"),
        (Metric(3, unit="count"), "3"),
        (Metric(1.26, unit="s"), "1.3"),
    ],
)
def test_metrics_print_with_their_error(metric, shown):
    assert str(metric) == shown
