"""Which site of a program spoils its log-weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vi._check import refusal, require_count, require_key
from vi.numpyro._log_probs import total
from vi.numpyro._particles import Particles
from vi.numpyro._prepare import prepare
from vi.numpyro._program import Program, mutable_state
from vi.types import Key


def require_finite(
    key: Key,
    params: dict[str, Any],
    model: Callable,
    guide: Callable,
    *args,
    num_particles: int = 1,
    **kwargs,
) -> None:
    """Refuse a program some of whose log-probabilities are not finite, and name their sites.

    For the moment when a loss is NaN: call it with the parameters and arguments of that step. It
    looks at values, so that it stands outside of ``jit``.

    Args:
        key: Consumed; the key of a loss shows the particles of that loss.
        params: Constrained parameters and mutable state, by site.
        model: The model.
        guide: The guide.
        *args: Arguments of both.
        num_particles: K, how many draws to look at.
        **kwargs: Keyword arguments of both.

    Raises:
        ValueError: A parameter, or what a site counts in the log-weights, is NaN or infinite.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, vi
        >>> def model(x):
        ...     z = numpyro.sample("z", dist.Normal(0, 1))
        ...     numpyro.sample("x", dist.Poisson(z), obs=x)
        >>> def guide(x):
        ...     numpyro.sample("z", dist.Normal(0, 1))
        >>> vi.numpyro.require_finite(jax.random.key(0), {}, model, guide, 3, num_particles=8)
        Traceback (most recent call last):
        ValueError: require_finite: every log-probability must be finite (got model site x: 3 of 8
        not finite, nan); mask the data at fault or constrain what the site depends on
    """
    where = "require_finite"
    require_key(where, key)
    num_particles = require_count(where, "num_particles", num_particles)
    _refuse(
        [
            f"parameter {name}{jax.tree_util.keystr(path)}"
            for name, value in params.items()
            for path, leaf in jax.tree_util.tree_leaves_with_path(value)
            if not jnp.isfinite(leaf).all()
        ],
        "every parameter",
        "go back to a step before they were spoiled, with a smaller rate or clipped gradients",
    )
    one = num_particles == 1
    program = Program(model, guide, params, args, kwargs)
    prepared = prepare(where, key, program, (), one=one, additive=True)
    program, structure = prepared.program, prepared.structure
    whole = prepared.partition.inside
    particles = Particles(program, structure, whole, one=one)

    def weigh(z):
        seeds = jax.tree.map(jax.random.clone, z["seeds"])
        drawn = program.run_guide(seeds["guide"])
        weighed = program.run_model(seeds["model"], drawn, mutable_state(drawn))
        sides = {"guide": (drawn, structure.guide), "model": (weighed, structure.model)}
        return {
            f"{side} site {name}": total(trace, [name], whole)
            for side, (trace, sites) in sides.items()
            for name in sites
        }

    log_probs = particles.each(weigh, {"seeds": particles.seeds(prepared.key, (num_particles,))})
    found = []
    for name, values in log_probs.items():
        wrong = values[~jnp.isfinite(values)]
        if wrong.size:
            kinds = ", ".join(sorted({str(value) for value in wrong.tolist()}))
            found.append(f"{name}: {wrong.size} of {num_particles} not finite, {kinds}")
    remedy = "mask the data at fault or constrain what the site depends on"
    _refuse(found, "every log-probability", remedy)


def _refuse(found: list[str], what: str, remedy: str) -> None:
    if found:
        raise refusal("require_finite", what, "be finite", "; ".join(found), remedy)
