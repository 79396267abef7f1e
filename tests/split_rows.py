"""Rows of the tables of families and flows with K split over devices; run by a test.

Prints the name of each row whose value and gradient are those of one device with the same chunks,
or the name and why it was refused.
"""

import functools
import sys

import flows
import jax
import jax.numpy as jnp
import numpy as np
from families import FAMILIES, Row
from jax.sharding import PartitionSpec as P

from vi.bounds import iwae
from vi.gradients import dreg, vimco

jax.config.update("jax_debug_key_reuse", True)
ESTIMATORS = {"dreg": dreg, "vimco": vimco}
NUM_DEVICES, K = jax.device_count(), 4
MESH = jax.make_mesh((NUM_DEVICES,), ("k",))


def row_of_a_flow(name: str) -> Row:
    context = flows.context_of(flows.C)
    flow = flows.perturbed(flows.make(name, flows.C), 0)
    estimators = ("dreg",) if name == "planar" else ("dreg", "vimco")

    def images(flow):
        return flow(flows.normal(), context)

    return Row(images, flow, lambda: None, estimators)


def log_joint(row: Row, z):
    total = 0.0
    for leaf in jax.tree.leaves(row.features(z)):
        x = jnp.asarray(leaf, float).reshape(K // NUM_DEVICES, -1)
        total = total + (jnp.sin(1.3 * x + 1 + jnp.arange(x.shape[1])) - 0.1 * x**2).sum(-1)
    return total


def values_and_gradients(row: Row, params, seed, **where):
    """By each estimator of the row, in one program."""

    def of(make, seed):
        def value(params):
            objective = make(iwae, **where)
            key = jax.random.key(seed)
            return objective(key, row.make(params), functools.partial(log_joint, row), K)

        return jax.value_and_grad(value)(params)

    return [of(make, seed) for name, make in ESTIMATORS.items() if name in row.estimators]


def run(name: str, row: Row) -> None:
    here = jax.jit(lambda p, s: values_and_gradients(row, p, s, chunk_size=K // NUM_DEVICES))
    split = jax.shard_map(
        lambda p, s: values_and_gradients(row, p, s, axis_name="k"),
        mesh=MESH, in_specs=P(), out_specs=P(),
    )  # fmt: skip
    try:
        got = jax.jit(split)(row.params, 3)
    except (TypeError, ValueError) as error:
        print(f"{name}: {error}".replace("\n", " "))
        return
    truth, other = here(row.params, 3), here(row.params, 4)
    gap, twin = distance(got, truth), distance(got, other)
    assert gap < 1e-4, (name, gap)
    assert twin > 1e-3 or "dreg" not in row.estimators, (name, twin)  # outcomes may repeat
    print(name)


def distance(a, b) -> float:
    """The largest over all numbers, of those beyond 1 relative."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float((np.abs(x - y) / np.maximum(1, np.abs(y))).max()) for x, y in pairs)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        kind, _, member = name.partition(" ")
        run(name, row_of_a_flow(member) if kind == "flow" else FAMILIES[name])
