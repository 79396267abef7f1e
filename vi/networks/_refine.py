"""Semi-amortised inference: a few steps from where the encoder points."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vi._check import refusal, require_count

Parameters = TypeVar("Parameters")


def refine(
    value: Callable[[Parameters], Float[Array, "*batch"]],
    start: Parameters,
    *,
    optimizer: optax.GradientTransformation,
    num_steps: int,
) -> Parameters:
    r"""Climb ``value`` for a few steps from ``start``, differentiably.

    .. math:: \phi_0 = \mathrm{start}, \qquad
              \phi_{i+1} = \phi_i + \mathrm{optimizer}(\nabla_\phi \mathrm{value}(\phi_i)).

    The result is a function of ``start`` and of whatever ``value`` closes over, and its derivative
    goes through all steps: the encoder learns to start where few steps suffice, the model sees q
    move with it. Where ``value`` is ``[*batch]``, each datum climbs its own: the parameters of one
    may not enter the value of another, and the optimizer may not mix entries (a clip by the global
    norm does).

    ``value`` is a function, the same at each step: use an analytic divergence, or draw noise once
    outside and close over it. A loss that takes a key gets ``jax.random.clone(key)``, so that it is
    the same noise at each step.

    **Adam.** :math:`\sqrt{v}` has an infinite derivative at 0: where a gradient is exactly 0
    ``optax.adam(rate)`` gives NaN to whoever differentiates through it;
    ``optax.adam(rate, eps_root=1e-8)`` does not.

    Args:
        value: To be maximised, ``start``-like parameters to nats, a scalar or ``[*batch]``.
        start: Parameters of q, a pytree of floating arrays ``[*batch, ...]``.
        optimizer: An optax transformation, ``optax.sgd(0.1)`` for instance.
        num_steps: A concrete integer; 0 gives ``start``.

    Returns:
        The refined parameters, a pytree like ``start``.

    Raises:
        ValueError: Parameters that are not floating, a value that is not a floating array, or a
            number of steps below 0.

    Examples:
        Half of the way to the top at each step, so that 3 steps keep an eighth of the start:

        >>> import jax, jax.numpy as jnp, optax, vi
        >>> def end(start):
        ...     climb = lambda at: -0.5 * (at - 1.0) ** 2
        ...     return vi.networks.refine(climb, start, optimizer=optax.sgd(0.5), num_steps=3)
        >>> print(end(jnp.array(0.0)), jax.grad(end)(jnp.array(0.0)))
        0.875 0.125

    References:
        Kim, Wiseman, Miller, Sontag and Rush (2018), algorithm 1; Marino, Yue and Mandt (2018).
    """
    num_steps = require_count("refine", "num_steps", num_steps, least=0)
    for path, leaf in jax.tree.leaves_with_path(start):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            name = f"start{jax.tree_util.keystr(path)}"
            got, remedy = f"dtype {jnp.result_type(leaf)}", "close over what is not to be refined"
            raise refusal("refine", name, "be floating", got, remedy)
    start = jax.tree.map(jnp.asarray, start)

    def loss(params: Any):
        out: Any = value(params)
        if not jnp.issubdtype(jnp.result_type(out), jnp.floating):
            got, remedy = f"dtype {jnp.result_type(out)}", "return nats as floats"
            raise refusal("refine", "value", "return a floating array", got, remedy)
        return -jnp.sum(out)

    def step(carry, _):
        params: Any = carry[0]
        updates, state = optimizer.update(jax.grad(loss)(params), carry[1], params)
        params = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), params, updates)
        return (params, state), None

    carry, _ = jax.lax.scan(step, (start, optimizer.init(start)), length=num_steps)  # pyright: ignore[reportArgumentType]
    return carry[0]
