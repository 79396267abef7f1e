"""One autoencoder under many likelihoods: all score levels, and what is no probability shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from flax import nnx

from experiments import _likelihoods_draws, likelihoods
from experiments._config import execute, resolve
from experiments._data import Images, load_digits
from experiments._likelihoods_readings import (
    FIXED_SCALE,
    READINGS,
    BernoulliOnGreys,
    Categorical,
    ContinuousBernoulli,
    FixedNormal,
    Logistic,
    Mixture,
    Normal,
    NormalisedBernoulli,
)
from experiments._likelihoods_vae import MOST_NOISE, build, dequantise, held_out, levels_of

M = 17
DENSITIES = (ContinuousBernoulli, FixedNormal, Normal)
MASSES = (NormalisedBernoulli, Logistic, Mixture, Categorical)


@pytest.fixture(scope="module")
def greys():
    return levels_of(load_digits())


def one_pixel(reading, noise=(0.5,), cases=6):
    """Log-probabilities ``[cases, M, noise]`` of every level of one pixel, and the outputs."""
    rng = np.random.default_rng(0)
    outputs = rng.normal(scale=2.0, size=(cases, 1, 1, 1, reading.width)).astype(np.float32)
    x = (np.arange(M)[:, None] + np.asarray(noise))[..., None].astype(np.float32)
    whole = jnp.broadcast_to(outputs, (cases, *x.shape, reading.width))
    return np.asarray(jax.jit(reading.log_prob)(whole, x), np.float64), outputs[:, 0, 0, 0]


@pytest.mark.parametrize("kind", MASSES)
def test_the_masses_of_all_levels_sum_to_one(kind):
    log_p, _ = one_pixel(kind(M), noise=(0.0, 0.9))
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(log_p[..., 0], log_p[..., 1])  # the noise is not looked at


def test_cross_entropy_of_greys_sums_to_more_and_its_own_sum_mends_it():
    naive, outputs = one_pixel(BernoulliOnGreys(M))
    total = scipy.special.logsumexp(naive, axis=1)
    assert (total > np.log(1.5)).all()
    middle = -np.log1p(np.exp(outputs)) + 0.5 * outputs
    np.testing.assert_allclose(naive[:, 8], middle, rtol=1e-5)  # level 8 of 16 is a half
    mended, _ = one_pixel(NormalisedBernoulli(M))
    np.testing.assert_allclose(mended, naive - total[:, None], atol=2e-6)


def bins(kind, outputs):
    """The log of the density's integral over each of the M bins, by SciPy."""
    edges = np.arange(M + 1) / M
    outputs = outputs.astype(np.float64)
    if kind is ContinuousBernoulli:  # a ratio of integrals of exponentials over equal bins
        return scipy.special.log_softmax(outputs * edges[:-1], axis=1)
    scale = FIXED_SCALE
    if kind is Normal:
        share = 0.5 + np.arctan(outputs[:, 1:]) / np.pi
        scale = (0.1 / M) ** (1 - share)
    normal = scipy.stats.norm(scipy.special.expit(outputs[:, :1]), scale)
    with np.errstate(divide="ignore"):
        return np.log(np.diff(normal.cdf(edges), axis=1))


@pytest.mark.parametrize("kind", DENSITIES)
def test_densities_of_noisy_levels_bound_the_mass_of_their_bins(kind):
    """In the mean over the noise; the density itself integrates to that mass."""
    noise = (np.arange(1000) + 0.5) / 1000
    log_p, outputs = one_pixel(kind(M), noise)
    wanted = bins(kind, outputs)
    likely = wanted > -20  # where a difference of distribution functions has digits
    integral = scipy.special.logsumexp(log_p, axis=-1) - np.log(len(noise))
    np.testing.assert_allclose(integral[likely], wanted[likely], atol=1e-3)
    gap = integral - log_p.mean(-1)
    assert (gap > -1e-5).all()
    assert gap.max() > 1e-6
    assert (np.exp(integral).sum(1) < 1 + 1e-4).all()
    if kind is ContinuousBernoulli:
        np.testing.assert_allclose(np.exp(integral).sum(1), 1.0, rtol=1e-4)
    else:
        assert (np.exp(integral).sum(1) < 0.999).any()  # what falls outside of the range


