"""What the ELBO is, shown exactly: its gap, its decompositions, its optimum and its staircase.

In float64, on models whose evidence is known: log p(x) = ELBO + KL(q || posterior) and both
decompositions of the ELBO, for random q's; a linear VAE, which ends at probabilistic PCA; EM for
probabilistic PCA and a mixture of Gaussians, which climbs the ELBO by halves and touches log p(x)
after every E step. Images are grey, pixels in 0..1, and nothing else is done to them; the mixture
is of their two leading principal components.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float
from matplotlib.figure import Figure

import vi
from experiments import _em, _identities_exact, _identities_plots, _identities_table, _linear_vae
from experiments._config import Common, main, require_counts, require_positive
from experiments._data import load_images, probabilities
from experiments._evaluate import stream
from experiments._identities_exact import LADDER, TEMPERS
from experiments._identities_table import EMS
from experiments._results import Result
from experiments._run import Run
from vi.testing import ppca

TOY, INIT, CLIMB = range(3)  # streams of each seed's key

PRESET: Any = None  # the preset fills it
Objectives = Annotated[
    tuple[Literal["reparam", "dreg", "closed_kl"], ...],
    tyro.conf.arg(metavar="{reparam,dreg,closed_kl} ..."),
]


@dataclass(frozen=True)
class Config(Common):
    """Show what the ELBO is on models where every term is known."""

    num_q: int = PRESET
    """Random q's for each datum of the toy model."""
    num_replicates: int = PRESET
    """Repetitions of what is estimated with draws, for its standard errors."""
    images: int | None = PRESET
    """The first so many training images; by default all, but for the presets that say."""
    latent: int = PRESET
    """Dimensions of z, of the linear VAE and of probabilistic PCA."""
    objectives: Objectives = PRESET
    """How the linear VAE's ELBO is differentiated; one is trained for each."""
    num_steps: int = PRESET
    """Optimiser steps of each."""
    batch_size: int = PRESET
    """Images per step."""
    learning_rate: float = PRESET
    """Adam's initial rate; it falls to 0 along a cosine."""
    clusters: int = PRESET
    """Components of the mixture of Gaussians."""
    em_steps: int = PRESET
    """Iterations of EM."""


# fmt: off
CPU: dict[str, Any] = dict(
    num_q=200, num_replicates=200, images=5000, latent=10, objectives=("dreg", "closed_kl"),
    num_steps=10_000, batch_size=500, learning_rate=3e-3, clusters=6, em_steps=100,
)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        num_q=20, num_replicates=20, images=200, latent=3, objectives=("dreg",), num_steps=600,
        batch_size=200, learning_rate=1e-2, clusters=3, em_steps=20,
    ),
    "cpu": CPU,
    "digits-cpu": dict(images=None, em_steps=300),
    "gpu": CPU | dict(images=None, num_steps=50_000, em_steps=500),
    "paper": CPU | dict(
        images=None, latent=50, objectives=("reparam", "dreg", "closed_kl"), num_steps=200_000,
        em_steps=2000,
    ),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    require_counts(config, "num_q", "latent", "num_steps", "batch_size", "clusters", "em_steps")
    require_counts(config, "num_replicates", least=2)
    if config.images is not None:
        require_counts(config, "images")
    require_positive(config, "learning_rate")
    if not config.objectives or len(set(config.objectives)) < len(config.objectives):
        rule, got = "name objectives, once each", " ".join(config.objectives)
        raise ValueError(f"--objectives must {rule} (got {got!r}); try --objectives dreg")


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, compiled, with its floating arguments and all it makes in float64."""
    compiled = jax.jit(function)

    def wide(leaf):
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, jnp.float64) if floating else leaf

    def call(*args):
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, compiled(*jax.tree.map(wide, args)))

    return call


def by_seed(function: Callable[..., Any], keys: jax.Array, *args: Any) -> dict[str, np.ndarray]:
    """What ``function(key, *args)`` returns for each key, stacked."""
    each = [function(key, *args) for key in keys]
    return jax.tree.map(lambda *values: np.stack(values), *each)


def leading_components(x: np.ndarray, count: int) -> np.ndarray:
    """The data ``[N, P]`` on their leading principal axes, ``[N, count]``."""
    centred = x.astype(np.float64) - x.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return centred @ axes[:, ::-1][:, :count]


def climb(
    config: Config, key: jax.Array, x: Float[Array, "N P"], points: Float[Array, "N 2"]
) -> dict[str, Any]:
    """Both EMs by half steps ``[2 T]``, where the mixture ends, and pPCA in closed form."""
    ppca_key, mixture_key = jax.random.split(key)
    start = _em.ppca_start(ppca_key, x, config.latent)
    _, ppca_stairs = _em.ascend(_em.ppca_em(x), *start, config.em_steps)
    start = _em.mixture_start(mixture_key, points, config.clusters)
    ends, mixture_stairs = _em.ascend(_em.mixture_em(points), *start, config.em_steps)
    model = ppca(x, config.latent)
    return {
        "ppca/elbo": ppca_stairs.elbo,
        "ppca/log_likelihood": ppca_stairs.log_likelihood,
        "mixture/elbo": mixture_stairs.elbo,
        "mixture/log_likelihood": mixture_stairs.log_likelihood,
        "mixture/means": ends.means,
        "mixture/covariances": ends.covariances,
        "mixture/points": points,
        "closed/log_evidence": model.log_evidence(x).mean(),
        "closed/noise_scale": model.noise_scale,
        "closed/weights": model.weights,
    }


def train(config: Config, run: Run, x: np.ndarray) -> dict[str, vi.training.FitResult]:
    """A linear VAE for each objective, from the same weights, on the same images and noise."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.num_steps))
    watch = in_float64(jax.vmap(_linear_vae.exact, in_axes=(0, None)))

    def init(key):
        vae = _linear_vae.start(key, jnp.asarray(x), config.latent)
        return vi.training.init(vae, optimizer)

    state = jax.jit(jax.vmap(init))(stream(run.key, INIT))
    return {
        name: run.fit(
            f"linear VAE, {name}",
            vi.training.gradient_step(_linear_vae.make_loss(name), optimizer),
            state,
            x,
            num_steps=config.num_steps,
            batch_size=config.batch_size,
            evaluate=lambda _, state: watch(state.params, x),
        )
        for name in config.objectives
    }


