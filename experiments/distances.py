"""What else a code may be asked for: beta-TC, InfoVAE, Wasserstein and Renyi beside the VAE.

One encoder and decoder are trained by each objective on sprites whose five factors are known, with
the same images and, where one draw is taken, the same noise. Table: the ELBO's terms and the test
NLL; the KL in its three terms (mutual information, total correlation, dimension-wise KL); how far
the aggregate posterior is from the prior (squared MMD); and the mutual information gap (MIG), by
which each factor should be told by one dimension alone. Codes are read on the whole grid of
factors, likelihoods on held-out sprites; differences from the VAE are paired.
"""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

import vi
from experiments import _distances_plots as plots
from experiments._config import Common, main, require_counts, require_positive
from experiments._data import facts
from experiments._distances_codes import read_codes, to_bits
from experiments._distances_methods import NAMES, POINTS, PROPOSAL, AroundPoints, losses
from experiments._evaluate import Evaluation, evaluate_seeds, held_out_bits, stream
from experiments._results import Metric, Reference, Result, over_data, over_seeds
from experiments._run import Run
from experiments._sprites import FACTORS, Sprites, load_sprites
from experiments._vae import Architecture, build_vae

INIT = 0  # of each seed's key
TERMS = {
    "mutual_information": "mutual information",
    "total_correlation": "total correlation",
    "dimension_wise_kl": "dimension-wise KL",
}

PRESET: Any = None  # the preset fills it
Methods = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")]


class Scored(NamedTuple):
    """What a trained method is worth on held-out sprites, and its codes of the whole grid."""

    evaluation: Evaluation
    codes: dict[str, np.ndarray]


@dataclass(frozen=True)
class Config(Common):
    """Train one model by several objectives and compare likelihoods, codes and MIG."""

    data: str = "sprites"
    """sprites alone: they are rendered here, and their factors are known."""
    methods: Methods = PRESET
    """Among VAE, beta-VAE, beta-TC-VAE, InfoVAE, WAE, Renyi and IWAE; VAE, to compare with."""
    values_per_factor: int | None = PRESET
    """Keep the first so many values of each factor; by default all."""
    beta: float = PRESET
    """The weight of the KL in beta-VAE, of the total correlation in beta-TC-VAE."""
    info_alpha: float = PRESET
    """InfoVAE's alpha: it keeps 1 - alpha of the KL."""
    mmd_weight: float = PRESET
    """The Lagrange multiplier (lambda) of InfoVAE and WAE, nats per unit of squared MMD."""
    renyi_alpha: float = PRESET
    """The order of the Renyi bound; 0 would be IWAE, 1 the VAE."""
    num_samples: int = PRESET
    """K, the draws of Renyi and IWAE."""
    num_steps: int = PRESET
    """Optimiser steps per method."""
    batch_size: int = PRESET
    """Images per step."""
    learning_rate: float = PRESET
    """Adam's initial rate; it falls to a hundredth along a cosine."""
    hidden: int = PRESET
    """Units in each of the two hidden layers, of encoder and decoder."""
    latent: int = PRESET
    """Dimensions of z."""
    code_draws: int = PRESET
    """Draws that the KL's terms and the MMD are estimated from."""
    eval_samples: int = PRESET
    """K of the test NLL."""
    test_images: int | None = PRESET
    """Score on the first so many held-out sprites; by default on all, but for smoke and cpu."""


# fmt: off
CPU: dict[str, Any] = dict(
    methods=("VAE", "beta-VAE", "beta-TC-VAE", "InfoVAE", "WAE", "Renyi"), beta=6.0,
    info_alpha=0.5, mmd_weight=100.0, renyi_alpha=0.5, num_samples=5, num_steps=8000,
    batch_size=64, learning_rate=4e-3, hidden=128, latent=10, code_draws=1000, eval_samples=200,
    test_images=300,
)
WHOLE: dict[str, Any] = dict(methods=NAMES, code_draws=3000, eval_samples=1000, test_images=None)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        methods=("VAE", "beta-TC-VAE"), values_per_factor=2, num_steps=20, batch_size=8,
        hidden=8, latent=3, code_draws=20, eval_samples=10, test_images=5,
    ),
    "cpu": CPU,
    "gpu": CPU | WHOLE | dict(num_steps=40_000, hidden=512, num_samples=20),
    "paper": CPU | WHOLE | dict(num_steps=200_000, hidden=1024, num_samples=50),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    if config.data != "sprites":
        rule, remedy = "be sprites", "they are rendered here: drop it"
        raise ValueError(f"--data must {rule} (got {config.data}); {remedy}")
    names = config.methods
    if len(set(names)) < len(names) or not {"VAE"} <= set(names) <= set(NAMES):
        rule, remedy = "name methods, once each, VAE among them", f"choose among {' '.join(NAMES)}"
        raise ValueError(f"--methods must {rule} (got {' '.join(names)!r}); {remedy}")
    require_counts(config, "num_samples", "num_steps", "hidden", "eval_samples")
    require_counts(config, "batch_size", "latent", "code_draws", least=2)
    require_positive(config, "beta", "mmd_weight", "learning_rate")
    if not config.renyi_alpha < 1 or config.renyi_alpha < 0:
        rule, remedy = "be at least 0 and below 1", "1 would be the VAE, below 0 no lower bound"
        raise ValueError(f"--renyi-alpha must {rule} (got {config.renyi_alpha}); {remedy}")
    if not 0 <= config.info_alpha <= 1:
        rule, remedy = "be from 0 to 1", "1 drops the KL"
        raise ValueError(f"--info-alpha must {rule} (got {config.info_alpha}); {remedy}")
    if config.values_per_factor is not None:
        require_counts(config, "values_per_factor", least=2)


