"""A better q for the same model: normals, flows and refinement, in nats of the ELBO.

Trains one variational autoencoder for each posterior, from the same encoder, decoder, images and
noise, on dynamically binarised images: a mean-field normal, a normal of full covariance, an inverse
autoregressive flow, a spline coupling flow, and a mean-field normal refined by a few steps up each
image's own ELBO (semi-amortised). All are scored on held-out images, and differences from the first
are paired per image. Then it trains each again with two latent dimensions, where the true posterior
can be drawn, and draws q beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import numpy as np
import optax
import tyro
from flax import nnx

import vi
from experiments import _evaluate, _flow_plane
from experiments._config import Common, main, require_counts, require_positive
from experiments._data import Images, binarise, facts
from experiments._evaluate import Trained, stream
from experiments._flow_vae import build, heads
from experiments._results import Metric, Result, over_data, over_seeds
from experiments._run import Run
from experiments._task import bits_of
from experiments._vae import log_joint, posterior

INIT = 0  # a stream of each seed's key
PLANE = ", 2-D"

PRESET: Any = None  # the preset fills it
Kind = Literal["diagonal", "full", "iaf", "spline", "refined"]
Posteriors = Annotated[tuple[Kind, ...], tyro.conf.arg(metavar="{diagonal,full,...} ...")]


@dataclass(frozen=True)
class Config(Common):
    """Train a VAE with each posterior and compare them on held-out images."""

    posteriors: Posteriors = PRESET
    """Among diagonal, full, iaf, spline and refined; differences are against the first."""
    num_steps: int = PRESET
    """Optimiser steps per posterior."""
    plane_steps: int = PRESET
    """Steps of the models with two latent dimensions; 0 for none."""
    batch_size: int = PRESET
    """Images per step."""
    learning_rate: float = PRESET
    """Adam's initial rate; it falls to a hundredth along a cosine."""
    hidden: int = PRESET
    """Units in each of the two hidden layers, of encoder and decoder."""
    latent: int = PRESET
    """Dimensions of z; even, for the spline coupling flow."""
    num_layers: int = PRESET
    """Layers of a flow."""
    flow_hidden: int = PRESET
    """Units of a flow's conditioner."""
    eval_samples: int = PRESET
    """K of the test NLL."""
    test_images: int | None = PRESET
    """Score on the first so many test images; by default on all, but for the presets that say."""


# fmt: off
CPU: dict[str, Any] = dict(
    posteriors=("diagonal", "full", "iaf", "spline", "refined"), num_steps=15_000,
    plane_steps=6_000, batch_size=100, learning_rate=1e-3, hidden=200, latent=32, num_layers=4,
    flow_hidden=128, eval_samples=1000, test_images=1000,
)
WHOLE: dict[str, Any] = dict(eval_samples=5000, test_images=None)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        posteriors=("diagonal", "iaf"), num_steps=20, plane_steps=10, hidden=16, latent=4,
        num_layers=2, flow_hidden=8, eval_samples=10, test_images=50,
    ),
    "cpu": CPU,
    "digits-cpu": CPU | dict(
        num_steps=4000, plane_steps=3000, learning_rate=2e-3, hidden=128, latent=16,
        flow_hidden=64, test_images=None,
    ),
    "gpu": CPU | WHOLE | dict(num_steps=200_000, num_layers=8),
    "paper": CPU | WHOLE | dict(num_steps=600_000, num_layers=8, flow_hidden=320),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    names = config.posteriors
    if not names or len(set(names)) < len(names):
        rule, got = "name each posterior once, and at least one", " ".join(names)
        raise ValueError(f"--posteriors must {rule} (got {got!r}); try --posteriors diagonal iaf")
    counts = "num_steps", "batch_size", "hidden", "latent", "num_layers", "flow_hidden"
    require_counts(config, *counts, "eval_samples")
    require_counts(config, "plane_steps", least=0)
    require_positive(config, "learning_rate")
    if config.latent % 2 and "spline" in names:
        raise ValueError(f"--latent must be even (got {config.latent}); or leave out spline")


