"""The gradient meter, held to Gaussian gradients, of which everything is known."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vi.diagnostics import gradient_meter
from vi.diagnostics._gradient_moments import GROUPS, jackknife, merged

NUM_BLOCKS, SIZE = 24, 3
MEANS = 0.2 * jnp.sin(1.0 + jnp.arange(NUM_BLOCKS * SIZE)).reshape(NUM_BLOCKS, SIZE)
SDS = 1.5 + jnp.cos(jnp.arange(NUM_BLOCKS * SIZE)).reshape(NUM_BLOCKS, SIZE)
MEAN, SD = MEANS[:2], SDS[:2]  # fewer blocks compile faster
PARAMS = [jnp.zeros(SIZE)] * 2
REPLICATES = 2000
KEY = jax.random.key(7)


def gaussian(scale=1.0, mean=MEAN, sd=SD):
    """A linear loss: its gradient is ``mean + scale * sd * e``."""

    def loss(params, key):
        gradient = mean + scale * sd * jax.random.normal(key, sd.shape)
        return jnp.vdot(jnp.stack(params), gradient)

    return loss


@pytest.fixture(scope="module")
def meter():
    losses = {"loud": gaussian(1.0, MEANS, SDS), "quiet": gaussian(0.1, MEANS, SDS)}
    params = [jnp.zeros(SIZE)] * NUM_BLOCKS
    return gradient_meter(
        KEY, losses, params, num_replicates=REPLICATES, batch_size=100, num_timings=0
    )


def truth(scale):
    """By block: ``|mean|^2``, ``tr Var``, the ratio of norms, the mean ratio of entries."""
    mean, sd = np.asarray(MEANS, np.float64), scale * np.asarray(SDS, np.float64)
    signal, variance = (mean**2).sum(1), (sd**2).sum(1)
    return signal, variance, np.sqrt(signal / variance), (np.abs(mean) / sd).mean(1)


@pytest.mark.parametrize(("i", "scale"), [(0, 1.0), (1, 0.1)])
def test_mean_and_variance_of_each_entry(meter, i, scale):
    name, variance = meter.names[i], np.square(scale * np.asarray(SDS))
    mean = np.stack(meter.mean[name])
    assert (np.abs(mean - MEANS) < 5 * np.sqrt(variance / REPLICATES)).all()
    stderr = variance * np.sqrt(2 / (REPLICATES - 1))
    found = np.stack(meter.variance[name])
    assert (np.abs(found - variance) < 5 * stderr).all()
    twin = found * 1.3
    assert not (np.abs(twin - variance) < 5 * stderr).all()


def z_scores(pair, i, exact):
    return (pair[0][i] - exact) / pair[1][i]


@pytest.mark.parametrize("table", ["signal", "total_variance", "snr", "entry_snr"])
def test_tables_and_their_errors(meter, table):
    """Of 24 blocks, z is Student's t with 19 degrees of freedom: mean 0, variance 19/17."""
    names = ("signal", "total_variance", "snr", "entry_snr")
    exact = truth(0.1)[names.index(table)]
    z = z_scores(getattr(meter, table), 1, exact)
    spread = 19 / 17
    fourth = 3 * 19**2 / (17 * 15)
    stderr = np.sqrt((fourth - spread**2) / NUM_BLOCKS)
    assert abs(z.mean()) < 5 * np.sqrt(spread / NUM_BLOCKS)
    assert abs(np.square(z).mean() - spread) < 5 * stderr
    twin = 2 * z  # who reports half the error
    assert abs(np.square(twin).mean() - spread) > 5 * stderr


