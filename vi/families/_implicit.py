"""Implicit reparameterisation: the derivative of a mixture's draw at fixed uniforms."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from vi._check import refusal


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
    over the dimensions carries it, :math:`O(D M)`. Parameters that do not move are not
    differentiated: JAX has no derivative of some distribution functions in some of them.

    Args:
        z: Draws of the mixture.
        logits: Log-weights of the components.
        univariates: A NumPyro distribution with batch shape ``[*batch, M, D]``, or one that
            broadcasts to it, and events ``[]``.

    Raises:
        ValueError: On differentiation, parameters that move and in which the distribution function
            has no derivative.

    References:
        Figurnov, Mohamed and Mnih (2018), section 4 and appendix.
    """
    del logits, univariates
    return z


def _with_path_jvp(primals, tangents):
    z, logits, univariates = primals
    z_dot, logits_dot, univariates_dot = tangents
    at = jnp.repeat(z[..., None, :], logits.shape[-1], axis=-2)
    (cdf, log_f), (cdf_dot, log_f_dot) = _terms(univariates, univariates_dot, at)
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

    start = jnp.zeros_like(log_r[..., 0])
    if not isinstance(logits_dot, SymbolicZero):
        start = start + logits_dot.astype(log_r.dtype)
    by_dimension = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (spread, own, slope, log_f_dot))
    _, moved = jax.lax.scan(step, start, by_dimension)
    moved = jnp.moveaxis(moved, 0, -1).astype(z.dtype)
    return z, moved if isinstance(z_dot, SymbolicZero) else z_dot + moved


with_path.defjvp(_with_path_jvp, symbolic_zeros=True)


def _terms(univariates, univariates_dot, at):
    """Distribution functions and log-densities at points, and how they change with what moves."""
    leaves, structure = jax.tree.flatten(univariates)
    dots = jax.tree.leaves(univariates_dot)
    moving = [i for i, dot in enumerate(dots) if not isinstance(dot, SymbolicZero)]

    def terms(parameters):
        inserted = dict(zip(moving, parameters, strict=True))
        law = jax.tree.unflatten(structure, [inserted.get(i, x) for i, x in enumerate(leaves)])
        return law.cdf(at), law.log_prob(at)

    try:
        return jax.jvp(terms, ([leaves[i] for i in moving],), ([dots[i] for i in moving],))
    except (NotImplementedError, ValueError) as error:
        rule = "have a distribution function with a derivative in every parameter that moves"
        remedy = (
            "hold that parameter by jax.lax.stop_gradient, or use numpyro's MixtureSameFamily,"
            " which has score alone"
        )
        got = f"{type(univariates).__name__}: {error}"
        raise refusal("mixture", "components", rule, got, remedy) from error
