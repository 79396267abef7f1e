"""K split over the devices of a mesh axis: what one device gives with the same chunks."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import vi

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, numpyro.distributions as dist
import vi
from jax.sharding import PartitionSpec as P

jax.config.update("jax_debug_key_reuse", True)
NUM_DEVICES, K = int({num_devices}), 16
x = jnp.arange(6.0).reshape(2, 3) / 10
params = {{"w": jnp.array([0.7, 1.1, -0.4]), "s": jnp.zeros(3), "t": jnp.array(0.3)}}
mesh = jax.make_mesh((NUM_DEVICES,), ("k",))
every = P()

def make_q(kind, params, x):
    normal = vi.families.normal(x * params["w"], log_scale=jnp.tile(params["s"], (2, 1)))
    bits = dist.Bernoulli(logits=x * params["w"] + params["s"]).to_event(1)
    if kind == "mixed":
        return vi.families.chain({{
            "z": normal,
            "c": lambda z: dist.Bernoulli(logits=z * params["w"]).to_event(1),
        }})
    return {{"normal": normal, "bits": bits}}[kind]

def value(params, key, x, kind, objective):
    def log_joint(z):
        z = z["z"] + z["c"] if kind == "mixed" else z
        log_p = -(z**2).sum(-1) - ((z * params["w"] - x) ** 2).sum(-1)
        return log_p, z
    evaluation = objective.evaluate(key, make_q(kind, params, x), log_joint, K)
    return evaluation.value.sum(), (evaluation.log_weights, evaluation.aux)

g = vi.gradients
for kind, make, bound, chunk in {cases}:
    each = K // NUM_DEVICES
    here = make(bound, chunk_size=each if chunk is None else chunk)
    there = make(bound, chunk_size=chunk, axis_name="k")
    def of(objective, *args):
        return jax.value_and_grad(lambda *a: value(*a, kind, objective), has_aux=True)(*args)
    (truth, (log_w, aux)), gradient = jax.jit(lambda *a: of(here, *a))(params, jax.random.key(3), x)
    body = lambda *a: of(there, *a)
    specs = ((every, (every, P("k"))), every)
    inside = jax.shard_map(body, mesh=mesh, in_specs=every, out_specs=specs)
    got = [jax.jit(inside)(params, jax.random.key(3), x)]
    loss = jax.shard_map(
        lambda *a: value(*a, kind, there)[0], mesh=mesh, in_specs=every, out_specs=every
    )
    outside = jax.jit(jax.value_and_grad(loss))(params, jax.random.key(3), x)
    got.append(((outside[0], (log_w, aux)), outside[1]))
    for (split, (log_weights, side)), slopes in got:
        np.testing.assert_allclose(split, truth, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(log_weights, log_w, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(side, aux, rtol=1e-5, atol=1e-5)
        for name in params:
            np.testing.assert_allclose(slopes[name], gradient[name], rtol=2e-4, atol=2e-5)
    assert max(abs(g).max() for g in jax.tree.leaves(gradient)) > 0.1
    print(kind, there)

# the data over one axis, K over the other: each half of the data is as on its own
auto = (jax.sharding.AxisType.Auto,) * 2
both = jax.make_mesh((2, NUM_DEVICES // 2), ("d", "k"), axis_types=auto)
objective = g.dreg(vi.bounds.iwae, axis_name="k")

def of_half(params, key, x, objective):
    q = vi.families.normal(x * params["w"], log_scale=jnp.tile(params["s"], (len(x), 1)))
    log_joint = lambda z: -(z**2).sum(-1) - ((z * params["w"] - x) ** 2).sum(-1)
    return objective(jax.random.fold_in(key, (x[0, 0] > 0.2).astype(int)), q, log_joint, K)

halves = jax.shard_map(
    lambda *a: of_half(*a, objective), mesh=both, in_specs=(P(), P(), P("d")), out_specs=P("d")
)
gradient = jax.grad(lambda *a: halves(*a).sum())
split = jax.jit(gradient)(params, jax.random.key(5), x)
one = g.dreg(vi.bounds.iwae, chunk_size=K // (NUM_DEVICES // 2)) if NUM_DEVICES > 2 else None
if one is not None:
    slopes = jax.jit(jax.grad(lambda *a: of_half(*a, one).sum()))
    each = [slopes(params, jax.random.key(5), half) for half in (x[:1], x[1:])]
    for name in params:
        total = each[0][name] + each[1][name]
        np.testing.assert_allclose(split[name], total, rtol=2e-4, atol=2e-5)

def refused(objective, num_samples=K, check_vma=True):
    def body(params, key, x):
        q = make_q("normal", params, x)
        return objective(key, q, lambda z: -(z**2).sum(-1), num_samples).sum()
    mapped = jax.shard_map(body, mesh=mesh, in_specs=every, out_specs=every, check_vma=check_vma)
    try:
        jax.jit(mapped)(params, jax.random.key(3), x)
    except ValueError as error:
        print(error)

objective = g.dreg(vi.bounds.iwae, axis_name="k")
refused(objective, num_samples=K + 1)
refused(objective, check_vma=False)
refused(g.dreg(vi.bounds.iwae, axis_name="j"))
"""
ALL = """[
    ("normal", g.dreg, vi.bounds.iwae, None),
    ("normal", g.dreg, vi.bounds.iwae, 1),
    ("normal", g.reparam, vi.bounds.renyi(0.5), None),
    ("normal", g.wake, vi.bounds.iwae, None),
    ("bits", g.vimco, vi.bounds.iwae, None),
    ("bits", g.vimco, vi.bounds.iwae, 1),
    ("bits", g.score, vi.bounds.cubo(2), None),
    ("bits", g.fixed, vi.bounds.log_variance, None),
    ("mixed", g.mixed, vi.bounds.iwae, None),
]"""
SOME = """[
    ("normal", g.dreg, vi.bounds.iwae, None),
    ("bits", g.vimco, vi.bounds.iwae, 1),
    ("mixed", g.mixed, vi.bounds.iwae, None),
]"""


def run(num_devices, cases):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(num_devices=num_devices, cases=cases)],
        capture_output=True,
        text=True,
        env={"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("num_devices", "cases"),
    [
        pytest.param(8, SOME, marks=pytest.mark.slow),
        (2, SOME),
        pytest.param(2, ALL, marks=pytest.mark.slow),
        pytest.param(8, ALL, marks=pytest.mark.slow),
    ],
    ids=["8", "2", "2, all", "8, all"],
)
def test_a_split_of_k_equals_one_device(num_devices, cases):
    *equal, indivisible, unchecked, unknown = run(num_devices, cases)
    assert len(equal) == cases.count("(") - cases.count("renyi(0") - cases.count("cubo(")
    assert "dreg: num_samples must be a multiple of the" in indivisible
    assert "dreg: axis_name must be an axis of a jax.shard_map that knows" in unchecked
    assert "dreg: axis_name must name an axis of the mesh around the call (got 'j')" in unknown


def test_outside_of_a_mesh_it_is_refused():
    objective = vi.gradients.dreg(vi.bounds.iwae, axis_name="k")
    q = vi.families.normal(jnp.zeros(2), scale=jnp.ones(2))
    with pytest.raises(ValueError, match=r"axis_name must name an axis of the mesh"):
        objective(jax.random.key(0), q, lambda z: -(z**2).sum(-1), 4)
    with pytest.raises(ValueError, match=r"axis_name must be a string .*got 3"):
        vi.gradients.dreg(vi.bounds.iwae, axis_name=3)
