"""The diagnostics, held to the linear-Gaussian model, where each of their numbers is known."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from vi.bounds import iwae
from vi.diagnostics import active_units, effective_sample_size, log_evidence, rate_distortion
from vi.testing import LinearGaussian
from vi.types import log_weights

# q is the posterior, displaced and half as wide again in each direction: q has the heavier tails in
# every direction, so log w is bounded above, and w and log w have every moment. A z-test is sound.
MODEL = LinearGaussian(
    jnp.array([[1.0, 0.2], [-0.5, 0.8], [0.3, -0.4]]), jnp.array([0.1, 0.0, -0.2]), jnp.array(0.7)
)
X = jnp.array([[0.5, -1.0, 0.3], [1.5, 0.2, -0.7]])


def make_q():
    posterior = MODEL.posterior(X)
    loc = posterior.mean + jnp.array([0.2, -0.1])
    return dist.Normal(loc, 1.5 * jnp.sqrt(posterior.variance)).to_event(1)


@jax.jit
def replicated(keys):
    """Estimates ``[R, B]`` at K = 500, in three chunks of which one is odd."""
    estimate = jax.vmap(
        lambda key: log_evidence(key, make_q(), MODEL.log_joint(X), 500, chunk_size=200)
    )
    return estimate(keys)


@pytest.fixture(scope="module")
def replicates():
    return jax.tree.map(np.asarray, replicated(jax.random.split(jax.random.key(0), 2000)))


def test_log_evidence_hits_the_exact_evidence(replicates):
    """Its mean weight, that is, which is unbiased; the log of it is biased by -se^2 / 2."""
    exact = np.asarray(MODEL.log_evidence(X), np.float64)
    weight = np.exp(replicates.value.astype(np.float64) - exact)
    stderr = weight.std(0, ddof=1) / len(weight) ** 0.5
    assert (np.abs(weight.mean(0) - 1) < 5 * stderr).all()
    twin = weight * 500 / 600  # who counts the odd chunk as a whole one
    assert (np.abs(twin.mean(0) - 1) > 5 * stderr).all()


def test_its_standard_error_is_the_spread_over_replicates(replicates):
    """The variance reported against the sample variance, whose own error is from fourth moments."""
    value, reported = replicates.value.astype(np.float64), replicates.stderr.astype(np.float64) ** 2
    squares = (value - value.mean(0)) ** 2
    difference = squares - reported
    stderr = difference.std(0, ddof=1) / len(value) ** 0.5
    # The delta method leaves terms of relative order 1 / K: a few per cent of 1 / 500, far below.
    assert (np.abs(difference.mean(0)) < 5 * stderr).all()
    twin = squares - 2 * reported
    assert (np.abs(twin.mean(0)) > 5 * twin.std(0, ddof=1) / len(value) ** 0.5).all()


def test_its_sample_size_says_the_same_as_its_standard_error(replicates):
    K, size = 500, replicates.effective_sample_size
    np.testing.assert_allclose(replicates.stderr, np.sqrt((K / size - 1) / (K - 1)), rtol=1e-5)
    assert (size > 1).all()
    assert (size < K).all()


@pytest.mark.parametrize(("num_samples", "chunk_size"), [(500, 200), (400, 200), (7, 200), (5, 1)])
def test_chunks_equal_a_direct_computation_on_the_same_keys(num_samples, chunk_size):
    key, q = jax.random.key(3), make_q()
    first = num_samples % chunk_size or min(chunk_size, num_samples)
    sizes = [first] + [chunk_size] * ((num_samples - first) // chunk_size)
    draws = [q.sample(jax.random.fold_in(key, i), (n,)) for i, n in enumerate(sizes)]
    log_joint = MODEL.log_joint(X)
    log_w = jax.jit(lambda z: log_weights(z, q, log_joint))(jnp.concatenate(draws))
    assert len(log_w) == num_samples

    got = jax.jit(lambda key: log_evidence(key, q, log_joint, num_samples, chunk_size=chunk_size))(
        key
    )
    np.testing.assert_allclose(got.value, iwae(log_w), rtol=1e-5)
    size = effective_sample_size(log_w)
    np.testing.assert_allclose(got.effective_sample_size, size, rtol=1e-5)
    weight = np.exp(np.asarray(log_w, np.float64) - np.asarray(got.value))
    stderr = weight.std(0, ddof=1) / num_samples**0.5
    np.testing.assert_allclose(got.stderr, stderr, rtol=1e-4)


def test_memory_is_constant_in_K():
    def temporary_bytes(num_samples):
        estimate = jax.jit(
            lambda key: log_evidence(key, make_q(), MODEL.log_joint(X), num_samples, chunk_size=100)
        )
        compiled = estimate.lower(jax.random.key(0)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(100_000) == temporary_bytes(1_000)


class Given:
    """Draws are indices 0, 1, ...; each datum's log-weights are given for them."""

    def __init__(self, log_w):
        self.log_w = log_w

    def sample(self, key, sample_shape=()):
        return jnp.tile(jnp.arange(sample_shape[0])[:, None], (1, self.log_w.shape[1]))

    def log_prob(self, z):
        return jnp.zeros(z.shape)

    def log_joint(self, z):
        return jnp.take_along_axis(self.log_w, z, axis=0)


