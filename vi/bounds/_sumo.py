"""An estimate of log p(x) without bias: a random number of terms of the series of IWAE bounds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vi._check import at_least_float32, refusal, require_count, require_key
from vi.bounds._arguments import factory, is_traced, named, require_samples, require_scalar
from vi.bounds._declare import declare
from vi.bounds._self_normalised import top_of, without_zeros
from vi.types import Bound, Key


class Roulette(NamedTuple):
    r"""The law of the number of terms: N >= k with probability 1 / k, and geometric far out.

    .. math:: P(N \ge k) = \tfrac{1}{k} \text{ for } k \le c, \qquad
              \tfrac{1}{c} \rho^{k - c} \text{ beyond}.

    The k-th term has a mean of order 1 / k^2, and a second moment of that order too: no law has
    both a finite mean cost, the sum of P(N >= k), and a finite variance, which needs the sum of
    1 / (k^2 P(N >= k)). This one has the cost. With a budget both are finite.

    Attributes:
        cutoff: c, at least 1.
        decay: rho, above 0 and below 1.
        budget: The largest N that ``sample`` returns, at least 1, or None for no limit.

    References:
        Luo, Beatson, Norouzi, Zhu, Duvenaud, Adams and Chen (2020), c = 80 and rho = 0.9.
    """

    cutoff: int = 80
    decay: float = 0.9
    budget: int | None = None

    def survival(self, k: Int[Array, "..."]) -> Float[Array, "..."]:
        """``P(N >= k)`` without the budget, for k from 1 on."""
        beyond = jnp.maximum(k - self.cutoff, 0)
        return self.decay**beyond / jnp.minimum(jnp.maximum(k, 1), self.cutoff)

    def sample(self, key: Key, shape: tuple[int, ...] = ()) -> Int[Array, "..."]:
        """Draw N, one for each datum: integers from 1 on.

        Raises:
            ValueError: A key that is not one typed key, a budget or cutoff below 1, a decay outside
                of 0..1.
        """
        require_key("Roulette.sample", key)
        self.check()
        near, far = jax.random.split(key)
        harmonic = jnp.floor(1 / (1 - jax.random.uniform(near, shape)))
        geometric = jnp.floor(-jax.random.exponential(far, shape) / jnp.log(self.decay))
        drawn = jnp.where(harmonic < self.cutoff, harmonic, self.cutoff + geometric)
        return jnp.minimum(drawn, jnp.inf if self.budget is None else self.budget).astype(int)

    def check(self) -> None:
        """Refuse fields outside of their ranges."""
        require_count("Roulette", "cutoff", self.cutoff)
        if self.budget is not None:
            require_count("Roulette", "budget", self.budget)
        decay = require_scalar("Roulette", "decay", self.decay)
        if not is_traced(decay) and not 0 < decay < 1:
            rule = "be above 0 and below 1"
            raise refusal("Roulette", "decay", rule, decay, "pass 0.9, the paper's")


@factory("sumo(Roulette().sample(key))")
def sumo(num_terms: int | Int[Array, "*batch"], roulette: Roulette | None = None) -> Bound:
    r"""Estimate log p(x) by Russian roulette: N terms of the series of IWAE bounds.

    .. math:: \mathcal{L}_1 + \sum_{k=1}^{N}
              \frac{\mathcal{L}_{k+1} - \mathcal{L}_k}{P(N \ge k)}, \qquad
              \mathcal{L}_k = \log \frac{1}{k} \sum_{j \le k} w_j.

    Averaged over N, drawn by ``roulette.sample``, it is :math:`\mathcal{L}_K` of these K weights;
    averaged over the weights too, and without a budget, it is log p(x): neither a lower nor an
    upper bound. K must exceed every N. Without a budget that is known only after drawing, outside
    of ``jit``, and the variance is infinite (see ``Roulette``); with one, K = budget + 1 is always
    enough, and the mean is that of ``iwae`` at this K, at a fraction of its draws. At N = 1 it is
    ``iwae`` of two samples. The samples' order matters: it says which of them the terms use.

    Args:
        num_terms: N, a draw of ``roulette``: one for all data, or one for each ``[*batch]``. A
            traced one is not checked: terms beyond K are left out.
        roulette: The law it was drawn from; by default the paper's.

    Returns:
        The bound ``log_w [K, *batch] -> [*batch]`` in nats; by convention ``-inf`` where an L_k
        that it uses is.

    Raises:
        ValueError: An N below 1, an N that needs more than K samples, a wrong shape.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> roulette = vi.bounds.Roulette(budget=15)
        >>> num_terms = roulette.sample(jax.random.key(0), (10_000,))
        >>> log_w = jnp.tile(jax.random.normal(jax.random.key(1), (16, 1)), 10_000)
        >>> estimates = vi.bounds.sumo(num_terms, roulette)(log_w)
        >>> stderr = estimates.std() / 10_000**0.5
        >>> bool(abs(estimates.mean() - vi.bounds.iwae(log_w[:, 0])) < 5 * stderr)
        True

    References:
        Luo, Beatson, Norouzi, Zhu, Duvenaud, Adams and Chen (2020).
    """
    law = Roulette() if roulette is None else roulette
    if not isinstance(law, Roulette):
        raise refusal("sumo", "roulette", "be a Roulette", repr(roulette), "pass Roulette(...)")
    law.check()
    num_terms = jnp.asarray(num_terms)
    if not jnp.issubdtype(num_terms.dtype, jnp.integer):
        remedy = "draw it with Roulette().sample(key, shape)"
        raise refusal("sumo", "num_terms", "be integers", f"dtype {num_terms.dtype}", remedy)
    known = not is_traced(num_terms)
    if known and num_terms.min() < 1:
        remedy = "draw it with Roulette().sample(key, shape)"
        raise refusal("sumo", "num_terms", "be at least 1", int(num_terms.min()), remedy)
    least = 1 + int(num_terms.max()) if known else 2

    def series(log_w):
        """Log-weights less their top, the logs of their sums, what multiplies each, the top."""
        log_w = require_samples("sumo", at_least_float32("sumo", log_w), least)
        K, *batch = log_w.shape
        if num_terms.shape not in ((), (*batch,)):
            rule = f"have shape [] or {batch}"
            remedy = "draw one for each datum"
            raise refusal("sumo", "num_terms", rule, list(num_terms.shape), remedy)
        counts = jnp.arange(1, K, dtype=log_w.dtype).reshape(K - 1, *[1] * len(batch))
        # By its bounds: c_{k-1} - c_k times the k-th, with c_k = [k <= N] / P(N >= k).
        chance = law.survival(counts).astype(log_w.dtype)
        stop = jnp.broadcast_to(num_terms, tuple(batch))[None]
        share = jnp.where(counts <= stop, 1 / chance, 0.0)
        one, none = jnp.ones((1, *batch), log_w.dtype), jnp.zeros((1, *batch), log_w.dtype)
        times = jnp.concatenate([one, share]) - jnp.concatenate([share, none])
        is_empty = jax.lax.cummin((log_w == -jnp.inf).astype(jnp.int32), axis=0) == 1
        infinite = (is_empty & (times != 0)).any(0, keepdims=True)
        top = top_of(log_w)  # the multipliers reach hundreds: they must not meet an offset
        log_w = jnp.where(infinite, 0.0, log_w - top)
        return log_w, _log_sums(log_w), times, top[0], infinite[0]

    def derivatives(log_w):
        log_w, log_sums, times, _, infinite = series(log_w)
        of_next = jnp.exp(log_sums - jnp.roll(log_sums, -1, axis=0).at[-1].set(jnp.inf))
        is_zero, finite = without_zeros(log_w)
        share = jnp.where(is_zero, 0.0, jnp.exp(finite - jnp.where(is_zero, 0.0, log_sums)))
        first = _sums_from_the_end(times, of_next) * share
        second = first - _sums_from_the_end(times, of_next**2) * share**2
        return jnp.where(infinite[None], 0.0, first), jnp.where(infinite[None], 0.0, second)

    @named("sumo", num_terms if num_terms.shape == () else f"N {list(num_terms.shape)}")
    @declare(direction="none", min_samples=least, num_groups=None, derivatives=derivatives)
    def bound(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
        _, log_sums, times, top, infinite = series(log_w)
        log_counts = jnp.log(jnp.arange(1, len(times) + 1, dtype=times.dtype))
        bounds = log_sums - log_counts.reshape(-1, *[1] * (times.ndim - 1))
        terms = times * jnp.where(times == 0, 0.0, bounds)
        return jnp.where(infinite, -jnp.inf, top + terms.sum(0))

    return bound


def _log_sums(log_w):
    """The log of the sum of the first k weights, for every k."""

    def add(total, one):
        total = jnp.logaddexp(total, one)
        return total, total

    _, rest = jax.lax.scan(add, log_w[0], log_w[1:])
    return jnp.concatenate([log_w[:1], rest])


def _sums_from_the_end(times, of_next):
    """``R_k = times_k + of_next_k R_{k+1}``: every share of a later sum is at most 1."""

    def add(later, one):
        total = one[0] + one[1] * later
        return total, total

    return jax.lax.scan(add, jnp.zeros_like(times[0]), (times, of_next), reverse=True)[1]
