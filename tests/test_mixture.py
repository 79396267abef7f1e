"""The mixture's implicit path against root finding, in its digits, and what it refuses."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

import vi
from vi.families import full_rank, mixture, normal
from vi.families._implicit import with_path
from vi.gradients import dreg, reparam, vimco

M, D = 3, 3
PARAMS = {
    "logits": np.array([0.3, -0.5, 0.1]),
    "loc": np.random.default_rng(0).normal(size=(M, D)),
    "scale": 0.5 + np.random.default_rng(1).uniform(size=(M, D)),
}
ALONG = {
    name: np.random.default_rng(i + 2).normal(size=value.shape)
    for i, (name, value) in enumerate(PARAMS.items())
}
LAWS = {
    "normal": (dist.Normal, scipy.stats.norm),
    "laplace": (dist.Laplace, scipy.stats.laplace),
    "logistic": (dist.Logistic, scipy.stats.logistic),
    "student_t": (functools.partial(dist.StudentT, 5.0), functools.partial(scipy.stats.t, 5.0)),
}


def uniforms_of(z, params, law):
    """The distributional transform, with nothing of ours: ``[D]`` uniforms of one draw."""
    log_r, u = scipy.special.log_softmax(params["logits"]), []
    for d in range(D):
        univariate = law(params["loc"][:, d], params["scale"][:, d])
        u.append(scipy.special.softmax(log_r) @ univariate.cdf(z[d]))
        log_r = log_r + univariate.logpdf(z[d])
    return np.array(u)


def draw_at(u, params, law, start):
    """Its inverse by root finding, one dimension after the other."""
    z = np.array(start)
    for d in range(D):

        def away(x, d=d):
            z[d] = x
            return uniforms_of(z, params, law)[d] - u[d]

        z[d] = scipy.optimize.brentq(away, -60, 60, xtol=1e-13, rtol=1e-14)
    return z


def pushed(z, params, along, law, forget_earlier=False):
    """The derivative of the draws along a direction of the parameters."""

    def of(params):
        if forget_earlier:  # the twin: every dimension by its marginal alone
            return jnp.concatenate(
                [
                    with_path(z[..., d : d + 1], params["logits"], law(*each))
                    for d in range(D)
                    for each in [(params["loc"][:, d : d + 1], params["scale"][:, d : d + 1])]
                ],
                axis=-1,
            )
        return with_path(z, params["logits"], law(params["loc"], params["scale"]))

    return jax.jvp(of, (params,), (along,))[1]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", LAWS)
def test_the_path_is_that_of_the_draw_at_fixed_uniforms(name):
    law, by_scipy = LAWS[name]
    q = mixture(PARAMS["logits"], law(PARAMS["loc"], PARAMS["scale"]).to_event(1))
    z = np.asarray(q.sample(jax.random.key(0), (4,)))
    step, expected = 1e-5, []
    for one in z:
        u = uniforms_of(one, PARAMS, by_scipy)
        np.testing.assert_allclose(draw_at(u, PARAMS, by_scipy, one), one, atol=1e-9)
        ends = [
            draw_at(u, {n: v + s * step * ALONG[n] for n, v in PARAMS.items()}, by_scipy, one)
            for s in (1, -1)
        ]
        expected.append((ends[0] - ends[1]) / (2 * step))
    params, along = jax.tree.map(jnp.asarray, (PARAMS, ALONG))
    np.testing.assert_allclose(pushed(z, params, along, law), expected, rtol=1e-5, atol=1e-7)
    twin = pushed(z, params, along, law, forget_earlier=True)
    assert np.abs(np.asarray(twin) - expected).max() > 1e-2


def test_forward_and_reverse_mode_agree_under_jit_vmap_and_checkpoint():
    @jax.jit
    def jacobians(params, key):
        def draw(params):
            q = mixture(params["logits"], normal(params["loc"], scale=params["scale"]))
            return q.rsample(jax.random.clone(key), (2,))

        return jax.jacfwd(draw)(params), jax.jacrev(jax.checkpoint(draw))(params)

    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), PARAMS)
    forward, reverse = jax.vmap(jacobians, (None, 0))(params, jax.random.split(jax.random.key(0)))
    chex.assert_trees_all_close(forward, reverse, rtol=1e-4, atol=1e-5)
    assert all(jnp.abs(leaf).max() > 0.01 for leaf in jax.tree.leaves(forward))


@pytest.mark.parametrize("separation", [0.5, 3.0, 50.0])
def test_float32_has_the_digits_of_float64(separation):
    """Ten dimensions, components from all but equal to far apart."""
    rng = np.random.default_rng(0)
    params = {
        "logits": np.array([0.3, -0.5, 0.1]),
        "loc": separation * rng.normal(size=(M, 10)),
        "scale": 0.5 + rng.uniform(size=(M, 10)),
    }
    along = jax.tree.map(lambda x: rng.normal(size=x.shape), params)

    def compute(dtype):
        cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), (z, params, along))
        return np.asarray(jax.jit(lambda z, p, a: pushed(z, p, a, dist.Normal))(*cast))

    q = mixture(params["logits"], dist.Normal(params["loc"], params["scale"]).to_event(1))
    z = np.asarray(q.sample(jax.random.key(1), (300,)))
    single = compute(jnp.float32)
    with jax.enable_x64(True):
        exact = compute(jnp.float64)
    gap = np.abs(single - exact) / (1 + np.abs(exact))
    assert np.isfinite(single).all()
    assert gap.mean() < 1e-4
    assert np.quantile(gap, 0.99) < 1e-3


def test_far_components_move_their_own_draws():
    """Each draw has the derivative of its own component, and nothing of the other."""
    loc, scale = jnp.array([[-40.0], [40.0]]), jnp.array([[1.0], [2.0]])

    def q_of(loc, scale):
        return mixture(jnp.zeros(2), normal(loc, scale=scale))

    @jax.jit
    def compute(loc, scale):
        draw = lambda *spread: q_of(*spread).rsample(jax.random.key(5), (200,))  # noqa: E731
        z, push = jax.vjp(draw, loc, scale)
        return z, push(jnp.ones_like(z)), q_of(loc, scale).log_prob(z)

    z, (to_loc, to_scale), log_q = compute(loc, scale)
    right = z[:, 0] > 0
    noise = jnp.where(right, (z[:, 0] - 40) / 2, z[:, 0] + 40)
    chex.assert_trees_all_close(to_loc[:, 0], jnp.array([(~right).sum(), right.sum()]) * 1.0)
    by_hand = jnp.array([noise[~right].sum(), noise[right].sum()])
    chex.assert_trees_all_close(to_scale[:, 0], by_hand, rtol=1e-4)
    assert jnp.isfinite(log_q).all()


def test_what_is_expanded_has_the_path_of_what_it_repeats():
    """One law of scale 2 for all components and dimensions: only weights and locations differ."""

    @jax.jit
    def gradients(logits, scale):
        def value(logits, scale, *, expanded):
            if expanded:
                laws = dist.Normal(0.3, scale).expand((2, 3))
            else:
                laws = dist.Normal(jnp.full((2, 3), 0.3), jnp.full((2, 3), scale))
            q = mixture(logits, laws.to_event(1))
            z = q.rsample(jax.random.key(0), (4,))
            return jnp.sin(z * jnp.arange(1.0, 4.0)).sum()

        by_hand, ours = (
            jax.grad(functools.partial(value, expanded=expanded), (0, 1))(logits, scale)
            for expanded in (False, True)
        )
        return by_hand, ours

    by_hand, ours = gradients(jnp.array([0.2, -0.4]), jnp.float32(2.0))
    chex.assert_trees_all_close(ours, by_hand, rtol=1e-5, atol=1e-6)
    assert abs(ours[1]) > 0.1


LAWS_WITHOUT_SLOPE = {  # JAX differentiates no incomplete beta function in its parameters
    "StudentT": lambda p: dist.StudentT(p, jnp.zeros((2, 1)), 1.0),
    "Beta": lambda p: dist.Beta(p, 2.0),
}


BETAS = (jnp.zeros(2), jnp.array([[3.0], [4.0]]))


def bound_of_a_mixture(estimator, law, params):
    q = mixture(params[0], LAWS_WITHOUT_SLOPE[law](params[1]).to_event(1))
    return estimator(vi.bounds.iwae)(jax.random.key(0), q, lambda z: jnp.sin(z).sum(-1), 3)


@pytest.mark.parametrize("law", LAWS_WITHOUT_SLOPE)
@pytest.mark.parametrize("estimator", [reparam, dreg])
def test_a_parameter_without_a_derivative_is_refused_by_name(law, estimator):
    message = f"mixture: components must have a distribution function with a der.*got {law}: Betai"
    with pytest.raises(ValueError, match=f"{message}.*stop_gradient.*MixtureSameFamily"):
        jax.eval_shape(jax.grad(lambda p: bound_of_a_mixture(estimator, law, p)), BETAS)


def test_a_parameter_without_a_derivative_can_be_held_or_scored():
    @jax.jit
    def gradients(logits, concentration):
        by_path = jax.grad(lambda p: bound_of_a_mixture(reparam, "Beta", (p, concentration)))
        by_score = jax.grad(lambda p: bound_of_a_mixture(vimco, "Beta", p))
        return by_path(logits), *by_score((logits, concentration))

    slopes = gradients(*BETAS)
    assert all(jnp.isfinite(g).all() and jnp.abs(g).max() > 1e-4 for g in slopes)


EYE, ZEROS = jnp.eye(2), jnp.zeros((2, 2, 2))
PAIR = normal(jnp.zeros((2, 1)), scale=jnp.ones((2, 1)))
REFUSED = {
    "weights": (lambda: mixture(jnp.zeros(3), PAIR), "logits must match the components"),
    "batch of weights": (
        lambda: mixture(jnp.zeros((4, 2)), PAIR),
        r"weights \[4, 2\] for components \[2\]",
    ),
    "no components": (
        lambda: mixture(jnp.zeros(()), normal(jnp.zeros(1), scale=jnp.ones(1))),
        "logits must match the components",
    ),
    "scalar events": (
        lambda: mixture(jnp.zeros(2), dist.Normal(jnp.zeros(2), 1.0)),
        "components must be D independent univariates .got Normal.",
    ),
    "two event axes": (
        lambda: mixture(jnp.zeros(2), dist.Normal(jnp.zeros((2, 3, 4)), 1.0).to_event(2)),
        "components must be D independent univariates",
    ),
    "vectors": (
        lambda: mixture(
            jnp.zeros(2),
            full_rank(jnp.zeros((2, 1, 2)), scale_tril=ZEROS[:, None] + EYE).to_event(1),
        ),
        "components must have events",
    ),
    "correlated": (
        lambda: mixture(jnp.zeros(2), full_rank(jnp.zeros((2, 2)), scale_tril=EYE + ZEROS)),
        "components must be D independent univariates .got MultivariateNormal.",
    ),
    "no cdf": (
        lambda: mixture(jnp.zeros(2), vi.families.von_mises(jnp.zeros((2, 1)), jnp.ones((2, 1)))),
        "reparameterised univariates with a distribution function",
    ),
    "bounds that move": (
        lambda: mixture(jnp.zeros(2), dist.Uniform(jnp.zeros((2, 1)), 1.0).to_event(1)),
        "components must have a support that no parameter moves .got Independent.Uniform.*constra",
    ),
    "truncated": (
        lambda: mixture(
            jnp.zeros(2), dist.TruncatedNormal(jnp.zeros((2, 1)), low=jnp.zeros((2, 1))).to_event(1)
        ),
        "components must have a support that no parameter moves",
    ),
    "bits": (
        lambda: mixture(jnp.zeros(2), vi.families.bernoulli(jnp.zeros((2, 1)))),
        "reparameterised univariates with a distribution function",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_by_name(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        make()
