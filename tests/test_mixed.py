"""Draws of two kinds: exact over every outcome of the bits and a grid of the noise."""

import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import vi
from tests.bounds import BOUNDS, at_least, draw, each
from tests.models import noise_grid
from vi.bounds import elbo, iwae
from vi.families import Chain, chain
from vi.gradients import mixed, reparam, score, vimco

X = 1.3
NODES = {1: 257, 2: 65, 3: 27, 4: 15}
ERROR = {2: 1e-8, 3: 1e-5, 4: 2e-3}


class GivenNoise:
    """A normal whose draws are computed from given noise."""

    def __init__(self, loc, scale, noise):
        self.q, self.noise = dist.Normal(loc, scale), noise

    def rsample(self, key, sample_shape=()):
        return self.q.loc + self.q.scale * self.noise

    sample = rsample

    def log_prob(self, z):
        return self.q.log_prob(z)


class GivenBits:
    """A Bernoulli whose draws are handed in."""

    def __init__(self, logits, bits):
        self.q, self.bits = dist.Bernoulli(logits=logits), bits

    def sample(self, key, sample_shape=()):
        return self.bits

    def log_prob(self, z):
        return self.q.log_prob(z)


def bit_first(params, bits, noise):
    """Which component, then where in it."""
    loc = lambda c: params["a"] + params["b"] * c  # noqa: E731
    return {
        "c": GivenBits(params["logit"], bits),
        "z": lambda c: GivenNoise(loc(c), jnp.exp(params["s"]), noise),
    }


def noise_first(params, bits, noise):
    """A real number, then a bit whose chance depends on it; then another that depends on both."""
    return {
        "z": GivenNoise(params["a"], jnp.exp(params["s"]), noise),
        "c": lambda z: GivenBits(params["b"] * z + params["logit"], bits),
        "y": lambda z, c: GivenNoise(params["b"] * z + c, 0.9, 0.3 * jnp.ones_like(z)),
    }


ORDERS = {"bit first": bit_first, "noise first": noise_first}


def parameters():
    values = {"a": 0.4, "b": 0.7, "s": -0.3, "logit": 0.35, "w": 1.1}
    return {name: jnp.asarray(value, float) for name, value in values.items()}


def log_joint(params):
    def value(z):
        total = dist.Bernoulli(0.4 * jnp.ones_like(z["z"])).log_prob(z["c"])
        total += dist.Normal(0.0, 1.2).log_prob(z["z"])
        if "y" in z:
            total += dist.Normal(0.3 * z["z"], 1.1).log_prob(z["y"])
        return total + dist.Normal(jnp.sin(params["w"] * z["z"]) + z["c"], 0.8).log_prob(X)

    return value


def grid(num_samples):
    noise, mass = noise_grid(num_samples, NODES[num_samples])
    bits = jnp.array(list(itertools.product([0.0, 1.0], repeat=num_samples)))
    pairs = jnp.repeat(bits, len(noise), 0), jnp.tile(noise, (len(bits), 1))
    return *pairs, jnp.tile(mass, len(bits))


def exact(bound, order, params, num_samples):
    """E[bound], by summing over the grid what the parameters make of it."""

    def one(bits, noise, mass):
        q = chain(ORDERS[order](params, bits, noise))
        z = q.partial_rsample(jax.random.key(0), (num_samples,))
        log_w = log_joint(params)(z) - q.log_prob(z)
        return mass * jnp.exp(q.score_log_prob(z).sum()) * bound(log_w)

    return jax.vmap(one)(*grid(num_samples)).sum()


def mean_gradient(objective, order, params, num_samples, make=chain):
    def one(bits, noise, mass):
        def value(params):
            q = make(ORDERS[order](params, bits, noise))
            return objective(jax.random.key(0), q, log_joint(params), num_samples)

        q = chain(ORDERS[order](params, bits, noise))
        z = q.partial_rsample(jax.random.key(1), (num_samples,))
        weight = mass * jnp.exp(q.score_log_prob(z).sum())
        return jax.tree.map(lambda g: weight * g, jax.grad(value)(params))

    return jax.tree.map(lambda g: g.sum(0), jax.vmap(one)(*grid(num_samples)))


