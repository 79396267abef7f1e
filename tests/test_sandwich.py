"""The sandwich, on the linear-Gaussian model: the evidence and both of its gaps are known."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from vi.bounds import iwae
from vi.diagnostics import Sandwich, log_evidence, pareto_smoothed, sandwich
from vi.testing import LinearGaussian
from vi.types import log_weights

# W has orthogonal columns, so the posterior is mean-field and q can be it. Here q is displaced and
# 1.1 times as wide in each direction. Wider: w and log w have every moment under q. But by less
# than sqrt(4/3) = 1.15: 1 / w has four moments under the posterior. All z-tests are sound.
MODEL = LinearGaussian(
    jnp.array([[1.0, 0.0], [0.0, 0.8], [0.0, 0.0]]), jnp.array([0.1, 0.0, -0.2]), jnp.array(0.7)
)
X = jnp.array([[0.5, -1.0, 0.3], [1.5, 0.2, -0.7]])
OFFSET = jnp.array([0.35, -0.25])


def moments(width=1.1, offset=OFFSET):
    posterior = MODEL.posterior(X)
    return posterior.mean + offset, width * jnp.sqrt(posterior.variance)


def make_q(width=1.1, offset=OFFSET):
    return dist.Normal(*moments(width, offset)).to_event(1)


@jax.jit
def exact():
    """The evidence, the ELBO and the EUBO = log p(x) + KL(posterior || q), each ``[B]``."""
    evidence = MODEL.log_evidence(X)
    posterior = dist.Normal(*moments(1.0, 0.0)).to_event(1)
    return {
        "evidence": evidence,
        "elbo": MODEL.elbo(X, *moments()),
        "upper": evidence + dist.kl_divergence(posterior, make_q()),
    }


@pytest.fixture(scope="module")
def truth():
    return {name: np.asarray(value, np.float64) for name, value in exact().items()}


def replicate(num_replicates, num_samples):
    """``[R, B]`` figures; the posterior is mean-field, its draws are a diagonal Normal's."""
    posterior = make_q(1.0, 0.0)

    @jax.jit
    def run(keys):
        def one(key):
            key, key_draws = jax.random.split(key)
            draws = posterior.sample(key_draws, (num_samples,))
            log_joint = MODEL.log_joint(X)
            return sandwich(key, make_q(), log_joint, num_samples, posterior_draws=draws)

        return jax.lax.map(one, keys, batch_size=100)

    figures = run(jax.random.split(jax.random.key(0), num_replicates))
    return Sandwich(*(np.asarray(figure, np.float64) for figure in figures))


@pytest.fixture(scope="module")
def few():
    """K = M = 21: the gaps are wide, 8,000 replicates resolve them."""
    return replicate(8000, 21)


@pytest.fixture(scope="module")
def many():
    """K = M = 1000: first order in 1 / K is enough for the standard errors."""
    return replicate(600, 1000)


def z_score(value, expected):
    return (value.mean(0) - expected) / (value.std(0, ddof=1) / len(value) ** 0.5)


def test_the_elbo_hits_its_closed_form(few, truth):
    assert (np.abs(z_score(few.elbo, truth["elbo"])) < 5).all()
    assert (np.abs(z_score(few.elbo, truth["evidence"])) > 5).all()


def test_each_side_is_on_its_side(few, truth):
    """In expectation elbo < iwae < log p < upper bound, each by five standard errors."""
    assert (z_score(few.iwae - few.elbo, 0.0) > 5).all()
    assert (z_score(few.iwae, truth["evidence"]) < -5).all()
    assert (z_score(few.upper_bound, truth["evidence"]) > 5).all()


def test_both_mean_weights_are_exact(few, truth):
    """E mean w = p(x) under q and E mean 1/w = 1/p(x) under the posterior, for every K and M."""
    lower = np.exp(few.iwae - truth["evidence"])
    upper = np.exp(truth["evidence"] - few.upper_bound)
    assert (np.abs(z_score(lower, 1.0)) < 5).all()
    assert (np.abs(z_score(upper, 1.0)) < 5).all()
    assert (np.abs(z_score(lower * 20 / 21, 1.0)) > 5).all()


def test_draws_of_q_in_place_of_the_posterior_bound_nothing(truth):
    q = make_q()
    draws = q.sample(jax.random.key(0), (21, 2000))
    twin = jax.jit(lambda z: -iwae(-log_weights(z, q, MODEL.log_joint(X))))(draws)
    assert (z_score(np.asarray(twin, np.float64), truth["evidence"]) < -5).all()


