"""The Gaussian of any covariance."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vi._check import refusal
from vi.families._gaussian_checks import (
    require_axis,
    require_positive_definite,
    require_positive_diagonal,
    require_shape,
)


def full_rank(
    loc: Float[Array, "*batch D"],
    *,
    scale_tril: Float[Array, "*batch D D"] | None = None,
    covariance: Float[Array, "*batch D D"] | None = None,
    precision: Float[Array, "*batch D D"] | None = None,
) -> dist.Distribution:
    r"""A Gaussian of any covariance, :math:`N(z; \mu, \Sigma)`.

    .. math:: z = \mu + L \epsilon, \qquad \Sigma = L L^T = \Lambda^{-1}.

    Exactly one of the three. Learn ``scale_tril``: a draw costs :math:`O(D^2)` and nothing has to
    stay positive definite but its diagonal, of which ``jnp.exp`` or ``jax.nn.softplus`` takes care.
    The other two are factored on the way, :math:`O(D^3)`; a traced matrix that is not positive
    definite gives NaN there.

    Args:
        loc: Means ``[*batch, D]``; the last axis is the event.
        scale_tril: L, ``[*batch, D, D]``, lower triangular with a positive diagonal; what stands
            above the diagonal is not read.
        covariance: Sigma, ``[*batch, D, D]``, symmetric and positive definite.
        precision: Its inverse, ``[*batch, D, D]``, symmetric and positive definite.

    Returns:
        A NumPyro distribution with batch shape ``[*batch]`` and event shape ``[D]``.

    Raises:
        ValueError: Not exactly one matrix, one of another shape, no event axis; a known matrix that
            is not positive definite, or a known factor with an entry at or below 0 on its diagonal.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> q = vi.families.full_rank(jnp.zeros(2), covariance=jnp.array([[2.0, 1.0], [1.0, 1.0]]))
        >>> q.rsample(jax.random.key(0), (5,)).shape, q.batch_shape, q.event_shape
        ((5, 2), (), (2,))
        >>> vi.families.full_rank(jnp.zeros(2), covariance=jnp.ones((2, 2)) - jnp.eye(2))
        Traceback (most recent call last):
        ValueError: full_rank: covariance must be positive definite (got -1 as its least
        eigenvalue); add to its diagonal, or learn a factor and pass scale_tril
    """
    matrices = {"scale_tril": scale_tril, "covariance": covariance, "precision": precision}
    given = {name: value for name, value in matrices.items() if value is not None}
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        remedy = "keep the one that the parameter is; covariance = scale_tril @ scale_tril.T"
        raise refusal("full_rank", "the spread", f"be one of {', '.join(matrices)}", got, remedy)
    ((name, matrix),) = given.items()
    require_axis("full_rank", loc)
    shape = (*jnp.shape(loc), jnp.shape(loc)[-1])
    require_shape("full_rank", name, matrix, shape, "[*batch, D, D]")
    if name == "scale_tril":
        require_positive_diagonal("full_rank", name, matrix)
        return dist.MultivariateNormal(loc, scale_tril=jnp.tril(matrix))
    require_positive_definite("full_rank", name, matrix)
    return dist.MultivariateNormal(loc, **{f"{name}_matrix": matrix})
