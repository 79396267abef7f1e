"""Counts with more zeros than their distribution has."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from vi._check import refusal
from vi.likelihoods._event import Observation, observation, require_observation
from vi.likelihoods._parameters import require_trailing


def zero_inflated(
    likelihood: Observation, *, gate_logits: float | Float[Array, "*event_or_more"]
) -> Observation:
    r"""Counts that are zero for another reason too, with probability :math:`\sigma(g)`.

    .. math:: p(x) = \sigma(g) \, [x = 0] + \sigma(-g) \, p_0(x)

    entry by entry. It owns the gate; :math:`p_0` owns the rest.

    Args:
        likelihood: Of counts: ``poisson`` or ``negative_binomial``.
        gate_logits: g: a scalar, or an array with the trailing axes of the likelihood's parameters.

    Returns:
        A likelihood of the same event.

    Raises:
        ValueError: Another likelihood, or a gate that does not fit.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> counts = vi.likelihoods.poisson(jnp.zeros((3, 4)))
        >>> vi.likelihoods.zero_inflated(counts, gate_logits=jnp.zeros(4)).log_prob(
        ...     jnp.array([0, 0, 1, 2])).shape
        (3,)

    References:
        Lambert (1992), section 2.
    """
    require_observation("zero_inflated", likelihood)
    base = likelihood.base_dist
    if base.support is not constraints.nonnegative_integer:
        remedy = "pass poisson or negative_binomial (and mask what comes out)"
        got = type(base).__name__
        raise refusal("zero_inflated", "likelihood", "be one of counts", got, remedy)
    full = base.batch_shape
    require_trailing("zero_inflated", "gate_logits", gate_logits, "the likelihood", full)
    return observation("zero_inflated", ZeroInflated(base, gate_logits), likelihood.event_dim)


class ZeroInflated(dist.Distribution):
    """Counts ``[*batch]``; made by ``zero_inflated``.

    NumPyro 0.22 subtracts the gate's logit and adds it again, which at a logit of -1e4 costs the
    digits of everything else.
    """

    arg_constraints = {"gate_logits": constraints.real}  # noqa: RUF012
    pytree_data_fields = ("base_dist", "gate_logits")
    support: Any = constraints.nonnegative_integer
    data_rule = "be whole numbers of at least 0"
    data_remedy = "pass counts as they were counted, neither scaled nor logged"

    def __init__(self, base_dist, gate_logits, *, validate_args=None):
        self.base_dist, self.gate_logits = base_dist, gate_logits
        super().__init__(batch_shape=base_dist.batch_shape, validate_args=validate_args)

    @validate_sample
    def log_prob(self, value) -> Float[Array, "*shape"]:
        """Per count, in nats."""
        through = self.base_dist.log_prob(value)
        gate = jnp.asarray(self.gate_logits, through.dtype)
        through = through - jax.nn.softplus(gate)
        is_zero = jnp.asarray(value) == 0
        return jnp.where(is_zero, jnp.logaddexp(-jax.nn.softplus(-gate), through), through)

    def sample(self, key: Any, sample_shape=()):
        """Draw counts, ``[*sample_shape, *batch]``."""
        of_gate, of_count = jax.random.split(key)
        shut = jax.random.bernoulli(of_gate, self._gate, self.shape(sample_shape))
        return jnp.where(shut, 0, self.base_dist.sample(of_count, sample_shape))

    @property
    def mean(self):
        """That of the counts, times the probability that they are let through."""
        return (1 - self._gate) * self.base_dist.mean

    @property
    def variance(self):
        """Of the mixture."""
        mean, gate = self.base_dist.mean, self._gate
        return (1 - gate) * (self.base_dist.variance + gate * mean**2)

    @property
    def _gate(self):
        return jax.nn.sigmoid(jnp.asarray(self.gate_logits, jnp.result_type(self.base_dist.mean)))
