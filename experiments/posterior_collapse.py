"""Posterior collapse and its cures: a decoder that can do without z, and what brings z back.

A decoder that sees the pixels before the one it decodes can fit the images alone. Trained plainly,
q then returns to the prior, and z is not used. The known cures are trained beside it, from the same
start, images and noise: the rate's weight annealed, once and in cycles; free bits, a floor under
the rate of each dimension; and steps of the encoder alone before each step, since it lags behind. A
decoder of independent pixels, which cannot do without z, gives the scale. What each costs in nats
is measured against plain training, per held-out image.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import numpy as np
import optax
import tyro
from flax import nnx

import vi
from experiments import _collapse_plots, _evaluate
from experiments._collapse_cures import methods
from experiments._collapse_vae import (
    SOFTLY,
    CollapseVAE,
    Expressive,
    Factorised,
    kl_by_dimension,
    mutual_information,
)
from experiments._config import Common, main, require_counts, require_positive
from experiments._data import Images, facts
from experiments._evaluate import Trained, model_of, stream
from experiments._results import Metric, Result, over_data, over_seeds
from experiments._run import Run
from experiments._task import bits_of

INIT, INFORMATION = range(2)  # streams of each seed's key

PRESET: Any = None  # the preset fills it
Kind = Literal["plain", "linear", "cyclical", "free bits", "lagging", "factorised"]
Methods = Annotated[tuple[Kind, ...], tyro.conf.arg(metavar="{plain,linear,...} ...")]


@dataclass(frozen=True)
class Config(Common):
    """Train one autoencoder by each method and measure what its latent is used for."""

    methods: Methods = PRESET
    """Among plain, linear, cyclical, "free bits", lagging and factorised; plain is the first."""
    num_steps: int = PRESET
    """Optimiser steps per method."""
    batch_size: int = PRESET
    """Images per step."""
    learning_rate: float = PRESET
    """Adam's initial rate; it falls to a hundredth along a cosine."""
    hidden: int = PRESET
    """Units in each of the two hidden layers of the encoder (and of the factorised decoder)."""
    width: int = PRESET
    """Units of the hidden layer of the pixel-by-pixel decoder."""
    latent: int = PRESET
    """Dimensions of z."""
    annealed_steps: int = PRESET
    """Steps over which the rate's weight rises, or all its cycles take."""
    num_cycles: int = PRESET
    """Cycles of the cyclical annealing; in half of each the weight rises."""
    free_nats: float = PRESET
    """The floor under the rate of each dimension."""
    lagging_steps: int = PRESET
    """Steps that are preceded by steps of the encoder alone."""
    inner_steps: int = PRESET
    """So many of them."""
    eval_samples: int = PRESET
    """K of the test NLL."""
    test_images: int | None = PRESET
    """Score on the first so many test images; by default on all, but for the presets that say."""


# fmt: off
CPU: dict[str, Any] = dict(
    methods=("plain", "linear", "cyclical", "free bits", "lagging", "factorised"),
    num_steps=5000, batch_size=100, learning_rate=3e-3, hidden=200, width=1000, latent=16,
    annealed_steps=2500, num_cycles=4, free_nats=0.5, lagging_steps=2500, inner_steps=10,
    eval_samples=500, test_images=500,
)
WHOLE: dict[str, Any] = dict(eval_samples=5000, test_images=None)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        methods=("plain", "lagging"), num_steps=20, hidden=8, width=65, latent=2,
        annealed_steps=10, lagging_steps=5, inner_steps=2, eval_samples=10, test_images=50,
    ),
    "cpu": CPU,
    "digits-cpu": CPU | dict(
        num_steps=4000, learning_rate=1e-2, hidden=64, width=512, latent=8, annealed_steps=2000,
        lagging_steps=2000, test_images=None,
    ),
    "gpu": CPU | WHOLE | dict(
        num_steps=60_000, width=2000, latent=32, annealed_steps=20_000, lagging_steps=20_000,
    ),
    "paper": CPU | WHOLE | dict(
        num_steps=300_000, width=4000, latent=32, annealed_steps=100_000, lagging_steps=100_000,
        inner_steps=50,
    ),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    names = config.methods
    if names[:1] != ("plain",) or len(set(names)) < len(names):
        rule, got = "begin with plain, and name each method once", " ".join(names)
        raise ValueError(f"--methods must {rule} (got {got!r}); try --methods plain linear")
    counts = "num_steps", "batch_size", "hidden", "width", "latent", "annealed_steps"
    require_counts(config, *counts, "num_cycles", "inner_steps", "eval_samples")
    require_counts(config, "lagging_steps", least=0)
    require_positive(config, "learning_rate", "free_nats")
    if config.num_cycles > config.annealed_steps:
        most = config.annealed_steps
        rule = f"be at most the {most} annealed steps"
        raise ValueError(f"--num-cycles must {rule} (got {config.num_cycles}); try {min(4, most)}")


