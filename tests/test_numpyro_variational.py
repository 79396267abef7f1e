"""A NumPyro program as a q and a log-joint: what diagnostics and checks make of it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.infer.autoguide import AutoBNAFNormal, AutoNormal

import vi
from tests.numpyro_models import (
    Y,
    amortised,
    conjugate,
    hierarchy,
    hierarchy_guide,
    local,
    mean_field,
)
from vi.bounds import iwae
from vi.gradients import dreg, vimco

LOCAL = {"slope": jnp.array(0.4), "scale": jnp.array(0.8)}
EVIDENCE = dist.Normal(0, 2**0.5).log_prob(Y)


def program(params, *args, **options):
    return vi.numpyro.as_variational(params, local, amortised, *args, **options)


def test_its_weights_are_those_of_log_weights():
    q, log_joint = program(LOCAL, Y)
    z = q.sample(jax.random.key(0), (50,))
    weights = vi.types.log_weights(z, q, log_joint)
    assert weights.shape == (50, 6)
    joint, _ = program(LOCAL, Y, plates=())[1](z)
    np.testing.assert_allclose(joint, log_joint(z)[0].sum(1), rtol=1e-5)


def test_the_sandwich_and_k_hat_of_every_cell():
    q, log_joint = program(LOCAL, Y)
    found = jax.jit(lambda key: vi.diagnostics.sandwich(key, q, log_joint, 4000))(jax.random.key(0))
    assert found.pareto_k.shape == (6,)
    assert (found.pareto_k < 0.7).all()
    log_w = vi.numpyro.log_weights(
        jax.random.key(1), LOCAL, local, amortised, Y, num_particles=4000
    )
    assert (jnp.abs(iwae(log_w) - EVIDENCE) < 0.1).all()
    assert (vi.diagnostics.effective_sample_size(log_w) > 1000).all()


@pytest.mark.parametrize("estimator", [dreg, vimco])
def test_an_objective_of_it_is_the_loss(estimator):
    def ours(params, key):
        q, log_joint = program(params, Y)
        plate_key, key = jax.random.split(key)
        del plate_key  # a loss keeps it for subsamples
        return -estimator(iwae)(key, q, log_joint, 4).sum()

    loss = vi.numpyro.IWAE(4, estimator)
    theirs = lambda params, key: loss.loss(key, params, local, amortised, Y)  # noqa: E731
    values = [jax.jit(jax.value_and_grad(f))(LOCAL, jax.random.key(3)) for f in (ours, theirs)]
    np.testing.assert_allclose(*(v for v, _ in values), rtol=1e-6)
    for name in LOCAL:
        np.testing.assert_allclose(*(g[name] for _, g in values), rtol=1e-5)


def test_check_gradient_takes_a_guide():
    """The truth is that of the same normal family, by a formula."""
    data = jnp.array([0.5, 1.5])
    params = {"loc": jnp.array(0.3), "scale": jnp.array(0.8)}
    make_q = lambda p: vi.numpyro.as_variational(p, conjugate, mean_field, data)[0]  # noqa: E731
    joint = lambda p: vi.numpyro.as_variational(p, conjugate, mean_field, data)[1]  # noqa: E731
    # d ELBO / d loc = sum y - 3 loc, d ELBO / d scale = 1 / scale - 3 scale
    truth = {"loc": data.sum() - 3 * 0.3, "scale": 1 / 0.8 - 3 * 0.8}
    for wrong, failed in ((0.0, ()), (0.2, ("params['loc']",))):
        report = vi.testing.check_gradient(
            dreg(vi.bounds.elbo), make_q, params, joint, key=jax.random.key(0), num_samples=2,
            num_replicates=2000, truth=truth | {"loc": truth["loc"] + wrong},
        )  # fmt: skip
        assert report.failed == failed


REFUSED = {
    "globals around cells": (
        lambda: vi.numpyro.as_variational(
            {}, hierarchy, hierarchy_guide, Y, plates=("N",)
        ),
        "plates must hold all sites (got mu outside)",
    ),
    "a subsample": (lambda: program(LOCAL, Y, 2), "plates must hold all data (got N subsampled)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert message in str(caught.value)


def test_a_guide_without_an_inverse_samples_and_is_refused_where_it_is_scored():
    guide = AutoBNAFNormal(local, num_flows=1, hidden_factors=[2])
    from numpyro.handlers import seed, trace

    sites = trace(seed(guide, jax.random.key(0))).get_trace(Y)
    params = {n: s["value"] for n, s in sites.items() if s["type"] == "param"}
    q, _ = vi.numpyro.as_variational(params, local, guide, Y, plates=())
    z = q.sample(jax.random.key(0), (3,))
    with pytest.raises(ValueError, match="site _auto_latent"):
        q.log_prob(z)


def test_a_guide_that_is_first_seen_under_jit_keeps_no_tracer():
    guide = AutoNormal(local)
    params = {"z_auto_loc": jnp.zeros(6), "z_auto_scale": jnp.ones(6)}

    @jax.jit
    def weigh(key, y):
        q, log_joint = vi.numpyro.as_variational(params, local, guide, y)
        z = q.sample(key, (3,))
        return log_joint(z)[0] - q.log_prob(z)

    assert weigh(jax.random.key(0), Y).shape == (3, 6)
    assert guide.prototype_trace is None
