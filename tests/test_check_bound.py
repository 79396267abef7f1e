"""A gallery: what check_bound passes, and the broken twins, each of which fails the right check."""

import jax
import jax.numpy as jnp
import pytest

from vi.bounds import declare, elbo, grouped, iwae
from vi.testing import check_bound, describe


@declare(direction="upper_limit", sense="minimise")
def cubo(log_w):
    return iwae(2 * log_w) / 2


@declare(direction="upper_limit", sense="minimise")
def eubo(log_w):
    weight = jax.nn.softmax(log_w, axis=0)
    return jnp.where(weight > 0, weight * jnp.where(weight > 0, log_w, 0.0), 0.0).sum(0)


@declare(direction="divergence", sense="minimise", shift="invariant", min_samples=2)
def log_variance(log_w):
    empty = log_w == -jnp.inf
    num = jnp.maximum((~empty).sum(0), 1)
    centred = jnp.where(empty, 0.0, log_w - jnp.where(empty, 0.0, log_w).sum(0) / num)
    return (centred**2).sum(0) / num


@declare(direction="divergence", sense="minimise", shift="none")
def chi_squared(log_w):
    return jnp.exp(2 * log_w).mean(0) - 1


def renyi_half(log_w):
    return iwae(0.5 * log_w) / 0.5


def test_declared_derivatives_are_the_ones_tried_at_minus_inf():
    """Right wherever every weight is positive, NaN beside a weight of zero."""

    def derivatives(log_w):
        weight = jnp.where((log_w == -jnp.inf).any(0), jnp.nan, jax.nn.softmax(log_w, axis=0))
        return weight, weight * (1 - weight)

    @declare(derivatives=derivatives)
    def twin(log_w):
        return iwae(log_w)

    assert check_bound(twin).failed == ("-inf",)


slow = pytest.mark.slow
GOOD = {
    "elbo": elbo,
    "renyi_half": renyi_half,
    "cubo": cubo,
    "log_variance": log_variance,
    "eubo": pytest.param(eubo, marks=slow),
    "chi_squared": pytest.param(chi_squared, marks=slow),
    "two_at_least": pytest.param(
        declare(direction="none", min_samples=2)(lambda log_w: renyi_half(log_w)), marks=slow
    ),
    "vr_max": declare(smooth=False, direction="upper_limit")(lambda log_w: log_w.max(0)),
    "median": pytest.param(declare(smooth=False)(lambda log_w: jnp.median(log_w, 0)), marks=slow),
}


@pytest.mark.parametrize("bound", GOOD.values(), ids=GOOD)
def test_a_right_declaration_passes(bound):
    report = check_bound(bound)
    assert report.passed, str(report)


def _derivatives(log_w):
    weight = jax.nn.softmax(log_w, axis=0)
    return weight, weight**2  # the second derivative is weight * (1 - weight)


@declare(derivatives=_derivatives)
def wrong_second_derivative(log_w):
    return iwae(log_w)


@declare(direction="upper_limit")
def nan_where_a_weight_is_zero(log_w):
    return (jax.nn.softmax(log_w, axis=0) * log_w).sum(0)


@declare(direction="upper_limit")
def nan_derivative_where_a_weight_is_zero(log_w):
    weight = jax.nn.softmax(log_w, axis=0)
    return jnp.where(weight > 0, weight * log_w, 0.0).sum(0)  # eubo guards twice: see there


def not_traceable(log_w):
    return iwae(log_w) if log_w.mean() < 100 else log_w[0]


