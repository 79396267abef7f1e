"""Codebooks against brute force: nearest codes, running means, restarts, clusters, grids."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vi
from vi.networks import Codebook


def drawn(*shape, seed=0, offset=0.0):
    return np.random.default_rng(seed).normal(offset, 1.0, shape).astype(np.float32)


def brute(vectors, codes):
    """Nearest codes by all differences, in float64."""
    apart = vectors[..., None, :].astype(np.float64) - codes.astype(np.float64)
    return (apart**2).sum(-1).argmin(-1)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_the_nearest_code_is_that_of_brute_force(offset):
    """Far from the origin too, where the squares alone lose the digits: the twin below."""
    vectors, codes = drawn(7, 40, 3, offset=offset), drawn(30, 3, seed=1, offset=offset)
    nearest = jax.jit(vi.networks.nearest_code)(vectors, codes)
    assert nearest.shape == (7, 40)
    np.testing.assert_array_equal(nearest, brute(vectors, codes))

    def uncentred(vectors, codes):
        return jnp.argmin((codes**2).sum(-1) / 2 - vectors @ codes.T, -1)

    wrong = (uncentred(vectors, codes) != nearest).mean()
    assert (wrong > 0.05) == (offset > 0)


def test_one_code_far_away_costs_the_others_no_digits():
    """Measured from the codes' mean, the twin, every tenth vector goes to a wrong one."""
    vectors, codes = drawn(400, 8), drawn(128, 8, seed=1)
    codes[7] = 1e6
    nearest = jax.jit(vi.networks.nearest_code)(vectors, codes)
    np.testing.assert_array_equal(nearest, brute(vectors, codes))
    from_mean = codes - codes.mean(0)
    scores = (from_mean**2).sum(-1) / 2 - (vectors - codes.mean(0)) @ from_mean.T
    assert (scores.argmin(-1) != nearest).mean() > 0.1


def test_quantising_gives_the_code_and_passes_the_derivative_by():
    vectors, codes, probe = drawn(5, 4, 3), drawn(6, 3, seed=1), drawn(5, 4, 3, seed=2)
    value_of = lambda v, c: vi.networks.vector_quantise(v, c).value  # noqa: E731

    @jax.jit
    def compute(vectors, codes):
        value, tangent = jax.jvp(value_of, (vectors, codes), (probe, codes))
        _, pull = jax.vjp(value_of, vectors, codes)
        return vi.networks.vector_quantise(vectors, codes), value, tangent, pull(probe)

    made, value, tangent, (of_vectors, of_codes) = compute(vectors, codes)
    np.testing.assert_array_equal(made.value, codes[brute(vectors, codes)])  # every bit
    np.testing.assert_array_equal(value, made.value)
    np.testing.assert_array_equal(tangent, probe)
    np.testing.assert_array_equal(of_vectors, probe)
    np.testing.assert_array_equal(of_codes, 0.0)

    picked = jax.grad(lambda v: (probe * codes[vi.networks.nearest_code(v, codes)]).sum())
    assert (picked(jnp.asarray(vectors)) == 0).all()  # a twin without the passage learns nothing


def test_each_loss_is_the_squared_distance_and_moves_one_side():
    vectors, codes = drawn(8, 3), drawn(5, 3, seed=1)
    picked = codes[brute(vectors, codes)]
    squared = ((vectors - picked) ** 2).sum(-1)

    def loss(field):
        return lambda v, c: getattr(vi.networks.vector_quantise(v, c), field).sum()

    @jax.jit
    def compute(vectors, codes):
        return {
            field: jax.value_and_grad(loss(field), (0, 1))(vectors, codes)
            for field in ("codebook_loss", "commitment_loss")
        }

    seen = compute(vectors, codes)
    pulls = np.zeros_like(codes)
    np.add.at(pulls, brute(vectors, codes), 2 * (picked - vectors))
    for field, gradients in (
        ("codebook_loss", (np.zeros_like(vectors), pulls)),
        ("commitment_loss", (2 * (vectors - picked), np.zeros_like(codes))),
    ):
        value, found = seen[field]
        np.testing.assert_allclose(value, squared.sum(), rtol=1e-5)
        for ours, truth in zip(found, gradients, strict=True):
            np.testing.assert_allclose(ours, truth, atol=1e-5)


def test_what_is_not_finite_stays_visible():
    made = vi.networks.vector_quantise(jnp.array([[jnp.nan, 0.0]]), jnp.ones((2, 2)))
    assert np.isnan(made.value).any()
    assert np.isnan(made.commitment_loss).all()
    assert np.isnan(vi.networks.finite_scalar_quantise(jnp.array([jnp.nan]), (3,)).value).all()
    for broken in (jnp.nan, jnp.inf):
        codes = jnp.ones((4, 2)).at[2, 1].set(broken)
        made = jax.jit(vi.networks.vector_quantise)(jnp.ones((5, 2)), codes)
        assert (made.indices == 2).all()
        assert not np.isfinite(made.commitment_loss).any()


