"""Priors of weights, with a narrow part and a wide one: mixtures of normals over their scale."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import custom_jvp, lax, random
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from vi._check import refusal
from vi._known import is_known, require_positive
from vi.priors._event import Event, require_event_shape
from vi.types import Key


def scale_mixture(
    scales: Float[Array, " C"], *, shares: Float[Array, " C"], event_shape: tuple[int, ...]
) -> dist.Distribution:
    r"""Independent weights, each from a mixture of normals around 0.

    .. math:: p(w) = \prod_i \sum_c \pi_c N(w_i; 0, \sigma_c^2)

    The spike-and-slab-like prior of Bayes by Backprop, with two scales. Its KL has no closed form.

    Args:
        scales: :math:`\sigma_c`, ``[C]``, positive.
        shares: :math:`\pi_c`, ``[C]``, which sum to 1.
        event_shape: That of the weights.

    Returns:
        A NumPyro distribution with that event shape.

    Raises:
        ValueError: Scales and shares of different shapes, a known scale at or below 0, known
            shares that are no probabilities, or an event shape that is no tuple of sizes; on
            scoring, weights of another shape.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> prior = vi.priors.scale_mixture(
        ...     jnp.array([1.0, 0.0025]), shares=jnp.array([0.25, 0.75]), event_shape=(3, 2))
        >>> prior.log_prob(jnp.ones((5, 3, 2))).shape
        (5,)

    References:
        Blundell, Cornebise, Kavukcuoglu and Wierstra (2015), equation 7.
    """
    where = "scale_mixture"
    require_event_shape(where, event_shape)
    if jnp.ndim(scales) != 1 or jnp.shape(scales) != jnp.shape(shares):
        got = f"{list(jnp.shape(scales))} and {list(jnp.shape(shares))}"
        raise refusal(where, "scales and shares", "be [C]", got, "one of each per component")
    require_positive(where, "scales", scales, "pass them through jnp.exp")
    if is_known(shares):
        known = np.asarray(shares)
        if not (known >= 0).all() or abs(known.sum() - 1) > 1e-5:
            remedy = "divide them by their sum"
            raise refusal(where, "shares", "be probabilities", f"{known}", remedy)
    mixing = dist.Categorical(probs=shares)
    each = dist.MixtureSameFamily(mixing, dist.Normal(jnp.zeros_like(scales), scales))
    return Event(where, each.expand(event_shape), len(event_shape))


def horseshoe(
    scale: float | Float[Array, "*batch"], *, event_shape: tuple[int, ...]
) -> dist.Distribution:
    r"""Independent weights of the horseshoe, their local scales integrated out.

    .. math:: w_i = \tau \lambda_i \epsilon_i, \quad \lambda_i \sim C^+(0, 1), \qquad
              p(w_i) = \frac{e^{x} E_1(x)}{\tau \sqrt{2 \pi^3}}, \quad x = \frac{w_i^2}{2 \tau^2}

    A pole at 0, so that small weights vanish, and tails as a Cauchy's, so that large ones stay.
    The density is exact, so no local scale needs a posterior. At w = 0 it is infinite, and its
    derivative there is given as 0. A global scale with a prior of its own is a latent:
    ``hierarchical({"tau": HalfCauchy, "w": lambda tau: horseshoe(tau, ...)})``.

    Args:
        scale: :math:`\tau`, positive: the global scale; ``[*batch]``, for draws of it.
        event_shape: That of the weights.

    Returns:
        A NumPyro distribution with batch shape ``[*batch]`` and that event shape.

    Raises:
        ValueError: A known scale at or below 0, or an event shape that is no tuple of sizes; on
            scoring, weights of another shape.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> prior = vi.priors.horseshoe(0.1, event_shape=(3, 2))
        >>> prior.log_prob(jnp.ones((5, 3, 2))).shape
        (5,)

    References:
        Carvalho, Polson and Scott (2010), theorem 1 and its proof.
    """
    require_positive("horseshoe", "scale", scale, "pass it through jnp.exp")
    require_event_shape("horseshoe", event_shape)
    scale = jnp.asarray(scale) * 1.0
    each = Horseshoe(scale.reshape(*scale.shape, *(1,) * len(event_shape)))
    return Event("horseshoe", each.expand((*scale.shape, *event_shape)), len(event_shape))


class Horseshoe(dist.Distribution):
    """One weight of the horseshoe; made by ``horseshoe``."""

    arg_constraints = {"scale": constraints.positive}  # noqa: RUF012
    support: Any = constraints.real

    def __init__(self, scale: Array):
        self.scale = scale
        super().__init__(batch_shape=jnp.shape(scale), event_shape=())

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw weights, ``[*sample_shape, *batch]``."""
        shape, dtype = sample_shape + self.batch_shape, jnp.result_type(self.scale)
        local_key, noise_key = random.split(key)
        local = jnp.abs(random.cauchy(local_key, shape, dtype))
        return self.scale * local * random.normal(noise_key, shape, dtype)

    @validate_sample
    def log_prob(self, value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The log-density in nats, ``[*sample_shape, *batch]``."""
        is_pole = value == 0
        log_ratio = jnp.log(jnp.abs(jnp.where(is_pole, 1.0, value))) - jnp.log(self.scale)
        log_x = 2 * log_ratio - math.log(2)
        log_density = _log_scaled_e1(log_x) - jnp.log(self.scale) - 0.5 * math.log(2 * math.pi**3)
        return jnp.where(is_pole, jnp.inf, log_density)


_TERMS = 20  # of the series below 1; and so many levels of the fraction above
_LEVELS = 80
_FAR = math.log(1e15)  # beyond it x e^x E1(x) is 1 to the last digit


@custom_jvp
def _log_scaled_e1(log_x: Array) -> Array:
    """``log(e^x E1(x))``, from log x, for all x above 0 (Abramowitz and Stegun 5.1.11, 5.1.22)."""
    small = jnp.minimum(log_x, 0.0)
    x = jnp.exp(small)
    term, total = jnp.ones_like(x), jnp.zeros_like(x)
    for k in range(1, _TERMS + 1):
        term = -term * x / k
        total = total - term / k
    series = x + jnp.log(-np.euler_gamma - small + total)
    y = jnp.exp(jnp.clip(log_x, 0.0, _FAR))
    fraction = jnp.log(y / (y + 1 - 1 / _second_level(y))) - log_x
    return jnp.where(log_x < 0, series, fraction)


@_log_scaled_e1.defjvp
def _(primals, tangents):
    (log_x,), (tangent,) = primals, tangents
    return _log_scaled_e1(log_x), (_slope_and_one(log_x) - 1) * tangent


@custom_jvp
def _slope_and_one(log_x: Array) -> Array:
    """1 more than the derivative of ``log(e^x E1(x))`` in log x, ``x + 1 - 1 / (e^x E1(x))``."""
    small = jnp.minimum(log_x, 0.0)
    below = jnp.exp(small) + 1 - jnp.exp(-_log_scaled_e1(small))
    above = 1 / _second_level(jnp.exp(jnp.clip(log_x, 0.0, _FAR)))
    return jnp.where(log_x < 0, below, above)


@_slope_and_one.defjvp
def _(primals, tangents):
    (log_x,), (tangent,) = primals, tangents
    value = _slope_and_one(log_x)
    return value, (jnp.exp(jnp.minimum(log_x, _FAR)) * value - (value - 1) ** 2) * tangent


def _second_level(y: Array) -> Array:
    """Of the fraction ``e^y E1(y) = 1 / (y + 1 - 1 / below)``, the part below."""

    def level(i, below):
        n = _LEVELS - i
        return y + 2 * n - 1 - n * n / below

    return lax.fori_loop(0, _LEVELS - 1, level, y + 2 * _LEVELS + 1)
