"""Discrete sites that a guide leaves out, summed out: against sums by hand and TraceEnum_ELBO."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import TraceEnum_ELBO

import vi
from vi.bounds import elbo
from vi.gradients import dreg, vimco

pytest.importorskip("funsor")
Y = jnp.array([-1.2, 0.3, 2.0, 1.1])


def mixture(y, size=None):
    theta = numpyro.param("theta", 0.4)
    means = numpyro.sample("means", dist.Normal(jnp.array([-1.0, 1.0]), 1).to_event(1))
    with numpyro.plate("N", len(y), subsample_size=size):
        batch = numpyro.subsample(y, event_dim=0)
        c = numpyro.sample("c", dist.Bernoulli(theta), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(means[c], 1.0), obs=batch)


def by_hand(y, size=None):
    theta = numpyro.param("theta", 0.4)
    means = numpyro.sample("means", dist.Normal(jnp.array([-1.0, 1.0]), 1).to_event(1))
    with numpyro.plate("N", len(y), subsample_size=size):
        batch = numpyro.subsample(y, event_dim=0)
        joint = jnp.log(jnp.array([1 - theta, theta]))
        joint = joint + dist.Normal(means, 1.0).log_prob(batch[:, None])
        numpyro.factor("y", logsumexp(joint, -1))


def guide(y, size=None):
    loc = numpyro.param("loc", jnp.array([-0.8, 1.3]))
    numpyro.sample("means", dist.Normal(loc, 0.4).to_event(1))


def local_mixture(y, size=None):
    with numpyro.plate("N", len(y), subsample_size=size):
        batch = numpyro.subsample(y, event_dim=0)
        z = numpyro.sample("z", dist.Normal(0, 1))
        law = dist.Categorical(jnp.array([0.2, 0.5, 0.3]))
        c = numpyro.sample("c", law, infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(z + c, 1.0), obs=batch)


def local_by_hand(y, size=None):
    with numpyro.plate("N", len(y), subsample_size=size):
        batch = numpyro.subsample(y, event_dim=0)
        z = numpyro.sample("z", dist.Normal(0, 1))
        joint = jnp.log(jnp.array([0.2, 0.5, 0.3]))
        joint = joint + dist.Normal(z[:, None] + jnp.arange(3), 1.0).log_prob(batch[:, None])
        numpyro.factor("y", logsumexp(joint, -1))


def local_guide(y, size=None):
    slope = numpyro.param("slope", 0.4)
    with numpyro.plate("N", len(y), subsample_size=size):
        batch = numpyro.subsample(y, event_dim=0)
        numpyro.sample("z", dist.Normal(slope * batch, 0.7))


PARAMS = {"theta": jnp.array(0.4), "loc": jnp.array([-0.8, 1.3])}
LOCAL = {"slope": jnp.array(0.4)}


def nested():
    return vi.numpyro.Loss(dreg(elbo), num_particles=(3, 1), plates=("N",))


OF_GLOBALS, OF_CELLS = (mixture, by_hand, guide), (local_mixture, local_by_hand, local_guide)
CASES = {
    "elbo": (*OF_GLOBALS, PARAMS, (Y,), vi.numpyro.ELBO),
    "elbo, subsampled": (*OF_GLOBALS, PARAMS, (Y, 2), lambda: vi.numpyro.ELBO(3)),
    "iwae": (*OF_GLOBALS, PARAMS, (Y,), lambda: vi.numpyro.IWAE(4)),
    "nested": (*OF_GLOBALS, PARAMS, (Y, 2), nested),
    "cells": (*OF_CELLS, LOCAL, (Y,), lambda: vi.numpyro.IWAE(4)),
    "cells, subsampled": (*OF_CELLS, LOCAL, (Y, 2), lambda: vi.numpyro.IWAE(4, vimco)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("x64")
def test_the_sum_is_that_by_hand(name):
    marked, hand, q, params, args, make = CASES[name]

    params = jax.tree.map(lambda a: a.astype(float), params)

    def value_and_gradient(model):
        loss = make()
        run = lambda p: loss.loss(jax.random.key(1), p, model, q, *args)  # noqa: E731
        return jax.tree.leaves(jax.jit(jax.value_and_grad(run))(params))

    for ours, theirs in zip(value_and_gradient(marked), value_and_gradient(hand), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_elbo_is_trace_enums():
    ours = vi.numpyro.ELBO().loss(jax.random.key(1), PARAMS, mixture, guide, Y)
    theirs = TraceEnum_ELBO(max_plate_nesting=1).loss(jax.random.key(1), PARAMS, mixture, guide, Y)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_common_scale_multiplies_the_logarithm():
    scaled = lambda y: handlers.scale(mixture, scale=0.5)(y)  # noqa: E731
    hand = lambda y: handlers.scale(by_hand, scale=0.5)(y)  # noqa: E731
    run = lambda model: vi.numpyro.ELBO().loss(jax.random.key(1), PARAMS, model, guide, Y)  # noqa: E731
    np.testing.assert_allclose(run(scaled), run(hand), rtol=1e-5)


def test_other_scales_are_refused():
    def uneven(y):
        with numpyro.plate("N", len(y)):
            c = numpyro.sample("c", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
            with handlers.scale(scale=2.0):
                numpyro.sample("y", dist.Normal(c, 1.0), obs=y)

    with pytest.raises(ValueError, match=r"scale alike.*c: 1.0, y: 2.0"):
        vi.numpyro.ELBO().loss(jax.random.key(0), {}, uneven, lambda y: None, Y)


def test_a_chain_is_refused():
    def hidden_markov(y):
        def step(state, seen):
            p = jnp.array([0.2, 0.7])[state]
            state = numpyro.sample("c", dist.Bernoulli(p), infer={"enumerate": "parallel"})
            numpyro.sample("y", dist.Normal(state, 1.0), obs=seen)
            return state, None

        scan(step, 0, y)

    with pytest.raises(ValueError, match="sum out sites of plates alone"):
        vi.numpyro.ELBO().loss(jax.random.key(0), {}, hidden_markov, lambda y: None, Y)


def test_mean_field_refuses_what_it_would_draw():
    with pytest.raises(ValueError, match=r"summed out \(got c\); use vi.numpyro.ELBO"):
        vi.numpyro.MeanFieldELBO().loss(jax.random.key(0), PARAMS, mixture, guide, Y)


def test_a_marked_guide_is_refused():
    def marked_guide(y):
        with numpyro.plate("N", len(y)):
            numpyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})

    def model(y):
        with numpyro.plate("N", len(y)):
            c = numpyro.sample("c", dist.Bernoulli(0.4))
            numpyro.sample("y", dist.Normal(c, 1.0), obs=y)

    with pytest.raises(ValueError, match=r"c marked for enumeration.*TraceEnum_ELBO"):
        vi.numpyro.ELBO().loss(jax.random.key(0), {}, model, marked_guide, Y)


def test_without_funsor_it_is_refused_by_the_class_that_can(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[:3] == ["numpyro", "contrib", "funsor"]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "funsor", None)
    with pytest.raises(ValueError, match=r"summed out \(c\).*TraceEnum_ELBO"):
        vi.numpyro.ELBO().loss(jax.random.key(0), PARAMS, mixture, guide, Y)
