"""What a bound declares of itself, put to the test.

Each check takes a bound and its declaration and returns (passed, detail); passed is None where the
declaration claims nothing. They run in the ambient precision, which ``check_bound`` sets to float64
where the bound accepts it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vi.bounds import generic_derivatives
from vi.testing._bound_contract import close, draw, num_samples

_NUM_STANDARD_ERRORS = 5


def one_sample(bound, declared):
    """With one sample every bound on log p(x) is the ELBO's one draw."""
    if declared.direction == "divergence" or declared.shift != "equivariant":
        return None, "not a bound that moves with log p(x)"
    if declared.min_samples > 1:
        return None, f"needs {declared.min_samples} samples"
    log_w = draw((1, 7))
    return close(bound(log_w), log_w[0], "the value at K = 1 and log w")


def posterior(bound, declared):
    """Where q is the posterior every weight is p(x): a bound is tight, a divergence is 0."""
    if declared.direction != "divergence" and declared.shift != "equivariant":
        return None, f'shift="{declared.shift}"'
    # A divergence need not ignore the normaliser of p(x, z), but at weights of 1 it is 0.
    scaled = declared.direction != "divergence" or declared.shift == "invariant"
    log_evidence = np.array([-2.0, 0.0, 3.0]) * scaled
    value = bound(jnp.asarray(np.tile(log_evidence, (num_samples(declared), 1)), float))
    expected = np.zeros(3) if declared.direction == "divergence" else log_evidence
    return close(value, expected, "the value at equal weights and the truth")


def shift(bound, declared):
    """Large shifts also find what overflows: exp(1e4) is infinite in any precision."""
    if declared.shift == "none":
        return None, 'shift="none"'
    offset = np.array([[0.0, -1e4, -1.0, 1.0, 1e4]])
    value = np.asarray(bound(draw((num_samples(declared), 1)) + jnp.asarray(offset, float)))
    moved = value[0] + (offset[0] if declared.shift == "equivariant" else 0 * offset[0])
    return close(value, moved, f"shifted and {declared.shift} values")


def direction(bound, declared):
    """The mean over replicates of weights that are log-normal with E w = 1, so that log p(x) = 0.

    log w = s eps - s^2 / 2 is Gaussian: every moment of the weights exists, and of what grows no
    faster than a power of them; modest s keeps the sample variance near the true one.
    """
    if declared.direction == "none":
        return None, 'direction="none"'
    if declared.direction == "lower":
        spread, sizes, side = np.array([0.5, 1.0, 2.0]), (declared.min_samples, 8, 64), -1
    else:  # a claim about large K alone
        groups = declared.num_groups or 1
        if groups > 8:
            return None, f"{groups} groups: K would have to be too large"
        spread, sizes, side = np.array([0.5]), (512 * groups,), 1
    num_replicates, worst = 2048, (np.inf, "")
    for K in sorted({num_samples(declared, K) for K in sizes}):
        noise = np.asarray(draw((num_replicates, K, 1)))
        log_w = jnp.asarray(spread * noise - 0.5 * spread**2, float)
        # Block by block: a bound may need K times the memory of its log-weights, or more.
        values = np.asarray(jax.lax.map(bound, log_w, batch_size=64), float)
        mean = values.mean(0)
        stderr = values.std(0, ddof=1) / num_replicates**0.5
        margin = side * mean + _NUM_STANDARD_ERRORS * stderr
        least = np.where(np.isnan(margin), -np.inf, margin).argmin()
        figure = f"mean {mean[least]:.4f} +- {stderr[least]:.4f} at K = {K}, s = {spread[least]}"
        worst = min(worst, (np.where(np.isnan(margin), -np.inf, margin).min(), figure))
    relation = "at most" if side == -1 else "at least"
    return bool(worst[0] >= 0), f"{worst[1]}; {declared.direction}: {relation} log p(x) = 0"


def sense(bound, declared):
    """A lower bound goes up and a divergence goes down; an upper one may be used either way."""
    expected = {"lower": "maximise", "divergence": "minimise"}.get(declared.direction)
    if expected is None:
        return None, f'direction="{declared.direction}"'
    said = f'sense="{declared.sense}" of direction="{declared.direction}"'
    return declared.sense == expected, said


