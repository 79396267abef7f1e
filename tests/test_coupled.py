"""Coupled draws: each exact, all together spread evenly, and right where they may be used."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

import vi
from tests.models import exact_bound, log_joint, scalar_params
from vi.bounds import elbo, iwae
from vi.families import antithetic, chain, normal, quasi, stratified
from vi.families._uniforms import antithetic_points, latin_hypercube, scrambled_sobol
from vi.gradients import dreg, mixed, reparam, replicated, vimco

COUPLINGS = {"antithetic": antithetic, "stratified": stratified, "quasi": quasi}
POINTS = {"antithetic": antithetic_points, "stratified": latin_hypercube, "quasi": scrambled_sobol}
couplings = pytest.mark.parametrize("couple", COUPLINGS.values(), ids=COUPLINGS)
point_sets = pytest.mark.parametrize("points", POINTS.values(), ids=POINTS)


@point_sets
@pytest.mark.parametrize("num_points", [1, 5])
def test_every_point_is_uniform_and_every_repetition_fresh(points, num_points):
    u = points(jax.random.key(0), num_points, range(1, 3), (2000,))
    assert u.shape == (2000, num_points, 2)
    assert bool(((u > 0) & (u < 1)).all())
    for position in u.reshape(2000, -1).T:
        assert scipy.stats.kstest(np.asarray(position), "uniform").pvalue > 1e-6
        assert abs(np.corrcoef(position[1:], position[:-1])[0, 1]) < 5 / 2000**0.5
    assert abs(np.corrcoef(u[:, 0, 0], u[:, 0, 1])[0, 1]) < 5 / 2000**0.5


@point_sets
def test_uniforms_stay_inside_at_the_ends_of_the_grid(points, monkeypatch):
    """Random bits all 0 or all 1: the least and the largest uniforms there are."""
    bits = jax.random.bits
    for extreme in (0, 2**32 - 1):
        monkeypatch.setattr(
            jax.random, "bits", lambda *args, e=extreme: jnp.full_like(bits(*args), e)
        )
        u = points(jax.random.key(0), 6, range(2), ())
        monkeypatch.undo()
        assert bool(((u > 0) & (u < 1)).all())
        assert bool(jnp.isfinite(dist.HalfNormal(1.0).icdf(u)).all())


@pytest.mark.parametrize("num_points", [2, 7])
def test_antithetic_pairs_mirror_each_other_exactly(num_points):
    u = antithetic_points(jax.random.key(0), num_points, range(3), (4,))
    pairs = u[:, : num_points // 2 * 2].reshape(4, -1, 2, 3)
    chex.assert_trees_all_equal(pairs.sum(-2), jnp.ones((4, num_points // 2, 3)))


@pytest.mark.parametrize("points", [latin_hypercube, scrambled_sobol])
@pytest.mark.parametrize("num_points", [16, 64])
def test_each_stratum_is_hit_once(points, num_points):
    u = points(jax.random.key(0), num_points, range(4, 9), (6,))
    strata = jnp.sort(jnp.floor(u * num_points), axis=-2)
    chex.assert_trees_all_equal(strata, jnp.broadcast_to(jnp.arange(num_points)[:, None], u.shape))


@pytest.mark.parametrize("log_points", [3, 5])
def test_the_net_keeps_one_point_in_each_elementary_interval(log_points):
    """The first two dimensions of Sobol's sequence are a (0, m, 2)-net; a hypercube is none."""

    def all_once(u):
        for first in range(log_points + 1):
            cell = np.floor(u * np.array([2**first, 2 ** (log_points - first)]))
            number = cell[..., 0] * 2 ** (log_points - first) + cell[..., 1]
            if not (np.sort(number, -1) == np.arange(2**log_points)).all():
                return False
        return True

    assert all_once(np.asarray(scrambled_sobol(jax.random.key(0), 2**log_points, range(2), (9,))))
    assert not all_once(
        np.asarray(latin_hypercube(jax.random.key(1), 2**log_points, range(2), (9,)))
    )


def test_a_net_has_so_many_dimensions():
    q = quasi(normal(jnp.zeros(21202), scale=jnp.ones(21202)))
    with pytest.raises(ValueError, match="quasi: q must have at most 21201 dimensions"):
        q.sample(jax.random.key(0), (2,))


