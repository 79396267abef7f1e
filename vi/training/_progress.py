"""The one line a long run shows."""

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """A ``rich`` bar on stderr, drawn when ``advance`` is called and at no other time.

    ``show=None`` shows it on a terminal only; elsewhere ``show=True`` writes its last state once.
    """

    def __init__(self, show: bool | None, num_steps: int, taken: int = 0):
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            disable=not (console.is_terminal if show is None else show),
        )
        self._task = self._progress.add_task("compiling", total=num_steps, completed=taken)

    def __enter__(self) -> "Bar":
        self._progress.start()
        self._progress.refresh()
        return self

    def __exit__(self, *error) -> None:
        self._progress.stop()

    def advance(self, steps: int, losses: np.ndarray) -> None:
        """Show ``steps`` more, and the mean of their losses."""
        finite = losses[np.isfinite(losses)]
        shown = f"loss {finite.mean():.4g}" if finite.size else None
        self._progress.update(self._task, advance=steps, description=shown)
        self._progress.refresh()
