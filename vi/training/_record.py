"""What training has measured so far."""

from collections.abc import Collection, Mapping

import numpy as np


class Record:
    """Named arrays that grow along their first axis; the second is that of the runs, if several.

    Those that are ``shared`` belong to all runs and have no such axis.
    """

    def __init__(self, rows: Mapping[str, np.ndarray] | None = None, shared: Collection[str] = ()):
        self._shared = shared
        self._parts: list[dict[str, np.ndarray]] = [dict(rows)] if rows else []

    def append(self, rows: Mapping[str, np.ndarray]) -> None:
        """Add ``{name: [n, ...]}``, of the names and shapes that are there."""
        self._parts.append(dict(rows))

    def newest(self) -> dict[str, np.ndarray]:
        """The rows appended last."""
        return self._parts[-1]

    def rows(self) -> dict[str, np.ndarray]:
        """All of it, ``{name: [rows, *runs, ...]}``."""
        if len(self._parts) > 1:
            joined = {k: np.concatenate([p[k] for p in self._parts]) for k in self._parts[0]}
            self._parts = [joined]
        return self._parts[0] if self._parts else {}

    def of_run(self, run: tuple[int, ...]) -> dict[str, np.ndarray]:
        """One run's rows, ``{name: [rows, ...]}``; what is shared is in each."""
        rows = self.rows()
        return {k: v if k in self._shared else v[(slice(None), *run)] for k, v in rows.items()}

    def by_run(self, num_axes: int) -> dict[str, np.ndarray]:
        """All of it with the run axis first, ``{name: [*runs, rows, ...]}``."""
        if num_axes == 0:
            return dict(self.rows())
        rows = self.rows()
        return {k: v if k in self._shared else np.moveaxis(v, 0, 1) for k, v in rows.items()}
