"""A chunk of steps as one compiled program, and what to do when it fails."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from vi._check import is_key, refusal
from vi.training._run import Carry, begin, on_minibatches
from vi.training._state import State, skipped
from vi.training._step import Step
from vi.types import Key

Advance = Callable[[Carry, int, np.ndarray], tuple[Carry, dict[str, Array], Bool[Array, "*runs"]]]
"""``advance(carry, num_steps, active)``: a chunk, its metrics, and which runs stayed finite."""


@functools.partial(jax.jit, static_argnames=("step", "batch_size", "capacity"))
def chunk(
    key: Key,
    step: Step,
    data: PyTree[Array | np.ndarray],
    carry: Carry,
    num_steps: Int[Array, ""],
    active: Bool[Array, "*runs"],
    *,
    batch_size: int,
    capacity: int,
) -> tuple[Carry, dict[str, Array], Bool[Array, "*runs"]]:
    """``run``, with ``num_steps`` an argument of the program: every length shares one compilation.

    One key is one run; keys ``[R]`` are R runs side by side, of which those that are not ``active``
    stay where they are: they are computed, for the others' sake, and put back at the end.

    Returns:
        The carry, metrics ``[capacity, *runs, ...]`` of which ``num_steps`` are written, and per
        run whether its losses and its final parameters are all finite, or it is not active.
    """
    batched = per_run(key)

    def body(carry):
        advance = lambda key, carry: on_minibatches(key, step, data, batch_size)(carry)  # noqa: E731
        return batched(advance)(key, carry)

    def judged(before, after, loss):
        """A step is good if its loss is finite, or if the optimiser skipped it."""
        return jnp.isfinite(loss).all() | (skipped(before) < skipped(after))

    _, metrics = jax.eval_shape(body, carry)
    if nested := [name for name, m in metrics.items() if not hasattr(m, "shape")]:
        remedy = "give each array a name of its own"
        raise refusal("fit", "metrics", "be arrays by name", ", ".join(nested), remedy)
    history = jax.tree.map(lambda m: jnp.zeros((capacity, *m.shape), m.dtype), metrics)

    def record(i, loop):
        carry, history, good = loop
        moved, metrics = body(carry)
        good &= batched(judged)(carry.state, moved.state, metrics["loss"])
        return moved, jax.tree.map(lambda h, m: h.at[i].set(m), history, metrics), good

    loop = _again(carry), history, jnp.ones_like(active)
    moved, history, good = lax.fori_loop(0, num_steps, record, loop)
    good &= batched(all_finite)(moved.state.params)
    kept = batched(lambda a, m, c: jax.tree.map(lambda x, y: jnp.where(a, x, y), m, c))
    return kept(active, moved, _again(carry)), history, good | ~active


def _again(carry: Carry) -> Carry:
    """The same, its keys for use once more: a chunk may be replayed from where it began."""
    return jax.tree.map(lambda leaf: jax.random.clone(leaf) if is_key(leaf) else leaf, carry)


def per_run(key: Key) -> Callable[[Callable], Callable]:
    """What makes of a function of one run that of all: nothing for one key, else ``jax.vmap``."""
    return jax.vmap if key.ndim else lambda function: function


def start(key: Key, state: State, data: PyTree[Array | np.ndarray]) -> Carry:
    """The carry to begin with, of one run or of several."""
    carry = per_run(key)(lambda state: begin(state, data))(state)
    if not state.step.committed:
        return carry
    # beside the state: a carry that is half committed would compile twice
    order, epoch = jax.device_put((carry.order, carry.epoch), state.step.sharding)
    return Carry(carry.state, order, epoch)


def last_good(
    advance: Advance, carry: Carry, num_steps: int, active: np.ndarray
) -> tuple[Carry, int, dict[tuple[int, ...], str]]:
    """Where ``num_steps`` from ``carry``, known to fail, first fail: found by halving.

    What is not finite stays so, so a stretch whose losses and last parameters are finite is good
    throughout. The replay takes at most ``num_steps`` steps in all.

    Returns:
        The last carry that is good in every active run, the number of steps to it, and for each
        run that fails next (by its index, ``()`` for a single run) the names of what it spoils.
    """
    good, bad = 0, num_steps
    while bad - good > 1:
        middle = (good + bad) // 2
        moved, _, finite = advance(carry, middle - good, active)
        if finite.all():
            carry, good = moved, middle
        else:
            bad = middle
    moved, metrics, finite = advance(carry, 1, active)
    failed = {}
    for run in map(tuple, np.argwhere(~np.asarray(finite)).tolist()):
        wrong = [] if jnp.isfinite(metrics["loss"][(0, *run)]).all() else ["loss"]
        failed[run] = ", ".join(wrong + not_finite(of_run(moved.state.params, run)))
    return carry, good, failed


def of_run(tree, run: tuple[int, ...]):
    """One run's part of a tree of arrays ``[*runs, ...]``."""
    return jax.tree.map(lambda leaf: leaf[run], tree)


def not_finite(params: PyTree[Array]) -> list[str]:
    """The names of the parameters that are not all finite."""
    return [
        f"params{jax.tree_util.keystr(path)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if not jnp.isfinite(leaf).all()
    ]


def all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    """Whether every element of every leaf is finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
