"""Mixtures of independent univariates, with a path; and their draws in strata."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from vi._check import is_reparameterised, refusal
from vi.families._implicit import with_path
from vi.types import Key


def mixture(logits: Float[Array, "*batch M"], components: dist.Distribution) -> "Mixture":
    r"""A mixture of M distributions over D independent numbers each, reparameterised.

    .. math:: q(z) = \sum_m \pi_m \prod_d f_m(z_d), \qquad \pi = \mathrm{softmax}(\ell).

    NumPyro's mixture with a path: ``rsample`` draws as it does and differentiates implicitly, at
    fixed values of the distribution functions of each dimension given those before. The
    derivative reaches the weights and every parameter of the components, at :math:`O(D M)` a draw.
    It depends on the order of the dimensions; its mean does not. Components far apart have a
    rare, large derivative where a draw falls between them: ``component_draws`` with
    ``vi.bounds.stratified_elbo`` has none of that, at M draws or more.

    Args:
        logits: Unnormalised log-weights ``[*batch, M]``.
        components: A NumPyro distribution with batch shape ``[*batch, M]`` and event shape ``[D]``,
            made by ``.to_event(1)`` of reparameterised univariates that have a ``cdf``: normal,
            Laplace, logistic, Cauchy, Gumbel, gamma and others; all of one support that no
            parameter moves. Of a Student-t the degrees of freedom must be constant, and of a
            beta both parameters: JAX has no derivative of their ``cdf`` in these.

    Returns:
        A NumPyro distribution with batch shape ``[*batch]`` and event shape ``[D]``.

    Raises:
        ValueError: Weights that do not match the components, components that are not independent
            univariates with a distribution function, or whose support depends on parameters; on
            differentiation, a parameter in which the distribution function has no derivative.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> def second_moment(loc):
        ...     components = vi.families.normal(loc, scale=jnp.ones((2, 1)))
        ...     q = vi.families.mixture(jnp.zeros(2), components)
        ...     return (q.rsample(jax.random.key(0), (100_000,)) ** 2).mean()
        >>> gradient = jax.jit(jax.grad(second_moment))
        >>> print(gradient(jnp.array([[-1.0], [1.0]])).round(1).T)  # exactly loc
        [[-1.  1.]]

    References:
        Figurnov, Mohamed and Mnih (2018); Graves (2016), for the mixture of diagonal Gaussians.
    """
    where = "mixture"
    if not isinstance(components, dist.Independent) or components.reinterpreted_batch_ndims != 1:
        rule = "be D independent univariates"
        remedy = (
            "make them with .to_event(1); for others use numpyro's MixtureSameFamily and score, or"
            " component_draws"
        )
        raise refusal(where, "components", rule, _described(components), remedy)
    if components.base_dist.event_shape != ():
        remedy = "make them of univariates with .to_event(1)"
        got = f"events {list(components.event_shape)}"
        raise refusal(where, "components", "have events [D]", got, remedy)
    require_weights(where, logits, components)
    if not is_reparameterised(components) or not _has_cdf(components.base_dist):
        rule = "be reparameterised univariates with a distribution function"
        remedy = "use numpyro's MixtureSameFamily, which has score alone, or component_draws"
        raise refusal(where, "components", rule, _described(components), remedy)
    if not isinstance(components.base_dist.support, constraints.ParameterFreeConstraint):
        rule, remedy = (
            "have a support that no parameter moves",
            "where they share known bounds, carry a mixture to them with vi.families.constrained",
        )
        raise refusal(where, "components", rule, _described(components), remedy)
    return Mixture(dist.CategoricalLogits(logits), components)


class Mixture(dist.MixtureSameFamily):
    """NumPyro's, with a path; made by ``mixture``."""

    @property
    def has_rsample(self) -> bool:
        """True."""
        return True

    def sample(self, key: Any, sample_shape=()):
        """Draw ``[*sample_shape, *batch, D]``; carries no path."""
        return jax.lax.stop_gradient(super().sample(key, sample_shape))

    def rsample(self, key: Any, sample_shape=()):
        """Draw the same, with implicit derivatives."""
        z = self.sample(key, sample_shape)
        components: Any = self.component_distribution
        return with_path(z, self.mixing_distribution.logits, _unexpanded(components.base_dist))