def test_zero_weights_and_magnitude_1e4():
    column = jnp.array([0.0, -1.0, -2.0, -jnp.inf])
    log_w = jnp.stack([column, column + 1e4, column - 1e4, jnp.full(4, -jnp.inf)], axis=1)
    given = Given(log_w)
    for num_samples in (4, 8, 10):  # one chunk, two, and an odd one of the first two entries
        got = log_evidence(jax.random.key(0), given, given.log_joint, num_samples, chunk_size=4)
        value = np.log(np.exp(column).sum() / 4) if num_samples != 10 else None
        if value is not None:
            np.testing.assert_allclose(
                got.value, [value, 1e4 + value, value - 1e4, -np.inf], rtol=1e-6
            )
        assert not np.isnan(got.stderr).any()
        np.testing.assert_array_equal(np.isinf(got.stderr), [False, False, False, True])
        size = got.effective_sample_size
        np.testing.assert_allclose(size[1:3], size[0], rtol=1e-6)
        assert size[3] == 0


def test_a_later_chunk_may_hold_the_only_weight():
    class Late(Given):
        def sample(self, key, sample_shape=()):
            late = jnp.asarray(jax.random.key_data(key) == jax.random.key_data(self.key)).all()
            return jnp.full((sample_shape[0], 1), jnp.where(late, 1, 0))

    given = Late(jnp.array([[-jnp.inf], [2.0]]))
    given.key = jax.random.fold_in(jax.random.key(0), 2)
    got = log_evidence(jax.random.key(0), given, given.log_joint, 12, chunk_size=4)
    np.testing.assert_allclose(got.value, 2.0 + np.log(4 / 12), rtol=1e-6)
    np.testing.assert_allclose(got.effective_sample_size, 4.0)


def test_one_sample_has_no_standard_error():
    got = log_evidence(jax.random.key(0), make_q(), MODEL.log_joint(X), 1)
    assert np.isfinite(got.value).all()
    assert np.isposinf(got.stderr).all()
    np.testing.assert_allclose(got.effective_sample_size, 1.0)


def test_gradients_are_stopped_and_side_outputs_dropped():
    def total(scale):
        q = dist.Normal(jnp.zeros(2), scale).to_event(1)
        estimate = log_evidence(
            jax.random.key(0), q, lambda z: (scale * z.sum(-1), z), 10, chunk_size=4
        )
        return estimate.value + estimate.stderr + estimate.effective_sample_size

    assert jax.jit(jax.grad(total))(1.0) == 0.0


def test_float64_is_kept_and_half_precision_widened(x64):
    given = Given(jnp.array([[0.0], [-1.0]], jnp.float64))
    got = log_evidence(jax.random.key(0), given, given.log_joint, 2)
    assert {leaf.dtype for leaf in got} == {jnp.float64.dtype}
    assert effective_sample_size(jnp.zeros(3, jnp.bfloat16)).dtype == jnp.float32


def test_effective_sample_size_by_hand():
    with jax.numpy_rank_promotion("raise"):
        log_w = jnp.log(jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 2.0], [1.0, 0.0, 3.0]]))
        log_w = jnp.concatenate([log_w, jnp.full((3, 1), -jnp.inf)], axis=1)
        expected = [3.0, 1.0, 36 / 14, 0.0]
        for offset in (0.0, 1e4, -1e4):
            size = effective_sample_size(log_w + offset)
            np.testing.assert_allclose(size, expected, rtol=2e-3 if offset else 1e-6)
        assert effective_sample_size(jnp.zeros(5)) == 5.0


@pytest.fixture(scope="module")
def terms():
    """The closed forms of the rate, the distortion and the ELBO at ``make_q()``."""
    q = make_q()
    loc, scale = q.mean, jnp.sqrt(q.variance)
    elbo, rate = MODEL.elbo(X, loc, scale), dist.kl_divergence(q, MODEL.prior)
    return {"rate": rate, "distortion": -elbo - rate, "elbo": elbo, "entropy": q.entropy()}


def test_rate_distortion_hits_its_closed_forms(terms):
    """All terms are quadratic in a Gaussian: every moment exists."""
    keys = jax.random.split(jax.random.key(1), 400)
    estimate = jax.jit(
        jax.vmap(
            lambda key: rate_distortion(key, make_q(), MODEL.prior, MODEL.log_likelihood(X), 50)
        )
    )(keys)
    for name, exact in terms.items():
        value = np.asarray(getattr(estimate, name), np.float64)
        stderr = value.std(0, ddof=1) / len(value) ** 0.5
        assert (np.abs(value.mean(0) - exact) < 5 * stderr).all(), name
        assert (np.abs(value.mean(0) - 1.1 * exact) > 5 * stderr).all(), f"{name}: the twin passes"


