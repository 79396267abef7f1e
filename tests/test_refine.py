"""Refinement: n steps in closed form, derivatives through them, and each datum its own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vi
from vi.networks import refine

RATE, STEPS = 0.1, 4
X = np.array([0.7, -1.2, 2.0])


def elbo(params, slope, x):
    """Of z ~ N(0, 1), x ~ N(slope z, 1) under N(loc, exp(2 log_scale)), per datum, in nats."""
    variance = jnp.exp(2 * params["log_scale"])
    fit = -0.5 * ((x - slope * params["loc"]) ** 2 + slope**2 * variance)
    return fit - 0.5 * (params["loc"] ** 2 + variance - 1) + params["log_scale"]


def start(dtype=float):
    return {"loc": jnp.array([0.1, 0.4, -0.3], dtype), "log_scale": jnp.zeros(3, dtype) - 0.2}


def refined(start, slope, optimizer=None, num_steps=STEPS):
    return refine(
        lambda p: elbo(p, slope, X),
        start,
        optimizer=optimizer or optax.sgd(RATE),
        num_steps=num_steps,
    )


def location(start, slope):
    """The refined location: a linear recursion, summed by hand."""
    keep = (1 - RATE * (1 + slope**2)) ** STEPS
    top = slope * X / (1 + slope**2)
    return top + keep * (start["loc"] - top)


@pytest.mark.usefixtures("x64")
def test_steps_and_their_derivatives_in_closed_form():
    slope = jnp.array(0.8)

    @jax.jit
    def derivatives(start, slope):
        def ours(start, slope):
            return refined(start, slope)["loc"]

        return [
            (f(start, slope), *(mode(f, (0, 1))(start, slope) for mode in (jax.jacrev, jax.jacfwd)))
            for f in (ours, location)
        ]

    ours, by_hand = derivatives(start(), slope)
    chex.assert_trees_all_close(ours, by_hand, rtol=1e-10, atol=1e-12)
    of_start, of_slope = ours[1]
    np.testing.assert_array_equal(of_start["loc"] != 0, np.eye(3, dtype=bool))  # its own datum's
    assert (of_slope != 0).all()
    assert not jax.tree.leaves(refined(start(), slope, num_steps=0)["loc"] - start()["loc"])[
        0
    ].any()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("optimizer", [optax.sgd(RATE, momentum=0.5), optax.adam(0.05)])
def test_derivatives_through_any_optimizer_are_finite_differences(optimizer):
    slope, tangent = jnp.array(0.8), {"loc": jnp.ones(3), "log_scale": jnp.arange(3.0) - 0.5}

    @jax.jit
    def outer(start, slope):
        """The refined q's ELBO: what the encoder and the model are trained by."""
        return elbo(refined(start, slope, optimizer), slope, X).sum()

    def moved(eps):
        return outer(jax.tree.map(lambda s, t: s + eps * t, start(), tangent), slope + eps)

    _, along = jax.jvp(outer, (start(), slope), (tangent, jnp.array(1.0)))
    of_start, of_slope = jax.grad(outer, (0, 1))(start(), slope)
    dots = sum(jax.tree.leaves(jax.tree.map(lambda g, t: (g * t).sum(), of_start, tangent)))
    eps = 1e-5
    difference = (moved(eps) - moved(-eps)) / (2 * eps)
    np.testing.assert_allclose([along, dots + of_slope], difference, rtol=1e-7)

    def stopped(slope):
        return elbo(jax.lax.stop_gradient(refined(start(), slope, optimizer)), slope, X).sum()

    assert abs(jax.grad(stopped)(slope) - of_slope) > 1e-3  # the twin: q does not move


def test_an_encoder_learns_where_few_steps_end_at_the_top():
    """Only derivatives through the steps say where to start from."""
    slope = jnp.array(0.8)
    top = slope * X / (1 + slope**2)
    outer = jax.grad(lambda s: elbo(refined(s, slope), slope, X).sum())
    away = outer(start(jnp.float32))
    at_top = {"loc": jnp.asarray(top, jnp.float32), "log_scale": start(jnp.float32)["log_scale"]}
    assert (jnp.sign(away["loc"]) == jnp.sign(top - start()["loc"])).all()
    np.testing.assert_allclose(outer(at_top)["loc"], 0.0, atol=1e-6)
    assert refined(start(jnp.float32), slope)["loc"].dtype == jnp.float32


def test_adam_needs_eps_root_where_a_gradient_is_zero():
    def outer(start, optimizer):
        end = refine(lambda p: -0.5 * p**2, start, optimizer=optimizer, num_steps=2)
        return (end**2).sum()

    at = jnp.array([0.0, 1.0])  # the first is at its top
    gradient = jax.grad(outer)
    assert jnp.isnan(gradient(at, optax.adam(0.1))[0])
    chex.assert_tree_all_finite(gradient(at, optax.adam(0.1, eps_root=1e-8)))


def test_noise_is_the_same_at_each_step():
    """A Monte Carlo objective with one key is a fixed function, refined as such."""
    prior = vi.families.normal(jnp.zeros(2), scale=jnp.ones(2))
    objective = vi.gradients.reparam(vi.bounds.elbo)

    def make(params):
        return vi.families.normal(params["loc"], log_scale=params["log_scale"])

    @jax.jit
    def both(params, key):
        def value(p):
            return objective(jax.random.clone(key), make(p), prior.log_prob, 8)

        def outer(params):
            return value(refine(value, params, optimizer=optax.sgd(RATE), num_steps=2))

        def unrolled(params):
            for _ in range(2):
                step = jax.grad(value)(params)
                params = jax.tree.map(lambda p, g: p + RATE * g, params, step)
            return value(params)

        return jax.value_and_grad(outer)(params), jax.value_and_grad(unrolled)(params)

    params = {"loc": jnp.array([0.4, -0.2]), "log_scale": jnp.array([-0.3, 0.2])}
    chex.assert_trees_all_close(*both(params, jax.random.key(0)), rtol=1e-4, atol=1e-5)


def test_it_maps_and_checkpoints():
    slopes = jnp.array([0.5, 0.8])
    each = jax.vmap(lambda slope: refined(start(), slope)["loc"])(slopes)
    alone = jax.checkpoint(lambda slope: refined(start(), slope)["loc"])(slopes[1])
    chex.assert_trees_all_close(each[1], alone, rtol=1e-5)


def test_refused():
    sgd = optax.sgd(0.1)
    with pytest.raises(ValueError, match=r"refine: start\['n'\] must be floating .got dtype int32"):
        refine(lambda p: p["n"] * 1.0, {"n": jnp.arange(3)}, optimizer=sgd, num_steps=1)
    with pytest.raises(ValueError, match="refine: value must return a floating array"):
        refine(lambda p: p > 0, jnp.ones(3), optimizer=sgd, num_steps=1)
    with pytest.raises(ValueError, match="refine: num_steps must be an integer of at least 0"):
        refine(lambda p: p, jnp.ones(3), optimizer=sgd, num_steps=-1)
