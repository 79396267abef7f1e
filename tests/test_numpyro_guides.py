"""Every automatic guide of NumPyro, under plain differentiation and under dreg."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import SVI, Trace_ELBO, autoguide

import vi
from tests.numpyro_models import EIGHT, eight_schools, local
from vi.bounds import elbo, iwae
from vi.gradients import dreg, reparam
from vi.numpyro import _particles

DATA = jnp.array([0.5, 1.5, 2.5, -1.0])


def simple(y):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    scale = numpyro.sample("scale", dist.LogNormal(0, 0.5))
    numpyro.sample("y", dist.Normal(mu, scale).expand([len(y)]).to_event(1), obs=y)


def shared(y):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    with numpyro.plate("N", len(y), subsample_size=2):
        batch = numpyro.subsample(y, event_dim=0)
        z = numpyro.sample("z", dist.Normal(mu, 1))
        numpyro.sample("y", dist.Normal(z, 1), obs=batch)


def local_part(mu):
    with numpyro.plate("N", len(DATA), subsample_size=2):
        batch = numpyro.subsample(DATA, event_dim=0)
        z = numpyro.sample("z", dist.Normal(mu, 1))
        numpyro.sample("y", dist.Normal(z, 1), obs=batch)


def global_part():
    return numpyro.sample("mu", dist.Normal(0, 2))


def both_parts():
    local_part(global_part())


def listed(model):
    guides = autoguide.AutoGuideList(model)
    guides.append(autoguide.AutoNormal(numpyro.handlers.block(model, hide=["scale"])))
    guides.append(autoguide.AutoDiagonalNormal(numpyro.handlers.block(model, hide=["mu"])))
    return guides


def surrogate(model):
    def likelihood():
        mu = numpyro.sample("mu", dist.Normal(0, 2))
        scale = numpyro.sample("scale", dist.LogNormal(0, 0.5))
        weight = numpyro.param("weight", 1.0)
        with numpyro.handlers.scale(scale=weight):
            numpyro.sample("y", dist.Normal(mu, scale).expand([2]).to_event(1), obs=DATA[:2])

    return autoguide.AutoSurrogateLikelihoodDAIS(model, likelihood, K=2)


def semi(model):
    guide = autoguide.AutoNormal(global_part)
    return autoguide.AutoSemiDAIS(model, local_part, guide, K=2)


def bnaf(model):
    return autoguide.AutoBNAFNormal(model, num_flows=1, hidden_factors=[4])


def iaf(model):
    return autoguide.AutoIAFNormal(model, num_flows=1, hidden_dims=[4])


def low_rank(model):
    return autoguide.AutoBatchedLowRankMultivariateNormal(model, rank=1)


GUIDES = {
    "AutoBNAFNormal": (simple, bnaf, (DATA,)),
    "AutoBatchedLowRankMultivariateNormal": (local, low_rank, (DATA,)),
    "AutoBatchedMultivariateNormal": (local, autoguide.AutoBatchedMultivariateNormal, (DATA,)),
    "AutoDAIS": (simple, lambda m: autoguide.AutoDAIS(m, K=2), (DATA,)),
    "AutoDelta": (simple, autoguide.AutoDelta, (DATA,)),
    "AutoDiagonalNormal": (simple, autoguide.AutoDiagonalNormal, (DATA,)),
    "AutoGuideList": (simple, listed, (DATA,)),
    "AutoIAFNormal": (simple, iaf, (DATA,)),
    "AutoLaplaceApproximation": (simple, autoguide.AutoLaplaceApproximation, (DATA,)),
    "AutoLowRankMultivariateNormal": (simple, autoguide.AutoLowRankMultivariateNormal, (DATA,)),
    "AutoMultivariateNormal": (eight_schools, autoguide.AutoMultivariateNormal, EIGHT),
    "AutoNormal": (eight_schools, autoguide.AutoNormal, EIGHT),
    "AutoSemiDAIS": (both_parts, semi, ()),
    "AutoSurrogateLikelihoodDAIS": (simple, surrogate, (DATA,)),
}  # fmt: skip
REFUSED_UNDER_DREG = {"AutoBNAFNormal": "site _auto_latent"}


def ready(name):
    model, make, args = GUIDES[name]
    guide = make(model)
    svi = SVI(model, guide, optax.sgd(0.1), Trace_ELBO())
    return model, guide, args, svi.get_params(svi.init(jax.random.key(0), *args))


def test_none_is_missing():
    bases = {"AutoGuide", "AutoContinuous"}
    named = {n for n in autoguide.__all__ if n.startswith("Auto")} - bases
    assert named == set(GUIDES)


def value_and_gradient(loss, model, guide, args, params, seed=1):
    run = lambda p, key: loss.loss(key, p, model, guide, *args)  # noqa: E731
    return jax.jit(jax.value_and_grad(run))(params, jax.random.key(seed))


WHOLE = ("AutoBNAFNormal", "AutoDAIS", "AutoNormal", "AutoGuideList")


@pytest.mark.parametrize(
    "name", [n if n in WHOLE else pytest.param(n, marks=pytest.mark.slow) for n in GUIDES]
)
def test_reparam_is_numpyros_step(name):
    model, guide, args, params = ready(name)
    ours = value_and_gradient(vi.numpyro.ELBO(), model, guide, args, params)
    theirs = value_and_gradient(Trace_ELBO(), model, guide, args, params)
    largest = max(1.0, *(float(jnp.abs(g).max()) for g in jax.tree.leaves(theirs)))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * largest, rtol=0)


def paired(name, bound, num_draws):
    """The mean difference of dreg's gradient from reparam's at the same keys, in its errors."""
    model, guide, args, params = ready(name)
    keys = jax.random.split(jax.random.key(2), num_draws)

    def gradient(estimator, params, key):
        loss = vi.numpyro.Loss(estimator(bound), num_particles=2, plates=())
        return jax.grad(lambda p: loss.loss(key, p, model, guide, *args))(params)

    def difference(key):
        ours, plain = (gradient(e, params, key) for e in (dreg, reparam))
        return jax.tree.map(lambda a, b: a - b, ours, plain)

    each = jax.jit(lambda k: jax.lax.map(difference, k, batch_size=500))(keys)
    # coordinates that agree on every draw (those of Delta sites) differ by rounding alone
    score = jax.tree.map(
        lambda d: jnp.abs(d.mean(0)) / (d.std(0, ddof=1) / num_draws**0.5 + 1e-5), each
    )
    return max(float(leaf.max()) for leaf in jax.tree.leaves(score))


NEIGHBOURS = {  # of another that runs
    *("AutoBatchedMultivariateNormal", "AutoDelta", "AutoGuideList", "AutoLaplaceApproximation"),
    *("AutoSemiDAIS", "AutoMultivariateNormal"),
    *("AutoDiagonalNormal", "AutoSurrogateLikelihoodDAIS", "AutoBatchedLowRankMultivariateNormal"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow) if n in NEIGHBOURS else n
        for n in sorted(set(GUIDES) - set(REFUSED_UNDER_DREG))
    ],
)
def test_dreg_has_the_mean_of_reparam(name):
    assert paired(name, elbo if name == "AutoSemiDAIS" else iwae, 4000) < 5


@pytest.mark.parametrize("name", REFUSED_UNDER_DREG)
def test_dreg_refuses_by_name(name):
    model, guide, args, params = ready(name)
    loss = vi.numpyro.IWAE(2, plates=())
    with pytest.raises(ValueError, match=REFUSED_UNDER_DREG[name]):
        value_and_gradient(loss, model, guide, args, params)


def masked_model(y):
    z = numpyro.sample("z", dist.Normal(0, 1))
    e = numpyro.sample("e", dist.Normal(0, 1).mask(False))
    numpyro.sample("y", dist.Normal(z + e, 1).expand([len(y)]).to_event(1), obs=y)


def masked_guide(y):
    loc, scale = numpyro.param("loc", 0.4), numpyro.param("scale", 0.7)
    wide, tempered = numpyro.param("wide", 0.5), numpyro.param("tempered", 0.3)
    with numpyro.handlers.scale(scale=0.4):
        numpyro.sample("z", dist.Normal(loc + tempered, scale))
    numpyro.sample("e", dist.Normal(0.1, wide).mask(False))


def test_other_rules_differentiate_the_law_of_the_draws_whatever_they_count(monkeypatch):
    """A scaled site and a masked one: the weights are NumPyro's, the law is that of the draws."""
    at = {"loc": 0.4, "scale": 0.7, "wide": 0.5, "tempered": 0.3}
    params = jax.tree.map(jnp.asarray, at)
    keys = jax.random.split(jax.random.key(2), 20_000)

    def gradients(estimator):
        loss = vi.numpyro.Loss(estimator(iwae), num_particles=3, plates=())
        run = lambda p, key: loss.loss(key, p, masked_model, masked_guide, DATA)  # noqa: E731
        return jax.jit(jax.vmap(jax.grad(run), (None, 0)))(params, keys)

    plain = gradients(reparam)

    def worst(estimator):
        found = gradients(estimator)
        scores = [
            abs(d.mean()) / (d.std(ddof=1) / len(keys) ** 0.5 + 1e-6)
            for d in (found[name] - plain[name] for name in at)
        ]
        return max(float(score) for score in scores)

    for estimator in (dreg, vi.gradients.vimco, vi.gradients.score):
        assert worst(estimator) < 5, estimator
    monkeypatch.setattr(_particles, "total_of_draws", _particles.total)
    for estimator in (dreg, vi.gradients.vimco, vi.gradients.score):
        assert worst(estimator) > 5, estimator
