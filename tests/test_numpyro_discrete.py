"""Discrete and mixed latents: gradients against enumeration, values against NumPyro's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer import Trace_ELBO, TraceGraph_ELBO
from numpyro.infer.util import log_density

import vi
from vi.bounds import elbo, iwae
from vi.gradients import fixed, mixed, score, vimco, wake

Y = jnp.array([0.3, -1.2, 2.0])


def spins(y, size=None):
    with numpyro.plate("N", 3, subsample_size=size):
        batch = numpyro.subsample(y, event_dim=0)
        b = numpyro.sample("b", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(2.0 * b - 1.0, 1.0), obs=batch)


def spins_guide(y, size=None):
    with numpyro.plate("N", 3, subsample_size=size):
        logit = numpyro.param("logit", jnp.array([0.2, -0.4, 0.7]), event_dim=0)
        numpyro.sample("b", dist.Bernoulli(logits=logit))


def coupled(y):
    a = numpyro.sample("a", dist.Categorical(probs=jnp.array([0.2, 0.3, 0.5])))
    b = numpyro.sample("b", dist.Bernoulli(jnp.array([0.1, 0.5, 0.8])[a]))
    numpyro.sample("y", dist.Normal(a * 1.0 - b, 1.0).expand([3]).to_event(1), obs=y)


def coupled_guide(y):
    logits = numpyro.param("logits", jnp.array([0.1, -0.2, 0.3]))
    tilt = numpyro.param("tilt", 0.4)
    a = numpyro.sample("a", dist.Categorical(logits=logits))
    numpyro.sample("b", dist.Bernoulli(logits=tilt * a - 0.3))


PARAMS = {
    "spins": {"logit": jnp.array([0.2, -0.4, 0.7])},
    "coupled": {"logits": jnp.array([0.1, -0.2, 0.3]), "tilt": jnp.array(0.4)},
}
DISCRETE = {
    "spins": (spins, spins_guide, {"b": list(jnp.indices((2, 2, 2)).reshape(3, -1).T)}),
    "coupled": (coupled, coupled_guide, {"a": [0, 1, 2], "b": [0, 1]}),
}


def outcomes(name):
    _, _, support = DISCRETE[name]
    return [
        dict(zip(support, values, strict=True)) for values in itertools.product(*support.values())
    ]


def exact_loss(name, bound, num_particles):
    """Minus the mean of the bound over all tuples of outcomes, as a function of the parameters."""
    model, guide, _ = DISCRETE[name]
    every = outcomes(name)

    def log_q_and_w(params, z):
        log_q, _ = log_density(guide, (Y,), {}, {**params, **z})
        return log_q, log_density(model, (Y,), {}, z)[0] - log_q

    def exact(params):
        pairs = [log_q_and_w(params, z) for z in every]
        log_q, log_w = (jnp.stack(column) for column in zip(*pairs, strict=True))
        index = jnp.array(list(itertools.product(range(len(every)), repeat=num_particles)))
        return -(jnp.exp(log_q[index].sum(1)) * bound(log_w[index].T)).sum()

    return exact


def mean_gradient(loss, name, num_draws=20_000):
    model, guide, _ = DISCRETE[name]
    keys = jax.random.split(jax.random.key(0), num_draws)
    run = lambda params, key: loss.loss(key, params, model, guide, Y)  # noqa: E731
    each = jax.jit(jax.vmap(jax.value_and_grad(run), (None, 0)))(PARAMS[name], keys)
    return jax.tree.map(lambda g: (g.mean(0), g.std(0, ddof=1) / num_draws**0.5), each)


def worst(found, truth):
    pairs = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, tuple))
    return max(
        float(jnp.max(jnp.abs(mean - exact) / error))
        for (mean, error), exact in zip(pairs, jax.tree.leaves(truth), strict=True)
    )


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize(
    ("bound", "joint"), [pytest.param(elbo, None, marks=pytest.mark.slow), (iwae, ())]
)
def test_gradients_are_those_of_enumeration(name, bound, joint):
    truth = jax.jit(jax.value_and_grad(exact_loss(name, bound, 2)))(PARAMS[name])
    for estimator in (score, vimco, mixed):
        loss = vi.numpyro.Loss(estimator(bound), num_particles=2, plates=joint)
        value, gradient = mean_gradient(loss, name)
        assert worst([value], [truth[0]]) < 5, estimator
        assert worst(list(gradient.values()), list(truth[1].values())) < 5, estimator
    _, stopped = mean_gradient(vi.numpyro.Loss(fixed(bound), num_particles=2, plates=joint), name)
    assert worst(list(stopped.values()), list(truth[1].values())) > 5


@pytest.mark.parametrize("name", DISCRETE)
def test_the_elbo_agrees_with_numpyros(name):
    model, guide, _ = DISCRETE[name]
    value = lambda loss: jax.jit(lambda k: loss.loss(k, PARAMS[name], model, guide, Y))  # noqa: E731
    ours, theirs = (
        value(loss)(jax.random.key(3))
        for loss in (vi.numpyro.Loss(score(elbo), num_particles=1), Trace_ELBO())
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    loss = vi.numpyro.Loss(vimco(elbo), num_particles=2)
    _, ours = mean_gradient(loss, name)
    _, theirs = mean_gradient(TraceGraph_ELBO(num_particles=2), name, num_draws=5_000)
    for key in ours:
        error = jnp.hypot(ours[key][1], theirs[key][1])
        assert (jnp.abs(ours[key][0] - theirs[key][0]) < 5 * error).all()


def test_cells_have_their_own_signal():
    apart = mean_gradient(vi.numpyro.Loss(vimco(elbo), num_particles=2), "spins")[1]
    joint = mean_gradient(vi.numpyro.Loss(vimco(elbo), num_particles=2, plates=()), "spins")[1]
    assert (apart["logit"][1] < 0.9 * joint["logit"][1]).all()


def test_a_subsample_weighs_the_law_of_its_draws_once():
    truth = jax.grad(exact_loss("spins", elbo, 1))(PARAMS["spins"])["logit"]
    keys = jax.random.split(jax.random.key(0), 40_000)
    for plates in (None, ()):
        loss = vi.numpyro.Loss(vimco(elbo), num_particles=2, plates=plates)
        run = lambda p, key, loss=loss: loss.loss(key, p, spins, spins_guide, Y, 2)  # noqa: E731
        each = jax.jit(jax.vmap(jax.grad(run), (None, 0)))(PARAMS["spins"], keys)["logit"]
        error = each.std(0, ddof=1) / 200
        assert (jnp.abs(each.mean(0) - truth) < 5 * error).all()
        assert (jnp.abs(each.mean(0) - 1.5 * truth) > 5 * error).any()


def mixed_model(y):
    b = numpyro.sample("b", dist.Bernoulli(0.4))
    x = numpyro.sample("x", dist.Normal(2.0 * b - 1.0, 1.0))
    numpyro.sample("y", dist.Normal(x + 0.5 * b, 1.0).expand([3]).to_event(1), obs=y)


def mixed_guide(y):
    """The bit depends on the number: its score is differentiated through the draw."""
    loc = numpyro.param("loc", 0.3)
    scale = numpyro.param("scale", 0.8, constraint=constraints.positive)
    slope = numpyro.param("slope", 0.9)
    x = numpyro.sample("x", dist.Normal(loc, scale))
    numpyro.sample("b", dist.Bernoulli(logits=slope * x - 0.2))


AT = {"loc": jnp.array(0.3), "scale": jnp.array(0.8), "slope": jnp.array(0.9)}


def exact_mixed(params):
    """Minus the ELBO: both outcomes of the bit, quadrature over the noise."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)

    def term(noise, b):
        x = params["loc"] + params["scale"] * noise
        log_q, _ = log_density(mixed_guide, (Y,), {}, {**params, "x": x, "b": b})
        log_p, _ = log_density(mixed_model, (Y,), {}, {"x": x, "b": b})
        logit = params["slope"] * x - 0.2
        return dist.BernoulliProbs(jax.nn.sigmoid(logit)).log_prob(b), log_p - log_q

    total = 0.0
    for b in (0, 1):
        log_mass, log_w = jax.vmap(lambda n, b=b: term(n, b))(jnp.array(nodes))
        total -= (jnp.array(weights) / (2 * np.pi) ** 0.5 * jnp.exp(log_mass) * log_w).sum()
    return total


