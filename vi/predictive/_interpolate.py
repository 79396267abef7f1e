"""Ways from one latent to another."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import refusal, require_count
from vi.predictive._draws import Decoder
from vi.types import Latent

_NEARLY = 2e-3  # of an angle: below it the sine of the angle has too few digits to divide by


def straight(
    start: Float[Array, "... D"], end: Float[Array, "... D"], at: Float[Array, ""]
) -> Float[Array, "... D"]:
    """The line, ``(1 - at) start + at end``: passes through where a normal prior has no mass.

    Args:
        start: Latents.
        end: Others, of the same shape.
        at: From 0 to 1.
    """
    return (1 - at) * start + at * end


def spherical(
    start: Float[Array, "... D"], end: Float[Array, "... D"], at: Float[Array, ""]
) -> Float[Array, "... D"]:
    r"""The great circle: lengths stay what those of draws from a normal prior are.

    .. math:: \frac{\sin((1 - t) \omega)}{\sin \omega} a + \frac{\sin(t \omega)}{\sin \omega} b,
              \qquad \cos \omega = \frac{a \cdot b}{\|a\| \|b\|}

    Where the two point the same way, or one is 0, it is the line; so it is where they are opposite
    (to 2e-3 in the angle; in one dimension, where their signs differ): no great circle is singled
    out there, and the way leads through 0.

    Args:
        start: Latents, the last axis their D dimensions.
        end: Others, of the same shape.
        at: From 0 to 1.

    References:
        Shoemake (1985); White (2016), section 2.1.
    """
    unit_start, unit_end = _unit(start), _unit(end)
    apart = ((unit_start - unit_end) ** 2).sum(-1, keepdims=True)
    together = ((unit_start + unit_end) ** 2).sum(-1, keepdims=True)
    is_zero = (unit_start == 0).all(-1, keepdims=True) | (unit_end == 0).all(-1, keepdims=True)
    is_line = is_zero | (jnp.minimum(apart, together) < _NEARLY**2)
    angle = 2 * jnp.arctan2(*(jnp.sqrt(jnp.where(is_line, 1.0, s)) for s in (apart, together)))
    sine = jnp.sin(angle)
    first = jnp.where(is_line, 1 - at, jnp.sin((1 - at) * angle) / sine)
    last = jnp.where(is_line, at, jnp.sin(at * angle) / sine)
    return first * start + last * end


def _unit(vector: Array) -> Array:
    square = (vector**2).sum(-1, keepdims=True)
    return vector / jnp.sqrt(jnp.where(square > 0, square, 1.0))


def interpolate(
    likelihood: Decoder,
    start: Latent,
    end: Latent,
    num_points: int,
    *,
    path: Callable[[Array, Array, Array], Array] = straight,
):
    """What is decoded on the way from one latent to another.

    Args:
        likelihood: ``z -> p(x | z)``, the decoder.
        start: Latents, an array or a pytree of them, leaves ``[*batch, *event]``; the means of
            q(z | x) of two data, for instance.
        end: Others, of the same shapes.
        num_points: Stops on the way, both ends included; at least 2.
        path: ``straight``, ``spherical``, or a function ``(start, end, at)`` of one's own.

    Returns:
        ``p(x | z)`` at the stops, with their axis first: ``.mean`` is ``[num_points, *batch,
        *event of x]``.

    Raises:
        ValueError: Fewer than two points, or ends of different shapes.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> decoder = lambda z: vi.likelihoods.bernoulli(z @ jnp.ones((2, 6)))
        >>> way = vi.predictive.interpolate(decoder, jnp.zeros((3, 2)), jnp.ones((3, 2)), 8)
        >>> way.mean.shape
        (8, 3, 6)
    """
    require_count("interpolate", "num_points", num_points, least=2)
    shapes = jax.tree.map(jnp.shape, start), jax.tree.map(jnp.shape, end)
    if shapes[0] != shapes[1]:
        got = f"{shapes[0]} and {shapes[1]}"
        remedy = "pair each start with its end"
        raise refusal("interpolate", "start and end", "have the same shapes", got, remedy)

    def along(a, b):
        stops = jnp.linspace(0.0, 1.0, num_points, dtype=jnp.result_type(a, b))
        return jax.vmap(lambda at: path(a, b, at))(stops)

    return likelihood(jax.tree.map(along, start, end))