def test_the_upper_estimate_rises_to_the_eubo(few, many, truth):
    assert (z_score(few.upper_estimate, truth["upper"]) < -5).all(), "it is said to be biased low"
    assert (np.abs(z_score(many.upper_estimate, truth["upper"])) < 5).all()
    assert (np.abs(z_score(many.upper_estimate, truth["evidence"])) > 5).all()


def test_on_any_draws_the_three_are_in_order(few):
    assert (few.elbo <= few.iwae + 1e-5).all()
    assert (few.iwae <= few.upper_estimate + 1e-5).all()


@pytest.mark.parametrize("name", ["elbo", "iwae", "upper_estimate", "upper_bound"])
def test_standard_errors_are_the_spread_over_replicates(many, name):
    """The variance reported against the sample variance, whose own error is from fourth moments."""
    value, reported = getattr(many, name), np.square(getattr(many, f"{name}_stderr"))
    squares = np.square(value - value.mean(0))
    assert (np.abs(z_score(squares - reported, 0.0)) < 5).all()
    assert (np.abs(z_score(squares - 1.5**2 * reported, 0.0)) > 5).all(), "half as much more passes"
    assert (np.abs(z_score(squares - 1000 * reported, 0.0)) > 5).all(), "no 1 / K passes"


def test_smoothed_weights_would_lower_the_upper_estimate():
    """The reason for plain ones: k = 0.51 here, and all are weighted means of log w, with moments.

    Both fall short of the EUBO; smoothed weights are less noisy, but short by twice as much.
    """
    q = make_q(0.7, 0.0)
    log_joint = MODEL.log_joint(X)

    @jax.jit
    @jax.vmap
    def both(key):
        same_draws = jax.random.clone(key)
        log_w = log_weights(q.sample(same_draws, (1000,)), q, log_joint)
        weight = jax.nn.softmax(pareto_smoothed(log_w).log_weights, axis=0)
        return sandwich(key, q, log_joint, 1000).upper_estimate, (weight * log_w).sum(0)

    plain, smoothed = (
        np.asarray(value, np.float64) for value in both(jax.random.split(jax.random.key(2), 600))
    )
    posterior = make_q(1.0, 0.0)
    eubo = np.asarray(MODEL.log_evidence(X) + dist.kl_divergence(posterior, q), np.float64)
    assert (z_score(plain - smoothed, 0.0) > 5).all()
    assert (z_score(smoothed, eubo) < -5).all()
    assert (smoothed.std(0) < plain.std(0)).all()
    assert (eubo - smoothed.mean(0) > 1.5 * (eubo - plain.mean(0))).all()


def test_it_is_tight_where_q_is_the_posterior(truth):
    draws = MODEL.posterior(X).sample(jax.random.key(1), (50,))
    q, log_joint = make_q(1.0, 0.0), MODEL.log_joint(X)
    got = jax.jit(lambda key: sandwich(key, q, log_joint, 200, posterior_draws=draws))(
        jax.random.key(0)
    )
    for value in (got.elbo, got.iwae, got.upper_estimate, got.upper_bound):
        np.testing.assert_allclose(value, truth["evidence"], atol=1e-4)
    for stderr in (
        got.elbo_stderr,
        got.iwae_stderr,
        got.upper_estimate_stderr,
        got.upper_bound_stderr,
    ):
        np.testing.assert_allclose(stderr, 0.0, atol=1e-4)
    np.testing.assert_array_equal(got.pareto_k, -np.inf)
    np.testing.assert_allclose(got.effective_sample_size, 200, rtol=1e-4)
    assert "-inf" in str(got)


def test_iwae_is_log_evidence_without_chunks():
    q, log_joint = make_q(), MODEL.log_joint(X)
    chunk = jax.jit(lambda key: log_evidence(key, q, log_joint, 300, chunk_size=300))
    expected = chunk(jax.random.key(4))
    key = jax.random.fold_in(jax.random.key(4), 0)  # the key of its only chunk
    got = jax.jit(lambda key: sandwich(key, q, log_joint, 300))(key)
    np.testing.assert_allclose(got.iwae, expected.value, rtol=1e-6)
    np.testing.assert_allclose(got.iwae_stderr, expected.stderr, rtol=1e-4)
    np.testing.assert_allclose(got.effective_sample_size, expected.effective_sample_size, 1e-5)
    assert got.upper_bound is None
    assert got.upper_bound_stderr is None


