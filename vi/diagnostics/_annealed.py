"""Annealed importance sampling: the evidence along a path of densities, from either end."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import refusal, require_count, require_key
from vi.diagnostics._annealed_path import path, require_floating, require_temperatures
from vi.types import Key, Latent, LogDensity, Variational

Transition: TypeAlias = Callable[
    [Key, Latent, LogDensity, Float[Array, ""]], tuple[Latent, Float[Array, "K *batch"]]
]
"""``transition(key, z, log_density, t) -> (z, acceptance)``: a move that leaves a density in place.

Latents ``[K, *batch, *event]``, ``log_density(z)`` and ``acceptance`` ``[K, *batch]``; ``t`` is the
temperature that the density belongs to. Every entry moves on its own.
"""

FORWARD, REVERSE = "annealed_importance_sampling", "reverse_annealed_importance_sampling"


class Annealed(NamedTuple):
    """What annealing gives: weights for any bound, where the chains end, how often they moved.

    Attributes:
        log_weights: ``[K, *batch]`` in nats, one for each chain.
        draws: Where the chains end, leaves ``[K, *batch, *event]``.
        acceptance: The mean acceptance over transitions and chains ``[*batch]``; 1 where there is
            no transition.
    """

    log_weights: Float[Array, "K *batch"]
    draws: Latent
    acceptance: Float[Array, "*batch"]


def annealed_importance_sampling(
    key: Key,
    initial: Variational,
    log_joint: LogDensity,
    num_samples: int,
    *,
    temperatures: Float[Array, " T+1"],
    transition: Transition,
) -> Annealed:
    r"""Weigh K chains that go from ``initial`` to the posterior in T small steps.

    .. math:: \log f_t(z) = (1 - t) \log q_0(z) + t \log p(x, z), \qquad
              \log w = \sum_{i=1}^{T} (t_i - t_{i-1})
                       \big( \log p(x, z_{i-1}) - \log q_0(z_{i-1}) \big),

    with :math:`z_0 \sim q_0` and :math:`z_i` a transition from :math:`z_{i-1}` that leaves
    :math:`f_{t_i}` in place, for i below T. Then :math:`\mathbb{E}\, w = p(x)` exactly, however few
    the temperatures and however poorly the chains move, wherever ``initial`` covers the posterior:
    both cost w variance alone. So ``vi.bounds.iwae(log_weights)`` is a lower bound on log p(x) in
    expectation, as every lower bound of ``vi.bounds`` is. It rises to log p(x) with T where the
    chains mix; modes that they miss stay missing. At T = 1, ``[0, 1]``, there is no transition, and
    this is plain importance sampling.

    It is exact because nothing is adapted: a step size that depends on the chain it moves leaves no
    density in place. Tune on a pilot run with a key of its own (``tuned_step_size``).

    Where ``initial`` is the prior, ``log p(x, z) - log q_0(z)`` is the likelihood, and q has no
    part in it: an estimate that judges q.

    Each step takes one evaluation of the two densities and what the transition takes. Gradients are
    stopped. ``jit`` (``num_samples`` static) and ``vmap`` apply.

    Args:
        key: One typed PRNG key.
        initial: The distribution to begin at, normalised, batch shape ``[*batch]``; a prior that
            all data share is expanded to them first, ``prior.expand(batch_shape)``: with as many
            chains as data, shapes could not tell that it was not.
        log_joint: ``z -> log p(x, z)``, ``[K, *batch]``, differentiable for ``hamiltonian``; an
            ``aux`` beside it is dropped.
        num_samples: ``K``, the chains of each datum.
        temperatures: ``[T+1]``, rising from 0 to 1: ``sigmoidal_temperatures(500)`` for instance.
        transition: ``(key, z, log_density, t) -> (z, acceptance)``, ``hamiltonian(0.1,
            num_steps=10)`` for instance.

    Returns:
        ``Annealed(log_weights, draws, acceptance)``. Weighted by ``log_weights``, ``draws`` are
        draws from the posterior.

    Raises:
        ValueError: A key that is not one typed key, ``num_samples`` not an integer of at least 1,
            temperatures that do not rise from 0 to 1, latents that are not floating, log-densities
            that are not ``[K, *batch]``, or a transition that returns something else.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> from vi.diagnostics import annealed_importance_sampling, hamiltonian
        >>> model = vi.testing.LinearGaussian(jnp.ones((1, 1)), jnp.zeros(1), jnp.array(0.5))
        >>> x = jnp.array([[1.0], [2.0]])
        >>> annealed = annealed_importance_sampling(
        ...     jax.random.key(0), model.prior.expand((2,)), model.log_joint(x), 1000,
        ...     temperatures=vi.diagnostics.sigmoidal_temperatures(50),
        ...     transition=hamiltonian(0.4, num_steps=5),
        ... )
        >>> lower = vi.bounds.iwae(annealed.log_weights)
        >>> bool((abs(lower - model.log_evidence(x)) < 0.1).all())
        True

    References:
        Neal (2001), Annealed importance sampling; Wu, Burda, Salakhutdinov and Grosse (2017), On
        the quantitative analysis of decoder-based generative models.
    """
    require_key(FORWARD, key)
    num_samples = require_count(FORWARD, "num_samples", num_samples)
    draw_key, walk_key = jax.random.split(key)
    z = initial.sample(draw_key, (num_samples,))
    temperatures = require_temperatures(FORWARD, temperatures)
    return _walk(FORWARD, walk_key, z, initial, log_joint, temperatures, transition)


def reverse_annealed_importance_sampling(
    key: Key,
    posterior_draws: Latent,
    initial: Variational,
    log_joint: LogDensity,
    *,
    temperatures: Float[Array, " T+1"],
    transition: Transition,
) -> Annealed:
    r"""Weigh chains that go back to ``initial`` from *exact* posterior draws: the upper bound.

    The chains of ``annealed_importance_sampling`` with time reversed, and the same weight of the
    path. Under them :math:`\mathbb{E}\, (1 / w) = 1 / p(x)` (at most that where p(x, z) is 0 on
    part of ``initial``), so that by Jensen's inequality

    .. math:: \mathbb{E} \Big[ -\log \frac1M \sum_m \frac{1}{w_m} \Big] \ge \log p(x),

    which is ``-vi.bounds.iwae(-log_weights)``; with M = 1 it is ``log_weights`` itself. It falls to
    log p(x) with T where the chains mix. Beside the lower bound of the forward chains this is
    bidirectional Monte Carlo: the two enclose log p(x), each in expectation, and their gap bounds
    the error of both.

    Exact draws are had where the model made the data: ``z ~ p(z)``, then ``x ~ p(x | z)``, and z is
    one draw from p(z | x). Chains that begin at the same draw are not independent, and the bound
    holds all the same. Draws of another distribution give a number that bounds nothing.

    The transition must be reversible with respect to its density (detailed balance), as
    ``hamiltonian`` is: in general the reverse chain needs the reversed transition.

    Args:
        key: One typed PRNG key.
        posterior_draws: From p(z | x), leaves ``[M, *batch, *event]``.
        initial: As in ``annealed_importance_sampling``.
        log_joint: As there.
        temperatures: As there, rising; they are gone through from the last to the first.
        transition: As there, and reversible.

    Returns:
        ``Annealed(log_weights, draws, acceptance)``, with ``[M, *batch]`` weights.

    Raises:
        ValueError: As ``annealed_importance_sampling``.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> model = vi.testing.LinearGaussian(jnp.ones((1, 1)), jnp.zeros(1), jnp.array(0.5))
        >>> z, x = model.sample(jax.random.key(1), 200)
        >>> annealed = vi.diagnostics.reverse_annealed_importance_sampling(
        ...     jax.random.key(0), z[None], model.prior.expand((200,)), model.log_joint(x),
        ...     temperatures=vi.diagnostics.sigmoidal_temperatures(50),
        ...     transition=vi.diagnostics.hamiltonian(0.4, num_steps=5),
        ... )
        >>> upper = -vi.bounds.iwae(-annealed.log_weights)
        >>> print(f"{(upper - model.log_evidence(x)).mean():.1f}")
        0.1

    References:
        Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional
        Monte Carlo.
    """
    require_key(REVERSE, key)
    draws = jax.tree.map(jnp.asarray, posterior_draws)
    if any(leaf.shape[:1] in ((), (0,)) for leaf in jax.tree.leaves(draws)):
        got = jax.tree.map(jnp.shape, draws)
        rule, remedy = "have leaves [M, *batch, *event]", "give one draw as z[None]"
        raise refusal(REVERSE, "posterior_draws", rule, got, remedy)
    like = jax.eval_shape(lambda key: initial.sample(key, (_count(draws),)), key)
    if (got := jax.tree.map(jnp.shape, draws)) != (want := jax.tree.map(jnp.shape, like)):
        rule, remedy = f"have the shapes of initial's draws, {want}", "give one draw as z[None]"
        raise refusal(REVERSE, "posterior_draws", rule, got, remedy)
    falling = jnp.flip(require_temperatures(REVERSE, temperatures))
    return _walk(REVERSE, key, draws, initial, log_joint, falling, transition)


def _count(draws: Latent) -> int:
    return jax.tree.leaves(draws)[0].shape[0]


def _walk(where, key, z, initial, log_joint, temperatures, transition):
    """Weigh and move in turn, along temperatures that rise or fall."""
    require_floating(where, z)
    ratio, density = path(where, initial, log_joint)
    widths = jnp.abs(jnp.diff(temperatures))
    like: Any = jax.eval_shape(ratio, z)
    zero = jnp.zeros(like.shape, like.dtype)

    def step(carry, at):
        z, log_w, moved = carry
        i, width, t = at
        log_w += width.astype(log_w.dtype) * ratio(z)
        new, acceptance = transition(jax.random.fold_in(key, i), z, density(t), t)
        _require_moved(where, z, new, acceptance, log_w.shape)
        return (new, log_w, moved + acceptance.astype(moved.dtype)), None

    steps = jnp.arange(len(widths) - 1), widths[:-1], temperatures[1:-1]
    (z, log_w, moved), _ = jax.lax.scan(step, (z, zero, zero), steps)
    log_w += widths[-1].astype(log_w.dtype) * ratio(z)
    acceptance = moved.mean(0) / len(steps[0]) if len(steps[0]) else jnp.ones(like.shape[1:])
    return jax.lax.stop_gradient(Annealed(log_w, z, acceptance))


def _require_moved(where, z, new, acceptance, lead):
    before, after = (jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), each) for each in (z, new))
    if before != after:
        rule, remedy = "return latents like those it is given", "keep structure, shapes and dtypes"
        raise refusal(where, "transition", rule, f"{after} of {before}", remedy)
    if jnp.shape(acceptance) != lead:
        rule, got = "return its acceptance as [K, *batch]", f"shape {list(jnp.shape(acceptance))}"
        raise refusal(where, "transition", rule, got, f"here that is {list(lead)}")
