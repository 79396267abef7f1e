"""Implicit reparameterisation: the derivative of a mixture's draw at fixed uniforms."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def with_path(
    z: Float[Array, "*shape D"], logits: Float[Array, "*batch M"], univariates: Any
) -> Float[Array, "*shape D"]:
    r"""The draws ``z`` themselves, with the derivatives of the distributional transform.

    With :math:`r_m` the weights of the components given :math:`z_{<d}`, :math:`F_m` and
    :math:`f_m` their distribution functions and densities in dimension d,

    .. math:: u_d = \sum_m r_m F_m(z_d), \qquad r_m \propto \pi_m \prod_{j<d} f_m(z_j)

    are uniform and independent whatever the parameters. Held fixed, they give

    .. math:: dz_d = - \frac{\sum_m r_m \, dF_m(z_d) + \sum_m r_m F_m(z_d) (d\ell_m - d\ell)}
                            {\sum_m r_m f_m(z_d)},

    where :math:`d\ell_m` is the change of :math:`\log \pi_m \prod_{j<d} f_m(z_j)`, through the
    parameters and through the :math:`dz_j` before, and :math:`d\ell` its mean under r. One scan
    over the dimensions carries it, :math:`O(D M)`.

    Args:
        z: Draws of the mixture.
        logits: Log-weights of the components.
        univariates: A NumPyro distribution with batch shape ``[*batch, M, D]`` and events ``[]``.

    References:
        Figurnov, Mohamed and Mnih (2018), section 4 and appendix.
    """
    del logits, univariates
    return z


@with_path.defjvp
def _with_path_jvp(primals, tangents):
    z, logits, univariates = primals
    z_dot, logits_dot, univariates_dot = tangents
    at = z[..., None, :]

    def terms(univariates, at):
        return univariates.cdf(at), univariates.log_prob(at)

    (cdf, log_f), (cdf_dot, log_f_dot) = jax.jvp(
        lambda univariates: terms(univariates, at), (univariates,), (univariates_dot,)
    )
    slope = jax.jvp(lambda at: univariates.log_prob(at), (at,), (jnp.ones_like(at),))[1]
    log_r = jax.nn.log_softmax(logits)[..., None] + jnp.cumsum(log_f, axis=-1) - log_f
    r = jax.nn.softmax(log_r, axis=-2)
    density = jnp.exp(jax.nn.logsumexp(jax.nn.log_softmax(log_r, axis=-2) + log_f, axis=-2))
    spread = r * (cdf - (r * cdf).sum(-2, keepdims=True)) / density[..., None, :]
    own = (r * cdf_dot).sum(-2) / density

    def step(log_r_dot, terms):
        spread, own, slope, log_f_dot = terms
        moved = -own - (spread * log_r_dot).sum(-1)
        return log_r_dot + log_f_dot + slope * moved[..., None], moved

    start = jnp.zeros_like(log_r[..., 0]) + logits_dot.astype(log_r.dtype)
    by_dimension = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (spread, own, slope, log_f_dot))
    _, moved = jax.lax.scan(step, start, by_dimension)
    return z, z_dot + jnp.moveaxis(moved, 0, -1).astype(z.dtype)
