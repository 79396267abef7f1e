"""What is known and what was found of one bound on one target."""

from typing import NamedTuple

import numpy as np

from experiments._divergences_targets import Optimum

NEAR = 0.25  # in the parameters: a fit this close to an optimum ended at it


class Optima(NamedTuple):
    """The exact optima of a bound, the best first; None where it has none that is known."""

    limit: list[Optimum] | None  # as K grows
    at_k: list[Optimum] | None


class Fits(NamedTuple):
    """What was found for one bound: N replicates from each of S starts."""

    optima: Optima
    params: np.ndarray  # [N, S, P]
    values: np.ndarray  # [T, N, S]

    @property
    def known(self) -> list[Optimum]:
        """The optima to hold the fits against: those at their K where there are any known."""
        return self.optima.at_k or self.optima.limit or []

    @property
    def nearest(self) -> np.ndarray:
        """Which of these each fit ended at, ``[N, S]``; -1 for none."""
        ends = np.stack([optimum.params for optimum in self.known])
        distances = np.linalg.norm(self.params[:, :, None] - ends, axis=-1)
        return np.where(distances.min(-1) > NEAR, -1, distances.argmin(-1))

    @property
    def shown(self) -> np.ndarray:
        """The fits that ended at the best optimum, all where none did: a mask ``[N, S]``."""
        ended = self.nearest == 0
        return ended if ended.any() else np.ones_like(ended)
