"""What a likelihood costs elsewhere: five kinds of model of the same grey levels, measured.

A variational autoencoder, the same trained by the importance-weighted bound, the same with a flow
for its posterior, a masked autoregressive network, and a normalising flow of pixels made continuous
by uniform noise. All give probabilities of whole levels, so that their held-out nats compare, image
by image: exact for the autoregressive network, of K samples for the others, which bounds them.
Training ends when a held-out part of the training images says so, for all by one rule. Beside the
nats: seconds to draw images, parameters, and whether there is a latent space.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

import vi
from experiments._alternatives_fits import Training, parts_of, sample, score, train
from experiments._alternatives_models import makers
from experiments._alternatives_plots import costs_and_draws
from experiments._alternatives_table import NLL, SAMPLING, baselines, costs, quality
from experiments._config import Common, main, require_counts, require_positive
from experiments._evaluate import count_held_out
from experiments._likelihoods_vae import Greys, levels_of
from experiments._results import Metric, Result
from experiments._run import Run
from experiments._task import images_of

PRESET: Any = None  # the preset fills it
Kind = Literal["vae", "iwae", "posterior", "autoregressive", "flow"]
Kinds = Annotated[tuple[Kind, ...], tyro.conf.arg(metavar="{vae,iwae,posterior,...} ...")]
NAMES: Mapping[str, str] = {
    "vae": "VAE",
    "iwae": "IWAE",
    "posterior": "VAE, flow posterior",
    "autoregressive": "autoregressive",
    "flow": "flow of pixels",
}


@dataclass(frozen=True)
class Config(Common):
    """Train five kinds of model on the same grey levels and compare what their likelihoods cost."""

    models: Kinds = PRESET
    """Among vae, iwae, posterior (a VAE with a flow for q), autoregressive and flow (of pixels);
    differences are against the first."""
    num_steps: int = PRESET
    """Optimiser steps at most."""
    eval_every: int = PRESET
    """Steps between looks at the held-out part."""
    patience: int = PRESET
    """Looks in a row without a new best that end the training."""
    batch_size: int = PRESET
    """Images per step."""
    learning_rate: float = PRESET
    """Adam's."""
    hidden: int = PRESET
    """Units in each of the two hidden layers of encoders and decoders, and of the posterior's."""
    latent: int = PRESET
    """Dimensions of z in the three models that have a decoder."""
    train_samples: int = PRESET
    """K that the iwae is trained with."""
    posterior_layers: int = PRESET
    """Layers of the flow of the posterior."""
    masked_hidden: int = PRESET
    """Units in each of the two hidden layers of the autoregressive network."""
    flow_layers: int = PRESET
    """Layers of the flow of pixels."""
    flow_hidden: int = PRESET
    """Units of its conditioner."""
    eval_samples: int = PRESET
    """K of the test NLL, of z or of the flow's noise."""
    draws: int = PRESET
    """Images drawn from each model, and timed."""
    test_images: int | None = PRESET
    """Score on the first so many test images; by default on all, but for the presets that say."""


# fmt: off
CPU: dict[str, Any] = dict(
    models=tuple(NAMES), num_steps=4000, eval_every=100, patience=3, batch_size=100,
    learning_rate=3e-3, hidden=128, latent=16, train_samples=10, posterior_layers=2,
    masked_hidden=128, flow_layers=4, flow_hidden=32, eval_samples=500, draws=1000,
    test_images=500,
)
BIG: dict[str, Any] = dict(
    num_steps=200_000, eval_every=500, learning_rate=1e-3, hidden=500, latent=50, train_samples=50,
    posterior_layers=4, masked_hidden=2000, flow_layers=10, flow_hidden=256, test_images=None,
)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        models=("vae", "autoregressive"), num_steps=20, eval_every=10, hidden=16, latent=4,
        train_samples=2, masked_hidden=63, flow_layers=2, flow_hidden=8, eval_samples=10, draws=30,
        test_images=60,
    ),
    "cpu": CPU,
    "digits-cpu": CPU | dict(test_images=None),
    "gpu": CPU | BIG,
    "paper": CPU | BIG | dict(num_steps=1_000_000, patience=10, eval_samples=5000),
}
# fmt: on


def check(config: Config, pixels: int) -> None:
    """Refuse what would fail late, or what a model cannot take, by the name of its flag."""
    names = config.models
    if not names or len(set(names)) < len(names):
        rule, got = "name each model once, and at least one", " ".join(names)
        raise ValueError(f"--models must {rule} (got {got!r}); try --models vae flow")
    counts = "num_steps", "eval_every", "patience", "batch_size", "hidden", "latent", "draws"
    layers = "posterior_layers", "masked_hidden", "flow_layers", "flow_hidden"
    require_counts(config, *counts, *layers, "train_samples", "eval_samples")
    require_positive(config, "learning_rate")
    if pixels % 2 and "flow" in names:
        raise ValueError(f"--models: flow needs an even number of pixels (got {pixels}); leave out")
    least = vi.networks.MaskedMLP.least_width(pixels, 0)
    if config.masked_hidden < least and "autoregressive" in names:
        rule = f"be at least the {least} that see all pixels"
        raise ValueError(f"--masked-hidden must {rule} (got {config.masked_hidden}); try {least}")


def trainings(config: Config) -> dict[str, Training]:
    """The bound that each is trained on."""
    once = Training(vi.gradients.reparam, 1)
    held = dict.fromkeys(NAMES, once)
    return held | {"iwae": Training(vi.gradients.dreg, config.train_samples)}


def experiment(config: Config, run: Run) -> Result:
    """Train, measure and draw."""
    images = images_of(config)
    greys = levels_of(images)
    pixels = greys.train.shape[1]
    check(config, pixels)
    levels = greys.test[: count_held_out(images, config.test_images)]
    parts = parts_of(greys.train)
    run.protocol(
        images=images.fingerprint,
        train_images=len(parts.train),
        held_out_for_stopping=len(parts.held),
        scored_images=len(levels),
        levels=greys.num_levels,
        optimizer="gradients clipped at norm 100, adam; averages of the iterates are scored",
        likelihood="by pixel: a rounded logistic of decoders, five mixed of the masked network",
    )
    make = makers(
        Greys(parts.train, greys.test, greys.num_levels),
        images.shape,
        hidden=config.hidden,
        latent=config.latent,
        masked_hidden=config.masked_hidden,
        posterior_layers=config.posterior_layers,
        flow_layers=config.flow_layers,
        flow_hidden=config.flow_hidden,
    )
    k, how = config.eval_samples, trainings(config)
    metrics: dict[str, Metric] = {}
    first, drawn = None, {}
    for kind in config.models:
        name = NAMES[kind]
        fit = train(config, run, name, make[kind], how[kind], parts)
        state = fit.state
        scores = run.once(f"scoring {name}", lambda s=state: score(run, s, levels, k))
        drawn[name] = run.once(f"draws, {name}", lambda s=state: sample(run, s, config.draws))
        rows = quality(scores, first, pixels) | costs(run, name, fit, drawn[name], k)
        metrics |= {f"{name}/{row}": metric for row, metric in rows.items()}
        first = scores if first is None else first

    def figure():
        points = {name: (metrics[f"{name}/{SAMPLING}"], metrics[f"{name}/{NLL}"]) for name in drawn}
        shown = {"test images": levels} | {name: made["levels"] for name, made in drawn.items()}
        greys_of = {name: images / (greys.num_levels - 1) for name, images in shown.items()}
        return costs_and_draws(points, greys_of, images.shape)

    return Result(metrics | baselines(greys, levels), {"alternatives": figure})


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
