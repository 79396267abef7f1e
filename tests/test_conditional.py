"""The autoencoder that is told labels: against enumeration, quadrature, and a short run."""

import dataclasses
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import conditional
from experiments._conditional_halves import _complete, upper
from experiments._conditional_scores import (
    Classifiers,
    agreement,
    agreements,
    by_label,
    classifier_loss,
)
from experiments._conditional_vae import Labelled, build, labelled, make_loss
from experiments._config import execute, resolve
from experiments._data import Images, binarise

PIXELS, CLASSES = 4, 2
PRESETS = conditional.PRESETS


@functools.cache
def toy_images():
    random = np.random.default_rng(0)
    labels = np.arange(20) % CLASSES
    grey = random.random((20, PIXELS)).astype(np.float32)
    return Images("toy", grey, grey[:6], labels, labels[:6], (2, 2))


def toy(told, latent=1):
    """A model with weights large enough that z and the label matter."""
    model = build(toy_images(), CLASSES, 5, latent, told, nnx.Rngs(0))
    for layer in (model.decoder.first, model.decoder.heads[0]):
        layer.kernel[...] = 2.0 * layer.kernel[...]
    return model


def every_image():
    return jnp.asarray(np.indices((2,) * PIXELS).reshape(PIXELS, -1).T, jnp.float32)


def test_bayes_rule_splits_the_gain():
    random = np.random.default_rng(0)
    nll, labels = random.uniform(0, 3, (3, 2, 5)), np.array([0, 2, 1, 1, 0])
    held = by_label(nll, labels)
    joint = np.exp(-nll) / 3
    for seed in range(2):
        for image, label in enumerate(labels):
            each = joint[:, seed, image]
            at = seed, image
            np.testing.assert_allclose(held.told[at], nll[label, seed, image])
            np.testing.assert_allclose(held.marginal[at], -np.log(each.sum()))
            np.testing.assert_allclose(held.surprise[at], -np.log(each[label] / each.sum()))
            assert held.right[at] == (each.argmax() == label)


def test_one_that_is_not_told_is_blind_to_the_label_and_begins_the_same():
    bits = every_image()[:3]

    @jax.jit
    def see(model):
        x = [labelled(bits, jnp.full(3, label), CLASSES) for label in range(CLASSES)]
        z = jnp.ones((3, 1))
        return [(model.posterior(each).mean, model.observation(z).log_prob(each)) for each in x]

    blind, told = toy(0.0), toy(1.0)
    for mine, other in zip(*see(blind), strict=True):
        np.testing.assert_array_equal(mine, other)
    for mine, other in zip(*see(told), strict=True):
        assert abs(mine - other).min() > 1e-3
    leaves = (jax.tree.leaves(nnx.state(model, nnx.Param)) for model in (blind, told))
    assert all((a == b).all() for a, b in zip(*leaves, strict=True))


def test_the_loss_is_minus_the_elbo_of_the_labelled_bits():
    model, images = toy(1.0), toy_images()
    batch = Labelled(jnp.asarray(images.train[:8]), jnp.asarray(images.train_labels[:8]))

    @jax.jit
    def both(model, wrong):
        key = jax.random.key(3)
        bits_key, draws_key = jax.random.split(jax.random.clone(key))
        bits = binarise(bits_key, batch.grey)
        q = model.posterior(labelled(bits, batch.labels, CLASSES))
        z = q.rsample(draws_key)
        rate = q.log_prob(z) - model.prior().log_prob(z)
        told = model.decode(z, jax.nn.one_hot(batch.labels, CLASSES)).log_prob(bits)
        twin = model.decode(z, jax.nn.one_hot(wrong, CLASSES)).log_prob(bits)
        return make_loss(CLASSES)(model, key, batch), (rate - told).mean(), (rate - twin).mean()

    loss, ours, twin = both(model, 1 - batch.labels)
    np.testing.assert_allclose(loss, ours, rtol=1e-5)
    assert abs(loss - twin) > 0.05


def test_halves_are_what_quadrature_says():
    """The evidence of the upper half, and the mean of the lower half given it."""
    model, num_samples = toy(1.0), 2000
    bits = every_image()
    x = labelled(bits, jnp.arange(len(bits)) % CLASSES, CLASSES)
    seen = upper(PIXELS)

    @jax.jit
    def exact(model):
        z = jnp.linspace(-8, 8, 2001)[:, None, None]
        observation = model.decode(jnp.broadcast_to(z, (2001, len(x), 1)), x[:, PIXELS:])
        log_each = observation.base_dist.log_prob(bits)
        log_prior = -0.5 * z[..., 0] ** 2 - 0.5 * jnp.log(2 * jnp.pi) + jnp.log(16 / 2000)
        log_half = log_each[..., seen].sum(-1) + log_prior
        weights = jax.nn.softmax(log_half, axis=0)[..., None]
        whole = jax.nn.logsumexp(log_each.sum(-1) + log_prior, axis=0)
        return jax.nn.logsumexp(log_half, 0), (weights * observation.mean).sum(0), whole

    log_half, mean, log_whole = exact(model)
    found = _complete(jax.random.key(1), model, x, num_samples)
    effective = np.asarray(found["effective"])
    stderr = np.sqrt((num_samples / effective - 1) / num_samples)
    assert (abs(found["nll"] + log_half) < 5 * stderr + 1e-4).all()
    assert (abs(found["nll"] + log_whole) > 5 * stderr).all()  # the twin that sees all
    apart = abs(found["mean"] - mean)[:, ~seen]
    assert (apart < 5 * 0.5 / np.sqrt(effective)[:, None]).all()
    np.testing.assert_array_equal(found["mean"][:, seen], bits[:, seen])
    np.testing.assert_array_equal(found["draws"][..., seen], bits[:, None, seen].repeat(3, 1))