def both(objective, order, num_samples, make=chain):
    """The exact gradient and the estimator's mean, in one compilation."""

    @jax.jit
    def of(params):
        truth = jax.grad(lambda p: exact(objective.bound, order, p, num_samples))(params)
        return truth, mean_gradient(objective, order, params, num_samples, make)

    return of(parameters())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bound", [elbo, iwae], ids=["elbo", "iwae"])
def test_unbiased_in_either_order_of_dependence(order, bound):
    truth, mean = both(mixed(bound), order, 2)
    chex.assert_trees_all_close(mean, truth, rtol=0, atol=ERROR[2])
    assert min(float(abs(leaf)) for leaf in jax.tree.leaves(truth)) > 1e-3


@pytest.mark.usefixtures("x64")
@each(BOUNDS)
def test_unbiased_for_every_bound(bound):
    num_samples = at_least(bound, 2)
    truth, mean = both(mixed(bound), "noise first", num_samples)
    kink = 1 if vi.bounds.declaration(bound).smooth else 1e6  # of the rule over the noise
    chex.assert_trees_all_close(mean, truth, rtol=0, atol=ERROR[num_samples] * kink)


@pytest.mark.usefixtures("x64")
def test_one_sample_with_a_baseline_of_its_own():
    objective = mixed(elbo, baseline=lambda bound, log_w: jnp.array(-2.0))
    truth, mean = both(objective, "noise first", 1)
    chex.assert_trees_all_close(mean, truth, rtol=0, atol=1e-8)


class UpstreamForgotten(Chain):
    """The twin: the bit's score without the path through what it depends on."""

    def score_log_prob(self, value):
        return super().score_log_prob(jax.lax.stop_gradient(value))


@pytest.mark.usefixtures("x64")
def test_forgetting_the_upstream_leaf_is_caught():
    truth, mean = both(mixed(iwae), "noise first", 2, UpstreamForgotten)
    assert abs(mean["a"] - truth["a"]) > 0.01
    assert abs(mean["s"] - truth["s"]) > 0.01
    chex.assert_trees_all_close(mean["logit"], truth["logit"], atol=1e-8)


def families():
    return {
        "paths throughout": vi.families.normal(jnp.array([0.2, -0.4]), scale=jnp.array([0.7, 1.1])),
        "a chain of them": chain({"z": dist.Normal(0.3, 1.0), "y": lambda z: dist.Normal(z, 1.0)}),
        "none": dist.Bernoulli(logits=jnp.array([0.4, -0.2])).to_event(1),
        "a chain without": chain(
            {"c": dist.Bernoulli(0.3), "d": lambda c: dist.Bernoulli(0.2 + c / 2)}
        ),
    }


def density(z):
    return sum(
        -((leaf - 0.7) ** 2).reshape(leaf.shape[0], -1).sum(-1) for leaf in jax.tree.leaves(z)
    )


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("paths throughout", reparam),
        ("a chain of them", reparam),
        ("none", vimco),
        ("a chain without", vimco),
    ],
)
def test_at_either_end_it_is_the_estimator_of_that_kind(name, other):
    """Coefficient for coefficient: the same draws, the same gradient."""

    def gradient(make):
        def value(shift):
            q = families()[name]
            scale = lambda z: jax.tree.map(lambda leaf: leaf * (1.0 + shift), z)  # noqa: E731
            return make(iwae)(jax.random.key(0), q, lambda z: density(scale(z)), 5)

        return jax.jit(jax.grad(value))(0.1)

    chex.assert_trees_all_close(gradient(mixed), gradient(other), rtol=1e-5)


def test_the_parameters_of_a_q_without_paths_get_vimcos_gradient():
    def value(logits, make):
        q = chain(
            {
                "c": dist.Bernoulli(logits=logits[0]),
                "d": lambda c: dist.Bernoulli(logits=logits[1] + c),
            }
        )
        return make(iwae)(jax.random.key(0), q, density, 6)

    logits = jnp.array([0.3, -0.5])
    ours, theirs = (
        jax.jit(jax.grad(value), static_argnums=1)(logits, make) for make in (mixed, vimco)
    )
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5)


def mixture(params):
    loc = lambda c: jnp.where(c == 1, params[1], params[0])  # noqa: E731
    return chain({"c": dist.Bernoulli(logits=params), "z": lambda c: dist.Normal(loc(c), 1.0)})


def joint(z):
    return dist.Normal(z["c"], 1.0).log_prob(z["z"])


