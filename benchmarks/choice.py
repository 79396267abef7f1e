"""Which estimator for which q: variance, seconds and efficiency of the encoder's gradient.

One decoder on the digits, and three posteriors over its latents: normal, bits, and a chain of both
in which the bits depend on the normals. Each is trained a little with the estimator that the
documentation recommends for it; there the gradients of ``iwae`` are metered, one minibatch, paired
keys. Efficiency is one over variance times seconds, relative to the first estimator of the family.

    python -m benchmarks.choice --out benchmarks/results/choice_cpu.json
"""

import functools

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import optax

import vi
from benchmarks._cells import fill, header
from benchmarks._paired import command_line, count
from experiments._data import load_images
from vi.bounds import iwae
from vi.gradients import dreg, mixed, reparam, score, vimco

HIDDEN, LATENT, BATCH = 100, 16, 20


def init_params(key, pixels):
    sizes = {
        "encoder": {"hidden": (pixels, HIDDEN), "loc": (HIDDEN, LATENT), "spread": (HIDDEN, LATENT),
                    "between": (LATENT // 2, LATENT // 2)},
        "decoder": {"hidden": (LATENT, HIDDEN), "logits": (HIDDEN, pixels), "prior": (1, LATENT)},
    }  # fmt: skip
    shapes, tree = jax.tree.flatten(sizes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    glorot = jax.nn.initializers.glorot_uniform()
    keys = jax.random.split(key, len(shapes))
    weights = [(glorot(k, s), jnp.zeros(s[1])) for k, s in zip(keys, shapes, strict=True)]
    return jax.tree.unflatten(tree, weights)


def dense(layer, inputs):
    return inputs @ layer[0] + layer[1]


def posterior(family, params, x):
    features = jnp.tanh(dense(params["hidden"], x))
    loc, spread = dense(params["loc"], features), dense(params["spread"], features)
    if family == "normal":
        return vi.families.normal(loc, log_scale=spread)
    if family == "bits":
        return vi.families.bernoulli(loc)
    half = LATENT // 2
    normal = vi.families.normal(loc[..., :half], log_scale=spread[..., :half])

    def bits(z):
        return vi.families.bernoulli(loc[..., half:] + dense(params["between"], z))

    return vi.families.chain({"z": normal, "c": bits})


def log_joint(family, params, x):
    standard = dist.Normal(0.0, 1.0)
    logits = dense(params["prior"], jnp.ones(1))

    def value(z):
        if family == "normal":
            log_prior, code = standard.log_prob(z).sum(-1), z
        elif family == "bits":
            log_prior, code = vi.families.bernoulli(logits).log_prob(z), z
        else:
            of_bits = vi.families.bernoulli(logits[LATENT // 2 :]).log_prob(z["c"])
            log_prior = standard.log_prob(z["z"]).sum(-1) + of_bits
            code = jnp.concatenate([z["z"], z["c"]], -1)
        hidden = jnp.tanh(dense(params["hidden"], code))
        return log_prior + vi.likelihoods.bernoulli(dense(params["logits"], hidden)).log_prob(x)

    return value


def mean_of_others(bound, log_w):
    """A plain leave-one-out baseline: the mean of the other log-weights."""
    return (log_w.sum(0) - log_w) / (log_w.shape[0] - 1)


ESTIMATORS = {
    "normal": {"dreg": dreg, "reparam": reparam, "vimco": vimco, "score": score},
    "bits": {
        "vimco": vimco,
        "score, mean of others": functools.partial(score, baseline=mean_of_others),
        "score": score,
    },
    "normal and bits": {"mixed": mixed, "vimco": vimco, "score": score},
}


def loss(family, objective, num_samples, params, key, x):
    q = posterior(family, params["encoder"], x)
    return -objective(key, q, log_joint(family, params["decoder"], x), num_samples).mean()


def trained(family, make, num_samples, images, num_steps):
    """Parameters after so many steps of Adam, and the data they were trained on."""

    def step_loss(params, key, x):
        return loss(family, make(iwae), num_samples, params, key, x > 0.5)

    optimizer = optax.adam(3e-3)
    state = vi.training.init(init_params(jax.random.key(0), images.shape[1]), optimizer)
    step = vi.training.gradient_step(step_loss, optimizer)
    run = functools.partial(vi.training.run, num_steps=num_steps, batch_size=BATCH)
    state, _ = jax.jit(lambda key, state: run(key, step, state, images))(jax.random.key(1), state)
    return state.params


def measure(family, num_samples, args, images):
    """The meter's table of one family at one K, rows by estimator."""
    makes = ESTIMATORS[family]
    params = trained(family, next(iter(makes.values())), num_samples, images, args.num_steps)
    x = (images[:BATCH] > 0.5).astype(jnp.float32)

    def of(make):
        return lambda p, key: loss(family, make(iwae), num_samples, p, key, x)

    meter = vi.diagnostics.gradient_meter(
        jax.random.key(2), {name: of(make) for name, make in makes.items()}, params,
        num_replicates=args.num_replicates, batch_size=16, num_timings=31,
    )  # fmt: skip
    block = meter.blocks.index("encoder")
    variance, efficiency = meter.relative_variance, meter.relative_efficiency
    for index, name in enumerate(makes):
        yield {
            "name": name,
            "variance": float(variance[0][index, block]),
            "variance_stderr": float(variance[1][index, block]),
            "milliseconds": 1e3 * float(meter.seconds[index]),
            "efficiency": float(efficiency[index, block]),
        }


def line(row):
    return (
        f"{row['family']:>16} {row['num_samples']:>4} {row['name']:>22}"
        f" {row['variance']:>10.3g} +- {row['variance_stderr']:<8.2g}"
        f" {row['milliseconds']:>7.2f} {row['efficiency']:>10.3g}"
    )


def main():
    samples = {"type": count, "nargs": "+", "default": [2, 8, 64], "metavar": "K"}
    replicates = {"type": count, "default": 1000, "help": "gradients of each estimator"}
    args = command_line(__doc__, num_steps=1000, num_samples=samples, num_replicates=replicates)
    facts = {"num_steps": args.num_steps, "num_replicates": args.num_replicates}
    head = header("iwae, the encoder's gradient: relative to the first of each family", **facts)
    images = jnp.asarray(load_images("digits").train, jnp.float32)
    print(f"{head['title']}; trained for {args.num_steps} steps")
    print(f"{'':>16} {'K':>4} {'':>22} {'variance':>10} {'':>11} {'ms':>7} {'efficiency':>10}")

    def cell(family, num_samples):
        return measure(family, num_samples, args, images)

    cells = [{"family": f, "num_samples": k} for k in args.num_samples for f in ESTIMATORS]
    fill(args.out, head, cells, cell, line)


if __name__ == "__main__":
    main()
