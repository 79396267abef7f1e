"""The terms of the ELBO, by both of its decompositions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import require_count, require_key, require_log_densities
from vi.types import Key, LogDensity, Variational


class RateDistortion(NamedTuple):
    """The ELBO and its terms, each ``[*batch]``: nats per datum.

    ``elbo = -distortion - rate = log_joint + entropy``, on the same draws.

    Attributes:
        rate: ``KL(q(z|x) || p(z))``, what q says about x beyond the prior; an estimate, which may
            fall below 0.
        distortion: ``-E_q log p(x|z)``, the reconstruction error.
        elbo: A lower bound on log p(x).
        log_joint: ``E_q log p(x, z)``, minus the mean energy.
        entropy: ``-E_q log q(z|x)``; a differential entropy, which may be negative.
    """

    rate: Float[Array, "*batch"]
    distortion: Float[Array, "*batch"]
    elbo: Float[Array, "*batch"]
    log_joint: Float[Array, "*batch"]
    entropy: Float[Array, "*batch"]


def rate_distortion(
    key: Key,
    q: Variational,
    prior: Variational,
    log_likelihood: LogDensity,
    num_samples: int,
) -> RateDistortion:
    r"""Estimate the ELBO's terms per datum: rate and distortion, joint and entropy.

    .. math:: \mathcal{L} = \mathbb{E}_q \log p(x|z) - \mathrm{KL}(q(z|x) \,\|\, p(z))
                          = \mathbb{E}_q \log p(x, z) + \mathbb{H}[q(z|x)].

    Two models of one ELBO may differ wholly in rate: averaged over data, the rate bounds from above
    what the latents tell about x, and a rate of 0 means that they are not used. Each term is a mean
    over the same K draws of ``q.sample``, so both sums agree to rounding. Gradients are stopped.

    Args:
        key: One typed PRNG key.
        q: The approximate posterior, batch shape ``[*batch]``.
        prior: ``p(z)``; its ``log_prob(z)`` must be ``[K, *batch]``, as q's is.
        log_likelihood: ``z -> log p(x | z)``, ``[K, *batch]``; an ``aux`` beside it is dropped.
        num_samples: ``K``, at least 1.

    Returns:
        ``RateDistortion(rate, distortion, elbo, log_joint, entropy)``, each ``[*batch]``, nats per
        datum.

    Raises:
        ValueError: A key that is not one typed key, ``num_samples`` not an integer of at least 1,
            or log-densities that are not ``[K, *batch]`` with one batch.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> prior = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
        >>> q = dist.Normal(jnp.zeros((3, 2)), 1.0).to_event(1)  # q is the prior: the rate is 0
        >>> log_likelihood = lambda z: jnp.full(z.shape[:-1], -5.0)
        >>> terms = rate_distortion(jax.random.key(0), q, prior, log_likelihood, 8)
        >>> terms.rate, terms.distortion
        (Array([0., 0., 0.], dtype=float32), Array([5., 5., 5.], dtype=float32))

    References:
        Alemi et al. (2018), for rate and distortion; Hoffman and Johnson (2016), section 1, for the
        decompositions.
    """
    require_key("rate_distortion", key)
    num_samples = require_count("rate_distortion", "num_samples", num_samples)
    z = q.sample(key, (num_samples,))
    log_lik = log_likelihood(z)
    log_lik = log_lik[0] if isinstance(log_lik, tuple) else log_lik
    log_q, log_prior = q.log_prob(z), prior.log_prob(z)
    densities = {"q.log_prob": log_q, "prior.log_prob": log_prior, "log_likelihood": log_lik}
    require_log_densities("rate_distortion", num_samples, densities)

    dtype = jnp.promote_types(jnp.result_type(log_q, log_prior, log_lik), jnp.float32)

    def mean(value):
        return jax.lax.stop_gradient(value).astype(dtype).mean(0)

    log_q, log_prior, log_lik = mean(log_q), mean(log_prior), mean(log_lik)
    return RateDistortion(
        rate=log_q - log_prior,
        distortion=-log_lik,
        elbo=log_lik + log_prior - log_q,
        log_joint=log_lik + log_prior,
        entropy=-log_q,
    )
