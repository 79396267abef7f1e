"""The evidence lower bound."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import at_least_float32
from vi.bounds._declare import declare
from vi.bounds._others import sum_of_others


def _derivatives(log_w):
    log_w = at_least_float32("elbo", log_w)
    return jnp.full_like(log_w, 1 / log_w.shape[0]), jnp.zeros_like(log_w)


def _replaced(log_w, new):
    return (sum_of_others(log_w) + new) / log_w.shape[0]


@declare(derivatives=_derivatives, replaced=_replaced, additive=True)
def elbo(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
    r"""The evidence lower bound, estimated with K draws.

    .. math:: \mathcal{L} = \frac{1}{K} \sum_k \log w_k, \qquad
              \log p(x) = \mathbb{E}\,\mathcal{L} + \mathrm{KL}(q(z|x) \,\|\, p(z|x)).

    K draws lower the variance of this estimate and leave the bound itself as it is.

    Args:
        log_w: Log-weights ``[K, *batch]``.

    Returns:
        ``[*batch]`` in nats, at least float32.

    References:
        Jordan, Ghahramani, Jaakkola and Saul (1999), section 6; Kingma and Welling (2014), eq. 2.
    """
    return at_least_float32("elbo", log_w).mean(0)
