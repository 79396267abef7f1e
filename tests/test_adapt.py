"""flowjax's and distrax's distributions as q, prior and member: the same, and differentiable."""

import re

import chex
import equinox as eqx
import flowjax.bijections
import flowjax.distributions as theirs
import flowjax.flows
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi
from vi.bounds import elbo, iwae
from vi.families import adapt
from vi.gradients import dreg, reparam, score

LOC, SCALE = jnp.array([0.4, -0.3]), jnp.array([0.8, 1.3])


def log_joint(z):
    return -0.5 * ((z - 0.5) ** 2).sum(-1) + jnp.sin(z[..., 0] * z[..., 1])


def flow(make, **options):
    base = theirs.Normal(jnp.zeros(2))
    options |= {"flow_layers": 2, "nn_width": 8, "nn_activation": jnp.tanh}  # no kinks: quadrature
    return make(jax.random.key(1), base_dist=base, **options)


FLOWS = {
    "normal": lambda: theirs.Normal(LOC, SCALE),
    "autoregressive": lambda: flow(flowjax.flows.masked_autoregressive_flow),
    "coupling": lambda: flow(flowjax.flows.coupling_flow),
}


def exact_elbo(q):
    """By the trapezoid rule over the base's noise, through flowjax's own bijection."""
    line = jnp.linspace(-6.0, 6.0, 61)
    noise = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    mass = jax.nn.softmax(-0.5 * (noise**2).sum(-1))
    log_base = jax.scipy.stats.norm.logpdf(noise).sum(-1)
    bijection = q.bijection
    if not isinstance(q, theirs.Normal):  # its base is a normal of its own, here the standard one
        bijection = flowjax.bijections.Chain([q.base_dist.bijection, bijection])
    z, log_det = jax.vmap(lambda u: theirs.unwrap(bijection).transform_and_log_det(u))(noise)
    return mass @ (log_joint(z) - log_base + log_det)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "autoregressive" else n for n in FLOWS],
)
def test_gradients_are_exact(name):
    params, static = eqx.partition(FLOWS[name](), eqx.is_inexact_array)

    def rebuild(params):
        return eqx.combine(params, static)

    truth = jax.jit(jax.grad(lambda p: exact_elbo(rebuild(p))))(params)
    for seed, estimator in enumerate((reparam, dreg)):
        report = vi.testing.check_gradient(
            estimator(elbo), lambda p: adapt(rebuild(p)), params, lambda _: log_joint, truth=truth,
            key=jax.random.key(seed), num_samples=2, num_replicates=1000,
        )  # fmt: skip
        assert report.passed, str(report)