def test_types_are_kept_and_losses_are_wide():
    half, codes = jnp.asarray(drawn(4, 3), jnp.bfloat16), jnp.asarray(drawn(5, 3), jnp.bfloat16)

    def compute():
        made = vi.networks.vector_quantise(half, codes)
        book = Codebook(codes.astype(jnp.float32), jnp.ones(5))
        book = vi.networks.update_codebook(book, half, made.indices, decay=0.5)
        return made, book, vi.networks.finite_scalar_quantise(half, (3, 3, 3))

    made, book, grid = jax.eval_shape(compute)
    assert made.value.dtype == grid.value.dtype == jnp.bfloat16
    assert book.codes.dtype == book.counts.dtype == jnp.float32
    assert made.commitment_loss.dtype == made.codebook_loss.dtype == jnp.float32


def sums_by_hand(batches, choices, codes, decay, counts):
    """The paper's running counts and sums, in float64: codes that were never used stay."""
    counts, sums = counts.astype(float), codes * counts[:, None].astype(float)
    for vectors, chosen in zip(batches, choices, strict=True):
        one_hot = np.eye(len(codes))[chosen]
        counts = decay * counts + (1 - decay) * one_hot.sum(0)
        sums = decay * sums + (1 - decay) * one_hot.T @ vectors
    safe = np.where(counts > 0, counts, 1)[:, None]
    return np.where(counts[:, None] > 0, sums / safe, codes), counts


@pytest.mark.parametrize("start", [0.0, 2.0])
def test_running_means_are_those_of_the_paper(start):
    """From counts of 0 the first codes leave no trace."""
    codes, batches = drawn(4, 3), drawn(6, 10, 3, seed=1)
    choices = np.random.default_rng(2).integers(0, 3, (6, 10))  # code 3 is never used
    book = Codebook(jnp.asarray(codes), jnp.full(4, start))

    @jax.jit
    def compute(book):
        for vectors, chosen in zip(batches, choices, strict=True):
            book = vi.networks.update_codebook(book, vectors, jnp.asarray(chosen), decay=0.7)
        return book

    seen = compute(book)
    truth, counts = sums_by_hand(batches, choices, codes, 0.7, np.full(4, start))
    np.testing.assert_allclose(seen.codes, truth, atol=1e-5)
    np.testing.assert_allclose(seen.counts, counts, rtol=1e-5)
    np.testing.assert_array_equal(seen.codes[3], codes[3])
    unweighted = 0.7 * codes + 0.3 * np.stack(
        [batches[0][choices[0] == m].mean(0) for m in (0, 1, 2)] + [codes[3]]
    )
    one = jax.jit(vi.networks.update_codebook)(book, batches[0], jnp.asarray(choices[0]), decay=0.7)
    assert np.abs(one.codes - unweighted).max() > 0.05  # a twin that averages codes, not sums


def test_an_unused_code_stays_for_ever():
    """A quotient of sums and counts that both decay would be 0 / 0 by then."""
    book = Codebook(jnp.array([[1.0], [5.0]]), jnp.ones(2))
    one = jnp.ones((1, 1)), jnp.zeros(1, int)

    @jax.jit
    def compute(book):
        step = lambda book, _: (vi.networks.update_codebook(book, *one, decay=0.5), None)  # noqa: E731
        return jax.lax.scan(step, book, length=500)[0]

    seen = compute(book)
    assert seen.counts[1] == 0
    np.testing.assert_array_equal(seen.codes, [[1.0], [5.0]])


def test_without_memory_it_is_a_step_of_kmeans():
    """And k-means ends where that step no longer moves anything, as scikit-learn finds it."""
    from sklearn.cluster import KMeans

    centres = 10.0 * np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
    vectors = (centres[:, None] + drawn(4, 25, 2)).reshape(-1, 2)

    @jax.jit
    def compute(key):
        book = vi.networks.kmeans(key, vectors, 4, num_steps=10)
        nearest = vi.networks.nearest_code(vectors, book.codes)
        return book, vi.networks.update_codebook(book, vectors, nearest, decay=0.0)

    found, again = compute(jax.random.key(0))
    np.testing.assert_allclose(again.codes, found.codes, atol=1e-5)
    np.testing.assert_array_equal(found.counts, 25)
    theirs = KMeans(4, n_init=1, random_state=0).fit(vectors).cluster_centers_
    by_place = lambda codes: codes[np.lexsort(np.round(codes / 10).T)]  # noqa: E731
    np.testing.assert_allclose(by_place(np.asarray(found.codes)), by_place(theirs), atol=1e-4)


