"""The host's part of a run: chunk after chunk, and what a person wants between them."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vi._check import refusal
from vi.training._chunk import Advance, last_good, per_run
from vi.training._progress import Bar
from vi.training._resume import Progress, Saver
from vi.training._state import State, skipped
from vi.training._stop import Cause, Stopped, StopRule
from vi.types import Key

_CHUNK_SECONDS = 0.5

Evaluate = Callable[[Key, State], dict[str, Any]]
Report = Callable[[int, dict[str, np.ndarray]], object]


class Watch(NamedTuple):
    """What is looked at between chunks, every ``every`` steps and at the ``end``."""

    end: int
    every: int | None
    evaluate: Evaluate | None
    stop: StopRule | None
    report: Report | None

    def next(self, at: int) -> int:
        """The step of the next look."""
        return self.end if self.every is None else min(self.end, at - at % self.every + self.every)

    def window(self, at: int, first: int) -> int:
        """The steps since the look before the one at ``at``."""
        return at - (
            first if self.every is None else max(first, (at - 1) // self.every * self.every)
        )


def train(
    advance: Advance,
    key: Key,
    progress: Progress,
    watch: Watch,
    saver: Saver | None,
    bar: Bar,
    capacity: int,
    *,
    adapt: bool,
) -> None:
    """Move ``progress`` on until ``watch.end``, or until every run has stopped."""
    length = 1 if adapt else capacity
    while True:
        carry, at = progress.place
        active = np.ones(key.shape, bool)
        for run in progress.stopped:
            active[run] = False
        over = at >= watch.end or not active.any()
        due = at > progress.first and (over or (watch.every and at % watch.every == 0))
        if due and progress.looked != at:
            _look(key, progress, watch, active)
            progress.looked = at
            continue
        if saver is not None:
            saver.save(progress, now=over)
        if over:
            return
        steps = min(length, watch.next(at) - at)
        (moved, metrics, finite), seconds = timed(advance, carry, steps, active)
        progress.run_seconds += seconds
        failed = {}
        if not finite.all():
            moved, steps, failed = last_good(advance, carry, steps, active)
            if not failed:
                raise RuntimeError(
                    f"fit: a loss or parameter was not finite after step {at}, and was when the"
                    " steps were replayed: the program is not deterministic; see XLA_FLAGS"
                    " (--xla_gpu_deterministic_ops=true)"
                )
        progress.history.append(_rows(metrics, steps, active))
        progress.place = moved, at + steps
        for run, wrong in failed.items():
            message = f"stopped at step {at + steps}: the next has non-finite {wrong}"
            progress.stopped[run] = _stopped(Cause.NON_FINITE, moved.state, run, message)
        bar.advance(steps, progress.history.newest()["loss"])
        if adapt and steps:
            length = int(np.clip(steps * _CHUNK_SECONDS / seconds, 1, capacity))


def _rows(metrics, steps: int, active: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of a chunk's first ``steps``; of runs that have stopped NaN, or 0 of integers."""

    def cut(metric):
        rows = np.asarray(metric)[:steps].copy()
        rows[:, ~active] = np.nan if jnp.issubdtype(rows.dtype, jnp.inexact) else 0
        return rows

    return jax.tree.map(cut, metrics)


def _look(key: Key, progress: Progress, watch: Watch, active: np.ndarray) -> None:
    """Evaluate, report, and ask the rule of every active run whether to stop."""
    carry, at = progress.place
    if watch.evaluate is not None and progress.last_evaluation() != at:
        now = _evaluation(watch.evaluate, key, carry.state, at, progress.evaluations.rows())
        progress.evaluations.append(jax.tree.map(lambda e: e[None], now))
    if watch.report is not None:
        newest = {k: v[-1] for k, v in progress.evaluations.rows().items() if k != "step"}
        if both := newest.keys() & progress.history.rows().keys():
            got, remedy = ", ".join(sorted(both)), "rename what evaluate returns"
            raise refusal("fit", "evaluate", "use other names than the metrics", got, remedy)
        window = watch.window(at, progress.first)
        means = {k: v[-window:].mean(0) for k, v in progress.history.rows().items()}
        watch.report(at, means | newest)
    if watch.stop is not None and at < watch.end:
        for run in map(tuple, np.argwhere(active).tolist()):
            reason = watch.stop(progress.history.of_run(run), progress.evaluations.of_run(run))
            if reason is not None and not isinstance(reason, str):
                remedy = "return a sentence to stop, None to go on"
                raise refusal("fit", "stop", "return a reason or None", repr(reason), remedy)
            if reason is not None:
                message = f"stopped at step {at}: {reason}"
                progress.stopped[run] = _stopped(Cause.EARLY, carry.state, run, message)


def _stopped(cause: Cause, state: State, run: tuple[int, ...], message: str) -> Stopped:
    count = int(np.broadcast_to(skipped(state), state.step.shape)[run])
    if count:
        message += f"; the optimiser skipped {count} as not finite"
    return Stopped(cause, int(state.step[run]), message, count)


def finish(
    progress: Progress, runs: tuple[int, ...], num_steps: int, interrupted: bool
) -> dict[tuple[int, ...], Stopped]:
    """How each run ended, by its index."""
    carry, at = progress.place
    cause = Cause.INTERRUPTED if interrupted else Cause.DONE
    message = f"interrupted at step {at}" if interrupted else f"ran all {num_steps} steps"
    return {
        run: progress.stopped.get(run) or _stopped(cause, carry.state, run, message)
        for run in np.ndindex(runs)
    }


def timed(advance: Advance, carry, num_steps: int, active: np.ndarray):
    """What ``advance`` returns, and the seconds it took."""
    begun = time.perf_counter()
    result = jax.block_until_ready(advance(carry, num_steps, active))
    return result, time.perf_counter() - begun


def _evaluation(evaluate, key, state, at: int, before) -> dict[str, np.ndarray]:
    keys = per_run(key)(lambda key, step: jax.random.fold_in(jax.random.fold_in(key, 2), step))
    values = evaluate(keys(key, state.step), state)
    if not isinstance(values, dict) or "step" in values:
        got = f"names {list(values)}" if isinstance(values, dict) else type(values).__name__
        remedy = "return {name: scalar or array}; the step is added to it"
        raise refusal("fit", "evaluate", "return a dict without step", got, remedy)
    now = {"step": np.array(at, np.int32)} | {k: np.asarray(v) for k, v in values.items()}
    for name, value in values.items():
        if now[name].dtype.kind in "OUS":
            got, remedy = f"{name}: {type(value).__name__}", "return scalars and arrays by name"
            raise refusal("fit", "evaluate", "return numbers", got, remedy)
        if np.shape(value)[: key.ndim] != key.shape:
            got = f"{name} of shape {list(np.shape(value))} for keys {list(key.shape)}"
            remedy = "jax.vmap what evaluates one run"
            raise refusal("fit", "evaluate", "return one entry per run", got, remedy)
    shapes = [{k: np.shape(v) for k, v in now.items()}]
    shapes += [{k: v.shape[1:] for k, v in before.items()}] if before else []
    if shapes[0] != shapes[-1]:
        got, remedy = f"{shapes[0]} after {shapes[-1]}", "return the same at every call"
        raise refusal("fit", "evaluate", "return the same names and shapes", got, remedy)
    return now
