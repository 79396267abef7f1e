"""A better prior for the same model: a mixture, the VampPrior and a flow against the normal.

Trains one variational autoencoder for each prior, from the same encoder, decoder, images and noise,
and scores all on held-out images; differences from the first prior are paired per image. A prior
that fits the aggregated posterior costs fewer nats of rate; samples from it are decoded beside it.
Pixels are bits (dynamically binarised), or the 256 levels of grey images such as Frey faces.
"""

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
from experiments import _evaluate, _plots
from experiments._config import Common, main, require_counts, require_positive
from experiments._data import Images, facts
from experiments._evaluate import Trained, model_of, stream
from experiments._prior_vae import Bits, Levels, PriorVAE, build, priors
from experiments._results import Metric, Result, over_data, over_seeds
from experiments._run import Run
from experiments._task import images_of

INIT, DRAW = range(2)  # streams of each seed's key
SHOWN, COLUMNS = 49, 7  # pictures of each kind

PRESET: Any = None  # the preset fills it
Kind = Literal["standard", "mixture", "vamp", "flow"]
Priors = Annotated[tuple[Kind, ...], tyro.conf.arg(metavar="{standard,mixture,vamp,flow} ...")]


@dataclass(frozen=True)
class Config(Common):
    """Train a VAE with each prior and compare them on held-out images."""

    priors: Priors = PRESET
    """Among standard, mixture, vamp and flow; differences are against the first."""
    pixels: Literal["bits", "levels"] = PRESET
    """Bits drawn from the grey values, or the 256 grey levels as they are."""
    num_steps: int = PRESET
    """Optimiser steps per prior."""
    annealed_steps: int = PRESET
    """Steps over which the rate's weight rises from 0 to 1; 0 for none."""
    batch_size: int = PRESET
    """Images per step."""
    learning_rate: float = PRESET
    """Adam's initial rate; it falls to a hundredth along a cosine."""
    hidden: int = PRESET
    """Units in each of the two hidden layers, of encoder and decoder."""
    latent: int = PRESET
    """Dimensions of z; even, for the flow."""
    num_components: int = PRESET
    """Components of the mixture, pseudo-inputs of the VampPrior."""
    num_layers: int = PRESET
    """Layers of the flow."""
    flow_hidden: int = PRESET
    """Units of the flow's conditioner."""
    eval_samples: int = PRESET
    """K of the test NLL."""
    test_images: int | None = PRESET
    """Score on the first so many test images; by default on all, but for the presets that say."""


# fmt: off
CPU: dict[str, Any] = dict(
    priors=("standard", "mixture", "vamp", "flow"), pixels="bits", num_steps=15_000,
    annealed_steps=1_500, batch_size=100, learning_rate=1e-3, hidden=200, latent=40,
    num_components=200, num_layers=6, flow_hidden=64, eval_samples=1000, test_images=1000,
)
WHOLE: dict[str, Any] = dict(eval_samples=5000, test_images=None)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        priors=("standard", "vamp"), num_steps=20, annealed_steps=5, hidden=16, latent=4,
        num_components=7, num_layers=2, flow_hidden=8, eval_samples=10, test_images=50,
    ),
    "cpu": CPU,
    "digits-cpu": CPU | dict(
        num_steps=4000, annealed_steps=400, learning_rate=2e-3, hidden=128, latent=16,
        num_components=50, test_images=None,
    ),
    "gpu": CPU | WHOLE | dict(num_steps=200_000, annealed_steps=20_000, num_components=500),
    "paper": CPU | WHOLE | dict(
        num_steps=1_000_000, annealed_steps=60_000, hidden=300, num_components=500,
        learning_rate=5e-4,
    ),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    names = config.priors
    if not names or len(set(names)) < len(names):
        rule, got = "name each prior once, and at least one", " ".join(names)
        raise ValueError(f"--priors must {rule} (got {got!r}); try --priors standard vamp")
    counts = "num_steps", "batch_size", "hidden", "latent", "num_components", "num_layers"
    require_counts(config, *counts, "flow_hidden", "eval_samples")
    require_counts(config, "annealed_steps", least=0)
    require_positive(config, "learning_rate")
    if config.latent % 2 and "flow" in names:
        raise ValueError(f"--latent must be even (got {config.latent}); or leave out flow")


def held_out(config: Config, images: Images) -> jax.Array:
    """The images to score: the fixed bits, or the levels of those same images."""
    bits = _evaluate.held_out_bits(images, config.test_images)
    if config.pixels == "bits":
        return bits
    if images.train.dtype != np.uint8:
        raise ValueError(
            f"--pixels levels needs images of bytes (got {images.train.dtype}); try --pixels bits"
        )
    return jnp.asarray(images.test[: len(bits)], jnp.float32)


