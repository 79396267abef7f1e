"""Exact optima against the record, exact means by enumeration, and fits against exact optima."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vi
from experiments import _divergences_exact as exact
from experiments import divergences
from experiments._config import execute, resolve
from experiments._divergences_exact import Law
from experiments._divergences_fits import Fits, Optima
from experiments._divergences_table import GROUP, members
from experiments._divergences_targets import CORRELATED, MIXTURE, VARIANCES, Optimum, optima

LIMITS = {"elbo": (0.19, -0.830366), "eubo": (1.0, 0.830366), "cubo(2)": (1.433740, 0.529250)}
RENYI = {
    0.1: (0.912036, -0.087365),
    0.25: (0.750999, -0.234427),
    0.5: (0.435890, -0.499003),
    0.75: (0.252996, -0.703281),
    0.9: (0.208325, -0.786283),
    1.5: (0.147974, -0.975457),
    2: (0.132521, -1.058500),
    5: (0.111035, -1.245140),
}
LIMITS |= {f"renyi({alpha})": digits for alpha, digits in RENYI.items()}
LIMITS["forward_kl"] = LIMITS["eubo"]
STEPS_OF = (2, 5, 10, 50)  # of the Riemann sums, at q = N(0, I)
LOWER = dict(zip(STEPS_OF, (-1.555132, -0.536513, -0.244229, -0.043954), strict=True))
UPPER = dict(zip(STEPS_OF, (0.576447, 0.316119, 0.182087, 0.041309), strict=True))
table = functools.cache(members)  # by K: what two tests need of a member is computed once
TOY = {"preset": "smoke", "progress": False, "bounds": ("renyi(0.5)",)}


@pytest.mark.parametrize("name", LIMITS)
def test_the_optimum_in_the_limit_has_the_digits_on_record(name):
    optimum = best(table(8)[name], "limit")
    v, value = LIMITS[name]
    assert np.exp(2 * optimum.params[0]) == pytest.approx(v, abs=6e-7)
    assert optimum.value == pytest.approx(value, abs=6e-7)


@functools.cache
def best(member, which):
    """The best of the optima in the limit, or at_k."""
    if which == "limit":
        member = member._replace(finite=None)  # it takes longer
    found = getattr(divergences.exact(CORRELATED, member), which)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("steps", STEPS_OF)
def test_the_riemann_sums_have_the_digits_on_record(steps):
    betas, law = np.linspace(0, 1, steps + 1), CORRELATED.law([0.0], fine=True)
    sums = exact.riemann(betas, slice(0, -1))(law), exact.riemann(betas, slice(1, None))(law)
    np.testing.assert_allclose(sums, (LOWER[steps], UPPER[steps]), atol=6e-7)


def log_moment(v, power):
    """The log of E w^power in closed form: log w is linear in two squares of normals."""
    each = 1 - power * (1 - v / VARIANCES)
    return power * (np.log(v) - 0.5 * np.log(VARIANCES).sum()) - 0.5 * np.log(each).sum()


@pytest.mark.parametrize("v", [0.15, 0.9, 2.5])
def test_the_quadrature_is_the_gaussian_integral(v):
    law = CORRELATED.law([0.5 * np.log(v)], fine=True)
    for power in (-0.1 if v < 1 else 1.5, 0.5, 1.0):
        mean = exact.power_mean(power)(law)
        np.testing.assert_allclose(mean, log_moment(v, power) / power, atol=1e-9)
    half_variance = 0.25 * np.sum((1 - v / VARIANCES) ** 2)
    np.testing.assert_allclose(exact.log_variance(law), half_variance, rtol=1e-8)
    distance = 1 - np.exp(log_moment(v, 0.5))
    np.testing.assert_allclose(exact.squared_hellinger()(law), distance, atol=1e-9)
    if v == 2.5:
        chi = np.expm1(log_moment(v, 2.0))
        np.testing.assert_allclose(exact.chi_square()(law), chi, rtol=1e-9)


def test_divergences_that_see_p_and_q_alike_are_least_at_the_geometric_mean_of_the_variances():
    held = table(8)
    for name in ("jensen_shannon", "total_variation", "squared_hellinger"):
        v = np.exp(2 * best(held[name], "limit").params[0])
        np.testing.assert_allclose(v, np.sqrt(VARIANCES.prod()), atol=2e-6)


def test_total_variation_is_what_a_plain_sum_over_the_plane_gives():
    z = np.linspace(-9, 9, 1801)
    squares = np.add.outer(z**2 / VARIANCES[0], z**2 / VARIANCES[1])
    p = np.exp(-0.5 * squares) / (2 * np.pi * np.sqrt(VARIANCES.prod()))
    q = np.exp(-0.5 * np.add.outer(z**2, z**2) / 0.3) / (2 * np.pi * 0.3)
    plain = 0.5 * np.abs(p - q).sum() * (z[1] - z[0]) ** 2
    law = CORRELATED.law([0.5 * np.log(0.3)], fine=True)
    np.testing.assert_allclose(exact.total_variation(law), plain, atol=2e-5)


@pytest.mark.usefixtures("x64")
def test_every_member_has_the_mean_that_all_tuples_of_draws_give():
    """K = 8 draws from a law of two atoms, whose weights have mean 1 as the targets' do."""
    law = Law(np.log([0.3, 0.7]), np.array([0.9, -0.8]))
    law = law._replace(log_w=law.log_w - exact.power_mean(1.0)(law))
    tuples = np.array(list(itertools.product(range(2), repeat=GROUP)))
    mass = np.exp(law.log_mass[tuples]).prod(1)
    held, of_more = table(GROUP), table(2 * GROUP)

    @jax.jit
    def values(log_w):
        return {name: member.objective.bound(log_w) for name, member in held.items()}

    for name, value in values(jnp.asarray(law.log_w[tuples].T)).items():
        mean, other = held[name].finite, of_more[name].finite
        if mean is None or other is None:
            assert name in ("jensen_shannon", "total_variation")
            continue
        wanted = mass @ np.asarray(value)
        np.testing.assert_allclose(mean(law), wanted, atol=1e-8, err_msg=name)
        unbiased = ("elbo", "log_variance", "log_variance, fixed")
        if name not in unbiased and not name.startswith("csiszar") and "K =" not in name:
            assert abs(other(law) - wanted) > 1e-4, f"{name}: another K is another mean"


