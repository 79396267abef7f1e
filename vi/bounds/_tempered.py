"""A bound of tempered weights."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import at_least_float32, name_of, refusal, require_bound
from vi.bounds._arguments import factory, is_traced, named, require_scalar
from vi.bounds._declare import declare, promised
from vi.bounds._derivatives import derivatives as derivatives_of
from vi.bounds._self_normalised import top_of, without_zeros
from vi.types import Bound


@factory("tempered(vi.bounds.iwae, 0.5)")
def tempered(bound: Bound, t: float | Float[Array, ""]) -> Bound:
    r"""A bound of the weights to the power t: ``bound(t * log_w) / t``.

    .. math:: \tfrac{1}{t} F(t \log w).

    ``tempered(iwae, t)`` is ``renyi(1 - t)``; as t -> 0 a smooth equivariant bound of exchangeable
    samples tends to ``elbo``. A power t <= 1 is concave, so that a lower bound stays one; t >= 1 is
    convex, and an upper bound in the limit stays that. The other way a bound may come to the other
    side, where its sense would be wrong: refused. A traced t declares no direction. Its limit as K
    grows is that of ``bound`` for the weights w^t, divided by t.

    Args:
        bound: Any bound.
        t: The power, above 0; it may be traced, or learned.

    Returns:
        The bound ``log_w [K, *batch] -> [*batch]`` in nats.

    Raises:
        ValueError: t is not above 0; a lower bound with t > 1, or an upper one with t < 1.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> log_w = jnp.array([0.0, -2.0, 1.0])
        >>> half = vi.bounds.tempered(vi.bounds.iwae, 0.5)
        >>> print(f"{half(log_w):.3f} {vi.bounds.renyi(0.5)(log_w):.3f}")
        0.011 0.011

    References:
        Li and Turner (2016), for the power of the weights under ``iwae``.
    """
    t = require_scalar("tempered", "t", t)
    require_bound("tempered", bound)
    inner = promised(bound)
    direction = inner.direction
    if is_traced(t) or (direction == "divergence" and inner.shift != "invariant"):
        direction = "none"  # a divergence with a known log p(x) needs weights of mean 1
    elif t <= 0:
        raise refusal("tempered", "t", "be above 0", t, "pass a positive power, 1 for the bound")
    elif (direction == "lower" and t > 1) or (direction == "upper_limit" and t < 1):
        rule = f"keep {name_of(bound)} on its side: at {'most' if t > 1 else 'least'} 1"
        remedy = "write vi.bounds.declare(...)(lambda log_w: bound(t * log_w) / t), or use renyi"
        raise refusal("tempered", "t", rule, t, remedy)

    def powered(log_w):
        """``t * log_w`` less what shifts it, and the shift; where a weight is zero, d/dt is 0."""
        log_w = at_least_float32("tempered", log_w)
        is_zero, finite = without_zeros(log_w)
        top = top_of(log_w) * (inner.shift != "none")
        return jnp.where(is_zero, -jnp.inf, t * (finite - top)), top[0]

    def derivatives(log_w):
        first, second = derivatives_of(bound, powered(log_w)[0])
        return first, t * second

    @named("tempered", bound, t)
    @declare(
        **inner._replace(direction=direction, derivatives=derivatives, replaced=None)._asdict()
    )
    def power(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
        raised, top = powered(log_w)
        value = bound(raised)
        infinite = jnp.isinf(value)
        finite = jnp.where(infinite, 0.0, value) / t
        finite = finite + (top if inner.shift == "equivariant" else 0.0)
        return jnp.where(infinite, value, finite)

    return power
