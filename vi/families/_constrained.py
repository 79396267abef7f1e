"""A family on the whole space, carried to where the latents live."""

from typing import Any

import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.util import sum_rightmost, validate_sample

from vi._check import is_reparameterised, refusal
from vi._mixed import forced_rsample, scored_rsample
from vi.families._edges import forward, forward_with_force
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

    Draws are scored on their way, without an inverse: ``rsample_and_log_prob``, for ``reparam``,
    and ``rsample_and_force``, for ``dreg``, with the derivative of the log-density carried through
    the bijection. Near an edge, where float32 has no digits for what is left, both keep those of
    the coordinates u. On vectors the force takes the dense Jacobian of m numbers by n,
    :math:`O(m n^2)` for each draw, and second derivatives are refused.

    What remains: a *given* point is carried back, and near an edge the inverse is wrong or
    infinite, so that ``log_prob``, and ``vimco`` and ``score`` with it, are wrong too; use
    ``reparam``, ``dreg`` or float64. Under ``dreg`` a draw whose slope underflows (a log-normal
    below 1e-38) is a constant; entries of an ordered vector that differ in float32's last digits
    alone keep as few of the gradient, and where they agree that part of it is left out.

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
        self.base_dist, self.transforms, self.constraint = q, [transform], constraint
        event_shape = transform.forward_shape(q.shape())[len(q.batch_shape) :]
        # past the parent's __init__, which would merge a flow into the bijection
        dist.Distribution.__init__(self, q.batch_shape, event_shape)

    @property
    def support(self) -> Any:
        """The constraint that was asked for; the transforms forget a sign that is traced."""
        outside = self.event_dim - self.constraint.event_dim
        return constraints.independent(self.constraint, outside) if outside else self.constraint

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()):
        """Draw ``[*sample_shape, *batch, *event]``."""
        return forward(self._transform, self.base_dist.sample(key, sample_shape))[0]

    def rsample(self, key: Any, sample_shape: tuple[int, ...] = ()):
        """Draw with derivatives."""
        return forward(self._transform, self.base_dist.rsample(key, sample_shape))[0]

    def rsample_and_log_prob(
        self, key: Key, sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, Float[Array, "*shape"]]:
        """Draws with derivatives, ``[*sample_shape, *batch, *event]``, and their log-density."""
        u, log_q = scored_rsample("constrained", "q", self.base_dist, key, sample_shape)
        z, log_det = forward(self._transform, u)
        return z, log_q - self._summed(log_det)

    @property
    def rsample_and_force(self) -> Any:
        """``(key, sample_shape) -> (z, log_q, force)``, with d log_q / d z of the shape of z.

        Not there (an ``AttributeError``) where the base is not reparameterised.
        """
        if not is_reparameterised(self.base_dist):
            raise AttributeError("the base is not reparameterised")
        return self._draw_with_force

    def _draw_with_force(self, key, sample_shape=()):
        u, log_q, force = forced_rsample("constrained", "q", self.base_dist, key, sample_shape)
        z, log_det, force = forward_with_force(self._transform, u, force)
        return z, log_q - self._summed(log_det), force

    def sample_with_intermediates(self, key: Any, sample_shape: tuple[int, ...] = ()):
        """Draw, and what ``log_prob`` needs to score the draw without an inverse."""
        u, kept = self.base_dist.sample_with_intermediates(key, sample_shape)
        z, log_det = forward(self._transform, u)
        return z, [u, log_det, kept]

    @validate_sample
    def log_prob(self, value, intermediates: list[Any] | None = None):
        """The log-density in nats, ``[*sample_shape, *batch]``: by an inverse, unless all is kept.

        Args:
            value: ``[*sample_shape, *batch, *event]``.
            intermediates: What ``sample_with_intermediates`` kept of it.
        """
        if intermediates:
            u, log_det, kept = intermediates
            log_q = self.base_dist.log_prob(u, kept) if kept else self.base_dist.log_prob(u)
        else:
            u = self._transform.inv(value)
            log_det = self._transform.log_abs_det_jacobian(u, value)
            log_q = self.base_dist.log_prob(u)
        return log_q - self._summed(log_det)

    @property
    def independent_samples(self) -> bool:
        """Whether the draws of one call are independent: as those of the base."""
        return getattr(self.base_dist, "independent_samples", True)

    def expand(self, batch_shape: tuple[int, ...]) -> "Constrained":
        """The same of an expanded base, so that draws are scored as they are drawn still."""
        base = self.base_dist.expand(tuple(batch_shape))
        return Constrained(base, self._transform, self.constraint)

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> "Constrained":
        """The same with the last batch axes made events."""
        base = self.base_dist.to_event(reinterpreted_batch_ndims)
        return Constrained(base, self._transform, self.constraint)

    @property
    def _transform(self) -> Any:
        return self.transforms[0]

    def _summed(self, log_det):
        """Over the axes of an event that the bijection takes one by one."""
        return sum_rightmost(log_det, self.base_dist.event_dim - self._transform.domain.event_dim)


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