def test_csiszar_less_a_tangent_is_the_divergence_and_its_slopes_are_finite():
    held, log_w = table(GROUP), jnp.linspace(-95.0, 15.0, 800)
    for name in ("csiszar, Hellinger", "csiszar, JS", "csiszar, TV"):
        bound = held[name].objective.bound
        slopes = jax.jit(lambda log_w, bound=bound: vi.bounds.derivatives(bound, log_w))(log_w)
        assert all(np.isfinite(part).all() for part in slopes), name


def test_an_upper_bound_at_finite_K_may_have_no_optimum():
    mean = exact.tempered_mean(1.0, 200)
    assert optima(CORRELATED, mean, "minimise", CORRELATED.starts) == []
    ladder = [mean(CORRELATED.law([0.5 * np.log(v)])) for v in (1.0, 0.4, 0.1, 0.01)]
    assert (np.diff(ladder) < 0).all()
    assert len(optima(CORRELATED, exact.tempered_mean(1.0), "minimise", CORRELATED.starts)) == 1


def test_mode_seeking_bounds_have_an_optimum_at_each_mode():
    found = optima(MIXTURE, exact.elbo, "maximise", MIXTURE.starts, fine=True)
    assert [round(o.params[0]) for o in found] == [-1, 2]
    covering = optima(MIXTURE, exact.tempered_mean(1.0), "minimise", MIXTURE.starts, fine=True)
    z = np.linspace(-9, 9, 20_001)
    density = jax.jit(MIXTURE.log_density)(jnp.asarray(z)[:, None])
    p = np.exp(np.asarray(density, float)) * (z[1] - z[0])
    mean, variance = p @ z, p @ z**2 - (p @ z) ** 2  # what the forward KL matches
    assert len(covering) == 1
    np.testing.assert_allclose(covering[0].params, [mean, 0.5 * np.log(variance)], atol=1e-5)


def test_a_law_is_that_of_the_weights_drawn():
    for target, params in ((CORRELATED, [0.1]), (MIXTURE, [0.3, 0.2])):
        q = target.make_q(jnp.array(params))
        z = q.sample(jax.random.key(0), (20_000,))
        log_w = np.asarray(vi.types.log_weights(z, q, target.log_density), float)
        law = target.law(params)
        assert abs(log_w.mean() - exact.elbo(law)) < 5 * log_w.std() / np.sqrt(len(log_w))
        np.testing.assert_allclose(np.exp(law.log_mass + law.log_w).sum(), 1.0, rtol=1e-6)


K, REPLICATES, STEPS = 16, 64, 600


