"""The variational Renyi bounds, CUBO among them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import at_least_float32, refusal
from vi.bounds._arguments import named, require_scalar
from vi.bounds._declare import declare
from vi.bounds._self_normalised import softmax
from vi.types import Bound


def renyi(alpha: float | Float[Array, ""]) -> Bound:
    r"""The variational Renyi bound of order alpha.

    .. math:: \mathcal{L}_\alpha = \frac{1}{1 - \alpha} \log \frac{1}{K} \sum_k w_k^{1 - \alpha}
              \;\xrightarrow{K \to \infty}\;
              \log p(x) - \mathrm{D}_\alpha(q(z|x) \,\|\, p(z|x)).

    ``iwae`` at alpha = 0; the limit alpha -> 1 is ``elbo``, which that name gives. For every alpha
    it is the ELBO's one draw at K = 1. For alpha >= 0 its mean is below log p(x) at every K. For
    alpha < 0 it is an upper bound only as K grows without limit (there are K at which its mean is
    below log p(x)), so that its declared sense is to be minimised, as ``cubo``.

    At finite K it is a biased estimate of its limit. For alpha > 1 a weight of zero makes it
    ``-inf``, as it does the ELBO.

    Args:
        alpha: Any real number but 1; it may be traced, or learned.

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
    concrete = require_scalar("renyi", "alpha", alpha)
    if concrete == 1:
        remedy = "use vi.bounds.elbo, which is the limit"
        raise refusal("renyi", "alpha", "differ from 1", alpha, remedy)
    direction = "none" if concrete is None else "lower" if concrete >= 0 else "upper_limit"
    return _power_mean("renyi", alpha, 1 - alpha, direction)


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
    concrete = require_scalar("cubo", "n", n)
    if concrete is not None and concrete <= 1:
        remedy = "use vi.bounds.iwae for n = 1, vi.bounds.renyi(1 - n) below"
        raise refusal("cubo", "n", "be above 1", n, remedy)
    return _power_mean("cubo", n, n, "upper_limit")


def _power_mean(where, shown, power, direction):

    def derivatives(log_w):
        weight = softmax(power * at_least_float32(where, log_w))
        return weight, power * weight * (1 - weight)

    sense = "minimise" if direction == "upper_limit" else "maximise"

    @named(where, shown)
    @declare(direction=direction, sense=sense, derivatives=derivatives)
    def bound(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
        return _log_mean_exp(power * at_least_float32(where, log_w)) / power

    return bound


def _log_mean_exp(log_v):
    """``log mean exp``, relative to ``log_v`` even where all of it is small.

    ``renyi`` divides by 1 - alpha: near alpha = 1 the digits that a plain log-sum-exp loses against
    ``log K`` would be all there are.
    """
    top = jax.lax.stop_gradient(log_v.max(0, keepdims=True))
    top = jnp.where(jnp.isinf(top), 0.0, top)
    below = log_v - top
    mean, mean_less_one = jnp.exp(below).mean(0), jnp.expm1(below).mean(0)
    near_one = mean_less_one > -0.5
    small = jnp.log1p(jnp.where(near_one, mean_less_one, 0.0))
    return top[0] + jnp.where(near_one, small, jnp.log(jnp.where(near_one, 1.0, mean)))
