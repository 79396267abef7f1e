"""Every flow: a bijection with the right log-determinant, and a family that keeps its contract."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import nnx
from flows import FLOWS, INVERTIBLE, C, D, context_of, make, normal, perturbed, points, several

import vi
from vi.flows import affine, coupling

slow = pytest.mark.slow
LONG = {
    "coupling-both",
    "sequence",
    "continuous",
    "autoregressive-affine",
    "masked",
}  # to compile; their parts are there


def once(first):
    """Every row with ``first`` context size, and, slowly, with the other."""
    cases = [(name, first) for name in FLOWS]
    cases += [pytest.param(name, C - first, marks=slow) for name in FLOWS]
    return pytest.mark.parametrize(("name", "context_size"), cases)


def there_and_back(flow, x, context):
    """The image, and how far the inverse misses the point and the log-determinant."""
    y, log_det = flow.forward(x, context)
    if flow.name == "planar":
        return {"y": y, "log_det": log_det}
    back, log_det_back = flow.inverse(y, context)
    return {"y": y, "log_det": log_det, "back": back - x, "sum": log_det + log_det_back}


def off_the_jacobian(flow, x, context):
    """The log-determinant less that of the Jacobian taken by JAX, at each point."""

    def at(x):
        jacobian, log_det = jax.jacfwd(lambda x: flow.forward(x, context), has_aux=True)(x)
        return log_det - jnp.linalg.slogdet(jacobian)[1]

    return jax.vmap(at)(x)


@once(first=0)
def test_round_trip_in_float32_and_the_identity_at_the_start(name, context_size):
    """|x| <= 4, at the start and with all parameters off by N(0, 0.1^2): within 1e-5."""
    flow, x, context = make(name, context_size), points(500), context_of(context_size)
    out = jax.jit(jax.vmap(there_and_back, (0, None, None)))(several(flow), x, context)
    chex.assert_trees_all_close(out["y"][0], x, atol=1e-6)
    chex.assert_trees_all_close(out["log_det"][0], jnp.zeros(500), atol=1e-5)
    assert abs(out["y"][1:] - x).max() > 0.1
    assert abs(out["log_det"][1:]).max() > 0.05
    assert out["y"].dtype == out["log_det"].dtype == jnp.float32
    if name in INVERTIBLE:
        assert abs(out["back"]).max() < 1e-5
        assert abs(out["sum"]).max() < 1e-5


@pytest.mark.usefixtures("x64")
@once(first=C)
def test_round_trip_and_jacobian_in_float64(name, context_size):
    """To 1e-10; that of the ODE to its solver's error, which falls with the step."""
    flow, x, context = make(name, context_size), points(20), context_of(context_size)

    def both(flow):
        return there_and_back(flow, x, context), off_the_jacobian(flow, x, context)

    out, off = jax.jit(jax.vmap(both))(several(flow))
    assert out["y"].dtype == out["log_det"].dtype == jnp.float64
    within = 1e-6 if name == "continuous" else 1e-10
    assert abs(off).max() < within
    if name in INVERTIBLE:
        assert abs(out["back"]).max() < within
        assert abs(out["sum"]).max() < within


class WrongSign(vi.flows.Flow):
    """The twin with the wrong log-determinant."""

    def __init__(self, flow):
        super().__init__(flow.size)
        self.flow = flow

    def _forward(self, x, context):
        y, log_det = self.flow.forward(x)
        return y, -log_det

    def _inverse(self, y, context):
        x, log_det = self.flow.inverse(y)
        return x, -log_det