@functools.cache
def fitted(objective, sign):
    """The v that each replicate ends at, on the correlated target."""
    rate = optax.cosine_decay_schedule(0.05, STEPS)
    late = lambda count: jnp.maximum(count - STEPS // 2, 0)  # noqa: E731
    average = vi.training.average(lambda count: late(count) / (late(count) + 1))
    optimizer = optax.chain(optax.adam(rate, b2=0.99), average)

    def loss(params, key, _):
        return sign * objective(key, CORRELATED.make_q(params), CORRELATED.log_density, K).sum()

    step = vi.training.gradient_step(loss, optimizer)
    state = vi.training.init(jnp.full((REPLICATES, 1), -0.3), optimizer)
    state, _ = jax.jit(
        lambda key, state: vi.training.run(
            key, step, state, jnp.zeros(1), num_steps=STEPS, batch_size=1
        )
    )(jax.random.key(0), state)
    return np.exp(2 * np.asarray(vi.training.averaged(state).params[:, 0], float))


def z_score(values, wanted):
    return (values.mean() - wanted) / (values.std(ddof=1) / np.sqrt(len(values)))


@pytest.mark.parametrize("name", ["renyi(0.5)", "iwae, K = 8", "csiszar, JS"])
def test_a_fit_ends_at_the_optimum_for_its_K(name):
    member = table(K)[name]
    v = np.exp(2 * best(member, "at_k").params[0])
    assert abs(z_score(fitted(member.objective, member.sign), v)) < 5


def test_broken_twins_miss_it():
    member = table(K)["renyi(0.5)"]
    v, limit = (np.exp(2 * best(member, which).params[0]) for which in ("at_k", "limit"))
    neighbour = fitted(vi.gradients.dreg(vi.bounds.renyi(0.4)), member.sign)
    assert abs(z_score(neighbour, v)) > 5, "another alpha"
    assert abs(z_score(fitted(member.objective, member.sign), limit)) > 5, "another K"
    away = fitted(member.objective, -member.sign)
    assert not (np.abs(np.log(away / v)) < 1).any(), "the wrong way"


def test_a_fit_counts_where_it_ended():
    first, other = Optimum(np.array([0.0, 0.0]), 1.0), Optimum(np.array([2.0, 0.0]), 0.5)
    params = np.array([[[0.1, 0.0], [2.0, 0.1], [0.0, -3.0]]])
    fits = Fits(Optima([first, other], None), params, np.zeros((2, 1, 3)))
    assert fits.nearest.tolist() == [[0, 1, -1]]
    assert fits.shown.tolist() == [[True, False, False]]
    lost = fits._replace(params=params + 9.0)
    assert (lost.nearest == -1).all() and lost.shown.all()  # noqa: PT018


def test_a_run_at_toy_size(tmp_path):
    config = divergences.Config(
        **TOY, num_samples=16, num_replicates=2, num_steps=20, num_values=2, out=tmp_path
    )
    record = execute(config, divergences.PRESETS, divergences.experiment, "divergences")
    assert record.pictures == ["correlated.png", "alpha.png", "mixture.png"]
    reference = record.metrics["v (limit)/renyi(0.5)"].reference
    assert reference is not None
    assert reference.how == "exact"
    assert reference.value == pytest.approx(0.43589, abs=1e-5)
    assert record.metrics["v/renyi(0.5)"].reference.protocol == "at K = 16"  # pyright: ignore
    with np.load(tmp_path / "arrays.npz") as arrays:
        assert arrays["mixture/renyi(0.5)/fits"].shape == (2, 3, 2)
        assert arrays["mixture/renyi(0.5)/values"].shape == (2, 2, 3)
        assert arrays["correlated/renyi(0.5)/limit"].shape == (1, 2)


@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu", "paper"])
def test_every_preset_is_complete(preset):
    config = resolve(divergences.Config(preset=preset), divergences.PRESETS)
    assert divergences.chosen(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": "mnist"}, r"--data must be left alone \(got mnist\); the targets are known"),
        ({"num_samples": 12}, r"--num-samples must be a multiple of 8 \(got 12\); try"),
        ({"num_replicates": 1}, "--num-replicates must be an integer of at least 2"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive"),
        ({"bounds": ("elbo", "elbo")}, "--bounds must name bounds, once each .*; choose among"),
        ({"bounds": ("elbow",)}, r"--bounds must .* \(got 'elbow'\)"),
        ({"bounds": ()}, "--bounds must name bounds"),
    ],
)
def test_bad_settings_are_refused_before_any_work(fields, message):
    config = resolve(divergences.Config(**{**TOY, **fields}), divergences.PRESETS)
    with pytest.raises(ValueError, match=message):
        divergences.chosen(config)