def check_width(config: Config, pixels: int) -> None:
    """Refuse a decoder whose pixels could not see all those before them."""
    least = vi.networks.MaskedMLP.least_width(pixels, config.latent)
    if config.width < least:
        rule = f"be at least the {least} pixels, so that each can see all before it"
        raise ValueError(f"--width must {rule} (got {config.width}); try {2 * least}")


def train(config: Config, run: Run, images: Images, name: str) -> vi.training.FitResult:
    """Of all seeds, by one method; the encoder begins the same for all."""
    rate = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, 0.01)
    optimizer = optax.adam(rate)
    steps = methods(
        optimizer,
        annealed_steps=config.annealed_steps,
        num_cycles=config.num_cycles,
        min_nats=config.free_nats,
        num_inner=config.inner_steps,
        lagging_steps=config.lagging_steps,
    )

    def init(key):
        sizes = images, config.hidden, config.latent
        rngs = nnx.Rngs(key)
        is_factorised = name == "factorised"
        model = (
            Factorised(*sizes, rngs) if is_factorised else Expressive(*sizes, config.width, rngs)
        )
        return vi.training.init(model, optimizer)

    return run.fit(
        name,
        steps[name],
        jax.jit(jax.vmap(init))(stream(run.key, INIT)),
        images.train,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
    )


def usage(run: Run, name: str, state: vi.training.State, x: jax.Array) -> dict[str, np.ndarray]:
    """What the latent is used for: KL by dimension ``[S, M, D]``, and the information ``[S]``."""

    def compute():
        keys = stream(run.key, INFORMATION)
        each = [_usage(key, model_of(state, i), x) for i, key in enumerate(keys)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *each)

    return run.once(f"use of z, {name}", compute)


@jax.jit
def _usage(key: jax.Array, model: CollapseVAE, x: jax.Array) -> dict[str, jax.Array]:
    return {"kl": kl_by_dimension(model, x), "information": mutual_information(key, model, x)}


def measure(
    config: Config, run: Run, trained: dict[str, Trained], used: dict[str, dict[str, np.ndarray]]
) -> dict[str, Metric]:
    """The table: one column per method, differences against plain training."""
    k, plain = config.eval_samples, trained["plain"].evaluation
    metrics = {}
    for name, (_, scores) in trained.items():
        kl = used[name]["kl"]
        elbo = -(kl.sum(-1) + scores.distortion)
        rows = {
            "rate": over_data(kl.sum(-1)),
            "largest rate of a dimension": over_seeds(kl.mean(1).max(-1)),
            "active units": over_seeds(scores.active_units["z"], unit="count"),
            "information I_q(x; z)": over_seeds(used[name]["information"]),
            "test ELBO": over_data(elbo, better="higher"),
            f"test NLL, k = {k}": over_data(scores.nll, better="lower"),
        }
        if name != "plain":
            behind = used["plain"]["kl"].sum(-1) + plain.distortion
            rows["test ELBO - plain's, paired"] = over_data(elbo + behind, better="higher")
            worse = scores.nll - plain.nll
            rows["test NLL - plain's, paired"] = over_data(worse, better="lower")
        rows["training"] = Metric(run.seconds[name]["wall"], unit="s")
        metrics |= {f"{name}/{row}": metric for row, metric in rows.items()}
    return metrics


def experiment(config: Config, run: Run) -> Result:
    """Train, measure and draw."""
    check(config)
    images, x_test = bits_of(config)
    check_width(config, images.train.shape[1])
    run.protocol(
        **facts(images, x_test),
        optimizer="adam, cosine decay to a hundredth",
        estimator="reparam, K = 1, the KL in closed form",
        decoder=f"masked, one hidden layer; its map of z begins at {SOFTLY} of the usual scale",
    )
    trained, used = {}, {}
    for name in config.methods:
        fit = train(config, run, images, name)
        stage, k = f"scoring {name}", config.eval_samples
        trained[name] = Trained(fit, _evaluate.evaluate_seeds(run, stage, fit.state, x_test, k))
        used[name] = usage(run, name, fit.state, x_test)
    rates = {name: np.asarray(t.fit.history["rate"]) for name, t in trained.items()}
    by_dimension = {name: use["kl"].mean(1) for name, use in used.items()}
    metrics = measure(config, run, trained, used)
    return Result(
        metrics,
        {"collapse": lambda: _collapse_plots.collapse(rates, by_dimension, metrics)},
        {f"rate by dimension, {name}": kl for name, kl in by_dimension.items()},
    )


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
