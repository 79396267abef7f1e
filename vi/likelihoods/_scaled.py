"""The log-joint of all data, from a minibatch."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import refusal, require_count
from vi.types import Latent, LogDensity


def scaled_log_joint(
    log_prior: LogDensity,
    log_lik: Callable[[Latent], Float[Array, "K B"]],
    data_size: int,
) -> LogDensity:
    r"""A log-joint of latents that all data share, estimated from a minibatch.

    .. math:: \log \hat p(x, z) = \log p(z) + \frac{N}{B} \sum_{b=1}^{B} \log p(x_b \mid z)

    Unbiased over minibatches drawn uniformly, and so is the ELBO of it, with its gradient. A bound
    that bends its weights is not linear in them: ``iwae`` of this estimates another number. The
    scale stands outside of the sum over the minibatch; a mean over it, without N, counts the prior
    N times.

    Args:
        log_prior: ``z -> [K]``, in nats; it is not scaled.
        log_lik: ``z -> [K, B]``, in nats: one entry per draw and datum of the minibatch, over which
            it closes.
        data_size: N, the number of all data.

    Returns:
        ``log_joint(z) -> [K]``, in nats.

    Raises:
        ValueError: ``data_size`` is no count; when called, shapes that do not fit, or a minibatch
            larger than the data.

    Examples:
        >>> import jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> x = jnp.array([0.5, -1.0])                           # 2 of 10 data
        >>> log_joint = vi.likelihoods.scaled_log_joint(
        ...     lambda z: dist.Normal(0, 1).log_prob(z),
        ...     lambda z: dist.Normal(z[:, None], 1).log_prob(x), data_size=10)
        >>> log_joint(jnp.zeros(4)).shape
        (4,)

    References:
        Hoffman, Blei, Wang and Paisley (2013), section 2.3.
    """
    where = "scaled_log_joint"
    size = require_count(where, "data_size", data_size)

    def log_joint(z: Latent) -> Float[Array, "K"]:
        prior, lik = jnp.asarray(log_prior(z)), jnp.asarray(log_lik(z))
        if lik.ndim == 0 or lik.shape[:-1] != prior.shape or lik.shape[-1] == 0:
            got = f"{list(lik.shape)} against {list(prior.shape)} of log_prior"
            remedy = "keep the minibatch as the last axis of log_lik: it is summed here"
            raise refusal(where, "log_lik", "return [K, B]", got, remedy)
        if lik.shape[-1] > size:
            got, remedy = f"B = {lik.shape[-1]}, N = {size}", "data_size is that of all data"
            raise refusal(where, "log_lik", "have at most data_size entries", got, remedy)
        return prior + size / lik.shape[-1] * lik.sum(-1)

    return log_joint
