"""Structured families: products over pytrees, scored chains, global and local latents."""

import itertools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats
from flax import nnx

import vi
from tests.models import GivenNoise
from vi.bounds import elbo, iwae
from vi.families import chain, global_local, independent, normal
from vi.gradients import dreg, mixed, reparam, score, vimco

PARAMS = {
    "loc": jnp.array([[0.3, -1.0], [2.0, 0.5], [0.0, 0.1]]),
    "log_scale": jnp.array([[-0.5, 0.2], [0.1, -1.0], [0.0, 0.3]]),
    "rate": jnp.array([[0.4], [-0.3], [0.8]]),
}


def members(params, last):
    return {
        "a": normal(params["loc"], log_scale=params["log_scale"]),
        "b": dist.LogNormal(params["rate"][:, 0], 0.4),
        "c": last(params["rate"]),
    }


def gaussian(rate):
    return normal(rate, scale=jnp.full_like(rate, 0.7))


LASTS = {"paths": (gaussian, (reparam, dreg, vimco)),
         "bits": (vi.families.bernoulli, (vimco, mixed))}  # fmt: skip


def log_joint(z):
    return jnp.sin(z["a"]).sum(-1) - 0.3 * z["b"] * z["c"][..., 0] - (z["a"] ** 2).sum(-1)


@pytest.mark.parametrize("name", LASTS)
def test_a_product_is_the_chain_without_links(name):
    """Same draws from a key, same densities, same gradients: a chain's, which quadrature checks."""
    last, estimators = LASTS[name]

    @jax.jit
    def both(params, key):
        def of(family):
            def value(params, objective):
                return objective(key, family(members(params, last)), log_joint, 5).sum()

            q = family(members(params, last))
            z = q.sample(key, (4, 5))
            gradients = [jax.grad(value)(params, e(iwae)) for e in estimators]
            return z, q.log_prob(z), q.score_log_prob(z), gradients

        return of(independent), of(chain)

    with jax.debug_key_reuse(False):  # the same draws twice
        ours, theirs = both(PARAMS, jax.random.key(0))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)
    z, log_q, held, _ = ours
    apart = [m.log_prob(z[n]) for n, m in members(PARAMS, last).items()]
    chex.assert_trees_all_close(log_q, sum(apart), rtol=1e-5)
    chex.assert_trees_all_close(held, apart[2] if name == "bits" else 0 * held, rtol=1e-5)
    assert independent(members(PARAMS, last)).has_rsample == (name == "paths")


def test_a_product_over_a_networks_parameters():
    """One normal per array, all axes its event; draws are parameters of the network."""
    structure, state = nnx.split(vi.networks.MLP(3, (4,), 2, rngs=nnx.Rngs(0)), nnx.Param)
    q = independent(jax.tree.map(lambda w: dist.Normal(w, 0.1).to_event(w.ndim), state))
    assert q.batch_shape == ()

    @jax.jit
    def draws(q, key):
        z, log_q = q.rsample_and_log_prob(key, (5,))
        nets = jax.vmap(lambda z: nnx.merge(structure, z)(jnp.ones((7, 3))))(z)
        return z, log_q, q.log_prob(z), nets

    z, log_q, again, outputs = draws(q, jax.random.key(1))
    chex.assert_trees_all_close(log_q, again, rtol=1e-6)
    assert outputs.shape == (5, 7, 2)
    assert jax.tree.structure(z) == jax.tree.structure(state)
    by_hand = sum(
        scipy.stats.norm(w, 0.1).logpdf(np.asarray(leaf)).reshape(5, -1).sum(-1)
        for w, leaf in zip(jax.tree.leaves(state), jax.tree.leaves(z), strict=True)
    )
    np.testing.assert_allclose(log_q, by_hand, rtol=1e-4)


class OnlyScored:
    """A normal that is scored at the moment of drawing, and never again."""

    has_rsample = True

    def __init__(self, loc, scale):
        self.base = dist.Normal(loc, scale).to_event(1)
        self.batch_shape = self.base.batch_shape

    def rsample_and_log_prob(self, key, sample_shape=()):
        z = self.base.rsample(key, sample_shape)
        return z, self.base.log_prob(z)

    def rsample(self, key, sample_shape=()):
        return self.base.rsample(key, sample_shape)

    sample = rsample

    def log_prob(self, z):
        raise NotImplementedError("no inverse")


class Plain(OnlyScored):
    """The same, scored apart."""

    rsample_and_log_prob = property()

    def log_prob(self, z):
        return self.base.log_prob(z)


