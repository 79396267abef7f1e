"""One run of an experiment: its folder, what was done there before, and how it goes on."""

import contextlib
import fcntl
import json
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vi
from experiments._hardware import is_lacking, say_how_long
from experiments._log import Log
from experiments._results import (
    Record,
    Seconds,
    file_name,
    plain,
    read_arrays,
    read_results,
    write_arrays,
    write_json,
)

_FIT = 0x666974  # folded into every seed's key by run.fit
_TOLD = r".*(interrupted at step|the next has non-finite)"  # by fit, and raised as an error here


@contextlib.contextmanager
def open_run(settings: dict[str, Any], out: pathlib.Path, progress: bool | None) -> Iterator["Run"]:
    """Take the folder for this process alone, to go on with what it holds of the same protocol."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = {path.name for path in out.iterdir() if path.suffix != ".partial"} - {".lock"}
        if held and "protocol.json" not in held:
            some = ", ".join(sorted(held)[:3])
            raise ValueError(f"--out: {out} holds something else ({some}); choose another --out")
        lock = (out / ".lock").open("a")
    except OSError as error:
        reason = error.strerror
        raise ValueError(f"--out: cannot write to {out} ({reason}); choose another --out") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "let it end or choose another --out"
            raise ValueError(f"--out: another process works in {out}; {remedy}") from None
        yield Run(settings, out, progress)


class Run:
    """What an experiment works with: ``key``, typed keys ``[num_seeds]``, and its folder ``out``.

    ``settings`` (the config fields that results depend on) and ``facts`` are the protocol;
    ``is_new``: nothing was done here before; ``finished``: the results, if it was done already.
    """

    def __init__(self, settings: dict[str, Any], out: pathlib.Path, progress: bool | None):
        self.settings, self.out, self._progress = settings, out, progress
        self.seeds = range(settings["seed"], settings["seed"] + settings["num_seeds"])
        self.key = jnp.stack([jax.random.key(seed) for seed in self.seeds])
        self.facts: dict[str, Any] = {}
        self.seconds: Seconds = {}
        self.finished: Record | None = None
        self._used: set[tuple[str, str]] = set()
        # a call that is refused before any work, say for a flag's value, does not take the folder
        done = {path.name for path in out.iterdir() if path.suffix != ".partial"}
        self.is_new = done <= {".lock", "protocol.json", "seconds.json"}
        if "protocol.json" in done:
            held = _read_object(out / "protocol.json", "settings", "facts")
            if not self.is_new:
                self._require_same(held["settings"], settings)
                self.facts = held["facts"]
        if self.is_new:
            self._write_protocol()
        if "results.json" in done:
            self.finished = read_results(out / "results.json")
            return
        if "seconds.json" in done and not self.is_new:
            self.seconds = _read_object(out / "seconds.json")
        self._log = Log(out / "metrics.jsonl")

    def protocol(self, **facts: Any) -> None:
        """Add facts that results depend on, e.g. the data's fingerprint; call it before any work.

        A run that goes on is refused if they differ from those it was begun with.
        """
        if taken := [name for name in facts if name in self.settings]:
            raise ValueError(f"run.protocol: {taken[0]} is a field of Config; choose another name")
        facts = plain(facts)
        self._require_same({n: self.facts.get(n, fact) for n, fact in facts.items()}, facts)
        self.facts |= facts
        self._write_protocol()

    def fit(
        self,
        name: str,
        step: vi.training.Step,
        state: vi.training.State,
        data: Any,
        *,
        num_steps: int,
        batch_size: int,
        eval_every: int | None = None,
        **options: Any,
    ) -> vi.training.FitResult:
        """``vi.training.fit`` of all seeds at once, kept in the folder under ``name``.

        ``state`` and all that returns are stacked over seeds; ``data`` is shared. Every name trains
        with the same keys, so that models see the same minibatches and noise. ``eval_every`` is by
        default a twentieth of ``num_steps``; ``options``: ``evaluate``, ``stop``, ``chunk_steps``.
        A run that is not finite raises ValueError, an interrupted one, saved, KeyboardInterrupt.
        """
        self._claim("fit", name)
        begun = time.perf_counter()

        def report(at, metrics):
            self._log.write(name, at, time.perf_counter() - begun, metrics)

        keys = jax.vmap(lambda key: jax.random.fold_in(key, _FIT))(self.key)
        sizes = {"num_steps": num_steps, "batch_size": batch_size}
        if is_lacking(self.settings.get("preset")):
            say_how_long(name, keys, step, state, data, **sizes)
        with self.stage(name, "training"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", _TOLD, RuntimeWarning)
            result = vi.training.fit(
                keys,
                step,
                state,
                data,
                **sizes,
                eval_every=max(num_steps // 20, 1) if eval_every is None else eval_every,
                report=report,
                checkpoint=self.out / "checkpoints" / file_name(name),
                progress=self._progress,
                **options,
            )
        self._add_seconds(name, compile=result.compile_seconds)
        self._add_seconds(name, run=result.run_seconds - self.seconds[name].get("run", 0.0))
        cause, ends = vi.training.Cause, list(zip(self.seeds, result.stopped, strict=True))
        at = [stopped.step for _, stopped in ends if stopped.cause is cause.INTERRUPTED]
        if at:
            raise KeyboardInterrupt(f"while training {name}, at step {max(at)}")
        wrong = [f"seed {seed} {stop}" for seed, stop in ends if stop.cause is cause.NON_FINITE]
        if wrong:
            flag = "--learning-rate" if "learning_rate" in self.settings else "the learning rate"
            raise ValueError(f"training {name}: {', '.join(wrong)}; lower {flag}")
        return result

    @contextlib.contextmanager
    def stage(self, name: str, doing: str = "") -> Iterator[None]:
        """Say on stderr what is being done, and record its seconds by ``name``."""
        print(f"{doing} {name} ...".lstrip(), file=sys.stderr, flush=True)
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._add_seconds(name, wall=time.perf_counter() - begun)

    def once(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
        """What ``compute`` returned, arrays by name; a run that goes on loads what was saved."""
        self._claim("once", name)
        path = self.out / "stages" / f"{file_name(name)}.npz"
        if path.exists():
            return read_arrays(path)
        path.parent.mkdir(exist_ok=True)
        with self.stage(name):
            return write_arrays(path, compute())

    def _claim(self, what: str, name: str) -> None:
        if (what, name) in self._used:
            raise ValueError(f"run.{what}: {name} was used before in this run; choose another name")
        self._used.add((what, name))

    def _add_seconds(self, name: str, **seconds: float) -> None:
        before = self.seconds.setdefault(name, {})
        for what, value in seconds.items():
            before[what] = round(before.get(what, 0.0) + value, 3)
        write_json(self.out / "seconds.json", self.seconds)

    def _write_protocol(self) -> None:
        write_json(self.out / "protocol.json", {"settings": self.settings, "facts": self.facts})

    def _require_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        pairs = {n: (before.get(n, "absent"), now.get(n, "absent")) for n in {**before, **now}}
        differing = [f"{n}: {b} there, {a} now" for n, (b, a) in pairs.items() if b != a]
        if differing:
            got, remedy = "; ".join(differing), "choose another --out, or delete it"
            raise ValueError(f"--out: {self.out} holds a run of another protocol ({got}); {remedy}")


def _read_object(path: pathlib.Path, *names: str) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text())
    except ValueError:
        held = None
    if not isinstance(held, dict) or not all(isinstance(held.get(name), dict) for name in names):
        remedy = "choose another --out, or delete that file"
        raise ValueError(f"{path} is damaged or not an experiment's; {remedy}")
    return held