def test_kmeans_begins_at_vectors_that_are_spread_out():
    """Of two far clusters, draws by squared distance never miss the small one; uniform ones do."""
    vectors = np.concatenate([drawn(95, 2), drawn(5, 2, offset=1e4)])
    start = jax.jit(jax.vmap(lambda key: vi.networks.kmeans(key, vectors, 2, num_steps=0)))
    codes = np.asarray(start(jax.random.split(jax.random.key(0), 200)).codes)
    assert all((code == vectors).all(-1).any() for code in codes.reshape(-1, 2))
    assert ((codes[..., 0] > 5e3).sum(1) == 1).all()
    uniform = np.random.default_rng(0).integers(0, 100, (200, 2)) >= 95
    assert (uniform.sum(1) == 1).mean() < 0.3


def test_restarts_touch_dead_codes_alone_and_draw_different_vectors():
    codes, vectors = drawn(6, 2), drawn(3, 4, 2, seed=1)
    counts = jnp.array([0.0, 3.0, 0.09, 0.1, 2.0, 0.0])
    restart = jax.jit(
        lambda key: vi.networks.restart_dead_codes(
            key, Codebook(jnp.asarray(codes), counts), vectors, min_count=0.1
        )
    )
    book, other = restart(jax.random.key(0)), restart(jax.random.key(1))
    dead = np.array([0, 2, 5])
    kept = np.array([1, 3, 4])
    np.testing.assert_array_equal(book.codes[kept], codes[kept])
    np.testing.assert_array_equal(book.counts[kept], counts[kept])
    np.testing.assert_array_equal(book.counts[dead], 12 / 6)
    rows = vectors.reshape(-1, 2)
    picks = [int(np.flatnonzero((rows == code).all(-1))[0]) for code in book.codes[dead]]
    assert len(set(picks)) == 3
    assert (np.asarray(book.codes) != np.asarray(other.codes)).any()


def test_restarts_never_draw_a_vector_twice():
    """M dead codes and as many vectors take all of them; with replacement 1.5 % of draws would."""
    vectors = jnp.arange(6.0)[:, None]
    book = Codebook(jnp.full((6, 1), -1.0), jnp.zeros(6))
    restart = lambda key: vi.networks.restart_dead_codes(key, book, vectors, min_count=0.5)  # noqa: E731
    codes = jax.jit(jax.vmap(restart))(jax.random.split(jax.random.key(0), 50)).codes
    assert (np.sort(codes[..., 0], 1) == np.arange(6)).all()


@pytest.mark.parametrize("num_codes", [1, 2, 7])
def test_perplexity_lies_between_one_code_and_all_alike(num_codes):
    even = vi.networks.code_use(jnp.arange(3 * num_codes).reshape(3, -1) % num_codes, num_codes)
    np.testing.assert_allclose(even.perplexity, num_codes, rtol=1e-5)
    assert even.share_used == 1
    one = vi.networks.code_use(jnp.zeros((2, 5), int), num_codes)
    np.testing.assert_allclose(one.perplexity, 1.0, rtol=1e-6)
    np.testing.assert_allclose(one.share_used, 1 / num_codes, rtol=1e-6)


def test_code_use_is_that_of_numpy():
    indices = np.random.default_rng(0).choice(9, (20, 5), p=np.arange(9) / 36)
    use = jax.jit(vi.networks.code_use, static_argnums=1)(indices, 9)
    shares = np.bincount(indices.reshape(-1), minlength=9) / 100
    held = shares[shares > 0]
    np.testing.assert_allclose(use.frequencies, shares, rtol=1e-6)
    np.testing.assert_allclose(use.perplexity, np.exp(-(held * np.log(held)).sum()), rtol=1e-5)
    np.testing.assert_allclose(use.share_used, len(held) / 9, rtol=1e-6)


