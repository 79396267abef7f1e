"""What every bound owes its callers, whatever it declares: shapes, dtype, transformations, -inf.

Each check takes a bound and its declaration and returns (passed, detail). Log-weights are float32,
as a user's are.
"""

import jax
import jax.numpy as jnp

from vi.bounds import derivatives

_BATCHES = ((), (3,), (2, 3))


def shape(bound, declared):
    for batch in _BATCHES:
        log_w = draw((num_samples(declared), *batch))
        got = jnp.shape(bound(log_w))
        if got != batch:
            return False, f"{list(log_w.shape)} gave {list(got)}, not {list(batch)}: reduce axis 0"
    return True, f"[K, *batch] to [*batch] for *batch = {', '.join(str(list(b)) for b in _BATCHES)}"


def dtype(bound, declared):
    got = jnp.result_type(bound(draw((num_samples(declared), 3))))
    return got == jnp.float32, f"float32 gave {got}"


def jit(bound, declared):
    log_w = draw((num_samples(declared), 2, 3))
    return close(jax.jit(bound)(log_w), bound(log_w), "compiled and eager")


def batch(bound, declared):
    log_w = draw((num_samples(declared), 2, 3))
    one_by_one = jax.vmap(jax.vmap(bound, in_axes=1), in_axes=1)(log_w)
    return close(bound(log_w), one_by_one, "the batch and its entries")


def permutation(bound, declared):
    log_w = draw((num_samples(declared), 7), scale=2.0)
    reversed_and_rolled = bound(log_w[::-1]), bound(jnp.roll(log_w, 1, axis=0))
    value = bound(log_w)
    return close(jnp.stack(reversed_and_rolled), jnp.stack([value, value]), "orders of the samples")


def min_samples(bound, declared):
    value = bound(draw((declared.min_samples, 3)))
    finite = value.shape == (3,) and bool(jnp.isfinite(value).all())
    return finite, f"K = {declared.min_samples} gave {'finite values' if finite else value}"


def minus_inf(bound, declared):
    """A weight of -inf is a sample of weight zero; a divergence may answer with +inf."""
    K = num_samples(declared)
    num_empty = jnp.array([1, K // 2, K - 1, K])
    log_w = jnp.where(jnp.arange(K)[:, None] < num_empty, -jnp.inf, draw((K, num_empty.size)))
    value = bound(log_w)
    forbidden = jnp.isnan(value) | (jnp.isposinf(value) & (declared.direction != "divergence"))
    for wrong, count in zip(forbidden, num_empty, strict=True):
        if wrong:
            return (
                False,
                f"{count} of {K} weights zero gave the value {value[num_empty == count][0]}",
            )
    coefficients = jax.jit(lambda log_w: derivatives(bound, log_w))(log_w)
    for name, coefficient in zip(("F_k", "F_kk"), coefficients, strict=True):
        for finite, count in zip(jnp.isfinite(coefficient).all(0), num_empty, strict=True):
            if not finite:
                return False, f"{count} of {K} weights zero gave {name} that is not finite"
    agree, detail = close(bound(log_w[::-1]), value, "orders of the samples")
    if not agree:
        return False, detail
    counts = ", ".join(str(count) for count in num_empty)
    return True, f"{counts} of {K} weights zero: no NaN, finite derivatives"


def num_samples(declared) -> int:
    """A K at which to look at a bound."""
    return max(declared.min_samples, 5)


def draw(shape, *, scale=1.0, dtype=jnp.float32):
    """Log-weights, the same on every call."""
    return scale * jax.random.normal(jax.random.key(0), shape, dtype)


def close(one, other, what: str) -> tuple[bool, str]:
    """Whether two arrays are equal but for rounding: relative to 1 and to their size."""
    one, other = jnp.asarray(one), jnp.asarray(other)
    if one.shape != other.shape:
        return False, f"{what} have shapes {list(one.shape)} and {list(other.shape)}"
    gap = jnp.where(one == other, 0.0, jnp.abs(one - other) / (1 + jnp.abs(other))).max()
    # The square root of the precision: far above the rounding of a few sums, far below a mistake.
    tolerance = jnp.sqrt(jnp.finfo(gap.dtype).eps)
    return bool(gap <= tolerance), f"{what} differ by {gap:.0e}, allowed {tolerance:.0e}"
