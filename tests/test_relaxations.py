"""Relaxed and straight-through families: right densities, and biases that are what we say."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

import vi
from tests.test_enumeration import BITS, exact, log_joint, outcomes, parameters
from vi.bounds import elbo, iwae
from vi.families import (
    binary_concrete,
    concrete,
    straight_through_bernoulli,
    straight_through_categorical,
)

LOGITS = jnp.array([[0.3, -0.8, 1.5], [2.0, 0.0, -1.0]])  # [D, M], or two data of three bits
BINARY = {"binary_concrete": binary_concrete, "straight_through": straight_through_bernoulli}
CLASSES = {"concrete": concrete, "straight_through": straight_through_categorical}
FAMILIES = [*((make, 1) for make in BINARY.values()), *((make, 2) for make in CLASSES.values())]
families = pytest.mark.parametrize(("make", "event_dim"), FAMILIES)
temperatures = pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])


def near(sample_mean, truth, stderr):
    return bool((jnp.abs(sample_mean - truth) < 5 * stderr).all())


@families
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_shapes_and_pytrees(make, event_dim, batch):
    event = LOGITS.shape[2 - event_dim :]
    logits = jnp.broadcast_to(LOGITS[(0,) * (2 - event_dim)], (*batch, *event))
    q = make(logits, temperature=0.7)
    assert (q.batch_shape, q.event_shape) == (batch, event)

    def draw_and_score(q, key):
        z = q.rsample(key, (4, 5))
        return z, q.sample(jax.random.clone(key), (4, 5)), q.log_prob(z)

    z, held, log_q = jax.jit(draw_and_score)(q, jax.random.key(0))
    assert z.shape == held.shape == (4, 5, *batch, *event)
    chex.assert_trees_all_close(log_q, q.log_prob(z), rtol=1e-4, atol=1e-4)


@families
def test_batch_equals_vmap_under_a_traced_temperature(make, event_dim):
    logits = jax.random.normal(jax.random.key(0), (4, *LOGITS.shape[2 - event_dim :]))
    z = make(logits, temperature=0.7).sample(jax.random.key(1), (5,))

    def log_prob(logits, z, temperature):
        return make(logits, temperature=temperature).log_prob(z)

    mapped = jax.jit(jax.vmap(log_prob, (0, 1, None), 1))(logits, z, 0.7)
    chex.assert_trees_all_close(mapped, log_prob(logits, z, 0.7), rtol=1e-4)


@families
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), jnp.ones(3)])
def test_a_temperature_is_one_positive_number(make, event_dim, temperature):
    with pytest.raises(ValueError, match="temperature must be one positive number"):
        make(LOGITS, temperature=temperature)


@pytest.mark.parametrize("make", CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize("logits", [jnp.zeros(3), jnp.zeros((2, 1))])
def test_classes_have_an_axis(make, logits):
    with pytest.raises(ValueError, match=r"must be \[\*batch, D, M\]"):
        make(logits, temperature=1.0)


@pytest.mark.parametrize("make", BINARY.values(), ids=BINARY)
def test_bits_have_an_axis(make):
    with pytest.raises(ValueError, match="must have a last axis"):
        make(jnp.array(0.3), temperature=1.0)


@pytest.mark.usefixtures("x64")
@temperatures
def test_the_binary_density_integrates_to_one(temperature):
    q = binary_concrete(jnp.array([0.7]), temperature=temperature)
    y = jnp.linspace(-100, 100, 20_001)  # log-odds; z ends at 1 - 1e-16 beyond 36
    z = jax.nn.sigmoid(y)
    inside = jnp.where(jnp.abs(y) < 30, z, 0.5)
    density = jnp.exp(q.log_prob(inside[:, None])) * inside * (1 - inside)
    total = jnp.where(jnp.abs(y) < 30, density, 0.0).sum() * (y[1] - y[0])
    beyond = sum(scipy.stats.logistic.sf(30 * temperature + sign * 0.7) for sign in (1, -1))
    chex.assert_trees_all_close(total + beyond, 1.0, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@temperatures
def test_the_density_over_three_classes_integrates_to_one(temperature):
    q = concrete(LOGITS[:1], temperature=temperature)
    y = jnp.linspace(-60 / temperature, 60 / temperature, 801)
    first, second = jnp.meshgrid(y, y)
    z = jax.nn.softmax(jnp.stack([first, second, jnp.zeros_like(first)], -1), axis=-1)
    log_volume = jnp.log(z).sum(-1)  # of (z1, z2) by the two log-ratios: z1 z2 z3
    total = jnp.exp(q.log_prob(z[..., None, :]) + log_volume).sum() * (y[1] - y[0]) ** 2
    chex.assert_trees_all_close(total, 1.0, rtol=1e-6)


@temperatures
def test_draws_follow_the_law(temperature):
    z = binary_concrete(LOGITS[0], temperature=temperature).sample(jax.random.key(0), (20_000,))
    y = np.asarray(jax.scipy.special.logit(z.astype(float))) * temperature - LOGITS[0]
    bulk = np.abs(y[:, 1]) < 16 * temperature - 1  # what float32 does not cut
    limit = 16 * temperature - 1
    law = scipy.stats.logistic
    uniform = (law.cdf(y[bulk, 1]) - law.cdf(-limit)) / (law.cdf(limit) - law.cdf(-limit))
    assert scipy.stats.kstest(uniform, "uniform").pvalue > 1e-6
    z = concrete(LOGITS, temperature=temperature).sample(jax.random.key(1), (20_000,))
    for one, other in ((0, 1), (1, 2), (2, 0)):
        ratio = jnp.log(z[:, 0, one]) - jnp.log(z[:, 0, other])
        noise = np.asarray(temperature * ratio - (LOGITS[0, one] - LOGITS[0, other]))
        assert scipy.stats.kstest(noise, "logistic").pvalue > 1e-6
        assert scipy.stats.kstest(1.1 * noise, "logistic").pvalue < 1e-4  # what it can see


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
def test_the_largest_entry_is_the_class(temperature):
    z = concrete(LOGITS, temperature=temperature).sample(jax.random.key(0), (20_000,))
    probs = jax.nn.softmax(LOGITS, axis=-1)
    counts = jax.nn.one_hot(z.argmax(-1), 3).mean(0)
    assert near(counts, probs, jnp.sqrt(probs * (1 - probs) / 20_000))
    bits = binary_concrete(LOGITS, temperature=temperature).sample(jax.random.key(1), (20_000,))
    probs = jax.nn.sigmoid(LOGITS)
    assert near((bits > 0.5).mean(0), probs, jnp.sqrt(probs * (1 - probs) / 20_000))


@pytest.mark.parametrize("temperature", [0.3, 0.05, 0.005])
@pytest.mark.parametrize("make", [binary_concrete, concrete])
def test_nothing_overflows_at_low_temperature(make, temperature):
    def total(logits, temperature):
        q = make(logits, temperature=temperature)
        z = q.rsample(jax.random.key(0), (2000,))
        return q.log_prob(z).mean()

    logits = jnp.array([[0.0, 8.0, -8.0]])
    z = make(logits, temperature=temperature).sample(jax.random.key(0), (2000,))
    assert bool((z > 0).all())
    assert make is concrete or bool((z < 1).all())
    path = jax.grad(lambda z: make(logits, temperature=temperature).log_prob(z).sum())(z)
    through = jax.jit(jax.value_and_grad(total, (0, 1)))(logits, temperature)
    chex.assert_tree_all_finite((path, through))


def divergence_gradient(make, prior, num_samples=20_000):
    """Of KL(q || prior) at logit 6, by reparameterisation, with its standard error."""

    def value(logits, key):
        q = make(logits)
        z = q.rsample(key)
        return q.log_prob(z) - prior.log_prob(z)

    keys = jax.random.split(jax.random.key(0), num_samples)
    each = jax.jit(jax.vmap(jax.grad(value), (None, 0)))(jnp.array([6.0]), keys)
    return each.mean(), each.std() / num_samples**0.5


def test_confident_bits_keep_their_gradient_where_numpyros_lose_it():
    """The divergence is that of two logistics at every temperature: quadrature."""

    def divergence(logit):
        y = jnp.linspace(-60.0, 60.0, 24_001)
        log_q = dist.Logistic(logit, 1.0).log_prob(y)
        return (jnp.exp(log_q) * (log_q - dist.Logistic(0.0, 1.0).log_prob(y))).sum() * 0.005

    truth = jax.grad(divergence)(6.0)
    bits = divergence_gradient(
        lambda at: binary_concrete(at, temperature=0.3),
        binary_concrete(jnp.zeros(1), temperature=0.3),
    )
    assert abs(bits[0] / truth - 1) < 0.02
    two = divergence_gradient(
        lambda at: concrete(jnp.stack([at, 0 * at], -1), temperature=0.3),
        concrete(jnp.zeros((1, 2)), temperature=0.3),
    )
    assert near(two[0], truth, two[1])
    numpyros = divergence_gradient(
        lambda at: dist.RelaxedBernoulliLogits(0.3, at).to_event(1),
        dist.RelaxedBernoulliLogits(0.3, jnp.zeros(1)).to_event(1),
    )
    assert numpyros[0] < 0 < truth


def relaxed_model(logits, temperature):
    """A relaxed q and the log-joint with a prior of its kind; 3 bits."""
    params, prior = parameters(), jnp.full(BITS, jnp.log(0.4 / 0.6))

    def joint(z):
        likelihood = dist.Normal(z @ params["w"] + params["b"], 0.6).log_prob(1.1)
        return binary_concrete(prior, temperature=temperature).log_prob(z) + likelihood

    return binary_concrete(logits, temperature=temperature), joint


def gradients(value, num_replicates, seed=0):
    keys = jax.random.split(jax.random.key(seed), num_replicates)
    of = jax.jit(lambda keys: jax.vmap(jax.grad(value), (None, 0))(parameters()["logits"], keys))
    return of(keys)


def z_score(difference):
    return difference.mean(0) / (difference.std(0) / len(difference) ** 0.5)


@pytest.mark.parametrize("bound", [elbo, iwae])
def test_score_and_reparam_agree_on_the_relaxed_bound(bound):
    def of(estimator):
        def value(logits, key):
            q, joint = relaxed_model(logits, 1.0)
            return estimator(bound)(key, q, joint, 2)

        return gradients(value, 20_000, seed=1 + (estimator is vi.gradients.reparam))

    paths = of(vi.gradients.reparam)
    assert jnp.abs(z_score(of(vi.gradients.vimco) - paths)).max() < 5
    without_signal = of(vi.gradients.fixed)
    assert jnp.abs(z_score(without_signal - paths)).max() > 5  # what the test can see


@pytest.mark.parametrize(
    ("hard", "soft"),
    [(straight_through_bernoulli, binary_concrete), (straight_through_categorical, concrete)],
)
def test_hard_forward_and_soft_backward(hard, soft):
    key = jax.random.key(0)
    z = hard(LOGITS, temperature=0.7).rsample(key, (1000,))
    assert set(np.unique(z)) == {0.0, 1.0}
    chex.assert_trees_all_equal(
        z, hard(LOGITS, temperature=0.7).sample(jax.random.clone(key), (1000,))
    )

    def push(make, draw):
        def of(logits, temperature):
            q = make(logits, temperature=temperature)
            return getattr(q, draw)(jax.random.clone(key), (1000,))

        return jax.jvp(of, (LOGITS, jnp.array(0.7)), (LOGITS**2, jnp.array(1.0)))[1]

    chex.assert_trees_all_close(push(hard, "rsample"), push(soft, "rsample"), rtol=1e-3, atol=1e-5)
    assert not push(hard, "sample").any()


def test_the_mass_is_numpyros():
    bits = outcomes(1)[:, 0]
    q = straight_through_bernoulli(LOGITS[0], temperature=0.7)
    truth = dist.Bernoulli(logits=LOGITS[0]).to_event(1)
    chex.assert_trees_all_close(q.log_prob(bits), truth.log_prob(bits), rtol=1e-5)
    slope = jax.grad(lambda z: q.log_prob(z))(bits[3])
    chex.assert_trees_all_close(slope, LOGITS[0])
    q = straight_through_categorical(LOGITS, temperature=0.7)
    truth = dist.Categorical(logits=LOGITS).to_event(1)
    classes = jnp.array([[0, 2], [1, 1], [2, 0]])
    one_hot = jax.nn.one_hot(classes, 3)
    chex.assert_trees_all_close(q.log_prob(one_hot), truth.log_prob(classes), rtol=1e-5)


class Given:
    """A straight-through family whose draws are handed in."""

    def __init__(self, logits, bits):
        self.q, self.bits = straight_through_bernoulli(logits, temperature=0.7), bits
        self.log_prob = self.q.log_prob

    def sample(self, key, sample_shape=()):
        return self.bits


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", [vi.gradients.score, vi.gradients.vimco])
@pytest.mark.parametrize("bound", [elbo, iwae])
def test_exact_by_enumeration_without_a_path(make, bound):
    params, bits = parameters(), outcomes(2)

    def gradient(bits):
        def value(logits):
            q = Given(logits, bits)
            return make(bound)(jax.random.key(0), q, log_joint(params), 2)

        return jax.grad(value)(params["logits"])

    log_q = dist.Bernoulli(logits=params["logits"]).to_event(1).log_prob(bits).sum(1)
    mean = jnp.exp(log_q) @ jax.jit(jax.vmap(gradient))(bits)
    truth = jax.grad(lambda logits: exact(bound, {**params, "logits": logits}, 2))(params["logits"])
    chex.assert_trees_all_close(mean, truth, rtol=1e-11)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_library_enumerates_both():
    params = parameters()
    q = straight_through_bernoulli(params["logits"], temperature=0.7)
    value = vi.testing.enumerated(iwae)(jax.random.key(0), q, log_joint(params), 2)
    chex.assert_trees_all_close(value, exact(iwae, params, 2), rtol=1e-11)
    q = straight_through_categorical(LOGITS.astype(float), temperature=0.7)
    free = vi.testing.enumerated(elbo)(jax.random.key(0), q, lambda z: 0 * q.log_prob(z), 1)
    entropy = dist.Categorical(logits=LOGITS).entropy().sum()
    chex.assert_trees_all_close(free, entropy, rtol=1e-6)


def bias(value, seed=0):
    """The relative bias of q's gradient against that of the discrete ELBO, and its error."""
    params = parameters()
    truth = jax.grad(lambda logits: exact(elbo, {**params, "logits": logits}, 1))(params["logits"])
    away = (gradients(value, 40_000, seed) - truth) / jnp.linalg.norm(truth)
    size = jnp.linalg.norm(away.mean(0))
    along = away @ (away.mean(0) / size)
    return size, along.std() / len(along) ** 0.5


