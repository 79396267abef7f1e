"""The log-variance divergence."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import at_least_float32
from vi.bounds._arguments import require_samples
from vi.bounds._declare import declare
from vi.bounds._self_normalised import without_zeros


def _derivatives(log_w):
    log_w = require_samples("log_variance", at_least_float32("log_variance", log_w), 2)
    num_samples = log_w.shape[0]
    is_zero, finite = without_zeros(log_w)
    count = jnp.maximum((~is_zero).sum(0, keepdims=True), 1)
    centred = finite - finite.sum(0, keepdims=True) / count
    return centred / (num_samples - 1), jnp.full_like(log_w, 1 / num_samples)


@declare(
    direction="divergence",
    sense="minimise",
    shift="invariant",
    min_samples=2,
    derivatives=_derivatives,
)
def log_variance(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
    r"""Half the sample variance of the log-weights; 0 where q is the posterior.

    .. math:: \frac{1}{2 (K - 1)} \sum_k \Big( \log w_k - \frac{1}{K} \sum_j \log w_j \Big)^2,
              \qquad \mathbb{E} = \tfrac{1}{2} \operatorname{Var}_{q} \log \frac{p(x, z)}{q(z|x)}.

    Unbiased at every K, and free of log p(x). Under ``reparam`` and ``dreg`` the gradient is that
    of the variance under q. ``fixed(log_variance)`` holds the law of the draws: that gradient in
    q's parameters is VarGrad's, and its mean is that of minus the ELBO. To be minimised, over q
    alone.

    Args:
        log_w: Log-weights ``[K, *batch]``, K >= 2.

    Returns:
        ``[*batch]`` in nats squared, at least float32; ``inf`` where a weight is zero.

    Raises:
        ValueError: Fewer than 2 samples.

    References:
        Richter, Boustati, Nuesken, Ruiz and Akyildiz (2020), proposition 1 for the gradient.
    """
    log_w = require_samples("log_variance", at_least_float32("log_variance", log_w), 2)
    is_zero, finite = without_zeros(log_w)
    centred = finite - finite.mean(0, keepdims=True)
    half_variance = 0.5 * (centred**2).sum(0) / (log_w.shape[0] - 1)
    return jnp.where(is_zero.any(0), jnp.inf, half_variance)
