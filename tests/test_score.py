"""Score-function rules by enumeration, for every bound of the table, and where signals end."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import vi
from tests.bounds import BOUNDS, NEIGHBOURS, at_least, draw, each
from tests.test_enumeration import exact, log_joint, mean_gradient, parameters
from vi.bounds import declaration, elbo, generic_replaced, iwae, leave_one_out, replaced
from vi.gradients import SignalMoments, nvil, score, vimco

DECLARED = {name: bound for name, bound in BOUNDS.items() if declaration(bound).replaced}


def weights_of_the_others(bound, log_w):
    """A baseline of one number per draw: no function of its own weight."""
    return (log_w.sum(0) - log_w) / log_w.shape[0]


ESTIMATORS = {
    "score": score,
    "score, baseline per draw": lambda bound: score(bound, baseline=weights_of_the_others),
    "score, one number": lambda bound: score(bound, baseline=lambda *_: jnp.array(-1.5)),
    "vimco": vimco,
}


def truth_and_means(bound, makes, num_samples):
    """The exact gradient, and that of each estimator; one compilation for all."""

    @jax.jit
    def all_of(params):
        truth = jax.grad(lambda p: exact(bound, p, num_samples))(params)
        return truth, [mean_gradient(make(bound), params, num_samples) for make in makes]

    return all_of(parameters())


@pytest.mark.usefixtures("x64")
@each(BOUNDS)
def test_unbiased_for_every_bound(bound):
    truth, means = truth_and_means(bound, [score, vimco], at_least(bound, 2))
    for mean in means:
        chex.assert_trees_all_close(mean, truth, rtol=1e-10, atol=1e-11)
    assert jnp.abs(truth["logits"]).max() > 1e-3


def clipped(log_w):
    """A user's bound that declares nothing, and does not move with a shift of the weights."""
    return jnp.maximum(iwae(log_w), -0.9)


