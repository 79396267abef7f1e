"""A run in compiled chunks, with what a person wants between them."""

import functools
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from vi._check import refusal, require_count
from vi.training._chunk import chunk, last_good, not_finite
from vi.training._progress import Bar
from vi.training._run import begin, require_run
from vi.training._state import State
from vi.training._step import Step
from vi.types import Key

_CAPACITY = 1000
_CHUNK_SECONDS = 0.5


class FitResult(NamedTuple):
    """What ``fit`` returns.

    Attributes:
        state: The state after the last good step.
        history: The metrics of every step that led there, each ``[steps, ...]``.
        evaluations: What ``evaluate`` returned, each ``[times, ...]``, and the ``step`` it was at.
        stopped: Why it ended, a sentence.
        compile_seconds: Seconds to trace and compile; about 0 where an earlier ``fit`` did.
        run_seconds: Seconds in training steps, without ``evaluate``.
    """

    state: State
    history: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]
    stopped: str
    compile_seconds: float
    run_seconds: float


def fit(
    key: Key,
    step: Step,
    state: State,
    data: PyTree[Array | np.ndarray],
    *,
    num_steps: int,
    batch_size: int,
    chunk_steps: int | None = None,
    evaluate: Callable[[Key, State], dict[str, Any]] | None = None,
    eval_every: int | None = None,
    progress: bool | None = None,
) -> FitResult:
    """Take ``num_steps`` steps as ``run`` does, compiled, with progress and held-out evaluation.

    The same steps as ``run`` with the same key, in chunks of one program, compiled once per step
    object, shapes, ``batch_size`` and ``chunk_steps``. Between chunks the host draws the bar, calls
    ``evaluate`` and looks for a loss or parameters that are not finite; if there are any it replays
    the chunk to find the step, warns, and returns the last good state; an optimiser that skips such
    steps (``optax.apply_if_finite``) needs ``run``. The state passed in stays usable. What
    ``evaluate`` raises, and an interrupt, go through, and the steps since are lost.

    Args:
        key: Fixes the order of the data, the noise of every step and that of ``evaluate``.
        step: From ``gradient_step``, ``stateful_gradient_step``, or your own.
        state: Where to start; a state that ``fit`` returned goes on where it stopped.
        data: An array ``[N, ...]`` or a pytree of them.
        num_steps: Steps to take from there.
        batch_size: B, at most N.
        chunk_steps: Steps per chunk, and the room for a chunk's metrics on the device. None: as
            many as take half a second, at most 1,000. It changes no result.
        evaluate: ``(key, state) -> {name: scalar or array}``, called outside the compiled
            program (``jax.jit`` it yourself), with a key that follows from ``state.step``.
        eval_every: Call ``evaluate`` whenever ``state.step`` is a multiple of this, beside the call
            at the end.
        progress: Show a bar on stderr; None: if that is a terminal.

    Returns:
        The ``FitResult``; arrays in it are NumPy's, except in ``state``.

    Raises:
        ValueError: As ``run``; also ``eval_every`` without ``evaluate``, or parameters that are not
            finite to begin with.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, vi
        >>> def loss(w, key, x):
        ...     return ((w - x) ** 2).mean()
        >>> optimizer = optax.sgd(0.25)
        >>> step = vi.training.gradient_step(loss, optimizer)
        >>> state, data = vi.training.init(jnp.zeros(()), optimizer), jnp.full(20, 3.0)
        >>> result = vi.training.fit(
        ...     jax.random.key(0), step, state, data, num_steps=100, batch_size=5
        ... )
        >>> result.state.params, result.stopped
        (Array(3., dtype=float32), 'ran all 100 steps')
    """
    num_steps = require_count("fit", "num_steps", num_steps)
    batch_size = require_count("fit", "batch_size", batch_size)
    capacity = _CAPACITY
    if chunk_steps is not None:
        capacity = require_count("fit", "chunk_steps", chunk_steps)
    if eval_every is not None:
        eval_every = require_count("fit", "eval_every", eval_every)
        if evaluate is None:
            remedy = "pass evaluate=..., or leave eval_every out"
            raise refusal("fit", "eval_every", "come with evaluate", "no evaluate", remedy)
    require_run("fit", key, step, state, data, batch_size)

    advance = functools.partial(
        chunk, key, step, jax.tree.map(jnp.asarray, data), batch_size=batch_size, capacity=capacity
    )
    history, evaluations, stopped = [], [], ""
    at = int(state.step)
    end = at + num_steps
    with Bar(progress, num_steps) as bar:
        # A chunk of no steps: its seconds are those of compilation, its carry a copy to go on from.
        (carry, _, finite), compile_seconds = _timed(advance, begin(state, data), 0)
        if not finite:
            got, remedy = ", ".join(not_finite(state)), "keep constants that are not in extra"
            raise refusal("fit", "state", "have finite params", got, remedy)
        length, run_seconds = (1 if chunk_steps is None else capacity), 0.0
        while at < end:
            eval_at = end if eval_every is None else min(end, at - at % eval_every + eval_every)
            steps = min(length, eval_at - at)
            (moved, metrics, finite), seconds = _timed(advance, carry, steps)
            run_seconds += seconds
            if finite:
                carry = moved
            else:
                carry, steps, wrong = last_good(advance, carry, steps)
                stopped = f"stopped at step {at + steps}: the next has non-finite {wrong}"
                eval_at = end = at + steps
            at += steps
            history.append(jax.tree.map(lambda m, n=steps: np.asarray(m)[:n].copy(), metrics))
            bar.advance(steps, history[-1]["loss"])
            evaluated = bool(evaluations) and evaluations[-1]["step"] == at
            if evaluate is not None and at == eval_at and not evaluated:
                evaluations.append(_evaluation(evaluate, key, carry.state, evaluations))
            if chunk_steps is None:
                length = int(np.clip(steps * _CHUNK_SECONDS / seconds, 1, capacity))
    if stopped:
        warnings.warn(stopped, RuntimeWarning, stacklevel=2)
    return FitResult(
        state=carry.state,
        history=jax.tree.map(lambda *m: np.concatenate(m), *history),
        evaluations=jax.tree.map(lambda *e: np.stack(e), *evaluations) if evaluations else {},
        stopped=stopped or f"ran all {num_steps} steps",
        compile_seconds=compile_seconds,
        run_seconds=run_seconds,
    )


def _timed(advance, carry, num_steps):
    begun = time.perf_counter()
    result = jax.block_until_ready(advance(carry, num_steps))
    return result, time.perf_counter() - begun


def _evaluation(evaluate, key, state, before) -> dict[str, np.ndarray]:
    key = jax.random.fold_in(jax.random.fold_in(key, 2), state.step)
    values = evaluate(key, state)
    if not isinstance(values, dict) or "step" in values:
        got = f"names {list(values)}" if isinstance(values, dict) else type(values).__name__
        remedy = "return {name: scalar or array}; the step is added to it"
        raise refusal("fit", "evaluate", "return a dict without step", got, remedy)
    now = jax.tree.map(np.asarray, {"step": state.step, **values})
    shapes = [jax.tree.map(np.shape, e) for e in (now, *before[:1])]
    if shapes[0] != shapes[-1]:
        got, remedy = f"{shapes[0]} after {shapes[-1]}", "return the same at every call"
        raise refusal("fit", "evaluate", "return the same names and shapes", got, remedy)
    return now
