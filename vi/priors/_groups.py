"""Priors over several groups of latents, each given the groups before it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array, Float

from vi._check import refusal
from vi._mixed import agreeing_sum
from vi.priors._draws import each_alone
from vi.types import Key, Variational

Group = Variational | Callable[..., Variational]


def hierarchical(groups: Mapping[str, Group]) -> "Groups":
    r"""A hierarchy, top first: each group depends on the one above it.

    .. math:: p(z) = p(z_1) \, p(z_2 | z_1) \, p(z_3 | z_2) \cdots

    The prior of ladder and hierarchical autoencoders. The names are those of q's draws, as of
    ``vi.families.chain``, whose order may be the other one.

    Args:
        groups: Name to distribution, for the first, and to a function of the group before it, for
            the others: ``{"top": p1, "bottom": lambda top: p2(top)}``.

    Returns:
        A distribution over ``{name: [*sample_shape, *batch, *event]}``, with ``sample`` and
        ``log_prob``.

    Raises:
        ValueError: No groups, a first one that is a function, or a later one that is not.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> prior = vi.priors.hierarchical({
        ...     "top": dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        ...     "bottom": lambda top: dist.Normal(top.sum(-1)[..., None], 1.0).to_event(1),
        ... })
        >>> z = prior.sample(jax.random.key(0), (5,))
        >>> z["bottom"].shape, prior.log_prob(z).shape
        ((5, 1), (5,))
    """
    return Groups("hierarchical", groups, lambda earlier: earlier[-1:])


def autoregressive(groups: Mapping[str, Group]) -> "Groups":
    r"""Groups in an order, each given all those before it.

    .. math:: p(z) = \prod_g p(z_g | z_1, \dots, z_{g - 1})

    Args:
        groups: Name to distribution, for the first, and to a function of all earlier groups, in
            order, for the others: ``{"a": p1, "b": lambda a: ..., "c": lambda a, b: ...}``.

    Returns:
        A distribution over ``{name: [*sample_shape, *batch, *event]}``, with ``sample`` and
        ``log_prob``.

    Raises:
        ValueError: No groups, a first one that is a function, or a later one that is not.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> def given(*earlier):
        ...     return dist.Normal(sum(earlier), 1.0).to_event(1)
        >>> first = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
        >>> prior = vi.priors.autoregressive({"a": first, "b": given, "c": given})
        >>> prior.log_prob(prior.sample(jax.random.key(0), (5,))).shape
        (5,)
    """
    return Groups("autoregressive", groups, lambda earlier: earlier)


class Groups:
    """A distribution over named groups; made by ``hierarchical`` and ``autoregressive``.

    Draws are made one at a time, mapped: a function of earlier groups sees ``[*batch, *event]``.
    Scoring hands it whatever axes the value has, in front. It is no pytree: make it in the loss.
    """

    def __init__(
        self,
        where: str,
        groups: Mapping[str, Group],
        parents_of: Callable[[list[Array]], list[Array]],
    ):
        if not groups:
            remedy = 'pass {"top": p1, "bottom": lambda top: p2}'
            raise refusal(where, "groups", "name at least one group", "none", remedy)
        for place, (name, group) in enumerate(groups.items()):
            is_distribution = isinstance(group, Variational)
            if place == 0 and not is_distribution:
                remedy = "the first has no group before it"
                raise refusal(where, f"{name!r}", "be a distribution", type(group).__name__, remedy)
            if place > 0 and (is_distribution or not callable(group)):
                remedy = "write lambda *earlier: p if it depends on none of them"
                rule = "be a function of the groups before it"
                raise refusal(where, f"{name!r}", rule, type(group).__name__, remedy)
        self.where, self.groups, self._parents_of = where, dict(groups), parents_of

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> dict[str, Array]:
        """Draw every group, ``{name: [*sample_shape, *batch, *event]}``."""
        return each_alone(self._one, key, sample_shape)

    def log_prob(self, value: Mapping[str, Array], /) -> Float[Array, "*shape"]:
        """The log-density in nats, ``[*sample_shape, *batch]``; all groups at once."""
        if set(value) != set(self.groups):
            remedy = "give q's draws the names of the prior's groups"
            rule = f"have the groups {list(self.groups)}"
            raise refusal(f"{self.where}.log_prob", "value", rule, sorted(value), remedy)
        terms, earlier = {}, []
        for name in self.groups:
            terms[name] = self._group(name, earlier).log_prob(value[name])
            earlier.append(value[name])
        return agreeing_sum(self.where, terms)

    def _group(self, name: str, earlier: list[Array]) -> Any:
        group: Any = self.groups[name]
        return group(*self._parents_of(earlier)) if earlier else group

    def _one(self, key: Key) -> dict[str, Array]:
        z: dict[str, Array] = {}
        batches: dict[str, tuple[int, ...]] = {}
        keys = jax.random.split(key, len(self.groups))
        for i, name in enumerate(self.groups):
            group = self._group(name, list(z.values()))
            z[name] = group.sample(keys[i])
            batches[name] = _batch_shape(group, z[name])
            first = next(iter(batches))
            if batches[name] != batches[first]:
                got = f"{list(batches[name])} against {list(batches[first])}"
                remedy = "sum its event axes (to_event), or expand the first to the batch"
                raise refusal(self.where, f"{name!r}", f"have the batch of {first!r}", got, remedy)
        return z

    def __repr__(self) -> str:
        return f"{self.where}({', '.join(self.groups)})"


def _batch_shape(group: Any, z: Array) -> tuple[int, ...]:
    shape = getattr(group, "batch_shape", None)
    return jax.eval_shape(group.log_prob, z).shape if shape is None else tuple(shape)
