"""The Gaussian of low rank plus diagonal covariance."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float
from numpyro.distributions.util import validate_sample

from vi._check import refusal
from vi._known import require_positive
from vi.families._gaussian_checks import require_axis, require_shape


def low_rank(
    loc: Float[Array, "*batch D"],
    *,
    factor: Float[Array, "*batch D R"],
    variances: Float[Array, "*batch D"],
) -> dist.Distribution:
    r"""A Gaussian whose covariance is of rank R plus a diagonal.

    .. math:: z = \mu + W \epsilon_1 + v^{1/2} \epsilon_2, \qquad
              \Sigma = W W^T + \operatorname{diag}(v).

    Draws cost :math:`O(D R)`, the density :math:`O(D R^2)` once and :math:`O(D R)` for each draw.
    Start W from small random numbers: at 0 it has no gradient.

    Args:
        loc: Means ``[*batch, D]``; the last axis is the event.
        factor: W, ``[*batch, D, R]``, any matrix.
        variances: v, ``[*batch, D]``, positive: variances, not standard deviations.

    Returns:
        A NumPyro distribution with batch shape ``[*batch]`` and event shape ``[D]``.

    Raises:
        ValueError: No event axis, another shape, or a known variance at or below 0.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> q = vi.families.low_rank(jnp.zeros(2), factor=jnp.ones((2, 1)), variances=jnp.ones(2))
        >>> print(q.covariance_matrix)
        [[2. 1.]
         [1. 2.]]

    References:
        Ong, Nott and Smith (2018).
    """
    require_axis("low_rank", loc)
    if jnp.ndim(factor) != jnp.ndim(loc) + 1 or jnp.shape(factor)[:-1] != jnp.shape(loc):
        got = f"shape {list(jnp.shape(factor))} for loc {list(jnp.shape(loc))}"
        remedy = "give each dimension of loc its R loadings"
        raise refusal("low_rank", "factor", "be [*batch, D, R]", got, remedy)
    require_shape("low_rank", "variances", variances, jnp.shape(loc), "[*batch, D]")
    remedy = "pass them through jnp.exp or jax.nn.softplus"
    require_positive("low_rank", "variances", variances, remedy)
    return LowRank(loc, factor, variances)


class LowRank(dist.LowRankMultivariateNormal):
    r"""NumPyro's, with a density that keeps its digits; made by ``low_rank``.

    With :math:`w` the mean of :math:`\epsilon_1` given z, the squared distance of x = z - loc is

    .. math:: x^T \Sigma^{-1} x = (x - W w)^T v^{-1} (x - W w) + w^T w, \qquad
              w = (I + W^T v^{-1} W)^{-1} W^T v^{-1} x,

    the least value of the right side over w: a sum of squares, in which an error of w counts twice
    over, where NumPyro's difference of two large numbers loses the digits of both (in float32,
    D = 50, R = 5 and v = 0.01: 1.7e-2 nats against 3e-5).
    """

    @validate_sample
    def log_prob(self, value):
        """The log-density in nats."""
        x = value - self.loc
        scaled = jnp.swapaxes(self.cov_factor / self.cov_diag[..., None], -1, -2)
        to_mean = cho_solve((self._capacitance_tril, True), scaled)
        w = jnp.einsum("...rd,...d->...r", to_mean, x)
        rest = x - jnp.einsum("...dr,...r->...d", self.cov_factor, w)
        distance = (rest**2 / self.cov_diag).sum(-1) + (w**2).sum(-1)
        diagonal = jnp.diagonal(self._capacitance_tril, axis1=-2, axis2=-1)
        log_det = 2 * jnp.log(diagonal).sum(-1) + jnp.log(self.cov_diag).sum(-1)
        return -0.5 * (distance + log_det + self.event_shape[0] * jnp.log(2 * jnp.pi))
