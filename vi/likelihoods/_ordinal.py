"""One of M values per entry, in an order."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from vi._check import refusal
from vi._known import is_known
from vi.likelihoods._event import Observation, observation
from vi.likelihoods._levels import Levels, entry_at, log_logistic_mass
from vi.likelihoods._parameters import beside, in_float, require_trailing


def ordinal(
    predictor: Float[Array, "*batch_and_event"],
    *,
    cutpoints: Float[Array, "*event_or_more M-1"],
    event_ndims: int = 1,
) -> Observation:
    r"""Independent entries, each one of M ordered levels: the cumulative logit.

    .. math:: P(x \le k) = \sigma(c_k - \eta)

    A logistic variable around :math:`\eta`, seen through the M - 1 cutpoints. Cutpoints that are
    learned stay in order as ``jnp.cumsum`` of positive steps.

    Args:
        predictor: :math:`\eta`, ``[*batch, *event]``.
        cutpoints: ``[M - 1]``, rising; or with trailing axes of ``predictor`` before it, ``[*event,
            M - 1]``.
        event_ndims: How many last axes are one datum.

    Returns:
        A NumPyro distribution over 0 .. M - 1; ``log_prob(x)`` is ``[*batch]``, in nats.

    Raises:
        ValueError: No cutpoints, cutpoints that do not fit or are known not to rise, or a wrong
            ``event_ndims``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> likelihood = vi.likelihoods.ordinal(jnp.zeros((3, 1)), cutpoints=jnp.array([-1.0, 1.0]))
        >>> [f"{p:.3f}" for p in jnp.exp(likelihood.log_prob(jnp.arange(3)[:, None]))]
        ['0.269', '0.462', '0.269']

    References:
        McCullagh (1980), eq. 1.2.
    """
    if jnp.ndim(cutpoints) == 0 or jnp.shape(cutpoints)[-1] == 0:
        remedy = "pass the M - 1 numbers between the M levels"
        got = f"shape {list(jnp.shape(cutpoints))}"
        raise refusal("ordinal", "cutpoints", "be [..., M - 1] with M at least 2", got, remedy)
    full = (*jnp.shape(predictor), jnp.shape(cutpoints)[-1])
    require_trailing("ordinal", "cutpoints", cutpoints, "predictor, and M - 1", full)
    if is_known(cutpoints):
        steps = np.diff(np.asarray(cutpoints), axis=-1)
        if not ((steps > 0).all() and np.isfinite(np.asarray(cutpoints)).all()):
            remedy = "sort them, or learn positive steps and take jnp.cumsum"
            raise refusal("ordinal", "cutpoints", "rise and be finite", cutpoints, remedy)
    predictor = in_float(predictor)
    base = Ordinal(predictor, beside(predictor, cutpoints))
    return observation("ordinal", base, event_ndims)


class Ordinal(Levels):
    """Levels ``[*batch]``; made by ``ordinal``."""

    arg_constraints = {  # noqa: RUF012
        "predictor": constraints.real,
        "cutpoints": constraints.ordered_vector,
    }

    def __init__(self, predictor, cutpoints, *, validate_args=None):
        self.predictor, self.cutpoints = predictor, cutpoints
        super().__init__(batch_shape=jnp.shape(predictor), validate_args=validate_args)

    @property
    def num_levels(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """M, one more than cutpoints."""
        return jnp.shape(self.cutpoints)[-1] + 1

    @validate_sample
    def log_prob(self, value) -> Float[Array, "*shape"]:
        """The log-probability of each level, in nats."""
        level, last = jnp.asarray(value).astype(int), self.num_levels - 1
        lower, upper = self._cutpoint(level - 1), self._cutpoint(level)
        return log_logistic_mass(
            upper - self.predictor,
            lower - self.predictor,
            upper - lower,
            is_first=level <= 0,
            is_last=level >= last,
        )

    def _cutpoint(self, index):
        cutpoints = jnp.asarray(self.cutpoints)
        index = index.clip(0, self.num_levels - 2)
        return cutpoints[index] if cutpoints.ndim == 1 else entry_at(cutpoints, index)

    def sample(self, key: Any, sample_shape=()):
        """Draw levels, ``[*sample_shape, *batch]``."""
        predictor = jnp.asarray(self.predictor)
        z = predictor + jax.random.logistic(key, self.shape(sample_shape), predictor.dtype)
        return (z[..., None] > jnp.asarray(self.cutpoints)).sum(-1)

    @property
    def mean(self):
        """The mean level, ``[*batch]``."""
        predictor = jnp.asarray(self.predictor)[..., None]
        return jax.nn.sigmoid(predictor - jnp.asarray(self.cutpoints)).sum(-1)