BARE = {
    "clipped": clipped,
    "mean weight": lambda log_w: jnp.exp(log_w).mean(0),
    "tempered": vi.bounds.tempered(clipped, 0.5),
    "jackknife": vi.bounds.jackknife(clipped),
    "partial": functools.partial(clipped),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("bound", BARE.values(), ids=BARE)
def test_nothing_is_taken_for_declared(bound):
    truth, (mean,) = truth_and_means(bound, [vimco], 2)
    chex.assert_trees_all_close(mean, truth, rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_a_wrong_declaration_of_the_shift_is_biased():
    wrong = vi.bounds.declare(shift="equivariant")(lambda log_w: clipped(log_w))
    truth, (mean,) = truth_and_means(wrong, [vimco], 2)
    assert jnp.abs(mean["logits"] - truth["logits"]).max() > 0.01


@pytest.mark.usefixtures("x64")
def test_unbiased_with_every_baseline():
    truth, means = truth_and_means(iwae, ESTIMATORS.values(), 3)
    for mean in means:
        chex.assert_trees_all_close(mean, truth, rtol=1e-10, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_a_baseline_that_sees_its_own_draw_is_biased():
    params = parameters()
    truth = jax.grad(lambda p: exact(iwae, p, 2))(params)["logits"]
    own = score(iwae, baseline=lambda bound, log_w: 0.5 * log_w)
    assert jnp.abs(mean_gradient(own, params, 2)["logits"] - truth).max() > 0.05


@pytest.mark.usefixtures("x64")
def test_vimco_of_the_elbo_is_rloo():
    log_w = draw((5, 3), jnp.float64)
    coefficients = vimco(elbo).rule(elbo, log_w)
    others = (log_w.sum(0) - log_w) / 4
    chex.assert_trees_all_close(coefficients.score, (log_w - others) / 5 - 1 / 5, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_nvil_divides_the_gradient_of_q_and_no_other():
    params = parameters()
    for variance, scale in ((9.0, 3.0), (0.25, 1.0)):
        baseline = nvil(SignalMoments(jnp.array(-2.0), jnp.array(variance)), jnp.array(0.7))
        truth = jax.grad(lambda p: exact(iwae, p, 2))(params)
        mean = mean_gradient(score(iwae, baseline=baseline), params, 2)
        chex.assert_trees_all_close(mean["logits"], truth["logits"] / scale, rtol=1e-10)
        chex.assert_trees_all_close(mean["w"], truth["w"], rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_nvil_centres_where_the_posterior_is_known():
    """At the posterior F is log p(x) on every draw: the coefficient of the ELBO's score is 0."""
    log_w = jnp.full((3, 2), -1.7)
    for moments, coefficient in ((SignalMoments(jnp.array(-1.0)), 0.0), (SignalMoments(), -1.0)):
        baseline = nvil(moments, jnp.array([-0.7, -0.7]))
        found = score(elbo, baseline=baseline).rule(elbo, log_w).score
        chex.assert_trees_all_close(found, jnp.full((3, 2), coefficient), atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_moments_keep_their_type_in_a_scan():
    def step(moments, signal):
        return moments.updated(signal), None

    moments, _ = jax.lax.scan(step, SignalMoments(), jnp.ones((3, 4)))
    assert moments.mean.dtype == jnp.float32


def test_moving_moments():
    moments = SignalMoments().updated(jnp.array([1.0, 3.0]), decay=0.5)
    chex.assert_trees_all_close(tuple(moments), (1.0, 0.5))
    moments = moments.updated(jnp.array([jnp.nan, -jnp.inf]), decay=0.5)
    chex.assert_trees_all_close(tuple(moments), (1.0, 0.5))
    moments = moments.updated(jnp.array([5.0, jnp.inf]), decay=0.5)
    chex.assert_trees_all_close(tuple(moments), (3.0, 0.25))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("bound", DECLARED.values(), ids=DECLARED)
def test_declared_replaced_is_the_generic_one(bound):
    log_w, new = draw((2, 7, 3), jnp.float64)
    chex.assert_trees_all_close(
        replaced(bound, log_w, new), generic_replaced(bound, log_w, new), atol=1e-12
    )
    log_w = log_w.at[2, 1].set(-jnp.inf).at[4].set(1e4)
    chex.assert_trees_all_close(
        replaced(bound, log_w, new), generic_replaced(bound, log_w, new), rtol=1e-12
    )


@pytest.mark.parametrize("name", [n for n in BOUNDS if n not in NEIGHBOURS])
def test_a_dominant_weight_and_zero_weights_leave_every_signal_finite(name):
    bound = BOUNDS[name]
    K = at_least(bound, 4)
    dominant = draw((K, 2)).at[1].add(1e4)
    cases = [
        dominant,
        draw((K, 2)).at[1].add(-1e4),
        draw((K, 2)).at[0].set(-jnp.inf),
        jnp.full((K, 2), -jnp.inf).at[1].set(0.3),
        jnp.full((K, 2), -jnp.inf),
    ]
    rules = [make(bound).rule for make in (score, vimco)]
    of_all = jax.jit(jax.vmap(lambda log_w: [rule(bound, log_w).score for rule in rules]))
    for signals in of_all(jnp.stack(cases)):
        assert signals.shape == (5, K, 2)
        assert jnp.isfinite(signals).all()


def test_a_nan_is_not_hidden():
    log_w = draw((4, 2)).at[0, 0].set(jnp.nan)
    for make in (score, vimco):
        coefficients = make(iwae).rule(iwae, log_w)
        assert jnp.isnan(coefficients.score[:, 0]).any()
        assert jnp.isfinite(coefficients.score[:, 1]).all()


def test_vimco_keeps_its_digits_far_from_zero_and_at_large_K():
    """At log p(x) near -1e4 a plain difference in float32 would be off by 1e-3 nats."""
    log_w = np.random.default_rng(0).normal(size=(2048, 2)) - 1e4
    ours = jax.jit(lambda w: vimco(iwae).rule(iwae, w).score)(jnp.asarray(log_w, jnp.float32))
    with jax.enable_x64(True):
        held = jnp.asarray(np.asarray(log_w, np.float32), jnp.float64)
        signal = jax.jit(lambda w: iwae(w) - leave_one_out(iwae, w))
        truth = signal(held) - vi.bounds.first_derivative(iwae, held)
    error = np.abs(np.asarray(ours) - np.asarray(truth))
    assert error.max() < 0.02 * np.abs(truth).mean()
    low = jnp.asarray(log_w, jnp.float32)
    plain = jax.jit(lambda w: iwae(w) - generic_replaced(iwae, w, jnp.full_like(w, -1e4)))(low)
    assert float(jnp.abs(plain).mean()) > 0.5 * float(np.abs(truth).mean()), "the twin is noise"


class Coupled:
    """A Bernoulli whose draws of one call are all the same."""

    independent_samples = False
    q = dist.Bernoulli(logits=jnp.array([0.3, -0.8, 0.5])).to_event(1)

    def sample(self, key, sample_shape=()):
        return jnp.broadcast_to(self.q.sample(key), (*sample_shape, 3))

    def log_prob(self, z):
        return self.q.log_prob(z)


Q = Coupled.q
JOINT = log_joint(parameters())
REFUSALS = {
    "vimco of one": (
        lambda: vimco(iwae)(jax.random.key(0), Q, JOINT, 1),
        "vimco: num_samples must be at least 2 (got 1); draw 2 or more",
    ),
    "a baseline of another shape": (
        lambda: score(iwae, baseline=lambda *_: jnp.zeros(4))(jax.random.key(0), Q, JOINT, 3),
        "score: baseline must return one number, [] or [3] (got shape [4])",
    ),
    "coupled draws under score": (
        lambda: score(iwae)(jax.random.key(0), Coupled(), JOINT, 3),
        "score: q must have independent draws inside K (got Coupled); couple replicates",
    ),
    "a prediction of another shape": (
        lambda: score(iwae, baseline=nvil(SignalMoments(), jnp.zeros((3, 1))))(
            jax.random.key(0), dist.Bernoulli(0.3 * jnp.ones((3, 3))).to_event(1), JOINT, 3
        ),
        "nvil: prediction must be [3], one for each datum (got shape [3, 1])",
    ),
    "others of one": (
        lambda: leave_one_out(elbo, jnp.zeros(1)),
        "leave_one_out: log_w must have at least 2 samples",
    ),
    "replacements of another shape": (
        lambda: replaced(elbo, jnp.zeros(3), jnp.zeros(2)),
        "replaced: new must have the shape of log_w (got [2] against [3])",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name):
    call, message = REFUSALS[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_two_of_one_rule_are_equal():
    assert score(iwae) == score(iwae)
    assert hash(score(iwae, baseline=leave_one_out)) == hash(score(iwae, baseline=leave_one_out))
    assert score(iwae) != score(iwae, baseline=leave_one_out)
    assert repr(score(iwae, baseline=leave_one_out)) == "score(iwae, baseline=leave_one_out)"


def test_a_baseline_per_datum_serves_every_replicate():
    level = jnp.array([-1.0, -2.0, -3.0])
    q = dist.Bernoulli(logits=jnp.zeros((3, 2)) + 0.2).to_event(1)

    def evaluated(objective):
        return objective.evaluate(jax.random.key(0), q, lambda z: -1.0 * z.sum(-1), 5)

    objective = score(iwae, baseline=lambda bound, log_w: level)
    evaluation = evaluated(vi.gradients.replicated(objective, 4))
    assert evaluation.value.shape == (3,)
    assert evaluation.log_weights.shape == (5, 4, 3)
    chex.assert_trees_all_close(evaluation.value, iwae(evaluation.log_weights).mean(0))


def test_no_gradient_flows_through_a_baseline():
    def value(level, logits):
        objective = score(iwae, baseline=lambda bound, log_w: level)
        q = dist.Bernoulli(logits=logits).to_event(1)
        return objective(jax.random.key(0), q, JOINT, 4)

    gradient = jax.jit(jax.grad(value, (0, 1)))
    of_level, of_logits = gradient(jnp.array(0.4), parameters()["logits"])
    assert of_level == 0
    assert jnp.abs(of_logits).max() > 0


def test_a_continuous_q_takes_them_too():
    def value(loc, objective):
        q = vi.families.normal(loc, scale=jnp.ones_like(loc))
        return objective(jax.random.key(0), q, lambda z: -((z - 1.0) ** 2).sum(-1), 20_000)

    gradient = jax.jit(jax.grad(value), static_argnums=1)
    gradient = gradient(jnp.zeros(2), vimco(elbo))  # exact: -2 (loc - 1)
    assert jnp.abs(gradient - 2.0).max() < 0.1