def test_the_squared_norm_is_debiased(meter):
    """Where noise hides the mean, its estimate's squared norm is mostly noise."""
    signal = truth(1.0)[0]
    value, _ = meter.signal
    exact_stderr = np.sqrt(
        (4 * (MEANS**2 * SDS**2).sum(1) + 2 * (SDS**4).sum(1) / REPLICATES) / REPLICATES
    )
    overall = np.sqrt(np.square(exact_stderr).sum())
    assert abs((value[0] - signal).sum()) < 5 * overall
    size = 200
    none = gaussian(mean=jnp.zeros((1, size)), sd=jnp.ones((1, size)))
    noise = gradient_meter(
        jax.random.key(1), {"g": none}, [jnp.zeros(size)], num_replicates=400, batch_size=20,
        num_timings=0,
    )  # fmt: skip
    stderr = np.sqrt(2 * size) / 400
    assert abs(noise.signal[0].sum()) < 5 * stderr
    assert size / 400 > 5 * stderr  # so that a norm left biased would fail
    assert "below noise" in str(noise)
    (value,), (error,) = (table[0] for table in noise.signal)
    assert f"< {np.sqrt(max(value, 0.0) + 2 * error):.2g} " in str(noise)


def test_below_the_noise_the_error_of_the_signal_is_too_large_by_a_known_factor():
    """A sum over pairs of replicates, of variance ``2 s^4 / (R (R - 1))`` where the mean is 0.

    Without group g it lacks the pairs that touch g: with n = R - m left of R = 20 m, the jackknife
    finds ``19^2 / 20 (4 m R - 6 m^2 - 2 m) / (n (n - 1))^2`` instead, about twice as much.
    """
    num_blocks, size, m = 300, 30, 20
    R = GROUPS * m
    each = np.random.default_rng(3).normal(size=(num_blocks, GROUPS, m, size))
    means, counts = each.mean(2), np.full(GROUPS, m)
    norms = np.sqrt(np.square(each - means[:, :, None]).sum(2))
    sums = [merged(counts, *of_block)[2] for of_block in zip(means, norms, strict=True)]
    left = R - np.concatenate([[0], counts])
    signal = np.stack([of.squared_mean - of.variance / left for of in sums])
    exact = size * 2 / (R * (R - 1))
    n = R - m
    reported = size * 19**2 / 20 * (4 * m * R - 6 * m**2 - 2 * m) / (n * (n - 1)) ** 2

    def z_of_mean(squares, expected):
        return (squares.mean() - expected) / (squares.std(ddof=1) / num_blocks**0.5)

    assert abs(z_of_mean(np.square(signal[:, 0]), exact)) < 5
    found = np.square(jackknife(signal))
    assert abs(z_of_mean(found, reported)) < 5
    assert z_of_mean(found, exact) > 5
    assert abs(reported / exact - 2) < 0.1


def test_another_estimators_mean_serves_as_the_signal(meter):
    _, _, snr, _ = truth(1.0)
    own, shared = meter.snr, meter.snr_with("quiet")
    # relative to its own error, and far inside the error of the loud estimator's own mean
    z = z_scores(shared, 0, snr)
    assert (np.abs(z) < 8).all()
    assert np.sqrt(np.square(shared[0][0] - snr).mean()) < 0.02
    assert np.sqrt(np.square(own[0][0] - snr).mean()) > 2 * np.sqrt(
        np.square(shared[0][0] - snr).mean()
    )
    np.testing.assert_array_equal(shared[0][1], own[0][1])


def test_the_signal_of_an_unknown_estimator_is_refused(meter):
    with pytest.raises(ValueError, match=r"signal must name an estimator \(got 'still'\); choose"):
        meter.snr_with("still")


def test_estimators_see_the_same_keys(meter):
    ratio, stderr = meter.relative_variance
    np.testing.assert_allclose(ratio[1], 0.01, rtol=1e-4)  # to rounding: one noise, scaled
    assert (stderr[1] < 1e-5).all()
    losses = {
        "one": gaussian(),
        "same": gaussian(),
        "other": lambda params, key: gaussian()(params, jax.random.fold_in(key, 1)),
    }
    again = gradient_meter(KEY, losses, PARAMS, num_replicates=40, num_timings=0)
    for table in again.sums[:3]:  # the fourth is a count
        np.testing.assert_array_equal(table[0], table[1])
        assert (table[0] != table[2]).all()
    np.testing.assert_array_equal(again.relative_variance[0][1], 1.0)
    assert (again.relative_variance[1][2] > 0.01).all()