def experiment(config: Config, run: Run) -> Result:
    """Check the identities, climb, train, and hold each against what is known."""
    check(config)
    images = load_images(config.data, data_dir=config.data_dir, download=config.download)
    x = np.asarray(probabilities(images.train[: config.images]))
    most = {"batch_size": len(x), "clusters": len(x)}
    most["latent"] = int(np.linalg.matrix_rank(np.cov(x.T), hermitian=True)) - 1
    for name, limit in most.items():
        if (got := getattr(config, name)) > limit:
            rule = f"be at most {limit} for these {len(x)} images"
            raise ValueError(f"--{name.replace('_', '-')} must {rule} (got {got}); try {limit}")
    run.protocol(
        pixels=images.fingerprint,
        train_images=len(x),
        preprocessing="grey pixels in 0..1, neither centred, scaled nor dequantised",
        optimizer="adam, cosine decay to 0",
        encoder="linear means, one learned scale a dimension",
        mixture_data="the images' two leading principal components",
    )
    sizes = config.num_q, config.num_replicates
    measure = in_float64(lambda key: _identities_exact.measure(key, *sizes))
    exact = run.once("identities", lambda: by_seed(measure, stream(run.key, TOY)))
    both = in_float64(functools.partial(climb, config))
    climbs = run.once(
        "EM", lambda: by_seed(both, stream(run.key, CLIMB), x, leading_components(x, 2))
    )
    fits = train(config, run, x)
    metrics = _identities_table.of_identities(exact, config.num_q)
    metrics |= _identities_table.of_vaes(fits, climbs)
    metrics |= _identities_table.of_climbs(climbs, config.em_steps)
    return Result(metrics, pictures(exact, climbs, fits, images.shape))


def pictures(
    exact: Mapping[str, np.ndarray],
    climbs: Mapping[str, np.ndarray],
    fits: Mapping[str, vi.training.FitResult],
    shape: tuple[int, ...],
) -> dict[str, Callable[[], Figure]]:
    """All of the first seed's, by file name."""
    path = {n.removeprefix("path/"): v[0] for n, v in exact.items() if n.startswith("path/")}
    rungs = exact["ladder"][0]
    ladder = rungs.mean(1), rungs.std(1, ddof=1) / np.sqrt(rungs.shape[1])
    stairs = {
        column: jax.tree.map(lambda line: line[0], _identities_table.staircase(climbs, em))
        for em, column in EMS.items()
    }
    curves = {
        name: {k: v if k == "step" else v[0] for k, v in fit.evaluations.items()}
        for name, fit in fits.items()
    }
    columns = {"pPCA": climbs["closed/weights"][0]}
    columns |= {f"linear VAE,\n{n}": np.asarray(f.state.params.weights[0]) for n, f in fits.items()}
    best = float(climbs["closed/log_evidence"][0])
    found = (climbs[f"mixture/{name}"][0] for name in ("points", "means", "covariances"))
    plots = _identities_plots
    return {
        "decompositions": lambda: plots.decompositions(TEMPERS, path, LADDER, *ladder),
        "staircase": lambda: plots.staircases(stairs),
        "mixture": lambda: plots.mixture(*found),
        "linear_vae": lambda: plots.linear_vae(curves, best),
        "components": lambda: plots.components(columns, shape),
    }


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
