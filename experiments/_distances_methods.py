"""The objectives compared: one model, and what each asks of its code beside reconstruction."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

import vi
from experiments._vae import OneLayer, log_joint, posterior

Loss = Callable[[OneLayer, Array, Float[Array, "B pixels"]], Float[Array, ""]]
"""``(model, key, x) -> nats per image, to be minimised``."""

NAMES = ("VAE", "beta-VAE", "beta-TC-VAE", "InfoVAE", "WAE", "Renyi", "IWAE")
POINTS = ("WAE",)  # whose code is a point: no posterior, no KL
PROPOSAL = 0.1  # the standard deviation around a point at which its model is scored


class Drawn(NamedTuple):
    """``q(z | x)`` and ``p(z)`` by dimension, a draw of each, and ``log p(x | z)``."""

    q: dist.Normal
    prior: dist.Normal
    z: Float[Array, "B D"]
    z_prior: Float[Array, "B D"]
    log_lik: Float[Array, " B"]


def draw(model: OneLayer, key: Array, x: Float[Array, "B pixels"]) -> Drawn:
    """The same noise for every method of one draw."""
    draws_key, prior_key = jax.random.split(key)
    loc, log_scale = model.encoder(x)
    q, prior = dist.Normal(loc, jnp.exp(log_scale)), dist.Normal(jnp.zeros_like(loc), 1.0)
    z = q.rsample(draws_key)
    observation: Any = model.observation(z)
    return Drawn(q, prior, z, prior.sample(prior_key), observation.log_prob(x))


def discrepancy(z: Float[Array, "N D"], z_prior: Float[Array, "M D"]) -> Float[Array, ""]:
    """The squared MMD with the kernel of Tolstikhin et al. (2018), whose C is 2 D."""
    kernel = vi.bounds.inverse_multiquadratic_kernel((2 * z.shape[1]) ** 0.5)
    return vi.bounds.squared_mmd_unbiased(z, z_prior, kernel)


def beta_vae(beta: float) -> Loss:
    """``-E log p(x|z) + beta KL(q(z|x) || p(z))``, the KL in closed form; the VAE at 1."""

    def loss(model, key, x):
        drawn = draw(model, key, x)
        kl = dist.kl_divergence(drawn.q, drawn.prior)
        return -vi.bounds.beta_elbo(drawn.log_lik[None], kl, beta).mean()

    return loss


def beta_tc_vae(beta: float, data_size: int) -> Loss:
    """The KL by its three terms, the total correlation times beta (Chen et al. 2018)."""

    def loss(model, key, x):
        q, prior, z, _, log_lik = draw(model, key, x)
        weights = vi.bounds.minibatch_stratified(len(x), data_size=data_size)
        pairs = q.log_prob(z[:, None])
        terms = vi.bounds.kl_terms(q.log_prob(z), pairs, prior.log_prob(z), weights)
        kept = terms.mutual_information + terms.dimension_wise_kl
        return (kept + beta * terms.total_correlation - log_lik).mean()

    return loss


def info_vae(alpha: float, weight: float) -> Loss:
    """``-E log p(x|z) + (1 - alpha) KL + (alpha + weight - 1) MMD^2`` (Zhao et al. 2019)."""

    def loss(model, key, x):
        drawn = draw(model, key, x)
        kl = dist.kl_divergence(drawn.q, drawn.prior).sum(-1).mean()
        mmd = discrepancy(drawn.z, drawn.z_prior)
        return (1 - alpha) * kl + (alpha + weight - 1) * mmd - drawn.log_lik.mean()

    return loss


def wasserstein(weight: float) -> Loss:
    """``-log p(x | z) + weight MMD^2`` at a code that is a point (Tolstikhin et al. 2018).

    The cost is the cross-entropy, as for the others, where the reference has squares.
    """

    def loss(model, key, x):
        _, prior_key = jax.random.split(key)
        z, _ = model.encoder(x)
        z_prior = dist.Normal(jnp.zeros_like(z), 1.0).sample(prior_key)
        return weight * discrepancy(z, z_prior) - model.observation(z).log_prob(x).mean()

    return loss


def bound(objective: vi.gradients.Objective, num_samples: int) -> Loss:
    """Minus a bound of K draws, by its gradient estimator."""

    def loss(model, key, x):
        return -objective(key, posterior(model, x), log_joint(model, x), num_samples).mean()

    return loss


def losses(config: Any, data_size: int) -> dict[str, Loss]:
    """Every method by its name."""
    dreg, k = vi.gradients.dreg, config.num_samples
    return {
        "VAE": beta_vae(1.0),
        "beta-VAE": beta_vae(config.beta),
        "beta-TC-VAE": beta_tc_vae(config.beta, data_size),
        "InfoVAE": info_vae(config.info_alpha, config.mmd_weight),
        "WAE": wasserstein(config.mmd_weight),
        "Renyi": bound(dreg(vi.bounds.renyi(config.renyi_alpha)), k),
        "IWAE": bound(dreg(vi.bounds.iwae), k),
    }


class AroundPoints(nnx.Module):
    """A model whose code is a point, with a narrow normal around it from which it is scored."""

    def __init__(self, model: OneLayer):
        self.model = model

    def prior(self) -> Any:
        """``p(z)``."""
        return self.model.prior()

    def posterior(self, x: Float[Array, "*batch pixels"]) -> Any:
        """A proposal, not a posterior."""
        loc, _ = self.model.encoder(x)
        return vi.families.normal(loc, scale=jnp.full_like(loc, PROPOSAL))

    def observation(self, z: Float[Array, "*shape D"]) -> dist.Distribution:
        """``p(x | z)``."""
        return self.model.observation(z)

    def means(self, key, x, num_samples) -> dict[str, Array]:
        """The codes."""
        return self.model.means(key, x, num_samples)
