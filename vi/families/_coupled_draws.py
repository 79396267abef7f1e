"""The family whose draws are coupled."""

import copy
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, PyTree

from vi._check import is_reparameterised, refusal
from vi._mixed import has_path, score_log_prob
from vi.families._chain import Chain
from vi.families._inverse import from_uniforms, noise_shape
from vi.families._uniforms import PointSet
from vi.types import Key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Coupled:
    """A family whose draws are coupled along the last axis of ``sample_shape``.

    Made by ``antithetic``, ``stratified`` and ``quasi``. Along every other axis, those of the batch
    among them, the randomisation is fresh and the draws are independent. With several leading
    axes, ``(K, S)``, each k has its points in an order of its own.

    Attributes:
        q: The family that every draw follows.
        name: What made it.
        points: The uniforms that it draws from.
        independent_samples: False, which estimators read.
    """

    q: Any
    name: str = dataclasses.field(metadata={"static": True})
    points: PointSet = dataclasses.field(metadata={"static": True})
    independent_samples = False

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of ``q``; a chain has none."""
        return self.q.batch_shape

    @property
    def event_shape(self) -> tuple[int, ...]:
        """That of ``q``; a chain has none."""
        return self.q.event_shape

    @property
    def has_rsample(self) -> bool:
        """Whether ``q`` is reparameterised."""
        return is_reparameterised(self.q)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> PyTree[Array]:
        """Draw, ``[*sample_shape, *batch, *event]``; carries no path."""
        return jax.lax.stop_gradient(self._draw(key, sample_shape, _at))

    def rsample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> PyTree[Array]:
        """Draw with derivatives; refuses, by name, what has none."""

        def draw(name, member, u):
            if not is_reparameterised(member):
                remedy = "use an estimator that draws with sample (score, vimco), or mixed"
                got = type(member).__name__
                raise refusal(self.name, repr(name), "be reparameterised", got, remedy)
            return _at(name, member, u)

        return self._draw(key, sample_shape, draw)

    def partial_rsample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> PyTree[Array]:
        """Draw with derivatives wherever ``q`` has them: for ``vi.gradients.mixed``."""
        return self._draw(key, sample_shape, _at)

    @property
    def rsample_and_log_prob(self) -> Any:
        """As that of ``q``, where it scores its draws as it draws them; not there otherwise."""
        return self._scored("rsample_and_log_prob")

    @property
    def rsample_and_force(self) -> Any:
        """As that of ``q``, where it has one; not there otherwise, nor of a chain."""
        return self._scored("rsample_and_force")

    def log_prob(self, value: PyTree[Array], /) -> Float[Array, "*shape"]:
        """That of ``q``: of each draw alone."""
        return self.q.log_prob(value)

    def has_path(self, value: PyTree[Array], /) -> PyTree[bool]:
        """Whether each leaf of a draw has a derivative."""
        return has_path(self.q, value)

    def score_log_prob(self, value: PyTree[Array], /) -> Float[Array, "*shape"]:
        """The log-probability of the leaves through which no derivative flows."""
        return score_log_prob(self.q, value)

    def _scored(self, method: str):
        if isinstance(self.q, Chain) or not hasattr(self.q, method):
            raise AttributeError(f"{type(self.q).__name__} has no {method}")

        def drawn(key, sample_shape=()):
            scored: list[Any] = []

            def draw(name, member, u):
                scored[:] = getattr(given_uniforms(member, u), method)(None, sample_shape)
                return scored[0]

            self._draw(key, sample_shape, draw)
            return tuple(scored)

        return drawn

    def _draw(self, key, sample_shape, draw_at):
        order_key, key = jax.random.split(key)
        order = _orders(order_key, sample_shape)
        axis = len(sample_shape) - 1
        used = 0

        def draw(name, member, key, own_shape):
            nonlocal used
            if isinstance(member, Chain):
                return member._draw(key, own_shape, draw)
            noise = noise_shape(self.name, member)
            dims = range(used, used + math.prod(noise))
            used = dims.stop
            shape = (*own_shape, *member.batch_shape)
            if shape[: len(sample_shape)] != tuple(sample_shape):
                got = f"{list(shape)} for draws {list(sample_shape)}"
                remedy = "make a conditional depend on its parents along every axis"
                raise refusal(self.name, repr(name), "have one entry per draw", got, remedy)
            u = self._uniforms(key, dims, shape, axis, order)
            return draw_at(name, member, u.reshape(*shape, *noise))

        return draw("q", self.q, key, sample_shape)

    def _uniforms(self, key, dims: range, shape: tuple[int, ...], axis: int, order):
        """``[*shape, D]``, coupled along one axis; -1 is none."""
        if axis < 0:
            return self.points(key, 1, dims, shape)[..., 0, :]
        others = (*shape[:axis], *shape[axis + 1 :])
        u = jnp.moveaxis(self.points(key, shape[axis], dims, others), -2, axis)
        order = jnp.expand_dims(order, tuple(range(axis + 1, u.ndim)))
        return jnp.take_along_axis(u, order, axis)

    def __repr__(self) -> str:
        inner = repr(self.q) if isinstance(self.q, Chain) else type(self.q).__name__
        return f"{self.name}({inner})"


class Given(dist.Distribution):
    """A distribution whose draw is given."""

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, q: Any, draw: Any):
        self.q, self.draw = q, draw
        super().__init__(q.batch_shape, q.event_shape)

    @property
    def has_rsample(self) -> bool:
        """Whether a derivative flows through the draw."""
        return is_reparameterised(self.q)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()):
        """The draw."""
        return self.draw

    def log_prob(self, value, intermediates=None):
        """That of ``q``."""
        return self.q.log_prob(value)


def given_uniforms(q: Any, u: Float[Array, "..."]) -> Any:
    """``q`` with what it draws first given by uniforms: its own passes carry and score that."""
    if not isinstance(q, dist.Independent | dist.TransformedDistribution):
        return Given(q, from_uniforms(q, u))
    carried: Any = copy.copy(q)
    carried.base_dist = given_uniforms(q.base_dist, u)
    return carried


def _at(name, member, u):
    z = from_uniforms(member, u)
    return z if is_reparameterised(member) else jax.lax.stop_gradient(z)


def _orders(key, sample_shape):
    """The orders in which points are handed out, ``[*sample_shape]``: random where there are many.

    If the points of one k went with those of the next in one order, products of functions of both
    would be noisier than with independent draws.
    """
    if len(sample_shape) < 2:
        return jnp.arange(math.prod(sample_shape))
    order = jnp.broadcast_to(jnp.arange(sample_shape[-1]), sample_shape)
    return jax.random.permutation(key, order, axis=-1, independent=True)