def sprites_of(config: Config) -> Sprites:
    """The sprites, of which there are as many as a step and the draws of codes need."""
    sprites = load_sprites(config.values_per_factor)
    for flag, value, most in (
        ("--batch-size", config.batch_size, len(sprites.images.train)),
        ("--code-draws", config.code_draws, len(sprites.grid)),
    ):
        if value > most:
            raise ValueError(f"{flag} must be at most {most} (got {value}); try {most}")
    return sprites


def train(config: Config, run: Run, sprites: Sprites, method: str) -> vi.training.FitResult:
    """Of all seeds, by one objective; every method begins the same."""
    images, objective = sprites.images, losses(config, len(sprites.images.train))[method]
    rate = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, 0.01)
    optimizer = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(rate))
    sizes = Architecture(config.hidden, config.latent, 1)

    def loss(model, key, grey):
        return objective(model, key, (grey > 0).astype(jnp.float32))

    def init(key):
        return vi.training.init(build_vae(sizes, images, nnx.Rngs(key)), optimizer)

    return run.fit(
        method,
        vi.training.gradient_step(loss, optimizer),
        jax.jit(jax.vmap(init))(stream(run.key, INIT)),
        images.train,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
    )


def measure(
    config: Config, run: Run, scored: dict[str, Scored], num_sprites: int
) -> dict[str, Metric]:
    """The table: one column per method, differences against the VAE."""
    metrics, vae = {}, scored["VAE"]
    log_n = float(np.log(num_sprites))
    least = Reference(log_n, "log of the number of sprites", "exact", "all sprites as likely")
    for name, (scores, codes) in scored.items():
        is_point, ours = name in POINTS, name != "VAE"
        nll = f"test NLL, k = {config.eval_samples}"
        rows = {nll: over_data(scores.nll, better="lower", reference=least)}
        if ours:
            behind = scores.nll - vae.evaluation.nll
            rows["test NLL - VAE's, paired"] = over_data(behind, better="lower")
        if not is_point:
            rows["test ELBO"] = over_data(-(scores.rate + scores.distortion), better="higher")
            rows["rate"] = over_data(scores.rate)
        rows["distortion"] = over_data(scores.distortion)
        if not is_point:
            rows |= {row: over_data(codes[term]) for term, row in TERMS.items()}
        rows["squared MMD x 1000"] = over_seeds(1e3 * codes["mmd"], unit="", better="lower")
        rows["MIG, median"] = _median(codes["mig"])
        if ours:
            ahead = codes["mig"] - vae.codes["mig"]
            rows["MIG - VAE's, paired"] = over_seeds(ahead, unit="", better="higher")
            apart = float(np.median(codes["mig"]) - np.median(vae.codes["mig"]))
            rows["median MIG - VAE's median"] = Metric(apart, unit="", better="higher")
        for factor, gaps in zip(FACTORS, codes["gap"].T, strict=True):
            rows[f"gap of {factor}, median"] = _median(gaps)
        rows["training"] = Metric(run.seconds[name]["wall"], unit="s")
        metrics |= {f"{name}/{row}": metric for row, metric in rows.items()}
    return metrics


def _median(values: np.ndarray) -> Metric:
    return Metric(float(np.median(values)), unit="", better="higher", seeds=tuple(values.tolist()))


def experiment(config: Config, run: Run) -> Result:
    """Train, score, read the codes and draw."""
    check(config)
    sprites = sprites_of(config)
    x_test = held_out_bits(sprites.images, config.test_images)
    run.protocol(
        **facts(sprites.images, x_test) | {"binarisation": "none, the sprites are bits"},
        grid="every combination of the factors once: " + ", ".join(map(str, sprites.sizes)),
        codes="read on the whole grid; MIG: means, 20 bins of equal width, over factors",
        optimizer="gradients clipped at norm 100, adam, cosine decay to a hundredth",
        point_codes=f"scored by draws from a normal around them of scale {PROPOSAL}",
    )
    grid, factors, scored = to_bits(sprites.grid), jnp.asarray(sprites.factors), {}
    for name in config.methods:
        state = train(config, run, sprites, name).state
        part: Any = AroundPoints if name in POINTS else lambda model: model
        stage, k = f"scoring {name}", config.eval_samples
        scores = evaluate_seeds(run, stage, state, x_test, k, part)
        codes = read_codes(run, name, state, grid, factors, config.code_draws)
        scored[name] = Scored(scores, codes)
    codes = {name: held.codes for name, held in scored.items()}
    return Result(
        measure(config, run, scored, len(grid)),
        {
            "codes": lambda: plots.codes(codes, TERMS, len(grid)),
            "traversals": lambda: plots.traversals(codes, tuple(FACTORS)),
        },
    )


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
