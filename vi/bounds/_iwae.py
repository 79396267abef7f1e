"""The importance-weighted bound."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import at_least_float32
from vi.bounds._declare import declare
from vi.bounds._others import log_sum_exp_of_others
from vi.bounds._self_normalised import log_mean_exp, softmax


def _derivatives(log_w):
    weight = softmax(at_least_float32("iwae", log_w))
    return weight, weight * (1 - weight)


def _replaced(log_w, new):
    log_w = at_least_float32("iwae", log_w)
    return jnp.logaddexp(log_sum_exp_of_others(log_w), new) - math.log(log_w.shape[0])


@declare(derivatives=_derivatives, replaced=_replaced)
def iwae(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
    r"""The importance-weighted bound: the log of the mean weight.

    .. math:: \mathcal{L}_K = \log \frac{1}{K} \sum_k w_k.

    The ELBO at K = 1; its mean rises with K towards log p(x) (theorem 1), and for weights with
    enough moments K (log p(x) - E L_K) tends to half the weight's relative variance.

    Args:
        log_w: Log-weights ``[K, *batch]``.

    Returns:
        ``[*batch]`` in nats, at least float32; ``-inf`` where every weight is zero.

    References:
        Burda, Grosse and Salakhutdinov (2016), eq. 8 and theorem 1; Domke and Sheldon (2018),
        theorem 3, for the rate.
    """
    return log_mean_exp(at_least_float32("iwae", log_w))
