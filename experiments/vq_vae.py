"""Discrete codes: how a codebook dies, how it is kept alive, and what codes cost in bits.

Trains a vector-quantised autoencoder plainly and with what is usually added to it, one thing after
the other, a finite scalar quantiser with as many codes, and a variational autoencoder of the same
layers, on the same bits. A learned prior over the codes makes each a model of images with a code
length, ``log p(x) >= log p(x | c(x)) + log p(c(x))``: the ELBO of an encoder that is certain, whose
entropy is 0. All are scored on the same held-out bits, paired with the variational autoencoder.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import optax
import tyro
from flax import nnx

import vi
from experiments import _vq_report
from experiments._config import Common, main, require_counts, require_positive
from experiments._data import Images, binarise, facts
from experiments._evaluate import Evaluation, evaluate_seeds, model_of, stream
from experiments._results import Metric, Result
from experiments._run import Run
from experiments._task import bits_of
from experiments._vae import Architecture, build_vae, log_joint, posterior
from experiments._vq_model import KMEANS_IMAGES, build, codebooks, loss
from experiments._vq_prior import train_prior

INIT, PRIOR, EPOCH, LOOK = range(4)  # streams of each seed's key
ELBO = vi.gradients.reparam(vi.bounds.elbo)

PRESET: Any = None  # the preset fills it
Method = Literal["naive", "commitment", "ema", "kmeans", "recipe", "fsq"]
Methods = Annotated[
    tuple[Method, ...], tyro.conf.arg(metavar="{naive,commitment,ema,kmeans,recipe,fsq} ...")
]


@dataclass(frozen=True)
class Config(Common):
    """Train autoencoders with discrete codes and compare their use, rate and distortion."""

    methods: Methods = PRESET
    """naive: straight-through and the codebook loss, alone; commitment, ema, kmeans (the start) and
    recipe (restarts of dead codes) each add one thing to the one before; fsq: a grid of levels."""
    length: int = PRESET
    """Codes per image."""
    other_lengths: tuple[int, ...] = PRESET
    """Train the recipe with so many codes per image too."""
    num_codes: int = PRESET
    """Size of the codebook."""
    levels: tuple[int, ...] = PRESET
    """Of the grid; a code has as many numbers in every method."""
    commitment: float = PRESET
    """Weight of the commitment loss, per unit of squared distance beside nats."""
    decay: float = PRESET
    """Of the running means, per step."""
    least_use: float = PRESET
    """Restart codes used less than this share of an even use."""
    num_steps: int = PRESET
    """Optimiser steps per autoencoder."""
    batch_size: int = PRESET
    """Images per step."""
    learning_rate: float = PRESET
    """Adam's initial rate; it falls to a hundredth along a cosine."""
    hidden: int = PRESET
    """Units in each of the two hidden layers, of encoder and decoder."""
    latent: int = PRESET
    """Dimensions of the variational autoencoder's z."""
    prior_steps: int = PRESET
    """Optimiser steps of the prior over codes, at most: held-out training images may end it."""
    prior_hidden: int = PRESET
    """Units in each of the prior's two hidden layers."""
    prior_rate: float = PRESET
    """Adam's initial rate for the prior, with the same cosine."""
    prior_decay: float = PRESET
    """Weight decay of the prior."""
    eval_samples: int = PRESET
    """K of the variational autoencoder's test NLL."""
    test_images: int | None = PRESET
    """Score on the first so many test images; by default on all, but for the presets that say."""


# fmt: off
CPU: dict[str, Any] = dict(
    methods=("naive", "commitment", "ema", "kmeans", "recipe", "fsq"), length=8,
    other_lengths=(), num_codes=64, levels=(4, 4, 4), commitment=0.25, decay=0.99, least_use=0.05,
    num_steps=4000, batch_size=100, learning_rate=1e-3, hidden=200, latent=40, prior_steps=2000,
    prior_hidden=128, prior_rate=1e-2, prior_decay=1e-2, eval_samples=1000, test_images=1000,
)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        methods=("recipe",), length=2, num_codes=8, levels=(2, 4), num_steps=20, hidden=16,
        latent=4, prior_steps=20, prior_hidden=8, eval_samples=10, test_images=50,
    ),
    "cpu": CPU,
    "digits-cpu": CPU | dict(
        length=4, other_lengths=(1, 2), num_steps=2500, learning_rate=2e-3, hidden=128, latent=16,
        prior_steps=1000, test_images=None,
    ),
    "gpu": CPU | dict(
        other_lengths=(2, 4), num_steps=60_000, prior_steps=20_000, prior_hidden=256,
        prior_rate=3e-3, test_images=None,
    ),
    "paper": CPU | dict(
        length=16, other_lengths=(8,), num_codes=512, levels=(8, 8, 8), num_steps=200_000,
        prior_steps=50_000, prior_hidden=512, prior_rate=1e-3, hidden=300, eval_samples=5000,
        test_images=None,
    ),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    names, lengths = config.methods, config.other_lengths
    if not names or len(set(names)) < len(names):
        rule, got = "name each method once, and at least one", " ".join(names)
        raise ValueError(f"--methods must {rule} (got {got!r}); try --methods naive recipe")
    counts = "length", "num_codes", "num_steps", "batch_size", "hidden", "latent"
    require_counts(config, *counts, "prior_steps", "prior_hidden", "eval_samples")
    require_positive(config, "commitment", "learning_rate", "prior_rate")
    if min(lengths, default=1) < 1 or len({config.length, *lengths}) <= len(lengths):
        got, rule = " ".join(map(str, lengths)), "be different counts, other than --length"
        raise ValueError(f"--other-lengths must {rule} (got {got!r}); try --other-lengths 2")
    if not config.levels or min(config.levels) < 2:
        got = " ".join(map(str, config.levels))
        raise ValueError(f"--levels must be counts of at least 2 (got {got!r}); try --levels 4 4 4")
    for flag, value in (("--decay", config.decay), ("--prior-decay", config.prior_decay)):
        if not 0 <= value < 1:
            raise ValueError(f"{flag} must be in [0, 1) (got {value}); pass a number there")
    if not 0 < (least := config.least_use) < 1:
        raise ValueError(f"--least-use must be above 0 and below 1 (got {least}); try 0.05")
    images = min(config.batch_size, KMEANS_IMAGES)
    if config.num_codes > (most := images * min(config.length, *lengths, config.length)):
        rule = f"be at most the {most} codes that {images} images have"
        raise ValueError(f"--num-codes must {rule} (got {config.num_codes}); try {most}")


