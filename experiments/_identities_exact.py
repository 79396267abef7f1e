"""The ELBO of Gaussian q's on a linear-Gaussian model, where every term is a closed form."""

import dataclasses
import math
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

import vi
from vi.testing import LinearGaussian

PIXELS, LATENTS, DATA = 8, 3, 10
DRAWS = 16  # of each q and replicate
LADDER = (1, 2, 4, 8, 16, 32, 64)
STRETCH, SHIFT = 1.5, 2.0  # of the ladder's q, in standard deviations of the posterior
Gaussian: TypeAlias = Any  # a dist.MultivariateNormal, whose lazy attributes have no types
TEMPERS = np.linspace(0, 1, 61) ** 2


class Terms(NamedTuple):
    """The ELBO's terms for each q, by closed forms that share none of each other's; nats."""

    log_evidence: Float[Array, "*batch"]
    kl: Float[Array, "*batch"]  # KL(q || posterior)
    rate: Float[Array, "*batch"]  # KL(q || prior)
    distortion: Float[Array, "*batch"]  # -E_q log p(x|z)
    log_joint: Float[Array, "*batch"]  # E_q log p(x, z)
    entropy: Float[Array, "*batch"]

    @property
    def elbo(self) -> Float[Array, "*batch"]:
        """Of the expected log-joint and the entropy."""
        return self.log_joint + self.entropy

    @property
    def evidence_error(self) -> Float[Array, "*batch"]:
        """``log p(x) - (ELBO + KL(q || posterior))``: 0."""
        return self.log_evidence - (self.elbo + self.kl)

    @property
    def decomposition_error(self) -> Float[Array, "*batch"]:
        """``(-distortion - rate) - (log joint + entropy)``: 0."""
        return -self.distortion - self.rate - self.elbo


def toy(key: vi.types.Key) -> tuple[LinearGaussian, Float[Array, "N P"]]:
    """A model of random weights, and data from it."""
    model_key, data_key = jax.random.split(key)
    drawn = jax.random.normal(model_key, (PIXELS, LATENTS + 1))
    model = LinearGaussian(drawn[:, 1:], drawn[:, 0], jnp.ones(()))
    return model, model.sample(data_key, DATA)[1]


def random_q(key: vi.types.Key, posterior: Gaussian, num_q: int) -> Gaussian:
    """Gaussians with full covariances around each posterior, batch ``[num_q, N]``."""
    N, D = posterior.loc.shape
    drawn = jax.random.normal(key, (num_q, N, D, D + 1))
    entries = drawn[..., 1:] / 2
    scale_tril = jnp.tril(entries, -1) + jnp.eye(D) * jnp.exp(entries - 1)
    return dist.MultivariateNormal(posterior.loc + drawn[..., 0], scale_tril=scale_tril)


def prior_to_posterior(model: LinearGaussian, x: Float[Array, "N P"]) -> Gaussian:
    """Gaussians proportional to ``p(z) p(x|z)^t``, batch ``[T, N]``, t of ``TEMPERS``.

    Each is the posterior of the model with its noise variance divided by t.
    """

    def at(t):
        tempered = dataclasses.replace(model, noise_scale=model.noise_scale / jnp.sqrt(t))
        q: Gaussian = tempered.posterior(x)
        return q.loc, jnp.broadcast_to(q.scale_tril, (*q.loc.shape, q.loc.shape[-1]))

    loc, scale_tril = jax.vmap(at)(jnp.asarray(TEMPERS))
    return dist.MultivariateNormal(loc, scale_tril=scale_tril)


def exact_terms(model: LinearGaussian, x: Float[Array, "N P"], q: Gaussian) -> Terms:
    """The terms of each q, batch ``[Q, N]``."""
    repeated = jnp.broadcast_to(x, (*q.batch_shape, x.shape[-1]))
    covariance = q.covariance_matrix
    D = q.event_shape[0]
    prior = dist.MultivariateNormal(jnp.zeros(D), jnp.eye(D))
    explained = jnp.einsum("pd,...de,pe->...", model.weights, covariance, model.weights)
    at_mean = model.likelihood(q.loc).log_prob(x)
    return Terms(
        log_evidence=jnp.broadcast_to(model.log_evidence(x), q.batch_shape),
        kl=dist.kl_divergence(q, model.posterior(x)),
        rate=dist.kl_divergence(q, prior),
        distortion=explained / (2 * model.noise_scale**2) - at_mean,
        log_joint=model.expected_log_joint(repeated, q.loc, covariance),
        entropy=q.entropy(),
    )


