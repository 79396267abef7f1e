"""Markov chains through time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.tree_util import Partial, all_leaves
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from vi._check import refusal, require_count
from vi._known import is_known, require_positive
from vi.priors._draws import each_alone
from vi.priors._event import require_event
from vi.types import Key, Variational


def markov(
    first: Variational, transition: Callable[[Array], Variational], *, num_steps: int
) -> "MarkovPrior":
    r"""A Markov chain of T steps, its transition a function of yours, learned or not.

    .. math:: p(z) = p(z_1) \prod_{t = 2}^{T} p(z_t | z_{t - 1})

    The density maps the transition over the steps; a draw is a scan over them. Both hand it states
    ``[..., *batch, D]``, so that it may have parameters ``[*batch, D]``; ``first`` then has that
    batch too.

    Args:
        first: Of z_1, with events ``[D]``.
        transition: From states ``[..., *batch, D]`` to the distribution of the next ones, a
            network's for instance. If it is a pytree (an ``nnx.Module``, or a
            ``jax.tree_util.Partial`` of a function and its arrays), so is the prior, with the same
            leaves; what a plain function closes over must not be traced where the prior passes
            through jit.
        num_steps: T.

    Returns:
        A NumPyro distribution with event shape ``[T, D]``.

    Raises:
        ValueError: Fewer than one step, or states without their one axis of D; on scoring, another
            number of steps, or a first state or transition of another batch than the value.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> first = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
        >>> turn = jnp.array([[0.9, -0.3], [0.3, 0.9]])
        >>> prior = vi.priors.markov(
        ...     first, lambda z: dist.Normal(z @ turn, 0.1).to_event(1), num_steps=20)
        >>> prior.sample(jax.random.key(0), (5,)).shape
        (5, 20, 2)
    """
    require_count("markov", "num_steps", num_steps)
    shape = getattr(first, "event_shape", None)
    if shape is None or len(shape) != 1:
        remedy = "make its last axis the event (to_event(1))"
        raise refusal("markov", "first", "have events [D]", f"event shape {shape}", remedy)
    return MarkovPrior(first, transition, num_steps)


def ar1(
    num_steps: int,
    *,
    coefficient: Float[Array, " D"],
    scale: Float[Array, " D"],
) -> "MarkovPrior":
    r"""D stationary autoregressive processes of order one, side by side.

    .. math:: z_1 \sim N\!\left(0, \frac{s^2}{1 - a^2}\right), \qquad
              z_t = a z_{t - 1} + s \epsilon_t

    At unit steps it is the Ornstein-Uhlenbeck process, ``gaussian_process`` with ``matern12``:
    a = exp(-1 / length scale), in linear time.

    Args:
        num_steps: T.
        coefficient: a, ``[D]``, between -1 and 1.
        scale: s, ``[D]``, the standard deviation of what each step adds.

    Returns:
        A NumPyro distribution with event shape ``[T, D]``.

    Raises:
        ValueError: Fewer than one step, shapes that are not one ``[D]``, a known scale at or below
            0, or a known coefficient that is not between -1 and 1.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> prior = vi.priors.ar1(50, coefficient=jnp.array([0.9]), scale=jnp.array([0.1]))
        >>> prior.log_prob(jnp.zeros((5, 50, 1))).shape
        (5,)
    """
    if jnp.ndim(coefficient) != 1 or jnp.shape(coefficient) != jnp.shape(scale):
        got = f"{list(jnp.shape(coefficient))} and {list(jnp.shape(scale))}"
        remedy = "give both one entry per dimension"
        raise refusal("ar1", "coefficient and scale", "be [D]", got, remedy)
    require_positive("ar1", "scale", scale, "pass it through jnp.exp or jax.nn.softplus")
    if is_known(coefficient) and not (np.abs(np.asarray(coefficient)) < 1).all():
        got = f"{np.asarray(coefficient)}"
        remedy = "pass it through jnp.tanh; a random walk is markov() with a first state of its own"
        raise refusal("ar1", "coefficient", "lie between -1 and 1", got, remedy)
    stationary = scale / jnp.sqrt((1 - coefficient) * (1 + coefficient))
    first = dist.Normal(jnp.zeros_like(scale), stationary).to_event(1)
    return markov(first, Partial(_regress, coefficient, scale), num_steps=num_steps)


def _regress(coefficient: Array, scale: Array, z: Array) -> dist.Distribution:
    return dist.Normal(coefficient * z, scale).to_event(1)


class MarkovPrior(dist.Distribution):
    """A Markov chain over ``[T, D]``; made by ``markov`` and ``ar1``. Its draws have no path."""

    pytree_data_fields = ("first", "transition")
    pytree_aux_fields = ("num_steps",)
    has_rsample: Any = False

    def __init__(self, first: Any, transition: Callable[[Array], Any], num_steps: int):
        self.first, self.num_steps = first, num_steps
        self.transition = Partial(transition) if all_leaves([transition]) else transition
        super().__init__(first.batch_shape, (num_steps, *first.event_shape))

    @constraints.dependent_property
    def support(self) -> Any:
        """That of the states."""
        return constraints.independent(self.first.support, 1)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw paths, ``[*sample_shape, *batch, T, D]``."""
        return each_alone(self._one, key, sample_shape)

    def _one(self, key: Key) -> Array:
        first_key, rest_key = jax.random.split(key)
        start = self.first.sample(first_key)

        def step(state, t):
            after = self.transition(state).sample(jax.random.fold_in(rest_key, t))
            if jnp.shape(after) != jnp.shape(state):
                got = f"{list(jnp.shape(after))} from {list(jnp.shape(state))}"
                remedy = "give the first state the transition's batch, and both one D"
                raise refusal("markov", "transition", "keep the shape of the state", got, remedy)
            return after, after

        _, later = jax.lax.scan(step, start, jnp.arange(self.num_steps - 1))
        return jnp.concatenate([start[..., None, :], jnp.moveaxis(later, 0, -2)], axis=-2)

    def log_prob(self, value: Float[Array, "*shape T D"]) -> Float[Array, "*shape"]:
        """The log-density in nats, ``[*sample_shape, *batch]``."""
        require_event("markov", value, self.event_shape)
        value = jnp.asarray(value)
        start = self.first.log_prob(value[..., 0, :])
        self._require_batch("first", start, value)
        if self.num_steps == 1:
            return start

        def step(before, after):
            log_p = self.transition(before).log_prob(after)
            self._require_batch("transition", log_p, before[..., None, :])
            return log_p

        return start + jax.vmap(step, -2, -1)(value[..., :-1, :], value[..., 1:, :]).sum(-1)

    def _require_batch(self, name: str, log_p: Array, value: Array) -> None:
        if jnp.shape(log_p) != jnp.shape(value)[:-2]:
            got = f"{list(jnp.shape(log_p))} instead of {list(jnp.shape(value)[:-2])}"
            remedy = "give it events of D (to_event(1)), and the value the batch of both"
            raise refusal("markov.log_prob", name, "score each state", got, remedy)

    def __repr__(self) -> str:
        return f"markov({self.num_steps} steps of {self.first.event_shape[0]})"
