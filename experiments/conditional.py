"""What a label is worth: an autoencoder that is told it against the same one that is not.

Trains two variational autoencoders of the same networks, images, bits and noise; the conditional
one sees each image's label in its encoder and its decoder. Its held-out NLL is that of an image
given its label; with the label summed out it is that of the image alone, and Bayes' rule makes a
classifier of it. Classifiers that were trained on real images judge whether images made for a label
show it. Pictures: one style under every label, and lower halves filled in, with the label known and
without.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import vi
from experiments import _evaluate
from experiments._conditional_halves import complete
from experiments._conditional_pictures import draw, styles
from experiments._conditional_scores import (
    ByLabel,
    Classifiers,
    agreement,
    agreements,
    by_label,
    classifier_loss,
    worth,
)
from experiments._conditional_vae import Labelled, build, labelled, make_loss
from experiments._config import Common, main, require_counts, require_positive
from experiments._data import Images, facts, probabilities
from experiments._evaluate import Evaluation, model_of, stream
from experiments._results import Metric, Result, over_data, over_seeds
from experiments._run import Run
from experiments._task import bits_of

INIT, CLASSIFIER, LOOK = range(3)  # streams of each seed's key
WITHOUT, TOLD = "unconditional", "conditional"

PRESET: Any = None  # the preset fills it


@dataclass(frozen=True)
class Config(Common):
    """Train a VAE that is told each image's label, and one that is not, and compare them."""

    num_steps: int = PRESET
    """Optimiser steps per autoencoder."""
    classifier_steps: int = PRESET
    """Steps per classifier: one of greys, one of bits."""
    batch_size: int = PRESET
    """Images per step."""
    learning_rate: float = PRESET
    """Adam's initial rate; it falls to a hundredth along a cosine."""
    hidden: int = PRESET
    """Units in each of the two hidden layers, of encoder, decoder and classifiers."""
    latent: int = PRESET
    """Dimensions of z."""
    eval_samples: int = PRESET
    """K of the test NLL, under every label, and of the known half's."""
    generated: int = PRESET
    """Images made for the classifiers to judge, the labels in turn."""
    test_images: int | None = PRESET
    """Score on the first so many test images; by default on all, but for the presets that say."""


# fmt: off
CPU: dict[str, Any] = dict(
    num_steps=15_000, classifier_steps=3_000, batch_size=100, learning_rate=1e-3, hidden=200,
    latent=32, eval_samples=200, generated=1000, test_images=500,
)
WHOLE: dict[str, Any] = dict(eval_samples=1000, generated=10_000, test_images=None)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        num_steps=20, classifier_steps=20, hidden=16, latent=4, eval_samples=10, generated=30,
        test_images=40,
    ),
    "cpu": CPU,
    "digits-cpu": CPU | dict(
        num_steps=4000, classifier_steps=2000, learning_rate=2e-3, hidden=128, latent=16,
        eval_samples=500, test_images=None,
    ),
    "gpu": CPU | WHOLE | dict(num_steps=200_000, classifier_steps=20_000),
    "paper": CPU | WHOLE | dict(
        num_steps=1_000_000, classifier_steps=50_000, hidden=500, latent=50
    ),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    counts = "num_steps", "classifier_steps", "batch_size", "hidden", "latent"
    require_counts(config, *counts, "eval_samples", "generated")
    require_positive(config, "learning_rate")


