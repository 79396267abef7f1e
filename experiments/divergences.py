"""Mass-covering against mode-seeking: a normal q fitted by every bound, beside its exact optimum.

The first target is N(0, [[1, .9], [.9, 1]]) and q = N(0, v I): one number says how much of the
target each bound has q cover. The second is an unequal mixture of two normals and q = N(m, s^2),
fitted from several starts, for mode-seeking bounds have several optima. Of each bound the optimum
is computed in float64, in the limit of large K and, by one more quadrature, at the K it is fitted
with: what the fits differ from the second by is noise, and what the two differ by is the bias of
the weights. It is large where the weights have few moments, and an upper bound may have no optimum
at finite K at all: it falls without end as q shrinks, for the draws then miss what is large. The
densities are normalised: log p(x) is 0. Bounds whose limit does not depend on q, as iwae's, or has
no optimum in it, as vr_max's, are fitted at a small K; sumo and the jackknife fit the model alone
and are left out.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import vi
from experiments import _divergences_report
from experiments._config import Common, main, require_counts, require_positive
from experiments._divergences_fits import Optima
from experiments._divergences_table import GROUP, Member, members
from experiments._divergences_targets import CORRELATED, MIXTURE, Optimum, Target, optima
from experiments._results import Result
from experiments._run import Run

TARGETS = (CORRELATED, MIXTURE)
CLIP = 20.0  # above the noise at an optimum: the first gradients are hundreds, and Adam remembers
VALUES = 0x76616C  # "val": the stream of each seed's key for the values at the end

PRESET: Any = None  # the preset fills it


@dataclass(frozen=True)
class Config(Common):
    """Fit q by every bound to two known densities; --data is not used, and is refused."""

    bounds: tuple[str, ...] | None = PRESET
    """Names of the bounds, as the table shows them; by default all, but for smoke."""
    num_samples: int = PRESET
    """K, a multiple of 8."""
    num_replicates: int = PRESET
    """Fits of each bound from each start, for the standard errors."""
    num_steps: int = PRESET
    """Optimiser steps; the second half of the iterates is averaged."""
    learning_rate: float = PRESET
    """Adam's initial rate; it falls to 0 along a cosine."""
    num_values: int = PRESET
    """Repetitions of the bound at each fitted q, for its value."""


# fmt: off
CPU: dict[str, Any] = dict(
    num_samples=1000, num_replicates=8, num_steps=800, learning_rate=0.05, num_values=100,
)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        bounds=("elbo", "renyi(0.5)"), num_samples=200, num_replicates=3, num_steps=100,
        num_values=20,
    ),
    "cpu": CPU,
    "gpu": CPU | dict(num_replicates=32, num_steps=2000, num_values=1000),
    "paper": CPU | dict(
        num_samples=4000, num_replicates=100, num_steps=5000, num_values=1000
    ),
}
# fmt: on


def chosen(config: Config) -> dict[str, Member]:
    """The bounds to fit; what would fail late is refused by the name of its flag."""
    if config.data != Common.data:
        rule, remedy = "be left alone", "the targets are known densities: drop it"
        raise ValueError(f"--data must {rule} (got {config.data}); {remedy}")
    require_counts(config, "num_samples", "num_steps")
    require_counts(config, "num_replicates", "num_values", least=2)
    require_positive(config, "learning_rate")
    if config.num_samples % GROUP:
        rule, remedy = f"be a multiple of {GROUP}", "try --num-samples 1000"
        raise ValueError(f"--num-samples must {rule} (got {config.num_samples}); {remedy}")
    held = members(config.num_samples)
    names = tuple(held) if config.bounds is None else config.bounds
    if not names or len(set(names)) < len(names) or not set(names) <= set(held):
        rule, remedy = "name bounds, once each", f"choose among {'; '.join(held)}"
        raise ValueError(f"--bounds must {rule} (got {'; '.join(names)!r}); {remedy}")
    return {name: held[name] for name in names}


def values_of(
    target: Target, held: dict[str, Member], num_samples: int, key: Any, params: Any
) -> dict[str, Any]:
    """Each bound at its own q's ``[..., P]``, all on the same noise."""
    return {
        name: member.objective(
            jax.random.clone(key), target.make_q(params[name]), target.log_density, num_samples
        )
        for name, member in held.items()
    }