class ChunkKeys:
    """Draws K at once from the keys that chunks of two would have had."""

    def __init__(self, q):
        self.q, self.log_prob, self.score_log_prob = q, q.log_prob, q.score_log_prob

    def partial_rsample(self, key, sample_shape=()):
        first = jax.random.split(key, 1)[0]
        draws = [self.q.partial_rsample(jax.random.fold_in(first, i), (2,)) for i in range(3)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *draws)

    sample = partial_rsample


class FloatBits(GivenBits):
    """Bits as floats: their tangent is a number, 0, and not the absence of one."""

    has_rsample = False

    def __init__(self, logits):
        self.q = dist.Bernoulli(logits=logits)

    def sample(self, key, sample_shape=()):
        return 1.0 * self.q.sample(key, sample_shape)


def test_forward_mode_does_not_pass_through_what_is_held():
    """The derivative of the square root at a bit of 0 is infinite, and none of its business."""

    def value(logits):
        q = chain({"z": dist.Normal(0.0, 1.0).expand([2]), "c": FloatBits(logits)})
        return mixed(elbo)(jax.random.key(0), q, lambda z: jnp.sqrt(z["c"]) - z["z"] ** 2, 8).sum()

    logits = jnp.array([0.3, -0.4])
    forward, reverse = jax.jit(jax.jacfwd(value))(logits), jax.jit(jax.grad(value))(logits)
    assert jnp.isfinite(reverse).all()
    chex.assert_trees_all_close(forward, reverse, rtol=1e-5)


@vi.gradients.estimator
def signal_alone(bound, log_w):
    first = vi.bounds.first_derivative(bound, log_w)
    return vi.types.Coefficients(theta=first, signal=first)


@vi.gradients.estimator
def signal_and_a_path_of_zero(bound, log_w):
    first = vi.bounds.first_derivative(bound, log_w)
    return vi.types.Coefficients(theta=first, path=0 * first, signal=first)


def test_a_signal_needs_no_path_to_go_through_the_draw():
    def value(loc, make):
        q = chain({"z": dist.Normal(loc, 1.0), "c": lambda z: dist.Bernoulli(logits=z)})
        return make(elbo)(jax.random.key(0), q, joint, 5)

    gradient = jax.jit(jax.grad(value), static_argnums=1)
    one, other = (gradient(0.7, make) for make in (signal_alone, signal_and_a_path_of_zero))
    assert abs(one) > 1e-3
    chex.assert_trees_all_close(one, other, rtol=1e-5)


def test_chunks_change_memory_and_nothing_else():
    def value(params, objective, make):
        return objective(jax.random.key(0), make(mixture(params)), joint, 6).sum()

    gradient = jax.jit(jax.grad(value), static_argnums=(1, 2))
    params = jnp.array([0.3, -0.4])
    chunked = gradient(params, mixed(iwae, chunk_size=2), lambda q: q)
    chex.assert_trees_all_close(chunked, gradient(params, mixed(iwae), ChunkKeys), rtol=1e-5)


REFUSALS = {
    "one sample": (
        lambda: mixed(elbo)(jax.random.key(0), mixture(jnp.zeros(2)), joint, 1),
        "mixed: num_samples must be at least 2",
    ),
    "reparam of a mixed chain": (
        lambda: reparam(elbo)(jax.random.key(0), mixture(jnp.zeros(2)), joint, 3),
        "chain: 'c' must be reparameterised (got BernoulliLogits); use a reparameterised member",
    ),
    "rsample of a mixed chain": (
        lambda: mixture(jnp.zeros(2)).rsample(jax.random.key(0)),
        "chain: 'c' must be reparameterised (got BernoulliLogits); use a reparameterised member",
    ),
    "a baseline of another shape": (
        lambda: mixed(elbo, baseline=lambda *_: jnp.zeros(7))(
            jax.random.key(0), mixture(jnp.zeros(2)), joint, 3
        ),
        "mixed: baseline must return one number",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name):
    call, message = REFUSALS[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_its_signal_is_vimcos():
    log_w = draw((4, 2))
    one, other = mixed(iwae).rule(iwae, log_w), vimco(iwae).rule(iwae, log_w)
    chex.assert_trees_all_close(one.signal - one.theta, other.score, rtol=1e-6)
    chex.assert_trees_all_close(one.path, -one.score)
    assert score(iwae).rule(iwae, log_w).signal is None