def gradients_of(count):
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(count))
    return np.asarray(MEAN + SD * jax.vmap(lambda k: jax.random.normal(k, SD.shape))(keys))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_whatever_the_batch_it_is_the_direct_computation(batch_size):
    R = 53  # no multiple of the groups or the batch
    found = gradient_meter(
        KEY, {"g": gaussian()}, PARAMS, num_replicates=R, batch_size=batch_size, num_timings=0
    )
    each = gradients_of(R).astype(np.float64)
    np.testing.assert_allclose(np.stack(found.mean["g"]), each.mean(0), rtol=1e-4, atol=1e-6)
    variance = each.var(0, ddof=1)
    np.testing.assert_allclose(np.stack(found.variance["g"]), variance, rtol=1e-4)

    def tables(kept):
        mean, variance = kept.mean(0), kept.var(0, ddof=1)
        signal = (mean**2).sum(1) - variance.sum(1) / len(kept)
        return signal, variance.sum(1), (np.abs(mean) / np.sqrt(variance)).mean(1)

    edges = np.arange(GROUPS + 1) * R // GROUPS
    without = [tables(np.delete(each, np.arange(*edges[g : g + 2]), axis=0)) for g in range(GROUPS)]
    names = ("signal", "total_variance", "entry_snr")
    for name, value, *held in zip(names, tables(each), *without, strict=True):
        stderr = np.std(held, axis=0) * np.sqrt(GROUPS - 1)
        table = getattr(found, name)
        np.testing.assert_allclose(table[0][0], value, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(table[1][0], stderr, rtol=1e-3, atol=1e-5)


def test_a_small_variance_about_a_large_mean_survives_float32():
    R, sd = 2000, jnp.full((1, 8), 0.05)
    loss = gaussian(mean=jnp.full((1, 8), 3e4), sd=sd)
    found = gradient_meter(
        KEY, {"g": loss}, [jnp.zeros(8)], num_replicates=R, batch_size=64, num_timings=0
    )
    # float32 holds 3e4 to 2^-9: rounding adds its step^2 / 12 to the variance
    variance = 0.05**2 + (2.0**-9) ** 2 / 12
    stderr = variance * np.sqrt(2 / (R - 1))
    assert (np.abs(np.asarray(found.variance["g"][0]) - variance) < 5 * stderr).all()
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(R))
    each = 3e4 + sd * jax.vmap(lambda k: jax.random.normal(k, sd.shape))(keys)
    naive = jnp.square(each).mean(0) - jnp.square(each.mean(0))
    assert (np.abs(np.asarray(naive) - variance) > 5 * stderr).all()


def test_blocks_are_the_top_level_or_what_the_user_says():
    params = {"net": {"w": jnp.zeros((2, 3)), "b": jnp.zeros(2)}, "scale": jnp.zeros(())}

    def loss(params, key):
        noise = jax.random.normal(key, (9,))
        leaves = jax.tree.leaves(params)
        return sum(
            jnp.vdot(leaf.ravel(), noise[: leaf.size]) * (i + 1) for i, leaf in enumerate(leaves)
        )

    def measure(**options):
        return gradient_meter(KEY, {"g": loss}, params, num_replicates=20, num_timings=0, **options)

    meter = measure()
    assert meter.blocks == ("net", "scale")
    assert meter.sizes.tolist() == [8, 1]
    by_kind = measure(block_of=lambda path: "bias" if path[-1].key == "b" else "rest")
    assert by_kind.blocks == ("bias", "rest")
    assert by_kind.sizes.tolist() == [2, 7]
    total = [float(leaf.sum()) for leaf in jax.tree.leaves(meter.variance["g"])]  # b, w, scale
    np.testing.assert_allclose(meter.total_variance[0][0], [sum(total[:2]), total[2]], rtol=1e-5)
    np.testing.assert_allclose(by_kind.total_variance[0][0], [total[0], sum(total[1:])], rtol=1e-5)
    one = gradient_meter(
        KEY, {"g": lambda p, key: p @ jax.random.normal(key, (2,))}, jnp.zeros(2),
        num_replicates=20, num_timings=0,
    )  # fmt: skip
    assert one.blocks == ("params",)
    assert jnp.shape(one.mean["g"]) == (2,)


