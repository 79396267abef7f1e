"""The autoencoder experiment at toy size, and what it gives to those who use the trained model."""

import functools
import json
import operator

import jax
import numpy as np
import pytest

import vi
from experiments import _evaluate, _plots, _references, vae
from experiments._config import execute, resolve
from experiments._pictures import SHOWN

PICTURES = {"reconstructions", "samples", "interpolation", "latent", "rate_distortion"}
TOY = {
    "preset": "smoke",
    "bounds": ("elbo", "iwae"),
    "num_samples": (1, 3),
    "progress": False,
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A run of two seeds: its folder and its record."""
    out = tmp_path_factory.mktemp("vae")
    config = vae.Config(**TOY, seed=3, num_seeds=2, out=out)
    return out, execute(config, vae.PRESETS, vae.experiment, "vae")


def test_every_metric_is_there_for_every_seed(toy):
    _, record = toy
    rows = {"training bound", "test NLL, k = 20", "least ESS of the 20", "rate", "distortion"}
    rows |= {"active units, z", "draws a step, K"}
    gap = "test NLL - elbo's, paired"
    assert set(record.metrics) == {f"elbo/{r}" for r in rows} | {f"iwae/{r}" for r in rows | {gap}}
    for name, metric in record.metrics.items():
        assert np.isfinite(metric.value)
        assert len(metric.seeds) == (0 if name.endswith("K") else 2), name
    elbo, iwae = (record.metrics[f"{bound}/test NLL, k = 20"] for bound in ("elbo", "iwae"))
    np.testing.assert_allclose(
        record.metrics[f"iwae/{gap}"].seeds, np.subtract(iwae.seeds, elbo.seeds), atol=1e-6
    )
    assert record.metrics[f"iwae/{gap}"].stderr < 0.5 * iwae.stderr
    assert elbo.reference is None  # nobody published digits


def test_the_elbo_is_minus_rate_and_distortion(toy):
    out, record = toy
    with np.load(out / "stages" / "scoring+elbo.npz") as held:
        gap = held["bounds/1"] + held["rate"] + held["distortion"]
    assert abs(gap.mean()) < 1e-4
    assert record.metrics["elbo/rate"].value > 0


def test_pictures_and_curves_are_written(toy):
    out, record = toy
    assert set(record.pictures) == {f"{name}.png" for name in PICTURES | {"bound_against_k"}}
    assert {p.name for p in out.glob("*.png")} == set(record.pictures)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    iwae = [line for line in lines if line["stage"] == "iwae"]
    assert [line["step"] for line in iwae] == list(range(2, 41, 2))
    assert all(len(line[name]) == 2 for line in iwae for name in ("loss", "rate", "distortion"))


def test_what_was_trained_is_used_in_three_lines(toy):
    out, record = toy
    model, x = vae.load(out, "iwae", seed=4)

    @jax.jit  # eager calls work as well: this is faster here
    def use(key):
        rebuilt, drawn, noise = jax.random.split(key, 3)
        evidence = vi.diagnostics.log_evidence(
            noise, vae.posterior(model, x), vae.log_joint(model, x), 200
        )
        return vae.reconstruct(rebuilt, model, x), vae.generate(drawn, model, 5), evidence

    rebuilt, drawn, evidence = use(jax.random.key(0))
    assert (rebuilt.shape, drawn.shape) == ((100, 64), (5, 64))
    with np.load(out / "stages" / "scoring+iwae.npz") as held:
        scored = held["nll"]
    # the same noise gives the same scores, and those of this seed, not the other
    key = jax.random.fold_in(jax.random.key(4), _evaluate._STREAM)
    own = _evaluate.evaluate(key, model, x, num_samples=20).nll
    np.testing.assert_allclose(own, scored[1], rtol=1e-5)
    assert np.abs(own - scored[0]).mean() > 0.1
    assert record.metrics["iwae/test NLL, k = 20"].seeds[1] == pytest.approx(own.mean())
    assert 0 < own.mean() + float(evidence.value.mean()) < 1  # the bound at 200 is above


@pytest.mark.parametrize(
    ("bound", "seed", "message"),
    [
        ("renyi", None, r"bound must be among elbo, iwae, .* \(got renyi, 3\)"),
        ("iwae", 5, r"seed among \[3, 4\] \(got iwae, 5\)"),
    ],
)
def test_what_was_not_trained_is_refused(toy, bound, seed, message):
    with pytest.raises(ValueError, match=message):
        vae.load(toy[0], bound, seed=seed)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folder must hold a run of experiments"):
        vae.load(tmp_path, "iwae")
    held = {"settings": {"experiment": "other"}, "facts": {}}
    (tmp_path / "protocol.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match=r"hold a run of experiments\.vae"):
        vae.load(tmp_path, "iwae")


def test_the_main_job_is_what_it_was():
    config = resolve(vae.Config(), vae.PRESETS)
    held = {"bounds": ("elbo", "iwae"), "gradient": "dreg", "num_samples": (20,), "layers": 1}
    held |= {"num_steps": 4000, "batch_size": 100, "learning_rate": 3e-3, "final_rate": 0.0}
    held |= {"hidden": 128, "latent": 20, "eval_samples": 5000, "test_images": None}
    assert {name: getattr(config, name) for name in held} == held
    mnist = resolve(vae.Config(data="mnist"), vae.PRESETS)
    assert vae.draws_of(mnist) == {"elbo": 1, "iwae": 5}


@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu", "paper"])
@pytest.mark.parametrize("data", ["digits", "mnist", "fashion_mnist"])
def test_every_preset_is_complete(preset, data):
    config = resolve(vae.Config(preset=preset, data=data), vae.PRESETS)
    vae.check(config)
    assert config.test_images is None or data == "mnist" or config.test_images <= 1000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bounds": ()}, r"--bounds must name each bound once, and at least one \(got ''\); try"),
        ({"bounds": ("elbo", "elbo")}, r"--bounds must .* \(got 'elbo elbo'\)"),
        ({"num_samples": (1, 2, 3)}, r"--num-samples must be one count or one for each of the 2"),
        ({"num_samples": (0,)}, r"--num-samples must .* of at least 1 \(got '0'\)"),
        ({"latent": 0}, "--latent must be an integer of at least 1"),
        ({"eval_samples": 0}, "--eval-samples must be an integer of at least 1"),
        ({"learning_rate": -1.0}, "--learning-rate must be positive"),
        ({"final_rate": 1.0}, r"--final-rate must be from 0 to --learning-rate 0\.001 \(got 1\.0"),
        ({"test_images": 361}, r"--test-images must be from 2 to the 360 that digits has"),
        ({"test_images": 1}, r"--test-images must be from 2"),
        ({"layers": 3}, r"--layers must be 1 or 2 \(got 3\)"),
    ],
)
def test_bad_settings_are_refused_before_training(tmp_path, fields, message):
    config = vae.Config(**(TOY | fields), out=tmp_path)
    with pytest.raises(ValueError, match=message):
        execute(config, vae.PRESETS, vae.experiment, "vae")
    assert not (tmp_path / "checkpoints").exists()


def test_references_are_the_nearest_published_and_say_on_what():
    iwae = _references.test_nll("mnist", 1, "iwae", 5)
    assert iwae is not None
    assert (iwae.value, iwae.how) == (85.54, "read")
    assert "3,280 epochs, k = 5,000" in iwae.protocol
    assert iwae.protocol.endswith("1 layer, k = 5")
    elbo = _references.test_nll("mnist", 2, "elbo", 50)
    assert elbo is not None
    assert elbo.value == 84.78
    assert _references.test_nll("mnist", 1, "iwae", 7) is None
    assert _references.test_nll("digits", 1, "iwae", 5) is None


@pytest.mark.parametrize("shape", [(8, 8), (4, 4, 3), (12,)])
def test_images_of_any_shape_are_drawn(shape):
    size = functools.reduce(operator.mul, shape)
    height, width = shape if len(shape) == 2 else (shape[:2] if len(shape) == 3 else (1, size))
    images = np.random.default_rng(0).random((7, size))
    shown = _plots.image_rows({"all": images, "some": images[:3]}, shape, "title").axes[0].images[0]
    pixels = np.asarray(shown.get_array())
    assert pixels.shape[:2] == (2 * (height + 1) - 1, 7 * (width + 1) - 1)
    third = pixels[height + 1 :, 2 * (width + 1) : 3 * (width + 1) - 1]
    np.testing.assert_array_equal(third.reshape(-1), images[2])
    grid = _plots.image_grids({"one": images}, shape, 3, "title").axes[0].images[0]
    pixels = np.asarray(grid.get_array())  # two whole lines of three
    np.testing.assert_array_equal(pixels[height + 1 :, :width].reshape(-1), images[3])


@pytest.mark.parametrize("labels", [None, np.arange(SHOWN) % 3, np.arange(SHOWN) * 5])
@pytest.mark.parametrize("latent", [1, 4])
def test_latent_spaces_of_any_size_are_drawn(labels, latent):
    means = {"elbo": np.random.default_rng(0).random((SHOWN, latent))}
    figure = _plots.latent_space(means, labels)
    assert len(figure.axes) == (1 if labels is None else 2)