SLOW = {  # a second or two each, and near neighbours of another
    *("mean of weights", "couples the batch", "median", "truncated", "absolute", "eubo as lower"),
    *("elbo as upper", "minus log-variance", "undeclared invariance", "NaN derivative", "halves"),
    "too few groups",
}
BROKEN = {
    "no minus log K": (lambda w: jax.nn.logsumexp(w, 0), {"posterior", "direction"}),
    "mean of weights": (lambda w: jnp.exp(w).mean(0), {"one_sample", "posterior", "shift"}),
    "overflows": (lambda w: jnp.log(jnp.mean(jnp.exp(w), 0)), {"shift"}),
    "keeps K": (lambda w: w - w.mean(0), {"shape"}),
    "drops the batch": (lambda w: iwae(w).mean(), {"shape"}),
    "sums the batch": (lambda w: iwae(w).sum(-1, keepdims=True), {"shape"}),
    "couples the batch": (lambda w: iwae(w) + 0 * iwae(w) + (w - w).sum() + w.max(), {"batch"}),
    "last axis": (lambda w: jax.nn.logsumexp(w, -1), {"shape"}),
    "maximum": (lambda w: w.max(0), {"smooth", "direction"}),
    "median": (lambda w: jnp.median(w, 0), {"smooth"}),
    "clip": (lambda w: iwae(jnp.clip(w, -10, 10)), {"smooth", "shift"}),
    "truncated": (lambda w: iwae(jnp.minimum(w, iwae(w) + 1)), {"smooth"}),
    "absolute": (
        declare(direction="divergence", shift="invariant")(
            lambda w: jnp.abs(w - w.mean(0)).mean(0)
        ),
        {"smooth"},
    ),
    "cubo as lower": (lambda w: iwae(2 * w) / 2, {"direction"}),
    "eubo as lower": (lambda w: eubo(w), {"direction"}),
    "elbo as upper": (declare(direction="upper_limit")(lambda w: elbo(w)), {"direction"}),
    "minus log-variance": (
        declare(direction="divergence", shift="invariant")(lambda w: -log_variance(w)),
        {"direction"},
    ),
    "drops the first": (lambda w: iwae(w[1:]), {"permutation", "min_samples"}),
    "wrong derivative": (wrong_second_derivative, {"derivatives"}),
    "not additive": (declare(additive=True)(lambda w: iwae(w)), {"additive"}),
    "wrong shift": (declare(shift="invariant")(lambda w: iwae(w)), {"shift"}),
    "undeclared invariance": (lambda w: elbo(w - w.mean(0)), {"shift", "one_sample"}),
    "NaN at -inf": (nan_where_a_weight_is_zero, {"-inf"}),
    "NaN derivative": (nan_derivative_where_a_weight_is_zero, {"-inf"}),
    "integers": (lambda w: jnp.round(iwae(w)).astype(int), {"dtype"}),
    "halves": (lambda w: iwae(w).astype(jnp.float16), {"dtype"}),
    "not traceable": (not_traceable, {"jit"}),
    "hidden groups": (
        declare(min_samples=6)(lambda w: grouped(iwae, 2)(w)),
        {"permutation"},
    ),
    "too few groups": (
        declare(num_groups=2, min_samples=6)(lambda w: grouped(iwae, 3)(w)),
        {"permutation"},
    ),
    "needs two": (lambda w: iwae(w) + 0 * w.std(0, ddof=1), {"min_samples"}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=slow if name in SLOW else ()) for name in BROKEN]
)
def test_a_broken_twin_fails_the_right_check(name):
    bound, expected = BROKEN[name]
    report = check_bound(bound)
    assert expected <= set(report.failed), str(report)
    if expected == {"shape"}:
        assert report.failed == ("shape",), "the rest has no meaning and is skipped"


@pytest.mark.usefixtures("x64")
def test_float32_weights_must_stay_float32_where_float64_exists():
    assert check_bound(lambda w: iwae(w.astype(jnp.float64))).failed == ("dtype",)


def test_a_bound_for_float32_alone_is_checked_in_float32():
    def fold(log_w):
        start = jnp.full(log_w.shape[1:], -jnp.inf, jnp.float32)
        total, _ = jax.lax.scan(lambda carry, w: (jnp.logaddexp(carry, w), None), start, log_w)
        return total - jnp.log(jnp.float32(log_w.shape[0]))

    with jax.enable_x64(True), pytest.raises(TypeError, match="carry"):
        fold(jnp.zeros(3))
    report = check_bound(fold)
    assert set(report.failed) <= {"-inf"}, str(report)


