"""States on disk: written whole or not at all, read back bit for bit or refused."""

import contextlib
import functools
import json
import logging
import os
import pathlib
import re
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi._check import is_key, refusal
from vi.training._state import State

_KEPT = 2
_PARTIAL = ".partial"
_CHECKSUMS = "crc32.json"


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often ``fit`` saves.

    Attributes:
        folder: A folder of this run alone; made if it is not there.
        every_seconds: Seconds between two savings; the first and the last state are always saved.
    """

    folder: str | os.PathLike[str]
    every_seconds: float = 60.0

    def __post_init__(self):
        if "://" in str(self.folder):
            remedy = "save to a local disk and copy it"
            raise refusal("Checkpoint", "folder", "be a local folder", self.folder, remedy)
        if not self.every_seconds >= 0:
            remedy = "pass 0 to save after every chunk of steps"
            raise refusal("Checkpoint", "every_seconds", "be >= 0", self.every_seconds, remedy)


def load(folder: str | os.PathLike[str], like: State) -> State:
    """The newest state that ``fit`` saved in a folder.

    Args:
        folder: What ``fit`` was given as ``checkpoint``.
        like: A state of the same structure and shapes, from ``init`` with the same model and
            optimiser; its values are not used. The arrays come to the devices that its own are on,
            wherever they were saved.

    Returns:
        The state, bit for bit as it was saved.

    Raises:
        ValueError: No checkpoint there, a damaged one, or one of another structure.

    Examples:
        >>> import tempfile, jax, jax.numpy as jnp, optax, vi
        >>> optimizer = optax.sgd(0.25)
        >>> step = vi.training.gradient_step(lambda w, key, x: ((w - x) ** 2).mean(), optimizer)
        >>> like, folder = vi.training.init(jnp.zeros(()), optimizer), tempfile.mkdtemp()
        >>> fitted = vi.training.fit(
        ...     jax.random.key(0), step, like, jnp.full(20, 3.0), num_steps=100, batch_size=5,
        ...     checkpoint=folder,
        ... )
        >>> vi.training.load(folder, like).params
        Array(3., dtype=float32)
    """
    path = pathlib.Path(folder).resolve()
    steps = saved_steps(path)
    if not steps:
        remedy = "pass the folder that fit was given as checkpoint"
        raise refusal("load", "folder", "hold a checkpoint", path, remedy)
    arrays, _ = read("load", path, steps[-1])
    return state_of("load", arrays, like)


def saved_steps(folder: pathlib.Path) -> list[int]:
    """The steps of the checkpoints in ``folder``, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal())


def save(
    folder: pathlib.Path,
    step: int,
    state: State,
    tables: Mapping[str, Mapping[str, np.ndarray]],
    record: Mapping[str, Any],
) -> None:
    """Write one checkpoint beside the last, in full or not at all, and drop the older ones.

    Raises:
        OSError: It could not be written; what was there is as it was.
    """
    text = np.frombuffer(json.dumps(record).encode(), np.uint8)
    arrays = {"state": host_arrays(state), **tables, "record": {"json": text}}
    # Orbax refuses arrays without elements; they come back from the state that is passed in.
    kept = {t: {k: a for k, a in named.items() if a.size} for t, named in arrays.items()}
    kept = {t: named for t, named in kept.items() if named}
    before = saved_steps(folder)
    with _saying(f"checkpoint of step {step}", folder, before):
        partial = folder / f"{step}{_PARTIAL}"
        shutil.rmtree(partial, ignore_errors=True)
        _orbax().save(str(partial), kept)
        (partial / _CHECKSUMS).write_text(json.dumps(checksums(partial)))
        for old in [s for s in before if s != step][: 1 - _KEPT]:
            shutil.rmtree(_aside(folder / str(old)))
        same = _aside(folder / str(step)) if step in before else None
        partial.rename(folder / str(step))
        if same is not None:
            shutil.rmtree(same)


