"""The variational Renyi bounds, CUBO among them."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import at_least_float32, refusal
from vi.bounds._arguments import factory, is_traced, named, require_scalar
from vi.bounds._declare import declare
from vi.bounds._self_normalised import log_mean_exp, softmax, top_of, without_zeros
from vi.types import Bound


@factory("renyi(0.5)")
def renyi(alpha: float | Float[Array, ""]) -> Bound:
    r"""The variational Renyi bound of order alpha.

    .. math:: \mathcal{L}_\alpha = \frac{1}{1 - \alpha} \log \frac{1}{K} \sum_k w_k^{1 - \alpha}
              \;\xrightarrow{K \to \infty}\;
              \log p(x) - \mathrm{D}_\alpha(q(z|x) \,\|\, p(z|x)).

    ``iwae`` at alpha = 0; the limit alpha -> 1 is ``elbo``, which that name gives. For every alpha
    it is the ELBO's one draw at K = 1. For alpha >= 0 its mean is below log p(x) at every K. For
    alpha < 0 it is an upper bound only as K grows without limit (there are K at which its mean is
    below log p(x)), so that its declared sense is to be minimised, as ``cubo``. A traced alpha
    declares no direction and the sense maximise: below 0, minimise it yourself.

    At finite K it is a biased estimate of its limit. For alpha > 1 a weight of zero makes it
    ``-inf``, as it does the ELBO.

    Args:
        alpha: Any real number but 1; it may be traced, or learned, and then pass through 1.

    Returns:
        The bound ``log_w [K, *batch] -> [*batch]`` in nats.

    Raises:
        ValueError: alpha is 1, not finite or not a scalar.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> log_w = jnp.array([0.0, -2.0, 1.0])
        >>> bounds = [vi.bounds.renyi(-1.0), vi.bounds.iwae, vi.bounds.renyi(0.5), vi.bounds.elbo]
        >>> print(*(f"{bound(log_w):.3f}" for bound in bounds))  # falling in alpha
        0.515 0.250 0.011 -0.333

    References:
        Li and Turner (2016), theorem 1 for the order in alpha, theorem 2 for K.
    """
    alpha = require_scalar("renyi", "alpha", alpha)
    if is_traced(alpha):
        return _power_mean("renyi", alpha, 1 - alpha, "none")
    if alpha == 1:
        remedy = "use vi.bounds.elbo, which is the limit"
        raise refusal("renyi", "alpha", "differ from 1", alpha, remedy)
    return _power_mean("renyi", alpha, 1 - alpha, "lower" if alpha >= 0 else "upper_limit")


@factory("cubo(2)")
def cubo(n: float) -> Bound:
    r"""The chi upper bound of order n: ``renyi(1 - n)``.

    .. math:: \mathrm{CUBO}_n = \frac{1}{n} \log \frac{1}{K} \sum_k w_k^n
              \;\xrightarrow{K \to \infty}\; \frac{1}{n} \log \mathbb{E}_q[w^n] \ge \log p(x).

    An upper bound on log p(x) only as K grows without limit: at K = 1 it is the ELBO's one draw,
    and in high dimensions it stays below log p(x) for any K that can be afforded. To be minimised,
    over q alone. The limit needs the n-th moment of the weights, its standard error the 2n-th.

    Args:
        n: The order, above 1; at 1 it would be ``iwae``.

    Returns:
        The bound ``log_w [K, *batch] -> [*batch]`` in nats.

    Raises:
        ValueError: n is not above 1.

    References:
        Dieng, Tran, Ranganath, Paisley and Blei (2017).
    """
    n = require_scalar("cubo", "n", n)
    if not is_traced(n) and n <= 1:
        remedy = "use vi.bounds.iwae for n = 1, vi.bounds.renyi(1 - n) below"
        raise refusal("cubo", "n", "be above 1", n, remedy)
    return _power_mean("cubo", n, n, "upper_limit")


def _power_mean(where, shown, power, direction):
    def derivatives(log_w):
        log_w = at_least_float32(where, log_w)
        is_zero, finite = without_zeros(log_w)
        shut_out = jnp.where(jnp.asarray(power) < 0, jnp.inf, -jnp.inf)
        weight = softmax(jnp.where(is_zero, shut_out, power * (finite - top_of(log_w))))
        return weight, power * weight * (1 - weight)

    sense = "minimise" if direction == "upper_limit" else "maximise"

    @named(where, shown)
    @declare(direction=direction, sense=sense, derivatives=derivatives)
    def bound(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
        log_w = at_least_float32(where, log_w)
        is_zero, finite = without_zeros(log_w)
        top = top_of(log_w)
        below = jnp.where(is_zero, 0.0, finite - top)
        some, every = is_zero.any(0), is_zero.all(0)
        infinite = every | (some & (jnp.asarray(power) <= 0))
        near_zero = jnp.abs(power) * jnp.abs(below).max(0) <= jnp.finfo(log_w.dtype).eps ** (1 / 3)
        near_zero = (near_zero & ~some) | infinite
        at = jnp.where(near_zero, 1.0, power).astype(log_w.dtype)
        log_v = jnp.where(is_zero & ~near_zero[None], -jnp.inf, at[None] * below)
        value = jnp.where(near_zero, _series(below, power), log_mean_exp(log_v) / at)
        return jnp.where(infinite, -jnp.inf, top[0] + value)

    return bound


def _series(below, power):
    """To second order in the power, by cumulants: what is left out is below rounding.

    The quotient keeps its value there, and loses the digits of its derivative in the power.
    """
    mean = below.mean(0)
    centred = below - mean[None]
    return mean + power * (centred**2).mean(0) / 2 + power**2 * (centred**3).mean(0) / 6
