"""The mutual information gap: where it is known, against scikit-learn, and its bias."""

import itertools

import jax
import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from vi.diagnostics import mutual_information_gap

GRID = np.array(list(itertools.product(range(3), range(4), range(5))))


def test_a_code_for_each_factor_is_one_a_second_like_it_nought_and_a_turn_loses_it():
    """All at once: the same shapes, one program."""
    codes = GRID - GRID.mean(0)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    cases = {
        "perfect": codes[:, ::-1],
        "doubled": np.stack([codes[:, 0], -2 * codes[:, 0], codes[:, 2]], 1),
        "turned": codes @ turn,
        "still": np.stack([codes[:, 0], np.full(len(GRID), 3.0), codes[:, 1]], 1),
    }
    stacked = np.stack(list(cases.values())).astype(np.float32)
    made = jax.jit(jax.vmap(mutual_information_gap, (0, None)))(stacked, GRID)
    found = {name: jax.tree.map(lambda leaf, i=i: leaf[i], made) for i, name in enumerate(cases)}
    np.testing.assert_allclose(found["perfect"].gap, 1.0, atol=1e-5)
    np.testing.assert_allclose(found["perfect"].mean, 1.0, atol=1e-5)
    np.testing.assert_allclose(found["perfect"].entropy, np.log([3, 4, 5]), rtol=1e-5)
    np.testing.assert_allclose(found["doubled"].gap, [0.0, 0.0, 1.0], atol=1e-5)
    np.testing.assert_allclose(found["doubled"].mean, 1 / 3, atol=1e-5)
    assert found["turned"].mean < 0.5
    np.testing.assert_allclose(found["still"].mutual_information[1], 0.0, atol=1e-5)


def random_case(num=3000):
    random = np.random.default_rng(0)
    factors = np.stack([random.integers(0, k, num) for k in (3, 7)], 1)
    noise = random.normal(size=(num, 3))
    codes = noise + np.stack([factors[:, 0], 3 * factors[:, 1], 0 * factors[:, 0]], 1)
    return codes.astype(np.float32), factors


@pytest.mark.parametrize("num_bins", [5, 20])
def test_it_is_scikit_learns_of_equal_width_bins(num_bins):
    codes, factors = random_case()
    found = jax.jit(lambda c, f: mutual_information_gap(c, f, num_bins=num_bins))(codes, factors)
    bins = [np.digitize(c, np.histogram(c, num_bins)[1][:-1]) for c in codes.T]
    theirs = [[mutual_info_score(f, b) for f in factors.T] for b in bins]
    np.testing.assert_allclose(found.mutual_information, theirs, atol=2e-5)
    entropy = [mutual_info_score(f, f) for f in factors.T]
    np.testing.assert_allclose(found.entropy, entropy, rtol=1e-5)
    ordered = np.sort(theirs, 0)[::-1]
    np.testing.assert_allclose(found.gap, (ordered[0] - ordered[1]) / entropy, atol=3e-5)


def test_the_names_of_values_and_the_units_of_codes_do_not_matter():
    codes, factors = random_case(500)
    read = jax.jit(mutual_information_gap)
    first = read(codes, factors)
    renamed = np.array([-3, 40, 7, 1_000_000, 5, -9, 0])[factors]
    moved = codes * np.array([1e3, 0.25, 8], np.float32)
    np.testing.assert_allclose(read(moved, renamed).gap, first.gap, atol=1e-5)


def test_what_is_independent_counts_as_the_docstring_says():
    """Codes that are uniform, so that no bin is nearly empty: (bins - 1)(values - 1) / 2 N."""
    num, runs = 2000, 60

    @jax.jit
    @jax.vmap
    def information(key):
        one, other = jax.random.split(key)
        codes = jax.random.uniform(one, (num, 2))
        factors = jax.random.randint(other, (num, 1), 0, 8)
        return mutual_information_gap(codes, factors).mutual_information[0, 0]

    each = np.asarray(information(jax.random.split(jax.random.key(0), runs)))
    stderr = each.std(ddof=1) / np.sqrt(runs)
    assert abs(each.mean() - 19 * 7 / (2 * num)) < 5 * stderr + 0.02 * each.mean()
    assert each.mean() > 20 * stderr  # and it is no zero


def test_what_does_not_fit_is_refused():
    codes, factors = random_case(10)
    for arguments, message in (
        ((codes[:, :1], factors), r"codes must be \[N, D\] with D >= 2"),
        ((codes, factors[:5]), r"factors must be \[10, F\]"),
        ((codes, factors.astype(np.float32)), "factors must be integers"),
        ((factors, factors), "codes must be floating"),
        ((np.where(codes > 0, np.nan, codes), factors), "codes must be finite"),
        ((codes, np.zeros_like(factors)), "factors must have two values or more each"),
    ):
        with pytest.raises(ValueError, match=message):
            mutual_information_gap(*arguments)
    with pytest.raises(ValueError, match="num_bins must be an integer of at least 2"):
        mutual_information_gap(codes, factors, num_bins=1)


def test_what_cannot_be_refused_under_jit_is_nan():
    codes, factors = random_case()
    still = np.stack([factors[:, 0], np.full(len(factors), 4)], 1)
    broken = codes.copy()
    broken[5, 1] = np.nan
    cases = np.stack([codes, broken]), np.stack([still, factors])
    made = jax.jit(jax.vmap(mutual_information_gap))(*cases)
    assert np.isnan(made.gap[0, 1])
    assert np.isnan(made.mean).all()
    assert made.entropy[0, 1] == 0
    known = np.delete(made.mutual_information[1], 1, 0)
    assert np.isfinite(known).all()
    assert np.isnan(made.mutual_information[1, 1]).all()
    assert np.isnan(made.gap[1]).all()
    assert np.isfinite(made.gap[0, 0])