def with_closed_divergence(temperature):
    """The likelihood under relaxed draws, minus the divergence between the bits themselves."""
    params, prior = parameters(), jnp.log(0.4 / 0.6)

    def value(logits, key):
        z = binary_concrete(logits, temperature=temperature).rsample(key)
        normalisers = jax.nn.softplus(logits) - jax.nn.softplus(prior)
        kl = (jax.nn.sigmoid(logits) * (logits - prior) - normalisers).sum()
        return dist.Normal(z @ params["w"] + params["b"], 0.6).log_prob(1.1) - kl

    return value


@pytest.mark.slow
def test_the_bias_of_relaxed_draws_falls_with_the_temperature():
    warm, cold = bias(with_closed_divergence(2.0), 1), bias(with_closed_divergence(0.5), 2)
    assert warm[0] > 5 * warm[1]
    assert warm[0] - cold[0] > 5 * jnp.hypot(warm[1], cold[1])


def test_the_relaxed_model_stays_another_model():
    def value(logits, key):
        q, joint = relaxed_model(logits, 0.2)
        return vi.gradients.reparam(elbo)(key, q, joint, 1)

    size, stderr = bias(value, 3)
    assert size > 0.1 + 5 * stderr


def test_straight_through_is_biased_under_reparam():
    def value(logits, key):
        q = straight_through_bernoulli(logits, temperature=1.0)
        return vi.gradients.reparam(elbo)(key, q, log_joint(parameters()), 1)

    size, stderr = bias(value, 4)
    assert size > 5 * stderr


def test_a_known_temperature_may_be_an_array_that_jit_closes_over():
    temperature = jnp.array(0.5)
    q = jax.jit(lambda logits: binary_concrete(logits, temperature=temperature).log_prob(logits))
    assert jnp.isfinite(q(jnp.array([0.3, 0.4])))