def test_efficiency_is_precision_per_second(monkeypatch):
    """On a clock that moves only while a result is waited for: 1, 4 and 1/2 s, with an outlier.

    The first call, which compiles, takes 100 s more, and waiting for a key 1000 s.
    """
    clock, calls, ready = [0.0], itertools.count(), jax.block_until_ready

    def wait(result):
        if isinstance(result, tuple):  # the value and gradient of the losses in turn
            turn, i = divmod(next(calls), 3)
            clock[0] += [1.0, 4.0, 0.5][i] + {0: 100.0, 3: 50.0}.get(turn, 0.0)
        else:
            clock[0] += 1000.0
        return ready(result)

    fake = types.SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr("vi.diagnostics._gradient_meter.time", fake)
    monkeypatch.setattr(jax, "block_until_ready", wait)
    losses = {"plain": gaussian(), "slow": gaussian(), "quiet": gaussian(0.1)}
    meter = gradient_meter(KEY, losses, PARAMS, num_replicates=20, num_timings=7)
    assert next(calls) == 3 * 8
    assert meter.timings.shape == (3, 7)
    np.testing.assert_array_equal(meter.seconds, [1.0, 4.0, 0.5])
    assert meter.timings.max() == 54.0
    expected = 1 / (meter.total_variance[0] * np.median(meter.timings, axis=1)[:, None])
    np.testing.assert_allclose(meter.efficiency, expected, rtol=1e-6)
    np.testing.assert_allclose(meter.relative_efficiency, expected / expected[0], rtol=1e-6)
    np.testing.assert_array_equal(meter.relative_variance[0][1], 1.0)  # as precise, and slower
    assert (meter.relative_efficiency[1] < 0.5).all()
    assert (meter.relative_efficiency[2] > 10).all()


def test_nothing_is_compiled_again_for_more_replicates_or_timings():
    def traces(num_replicates, num_timings):
        count = 0

        def loss(params, key):
            nonlocal count
            count += 1
            return gaussian()(params, key)

        options = {"num_replicates": num_replicates, "num_timings": num_timings}
        meter = gradient_meter(KEY, {"g": loss}, PARAMS, **options)
        return count, meter

    few, _ = traces(20, 1)
    many, _ = traces(97, 20)
    assert few == many
    untimed, meter = traces(20, 0)
    assert untimed < few
    assert np.isnan(meter.seconds).all()
    assert np.isnan(meter.efficiency).all()


def test_half_precision_is_measured_in_float32():
    params = [leaf.astype(jnp.bfloat16) for leaf in PARAMS]
    meter = gradient_meter(KEY, {"g": gaussian()}, params, num_replicates=40, num_timings=0)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(meter.variance))
    each = gradients_of(40)
    np.testing.assert_allclose(np.stack(meter.variance["g"]), each.var(0, ddof=1), rtol=0.05)


@pytest.mark.parametrize("scale", [1e-24, 1e20])
def test_gradients_whose_squares_float32_cannot_hold(scale):
    def meter(scale):
        def loss(params, key):
            return gaussian()([scale * leaf for leaf in params], key)

        options = {"num_replicates": 60, "batch_size": 2, "num_timings": 0}  # groups of 2 + 1
        return gradient_meter(KEY, {"g": loss}, PARAMS, **options).arrays()

    expected, found = meter(1.0), meter(scale)
    for name, power in {"total_variance": 2, "signal": 2, "snr": 0, "entry_snr": 0}.items():
        for table in (name, f"{name}_stderr"):
            got = found[table] / scale**power
            np.testing.assert_allclose(got, expected[table], rtol=1e-3, atol=1e-5)


def test_the_snr_of_entries_is_that_of_those_that_vary():
    """A linear loss has a constant gradient in the bias of its output."""

    def loss(params, key):
        noise = jax.random.normal(key, (3,))
        return params["net"]["w"] @ (1 + noise) + params["net"]["b"].sum() + params["free"].sum()

    def measure(bias, free):
        params = {"net": {"w": jnp.zeros(3), "b": jnp.zeros(bias)}, "free": jnp.zeros(free)}
        return gradient_meter(KEY, {"g": loss}, params, num_replicates=60, num_timings=0)

    meter, weights_alone = measure(2, 2), measure(0, 0)
    assert meter.blocks == ("free", "net")
    assert np.isnan(meter.entry_snr[0][0, 0])
    assert weights_alone.blocks == ("net",)  # no entry, no block
    assert weights_alone.sizes.tolist() == [3]
    assert jnp.shape(weights_alone.mean["g"]["free"]) == (0,)
    for found, expected in zip(meter.entry_snr, weights_alone.entry_snr, strict=True):
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(found[:, 1:], expected, rtol=1e-8)  # two programs' rounding


