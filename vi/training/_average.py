"""Averages of the iterates, carried in the optimiser's state."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vi._check import refusal
from vi.training._state import State


class AverageState(NamedTuple):
    """What ``average`` carries: the averaged parameters and the number of iterates in them."""

    params: Any
    count: Any


def average(decay: float | Callable[[Any], Any]) -> optax.GradientTransformation:
    """Keep an average of the iterates beside them: the last member of an ``optax.chain``.

    With a number, the exponential moving average (EMA) of the parameters after each step, without
    bias towards the first: ``sum_s d^(t-s) params_s / sum_s d^(t-s)`` over s = 1..t. With ``1.0``
    the plain mean of all iterates (Polyak and Ruppert). With a function of the number of iterates
    so far, starting at 0, ``average_t = d(t) average_(t-1) + (1 - d(t)) params_t``, where ``d(0)``
    should be 0. The updates pass unchanged; ``averaged`` takes the average out of a state. It is
    kept in float32 or wider. For steps that are not finite to be left out of it too, write
    ``apply_if_finite(chain(..., average(decay)), n)``.

    Args:
        decay: In [0, 1], or such a function.

    Returns:
        An optax transformation, to follow all that scale the updates.

    Raises:
        ValueError: A decay outside [0, 1]; when it is used, an update without parameters.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, vi
        >>> optimizer = optax.chain(optax.sgd(0.25), vi.training.average(0.99))
        >>> step = vi.training.gradient_step(lambda w, key, x: ((w - x) ** 2).mean(), optimizer)
        >>> state = vi.training.init(jnp.zeros(()), optimizer)
        >>> data = 3.0 + jax.random.normal(jax.random.key(1), (1000,))
        >>> state, _ = vi.training.run(
        ...     jax.random.key(0), step, state, data, num_steps=1000, batch_size=1
        ... )
        >>> best, last = vi.training.averaged(state).params, state.params
        >>> bool(abs(best - data.mean()) < abs(last - data.mean()))
        True

    References:
        Polyak and Juditsky (1992), "Acceleration of stochastic approximation by averaging",
        equation 2; Kingma and Ba (2015), "Adam", section 7.2 and, for the bias, section 3.
    """
    if callable(decay):
        weight = lambda count: 1 - decay(count)  # noqa: E731
    else:
        if not 0 <= decay <= 1:
            remedy = "pass 0.999, say, or 1.0 for the plain mean"
            raise refusal("average", "decay", "be in [0, 1]", decay, remedy)
        weight = lambda count: _newest(float(decay), count)  # noqa: E731

    def init(params):
        return AverageState(jax.tree.map(_wide, params), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        if params is None:
            remedy = "pass the parameters to optimizer.update"
            raise refusal("average", "params", "be given", "None", remedy)
        moved = optax.apply_updates(params, updates)
        new = weight(state.count)
        mean = jax.tree.map(
            lambda a, p: (a + new * (p.astype(a.dtype) - a)).astype(a.dtype), state.params, moved
        )
        return updates, AverageState(mean, optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def averaged(state: State) -> State:
    """The state with the average of the iterates for parameters, e.g. to evaluate them.

    An NNX module's other variables (batch statistics) stay those of the last step.

    Args:
        state: Of an optimiser that holds one ``average``; of one run, or of several.

    Returns:
        The state, its ``params`` (and so its ``model``) those of the average.

    Raises:
        ValueError: The optimiser holds no ``average``, or several.
    """
    found = [
        leaf for leaf in jax.tree.leaves(state.opt_state, is_leaf=_is_average) if _is_average(leaf)
    ]
    if len(found) != 1:
        remedy = "make the optimiser with optax.chain(..., vi.training.average(decay))"
        raise refusal("averaged", "state", "hold one average", len(found), remedy)
    cast = jax.tree.map(lambda a, p: a.astype(p.dtype), found[0].params, state.params)
    return replace(state, params=cast)


def _newest(decay: float, count):
    """``(1 - d) / (1 - d^(t+1))``: the weight of one more iterate beside the mean of t."""
    if decay == 0.0:
        return 1.0
    if decay == 1.0:
        return 1.0 / (count + 1)
    return (1 - decay) / -jnp.expm1((count + 1) * math.log(decay))


def _wide(leaf):
    return jnp.array(leaf, jnp.promote_types(leaf.dtype, jnp.float32))


def _is_average(node) -> bool:
    return isinstance(node, AverageState)
