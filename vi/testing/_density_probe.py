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

    A draw made of the even entries of one and the odd entries of another has the log-densities of
    each in its place. A tangent in one sample would say the same of smooth densities of a
    continuous z; this also sees statistics whose gradient is stopped, and a discrete z.
    """

    def densities(z):
        log_p, log_q = log_joint(z), q.log_prob(z)
        log_p = log_p[0] if isinstance(log_p, tuple) else log_p
        log_ratio("check_gradient", num_samples, log_p, log_q)
        return {"log_joint": log_p, "q.log_prob": log_q}

    def pair(keys):
        both = jax.vmap(lambda key: q.sample(key, (num_samples,)))(keys)
        # All three at once and not compiled: their arithmetic is the same to the last bit.
        return jax.vmap(densities)(jax.tree.map(_append_alternate, both))

    found = jax.vmap(pair)(jax.random.split(key, (_NUM_PAIRS, 2)))
    batch = found["q.log_prob"].shape[3:]  # [pairs, 3, K, *batch]
    if num_samples == 1:
        return _Probed(batch, [Check(name, None, "K = 1: no other draw") for name in found])
    return _Probed(batch, [_compare(name, value) for name, value in found.items()])


def _append_alternate(both):
    even = jnp.arange(both.shape[1]) % 2 == 0
    mixed = jnp.where(even.reshape(-1, *(1 for _ in both.shape[2:])), both[0], both[1])
    return jnp.concatenate([both, mixed[None]])


def _compare(name: str, values) -> Check:
    tolerance = float(jnp.finfo(values.dtype).eps ** 0.75)
    one, other, mixed = (np.asarray(values[:, i], float) for i in range(3))
    if (one == other).all():
        return Check(name, None, "no draw differs from another in its log-density")
    even = np.arange(one.shape[1]) % 2 == 0
    expected = np.where(even.reshape(-1, *(1 for _ in one.shape[2:])), one, other)
    with np.errstate(invalid="ignore"):
        gap = np.where(mixed == expected, 0.0, np.abs(mixed - expected) / (1 + np.abs(expected)))
    if (gap <= tolerance).all():
        return Check(name, True, "entry k depends on z_k alone")
    k = int(np.unravel_index(gap.argmax(), gap.shape)[1])
    moved = f"entry {k} moved by {gap.max():.0e} (relative) as z_j, j != {k}, changed"
    return Check(name, False, f"{moved}: take no batch statistics over the K axis")