def make_loss(annealed_steps: int) -> Callable[..., Any]:
    """Minus the ELBO of a minibatch, its rate weighted by the schedule."""
    weight = vi.training.linear_annealing(annealed_steps) if annealed_steps else lambda step: 1.0

    def loss(model: PriorVAE, extra: None, key: jax.Array, grey: jax.Array, step: jax.Array):
        pixels_key, draws_key = jax.random.split(key)
        x = model.pixels.data(pixels_key, grey)
        q: Any = model.posterior(x)
        z = q.rsample(draws_key)
        rate = q.log_prob(z) - model.prior().log_prob(z)
        log_likelihood = model.observation(z).log_prob(x)
        return (weight(step) * rate - log_likelihood).mean(), (extra, {})

    return loss


def train(config: Config, run: Run, images: Images, kind: str) -> vi.training.FitResult:
    """Of all seeds, with one prior; encoder and decoder begin the same for every kind."""
    options = config.num_components, config.num_layers, config.flow_hidden
    make_prior = priors(images, *options)[kind]
    pixels = images.train.shape[1]
    make_pixels = Bits if config.pixels == "bits" else lambda: Levels(pixels)
    rate = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, 0.01)
    optimizer = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(rate))

    def init(key):
        rngs = nnx.Rngs(key)
        model = build(images, config.hidden, config.latent, make_pixels, make_prior, rngs)
        return vi.training.init(model, optimizer)

    return run.fit(
        kind,
        vi.training.stateful_gradient_step(make_loss(config.annealed_steps), optimizer),
        jax.jit(jax.vmap(init))(stream(run.key, INIT)),
        images.train,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
    )


def measure(config: Config, run: Run, trained: dict[str, Trained]) -> dict[str, Metric]:
    """The table: one column per prior, differences against the first."""
    first, k = config.priors[0], config.eval_samples
    metrics = {}
    for kind, (_, scores) in trained.items():
        rows = {
            f"test NLL, k = {k}": over_data(scores.nll, better="lower"),
            "test ELBO": over_data(-(scores.rate + scores.distortion), better="higher"),
            "rate": over_data(scores.rate),
            "distortion": over_data(scores.distortion),
        }
        if kind != first:
            behind = scores.nll - trained[first].evaluation.nll
            rows[f"test NLL - {first}'s, paired"] = over_data(behind, better="lower")
        rows["active units"] = over_seeds(scores.active_units["z"], unit="count")
        rows["training"] = Metric(run.seconds[kind]["wall"], unit="s")
        metrics |= {f"{kind}/{row}": metric for row, metric in rows.items()}
    return metrics


def looks(run: Run, trained: dict[str, Trained]) -> dict[str, np.ndarray]:
    """Decoded draws of each prior, as means in [0, 1], and what the VampPrior has learned."""

    @jax.jit
    def means(key, model):
        made = vi.predictive.generate(key, model.prior(), model.observation, (SHOWN,))
        return model.pixels.inputs(made.observation.mean)

    held = {}
    for kind, (fit, _) in trained.items():
        model = model_of(fit.state, 0)
        held[f"{kind}: draws"] = np.asarray(means(stream(run.key, DRAW)[0], model))
        if kind == "vamp":
            held["vamp: pseudo-inputs"] = np.asarray(model.learned.inputs()[:SHOWN])
    return held


def experiment(config: Config, run: Run) -> Result:
    """Train, measure and draw."""
    check(config)
    images = images_of(config)
    x_test = held_out(config, images)
    as_they_are = {} if config.pixels == "bits" else {"binarisation": "none, 256 levels"}
    run.protocol(
        **facts(images, x_test) | as_they_are,
        optimizer="gradients clipped at norm 100, adam, cosine decay to a hundredth",
        estimator="reparam(elbo), K = 1, the rate annealed linearly",
    )
    trained = {}
    for kind in config.priors:
        fit = train(config, run, images, kind)
        stage, k = f"scoring {kind}", config.eval_samples
        trained[kind] = Trained(fit, _evaluate.evaluate_seeds(run, stage, fit.state, x_test, k))
    seen = run.once("draws of the priors", lambda: looks(run, trained))
    title = "Means of p(x | z) for draws z of each prior"

    def draw():
        return _plots.image_grids(seen, images.shape, COLUMNS, title)

    return Result(measure(config, run, trained), {"draws": draw})


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
