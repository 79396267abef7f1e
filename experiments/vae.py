"""A variational autoencoder: the ELBO against the importance-weighted bound.

Trains the same network once per bound, in one run, on dynamically binarised images; then asks which
explains held-out images better, and by how much for sure, with the difference paired per image.
"""

import json
import pathlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx

import vi
from experiments import _evaluate, _pictures, _references
from experiments._config import Common, main, require_counts, require_positive
from experiments._data import Images, binarise, facts, load_images
from experiments._evaluate import Trained, generate, model_of, reconstruct, stream
from experiments._results import Metric, Result, file_name, over_data, over_seeds
from experiments._run import Run
from experiments._task import bits_of
from experiments._vae import VAE, build_vae, log_joint, posterior

__all__ = ["Config", "experiment", "generate", "load", "log_joint", "posterior", "reconstruct"]

BOUNDS = {"elbo": vi.bounds.elbo, "iwae": vi.bounds.iwae}
GRADIENTS = {"reparam": vi.gradients.reparam, "dreg": vi.gradients.dreg}
WATCHED, WATCHED_DRAWS = 1000, 10  # held-out images, and draws of each, in the training curves
INIT, WATCH = range(2)  # streams of each seed's key

PRESET: Any = None  # the preset fills it
Bounds = Annotated[tuple[Literal["elbo", "iwae"], ...], tyro.conf.arg(metavar="{elbo,iwae} ...")]


@dataclass(frozen=True)
class Config(Common):
    """Train a VAE with each bound and compare them on held-out images."""

    bounds: Bounds = PRESET
    """Bounds to train with; differences are against the first."""
    gradient: Literal["reparam", "dreg"] = PRESET
    """Gradient estimator, for every bound."""
    num_samples: tuple[int, ...] = PRESET
    """K, draws of z per image and step: one number for all bounds, or one for each in turn."""
    num_steps: int = PRESET
    """Optimiser steps per bound; an epoch of MNIST is 600 at a batch size of 100."""
    batch_size: int = PRESET
    """Images per step."""
    learning_rate: float = PRESET
    """Adam's initial rate; it falls along a cosine."""
    final_rate: float = PRESET
    """Where it ends."""
    hidden: int = PRESET
    """Units in each of the two hidden layers, of encoder and decoder."""
    latent: int = PRESET
    """Dimensions of z; with two stochastic layers of z2, and z1 has twice as many."""
    layers: int = PRESET
    """Stochastic layers, 1 or 2."""
    eval_samples: int = PRESET
    """K of the test NLL."""
    test_images: int | None = PRESET
    """Score on the first so many test images; by default on all, but for the presets that say."""


# fmt: off
CPU: dict[str, Any] = dict(
    bounds=("elbo", "iwae"), gradient="reparam", num_samples=(1, 5), num_steps=24_000,
    batch_size=100, learning_rate=1e-3, final_rate=2e-5, hidden=200, latent=50, layers=1,
    eval_samples=1000, test_images=1000,
)
WHOLE: dict[str, Any] = dict(eval_samples=5000, test_images=None)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        bounds=("iwae",), num_samples=(3,), num_steps=40, eval_samples=20, test_images=100
    ),
    "cpu": CPU,
    "digits-cpu": WHOLE | dict(
        gradient="dreg", num_samples=(20,), num_steps=4000, learning_rate=3e-3, final_rate=0.0,
        hidden=128, latent=20,
    ),
    "gpu": CPU | WHOLE | dict(num_samples=(1, 50), num_steps=120_000),
    "paper": CPU | WHOLE | dict(num_samples=(1, 50), num_steps=240_000),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    if not config.bounds or len(set(config.bounds)) < len(config.bounds):
        rule, got = "name each bound once, and at least one", " ".join(config.bounds)
        raise ValueError(f"--bounds must {rule} (got {got!r}); try --bounds elbo iwae")
    draws = config.num_samples
    if len(draws) not in (1, len(config.bounds)) or min(draws) < 1:
        rule = f"be one count or one for each of the {len(config.bounds)} bounds, of at least 1"
        got = " ".join(map(str, draws))
        raise ValueError(f"--num-samples must {rule} (got {got!r}); try --num-samples 5")
    counts = "num_steps", "batch_size", "hidden", "latent", "layers", "eval_samples"
    require_counts(config, *counts)
    if config.layers > 2:
        raise ValueError(f"--layers must be 1 or 2 (got {config.layers}); try 2")
    require_positive(config, "learning_rate")
    if not 0 <= config.final_rate <= config.learning_rate:
        rule = f"be from 0 to --learning-rate {config.learning_rate}"
        raise ValueError(f"--final-rate must {rule} (got {config.final_rate}); try 0")


