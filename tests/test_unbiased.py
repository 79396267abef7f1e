"""Every bound of the table under every estimator: unbiased, exactly, or refused by name."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import vi
from tests.bounds import BOUNDS, NEIGHBOURS, at_least, each
from tests.models import exact_bound, mean_gradient, scalar_params
from tests.test_enumeration import exact, log_joint, outcomes, parameters
from tests.test_enumeration import mean_gradient as mean_over_bits
from vi.bounds import declaration, elbo, iwae, log_variance
from vi.gradients import dreg, fixed, reparam, wake

SMOOTH = {name: bound for name, bound in BOUNDS.items() if declaration(bound).smooth}
KINKED = {name: bound for name, bound in BOUNDS.items() if not declaration(bound).smooth}
NODES = {1: 129, 2: 129, 3: 61, 4: 27}  # of the rule over the noise, by K
ERROR = {1: 1e-8, 2: 1e-8, 3: 1e-6, 4: 1e-4}  # its own, from its cut at 8 and its spacing


@functools.cache
def exact_gradient(bound, num_samples):
    nodes = NODES[num_samples]
    return jax.jit(jax.grad(lambda p: exact_bound(bound, p, num_samples, nodes)))(scalar_params())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", [reparam, dreg])
@each(SMOOTH)
def test_mean_gradient_is_the_derivative_of_the_mean(make, bound):
    num_samples = at_least(bound, 2)
    truth = exact_gradient(bound, num_samples)
    mean = mean_gradient(make(bound), scalar_params(), num_samples, NODES[num_samples])
    assert jnp.abs(truth["log_scale"]) > 1e-3
    chex.assert_trees_all_close(mean, truth, rtol=0, atol=ERROR[num_samples])


@pytest.mark.usefixtures("x64")
@each(KINKED)
def test_on_a_kink_dreg_is_refused_by_name_and_reparam_is_right(bound):
    name = bound.__name__.partition("(")[0]
    with pytest.raises(ValueError, match=rf"dreg: bound must be smooth \(got {name}.*use reparam"):
        dreg(bound)
    params = scalar_params()
    truth = exact_gradient(bound, 2)
    hidden = vi.bounds.declare(smooth=True)(lambda log_w: bound(log_w))

    def miss(objective):
        gradient = mean_gradient(objective, params, 2)
        return max(float(abs(gradient[name] - truth[name])) for name in params)

    assert miss(reparam(bound)) < 6e-3, "the rule's own error on a kink"
    assert miss(dreg(hidden)) > 1.2e-2, "what the refusal is for"


def at_the_drawn_law(bound, params, held, num_samples):
    """``E_r F`` with the draws' law r at ``held`` and the weights at ``params``."""
    bits = outcomes(num_samples)
    mass = jnp.exp(dist.Bernoulli(logits=held["logits"]).to_event(1).log_prob(bits).sum(1))
    log_q = dist.Bernoulli(logits=params["logits"]).to_event(1).log_prob(bits)
    return mass @ bound((log_joint(params)(bits) - log_q).T)


@pytest.mark.usefixtures("x64")
@each(BOUNDS)
def test_fixed_is_the_derivative_at_a_law_that_does_not_move(bound):
    params, num_samples = parameters(), at_least(bound, 2)
    truth = jax.grad(lambda p: at_the_drawn_law(bound, p, parameters(), num_samples))(params)
    mean = mean_over_bits(fixed(bound), params, num_samples)
    chex.assert_trees_all_close(mean, truth, rtol=1e-10, atol=1e-12)
    moving = jax.grad(lambda p: exact(bound, p, num_samples))(params)
    for name in ("w", "b"):
        chex.assert_trees_all_close(mean[name], moving[name], rtol=1e-10, atol=1e-12)
    assert jnp.abs(mean["logits"] - moving["logits"]).max() > 1e-3, "the derivative of E_q differs"


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_samples", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_vargrad_is_the_gradient_of_minus_the_elbo(num_samples):
    params = parameters()
    mean = mean_over_bits(fixed(log_variance), params, num_samples)["logits"]
    truth = jax.grad(lambda p: exact(elbo, p, 1))(params)["logits"]
    chex.assert_trees_all_close(mean, -truth, rtol=1e-11)

    def biased(log_w):
        return 0.5 * log_w.var(0)

    twin = mean_over_bits(fixed(biased), params, num_samples)["logits"]
    assert jnp.abs(twin + truth).max() > 0.1 * jnp.abs(truth).max(), "ddof matters"


