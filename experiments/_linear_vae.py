"""A linear VAE: a linear-Gaussian model with a linear encoder of its own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

import vi
from vi.testing import LinearGaussian


class LinearVAE(NamedTuple):
    """``q(z|x) = N(encoder^T (x - bias), diag(scale^2))`` and ``p(x|z) = N(W z + bias, s^2 I)``."""

    weights: Float[Array, "P D"]
    bias: Float[Array, "P"]
    log_noise: Float[Array, ""]
    encoder: Float[Array, "P D"]
    log_scale: Float[Array, "D"]

    @property
    def model(self) -> LinearGaussian:
        """The decoder and its prior."""
        return LinearGaussian(self.weights, self.bias, jnp.exp(self.log_noise))

    def moments(self, x: Float[Array, "B P"]) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
        """Means and standard deviations of ``q(z|x)``; the latter are the same for every x."""
        loc = (x - self.bias) @ self.encoder
        return loc, jnp.broadcast_to(jnp.exp(self.log_scale), loc.shape)


def start(key: vi.types.Key, x: Float[Array, "N P"], num_latents: int) -> LinearVAE:
    """Small random maps, the bias at the data's mean, all the variance in the noise."""
    weights_key, encoder_key = jax.random.split(key)
    shape = (x.shape[1], num_latents)
    return LinearVAE(
        weights=0.1 * jax.random.normal(weights_key, shape),
        bias=x.mean(0),
        log_noise=0.5 * jnp.log(x.var(0).mean()),
        encoder=0.1 * jax.random.normal(encoder_key, shape),
        log_scale=jnp.zeros(num_latents),
    )


def _analytic_kl(key, q, model, x):
    log_lik = model.log_likelihood(x)(q.rsample(key, (1,)))
    return vi.bounds.elbo_closed_kl(log_lik, dist.kl_divergence(q, model.prior))


def _sampled(objective):
    return lambda key, q, model, x: objective(key, q, model.log_joint(x), 1)


OBJECTIVES: dict[str, Callable[..., Array]] = {
    "reparam": _sampled(vi.gradients.reparam(vi.bounds.elbo)),
    "dreg": _sampled(vi.gradients.dreg(vi.bounds.elbo)),
    "closed_kl": _analytic_kl,
}
"""``(key, q, model, x) -> [B]``: the ELBO from one draw per datum, by how it is differentiated."""


def make_loss(name: str) -> Callable[..., Any]:
    """Minus the mean ELBO of a minibatch."""

    def loss(vae, key, x):
        loc, scale = vae.moments(x)
        q = vi.families.normal(loc, scale=scale)
        return -OBJECTIVES[name](key, q, vae.model, x).mean()

    return loss


@jax.jit
def exact(vae: LinearVAE, x: Float[Array, "N P"]) -> dict[str, Float[Array, ""]]:
    """The ELBO, the evidence and the KL between them, means over ``x``; no draws."""
    loc, scale = vae.moments(x)
    return {
        "elbo": vae.model.elbo(x, loc, scale).mean(),
        "log_evidence": vae.model.log_evidence(x).mean(),
        "kl": vae.model.kl_to_posterior(x, loc, scale).mean(),
    }
