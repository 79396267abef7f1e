"""The KL in three terms: they add up, are exact on all data, and minibatches estimate them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpy.polynomial.hermite_e import hermegauss
from scipy.stats import norm

import vi
from vi.bounds import kl_terms, minibatch_stratified, minibatch_weighted

PRIOR = dist.Normal(0.0, 1.0)


def posteriors(num_data, size):
    """Normals by dimension, apart and of unequal width."""
    random = np.random.default_rng(0)
    loc = random.normal(size=(num_data, size))
    return dist.Normal(jnp.asarray(loc), jnp.asarray(0.5 * random.uniform(0.5, 2, loc.shape)))


def terms_of(q, z, log_weights):
    return kl_terms(q.log_prob(z), q.log_prob(z[:, None]), PRIOR.log_prob(z), log_weights)


@jax.jit
def of_draws(q, log_weights):
    """The terms of one draw of each posterior, and the log-ratio that they should add up to."""
    z = q.sample(jax.random.key(0))
    return terms_of(q, z, log_weights), (q.log_prob(z) - PRIOR.log_prob(z)).sum(-1)


@pytest.mark.parametrize("make", [minibatch_weighted, minibatch_stratified])
@pytest.mark.parametrize("data_size", [8, 1000])
def test_the_terms_of_a_draw_add_up_to_its_log_ratio(make, data_size):
    terms, ratio = of_draws(posteriors(8, 3), make(8, data_size=data_size))
    np.testing.assert_allclose(sum(terms), ratio, atol=5e-6)
    assert not np.allclose(terms.mutual_information + terms.dimension_wise_kl, ratio, atol=0.05)


def test_any_log_weights_add_up_too_and_any_leading_axes_do():
    random = np.random.default_rng(0)
    shapes = (3, 2, 4), (3, 2, 5, 4), (3, 2, 4), (3, 2, 5)
    log_q, pairs, log_prior, log_weights = (random.normal(size=shape) for shape in shapes)
    terms = jax.jit(kl_terms)(log_q, pairs, log_prior, log_weights)
    np.testing.assert_allclose(sum(terms), (log_q - log_prior).sum(-1), atol=1e-5)
    at = (1, 0)
    joint = sum(np.exp(log_weights[at][j] + pairs[at][j].sum()) for j in range(5))
    marginals = [sum(np.exp(log_weights[at] + pairs[at][:, d])) for d in range(4)]
    expected = [
        log_q[at].sum() - np.log(joint),
        np.log(joint) - np.log(marginals).sum(),
        np.log(marginals).sum() - log_prior[at].sum(),
    ]
    np.testing.assert_allclose([t[at] for t in terms], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_on_all_data_they_are_the_integrals():
    """Two dimensions by quadrature: each posterior's expectation, the divergences on a grid."""
    q = posteriors(3, 2)
    nodes, weights = hermegauss(140)
    noise = np.array(list(itertools.product(nodes, nodes)))
    shares = np.prod(list(itertools.product(weights, weights)), -1) / (2 * np.pi)

    @jax.jit
    def expected():
        z = q.loc[:, None] + q.scale[:, None] * noise  # [3, Q, 2]
        pairs = q.log_prob(z[..., None, :])  # [3, Q, 3, 2]
        own = jnp.stack([pairs[j, :, j] for j in range(3)])
        exact = jnp.full(pairs.shape[:-1], -np.log(3.0))
        terms = kl_terms(own, pairs, PRIOR.log_prob(z), exact)
        return [(term * shares).sum(-1).mean() for term in terms]

    found = expected()
    at = np.linspace(-8, 8, 1601)
    step = at[1] - at[0]
    each = norm.pdf(at[:, None, None], np.asarray(q.loc), np.asarray(q.scale))  # [G, 3, 2]
    joint = np.einsum("gj,hj->gh", each[:, :, 0], each[:, :, 1]) / 3
    marginals = each.mean(1)
    p = norm.pdf(at)

    def divergence(a, b):
        return np.where(a > 1e-200, a * np.log(np.maximum(a, 1e-200) / b), 0).sum()

    product = np.maximum(np.outer(marginals[:, 0], marginals[:, 1]), 1e-300)
    correlation = divergence(joint, product) * step**2
    by_dimension = sum(divergence(marginals[:, d], np.maximum(p, 1e-300)) for d in range(2)) * step
    whole = float(dist.kl_divergence(q, PRIOR).sum(-1).mean())
    np.testing.assert_allclose(found[1], correlation, rtol=3e-3)
    np.testing.assert_allclose(found[2], by_dimension, rtol=3e-3)
    np.testing.assert_allclose(sum(found), whole, rtol=1e-9)
    assert correlation > 0.02


