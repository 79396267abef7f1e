"""How annealed chains move: Hamiltonian transitions, and their step sizes from a pilot run."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import refusal, require_count, require_key
from vi._known import require_positive
from vi.diagnostics._annealed import Transition
from vi.diagnostics._annealed_path import path, require_floating, require_temperatures
from vi.types import Key, Latent, LogDensity, Variational

_GAIN = 0.3  # of the pilot's log step, for each unit of acceptance above its target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepSizes:
    """Step sizes along the path, a function of the temperature; made by ``tuned_step_sizes``.

    Attributes:
        temperatures: Those of the pilot run, ``[T]``, rising to 1.
        values: The step size at each of them, ``[T, *batch]``.
    """

    temperatures: Float[Array, " num_temperatures"]
    values: Float[Array, " num_temperatures *batch"]

    def __call__(self, t: Float[Array, ""]) -> Float[Array, "*batch"]:
        """The step size at the first of the pilot's temperatures that is not below ``t``."""
        at = jnp.searchsorted(self.temperatures, t)
        return self.values[jnp.minimum(at, len(self.temperatures) - 1)]


def hamiltonian(
    step_size: Float[Array, "*batch"] | float | Callable[..., Float[Array, "*batch"]],
    *,
    num_steps: int,
) -> Transition:
    r"""A Hamiltonian Monte Carlo transition with a Metropolis test for each entry.

    .. math:: p \sim N(0, I), \qquad (z', p') = \mathrm{leapfrog}^L_\epsilon (z, p), \qquad
              \alpha = \min\Big(1, \frac{f(z')\, e^{-|p'|^2 / 2}}{f(z)\, e^{-|p|^2 / 2}}\Big).

    The test makes it exact for every step size: it leaves f in place and satisfies detailed
    balance, so that it may be used in both directions. A trajectory that diverges is refused, as is
    one that leaves the support of f. Each transition takes L + 1 gradients.

    Args:
        step_size: :math:`\epsilon`, a number, ``[*batch]``, one for each datum, or a function of
            the temperature that gives one of those (``tuned_step_sizes``).
        num_steps: L, the leapfrog steps.

    Returns:
        ``transition(key, z, log_density, t) -> (z, acceptance)``, with :math:`\alpha` as
        ``acceptance``, ``[K, *batch]``.

    Raises:
        ValueError: ``num_steps`` not an integer of at least 1, a known step size that is not
            positive; when called, one that is neither a number nor ``[*batch]``.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> transition = vi.diagnostics.hamiltonian(0.5, num_steps=3)
        >>> log_density = lambda z: -0.5 * jnp.sum(z**2, -1)
        >>> z = jnp.zeros((4, 2))
        >>> z, acceptance = transition(jax.random.key(0), z, log_density, jnp.array(1.0))
        >>> z.shape, acceptance.shape
        ((4, 2), (4,))

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, section 3.
    """
    where = "hamiltonian"
    num_steps = require_count(where, "num_steps", num_steps)
    if not callable(step_size):
        require_positive(where, "step_size", step_size, "0.1 is a start; tune it on a pilot run")

    def transition(key, z, log_density, t):
        momentum_key, accept_key = jax.random.split(key)
        before = _value_and_gradient(log_density, z)
        lead = before[0].shape
        size = jnp.asarray(step_size(t) if callable(step_size) else step_size)
        if size.shape not in ((), lead[1:]):
            rule, got = "be a number or [*batch]", f"shape {list(size.shape)}"
            raise refusal(where, "step_size", rule, got, f"the batch here is {list(lead[1:])}")
        size = jnp.broadcast_to(size, lead)
        momentum = _normal_like(momentum_key, z)

        def leap(state, _):
            z, p, (_, gradient) = state
            p = _add(p, size / 2, gradient)
            z = _add(z, size, p)
            after = _value_and_gradient(log_density, z)
            return (z, _add(p, size / 2, after[1]), after), None

        (end, last, after), _ = jax.lax.scan(leap, (z, momentum, before), length=num_steps)
        log_ratio = after[0] - before[0] + _kinetic(momentum, lead) - _kinetic(last, lead)
        acceptance = jnp.where(jnp.isnan(log_ratio), 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))
        accepted = jax.random.uniform(accept_key, lead, acceptance.dtype) < acceptance
        kept = jax.tree.map(lambda new, old: jnp.where(_over(accepted, old), new, old), end, z)
        return kept, acceptance

    return transition


