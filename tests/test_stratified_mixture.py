"""Bounds of a mixture drawn in strata: their means and gradients by quadrature, and misuse."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import vi
from vi.bounds import elbo, iwae, stratified_elbo, stratified_iwae
from vi.families import component_draws, full_rank, mixture, normal
from vi.gradients import dreg, reparam, score, vimco, wake
from vi.testing import check_gradient

PARAMS = {
    "logits": jnp.array([0.6, -0.4]),
    "loc": jnp.array([[-1.2], [1.4]]),
    "log_scale": jnp.array([[-0.4], [-0.2]]),
}
NODES = jnp.linspace(-9.0, 9.0, 401)
STEP = NODES[1] - NODES[0]


def log_joint(z):
    """Two modes, of unequal mass."""
    z = z[..., 0]
    modes = dist.Normal(-1.0, 0.7).log_prob(z), dist.Normal(1.5, 0.6).log_prob(z) + 0.5
    return jnp.logaddexp(*modes) + 0.3 * jnp.sin(2 * z)


def mixture_of(params):
    return mixture(params["logits"], normal(params["loc"], log_scale=params["log_scale"]))


def on_nodes(params):
    """Weights of the components, their masses ``[M, N]``, and log-weights ``[N]``."""
    components = dist.Normal(params["loc"], jnp.exp(params["log_scale"]))
    masses = jnp.exp(components.log_prob(NODES)) * STEP
    log_q = mixture_of(params).log_prob(NODES[:, None])
    return jax.nn.softmax(params["logits"]), masses, log_joint(NODES[:, None]) - log_q


def exact_elbo(params):
    weights, masses, log_w = on_nodes(params)
    return weights @ masses @ log_w


def exact_stratified_iwae(params):
    """K = 2: one draw of each component."""
    weights, masses, log_w = on_nodes(params)
    log_v = jnp.log(weights)[:, None] + log_w
    return masses[0] @ jnp.logaddexp(log_v[0][:, None], log_v[1]) @ masses[1]


def exact_iwae(params):
    weights, masses, log_w = on_nodes(params)
    mass = weights @ masses
    return mass @ (jnp.logaddexp(log_w[:, None], log_w) - jnp.log(2.0)) @ mass


def learned(bound, of_logits=lambda logits: logits):
    """The objective whose bound knows the weights that q has."""

    def objective(key, q, log_joint, num_samples):
        logits = of_logits(q.q.mixing_distribution.logits)
        return reparam(bound(logits))(key, q, log_joint, num_samples)

    return objective


EXACT = {stratified_elbo: exact_elbo, stratified_iwae: exact_stratified_iwae}


def report(bound, objective, seed, num_replicates=4000):
    return check_gradient(
        objective,
        lambda params: component_draws(mixture_of(params)),
        PARAMS,
        lambda params: log_joint,
        key=jax.random.key(seed),
        num_samples=2,
        num_replicates=num_replicates,
        truth=jax.jit(jax.grad(EXACT[bound]))(PARAMS),
        batch_size=4000,
    )


@pytest.mark.parametrize("bound", EXACT)
def test_the_gradient_is_exact_in_the_mean_in_the_weights_too(bound):
    found = report(bound, learned(bound), 0)
    assert found.passed, found


@pytest.mark.parametrize(
    "twin",
    [jax.lax.stop_gradient, pytest.param(jnp.zeros_like, marks=pytest.mark.slow)],
    ids=["the bound's weights held", "weights forgotten"],
)
@pytest.mark.parametrize("bound", EXACT)
def test_a_bound_with_other_weights_is_caught(bound, twin):
    assert "params['logits']" in report(bound, learned(bound, twin), 1).failed


def values(objective, q, num_replicates, num_samples, seed):
    keys = jax.random.split(jax.random.key(seed), num_replicates)
    draw = jax.vmap(lambda key: objective(key, q, log_joint, num_samples))
    return np.asarray(jax.jit(draw)(keys), float)


def test_means_are_exact_and_noise_falls():
    q, logits = mixture_of(PARAMS), PARAMS["logits"]
    strata = component_draws(q)
    for bound, plain in ((stratified_elbo, elbo), (stratified_iwae, iwae)):
        stratified = values(reparam(bound(logits)), strata, 10_000, 2, 0)
        exact = float(EXACT[bound](PARAMS))
        assert abs(stratified.mean() - exact) < 5 * stratified.std() / 100
        assert stratified.std() < values(reparam(plain), q, 10_000, 2, 1).std()
    uneven = values(reparam(stratified_elbo(0 * logits)), strata, 10_000, 2, 0)
    assert abs(uneven.mean() - float(exact_elbo(PARAMS))) > 5 * uneven.std() / 100  # the twin


def test_it_is_the_tighter_importance_weighted_bound():
    """With as many draws; and above the ELBO, below log p(x)."""
    evidence = float(jax.nn.logsumexp(log_joint(NODES[:, None])) + jnp.log(STEP))
    ladder = [float(of(PARAMS)) for of in (exact_elbo, exact_iwae, exact_stratified_iwae)]
    assert ladder == sorted(ladder)
    assert ladder[-1] < evidence
    assert ladder[2] - ladder[1] > 0.05 * (evidence - ladder[1])


def test_bounds_by_hand_for_uneven_rounds_and_one_mixture_per_datum():
    log_w = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)), jnp.float32)
    logits = jnp.array([[0.3, -0.8], [0.0, 1.0]])
    for i in range(2):
        weights = np.exp(logits[i]) / np.exp(logits[i]).sum()
        strata = [np.asarray(log_w[m::2, i], float) for m in range(2)]
        by_hand = sum(w * s.mean() for w, s in zip(weights, strata, strict=True))
        of_weights = np.log(sum(w * np.exp(s).mean() for w, s in zip(weights, strata, strict=True)))
        np.testing.assert_allclose(stratified_elbo(logits)(log_w)[i], by_hand, rtol=1e-5)
        np.testing.assert_allclose(stratified_iwae(logits)(log_w)[i], of_weights, rtol=1e-5)
        np.testing.assert_allclose(stratified_elbo(logits[i])(log_w[:, i]), by_hand, rtol=1e-5)


def test_draws_go_round_in_chunks_too_and_correlated_components_will_do():
    """Far components: a draw of the wrong one would move the value by its distance."""
    loc = jnp.array([[-100.0, 0.0], [0.0, 0.0], [100.0, 0.0]])
    components = full_rank(loc, scale_tril=jnp.tile(jnp.eye(2), (3, 1, 1)))
    logits = jnp.array([0.5, 0.2, -0.1])
    q = component_draws(dist.MixtureSameFamily(dist.Categorical(logits=logits), components))
    weights = jax.nn.softmax(logits)

    def joint(z):
        return z[..., 0] + q.log_prob(z)

    for chunk_size in (None, 6):
        objective = reparam(stratified_elbo(logits), chunk_size=chunk_size)
        value = jax.jit(lambda key, of=objective: of(key, q, joint, 9))(jax.random.key(0))
        assert abs(value - weights @ loc[:, 0]) < 5 * (weights**2 / 3).sum() ** 0.5


def test_it_is_a_family_with_a_batch():
    params = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x, 0.9 * x]), PARAMS)
    q = component_draws(mixture_of(params))
    objective = reparam(stratified_iwae(params["logits"]))

    def compute(q, key):
        z = q.rsample(key, (4,))
        return z, q.log_prob(z), objective(jax.random.clone(key), q, log_joint, 4)

    z, log_q, value = jax.eval_shape(compute, q, jax.random.key(0))
    assert (z.shape, log_q.shape, value.shape) == ((4, 3, 1), (4, 3), (3,))
    assert (q.batch_shape, q.event_shape) == ((3,), (1,))


Q = component_draws(mixture_of(PARAMS))
KEY = jax.random.key(0)
BITS = dist.Independent(dist.BernoulliLogits(jnp.zeros((2, 1))), 1)
REFUSED = {
    **{
        make.__name__: (
            lambda make=make: make(elbo)(KEY, Q, log_joint, 2),
            f"{make.__name__}: q must have independent draws inside K",
        )
        for make in (dreg, score, vimco, wake)
    },
    "half a round": (
        lambda: reparam(stratified_elbo(PARAMS["logits"]))(KEY, Q, log_joint, 3),
        "sample_shape must be one axis of whole rounds",
    ),
    "a chunk of half a round": (
        lambda: reparam(stratified_elbo(PARAMS["logits"]), chunk_size=3)(KEY, Q, log_joint, 6),
        "draw a multiple of 2, in chunks of a multiple of 2",
    ),
    "replicates": (lambda: Q.sample(KEY, (2, 4)), "sample_shape must be one axis"),
    "no mixture": (lambda: component_draws(dist.Normal(0.0, 1.0)), "q must be a mixture"),
    "no path": (
        lambda: component_draws(
            dist.MixtureSameFamily(dist.Categorical(logits=jnp.zeros(2)), BITS)
        ).rsample(KEY, (2,)),
        "components with a path",
    ),
    "too few": (
        lambda: stratified_elbo(PARAMS["logits"])(jnp.zeros(1)),
        "log_w must have at least 2 samples",
    ),
    "another batch": (
        lambda: stratified_iwae(jnp.zeros((3, 2)))(jnp.zeros((4, 5))),
        "logits must have the batch of log_w",
    ),
    "scalar weights": (lambda: stratified_iwae(0.3), "logits must have a last axis"),
    "not called": (lambda: reparam(stratified_elbo), "the factory stratified_elbo"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_misuse_is_refused_by_name(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_the_names_are_the_calls():
    assert stratified_elbo([0.3, -0.8]).__name__ == "stratified_elbo([0.3, -0.8])"
    assert stratified_iwae(jnp.zeros((3, 2))).__name__ == "stratified_iwae(logits [3, 2])"
    assert vi.bounds.declaration(stratified_iwae(jnp.zeros(4))).min_samples == 4


def test_a_component_whose_weight_is_too_small_for_a_float_still_counts():
    """Its log-weight makes up for it: log(1 + exp(-200) exp(200)) = log 2."""
    bound = vi.bounds.stratified_iwae(jnp.array([0.0, -200.0]))
    value, gradient = jax.value_and_grad(bound)(jnp.array([0.0, 200.0]))
    np.testing.assert_allclose(value, np.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(gradient, 0.5, rtol=1e-6)