def test_the_error_of_nearly_equal_weights_keeps_its_digits():
    """sd(log w) = 1e-4: K / ESS - 1, which is 1e-8, is nothing in float32."""
    noise = 1e-4 * np.random.default_rng(0).normal(size=(1000, 1)).astype(np.float32)
    q = Given(jnp.asarray(noise))
    got = jax.jit(lambda key: sandwich(key, q, q.log_joint, 1000))(jax.random.key(0))
    weight = np.exp(noise.astype(np.float64))
    expected = weight.std(ddof=1) / weight.mean() / 1000**0.5
    np.testing.assert_allclose(got.iwae_stderr, expected, rtol=1e-3)


def test_small_samples_are_trusted_less():
    """At K = 50 the paper's threshold is 0.41; k is 3/4 here, no estimate should be trusted."""
    q, joint = (dist.Normal(jnp.zeros((400, 10)), sd).to_event(1) for sd in (0.5, 1.0))
    got = jax.jit(lambda key: sandwich(key, q, joint.log_prob, 50))(jax.random.key(0))
    np.testing.assert_allclose(got.pareto_threshold, 0.41141, atol=1e-5)
    trusted = got.pareto_k < got.pareto_threshold
    assert trusted.mean() < 0.2
    assert (got.pareto_k < 0.7).mean() > 0.4, "0.7 at every K would pass"
    assert f"over {trusted.sum()} of 400 data, those with k-hat < 0.41" in str(got)


class Given:
    """A q whose draws are pairs of an index and nothing, and whose log-weights are given."""

    def __init__(self, log_w):
        self.log_w = log_w

    def sample(self, key, sample_shape=()):
        index = jnp.tile(jnp.arange(sample_shape[0])[:, None], (1, self.log_w.shape[1]))
        return {"index": index, "none": jnp.zeros((*index.shape, 3))}

    def log_prob(self, z):
        return jnp.zeros(z["index"].shape)

    def log_joint(self, z):
        return jnp.take_along_axis(self.log_w, z["index"], axis=0)


def test_zero_weights_and_magnitude_1e4():
    noise = jax.random.normal(jax.random.key(0), (50,))
    holes = jnp.where(jnp.arange(50) < 10, -jnp.inf, noise)
    log_w = jnp.stack([noise, noise + 1e4, noise - 1e4, holes, jnp.full(50, -jnp.inf)], axis=1)
    q = Given(log_w)
    draws = q.sample(jax.random.key(1), (50,))
    got = jax.jit(lambda key: sandwich(key, q, q.log_joint, 50, posterior_draws=draws))(
        jax.random.key(0)
    )
    assert not any(np.isnan(figure).any() for figure in got)
    for value in (got.elbo, got.iwae, got.upper_estimate, got.upper_bound):
        np.testing.assert_allclose(value[1:3], value[0] + np.array([1e4, -1e4]), atol=5e-3)
    for stderr in (
        got.elbo_stderr,
        got.iwae_stderr,
        got.upper_estimate_stderr,
        got.upper_bound_stderr,
    ):
        np.testing.assert_allclose(stderr[1:3], stderr[0], rtol=2e-2)
    assert np.isneginf(got.elbo[3:]).all()
    assert np.isposinf(got.elbo_stderr[3:]).all()
    assert np.isneginf(got.upper_bound[3:]).all()  # weights of zero: these are no posterior draws
    assert np.isposinf(got.upper_bound_stderr[3:]).all()
    weight = np.exp(np.asarray(holes, np.float64))
    share = weight / weight.sum()
    upper = (share[10:] * np.asarray(holes[10:])).sum()
    spread = (share[10:] ** 2 * (np.asarray(holes[10:]) - upper) ** 2).sum() ** 0.5
    np.testing.assert_allclose(got.upper_estimate[3], upper, rtol=1e-5)
    np.testing.assert_allclose(got.upper_estimate_stderr[3], spread, rtol=1e-5)
    nothing = jax.tree.map(lambda figure: float(figure[4]), got)
    assert nothing.iwae == nothing.upper_estimate == -np.inf
    assert nothing.iwae_stderr == nothing.upper_estimate_stderr == nothing.pareto_k == np.inf
    assert nothing.effective_sample_size == 0


def test_one_posterior_draw_has_no_standard_error():
    draws = MODEL.posterior(X).sample(jax.random.key(1), (1,))
    q, log_joint = make_q(), MODEL.log_joint(X)
    got = jax.jit(lambda key: sandwich(key, q, log_joint, 21, posterior_draws=draws))(
        jax.random.key(0)
    )
    assert np.isfinite(got.upper_bound).all()
    assert np.isposinf(got.upper_bound_stderr).all()