def tuned_step_sizes(
    key: Key,
    initial: Variational,
    log_joint: LogDensity,
    num_samples: int,
    *,
    temperatures: Float[Array, " T+1"],
    num_steps: int,
    start: float = 0.5,
    acceptance: float = 0.8,
) -> StepSizes:
    r"""A pilot run: for each datum and temperature, the step size that accepts so often.

    .. math:: \log \epsilon_i = \log \epsilon_{i-1} + 0.3 \, (\bar\alpha_i - \alpha^*),

    with :math:`\bar\alpha_i` the mean acceptance of the K chains at temperature i. Chains and step
    sizes are followed from temperature to temperature, so that a posterior much narrower than
    ``initial`` gets its small steps where it needs them. Fewer temperatures than those of the run
    will do: ``hamiltonian`` takes the result as a function of the temperature.

    The run itself must have a key of its own: there the step sizes are *fixed*, which keeps its
    weights exact. Chains that adapt as they go leave no density in place.

    Args:
        key: One typed PRNG key, not that of the run.
        initial: As in ``annealed_importance_sampling``.
        log_joint: As there.
        num_samples: ``K``, the pilot's chains of each datum.
        temperatures: ``[T+1]``, rising from 0 to 1; a hundred are enough.
        num_steps: Leapfrog steps, as many as in the run.
        start: The step size to begin with.
        acceptance: :math:`\alpha^*`, in (0, 1).

    Returns:
        ``StepSizes``, a function of the temperature and a pytree.

    Raises:
        ValueError: As ``annealed_importance_sampling``; an acceptance outside of (0, 1), or a start
            that is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> model = vi.testing.LinearGaussian(jnp.ones((1, 1)), jnp.zeros(1), jnp.array(0.01))
        >>> x = jnp.array([[1.0], [2.0]])
        >>> sizes = vi.diagnostics.tuned_step_sizes(
        ...     jax.random.key(0), model.prior.expand((2,)), model.log_joint(x), 10,
        ...     temperatures=vi.diagnostics.sigmoidal_temperatures(50), num_steps=5,
        ... )
        >>> sizes(0.0).shape, bool((sizes(1.0) < 0.1 * sizes(0.0)).all())
        ((2,), True)

    References:
        Neal (2011), section 4.3, for the rate of acceptance; Wu, Burda, Salakhutdinov and Grosse
        (2017) adapt as they go, to 0.65.
    """
    where = "tuned_step_sizes"
    require_key(where, key)
    num_samples = require_count(where, "num_samples", num_samples)
    temperatures = require_temperatures(where, temperatures)
    if not 0 < acceptance < 1:
        raise refusal(where, "acceptance", "be between 0 and 1", acceptance, "0.65 to 0.8 is usual")
    require_positive(where, "start", start, "0.5 is a start")
    draw_key, walk_key = jax.random.split(key)
    z = initial.sample(draw_key, (num_samples,))
    require_floating(where, z)
    _, density = path(where, initial, log_joint)
    like = jax.eval_shape(density(temperatures[1]), z)
    log_size = jnp.full(like.shape[1:], jnp.log(start), like.dtype)

    def step(carry, at):
        z, log_size = carry
        i, t = at
        move = hamiltonian(jnp.exp(log_size), num_steps=num_steps)
        z, accepted = move(jax.random.fold_in(walk_key, i), z, density(t), t)
        log_size += _GAIN * (accepted.mean(0) - acceptance)
        return (z, log_size), log_size

    steps = jnp.arange(len(temperatures) - 1), temperatures[1:]
    _, log_sizes = jax.lax.scan(step, (z, log_size), steps)
    return jax.lax.stop_gradient(StepSizes(temperatures[1:], jnp.exp(log_sizes)))


def _value_and_gradient(log_density: LogDensity, z: Latent):
    """``[K, *batch]``, and the derivative of each entry in its own latents."""
    value, pull = jax.vjp(log_density, z)
    return value, pull(jnp.ones_like(value))[0]


def _normal_like(key: Key, z: Latent) -> Latent:
    leaves, structure = jax.tree.flatten(z)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def _over(value: Array, leaf: Array) -> Array:
    """``[K, *batch]`` with an axis of one for each of the leaf's event axes."""
    return value.reshape(*value.shape, *(1,) * (leaf.ndim - value.ndim))


def _add(tree: Latent, size: Array, direction: Latent) -> Latent:
    return jax.tree.map(lambda x, d: x + _over(size, x).astype(x.dtype) * d, tree, direction)


def _kinetic(momentum: Latent, lead: tuple[int, ...]) -> Array:
    squares = [jnp.square(p).reshape(*lead, -1).sum(-1) for p in jax.tree.leaves(momentum)]
    return sum(squares[1:], squares[0]) / 2