def test_noise_never_changes_a_level():
    levels = np.full((200, 500), 255, np.uint8)
    x = np.asarray(jax.jit(dequantise)(jax.random.key(0), levels))
    assert (np.floor(x) == 255).all()
    noise = x - levels
    assert abs(noise.mean() - 0.5) < 5 / np.sqrt(12 * noise.size)
    assert (
        np.float32(255) + np.float32(MOST_NOISE) < 256 <= np.float32(255) + np.float32(1 - 2**-17)
    )


def test_held_out_images_are_levels_with_the_same_noise_whatever_their_number(greys):
    few, many = held_out(greys, 5), held_out(greys, 50)
    np.testing.assert_array_equal(few, many[:5])
    np.testing.assert_array_equal(np.floor(few), greys.test[:5])
    assert jnp.unique(few % 1).size > 300


def test_levels_are_read_from_bytes_and_sixteenths_and_nothing_else():
    digits = load_digits()
    greys = levels_of(digits)
    assert greys.num_levels == M
    np.testing.assert_array_equal(greys.test / 16, digits.test)
    floats = Images("some", digits.train / 3, digits.test / 3, None, None, (8, 8))
    with pytest.raises(ValueError, match="--data must have pixels of 17 or 256 even levels"):
        levels_of(floats)
    stored = np.arange(128, dtype=np.uint8).reshape(2, 64)
    assert levels_of(floats._replace(train=stored, test=stored)).num_levels == 256
    as_floats = floats._replace(train=stored / np.float32(255), test=stored / np.float32(255))
    np.testing.assert_array_equal(levels_of(as_floats).test, stored)


@pytest.mark.parametrize("kind", [BernoulliOnGreys, ContinuousBernoulli, Logistic])
def test_draws_are_given_back_as_levels(kind):
    levels = kind(M).levels
    if kind is BernoulliOnGreys:
        assert levels(jnp.array([0, 1])).tolist() == [0, 16]
    elif kind is Logistic:
        assert levels(jnp.arange(M)).tolist() == list(range(M))
    else:
        assert levels((jnp.arange(M) + 0.5) / M).tolist() == list(range(M))
        assert levels(jnp.array([-3.0, 0.0, 1.0, 9.0])).tolist() == [0, 0, 16, 16]


def test_models_begin_alike_but_for_the_last_layer(greys):
    @jax.jit
    def begin():
        begun = {}
        for name, kind in READINGS.items():
            model = build(greys, 12, 3, kind(M), nnx.Rngs(0))
            kernel = model.decoder.heads[0].kernel
            kernel[...] = jnp.zeros_like(kernel[...])
            mean = model.reading.mean(model.draw(jnp.zeros(3)))
            begun[name] = (model.encoder, model.decoder.first, model.decoder.second), mean
        return begun

    begun = begin()
    average = np.clip(greys.train.mean(0) / 16, 1e-3, 1 - 1e-3)
    first = jax.tree.leaves(begun["bernoulli"][0])
    for name, (shared, mean) in begun.items():
        for ours, theirs in zip(jax.tree.leaves(shared), first, strict=True):
            assert (ours == theirs).all()
        off = {"bernoulli": 1e-5, "squares": 1e-5, "normal": 1e-5, "categorical": 0.01}
        assert abs(mean - average).max() < off.get(name, 0.3), name


def test_a_model_is_read_as_another_and_stays_what_it_was(greys):
    model = build(greys, 12, 3, BernoulliOnGreys(M), nnx.Rngs(0))
    other = model.read_as(ContinuousBernoulli(M))
    x, z = held_out(greys, 2), jnp.zeros((2, 3))
    assert (model.outputs(z) == other.outputs(z)).all()
    assert isinstance(model.reading, BernoulliOnGreys)
    assert model.posterior(x).log_prob(z).tolist() == other.posterior(x).log_prob(z).tolist()
    assert (other.observation(z).log_prob(x) < model.observation(z).log_prob(x)).all()


