"""Where the log-weights of a NumPyro program stand: cells, globals around them, subsamples."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import vi
from tests.numpyro_models import (
    Y,
    amortised,
    conjugate,
    grid,
    hierarchy,
    hierarchy_guide,
    ladder,
    learned,
    local,
    mean_field,
)
from vi.bounds import cubo, elbo, iwae, renyi
from vi.gradients import dreg, fixed, reparam, replicated, score, vimco
from vi.numpyro import _particles

LOCAL = {"slope": jnp.array(0.3), "scale": jnp.array(1.2)}
NESTED = {
    "mu_loc": jnp.array(0.2), "slope": jnp.array(0.4),
    "pull": jnp.array(0.3), "scale": jnp.array(0.8),
}  # fmt: skip
EXACT = NESTED | {
    "slope": jnp.array(0.5), "pull": jnp.array(0.5), "scale": jnp.array(0.5**0.5)
}  # q(z | mu) is the posterior  # fmt: skip


def loss_of(objective, num_particles, **options):
    return vi.numpyro.Loss(objective, num_particles=num_particles, **options)


def run(loss, params, model, guide, *args, seed=0):
    return loss.loss(jax.random.key(seed), params, model, guide, *args)


def weights(params, model, guide, *args, seed=0, **options):
    return vi.numpyro.log_weights(jax.random.key(seed), params, model, guide, *args, **options)


@pytest.mark.parametrize("bound", [iwae, renyi(0.5), elbo])
def test_a_loss_is_the_bound_of_the_log_weights(bound):
    log_w = weights(LOCAL, local, amortised, Y, num_particles=5)
    assert log_w.shape == (5, 6)
    for estimator in (reparam, dreg, vimco, score, fixed):
        value = run(loss_of(estimator(bound), 5), LOCAL, local, amortised, Y)
        np.testing.assert_allclose(value, -bound(log_w).sum(), rtol=1e-5)
    joint = weights(LOCAL, local, amortised, Y, num_particles=5, plates=())
    assert joint.shape == (5,)
    np.testing.assert_allclose(joint, log_w.sum(1), rtol=1e-5)
    value = run(loss_of(dreg(bound), 5, plates=()), LOCAL, local, amortised, Y)
    np.testing.assert_allclose(value, -bound(joint), rtol=1e-5)


def test_replicates_and_chunks_come_along():
    objective = replicated(dreg(iwae), 3)
    value, gradient = jax.jit(
        jax.value_and_grad(lambda p: run(loss_of(objective, 4), p, local, amortised, Y))
    )(LOCAL)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(g) for g in gradient.values())
    chunked = loss_of(dreg(iwae, chunk_size=2), 8)
    whole = loss_of(dreg(iwae), 8)
    means = []
    for loss in (chunked, whole):
        each = jax.jit(
            jax.vmap(
                lambda key, loss=loss: jax.grad(lambda p: loss.loss(key, p, local, amortised, Y))(
                    LOCAL
                )["slope"]
            )
        )(jax.random.split(jax.random.key(0), 4000))
        means.append((each.mean(), each.std() / 4000**0.5))
    assert abs(means[0][0] - means[1][0]) < 5 * np.hypot(means[0][1], means[1][1])


def test_cells_of_two_plates_keep_the_order_of_their_names():
    guide = AutoNormal(grid)
    data = Y.reshape(2, 3)
    guide_params = {"z_auto_loc": data * 0.3, "z_auto_scale": jnp.full((2, 3), 0.5)}
    jax.eval_shape(lambda key: handlers.seed(guide, key)(data), jax.random.key(0))
    both = weights(guide_params, grid, guide, data, num_particles=4)
    assert both.shape == (4, 2, 3)
    turned = weights(guide_params, grid, guide, data, num_particles=4, plates=("columns", "rows"))
    np.testing.assert_allclose(turned, both.transpose(0, 2, 1), rtol=1e-5)
    rows = weights(guide_params, grid, guide, data, num_particles=4, plates=("rows",))
    np.testing.assert_allclose(rows, both.sum(2), rtol=1e-4)


def test_a_deeper_plate_is_summed_into_its_cell():
    guide = AutoNormal(ladder)
    data = Y.reshape(2, 3)
    jax.eval_shape(lambda key: handlers.seed(guide, key)(data), jax.random.key(0))
    params = {
        "mu_auto_loc": jnp.zeros((2, 1)), "mu_auto_scale": jnp.full((2, 1), 0.5),
        "z_auto_loc": data * 0.3, "z_auto_scale": jnp.full((2, 3), 0.5),
    }  # fmt: skip
    assert weights(params, ladder, guide, data, num_particles=4).shape == (4, 2)
    with pytest.raises(ValueError, match="mu inside groups alone"):
        run(loss_of(dreg(iwae), 4, plates=("groups", "members")), params, ladder, guide, data)


def drawn_mu(params, num_particles, *args, seed=0):
    """The global draws behind a nested loss, and what is left of the log-weights."""
    options = {"num_particles": num_particles, "plates": ("N",), "seed": seed}
    return weights(params, hierarchy, hierarchy_guide, *args, **options)


def test_cells_at_the_posterior_give_the_evidence_given_the_globals():
    of_globals, of_cells = drawn_mu(EXACT, (50, 4), Y)
    assert of_globals.shape == (50,)
    assert of_cells.shape == (50, 4, 6)
    np.testing.assert_allclose(of_cells.std(1), 0, atol=1e-5)  # no noise left in a cell
    value = run(
        loss_of(reparam(iwae), (50, 4), plates=("N",)), EXACT, hierarchy, hierarchy_guide, Y
    )
    np.testing.assert_allclose(value, -(of_globals + of_cells[:, 0].sum(1)).mean(), rtol=1e-5)


@pytest.mark.parametrize("size", [6, 2])
def test_the_nested_value_is_the_elbo_of_the_globals(size):
    """At q(z | mu) = p(z | mu, y) it has a closed form, a subsample of the cells included."""
    loc, scale = 0.2, 0.5
    log_p_mu = -0.5 * ((loc**2 + scale**2) / 4 + jnp.log(2 * jnp.pi * 4))
    log_p_y = (-0.5 * (((Y - loc) ** 2 + scale**2) / 2 + jnp.log(4 * jnp.pi))).sum()
    exact = log_p_mu + dist.Normal(loc, scale).entropy() + log_p_y
    loss = loss_of(dreg(iwae), (4, 3), plates=("N",))
    keys = jax.random.split(jax.random.key(1), 3000)
    values = jax.jit(jax.vmap(lambda k: -loss.loss(k, EXACT, hierarchy, hierarchy_guide, Y, size)))(
        keys
    )
    error = values.std(ddof=1) / 3000**0.5
    assert abs(values.mean() - exact) < 5 * error
    assert abs(values.mean() - exact * 6 / size) > 5 * error or size == 6


def by_hand(params, key, size=None):
    """Minus the nested bound, written out: one global draw, three local ones for each datum."""
    of_mu, of_z, of_rows = jax.random.split(key, 3)
    rows = jnp.arange(6) if size is None else jax.random.permutation(of_rows, 6)[:size]
    mu = params["mu_loc"] + 0.5 * jax.random.normal(of_mu)
    loc = params["slope"] * Y[rows] + params["pull"] * mu
    z = loc + params["scale"] * jax.random.normal(of_z, (3, len(rows)))
    log_w = dist.Normal(mu, 1).log_prob(z) + dist.Normal(z, 1).log_prob(Y[rows])
    log_w -= dist.Normal(loc, params["scale"]).log_prob(z)
    of_globals = dist.Normal(0, 2).log_prob(mu) - dist.Normal(params["mu_loc"], 0.5).log_prob(mu)
    return -(of_globals + 6 / len(rows) * vi.bounds.iwae(log_w).sum())


def mean_gradient(value, num_draws=6000):
    keys = jax.random.split(jax.random.key(5), num_draws)
    each = jax.jit(jax.vmap(jax.grad(value), (None, 0)))(NESTED, keys)
    return {n: (g.mean(), g.std(ddof=1) / num_draws**0.5) for n, g in each.items()}


def far(one, other):
    return max(abs(one[n][0] - other[n][0]) / jnp.hypot(one[n][1], other[n][1]) for n in NESTED)


@pytest.mark.parametrize("size", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_nested_gradients_are_those_written_out(size):
    truth = mean_gradient(lambda params, key: by_hand(params, key, size), 20_000)

    def found(objective, **options):
        loss = loss_of(objective, 3, plates=("N",), **options)
        return mean_gradient(lambda p, key: loss.loss(key, p, hierarchy, hierarchy_guide, Y, size))

    for objective in (reparam(iwae), dreg(iwae), vimco(iwae)):
        assert far(found(objective), truth) < 5, objective
    assert far(found(dreg(iwae), global_objective=dreg(elbo)), truth) < 5
    assert far(found(fixed(iwae)), truth) > 5


@pytest.mark.slow
def test_a_bound_of_the_globals_needs_what_it_is_given():
    options = {"plates": ("N",), "global_objective": reparam(iwae)}
    for seed in range(3):
        _, of_cells = drawn_mu(NESTED, (4, 3), Y, seed=seed)
        of_globals, _ = drawn_mu(NESTED, (4, 3), Y, seed=seed)
        inner = iwae(jnp.moveaxis(of_cells, 1, 0)).sum(-1)
        loss = loss_of(reparam(iwae), (4, 3), **options)
        value = run(loss, NESTED, hierarchy, hierarchy_guide, Y, seed=seed)
        np.testing.assert_allclose(value, -iwae(of_globals + inner), rtol=1e-5)
    with pytest.raises(ValueError, match="does not differentiate its own value"):
        run(loss_of(dreg(iwae), (4, 3), **options), NESTED, hierarchy, hierarchy_guide, Y)
    with pytest.raises(ValueError, match="where the cells are a subsample"):
        run(loss_of(reparam(iwae), (4, 3), **options), NESTED, hierarchy, hierarchy_guide, Y, 2)


def leaking(y):
    with numpyro.plate("N", len(y)):
        numpyro.sample("fn", dist.Normal(0, 1))
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(z, 1), obs=y)
    numpyro.factor("total", -(z.sum() ** 2))


def leaking_guide(y):
    amortised(y)
    with numpyro.plate("N", len(y)):
        numpyro.sample("fn", dist.Normal(0, 1))


JOINT_GUIDE = AutoMultivariateNormal(local)
JOINT = {"auto_loc": Y, "auto_scale_tril": jnp.eye(6)}


def nested_run(objective, num_particles, **options):
    loss = loss_of(objective, num_particles, plates=("N",), **options)
    return run(loss, NESTED, hierarchy, hierarchy_guide, Y)


def without_plate(y):
    numpyro.sample("z", dist.Normal(y, 1))


def another_plate(y):
    with numpyro.plate("N", 1):
        numpyro.sample("z", dist.Normal(0, 1))


REFUSED = {
    "some in and some out": (
        lambda: run(loss_of(dreg(iwae), 4), NESTED, hierarchy, hierarchy_guide, Y),
        r"plates must be said (got None, where z are in plates N and mu outside); plates=('N',)",
    ),
    "no such plate": (
        lambda: run(loss_of(dreg(iwae), 4, plates=("M",)), LOCAL, local, amortised, Y),
        r"be a tuple of names of plates (got 'M', which is none); the plates of model and guide",
    ),
    "a bare name": (
        lambda: loss_of(dreg(iwae), 4, plates="N"),
        r"be a tuple of names of plates (got 'N')",
    ),
    "twice": (
        lambda: run(loss_of(dreg(iwae), 4, plates=("N", "N")), LOCAL, local, amortised, Y),
        "name each plate once",
    ),
    "a subsample in one weight": (
        lambda: run(loss_of(dreg(iwae), 4, plates=()), LOCAL, local, amortised, Y, 2),
        "hold N, of which site z is a subsample",
    ),
    "an outer site that needs the cells": (
        lambda: run(loss_of(dreg(iwae), 4, plates=("N",)), LOCAL, leaking, leaking_guide, Y),
        "hold model site total, which depends on z (got ('N',)); move it into the plates",
    ),
    "no particle": (lambda: loss_of(dreg(iwae), 0), "be an integer of at least 1 (got 0)"),
    "vimco with one": (lambda: loss_of(vimco(elbo), 1), "vimco: "),
    "three counts": (lambda: loss_of(dreg(iwae), (1, 2, 3)), "be one or two counts"),
    "a bare bound": (lambda: loss_of(iwae, 4), "objective must be an objective"),
    "cubo of a model with parameters": (
        lambda: run(
            loss_of(reparam(cubo(2)), 4, plates=()), {"theta": jnp.array(1.0), **LOCAL},
            learned, amortised, Y,
        ),
        "be maximised where the model has parameters (theta) (got cubo(2))",
    ),
    "cubo of cells around globals": (
        lambda: nested_run(dreg(cubo(2)), 4),
        "objective must be one to maximise where cells are nested in globals (got cubo(2))",
    ),
    "cubo of globals around cells": (
        lambda: nested_run(reparam(iwae), (4, 1), global_objective=reparam(cubo(2))),
        "global_objective must be one to maximise where cells are nested in globals (got cubo(2))",
    ),
    "cells without a draw": (
        lambda: run(loss_of(dreg(iwae), 4, plates=("N",)), JOINT, local, JOINT_GUIDE, Y),
        "plates must hold a site that the guide draws (got ('N',)); plates=() weighs",
    ),
    "globals where there are none": (
        lambda: run(loss_of(dreg(iwae), (10, 4)), LOCAL, local, amortised, Y),
        "10 draws of globals by reparam(elbo), where there are none); pass num_particles=K",
    ),
    "a global objective where there are no globals": (
        lambda: run(
            loss_of(dreg(iwae), 4, global_objective=dreg(elbo)), LOCAL, local, amortised, Y
        ),
        "1 draws of globals by dreg(elbo), where there are none",
    ),
    "a guide without its plate": (
        lambda: run(loss_of(dreg(iwae), 4), {}, local, without_plate, Y),
        "None, where model site z are in plates N and guide site z outside",
    ),
    "plates that differ": (
        lambda: run(loss_of(dreg(iwae), 4), {}, local, another_plate, Y),
        "plates must have one axis, subsample and size in both (N)",
    ),
    "a name for an estimator": (
        lambda: vi.numpyro.IWAE(4, "dreg"), "IWAE: gradient must be an estimator (got 'dreg')",
    ),
    "a legacy key for weights": (
        lambda: vi.numpyro.log_weights(
            jax.random.PRNGKey(0), LOCAL, local, amortised, Y, num_particles=2
        ),
        "log_weights: key must be a typed PRNG key",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert message in str(caught.value)


def test_the_elbo_takes_every_model_without_a_word():
    for model, guide, params in (
        (hierarchy, hierarchy_guide, NESTED),
        (leaking, leaking_guide, LOCAL),
        (conjugate, mean_field, {"loc": jnp.array(0.3), "scale": jnp.array(0.8)}),
    ):
        assert jnp.isfinite(run(loss_of(dreg(elbo), 4), params, model, guide, Y))


@pytest.mark.slow
def test_a_divergence_goes_down_for_the_guide():
    loss = loss_of(reparam(cubo(2)), 64, plates=())
    near = {"loc": Y.sum() / 7, "scale": jnp.array(7**-0.5)}
    value = run(loss, near, conjugate, mean_field, Y)
    away = run(loss, near | {"loc": jnp.array(1.0)}, conjugate, mean_field, Y)
    assert value < away
    log_z = dist.MultivariateNormal(jnp.zeros(6), jnp.eye(6) + 1).log_prob(Y)
    np.testing.assert_allclose(value, log_z, rtol=1e-4)


def square(y):
    """The outer plate is the last axis: values are [inner, outer], weights [outer]."""
    slope = numpyro.param("theta", 1.2)
    with numpyro.plate("outer", 3):
        u = numpyro.sample("u", dist.Normal(0, 1))
        with numpyro.plate("inner", 3):
            z = numpyro.sample("z", dist.Normal(u[..., None], jnp.ones(2)).to_event(1))
            numpyro.sample("y", dist.Normal(slope * z, 1).to_event(1), obs=y)


def square_guide(y):
    pull = numpyro.param("pull", jnp.array([0.1, 0.3, 0.6]))
    with numpyro.plate("outer", 3):
        u = numpyro.sample("u", dist.Normal(pull, 0.7))
        with numpyro.plate("inner", 3):
            numpyro.sample("z", dist.Normal(pull[:, None] * y + u[..., None], 0.8).to_event(1))


@pytest.mark.slow
def test_cells_that_are_the_last_axis_of_a_value(monkeypatch):
    data = jnp.array(np.random.default_rng(4).normal(size=(3, 3, 2)))
    params = {"theta": jnp.array(1.2), "pull": jnp.array([0.1, 0.3, 0.6])}
    keys = jax.random.split(jax.random.key(0), 8000)

    def gradients(estimator):
        loss = loss_of(estimator(iwae), 3)
        run = lambda p, key: loss.loss(key, p, square, square_guide, data)  # noqa: E731
        return jax.jit(jax.vmap(jax.grad(run), (None, 0)))(params, keys)

    plain = gradients(reparam)

    def worst(estimator):
        found = gradients(estimator)
        differences = [found[name] - plain[name] for name in params]
        error = [d.std(0, ddof=1) / len(keys) ** 0.5 + 1e-5 for d in differences]
        return max(
            float((abs(d.mean(0)) / e).max()) for d, e in zip(differences, error, strict=True)
        )

    assert worst(dreg) < 5
    assert worst(vimco) < 5
    in_place = lambda self, name, value, direction=1: value  # noqa: E731
    monkeypatch.setattr(_particles.Rescored, "_cells_first", in_place)
    assert worst(dreg) > 5  # inner and outer have one size, so that no shape is wrong


def test_a_nested_model_may_have_parameters():
    """The globals that each particle carries have no cells: plain differentiation asks for none."""

    def scaled(y):
        theta = numpyro.param("theta", 1.1)
        mu = numpyro.sample("mu", dist.Normal(0, 2))
        with numpyro.plate("N", len(y)):
            z = numpyro.sample("z", dist.Normal(mu, 1))
            numpyro.sample("y", dist.Normal(theta * z, 1), obs=y)

    params = NESTED | {"theta": jnp.array(1.1)}
    keys = jax.random.split(jax.random.key(0), 6000)

    def gradients(objective):
        loss = loss_of(objective, 3, plates=("N",))
        run = lambda p, key: loss.loss(key, p, scaled, hierarchy_guide, Y)  # noqa: E731
        return jax.jit(jax.vmap(jax.grad(run), (None, 0)))(params, keys)

    plain, ours = gradients(reparam(iwae)), gradients(dreg(iwae))
    for name in params:
        difference = ours[name] - plain[name]
        error = difference.std(ddof=1) / len(keys) ** 0.5
        assert abs(difference.mean()) < 5 * error + 1e-5, name


@pytest.mark.slow
def test_one_particle_of_each_sees_one_minibatch():
    """The guide's mean of mu is its minibatch's: the cells must be of that minibatch."""

    def centred(y, size=None):
        with numpyro.plate("N", len(y), subsample_size=size) as rows:
            pass
        numpyro.sample("mu", dist.Normal(y[rows].mean(), 1e-3))
        with numpyro.plate("N", len(y), subsample_size=size):
            batch = numpyro.subsample(y, event_dim=0)
            numpyro.sample("z", dist.Normal(0.5 * batch, 0.7))

    def tied(y, size=None):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        with numpyro.plate("N", len(y), subsample_size=size):
            batch = numpyro.subsample(y, event_dim=0)
            numpyro.sample("z", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(mu, 0.1), obs=batch)

    data = jnp.array([-3.0, 0.0, 3.0])  # one datum a batch: it is mu itself, or far from it
    loss = loss_of(reparam(iwae), 1, plates=("N",))
    for seed in range(6):
        assert run(loss, {}, tied, centred, data, 1, seed=seed) < 100