def monte_carlo(
    key: vi.types.Key,
    model: LinearGaussian,
    x: Float[Array, "N P"],
    q: Gaussian,
    terms: Terms,
    num_replicates: int,
) -> Float[Array, "5"]:
    """How many standard errors ``rate_distortion`` is off the closed forms, by its terms.

    Of the mean over all q and data; every term is quadratic in a Gaussian z and has all moments.
    """
    log_likelihood = model.log_likelihood(jnp.broadcast_to(x, (*q.batch_shape, PIXELS)))

    def means(replicate):
        draws_key = jax.random.fold_in(key, replicate)
        found = vi.diagnostics.rate_distortion(draws_key, q, model.prior, log_likelihood, DRAWS)
        return jnp.stack([value.mean() for value in found])

    each = jax.lax.map(means, jnp.arange(num_replicates))
    stderr = each.std(0, ddof=1) / math.sqrt(num_replicates)
    exact = [getattr(terms, name).mean() for name in vi.diagnostics.RateDistortion._fields]
    return (each.mean(0) - jnp.stack(exact)) / stderr


def stretched(posterior: Gaussian) -> Gaussian:
    """Wider than the posterior and beside it, batch ``[1, N]``: the weights have all moments."""
    N, D = posterior.loc.shape
    scale_tril = jnp.broadcast_to(posterior.scale_tril, (1, N, D, D))
    beside = scale_tril @ jnp.full(D, SHIFT / math.sqrt(D))
    return dist.MultivariateNormal(posterior.loc + beside, scale_tril=STRETCH * scale_tril)


def relative_variance() -> float:
    """Of the weights under ``stretched``: ``E_q (w / p(x))^2 - 1``."""
    c2 = STRETCH**2
    return STRETCH**LATENTS * (2 - 1 / c2) ** (-LATENTS / 2) * math.exp(SHIFT**2 / (2 * c2 - 1)) - 1


def iwae_gaps(
    key: vi.types.Key,
    model: LinearGaussian,
    x: Float[Array, "N P"],
    q: Gaussian,
    log_evidence: Float[Array, "1 N"],
    num_replicates: int,
) -> Float[Array, "rungs R"]:
    """``log p(x) - L_K`` of ``q``, the mean over data, by K of ``LADDER``.

    All K share their draws: of the most, a lesser K takes disjoint groups. Since log is concave,
    joining two groups can only raise the bound: the ladder falls in every replicate.
    """

    def weights(replicate):
        z = q.sample(jax.random.fold_in(key, replicate), (LADDER[-1],))
        return vi.types.log_weights(z, q, model.log_joint(x[None]))

    log_w = jax.lax.map(weights, jnp.arange(num_replicates))

    def gaps(K):
        groups = jnp.moveaxis(log_w.reshape(num_replicates, -1, K, len(x)), 2, 0)
        return (log_evidence - vi.bounds.iwae(groups)).mean((1, 2))

    return jnp.stack([gaps(K) for K in LADDER])


def measure(key: vi.types.Key, num_q: int, num_replicates: int) -> dict[str, Array]:
    """The identities' largest errors, the path of q from prior to posterior, the ladder of K."""
    toy_key, q_key, draws_key, ladder_key = jax.random.split(key, 4)
    model, x = toy(toy_key)
    posterior = model.posterior(x)
    q, path, wide = (
        random_q(q_key, posterior, num_q),
        prior_to_posterior(model, x),
        stretched(posterior),
    )
    terms = exact_terms(model, x, joined(q, path, wide))

    def part(begin, end):
        return jax.tree.map(lambda term: term[begin:end], terms)

    of_q, of_path, of_wide = part(0, num_q), part(num_q, -1), part(-1, None)
    named = {f"path/{name}": value.mean(1) for name, value in of_path._asdict().items()}
    return named | {
        "evidence": jnp.abs(of_q.evidence_error).max(),
        "decompositions": jnp.abs(of_q.decomposition_error).max(),
        "tight": jnp.abs(of_path.log_evidence - of_path.elbo)[-1].max(),
        "kl": jnp.stack([of_q.kl.min(), of_q.kl.max()]),
        "monte_carlo": monte_carlo(draws_key, model, x, q, of_q, num_replicates),
        "ladder": iwae_gaps(ladder_key, model, x, wide, of_wide.log_evidence, num_replicates),
        "ladder_kl": of_wide.kl.mean(),
    }


def joined(*qs: Gaussian) -> Gaussian:
    """Batches of Gaussians one after the other."""
    loc = jnp.concatenate([q.loc for q in qs])
    return dist.MultivariateNormal(loc, scale_tril=jnp.concatenate([q.scale_tril for q in qs]))
