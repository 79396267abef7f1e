"""The log of a run's training: one line a report, whatever interrupted it."""

import json
import pathlib
from typing import Any

import numpy as np

from experiments._results import write_whole

_PLACE = ("stage", "step", "seconds")


class Log:
    """``metrics.jsonl``: one line per report, as if the run had never been interrupted."""

    def __init__(self, path: pathlib.Path):
        self._path, self._rows = path, []
        self._before: dict[str, float] = {}  # a stage's seconds in earlier processes
        text = path.read_text(errors="replace") if path.exists() else ""
        for number, line in enumerate(text.splitlines(keepends=True), start=1):
            if not line.endswith("\n"):
                self._rewrite()  # it was being written when the process was killed
                break
            try:
                row = json.loads(line)
                self._rows.append({name: row[name] for name in _PLACE} | row)
            except (ValueError, TypeError, KeyError):
                remedy = "move the file away (the checkpoints stay usable)"
                raise ValueError(f"{path}, line {number} is not a report; {remedy}") from None

    def write(self, stage: str, step: int, seconds: float, metrics: dict[str, np.ndarray]) -> None:
        """Add a report; a resumed run's stands where the first of those it repeats stood."""
        rows = self._rows
        ours = [r["stage"] == stage and r["step"] >= step for r in rows]
        place = ours.index(True) if any(ours) else len(rows)
        earlier = [r["seconds"] for r in rows[:place] if r["stage"] == stage]
        seconds += self._before.setdefault(stage, max(earlier, default=0.0))
        if taken := set(_PLACE) & set(metrics):
            raise ValueError(f"{stage}: {taken.pop()} names a column of the log; rename the metric")
        row = {"stage": stage, "step": step, "seconds": round(seconds, 3)}
        row |= {name: _listed(values) for name, values in metrics.items()}
        rows[place:] = [row, *(r for r, o in zip(rows[place:], ours[place:], strict=True) if not o)]
        if rows[-1] is row and not any(ours):
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        else:
            self._rewrite()

    def _rewrite(self) -> None:
        text = "".join(json.dumps(row) + "\n" for row in self._rows)
        write_whole(self._path, lambda file: file.write(text.encode()))


def _listed(values: np.ndarray) -> Any:
    """A number, or a list of one per seed; what is not finite is null, as JSON has no NaN."""
    values = np.asarray(values[0] if len(values) == 1 else values)
    return np.where(np.isfinite(values), values.astype(object), np.array(None)).tolist()
