"""The mean-field normal."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vi._check import refusal
from vi._known import require_positive
from vi.families._gaussian_checks import require_axis


def normal(
    loc: Float[Array, "*batch D"],
    *,
    log_scale: Float[Array, "*batch D"] | None = None,
    log_var: Float[Array, "*batch D"] | None = None,
    scale: Float[Array, "*batch D"] | None = None,
) -> dist.Distribution:
    r"""A normal with independent dimensions, :math:`\prod_d N(z_d; \mu_d, \sigma_d^2)`.

    Exactly one of the three spreads, named, since taking a log-variance for a log-scale is a silent
    factor of two.

    Args:
        loc: Means ``[*batch, D]``; the last axis is the event.
        log_scale: Log of the standard deviation, of the shape of ``loc``.
        log_var: Log of the variance, of the shape of ``loc``.
        scale: The standard deviation, of the shape of ``loc``, positive.

    Returns:
        A NumPyro distribution with batch shape ``[*batch]`` and event shape ``[D]``.

    Raises:
        ValueError: Not exactly one spread, a spread of another shape, a known scale at or below 0,
            or no event axis.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> q = vi.families.normal(jnp.zeros((3, 2)), log_var=jnp.zeros((3, 2)))
        >>> q.batch_shape, q.event_shape
        ((3,), (2,))
    """
    given = {
        name: value
        for name, value in (("log_scale", log_scale), ("log_var", log_var), ("scale", scale))
        if value is not None
    }
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        remedy = "keep the one that the parameter is: log_var = 2 log_scale = 2 log(scale)"
        raise refusal("normal", "the spread", "be one of log_scale, log_var, scale", got, remedy)
    ((name, spread),) = given.items()
    require_axis("normal", loc)
    if jnp.shape(spread) != jnp.shape(loc):
        got = f"{list(jnp.shape(spread))} against {list(jnp.shape(loc))}"
        remedy = "jnp.broadcast_to it, if every entry is meant to share it"
        raise refusal("normal", name, "have the shape of loc", got, remedy)
    if name == "scale":
        remedy = "pass it through jnp.exp or jax.nn.softplus, or give log_scale"
        require_positive("normal", name, spread, remedy)
    to_scale = {"log_scale": jnp.exp, "log_var": lambda v: jnp.exp(v / 2), "scale": lambda s: s}
    return dist.Normal(loc, to_scale[name](spread)).to_event(1)
