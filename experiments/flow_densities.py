"""Flows fitted to densities of known normalising constant: how far they are, in nats.

Eight densities on the plane, Neal's funnel in 10 dimensions and a correlated Gaussian in 50. Each
is fitted by the reverse KL, with the diagonal normal beside the family that should reach it: spline
coupling flows on the plane, an autoregressive spline flow on the funnel, normals of low and full
rank on the Gaussian. Since the log of every integral is known, minus the ELBO plus that log is the
divergence itself, by fresh draws, with its standard error.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import numpy as np
import optax
import tyro

import vi
from experiments import _flow_fits, _flow_plots
from experiments._config import Common, main, require_counts, require_positive
from experiments._evaluate import stream
from experiments._flow_fits import Family
from experiments._flow_targets import DENSITIES, PLANE, PRECISION, Density
from experiments._results import Metric, Result
from experiments._run import Run

INIT, SCORE, SHOW = range(3)  # streams of each seed's key
SHOWN = 4000  # draws in the pictures

PRESET: Any = None  # the preset fills it
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")]


@dataclass(frozen=True)
class Config(Common):
    """Fit normals and flows to known densities; --data is not used, and is refused."""

    densities: Names = PRESET
    """Which to fit, by name; by default all, but for smoke."""
    num_samples: int = PRESET
    """Draws per step."""
    num_steps: int = PRESET
    """Optimiser steps of a flow; the normals take as many."""
    learning_rate: float = PRESET
    """Adam's initial rate; it falls to 0 along a cosine."""
    num_layers: int = PRESET
    """Layers of a coupling flow; the funnel's autoregressive flow has half as many."""
    hidden: int = PRESET
    """Units in each of the two hidden layers of a conditioner."""
    num_bins: int = PRESET
    """Bins of a spline."""
    eval_draws: int = PRESET
    """Draws that a divergence is estimated from."""


# fmt: off
CPU: dict[str, Any] = dict(
    densities=tuple(DENSITIES), num_samples=512, num_steps=6000, learning_rate=5e-3, num_layers=6,
    hidden=48, num_bins=12, eval_draws=200_000,
)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        densities=("correlated",), num_steps=30, num_samples=32, num_layers=2, hidden=8,
        num_bins=4, eval_draws=2000,
    ),
    "cpu": CPU,
    "gpu": CPU | dict(num_samples=2048, num_steps=10_000),
    "paper": CPU | dict(num_samples=4096, num_steps=50_000, num_layers=12, hidden=128),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    if config.data != Common.data:
        rule, remedy = "be left alone", "the targets are known densities: drop it"
        raise ValueError(f"--data must {rule} (got {config.data}); {remedy}")
    names = config.densities
    if not names or len(set(names)) < len(names) or not set(names) <= set(DENSITIES):
        rule, remedy = "name densities, once each", f"choose among {'; '.join(DENSITIES)}"
        raise ValueError(f"--densities must {rule} (got {'; '.join(names)!r}); {remedy}")
    require_counts(config, "num_samples", "num_steps", "hidden")
    require_counts(config, "num_layers", "num_bins", least=2)
    require_counts(config, "eval_draws", least=2)
    require_positive(config, "learning_rate")


def fit(config: Config, run: Run, name: str, density: Density, family: Family) -> Any:
    """The family's parameters at the end, stacked over seeds."""
    rate = optax.cosine_decay_schedule(config.learning_rate * family.rate, config.num_steps)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate))
    objective = family.gradient(vi.bounds.elbo)

    def loss(params, key, _):
        return -objective(key, family.make_q(params), density.log_density, config.num_samples)

    def init(key):
        return vi.training.init(family.init(key), optimizer)

    result = run.fit(
        f"{name}, {family.name}",
        vi.training.gradient_step(loss, optimizer),
        jax.jit(jax.vmap(init))(stream(run.key, INIT)),
        np.zeros(1, np.float32),
        num_steps=config.num_steps,
        batch_size=1,
    )
    return result.state.model


def score(config: Config, run: Run, name: str, density: Density, family: Family, params: Any):
    """``log p - log q`` at fresh draws ``[S, N]``, and the first seed's first few draws."""
    objective = vi.gradients.reparam(vi.bounds.elbo, chunk_size=min(2000, config.eval_draws))

    @jax.jit
    @jax.vmap
    def weigh(key, params):
        def log_joint(z):
            return density.log_density(z) - density.log_evidence

        q = family.make_q(params)
        return objective.evaluate(key, q, log_joint, config.eval_draws).log_weights

    @jax.jit
    def draw(key, params):
        first = jax.tree.map(lambda leaf: leaf[0], params)
        return family.make_q(first).sample(key, (SHOWN,))

    def compute():
        draws = draw(stream(run.key, SHOW)[0], params)
        return {"log_w": weigh(stream(run.key, SCORE), params), "draws": draws}

    return run.once(f"scoring {name}, {family.name}", compute)


def divergence(log_w: np.ndarray) -> Metric:
    """KL(q || p) of every seed, and the standard error of their mean over draws."""
    each = -log_w.astype(np.float64)
    stderr = float(each.mean(0).std(ddof=1) / np.sqrt(each.shape[1]))
    return Metric(float(each.mean()), stderr, better="lower", seeds=tuple(each.mean(1).tolist()))


def variance_error(params: Any) -> Metric:
    """How far the mean-field variances are from 1 / precision_ii, of the largest."""
    variances = np.exp(2 * np.asarray(params["log_scale"], np.float64))
    worst = np.abs(variances * np.diagonal(PRECISION) - 1).max(-1)
    return Metric(float(worst.mean()), unit="relative", seeds=tuple(worst.tolist()))


def experiment(config: Config, run: Run) -> Result:
    """Fit, score and draw."""
    check(config)
    run.protocol(
        optimizer="gradients clipped at norm 10, adam, cosine decay to 0",
        log_evidence={name: DENSITIES[name].log_evidence for name in config.densities},
    )
    metrics, panels, arrays = {}, {}, {}
    for name in config.densities:
        density = DENSITIES[name]
        for family in _flow_fits.families(name, density, config):
            params = fit(config, run, name, density, family)
            held = score(config, run, name, density, family, params)
            metrics[f"{family.name}/{name}, KL"] = divergence(held["log_w"])
            seconds = run.seconds[f"{name}, {family.name}"]
            metrics[f"{family.name}/{name}, training"] = Metric(seconds["wall"], unit="s")
            if name == "Gaussian-50" and family.name == "diagonal normal":
                metrics[f"{family.name}/{name}, error of a variance"] = variance_error(params)
            arrays[f"{name}/{family.name}/draws"] = held["draws"]
            panels.setdefault(name, {})[family.name] = held["draws"]
    plane = {name: panels[name] for name in panels if name in PLANE}
    figures = {"densities": lambda: _flow_plots.densities(plane, metrics)} if plane else {}
    return Result(metrics, figures, arrays)


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
