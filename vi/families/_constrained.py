"""A family on the whole space, carried to where the latents live."""

from typing import Any

import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.util import sum_rightmost, validate_sample

from vi._check import refusal
from vi._mixed import scored_rsample
from vi.types import Key


def constrained(q: dist.Distribution, support: constraints.Constraint) -> "Constrained":
    r"""An unconstrained family carried to a constraint by NumPyro's bijection, with its density.

    .. math:: z = f(u), \quad u \sim q, \qquad
              \log q(z) = \log q(u) - \log |\det \partial f(u) / \partial u|,
              \qquad f = \mathrm{biject\_to}(\mathrm{support}).

    A constraint on numbers (``positive``, ``interval``) applies to each entry of the event; one on
    vectors (``simplex``, ``lower_cholesky``) to its last axis, and sets its new shape: a simplex of
    M entries takes M - 1 numbers. For sets without volume (``simplex``, ``corr_cholesky``) the
    density is that in NumPyro's coordinates, as in its own priors.

    Draws are scored on their way, ``rsample_and_log_prob``, without an inverse, which is what
    ``reparam`` asks for. Near an edge, where float32 has no digits for what is left, the inverse is
    wrong or infinite: ``dreg``, ``vimco`` and ``score``, which score the point, are then wrong too.
    Use ``reparam``, or float64.

    Args:
        q: A NumPyro distribution of real numbers, a flow's or ``adapt``'s among them.
        support: A NumPyro constraint, for instance the support of the prior.

    Returns:
        A NumPyro distribution with the batch shape of ``q``.

    Raises:
        ValueError: A discrete or already constrained ``q``, a constraint to which NumPyro knows no
            bijection, an event of too low a rank or of a size that the constraint cannot have, or
            bounds that do not fit the event.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> from numpyro.distributions import constraints
        >>> u = vi.families.normal(jnp.zeros((4, 2)), scale=jnp.ones((4, 2)))
        >>> q = vi.families.constrained(u, constraints.simplex)
        >>> z = q.rsample(jax.random.key(0), (7,))
        >>> z.shape, q.log_prob(z).shape, bool(jnp.allclose(z.sum(-1), 1))
        ((7, 4, 3), (7, 4), True)

    References:
        Kucukelbir, Tran, Ranganath, Gelman and Blei (2017), section 2.3.
    """
    if not isinstance(q, dist.Distribution):
        remedy = "carry the members of a chain one by one; vi.families.adapt takes other libraries'"
        raise refusal("constrained", "q", "be a NumPyro distribution", type(q).__name__, remedy)
    known = _support_of(q)
    if known is not None and known.is_discrete:
        remedy = "constrain a continuous family"
        raise refusal("constrained", "q", "be continuous", type(q).__name__, remedy)
    if known is not None and not isinstance(known, _REAL):
        got, remedy = f"support {known}", "start from a normal, or a flow of one"
        raise refusal("constrained", "q", "be a family of real numbers", got, remedy)
    transform = _bijection(support)
    rank = transform.domain.event_dim
    if q.event_dim < rank:
        rule = f"have an event of rank {rank} or more for {_name(support)}"
        remedy = "make its last axes events (to_event)"
        raise refusal("constrained", "q", rule, f"event shape {list(q.event_shape)}", remedy)
    _require_fit(transform, support, q)
    return Constrained(q, transform, support)


class Constrained(dist.TransformedDistribution):
    """A transformed distribution that scores its own draws; made by ``constrained``."""

    pytree_data_fields = ("constraint",)

    def __init__(self, q: dist.Distribution, transform: Any, constraint: Any):
        self.constraint = constraint
        super().__init__(q, transform)

    @property
    def support(self) -> Any:
        """The constraint that was asked for; the transforms forget a sign that is traced."""
        outside = self.event_dim - self.constraint.event_dim
        return constraints.independent(self.constraint, outside) if outside else self.constraint

    def rsample_and_log_prob(
        self, key: Key, sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, Float[Array, "*shape"]]:
        """Draws with derivatives, ``[*sample_shape, *batch, *event]``, and their log-density."""
        x, log_q = scored_rsample("constrained", "q", self.base_dist, key, sample_shape)
        event_dim = self.base_dist.event_dim
        transform: Any
        for transform in self.transforms:
            y, intermediates = transform.call_with_intermediates(x)
            log_det = transform.log_abs_det_jacobian(x, y, intermediates)
            outside = event_dim - transform.domain.event_dim
            log_q = log_q - sum_rightmost(log_det, outside)
            event_dim = transform.codomain.event_dim + outside
            x = y
        return x, log_q

    @validate_sample
    def log_prob(self, value, intermediates: list[Any] | None = None):
        """The log-density in nats, ``[*sample_shape, *batch]``."""
        if intermediates is not None:
            return super().log_prob(value, intermediates)
        event_dim, total = self.event_dim, 0.0
        for transform in reversed(self.transforms):
            outside = event_dim - transform.codomain.event_dim
            value, log_det = _inverse(transform, value)
            total = total + sum_rightmost(log_det, outside)
            event_dim = transform.domain.event_dim + outside
        return total + self.base_dist.log_prob(value)

    @property
    def independent_samples(self) -> bool:
        """Whether the draws of one call are independent: as those of the base."""
        return getattr(self.base_dist, "independent_samples", True)


_REAL = tuple(type(c) for c in (constraints.real, constraints.real_vector, constraints.real_matrix))


def _support_of(q: Any) -> Any:
    """The constraint on the entries of the event, None where it is not known."""
    support = getattr(q, "support", None)
    while isinstance(support, constraints.independent) and not isinstance(support, _REAL):
        support = support.base_constraint
    return support


def _bijection(support: Any) -> Any:
    try:
        return biject_to(support)
    except (NotImplementedError, AttributeError) as error:
        rule, remedy = (
            "be one that biject_to knows",
            "pass one of numpyro.distributions.constraints",
        )
        raise refusal("constrained", "support", rule, _name(support), remedy) from error


def _require_fit(transform: Any, support: Any, q: dist.Distribution) -> None:
    try:
        shape = transform.forward_shape(q.shape())
    except (ValueError, TypeError) as error:
        rule = f"have an event that makes one of {_name(support)}"
        remedy = f"NumPyro says: {error}"
        raise refusal(
            "constrained", "q", rule, f"event shape {list(q.event_shape)}", remedy
        ) from error
    if transform.inverse_shape(shape) != q.shape():
        got = f"{list(shape)} from {list(q.shape())}"
        remedy = "give q the shape of the bounds, or bounds that broadcast to its event"
        raise refusal("constrained", "support", "keep the shape of q", got, remedy)


def _name(support: Any) -> str:
    return type(support).__name__.strip("_")


def _inverse(transform: Any, y):
    """``x`` and ``log |det dx / dy|``; a flow has both in one pass."""
    if hasattr(transform, "inverse_with_log_det"):
        return transform.inverse_with_log_det(y)
    x = transform.inv(y)
    return x, -transform.log_abs_det_jacobian(x, y)
