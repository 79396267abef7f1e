"""Filling in what was not observed."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vi._check import log_ratio, refusal, require_count, require_key
from vi.predictive._draws import Decoder, mean
from vi.types import Key, LogDensity, Variational


class Imputed(NamedTuple):
    """Completed data; what was observed is kept as it is.

    Attributes:
        mean: With the posterior mean in the gaps, ``[*batch, *event]``: least squared error; None
            where no summary was asked for.
        draws: With draws of the posterior predictive, ``[num_draws, *batch, *event]``: multiple
            imputation, for whatever is computed next.
        effective_samples: Of the weights, ``[*batch]``, of num_samples; NaN where all weights are
            zero or one is NaN, and with it what fills the gaps there (whole numbers excepted).
    """

    mean: Float[Array, "..."] | None
    draws: Float[Array, "..."]
    effective_samples: Float[Array, "*batch"]


def impute(
    key: Key,
    q: Variational,
    log_joint: LogDensity,
    likelihood: Decoder,
    value: Float[Array, "..."],
    observed: Bool[Array, "..."],
    *,
    num_samples: int,
    num_draws: int = 1,
    summary: Callable[[Any], Array] | None = mean,
) -> Imputed:
    r"""Complete data by self-normalised importance weighting.

    .. math:: E[x_m | x_o] \approx \sum_k \bar w_k E[x_m | z_k], \qquad
              w_k = \frac{p(x_o, z_k)}{q(z_k | x_o)}, \quad z_k \sim q

    Consistent as K grows, for data that are missing at random: the reason why they are missing
    depends on what is observed alone. Draws are by sampling importance resampling: z among the
    z_k by weight, then x_m given it.

    Args:
        key: One typed key.
        q: ``q(z | x_o)`` of a batch.
        log_joint: ``z -> log p(x_o, z)``, ``[K, *batch]``, of what is observed alone:
            ``vi.likelihoods.masked`` makes it.
        likelihood: ``z -> p(x | z)`` of whole data.
        value: Data ``[*batch, *event]``; what stands in the gaps is not looked at, NaN included.
        observed: Of the shape of ``value``; True where it was observed.
        num_samples: K.
        num_draws: Completed data sets.
        summary: Of p(x | z), what is averaged, of the shape of the data; its mean by default. None
            for classes, which have none: use the draws.

    Returns:
        The completed data, and the effective number of samples.

    Raises:
        ValueError: A mask of another shape or type, fewer than one sample or draw, or observations
            or a summary of another shape than the data.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> x = jnp.array([[0.3, jnp.nan]])
        >>> seen = ~jnp.isnan(x)
        >>> q = vi.families.normal(jnp.zeros((1, 1)), scale=jnp.ones((1, 1)))
        >>> decoder = lambda z: vi.likelihoods.normal(z * jnp.ones(2), scale=0.1)
        >>> log_joint = lambda z: (
        ...     vi.likelihoods.masked(decoder(z), seen).log_prob(x) + q.log_prob(z))
        >>> filled = vi.predictive.impute(
        ...     jax.random.key(0), q, log_joint, decoder, x, seen, num_samples=10_000)
        >>> print(f"{filled.mean[0, 1]:.2f}")
        0.30

    References:
        Mattei and Frellsen (2019), equations 7 to 9.
    """
    require_key("impute", key)
    require_count("impute", "num_samples", num_samples)
    require_count("impute", "num_draws", num_draws)
    if jnp.shape(observed) != jnp.shape(value) or not jnp.issubdtype(
        jnp.result_type(observed), bool
    ):
        got = f"{jnp.result_type(observed)} of shape {list(jnp.shape(observed))}"
        rule, remedy = f"be boolean of shape {list(jnp.shape(value))}", "True where it was observed"
        raise refusal("impute", "observed", rule, got, remedy)
    latent_key, pick_key, value_key = jax.random.split(key, 3)
    z = q.sample(latent_key, (num_samples,))
    log_p = log_joint(z)
    log_p = log_p[0] if isinstance(log_p, tuple) else log_p
    log_w = log_ratio("impute", num_samples, log_p, q.log_prob(z))
    weights = jax.nn.softmax(log_w, axis=0)
    picked = _resample(pick_key, weights, num_draws)
    values = likelihood(jax.tree.map(lambda leaf: _take(leaf, picked), z)).sample(value_key)
    _require_shape("likelihood", values, value, "decode whole data, [K, *batch, *event]")
    size = 1 / (weights**2).sum(0)
    if jnp.issubdtype(values.dtype, jnp.floating):
        values = jnp.where(_lead(jnp.isnan(size), values[0]), jnp.nan, values)
    average = None
    if summary is not None:
        each = summary(likelihood(z))
        _require_shape("summary", each, value, "for classes pass None, and use the draws")
        average = jnp.where(observed, value, (_lead(weights, each) * each).sum(0))
    return Imputed(average, jnp.where(observed, value, values), size)


def _require_shape(name: str, made: Array, value: Array, remedy: str) -> None:
    if jnp.shape(made)[1:] != jnp.shape(value):
        got = f"{list(jnp.shape(made)[1:])} instead of {list(jnp.shape(value))}"
        raise refusal("impute", name, "have the shape of value", got, remedy)


def _resample(key: Key, weights: Float[Array, "K *batch"], num_draws: int) -> Array:
    """Indices ``[num_draws, *batch]`` of samples, each as often as its weight says."""
    batch = weights.shape[1:]
    cumulative = jnp.cumsum(weights.reshape(len(weights), -1), axis=0)
    levels = jax.random.uniform(key, (num_draws, cumulative.shape[1]), weights.dtype)
    search = functools.partial(jnp.searchsorted, side="right")  # never one of weight zero
    index = jax.vmap(search, in_axes=1, out_axes=1)(cumulative, levels * cumulative[-1])
    return jnp.minimum(index, len(weights) - 1).reshape(num_draws, *batch)


def _lead(array: Array, like: Array) -> Array:
    return array.reshape(*array.shape, *(1,) * (like.ndim - array.ndim))


def _take(leaf: Array, index: Array) -> Array:
    """Of ``[K, *batch, *event]``, the samples ``index [N, *batch]`` of each batch element."""
    return jnp.take_along_axis(leaf, _lead(index, leaf), axis=0)
