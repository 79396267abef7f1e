"""The derivative of log q at a draw, carried through a flow with the draw: no inverse is needed.

With ``y = f(x)`` and ``log q(y) = log q_0(x) - log |det f'(x)|``, the force at y solves

    f'(x)^T force_y = force_x - d log |det f'(x)| / dx,

layer by layer (Vaitl, Nicoli, Nakajima and Kessel 2022; Vaitl, Winkler, Richter and Kessel 2024).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import zero_from_primal


def once(values: Any) -> Any:
    """The values, constant when they are differentiated once.

    A force is the coefficient of a first derivative, and its own derivative would be work for
    nothing. A second derivative without that would be wrong in silence: it is refused, but inside
    a ``jax.lax.scan``, of layers, where it comes out whole (a test holds it to differences).
    """
    return jax.tree.map(_once, values)


@jax.custom_jvp
def _once(x):
    return x


def _once_jvp(primals, tangents):
    del tangents
    held = _refused(*primals)
    return held, zero_from_primal(held, symbolic_zeros=True)


_once.defjvp(_once_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _refused(x):
    return x


@_refused.defjvp
def _refused_jvp(primals, tangents):
    raise ValueError(
        "rsample_and_force: the derivative of log q is held at its value, and has no derivative of"
        " its own; for second derivatives use reparam"
    )


def through_elementwise(transformer: Any, x, params, force) -> tuple[Any, Any, Any, Any]:
    """An elementwise transform, the force behind it, and the cotangent of its parameters.

    Returns:
        The image, the log-slopes, the force of the image, all ``[*shape, d]``, and what the
        parameters' dependence on other dimensions takes from their force, ``[*shape, d, P]``.
    """
    (y, log_slope), pull = jax.vjp(transformer.forward, x, params)
    of_slope, of_params = pull((jnp.zeros_like(y), jnp.ones_like(log_slope)))
    out = (force - of_slope) * jnp.exp(-log_slope)
    _, more = pull((out, jnp.zeros_like(log_slope)))
    return y, log_slope, out, of_params + more