def test_mixed_sites_in_any_order():
    truth = jax.grad(exact_mixed)(AT)
    keys = jax.random.split(jax.random.key(0), 20_000)

    def found(objective):
        loss = vi.numpyro.Loss(objective, num_particles=2)
        run = lambda p, key: loss.loss(key, p, mixed_model, mixed_guide, Y)  # noqa: E731
        return jax.jit(jax.vmap(jax.grad(run), (None, 0)))(AT, keys)

    def z_score(each, name):
        return abs(each[name].mean() - truth[name]) / (each[name].std() / len(keys) ** 0.5)

    for objective in (mixed(elbo), vimco(elbo), score(elbo)):
        each = found(objective)
        assert max(z_score(each, name) for name in AT) < 5, objective
    stopped = found(fixed(elbo))
    assert max(z_score(stopped, name) for name in AT) > 5


def test_discreteness_is_the_objectives():
    takes = {score: True, vimco: True, mixed: True, wake: True, fixed: True}
    takes |= {vi.gradients.reparam: False, vi.gradients.dreg: False}
    for estimator, discrete in takes.items():
        assert vi.numpyro.Loss(estimator(iwae), num_particles=2).can_infer_discrete is discrete
    loss = vi.numpyro.IWAE(4)
    with pytest.raises(ValueError, match=r"dreg: every site of the guide.*b \(BernoulliLogits\)"):
        loss.loss(jax.random.key(0), PARAMS["spins"], spins, spins_guide, Y)


