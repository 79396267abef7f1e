"""Csiszar's f-divergences from the posterior to q, estimated with the weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi._check import at_least_float32, name_of, refusal
from vi.bounds._arguments import factory, is_traced, named, require_samples, require_scalar
from vi.bounds._declare import declare
from vi.bounds._self_normalised import log_mean_exp, softmax, top_of, without_zeros
from vi.types import Bound


@factory("csiszar(lambda u: (u - 1) ** 2)")
def csiszar(
    f: Callable[[Float[Array, "..."]], Float[Array, "..."]],
    *,
    log_evidence: float | Float[Array, ""] | None = None,
    smooth: bool = True,
) -> Bound:
    r"""An f-divergence from the posterior to q, for any convex f with f(1) = 0.

    .. math:: \frac{1}{K} \sum_k f(u_k), \quad u_k = K \frac{w_k}{\sum_j w_j}
              \;\xrightarrow{K \to \infty}\;
              \mathrm{D}_f(p \,\|\, q) = \mathbb{E}_{q(z|x)} f\Big( \frac{p(z|x)}{q(z|x)} \Big).

    The ratios are at most K: they neither overflow nor depend on log p(x). They are also the
    divergence of K weights from equal ones: at least 0 on every draw, 0 at K = 1 (so that K = 2 is
    the least), biased by O(1 / K). With ``log_evidence`` = log p(x), where it is known,
    :math:`u_k = w_k / p(x)`: unbiased at every K, not bounded, and below 0 on some draws if f is
    below 0 anywhere. To be minimised, over q alone.

    Args:
        f: Elementwise, convex on (0, inf), 0 at 1; ``f(0)`` is what a weight of zero counts. It is
            checked numerically unless it closes over a traced value. Where u^2 underflows it is
            continued linearly in log u.
        log_evidence: log p(x), a scalar in nats, or None to normalise by the weights' sum. One per
            datum is subtracted in ``log_joint``, and 0 passed here.
        smooth: What to declare: whether f has a Lipschitz derivative; ``check_bound`` finds out.

    Returns:
        The divergence ``log_w [K, *batch] -> [*batch]`` in nats; ``inf`` where every weight is zero
        or f(0) is infinite and a weight is.

    Raises:
        ValueError: f is not convex, f(1) is not 0, or f is not elementwise.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> triangular = vi.bounds.csiszar(lambda u: (u - 1) ** 2 / (u + 1))
        >>> log_w = jnp.array([0.0, 1.0, -1.0])
        >>> print(f"{triangular(log_w):.3f} {triangular(log_w + 100):.3f}")
        0.264 0.264

    References:
        Csiszar (1967); Ali and Silvey (1966).
    """
    _require_generator("csiszar", f)
    arguments = (f,) if log_evidence is None else (f, log_evidence)
    at_zero = f(jnp.zeros(()))
    return of_log_ratio("csiszar", arguments, _in_log_ratio(f), at_zero, log_evidence, smooth)


def _in_log_ratio(f):
    """``f(exp(t))``; where u^2 underflows, along its tangent in t, for u f'(u) has a limit there.

    Further down automatic derivatives of a logarithm are 0 times infinity: f'' holds 1 / u^2.
    """

    def g(t):
        lowest = 0.45 * jnp.log(jnp.finfo(t.dtype).tiny).astype(t.dtype)
        end, slope = jax.jvp(lambda t: f(jnp.exp(t)), (lowest,), (jnp.ones_like(lowest),))
        slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
        tangent = end + slope * (t - lowest)
        return jnp.where(t < lowest, tangent, f(jnp.exp(jnp.maximum(t, lowest))))

    return g


def of_log_ratio(name, arguments, g, at_zero, log_evidence, smooth) -> Bound:
    """The divergence with f(u) = g(log u), and f(0) = ``at_zero``."""
    own = log_evidence is None
    if not own:
        remedy = "subtract it in log_joint, and pass log_evidence=0.0"
        log_evidence = require_scalar(name, "log_evidence", log_evidence, remedy)
    least = 2 if own else 1

    def log_ratio(log_w):
        is_zero, finite = without_zeros(log_w)
        if not own:
            return is_zero, finite - log_evidence
        top, none = top_of(log_w), is_zero.all(0, keepdims=True)
        log_mean = log_mean_exp(jnp.where(none, 0.0, log_w - top))[None]
        return is_zero, jnp.where(is_zero, 0.0, (finite - top) - log_mean)

    def derivatives(log_w):
        log_w = require_samples(name, at_least_float32(name, log_w), least)
        is_zero, t = log_ratio(log_w)
        first, second = (jnp.where(is_zero, 0.0, part) for part in _slopes(g, t))
        if own:
            weight = softmax(log_w)
            total, curvature = first.sum(0, keepdims=True), second.sum(0, keepdims=True)
            second = second * (1 - 2 * weight) + weight * (
                weight * curvature - (1 - weight) * total
            )
            first = first - weight * total
        return first / log_w.shape[0], second / log_w.shape[0]

    @named(name, *arguments)
    @declare(
        direction="divergence",
        sense="minimise",
        smooth=smooth,
        min_samples=least,
        shift="invariant" if own else "none",
        derivatives=derivatives,
    )
    def bound(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
        log_w = require_samples(name, at_least_float32(name, log_w), least)
        is_zero, t = log_ratio(log_w)
        value = jnp.where(is_zero, jnp.asarray(at_zero, t.dtype), g(t)).mean(0)
        return jnp.where(is_zero.all(0), jnp.inf, value)

    return bound


def _slopes(g, t):
    """First and second derivative of an elementwise function."""
    ones = jnp.ones_like(t)

    def first(t):
        return jax.jvp(g, (t,), (ones,))[1]

    return jax.jvp(first, (t,), (ones,))


def _require_generator(where: str, f: Callable) -> None:
    """Refuse an f that is not elementwise, not 0 at 1 or not convex, as far as it can be seen."""
    if not callable(f):
        raise refusal(where, "f", "be a function", repr(f), "pass u -> f(u)")
    try:
        jax.eval_shape(lambda u: f(u), jax.ShapeDtypeStruct((), jnp.float32))
    except jax.errors.TracerArrayConversionError:
        remedy = "write it with jax.numpy"
        raise refusal(where, "f", "be traceable", name_of(f), remedy) from None
    with jax.ensure_compile_time_eval():
        u = jnp.asarray(np.geomspace(1e-3, 1e3, 601), jnp.float32)
        at_zero, at_one, values = f(jnp.zeros(())), f(jnp.ones(())), f(u)
    if jnp.shape(values) != u.shape:
        got, remedy = f"{[len(u)]} to {list(jnp.shape(values))}", "map each ratio to one number"
        raise refusal(where, "f", "be elementwise", got, remedy)
    if is_traced(values):
        return
    if np.isnan(at_zero):
        remedy = "write u log u as jax.scipy.special.xlogy(u, u)"
        raise refusal(where, "f", "be defined at 0", "f(0) = nan", remedy)
    tolerance = 1e-5  # f computes in float32 here, with whatever cancels inside it
    if not abs(float(at_one)) <= tolerance:
        remedy = "subtract f(1)"
        raise refusal(where, "f", "be 0 at 1", f"f(1) = {float(at_one):.3g}", remedy)
    seen = np.isfinite(values)  # it may overflow far out
    u, values = np.asarray(u, float)[seen], np.asarray(values, float)[seen]
    # A point of the graph must not lie above the chord of its neighbours, near and far.
    for reach in (1, 10, 100):
        left, middle, right = (slice(0, -2 * reach), slice(reach, -reach), slice(2 * reach, None))
        share = (u[middle] - u[left]) / (u[right] - u[left])
        chord = (1 - share) * values[left] + share * values[right]
        size = np.abs(values[left]) + np.abs(values[middle]) + np.abs(values[right]) + u[right]
        above = values[middle] - chord - tolerance * size
        worst = np.where(np.isnan(above), np.inf, above).argmax()
        if not above[worst] <= 0:
            got = f"{name_of(f)}, above its chord near u = {u[middle][worst]:.3g}"
            raise refusal(where, "f", "be convex", got, "take minus it, or another f")