def component_draws(q: dist.MixtureSameFamily) -> "ComponentDraws":
    r"""A mixture drawn in strata: draw k comes from component k mod M.

    For ``vi.bounds.stratified_elbo`` and ``stratified_iwae``, which give each component its weight,
    and no other bound: the draws of one call are not draws of q. Their path is each component's
    own, so that any reparameterised components will do, correlated ones too; the weights learn
    through the bound. ``log_prob`` is that of the mixture.

    Draws depend on their place inside K: ``dreg``, ``score``, ``vimco`` and ``wake`` refuse them,
    and ``reparam`` is right. They come in rounds of all M components, so that ``chunk_size`` may
    split K anywhere between rounds.

    Args:
        q: ``mixture(...)``, or NumPyro's ``MixtureSameFamily`` of reparameterised components.

    Returns:
        A family with batch and event of ``q``, drawn by ``sample_shape`` ``(K,)``, K a multiple of
        M.

    Raises:
        ValueError: ``q`` is not a mixture of one family; on drawing, a K that is not a multiple of
            M, or components without a path.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> logits = jnp.log(jnp.array([0.2, 0.8]))
        >>> components = vi.families.normal(jnp.array([[-9.0], [9.0]]), scale=jnp.ones((2, 1)))
        >>> q = vi.families.component_draws(vi.families.mixture(logits, components))
        >>> print(jnp.sign(q.rsample(jax.random.key(0), (6,)))[:, 0])
        [-1.  1. -1.  1. -1.  1.]
        >>> objective = vi.gradients.reparam(vi.bounds.stratified_elbo(logits))
        >>> print(objective(jax.random.key(1), q, q.log_prob, 6))  # against q itself: no divergence
        0.0

    References:
        Roeder, Wu and Duvenaud (2017), section 4; Morningstar, Vikram, Ham, Gallagher and Dillon
        (2021).
    """
    if not isinstance(q, dist.MixtureSameFamily):
        remedy = "pass vi.families.mixture(logits, components)"
        raise refusal("component_draws", "q", "be a mixture", type(q).__name__, remedy)
    return ComponentDraws(q)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ComponentDraws:
    """A mixture whose draws go round its components; made by ``component_draws``.

    Attributes:
        q: The mixture.
        independent_samples: False, which estimators read.
    """

    q: Any
    independent_samples = False

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of the mixture."""
        return self.q.batch_shape

    @property
    def event_shape(self) -> tuple[int, ...]:
        """That of the mixture."""
        return self.q.event_shape

    @property
    def has_rsample(self) -> bool:
        """Whether the components are reparameterised."""
        return is_reparameterised(self.q.component_distribution)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw ``[K, *batch, *event]``; carries no path."""
        return jax.lax.stop_gradient(self._draw(key, sample_shape, "sample"))

    def rsample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw with the derivatives of each component."""
        if not self.has_rsample:
            got = _described(self.q.component_distribution)
            remedy = "use reparameterised components"
            raise refusal("component_draws", "q", "have components with a path", got, remedy)
        return self._draw(key, sample_shape, "rsample")

    def log_prob(self, value: Array, /) -> Array:
        """The mixture's log-density in nats, ``[K, *batch]``."""
        return self.q.log_prob(value)

    def _draw(self, key, sample_shape, draw):
        M, axis = self.q.mixture_size, len(self.batch_shape) + 1
        if len(sample_shape) != 1 or sample_shape[0] % M:
            remedy = f"draw a multiple of {M}, in chunks of a multiple of {M}"
            raise refusal(
                "component_draws",
                "sample_shape",
                "be one axis of whole rounds",
                sample_shape,
                remedy,
            )
        rounds = sample_shape[0] // M
        z = getattr(self.q.component_distribution, draw)(key, (rounds,))
        return jnp.moveaxis(z, axis, 1).reshape(*sample_shape, *self.batch_shape, *self.event_shape)


def require_weights(where: str, logits, components) -> None:
    """Refuse weights that do not match: one for each component of each batch entry."""
    shape = tuple(components.batch_shape)
    if not shape or jnp.shape(logits) != shape:
        got = f"weights {list(jnp.shape(logits))} for components {list(shape)}"
        remedy = "give logits [*batch, M] and components of batch shape [*batch, M]"
        raise refusal(where, "logits", "match the components", got, remedy)


def _described(components) -> str:
    base = getattr(components, "base_dist", None)
    name = type(components).__name__
    return name if base is None else f"{name}({type(_unexpanded(base)).__name__})"


def _unexpanded(univariates):
    """What an expanded distribution repeats, which alone has the ``cdf``."""
    if isinstance(univariates, dist.ExpandedDistribution):
        return univariates.base_dist
    return univariates


def _has_cdf(univariates) -> bool:
    """NumPyro raises where it has none."""
    univariates = _unexpanded(univariates)
    z = jax.ShapeDtypeStruct(tuple(univariates.batch_shape), jnp.result_type(float))
    try:
        jax.eval_shape(univariates.cdf, z)
    except (AttributeError, ImportError, NotImplementedError):
        return False
    return True
