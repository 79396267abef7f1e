"""Pixels of a few levels, as a mixture of logistics that was rounded."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from vi._check import refusal
from vi._known import require_positive
from vi.likelihoods._discretised_logistic import DiscretisedLogistic, require_grid
from vi.likelihoods._event import Observation, observation
from vi.likelihoods._levels import Levels
from vi.likelihoods._parameters import (
    LEARN_IT,
    beside,
    in_float,
    require_some,
    require_trailing,
)


def discretised_logistic_mixture(
    logits: Float[Array, "*batch_and_event M"],
    loc: Float[Array, "*batch_and_event M"],
    *,
    scale: float | Float[Array, "*event_or_more M"],
    low: float,
    high: float,
    num_levels: int,
    event_ndims: int = 1,
) -> Observation:
    r"""Independent levels, each from a mixture of rounded logistics of its own.

    .. math:: P(x = k) = \sum_m \mathrm{softmax}(l)_m \, P_m(x = k)

    with :math:`P_m` a ``discretised_logistic``. The components are the last axis of every
    parameter, and no axis of the data. Channels are independent given the parameters.

    Args:
        logits: Of the components, ``[*batch, *event, M]``.
        loc: Likewise.
        scale: A scalar, or an array with the trailing axes of ``loc``; positive.
        low: Where level 0 stands, a known number.
        high: Where the last level stands.
        num_levels: At least 2; 256 for bytes.
        event_ndims: How many last axes of the *data* are one datum.

    Returns:
        A NumPyro distribution over level numbers; ``log_prob(x)`` is ``[*batch]``, in nats.

    Raises:
        ValueError: As ``discretised_logistic``; also no components, or logits without the shape
            of ``loc``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> likelihood = vi.likelihoods.discretised_logistic_mixture(
        ...     jnp.zeros((3, 64, 5)), jnp.zeros((3, 64, 5)), scale=0.1, low=-1, high=1,
        ...     num_levels=256)
        >>> likelihood.log_prob(jnp.zeros(64, int)).shape
        (3,)

    References:
        Salimans et al. (2017), section 2.1.
    """
    where = "discretised_logistic_mixture"
    require_grid(where, low, high, num_levels)
    require_some(where, "loc", loc, "M", "give the components the last axis")
    if jnp.shape(logits) != jnp.shape(loc):
        got = f"{list(jnp.shape(logits))} against {list(jnp.shape(loc))}"
        remedy = "give each component its logit, on the last axis"
        raise refusal(where, "logits", "have the shape of loc, [..., M]", got, remedy)
    require_trailing(where, "scale", scale, "loc", jnp.shape(loc))
    require_positive(where, "scale", scale, LEARN_IT)
    loc = in_float(loc)
    components = DiscretisedLogistic(loc, beside(loc, scale), low, high, num_levels)
    return observation(where, DiscretisedMixture(in_float(logits), components), event_ndims)


class DiscretisedMixture(Levels):
    """Levels ``[*batch]``; made by ``discretised_logistic_mixture``."""

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012
    pytree_data_fields = ("logits", "components")

    def __init__(self, logits, components, *, validate_args=None):
        self.logits, self.components = logits, components
        super().__init__(batch_shape=jnp.shape(logits)[:-1], validate_args=validate_args)

    @property
    def num_levels(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of its components."""
        return self.components.num_levels

    @validate_sample
    def log_prob(self, value) -> Float[Array, "*shape"]:
        """The log-probability of each level, in nats."""
        of_components = self.components.log_prob(jnp.asarray(value)[..., None])
        return jax.nn.logsumexp(self._log_weights + of_components, axis=-1)

    def sample(self, key: Any, sample_shape=()):
        """Draw level numbers, ``[*sample_shape, *batch]``."""
        of_which, of_level = jax.random.split(key)
        shape = self.shape(sample_shape)
        which = jax.random.categorical(of_which, jnp.asarray(self.logits), shape=shape)
        levels = self.components.sample(of_level, sample_shape)
        return jnp.take_along_axis(levels, which[..., None], axis=-1)[..., 0]

    @property
    def mean(self):
        """The mean level."""
        return (jnp.exp(self._log_weights) * self.components.mean).sum(-1)

    @property
    def _log_weights(self):
        return jax.nn.log_softmax(jnp.asarray(self.logits), axis=-1)
