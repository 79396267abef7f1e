"""Every bound, one line each in the table, through every property; then the named identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vi
from tests.bounds import BOUNDS, GRID, at_least, draw, each, each_bound, triangular
from vi.bounds import (
    beta_elbo,
    cubo,
    declaration,
    derivatives,
    elbo,
    elbo_closed_kl,
    eubo,
    first_derivative,
    free_bits,
    generic_derivatives,
    grouped,
    iwae,
    jackknife,
    log_variance,
    mix,
    renyi,
    sumo,
    tempered,
    tvo_lower,
    tvo_upper,
    vr_max,
)
from vi.testing import check_bound


@each_bound
def test_it_is_what_it_declares(bound):
    report = check_bound(bound)
    assert report.passed, str(report)


def shapes(bound, dtype):
    """The types of value, first derivative and both: traced, not computed."""
    log_w = jax.ShapeDtypeStruct((8, 3), dtype)
    functions = (bound, functools.partial(first_derivative, bound))
    return [
        *(jax.eval_shape(function, log_w) for function in functions),
        *jax.eval_shape(functools.partial(derivatives, bound), log_w),
    ]


@each_bound
def test_half_precision_is_computed_in_float32(bound):
    for dtype in (jnp.bfloat16, jnp.float16):
        assert shapes(bound, dtype)[0].dtype == jnp.float32
    assert {out.dtype for out in shapes(bound, jnp.float32)} == {jnp.float32.dtype}


@each_bound
@pytest.mark.usefixtures("x64")
def test_float64_is_kept_and_float32_not_widened(bound):
    for dtype in (jnp.float64, jnp.float32):
        assert {out.dtype for out in shapes(bound, dtype)} == {dtype.dtype}


@each_bound
def test_nothing_broadcasts_across_ranks(bound):
    with jax.numpy_rank_promotion("raise"):
        shapes(bound, jnp.float32)
        jax.eval_shape(jax.grad(lambda log_w: bound(log_w).sum()), draw((8, 3)))


@each_bound
@pytest.mark.usefixtures("x64")
def test_declared_derivatives_are_the_generic_ones(bound):
    many = 10 if "jackknife" in bound.__name__ else 34  # more than one block of the generic ones
    for num_samples in (1, many):
        log_w = draw((at_least(bound, num_samples), 3), jnp.float64)
        generic = jax.jit(functools.partial(generic_derivatives, bound))(log_w)
        for one, other in zip(derivatives(bound, log_w), generic, strict=True):
            assert one.shape == log_w.shape
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(first_derivative(bound, log_w), generic[0], rtol=1e-10)


@each_bound
def test_coefficients_vanish_where_every_weight_is_zero(bound):
    log_w = jnp.full((4, 2), -jnp.inf).at[1, 0].set(3.0)
    value, declared = bound(log_w), declaration(bound)
    assert not jnp.isnan(value).any()
    assert value[1] == (jnp.inf if declared.direction == "divergence" else -jnp.inf)
    for coefficient in derivatives(bound, log_w):
        assert jnp.isfinite(coefficient).all()
        if declared.additive:  # a constant: it waits for no weight
            assert (coefficient == coefficient[0, 0]).all()
            continue
        assert (coefficient[:, 1] == 0).all()
        assert (coefficient[jnp.array([0, 2, 3]), 0] == 0).all()


@each_bound
def test_magnitude_1e4_neither_overflows_nor_loses_the_value(bound):
    log_w, shift = draw((8, 3)), declaration(bound).shift
    if shift == "none":
        return  # the divergences with a known log p(x): exp(1e4) is infinite in any precision
    for offset in (-1e4, 1e4):
        moved = bound(log_w + offset) - (offset if shift == "equivariant" else 0.0)
        gap = jnp.abs(moved - bound(log_w)) / (1 + jnp.abs(bound(log_w)))
        assert gap.max() < 4e-3  # 4 ulp of 1e4, in the weights themselves


@pytest.mark.parametrize("offset", [-1e4, 1e4])
@each({n: b for n, b in BOUNDS.items() if declaration(b).shift != "none"} | {"sumo(90)": sumo(90)})
def test_an_offset_costs_no_more_than_the_weights_own_rounding(bound, offset):
    """In float32 beside float64, of the same rounded weights."""
    log_w = np.asarray(draw((at_least(bound, 8), 3)) + offset)
    value = np.asarray(bound(jnp.asarray(log_w)), np.float64)
    with jax.enable_x64(True):
        exact = np.asarray(bound(jnp.asarray(log_w, jnp.float64)))
    ulp = 1e-3 if declaration(bound).shift == "equivariant" else 2e-5 * (1 + np.abs(exact))
    assert (np.abs(value - exact) <= 1.1 * ulp).all()


def test_equal_functions_go_the_same_way():
    for one, other in (
        (renyi(-1.0), cubo(2.0)),
        (tempered(iwae, 0.3), renyi(0.7)),
        (tvo_lower([0, 1]), elbo),
        (tvo_upper([0, 1]), eubo),
        (grouped(iwae, 1), iwae),
    ):
        same(one(LOG_W), other(LOG_W), rtol=1e-5)
        for field in ("direction", "sense", "smooth"):
            assert getattr(declaration(one), field) == getattr(declaration(other), field)


FACTORIES = [name for name in vi.bounds.__all__ if hasattr(getattr(vi.bounds, name), "is_factory")]


@pytest.mark.parametrize("name", FACTORIES)
def test_a_factory_is_not_taken_for_a_bound(name):
    make = getattr(vi.bounds, name)
    got = rf"\(got the factory {name}\); call it: vi.bounds.{name}\("
    for use in (vi.gradients.dreg, check_bound, jackknife, lambda bound: grouped(bound, 2)):
        with pytest.raises(ValueError, match=f"bound must be a function of log_w {got}"):
            use(make)
    assert make.is_factory.startswith(f"{name}(")


def test_every_maker_of_bounds_is_marked():
    """What gives a function of log-weights is a factory; what gives nats is a bound."""
    bounds = {"elbo", "iwae", "eubo", "vr_max", "log_variance"}
    others = {"Declaration", "Roulette", "beta_elbo", "declaration", "declare", "derivatives"}
    others |= {"elbo_closed_kl", "first_derivative", "free_bits", "generic_derivatives"}
    others |= {"generic_replaced", "learning_signal", "leave_one_out", "replaced"}
    on_arrays = {"KLTerms", "kl_terms", "minibatch_stratified", "minibatch_weighted"}
    on_arrays |= {"gaussian_kernel", "inverse_multiquadratic_kernel"}
    on_arrays |= {"squared_mmd_biased", "squared_mmd_unbiased"}
    assert set(FACTORIES) == set(vi.bounds.__all__) - bounds - others - on_arrays


def test_one_zero_weight_counts_in_the_mean():
    log_w = jnp.array([-jnp.inf, 0.0])
    assert elbo(log_w) == -jnp.inf
    np.testing.assert_allclose(iwae(log_w), -np.log(2), rtol=1e-6)


@each_bound
@pytest.mark.parametrize("log_w", [jnp.arange(4), jnp.float32(1.0), jnp.zeros((0, 3))])
def test_what_is_not_log_weights_is_refused(bound, log_w):
    with pytest.raises(ValueError, match="log_w must"):
        bound(log_w)


@each_bound
def test_its_name_is_the_call_that_makes_it(bound):
    name = bound.__name__
    assert name.partition("(")[0] in vi.bounds.__all__
    assert repr(vi.gradients.fixed(bound)) == f"fixed({name})"
    if "steps" not in name and declaration(bound).shift != "none":
        made = eval(name, vars(vi.bounds) | {"triangular": triangular})
        np.testing.assert_array_equal(made(draw((8, 3))), bound(draw((8, 3))))


# The identities that tie them together, draw by draw.


def same(one, other, **tolerance):
    np.testing.assert_allclose(one, other, **{"rtol": 1e-6, "atol": 1e-6} | tolerance)


LOG_W = draw((9, 40))


def test_renyi_meets_iwae_the_elbo_cubo_and_the_tempered_weights():
    same(renyi(0.0)(LOG_W), iwae(LOG_W))
    same(renyi(-1.0)(LOG_W), cubo(2.0)(LOG_W))
    same(renyi(-0.5)(LOG_W), cubo(1.5)(LOG_W))
    same(renyi(0.7)(LOG_W), tempered(iwae, 0.3)(LOG_W))
    same(renyi(2.0)(LOG_W), -jnp.log(jnp.mean(jnp.exp(-LOG_W), 0)))
    for bound in (renyi(3.0), cubo(4.0), eubo, tvo_upper(GRID), vr_max, jackknife(iwae)):
        if declaration(bound).min_samples == 1:
            same(bound(LOG_W[:1]), LOG_W[0])


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, -1e-6])
def test_near_alpha_of_one_renyi_keeps_its_digits(gap):
    """Its expansion: mean + (1 - alpha) variance / 2; a plain log-sum-exp over 1e-6 is noise."""
    expected = LOG_W.mean(0) + gap * LOG_W.var(0) / 2
    same(renyi(1 - gap)(LOG_W), expected, atol=20 * gap**2 + 4e-6)
    naive = (jax.nn.logsumexp(gap * LOG_W, 0) - np.log(9)) / gap
    if abs(gap) < 1e-5:
        assert np.abs(naive - expected).max() > 1e-3, "the twin"


@pytest.mark.parametrize("offset", [0.0, -1e4])
def test_a_learned_alpha_has_the_derivative_of_the_bound(offset):
    """Minus the divergence of the weights' powers from equal ones, in float64 by its definition."""
    log_w = LOG_W + offset  # rounded as it is
    d = np.asarray(log_w, np.float64) - offset
    slope = jax.jit(jax.grad(lambda alpha: renyi(alpha)(log_w).sum()))
    for alpha in (-1.0, 0.0, 0.5, 0.9, 0.999, 1.0, 1.001, 3.0):
        truth, s = -d.var(0) / 2, 1 - alpha
        if s:
            v = np.exp(s * d) / np.exp(s * d).sum(0)
            truth = -(v * np.log(len(d) * v)).sum(0) / s**2
        same(slope(alpha), truth.sum(), rtol=2e-3)
    assert jax.jit(lambda alpha: declaration(renyi(alpha)).direction == "none")(0.5)