def test_what_never_varies_is_said_so():
    def loss(params, key):
        return params["dead"].sum() * 0 + params["fixed"].sum() + 0 * jax.random.normal(key)

    params = {"dead": jnp.zeros(2), "fixed": jnp.zeros(2)}
    meter = gradient_meter(KEY, {"g": loss}, params, num_replicates=20, num_timings=2)
    np.testing.assert_array_equal(meter.total_variance[0], 0.0)
    assert np.isnan(meter.snr[0][0, 0])
    assert np.isinf(meter.snr[0][0, 1])
    assert np.isinf(meter.efficiency).all()
    assert "inf" in str(meter)


def test_the_table_is_aligned_and_complete(meter):
    head, names, *rows = str(meter).splitlines()
    assert head == "gradient_meter: 2,000 replicates, the same keys for all"
    assert len(rows) == 2 * NUM_BLOCKS
    for column in ("|mean|", "variance", "entry snr", "seconds", "efficiency", "relative"):
        end = names.index(column) + len(column)
        assert all(row[end - 1] != " " and row[end : end + 1] in ("", " ") for row in rows)
    arrays = meter.arrays()
    for table in ("signal", "total_variance", "snr", "entry_snr", "relative_variance"):
        assert arrays[table].shape == arrays[f"{table}_stderr"].shape == (2, NUM_BLOCKS)
    assert arrays["seconds"].shape == (2,)


def one(params, key):
    return params["w"].sum() * jax.random.normal(key)


W = {"w": jnp.zeros(2)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"losses": {}}, r"losses must hold at least one \(got none\); pass"),
        ({"losses": [one]}, r"losses must map names to functions \(got list\); pass"),
        ({"losses": {"a": 3}}, r"losses\['a'\] must be a function \(got 3\); pass"),
        ({"block_of": len}, r"block_of must return a string \(got 1 for params\['w'\]\); return"),
        ({"block_of": "w"}, r"block_of must be a function of a path \(got 'w'\); return"),
        ({"params": {"w": jnp.zeros(0)}}, r"params must hold something .* \(got no entry\)"),
        ({"num_replicates": 19}, r"num_replicates must be an integer of at least 20 \(got 19\)"),
        ({"num_replicates": 30.0}, "num_replicates must be an integer"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"num_timings": -1}, "num_timings must be an integer of at least 0"),
        ({"key": jnp.zeros(2, jnp.uint32)}, "key must be a typed PRNG key"),
        ({"key": jax.random.split(jax.random.key(0))}, "key must be a single key"),
        ({"params": {}}, r"params must hold something to differentiate by \(got no entry\)"),
        ({"params": {"w": jnp.arange(2)}}, r"params\['w'\] must be a floating array \(got int32"),
        (
            {"losses": {"vector": lambda p, key: p["w"]}},
            r"losses\['vector'\] must return a floating scalar \(got float32\[2\]\); return the",
        ),
        (
            {"losses": {"one": one, "pair": lambda p, key: (one(p, key), 1)}},
            r"losses\['pair'\] must return a floating scalar \(got tuple\)",
        ),
        ({"losses": {"int": lambda p, key: jnp.int32(1)}}, r"\(got int32\[\]\)"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    held = {"key": KEY, "losses": {"one": one}, "params": W, "num_replicates": 20} | arguments
    with pytest.raises(ValueError, match=f"^gradient_meter: .*{message}"):
        gradient_meter(held.pop("key"), held.pop("losses"), held.pop("params"), **held)


def test_traced_arguments_are_refused():
    def measure(key, params):
        return gradient_meter(key, {"one": one}, params, num_replicates=20).seconds

    message = r"^gradient_meter: key and params must be concrete \(got a traced value\); .* jit"
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda params: measure(KEY, params))(W)
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda key: measure(key, W))(KEY)
