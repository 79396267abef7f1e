"""Tables of numbers, and incomplete copies of them."""

import hashlib
import os
import pathlib
import zipfile
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

_MASKS = 0x6D61736B  # "mask": beside a seed, of which entries are removed
_SKLEARN = ("breast_cancer", "diabetes", "iris", "wine")


class Table(NamedTuple):
    """A complete table."""

    name: str
    values: Float[np.ndarray, "N D"]

    @property
    def fingerprint(self) -> str:
        """The first digits of the SHA-256 of the values."""
        digest = hashlib.sha256(repr(self.values.shape).encode())
        digest.update(np.ascontiguousarray(self.values, np.float64).data)
        return digest.hexdigest()[:16]


class Incomplete(NamedTuple):
    """A table of which entries were removed, in standard units of what was left.

    Attributes:
        values: Every column less the mean of its observed entries, over their standard deviation;
            0 where removed.
        observed: Where an entry was left.
        truth: The complete table in the same units, to score with and for nothing else.
    """

    values: Float[np.ndarray, "N D"]
    observed: Bool[np.ndarray, "N D"]
    truth: Float[np.ndarray, "N D"]


def load_table(name: str) -> Table:
    """One of scikit-learn's tables by its name, or the array NAME of a file, ``FILE.npz:NAME``.

    Columns that hold a single value are left out.

    Raises:
        ValueError: in one line, what is wrong and what to do.
    """
    if name in _SKLEARN:
        import sklearn.datasets

        values = np.asarray(getattr(sklearn.datasets, f"load_{name}")().data)
    else:
        path, colon, array = name.rpartition(":")
        if not colon or not path.endswith(".npz"):
            rule = f"be one of {', '.join(_SKLEARN)}, or FILE.npz:NAME"
            raise ValueError(f"--data must {rule} (got {name}); try --data wine")
        values = _read(name, pathlib.Path(os.path.expanduser(path)), array)
    values = values[:, (values != values[:1]).any(0)].astype(np.float64)
    if values.shape[1] < 2:
        raise _refusal(name, "have two columns that vary", values.shape[1], "try --data wine")
    return Table(name.rpartition(":")[2], values)


def _read(name: str, path: pathlib.Path, array: str) -> np.ndarray:
    if not path.is_file():
        raise _refusal(name, "name a file", "none there", "correct the path, or try --data wine")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            names = list(file.files)
            values = file[array] if array in names else None
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        remedy = "save it again with np.savez, as numbers"
        raise _refusal(name, "name a whole .npz file", f"the error: {error}", remedy) from error
    if values is None:
        held = ", ".join(names) or "no arrays"
        raise _refusal(name, "name an array of the file", f"{held} there", "choose among those")
    if values.ndim != 2 or values.dtype.kind not in "iuf" or len(values) < 2:
        got = f"{values.dtype} {list(values.shape)}"
        raise _refusal(name, "be numbers [N, D] in two rows or more", got, "save it as such")
    if not np.isfinite(values).all():
        remedy = "entries are removed here, and scored by their values: pass a complete table"
        raise _refusal(name, "be finite", "values that are not", remedy)
    return values


def remove(table: Table, missing: float, seed: int) -> Incomplete:
    """Remove each entry with probability ``missing``, whatever it is: completely at random."""
    random = np.random.default_rng([_MASKS, seed])
    return standardise(table, random.random(table.values.shape) >= missing)


def standardise(table: Table, observed: Bool[np.ndarray, "N D"]) -> Incomplete:
    """Bring the columns to standard units, by their observed entries alone."""
    held = np.ma.masked_array(table.values, ~observed)
    flat = ~(held.min(0).filled(0.0) < held.max(0).filled(0.0))
    if flat.any():
        got = f"one or none in column {np.argmax(flat)}"
        rule, remedy = "leave two values in every column", "remove fewer, or take more rows"
        raise ValueError(f"--missing must {rule} (got {got}); {remedy}")
    truth = (table.values - held.mean(0).data) / held.std(0).data
    return Incomplete(np.where(observed, truth, 0.0), observed, truth)


def hold_out(part: Incomplete, share: float, seed: int) -> Bool[np.ndarray, "N D"]:
    """Observed entries to choose settings by: each with probability ``share``."""
    random = np.random.default_rng([_MASKS, seed, 1])
    return part.observed & (random.random(part.observed.shape) < share)


def without(part: Incomplete, held: Bool[np.ndarray, "N D"]) -> Incomplete:
    """The same table in the same units, with fewer observed entries."""
    observed = part.observed & ~held
    return Incomplete(np.where(observed, part.values, 0.0), observed, part.truth)


def pseudo_values(
    filled: Float[np.ndarray, "N D"], part: Incomplete, at: Bool[np.ndarray, "N D"] | None = None
) -> Float[np.ndarray, "N"]:
    """One number per row whose mean is the RMSE at the removed entries.

    The RMSE plus each row's influence on it (the jackknife to first order), so that the spread over
    rows gives its standard error, and differences between methods are paired by row.
    """
    at = ~part.observed if at is None else at
    squares, counts = (np.where(at, filled - part.truth, 0.0) ** 2).sum(1), at.sum(1)
    mse = squares.sum() / counts.sum()
    influence = (squares - mse * counts) / counts.mean()
    return np.sqrt(mse) + influence / (2 * np.sqrt(mse))


def _refusal(name: str, rule: str, got: object, remedy: str) -> ValueError:
    return ValueError(" ".join(f"--data {name} must {rule} (got {got}); {remedy}".split()))