MATRIX = jnp.array([[1.0, 0.0], [0.8, 0.6]])
FAMILIES = {
    "normal": (normal(jnp.array([0.5]), scale=jnp.array([2.0])), scipy.stats.norm(0.5, 2.0)),
    "expanded": (dist.Laplace(0.5, 2.0).expand((3, 1)).to_event(2), scipy.stats.laplace(0.5, 2.0)),
    "transformed": (dist.LogNormal(0.5, 0.7), scipy.stats.lognorm(0.7, scale=np.exp(0.5))),
    "correlated": (dist.MultivariateNormal(jnp.zeros(2), scale_tril=MATRIX), scipy.stats.norm()),
    "relaxed": (
        vi.families.binary_concrete(jnp.array([0.5]), temperature=1.0),
        dist.TransformedDistribution(dist.Logistic(0.5, 1.0), dist.transforms.SigmoidTransform()),
    ),
}


@couplings
@pytest.mark.parametrize(("q", "law"), FAMILIES.values(), ids=FAMILIES)
def test_every_draw_is_one_of_q(couple, q, law):
    z = jax.jit(lambda key: couple(q).rsample(key, (3000, 3)))(jax.random.key(0))
    assert z.shape == (3000, 3, *q.batch_shape, *q.event_shape)
    for position in z.reshape(3000, -1).T:
        u = np.asarray(law.cdf(position))
        assert scipy.stats.kstest(u, "uniform").pvalue > 1e-6
        assert scipy.stats.kstest(u**1.3, "uniform").pvalue < 1e-4  # what the test can see


def test_correlation_is_kept():
    z = antithetic(FAMILIES["correlated"][0]).sample(jax.random.key(0), (5000, 2))[:, 0]
    assert abs(np.corrcoef(z.T)[0, 1] - 0.8) < 5 * (1 - 0.8**2) / 5000**0.5


@couplings
def test_discrete_draws(couple):
    logits = jnp.array([[-1.0, 0.5, 2.0], [0.0, 0.0, 1.0]])
    bits = couple(dist.Bernoulli(logits=logits).to_event(2))
    classes = couple(dist.Categorical(logits=logits).to_event(1))
    hard = couple(vi.families.straight_through_bernoulli(logits, temperature=0.5))
    for q, probs, values in (
        (bits, jax.nn.sigmoid(logits), lambda z: z),
        (hard, jax.nn.sigmoid(logits), lambda z: z),
        (classes, jax.nn.softmax(logits, -1), lambda z: jax.nn.one_hot(z, 3)),
    ):
        z = q.sample(jax.random.key(0), (4000, 2))
        stderr = jnp.sqrt(probs * (1 - probs) / 4000)
        assert bool((jnp.abs(values(z).mean(0) - probs) < 5 * stderr).all())
        assert q.log_prob(z).shape == (4000, 2, *q.batch_shape)
    assert bits.sample(jax.random.key(1)).dtype == bits.q.sample(jax.random.key(1)).dtype
    assert hard.has_rsample
    with pytest.raises(ValueError, match="must be reparameterised"):
        bits.rsample(jax.random.key(0), (2,))


SCALAR = {"loc": 0.4, "scale": 1.3}
LOCATION_SCALE = [dist.Normal, dist.Laplace, dist.Logistic, dist.Cauchy, dist.Gumbel]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", LOCATION_SCALE)
def test_derivatives_are_those_of_the_inverse(family):
    """dz/d theta = -(dF/d theta) / density, by NumPyro's own cdf."""

    def draw(params):
        return stratified(family(**params)).rsample(jax.random.key(0), (4,))

    params = {name: jnp.array(value) for name, value in SCALAR.items()}
    z, slopes = draw(params), jax.jacfwd(draw)(params)
    moves = jax.jacfwd(lambda params: family(**params).cdf(z))(params)
    density = jnp.exp(family(**params).log_prob(z))
    expected = jax.tree.map(lambda move: -move / density, moves)
    chex.assert_trees_all_close(slopes, expected, rtol=1e-6)


@couplings
@pytest.mark.parametrize("q", [dist.Gamma(2.0, 1.0), dist.Dirichlet(jnp.ones(3)), object()])
def test_what_cannot_be_inverted_is_refused(couple, q):
    rule = f"must have an inverse distribution function .got {type(q).__name__}"
    with pytest.raises(ValueError, match=rule):
        couple(q)