def test_posteriors_that_coincide_have_no_terms_but_the_last():
    """And the weighted estimate is off by the log N that it states."""
    q = dist.Normal(np.full((4, 3), 0.7, np.float32), np.full((4, 3), 0.5, np.float32))
    stratified, _ = of_draws(q, minibatch_stratified(4, data_size=100))
    np.testing.assert_allclose(stratified.mutual_information, 0.0, atol=1e-5)
    np.testing.assert_allclose(stratified.total_correlation, 0.0, atol=1e-5)
    weighted, _ = of_draws(q, minibatch_weighted(4, data_size=100))
    np.testing.assert_allclose(weighted.mutual_information, np.log(100), rtol=1e-5)
    np.testing.assert_allclose(weighted.total_correlation, 2 * np.log(100), rtol=1e-5)


def test_posteriors_far_apart_name_the_datum():
    loc = 10.0 * np.arange(4.0, dtype=np.float32)[:, None] * np.eye(3, dtype=np.float32)[0]
    q = dist.Normal(loc, np.full((4, 3), 0.1, np.float32))
    terms, _ = of_draws(q, minibatch_stratified(4, data_size=4))
    np.testing.assert_allclose(terms.mutual_information, np.log(4), rtol=1e-5)
    np.testing.assert_allclose(terms.total_correlation, 0.0, atol=1e-5)


def published(batch_size, data_size, chosen):
    """Chen et al.'s stratified weights, ``chosen`` of the others being the one apart."""
    others = batch_size - 1
    weights = np.full(batch_size, 1 / others)
    weights[0] = 1 / data_size
    weights[chosen] = (data_size - others) / (data_size * others)
    return weights


def test_the_stratified_weights_are_unbiased_and_no_worse_than_the_published():
    """By all minibatches of 3 of 5 data that hold the first, and all choices of the one apart."""
    density = np.array([0.9, 0.1, 0.4, 0.25, 0.6])  # of a draw under each posterior
    ours, theirs, weighted = [], [], []
    row = np.exp(np.asarray(minibatch_stratified(3, data_size=5)))[0]
    flat = np.exp(np.asarray(minibatch_weighted(3, data_size=5)))[0]
    for others in itertools.permutations(range(1, 5), 2):
        held = density[[0, *others]]
        ours.append(row @ held)
        weighted.append(flat @ held)
        theirs += [published(3, 5, chosen) @ held for chosen in (1, 2)]
    np.testing.assert_allclose(np.mean(ours), density.mean(), rtol=1e-6)
    np.testing.assert_allclose(np.mean(theirs), density.mean(), rtol=1e-12)
    assert np.var(ours) < 0.9 * np.var(theirs)
    assert abs(np.mean(weighted) / density.mean() - 1) > 0.5  # biased, as it says
    np.testing.assert_allclose(row, np.mean([published(3, 5, c) for c in (1, 2)], 0), rtol=1e-6)


def test_the_whole_data_are_a_minibatch_that_is_exact():
    np.testing.assert_allclose(minibatch_stratified(6, data_size=6), -np.log(6), rtol=1e-6)
    np.testing.assert_allclose(minibatch_stratified(1, data_size=1), [[0.0]])
    assert not np.allclose(np.log(published(6, 6, 1)), -np.log(6))


def test_gradients_are_those_of_the_sum_written_out():
    q = posteriors(4, 2)
    log_weights = minibatch_stratified(4, data_size=9)

    def correlation(loc):
        moved = dist.Normal(loc, q.scale)
        z = moved.rsample(jax.random.key(0))
        return terms_of(moved, z, log_weights).total_correlation.mean()

    def by_hand(loc):
        z = loc + q.scale * jax.random.normal(jax.random.key(0), loc.shape)
        weights = jnp.exp(log_weights)
        each = jnp.exp(-0.5 * ((z[:, None] - loc) / q.scale) ** 2) / q.scale / (2 * jnp.pi) ** 0.5
        joint = (weights * each.prod(-1)).sum(1)
        marginals = (weights[..., None] * each).sum(1).prod(-1)
        return (jnp.log(joint) - jnp.log(marginals)).mean()

    ours, theirs = jax.jit(lambda loc: (jax.grad(correlation)(loc), jax.grad(by_hand)(loc)))(q.loc)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert abs(ours).max() > 0.01


def test_what_does_not_fit_is_refused():
    q = posteriors(4, 2)
    z = q.sample(jax.random.key(0))
    log_q, pairs, log_prior = q.log_prob(z), q.log_prob(z[:, None]), PRIOR.log_prob(z)
    weights = minibatch_stratified(4, data_size=9)
    for arguments, message in (
        ((log_q, pairs[:, :, :1], log_prior, weights), r"log_q_pairs must be \[4, 4, 2\]"),
        ((log_q, pairs[:, :, 0], log_prior, weights), "one axis more than log_q"),
        ((log_q, pairs, log_prior.sum(-1), weights), r"log_prior must be \[4, 2\]"),
        ((log_q, pairs, log_prior, weights[0]), r"log_weights must be \[4, 4\]"),
        ((log_q.astype(int), pairs, log_prior, weights), "log_q must be floating"),
    ):
        with pytest.raises(ValueError, match=message):
            kl_terms(*arguments)
    for make in (minibatch_weighted, minibatch_stratified):
        with pytest.raises(ValueError, match="data_size must be at least 5"):
            make(5, data_size=4)
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        vi.bounds.minibatch_stratified(1, data_size=4)
