"""Steps a second and peak temporary memory against K, plain and in chunks, for each estimator.

The model is that of ``benchmarks.train_step`` with a batch of 20. Where K is larger than the chunk,
both sides are timed in interleaved pairs, after they have returned the same loss and gradient from
the same draws; scans have ``--num-steps`` steps, or as many as a second takes. Memory is XLA's own
count of temporary bytes for the compiled step. Finished cells are kept in ``--out``.

    python -m benchmarks.large_k --num-samples 4096 --out benchmarks/results/large_k_cpu.json
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import vi
from benchmarks import train_step
from benchmarks._cells import fill, header
from benchmarks._paired import command_line, compiled, count, paired
from vi.bounds import iwae

BATCH = 20
ESTIMATORS = {
    name: getattr(vi.gradients, name) for name in ("reparam", "dreg", "score", "vimco", "mixed")
}
REACH = {"memory": 1 / 32, "time": 1.1}


class AsChunks:
    """Draws all at once from the keys that chunks of ``size`` have."""

    def __init__(self, q, size):
        self.q, self.size, self.log_prob = q, size, q.log_prob

    def rsample(self, key, sample_shape=()):
        """Draws ``[K, *batch, D]``."""
        indices = jnp.arange(sample_shape[0] // self.size)
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.split(key, 1)[0], i))(indices)
        z = jax.vmap(lambda k: self.q.rsample(k, (self.size,)))(keys)
        return z.reshape(*sample_shape, *z.shape[2:])

    sample = rsample


def problem():
    """Parameters, a key and a batch of random pixels."""
    x = jax.random.bernoulli(jax.random.key(1), 0.3, (BATCH, train_step.PIXELS))
    return train_step.init_params(jax.random.key(0)), jax.random.key(2), x.astype(jnp.float32)


def value_and_grad(objective, params, key, x, num_samples):
    """Minus the bound and its gradient."""
    return jax.value_and_grad(lambda p: train_step.loss(objective, p, key, x, num_samples))(params)


def scan(objective, num_samples, num_steps):
    side = functools.partial(value_and_grad, objective)
    return train_step.steps(side, optax.adam(1e-3), num_samples, num_steps)


def difference(make, num_samples, chunk_size):
    """The largest difference of loss or gradient, relative to the largest entry of its leaf."""
    one = make(iwae)

    def at_once(key, q, log_joint, K):
        return one(key, AsChunks(q, chunk_size), log_joint, K)

    sides = [at_once, make(iwae, chunk_size=chunk_size)]
    values = [
        jax.jit(functools.partial(value_and_grad, side), static_argnums=3)(*problem(), num_samples)
        for side in sides
    ]
    error = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), *values)
    return float(np.max(jax.tree.leaves(error)))


def steps_in_a_second(make, num_samples, most):
    at, few = problem(), 1
    program, _ = compiled(scan(make(iwae), num_samples, few), *at)
    jax.block_until_ready(program(*at))
    start = time.perf_counter()
    jax.block_until_ready(program(*at))
    return max(1, min(most, round(few / (time.perf_counter() - start))))


def measure(name, num_samples, chunk_size, num_steps, num_pairs):
    """One cell: the plain step, and the chunked one where K has more than one chunk."""
    make, at = ESTIMATORS[name], problem()
    num_steps = steps_in_a_second(make, num_samples, num_steps)
    sides, sizes = {}, {}
    chunks = {"plain": None} | ({"chunked": chunk_size} if num_samples > chunk_size else {})
    for side, size in chunks.items():
        objective = make(iwae, chunk_size=size)
        one_step, _ = compiled(scan(objective, num_samples, 1), *at)
        memory = one_step.memory_analysis()  # pyright: ignore[reportFunctionMemberAccess]
        sizes[f"{side}_bytes"] = None if memory is None else memory.temp_size_in_bytes
        program, seconds = compiled(scan(objective, num_samples, num_steps), *at)
        sides[side] = functools.partial(program, *at)
        sizes[f"{side}_compile"] = round(seconds, 2)
    row = {"num_steps": num_steps, **sizes}
    if "chunked" not in sides:
        times = paired(sides["plain"], sides["plain"], num_pairs=num_pairs, num_steps=num_steps)
        return row | {"plain": times.ours}
    worst = difference(make, num_samples, chunk_size)
    if not worst <= 1e-3:
        raise RuntimeError(f"{name}: the two sides differ by {worst:.2g} relative: not timed")
    times = paired(sides["chunked"], sides["plain"], num_pairs=num_pairs, num_steps=num_steps)
    return row | {"difference": worst, "plain": times.theirs, "chunked": times.ours} | {
        "ratio": times.ratio, "low": times.low, "high": times.high
    }  # fmt: skip


def line(row):
    start = f"{row['name']:>8} {row['num_samples']:>5}  {1 / row['plain']:>9.2f}"
    memory = [row.get(f"{side}_bytes") for side in ("plain", "chunked")]
    if "ratio" not in row:
        return f"{start} {'':>9} {'':>21}  {_megabytes(memory[0])}"
    share = "" if None in memory else f"{memory[1] / memory[0]:>8.4f}"
    return (
        f"{start} {1 / row['chunked']:>9.2f}"
        f"  {row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        f" {_megabytes(memory[0])} {_megabytes(memory[1])} {share}"
    )


def _megabytes(size):
    return f"{'?':>9}" if size is None else f"{size / 2**20:>9.1f}"


def main():
    samples = {"type": count, "nargs": "+", "default": [1, 8, 64, 512, 4096], "metavar": "K"}
    names = {"nargs": "+", "default": list(ESTIMATORS), "choices": list(ESTIMATORS)}
    chunk = {"type": count, "default": 64, "metavar": "C", "help": "draws in memory at once"}
    options = {"num_samples": samples, "estimators": names, "chunk_size": chunk}
    args = command_line(__doc__, num_steps=200, **options)
    facts = {"reach": REACH, "chunk_size": args.chunk_size, "batch": BATCH}
    head = header("iwae, plain and in chunks", **facts)
    print(f"{head['title']} of {args.chunk_size}; medians of {args.num_pairs} pairs")
    print(f"{'':>8} {'K':>5}  {'steps/s':>9} {'chunked':>9}  time, chunked / plain"
          f" {'MiB':>9} {'chunked':>9} {'ratio':>8}")  # fmt: skip

    def cell(name, num_samples):
        yield measure(name, num_samples, args.chunk_size, args.num_steps, args.num_pairs)

    cells = [{"name": n, "num_samples": k} for k in args.num_samples for n in args.estimators]
    fill(args.out, head, cells, cell, line)


if __name__ == "__main__":
    main()
