"""One of M values per entry, in no order."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from vi.likelihoods._event import Observation, observation
from vi.likelihoods._levels import Levels, entry_at
from vi.likelihoods._parameters import in_float, require_some


def categorical(logits: Float[Array, "*batch_and_event M"], *, event_ndims: int = 1) -> Observation:
    r"""Independent entries, each one of M classes: "softmax cross-entropy, summed".

    .. math:: \log p(x) = \sum_i \log \mathrm{softmax}(l_i)_{x_i}

    Args:
        logits: ``[*batch, *event, M]``; the classes are the last axis, and no axis of the data.
        event_ndims: How many last axes of the *data* are one datum.

    Returns:
        A NumPyro distribution over 0 .. M - 1; ``log_prob(x)`` is ``[*batch]``, in nats.

    Raises:
        ValueError: No class axis, no classes, or a wrong ``event_ndims``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> vi.likelihoods.categorical(jnp.zeros((5, 3, 64, 256))).log_prob(
        ...     jnp.zeros((3, 64), int)).shape
        (5, 3)
    """
    require_some("categorical", "logits", logits, "M", "give the classes the last axis")
    return observation("categorical", Categorical(in_float(logits)), event_ndims)


class Categorical(Levels):
    """Classes ``[*batch]``; made by ``categorical``.

    NumPyro 0.22 subtracts the logsumexp from the logits, which loses the digits of logits that are
    large together.
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012

    def __init__(self, logits, *, validate_args=None):
        self.logits = logits
        super().__init__(batch_shape=jnp.shape(logits)[:-1], validate_args=validate_args)

    @property
    def num_levels(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """M, the number of classes."""
        return jnp.shape(self.logits)[-1]

    @validate_sample
    def log_prob(self, value) -> Float[Array, "*shape"]:
        """The log-probability of each class, in nats."""
        log_probs = jax.nn.log_softmax(jnp.asarray(self.logits), axis=-1)
        return entry_at(log_probs, jnp.asarray(value).astype(int))

    def sample(self, key: Any, sample_shape=()):
        """Draw classes, ``[*sample_shape, *batch]``."""
        logits = jnp.asarray(self.logits)
        return jax.random.categorical(key, logits, shape=self.shape(sample_shape))