def test_indices_outside_are_left_out():
    """-1 would be the last code in a scatter."""
    outside = jnp.array([0, 1, -1, -1, 9])
    use = vi.networks.code_use(outside, 4)
    np.testing.assert_allclose(use.frequencies, [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(use.perplexity, 2.0, rtol=1e-6)
    book = vi.networks.update_codebook(BOOK, jnp.full((5, 2), 3.0), outside, decay=0.5)
    np.testing.assert_allclose(book.codes, [[2, 2], [2, 2], [1, 1], [1, 1]])
    np.testing.assert_allclose(book.counts, [1, 1, 0.5, 0.5])


LEVELS = [(3, 4, 2), (5,), (2, 2, 2, 2)]


@pytest.mark.parametrize("levels", LEVELS)
def test_every_index_is_one_point_of_the_grid_and_back(levels):
    size = math.prod(levels)

    @jax.jit
    def compute():
        points = vi.networks.finite_scalar_codes(jnp.arange(size), levels)
        inside = jnp.arctanh(jnp.clip(points, -0.999, 0.999))
        return points, vi.networks.finite_scalar_quantise(inside, levels)

    points, again = compute()
    np.testing.assert_array_equal(again.indices, np.arange(size))
    np.testing.assert_array_equal(again.value, points)  # every bit
    axes = [np.linspace(-1, 1, level) for level in reversed(levels)]
    grid = np.array(list(itertools.product(*axes)))[:, ::-1]  # the first number fastest
    np.testing.assert_allclose(points, grid, atol=1e-6)


def test_rounding_is_to_the_nearest_level_with_the_derivative_of_tanh():
    levels, vectors, probe = (3, 4), 2 * drawn(6, 50, 2), drawn(6, 50, 2, seed=1)
    value_of = lambda v: vi.networks.finite_scalar_quantise(v, levels).value  # noqa: E731
    value, tangent = jax.jit(lambda v: jax.jvp(value_of, (v,), (probe,)))(vectors)
    for d, level in enumerate(levels):
        axis = np.linspace(-1, 1, level)
        nearest = axis[np.abs(np.tanh(vectors[..., d])[..., None] - axis).argmin(-1)]
        np.testing.assert_allclose(value[..., d], nearest, atol=1e-6)
    np.testing.assert_allclose(tangent, probe / np.cosh(vectors) ** 2, rtol=1e-4, atol=1e-6)
    pulled = jax.jit(jax.grad(lambda v: (probe * value_of(v)).sum()))(jnp.asarray(vectors))
    np.testing.assert_allclose(pulled, tangent, rtol=1e-5, atol=1e-7)


def test_batches_are_mapped_over():
    vectors, codes = drawn(4, 5, 3), drawn(6, 3, seed=1)
    quantise = lambda v: vi.networks.vector_quantise(v, codes)  # noqa: E731
    whole, mapped = jax.jit(lambda v: (quantise(v), jax.vmap(quantise)(v)))(vectors)
    for ours, theirs in zip(whole, mapped, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert vi.networks.vector_quantise(vectors[0, 0], codes).indices.shape == ()


BOOK = Codebook(jnp.ones((4, 2)), jnp.ones(4))
HALF = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), BOOK)
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: n.nearest_code(jnp.ones((3, 2)), jnp.ones((4, 3))), "last axis of 3"),
        (lambda n: n.nearest_code(jnp.ones((3, 2)), jnp.ones((0, 2))), r"codes must be \[M, D\]"),
        (lambda n: n.vector_quantise(jnp.ones((3, 2), int), jnp.ones((4, 2))), "be floating"),
        (lambda n: n.straight_through(jnp.ones(3), jnp.ones(1)), "have the shape of soft"),
        (lambda n: n.update_codebook(BOOK, jnp.ones((3, 2)), jnp.zeros(2, int), decay=0.5), "shape of the vectors"),  # noqa: E501
        (lambda n: n.update_codebook(BOOK, jnp.ones((3, 2)), jnp.zeros(3, int), decay=1.0), "decay must be in"),  # noqa: E501
        (lambda n: n.update_codebook(BOOK, jnp.ones((3, 2)), jnp.zeros(3), decay=0.5), "be integers"),  # noqa: E501
        (lambda n: n.update_codebook(BOOK.codes, jnp.ones((3, 2)), jnp.zeros(3, int), decay=0.5), "be a Codebook"),  # noqa: E501
        (lambda n: n.update_codebook(HALF, jnp.ones((3, 2)), jnp.zeros(3, int), decay=0.5), "be at least float32"),  # noqa: E501
        (lambda n: n.restart_dead_codes(KEY, BOOK, jnp.ones((3, 2)), min_count=0.1), "at least the 4 codes"),  # noqa: E501
        (lambda n: n.restart_dead_codes(KEY, BOOK, jnp.ones((8, 2)), min_count=2.0), "below the batch's 2 vectors"),  # noqa: E501
        (lambda n: n.restart_dead_codes(0, BOOK, jnp.ones((8, 2)), min_count=0.1), "typed PRNG key"),  # noqa: E501
        (lambda n: n.kmeans(KEY, jnp.ones((3, 2)), 4, num_steps=1), "at least the 4 codes"),
        (lambda n: n.code_use(jnp.zeros(0, int), 4), "hold at least one"),
        (lambda n: n.code_use(jnp.zeros(3), 4), "be integers"),
        (lambda n: n.finite_scalar_quantise(jnp.ones((3, 2)), (3,)), "last axis of 1"),
        (lambda n: n.finite_scalar_quantise(jnp.ones((3, 1)), (1,)), "at least 2"),
        (lambda n: n.finite_scalar_codes(jnp.zeros(3, int), (2,) * 31), "make at most"),
        (lambda n: n.finite_scalar_codes(jnp.zeros(3, int), 8), "be a sequence"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call(vi.networks)
    assert "; " in str(refused.value)