FAMILIES = {
    "chain": lambda a, b: chain({"a": a, "b": lambda a: b(jnp.sin(a))}),
    "independent": lambda a, b: independent({"a": a, "b": b(jnp.zeros((3, 2)))}),
    "global_local": lambda a, b: global_local(
        independent({"a": b(jnp.zeros(2))}), lambda z: b(z["a"][..., None, :] + PARAMS["loc"])
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_reparam_scores_members_as_they_are_drawn(name):
    def target(z):
        leaves = {2: 0.0, 1: 0.0}
        for leaf in jax.tree.leaves(z):
            leaves[2] += (jnp.cos(leaf) - leaf**2).reshape(*leaf.shape[:1], -1).sum(-1)
        total = leaves[2]
        return total if name == "global_local" else total[:, None] * jnp.ones(3)

    def gradient(kind):
        def value(params, key):
            scale = jnp.exp(params["log_scale"][0])
            q = FAMILIES[name](kind(params["loc"], jnp.ones(2)), lambda loc: kind(loc, scale))
            return reparam(iwae)(key, q, target, 4).sum()

        return jax.value_and_grad(value)

    one, apart = (
        jax.jit(gradient(kind))(PARAMS, jax.random.key(0)) for kind in (OnlyScored, Plain)
    )
    chex.assert_trees_all_close(one, apart, rtol=1e-5, atol=1e-6)
    assert abs(one[1]["log_scale"][0]).min() > 1e-3
    unscored = lambda loc: OnlyScored(loc, jnp.ones(2))  # noqa: E731
    q = FAMILIES[name](unscored(PARAMS["loc"]), unscored)
    with pytest.raises(NotImplementedError, match="no inverse"):
        jax.eval_shape(lambda k: dreg(iwae)(k, q, target, 4), jax.random.key(0))


def test_coupled_draws_have_no_pass_of_their_own():
    assert not hasattr(vi.families.quasi(chain(members(PARAMS, gaussian))), "rsample_and_log_prob")


# Global and local latents: a linear-Gaussian model, whose ELBO is a polynomial in the noise.

N, B, K = 4, 2, 2
X = jnp.array([0.7, -1.2, 0.4, 2.0])


def parameters():
    values = {"m": 0.3, "log_s": -0.4, "c": 0.5, "w": 0.9}
    values |= {"a": [0.1, -0.5, 0.2, 0.8], "log_t": [-0.6, -0.2, -0.9, -0.4]}
    return {name: jnp.array(value, float) for name, value in values.items()}


def parts(params, rows, noise):
    """``noise`` is ``[K, 1 + len(rows)]``; q's two parts."""
    q_global = GivenNoise(params["m"], params["log_s"], noise[:, 0])
    return q_global, lambda beta: GivenNoise(
        params["a"][rows] + params["c"] * beta[:, None], params["log_t"][rows], noise[:, 1:]
    )


def log_p(params, rows, z):
    of_global = dist.Normal(0.0, 1.0).log_prob(z["global"])
    of_local = dist.Normal(z["global"][:, None], 0.8).log_prob(z["local"])
    return of_global, of_local + dist.Normal(params["w"] * z["local"], 0.6).log_prob(X[rows])


def gauss(num_dims):
    """Nodes and weights that are exact to degree 5 in each dimension."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    grid = np.array(list(itertools.product(nodes, repeat=num_dims)))
    mass = np.array(list(itertools.product(weights, repeat=num_dims))).prod(-1)
    return jnp.asarray(grid), jnp.asarray(mass / mass.sum())


def full_data_elbo(params):
    noise, mass = gauss(1 + N)
    rows = jnp.arange(N)
    q_global, q_local = parts(params, rows, noise)
    beta = q_global.rsample(None)
    z = {"global": beta, "local": q_local(beta).rsample(None)}
    of_global, of_local = log_p(params, rows, z)
    log_q = q_global.log_prob(beta) + q_local(beta).log_prob(z["local"]).sum(-1)
    return mass @ (of_global + of_local.sum(-1) - log_q)


def as_documented(q, params, rows):
    def log_joint(z):
        of_global, of_local = log_p(params, rows, z)
        scale = N / B
        return of_global + (scale * of_local - (scale - 1) * q.local_log_prob(z)).sum(-1)

    return q, log_joint


class ScaledInside:
    """The twin: q's own log-density is scaled, and is that of no draws of its."""

    def __init__(self, q):
        self.q, self.sample, self.rsample = q, q.sample, q.rsample

    def log_prob(self, z):
        return self.q.global_log_prob(z) + N / B * self.q.local_log_prob(z).sum(-1)


def scaled_inside(q, params, rows):
    def log_joint(z):
        of_global, of_local = log_p(params, rows, z)
        return of_global + N / B * of_local.sum(-1)

    return ScaledInside(q), log_joint


def mean_over_minibatches(estimator, make):
    """The mean gradient, over the noise by quadrature and over all minibatches."""
    noise, mass = gauss(K * (1 + B))
    batches = jnp.array(list(itertools.combinations(range(N), B)))

    def value(params, rows, noise):
        q = global_local(*parts(params, rows, noise))
        q, log_joint = make(q, params, rows)
        return estimator(elbo)(jax.random.key(0), q, log_joint, K)

    @jax.jit
    def mean(params):
        each = jax.vmap(jax.grad(value), (None, None, 0))
        each = jax.vmap(each, (None, 0, None))(params, batches, noise.reshape(-1, K, 1 + B))
        return jax.tree.map(lambda g: jnp.einsum("bn...,n->...", g, mass) / len(batches), each)

    return mean(parameters())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("estimator", [reparam, dreg, vimco, score])
def test_minibatches_have_the_full_datas_gradient_in_the_mean(estimator):
    truth = jax.jit(jax.grad(full_data_elbo))(parameters())
    chex.assert_trees_all_close(
        mean_over_minibatches(estimator, as_documented), truth, rtol=1e-9, atol=1e-10
    )


@pytest.mark.usefixtures("x64")
def test_scores_of_a_density_scaled_inside_are_wrong():
    truth = jax.jit(jax.grad(full_data_elbo))(parameters())
    wrong = mean_over_minibatches(vimco, scaled_inside)
    assert abs(wrong["log_t"] - truth["log_t"]).max() > 0.1


@pytest.mark.parametrize(("make", "is_right"), [(as_documented, True), (scaled_inside, False)])
def test_dreg_of_another_bound_needs_the_density_of_the_draws(make, is_right):
    """Against plain differentiation, on the same draws, in standard errors of the difference."""
    rows = jnp.array([0, 3])

    def value(params, key, estimator):
        q_global = dist.Normal(params["m"], jnp.exp(params["log_s"]))
        scale = jnp.exp(params["log_t"][rows])
        q = global_local(
            q_global,
            lambda beta: dist.Normal(
                params["a"][rows] + params["c"] * beta[..., None],
                jnp.broadcast_to(scale, (*beta.shape, B)),
            ),
        )
        q, log_joint = make(q, params, rows)
        return estimator(iwae)(key, q, log_joint, K)

    @jax.jit
    def difference(params, keys):
        def one(key):
            ours, plain = (
                jax.grad(value)(params, random_key, estimator)
                for random_key, estimator in ((key, dreg), (jax.random.clone(key), reparam))
            )
            return jax.tree.map(jnp.subtract, ours, plain)

        return jax.vmap(one)(keys)

    each = difference(parameters(), jax.random.split(jax.random.key(0), 20_000))
    z = jax.tree.map(lambda d: jnp.abs(d.mean(0)) / (d.std(0) / 20_000**0.5 + 1e-5), each)
    worst = max(float(leaf.max()) for leaf in jax.tree.leaves(z))
    assert (worst < 5) == is_right
    assert is_right or worst > 10


def test_local_bits_are_mixed_with_a_global_path():
    """The exact gradient: a rule over the global latent, a sum over the local bits."""
    params = {"m": jnp.array(0.4), "log_s": jnp.array(-0.3), "bias": jnp.array([0.5, -0.8])}

    def make_q(params):
        return global_local(
            dist.Normal(params["m"], jnp.exp(params["log_s"])),
            lambda beta: dist.Bernoulli(logits=params["bias"] + beta[..., None]),
        )

    def log_joint(z):
        bits = z["local"] * jnp.array([1.3, -0.7])
        return -0.5 * (z["global"] - bits.sum(-1)) ** 2 + 0.4 * bits.prod(-1)

    def exact(params):
        noise = jnp.linspace(-7.0, 7.0, 141)
        mass = jax.nn.softmax(-0.5 * noise**2)
        beta = params["m"] + jnp.exp(params["log_s"]) * noise
        q, total = make_q(params), 0.0
        for bits in itertools.product((0, 1), repeat=2):
            z = {"global": beta, "local": jnp.broadcast_to(jnp.array(bits), (141, 2))}
            p = jnp.exp(q.local_log_prob(z).sum(-1))
            total += (mass * p * (log_joint(z) - q.log_prob(z))).sum()
        return total

    report = vi.testing.check_gradient(
        mixed(elbo), make_q, params, lambda _: log_joint, key=jax.random.key(0), num_samples=2,
        num_replicates=4000, truth=jax.jit(jax.grad(exact))(params),
    )  # fmt: skip
    assert report.passed, str(report)


@pytest.mark.parametrize("sample_shape", [(), (5,), (4, 5)])
def test_global_and_local_shapes(sample_shape):
    for q_local in (
        normal(jnp.zeros((3, 2)), scale=jnp.ones((3, 2))),
        lambda beta: dist.Normal(beta[..., None, :] + jnp.zeros((3, 2)), 1.0).to_event(1),
    ):
        q = global_local(normal(jnp.zeros(2), scale=jnp.ones(2)), q_local)
        z, log_q = q.rsample_and_log_prob(jax.random.key(0), sample_shape)
        shapes = {"global": (*sample_shape, 2), "local": (*sample_shape, 3, 2)}
        assert jax.tree.map(jnp.shape, z) == shapes
        assert q.local_log_prob(z).shape == (*sample_shape, 3)
        chex.assert_trees_all_close(log_q, q.log_prob(z), rtol=1e-6)


def test_global_local_is_a_pytree_of_its_parts():
    q = global_local(dist.Normal(0.3, 1.0), dist.Normal(jnp.zeros(3), 0.5))
    z = q.sample(jax.random.key(0), (5,))
    chex.assert_trees_all_close(jax.jit(lambda q, z: q.log_prob(z))(q, z), q.log_prob(z))
    assert math.isclose(jax.grad(lambda q: q.log_prob(z).sum())(q).q_global.loc,
                        (z["global"] - 0.3).sum(), rel_tol=1e-4)  # fmt: skip


BIT, UNIT = dist.Bernoulli(logits=jnp.zeros(3)), dist.Normal(jnp.zeros(3), 1.0)
REFUSALS = {
    "nothing": (lambda: independent({}), "independent: members must hold at least one"),
    "an array": (
        lambda: independent({"a": UNIT, "b": [jnp.ones(2)]}),
        "independent: members['b'][0] must be a distribution (got ArrayImpl)",
    ),
    "two batches": (
        lambda: independent([UNIT, dist.Normal(0.0, 1.0)]),
        "independent: members must have one batch (got {'members[0]': (3,), 'members[1]': ()}); ",
    ),
    "another structure": (
        lambda: independent({"a": UNIT}).log_prob({"b": jnp.ones(3)}),
        "independent.log_prob: value must have the structure of the members",
    ),
    "no path": (
        lambda: independent({"a": UNIT, "b": BIT}).rsample(jax.random.key(0)),
        "independent: ['b'] must be reparameterised (got BernoulliLogits)",
    ),
    "no path, scored": (
        lambda: independent({"a": UNIT, "b": BIT}).rsample_and_log_prob(jax.random.key(0)),
        "independent: ['b'] must be reparameterised (got BernoulliLogits)",
    ),
    "dreg of bits": (
        lambda: dreg(elbo)(
            jax.random.key(0), independent({"a": UNIT, "b": BIT}), lambda z: z["a"], 2
        ),
        "dreg: q must be reparameterised (got Product)",
    ),
    "a chain's bits, scored": (
        lambda: chain({"a": UNIT, "b": lambda a: dist.Bernoulli(logits=a)}).rsample_and_log_prob(
            jax.random.key(0)
        ),
        "chain: 'b' must be reparameterised (got BernoulliLogits)",
    ),
    "a chain that loses the draws, scored": (
        lambda: chain({"a": UNIT, "b": lambda a: UNIT}).rsample_and_log_prob(
            jax.random.key(0), (4,)
        ),
        "chain: 'b' must have one entry per draw (got [3] against [4, 3] of 'a')",
    ),
    "a global batch": (
        lambda: global_local(UNIT, UNIT),
        "global_local: q_global must have no batch axis (got batch shape [3])",
    ),
    "no data axis": (
        lambda: global_local(dist.Normal(0.0, 1.0), dist.Normal(0.0, 1.0)),
        "global_local: q_local must have batch shape ['N'] (got [])",
    ),
    "lost sample axes": (
        lambda: global_local(dist.Normal(0.0, 1.0), lambda beta: UNIT).sample(
            jax.random.key(0), (5,)
        ),
        "global_local: q_local must have batch shape [5, 'N'] (got [3])",
    ),
    "no distribution": (
        lambda: global_local(dist.Normal(0.0, 1.0), 3.0),
        "global_local: q_local must be a distribution or a function of global draws (got float)",
    ),
    "a global draw alone": (
        lambda: global_local(dist.Normal(0.0, 1.0), UNIT).log_prob({"global": 0.0}),
        "global_local.log_prob: value must have ['global', 'local'] (got ['global'])",
    ),
    "an event left over": (
        lambda: global_local(dist.Normal(0.0, 1.0), chain({"z": dist.Normal(0.0, 1.0)})).log_prob(
            {"global": jnp.zeros(5), "local": {"z": jnp.zeros(5)}}
        ),
        "global_local: q_local must score [*sample_shape, N] (got [5] against [5]",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name):
    call, message = REFUSALS[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