def test_alpha_may_pass_through_one():
    values = jax.vmap(lambda alpha: renyi(alpha)(LOG_W))(jnp.array([0.999, 1.0, 1.001]))
    same(values[1], elbo(LOG_W), rtol=1e-5, atol=1e-5)
    assert (jnp.diff(values, axis=0) < 0).all()


LEARNED = {
    "renyi": renyi,
    "tempered": lambda t: tempered(iwae, t),
    "mix": lambda weight: mix(weight, renyi(0.5), iwae),
}


@pytest.mark.parametrize("name", LEARNED)
def test_a_weight_of_zero_leaves_what_is_learned_finite(name):
    slope = jax.jit(jax.grad(lambda hyper, log_w: LEARNED[name](hyper)(log_w)))
    for log_w in (jnp.array([0.0, 1.0, -jnp.inf]), jnp.full(3, -jnp.inf)):
        for value in (0.5, 2.0, -1.0)[: 3 if name == "renyi" else 1]:
            assert jnp.isfinite(slope(value, log_w)) or name == "mix"
    assert jnp.isfinite(slope(0.5, jnp.array([0.0, 1.0, -jnp.inf])))


def test_small_powers_of_the_weights_keep_their_digits():
    for t in (1e-4, 1e-6, 1e-8):
        same(tempered(iwae, t)(LOG_W), renyi(1 - t)(LOG_W), rtol=1e-5, atol=1e-5)
        same(tempered(iwae, t)(LOG_W), elbo(LOG_W) + t * LOG_W.var(0) / 2, rtol=1e-5, atol=1e-5)