def draws_of(config: Config) -> dict[str, int]:
    """K of each bound."""
    each = config.num_samples * (len(config.bounds) // len(config.num_samples))
    return dict(zip(config.bounds, each, strict=True))


def make_loss(objective: vi.gradients.Objective, num_samples: int) -> Callable[..., Any]:
    """Minus the bound, on fresh bits of the grey images."""

    def loss(model, key, grey):
        bits_key, draws_key = jax.random.split(key)
        x = binarise(bits_key, grey)
        q = posterior(model, x)
        return -objective(draws_key, q, log_joint(model, x), num_samples).mean()

    return loss


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam with a cosine."""
    alpha = config.final_rate / config.learning_rate
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha)
    return optax.adam(schedule)


def initial_state(config: Config, images: Images, keys: jax.Array) -> vi.training.State:
    """States of all seeds, the same for every bound."""

    def init(key):
        return vi.training.init(build_vae(config, images, nnx.Rngs(key)), make_optimizer(config))

    return jax.jit(jax.vmap(init))(stream(keys, INIT))


def train(config: Config, run: Run, images: Images, x_test: jax.Array) -> dict[str, Trained]:
    """Train with each bound, from the same weights, on the same images and noise, and score."""
    optimizer, state = make_optimizer(config), initial_state(config, images, run.key)

    @jax.jit
    @jax.vmap
    def watch(key, state):
        x = x_test[:WATCHED]
        terms = _evaluate.rate_distortion(key, state.model, x, WATCHED_DRAWS)
        return {"rate": terms.rate.mean(), "distortion": terms.distortion.mean()}

    def of(bound, num_samples):
        objective = GRADIENTS[config.gradient](BOUNDS[bound])
        fit = run.fit(
            bound,
            vi.training.gradient_step(make_loss(objective, num_samples), optimizer),
            state,
            images.train,
            num_steps=config.num_steps,
            batch_size=config.batch_size,
            # the same noise every time: the curves show training, not sampling
            evaluate=lambda _, state: watch(stream(run.key, WATCH), state),
        )
        stage, k = f"scoring {bound}", config.eval_samples
        return Trained(fit, _evaluate.evaluate_seeds(run, stage, fit.state, x_test, k))

    return {bound: of(bound, num_samples) for bound, num_samples in draws_of(config).items()}


def measure(config: Config, trained: dict[str, Trained]) -> dict[str, Metric]:
    """The table: one column per bound, differences against the first."""
    first, k = config.bounds[0], config.eval_samples
    last = max(config.num_steps // 20, 1)
    draws, metrics = draws_of(config), {}
    for bound, (fit, scores) in trained.items():
        published = None
        if (config.hidden, config.latent) == (200, 50):  # the published network
            published = _references.test_nll(config.data, config.layers, bound, draws[bound])
        rows = {
            "draws a step, K": Metric(draws[bound], unit="count"),
            "training bound": over_seeds(-fit.history["loss"][:, -last:].mean(1)),
            f"test NLL, k = {k}": over_data(scores.nll, reference=published, better="lower"),
            f"least ESS of the {k}": over_seeds(scores.effective_samples.min(1), unit="count"),
            "rate": over_data(scores.rate),
            "distortion": over_data(scores.distortion),
        }
        if bound != first:
            gap = scores.nll - trained[first].evaluation.nll
            rows[f"test NLL - {first}'s, paired"] = over_data(gap, better="lower")
        for layer, count in scores.active_units.items():
            rows[f"active units, {layer}"] = over_seeds(count, unit="count")
        metrics |= {f"{bound}/{row}": metric for row, metric in rows.items()}
    return metrics


def experiment(config: Config, run: Run) -> Result:
    """Train, measure and draw."""
    check(config)
    images, x_test = bits_of(config)
    run.protocol(
        **facts(images, x_test),
        optimizer="adam, cosine decay",
        prior="standard normal",
        hidden_layers="two, tanh, Glorot uniform; output bias: logit of the mean pixel",
    )
    trained = train(config, run, images, x_test)
    return Result(measure(config, trained), _pictures.of_runs(run, trained, images, x_test))


def load(
    folder: str | pathlib.Path, bound: str, *, seed: int | None = None, data_dir: Any = None
) -> tuple[VAE, jax.Array]:
    """What a run trained with ``bound``: one seed's model, by default the first's, and its bits."""
    folder = pathlib.Path(folder)
    file = folder / "protocol.json"
    protocol = json.loads(file.read_text()) if file.is_file() else {"settings": {}}
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in protocol["settings"].items()}
    if settings.pop("experiment", None) != "vae":
        raise ValueError(f"folder must hold a run of experiments.vae (got {folder}); name another")
    config = Config(**settings)  # pyright: ignore[reportArgumentType]
    seeds = range(config.seed, config.seed + config.num_seeds)
    seed = config.seed if seed is None else seed
    if bound not in config.bounds or seed not in seeds:
        rule = f"be among {', '.join(config.bounds)}, and seed among {list(seeds)}"
        raise ValueError(f"bound must {rule} (got {bound}, {seed}); {folder} has no other")
    images = load_images(config.data, data_dir=data_dir)
    if images.fingerprint != protocol["facts"].get("images"):
        raise ValueError(f"{config.data} must be the images {folder} was run on; restore them")
    like = initial_state(config, images, jnp.stack([jax.random.key(s) for s in seeds]))
    state = vi.training.load(folder / "checkpoints" / file_name(bound), like)
    if (steps := int(state.step[seed - config.seed])) < config.num_steps:
        said = f"{folder} is not finished: {bound} is at step {steps} of {config.num_steps}"
        warnings.warn(said, RuntimeWarning, stacklevel=2)
    x_test = _evaluate.held_out_bits(images, config.test_images)
    return model_of(state, seed - config.seed), x_test


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
