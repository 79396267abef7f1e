"""A compiled ``dreg(iwae)`` training step against a hand-written fused JAX step of the same model.

The model is the IWAE paper's: 784-200-200-50 with tanh, Bernoulli pixels, batch 100. The
hand-written side is one forward and one backward pass with DReG's weights derived on paper. Both
sides draw the same noise and must return the same loss and gradient before anything is timed.

    python -m benchmarks.train_step --help
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import optax

import vi
from benchmarks._paired import Row, command_line, compiled, count, paired, report

PIXELS, HIDDEN, LATENT, BATCH = 784, 200, 50, 100


def init_params(key):
    sizes = {
        "e1": (PIXELS, HIDDEN), "e2": (HIDDEN, HIDDEN), "loc": (HIDDEN, LATENT),
        "log_scale": (HIDDEN, LATENT), "d1": (LATENT, HIDDEN), "d2": (HIDDEN, HIDDEN),
        "logits": (HIDDEN, PIXELS),
    }  # fmt: skip
    keys = jax.random.split(key, len(sizes))
    glorot = jax.nn.initializers.glorot_uniform()
    return {
        name: (glorot(k, size), jnp.zeros(size[1]))
        for k, (name, size) in zip(keys, sizes.items(), strict=True)
    }


def dense(params, name, h):
    weight, bias = params[name]
    return h @ weight + bias


def encode(params, x):
    h = jnp.tanh(dense(params, "e2", jnp.tanh(dense(params, "e1", x))))
    return dense(params, "loc", h), dense(params, "log_scale", h)


def decode(params, z):
    h = jnp.tanh(dense(params, "d2", jnp.tanh(dense(params, "d1", z))))
    return dense(params, "logits", h)


def loss(objective, params, key, x, num_samples):
    loc, log_scale = encode(params, x)
    q = vi.families.normal(loc, log_scale=log_scale)
    prior = dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1)

    def log_joint(z):
        return prior.log_prob(z) + vi.likelihoods.bernoulli(decode(params, z)).log_prob(x)

    return -objective(key, q, log_joint, num_samples).mean()


def library_value_and_grad(params, key, x, num_samples):
    objective = vi.gradients.dreg(vi.bounds.iwae)
    return jax.value_and_grad(lambda p: loss(objective, p, key, x, num_samples))(params)


def hand_value_and_grad(params, key, x, num_samples):
    eps = jax.random.normal(key, (num_samples, *x.shape[:1], LATENT))
    (loc, log_scale), encoder_vjp = jax.vjp(lambda p: encode(p, x), params)
    scale = jnp.exp(log_scale)
    z = loc + scale * eps

    def log_w(params, z):
        logits = decode(params, z)
        log_lik = (x * logits - jax.nn.softplus(logits)).sum(-1)
        log_ratio = -0.5 * (z**2).sum(-1) + 0.5 * (((z - loc) / scale) ** 2).sum(-1)
        return log_lik + log_ratio + log_scale.sum(-1)

    values, vjp = jax.vjp(log_w, params, z)
    weight = jax.nn.softmax(values, axis=0) / x.shape[0]
    grad_theta, grad_z = vjp(-weight)
    grad_z = jax.nn.softmax(values, axis=0)[..., None] * grad_z
    (grad_phi,) = encoder_vjp((grad_z.sum(0), (grad_z * eps).sum(0) * scale))
    bound = jax.nn.logsumexp(values, axis=0) - jnp.log(num_samples)
    return -bound.mean(), jax.tree.map(jnp.add, grad_theta, grad_phi)


def steps(value_and_grad, optimizer, num_samples, num_steps):
    def run(params, key, x):
        def step(carry, index):
            params, opt_state = carry
            loss, grad = value_and_grad(params, jax.random.fold_in(key, index), x, num_samples)
            updates, opt_state = optimizer.update(grad, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        start = (params, optimizer.init(params))
        return jax.lax.scan(step, start, jnp.arange(num_steps))

    return run


def measure(num_samples, num_steps, num_pairs):
    params = init_params(jax.random.key(0))
    x = jax.random.bernoulli(jax.random.key(1), 0.3, (BATCH, PIXELS)).astype(jnp.float32)
    key, optimizer = jax.random.key(2), optax.adam(1e-3)
    sides = {}
    for name, side in (("ours", library_value_and_grad), ("theirs", hand_value_and_grad)):
        program, seconds = compiled(steps(side, optimizer, num_samples, num_steps), params, key, x)
        sides[name] = (lambda program=program: program(params, key, x)), seconds
    same = [jax.jit(f, static_argnums=3)(params, key, x, num_samples)
            for f in (library_value_and_grad, hand_value_and_grad)]  # fmt: skip
    error = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), *same)
    worst = max(jax.tree.leaves(error))
    if worst > 1e-4:
        raise RuntimeError(f"the two sides differ by {worst:.2g} relative: nothing was timed")
    result = paired(sides["ours"][0], sides["theirs"][0], num_pairs=num_pairs, num_steps=num_steps)
    return Row(f"K = {num_samples}", result, worst, sides["ours"][1], sides["theirs"][1])


def main():
    samples = {"type": count, "nargs": "+", "default": [1, 5, 50], "metavar": "K"}
    args = command_line(__doc__, num_steps=200, num_samples=samples)
    rows = (measure(k, args.num_steps, args.num_pairs) for k in args.num_samples)
    report("dreg(iwae) against a hand-written fused step", rows, args)


if __name__ == "__main__":
    main()