def test_the_order_in_alpha_and_along_the_path():
    rising = [renyi(5.0), renyi(2.0), elbo, renyi(0.5), iwae, renyi(-1.0), cubo(6.0), vr_max]
    path = [elbo, tvo_lower(GRID), iwae, tvo_upper(GRID), eubo, vr_max]
    for chain in (rising, path):
        values = jnp.stack([bound(LOG_W) for bound in chain])
        assert (jnp.diff(values, axis=0) > 0).all()


def test_one_step_of_the_path_is_the_elbo_and_eubo():
    same(tvo_lower([0, 1])(LOG_W), elbo(LOG_W))
    same(tvo_upper([0, 1])(LOG_W), eubo(LOG_W))
    fine = np.linspace(0, 1, 2001)
    same(tvo_lower(fine)(LOG_W), iwae(LOG_W), atol=2e-3)
    same(tvo_upper(fine)(LOG_W), iwae(LOG_W), atol=2e-3)
    traced = jax.jit(lambda betas: tvo_lower(betas)(LOG_W))(jnp.asarray(GRID))
    same(traced, tvo_lower(GRID)(LOG_W), rtol=1e-5)


def test_eubo_is_the_mean_under_the_normalised_weights():
    weight = np.exp(LOG_W) / np.exp(LOG_W).sum(0)
    same(eubo(LOG_W), (weight * LOG_W).sum(0), rtol=1e-5)


