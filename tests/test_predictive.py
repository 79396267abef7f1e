"""What a trained model is used for, held against a model whose every answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import vi

# x = W z + b + 0.5 eps, z ~ N(0, I): the posterior and every conditional are normal
WEIGHT = jnp.array([[1.0, -0.4, 0.7], [0.3, 0.9, -0.5]])
BIAS = jnp.array([0.2, -0.1, 0.4])
NOISE = 0.5
PRIOR = dist.Normal(jnp.zeros(2), 1.0).to_event(1)


def decode(z):
    return vi.likelihoods.normal(z @ WEIGHT + BIAS, scale=NOISE)


def conditional(x, seen):
    """The mean and covariance of the missing numbers of ``x``, given the others."""
    covariance = np.asarray(WEIGHT.T @ WEIGHT + NOISE**2 * jnp.eye(3), float)
    gain = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    mean = np.asarray(BIAS)[~seen] + gain @ (x[seen] - np.asarray(BIAS)[seen])
    return mean, covariance[np.ix_(~seen, ~seen)] - gain @ covariance[np.ix_(seen, ~seen)]


def test_generated_data_have_the_models_moments():
    made = vi.predictive.generate(jax.random.key(0), PRIOR, decode, (100_000,))
    assert made.latents.shape == (100_000, 2)
    centred = np.asarray(made.values - BIAS, float)
    products = centred[:, :, None] * centred[:, None, :]
    stderr = products.std(0) / len(products) ** 0.5
    truth = np.asarray(WEIGHT.T @ WEIGHT + NOISE**2 * jnp.eye(3))
    assert (np.abs(products.mean(0) - truth) < 5 * stderr).all()
    means = np.asarray(made.observation.mean - BIAS, float)  # the twin: means have no noise
    spread = (means[:, :, None] * means[:, None, :]).mean(0)
    assert (np.abs(np.diagonal(spread - truth)) > 5 * np.diagonal(stderr)).all()


def test_a_reconstruction_is_the_mean_over_q_of_the_decoded_mean():
    loc = jnp.array([[0.3, -0.8], [1.0, 0.0]])
    q = vi.families.normal(loc, scale=jnp.full((2, 2), 0.7))

    def squares(z):
        return vi.likelihoods.normal((z**2) @ WEIGHT, scale=NOISE)

    rebuilt = vi.predictive.reconstruct(jax.random.key(0), q, squares, 200_000)
    truth = (loc**2 + 0.49) @ WEIGHT
    draws = np.asarray(squares(q.sample(jax.random.key(1), (10_000,))).mean)
    stderr = draws.std(0) / 200_000**0.5
    assert (np.abs(rebuilt - truth) < 5 * stderr).all()
    assert (np.abs(squares(loc).mean - truth) > 5 * stderr).any()  # the twin: the mean's image


def test_classes_have_no_mean_but_a_summary():
    q = vi.families.normal(jnp.zeros((3, 2)), scale=jnp.ones((3, 2)))

    def classes(z):
        return dist.Categorical(logits=jnp.stack([z, -z, 0 * z], -1)).to_event(1)

    with pytest.raises(ValueError, match=r"mean: observation must have a mean \(got Categorical"):
        vi.predictive.reconstruct(jax.random.key(0), q, classes, 4)
    with pytest.raises(ValueError, match=r"mean: observation must have a mean \(got Categorical"):
        vi.predictive.mean(vi.likelihoods.categorical(jnp.zeros((3, 2, 4))))
    shares = vi.predictive.reconstruct(
        jax.random.key(0), q, classes, 4, summary=lambda p: p.base_dist.probs
    )
    np.testing.assert_allclose(shares.sum(-1), jnp.ones((3, 2)), rtol=1e-5)


def imputed(x, seen, num_samples, num_draws, q_scale):
    q = vi.families.normal(jnp.zeros((len(x), 2)), scale=jnp.full((len(x), 2), q_scale))

    def log_joint(z):
        return vi.likelihoods.masked(decode(z), seen).log_prob(x) + PRIOR.log_prob(z)

    @jax.jit
    def compute(key):
        return vi.predictive.impute(
            key, q, log_joint, decode, x, seen, num_samples=num_samples, num_draws=num_draws
        )

    return compute(jax.random.key(0))


def test_what_was_missing_is_filled_in_with_its_conditional_law():
    x = jnp.array([[0.8, jnp.nan, -0.6], [jnp.nan, 1.2, jnp.nan]])
    seen = ~jnp.isnan(x)
    filled = imputed(x, seen, 50_000, 20_000, 1.0)
    assert filled.draws.shape == (20_000, 2, 3)
    for row in range(2):
        known = np.asarray(seen[row])
        assert (filled.mean[row][known] == x[row][known]).all()
        assert (filled.draws[:, row][:, known] == x[row][known]).all()
        mean, covariance = conditional(np.asarray(x[row]), known)
        size = float(filled.effective_samples[row])
        assert 1000 < size < 50_000
        stderr = np.sqrt(np.diagonal(covariance) / size)
        np.testing.assert_array_less(np.abs(filled.mean[row][~known] - mean), 5 * stderr)
        draws = np.asarray(filled.draws[:, row][:, ~known], float) - mean
        fourth = (draws**2).std(0) * np.sqrt(1 / 20_000 + 1 / size)
        np.testing.assert_array_less(
            np.abs((draws**2).mean(0) - np.diagonal(covariance)), 5 * fourth
        )
        plain = np.asarray(BIAS)[~known]  # the twin: the marginal mean
        assert (np.abs(plain - mean) > 5 * stderr).any()


def test_imputing_refuses_masks_and_decoders_that_do_not_fit():
    x, keys = jnp.zeros((2, 3)), iter(jax.random.split(jax.random.key(0), 5))
    q = vi.families.normal(jnp.zeros((2, 2)), scale=jnp.ones((2, 2)))

    def log_joint(z):
        return PRIOR.log_prob(z)

    impute = vi.predictive.impute
    with pytest.raises(ValueError, match="impute: observed must be boolean of shape"):
        impute(next(keys), q, log_joint, decode, x, jnp.ones((2, 3)), num_samples=4)
    seen = jnp.ones((2, 4), bool)
    with pytest.raises(ValueError, match="impute: likelihood must have the shape of value"):
        impute(next(keys), q, log_joint, decode, jnp.zeros((2, 4)), seen, num_samples=4)
    known = jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match="impute: summary must have the shape of value"):
        impute(
            next(keys),
            q,
            log_joint,
            decode,
            x,
            known,
            num_samples=4,
            summary=lambda p: p.mean[..., :1],
        )
    with pytest.raises(ValueError, match=r"generate: sample_shape must be a tuple \(got 4\)"):
        vi.predictive.generate(next(keys), PRIOR, decode, 4)
    with pytest.raises(ValueError, match="impute: num_samples must be an integer"):
        impute(next(keys), q, log_joint, decode, x, jnp.ones((2, 3), bool), num_samples=0)


def test_classes_are_filled_in_with_draws():
    """Two pixels of three classes that always agree: the gap is what its neighbour says."""
    sure = 20 * jnp.eye(3)

    def decode_class(z):
        return vi.likelihoods.categorical(jnp.broadcast_to(z[..., None, :], (*z.shape[:-1], 2, 3)))

    class Corners:
        def sample(self, key, sample_shape=()):
            return sure[jax.random.randint(key, (*sample_shape, 4), 0, 3)]

        def log_prob(self, z):
            return jnp.full(z.shape[:-1], -jnp.log(3.0))

    x, q = jnp.array([[0, 9], [1, 9], [2, 9], [1, 9]]), Corners()
    seen = jnp.array([[True, False]] * 4)

    def log_joint(z):
        return vi.likelihoods.masked(decode_class(z), seen).log_prob(x) + q.log_prob(z)

    filled = vi.predictive.impute(
        jax.random.key(0), q, log_joint, decode_class, x, seen,
        num_samples=60, num_draws=5, summary=None,
    )  # fmt: skip
    assert filled.mean is None
    np.testing.assert_array_equal(filled.draws, jnp.broadcast_to(x[:, :1], (5, 4, 2)))


def test_where_no_weight_is_left_nothing_is_made_up():
    x, seen = jnp.array([[0.5, jnp.nan, 0.2]]), jnp.array([[True, False, True]])
    q = vi.families.normal(jnp.zeros((1, 2)), scale=jnp.ones((1, 2)))

    def impossible(z):
        return jnp.full(z.shape[:-1], -jnp.inf)

    filled = vi.predictive.impute(
        jax.random.key(0), q, impossible, decode, x, seen, num_samples=5, num_draws=3
    )
    assert np.isnan(filled.effective_samples).all()
    assert np.isnan(filled.mean[~seen]).all()
    assert np.isnan(filled.draws[:, ~seen]).all()
    assert (filled.draws[:, seen] == x[seen]).all()


def test_a_way_passes_both_ends_and_a_sphere_keeps_lengths():
    start = jnp.array([[3.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    end = jnp.array([[0.0, 3.0], [2.0, 2.0], [1.0, 0.0]])
    for path in (vi.predictive.straight, vi.predictive.spherical):
        way = vi.predictive.interpolate(decode, start, end, 9, path=path).mean
        assert way.shape == (9, 3, 3)
        np.testing.assert_allclose(way[0], decode(start).mean, atol=1e-5)
        np.testing.assert_allclose(way[-1], decode(end).mean, atol=1e-5)
    at = jnp.linspace(0, 1, 9)[:, None, None]
    circle = vi.predictive.spherical(start, end, at)
    np.testing.assert_allclose(jnp.linalg.norm(circle[:, 0], axis=-1), 3.0, rtol=1e-5)
    line = vi.predictive.straight(start, end, at)
    assert jnp.linalg.norm(line[4, 0]) < 2.2
    np.testing.assert_allclose(circle[:, 1:], line[:, 1:], atol=1e-6)  # the same direction; zero


@pytest.mark.parametrize("angle", [1e-4, 0.1, 1.5, 3.0, 3.138])
def test_a_great_circle_keeps_its_digits_and_its_derivative(angle):
    start = jnp.array([3.0, 0.0])
    end = 3.0 * jnp.array([np.cos(angle), np.sin(angle)], jnp.float32)
    value, slope = jax.jvp(
        lambda a: vi.predictive.spherical(a, end, jnp.float32(0.3)), (start,), (jnp.ones(2),)
    )
    truth = 3.0 * np.array([np.cos(0.3 * angle), np.sin(0.3 * angle)])
    np.testing.assert_allclose(value, truth, atol=1e-3 if angle > 3.1 else 1e-5)
    assert np.isfinite(slope).all()


def test_opposite_ends_are_joined_by_the_line():
    start = jnp.array([3.0, -1.0])
    half = vi.predictive.spherical(start, -start, jnp.float32(0.5))
    np.testing.assert_allclose(half, 0.0, atol=1e-6)
    slope = jax.jacobian(lambda a: vi.predictive.spherical(a, -start, jnp.float32(0.5)))(start)
    assert np.isfinite(slope).all()


def test_a_way_through_named_latents():
    ends = {"a": jnp.zeros((2, 1)), "b": jnp.zeros((2, 3))}, {"a": jnp.ones((2, 1))}
    with pytest.raises(ValueError, match="interpolate: start and end must have the same shapes"):
        vi.predictive.interpolate(lambda z: z, *ends, 3)
    end = jax.tree.map(jnp.ones_like, ends[0])
    way = vi.predictive.interpolate(lambda z: z, ends[0], end, 3)
    np.testing.assert_allclose(way["b"][1], 0.5)
    with pytest.raises(ValueError, match="interpolate: num_points must be an integer"):
        vi.predictive.interpolate(lambda z: z, ends[0], end, 1)


def test_poisson_counts_are_reconstructed_by_their_rate():
    q = vi.families.normal(jnp.zeros((1, 2)), scale=jnp.full((1, 2), 0.5))

    def counts(z):
        return dist.Poisson(jnp.exp(z)).to_event(1)

    rebuilt = vi.predictive.reconstruct(jax.random.key(0), q, counts, 100_000)
    truth = np.exp(0.125)  # the mean of a log-normal
    stderr = np.sqrt((np.exp(0.25) - 1) * np.exp(0.25) / 100_000)
    assert (np.abs(rebuilt - truth) < 5 * stderr).all()
    assert np.abs(1.0 - truth) > 5 * stderr  # the twin: decoded at the mean
