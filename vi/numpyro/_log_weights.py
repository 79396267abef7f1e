"""The log-weights of a guide's draws: what every bound is a function of."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from vi._check import require_key
from vi.numpyro._cells import Cells
from vi.numpyro._nested import particles_at
from vi.numpyro._particles import Particles, WholeRuns
from vi.numpyro._prepare import counts, prepare
from vi.numpyro._program import Program
from vi.types import Key


def log_weights(
    key: Key,
    params: dict[str, Any],
    model: Callable,
    guide: Callable,
    *args,
    num_particles: int | tuple[int, int],
    plates: tuple[str, ...] | None = None,
    **kwargs,
) -> Float[Array, "K *batch"] | tuple[Float[Array, "S"], Float[Array, "S K *batch"]]:
    """``log p(x, z) - log q(z)`` of draws from a guide, for each cell of the plates that have one.

    What ``Loss`` hands to a bound, for the diagnostics: ``vi.diagnostics.pareto_k``,
    ``effective_sample_size``, ``log_evidence`` by ``vi.bounds.iwae``. The same key gives the
    weights of a loss with the same number of particles. The scale of a subsampled plate is left
    out: it multiplies what is made of a cell's weights. No gradient flows.

    Args:
        key: Consumed.
        params: Constrained parameters (``SVI.get_params``) and mutable state, by site.
        model: The model.
        guide: The guide.
        *args: Arguments of both.
        num_particles: K, or ``(S, K)`` for S draws of the globals and K of the locals for each.
        plates: The plates whose cells are weighed each, (), or None, as in ``Loss``.
        **kwargs: Keyword arguments of both.

    Returns:
        ``[K, *plates]`` in nats, the axes in the order of ``plates``. Where there are sites outside
        of them a pair: the weights of what lies outside, ``[S]``, and those of the cells given it,
        ``[S, K, *plates]``.

    Raises:
        ValueError: A count below 1, plates that do not exist or have to be said.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, vi
        >>> def model(x):
        ...     with numpyro.plate("N", len(x)):
        ...         z = numpyro.sample("z", dist.Normal(0, 1))
        ...         numpyro.sample("x", dist.Normal(z, 1), obs=x)
        >>> def guide(x):
        ...     with numpyro.plate("N", len(x)):
        ...         numpyro.sample("z", dist.Normal(x / 2, 1))
        >>> x, key = jnp.array([0.5, 1.5, 2.5]), jax.random.key(0)
        >>> log_w = vi.numpyro.log_weights(key, {}, model, guide, x, num_particles=100)
        >>> log_w.shape, vi.diagnostics.pareto_k(log_w).shape
        ((100, 3), (3,))
    """
    require_key("log_weights", key)
    num_global, num_local = counts("log_weights", num_particles)
    program = Program(model, guide, params, args, kwargs)
    alone = num_global == num_local == 1
    prepared = prepare("log_weights", key, program, plates, one=alone, additive=False)
    inside, outside = prepared.partition

    def weigh(particles: Particles, key, count: int):
        runs = WholeRuns(particles)
        z, log_q = runs.rsample_and_log_prob(key, (count,))
        return jax.lax.stop_gradient(runs.log_joint(z)[0] - log_q), z

    def particles(cells: Cells, count: int, *, inner: bool = False) -> Particles:
        one = count == 1
        return Particles(prepared.program, prepared.structure, cells, one=one, inner=inner)

    if not prepared.partition.is_nested:
        return weigh(particles(inside, num_local), prepared.key, num_local)[0]
    around = particles(outside, num_global, inner=True)
    of_globals, z = weigh(around, prepared.key, num_global)

    def of_cells(z):
        local = particles_at(prepared, around, z, one=num_local == 1)
        return weigh(local, jax.random.clone(z["seeds"]["inner"]), num_local)[0]

    return of_globals, around.each(of_cells, z)
