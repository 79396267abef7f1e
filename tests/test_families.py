"""Every family: samples and scores agree, in every shape, under every transformation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

import vi

LOC = jnp.array([[0.3, -1.0], [2.0, 0.5], [0.0, 0.1]])
LOG_SCALE = jnp.array([[-0.5, 0.2], [0.1, -1.0], [0.0, 0.3]])


def normal(loc, log_scale):
    return vi.families.normal(loc, log_scale=log_scale)


def chain(loc, log_scale):
    return vi.families.chain(
        {
            "z1": vi.families.normal(loc, log_scale=log_scale),
            "z2": lambda z1: vi.families.normal(jnp.sin(z1), scale=jnp.full_like(z1, 0.5)),
            "z3": lambda z2, z1: vi.families.normal(z1 * z2, scale=jnp.full_like(z1, 0.7)),
        }
    )


FAMILIES = {"normal": normal, "chain": chain}
families = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)


@families
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("sample_shape", [(), (5,), (4, 5)])
def test_shapes(make, batch, sample_shape):
    loc, log_scale = (jnp.broadcast_to(a[0], (*batch, 2)) for a in (LOC, LOG_SCALE))
    q = make(loc, log_scale)
    for draw in (q.sample, q.rsample):
        z = draw(jax.random.key(0), sample_shape)
        assert {leaf.shape for leaf in jax.tree.leaves(z)} == {(*sample_shape, *batch, 2)}
        assert q.log_prob(z).shape == (*sample_shape, *batch)


@families
def test_batch_equals_vmap_and_jit_equals_eager(make):
    z = make(LOC, LOG_SCALE).sample(jax.random.key(0), (5,))

    def log_prob(loc, log_scale, z):
        return make(loc, log_scale).log_prob(z)

    batched = log_prob(LOC, LOG_SCALE, z)
    mapped = jax.vmap(log_prob, in_axes=(0, 0, 1), out_axes=1)(LOC, LOG_SCALE, z)
    chex.assert_trees_all_close(mapped, batched, rtol=1e-6)
    chex.assert_trees_all_close(jax.jit(log_prob)(LOC, LOG_SCALE, z), batched, rtol=1e-6)


def test_the_three_spreads_are_one_family():
    z = jax.random.normal(jax.random.key(0), (5, 3, 2))
    scores = [
        vi.families.normal(LOC, log_scale=LOG_SCALE).log_prob(z),
        vi.families.normal(LOC, log_var=2 * LOG_SCALE).log_prob(z),
        vi.families.normal(LOC, scale=jnp.exp(LOG_SCALE)).log_prob(z),
        scipy.stats.norm(LOC, np.exp(LOG_SCALE)).logpdf(z).sum(-1),
    ]
    for other in scores[1:]:
        chex.assert_trees_all_close(jnp.asarray(other), scores[0], rtol=1e-5)


def test_normal_has_numpyros_analytic_kl():
    q = vi.families.normal(LOC, log_scale=LOG_SCALE)
    prior = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
    by_hand = 0.5 * (LOC**2 + jnp.exp(2 * LOG_SCALE) - 1).sum(-1) - LOG_SCALE.sum(-1)
    chex.assert_trees_all_close(dist.kl_divergence(q, prior), by_hand, rtol=1e-5)


def test_chain_is_the_joint_normal_that_it_is():
    """A linear chain z2 | z1 ~ N(a z1, s^2) is a bivariate normal: density and samples."""
    a, s = 0.8, 0.5
    q = vi.families.chain(
        {
            "z1": vi.families.normal(jnp.zeros(1), scale=jnp.ones(1)),
            "z2": lambda z1: vi.families.normal(a * z1, scale=jnp.full_like(z1, s)),
        }
    )
    joint = scipy.stats.multivariate_normal([0, 0], [[1, a], [a, a**2 + s**2]])
    z = q.sample(jax.random.key(0), (20_000,))
    flat = np.concatenate([z["z1"], z["z2"]], axis=-1)
    np.testing.assert_allclose(q.log_prob(z), joint.logpdf(flat), rtol=1e-4, atol=1e-4)
    whitened = np.linalg.solve(np.linalg.cholesky(joint.cov), flat.T)
    for coordinate in (
        *whitened,
        *((whitened[0] + sign * whitened[1]) / 2**0.5 for sign in (1, -1)),
    ):
        assert scipy.stats.kstest(coordinate, "norm").pvalue > 1e-6
    assert scipy.stats.kstest(whitened[0] * 1.05, "norm").pvalue < 1e-3  # what the test can see


def test_sample_carries_no_path_and_rsample_does():
    for name, draw in (("sample", 0.0), ("rsample", 1.0)):
        gradient = jax.grad(
            lambda loc, n=name: getattr(chain(loc, LOG_SCALE), n)(jax.random.key(0))["z1"].sum()
        )
        chex.assert_trees_all_close(gradient(LOC), jnp.full_like(LOC, draw))


def test_chain_prints_its_structure():
    assert repr(chain(LOC, LOG_SCALE)) == "chain(z1; z2 | z1; z3 | z2, z1)"


def test_bits_have_a_right_score_where_networks_start():
    """At a logit of 0 the score is z - 1/2; NumPyro's own is the twin, 0 there."""

    def score(family):
        return jax.vmap(jax.grad(lambda logit, z: family(logit[None]).log_prob(z[None])))(
            jnp.zeros(2), jnp.array([0.0, 1.0])
        )

    chex.assert_trees_all_close(score(vi.families.bernoulli), jnp.array([-0.5, 0.5]))
    numpyros = score(lambda logits: dist.BernoulliLogits(logits).to_event(1))
    assert abs(numpyros - jnp.array([-0.5, 0.5])).max() > 0.4
    with pytest.raises(ValueError, match="bernoulli: logits must have a last axis of D bits"):
        vi.families.bernoulli(jnp.array(0.3))
