"""``vi.training.run`` and ``fit`` against the scan that a user would write of the same jitted step.

The step is a reparameterised ELBO of the 784-200-200-50 model, batch 100, on 10,000 images of
random bits held as uint8. The user's side is given its minibatches as row numbers drawn before, the
least that such a loop can cost; both sides take the same steps and must return the same losses.

    python -m benchmarks.train_loop --help
"""

import functools

import jax
import jax.numpy as jnp
import optax

import vi
from benchmarks import train_step
from benchmarks._paired import Row, command_line, compiled, paired, report
from benchmarks.train_step import BATCH, PIXELS

IMAGES = 10_000


def loss(params, key, pixels):
    objective = vi.gradients.reparam(vi.bounds.elbo)
    return train_step.loss(objective, params, key, pixels.astype(jnp.float32), 1)


def by_hand(optimizer, rows, key, state, data):
    """A scan of the user's own step over the minibatches and keys that ``run`` draws."""
    noise_key = jax.random.fold_in(key, 1)

    def step(carry, at):
        params, opt_state = carry
        index, row = at
        value, gradient = jax.value_and_grad(loss)(
            params, jax.random.fold_in(noise_key, index), data[row]
        )
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    start = (state.params, state.opt_state)
    return jax.lax.scan(step, start, (jnp.arange(len(rows)), rows))


def rows_of_run(key, num_steps):
    """The minibatches that ``run`` takes, as row numbers ``[num_steps, BATCH]``."""
    record = vi.training.run(
        key,
        lambda state, _, rows: (state, {"loss": jnp.zeros(()), "rows": rows}),
        vi.training.init(jnp.zeros(()), optax.identity()),
        jnp.arange(IMAGES),
        num_steps=num_steps,
        batch_size=BATCH,
    )
    return record[1]["rows"]


def measure(num_steps, num_pairs):
    optimizer = optax.adam(1e-3)
    key = jax.random.key(2)
    step = vi.training.gradient_step(loss, optimizer)
    state = vi.training.init(train_step.init_params(jax.random.key(0)), optimizer)
    data = jax.random.bernoulli(jax.random.key(1), 0.3, (IMAGES, PIXELS)).astype(jnp.uint8)
    run = functools.partial(vi.training.run, step=step, num_steps=num_steps, batch_size=BATCH)
    ours, ours_compile = compiled(lambda key, s, d: run(key, state=s, data=d), key, state, data)
    rows = rows_of_run(key, num_steps)
    theirs, theirs_compile = compiled(functools.partial(by_hand, optimizer), rows, key, state, data)

    def fit():
        return vi.training.fit(
            key, step, state, data, num_steps=num_steps, batch_size=BATCH, progress=False
        )

    fit_compile = fit().compile_seconds
    _, history = ours(key, state, data)
    _, losses = theirs(rows, key, state, data)
    worst = float(jnp.abs(history["loss"] - losses).max() / jnp.abs(losses).max())
    if worst > 1e-3:
        raise RuntimeError(f"the losses differ by {worst:.2g} relative: nothing was timed")
    by_hand_side = (lambda: theirs(rows, key, state, data)), theirs_compile
    run_side = (lambda: ours(key, state, data)), ours_compile
    fit_side = (lambda: fit().state), fit_compile
    pairs = {
        "run / by hand": (run_side, by_hand_side),
        "fit / by hand": (fit_side, by_hand_side),
        "fit / run": (fit_side, run_side),
    }
    for name, ((side, seconds), (reference, reference_seconds)) in pairs.items():
        result = paired(side, reference, num_pairs=num_pairs, num_steps=num_steps)
        yield Row(name, result, worst, seconds, reference_seconds)


def main():
    args = command_line(__doc__, num_steps=300)
    report("against a hand-written scan", measure(args.num_steps, args.num_pairs), args)


if __name__ == "__main__":
    main()
