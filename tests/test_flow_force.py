"""The derivative of log q that is carried along with a draw, and dreg that takes it from there."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flows import C, D, context_of, make, normal, perturbed

import vi

CARRIED = ["coupling-both", "autoregressive-spline", "sequence", "planar"]
BATCH, K = 3, 4


def family(name, context_size=C):
    """A perturbed flow, and its family at a context of one's choice."""
    flow = perturbed(make(name, context_size), 1, std=0.3)
    base = normal((BATCH,)) if context_size else normal()
    return flow, lambda context: flow(base, context)


def log_joint(z):
    return -0.5 * ((z - 0.7) ** 2).sum(-1) - jnp.cos(z).sum(-1)


class TwoPasses:
    """A family that scores its draws by an inverse pass alone."""

    def __init__(self, q):
        self.rsample, self.sample, self.log_prob = q.rsample, q.sample, q.log_prob


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CARRIED)
def test_the_force_solves_the_jacobian(name):
    """By the dense Jacobian of the whole flow; a force that forgets the log-det is none."""
    flow, make_q = family(name)
    context = context_of(C, (BATCH,))

    @jax.jit
    def compute(context):
        z, log_q, force = make_q(context).rsample_and_force(jax.random.key(0), (K,))
        return z, log_q, force, make_q(context).rsample_and_log_prob(jax.random.key(0), (K,))

    z, log_q, force, (again, scored) = compute(context)
    chex.assert_trees_all_close((z, log_q), (again, scored), rtol=1e-12)
    x = normal((BATCH,)).sample(jax.random.key(0), (K,))

    def exact(x, context, with_log_det):
        def score(x):
            return -0.5 * (x**2).sum() - with_log_det * flow.forward(x, context)[1]

        jacobian = jax.jacobian(lambda x: flow.forward(x, context)[0])(x)
        return jnp.linalg.solve(jacobian.T, jax.grad(score)(x))

    by_draw = jax.vmap(jax.vmap(exact, (0, 0, None)), (0, None, None))
    truth, forgetful = (jax.jit(by_draw)(x, context, flag) for flag in (1.0, 0.0))
    np.testing.assert_allclose(force, truth, rtol=1e-9, atol=1e-11)
    assert abs(force - forgetful).max() > 1e-2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "chunk_size"), [("coupling-both", None), ("coupling-affine", 2)])
def test_dreg_by_one_pass_is_dreg_by_two(name, chunk_size):
    """Value and gradient, in both modes and in chunks; reparam at these draws is something else."""
    flow, _ = family(name)
    context = context_of(C, (BATCH,))
    objective = vi.gradients.dreg(vi.bounds.iwae, chunk_size=chunk_size)

    def value(flow, context, estimated, wrap):
        q = wrap(flow(normal((BATCH,)), context))
        return estimated(jax.random.key(3), q, log_joint, K).sum()

    @jax.jit
    def compute(flow, context):
        def both(estimated, wrap):
            at = lambda flow, context: value(flow, context, estimated, wrap)  # noqa: E731
            return jax.value_and_grad(at, argnums=(0, 1))(flow, context)

        forward = jax.jvp(
            lambda c: value(flow, c, objective, lambda q: q), (context,), (jnp.ones_like(context),)
        )[1]
        plain = vi.gradients.reparam(vi.bounds.iwae, chunk_size=chunk_size)
        keep = lambda q: q  # noqa: E731
        return both(objective, keep), both(objective, TwoPasses), both(plain, keep), forward

    one, two, plain, forward = compute(flow, context)
    chex.assert_trees_all_close(one, two, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(forward, one[1][1].sum(), rtol=1e-9)
    assert abs(plain[1][1] - one[1][1]).max() > 1e-2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["coupling-affine", "planar"])