def loss(model: Any, key: jax.Array, grey: jax.Array) -> jax.Array:
    """Minus the ELBO, on fresh bits of the grey images."""
    bits_key, draws_key = jax.random.split(key)
    x = binarise(bits_key, grey)
    objective = vi.gradients.reparam(vi.bounds.elbo)
    return -objective(draws_key, posterior(model, x), log_joint(model, x), 1).mean()


def train(
    config: Config,
    run: Run,
    images: Images,
    name: str,
    kind: str,
    *,
    latent: int,
    num_steps: int,
) -> vi.training.FitResult:
    """Of all seeds, with one posterior; encoder and decoder begin the same for every kind."""
    head = heads(config.num_layers, config.flow_hidden)[kind]
    rate = optax.cosine_decay_schedule(config.learning_rate, num_steps, 0.01)
    optimizer = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(rate))

    def init(key):
        model = build(images, config.hidden, latent, head, nnx.Rngs(key))
        return vi.training.init(model, optimizer)

    return run.fit(
        name,
        vi.training.gradient_step(loss, optimizer),
        jax.jit(jax.vmap(init))(stream(run.key, INIT)),
        images.train,
        num_steps=num_steps,
        batch_size=config.batch_size,
    )


def measure(config: Config, run: Run, trained: dict[str, Trained]) -> dict[str, Metric]:
    """The table: one column per posterior, differences against the first."""
    first, k = config.posteriors[0], config.eval_samples
    metrics = {}
    for kind, (_, scores) in trained.items():
        elbo = -(scores.rate + scores.distortion)
        rows = {
            "test ELBO": over_data(elbo, better="higher"),
            f"test NLL, k = {k}": over_data(scores.nll, better="lower"),
            "gap, NLL above -ELBO": over_data(-elbo - scores.nll, better="lower"),
            "rate": over_data(scores.rate),
            "distortion": over_data(scores.distortion),
        }
        if kind != first:
            other = trained[first].evaluation
            ahead = elbo + other.rate + other.distortion
            rows[f"test ELBO - {first}'s, paired"] = over_data(ahead, better="higher")
            behind = scores.nll - other.nll
            rows[f"test NLL - {first}'s, paired"] = over_data(behind, better="lower")
        rows["active units"] = over_seeds(scores.active_units["z"], unit="count")
        rows["training"] = Metric(run.seconds[kind]["wall"], unit="s")
        metrics |= {f"{kind}/{row}": metric for row, metric in rows.items()}
    return metrics


def experiment(config: Config, run: Run) -> Result:
    """Train, measure and draw."""
    check(config)
    images, x_test = bits_of(config)
    run.protocol(
        **facts(images, x_test),
        optimizer="gradients clipped at norm 100, adam, cosine decay to a hundredth",
        prior="standard normal",
        estimator="reparam(elbo), K = 1",
    )
    trained = {}
    for kind in config.posteriors:
        fit = train(
            config, run, images, kind, kind, latent=config.latent, num_steps=config.num_steps
        )
        stage, k = f"scoring {kind}", config.eval_samples
        scores = _evaluate.evaluate_seeds(
            run, stage, fit.state, x_test, k, estimator=vi.gradients.reparam
        )
        trained[kind] = Trained(fit, scores)
    figures: dict[str, Callable[..., Any]] = {}
    arrays: dict[str, np.ndarray] = {}
    if config.plane_steps:
        steps = config.plane_steps
        models = {
            kind: _evaluate.model_of(
                train(config, run, images, f"{kind}{PLANE}", kind, latent=2, num_steps=steps).state,
                0,
            )
            for kind in config.posteriors
        }
        arrays = run.once("posteriors on the plane", lambda: _flow_plane.panels(models, x_test))
        figures["posteriors"] = lambda: _flow_plane.draw(arrays, list(models))
    return Result(measure(config, run, trained), figures, arrays)


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
