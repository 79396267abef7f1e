"""Going on where a killed run was, and refusing to go on with another."""

import contextlib
import pathlib
import signal
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi._check import refusal
from vi.training._checkpoint import (
    Checkpoint,
    host_array,
    host_arrays,
    prepare,
    read,
    save,
    saved_steps,
    state_of,
)
from vi.training._record import Record
from vi.training._run import Carry
from vi.training._stop import Cause, Stopped


@dataclass
class Progress:
    """A run, or several side by side, between two chunks of steps.

    ``place`` is the carry and the step it is at, assigned together so that an interrupt finds both
    old or both new; ``looked`` is the step of this process's last look.
    """

    first: int
    place: tuple[Carry, int]
    history: Record = field(default_factory=Record)
    evaluations: Record = field(default_factory=lambda: Record(shared=("step",)))
    stopped: dict[tuple[int, ...], Stopped] = field(default_factory=dict)
    run_seconds: float = 0.0
    looked: int | None = None

    def last_evaluation(self) -> int | None:
        """The step of the last evaluation."""
        rows = self.evaluations.rows()
        return int(rows["step"][-1]) if rows else None

    def cut(self) -> None:
        """Forget metrics of steps that an interrupt kept from being taken."""
        taken = self.place[1] - self.first
        self.history = Record({k: v[:taken] for k, v in self.history.rows().items()})


class Saver:
    """Saves a run's progress in its folder, and finds it there again."""

    def __init__(self, checkpoint: Checkpoint, identity: dict[str, Any]):
        self._folder = pathlib.Path(checkpoint.folder).resolve()
        self._every = checkpoint.every_seconds
        self._identity = identity
        self._saved = None
        self._when = time.monotonic()

    def restore(self, progress: Progress, end: int) -> bool:
        """Bring ``progress`` to the newest checkpoint; False where there is none."""
        steps = saved_steps(self._folder)
        if not steps:
            return False
        arrays, record = read("fit", self._folder, steps[-1])
        self._require_same_run(record["identity"])
        if steps[-1] > end:
            got = f"{end - progress.first} for {steps[-1] - progress.first} taken"
            remedy = f"pass {steps[-1] - progress.first} or more, or another folder"
            raise refusal("fit", "num_steps", "be at least what is saved", got, remedy)
        carry = progress.place[0]
        progress.place = carry._replace(state=state_of("fit", arrays, carry.state)), steps[-1]
        progress.history = Record(arrays.get("history"))
        progress.evaluations = Record(arrays.get("evaluations"), shared=("step",))
        progress.stopped = {
            tuple(run): Stopped(Cause[cause], *rest) for run, cause, *rest in record["stopped"]
        }
        progress.run_seconds = record["run_seconds"]
        self._saved = _extent(progress)
        return True

    def prepare(self) -> None:
        """See that the folder can be written to, before any step is taken."""
        prepare(self._folder)

    def save(self, progress: Progress, *, now: bool) -> None:
        """Save what is new, if it is time or ``now``."""
        due = now or time.monotonic() - self._when >= self._every
        if not due or self._saved == _extent(progress):
            return
        carry, at = progress.place
        tables = {"history": progress.history.rows(), "evaluations": progress.evaluations.rows()}
        record = {
            "identity": self._identity,
            "stopped": [
                [run, stopped.cause.name, *stopped[1:]] for run, stopped in progress.stopped.items()
            ],
            "run_seconds": progress.run_seconds,
        }
        with _undisturbed():
            save(self._folder, at, carry.state, tables, record)
        self._saved, self._when = _extent(progress), time.monotonic()

    def _require_same_run(self, saved: dict[str, Any]) -> None:
        ours = self._identity
        differ = [k for k in ours if k != "state" and saved.get(k) != ours[k]]
        if not _close(saved.get("state"), ours["state"]):
            differ.append("state")
        if differ:
            got = f"another {', '.join(differ)} in {self._folder}"
            remedy = "pass what it was started with, or another folder"
            raise refusal("fit", "checkpoint", "be of this run", got, remedy)


def identity(key, state, data, batch_size: int, eval_every: int | None) -> dict[str, Any]:
    """What makes a run this run and no other, as JSON.

    The state's floats enter as two sums, to be compared to 1e-5: another device may round them
    otherwise, another initialisation or another order of the runs differs by more.
    """
    held = [host_array(leaf) for leaf in jax.tree.leaves(data)]
    return {
        "key": [str(jax.random.key_impl(key)), host_array(key).tolist()],
        "state": [_print(array) for array in host_arrays(state).values()],
        "data": [[*a.shape, str(a.dtype), _crc(a)] for a in held],
        "batch_size": batch_size,
        "eval_every": eval_every,
    }


def _crc(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data) if array.size else 0


def _print(array: np.ndarray) -> list[float]:
    """One number of anything exact; of floats the sum of sizes, and one weighted by place."""
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return [float(_crc(array))]
    parts = [np.real(array), np.imag(array)] if np.iscomplexobj(array) else [array]
    flat = np.concatenate([part.ravel().astype(float) for part in parts])
    flat = np.nan_to_num(flat, nan=1.25, posinf=2.5, neginf=-2.5)
    return [float(np.abs(flat).sum()), float(flat @ np.cos(np.arange(flat.size)))]


def _close(saved, ours) -> bool:
    def close(a, b):
        return a == b if len(a) == 1 else np.abs(np.subtract(a, b)).max() <= 1e-5 * max(b[0], 1e-30)

    return [len(a) for a in saved] == [len(b) for b in ours] and all(map(close, saved, ours))


@contextlib.contextmanager
def _undisturbed():
    """Keep an interrupt until a save is whole: Orbax's threads would write on behind the next."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came = []
    signal.signal(signal.SIGINT, lambda *signalled: came.append(signalled))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        handler(*came[0])


def _extent(progress: Progress) -> tuple:
    return progress.place[1], progress.last_evaluation(), len(progress.stopped)