def test_forward_mode_is_reverse_mode():
    params, static = eqx.partition(FLOWS["coupling"](), eqx.is_inexact_array)

    @jax.jit
    def both(params, key):
        def value(p):
            q = adapt(eqx.combine(p, static))
            return dreg(iwae)(key, q, log_joint, 4)

        direction = jax.tree.map(jnp.cos, params)
        _, along = jax.jvp(value, (params,), (direction,))
        dots = jax.tree.map(lambda g, d: (g * d).sum(), jax.grad(value)(params), direction)
        return along, sum(jax.tree.leaves(dots))

    with jax.debug_key_reuse(False):  # the same draws in both
        chex.assert_trees_all_close(*both(params, jax.random.key(0)), rtol=1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_draws_and_scores_are_theirs(name):
    q, key = FLOWS[name](), jax.random.key(2)
    ours = adapt(q)
    assert (ours.batch_shape, ours.event_shape) == ((), (2,))
    assert isinstance(ours, dist.Distribution)

    @jax.jit
    def draw(ours, key):
        z, log_q = ours.rsample_and_log_prob(key, (4, 5))
        return z, log_q, ours.rsample(jax.random.clone(key), (4, 5)), ours.log_prob(z)

    z, log_q, again, scored = draw(ours, key)
    chex.assert_trees_all_close(again, z, rtol=1e-6)
    chex.assert_trees_all_close(scored, log_q, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(z, q.sample(jax.random.clone(key), (4, 5)), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(log_q, q.log_prob(z), rtol=1e-4, atol=1e-4)
    leaves, structure = jax.tree.flatten(ours)
    chex.assert_trees_all_close(
        jax.tree.unflatten(structure, leaves).log_prob(z), scored, rtol=1e-4
    )


def test_a_condition_is_a_batch():
    q = flow(flowjax.flows.coupling_flow, cond_dim=3)
    condition = jnp.arange(12.0).reshape(4, 3) / 10
    ours = adapt(q, condition=condition)
    assert (ours.batch_shape, ours.event_shape) == ((4,), (2,))
    z, log_q = jax.jit(lambda q, key: q.rsample_and_log_prob(key, (5,)))(ours, jax.random.key(0))
    assert (z.shape, log_q.shape) == ((5, 4, 2), (5, 4))
    one_by_one = jax.vmap(q.log_prob, (1, 0), 1)(z, condition)
    chex.assert_trees_all_close(log_q, one_by_one, rtol=1e-4, atol=1e-4)
    for leaf in (ours.log_prob(z), adapt(q, condition=condition).to_event(1).log_prob(z)):
        assert jnp.isfinite(leaf).all()


def test_as_prior_member_and_guide():
    normal = adapt(theirs.Normal(LOC, SCALE))
    twin = dist.Normal(LOC, SCALE).to_event(1)
    z = twin.sample(jax.random.key(0), (5,))
    chex.assert_trees_all_close(normal.log_prob(z), twin.log_prob(z), rtol=1e-5)
    q = vi.families.chain({"a": normal, "b": lambda a: dist.Normal(a, 1.0).to_event(1)})
    draws, log_q = q.rsample_and_log_prob(jax.random.key(1), (5,))
    chex.assert_trees_all_close(log_q, q.log_prob(draws), rtol=1e-5)
    product = vi.families.independent([normal, twin])
    assert product.log_prob([z, z]).shape == (5,)
    positive = vi.families.constrained(normal, dist.constraints.positive)
    by_hand = dist.TransformedDistribution(twin, dist.transforms.ExpTransform())
    chex.assert_trees_all_close(
        positive.log_prob(jnp.exp(z)), by_hand.log_prob(jnp.exp(z)), rtol=1e-5
    )
    with numpyro.handlers.seed(rng_seed=0), jax.debug_key_reuse(False):
        assert numpyro.sample("z", normal).shape == (2,)
    assert adapt(twin) is twin


def test_a_masked_flow_is_differentiated_and_trained_as_it_is():
    """Its masks are constants of the structure: no leaf is a boolean, and nothing is retraced."""
    q = adapt(flow(flowjax.flows.masked_autoregressive_flow))
    assert {leaf.dtype for leaf in jax.tree.leaves(q)} == {jnp.dtype(jnp.float32)}

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(q):
        value, slope = jax.value_and_grad(
            lambda q: dreg(elbo)(jax.random.key(0), q, log_joint, 64)
        )(q)  # fmt: skip
        return value, jax.tree.map(lambda leaf, d: leaf + 0.02 * d, q, slope)

    values = []
    for _ in range(4):
        value, q = step(q)
        values.append(float(value))
    assert values[-1] > values[0] + 0.05
    direct = jax.grad(lambda q: q.log_prob(jnp.ones(2)))(q)
    params, static = eqx.partition(q.base_dist, eqx.is_inexact_array)
    theirs_too = jax.grad(lambda p: eqx.combine(p, static).log_prob(jnp.ones(2)))(params)
    chex.assert_trees_all_close(direct.arrays, jax.tree.leaves(theirs_too), rtol=1e-5, atol=1e-6)


def test_the_support_is_unknown_so_that_constrained_takes_it_for_the_reals():
    """Documented: what is positive already is carried again, to draws above 1."""
    log_normal = adapt(theirs.LogNormal(jnp.zeros(1)))
    assert log_normal.support is None
    again = vi.families.constrained(log_normal, dist.constraints.positive)
    assert again.sample(jax.random.key(0), (100,)).min() > 1


def test_mixtures_score_only():
    """Their draws choose a component: a path would miss the weights."""
    parts = eqx.filter_vmap(theirs.Normal)(jnp.array([[-2.0], [2.0]]), jnp.ones((2, 1)))
    weights = jnp.array([0.3, 0.7])
    mixture = theirs.VmapMixture(parts, weights)
    for q in (mixture, theirs.Transformed(mixture, flowjax.bijections.Affine(jnp.ones(1)))):
        assert not adapt(q).has_rsample
        for estimator in (reparam, dreg):
            with pytest.raises(ValueError, match="must be reparameterised"):
                estimator(elbo)(jax.random.key(0), adapt(q), lambda z: z[..., 0], 2)
        value = score(elbo)(jax.random.key(0), adapt(q), lambda z: z[..., 0], 2)
        assert jnp.isfinite(value)

    def mean(logits, draw):
        q = theirs.VmapMixture(parts, jax.nn.softmax(logits))
        return draw(q, jax.random.key(1)).mean()

    slope = jax.grad(mean)(jnp.log(weights), lambda q, key: q.sample(key, (1000,)))
    np.testing.assert_array_equal(slope, 0.0)  # the exact one is -0.84 and 0.84


CONDITIONAL = flow(flowjax.flows.coupling_flow, cond_dim=3)
REFUSALS = {
    "a number": (
        lambda: adapt(3.0),
        "adapt: distribution must be a distribution of NumPyro, flowjax or distrax (got float)",
    ),
    "a family of ours": (
        lambda: adapt(vi.families.chain({"a": dist.Normal(0.0, 1.0)})),
        "adapt: distribution must be a distribution of NumPyro, flowjax or distrax (got Chain)",
    ),
    "no condition": (
        lambda: adapt(CONDITIONAL),
        "adapt: condition must be [*batch, *[3]] (got None)",
    ),
    "another condition": (
        lambda: adapt(CONDITIONAL, condition=jnp.ones((4, 2))),
        "adapt: condition must be [*batch, *[3]] (got shape [4, 2])",
    ),
    "a condition too many": (
        lambda: adapt(dist.Normal(0.0, 1.0), condition=jnp.ones(3)),
        "adapt: condition must be None (got ArrayImpl)",
    ),
    "a batch": (
        lambda: adapt(eqx.filter_vmap(theirs.Normal)(jnp.zeros((5, 2)), jnp.ones((5, 2)))),
        "adapt: distribution must draw its own shape (got Normal); jax.vmap over a batch",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name):
    call, message = REFUSALS[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