def columns(config: Config) -> dict[str, tuple[str, int]]:
    """Method and length of each column of the table."""
    others = {f"recipe, P = {n}": ("recipe", n) for n in config.other_lengths}
    return {method: (method, config.length) for method in config.methods} | others


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam with a cosine."""
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.num_steps, 0.01))


def vae_loss(model, key, grey):
    """Minus the ELBO, on the bits that the codes see."""
    bits_key, draws_key = jax.random.split(key)
    x = binarise(bits_key, grey)
    return -ELBO(draws_key, posterior(model, x), log_joint(model, x), 1).mean()


def train_vae(config: Config, run: Run, images: Images) -> vi.training.FitResult:
    """The variational autoencoder of all seeds."""
    optimizer, sizes = make_optimizer(config), Architecture(config.hidden, config.latent, layers=1)

    def init(key):
        return vi.training.init(build_vae(sizes, images, nnx.Rngs(key)), optimizer)

    return run.fit(
        "vae",
        vi.training.gradient_step(vae_loss, optimizer),
        jax.jit(jax.vmap(init))(stream(run.key, INIT)),
        images.train,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
    )


def codes_of(
    config: Config, run: Run, images: Images, x_test: jax.Array, name: str
) -> dict[str, Any]:
    """One column: the autoencoder of all seeds, then the prior of its codes, and their scores."""
    method, length = columns(config)[name]
    optimizer, make = make_optimizer(config), codebooks(config)[method]

    def init(key):
        sizes = config.hidden, length, len(config.levels)
        return vi.training.init(build(images, *sizes, make, nnx.Rngs(key)), optimizer)

    fit = run.fit(
        name,
        vi.training.stateful_gradient_step(loss, optimizer),
        jax.jit(jax.vmap(init))(stream(run.key, INIT)),
        images.train,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
    )
    models, prior_keys = of_seeds(fit), stream(run.key, PRIOR)
    prior = train_prior(config, run, f"prior of {name}", images.train, models, prior_keys)
    # the same bits of the training images for every method
    keys, priors = stream(run.key, EPOCH), of_seeds(prior)
    return run.once(
        f"scoring {name}", lambda: _vq_report.score(keys, models, priors, images, x_test)
    )


def of_seeds(fit: vi.training.FitResult) -> Any:
    """The models of all seeds, stacked."""
    return jax.vmap(lambda state: state.model)(fit.state)


def measure(
    config: Config, run: Run, scored: Mapping[str, Any], vae: Evaluation
) -> dict[str, Metric]:
    """The table: one column per model, paired with the variational autoencoder."""
    rows = {"vae": _vq_report.vae_rows(vae, config.eval_samples)}
    for name, (method, length) in columns(config).items():
        num_codes = math.prod(config.levels) if method == "fsq" else config.num_codes
        rows[name] = _vq_report.code_rows(scored[name], vae, length, num_codes)
    for name, held in rows.items():
        held["training"] = Metric(run.seconds[name]["wall"], unit="s")
    return {f"{name}/{row}": metric for name, held in rows.items() for row, metric in held.items()}


def experiment(config: Config, run: Run) -> Result:
    """Train, measure and draw."""
    check(config)
    images, x_test = bits_of(config)
    run.protocol(
        **facts(images, x_test),
        optimizer="adam, cosine decay to a hundredth; the prior's adamw, the same",
        code="each method's numbers per code: those of --levels; codebook and commitment losses"
        " summed over numbers and codes, beside nats per image",
        prior="masked network, on codes of fresh bits; an eighth of training held out to stop",
    )
    fit = train_vae(config, run, images)
    vae = evaluate_seeds(run, "scoring vae", fit.state, x_test, config.eval_samples)
    scored = {name: codes_of(config, run, images, x_test, name) for name in columns(config)}
    look = stream(run.key, LOOK)[0], model_of(fit.state, 0), x_test
    seen = {"vae": run.once("images of vae", lambda: _vq_report.vae_images(*look))}
    shown = [name for name in ("naive", "recipe", "fsq") if name in scored]
    seen |= {name: {k: scored[name][k][0] for k in ("rebuilt", "drawn")} for name in shown}
    figures = {
        "codes": _vq_report.code_figure(scored, vae),
        "images": _vq_report.image_figure(seen, images, x_test),
    }
    return Result(measure(config, run, scored, vae), figures)


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