class Unswapped(WrongSign):
    """The twin whose inverse takes the halves as they stand after an odd number of layers."""

    def _inverse(self, y, context):
        return self.flow.inverse(jnp.roll(y, self.size // 2, axis=-1))


def test_the_twins_fail():
    flow = perturbed(make("coupling-spline"), 0)
    off = jax.jit(off_the_jacobian)(WrongSign(flow), points(20), None)
    assert abs(off).max() > 0.1
    assert abs(jax.jit(there_and_back)(Unswapped(flow), points(20), None)["back"]).max() > 0.1


@pytest.mark.parametrize("name", sorted({*FLOWS} - LONG))
def test_the_family_keeps_its_contract(name):
    """One pass equals two, jit equals eager, a batch equals vmap, flattening loses nothing."""
    flow, base, context = perturbed(make(name, C), 1), normal((3,)), context_of(C, (3,))
    key = jax.random.key(2)

    def of(flow, context):
        q = flow(base, context)
        z, log_q = q.rsample_and_log_prob(key, (5,))
        log_qs = {"one pass": log_q}
        if name in INVERTIBLE:
            log_qs["two"] = q.log_prob(z)
            log_qs["vmap"] = jax.vmap(lambda c, z: flow(normal(), c).log_prob(z), (0, 1), 1)(
                context, z
            )
        draws = {"one pass": z, "rsample": q.rsample(key, (5,)), "sample": q.sample(key, (5,))}
        draws["held"], log_qs["held"] = q.sample_and_log_prob(key, (5,))
        draws["numpyro"], kept = q.sample_with_intermediates(key, (5,))
        log_qs["numpyro"] = q.log_prob(z, kept)
        return q, draws, log_qs

    with jax.debug_key_reuse(False):
        q, draws, log_qs = jax.jit(of)(flow, context)
    draws["eager"], log_qs["eager"] = q.rsample_and_log_prob(jax.random.key(2), (5,))
    assert draws["one pass"].shape == (5, 3, D)
    assert log_qs["one pass"].shape == (5, 3)
    assert (q.batch_shape, q.event_shape, q.has_rsample) == ((3,), (D,), True)
    for way in draws:
        chex.assert_trees_all_close(draws[way], draws["one pass"], atol=1e-5)
    for way in log_qs:
        chex.assert_trees_all_close(log_qs[way], log_qs["one pass"], atol=2e-5)


def test_constants_carry_no_derivative():
    def total(flow):
        z, log_q = flow(normal()).sample_and_log_prob(jax.random.key(0), (5,))
        return z.sum() + log_q.sum()

    gradient = jax.jit(jax.grad(total))(perturbed(make("coupling-affine"), 0))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_a_plate_expands_flow_and_context_alike():
    flow, context = perturbed(make("coupling-affine", C), 1), context_of(C, (1,))

    @jax.jit
    def ways(flow):
        wide = flow(normal((1,)), context).expand((6, 4))
        z, log_q = wide.rsample_and_log_prob(jax.random.key(0), (5,))
        alone = flow(normal(), context[0])
        return z, log_q, wide.log_prob(z), alone.log_prob(z)

    z, *log_qs = ways(flow)
    assert z.shape == (5, 6, 4, D)
    for log_q in log_qs[1:]:
        chex.assert_trees_all_close(log_q, log_qs[0], atol=1e-5)


def test_flows_of_transformed_bases_are_flattened():
    """NumPyro joins transforms of transforms; one pass and the inverse take them in turn."""
    first, second = (perturbed(make("coupling-affine"), seed) for seed in (0, 1))
    shifted = dist.TransformedDistribution(
        normal(), dist.transforms.AffineTransform(jnp.full(D, 0.5), 2.0)
    )

    @jax.jit
    def ways(first, second):
        q = second(first(shifted))
        z, log_q = q.rsample_and_log_prob(jax.random.key(0), (5,))
        plain = dist.Normal(jnp.full(D, 0.5), 2.0).to_event(1)
        return q, log_q, q.log_prob(z), vi.flows.sequence(first, second)(plain).log_prob(z)

    q, *log_qs = ways(first, second)
    assert len(q.transforms) == 3
    for log_q in log_qs[1:]:
        chex.assert_trees_all_close(log_q, log_qs[0], atol=1e-5)


@pytest.mark.parametrize("name", ["coupling-spline", "autoregressive-affine"])
def test_a_density_integrates_to_one(name):
    """On a grid, after a large perturbation of two dimensions."""
    flow = perturbed(make(name, size=2), 5, std=0.5)
    side = jnp.linspace(-9.0, 9.0, 161)
    grid = jnp.stack(jnp.meshgrid(side, side), -1)
    log_q = jax.jit(lambda flow, z: flow(normal(size=2)).log_prob(z))(flow, grid)
    mass = np.exp(log_q).sum() * float(side[1] - side[0]) ** 2
    assert abs(mass - 1) < 1e-3
    assert abs(log_q - normal(size=2).log_prob(grid)).max() > 0.5


def test_many_layers_are_the_program_of_one():
    rngs = nnx.Rngs(0)
    flow = coupling(64, num_layers=16, transformer=affine(), hidden=(8,), rngs=rngs)
    program = str(jax.make_jaxpr(flow.forward)(jnp.ones((3, 64))))
    assert program.count("scan[") == 1
    assert program.count("dot_general[") == 2
