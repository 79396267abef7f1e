"""enumerated and quadrature: against brute force, closed forms and finite differences."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import vi
from tests import models
from tests.models import exact_bound, renyi, scalar_params
from vi.bounds import declare, elbo, iwae
from vi.testing import LinearGaussian, _exact_objective, enumerated, quadrature

KEY = jax.random.key(0)
slow = pytest.mark.slow
NEAR = "elbo", "renyi(0.4)"  # what iwae goes through too
BOUNDS = {"elbo": elbo, "iwae": iwae, "renyi(0.4)": renyi(0.4)}
NUMPY = {  # [K] log-weights to nats, written once more
    "elbo": np.mean,
    "iwae": lambda log_w: np.log(np.mean(np.exp(log_w))),
    "renyi(0.4)": lambda log_w: np.log(np.mean(np.exp(0.6 * log_w))) / 0.6,
}


def parameters():
    return {
        "logits": jnp.array([[0.3, -0.8, 0.5], [-1.2, 0.1, 0.9]]),
        "w": jnp.array([0.9, -0.4, 1.3]),
    }


def bits(params):
    return dist.Bernoulli(logits=params["logits"]).to_event(1)


def log_joint(params):
    x = jnp.array([1.1, -0.3])

    def value(z):
        prior = dist.Bernoulli(jnp.full(3, 0.4)).to_event(1).log_prob(z)
        return prior + dist.Normal(z @ params["w"], 0.6).log_prob(x)

    return value


def brute_force(bound, params, num_samples):
    """Every tuple of 3-bit outcomes, in NumPy: probabilities, densities and bound anew."""
    w, logits = np.asarray(params["w"]), np.asarray(params["logits"])
    value = np.zeros(2)
    for b, x in enumerate([1.1, -0.3]):
        chance, log_w = [], []
        for z in map(np.array, itertools.product([0, 1], repeat=3)):
            on = 1 / (1 + np.exp(-logits[b]))
            chance.append(np.prod(np.where(z == 1, on, 1 - on)))
            log_prior = np.log(np.where(z == 1, 0.4, 0.6)).sum()
            away = (x - z @ w) / 0.6
            log_lik = -0.5 * away**2 - np.log(0.6) - 0.5 * np.log(2 * np.pi)
            log_w.append(log_prior + log_lik - np.log(chance[-1]))
        for drawn in map(list, itertools.product(range(8), repeat=num_samples)):
            value[b] += np.prod(np.array(chance)[drawn]) * bound(np.array(log_w)[drawn])
    return value


def value_of(objective, num_samples):
    return jax.jit(lambda p: objective(KEY, bits(p), log_joint(p), num_samples))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "num_samples"),
    [
        *((name, 2) for name in BOUNDS),
        ("iwae", 1),
        ("iwae", 3),
        *(pytest.param(*pair, marks=slow) for pair in itertools.product(NEAR, (1, 3))),
    ],
)
def test_enumerated_is_the_sum_over_all_outcomes(name, num_samples):
    value = value_of(enumerated(BOUNDS[name]), num_samples)(parameters())
    expected = brute_force(NUMPY[name], parameters(), num_samples)
    chex.assert_trees_all_close(value, expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_samples", [2, pytest.param(5, marks=slow)])
def test_its_gradient_is_a_finite_difference(num_samples):
    """Where the sum is smooth, as it is in every parameter."""
    value = value_of(enumerated(iwae), num_samples)
    params = parameters()
    gradient = jax.jit(jax.grad(lambda p: value(p).sum()))(params)
    step = 1e-5
    for name, leaf in params.items():
        direction = jnp.asarray(np.random.default_rng(0).standard_normal(leaf.shape))
        up, down = (
            value({**params, name: leaf + sign * step * direction}).sum() for sign in (1, -1)
        )
        chex.assert_trees_all_close(
            (gradient[name] * direction).sum(), (up - down) / (2 * step), rtol=1e-8
        )


@pytest.mark.usefixtures("x64")
def test_blocks_and_the_remainder_add_up(monkeypatch):
    """512 tuples in blocks of 100: 6 blocks, the last with 12 tuples; and the same in one."""
    shapes = []

    def bound(log_w):
        shapes.append(log_w.shape)
        return iwae(log_w)

    def sums(params):
        return jax.jit(jax.value_and_grad(lambda p: value_of(enumerated(bound), 3)(p).sum()))(
            params
        )

    whole = sums(parameters())
    assert set(shapes) == {(3, 512, 2)}
    shapes.clear()
    monkeypatch.setattr(_exact_objective, "_BLOCK", 3 * 2 * 100 + 5)
    chex.assert_trees_all_close(sums(parameters()), whole, rtol=1e-12)
    assert set(shapes) == {(3, 100, 2)}


def test_a_large_batch_has_small_blocks():
    """K = 8 draws for 2000 data: 65 of the 256 tuples at a time."""
    shapes = []

    def bound(log_w):
        shapes.append(log_w.shape)
        return iwae(log_w)

    q = dist.Bernoulli(jnp.full(2000, 0.3))
    jax.eval_shape(lambda: enumerated(bound)(KEY, q, lambda z: 0.1 * z, 8))
    assert set(shapes) == {(8, 2**20 // (8 * 2000), 2000)}


@pytest.mark.usefixtures("x64")
def test_what_composes():
    params, objective = parameters(), enumerated(iwae)
    value = value_of(objective, 2)(params)

    def one(logits, x):
        q = dist.Bernoulli(logits=logits).to_event(1)

        def joint(z):
            prior = dist.Bernoulli(jnp.full(3, 0.4)).to_event(1).log_prob(z)
            return prior + dist.Normal(z @ params["w"], 0.6).log_prob(x)

        return objective(KEY, q, joint, 2)

    mapped = jax.jit(jax.vmap(one))(params["logits"], jnp.array([1.1, -0.3]))
    chex.assert_trees_all_close(mapped, value, rtol=1e-12)
    scaled = jax.jit(  # a bound with a learned parameter
        jax.grad(lambda a: enumerated(lambda w: a * iwae(w))(KEY, bits(params), joint, 2).sum())
    )
    joint = log_joint(params)
    chex.assert_trees_all_close(scaled(1.3), value.sum(), rtol=1e-12)


@pytest.mark.parametrize(
    ("q", "num_outcomes"),
    [
        (dist.Categorical(logits=jnp.arange(4.0)), 4),
        (dist.Categorical(probs=jnp.full((2, 3), 1 / 3)).to_event(1), 9),
        (dist.Bernoulli(jnp.full((2, 2), 0.3)).to_event(2), 16),
        (dist.Bernoulli(0.3).expand([2, 3]).to_event(1), 8),
        (dist.Bernoulli(jnp.full(3, 0.3)).to_event(1).expand([2]), 8),
        (dist.Binomial(3, jnp.array([0.2, 0.6])), 4),
        (dist.DiscreteUniform(2, 6), 5),
        (dist.Bernoulli(0.3).mask(True), 2),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, dist.Distribution) else str(v),
)
def test_every_outcome_is_met_once_and_in_the_shape_of_a_draw(q, num_outcomes):
    seen = []

    def joint(z):
        seen.append(z)
        return q.log_prob(z) - 2.0

    value = jax.jit(lambda: (enumerated(iwae)(KEY, q, joint, 1), seen))
    value, (z,) = value()
    chex.assert_trees_all_close(value, jnp.full(q.batch_shape, -2.0), rtol=1e-5)
    assert z.shape == (num_outcomes, *q.batch_shape, *q.event_shape)
    rows = np.asarray(z).reshape(num_outcomes, -1)
    event = rows[:, : max(1, int(np.prod(q.event_shape)))]
    assert len(np.unique(event, axis=0)) == num_outcomes


@pytest.mark.usefixtures("x64")
def test_an_outcome_of_probability_zero_contributes_zero():
    """Its log-weight is infinite or not a number, and so are the derivatives behind it."""
    table = jnp.array([0.3, -jnp.inf, 0.7])

    def value(logits, scale):
        q = dist.Categorical(logits=logits)
        return enumerated(iwae)(KEY, q, lambda z: scale * table[z] + jnp.log(z != 1.0), 2)

    def short(logits, scale):
        q = dist.Categorical(logits=logits)
        return enumerated(iwae)(KEY, q, lambda z: scale * table[jnp.array([0, 2])][z], 2)

    both = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))
    got, (d_logits, d_scale) = both(jnp.array([0.2, -jnp.inf, 0.5]), 1.1)
    right = jax.jit(jax.value_and_grad(short, argnums=(0, 1)))
    expected, (e_logits, e_scale) = right(jnp.array([0.2, 0.5]), 1.1)
    chex.assert_trees_all_close((got, d_scale), (expected, e_scale), rtol=1e-12)
    chex.assert_trees_all_close(d_logits, jnp.array([e_logits[0], 0.0, e_logits[1]]), rtol=1e-12)


def test_a_possible_outcome_of_weight_zero_counts():
    q = dist.Bernoulli(0.25)

    def value(bound):
        objective = enumerated(bound)
        return jax.jit(lambda: objective(KEY, q, lambda z: jnp.log(z == 0), 1))()

    assert value(elbo) == -jnp.inf
    chex.assert_trees_all_close(value(lambda log_w: jnp.exp(log_w).mean(0)), 1.0, rtol=1e-6)


class Coupled:
    """Two latents that are one coin; a q that NumPyro does not know."""

    def __init__(self, logit):
        self.coin = dist.Bernoulli(logits=logit)

    def sample(self, key, sample_shape=()):
        z = self.coin.sample(key, sample_shape)
        return {"a": z, "b": 1 - z}

    def log_prob(self, z):
        return self.coin.log_prob(z["a"])


def test_a_support_can_be_given():
    logit = jnp.array([0.3, -0.2])
    listed = {"a": jnp.array([[0, 0], [1, 1]]), "b": jnp.array([[1, 1], [0, 0]])}
    objective = enumerated(iwae, support=listed)

    def joint(z):
        return 0.3 * z["a"] - 0.1 * z["b"]

    value = jax.jit(lambda: objective(KEY, Coupled(logit), joint, 3))()
    plain = enumerated(iwae)
    q = dist.Bernoulli(logits=logit)
    expected = jax.jit(lambda: plain(KEY, q, lambda z: 0.3 * z - 0.1 * (1 - z), 3))()
    chex.assert_trees_all_close(value, expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["iwae", *(pytest.param(name, marks=slow) for name in NEAR)])
def test_quadrature_is_the_other_quadrature(name):
    """tests/models.py integrates over the noise of q, this over z: other nodes, same integral."""
    exact = quadrature(BOUNDS[name], lower=-8.0, upper=9.0)

    def value(params):
        q = dist.Normal(params["loc"], jnp.exp(params["log_scale"]))
        return exact(KEY, q, models.log_joint(params), 2)

    got = jax.jit(jax.value_and_grad(value))(scalar_params())
    expected = jax.jit(jax.value_and_grad(lambda p: exact_bound(BOUNDS[name], p, 2)))(
        scalar_params()
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_quadrature_meets_the_linear_gaussian():
    model = LinearGaussian(jnp.array([[0.8], [-0.5]]), jnp.array([0.1, 0.2]), jnp.array(0.7))
    x = jnp.array([[1.0, 0.3], [-0.4, 0.9]])
    loc, scale = jnp.array([0.4, -0.6]), jnp.array([0.7, 1.1])
    exact = quadrature(elbo, lower=-12.0, upper=12.0)

    def value(model, loc, scale):
        log_joint = model.log_joint(x)
        q = dist.Normal(loc, scale)
        return exact(KEY, q, lambda z: log_joint(z[..., None]), 1).sum()

    def closed(model, loc, scale):
        return model.elbo(x, loc[:, None], scale[:, None]).sum()

    args = (model, loc, scale)
    got, expected = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(*args) for f in (value, closed)
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-11, atol=1e-11)


def test_the_ends_count_half():
    """On [0, 1] under a uniform q, z^2 by two panels is (0 / 2 + 1 / 4 + 1 / 2) / 2 = 0.375."""
    exact = quadrature(elbo, lower=0.0, upper=1.0, num_nodes=3)
    value = jax.jit(lambda: exact(KEY, dist.Uniform(0.0, 1.0), lambda z: z**2, 1))()
    chex.assert_trees_all_close(value, 0.375, rtol=1e-6)


def test_they_say_what_they_are():
    assert repr(enumerated(iwae)) == "enumerated(iwae)"
    exact = quadrature(iwae, lower=-3, upper=3.5)
    assert repr(exact) == "quadrature(iwae, lower=-3, upper=3.5, num_nodes=129)"


def test_an_aux_beside_the_log_joint_is_dropped():
    q = dist.Bernoulli(0.3)
    objective = enumerated(iwae)
    value = jax.jit(lambda: objective(KEY, q, lambda z: (q.log_prob(z) + 1.5, {"z": z}), 2))()
    chex.assert_trees_all_close(value, 1.5, rtol=1e-6)


COIN, NORMAL = dist.Bernoulli(0.3), dist.Normal(0.4, 1.0)
two_at_least = declare(min_samples=2)(lambda log_w: iwae(log_w))


def flat(z):
    return jax.tree.leaves(z)[0] * 0.0


def enumerate_it(bound=iwae, key=KEY, q=COIN, joint=flat, num_samples=2, **options):
    return enumerated(bound, **options)(key, q, joint, num_samples)


def integrate(q=NORMAL, lower=-6.0, upper=7.0, num_samples=1, joint=flat, **options):
    return quadrature(iwae, lower=lower, upper=upper, **options)(KEY, q, joint, num_samples)


class Unnormalised(Coupled):
    def __init__(self, excess):
        super().__init__(0.3)
        self.excess = excess

    def log_prob(self, z):
        return super().log_prob(z) + self.excess


coupled = {"a": jnp.array([0, 1]), "b": jnp.array([1, 0])}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: enumerate_it(q=NORMAL), r"finite support that NumPyro can list \(got Normal\)"),
        (lambda: enumerate_it(q=dist.Normal(jnp.zeros(2), 1).to_event(1)), "Independent"),
        (lambda: enumerate_it(q=NORMAL), "pass support="),
        (lambda: enumerate_it(q=Coupled(0.1)), r"\(got Coupled\); pass support="),
        (
            lambda: enumerate_it(q=dist.DiscreteUniform(jnp.array([0, 1]), jnp.array([1, 3]))),
            "got DiscreteUniform",
        ),
        (
            lambda: enumerate_it(q=dist.Bernoulli(jnp.full(784, 0.5)).to_event(1)),
            "at most max_outcomes = 1048576 outcomes",
        ),
        (lambda: enumerate_it(num_samples=5, max_outcomes=31), r"got 2 to the power of 5\); take"),
        (lambda: enumerate_it(max_outcomes=2**31), r"max_outcomes must be at most 2\*\*30"),
        (lambda: enumerate_it(max_outcomes=0), "max_outcomes must be an integer of at least 1"),
        (lambda: enumerate_it(two_at_least, num_samples=1), "must be at least 2 for"),
        (lambda: enumerate_it(num_samples=2.0), "num_samples must be an integer"),
        (lambda: enumerate_it(num_samples=0), "num_samples must be an integer of at least 1"),
        (lambda: enumerate_it(key=0), "key must be a typed PRNG key"),
        (lambda: enumerate_it(bound=3), r"enumerated: bound must be a function of log_w \(got 3\)"),
        (lambda: enumerate_it(bound=vi.gradients.reparam(iwae)), r"got reparam\(iwae\)"),
        (lambda: enumerate_it(bound=enumerated(iwae)), r"got enumerated\(iwae\)"),
        (lambda: enumerate_it(bound=lambda w: w), r"map \[K, \*batch\] to \[\*batch\]"),
        (lambda: enumerate_it(joint=lambda z: 0.0 * z.sum()), r"log_joint must return \[K, \*batc"),
        (lambda: enumerate_it(joint=lambda z: z), "floating log-density"),
        (lambda: enumerate_it(q=Coupled(0.1), support=jnp.arange(2)), "the shapes of q.sample"),
        (
            lambda: enumerate_it(q=Coupled(jnp.zeros(3)), support=coupled),
            "one value per outcome and datum",
        ),
        (
            lambda: enumerate_it(q=Coupled(0.1), support={"a": jnp.arange(2), "b": jnp.arange(3)}),
            "list the same outcomes in every leaf",
        ),
        (lambda: enumerate_it(support=jnp.float32(1)), r"got leaves with \[0\] outcomes"),
        (lambda: enumerate_it(support={}), "got no leaves"),
        (lambda: integrate(q=COIN), "over one real number"),
        (lambda: integrate(q=dist.Normal(jnp.zeros(1), 1).to_event(1)), r"got events float32 \[1"),
        (lambda: integrate(q=Coupled(0.1)), r"int32 \[\], int32 \[\]"),
        (lambda: integrate(lower=2.0, upper=2.0), r"lower and upper must be an interval"),
        (lambda: integrate(upper=float("inf")), r"lower and upper must be an interval"),
        (lambda: integrate(num_nodes=2), "num_nodes must be an integer of at least 3"),
        (lambda: integrate(num_nodes=128), r"num_nodes must be odd \(got 128\); take one more"),
        (
            lambda: enumerate_it(support=jnp.array([0.0, 1.0])),
            r"the dtypes of q.sample \(got float32 for int32\)",
        ),
        (lambda: integrate(num_samples=3), "got 129 to the power of 3"),
    ],
)
def test_refusals(call, message):
    """At trace time: nothing is compiled, let alone computed."""
    with pytest.raises(ValueError, match=message):
        jax.jit(call)()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: enumerate_it(support=jnp.array([1])),
            r"probabilities of q must sum to 1 over the outcomes \(got 0.3\); list every outcome",
        ),
        (
            lambda: enumerate_it(q=Unnormalised(0.1), support=coupled),
            r"got 1.10517\)",
        ),
        (lambda: enumerate_it(q=dist.Bernoulli(0.3).mask(False)), r"sum to 1 .* \(got 2\)"),
        (lambda: enumerate_it(q=Unnormalised(jnp.nan), support=coupled), "got nan"),
        (lambda: integrate(upper=1.0), r"\(got 0.72\d*\); widen lower and upper or take more"),
        (lambda: integrate(q=dist.Normal(jnp.array([0.0, 9.0]), 1.0)), r"got 0.0\d+"),
        (lambda: integrate(q=dist.Normal(0.4, 0.01)), "take more nodes"),
        (
            lambda: enumerate_it(support=jnp.array([1, 0, 1])),
            "support must have no outcome twice",
        ),
        (
            lambda: enumerate_it(
                q=dist.Bernoulli(jnp.full(2, 0.5)), support=jnp.array([[0, 1], [1, 1]])
            ),
            "support must have no outcome twice",
        ),
    ],
)
def test_what_is_refused_where_the_values_are_known(call, message):
    with pytest.raises(ValueError, match=message):
        call()


narrow = dist.Normal(0.3, 0.05).log_prob
standard = dist.Normal(0.0, 1.0)


def narrow_iwae(loc, num_nodes=129):
    exact = quadrature(iwae, lower=-7.0, upper=7.0, num_nodes=num_nodes)
    return exact(KEY, dist.Normal(loc, 1.0), narrow, 2)


@pytest.mark.parametrize("call", [narrow_iwae, jax.grad(narrow_iwae)])
def test_too_few_nodes_for_the_log_joint_are_refused(call):
    with pytest.raises(
        ValueError, match=r"must be the same on every second node .* take more nodes"
    ):
        call(0.0)


def test_more_nodes_are_accepted_and_right():
    """With 129 nodes it is off by 0.02."""
    nodes = np.linspace(-8.0, 8.0, 2001)
    chance = np.exp(-(nodes**2) / 2)
    chance /= chance.sum()
    w = nodes**2 / 2 - (nodes - 0.3) ** 2 / (2 * 0.05**2) - np.log(0.05)
    expected = chance @ (np.logaddexp(w, w[:, None]) - np.log(2)) @ chance
    chex.assert_trees_all_close(narrow_iwae(0.0, 1023), expected, rtol=2e-5)
    assert abs(jax.jit(narrow_iwae)(0.0) - expected) > 0.01


def sixth_power(width):
    """E z^6 = 15; 2e-4 of the mass is beyond 3.7, and 6% of this."""
    exact = quadrature(elbo, lower=-width, upper=width)
    return exact(KEY, standard, lambda z: standard.log_prob(z) - z**6, 1)


def test_ends_that_carry_weight_are_refused():
    with pytest.raises(ValueError, match=r"must vanish at lower and upper .* widen"):
        sixth_power(3.7)
    chex.assert_trees_all_close(sixth_power(9.0), -15.0, rtol=1e-5)
    chex.assert_trees_all_close(jax.jit(sixth_power, static_argnums=0)(3.7), -14.144, rtol=1e-3)


def test_an_offset_is_not_a_tolerance():
    """A log p(x) of -1e4 must not hide what the bound has of its own."""

    def value(offset):
        exact = quadrature(iwae, lower=-7.0, upper=7.0, num_nodes=33)
        return exact(KEY, standard, lambda z: dist.Normal(0.3, 0.15).log_prob(z) + offset, 2)

    with pytest.raises(ValueError, match="same on every second node"):
        value(-1e4)


def test_a_refusal_of_mass_is_made_under_grad_too():
    with pytest.raises(ValueError, match="sum to 1"):
        jax.grad(lambda loc: integrate(q=dist.Normal(loc, 1.0)))(6.0)
