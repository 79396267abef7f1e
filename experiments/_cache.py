"""Arrays that are slow to make, kept on disk until what they were made from changes.

One uncompressed ``.npz`` file per source folder: its arrays belong together, appear at once, and
each carries a checksum. They live in ``$VI_CACHE_DIR``, else ``$XDG_CACHE_HOME/vi``, else
``~/.cache/vi``; the folder may be deleted at any time.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

LAYOUT = 1


def cached(
    name: str, source: pathlib.Path, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What ``make`` returns, from the cache if ``source`` has not changed since it was written."""
    source = source.resolve()
    key = hashlib.sha256(str(source).encode()).hexdigest()[:12]
    file = cache_folder() / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}-{source.name}-{key}.npz"
    state = _state(source)
    held = _load(file, state)
    if held is None:
        held = make()
        _save(file, state, held)
    return held


def cache_folder() -> pathlib.Path:
    """Where the cache lies."""
    if folder := os.environ.get("VI_CACHE_DIR"):
        return pathlib.Path(os.path.expanduser(folder))
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "vi"


def _state(source: pathlib.Path) -> str:
    """The path, and the size and time of every file in it: what changes with the content."""
    files = sorted((entry.name, entry.stat()) for entry in os.scandir(source) if entry.is_file())
    return json.dumps([LAYOUT, str(source), [(n, s.st_size, s.st_mtime_ns) for n, s in files]])


def _load(file: pathlib.Path, state: str) -> dict[str, np.ndarray] | None:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
            if str(held["state"]) != state:
                return None
            return {name: held[name] for name in held.files if name != "state"}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        print(f"cache: {file} is damaged ({error}); it is made again", file=sys.stderr)
        return None


def _save(file: pathlib.Path, state: str, arrays: dict[str, np.ndarray]) -> None:
    """Write beside, then rename: no process ever sees half a file, and the last one wins."""
    contents: dict[str, Any] = {"state": np.array(state), **arrays}
    with contextlib.ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            beside = stack.enter_context(
                tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.stem}-", delete=False)
            )
            stack.callback(pathlib.Path(beside.name).unlink, missing_ok=True)
            np.savez(beside, **contents)
            beside.close()
            os.replace(beside.name, file)
        except OSError as error:
            print(
                f"cache: {file} cannot be written ({error}); the next run reads {file.stem} again"
                " (set VI_CACHE_DIR to a folder that can)",
                file=sys.stderr,
            )