def test_an_exception_is_a_failed_check_that_quotes_it():
    def raises(log_w):
        raise RuntimeError("no such thing")

    report = check_bound(raises)
    assert report.failed == ("shape",)
    assert "raised RuntimeError: no such thing" in str(report)


def test_the_report_reads_as_a_table_and_repeats():
    report = check_bound(elbo)
    lines = str(report).splitlines()
    assert lines[0] == "check_bound(elbo): passed"
    assert len({line.index("ok") for line in lines[1:]}) == 1
    assert report == check_bound(elbo)


def test_the_precision_is_left_as_it_was():
    check_bound(iwae)
    assert jnp.zeros(()).dtype == jnp.float32


def test_what_is_not_a_function_is_refused():
    with pytest.raises(
        ValueError, match=r"check_bound: bound must be a function of log_w \(got 3\); pass"
    ):
        check_bound(3)


class _Pair:
    """A q over named latents: [K, B, 3] and [K, B, 2]."""

    def sample(self, key, sample_shape=()):
        return {"z1": jnp.zeros((*sample_shape, 4, 3)), "z2": jnp.zeros((*sample_shape, 4, 2))}

    def log_prob(self, z):
        return z["z1"].sum(-1) + z["z2"].sum(-1)


class _Vector:
    """A q over vectors, with or without its event axis declared."""

    def __init__(self, event_axes=1):
        self.event_axes = event_axes

    def sample(self, key, sample_shape=()):
        return jnp.zeros((*sample_shape, 4, 3))

    def log_prob(self, z):
        return z.sum(tuple(range(z.ndim - self.event_axes, z.ndim)))


HEAD = "K 5 | batch [4] | event [3]"


@pytest.mark.parametrize(
    ("q", "log_joint", "expected"),
    [
        (_Vector(), lambda z: z.sum(-1), f"{HEAD} | log_joint [5, 4]"),
        (_Vector(), lambda z: (z.sum(-1), {"aux": z}), f"{HEAD} | log_joint [5, 4]"),
        (_Vector(), lambda z: z, "sum it over its last axes [3]"),
        (_Vector(), lambda z: z.sum((0, -1)), "the sample axis is lost"),
        (_Vector(), lambda z: z.sum((1, 2)), "q.log_prob has the axes [4] more"),
        (_Vector(0), lambda z: z.sum(-1), "are they event axes, q.to_event(...)?"),
        (_Vector(), lambda z: z.sum(-1).T, "keep [K, *batch] first"),
        (_Vector(), lambda z: z.sum(-1).astype(int), "must be floating, not int32"),
        (_Vector(), lambda z: z @ jnp.ones((7, 2)), "log_joint raised TypeError"),
        (_Vector(3), lambda z: z.sum(-1), "q.sample drew [5, 4, 3], q.log_prob gave []"),
        (_Pair(), lambda z: z["z1"].sum(-1), "event {z1: [3], z2: [2]} | log_joint [5, 4]"),
    ],
)
def test_describe_says_the_shapes_or_where_they_do_not_fit(q, log_joint, expected):
    text = describe(jax.random.key(0), q, log_joint, 5)
    assert expected in text
    assert ("\n" in text) == (not expected.endswith("[5, 4]"))


def test_describe_computes_nothing():
    def explode(z):
        jax.debug.callback(lambda z: pytest.fail("computed"), z)
        return z.sum(-1)

    assert describe(jax.random.key(0), _Vector(), explode, 5).endswith("log_joint [5, 4]")


@pytest.mark.parametrize(("key", "num_samples"), [(0, 5), (None, 5), ("typed", 0), ("typed", 2.0)])
def test_describe_refuses_bad_input(key, num_samples):
    key = jax.random.key(0) if key == "typed" else key
    with pytest.raises(ValueError, match="describe: "):
        describe(key, _Vector(), lambda z: z.sum(-1), num_samples)
