"""What a decoder says of grey pixels: one autoencoder under seven likelihoods.

Trains the same networks on the same images and noise, with another last layer for each likelihood:
the cross-entropy of greys that is usual, the continuous Bernoulli, the sum of squares, a normal
with a learned scale, a rounded logistic, a mixture of them, and a categorical. All are compared in
held-out nats of the pixels' levels, a probability whatever was trained on: a density scores levels
with uniform noise, which bounds their log-probability from below, and the cross-entropy is divided
by its sum over the levels. Beside them, what each model's own draws look like.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

import vi
from experiments import _evaluate, _likelihoods_draws
from experiments._config import Common, main, require_counts, require_positive
from experiments._evaluate import Evaluation, stream
from experiments._likelihoods_readings import (
    READINGS,
    BernoulliOnGreys,
    ContinuousBernoulli,
    NormalisedBernoulli,
)
from experiments._likelihoods_vae import Greys, build, dequantise, held_out, levels_of
from experiments._results import Metric, Result, over_data, over_seeds
from experiments._run import Run
from experiments._task import images_of
from experiments._vae import log_joint, posterior

INIT = 0  # a stream of each seed's key
HELD_OUTPUTS = 100_000  # of a decoder, for each image scored, in memory at once
NLL = "test NLL of levels"
NORMALISED, CONTINUOUS = ", normalised", ", read as continuous"

PRESET: Any = None  # the preset fills it
Kind = Literal["bernoulli", "continuous", "squares", "normal", "logistic", "mixture", "categorical"]
Kinds = Annotated[tuple[Kind, ...], tyro.conf.arg(metavar="{bernoulli,continuous,...} ...")]


@dataclass(frozen=True)
class Config(Common):
    """Train a VAE with each likelihood and compare them on held-out grey levels."""

    likelihoods: Kinds = PRESET
    """Among bernoulli (cross-entropy of greys), continuous (Bernoulli), squares, normal, logistic
    (rounded), mixture and categorical; differences are against the first."""
    num_steps: int = PRESET
    """Optimiser steps per likelihood."""
    batch_size: int = PRESET
    """Images per step."""
    learning_rate: float = PRESET
    """Adam's initial rate; it falls to a hundredth along a cosine."""
    hidden: int = PRESET
    """Units in each of the two hidden layers, of encoder and decoder."""
    latent: int = PRESET
    """Dimensions of z."""
    eval_samples: int = PRESET
    """K of the test NLL."""
    draws: int = PRESET
    """Images drawn from each model, for its histogram of greys; at least 8."""
    test_images: int | None = PRESET
    """Score on the first so many test images; by default on all, but for the presets that say."""


# fmt: off
CPU: dict[str, Any] = dict(
    likelihoods=("bernoulli", "continuous", "squares", "normal", "logistic", "mixture"),
    num_steps=10_000, batch_size=100, learning_rate=1e-3, hidden=200, latent=32, eval_samples=1000,
    draws=1000, test_images=1000,
)
WHOLE: dict[str, Any] = dict(
    likelihoods=tuple(READINGS), eval_samples=5000, test_images=None, num_steps=200_000
)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        likelihoods=("bernoulli", "logistic"), num_steps=20, hidden=16, latent=4, eval_samples=10,
        draws=20, test_images=50,
    ),
    "cpu": CPU,
    "digits-cpu": CPU | dict(
        likelihoods=tuple(READINGS), num_steps=4000, hidden=128, latent=16, test_images=None,
    ),
    "gpu": CPU | WHOLE,
    "paper": CPU | WHOLE | dict(num_steps=600_000),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    names = config.likelihoods
    if not names or len(set(names)) < len(names):
        rule, got = "name each likelihood once, and at least one", " ".join(names)
        remedy = "try --likelihoods bernoulli logistic"
        raise ValueError(f"--likelihoods must {rule} (got {got!r}); {remedy}")
    require_counts(config, "num_steps", "batch_size", "hidden", "latent", "eval_samples")
    require_counts(config, "draws", least=_likelihoods_draws.SHOWN)
    require_positive(config, "learning_rate")


def loss(model: Any, key: jax.Array, levels: jax.Array) -> jax.Array:
    """Minus the ELBO, on fresh noise of the levels."""
    noise_key, draws_key = jax.random.split(key)
    x = dequantise(noise_key, levels)
    objective = vi.gradients.reparam(vi.bounds.elbo)
    return -objective(draws_key, posterior(model, x), log_joint(model, x), 1).mean()


