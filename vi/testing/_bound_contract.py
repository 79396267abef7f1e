"""What every bound owes its callers, whatever it declares: shapes, dtype, transformations, -inf.

Each check takes a bound and its declaration and returns (passed, detail). Log-weights are float32,
as a user's are. What is not the bound's own work is NumPy's: it needs no compilation.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vi.bounds import derivatives

_BATCHES = ((), (3,), (2, 3))


def shape(bound, declared):
    K = num_samples(declared)
    for batch in _BATCHES:
        got = jnp.shape(bound(draw((K, *batch), jnp.float32)))
        if got != batch:
            return False, f"{[K, *batch]} gave {list(got)}, not {list(batch)}: reduce axis 0 alone"
    return True, f"[K, *batch] to [*batch] for *batch = {', '.join(str(list(b)) for b in _BATCHES)}"


def dtype(bound, declared):
    got = jnp.result_type(bound(draw((num_samples(declared), 2, 3), jnp.float32)))
    return got == jnp.float32, f"float32 gave {got}"


def jit(bound, declared):
    log_w = draw((num_samples(declared), 3), jnp.float32)
    return close(jax.jit(bound)(log_w), bound(log_w), "compiled and eager")


def batch(bound, declared):
    log_w = draw((num_samples(declared), 2, 3), jnp.float32)
    one_by_one = jax.jit(jax.vmap(jax.vmap(bound, in_axes=1), in_axes=1))
    return close(bound(log_w), one_by_one(log_w), "the batch and its entries")


def permutation(bound, declared):
    if declared.num_groups is None:
        return None, "num_groups=None: the order matters"
    log_w = np.asarray(draw((num_samples(declared), 2, 3), jnp.float32))
    orders = [_reordered(log_w, declared, *how) for how in ((0, -1), (1, 1), (2, -1))]
    permuted = np.stack([bound(jnp.asarray(one)) for one in orders])
    within = "" if declared.num_groups == 1 else f" within {declared.num_groups} groups"
    what = f"orders of the samples{within}"
    return close(permuted, np.stack([bound(jnp.asarray(log_w))] * 3), what)


def _reordered(log_w, declared, offset, direction):
    """The samples of each group rolled by ``offset``, backwards for a direction of -1."""
    groups = log_w.reshape(declared.num_groups, -1, *log_w.shape[1:])
    return np.roll(groups[:, ::direction], offset, axis=1).reshape(log_w.shape)


def min_samples(bound, declared):
    value = bound(draw((declared.min_samples, 2, 3), jnp.float32))
    finite = bool(np.isfinite(value).all())
    return finite, f"K = {declared.min_samples} gave {'finite values' if finite else value}"


def minus_inf(bound, declared):
    """A weight of -inf is a sample of weight zero; a divergence may answer with +inf."""
    K = num_samples(declared)
    num_empty = np.array([1, K // 2, K - 1, K])
    weights = np.asarray(draw((K, num_empty.size), jnp.float32))
    log_w = np.where(np.arange(K)[:, None] < num_empty, -np.inf, weights).astype(np.float32)
    value = np.asarray(bound(jnp.asarray(log_w)))
    wrong = np.isnan(value) | (np.isposinf(value) & (declared.direction != "divergence"))
    if wrong.any():
        return False, f"{num_empty[wrong][0]} of {K} weights zero gave {value[wrong][0]}"
    coefficients = jax.jit(lambda log_w: derivatives(bound, log_w))(jnp.asarray(log_w))
    for name, coefficient in zip(("F_k", "F_kk"), coefficients, strict=True):
        wrong = ~np.isfinite(coefficient).all(0)
        if wrong.any():
            return (
                False,
                f"{num_empty[wrong][0]} of {K} weights zero gave an infinite or NaN {name}",
            )
    counts = ", ".join(map(str, num_empty))
    said = f"{counts} of {K} weights zero: finite derivatives"
    if declared.num_groups is None:
        return True, said
    reordered = jnp.asarray(_reordered(log_w, declared, 0, -1))
    agree, detail = close(bound(reordered), value, "orders of the samples")
    return agree, said if agree else detail


def num_samples(declared, least: int = 5) -> int:
    """A K at which to look at a bound: ``least`` or more, as its declaration demands."""
    groups = declared.num_groups or 1
    return -(-max(declared.min_samples, least) // groups) * groups


def draw(shape, dtype=float) -> jax.Array:
    """Standard normals, the same on every call; by default in the ambient precision."""
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)


def close(one, other, what: str) -> tuple[bool, str]:
    """Whether two arrays are equal but for rounding: relative to 1 and to their size."""
    # The square root of the precision: far above the rounding of a few sums, far below a mistake.
    tolerance = jnp.finfo(jnp.result_type(one)).eps ** 0.5
    one, other = np.asarray(one, float), np.asarray(other, float)
    if one.shape != other.shape:
        return False, f"{what} have shapes {list(one.shape)} and {list(other.shape)}"
    with np.errstate(invalid="ignore"):
        gap = np.where(one == other, 0.0, np.abs(one - other) / (1 + np.abs(other))).max()
    return bool(gap <= tolerance), f"{what} differ by {gap:.0e}, allowed {tolerance:.0e}"
