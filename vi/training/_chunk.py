"""A chunk of steps as one compiled program, and what to do when it fails."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from vi.training._run import Carry, on_minibatches
from vi.training._state import State
from vi.training._step import Step
from vi.types import Key


@functools.partial(jax.jit, static_argnames=("step", "batch_size", "capacity"))
def chunk(
    key: Key,
    step: Step,
    data: PyTree[Array | np.ndarray],
    carry: Carry,
    num_steps: Int[Array, ""],
    *,
    batch_size: int,
    capacity: int,
) -> tuple[Carry, dict[str, Array], Bool[Array, ""]]:
    """``run``, with ``num_steps`` an argument of the program: every length shares one compilation.

    Returns:
        The carry, metrics ``[capacity, ...]`` of which ``num_steps`` are written, and whether the
        losses and the final parameters are all finite.
    """
    body = on_minibatches(key, step, data, batch_size)
    _, metrics = jax.eval_shape(body, carry)
    history = jax.tree.map(lambda m: jnp.zeros((capacity, *m.shape), m.dtype), metrics)

    def record(i, loop):
        carry, history = loop
        carry, metrics = body(carry)
        return carry, jax.tree.map(lambda h, m: h.at[i].set(m), history, metrics)

    carry, history = lax.fori_loop(0, num_steps, record, (carry, history))
    tested = jax.tree.leaves((history["loss"], carry.state.params))
    return carry, history, jnp.stack([jnp.isfinite(leaf).all() for leaf in tested]).all()


def last_good(
    advance: Callable[[Carry, int], tuple], carry: Carry, num_steps: int
) -> tuple[Carry, int, str]:
    """Where ``num_steps`` from ``carry``, known to fail, first fail: found by halving.

    What is not finite stays so, so a stretch whose losses and last parameters are finite is good
    throughout. The replay takes at most ``num_steps`` steps in all.

    Returns:
        The last good carry, the number of steps to it, and the names of what the next spoils.
    """
    good, bad = 0, num_steps
    while bad - good > 1:
        middle = (good + bad) // 2
        moved, _, finite = advance(carry, middle - good)
        if finite:
            carry, good = moved, middle
        else:
            bad = middle
    moved, metrics, _ = advance(carry, 1)
    wrong = [] if jnp.isfinite(metrics["loss"][0]).all() else ["loss"]
    return carry, good, ", ".join(wrong + not_finite(moved.state))


def not_finite(state: State) -> list[str]:
    """The names of the parameters that are not all finite."""
    return [
        f"params{jax.tree_util.keystr(path)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
        if not jnp.isfinite(leaf).all()
    ]
