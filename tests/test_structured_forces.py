"""Forces that products, chains, events and coupled draws hand on, or put together."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flows import make, normal, perturbed
from numpyro.distributions import constraints
from test_carried_forces import Given, Halved, ScoredAtThePoint

import vi
from tests.models import noise_grid
from vi.bounds import elbo, iwae
from vi.families import antithetic, chain, constrained, independent
from vi.gradients import dreg, reparam, replicated

SIZE, K = 2, 4


def flow(name, seed=1, context_size=0):
    return perturbed(make(name, context_size, SIZE), seed, std=0.3)


def unit(loc, scale=0.3):
    return vi.families.normal(loc, scale=jnp.full_like(loc, scale))


def a_chain(params):
    """A constraint, a normal given it, a flow given both, and a product given that."""
    coupling = flow("coupling-affine", context_size=SIZE)
    return chain(
        {
            "a": constrained(unit(params["loc"]), constraints.positive),
            "b": lambda a: vi.families.normal(jnp.sin(a) * params["w"], scale=0.3 + a),
            "c": lambda a, b: coupling(vi.families.normal(jnp.sin(b), scale=jnp.exp(-a)), a * b),
            "d": lambda c: independent(
                (unit(c), constrained(unit(jnp.sin(c)), constraints.unit_interval))
            ),
        }
    )


def a_product(params):
    return independent(
        {
            "flow": flow("coupling-affine")(unit(params["loc"])),
            "chain": chain({"a": unit(params["w"] * params["loc"])}),
        }
    )


FAMILIES = {
    "chain": (a_chain, dreg(iwae, chunk_size=2)),
    "product": (a_product, replicated(dreg(iwae), 2)),
}


def parameters():
    return {"loc": jnp.array([[0.3, -0.4], [0.1, 0.2], [0.5, -0.1]]), "w": jnp.array(0.8)}


def log_joint(z):
    """``[..., 3]``: events are summed."""
    return sum(jnp.cos(leaf).sum(-1) - 0.3 * (leaf**2).sum(-1) for leaf in jax.tree.leaves(z))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", FAMILIES)
def test_the_force_is_the_derivative_of_the_density(name):
    @jax.jit
    def compute(params):
        q = FAMILIES[name][0](params)
        z, log_q, force = q.rsample_and_force(jax.random.key(0), (K,))
        return z, (log_q.sum(), force), jax.value_and_grad(lambda z: q.log_prob(z).sum())(z)

    z, carried, at_point = compute(parameters())
    chex.assert_trees_all_close(carried, at_point, rtol=1e-9, atol=1e-10)
    if name == "chain":  # what those that depend on it give is missing from a latent's own
        own = jax.grad(lambda a: a_chain(parameters()).members["a"].log_prob(a).sum())(z["a"])
        assert abs(own - carried[1]["a"]).max() > 0.1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [pytest.param("chain", marks=pytest.mark.slow), "product"])
def test_dreg_by_it_is_dreg_by_log_prob(name):
    """In both modes, in chunks and replicates."""
    family, objective = FAMILIES[name]

    def value(params, wrap):
        return objective(jax.random.key(1), wrap(family(params)), log_joint, K).sum()

    @jax.jit
    def compute(params):
        gradients = [jax.grad(value)(params, wrap) for wrap in (lambda q: q, ScoredAtThePoint)]
        one = jax.tree.map(jnp.ones_like, params)
        return gradients, jax.jvp(lambda p: value(p, lambda q: q), (params,), (one,))[1]

    (ours, theirs), forward = compute(parameters())
    chex.assert_trees_all_close(ours, theirs, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(forward, sum(g.sum() for g in ours.values()), rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_a_planar_conditional_by_quadrature():
    """It has no density to ask for: chain and product draw it with its force."""
    plane, (noise, mass) = perturbed(make("planar", 0, 1), 3, std=0.3), noise_grid(2, 49)
    params = {"loc": jnp.array(0.3), "w": jnp.array(0.8), "log_scale": jnp.array(-0.3)}

    def q_of(params):
        at = lambda loc, n: Given(loc[..., None], jnp.exp(params["log_scale"]), n[None, :, None])  # noqa: E731
        start = at(params["loc"] * jnp.ones(len(noise)), noise[:, 0]).to_event(1)
        return chain(
            {
                "a": plane(start),
                "b": lambda a: independent(
                    [plane(at(jnp.sin(params["w"] * a[..., 0]), noise[:, 1]).to_event(1))]
                ),
            }
        )

    def log_p(z):
        a, b = z["a"][..., 0], z["b"][0][..., 0]
        return -0.5 * (a - 0.5) ** 2 - (b - a) ** 2 + jnp.sin(a * b)

    def mean(params, estimator, wrap):
        return mass @ estimator(elbo)(jax.random.key(0), wrap(q_of(params)), log_p, 1)

    @jax.jit
    def compute(params):
        keep = lambda q: q  # noqa: E731
        pairs = ((reparam, keep), (dreg, keep), (dreg, Halved))
        return [jax.grad(mean)(params, *pair) for pair in pairs]

    truth, ours, wrong = jax.device_get(compute(params))
    chex.assert_trees_all_close(ours, truth, rtol=1e-8, atol=1e-8)
    assert abs(wrong["w"] - truth["w"]) > 1e-2


def test_where_no_member_has_a_force_there_is_none():
    a, plane = unit(jnp.zeros(SIZE)), flow("planar")
    bits = vi.families.bernoulli(jnp.zeros(SIZE))
    mixture = dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Normal(jnp.ones(2)))
    without = (
        chain({"a": a, "b": lambda a: unit(a)}),
        independent({"a": a, "b": chain({"c": a})}),
        independent([plane(a), bits]),
        antithetic(a),
        constrained(mixture, constraints.positive),
    )
    for q in without:
        assert not hasattr(q, "rsample_and_force"), q
    assert hasattr(chain({"a": a, "b": lambda a: plane(unit(a))}), "rsample_and_force")


@pytest.mark.parametrize("name", FAMILIES)
def test_second_derivatives_are_refused(name):
    def value(w):
        params = parameters() | {"w": w, "loc": w * parameters()["loc"]}
        return dreg(elbo)(jax.random.key(0), FAMILIES[name][0](params), log_joint, 2).sum()

    with pytest.raises(ValueError, match=r"rsample_and_force: .*second derivatives use reparam"):
        jax.grad(jax.grad(value))(0.8)


@pytest.mark.usefixtures("x64")
def test_numbers_have_second_derivatives():
    """Of a base without a force of its own: those of the density at the point."""

    def slope(loc, wrap):
        def value(loc):
            u = vi.families.normal(loc, scale=jnp.exp(loc))
            q = wrap(constrained(u, constraints.interval(-1.0, 2.0)))
            return dreg(iwae)(jax.random.key(0), q, log_joint, K)

        return jax.grad(value)(loc)

    @jax.jit
    def curvatures(loc):
        return [jax.jacobian(slope)(loc, wrap) for wrap in (lambda q: q, ScoredAtThePoint)]

    ours, theirs = curvatures(jnp.array([0.3, -0.2]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)
    assert abs(ours).min() > 1e-3


@pytest.mark.usefixtures("x64")
def test_batch_axes_of_a_flow_become_events():
    """As NumPyro's own ``to_event``, and scored as drawn: planar and constrained flows too."""
    coupling, plane = flow("coupling-affine", context_size=3), flow("planar")
    context = jnp.linspace(-1, 1, 12).reshape(4, 3)
    q = coupling(normal((4,), SIZE), context)

    @jax.jit
    def compute(key):
        z, log_q, force = q.to_event(1).rsample_and_force(key, (K,))
        by_numpyro = dist.Independent(q, 1).log_prob
        wide = jnp.broadcast_to(z[:, None], (K, 5, 4, SIZE))
        at_point = jax.value_and_grad(lambda z: by_numpyro(z).sum())(z)
        again = q.to_event(1).log_prob(z), q.expand((5, 4)).to_event(1).log_prob(wide)
        key = jax.random.clone(key)
        flat = constrained(plane(normal((4,), SIZE)), constraints.positive)
        pair = flat.to_event(1).rsample_and_force(key, (K,))
        apart = flat.rsample_and_force(jax.random.clone(key), (K,))
        return (z, log_q, force), (by_numpyro(z), at_point, again), pair, apart

    (_, log_q, force), (at, (_, at_point), again), pair, apart = compute(jax.random.key(0))
    assert q.to_event(1).event_shape == (4, SIZE)
    np.testing.assert_allclose(log_q, at, rtol=1e-10)
    np.testing.assert_allclose(force, at_point, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(again[0], at, rtol=1e-10)
    np.testing.assert_allclose(again[1], np.broadcast_to(at[:, None], (K, 5)), rtol=1e-10)
    summed = (apart[0], apart[1].sum(-1), apart[2])
    chex.assert_trees_all_close(pair, summed, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_coupled_draws_of_a_flow_are_scored_as_they_are_drawn():
    coupling, plane = flow("coupling-affine"), flow("planar")
    q = constrained(coupling(normal((3,), SIZE)), constraints.positive)

    @jax.jit
    def compute(key):
        coupled = antithetic(q)
        z, log_q, force = coupled.rsample_and_force(key, (K, 6))
        scored = coupled.rsample_and_log_prob(jax.random.clone(key), (K, 6))
        drawn = coupled.rsample(jax.random.clone(key), (K, 6))
        at_point = jax.grad(lambda z: q.log_prob(z).sum())(z)
        return (z, log_q, force), (drawn, q.log_prob(z), at_point), scored

    ours, theirs, scored = compute(jax.random.key(0))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-9, atol=1e-10)
    chex.assert_trees_all_close(scored, ours[:2], rtol=1e-12)

    @jax.jit
    @jax.grad
    def gradient(loc):
        q = antithetic(plane(vi.families.normal(loc, scale=jnp.ones(SIZE))))
        each = (e(elbo) for e in (dreg, reparam))
        return sum(
            replicated(e, 6)(jax.random.key(0), q, lambda z: -(z**2).sum(-1), K) for e in each
        )

    assert jnp.isfinite(gradient(jnp.zeros(SIZE))).all()
    with pytest.raises(ValueError, match="planar: has no inverse in closed form"):
        replicated(vi.gradients.vimco(elbo), 2)(
            jax.random.key(0), antithetic(plane(normal((), SIZE))), lambda z: z.sum(-1), K
        )


def test_a_constrained_planar_flow_is_scored_by_what_its_draw_kept():
    """As NumPyro scores the sites of a guide; there is no inverse to do it by."""
    q = constrained(flow("planar")(normal((3,), SIZE)), constraints.positive)
    z, kept = q.sample_with_intermediates(jax.random.key(0), (K,))
    same, log_q = q.rsample_and_log_prob(jax.random.key(0), (K,))
    chex.assert_trees_all_close((z, q.log_prob(z, kept)), (same, log_q), rtol=1e-5)
    with pytest.raises(ValueError, match="planar: has no inverse in closed form"):
        q.log_prob(z)