def smooth(bound, declared):
    """The integral of F_kk along a segment in log w_k is the change of F_k, unless F_k jumps.

    Each segment takes one log-weight from below all others to above them, and is checked all along.
    A maximum, a median, a clip, an absolute value have an F_k that jumps on the way: F_kk does not
    see it.
    """
    if not declared.smooth:
        return None, "smooth=False"
    K, num_steps = num_samples(declared), 4096
    moved = np.tile(np.unique(np.linspace(0, K - 1, min(K, 8)).astype(int)), 2)
    spread = np.repeat([1.0, 10.0], moved.size // 2)  # segments near, segments far apart
    nodes = 3 * spread[:, None] * np.linspace(-1, 1, num_steps + 1)
    others = spread * np.asarray(draw((K, spread.size)))
    is_moved = (np.arange(K)[:, None] == moved)[..., None]
    log_w = jnp.asarray(np.where(is_moved, nodes, others[..., None]), float)
    along = jnp.asarray(np.broadcast_to(is_moved, log_w.shape), float)

    def slope(log_w):
        return jax.jvp(bound, (log_w,), (along,))[1]

    first, second = map(np.asarray, jax.jit(lambda w: jax.jvp(slope, (w,), (along,)))(log_w))
    step = nodes[:, 1:2] - nodes[:, :1]
    integral = _running_simpson(second, step)[:, 1::2]
    gap = np.abs(first[:, 4::4] - first[:, :1] - integral).max(-1)
    # Simpson's error, by its own convergence; up to K jumps of F_kk (F_k may be Lipschitz all the
    # same), each of which costs at most a step times its height; and one rounding a node.
    convergence = np.abs(integral - _running_simpson(second[:, ::2], 2 * step)).max(-1)
    jumps = K * (step * np.abs(np.diff(second))).max(-1)
    size = np.abs(first).max(-1) + (step * np.abs(second)).sum(-1)
    precision = jnp.finfo(jnp.result_type(bound(log_w))).eps
    tolerance = convergence + jumps + num_steps * precision * size
    worst = np.where(np.isnan(gap), np.inf, gap - tolerance).argmax()
    what = f"integral of F_kk and change of F_k differ by {gap[worst]:.0e}"
    return bool((gap <= tolerance).all()), f"{what}, allowed {tolerance[worst]:.0e}"


def declared_derivatives(bound, declared):
    if declared.derivatives is None:
        return None, "none declared"
    spread = np.repeat([1.0, 10.0], 4)
    log_w = jnp.asarray(spread * np.asarray(draw((num_samples(declared), 8))), float)
    generic = jax.jit(lambda log_w: generic_derivatives(bound, log_w))(log_w)
    pairs = zip(declared.derivatives(log_w), generic, strict=True)
    for name, (one, other) in zip(("F_k", "F_kk"), pairs, strict=True):
        agree, detail = close(one, other, f"declared and automatic {name}")
        if not agree:
            return False, detail
    return True, "declared and automatic F_k and F_kk agree"


def additive(bound, declared):
    """The bound of a sum of log-weights is the sum of their bounds."""
    if not declared.additive:
        return None, "additive=False"
    one, other = np.asarray(draw((2, num_samples(declared), 7)))
    apart = bound(jnp.asarray(one, float)) + bound(jnp.asarray(other, float))
    return close(bound(jnp.asarray(one + other, float)), apart, "the bound of a sum and the sum")


def accepts_float64(bound, declared) -> bool:
    """Whether the bound computes at all in float64: one written for float32 alone may not."""
    try:
        with jax.enable_x64(True):
            log_w = draw((num_samples(declared), 1))
            jax.eval_shape(lambda log_w: generic_derivatives(bound, log_w), log_w)
    except Exception:
        return False
    return True


def _running_simpson(values, step):
    """The integral from the first node to every second one, ``[S, num_steps / 2]``."""
    panels = values[:, :-2:2] + 4 * values[:, 1::2] + values[:, 2::2]
    return np.cumsum(panels, -1) * step / 3
