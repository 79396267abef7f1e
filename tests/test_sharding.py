"""Data split over two devices: the same gradient, however the mesh is spelled."""

import subprocess
import sys

import pytest

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
import vi
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

x = jnp.arange(24.0).reshape(8, 3) / 10
params = {"w": jnp.array([0.7, 1.1, -0.4]), "s": jnp.zeros(3)}

def loss(params, x, objective, mean=lambda v: v.mean()):
    q = vi.families.normal(x * params["w"], log_scale=jnp.tile(params["s"], (x.shape[0], 1)))
    log_joint = lambda z: -(z**2).sum(-1) - ((z * params["w"] - x) ** 2).sum(-1)
    return -mean(objective(jax.random.key(0), q, log_joint, 5))

for make, bound in ((vi.gradients.reparam, vi.bounds.elbo), (vi.gradients.dreg, vi.bounds.iwae)):
    for chunk_size in (None, 2):
        objective = make(bound, chunk_size=chunk_size)
        gradient = jax.jit(jax.grad(lambda p, x: loss(p, x, objective)))
        truth = gradient(params, x)
        for kind in (AxisType.Auto, AxisType.Explicit):
            mesh = jax.make_mesh((2,), ("d",), axis_types=(kind,))
            with jax.set_mesh(mesh):
                there = jax.device_put(x, NamedSharding(mesh, P("d")))
                split = gradient(jax.device_put(params, NamedSharding(mesh, P())), there)
                for name in params:
                    np.testing.assert_allclose(split[name], truth[name], rtol=1e-5, atol=1e-6)

        mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
        mean = lambda v: jax.lax.pmean(v.mean(), "d")
        body = lambda p, x: loss(p, x, objective, mean)
        mapped = jax.shard_map(body, mesh=mesh, in_specs=(P(), P("d")), out_specs=P())
        value, halves = jax.jit(jax.value_and_grad(mapped))(params, x)
        half = jax.jit(jax.value_and_grad(lambda p, x: loss(p, x, objective)))
        each = [half(params, x[:4]), half(params, x[4:])]
        np.testing.assert_allclose(value, (each[0][0] + each[1][0]) / 2, rtol=1e-5)
        for name in params:
            np.testing.assert_allclose(
                halves[name], (each[0][1][name] + each[1][1][name]) / 2, rtol=1e-5, atol=1e-6
            )
print("equal")
"""


@pytest.mark.slow
def test_two_devices_equal_one():
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"},
    )
    assert run.stdout.strip() == "equal", run.stderr[-2000:]
