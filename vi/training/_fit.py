"""A run in compiled chunks, with what a person wants between them."""

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from vi._check import is_key, refusal, require_count, require_key
from vi.training._checkpoint import Checkpoint
from vi.training._chunk import chunk, not_finite, of_run, start
from vi.training._data import require_data
from vi.training._loop import Watch, finish, timed, train
from vi.training._progress import Bar
from vi.training._resume import Progress, Saver, identity
from vi.training._run import require_step
from vi.training._state import State, require_state
from vi.training._step import Step
from vi.training._stop import Cause, Stopped, StopRule
from vi.types import Key

_CAPACITY = 1000


class FitResult(NamedTuple):
    """What ``fit`` returns; of R runs every array has the axis R first.

    Attributes:
        state: The state after the last good step.
        history: The metrics of every step that led there, each ``[steps, ...]``; of one of several
            runs that stopped before the others NaN from there on, or 0 where they are integers.
        evaluations: What ``evaluate`` returned, each ``[times, ...]``, and the ``step`` it was at,
            ``[times]``.
        stopped: How it ended, a ``Stopped``; of several runs one for each, in a tuple.
        compile_seconds: Seconds to trace and compile; about 0 where an earlier ``fit`` did.
        run_seconds: Seconds in training steps, without ``evaluate``; those before a resume too.
    """

    state: State
    history: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]
    stopped: Any
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
    stop: StopRule | None = None,
    report: Callable[[int, dict[str, np.ndarray]], object] | None = None,
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> FitResult:
    """Take ``num_steps`` steps as ``run`` does, compiled, with all that a long run needs.

    The same steps as ``run`` with the same key, in chunks of one program, compiled once per step
    object, shapes, ``batch_size`` and ``chunk_steps``. Between chunks the host draws the bar,
    evaluates, reports, saves, and looks for a loss or parameters that are not finite; if there are
    any it replays the chunk to find the step, warns, and keeps the last good state. A step that
    ``optax.apply_if_finite`` skips is no such failure: it is counted in ``stopped``, with a
    warning. The state passed in stays usable.

    Keys ``[R]`` and a state with the axis R on every leaf (``jax.vmap`` of ``init``) are R runs in
    one program, as ``jax.vmap`` of ``run``: seeds, or rates that ``optax.inject_hyperparams`` put
    in the state. A run that fails or that ``stop`` ends stays where it is; the others go on.

    With ``checkpoint``, a run killed at any moment and started again with the same arguments ends
    with the same bits, on the same device. What is checked is the key, the data, the sizes and
    (in sums) the state: step, ``evaluate`` and ``stop`` must be the same functions. More
    ``num_steps`` extend the run (the look at its old end stays); a finished run returns at once.
    Ctrl-C saves and returns. What ``evaluate``, ``report`` and ``stop`` raise goes through, after
    saving. One process at a time may use the folder.

    Args:
        key: Fixes the order of the data, the noise of every step and that of ``evaluate``.
        step: From ``gradient_step``, ``stateful_gradient_step``, or your own.
        state: Where to start; a state that ``fit`` returned goes on where it stopped.
        data: An array ``[N, ...]`` or a pytree of them, for all runs.
        num_steps: Steps to take from there.
        batch_size: B, at most N.
        chunk_steps: Steps per chunk, and the room for a chunk's metrics on the device. None: as
            many as take half a second, at most 1,000. It changes no result.
        evaluate: ``(key, state) -> {name: scalar or array}``, called outside the compiled
            program (``jax.jit`` it yourself; of several runs it gets all keys and states, and
            returns ``[R, ...]``), with a key that follows from ``state.step``.
        eval_every: Look whenever the step is a multiple of this, beside the look at the end: call
            ``evaluate``, ``report`` and ``stop``.
        stop: ``(history, evaluations) -> reason or None``, of one run: ``plateau``, ``patience``,
            or your own, pure so that a resumed run ends alike.
        report: ``(step, metrics)``, for a log: the mean of each metric since the last look, and
            what ``evaluate`` returned. A resumed run may report its last step again.
        checkpoint: A folder of this run alone, or a ``Checkpoint`` that also says how often.
        progress: Show a bar on stderr; None: if that is a terminal.

    Returns:
        The ``FitResult``; arrays in it are NumPy's, except in ``state``.

    Raises:
        ValueError: As ``run``; also a look without ``eval_every`` or the reverse, parameters that
            are not finite to begin with, or a checkpoint that is damaged or of another run.
        OSError: A checkpoint could not be written; the last good one is whole.

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
        >>> result.state.params, str(result.stopped)
        (Array(3., dtype=float32), 'ran all 100 steps')
    """
    num_steps = require_count("fit", "num_steps", num_steps)
    batch_size = require_count("fit", "batch_size", batch_size)
    capacity = _CAPACITY
    if chunk_steps is not None:
        capacity = require_count("fit", "chunk_steps", chunk_steps)
    if eval_every is not None:
        eval_every = require_count("fit", "eval_every", eval_every)
    _require_looks(eval_every, evaluate, stop, report)
    first = _require_runs(key, step, state, data, batch_size)

    advance = functools.partial(
        chunk, key, step, jax.tree.map(jnp.asarray, data), batch_size=batch_size, capacity=capacity
    )
    state = jax.tree.map(jnp.asarray, state)
    so_far = Progress(first, (start(key, state, data), first))
    watch = Watch(first + num_steps, eval_every, evaluate, stop, report)
    saver = restored = None
    if checkpoint is not None:
        place = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
        _require_one_process()
        saver = Saver(place, identity(key, state, data, batch_size, eval_every))
        restored = saver.restore(so_far, watch.end)
    compile_seconds, interrupted = 0.0, False
    with Bar(progress, num_steps, so_far.place[1] - first) as bar:
        try:
            if so_far.place[1] < watch.end and len(so_far.stopped) < max(key.size, 1):
                if saver is not None:
                    saver.prepare()
                compile_seconds = _compiled(advance, so_far, key.shape)
                if saver is not None and not restored:
                    saver.save(so_far, now=True)
            train(advance, key, so_far, watch, saver, bar, capacity, adapt=chunk_steps is None)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            so_far.cut()
            if saver is not None and so_far.place[1] > first:
                saver.save(so_far, now=True)
    ended = finish(so_far, key.shape, num_steps, interrupted)
    if said := _warning(ended):
        warnings.warn(said, RuntimeWarning, stacklevel=2)
    return FitResult(
        state=so_far.place[0].state,
        history=so_far.history.by_run(key.ndim),
        evaluations=so_far.evaluations.by_run(key.ndim),
        stopped=tuple(ended.values()) if key.shape else ended[()],
        compile_seconds=compile_seconds,
        run_seconds=so_far.run_seconds,
    )


