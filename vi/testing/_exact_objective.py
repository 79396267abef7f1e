"""The sum of a bound over every outcome of K draws."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from vi._check import log_ratio, name_of, refusal, require_count, require_key
from vi.bounds import declaration
from vi.testing._support import Support
from vi.types import Bound, Key, LogDensity, Variational

_BLOCK = 2**20  # log-weights in memory at once
_NUM_ROUNDINGS = 64  # what the rounding of a sum may come to


@dataclass(frozen=True, repr=False)
class ExactObjective:
    r"""The mean of a bound over all M^K outcomes of K draws; made by two functions of this room.

    .. math:: \sum_{z_1, \dots, z_K} q(z_1) \cdots q(z_K) \, F(\log w_1, \dots, \log w_K).

    It is called as every objective is, ``(key, q, log_joint, num_samples) -> [*batch]``, and it is
    a plain function of the probabilities, of log q and of the log-joint: its ``jax.grad`` is the
    exact gradient of what a sampled objective estimates. It composes with ``jit`` and ``vmap``.
    """

    bound: Bound
    name: str
    options: str
    complete: str  # what to do where outcomes are missing
    max_outcomes: int
    find: Callable[[Key, Variational], Support]

    def __call__(
        self, key: Key, q: Variational, log_joint: LogDensity, num_samples: int
    ) -> Float[Array, "*batch"]:
        """The exact mean of the bound.

        Args:
            key: One typed PRNG key, as every objective takes it; nothing is drawn with it.
            q: The distribution of each of the K draws.
            log_joint: ``z -> log p(x, z)``, ``[M, *batch]`` here; an ``aux`` beside it is dropped.
            num_samples: K.

        Returns:
            ``[*batch]`` in nats.

        Raises:
            ValueError: A key that is not one typed key, a K below 1 or below what the bound needs,
                too many outcomes, a q that does not fit, wrong shapes, or (outside of ``jit``)
                probabilities that do not sum to 1 or a grid that is too coarse or too short.
        """
        require_key(self.name, key)
        num_samples = require_count(self.name, "num_samples", num_samples)
        least = declaration(self.bound).min_samples
        if num_samples < least:
            rule = f"be at least {least} for {name_of(self.bound)}"
            remedy = "take more samples per bound"
            raise refusal(self.name, "num_samples", rule, num_samples, remedy)
        support = self.find(key, q)
        if support.size**num_samples > self.max_outcomes:
            rule = f"have at most max_outcomes = {self.max_outcomes} outcomes"
            got = f"{support.size} to the power of {num_samples}"
            remedy = "take fewer samples or a smaller support, or raise max_outcomes"
            raise refusal(self.name, "the K draws", rule, got, remedy)
        log_w, log_mass = self._weigh(support, q, log_joint)
        self._require_all_mass(log_mass)
        value = self._sum(self.bound, log_w, log_mass, num_samples)
        if support.is_grid:
            held = jax.lax.stop_gradient((value, log_w, log_mass))
            self._require_convergence(*held, num_samples)
        return value

    def __repr__(self) -> str:
        return f"{self.name}({name_of(self.bound)}{self.options})"

    def _weigh(self, support: Support, q: Variational, log_joint: LogDensity):
        """Log-weights and log-probabilities of the outcomes of one draw, each ``[M, *batch]``.

        An outcome of probability zero has no log-weight. The most probable one stands in for it,
        on the way into both densities, so that no derivative meets an infinity.
        """
        z, log_volume = support.make()
        log_q = jax.lax.stop_gradient(q.log_prob(z))
        for leaf in jax.tree.leaves(z):
            if leaf.shape[: log_q.ndim] != log_q.shape or log_q.shape[:1] != (support.size,):
                got = f"{list(log_q.shape)} for outcomes {list(leaf.shape)}"
                remedy = "sum over event axes only"
                raise refusal(self.name, "q.log_prob", "return [M, *batch]", got, remedy)
        possible = jnp.exp(log_q + log_volume) != 0
        best = log_q.argmax(0, keepdims=True)
        z = jax.tree.map(lambda leaf: _replace(leaf, possible, best), z)
        log_p, log_q = log_joint(z), q.log_prob(z)
        log_p = log_p[0] if isinstance(log_p, tuple) else log_p
        log_w = log_ratio(self.name, support.size, log_p, log_q)
        return log_w, jnp.where(possible, log_q + log_volume, -jnp.inf).astype(log_w.dtype)

    def _require_all_mass(self, log_mass):
        mass = jnp.exp(jax.lax.stop_gradient(log_mass)).sum(0)
        if isinstance(mass, Tracer):
            return
        gap = jnp.abs(mass - 1)
        if not bool((gap <= jnp.finfo(mass.dtype).eps ** 0.5).all()):
            worst = mass.reshape(-1)[gap.reshape(-1).argmax()]
            rule = "sum to 1 over the outcomes"
            raise refusal(self.name, "the probabilities of q", rule, f"{worst:.6g}", self.complete)

    def _require_convergence(self, value, log_w, log_mass, num_samples: int):
        """Refuse a grid on which the sum has not converged to the integral.

        Where it converges exponentially, the error is the square of that with twice the step: a
        difference of sqrt(eps) from every second node means an error of eps. What is missing
        beyond an end is judged by the integrand there, as if it went on for the whole interval.
        """

        def spread(log_w):
            return jnp.abs(self.bound(log_w) - value)

        def size(log_w):
            return jnp.abs(self.bound(log_w))

        last = len(log_w) - 1
        ends = self._sum(
            size, log_w, log_mass, num_samples, lambda at: ((at == 0) | (at == last)).any(0)
        )
        coarse = self._sum(self.bound, log_w[::2], log_mass[::2] + math.log(2), num_samples)
        eps = jnp.finfo(log_w.dtype).eps
        tolerance = eps**0.5 * self._sum(spread, log_w, log_mass, num_samples)
        tolerance = jax.lax.stop_gradient(tolerance + _NUM_ROUNDINGS * eps * jnp.abs(value))
        for gap, rule, remedy in (
            (
                jnp.abs(value - coarse),
                "be the same on every second node",
                "take more nodes: q and log_joint must be smooth at the scale of one step",
            ),
            (ends * last, "vanish at lower and upper", "widen lower and upper"),
        ):
            gap = jax.lax.stop_gradient(gap)
            if isinstance(gap, Tracer) or isinstance(tolerance, Tracer):
                return
            if not bool((gap <= tolerance).all()):
                at = jnp.argmax(gap.reshape(-1) - tolerance.reshape(-1))
                got = f"{gap.reshape(-1)[at]:.1e} nats, beyond {tolerance.reshape(-1)[at]:.1e}"
                raise refusal(self.name, "the integral", rule, got, remedy)

    def _sum(self, bound, log_w, log_mass, num_samples: int, select=None):
        """The sum over all tuples, a block at a time; gradients compute each block anew."""
        base = log_w.shape[0]
        total = base**num_samples
        batch_size = math.prod(log_w.shape[1:])
        size = max(1, min(total, _BLOCK // max(1, num_samples * batch_size)))

        @jax.checkpoint
        def block(first, log_w, log_mass):
            number = first + jnp.arange(size)
            digits = number // base ** jnp.arange(num_samples)[:, None] % base
            value = bound(log_w[digits])  # [K, size, *batch] to [size, *batch]
            if jnp.shape(value) != (size, *log_w.shape[1:]):
                got = f"{list(log_w[digits].shape)} to {list(jnp.shape(value))}"
                remedy = "reduce axis 0 and no other, for instance log_w.mean(0)"
                raise refusal(self.name, "bound", "map [K, *batch] to [*batch]", got, remedy)
            counts = number < total if select is None else (number < total) & select(digits)
            counts = counts.reshape(-1, *(1 for _ in log_w.shape[1:]))
            chance = jnp.where(counts, jnp.exp(log_mass[digits].sum(0)), 0.0)
            return (chance * jnp.where(chance == 0, 0.0, value)).sum(0)

        def step(carry, first):
            return carry + block(first, log_w, log_mass), None

        if size == total:
            return block(0, log_w, log_mass)
        start = block(0, log_w, log_mass)
        return jax.lax.scan(step, start, jnp.arange(size, total, size))[0]


def _replace(leaf, possible, best):
    extra = (1,) * (leaf.ndim - possible.ndim)
    stand_in = jnp.take_along_axis(leaf, best.reshape(*best.shape, *extra), axis=0)
    return jnp.where(possible.reshape(*possible.shape, *extra), leaf, stand_in)