def test_log_variance_is_half_numpys():
    same(log_variance(LOG_W), np.var(LOG_W, axis=0, ddof=1) / 2, rtol=1e-5)


def test_a_generator_may_overflow_on_either_side():
    log_w = LOG_W / 2
    for f in (lambda u: u**-2.0 - 1, lambda u: jnp.exp(u - 1) - 1, lambda u: u**14 - 1):
        bound = vi.bounds.csiszar(f)
        assert jnp.isfinite(bound(log_w)).all()
        assert all(jnp.isfinite(part).all() for part in derivatives(bound, log_w))


def test_a_known_log_p_far_off_gives_infinity_and_no_nan():
    log_w = jnp.array([95.0, 0.0, -3.0])
    for name in GENERATORS:
        bound = getattr(vi.bounds, name)(log_evidence=0.0)
        assert not jnp.isnan(bound(log_w))
        assert not jnp.isnan(first_derivative(bound, log_w)).any()


def test_unlike_groups_have_a_common_least_k():
    assert declaration(mix(0.5, grouped(iwae, 2), grouped(iwae, 3))).min_samples == 6


GENERATORS = {
    "forward_kl": lambda u: jax.scipy.special.xlogy(u, u),
    "reverse_kl": lambda u: -jnp.log(u),
    "chi_square": lambda u: (u - 1) ** 2,
    "squared_hellinger": lambda u: 0.5 * (jnp.sqrt(u) - 1) ** 2,
    "jensen_shannon": lambda u: (
        0.5 * (jax.scipy.special.xlogy(u, u) - (1 + u) * jnp.log((1 + u) / 2))
    ),
    "total_variation": lambda u: 0.5 * jnp.abs(u - 1),
}


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("log_evidence", [None, -0.5])
def test_a_named_divergence_is_csiszars_of_its_generator(name, log_evidence):
    named = getattr(vi.bounds, name)(log_evidence=log_evidence)
    general = vi.bounds.csiszar(GENERATORS[name], log_evidence=log_evidence)
    same(named(LOG_W), general(LOG_W), rtol=1e-4, atol=1e-5)
    for one, other in zip(derivatives(named, LOG_W), derivatives(general, LOG_W), strict=True):
        same(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("spread", [20, 40, 100, 1e4])
def test_a_generator_with_a_logarithm_has_derivatives_far_out(spread):
    """Ratios down to exp(-1e4): 0 in float32, where -log u is infinite and its slope no number."""
    log_w = spread * draw((6,)) / 2
    for name in ("reverse_kl", "forward_kl"):
        general, named = vi.bounds.csiszar(GENERATORS[name]), getattr(vi.bounds, name)()
        same(general(log_w), named(log_w), rtol=1e-4)
        for one, other in zip(derivatives(general, log_w), derivatives(named, log_w), strict=True):
            same(one, other, rtol=1e-3, atol=1e-4)


def test_what_the_divergences_of_weights_are():
    same(vi.bounds.reverse_kl()(LOG_W), iwae(LOG_W) - elbo(LOG_W), rtol=1e-5, atol=1e-5)
    same(vi.bounds.forward_kl()(LOG_W), eubo(LOG_W) - iwae(LOG_W), rtol=1e-5, atol=1e-5)
    size = vi.diagnostics.effective_sample_size(LOG_W)
    same(vi.bounds.chi_square()(LOG_W), 9 / size - 1, rtol=1e-5)
    same(vi.bounds.reverse_kl(log_evidence=0.7)(LOG_W), 0.7 - elbo(LOG_W), rtol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_jackknife_by_its_definition(order):
    """Sharot's coefficients as the solution of their equations; every subset by a loop."""
    import itertools
    import math

    log_w, K = np.asarray(LOG_W[:6], np.float64), 6
    sizes = K - np.arange(order + 1)
    # c sums to 1 and annihilates 1/n, ..., 1/n^m
    system = np.stack([1.0 / sizes**power for power in range(order + 1)])
    coefficients = np.linalg.solve(system, np.eye(order + 1)[0])
    value = 0.0
    for size, c in zip(sizes, coefficients, strict=True):
        subsets = list(itertools.combinations(range(K), int(size)))
        assert len(subsets) == math.comb(K, int(size))
        value = value + c * np.mean(
            [np.log(np.exp(log_w[list(kept)]).mean(0)) for kept in subsets], axis=0
        )
    same(jackknife(iwae, order)(LOG_W[:6]), value, rtol=1e-4, atol=1e-4)


def test_a_jackknife_of_the_elbo_is_the_elbo():
    same(jackknife(elbo)(LOG_W), elbo(LOG_W), rtol=1e-5, atol=1e-5)


def test_the_jackknife_is_infinite_where_a_subset_is():
    log_w = jnp.array([[0.0, 0.0], [-jnp.inf, 1.0], [-jnp.inf, -jnp.inf]])
    value = jackknife(iwae)(log_w)
    assert value[0] == -jnp.inf
    assert jnp.isfinite(value[1])


def test_groups_of_one_are_the_elbo_and_one_group_is_the_bound():
    same(grouped(iwae, 9)(LOG_W), elbo(LOG_W))
    same(grouped(iwae, 1)(LOG_W), iwae(LOG_W))
    same(grouped(iwae, 3)(LOG_W), jnp.stack([iwae(LOG_W[i : i + 3]) for i in (0, 3, 6)]).mean(0))


def test_a_mixture_at_its_ends_leaves_out_the_other():
    log_w = jnp.array([0.0, -jnp.inf])
    assert mix(1.0, elbo, iwae)(log_w) == -jnp.inf
    assert jnp.isfinite(mix(0.0, elbo, iwae)(log_w))
    same(mix(0.3, elbo, iwae)(LOG_W), 0.3 * elbo(LOG_W) + 0.7 * iwae(LOG_W))
    assert declaration(mix(0.3, elbo, vr_max)).direction == "none"
    slope = jax.grad(lambda weight: mix(weight, elbo, iwae)(LOG_W).sum())(0.3)
    same(slope, (elbo(LOG_W) - iwae(LOG_W)).sum(), rtol=1e-5)


def test_what_tempering_does_to_a_declaration():
    assert {declaration(tempered(iwae, t)).direction for t in (0.5, 1.0)} == {"lower"}
    assert {declaration(tempered(eubo, t)).direction for t in (1.0, 2.0)} == {"upper_limit"}
    assert jax.jit(lambda t: declaration(tempered(iwae, t)).direction == "none")(2.0)
    known = vi.bounds.forward_kl(log_evidence=0.0)
    assert declaration(tempered(known, 0.5)).direction == "none"


@pytest.mark.parametrize("t", [0.5, 1.0])
def test_lower_bounds_are_below_iwae_under_any_power_up_to_one(t):
    for bound in (elbo, tvo_lower(GRID), iwae):
        assert (tempered(bound, t)(LOG_W) <= iwae(LOG_W) + 1e-5).all()


def test_wrapped_bounds_keep_what_they_declare():
    assert declaration(jax.jit(BOUNDS["grouped"])).num_groups == 2


# Bounds with an analytic KL: by hand.


def test_elbo_closed_kl_by_hand():
    log_lik = jnp.array([[-1.0, -2.0], [-3.0, -4.0]])
    np.testing.assert_array_equal(elbo_closed_kl(log_lik, jnp.array([0.5, 1.0])), [-2.5, -4.0])
    kl = jnp.array([[0.25, 0.25, 0.0], [0.5, 0.25, 0.25]])
    np.testing.assert_array_equal(elbo_closed_kl(log_lik, kl), [-2.5, -4.0])
    assert elbo_closed_kl(log_lik[:, 0], jnp.float32(0.5)) == -2.5
    assert elbo_closed_kl(log_lik[:, 0], jnp.array([0.25, 0.25])) == -2.5


def test_beta_elbo_by_hand_and_traced():
    log_lik, kl = jnp.array([[-1.0], [-3.0]]), jnp.array([0.5])
    np.testing.assert_array_equal(beta_elbo(log_lik, kl, 4.0), [-4.0])
    np.testing.assert_array_equal(beta_elbo(log_lik, kl, 1.0), elbo_closed_kl(log_lik, kl))
    np.testing.assert_array_equal(beta_elbo(log_lik, kl, 0), [-2.0])
    annealed = jax.jit(beta_elbo)(log_lik, kl, jnp.float32(4.0))
    np.testing.assert_array_equal(annealed, [-4.0])


def test_free_bits_by_hand_and_its_gradient():
    kl = jnp.array([[0.1, 2.0], [0.5, 0.0]])
    np.testing.assert_array_equal(free_bits(kl, 0.25), [[0.25, 2.0], [0.5, 0.25]])
    gradient = jax.grad(lambda kl: free_bits(kl, 0.25).sum())(kl)
    np.testing.assert_array_equal(gradient, [[0.0, 1.0], [1.0, 0.0]])


REFUSED = [
    (lambda: elbo_closed_kl(jnp.zeros((4, 3)), jnp.zeros(2)), "elbo_closed_kl: kl must have"),
    (lambda: elbo_closed_kl(jnp.zeros((4, 3)), jnp.zeros((4, 3, 2))), "kl must have shape"),
    (lambda: elbo_closed_kl(jnp.zeros((4, 3), int), jnp.zeros(3)), "log_lik must be floating"),
    (lambda: beta_elbo(jnp.zeros((4, 3)), jnp.zeros(3), -1.0), "beta must be at least 0"),
    (lambda: beta_elbo(jnp.zeros((4, 3)), jnp.zeros(3), jnp.ones(3)), "beta must be a scalar"),
    (lambda: free_bits(jnp.zeros(3), -0.1), "free_bits: min_nats must be at least 0"),
    (lambda: free_bits(jnp.zeros(3), jnp.ones(3)), "free_bits: min_nats must be a scalar"),
    (lambda: vi.bounds.declare(direction="up"), "declare: direction must be one of"),
    (lambda: vi.bounds.declare(min_samples=0), "declare: min_samples must be an integer"),
    (lambda: vi.bounds.declare(num_groups=0), "declare: num_groups must be an integer"),
    (lambda: vi.bounds.declare(derivatives=3), "declare: derivatives must be a function"),
    (lambda: renyi(1.0), r"renyi: alpha must differ from 1 \(got 1.0\); use vi.bounds.elbo"),
    (lambda: renyi(np.inf), r"renyi: alpha must be finite \(got inf\)"),
    (lambda: renyi(jnp.zeros(3)), r"renyi: alpha must be a scalar \(got shape \[3\]\); jax.vmap"),
    (lambda: renyi(True), r"renyi: alpha must be a number \(got True\)"),
    (lambda: renyi("half"), "renyi: alpha must be a number .*half"),
    (lambda: renyi(None), r"renyi: alpha must be a number \(got None\)"),
    (lambda: renyi(1j), r"renyi: alpha must be a number \(got 1j\)"),
    (lambda: renyi(1e39), r"renyi: alpha must be finite \(got 1e\+39\)"),
    (lambda: cubo(1), "cubo: n must be above 1 .* use vi.bounds.iwae"),
    (lambda: tvo_lower([0, 0.5, 0.5, 1]), "tvo_lower: betas must rise strictly from 0 to 1"),
    (lambda: tvo_upper([0, 0.6, 0.4, 1]), "tvo_upper: betas must rise strictly from 0 to 1"),
    (lambda: tvo_lower([0, 0.5, 1.5]), r"betas must rise .*got \[0.  0.5 1.5\]"),
    (lambda: tvo_lower([-0.5, 0.5, 1]), "betas must rise"),
    (lambda: tvo_lower([0, np.nan, 1]), "betas must rise"),
    (lambda: tvo_lower([0.0, 0.5]), "betas must rise"),
    (lambda: tvo_lower([1.0]), r"betas must be \[T\], T >= 2"),
    (lambda: jax.jit(tvo_lower)(jnp.zeros((2, 2))), r"betas must be \[T\], T >= 2"),
    (lambda: log_variance(jnp.zeros((1, 3))), r"log_variance: log_w must have at least 2 samples"),
    (
        lambda: vi.bounds.forward_kl()(jnp.zeros(1)),
        "forward_kl: log_w must have at least 2 samples",
    ),
    (lambda: vi.bounds.csiszar("kl"), "csiszar: f must be a function"),
    (lambda: vi.bounds.csiszar(np.square), "csiszar: f must be traceable .*jax.numpy"),
    (lambda: vi.bounds.sumo(3, 5), "sumo: roulette must be a Roulette"),
    (lambda: tempered(iwae, 2.0), "tempered: t must keep iwae on its side: at most 1"),
    (lambda: tempered(eubo, 0.5), "tempered: t must keep eubo on its side: at least 1"),
    (lambda: grouped(iwae, 3)(jnp.zeros((10, 2))), "draw 9 or 12"),
    (lambda: vi.bounds.csiszar(jnp.log), "csiszar: f must be defined at 0|f must be convex"),
    (lambda: vi.bounds.csiszar(lambda u: u * jnp.log(u)), r"be defined at 0 .*xlogy"),
    (lambda: vi.bounds.csiszar(lambda u: u**2), r"csiszar: f must be 0 at 1 \(got f\(1\) = 1\)"),
    (lambda: vi.bounds.csiszar(lambda u: 1 - u**2), "csiszar: f must be convex"),
    (lambda: vi.bounds.csiszar(lambda u: (u - 1) ** 3), "csiszar: f must be convex"),
    (lambda: vi.bounds.csiszar(lambda u: u.sum() - u.size), "csiszar: f must be elementwise"),
    (lambda: vi.bounds.csiszar(triangular, log_evidence=jnp.zeros(3)), "subtract it in log_joint"),
    (lambda: jackknife(iwae, 0), "jackknife: order must be an integer of at least 1"),
    (lambda: jackknife(grouped(iwae, 2)), r"not depend on the samples' order \(got grouped"),
    (lambda: jackknife(iwae)(jnp.zeros((1, 3))), "jackknife: log_w must have at least 2 samples"),
    (lambda: jackknife("iwae"), "jackknife: bound must be a function of log_w"),
    (lambda: jackknife(vi.gradients.dreg(iwae)), "jackknife: bound must be a function of log_w"),
    (lambda: grouped(iwae, 0), "grouped: num_groups must be an integer of at least 1"),
    (lambda: grouped(iwae, 3)(jnp.zeros((10, 2))), r"have a multiple of 3 samples \(got K = 10\)"),
    (lambda: grouped(log_variance, 3)(jnp.zeros((3, 2))), "have at least 6 samples"),
    (lambda: mix(1.1, elbo, iwae), "mix: weight must be from 0 to 1"),
    (lambda: mix(0.5, elbo, eubo), r"have one sense \(got elbo to maximise, eubo to minimise\)"),
    (lambda: mix(0.5, elbo, 3), "mix: b must be a function of log_w"),
    (lambda: tempered(iwae, 0.0), "tempered: t must be above 0"),
    (lambda: tempered(iwae, -1.0), "tempered: t must be above 0"),
    (lambda: vi.bounds.sumo(0), "sumo: num_terms must be at least 1"),
    (lambda: vi.bounds.sumo(1.5), "sumo: num_terms must be integers"),
    (lambda: vi.bounds.sumo(5)(jnp.zeros((5, 2))), "sumo: log_w must have at least 6 samples"),
    (lambda: vi.bounds.sumo(jnp.ones(3, int))(jnp.zeros((5, 2))), r"shape \[\] or \[2\]"),
    (lambda: vi.bounds.sumo(1, vi.bounds.Roulette(budget=0)), "Roulette: budget must be an int"),
    (
        lambda: vi.bounds.Roulette(budget=0).sample(jax.random.key(0)),
        r"Roulette: budget must be an integer of at least 1 \(got 0\)",
    ),
    (lambda: vi.bounds.Roulette().sample(0), "Roulette.sample: key must be a typed PRNG key"),
    (lambda: vi.bounds.sumo(1, vi.bounds.Roulette(decay=1.0)), "decay must be above 0 and below 1"),
    (lambda: vi.bounds.sumo(1, vi.bounds.Roulette(cutoff=0)), "Roulette: cutoff must be an int"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_bare_function_has_the_defaults():
    assert declaration(lambda log_w: log_w.sum(0)) == vi.bounds.Declaration()
