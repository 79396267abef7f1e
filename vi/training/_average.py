"""Averages of the iterates, carried in the optimiser's state."""

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
    should be 0. The updates pass unchanged; ``averaged`` takes the average out of a state.

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
        weight = decay
    else:
        if not 0 <= decay <= 1:
            remedy = "pass 0.999, say, or 1.0 for the plain mean"
            raise refusal("average", "decay", "be in [0, 1]", decay, remedy)
        weight = lambda count: _unbiased(float(decay), count)  # noqa: E731

    def init(params):
        return AverageState(jax.tree.map(jnp.array, params), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        if params is None:
            remedy = "pass the parameters to optimizer.update"
            raise refusal("average", "params", "be given", "None", remedy)
        moved = optax.apply_updates(params, updates)
        kept = weight(state.count)
        mean = jax.tree.map(
            lambda a, p: (a + (1 - kept) * (p - a)).astype(a.dtype), state.params, moved
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
    return replace(state, params=found[0].params)


def _unbiased(decay: float, count):
    """``d (1 - d^t) / (1 - d^(t+1))``: the weight of the mean of t iterates beside one more."""
    if decay == 1.0:
        return count / (count + 1)
    power = jnp.power(jnp.float32(decay), count)
    return decay * (1 - power) / (1 - decay * power)


def _is_average(node) -> bool:
    return isinstance(node, AverageState)
