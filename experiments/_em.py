"""EM as coordinate ascent on the ELBO, for probabilistic PCA and a mixture of Gaussians.

Neal and Hinton (1998): an E step maximises the ELBO over q, which then is the posterior, so that
the ELBO touches log p(x); an M step maximises it over the parameters, with q held.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

import vi
from vi.testing import LinearGaussian


class EM(NamedTuple):
    """The two half steps of a model and what they climb, in nats per datum.

    Attributes:
        e_step: ``params -> q``, the posterior.
        m_step: ``q -> params``, the maximiser of the ELBO.
        elbo: ``(q, params) -> []``, from the moments of q; it takes no evidence.
        log_likelihood: ``params -> []``, log p(x); it takes no q.
    """

    e_step: Callable[[Any], Any]
    m_step: Callable[[Any], Any]
    elbo: Callable[[Any, Any], Array]
    log_likelihood: Callable[[Any], Array]


class Staircase(NamedTuple):
    """The climb by half steps, ``[*S, 2 T]``: the start, then E and M in turn, the last an E step.

    Attributes:
        elbo: Nats per datum.
        log_likelihood: Nats per datum; an E step leaves it where it is.
    """

    elbo: Float[Array, "*S steps"] | np.ndarray
    log_likelihood: Float[Array, "*S steps"] | np.ndarray


def ascend(em: EM, params: Any, q: Any, num_steps: int) -> tuple[Any, Staircase]:
    """``num_steps`` of EM from ``params`` and any ``q``: the last params, and the climb."""

    def step(carry, _):
        params, q = carry
        before, log_likelihood = em.elbo(q, params), em.log_likelihood(params)
        q = em.e_step(params)
        stairs = Staircase(
            jnp.stack([before, em.elbo(q, params)]), jnp.stack([log_likelihood, log_likelihood])
        )
        return (em.m_step(q), q), stairs

    (params, _), stairs = jax.lax.scan(step, (params, q), length=num_steps)
    return params, jax.tree.map(jnp.ravel, stairs)


def largest_gap_after_e(stairs: Staircase) -> np.ndarray:
    """The largest ``|log p(x) - ELBO|`` after an E step, ``[*S]`` nats per datum: 0."""
    gap = np.subtract(stairs.log_likelihood, stairs.elbo)
    return np.abs(gap[..., 1::2]).max(-1)


def least_rise(stairs: Staircase) -> np.ndarray:
    """The least change of the ELBO over a half step, and of log p(x) over an M step, ``[*S]``.

    Never below 0; relative to the size of what changes, where that is above 1 nat.
    """
    lines = stairs.elbo, stairs.log_likelihood[..., ::2]
    rises = [np.diff(line) / np.maximum(1, np.abs(line[..., 1:])) for line in lines]
    return np.minimum(*(rise.min(-1) for rise in rises))


class Code(NamedTuple):
    """A q for pPCA: ``N(loc[n], covariance)``, of one covariance for all data."""

    loc: Float[Array, "N D"]
    covariance: Float[Array, "D D"]


def ppca_em(x: Float[Array, "N P"]) -> EM:
    """EM for probabilistic PCA, its bias at the data's mean.

    References:
        Tipping and Bishop (1999), appendix B.
    """
    bias = x.mean(0)
    centred = x - bias

    def e_step(model):
        posterior = model.posterior(x)
        scale_tril = posterior.scale_tril[0]  # the same for every datum
        return Code(posterior.loc, scale_tril @ scale_tril.T)

    def m_step(q):
        moment = q.loc.T @ q.loc + len(x) * q.covariance
        weights = jnp.linalg.solve(moment, q.loc.T @ centred).T
        cross = jnp.sum((centred @ weights) * q.loc)
        residual = jnp.sum(centred**2) - 2 * cross + jnp.sum((weights @ moment) * weights)
        return LinearGaussian(weights, bias, jnp.sqrt(residual / x.size))

    def elbo(q, model):
        entropy = dist.MultivariateNormal(jnp.zeros_like(q.loc[0]), q.covariance).entropy()
        return model.expected_log_joint(x, q.loc, q.covariance).mean() + entropy

    return EM(e_step, m_step, elbo, lambda model: model.log_evidence(x).mean())


def ppca_start(
    key: vi.types.Key, x: Float[Array, "N P"], num_latents: int
) -> tuple[LinearGaussian, Code]:
    """Small random weights, all the variance in the noise, and the prior as q."""
    weights = 0.1 * x.std() * jax.random.normal(key, (x.shape[1], num_latents))
    noise_scale = jnp.sqrt(x.var(0).mean())
    q = Code(jnp.zeros((len(x), num_latents)), jnp.eye(num_latents))
    return LinearGaussian(weights, x.mean(0), noise_scale), q


class Mixture(NamedTuple):
    """A mixture of C Gaussians with full covariances."""

    weights: Float[Array, "C"]
    means: Float[Array, "C D"]
    covariances: Float[Array, "C D D"]

    def log_joint(self, x: Float[Array, "N D"]) -> Float[Array, "N C"]:
        """``log p(x_n, c)`` in nats."""
        apart = x[:, None] - self.means
        distance = jnp.einsum("ncd,cde,nce->nc", apart, jnp.linalg.inv(self.covariances), apart)
        spread = jnp.linalg.slogdet(2 * math.pi * self.covariances)[1]
        return jnp.log(self.weights) - 0.5 * (distance + spread)


def mixture_em(x: Float[Array, "N D"]) -> EM:
    """EM for a mixture of Gaussians; q is the log-responsibilities ``[N, C]``.

    References:
        Dempster, Laird and Rubin (1977), section 4.3.
    """

    def m_step(log_q):
        q = jnp.exp(log_q)
        count = q.sum(0)
        means = q.T @ x / count[:, None]
        apart = x[:, None] - means
        covariances = jnp.einsum("nc,ncd,nce->cde", q, apart, apart) / count[:, None, None]
        return Mixture(count / len(x), means, covariances)

    def elbo(log_q, mixture):
        return jnp.sum(jnp.exp(log_q) * (mixture.log_joint(x) - log_q), 1).mean()

    return EM(
        e_step=lambda mixture: jax.nn.log_softmax(mixture.log_joint(x), axis=1),
        m_step=m_step,
        elbo=elbo,
        log_likelihood=lambda mixture: jax.nn.logsumexp(mixture.log_joint(x), axis=1).mean(),
    )


def mixture_start(
    key: vi.types.Key, x: Float[Array, "N D"], num_clusters: int
) -> tuple[Mixture, Float[Array, "N C"]]:
    """Means at data drawn without replacement, covariances of a cluster's share, the prior as q."""
    means = jax.random.choice(key, x, (num_clusters,), replace=False)
    share = jnp.cov(x.T, bias=True) / num_clusters
    weights = jnp.full(num_clusters, 1 / num_clusters)
    covariances = jnp.broadcast_to(share, (num_clusters, *share.shape))
    log_q = jnp.broadcast_to(jnp.log(weights), (len(x), num_clusters))
    return Mixture(weights, means, covariances), log_q
