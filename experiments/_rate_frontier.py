"""What a frontier of rates and distortions says: its slopes, and whether it is convex."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

LEAST_STEP = 0.5  # nats between the rates of neighbours whose slope is judged


class Slopes(NamedTuple):
    """Of the chords between neighbours, by rising beta.

    Attributes:
        slope: ``dD / dR``; minus some beta between the two, of a frontier of minima.
        expected: Minus the geometric mean of the two betas.
        is_judged: Whether the rates are far enough apart.
    """

    slope: Float[np.ndarray, "*S N"]
    expected: Float[np.ndarray, "N"]
    is_judged: Bool[np.ndarray, "*S N"]

    def deviation(self, expected: Float[np.ndarray, "N"] | None = None) -> np.ndarray:
        """``|slope / expected - 1|`` where it is judged, NaN elsewhere, ``[*S, N]``."""
        against = self.expected if expected is None else expected
        with np.errstate(all="ignore"):
            return np.where(self.is_judged, np.abs(self.slope / against - 1), np.nan)


def slopes(
    betas: Sequence[float],
    rate: Float[np.ndarray, "*S betas"],
    distortion: Float[np.ndarray, "*S betas"],
) -> Slopes:
    """The slopes between neighbours.

    Minima of ``D + beta R`` at ``a < b`` give ``D_a + a R_a <= D_b + a R_b`` and the like for b, so
    that the slope between them is from ``-b`` to ``-a``.
    """
    weights = np.asarray(betas, np.float64)
    steps = np.diff(rate, axis=-1)
    with np.errstate(all="ignore"):
        slope = np.diff(distortion, axis=-1) / steps
    expected = -np.sqrt(weights[1:] * weights[:-1])
    return Slopes(slope, expected, np.abs(steps) >= LEAST_STEP)


def above_hull(rate: Float[np.ndarray, "N"], distortion: Float[np.ndarray, "N"]) -> float:
    """How far the worst point lies above the lower convex hull of all, in nats of distortion.

    0 for a convex frontier.
    """
    order = np.lexsort((distortion, rate))
    points = np.stack([rate, distortion], -1)[order].astype(np.float64)
    hull: list[np.ndarray] = []
    for point in points:
        while len(hull) > 1 and _turns_right(hull[-2], hull[-1], point):
            hull.pop()
        if not hull or point[0] > hull[-1][0]:
            hull.append(point)
    corners = np.stack(hull)
    below = np.interp(points[:, 0], corners[:, 0], corners[:, 1])
    return float(np.max(points[:, 1] - below))


def _turns_right(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> bool:
    (a, b), (c, d) = second - first, third - second
    return a * d <= b * c
