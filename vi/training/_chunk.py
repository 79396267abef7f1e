"""A chunk of steps as one compiled program, and what to do when it fails."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from vi.training._run import minibatch_loop
from vi.training._state import State
from vi.training._step import Step
from vi.types import Key


@functools.partial(jax.jit, static_argnames=("step", "batch_size", "capacity"))
def chunk(
    key: Key,
    step: Step,
    data: PyTree[Array],
    state: State,
    num_steps: Int[Array, ""],
    *,
    batch_size: int,
    capacity: int,
) -> tuple[State, dict[str, Array], Bool[Array, ""]]:
    """``run``, with ``num_steps`` an argument of the program: every length shares one compilation.

    Returns:
        The state, metrics ``[capacity, ...]`` of which ``num_steps`` are written, and whether the
        losses and the final parameters are all finite.
    """
    body, carry = minibatch_loop(key, step, state, data, batch_size)
    _, metrics = jax.eval_shape(body, carry, 0)
    history = jax.tree.map(lambda m: jnp.zeros((capacity, *m.shape), m.dtype), metrics)

    def record(i, loop):
        carry, history = loop
        carry, metrics = body(carry, i)
        return carry, jax.tree.map(lambda h, m: h.at[i].set(m), history, metrics)

    (state, _), history = lax.fori_loop(0, num_steps, record, (carry, history))
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((history["loss"], state.params))]
    return state, history, jnp.stack(finite).all()


def last_good(
    advance: Callable[[State, int], tuple], state: State, num_steps: int
) -> tuple[State, int, str]:
    """Where ``num_steps`` from ``state``, known to fail, first fail: found by halving.

    What is not finite stays so, so a stretch whose losses and last parameters are finite is good
    throughout. The replay takes at most ``num_steps`` steps in all.

    Returns:
        The last good state, the number of steps to it, and the names of what the next spoils.
    """
    good, bad = 0, num_steps
    while bad - good > 1:
        middle = (good + bad) // 2
        moved, _, finite = advance(state, middle - good)
        if finite:
            state, good = moved, middle
        else:
            bad = middle
    moved, metrics, _ = advance(state, 1)
    wrong = [] if jnp.isfinite(metrics["loss"][0]).all() else ["loss"]
    return state, good, ", ".join(wrong + not_finite(moved))


def not_finite(state: State) -> list[str]:
    """The names of the parameters that are not all finite."""
    return [
        f"params{jax.tree_util.keystr(path)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
        if not jnp.isfinite(leaf).all()
    ]