def test_blocked_and_substituted_sites_stay_out():
    model = handlers.substitute(handlers.block(coupled, hide=["b"]), data={"b": 1})
    guide = handlers.block(coupled_guide, hide=["b"])
    loss = vi.numpyro.Loss(score(elbo), num_particles=1)
    ours = loss.loss(jax.random.key(0), PARAMS["coupled"], model, guide, Y)
    theirs = Trace_ELBO().loss(jax.random.key(0), PARAMS["coupled"], model, guide, Y)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def circles(y):
    def step(previous, _):
        angle = numpyro.sample("angle", dist.VonMises(0.0, 1.0))
        z = numpyro.sample("z", dist.Normal(previous, 1.0))
        return z, angle

    last, _ = scan(step, 0.0, y)
    numpyro.factor("end", -((last - 1) ** 2))


def circles_guide(y):
    loc = numpyro.param("loc", 0.4)

    def step(_, __):
        angle = numpyro.sample("angle", dist.VonMises(loc, 2.0))
        return numpyro.sample("z", dist.Normal(angle, 0.5)), None

    scan(step, 0.0, y)


def test_mixed_refuses_draws_in_a_scan_that_it_cannot_hold():
    """No handler reaches into a scan: the number's path would run on through the angle."""
    params = {"loc": jnp.array(0.4)}
    run = lambda e: vi.numpyro.Loss(e(elbo), num_particles=4).loss(  # noqa: E731
        jax.random.key(0), params, circles, circles_guide, Y
    )
    with pytest.raises(ValueError, match=r"inside a scan \(got angle \(VonMises\)\); use score"):
        run(mixed)
    assert jnp.isfinite(run(vimco))