def prepare(folder: pathlib.Path) -> None:
    """Make the folder, see that it can be written to, and clear what a killed process left.

    Raises:
        OSError: It cannot be written to.
    """
    with _saying("a checkpoint", folder, saved_steps(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for stray in folder.glob(f"*{_PARTIAL}*"):
            shutil.rmtree(stray)


@contextlib.contextmanager
def _saying(what: str, folder: pathlib.Path, before: list[int]):
    """Whatever goes wrong in writing, as an ``OSError`` of one line."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what Orbax logs, it also raises
    try:
        yield
    except Exception as error:  # Orbax lets the storage layer's own exceptions through
        for partial in folder.glob(f"*{_PARTIAL}*"):
            shutil.rmtree(partial, ignore_errors=True)
        last = f"the last good one is of step {before[-1]}" if before else "none is there yet"
        raise OSError(
            f"fit: {what} could not be written to {folder} ({_reason(error)}); {last};"
            " make room, or pass a folder that can be written, and start again"
        ) from error
    finally:
        log.setLevel(level)


def _reason(error: Exception) -> str:
    """What the operating system said, or what of the error fits in a line."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    lines = [getattr(error, "strerror", None) or str(error), type(error).__name__]
    return " ".join(lines[0].strip().splitlines()[-1:] or lines[1:])[:150]


def _aside(path: pathlib.Path) -> pathlib.Path:
    """Rename a checkpoint that is to go, so that no half of it is ever there by its name."""
    return path.rename(path.with_name(f"{path.name}{_PARTIAL}-old"))


def read(where: str, folder: pathlib.Path, step: int) -> tuple[dict[str, dict], dict[str, Any]]:
    """The arrays and the record of one checkpoint, refused unless every bit is as written."""
    path = folder / str(step)
    try:  # before Orbax, whose word on a damaged file is a hundred lines
        whole = json.loads((path / _CHECKSUMS).read_text()) == checksums(path)
    except (OSError, ValueError):
        whole = False
    if not whole:
        earlier = [s for s in saved_steps(folder) if s < step]
        remedy = (
            f"delete it to go on from step {earlier[-1]}"
            if earlier
            else "delete it and start again"
        )
        raise refusal(where, "checkpoint", "be whole", f"{path}, damaged", remedy)
    arrays = _orbax().load(str(path))
    record = json.loads(arrays.pop("record")["json"].tobytes())
    return arrays, record


def state_of(where: str, arrays: Mapping[str, Mapping[str, np.ndarray]], like: State) -> State:
    """The saved state in the structure, and on the devices, of ``like``."""
    saved, wanted = arrays["state"], host_arrays(like)
    described = [
        {k: f"{a.dtype}{list(a.shape)}" for k, a in named.items() if a.size}
        for named in (saved, wanted)
    ]
    if described[0] != described[1]:
        names = described[0].keys() | described[1].keys()
        other = sorted(n for n in names if described[0].get(n) != described[1].get(n))
        got = ", ".join(
            f"{n} {described[0].get(n, 'absent')} for {described[1].get(n, 'absent')}"
            for n in other[:3]
        )
        remedy = "make the state with the same model and optimiser, or pass another folder"
        raise refusal(where, "checkpoint", "be of the state's structure", got, remedy)
    leaves, structure = jax.tree.flatten(like)
    values = [saved.get(name, empty) for name, empty in wanted.items()]
    return jax.tree.unflatten(structure, list(map(_on_device, values, leaves)))


def host_arrays(state: State) -> dict[str, np.ndarray]:
    """The leaves by numbered names, in NumPy."""
    return {
        f"{i:04d} {jax.tree_util.keystr(path, simple=True, separator=' ')}": host_array(leaf)
        for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(state))
    }


def host_array(leaf) -> np.ndarray:
    """The array in NumPy; of typed keys their data."""
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def checksums(folder: pathlib.Path) -> dict[str, int]:
    """CRC-32 of every file below ``folder`` but the list of them, by its name."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / _CHECKSUMS)
    return {str(p.relative_to(folder)): zlib.crc32(p.read_bytes()) for p in files}


def _on_device(value, leaf):
    if is_key(leaf):
        value = jax.random.wrap_key_data(value, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array) and leaf.committed:
        return jax.device_put(value, leaf.sharding)
    return jnp.asarray(value)


@functools.cache
def _orbax():
    # on first use: the import takes a second, and most runs save nothing
    from orbax.checkpoint import v1

    return v1
