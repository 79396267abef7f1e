"""Documents as counts of words: with the multinomial coefficient, and without."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from vi._check import refusal
from vi.likelihoods._counts import log_poisson
from vi.likelihoods._event import Observation, observation
from vi.likelihoods._parameters import in_float, require_some


def multinomial(logits: Float[Array, "*batch V"], *, event_ndims: int = 1) -> Observation:
    r"""A vector of counts whose total is given: that of the data.

    .. math:: \log p(x \mid n) = \log \frac{n!}{\prod_v x_v!}
              + \sum_v x_v \log \mathrm{softmax}(l)_v, \qquad n = \sum_v x_v

    It sums to 1 over all count vectors of that total. Topic models leave out the coefficient, which
    no parameter moves: they score the sequence of tokens, ``bag_of_words``, and perplexities are
    computed of that.

    Args:
        logits: ``[*batch, V]`` over the vocabulary. One of minus infinity bans its word; NumPyro's
            validation lets it pass where logits are traced.
        event_ndims: How many last axes are one datum; with 2 it is several documents.

    Returns:
        A NumPyro distribution; ``log_prob(counts)`` of ``[*batch, V]`` is ``[*batch]``, in nats. It
        has no draws of its own, for it does not know their total.

    Raises:
        ValueError: No vocabulary axis, no words, or a wrong ``event_ndims``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> likelihood = vi.likelihoods.multinomial(jnp.zeros(2))
        >>> print(jnp.exp(likelihood.log_prob(jnp.array([1, 1]))).round(3))
        0.5
    """
    return _counts_of_words("multinomial", Multinomial, logits, event_ndims)


def bag_of_words(logits: Float[Array, "*batch V"], *, event_ndims: int = 1) -> Observation:
    r"""The tokens of a document, in their order, given as counts: what topic models report.

    .. math:: \log p(w_{1:n}) = \sum_v x_v \log \mathrm{softmax}(l)_v

    It sums to 1 over all *sequences* of n tokens; over count vectors it does not, that is
    ``multinomial``. Reported perplexity is ``exp(-log_prob / n)`` of this one, n the total; of the
    other it would be lower, by the coefficient.

    Args:
        logits: ``[*batch, V]`` over the vocabulary. One of minus infinity bans its word; NumPyro's
            validation lets it pass where logits are traced.
        event_ndims: How many last axes are one datum; with 2 it is several documents.

    Returns:
        A NumPyro distribution; ``log_prob(counts)`` of ``[*batch, V]`` is ``[*batch]``, in nats.

    Raises:
        ValueError: No vocabulary axis, no words, or a wrong ``event_ndims``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> likelihood = vi.likelihoods.bag_of_words(jnp.zeros(2))
        >>> print(jnp.exp(likelihood.log_prob(jnp.array([1, 1]))).round(3))
        0.25

    References:
        Miao, Yu and Blunsom (2016), eq. 5; Srivastava and Sutton (2017), section 3.
    """
    return _counts_of_words("bag_of_words", BagOfWords, logits, event_ndims)


def _counts_of_words(where, mass, logits, event_ndims):
    require_some(where, "logits", logits, "V", "give the vocabulary the last axis")
    return observation(where, mass(in_float(logits)), event_ndims)


class BagOfWords(dist.Distribution):
    """Tokens in order, as counts ``[*batch, V]``; made by ``bag_of_words``."""

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012
    support: Any = constraints.independent(constraints.nonnegative_integer, 1)
    data_rule = "be whole numbers of at least 0"
    data_remedy = "pass counts of words; weights such as tf-idf have no likelihood"

    def __init__(self, logits, *, validate_args=None):
        self.logits = logits
        shape = jnp.shape(logits)
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @validate_sample
    def log_prob(self, value) -> Float[Array, "*batch"]:
        """Per document, in nats."""
        log_probs = self._log_probs
        counts = jnp.asarray(value, log_probs.dtype)
        return (counts * jnp.where(counts == 0, 0.0, log_probs)).sum(-1)

    def sample(self, key: Any, sample_shape=()):
        """Refused: the total is the data's."""
        remedy = "draw from numpyro.distributions.Multinomial(total_count, logits=logits)"
        where = f"{type(self).__name__}.sample"
        raise refusal(where, "total", "be known", "a total that is the data's", remedy)

    @property
    def _log_probs(self):
        return jax.nn.log_softmax(jnp.asarray(self.logits), axis=-1)


class Multinomial(BagOfWords):
    """Counts ``[*batch, V]`` given their total; made by ``multinomial``."""

    @validate_sample
    def log_prob(self, value) -> Float[Array, "*batch"]:
        """Per document, in nats: V Poisson masses over that of their total, at the same means."""
        counts = jnp.asarray(value, self._log_probs.dtype)
        total = counts.sum(-1)
        log_total = jnp.log(jnp.maximum(total, 1))
        each = log_poisson(counts, log_total[..., None] + self._log_probs)
        return each.sum(-1) - log_poisson(total, log_total)