def hierarchy(loc):
    return chain(
        {
            "z1": normal(loc, scale=jnp.ones_like(loc)),
            "bit": lambda z1: dist.Bernoulli(logits=z1[..., 0]),
            "z2": lambda z1, bit: normal(z1 + bit[..., None], scale=0.5 * jnp.ones_like(z1)),
        }
    )


@couplings
@pytest.mark.parametrize("sample_shape", [(), (2, 3)])
def test_shapes_reproducible_jit_and_independent_batches(couple, sample_shape):
    q = couple(hierarchy(jnp.zeros((6, 2))))

    def draw(key):
        z = q.partial_rsample(key, sample_shape)
        return z, q.log_prob(z), q.score_log_prob(z)

    z, log_q, score = jax.jit(draw)(jax.random.key(0))
    assert log_q.shape == score.shape == (*sample_shape, 6)
    assert z["z2"].shape == (*sample_shape, 6, 2)
    if couple is quasi:
        chex.assert_trees_all_close((z, log_q, score), draw(jax.random.key(0)), atol=1e-4)
    each = z["z2"].reshape(-1, 6, 2)[0]
    assert len(np.unique(each)) == each.size


@couplings
def test_a_chain_is_coupled_through_its_conditionals(couple):
    """The noise of every member, conditionals included, is spread over S = 16 strata."""
    z = couple(hierarchy(jnp.zeros(2))).sample(jax.random.key(0), (5, 16))
    law = dist.Normal(0.0, 1.0)
    noises = [z["z1"], (z["z2"] - z["z1"] - z["bit"][..., None]) / 0.5]
    for noise in noises:
        u = law.cdf(noise)
        if couple is antithetic:
            mirrored = jnp.sort(u, axis=1) - jnp.sort(1 - u, axis=1)
            assert bool((jnp.abs(mirrored) < 1e-4).all())
        else:
            strata = jnp.sort(jnp.floor(16 * u), axis=1)
            chex.assert_trees_all_equal(
                strata, jnp.broadcast_to(jnp.arange(16.0)[:, None], u.shape)
            )


@pytest.mark.parametrize("outer", [(), (5,)])
def test_the_members_of_a_chain_share_one_net(outer):
    """Two members of one dimension each: one pair in each of 4 x 4 cells, conditional included."""
    one = jnp.ones(1)
    members = {"z1": normal(0 * one, scale=one), "z2": lambda z1: normal(z1, scale=1 + 0 * z1)}
    draw = jax.jit(lambda key: quasi(chain(members)).sample(key, (*outer, 16)))
    z = draw(jax.random.key(0))
    noise = jnp.concatenate([z["z1"], z["z2"] - z["z1"]], axis=-1)
    cell = jnp.floor(4 * dist.Normal(0.0, 1.0).cdf(noise)) @ jnp.array([4.0, 1.0])
    every = jnp.broadcast_to(jnp.arange(16.0), cell.shape)
    chex.assert_trees_all_equal(jnp.sort(cell, axis=-1), every)


@couplings
def test_samples_inside_a_bound_stay_independent(couple):
    q = couple(normal(jnp.zeros(1), scale=jnp.ones(1)))
    z = jax.jit(jax.vmap(lambda key: q.sample(key, (2, 4))))(
        jax.random.split(jax.random.key(0), 4000)
    )[..., 0]
    for of in (lambda z: z, lambda z: z**2):
        between = np.corrcoef(of(z[:, 0]).T, of(z[:, 1]).T)[:4, 4:]
        assert np.abs(between).max() < 5 / 4000**0.5
    along = np.cov(z[:, 0].T).sum() / np.trace(np.cov(z[:, 0].T))
    assert along < 0.5  # the variance of the sum over S, 1 where draws are independent


@couplings
@pytest.mark.parametrize("estimator", [dreg, vimco, vi.gradients.score, vi.gradients.fixed])
def test_estimators_refuse_them_inside_k(couple, estimator):
    q = couple(dist.Normal(0.0, 1.0))
    with pytest.raises(ValueError, match="independent"):
        estimator(iwae)(jax.random.key(0), q, lambda z: -(z**2), 4)
    assert jnp.isfinite(reparam(iwae)(jax.random.key(0), q, lambda z: -(z**2), 4))


