"""Many steps as one pure function."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Int, PyTree

from vi._check import refusal, require_count, require_key
from vi.training._data import data_size, require_data
from vi.training._state import State, require_state
from vi.training._step import Step
from vi.types import Key


def run(
    key: Key,
    step: Step,
    state: State,
    data: PyTree[Array | np.ndarray],
    *,
    num_steps: int,
    batch_size: int,
) -> tuple[State, dict[str, Array]]:
    """Take ``num_steps`` steps on random minibatches: pure, one ``lax.scan``.

    ``jax.jit`` it with step and sizes fixed, and ``jax.vmap`` it over keys and states (seeds) or
    over rates that ``optax.inject_hyperparams`` put in the state.

    Each epoch visits the data in an order of its own, ``N // batch_size`` minibatches drawn on the
    device; the ``N % batch_size`` data left over differ from epoch to epoch. Order and noise follow
    from ``key`` and ``state.step`` alone: a run cut in two, with the same key, is the same run.

    Args:
        key: Fixes the order of the data and the noise of every step.
        step: From ``gradient_step``, ``stateful_gradient_step``, or your own.
        state: Where to start; its ``step`` is the place in the data.
        data: An array ``[N, ...]`` or a pytree of them, of any types (``uint8`` images stay so).
        num_steps: Steps to take from there.
        batch_size: B, at most N. A minibatch is ``data`` with leaves ``[B, ...]``.

    Returns:
        The state after the last step, and the metrics of all steps, each ``[num_steps, ...]``.

    Raises:
        ValueError: A key that is not typed, a size that is no integer of at least 1, a state that
            ``init`` did not make, data that are empty, of unequal lengths or fewer than B.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, vi
        >>> def loss(w, key, x):
        ...     return ((w - x) ** 2).mean()
        >>> optimizer = optax.sgd(0.25)
        >>> step = vi.training.gradient_step(loss, optimizer)
        >>> state, data = vi.training.init(jnp.zeros(()), optimizer), jnp.full(20, 3.0)
        >>> state, history = vi.training.run(
        ...     jax.random.key(0), step, state, data, num_steps=100, batch_size=5
        ... )
        >>> state.params, history["loss"].shape
        (Array(3., dtype=float32), (100,))
    """
    num_steps = require_count("run", "num_steps", num_steps)
    batch_size = require_count("run", "batch_size", batch_size)
    require_run("run", key, step, state, data, batch_size)
    body = on_minibatches(key, step, data, batch_size)
    end, history = lax.scan(lambda carry, _: body(carry), begin(state, data), length=num_steps)
    return end.state, history


def require_run(where: str, key, step, state, data, batch_size: int) -> None:
    """Refuse what no step could be taken with."""
    require_key(where, key)
    require_step(where, step)
    require_state(where, state)
    require_data(where, data, batch_size)


def require_step(where: str, step) -> None:
    """Refuse a step that is no function."""
    if not callable(step):
        remedy = "make one with gradient_step(loss, optimizer)"
        raise refusal(where, "step", "be a function", repr(step), remedy)
    try:
        hash(step)
    except TypeError:
        remedy = "a frozen dataclass, or a function"
        raise refusal(where, "step", "be hashable", type(step).__name__, remedy) from None


class Carry(NamedTuple):
    """What the loop over steps carries: the state, and the order of the data in ``epoch``."""

    state: State
    order: Int[Array, "N"]
    epoch: Int[Array, ""]


def begin(state: State, data: PyTree[Array | np.ndarray]) -> Carry:
    """The carry of a loop that has yet to draw an order."""
    return Carry(state, jnp.arange(data_size(data)), jnp.int32(-1))


def on_minibatches(
    key: Key, step: Step, data: PyTree[Array | np.ndarray], batch_size: int
) -> Callable[[Carry], tuple[Carry, dict[str, Array]]]:
    """One step of the loop, on the minibatch that is next."""
    data = jax.tree.map(jnp.asarray, data)
    size = data_size(data)
    order_key, noise_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)

    def body(carry):
        state = carry.state
        epoch, position = jnp.divmod(state.step, size // batch_size)
        order = lax.cond(
            _any_of_batch(epoch != carry.epoch),
            lambda: jax.random.permutation(jax.random.fold_in(order_key, epoch), size),
            lambda: carry.order,
        )
        rows = lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)
        batch = jax.tree.map(lambda leaf: leaf[rows], data)
        returned = step(state, jax.random.fold_in(noise_key, state.step), batch)
        try:
            moved, metrics = returned
        except (TypeError, ValueError):
            rule, got = "return (state, metrics)", type(returned).__name__
            raise refusal("step", "it", rule, got, "return the state, then a dict") from None
        if not isinstance(metrics, dict) or "loss" not in metrics:
            got = f"names {list(metrics)}" if isinstance(metrics, dict) else type(metrics).__name__
            raise refusal("step", "metrics", "contain loss", got, "return {'loss': value, ...}")
        # The count is the place in the data: a step of the user's own that forgets it stays put.
        return Carry(replace(moved, step=state.step + 1), order, epoch), metrics

    return body


@custom_vmap
def _any_of_batch(flag):
    """``flag``, and under ``jax.vmap`` whether any of the batch is set: one flag for all.

    A batched predicate would turn ``cond`` into a select: a permutation every step, for every run.
    An order drawn once more is the same order, so drawing it for a neighbour is no error.
    """
    return flag


@_any_of_batch.def_vmap
def _(axis_size, in_batched, flag):
    del axis_size, in_batched
    return _any_of_batch(flag.any()), False
