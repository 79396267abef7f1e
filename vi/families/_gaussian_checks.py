"""What the Gaussian families ask of locations, spreads and matrices."""

import jax.numpy as jnp
import numpy as np

from vi._check import refusal
from vi._known import as_used, is_known, require_positive


def require_axis(where: str, loc) -> None:
    """Refuse a scalar, which has no axis of D dimensions."""
    if jnp.ndim(loc) == 0:
        remedy = "give the latent dimensions an axis: loc[None]"
        raise refusal(where, "loc", "have a last axis of D dimensions", "a scalar", remedy)


def require_shape(where: str, name: str, value, shape: tuple[int, ...], letters: str) -> None:
    """Refuse another shape than the one that goes with ``loc``: nothing is broadcast."""
    if jnp.shape(value) != shape:
        got = f"shape {list(jnp.shape(value))} instead of {list(shape)}"
        remedy = "give it the batch of loc, with jnp.broadcast_to if all entries share it"
        raise refusal(where, name, f"be {letters}", got, remedy)


def require_symmetric(where: str, name: str, rule: str, matrix) -> None:
    """Refuse a known matrix, or a batch of them, that is not symmetric."""
    if not is_known(matrix):
        return
    matrix = as_used(matrix)
    largest = np.abs(matrix).max(initial=0.0)
    if not np.allclose(matrix, np.swapaxes(matrix, -1, -2), rtol=1e-4, atol=1e-6 * largest):
        remedy = "pass (m + jnp.swapaxes(m, -1, -2)) / 2"
        raise refusal(where, name, rule, "a matrix that is not symmetric", remedy)


def require_positive_diagonal(where: str, name: str, tril) -> None:
    """Refuse a known triangular factor with an entry of the diagonal at or below 0."""
    if is_known(tril):
        diagonal = np.diagonal(np.asarray(tril), axis1=-2, axis2=-1)
        remedy = "pass the diagonal through jnp.exp or jax.nn.softplus"
        require_positive(where, f"the diagonal of {name}", diagonal, remedy)


def require_positive_definite(where: str, name: str, matrix) -> None:
    """Refuse a known matrix that is not symmetric, or of which Cholesky finds no factor."""
    if not is_known(matrix):
        return
    matrix = as_used(matrix)
    rule = "be positive definite"
    remedy = "add to its diagonal, or learn a factor and pass scale_tril"
    if not np.isfinite(matrix).all():
        raise refusal(where, name, rule, "entries that are not finite", remedy)
    require_symmetric(where, name, rule, matrix)
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        got = f"{np.linalg.eigvalsh(matrix).min():.3g} as its least eigenvalue"
        raise refusal(where, name, rule, got, remedy) from None