def test_gradients_are_stopped():
    def total(width):
        q = make_q(width)
        draws = q.rsample(jax.random.key(1), (21,))
        got = sandwich(jax.random.key(0), q, MODEL.log_joint(X), 21, posterior_draws=draws)
        return sum(figure.sum() for figure in got)

    assert jax.jit(jax.grad(total))(1.1) == 0.0


def report(k, bound=None):
    """A sandwich of one figure per datum, each its own, on the host."""
    k = np.asarray(k)
    figures = [np.arange(k.size, dtype=float).reshape(k.shape) + 10 * i for i in range(7)]
    figures += [k, np.full_like(k, 0.65)]
    return Sandwich(*figures, *([] if bound is None else [bound, np.zeros_like(bound)]))


def test_the_table_of_one_datum():
    table = str(report(np.float32(0.25), bound=np.float32(5.0)))
    assert table == (
        "sandwich                    nats    stderr\n"
        "  elbo                    0.0000   10.0000\n"
        "  iwae                   20.0000   30.0000\n"
        "  upper estimate         40.0000   50.0000  biased low\n"
        "  upper bound             5.0000    0.0000\n"
        "  effective samples         60.0\n"
        "  k-hat                     0.25  trusted below 0.65"
    )


def test_the_table_shows_the_upper_estimate_only_where_it_is_trusted():
    untrusted = "upper estimate    not shown: k-hat >= 0.65"
    caution = "  stderr not reliable: k-hat >= 0.65"
    for k in (0.65, np.inf, [0.9, 0.8]):
        assert untrusted in str(report(k))
        assert f"{caution}\n" in str(report(k))
    table = str(report([0.9, 0.2, -np.inf, 1.2]))
    assert untrusted not in table
    assert "sandwich: mean of 4 data" in table
    assert f"{caution} in 2 of 4 data\n" in table
    # data 1 and 2: the mean of 41 and 42, the root of 51^2 + 52^2 over 2, the mean of 21 and 22
    assert "upper estimate         41.5000   36.4177  biased low; over 2 of 4 data" in table
    assert table.split("where iwae is ")[1].startswith("21.5000\n")
    assert "60.0  the least" in table
    all_trusted = str(report([0.1, 0.2]))
    assert "biased low\n" in all_trusted
    assert "reliable" not in all_trusted
    assert "0.20  the largest; trusted below 0.65" in all_trusted


def test_the_table_counts_the_data_that_are_nan_and_leaves_them_out():
    with_nan, without = report([0.1, 0.2, np.nan]), report([0.1, 0.2])
    title, *rows = str(with_nan).splitlines()
    assert title == "sandwich: mean of 2 data    nats    stderr  1 of 3 data NaN, left out"
    assert rows == str(without).splitlines()[1:]
    elbo = with_nan._replace(elbo=np.array([np.nan, 0.0, 1.0]))
    assert "2 of 3 data NaN" in str(elbo)
    assert str(report(np.nan)) == (
        "sandwich                    nats    stderr  1 of 1 data NaN, left out"
    )


def test_inside_a_transformation_it_prints_as_a_tuple():
    shown = []
    q, log_joint = make_q(), MODEL.log_joint(X)

    def run(key):
        got = sandwich(key, q, log_joint, 21)
        shown.append(str(got))
        return got

    shown.append(str(jax.eval_shape(run, jax.random.key(0))))
    assert all(text.startswith("Sandwich(elbo=") for text in shown)


def bad(**changes):
    arguments = {
        "key": jax.random.key(0),
        "q": make_q(),
        "log_joint": MODEL.log_joint(X),
        "num_samples": 21,
        "posterior_draws": jnp.zeros((5, 2, 2)),
    }
    return lambda: sandwich(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (bad(key=0), "sandwich: key must be a typed PRNG key"),
        (bad(num_samples=20), r"num_samples must be an integer of at least 21 \(got 20\)"),
        (bad(num_samples=30.0), "num_samples must be an integer"),
        (bad(log_joint=lambda z: z), "log_joint must have the shape of q.log_prob"),
        (bad(posterior_draws=jnp.zeros((5, 2))), "posterior_draws must have the structure and"),
        (bad(posterior_draws=jnp.zeros((5, 1, 2))), r"got \(5, 1, 2\)"),  # would broadcast
        (bad(posterior_draws=jnp.zeros((0, 2, 2))), "any number of them"),
        (bad(posterior_draws=jnp.zeros(())), "posterior_draws must"),
        (bad(posterior_draws={"z": jnp.zeros((5, 2, 2))}), "posterior_draws must"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
