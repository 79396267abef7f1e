"""A weighted mean of two bounds."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import name_of, refusal, require_bound
from vi.bounds._arguments import factory, is_traced, named, require_scalar
from vi.bounds._declare import declare, promised
from vi.bounds._derivatives import derivatives as derivatives_of
from vi.types import Bound


@factory("mix(0.5, vi.bounds.elbo, vi.bounds.iwae)")
def mix(weight: float | Float[Array, ""], a: Bound, b: Bound) -> Bound:
    r"""``weight * a + (1 - weight) * b``; of ``elbo`` and ``iwae`` it is CIWAE.

    .. math:: \beta \, F_a(\log w) + (1 - \beta) \, F_b(\log w).

    Its limit as K grows is the same mean of the limits. It is a lower bound where both are, an
    upper one in the limit where both are, and otherwise has no direction.

    Args:
        weight: beta, from 0 to 1; it may be traced, or learned.
        a: Any bound.
        b: Another, of the same sense.

    Returns:
        The bound ``log_w [K, *batch] -> [*batch]`` in nats.

    Raises:
        ValueError: A weight outside of 0..1; one bound to be maximised and the other minimised.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> ciwae = vi.bounds.mix(0.25, vi.bounds.elbo, vi.bounds.iwae)
        >>> ciwae.__name__, ciwae(jnp.array([1.0, 1.0]))
        ('mix(0.25, elbo, iwae)', Array(1., dtype=float32))

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh (2018).
    """
    weight = require_scalar("mix", "weight", weight)
    if not is_traced(weight) and not 0 <= weight <= 1:
        raise refusal("mix", "weight", "be from 0 to 1", weight, "pass the share of the first")
    require_bound("mix", a, "a")
    require_bound("mix", b, "b")
    one, other = promised(a), promised(b)
    if one.sense != other.sense:
        got = f"{name_of(a)} to {one.sense}, {name_of(b)} to {other.sense}"
        remedy = "mix bounds that go the same way"
        raise refusal("mix", "a and b", "have one sense", got, remedy)

    def derivatives(log_w):
        pairs = zip(derivatives_of(a, log_w), derivatives_of(b, log_w), strict=True)
        first, second = (weight * x + (1 - weight) * y for x, y in pairs)
        return first, second

    groups = one.num_groups, other.num_groups
    num_groups = math.lcm(*groups) if all(groups) else None  # pyright: ignore
    least = max(one.min_samples, other.min_samples)

    @named("mix", weight, a, b)
    @declare(
        direction=one.direction if one.direction == other.direction else "none",
        sense=one.sense,
        smooth=one.smooth and other.smooth,
        min_samples=-(-least // (num_groups or 1)) * (num_groups or 1),
        shift=one.shift if one.shift == other.shift else "none",
        derivatives=derivatives,
        num_groups=num_groups,
    )
    def mean(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
        return _share(weight, a(log_w)) + _share(1 - weight, b(log_w))

    return mean


def _share(weight, value):
    """``weight * value``, where a share of 0 leaves out what is infinite."""
    left_out = (weight == 0) & jnp.isinf(value)
    return jnp.where(left_out, 0.0, weight * jnp.where(left_out, 0.0, value))
