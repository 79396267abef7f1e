"""One SVI step with our loss against NumPyro's own, in a compiled scan of ``SVI.update``.

Three programs: a variational autoencoder (784-200-200-50, batch 100), eight schools and a plated
regression. ``elbo`` is compared with ``Trace_ELBO`` and ``iwae`` with ``RenyiELBO(alpha=0)``, each
under ``reparam`` and under ``dreg``; ``RenyiELBO`` has no such gradient, so that there the ratio is
what the better estimator costs. Both sides first return the same losses: draw by draw where the
keys are split alike, in the mean over keys where they are not.

    python -m benchmarks.numpyro_step --help
"""

import functools
import math
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.contrib.module import flax_module
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO
from numpyro.infer.autoguide import AutoDiagonalNormal, AutoNormal

import vi
from benchmarks._cells import fill, header
from benchmarks._paired import command_line, compiled, count, paired

PIXELS, LATENT, HIDDEN, BATCH = 784, 50, 200, 100


class Network(nn.Module):
    """Two hidden layers."""

    out: int

    @nn.compact
    def __call__(self, x):
        """From ``[..., in]`` to ``[..., out]``."""
        x = nn.tanh(nn.Dense(HIDDEN)(x))
        return nn.Dense(self.out)(nn.tanh(nn.Dense(HIDDEN)(x)))


def decoder(x):
    decode = flax_module("decoder", Network(PIXELS), input_shape=(1, LATENT))
    with numpyro.plate("N", len(x)):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([LATENT]).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)


def encoder(x):
    encode = flax_module("encoder", Network(2 * LATENT), input_shape=(1, PIXELS))
    loc, log_scale = jnp.split(encode(x), 2, axis=-1)
    with numpyro.plate("N", len(x)):
        numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))


def eight_schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def regression(x, y):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    with numpyro.plate("N", len(y)):
        numpyro.sample("y", dist.Normal(x @ w, noise), obs=y)


def programs():
    """``(model, guide, arguments, plates)`` by name."""
    rng = np.random.default_rng(0)
    bits = jnp.array(rng.random((BATCH, PIXELS)) < 0.3, jnp.float32)
    x = jnp.array(rng.normal(size=(1000, 20)), jnp.float32)
    y = x @ jnp.ones(20) + jnp.array(rng.normal(size=1000), jnp.float32)
    effects = jnp.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    errors = jnp.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    return {
        "vae": (decoder, encoder, (bits,), None),
        "eight schools": (eight_schools, AutoNormal(eight_schools), (effects, errors), ()),
        "regression": (regression, AutoDiagonalNormal(regression), (x, y), ()),
    }


def losses(objective, num_particles, plates):
    """Ours, NumPyro's, and whether both split the keys alike."""
    bound, estimator = objective.split()
    objective = getattr(vi.gradients, estimator)(getattr(vi.bounds, bound))
    ours = vi.numpyro.Loss(objective, num_particles=num_particles, plates=plates)
    if bound == "elbo":
        return ours, Trace_ELBO(num_particles=num_particles), num_particles == 1
    return ours, RenyiELBO(num_particles=num_particles), num_particles > 1


def scanned(model, guide, args, loss, num_steps):
    """``(state, args) -> (state, losses)`` of so many updates, and the first state."""
    svi = SVI(model, guide, optax.adam(1e-3), loss)
    state = svi.init(jax.random.key(0), *args)

    def scan(state, *args):
        return jax.lax.scan(lambda s, _: svi.update(s, *args), state, None, length=num_steps)

    return scan, state


def require_same(model, guide, args, ours, theirs, *, alike, num_draws=64):
    """Refuse to time losses that differ, by draws or by the mean over so many of them."""
    svi = SVI(model, guide, optax.sgd(0.0), ours)
    params = svi.get_params(svi.init(jax.random.key(0), *args))
    keys = jax.random.split(jax.random.key(1), num_draws)

    def values(loss):
        run = lambda key: loss.loss(key, params, model, guide, *args)  # noqa: E731
        return np.asarray(jax.jit(lambda keys: jax.lax.map(run, keys))(keys), float)

    ours, theirs = values(ours), values(theirs)
    if alike:
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        if error > 1e-5:
            raise RuntimeError(f"the losses differ by {error:.2g} relative: nothing was timed")
    error = np.hypot(ours.std(ddof=1), theirs.std(ddof=1)) / num_draws**0.5
    if abs(ours.mean() - theirs.mean()) > 5 * error:
        raise RuntimeError(f"the mean losses differ, {ours.mean()} and {theirs.mean()}")


def measure(program, objective, num_particles, *, num_steps, num_pairs):
    model, guide, args, plates = programs()[program]
    ours, theirs, alike = losses(objective, num_particles, plates)
    require_same(model, guide, args, ours, theirs, alike=alike)
    sides, seconds = [], []
    for loss in (ours, theirs):
        scan, state = scanned(model, guide, args, loss, 10)
        step, _ = compiled(scan, state, *args)
        seconds.append(_seconds(step, state, *args) / 10)
    steps = steps_for(max(seconds), num_steps)
    compile_seconds = []
    for loss in (ours, theirs):
        scan, state = scanned(model, guide, args, loss, steps)
        step, took = compiled(scan, state, *args)
        sides.append(functools.partial(step, state, *args))
        compile_seconds.append(took)
    times = paired(*sides, num_pairs=num_pairs, num_steps=steps)
    yield {
        **times._asdict(), "steps": steps,
        "compile_ours": compile_seconds[0], "compile_theirs": compile_seconds[1],
    }  # fmt: skip


def steps_for(seconds, num_steps):
    """So many that a pair takes a fifth of a second, or a second where that is fewer."""
    return math.ceil(max(0.2 / seconds, min(num_steps, 1 / seconds)))


def _seconds(step, *args):
    jax.block_until_ready(step(*args))
    start = time.perf_counter()
    jax.block_until_ready(step(*args))
    return time.perf_counter() - start


def line(row):
    return (
        f"{row['program']:>14} {row['objective']:>13} K {row['num_particles']:>2}"
        f"  {1e3 * row['ours']:>9.3f} ms {1e3 * row['theirs']:>9.3f} ms  {row['ratio']:.3f}"
        f" [{row['low']:.3f}, {row['high']:.3f}]"
        f"  compile {row['compile_ours']:.2f} / {row['compile_theirs']:.2f} s"
    )


def main():
    options = {
        "programs": {"nargs": "+", "default": list(programs()), "choices": list(programs())},
        "num_particles": {"nargs": "+", "type": count, "default": [1, 10, 64]},
    }
    args = command_line(__doc__, num_steps=200, **options)
    cells = [
        {"program": program, "objective": objective, "num_particles": k}
        for program in args.programs
        for objective in ("elbo reparam", "iwae reparam", "elbo dreg", "iwae dreg")
        for k in args.num_particles
    ]
    title = "an SVI step with our loss over one with NumPyro's"
    head = header(title, numpyro=numpyro.__version__, num_pairs=args.num_pairs)
    timed = functools.partial(measure, num_steps=args.num_steps, num_pairs=args.num_pairs)
    rows = fill(args.out, head, cells, timed, line)
    ratios = sorted(row["ratio"] for row in rows)
    print(f"{len(ratios)} ratios: median {np.median(ratios):.3f}, largest {ratios[-1]:.3f}")


if __name__ == "__main__":
    main()
