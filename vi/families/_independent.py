"""A product of distributions over the leaves of any pytree."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Bool, Float, PyTree

from vi._check import is_reparameterised, refusal
from vi._mixed import (
    agreeing_sum,
    forced_rsample,
    has_path,
    partial_rsample,
    require_rsample,
    score_log_prob,
    scored_rsample,
)
from vi.types import Key, Variational


def independent(members: PyTree[Variational]) -> "Product":
    r"""Independent latents, one distribution per leaf of a pytree.

    .. math:: q(z) = \prod_i q_i(z_i)

    A draw has the structure of ``members``: for a Bayesian neural network, that of its parameters,
    with a normal per array, all axes of it the event. Members may be chains or products
    themselves. Where one depends on another use ``chain``.

    Args:
        members: A pytree (dicts, lists, tuples, ``nnx.State``) whose leaves are distributions, all
            of one batch.

    Returns:
        A family whose draws are that pytree of ``[*sample_shape, *batch, *event]``. It is a pytree
        itself.

    Raises:
        ValueError: No members, a leaf that is no distribution, or members of different batches.

    Examples:
        Every weight of a small network:

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> weights = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}
        >>> q = vi.families.independent(jax.tree.map(
        ...     lambda w: dist.Normal(w, 0.1).to_event(w.ndim), weights))
        >>> z = q.rsample(jax.random.key(0), (5,))
        >>> jax.tree.map(jnp.shape, z), q.log_prob(z).shape
        ({'bias': (5, 2), 'kernel': (5, 3, 2)}, (5,))
    """
    named = jax.tree.leaves_with_path(members, is_leaf=_is_member)
    if not named:
        remedy = "pass a pytree of distributions, {'a': q1, 'b': q2}"
        raise refusal("independent", "members", "hold at least one distribution", "none", remedy)
    batches = {}
    for path, member in named:
        name = f"members{jax.tree_util.keystr(path)}"
        if not _is_member(member):
            remedy = "pass distributions; vi.families.adapt takes those of other libraries"
            got = type(member).__name__
            raise refusal("independent", name, "be a distribution", got, remedy)
        if hasattr(member, "batch_shape"):
            batches[name] = tuple(member.batch_shape)
    if len(set(batches.values())) > 1:
        remedy = "expand to one batch, and make the other axes events (to_event)"
        raise refusal("independent", "members", "have one batch", batches, remedy)
    return Product(members)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Product:
    """A product of distributions over a pytree; made by ``independent``.

    Attributes:
        members: The distributions.
    """

    members: Any

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of the members; a product of chains has none."""
        shapes = (m.batch_shape for m in self._named.values() if hasattr(m, "batch_shape"))
        shape = next(shapes, None)
        if shape is None:
            raise AttributeError("no member has a batch_shape")
        return shape

    @property
    def has_rsample(self) -> bool:
        """Whether every member is reparameterised."""
        return all(is_reparameterised(member) for member in self._named.values())

    @property
    def independent_samples(self) -> bool:
        """Whether those of every member are."""
        return all(getattr(m, "independent_samples", True) for m in self._named.values())

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> PyTree[Array]:
        """Draw, leaves ``[*sample_shape, *batch, *event]``; carries no path."""
        z = self._draw(key, lambda name, member, key: member.sample(key, sample_shape))
        return jax.lax.stop_gradient(z)

    def rsample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> PyTree[Array]:
        """Draw with derivatives; refuses, by name, a member that has none."""

        def draw(name, member, key):
            require_rsample("independent", name, member)
            return member.rsample(key, sample_shape)

        return self._draw(key, draw)

    def partial_rsample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> PyTree[Array]:
        """Draw with derivatives where the member has them: for ``vi.gradients.mixed``."""
        return self._draw(key, lambda name, member, key: partial_rsample(member, key, sample_shape))

    def rsample_and_log_prob(
        self, key: Key, sample_shape: tuple[int, ...] = ()
    ) -> tuple[PyTree[Array], Float[Array, "*shape"]]:
        """Draw with derivatives, and score each member with its draw."""
        terms: dict[str, Any] = {}

        def draw(name, member, key):
            z, terms[name] = scored_rsample("independent", name, member, key, sample_shape)
            return z

        return self._draw(key, draw), agreeing_sum("independent", terms)

    @property
    def rsample_and_force(self) -> Any:
        """``(key, sample_shape) -> (z, log_q, force)``, d log_q / dz in the structure of z.

        Not there (an ``AttributeError``) unless a member has one, and all are reparameterised.
        """
        members = self._named.values()
        if not self.has_rsample or not any(hasattr(m, "rsample_and_force") for m in members):
            raise AttributeError("no member carries a force; draws are scored by log_prob")
        return self._draw_with_force

    def _draw_with_force(self, key, sample_shape=()):
        terms: dict[str, Any] = {}
        forces = []

        def draw(name, member, key):
            z, terms[name], force = forced_rsample("independent", name, member, key, sample_shape)
            forces.append(force)
            return z

        z = self._draw(key, draw)
        return z, agreeing_sum("independent", terms), jax.tree.unflatten(self._structure, forces)

    def log_prob(self, value: PyTree[Array], /) -> Float[Array, "*shape"]:
        """The sum of the members' log-densities, ``[*sample_shape, *batch]``, in nats."""
        return self._total(value, lambda member, z: member.log_prob(z))

    def score_log_prob(self, value: PyTree[Array], /) -> Float[Array, "*shape"]:
        """The same sum over the members whose draws have no derivative."""
        return self._total(value, score_log_prob)

    def has_path(self, value: PyTree[Array], /) -> PyTree[Bool]:
        """Whether each leaf of a draw has a derivative."""
        pairs = zip(self._named.values(), self._split(value), strict=True)
        return jax.tree.unflatten(self._structure, [has_path(member, z) for member, z in pairs])

    @property
    def _named(self) -> dict[str, Any]:
        named = jax.tree.leaves_with_path(self.members, is_leaf=_is_member)
        return {jax.tree_util.keystr(path) or "members": member for path, member in named}

    @property
    def _structure(self):
        return jax.tree.structure(self.members, is_leaf=_is_member)

    def _split(self, value) -> list[Any]:
        """The draws, member by member."""
        try:
            return self._structure.flatten_up_to(value)
        except (ValueError, TypeError, KeyError) as error:
            rule, remedy = "have the structure of the members", "pass what sample returned"
            got = jax.tree.structure(value)
            raise refusal("independent.log_prob", "value", rule, got, remedy) from error

    def _total(self, value, log_prob):
        pairs = zip(self._named.items(), self._split(value), strict=True)
        return agreeing_sum("independent", {n: log_prob(member, z) for (n, member), z in pairs})

    def _draw(self, key, draw):
        named = self._named
        keys = jax.random.split(key, len(named))
        draws = [draw(*item, keys[i]) for i, item in enumerate(named.items())]
        return jax.tree.unflatten(self._structure, draws)

    def __repr__(self) -> str:
        return f"independent({', '.join(self._named)})"


def _is_member(leaf) -> bool:
    """By its type: an ``nnx.Variable`` hands on the attributes of what it holds."""
    return isinstance(leaf, Variational) and hasattr(type(leaf), "sample")
