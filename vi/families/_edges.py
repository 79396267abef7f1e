"""NumPyro's bijections with the derivatives, and the log-dets, that rounding takes from them.

Near 1 a sigmoid in float32 is clipped, with slope 0, and what is left of a stick has no digits. The
values here are NumPyro's to rounding; slopes are taken at the value, past the clip, and the
log-dets from the coordinates: so a log-density keeps its derivative where a draw can no longer be
carried back.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from numpyro.distributions import transforms
from numpyro.distributions.util import sum_rightmost, vec_to_tril_matrix

from vi._mixed import once


def forward(transform: Any, u: Any) -> tuple[Any, Any]:
    """The image of ``u`` and the log-det, one for each event of the transform's domain."""
    if isinstance(transform, transforms.IndependentTransform):
        z, log_det = forward(transform.base_transform, u)
        return z, sum_rightmost(log_det, transform.reinterpreted_batch_ndims)
    if isinstance(transform, transforms.ComposeTransform):
        event_dim, total = transform.domain.event_dim, 0.0
        for part in transform.parts:
            u, log_det = forward(part, u)
            outside = event_dim - part.domain.event_dim
            total = total + sum_rightmost(log_det, outside)
            event_dim = part.codomain.event_dim + outside
        return u, total
    if type(transform) in _MENDED:
        return _MENDED[type(transform)](u)
    z, kept = transform.call_with_intermediates(u)
    return z, transform.log_abs_det_jacobian(u, z, kept)


def forward_with_force(transform: Any, u: Any, force: Any) -> tuple[Any, Any, Any]:
    r"""The image, the log-det, and a force at the image given that at ``u``.

    .. math:: J^T \, force_z = force_u - \partial \log |\det J| / \partial u.

    Numbers are divided by their slope. For vectors J is dense, and where it has more rows than
    columns (a simplex) there are many solutions, all of them right, since a force only ever meets
    :math:`J \, du`; the least one, rows scaled to one size, loses the fewest digits. What has no
    slope at all has force 0: its draws are constants.
    """
    if isinstance(transform, transforms.IndependentTransform):
        z, log_det, force = forward_with_force(transform.base_transform, u, force)
        return z, sum_rightmost(log_det, transform.reinterpreted_batch_ndims), force
    (z, log_det), pull = jax.vjp(lambda u: forward(transform, u), u)
    (of_volume,) = pull((jnp.zeros_like(z), jnp.ones_like(log_det)))
    rank = transform.domain.event_dim
    if rank == 0:
        (slope,) = pull((jnp.ones_like(z), jnp.zeros_like(log_det)))
        return z, log_det, _over(force - of_volume, slope)
    lead, shape = u.shape[: u.ndim - rank], u.shape[u.ndim - rank :]
    _, push = jax.linearize(lambda u: forward(transform, u)[0], u)
    flat = (force - of_volume).reshape(*lead, -1)
    basis = jnp.eye(flat.shape[-1], dtype=u.dtype).reshape(-1, *shape)
    columns = jax.vmap(lambda e: push(jnp.broadcast_to(e, u.shape)))(basis)
    jacobian = jnp.moveaxis(columns.reshape(len(basis), *lead, -1), 0, -1)
    least = _least_solution(*once((jacobian, z.reshape(*lead, -1), flat)))
    return z, log_det, least.reshape(z.shape)


def _least_solution(jacobian, z, right):
    """The least ``f`` with ``J^T f = right``, J ``[*lead, m, n]``, where f counts in units of z.

    Rounding has left that much in a row of J, or as much as its entries are large: rows are scaled
    by either. Columns are scaled to one size, so that a small slope is none that was lost; lost is
    a column that no row of a tangent has digits of, beside the row's other entries.
    """
    largest = jnp.abs(jacobian).max(-1)
    digits = jnp.abs(_over(jacobian, largest[..., None])).max(-2)
    rows = jnp.maximum(largest, jnp.abs(z))
    scaled = jacobian / jnp.where(rows == 0, 1, rows)[..., None]
    columns = jnp.abs(scaled).max(-2)
    q, r = jnp.linalg.qr(scaled / jnp.where(columns == 0, 1, columns)[..., None, :])
    pivots = jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1))
    lost = jnp.minimum(pivots, digits) < 4 * jnp.finfo(r.dtype).eps
    r = jnp.where(lost[..., None, :], jnp.eye(r.shape[-1], dtype=r.dtype), r)
    right = jnp.where(lost, 0, _over(right, columns))
    along = solve_triangular(r, right[..., None], trans="T")
    return _over((q @ along)[..., 0], rows)


def _over(a, b):
    """``a / b``, finite: 0 where ``b`` is 0."""
    most = jnp.finfo(a.dtype).max
    return jnp.where(b == 0, 0, jnp.clip(a / jnp.where(b == 0, 1, b), -most, most))


@jax.custom_jvp
def _sigmoid(x):
    return transforms.SigmoidTransform()(x)


@_sigmoid.defjvp
def _sigmoid_jvp(primals, tangents):
    v = _sigmoid(*primals)
    return v, v * (1 - v) * tangents[0]


def _to_interval(x):
    return _sigmoid(x), jax.nn.log_sigmoid(x) + jax.nn.log_sigmoid(-x)


def _to_simplex(x):
    """Each number takes a share of what is left; ``1 - v_j`` is in all that come after."""
    after = x.shape[-1] - jnp.arange(x.shape[-1], dtype=x.dtype)
    x = x - jnp.log(after)
    share = _sigmoid(x)
    one = jnp.ones_like(x[..., :1])
    left = jnp.concatenate([one, jnp.cumprod(1 - share, axis=-1)], axis=-1)
    log_det = jax.nn.log_sigmoid(x) + after * jax.nn.log_sigmoid(-x)
    return jnp.concatenate([share, one], axis=-1) * left, log_det.sum(-1)


@jax.custom_jvp
def _tanh(x):
    return jnp.tanh(x)


@_tanh.defjvp
def _tanh_jvp(primals, tangents):
    (x,) = primals
    return _tanh(x), jnp.exp(2 * _log_sech(x)) * tangents[0]


def _log_sech(x):
    return jnp.log(2.0) + x - jax.nn.softplus(2 * x)


def _to_corr_cholesky(x):
    """Rows of unit norm: an entry takes the tanh of its number, and leaves the sech of it."""
    x = vec_to_tril_matrix(x, diagonal=-1)
    spent = _log_sech(x)
    left = jnp.cumsum(jnp.roll(spent, 1, axis=-1).at[..., 0].set(0), axis=-1)
    z = (_tanh(x) + jnp.eye(x.shape[-1], dtype=x.dtype)) * jnp.exp(left)
    return z, jnp.tril(2 * spent + left, -1).sum((-2, -1))


_MENDED = {
    transforms.SigmoidTransform: _to_interval,
    transforms.StickBreakingTransform: _to_simplex,
    transforms.CorrCholeskyTransform: _to_corr_cholesky,
}