def train(config: Config, run: Run, greys: Greys, kind: str) -> vi.training.FitResult:
    """Of all seeds, with one likelihood."""
    reading = READINGS[kind](greys.num_levels)
    rate = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, 0.01)
    optimizer = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(rate))

    def init(key):
        model = build(greys, config.hidden, config.latent, reading, nnx.Rngs(key))
        return vi.training.init(model, optimizer)

    return run.fit(
        kind,
        vi.training.gradient_step(loss, optimizer),
        jax.jit(jax.vmap(init))(stream(run.key, INIT)),
        greys.train,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
    )


def score(
    config: Config, run: Run, x_test: jax.Array, kind: str, fit: vi.training.FitResult
) -> dict[str, Evaluation]:
    """As what it was trained with, and for the cross-entropy as what it might have been."""
    own = _evaluate.model_of(fit.state, 0).reading
    readings = {kind: own}
    if isinstance(own, BernoulliOnGreys):
        readings[f"{kind}{NORMALISED}"] = NormalisedBernoulli(own.num_levels)
        readings[f"{kind}{CONTINUOUS}"] = ContinuousBernoulli(own.num_levels)
    chunk_size = max(1, min(_evaluate.CHUNK, HELD_OUTPUTS // (x_test.shape[1] * own.width)))

    def scored(name, reading):
        return _evaluate.evaluate_seeds(
            run,
            f"scoring {name}",
            fit.state,
            x_test,
            config.eval_samples,
            part=lambda model: model.read_as(reading),
            chunk_size=chunk_size,
        )

    return {name: scored(name, reading) for name, reading in readings.items()}


def measure(
    config: Config, run: Run, scores: dict[str, Evaluation], num_pixels: int, num_levels: int
) -> dict[str, Metric]:
    """The table: one column per likelihood, differences against the first, and ignorance."""
    (first, *_), k, metrics = config.likelihoods, config.eval_samples, {}
    honest = {kind: scores.get(f"{kind}{NORMALISED}", scores[kind]) for kind in config.likelihoods}
    for kind, held in honest.items():
        bits = vi.likelihoods.bits_per_dimension(jnp.asarray(-held.nll), num_pixels)
        rows = {
            f"{NLL}, k = {k}": over_data(held.nll, better="lower"),
            "bits per dimension": over_data(bits, unit="bits", better="lower"),
        }
        if kind != first:
            behind = held.nll - honest[first].nll
            rows[f"NLL - {first}'s, paired"] = over_data(behind, better="lower")
        if held is not (said := scores[kind]):
            rows["what cross-entropy says, no NLL"] = over_data(said.nll)
            rows["NLL - what it says, paired"] = over_data(held.nll - said.nll)
            rows["NLL, read as continuous"] = over_data(scores[f"{kind}{CONTINUOUS}"].nll)
        ess = np.median(held.effective_samples, axis=-1)
        rows[f"effective draws of the {k}, median"] = over_seeds(ess, unit="count")
        rows["rate"] = over_data(scores[kind].rate)
        rows["active units"] = over_seeds(scores[kind].active_units["z"], unit="count")
        rows["training"] = Metric(run.seconds[kind]["wall"], unit="s")
        metrics |= {f"{kind}/{row}": metric for row, metric in rows.items()}
    metrics[f"all levels alike/{NLL}, k = {k}"] = Metric(num_pixels * math.log(num_levels))
    metrics["all levels alike/bits per dimension"] = Metric(math.log2(num_levels), unit="bits")
    return metrics


def experiment(config: Config, run: Run) -> Result:
    """Train, measure and draw."""
    check(config)
    images = images_of(config)
    greys = levels_of(images)
    x_test = held_out(greys, _evaluate.count_held_out(images, config.test_images))
    run.protocol(
        images=images.fingerprint,
        train_images=len(images.train),
        scored_images=len(x_test),
        levels=greys.num_levels,
        dequantisation="uniform; train: fresh every step; test: once, the same in every run",
        optimizer="gradients clipped at norm 100, adam, cosine decay to a hundredth",
        prior="standard normal",
        estimator="reparam(elbo), K = 1",
    )
    fits, scores = {}, {}
    for kind in config.likelihoods:
        fits[kind] = train(config, run, greys, kind)
        scores |= score(config, run, x_test, kind, fits[kind])
    held = run.once("draws", lambda: _likelihoods_draws.draw(run, fits, x_test, config.draws))
    shown = held, config.likelihoods, greys.test[: len(x_test)], greys.num_levels
    sizes = x_test.shape[1], greys.num_levels
    metrics = measure(config, run, scores, *sizes) | _likelihoods_draws.measure(*shown)
    figures: dict[str, Callable[..., Any]] = {
        "samples": lambda: _likelihoods_draws.samples(*shown, images.shape),
        "greys": lambda: _likelihoods_draws.greys(*shown),
    }
    return Result(metrics, figures)


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
