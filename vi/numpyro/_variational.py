"""A guide as a q and a model as a log-joint, for everything that takes those."""

from collections.abc import Callable
from typing import Any

import jax

from vi._check import refusal
from vi.numpyro._particles import Particles, Rescored
from vi.numpyro._prepare import prepare
from vi.numpyro._program import Program
from vi.types import LogDensity, Variational


def as_variational(
    params: dict[str, Any],
    model: Callable,
    guide: Callable,
    *args,
    plates: tuple[str, ...] | None = None,
    **kwargs,
) -> tuple[Variational, LogDensity]:
    """The guide as a ``Variational`` and the model as a ``LogDensity`` of its draws.

    What ``Loss`` hands to its objective under every rule but plain differentiation, for whatever
    takes a q and a log-joint: ``vi.diagnostics.sandwich`` and ``log_evidence``,
    ``vi.testing.check_gradient``, any objective by itself. Gradients flow to ``params``. A draw
    holds the values of the guide's free sites, and seeds for all else that is random.

    Args:
        params: Constrained parameters and mutable state, by site.
        model: The model.
        guide: The guide; one whose law cannot be evaluated at a value (``AutoBNAFNormal``) samples,
            and is refused where it is scored.
        *args: Arguments of both.
        plates: The plates whose cells are weighed each, (), or None, as in ``Loss``.
        **kwargs: Keyword arguments of both.

    Returns:
        ``(q, log_joint)``; log-densities are ``[K, *plates]`` in nats, and ``log_joint`` gives the
        mutable state beside its own.

    Raises:
        ValueError: Sites outside of the plates, or a subsampled plate: both need a key.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, vi
        >>> def model(x):
        ...     with numpyro.plate("N", len(x)):
        ...         z = numpyro.sample("z", dist.Normal(0, 1))
        ...         numpyro.sample("x", dist.Normal(z, 1), obs=x)
        >>> def guide(x):
        ...     with numpyro.plate("N", len(x)):
        ...         numpyro.sample("z", dist.Normal(x / 2, 0.8))
        >>> x = jnp.array([0.5, 1.5])
        >>> q, log_joint = vi.numpyro.as_variational({}, model, guide, x)
        >>> found = vi.diagnostics.log_evidence(jax.random.key(0), q, log_joint, 2_000)
        >>> exact = dist.Normal(0, 2**0.5).log_prob(x)
        >>> bool((abs(found.value - exact) < 5 * found.stderr).all())
        True
    """
    where, program = "as_variational", Program(model, guide, params, args, kwargs)
    key = jax.random.key(0)  # for the sites alone: nothing is drawn with it
    prepared = prepare(where, key, program, plates, one=True, additive=False)
    inside, outside = prepared.partition
    if prepared.partition.is_nested:
        found = ", ".join(sorted(outside.guide | outside.model))
        remedy = "use Loss or log_weights, which nest, or plates=()"
        raise refusal(where, "plates", "hold all sites", f"{found} outside", remedy)
    drawn = [name for of in prepared.structure.unseeded_plates for name in of]
    if drawn:
        remedy = "use Loss or log_weights, or subsample_size=None"
        raise refusal(where, "plates", "hold all data", f"{drawn[0]} subsampled", remedy)
    runs = Rescored(Particles(prepared.program, prepared.structure, inside, one=False))
    return runs, runs.log_joint