def fit(config: Config, run: Run, target: Target, held: dict[str, Member]) -> dict[str, np.ndarray]:
    """Average iterates ``[N, S, P]`` by bound: N replicates over all seeds, S starts."""
    burn_in = config.num_steps // 2

    def decay(count):
        late = jnp.maximum(count - burn_in, 0)
        return late / (late + 1)

    rate = optax.cosine_decay_schedule(config.learning_rate, config.num_steps)
    optimizer = optax.chain(optax.clip(CLIP), optax.adam(rate, b2=0.99), vi.training.average(decay))

    def loss(params, key, _):
        values = values_of(target, held, config.num_samples, key, params)
        return sum(held[name].sign * value.sum() for name, value in values.items())

    starts = jnp.asarray(target.starts, jnp.float32)
    shape = (config.num_seeds, config.num_replicates, *starts.shape)
    state = jax.vmap(lambda params: vi.training.init(params, optimizer))(
        {name: jnp.broadcast_to(starts, shape) for name in held}
    )
    result = run.fit(
        target.name,
        vi.training.gradient_step(loss, optimizer),
        state,
        np.zeros(1, np.float32),
        num_steps=config.num_steps,
        batch_size=1,
    )
    ends = vi.training.averaged(result.state).params
    return {name: np.asarray(end).reshape(-1, *starts.shape) for name, end in ends.items()}


def measure(
    config: Config, run: Run, target: Target, held: dict[str, Member], ends: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Each bound at the q's it ended at ``[T, N, S]``, by repetitions."""
    keys = jax.random.split(jax.random.fold_in(run.key[0], VALUES), config.num_values)

    @jax.jit
    def compute(keys, ends):
        def one(key):
            return values_of(target, held, config.num_samples, key, ends)

        return jax.lax.map(one, keys)

    return run.once(f"values, {target.name}", lambda: compute(keys, ends))


def exact(target: Target, member: Member) -> Optima:
    """A bound's optima in the limit and at its K, from the fits' starts; None where unknown."""
    limit = at_k = None
    starts = target.starts
    if member.limit is not None:
        limit = _optima(target, member, member.limit, starts, fine=True)
        starts = np.stack([optimum.params for optimum in limit] or [*starts])
    if member.finite is member.limit:
        at_k = limit
    elif member.finite is not None:
        at_k = _optima(target, member, member.finite, starts, fine=False)
    return Optima(limit, at_k)


def _optima(target: Target, member: Member, mean, starts, fine) -> list[Optimum]:
    searched, sense = member.searched(mean)
    found = optima(target, searched, sense, starts, fine=fine)
    if searched is mean:
        return found
    return [o._replace(value=mean(target.law(o.params, fine=fine))) for o in found]


def experiment(config: Config, run: Run) -> Result:
    """Solve, fit, and hold each fit against its optimum."""
    held = chosen(config)
    run.protocol(
        estimators={name: repr(member.objective) for name, member in held.items()},
        optimizer=f"gradients clipped at {CLIP:g}, adam (beta2 0.99), cosine decay to 0",
        iterates="the mean of the second half",
        log_evidence=0.0,
    )
    metrics, figures, arrays = {}, {}, {}
    for target in TARGETS:
        solved = run.once(
            f"exact, {target.name}",
            lambda target=target: _divergences_report.packed(
                {name: exact(target, member) for name, member in held.items()}
            ),
        )
        solutions = _divergences_report.unpacked(solved, list(held))
        ends = fit(config, run, target, held)
        values = measure(config, run, target, held, ends)
        fits = _divergences_report.gather(solutions, ends, values)
        metrics |= _divergences_report.metrics(target, fits, config.num_samples)
        figures |= _divergences_report.figures(target, fits, config.num_samples)
        arrays |= {f"{target.name}/{name}": array for name, array in solved.items()}
        arrays |= {f"{target.name}/{name}/fits": array for name, array in ends.items()}
        arrays |= {f"{target.name}/{name}/values": array for name, array in values.items()}
    return Result(metrics, figures, arrays)


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
