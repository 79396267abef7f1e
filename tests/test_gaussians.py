"""Gaussians of every covariance: against dense ones, in their digits, and in linear time."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import vi
from vi.families import (
    block_diagonal,
    full_rank,
    low_rank,
    markov,
    markov_from_precision,
    normal,
)

T, D = 4, 2  # of the sequences


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def trils(seed, *shape):
    """Lower triangular matrices with diagonals near 1."""
    matrix = np.tril(0.4 * random(seed, *shape))
    return matrix + np.eye(shape[-1])


def bidiagonal(diagonal, below):
    """The dense factor ``[..., T d, T d]`` of blocks."""
    *batch, length, d, _ = diagonal.shape
    full = np.zeros((*batch, length * d, length * d))
    for t in range(length):
        here = slice(t * d, t * d + d)
        full[..., here, here] = diagonal[..., t, :, :]
        if t:
            full[..., here, (t - 1) * d : t * d] = below[..., t - 1, :, :]
    return full


def transposed(matrix):
    return np.swapaxes(matrix, -1, -2)


@functools.cache
def cases():
    """Pairs of a family and the dense Gaussian that it is, with a batch of 3."""
    loc, tril, factor = random(0, 3, 4), trils(1, 3, 4, 4), random(2, 3, 4, 2)
    covariance, variances = tril @ transposed(tril), 0.3 + random(3, 3, 4) ** 2
    low = factor @ transposed(factor) + variances[..., None] * np.eye(4)
    first, second = trils(4, 3, 1, 1), trils(5, 3, 3, 3)
    blocks = np.zeros((3, 4, 4))
    blocks[:, :1, :1], blocks[:, 1:, 1:] = first, second
    path, diagonal = random(6, 3, T, D), trils(7, 3, T, D, D)
    below = 0.6 * random(8, 3, T - 1, D, D)
    chain = bidiagonal(diagonal, below)
    precision = chain @ transposed(chain)
    index = np.arange(T)
    tiles = precision.reshape(3, T, D, T, D)
    own = np.moveaxis(tiles[:, index, :, index, :], 0, 1)
    after = np.moveaxis(tiles[:, index[1:], :, index[:-1], :], 0, 1)
    return {
        "scale_tril": (full_rank(loc, scale_tril=tril), loc, covariance),
        "covariance": (full_rank(loc, covariance=covariance), loc, covariance),
        "precision": (full_rank(loc, precision=np.linalg.inv(covariance)), loc, covariance),
        "low_rank": (low_rank(loc, factor=factor, variances=variances), loc, low),
        "block": (block_diagonal(loc, (first, second)), loc, blocks @ transposed(blocks)),
        "markov": (
            *(markov(path, diagonal=diagonal, below=below), path, np.linalg.inv(precision)),
        ),
        "from precision": (
            markov_from_precision(path, diagonal=own, below=after),
            *(path, np.linalg.inv(precision)),
        ),
    }


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name",
    [
        *("scale_tril", "low_rank", "block", "markov"),
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("covariance", "precision", "from precision")
        ),
    ],
)
def test_each_is_the_dense_gaussian(name):
    """Density, moments and entropy; draws are scored as the density scores them."""
    q, loc, covariance = cases()[name]
    dense = dist.MultivariateNormal(loc.reshape(3, -1), covariance)

    @jax.jit
    def compute(q, key):
        scored = hasattr(q, "rsample_and_log_prob")
        z, log_q = q.rsample_and_log_prob(key, (5,)) if scored else (q.sample(key, (5,)), None)
        return z, log_q, q.log_prob(z), q.mean, q.variance, q.entropy()

    z, log_q, density, mean, variance, entropy = compute(q, jax.random.key(0))
    expected = dense.log_prob(np.asarray(z).reshape(5, 3, -1))
    chex.assert_trees_all_close(density, expected, rtol=1e-9)
    if log_q is not None:
        chex.assert_trees_all_close(log_q, expected, rtol=1e-9)
    chex.assert_trees_all_close(mean, jnp.asarray(loc))
    chex.assert_trees_all_close(variance.reshape(3, -1), dense.variance, rtol=1e-9)
    chex.assert_trees_all_close(entropy, dense.entropy(), rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_draws_of_a_chain_have_its_covariance_and_not_its_transposes():
    """Exactly: a draw is linear in its noise, so that its covariance is a product of Jacobians."""
    q, _, covariance = cases()["markov"]

    def with_noise(q, key):
        noise = jax.random.normal(key, (*q.batch_shape, *q.event_shape, 1))
        z = q.sample(jax.random.clone(key))
        return noise[..., 0].reshape(3, -1), (z - q.loc).reshape(3, -1)

    keys = jax.random.split(jax.random.key(0), T * D)
    noise, x = jax.jit(jax.vmap(with_noise, (None, 0), 1))(q, keys)
    to_draw = np.linalg.solve(noise, x)  # each row of x is its row of noise times this
    from_draws = transposed(to_draw) @ to_draw
    np.testing.assert_allclose(from_draws, covariance, rtol=1e-7)
    assert abs(to_draw @ transposed(to_draw) - covariance).max() > 0.1


def shapes_within(jaxpr):
    for equation in jaxpr.eqns:
        yield from (getattr(v.aval, "shape", ()) for v in equation.outvars)
        for value in equation.params.values():
            if inner := getattr(value, "jaxpr", None):
                yield from shapes_within(inner)


def test_a_chain_is_linear_in_time():
    """No array of its value and gradient grows faster than its parameters."""

    def largest(length, make):
        def value(loc, diagonal, below, key):
            z, log_q = make(loc, diagonal, below).rsample_and_log_prob(key, (2,))
            return (z**2).sum() + log_q.sum() + make(loc, diagonal, below).log_prob(z).sum()

        blocks = jnp.tile(jnp.eye(D), (length, 1, 1))
        arguments = jnp.zeros((length, D)), blocks, blocks[1:], jax.random.key(0)
        with jax.debug_key_reuse(False):
            jaxpr = jax.make_jaxpr(jax.grad(value, (0, 1, 2)))(*arguments)
        return max(int(np.prod(shape)) for shape in shapes_within(jaxpr.jaxpr))

    def sequence(loc, diagonal, below):
        return markov(loc, diagonal=diagonal, below=below)

    def dense(loc, diagonal, below):
        tril = jax.scipy.linalg.block_diag(*diagonal)
        return block_diagonal(loc.reshape(-1), (tril,))

    assert largest(60, sequence) <= 2 * largest(30, sequence)
    assert largest(60, dense) == 4 * largest(30, dense)


def test_a_long_chain_is_stable_in_float32():
    """A stationary chain of 2,000 steps, x_t = 0.95 x_{t+1} + noise, of variance 1 inside."""
    length, a = 2000, 0.95
    scale = (1 - a**2) ** -0.5
    diagonal = jnp.full((length, 1, 1), scale).at[-1].set(1.0)
    below = jnp.full((length - 1, 1, 1), -a * scale)

    @jax.jit
    def compute(diagonal, below, key):
        q = markov(jnp.zeros((length, 1)), diagonal=diagonal, below=below)
        z, log_q = q.rsample_and_log_prob(key, (3,))
        return q.variance, log_q - q.log_prob(z), log_q

    variance, gap, log_q = compute(diagonal, below, jax.random.key(0))
    chex.assert_trees_all_close(variance, jnp.ones_like(variance), rtol=1e-4)
    assert float(jnp.abs(gap / log_q).max()) < 1e-5


def test_low_rank_keeps_its_digits_where_numpyro_loses_them():
    size, rank = 50, 5
    loc, factor = (random(0, *s).astype(np.float32) for s in ((size,), (size, rank)))
    variances = np.full(size, 1e-2, np.float32)
    z = loc + random(1, 100, rank) @ factor.T + 0.1 * random(2, 100, size)
    z = z.astype(np.float32)
    ours = low_rank(loc, factor=factor, variances=variances).log_prob(z)
    numpyros = dist.LowRankMultivariateNormal(loc, factor, variances).log_prob(z)
    with jax.enable_x64(True):
        wide = [a.astype(float) for a in (loc, factor, variances, z)]
        covariance = wide[1] @ wide[1].T + np.diag(wide[2])
        exact = np.asarray(dist.MultivariateNormal(wide[0], covariance).log_prob(wide[3]))
    assert np.abs(ours - exact).max() < 2e-4
    assert np.abs(numpyros - exact).max() > 5e-3


def test_what_stands_above_a_diagonal_is_not_read():
    tril = trils(1, 2, 2).astype(np.float32)
    above = tril + np.triu(np.full((2, 2), 5.0, np.float32), 1)
    loc, key = np.zeros(2, np.float32), jax.random.key(0)
    for make in (
        lambda m: full_rank(loc, scale_tril=m),
        lambda m: block_diagonal(loc, (m,)),
        lambda m: markov(loc[None], diagonal=m[None], below=np.zeros((0, 2, 2), np.float32)),
    ):
        z, same = (make(m).sample(jax.random.clone(key), (3,)) for m in (tril, above))
        chex.assert_trees_all_equal(z, same)
        chex.assert_trees_all_equal(make(tril).log_prob(z), make(above).log_prob(z))


def test_numpyro_takes_them_as_its_own():
    q = block_diagonal(jnp.zeros(3), (jnp.eye(2), jnp.eye(1)))
    several = q.expand((4, 2)).to_event(1)
    assert (several.batch_shape, several.event_shape) == ((4,), (2, 3))
    assert several.sample(jax.random.key(0), (5,)).shape == (5, 4, 2, 3)
    chain = markov(jnp.zeros((3, 1)), diagonal=jnp.ones((3, 1, 1)), below=jnp.zeros((2, 1, 1)))
    checked = vi.families.Markov(chain.loc, chain.diagonal, chain.below, validate_args=True)
    with pytest.warns(UserWarning, match="Out-of-support"):
        assert checked.log_prob(jnp.full((3, 1), jnp.nan)) == -jnp.inf


ZERO, EYE = jnp.zeros(2), jnp.eye(2)
NEARLY_SINGULAR = np.array([[1.0, 1 - 1e-10], [1 - 1e-10, 1.0]])  # positive definite in float64
REFUSED = {
    "two": (lambda: full_rank(ZERO, scale_tril=EYE, covariance=EYE), "be one of scale_tril"),
    "none": (lambda: full_rank(ZERO), "got none of them"),
    "no axis": (lambda: full_rank(jnp.zeros(()), scale_tril=EYE), "loc must have a last axis"),
    "shape": (lambda: full_rank(ZERO, scale_tril=jnp.eye(3)), r"scale_tril must be \[\*batch, D"),
    "batch": (lambda: full_rank(jnp.zeros((3, 2)), covariance=EYE), r"instead of \[3, 2, 2\]"),
    "negative diagonal": (
        lambda: full_rank(ZERO, scale_tril=-EYE),
        "the diagonal of scale_tril must be positive",
    ),
    "indefinite": (
        lambda: full_rank(ZERO, covariance=jnp.array([[1.0, 2.0], [2.0, 1.0]])),
        "covariance must be positive definite .got -1 as its least eigenvalue",
    ),
    "asymmetric": (lambda: full_rank(ZERO, precision=EYE.at[0, 1].set(0.5)), "not symmetric"),
    "nan": (lambda: full_rank(ZERO, covariance=EYE * jnp.nan), "entries that are not finite"),
    "factor": (
        lambda: low_rank(ZERO, factor=jnp.ones((3, 1)), variances=jnp.ones(2)),
        r"factor must be \[\*batch, D, R\]",
    ),
    "variances": (
        lambda: low_rank(ZERO, factor=jnp.ones((2, 1)), variances=jnp.zeros(2)),
        "variances must be positive and finite .got 0.;",
    ),
    "blocks": (lambda: block_diagonal(ZERO, (EYE, EYE)), "sizes that sum to D"),
    "block batch": (
        lambda: block_diagonal(jnp.zeros((3, 2)), (EYE,)),
        r"scale_trils\[0\] must be \[3, d, d\]",
    ),
    "block diagonal": (lambda: block_diagonal(ZERO, (0 * EYE,)), "must be positive"),
    "sequence": (
        lambda: markov(ZERO, diagonal=EYE[None], below=EYE[None]),
        r"loc must be \[\*batch, T, d\]",
    ),
    "below": (
        lambda: markov(jnp.zeros((1, 2)), diagonal=EYE[None], below=EYE[None]),
        r"below must be \[\*batch, T - 1, d, d\]",
    ),
    "precision": (
        lambda: markov_from_precision(
            jnp.zeros((2, 1)), diagonal=jnp.ones((2, 1, 1)), below=jnp.full((1, 1, 1), 2.0)
        ),
        "the precision must be positive definite",
    ),
    "scale": (lambda: normal(ZERO, scale=jnp.array([1.0, 0.0])), "normal: scale must be positive"),
    "diagonal block": (
        lambda: markov_from_precision(
            jnp.zeros((1, 2)), diagonal=EYE[None].at[0, 0, 1].set(0.5), below=jnp.zeros((0, 2, 2))
        ),
        "markov_from_precision: diagonal must have symmetric blocks .got a matrix that is not",
    ),
    "scale 0 in float32": (
        lambda: normal(ZERO, scale=np.full(2, 1e-60)),
        "normal: scale must be positive and finite .got 0.;",
    ),
    "scale flushed to 0": (
        lambda: normal(ZERO, scale=np.full(2, 1e-40)),
        "normal: scale must be positive and finite .got 0.;",
    ),
    "covariance indefinite in float32": (
        lambda: full_rank(ZERO, covariance=NEARLY_SINGULAR),
        "full_rank: covariance must be positive definite",
    ),
    "factor 0 in float32": (
        lambda: full_rank(ZERO, scale_tril=1e-60 * np.eye(2)),
        "the diagonal of scale_tril must be positive",
    ),
    "scale nan": (lambda: normal(ZERO, scale=ZERO * jnp.nan), "normal: scale must be positive"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_by_name(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.usefixtures("x64")
def test_what_float64_holds_is_taken_there():
    zero = jnp.zeros(2)
    scale_tril: Any = full_rank(zero, covariance=NEARLY_SINGULAR).scale_tril
    np.testing.assert_allclose(scale_tril[1, 1] ** 2, 2e-10, rtol=1e-5)
    assert jnp.isfinite(normal(zero, scale=np.full(2, 1e-60)).log_prob(zero))


def test_a_traced_value_is_not_looked_at():
    @jax.jit
    def compute(scale, matrix):
        q = full_rank(ZERO, covariance=matrix)
        path = jnp.zeros((1, 2))
        chain = markov_from_precision(path, diagonal=matrix[None], below=jnp.zeros((0, 2, 2)))
        return normal(ZERO, scale=scale).mean, q.mean, chain.mean

    assert all(jnp.isfinite(value).all() for value in compute(-jnp.ones(2), -EYE))