@pytest.mark.slow
def test_a_run_writes_every_metric(tmp_path):
    config = likelihoods.Config(preset="smoke", progress=False, out=tmp_path)
    record = execute(config, likelihoods.PRESETS, likelihoods.experiment, "likelihoods")
    values = {name: metric.value for name, metric in record.metrics.items()}
    every = ("test NLL of levels, k = 10", "bits per dimension", "rate", "active units", "training")
    drawn = "pixels neither black nor white", "levels, total variation from data"
    for kind in ("bernoulli", "logistic"):
        assert {f"{kind}/{row}" for row in (*every, *drawn)} <= set(values)
        nll, bits = (values[f"{kind}/{row}"] for row in every[:2])
        assert bits == pytest.approx(nll / (64 * np.log(2)), rel=1e-5)
    said = values["bernoulli/what cross-entropy says, no NLL"]
    nll = values["bernoulli/test NLL of levels, k = 10"]
    assert values["bernoulli/NLL - what it says, paired"] == pytest.approx(nll - said, abs=1e-3)
    assert said < 0.5 * nll  # the cross-entropy of greys flatters
    ahead = values["logistic/test NLL of levels, k = 10"] - nll
    assert values["logistic/NLL - bernoulli's, paired"] == pytest.approx(ahead, abs=1e-3)
    assert values[f"bernoulli/{drawn[0]}"] == 0
    assert values[f"test images/{drawn[0]}"] > 0.3
    assert values["all levels alike/test NLL of levels, k = 10"] == pytest.approx(64 * np.log(M))
    assert set(record.pictures) == {"samples.png", "greys.png"}


def test_draws_are_measured_against_data():
    """Of a likelihood that draws the data themselves, and of one that draws black and white."""
    levels = np.arange(M).repeat(4).reshape(4, M)
    held = {
        "same/levels": np.stack([levels, levels[::-1]]),
        "bits/levels": np.where(levels > 7, M - 1, 0)[None],
        "bits/outside": np.array([0.25]),
    }
    values = {
        n: m.value for n, m in _likelihoods_draws.measure(held, ["same", "bits"], levels, M).items()
    }
    grey, apart = (
        "pixels neither black nor white",
        "levels, total variation from data",
    )
    assert values[f"same/{grey}"] == values[f"test images/{grey}"] == pytest.approx(15 / 17)
    assert values[f"same/{apart}"] == pytest.approx(0, abs=1e-12)
    assert values[f"bits/{grey}"] == 0
    assert values[f"bits/{apart}"] == pytest.approx(15 / 17)
    assert values["bits/draws outside of the range"] == 0.25


@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu", "paper"])
@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_every_preset_is_complete(preset, data):
    likelihoods.check(resolve(likelihoods.Config(preset=preset, data=data), likelihoods.PRESETS))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"likelihoods": ()}, "--likelihoods must name each likelihood once, and at least one"),
        ({"likelihoods": ("normal", "normal")}, r"--likelihoods must .* \(got 'normal normal'\)"),
        ({"draws": 7}, "--draws must be an integer of at least 8"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive"),
        ({"test_images": 361}, "--test-images must be from 2 to the 360 that digits has"),
        ({"batch_size": 1438}, "--batch-size must be at most the 1437 training images"),
    ],
)
def test_what_would_fail_late_is_refused_by_its_flag(tmp_path, fields, message):
    config = likelihoods.Config(**({"preset": "smoke", "progress": False} | fields), out=tmp_path)
    with pytest.raises(ValueError, match=message):
        execute(config, likelihoods.PRESETS, likelihoods.experiment, "likelihoods")
    assert not (tmp_path / "checkpoints").exists()
