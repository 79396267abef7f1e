"""The evidence by importance sampling, with more samples than fit in memory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import require_count, require_key
from vi.diagnostics._weights import merge, sample_size, sum_weights
from vi.types import Key, LogDensity, Variational, log_weights


class LogEvidence(NamedTuple):
    """An estimate of log p(x) and how far to trust it, each ``[*batch]``.

    Attributes:
        value: ``log mean w`` in nats. Its mean is below log p(x), by about ``stderr**2 / 2``.
        stderr: Its standard error in nats; ``inf`` where it cannot be known: K = 1, or no weight
            above zero.
        effective_sample_size: Of the K samples. A small one says that neither number is reliable.
    """

    value: Float[Array, "*batch"]
    stderr: Float[Array, "*batch"]
    effective_sample_size: Float[Array, "*batch"]


def log_evidence(
    key: Key,
    q: Variational,
    log_joint: LogDensity,
    num_samples: int,
    *,
    chunk_size: int = 128,
) -> LogEvidence:
    r"""Estimate log p(x) with ``num_samples`` draws from q, in memory for ``chunk_size`` of them.

    .. math:: \widehat{\log p}(x) = \log \bar w, \qquad \bar w = \frac{1}{K} \sum_k w_k, \qquad
              \mathrm{se}^2 = \frac{1}{K (K - 1)} \sum_k \Big( \frac{w_k}{\bar w} - 1 \Big)^2
                            = \frac{K / \mathrm{ESS} - 1}{K - 1}.

    The value is the importance-weighted bound at this K. Its standard error is the delta method's
    on the sample variance of the weights, which means something only where that variance exists:
    where q has lighter tails than the posterior it does not, and the error reported is too small.

    Draws come from ``q.sample``, one key a chunk: the result depends on ``chunk_size`` as it does
    on the key. Gradients are stopped; train on ``vi.bounds.iwae``. ``jit`` (``num_samples`` and
    ``chunk_size`` static), ``vmap`` and ``lax.map`` over a data set all apply.

    Args:
        key: One typed PRNG key.
        q: The distribution to draw from, normalised.
        log_joint: ``z -> log p(x, z)``, ``[K, *batch]``, for any K.
        num_samples: ``K``, any number of at least 1.
        chunk_size: Samples held at once; the last few that it does not divide are a chunk too.

    Returns:
        ``LogEvidence(value, stderr, effective_sample_size)``, each ``[*batch]``.

    Raises:
        ValueError: A key that is not one typed key, a count that is not an integer of at least 1,
            or a log-density that is not ``[K, *batch]``.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> q = dist.Normal(0.0, 1.5)
        >>> estimate = log_evidence(jax.random.key(0), q, dist.Normal(0.0, 1.0).log_prob, 10_000)
        >>> bool(abs(estimate.value - 0.0) < 5 * estimate.stderr)
        True

    References:
        Burda, Grosse and Salakhutdinov (2016), eq. 8, k = 5,000 in section 5.1; Owen (2013), Monte
        Carlo theory, methods and examples, section 9.2, for the standard error.
    """
    require_key("log_evidence", key)
    num_samples = require_count("log_evidence", "num_samples", num_samples)
    chunk_size = require_count("log_evidence", "chunk_size", chunk_size)

    def chunk(index, size):
        z = q.sample(jax.random.fold_in(key, index), (size,))
        return sum_weights(jax.lax.stop_gradient(log_weights(z, q, log_joint)))

    # The odd chunk goes first, outside the loop: it also gives the carry its shape and dtype. The
    # loop has no inputs of its own, an array of chunk numbers would grow with K.
    first_size = num_samples % chunk_size or min(num_samples, chunk_size)
    num_others = (num_samples - first_size) // chunk_size
    sums = jax.lax.fori_loop(
        1,
        1 + num_others,
        lambda index, sums: merge(sums, chunk(index, chunk_size)),
        chunk(0, first_size),
    )
    value = sums.log_max + jnp.log(jnp.maximum(sums.total, 1.0) / num_samples)
    size = sample_size(sums)
    if num_samples == 1:
        return LogEvidence(value, jnp.full_like(value, jnp.inf), size)
    relative_variance = jnp.maximum(num_samples / size - 1, 0.0)
    return LogEvidence(value, jnp.sqrt(relative_variance / (num_samples - 1)), size)
