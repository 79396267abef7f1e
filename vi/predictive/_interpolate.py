"""Ways from one latent to another."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import refusal, require_count
from vi.predictive._draws import Decoder
from vi.types import Latent


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

    Where the two point the same way, or one is 0, it is the line.

    Args:
        start: Latents, the last axis their D dimensions.
        end: Others, of the same shape.
        at: From 0 to 1.

    References:
        Shoemake (1985); White (2016), section 2.1.
    """
    lengths = jnp.linalg.norm(start, axis=-1, keepdims=True) * jnp.linalg.norm(
        end, axis=-1, keepdims=True
    )
    dot = (start * end).sum(-1, keepdims=True)
    cosine = jnp.where(lengths > 0, dot / jnp.where(lengths > 0, lengths, 1.0), 1.0)
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    sine = jnp.sin(angle)
    is_line = sine < 1e-4
    sine = jnp.where(is_line, 1.0, sine)
    first = jnp.where(is_line, 1 - at, jnp.sin((1 - at) * angle) / sine)
    last = jnp.where(is_line, at, jnp.sin(at * angle) / sine)
    return first * start + last * end


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
    stops = jnp.linspace(0.0, 1.0, num_points)
    way = jax.vmap(lambda at: jax.tree.map(lambda a, b: path(a, b, at), start, end))(stops)
    return likelihood(way)
