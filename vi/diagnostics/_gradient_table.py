"""What ``gradient_meter`` found: tables of signal, noise and seconds, with their errors."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float, PyTree

from vi._check import refusal
from vi.diagnostics._gradient_moments import Sums, jackknife

Table = Float[np.ndarray, "E G"]

_HEADER = ["estimator", "block", "size", "|mean|", "variance", "snr", "entry snr", "seconds"]
_HEADER += ["efficiency", "relative"]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class GradientMeter:
    """What ``gradient_meter`` found, for E estimators and G blocks; ``print`` it.

    Attributes:
        names: The E estimators; efficiency is relative to the first.
        blocks: The G blocks of parameters, without those that have no entry.
        sizes: ``[G]``, the entries of each block.
        num_replicates: R, the gradients measured of each estimator.
        mean: By estimator, the mean gradient: a pytree like the parameters.
        variance: By estimator, the unbiased variance of each entry, likewise; it is in the dtype of
            the gradients, float32 mostly, where (1e-24)^2 is 0 and (1e20)^2 is inf. The tables are
            in float64.
        timings: ``[E, T]``, seconds of each timed call.
        sums: What the tables below are made of; each ``[E, G, 1 + 20]``.
        counts: ``[1 + 20]``, the replicates behind them: all, then all but each group.
    """

    names: tuple[str, ...]
    blocks: tuple[str, ...]
    sizes: np.ndarray
    num_replicates: int
    mean: Mapping[str, PyTree[Array]]
    variance: Mapping[str, PyTree[Array]]
    timings: Float[np.ndarray, "E T"]
    sums: Sums
    counts: np.ndarray

    @property
    def signal(self) -> tuple[Table, Table]:
        """``|E g|^2 - tr Var g / R``, unbiased for the squared norm of the mean; and its error.

        Below the noise the jackknife's error is too large: by ``sqrt(2)`` where the mean is 0.
        """
        return _with_stderr(self._signal())

    @property
    def total_variance(self) -> tuple[Table, Table]:
        """``tr Var g``, the summed variance of a block's entries, and its standard error."""
        return _with_stderr(self.sums.variance)

    @property
    def snr(self) -> tuple[Table, Table]:
        """``|E g| / sqrt(tr Var g)``, 0 where the signal's estimate is below 0; and its error."""
        return _root(*_with_stderr(_ratio(self._signal(), self.sums.variance)))

    def snr_with(self, signal: str) -> tuple[Table, Table]:
        """``snr`` with the signal of one estimator for all: the quietest of those of one mean.

        Where its own noise buries a mean, another unbiased estimator of it may still know it.
        """
        if signal not in self.names:
            rule, remedy = "name an estimator", f"choose among {', '.join(self.names)}"
            raise refusal("snr_with", "signal", rule, repr(signal), remedy)
        shared = self._signal()[[self.names.index(signal)]]
        return _root(*_with_stderr(_ratio(shared, self.sums.variance)))

    @property
    def entry_snr(self) -> tuple[Table, Table]:
        """The mean of ``|E g_i| / sd g_i`` over a block's entries, and its standard error.

        Rainforth et al. (2018) show this, of single entries. Entries that never vary are left out,
        and where none does it is NaN; where there is no signal it is about ``0.8 / sqrt(R)``.
        """
        return _with_stderr(_ratio(self.sums.entry_snr, self.sums.varying))

    @property
    def seconds(self) -> Float[np.ndarray, "E"]:
        """Seconds of one value and gradient, compiled: the median, with the call's overhead."""
        if not self.timings.size:
            return np.full(len(self.names), np.nan)
        return np.median(self.timings, axis=1)

    @property
    def efficiency(self) -> Table:
        """``1 / (tr Var g * seconds)``: the precision bought by a second of averaging."""
        return _ratio(np.ones(()), self.total_variance[0] * self.seconds[:, None])

    @property
    def relative_efficiency(self) -> Table:
        """``efficiency`` over that of the first estimator."""
        cost = self.total_variance[0] * self.seconds[:, None]
        return _ratio(cost[:1], cost)

    @property
    def relative_variance(self) -> tuple[Table, Table]:
        """``tr Var g`` over that of the first estimator; the error is of the paired ratio."""
        return _with_stderr(_ratio(self.sums.variance, self.sums.variance[:1]))

    def arrays(self) -> dict[str, np.ndarray]:
        """The tables by name, ``[E, G]``, each with its ``<name>_stderr``; to save."""
        tables = ("signal", "total_variance", "snr", "entry_snr", "relative_variance")
        held = {name: getattr(self, name) for name in tables}
        found = {name: value for name, (value, _) in held.items()}
        found |= {f"{name}_stderr": error for name, (_, error) in held.items()}
        plain = ("seconds", "efficiency", "relative_efficiency")
        return found | {name: getattr(self, name) for name in plain}

    def _signal(self) -> np.ndarray:
        return self.sums.squared_mean - self.sums.variance / self.counts

    def __str__(self) -> str:
        rows = [_HEADER]
        columns = (self.signal, self.total_variance, self.snr, self.entry_snr)
        for i, name in enumerate(self.names):
            for j, block in enumerate(self.blocks):
                (signal, error), *others = [(v[i, j], e[i, j]) for v, e in columns]
                norm = _root(np.asarray(signal), np.asarray(error))
                clear = not signal < 2 * error
                bound = f"< {np.sqrt(max(signal, 0.0) + 2 * error):.2g}"
                variance, snr, entry = (_show(*pair) for pair in others)
                rows.append([name, block, f"{self.sizes[j]:,}", _show(*norm) if clear else bound])
                rows[-1] += [variance, snr if clear else "below noise", entry]
                rows[-1] += [f"{self.seconds[i]:.3g}", f"{self.efficiency[i, j]:.3g}"]
                rows[-1] += [f"{self.relative_efficiency[i, j]:.3g}"]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        pads = [str.ljust, str.ljust, *[str.rjust] * (len(widths) - 2)]
        lines = [
            "  ".join(pad(cell, n) for pad, cell, n in zip(pads, row, widths, strict=True)).rstrip()
            for row in rows
        ]
        head = f"gradient_meter: {self.num_replicates:,} replicates, the same keys for all"
        return "\n".join([head, *lines])

    __repr__ = __str__


def _with_stderr(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values[..., 0], jackknife(values)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Where nothing varies it is ``inf``, and NaN where there is nothing at all."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return above / below


def _root(square: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The root, 0 of what is below 0, and how far one error further up would take it.

    That is ``error / (2 root)`` where the root is clear of 0, and finite where it is not.
    """
    root = np.sqrt(np.maximum(square, 0.0))
    with np.errstate(invalid="ignore"):
        return root, np.sqrt(np.maximum(square, 0.0) + error) - root


def _show(value: Any, error: Any) -> str:
    return f"{value:.3g} ± {error:.1g}"