def test_both_decompositions_agree_to_rounding():
    got = rate_distortion(jax.random.key(1), make_q(), MODEL.prior, MODEL.log_likelihood(X), 50)
    np.testing.assert_allclose(got.elbo, -got.distortion - got.rate, rtol=1e-6)
    np.testing.assert_allclose(got.elbo, got.log_joint + got.entropy, rtol=1e-6)
    z = make_q().sample(jax.random.key(1), (50,))
    direct = log_weights(z, make_q(), MODEL.log_joint(X)).mean(0)
    np.testing.assert_allclose(got.elbo, direct, rtol=1e-5)


def test_the_rate_is_zero_where_q_is_the_prior():
    q = dist.Normal(jnp.zeros((2, 2)), 1.0).to_event(1)
    log_likelihood = MODEL.log_likelihood(X)
    got = rate_distortion(
        jax.random.key(1), q, MODEL.prior, lambda z: (log_likelihood(z), {"side": z}), 50
    )
    np.testing.assert_array_equal(got.rate, 0.0)
    np.testing.assert_allclose(got.elbo, -got.distortion, rtol=1e-6)


def test_active_units_by_hand():
    means = jnp.array([[1.0, 0.05, 3.0, 0.2], [-1.0, -0.05, 3.0, -0.2], [0.0, 0.0, 3.0, 0.0]])
    units = active_units(means)
    np.testing.assert_allclose(units.variance, [2 / 3, 0.005 / 3, 0.0, 0.08 / 3], rtol=1e-6)
    assert units.count == 2
    assert jax.jit(lambda m: active_units(m, threshold=0.1))(means).count == 1


def test_active_units_of_a_collapsed_dimension():
    """A model that ignores its second latent: the exact posterior mean of it does not move."""
    model = LinearGaussian(jnp.array([[1.0, 0.0], [2.0, 0.0]]), jnp.zeros(2), jnp.array(0.5))
    _, x = model.sample(jax.random.key(0), 500)
    units = active_units(model.posterior(x).mean)
    assert units.count == 1
    assert units.variance[1] == 0.0


def bad(**changes):
    """A right call of log_evidence, with one argument changed."""
    arguments = {
        "key": jax.random.key(0),
        "q": dist.Normal(jnp.zeros((3, 2)), 1.0).to_event(1),
        "log_joint": lambda z: z.sum(-1),
        "num_samples": 8,
    }
    return lambda: log_evidence(**{**arguments, **changes})


def bad_terms(prior, log_likelihood, key=None, num_samples=8):
    q = dist.Normal(jnp.zeros((3, 2)), 1.0).to_event(1)
    key = jax.random.key(0) if key is None else key
    return lambda: rate_distortion(key, q, prior, log_likelihood, num_samples)


PRIOR = dist.Normal(jnp.zeros(2), 1.0).to_event(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (bad(key=0), "log_evidence: key must be a typed PRNG key"),
        (bad(key=jnp.zeros(2, jnp.uint32)), "log_evidence: key must be a typed PRNG key"),
        (bad(num_samples=0), "num_samples must be an integer of at least 1"),
        (bad(num_samples=8.0), "num_samples must be an integer"),
        (bad(chunk_size=0), "chunk_size must be an integer of at least 1"),
        (bad(chunk_size=True), "chunk_size must be an integer"),
        (bad(log_joint=lambda z: z), "log_joint must have the shape of q.log_prob"),
        (bad(log_joint=lambda z: z.sum()), r"log_joint must return \[K, \*batch\]"),
        (bad(log_joint=lambda z: z.sum(-1).astype(int)), "floating log-density"),
        (bad_terms(PRIOR, lambda z: z.sum(-1), key=3), "rate_distortion: key must"),
        (bad_terms(PRIOR, lambda z: z.sum(-1), num_samples=0), "num_samples must"),
        (bad_terms(PRIOR, lambda z: z), "log_likelihood must have the shape of q.log_prob"),
        (bad_terms(PRIOR, lambda z: z.sum((0, 2))), r"log_likelihood must return \[K, \*batch\]"),
        (bad_terms(dist.Normal(0.0, 1.0), lambda z: z.sum(-1)), "prior.log_prob must have"),
        (lambda: effective_sample_size(jnp.arange(3)), "log_w must be floating"),
        (lambda: effective_sample_size(jnp.zeros((0, 2))), r"log_w must be \[K, \*batch\]"),
        (lambda: active_units(jnp.zeros((4, 2), int)), "posterior_means must be floating"),
        (lambda: active_units(jnp.zeros(4)), r"posterior_means must be \[N, D\]"),
        (lambda: active_units(jnp.zeros((1, 4))), r"posterior_means must be \[N, D\]"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