def test_each_classifier_learns_from_its_own_view():
    images = toy_images()
    batch = Labelled(jnp.asarray(images.train), jnp.asarray(images.train_labels))
    classifiers = Classifiers(PIXELS, 5, CLASSES, nnx.Rngs(0))

    @jax.jit
    def slopes(classifiers):
        key = jax.random.key(0)

        def alone(classifiers, seen):
            logits = classifiers(seen) - jax.nn.logsumexp(classifiers(seen), -1, keepdims=True)
            return -logits[jnp.arange(20), batch.labels].mean()

        bits = binarise(jax.random.clone(key), batch.grey)
        return (
            jax.grad(classifier_loss)(classifiers, key, batch),
            jax.grad(alone)(classifiers.greys, batch.grey),
            jax.grad(alone)(classifiers.bits, bits),
        )

    both, greys, bits = slopes(classifiers)
    for mine, alone in ((both.greys, greys), (both.bits, bits)):
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_images_made_for_a_label_are_judged_by_it():
    """A model that draws white for label 1 and black for 0, and classifiers of brightness."""
    model = build(toy_images(), CLASSES, 2, 1, 1.0, nnx.Rngs(0))
    classifiers = Classifiers(PIXELS, 2, CLASSES, nnx.Rngs(0))

    def set_layers(first, second, last, of_input, of_output):
        first.kernel[...] = jnp.asarray(of_input)[:, None] * jnp.ones(2)
        first.bias[...] = -4 * jnp.ones(2)
        second.kernel[...] = 4 * jnp.eye(2)
        last.kernel[...] = jnp.ones((2, 1)) * jnp.asarray(of_output)
        last.bias[...] = jnp.zeros(len(of_output))

    decoder = model.decoder
    layers = decoder.first, decoder.second, decoder.heads[0]
    set_layers(*layers, [0.0, 0.0, 8.0], [20.0] * PIXELS)
    for view in (classifiers.greys, classifiers.bits):
        set_layers(*view.layers, [2.0] * PIXELS, [-1.0, 1.0])
    tests = dict.fromkeys(("greys", "bits"), jnp.ones((4, PIXELS)))
    run = types.SimpleNamespace(key=jax.random.split(jax.random.key(0), 1))
    truth = np.array([1, 1, 1, 0])

    def judged(model):
        stacked = [jax.tree.map(lambda leaf: leaf[None], each) for each in (model, classifiers)]
        states = [Stacked(each) for each in stacked]
        return agreement(run, *states, tests, truth, num_images=10, classes=CLASSES)

    for name, right in judged(model).items():
        np.testing.assert_array_equal(right[0], truth if name.endswith("test") else np.ones(10))
    model.told[...] = jnp.zeros(())
    blind = agreements(judged(model))["classifier of bits/generated labels agreed with"]
    assert blind.value == 0.5


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Stacked:
    """A state of one seed that holds a model and nothing else."""

    model: Any


def test_a_run_writes_every_metric_and_goes_on(tmp_path):
    config = conditional.Config(preset="smoke", progress=False, out=tmp_path)
    again = PRESETS, conditional.experiment, "conditional"
    record = execute(config, *again)
    value = {name: metric.value for name, metric in record.metrics.items()}
    gain = value["conditional/test NLL - unconditional's, paired"]
    nlls = [value[f"{name}/test NLL, k = 10"] for name in ("conditional", "unconditional")]
    np.testing.assert_allclose(gain, nlls[0] - nlls[1], atol=1e-4)
    parts = (
        value["conditional/NLL - with label summed out, paired"],
        value["conditional/NLL, label summed out - unconditional's, paired"],
    )
    np.testing.assert_allclose(gain, sum(parts), atol=1e-4)
    surprise = value["conditional/label by Bayes' rule: -log p(y | x)"]
    np.testing.assert_allclose(parts[0], surprise - np.log(10), atol=1e-4)
    assert (tmp_path / "conditional.png").stat().st_size > 10_000
    (tmp_path / "results.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "stages").iterdir()}
    resumed = execute(config, *again)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {name: metric.value for name, metric in resumed.metrics.items()} == {
        name: resumed.metrics[name].value if name.endswith("training") else held
        for name, held in value.items()
    }


def test_what_would_fail_late_is_refused_by_its_flag():
    for fields, message in (
        ({"classifier_steps": 0}, "--classifier-steps must be an integer of at least 1"),
        ({"generated": 0}, "--generated must be an integer of at least 1"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive"),
    ):
        config = conditional.Config(preset="smoke", **fields)
        with pytest.raises(ValueError, match=message):
            conditional.check(resolve(config, PRESETS))
    config = resolve(conditional.Config(preset="smoke"), PRESETS)
    for labels, message in (
        (None, "--data must have labels"),
        (np.zeros(20, int), "--data must have two labels"),
    ):
        images = toy_images()._replace(train_labels=labels, test_labels=labels)
        with pytest.raises(ValueError, match=message):
            conditional.labels_of(config, images)
