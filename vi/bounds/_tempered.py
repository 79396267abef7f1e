"""A bound of tempered weights."""

from jaxtyping import Array, Float

from vi._check import at_least_float32, refusal
from vi.bounds._arguments import named, require_bound, require_scalar
from vi.bounds._declare import declaration, declare
from vi.bounds._derivatives import derivatives as derivatives_of
from vi.types import Bound


def tempered(bound: Bound, t: float | Float[Array, ""]) -> Bound:
    r"""A bound of the weights to the power t: ``bound(t * log_w) / t``.

    .. math:: \tfrac{1}{t} F(t \log w).

    ``tempered(iwae, t)`` is ``renyi(1 - t)``; as t -> 0 it tends to ``elbo`` for every smooth
    equivariant bound. A power t <= 1 is concave, so that a lower bound stays one; t >= 1 is convex,
    and an upper bound in the limit stays that. Otherwise it has no direction. Its limit as K grows
    is that of ``bound`` for the weights w^t, divided by t.

    Args:
        bound: Any bound.
        t: The power, above 0; it may be traced, or learned.

    Returns:
        The bound ``log_w [K, *batch] -> [*batch]`` in nats.

    Raises:
        ValueError: t is not above 0.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> log_w = jnp.array([0.0, -2.0, 1.0])
        >>> half = vi.bounds.tempered(vi.bounds.iwae, 0.5)
        >>> print(f"{half(log_w):.3f} {vi.bounds.renyi(0.5)(log_w):.3f}")
        0.011 0.011

    References:
        Li and Turner (2016), for the power of the weights under ``iwae``.
    """
    concrete = require_scalar("tempered", "t", t)
    if concrete is not None and concrete <= 0:
        raise refusal("tempered", "t", "be above 0", t, "pass a positive power, 1 for the bound")
    inner = declaration(require_bound("tempered", bound))
    stays = {
        "lower": concrete is not None and concrete <= 1,
        "upper_limit": concrete is not None and concrete >= 1,
        "divergence": inner.shift == "invariant",  # others need weights of mean 1
        "none": True,
    }

    def derivatives(log_w):
        first, second = derivatives_of(bound, t * at_least_float32("tempered", log_w))
        return first, t * second

    direction = inner.direction if stays[inner.direction] else "none"

    @named("tempered", bound, t)
    @declare(**inner._replace(direction=direction, derivatives=derivatives)._asdict())
    def power(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
        return bound(t * at_least_float32("tempered", log_w)) / t

    return power