def _warning(ended: dict[tuple[int, ...], Stopped]) -> str:
    """What must not pass unseen, and of which runs."""
    runs: dict[str, list[str]] = {}
    for run, stopped in ended.items():
        if stopped.cause in (Cause.NON_FINITE, Cause.INTERRUPTED) or stopped.skipped:
            runs.setdefault(str(stopped), []).extend(map(str, run))
    return "; ".join(
        f"run{'s' * (len(which) > 1)} {', '.join(which)}: {message}" if which else message
        for message, which in runs.items()
    )


def _compiled(advance, so_far: Progress, runs: tuple[int, ...]) -> float:
    """Compile by a chunk of no steps, and refuse parameters that are not finite."""
    (carry, _, finite), seconds = timed(advance, so_far.place[0], 0, np.ones(runs, bool))
    if not finite.all():
        run = tuple(np.argwhere(~np.asarray(finite))[0].tolist())
        got = ", ".join(not_finite(of_run(carry.state.params, run))) + (
            f" of run {run[0]}" if run else ""
        )
        remedy = "keep constants that are not in extra"
        raise refusal("fit", "state", "have finite params", got, remedy)
    return seconds


def _require_looks(eval_every, evaluate, stop, report) -> None:
    if eval_every is not None and evaluate is stop is report is None:
        remedy = "pass evaluate=..., stop=... or report=..., or leave eval_every out"
        raise refusal("fit", "eval_every", "come with evaluate", "no evaluate", remedy)
    if stop is not None and eval_every is None:
        remedy = "pass eval_every=..., the steps between two looks"
        raise refusal("fit", "stop", "come with eval_every", "no eval_every", remedy)


def _require_one_process() -> None:
    if jax.process_count() > 1:
        remedy = "save in evaluate with orbax, which knows of several"
        rule, got = "be left out where several processes train", f"{jax.process_count()} processes"
        raise refusal("fit", "checkpoint", rule, got, remedy)


def _require_runs(key, step, state, data, batch_size: int) -> int:
    """Refuse what no step could be taken with; return the step that all runs are at."""
    if is_key(key) and key.ndim == 1:
        if key.size == 0:
            remedy = "pass at least one"
            raise refusal("fit", "key", "hold a key for each run", "none", remedy)
    else:
        require_key("fit", key)
    require_step("fit", step)
    require_state("fit", state, key.shape)
    require_data("fit", data, batch_size)
    steps = np.unique(np.asarray(state.step))
    if len(steps) != 1:
        remedy = "go on with those at one step alone: jax.tree.map(lambda a: a[rows], state)"
        raise refusal("fit", "state", "be at one step in all runs", steps.tolist(), remedy)
    return int(steps[0])
