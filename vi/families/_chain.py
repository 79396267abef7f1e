"""Hierarchical families over named latents."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import refusal
from vi._mixed import (
    agreeing_sum,
    forced_rsample,
    has_path,
    once,
    partial_rsample,
    require_rsample,
    score_log_prob,
    scored_rsample,
)
from vi.types import Key, Variational

Member = Variational | Callable[..., Variational]


def chain(members: Mapping[str, Member]) -> "Chain":
    r"""A joint family whose later latents depend on earlier ones, in the order given.

    .. math:: q(z_1, z_2, \dots) = q(z_1) \, q(z_2 | z_1) \cdots

    Args:
        members: Name to distribution, or to a function from earlier latents, found by its argument
            names, to a distribution: ``{"z1": q1, "z2": lambda z1: q2(z1)}``.

    Returns:
        A family whose draws are ``{name: [*sample_shape, *batch, *event]}``.

    Raises:
        ValueError: No members, a function of latents that do not come before it, a first member
            that is a function, or (on drawing) a conditional that lost the sample axis.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> q = vi.families.chain({
        ...     "z1": vi.families.normal(jnp.zeros((4, 2)), scale=jnp.ones((4, 2))),
        ...     "z2": lambda z1: vi.families.normal(z1, scale=jnp.ones_like(z1)),
        ... })
        >>> z = q.rsample(jax.random.key(0), (7,))
        >>> {name: value.shape for name, value in z.items()}, q.log_prob(z).shape
        ({'z1': (7, 4, 2), 'z2': (7, 4, 2)}, (7, 4))
    """
    return Chain(members)


class Chain:
    """A chain of distributions over named latents; made by ``chain``."""

    def __init__(self, members: Mapping[str, Member]):
        if not members:
            remedy = 'pass {"z1": q1, "z2": lambda z1: q2}'
            raise refusal("chain", "members", "name at least one latent", "none", remedy)
        self.members = dict(members)
        self._parents: dict[str, tuple[str, ...]] = {}
        earlier: list[str] = []
        for name, member in self.members.items():
            if not isinstance(member, Variational):
                self._parents[name] = _parents(name, member, earlier)
            earlier.append(name)

    @property
    def independent_samples(self) -> bool:
        """Whether those of every member that draws along the sample axes are."""
        return all(getattr(member, "independent_samples", True) for member in self.members.values())

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> dict[str, Array]:
        """Draw every latent, ``{name: [*sample_shape, *batch, *event]}``; carries no path."""
        return jax.lax.stop_gradient(self._draw(key, sample_shape, _sample))

    def rsample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> dict[str, Array]:
        """Draw every latent with derivatives; refuses, by name, a member that has none."""
        return self._draw(key, sample_shape, _rsample)

    def partial_rsample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> dict[str, Array]:
        """Draw every latent, with derivatives where its member has them: for ``mixed``."""
        return self._draw(key, sample_shape, _partial_rsample)

    def rsample_and_log_prob(
        self, key: Key, sample_shape: tuple[int, ...] = ()
    ) -> tuple[dict[str, Array], Float[Array, "*shape"]]:
        """Draw every latent with derivatives, and score each with its draw."""
        terms: dict[str, Any] = {}

        def draw(name, member, key, sample_shape):
            z, terms[name] = scored_rsample("chain", f"{name!r}", member, key, sample_shape)
            return z

        return self._draw(key, sample_shape, draw), agreeing_sum("chain", terms)

    @property
    def rsample_and_force(self) -> Any:
        r"""``(key, sample_shape) -> (z, log_q, force)``, d log_q / dz named as z is.

        A latent's force is that of its own density, and of those of all that depend on it:

        .. math:: \partial_{z_i} \log q(z_j | z_i) = \partial_{z_i} \log q_j
                  - force_j \cdot \partial_{z_i} z_j

        with the noise of z_j held on the right, which costs one more pass of a member that has a
        force itself. Not there (an ``AttributeError``) unless a member has one, which a chain with
        conditionals finds out by drawing once in the abstract.
        """
        if not self._some_carry_a_force():
            raise AttributeError("no member carries a force; draws are scored by log_prob")
        return self._draw_with_force

    def _some_carry_a_force(self) -> bool:
        found = [hasattr(member, "rsample_and_force") for member in self.members.values()]

        def draw(name, member, key, sample_shape):
            found.append(hasattr(member, "rsample_and_force"))
            return partial_rsample(member, key, sample_shape)

        if self._parents and not any(found):
            jax.eval_shape(lambda: self._draw(jax.random.key(0), (1,), draw))
        return any(found)

    def _draw_with_force(self, key, sample_shape=()):
        z: dict[str, Any] = {}
        terms: dict[str, Any] = {}
        forces: dict[str, Any] = {}

        def draw(name, member, key, sample_shape):
            z[name], terms[name], forces[name] = forced_rsample(
                "chain", f"{name!r}", member, key, sample_shape
            )
            for parent, force in self._on_parents(name, member, key, z, forces[name]).items():
                forces[parent] = jax.tree.map(jnp.add, forces[parent], force)
            return z[name]

        self._draw(key, sample_shape, draw)
        return z, agreeing_sum("chain", terms), once(forces)

    def _on_parents(self, name, member, key, z, force) -> dict[str, Any]:
        """The derivative of the conditional's log-density in its parents, its own draw held."""
        parents = {parent: z[parent] for parent in self._parents.get(name, ())}
        if not parents:
            return {}
        if not hasattr(member, "rsample_and_force"):
            log_q, pull = jax.vjp(lambda at: self._member(name, at).log_prob(z[name]), parents)
            return pull(jnp.ones_like(log_q))[0]
        key = jax.random.clone(key)

        def scored(at):
            return scored_rsample("chain", f"{name!r}", self._member(name, at), key)

        (_, log_q), pull = jax.vjp(scored, parents)
        return pull((jax.tree.map(jnp.negative, force), jnp.ones_like(log_q)))[0]

    def log_prob(self, value: Mapping[str, Array], /) -> Float[Array, "*shape"]:
        """The sum of the members' log-densities, ``[*sample_shape, *batch]``, in nats."""
        return self._total(value, _log_prob)

    def score_log_prob(self, value: Mapping[str, Array], /) -> Float[Array, "*shape"]:
        """The same sum over the members whose draws have no derivative."""
        return self._total(value, score_log_prob)

    def has_path(self, value: Mapping[str, Array], /) -> dict[str, Any]:
        """Whether the draws of each latent have a derivative."""
        return {name: has_path(self._member(name, value), value[name]) for name in self.members}

    def _total(self, value, log_prob) -> Any:
        if set(value) != set(self.members):
            got, remedy = sorted(value), "pass what sample or rsample returned"
            raise refusal("chain.log_prob", "value", f"have {list(self.members)}", got, remedy)
        terms = {n: log_prob(self._member(n, value), value[n]) for n in self.members}
        return agreeing_sum("chain", terms)

    def _draw(self, key, sample_shape, draw):
        z: dict[str, Array] = {}
        lead = None
        for name, subkey in zip(
            self.members, jax.random.split(key, len(self.members)), strict=True
        ):
            member = self._member(name, z)
            free = name not in self._parents
            z[name] = draw(name, member, subkey, sample_shape if free else ())
            batch = tuple(getattr(member, "batch_shape", ()))
            shape = (*sample_shape, *batch) if free else batch
            lead = shape if lead is None else lead
            if hasattr(member, "batch_shape") and shape != lead:
                got = f"{list(shape)} against {list(lead)} of {next(iter(z))!r}"
                remedy = (
                    "give every member the same batch, and make a conditional depend on its parents"
                    " along every axis (one that does not is a distribution, not a function)"
                )
                raise refusal("chain", f"{name!r}", "have one entry per draw", got, remedy)
        return z

    def _member(self, name: str, z: Mapping[str, Array]) -> Any:
        member: Any = self.members[name]
        if name not in self._parents:
            return member
        return member(**{parent: z[parent] for parent in self._parents[name]})

    def __repr__(self) -> str:
        terms = (
            f"{n} | {', '.join(self._parents[n])}" if n in self._parents else n
            for n in self.members
        )
        return f"chain({'; '.join(terms)})"


def _parents(name: str, member: Any, earlier: list[str]) -> tuple[str, ...]:
    remedy = f"name its arguments after latents that come before it: {earlier}"
    if not callable(member):
        rule = "be a distribution or a function of earlier latents"
        raise refusal("chain", f"{name!r}", rule, type(member).__name__, remedy)
    arguments = inspect.signature(member).parameters.values()
    parents = tuple(a.name for a in arguments if a.default is inspect.Parameter.empty)
    if not parents or not set(parents) <= set(earlier):
        got = f"a function of {list(parents)}"
        raise refusal("chain", f"{name!r}", "depend on earlier latents alone", got, remedy)
    return parents


def _sample(name, member, key, sample_shape):
    return member.sample(key, sample_shape)


def _rsample(name, member, key, sample_shape):
    require_rsample("chain", f"{name!r}", member)
    return member.rsample(key, sample_shape)


def _log_prob(member, z):
    return member.log_prob(z)


def _partial_rsample(name, member, key, sample_shape):
    return partial_rsample(member, key, sample_shape)
