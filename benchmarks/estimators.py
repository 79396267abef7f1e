"""``dreg(bound)`` against ``reparam(bound)`` for every smooth bound, per compiled training step.

The model and the step are those of ``benchmarks.train_step``, all parameters trained, in the sense
that the bound declares. Both sides must first return the same value, and the same gradient of the
decoder, which the two estimators share. A bound that needs more samples than asked for is timed at
the least that it takes. Scans have ``--num-steps`` steps, or fewer where that many take longer than
a second. Each finished cell is written to ``--out``: a run that is started again goes on from it.

    python -m benchmarks.estimators --out benchmarks/results/estimators_cpu.json
"""

import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import vi
from benchmarks import train_step
from benchmarks._cells import fill, header
from benchmarks._paired import Row, command_line, compiled, count, paired
from vi import bounds

REACH = 1.05
GRID = tuple(step / 10 for step in range(11))
ROULETTE = bounds.Roulette(budget=4)
DECODER = ("d1", "d2", "logits")
BOUNDS = {
    bound.__name__: bound
    for bound in (
        bounds.elbo,
        bounds.iwae,
        bounds.renyi(0.5),
        bounds.renyi(2.0),
        bounds.renyi(-1.0),
        bounds.cubo(2),
        bounds.eubo,
        bounds.tvo_lower(GRID),
        bounds.tvo_upper(GRID),
        bounds.log_variance,
        bounds.forward_kl(),
        bounds.reverse_kl(),
        bounds.chi_square(),
        bounds.squared_hellinger(),
        bounds.jensen_shannon(),
        bounds.jackknife(bounds.iwae),
        bounds.grouped(bounds.iwae, 5),
        bounds.mix(0.05, bounds.elbo, bounds.iwae),
        bounds.tempered(bounds.iwae, 0.5),
        bounds.sumo(ROULETTE.sample(jax.random.key(3), (train_step.BATCH,)), ROULETTE),
    )
}


def value_and_grad(objective, params, key, x, num_samples):
    """The bound, and the gradient of what is minimised: the bound or minus it, as it declares."""
    sign = -1 if bounds.declaration(objective.bound).sense == "minimise" else 1

    def loss(params):
        return sign * train_step.loss(objective, params, key, x, num_samples)

    return jax.value_and_grad(loss)(params)


def cells(names, num_samples):
    """Each bound's name with each K, or the least K that the bound takes above it."""
    for K in num_samples:
        for name in names:
            declared = bounds.declaration(BOUNDS[name])
            groups = declared.num_groups or 1
            yield name, math.ceil(max(K, declared.min_samples) / groups) * groups


def problem():
    """Parameters, a key and a batch of random pixels."""
    x = jax.random.bernoulli(jax.random.key(1), 0.3, (train_step.BATCH, train_step.PIXELS))
    return train_step.init_params(jax.random.key(0)), jax.random.key(2), x.astype(jnp.float32)


def scan(objective, num_samples, num_steps):
    side = functools.partial(value_and_grad, objective)
    return train_step.steps(side, optax.adam(1e-3), num_samples, num_steps)


@functools.cache
def steps_in_a_second(num_samples, most):
    """The steps of ``reparam(elbo)`` that take a second, but at most ``most``."""
    at, few = problem(), 3
    program, _ = compiled(scan(vi.gradients.reparam(bounds.elbo), num_samples, few), *at)
    jax.block_until_ready(program(*at))
    start = time.perf_counter()
    jax.block_until_ready(program(*at))
    return min(most, math.ceil(few / (time.perf_counter() - start)))


def difference(sides, num_samples):
    """The largest relative difference of the value and of the decoder's gradient."""
    value_and_grads = [
        jax.jit(functools.partial(value_and_grad, side), static_argnums=3)(*problem(), num_samples)
        for side in sides
    ]
    shared = [(value, {name: grad[name] for name in DECODER}) for value, grad in value_and_grads]
    error = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), *shared)
    return float(np.max(jax.tree.leaves(error)))  # NaN where one is


def measure(name, num_samples, num_steps, num_pairs):
    at = problem()
    sides = vi.gradients.dreg(BOUNDS[name]), vi.gradients.reparam(BOUNDS[name])
    worst = difference(sides, num_samples)
    if not worst <= 1e-4:
        raise RuntimeError(f"{name}: the two sides differ by {worst:.2g} relative: not timed")
    programs = [compiled(scan(side, num_samples, num_steps), *at) for side in sides]
    runs = [functools.partial(program, *at) for program, _ in programs]
    times = paired(*runs, num_pairs=num_pairs, num_steps=num_steps)
    return Row(name, times, worst, *(seconds for _, seconds in programs))


def line(row):
    times = row["times"]
    return (
        f"{row['name']:>24} {row['num_samples']:>4} {row['num_steps']:>6}"
        f" {1e3 * times['ours']:>9.3f} {1e3 * times['theirs']:>10.3f} {times['ratio']:>7.3f}"
        f"  [{times['low']:.3f}, {times['high']:.3f}]"
        f"  {row['compile_ours']:>6.1f} / {row['compile_theirs']:.1f}"
    )


def main():
    samples = {"type": count, "nargs": "+", "default": [1, 5, 50], "metavar": "K"}
    names = {"nargs": "+", "default": list(BOUNDS), "choices": list(BOUNDS), "metavar": "BOUND"}
    names["help"] = f"any of: {', '.join(BOUNDS)}"
    args = command_line(__doc__, num_steps=200, num_samples=samples, bounds=names)
    head = header("dreg against reparam, per training step", reach=REACH)
    print(f"{head['title']}; medians of {args.num_pairs} pairs")
    print(f"{'':>24} {'K':>4} {'steps':>6} {'dreg ms':>9} {'reparam ms':>10} {'ratio':>7}"
          "  95 % interval   compile s")  # fmt: skip

    def cell(name, num_samples):
        num_steps = steps_in_a_second(num_samples, args.num_steps)
        row = measure(name, num_samples, num_steps, args.num_pairs)
        yield {**row._asdict(), "num_steps": num_steps, "times": row.times._asdict()}

    names = dict.fromkeys(cells(args.bounds, args.num_samples))
    wanted = [{"name": name, "num_samples": K} for name, K in names]
    rows = fill(args.out, head, wanted, cell, line)
    ratios = [row["times"]["ratio"] for row in rows]
    print(f"{sum(ratio <= REACH for ratio in ratios)} of {len(ratios)} ratios are at most {REACH}")


if __name__ == "__main__":
    main()