@couplings
def test_mixed_takes_a_chain_with_bits(couple):
    q = couple(hierarchy(jnp.zeros((3, 2))))
    objective = replicated(mixed(iwae), 4)
    value = objective(jax.random.key(0), q, lambda z: q.log_prob(z) + z["bit"], 2)
    assert value.shape == (3,)
    assert bool(jnp.isfinite(value).all())


def linear_gaussian():
    weights = jax.random.normal(jax.random.key(1), (6, 4)) * 0.7
    model = vi.testing.LinearGaussian(weights, jnp.zeros(6), jnp.array(0.8))
    x = jax.random.normal(jax.random.key(2), (6,))
    params = {"loc": 0.3 * jnp.arange(4.0), "log_scale": jnp.full(4, -0.5)}
    return model, x, params


@couplings
def test_the_variance_falls(couple):
    """Squared distances to the exact value and gradient, S = 16, one key for both.

    Mirrors leave what is even about the middle of q as noisy as it was, and a little more.
    """
    model, x, params = linear_gaussian()
    objective = replicated(reparam(elbo), 16)
    truth = jax.value_and_grad(lambda p: model.elbo(x, p["loc"], jnp.exp(p["log_scale"])))(params)

    def squared_error(key, couple):
        def value(params):
            q = couple(normal(params["loc"], log_scale=params["log_scale"]))
            return objective(key, q, model.log_joint(x), 1)

        away = jax.tree.map(jnp.subtract, jax.value_and_grad(value)(params), truth)
        gradient = jax.tree.map(lambda leaf: (leaf**2).sum(), away[1])
        return {"value": away[0] ** 2, **gradient}

    def paired(key):
        plain = squared_error(key, lambda q: q)
        coupled = squared_error(jax.random.clone(key), couple)
        return {name: plain[name] - coupled[name] for name in measured}

    measured = ["loc"] if couple is antithetic else ["value", "loc", "log_scale"]
    gain = jax.jit(jax.vmap(paired))(jax.random.split(jax.random.key(0), 1000))
    for name, each in gain.items():
        assert each.mean() > 5 * each.std() / 1000**0.5, name


class Hiding:
    """A coupled q that does not say so."""

    def __init__(self, q):
        self.sample, self.rsample, self.log_prob = q.sample, q.rsample, q.log_prob


def report(objective, make, num_replicates=4000):
    params = scalar_params(jnp.float32)
    return vi.testing.check_gradient(
        objective,
        lambda p: make(dist.Normal(p["loc"], jnp.exp(p["log_scale"]))),
        params,
        log_joint,
        key=jax.random.key(0),
        num_samples=2,
        num_replicates=num_replicates,
        truth=jax.grad(lambda p: exact_bound(iwae, p, 2))(params),
        batch_size=1000,
    )


@couplings
@pytest.mark.parametrize("estimator", [dreg, vimco])
def test_unbiased_across_replicates(couple, estimator):
    found = report(replicated(estimator(iwae), 2), couple)
    assert found.passed, found


@couplings
@pytest.mark.parametrize("estimator", [dreg, vimco])
def test_coupling_inside_k_is_wrong(couple, estimator):
    found = report(estimator(iwae), lambda q: Hiding(couple(q)), num_replicates=20_000)
    assert not found.passed, found


def test_a_chain_with_a_coupled_member_is_coupled():
    coupled = vi.families.antithetic(dist.Normal(0.3, 1.0))
    q = vi.families.chain({"a": coupled, "b": lambda a: dist.Normal(a, 1.0)})
    nested = vi.families.chain({"c": q, "d": dist.Normal(0.0, 1.0)})
    assert not q.independent_samples
    for chained in (q, nested):
        with pytest.raises(ValueError, match=r"vimco: q must have independent draws inside K"):
            vi.gradients.vimco(vi.bounds.iwae)(
                jax.random.key(0), chained, lambda z: 0.0 * jnp.ones(4), 4
            )
    assert vi.families.chain({"a": dist.Normal(0.0, 1.0)}).independent_samples


def test_a_discrete_uniform_is_refused():
    with pytest.raises(ValueError, match=r"stratified: q must have an inverse .*DiscreteUniform"):
        vi.families.stratified(dist.DiscreteUniform(0, 3)).sample(jax.random.key(0), (4,))
