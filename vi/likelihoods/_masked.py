"""Data of which some entries are missing."""

import copy
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float
from numpyro.distributions import constraints

from vi._check import refusal
from vi.likelihoods._event import Observation, observation, require_observation


def masked(likelihood: Observation, mask: Bool[Array, "*event_or_more"]) -> Observation:
    r"""The likelihood of the observed entries alone.

    .. math:: \log p(x^{\mathrm{obs}}) = \sum_{i : m_i} \log p(x_i)

    Since entries are independent given the parameters, the missing ones sum or integrate to 1, and
    leaving them out is exact. They may hold anything, NaN too, and so may their parameters: both
    are replaced before anything is computed of them, so that neither the value nor a gradient sees
    them. Where nothing is observed the result is 0. Draws are of every entry.

    That the data say nothing by being missing (missing at random) is an assumption of this one.

    Args:
        likelihood: Any of this room whose entries are independent.
        mask: Boolean, True where *observed*; the trailing axes of the likelihood's parameters:
            ``[*event]``, or ``[*batch, *event]``.

    Returns:
        A likelihood of the same event.

    Raises:
        ValueError: A joint likelihood (``multinomial``, ``bag_of_words``), or a mask that is not
            boolean or does not fit.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> x = jnp.array([[1.0, jnp.nan], [jnp.nan, jnp.nan]])
        >>> likelihood = vi.likelihoods.normal(jnp.zeros((2, 2)), scale=1.0)
        >>> print(vi.likelihoods.masked(likelihood, ~jnp.isnan(x)).log_prob(x))
        [-1.4189385  0.       ]

    References:
        Mattei and Frellsen (2019), eq. 4.
    """
    require_observation("masked", likelihood)
    base = likelihood.base_dist
    if base.event_shape:
        remedy = "its entries are not independent: drop the word from the vocabulary"
        got = type(base).__name__
        raise refusal("masked", "likelihood", "have independent entries", got, remedy)
    if jnp.result_type(mask) != jnp.bool_:
        remedy = "pass True where observed: ~jnp.isnan(x)"
        raise refusal("masked", "mask", "be boolean", f"dtype {jnp.result_type(mask)}", remedy)
    shape, full = jnp.shape(mask), base.batch_shape
    if len(shape) < likelihood.event_dim or shape != full[len(full) - len(shape) :]:
        got = f"{list(shape)} against {list(full)}"
        remedy = "give it one entry per entry of the data"
        raise refusal("masked", "mask", "fit the trailing axes of the parameters", got, remedy)
    return observation("masked", Masked(base, mask), likelihood.event_dim)


class Observed(constraints.Constraint):
    """A constraint on the entries that a mask names."""

    def __init__(self, constraint, mask):
        self.constraint, self.mask = constraint, mask
        self.is_discrete, self.event_dim = constraint.is_discrete, constraint.event_dim

    def __call__(self, x):
        """Whether each entry is missing, or inside."""
        return self.constraint(x) | ~self.mask

    def feasible_like(self, prototype):
        """A value inside, for every entry."""
        return self.constraint.feasible_like(prototype)


class Masked(dist.Distribution):
    """Entries ``[*batch]`` of which some are scored; made by ``masked``."""

    arg_constraints = {}  # noqa: RUF012
    pytree_data_fields = ("base_dist", "observed")

    def __init__(self, base_dist, observed, *, validate_args=None):
        self.base_dist, self.observed = base_dist, observed
        super().__init__(batch_shape=base_dist.batch_shape, validate_args=validate_args)

    @constraints.dependent_property(event_dim=0)  # pyright: ignore[reportArgumentType]
    def support(self):
        """That of the likelihood, where observed."""
        return Observed(self.base_dist.support, self.observed)

    @property
    def data_rule(self) -> str:
        """That of the likelihood."""
        return getattr(self.base_dist, "data_rule", "be finite") + " where observed"

    @property
    def data_remedy(self) -> str:
        """That of the likelihood, or the mask's."""
        return getattr(self.base_dist, "data_remedy", "the mask is True where observed")

    def log_prob(self, value) -> Float[Array, "*shape"]:
        """Per entry, in nats, and 0 where missing."""
        value = jnp.asarray(value)
        safe = jnp.where(self.observed, value, self.base_dist.support.feasible_like(value))
        log_prob = _safe_where_missing(self.base_dist, self.observed).log_prob(safe)
        return jnp.where(self.observed, log_prob, jnp.zeros_like(log_prob))

    def sample(self, key: Any, sample_shape=()):
        """Draw every entry, ``[*sample_shape, *batch]``."""
        return self.base_dist.sample(key, sample_shape)

    @property
    def mean(self):
        """Of every entry."""
        return self.base_dist.mean

    @property
    def variance(self):
        """Of every entry."""
        return self.base_dist.variance


def _safe_where_missing(base: Any, observed) -> Any:
    """``base`` with each parameter well inside of its range at the missing entries.

    There the likelihood of a parameter that ran away would be infinite, and its slope, times zero,
    NaN.
    """
    safe, observed = copy.copy(base), jnp.asarray(observed)
    for name, constraint in base.arg_constraints.items():
        value = jnp.asarray(getattr(base, name))
        at = _with_axes(observed, constraint.event_dim)
        setattr(safe, name, jnp.where(at, value, constraint.feasible_like(value)))
    for name in base.gather_pytree_data_fields():
        part = getattr(base, name)
        if isinstance(part, dist.Distribution):
            num_own = max(0, len(part.batch_shape) - len(base.batch_shape))  # components
            setattr(safe, name, _safe_where_missing(part, _with_axes(observed, num_own)))
    return safe


def _with_axes(observed, num_axes: int):
    return jnp.expand_dims(observed, range(observed.ndim, observed.ndim + num_axes))
