"""Imputation without a network: iterative PCA, and a regression per column."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from experiments._missing_table import Incomplete, hold_out, without


class PCA(NamedTuple):
    """What iterative PCA ends with."""

    filled: Float[np.ndarray, "N D"]
    rank: int


def em_pca(
    values: Float[np.ndarray, "N D"],
    observed: Bool[np.ndarray, "N D"],
    rank: int,
    *,
    max_steps: int = 1000,
    tolerance: float = 1e-6,
) -> Float[np.ndarray, "N D"]:
    """Fill the gaps with their principal-component fit until they no longer move.

    Alternates a singular value decomposition of the centred, filled table, cut off at ``rank``,
    and new values in the gaps: expectation maximisation for a normal model of that rank whose noise
    goes to zero (Kiers 1997). It starts from the columns' means. The leading right vectors are
    taken from the product of the columns, which is small.
    """
    filled = np.where(observed, values, _column_means(values, observed))
    for _ in range(max_steps):
        centre = filled.mean(0)
        centred = filled - centre
        vectors = np.linalg.eigh(centred.T @ centred)[1][:, centred.shape[1] - rank :]
        fit = centre + centred @ vectors @ vectors.T
        new = np.where(observed, values, fit)
        moved = np.sqrt(np.mean((new - filled) ** 2))
        filled = new
        if moved < tolerance:
            break
    return filled


def best_pca(part: Incomplete, share: float, seed: int, max_rank: int) -> PCA:
    """Iterative PCA of the rank that best predicts observed entries which it did not see.

    Rank 0 is the mean. The fit that is returned saw all observed entries.
    """
    held = hold_out(part, share, seed)
    fewer = without(part, held)
    ranks = range(min(max_rank, part.values.shape[1] - 1) + 1)

    def error(rank):
        filled = em_pca(fewer.values, fewer.observed, rank, tolerance=1e-4)
        return np.mean((filled - part.truth)[held] ** 2)

    rank = min(ranks, key=error)
    return PCA(em_pca(part.values, part.observed, rank), rank)


def regressions(part: Incomplete, seed: int) -> Float[np.ndarray, "N D"]:
    """scikit-learn's ``IterativeImputer``: Bayesian ridge regression of each column on the rest."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    imputer = IterativeImputer(max_iter=20, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(imputer.fit_transform(np.where(part.observed, part.values, np.nan)))


def _column_means(values, observed):
    return np.where(observed, values, 0.0).sum(0) / np.maximum(observed.sum(0), 1)
