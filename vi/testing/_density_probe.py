"""Whether entry k of a log-density depends on z_k alone: change the others and see if it moves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vi._check import log_ratio
from vi.testing._report import Check

_NUM_PAIRS = 8


class _Probed(NamedTuple):
    batch: tuple[int, ...]
    checks: list[Check]


def probe(key, q, log_joint, num_samples: int) -> _Probed:
    """Check ``log_joint`` and ``q.log_prob`` on pairs of draws, and say what the batch is.

    A draw made of a random half of the entries of one and the other entries of another has the
    log-densities of each in its place. Of two draws, the chance that no pair parts them is 1 in 256
    at most. A tangent in one sample would say the same of smooth densities of a continuous z; this
    also sees statistics whose gradient is stopped, and a discrete z.
    """

    def densities(z):
        log_p, log_q = log_joint(z), q.log_prob(z)
        log_p = log_p[0] if isinstance(log_p, tuple) else log_p
        log_ratio("check_gradient", num_samples, log_p, log_q)
        return {"log_joint": log_p, "q.log_prob": log_q}

    half = jnp.arange(num_samples) % 2 == 0

    def pair(keys):
        from_one = jax.random.permutation(keys[0], half)
        both = jax.vmap(lambda key: q.sample(key, (num_samples,)))(keys[1:])

        def append_mixed(both):
            mixed = jnp.where(_column(from_one, both[0]), both[0], both[1])
            return jnp.concatenate([both, mixed[None]])

        # All three at once and not compiled: their arithmetic is the same to the last bit.
        return from_one, jax.vmap(densities)(jax.tree.map(append_mixed, both))

    from_one, found = jax.vmap(pair)(jax.random.split(key, (_NUM_PAIRS, 3)))
    batch = found["q.log_prob"].shape[3:]  # [pairs, 3, K, *batch]
    return _Probed(batch, [_compare(name, value, from_one) for name, value in found.items()])


def _column(flags, leaf):
    return flags.reshape(*flags.shape, *(1 for _ in leaf.shape[flags.ndim :]))


def _compare(name: str, values, from_one) -> Check:
    tolerance = float(jnp.finfo(values.dtype).eps ** 0.75)
    one, other, mixed = (np.asarray(values[:, i], float) for i in range(3))
    if np.isnan(values).any():
        return Check(name, False, "NaN at a draw of q")
    if one.shape[1] == 1:
        return Check(name, None, "K = 1: no other draw")
    if (one == other).all():
        return Check(name, None, "no draw differs from another in its log-density")
    expected = np.where(_column(np.asarray(from_one), one), one, other)
    with np.errstate(invalid="ignore"):
        gap = np.where(mixed == expected, 0.0, np.abs(mixed - expected) / (1 + np.abs(expected)))
    if (gap <= tolerance).all():
        return Check(name, True, "entry k depends on z_k alone")
    k = int(np.unravel_index(gap.argmax(), gap.shape)[1])
    moved = f"entry {k} moved by {gap.max():.0e} (relative) as z_j, j != {k}, changed"
    return Check(name, False, f"{moved}: take no batch statistics over the K axis")
