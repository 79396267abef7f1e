"""What a trained model makes: reconstructions of data, and data of its own."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vi._check import refusal, require_count, require_key
from vi.types import Key, Latent, Variational

Decoder = Callable[[Latent], Any]
"""``z -> p(x | z)``: a distribution over data, for instance one of ``vi.likelihoods``."""


class Generated(NamedTuple):
    """Data that a model made.

    Attributes:
        latents: The draws of the prior, leaves ``[*sample_shape, *event of z]``.
        observation: ``p(x | z)`` at them; ``observation.mean`` is what is usually shown.
        values: Draws of it, ``[*sample_shape, *event of x]``: what the model says data look like.
    """

    latents: Latent
    observation: Any
    values: Array


def generate(
    key: Key, prior: Variational, likelihood: Decoder, sample_shape: tuple[int, ...]
) -> Generated:
    r"""Draw latents from the prior and data given them: :math:`z \sim p(z)`, :math:`x \sim p(x|z)`.

    The means of p(x | z) look cleaner than data do; the values are the model's own samples, noise
    and all, and it is they that p(x) is about.

    Args:
        key: One typed key.
        prior: ``p(z)``.
        likelihood: ``z -> p(x | z)``, the decoder.
        sample_shape: How many.

    Returns:
        Latents, the observation model at them, and data.

    Raises:
        ValueError: A sample shape that is no tuple.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> decoder = lambda z: vi.likelihoods.bernoulli(z @ jnp.ones((2, 6)))
        >>> prior = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
        >>> made = vi.predictive.generate(jax.random.key(0), prior, decoder, (5,))
        >>> made.values.shape, made.observation.mean.shape
        ((5, 6), (5, 6))
    """
    require_key("generate", key)
    if not isinstance(sample_shape, tuple):
        remedy = "pass (num,) for so many"
        raise refusal("generate", "sample_shape", "be a tuple", repr(sample_shape), remedy)
    latent_key, value_key = jax.random.split(key)
    z = prior.sample(latent_key, sample_shape)
    observation = likelihood(z)
    return Generated(z, observation, observation.sample(value_key))


def mean(observation: Any) -> Float[Array, "..."]:
    """The mean of an observation, ``[*shape, *event of x]``; classes have none and are refused."""
    base = observation
    while hasattr(base, "base_dist"):
        base = base.base_dist
    known = None
    if not isinstance(base, (dist.CategoricalLogits, dist.CategoricalProbs)):  # theirs is NaN
        with contextlib.suppress(NotImplementedError):
            known = observation.mean
    if known is None:
        remedy = "pass summary=, a function of the observation that has one, or use draws"
        raise refusal("mean", "observation", "have a mean", type(base).__name__, remedy)
    return jnp.asarray(known)


def reconstruct(
    key: Key,
    q: Variational,
    likelihood: Decoder,
    num_samples: int,
    *,
    summary: Callable[[Any], Array] = mean,
) -> Float[Array, "..."]:
    r"""The mean of data given the posterior: :math:`E_{q(z | x)} E[x' | z]`, over draws of q.

    One draw shows what the ELBO's distortion is about; many show what q is sure of.

    Args:
        key: One typed key.
        q: ``q(z | x)`` of a batch.
        likelihood: ``z -> p(x | z)``, the decoder.
        num_samples: Draws of q for each datum.
        summary: Of p(x | z), what is averaged; its mean by default.

    Returns:
        ``[*batch, *event of x]``, in the units of the data.

    Raises:
        ValueError: Fewer than one draw, or an observation without a mean (classes).

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> q = vi.families.normal(jnp.zeros((3, 2)), scale=jnp.ones((3, 2)))
        >>> decoder = lambda z: vi.likelihoods.bernoulli(z @ jnp.ones((2, 6)))
        >>> vi.predictive.reconstruct(jax.random.key(0), q, decoder, 100).shape
        (3, 6)
    """
    require_key("reconstruct", key)
    require_count("reconstruct", "num_samples", num_samples)
    return summary(likelihood(q.sample(key, (num_samples,)))).mean(0)
