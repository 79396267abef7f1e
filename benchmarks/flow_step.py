"""A training step of a RealNVP against the same arithmetic written by hand in JAX.

D = 64, a hidden layer of 64 units, 256 draws a step, the ELBO of a correlated Gaussian. The
hand-written side is one scan over stacked weights and one backward pass. Both sides draw the same
noise and must return the same loss and gradient before anything is timed. Rows of ``layers``:
``reparam`` against the hand-written step. Rows of ``dreg``: the path gradient, which carries the
derivative of log q along with the draw, against the same written by hand. Rows of ``passes``: the
same ``dreg`` against itself with two passes, which draws forward and scores backward. Compile times
are those of the whole scan of steps.

    python -m benchmarks.flow_step --help
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import optax
from flax import nnx

import vi
from benchmarks._paired import Row, command_line, compiled, count, paired, report

SIZE, HIDDEN, DRAWS = 64, 64, 256
HALF = SIZE // 2
MAX_LOG_SCALE = 2.0


def log_joint(z):
    """A chain of neighbours, each leaning on the one before."""
    return -0.5 * (z**2).sum(-1) - 0.5 * ((z[..., 1:] - 0.9 * z[..., :-1]) ** 2).sum(-1)


def make_flow(num_layers):
    flow = vi.flows.coupling(
        SIZE,
        num_layers=num_layers,
        transformer=vi.flows.affine(max_log_scale=MAX_LOG_SCALE),
        hidden=(HIDDEN,),
        rngs=nnx.Rngs(0),
    )
    keys = nnx.Rngs(1)
    # away from the identity, where half of the arithmetic is of zeros
    return jax.tree.map(lambda w: w + 0.1 * jax.random.normal(keys(), w.shape), flow)


class TwoPasses:
    """A flow's family that scores its draws by an inverse pass alone."""

    def __init__(self, q):
        self.rsample, self.sample, self.log_prob = q.rsample, q.sample, q.log_prob


def library_value_and_grad(estimator, wrap=lambda q: q):
    def value(flow, key):
        q = wrap(flow(dist.Normal(jnp.zeros(SIZE), 1.0).to_event(1)))
        return -estimator(vi.bounds.elbo)(key, q, log_joint, DRAWS)

    return jax.value_and_grad(value)


def weights_of(flow):
    first, last = flow.nets.layers
    return [w[...] for w in (first.kernel, first.bias, last.kernel, last.bias)]


def conditioner(weights, a):
    w1, b1, w2, b2 = weights
    out = ((jnp.tanh(a @ w1 + b1) @ w2 + b2) / HIDDEN**0.5).reshape(*a.shape, 2)
    return MAX_LOG_SCALE * jnp.tanh(out[..., 0] / MAX_LOG_SCALE), out[..., 1]


def hand_forward(weights, eps):
    def layer(carry, weights):
        a, b, log_det = carry
        s, t = conditioner(weights, a)
        return (b * jnp.exp(s) + t, a, log_det + s.sum(-1)), None

    start = (eps[:, :HALF], eps[:, HALF:], jnp.zeros(len(eps)))
    (a, b, log_det), _ = jax.lax.scan(layer, start, weights)
    z = jnp.concatenate([a, b] if len(weights[0]) % 2 == 0 else [b, a], -1)
    log_q = -0.5 * (eps**2).sum(-1) - 0.5 * SIZE * jnp.log(2 * jnp.pi) - log_det
    return z, log_q


def hand_value_and_grad(weights, key):
    def value(weights):
        z, log_q = hand_forward(weights, jax.random.normal(key, (DRAWS, SIZE)))
        return (log_q - log_joint(z)).mean()

    return jax.value_and_grad(value)(weights)


def one_pass_value_and_grad(weights, key):
    """The path gradient in one pass: Vaitl, Nicoli, Nakajima and Kessel (2022), by recursion.

    ``force`` is the derivative of log q at the layer's output with respect to that output.
    """
    eps = jax.random.normal(key, (DRAWS, SIZE))

    def value(weights):
        def layer(carry, weights):
            a, b, log_det, force_a, force_b = carry
            (s, t), pull = jax.vjp(lambda a: conditioner(weights, a), a)
            y = b * jnp.exp(s) + t
            out = jax.lax.stop_gradient(force_b * jnp.exp(-s))
            (through,) = pull((out * b * jnp.exp(s) + 1.0, out))
            back = jax.lax.stop_gradient(force_a - through)
            return (y, a, log_det + s.sum(-1), out, back), None

        a, b = eps[:, :HALF], eps[:, HALF:]
        start = (a, b, jnp.zeros(len(eps)), -a, -b)
        (a, b, log_det, *force), _ = jax.lax.scan(layer, start, weights)
        even = len(weights[0]) % 2 == 0
        join = lambda a, b: jnp.concatenate([a, b] if even else [b, a], -1)  # noqa: E731
        z, force = join(a, b), jax.lax.stop_gradient(join(*force))
        log_q = -0.5 * (eps**2).sum(-1) - 0.5 * SIZE * jnp.log(2 * jnp.pi) - log_det
        held = jax.lax.stop_gradient(log_q - (force * z).sum(-1))
        return (held + (force * z).sum(-1) - log_joint(z)).mean()

    return jax.value_and_grad(value)(weights)


def steps(value_and_grad, optimizer, num_steps):
    def run(params, key):
        def step(carry, index):
            params, opt_state = carry
            loss, grad = value_and_grad(params, jax.random.fold_in(key, index))
            updates, opt_state = optimizer.update(grad, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(num_steps))

    return run


def measure(name, ours, theirs, num_steps, num_pairs):
    """Time a side that takes the flow against one that takes it or its weights."""
    key, optimizer = jax.random.key(2), optax.adam(1e-3)
    sides, returned = [], []
    for side, params in (ours, theirs):
        program, seconds = compiled(steps(side, optimizer, num_steps), params, key)
        sides.append((lambda program=program, params=params: program(params, key), seconds))
        value, grad = jax.jit(side)(params, key)
        returned.append([value, *(grad if isinstance(grad, list) else weights_of(grad))])
    pairs = zip(*returned, strict=True)
    worst = max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs)
    if worst > 1e-3:
        raise RuntimeError(f"the two sides differ by {worst:.2g} relative: nothing was timed")
    result = paired(sides[0][0], sides[1][0], num_pairs=num_pairs, num_steps=num_steps)
    return Row(name, result, worst, sides[0][1], sides[1][1])


def rows(args):
    plain = library_value_and_grad(vi.gradients.reparam)
    path = library_value_and_grad(vi.gradients.dreg)
    two_passes = library_value_and_grad(vi.gradients.dreg, TwoPasses)
    for num_layers in args.num_layers:
        flow = make_flow(num_layers)
        weights, sizes = weights_of(flow), (args.num_steps, args.num_pairs)
        for name, ours, theirs in (
            ("layers", (plain, flow), (hand_value_and_grad, weights)),
            ("dreg", (path, flow), (one_pass_value_and_grad, weights)),
            ("passes", (path, flow), (two_passes, flow)),
        ):
            yield measure(f"{num_layers} {name}", ours, theirs, *sizes)


def main():
    layers = {"type": count, "nargs": "+", "default": [8, 16], "metavar": "L"}
    args = command_line(__doc__, num_steps=200, num_layers=layers)
    report("RealNVP steps against the same arithmetic by hand", rows(args), args)


if __name__ == "__main__":
    main()
