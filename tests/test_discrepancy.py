"""The maximum mean discrepancy: by loops, without bias, and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vi.bounds import (
    gaussian_kernel,
    inverse_multiquadratic_kernel,
    squared_mmd_biased,
    squared_mmd_unbiased,
)

KERNELS = {
    "gaussian": (gaussian_kernel(0.8), lambda d2: np.exp(-d2 / (2 * 0.8**2))),
    "imq": (inverse_multiquadratic_kernel(1.5), lambda d2: 1.5**2 / (1.5**2 + d2)),
}


def draws(num, size, shift=0.0, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(num, size)) + shift, jnp.float32)


def by_loops(x, y, of_squares, unbiased):
    k = lambda a, b: of_squares(((a - b) ** 2).sum())  # noqa: E731

    def within(z):
        pairs = [
            k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j or not unbiased
        ]
        return np.mean(pairs)

    return within(x) + within(y) - 2 * np.mean([k(a, b) for a in x for b in y])


@pytest.mark.parametrize("name", KERNELS)
def test_both_are_their_sums(name):
    kernel, of_squares = KERNELS[name]
    x, y = draws(7, 3), draws(5, 3, 0.5, seed=1)
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    u, v = squared_mmd_unbiased(x, y, kernel), squared_mmd_biased(x, y, kernel)
    np.testing.assert_allclose(u, by_loops(a, b, of_squares, True), atol=1e-6)
    np.testing.assert_allclose(v, by_loops(a, b, of_squares, False), atol=1e-6)
    assert abs(u - v) > 0.05  # they are not the same statistic


def test_one_is_unbiased_and_the_other_is_what_it_says_too_high():
    """Over many sets of draws, against the closed form for normals and a Gaussian kernel."""
    sets, (n, m, size), (shift, wide) = 3000, (4, 6, 2), (0.7, 1.5)
    s2 = 0.8**2
    kernel = gaussian_kernel(0.8)

    def expected(variance, distance2):
        spread = s2 + variance
        return (s2 / spread) ** (size / 2) * np.exp(-distance2 / (2 * spread))

    exact = expected(2, 0) + expected(2 * wide**2, 0) - 2 * expected(1 + wide**2, size * shift**2)

    @jax.jit
    @jax.vmap
    def both(key):
        one, other = jax.random.split(key)
        x = jax.random.normal(one, (n, size))
        y = shift + wide * jax.random.normal(other, (m, size))
        return squared_mmd_unbiased(x, y, kernel), squared_mmd_biased(x, y, kernel)

    u, v = map(np.asarray, both(jax.random.split(jax.random.key(0), sets)))
    stderr = u.std(ddof=1) / np.sqrt(sets)
    assert abs(u.mean() - exact) < 5 * stderr
    bias = (1 - expected(2, 0)) / n + (1 - expected(2 * wide**2, 0)) / m
    assert abs(v.mean() - exact - bias) < 5 * v.std(ddof=1) / np.sqrt(sets)
    assert bias > 20 * stderr  # the same test tells the biased one
    assert (v >= -1e-6).all()
    assert (u < 0).any()


def test_the_prior_far_from_the_draws_still_pulls():
    """At ten scales the Gaussian kernel's gradient is gone, the inverse multiquadratic's is not."""
    x, y = draws(4, 2, 10.0), draws(4, 2, seed=1)

    def pull(kernel):
        return jax.grad(lambda shift: squared_mmd_unbiased(x + shift, y, kernel))(0.0)

    near, far = jax.jit(
        lambda: (pull(gaussian_kernel(1.0)), pull(inverse_multiquadratic_kernel(1.0)))
    )()
    assert abs(near) < 1e-12
    assert far > 1e-4


def test_equal_sets_are_no_distance_apart():
    x = draws(6, 3)
    kernel = gaussian_kernel(1.0)
    np.testing.assert_allclose(squared_mmd_biased(x, x, kernel), 0.0, atol=1e-6)
    assert squared_mmd_unbiased(x, x, kernel) < -0.05


def test_scales_may_be_traced_and_kernels_added():
    x, y = draws(5, 2), draws(6, 2, 1.0, seed=1)
    scales = (0.5, 2.0)

    @jax.jit
    def added(scales):
        kernels = [inverse_multiquadratic_kernel(scale) for scale in scales]
        return squared_mmd_unbiased(x, y, lambda a, b: sum(k(a, b) for k in kernels))

    each = [squared_mmd_unbiased(x, y, inverse_multiquadratic_kernel(s)) for s in scales]
    np.testing.assert_allclose(added(scales), sum(each), rtol=1e-5)


def test_what_does_not_fit_is_refused():
    x, kernel = draws(4, 2), gaussian_kernel(1.0)
    for arguments, message in (
        ((x[:1], x, kernel), r"x must be \[N, D\] with N >= 2"),
        ((x, x[:, 0], kernel), r"y must be \[N, D\]"),
        ((x, x[:, :1], kernel), "y must have the 2 dimensions of x"),
        ((x.astype(int), x, kernel), "x must be floating"),
        ((x, x, lambda a, b: (a - b) ** 2), "kernel must sum over the last axis"),
    ):
        with pytest.raises(ValueError, match=message):
            squared_mmd_unbiased(*arguments)
    for make in (gaussian_kernel, inverse_multiquadratic_kernel):
        for scale in (0.0, -1.0):
            with pytest.raises(ValueError, match="scale must be positive"):
                make(scale)
        with pytest.raises(ValueError, match="scale must be a scalar"):
            make(jnp.ones(2))


@pytest.mark.parametrize("make", [gaussian_kernel, inverse_multiquadratic_kernel])
def test_kernels_do_not_underflow_at_a_small_scale(make):
    x = 1e-30 * np.arange(6.0, dtype=np.float32).reshape(3, 2)
    near, far = make(1e-30)(x[0], x), make(1.0)(1e30 * x[0], 1e30 * x)
    np.testing.assert_allclose(near, far, rtol=1e-5)
