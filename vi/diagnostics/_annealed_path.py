"""The path that annealing goes along: its temperatures, and the densities on it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi._check import refusal, require_count, require_log_densities
from vi._known import is_known
from vi.types import Latent, LogDensity, Variational


def sigmoidal_temperatures(
    num_temperatures: int, *, steepness: float = 4.0
) -> Float[Array, " num_temperatures+1"]:
    r"""Temperatures from 0 to 1 that are densest at both ends.

    .. math:: t_i = \frac{\sigma(\delta (2 i / T - 1)) - \sigma(-\delta)}
                         {\sigma(\delta) - \sigma(-\delta)}, \qquad i = 0, \dots, T.

    Args:
        num_temperatures: T, the increments; 0 is not counted.
        steepness: :math:`\delta`, above 0; towards 0 they are equally spaced.

    Returns:
        ``[T+1]``, the first 0 and the last 1.

    Raises:
        ValueError: Fewer than one temperature, or a steepness that is not above 0.

    Examples:
        >>> import vi
        >>> [round(float(t), 2) for t in vi.diagnostics.sigmoidal_temperatures(4)]
        [0.0, 0.1, 0.5, 0.9, 1.0]

    References:
        Grosse, Ghahramani and Adams (2015).
    """
    where = "sigmoidal_temperatures"
    count = require_count(where, "num_temperatures", num_temperatures)
    if not 0 < steepness < np.inf:
        raise refusal(where, "steepness", "be positive and finite", steepness, "4 is usual")
    rising = np.tanh(steepness * np.linspace(-0.5, 0.5, count + 1))
    temperatures = np.asarray((rising / rising[-1] + 1) / 2, jnp.result_type(float))
    if not (np.diff(temperatures) > 0).all():
        rule = f"leave {count} temperatures apart in {temperatures.dtype}"
        raise refusal(where, "steepness", rule, steepness, "4 is usual")
    return jnp.asarray(temperatures)


def path(
    where: str, initial: Variational, log_joint: LogDensity
) -> tuple[LogDensity, Callable[[Array], LogDensity]]:
    """``ratio(z) = log p(x, z) - log q_0(z)``, and ``density(t)``, the log-density at t."""

    def both(z):
        log_p, log_q = log_joint(z), initial.log_prob(z)
        log_p = log_p[0] if isinstance(log_p, tuple) else log_p
        densities = {"log_joint": log_p, "q.log_prob": log_q}
        require_log_densities(where, jax.tree.leaves(z)[0].shape[0], densities)
        dtype = jnp.promote_types(jnp.result_type(log_p, log_q), jnp.float32)
        return log_p.astype(dtype), log_q.astype(dtype)

    def ratio(z):
        log_p, log_q = both(z)
        return jnp.where(log_p == -jnp.inf, -jnp.inf, log_p - log_q)

    def density(t):
        def at(z):
            log_p, log_q = both(z)
            return (1 - t).astype(log_q.dtype) * log_q + t.astype(log_p.dtype) * log_p

        return at

    return ratio, density


def require_floating(where: str, z: Latent) -> None:
    """Refuse latents that no gradient moves."""
    for leaf in jax.tree.leaves(z):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            remedy = "sum discrete latents out of both densities"
            raise refusal(where, "latents", "be floating", f"dtype {leaf.dtype}", remedy)


def require_temperatures(where: str, temperatures) -> Array:
    """The temperatures as an array, refused if it can be seen that they do not rise from 0 to 1."""
    remedy = "make them with sigmoidal_temperatures(500) or jnp.linspace(0, 1, 501)"
    rule = "rise from 0 to 1, [T+1]"
    if jnp.ndim(temperatures) != 1 or len(temperatures) < 2:
        got = f"shape {list(jnp.shape(temperatures))}"
        raise refusal(where, "temperatures", rule, got, remedy)
    dtype = jnp.result_type(float)
    if is_known(temperatures):
        host = np.asarray(temperatures, dtype)
        if host[0] != 0 or host[-1] != 1 or not (np.diff(host) > 0).all():
            got = f"{host} in {host.dtype}"
            raise refusal(where, "temperatures", rule, got, remedy)
    return jnp.asarray(temperatures, dtype)