@pytest.mark.usefixtures("x64")
def test_wake_climbs_the_log_density_of_the_weighted_draws():
    params, held, num_samples = parameters(), parameters(), 3
    bits = outcomes(num_samples)

    def climbed(params):
        q = dist.Bernoulli(logits=held["logits"]).to_event(1)
        weight = jax.nn.softmax((log_joint(held)(bits) - q.log_prob(bits)).T, axis=0)
        log_q = dist.Bernoulli(logits=params["logits"]).to_event(1).log_prob(bits)
        mass = jnp.exp(q.log_prob(bits).sum(1))
        return mass @ (weight * (log_joint(params)(bits) + log_q).T).sum(0)

    mean = mean_over_bits(wake(iwae), params, num_samples)
    chex.assert_trees_all_close(mean, jax.grad(climbed)(params), rtol=1e-11)
    zero = mean_over_bits(wake(elbo), params, 2)["logits"]
    chex.assert_trees_all_close(zero, jnp.zeros(3), atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_wake_tends_to_the_forward_kl():
    """Its bias falls as 1 / K: by enumeration."""
    params, bits = parameters(), outcomes(1)[:, 0]
    posterior = jax.nn.softmax(log_joint(params)(bits))
    truth = jax.grad(
        lambda logits: posterior @ dist.Bernoulli(logits=logits).to_event(1).log_prob(bits)
    )(params["logits"])
    misses = [
        float(jnp.abs(mean_over_bits(wake(iwae), params, K)["logits"] - truth).max())
        for K in (1, 2, 4)
    ]
    assert misses[2] < 0.6 * misses[1] < 0.6 * misses[0]


@pytest.mark.usefixtures("x64")
@each({name: bound for name, bound in BOUNDS.items() if declaration(bound).sense == "maximise"})
def test_wake_is_fixed_with_q_going_the_other_way(bound):
    """For every bound that it takes; ``fixed`` is exact by the enumeration above."""
    params, num_samples = parameters(), at_least(bound, 3)
    both = jax.jit(lambda p: [mean_over_bits(of(bound), p, num_samples) for of in (wake, fixed)])
    awake, held = both(params)
    for name in ("w", "b"):
        chex.assert_trees_all_close(awake[name], held[name], rtol=1e-10, atol=1e-12)
    chex.assert_trees_all_close(awake["logits"], -held["logits"], rtol=1e-10, atol=1e-12)
    assert "elbo" in bound.__name__ or jnp.abs(awake["logits"]).max() > 1e-4


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
def test_wake_refuses_what_is_to_be_minimised(bound):
    if declaration(bound).sense == "maximise":
        assert wake(bound).bound is bound
        return
    with pytest.raises(ValueError, match=r"wake: bound must be one to maximise .*use fixed"):
        wake(bound)


@pytest.mark.parametrize("name", [n for n in BOUNDS if n not in NEIGHBOURS])
def test_all_weights_zero_leave_the_parameters_alone(name):
    bound = BOUNDS[name]
    make, num_samples = (reparam if name in KINKED else dreg), at_least(bound, 4)

    @jax.jit
    @jax.value_and_grad
    def value(params, cut):
        q = vi.families.normal(params["loc"][None], log_scale=params["log_scale"][None])

        def restricted(z):
            return jnp.where(z[:, 0] < cut, -((z[:, 0] - params["w"]) ** 2), -jnp.inf)

        return make(bound)(jax.random.key(0), q, restricted, num_samples)

    for cut in (0.3, -jnp.inf):
        value_now, gradient = value(scalar_params(jnp.float32), cut)
        assert not jnp.isnan(value_now)
        chex.assert_tree_all_finite(gradient)
    if not declaration(bound).additive:
        chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, gradient))