def test_second_derivatives_are_the_finite_differences_of_the_first(name):
    _, make_q = family(name)
    context = context_of(C, (BATCH,))

    def slope(context):
        objective = vi.gradients.dreg(vi.bounds.iwae)
        value = lambda c: objective(jax.random.key(0), make_q(c), log_joint, 2).sum()  # noqa: E731
        return jax.grad(value)(context)

    @jax.jit
    def compute(context):
        step = 1e-5
        differences = (slope(context + step) - slope(context - step)) / (2 * step)
        return jax.jvp(slope, (context,), (jnp.ones_like(context),))[1], differences

    curvature, differences = compute(context)
    np.testing.assert_allclose(curvature, differences, rtol=1e-6, atol=1e-8)


def test_second_derivatives_of_a_base_that_moves_are_refused():
    flow = make("coupling-affine")

    def value(loc):
        base = dist.Normal(loc * jnp.ones(D), 1.0).to_event(1)
        return vi.gradients.dreg(vi.bounds.elbo)(jax.random.key(0), flow(base), log_joint, 2)

    with pytest.raises(
        ValueError, match=r"rsample_and_force: .*for second derivatives use reparam"
    ):
        jax.grad(jax.grad(value))(0.3)


@pytest.mark.usefixtures("x64")
def test_mixed_second_derivatives_with_the_models_parameters_are_right():
    """d/dcontext of d/dtheta, theta in the log-joint alone: that of two passes."""
    _, make_q = family("coupling-affine")
    context = context_of(C, (BATCH,))

    def slope(context, wrap):
        def value(theta):
            joint = lambda z: log_joint(theta * z)  # noqa: E731
            objective = vi.gradients.dreg(vi.bounds.iwae)
            return objective(jax.random.key(0), wrap(make_q(context)), joint, K).sum()

        return jax.grad(value)(1.3)

    @jax.jit
    def both(context):
        return [jax.grad(slope)(context, wrap) for wrap in (lambda q: q, TwoPasses)]

    one, two = both(context)
    np.testing.assert_allclose(one, two, rtol=1e-9)


def test_replicates_take_it_from_one_pass_too():
    flow = make("planar")  # which has no other
    objective = vi.gradients.replicated(vi.gradients.dreg(vi.bounds.elbo), 3)
    value = objective(jax.random.key(0), flow(normal()), normal().log_prob, K)
    chex.assert_trees_all_close(value, jnp.zeros(()), atol=1e-5)


def test_a_rule_that_belies_its_word_is_refused():
    def rule(bound, log_w):
        first = vi.bounds.first_derivative(bound, log_w)
        return vi.types.Coefficients(theta=first, path=first, score=-first)

    rule.is_path_derivative = True  # pyright: ignore[reportFunctionMemberAccess]
    objective = vi.gradients.estimator(rule)(vi.bounds.elbo)
    with pytest.raises(ValueError, match="rule: rule must return theta and path alone"):
        objective(jax.random.key(0), make("planar")(normal()), normal().log_prob, K)


def test_where_no_force_is_carried_there_is_none_to_ask_for():
    for name in ("masked", "continuous"):
        flow = make(name)
        assert not hasattr(flow(normal()), "rsample_and_force")
        with pytest.raises(ValueError, match=r"the flow must carry a force .*by an inverse pass"):
            flow.forward_with_force(jnp.zeros(D), None, jnp.zeros(D))


def test_dreg_takes_a_flow_without_an_inverse_and_vimco_does_not():
    """A planar flow at its start is its base: against itself every gradient of dreg is 0."""
    flow = make("planar")

    @jax.jit
    @jax.grad
    def gradient(flow):
        objective = vi.gradients.dreg(vi.bounds.elbo)
        return objective(jax.random.key(0), flow(normal()), normal().log_prob, K)

    chex.assert_trees_all_close(gradient(flow), jax.tree.map(jnp.zeros_like, flow), atol=1e-6)
    with pytest.raises(ValueError, match="planar: has no inverse in closed form"):
        vi.gradients.vimco(vi.bounds.elbo)(jax.random.key(0), flow(normal()), normal().log_prob, K)
