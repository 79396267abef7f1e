"""The derivative of log q at a draw, carried through a flow with the draw: no inverse is needed.

With ``y = f(x)`` and ``log q(y) = log q_0(x) - log |det f'(x)|``, the force at y solves

    f'(x)^T force_y = force_x - d log |det f'(x)| / dx,

layer by layer (Vaitl, Nicoli, Nakajima and Kessel 2022; Vaitl, Winkler, Richter and Kessel 2024).
"""

from typing import Any

import jax
import jax.numpy as jnp


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