def labels_of(config: Config, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Of the training images and of the test images, from 0 on; refused where there are none."""
    train, test = images.train_labels, images.test_labels
    if train is None or test is None:
        raise ValueError(f"--data must have labels (got {config.data}); try --data digits")
    values, indices = np.unique(np.concatenate([train, test]), return_inverse=True)
    if len(values) < 2:
        raise ValueError(f"--data must have two labels or more (got {config.data}); try digits")
    indices = indices.astype(np.int32)
    return indices[: len(train)], indices[len(train) :]


def make_optimizer(config: Config, num_steps: int) -> optax.GradientTransformation:
    """Adam along a cosine."""
    rate = optax.cosine_decay_schedule(config.learning_rate, num_steps, 0.01)
    return optax.chain(optax.clip_by_global_norm(100.0), optax.adam(rate))


def train(config: Config, run: Run, images: Images, data: Labelled, classes: int):
    """Both models, of all seeds: they begin with the same weights, and one program trains them."""
    optimizer = make_optimizer(config, config.num_steps)
    step = vi.training.gradient_step(make_loss(classes), optimizer)

    def init(key, told):
        model = build(images, classes, config.hidden, config.latent, told, nnx.Rngs(key))
        return vi.training.init(model, optimizer)

    begin = jax.jit(jax.vmap(init, in_axes=(0, None)))
    sizes = {"num_steps": config.num_steps, "batch_size": config.batch_size}
    keys = stream(run.key, INIT)
    return {
        name: run.fit(name, step, begin(keys, told), data, **sizes).state
        for name, told in ((WITHOUT, 0.0), (TOLD, 1.0))
    }


def train_classifiers(config: Config, run: Run, data: Labelled, classes: int) -> vi.training.State:
    """Of all seeds, on the real images."""
    optimizer = make_optimizer(config, config.classifier_steps)

    def init(key):
        sizes = data.grey.shape[1], config.hidden, classes
        return vi.training.init(Classifiers(*sizes, nnx.Rngs(key)), optimizer)

    return run.fit(
        "classifiers",
        vi.training.gradient_step(classifier_loss, optimizer),
        jax.jit(jax.vmap(init))(stream(run.key, CLASSIFIER)),
        data,
        num_steps=config.classifier_steps,
        batch_size=config.batch_size,
    ).state


def measure(
    config: Config,
    run: Run,
    scores: dict[str, Evaluation],
    told: ByLabel,
    halves: dict[str, dict[str, np.ndarray]],
    classes: int,
) -> dict[str, Metric]:
    """A column for each model: what it says of images, of their halves, and what it cost."""
    k, metrics = config.eval_samples, {}
    missing = {name: scores[name].nll - halves[name]["nll"] for name in scores}
    for name, held in scores.items():
        rows = {
            f"test NLL, k = {k}": over_data(held.nll, better="lower"),
            "test ELBO": over_data(-(held.rate + held.distortion), better="higher"),
            "rate": over_data(held.rate),
            "distortion": over_data(held.distortion),
        }
        if name == TOLD:
            rows |= worth(told, scores[WITHOUT], classes)
        rows["NLL of the lower half given the upper"] = over_data(missing[name], better="lower")
        if name == TOLD:
            behind = missing[TOLD] - missing[WITHOUT]
            rows["lower half - unconditional's, paired"] = over_data(behind, better="lower")
        effective = np.median(halves[name]["effective"], axis=-1)
        rows[f"effective draws of the {k}, known half"] = over_seeds(effective, unit="count")
        rows["active units"] = over_seeds(held.active_units["z"], unit="count")
        rows["training"] = Metric(run.seconds[name]["wall"], unit="s")
        metrics |= {f"{name}/{row}": metric for row, metric in rows.items()}
    return metrics


def experiment(config: Config, run: Run) -> Result:
    """Train, measure and draw."""
    check(config)
    images, bits = bits_of(config)
    train_labels, test_labels = labels_of(config, images)
    classes, test_labels = int(train_labels.max()) + 1, test_labels[: len(bits)]
    run.protocol(
        **facts(images, bits),
        classes=classes,
        optimizer="gradients clipped at norm 100, adam, cosine decay to a hundredth",
        prior="standard normal, whatever the label",
        estimator="reparam(elbo), K = 1",
    )
    data, k = Labelled(images.train, train_labels), config.eval_samples
    states = train(config, run, images, data, classes)

    def scored(name, as_labels, stage):
        x = labelled(bits, jnp.asarray(as_labels), classes)
        return _evaluate.evaluate_seeds(run, f"scoring {stage}", states[name], x, k)

    def halved(name):
        x = labelled(bits, jnp.asarray(test_labels), classes)
        return run.once(f"halves, {name}", lambda: complete(run, states[name], x, k))

    scores = {name: scored(name, test_labels, name) for name in states}
    halves = {name: halved(name) for name in states}
    under = [
        scored(TOLD, np.full(len(bits), y), f"{TOLD}, as label {y}").nll for y in range(classes)
    ]
    told = by_label(np.stack(under), test_labels)
    classifiers = train_classifiers(config, run, data, classes)
    tests = {"greys": jnp.asarray(probabilities(images.test[: len(bits)])), "bits": bits}
    judged = run.once(
        "agreement",
        lambda: agreement(
            run, states[TOLD], classifiers, tests, test_labels, config.generated, classes
        ),
    )
    key, model = stream(run.key, LOOK)[0], model_of(states[TOLD], 0)
    shown = run.once("styles", lambda: styles(key, model, classes))

    def figure():
        completed = {"with its label": halves[TOLD], "without": halves[WITHOUT]}
        return draw(shown["means"], completed, np.asarray(bits), test_labels, images.shape)

    metrics = measure(config, run, scores, told, halves, classes) | agreements(judged)
    return Result(metrics, {"conditional": figure})


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
