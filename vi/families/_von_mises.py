"""Angles, with a path."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import i0e
from jaxtyping import Array, Float
from numpyro.distributions.util import validate_sample

from vi._known import require_positive
from vi.families._gaussian_checks import require_axis, require_shape

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2  # on [0, 1]
_NEGLIGIBLE = 40.0  # nats below the largest value of an integrand


def von_mises(
    loc: Float[Array, "*batch D"], concentration: Float[Array, "*batch D"]
) -> dist.Distribution:
    r"""D independent angles, NumPyro's von Mises distribution with a path.

    .. math:: q(z) = \prod_d \frac{\exp(\kappa_d \cos(z_d - \mu_d))}{2 \pi I_0(\kappa_d)}.

    Draws are those of wrapped Cauchys, some rejected, in half angles: they keep their digits at any
    concentration (in float32 NumPyro's are 0 or NaN at 1e8). Their derivative is implicit,

    .. math:: \frac{dz}{d\mu} = 1, \qquad \frac{dz}{d\kappa} = - \frac{\partial F / \partial \kappa}
              {f} = - \int_0^{x} e^{\kappa (\cos t - \cos x)} (\cos t - A) \, dt, \qquad
              x = z - \mu, \quad A = \frac{I_1(\kappa)}{I_0(\kappa)},

    by Gauss-Legendre quadrature of an integrand of one sign: over [0, x] as far as its zero, and
    beyond it over the tail, since the whole is 0. Both cost 32 exponentials a draw, and only where
    a derivative is asked for.

    An angle has no ends: draws are wrapped into :math:`[-\pi, \pi)`, so that a path is right for
    log-joints that are periodic, functions of the cosine and the sine. Others jump at the seam,
    which no path sees.

    Args:
        loc: Angles ``[*batch, D]``; the last axis is the event.
        concentration: ``[*batch, D]``, positive; NaN draws where a traced one is negative. From
            1e12 on the spread is that of float32's own grid about ``loc``.

    Returns:
        A NumPyro distribution with batch shape ``[*batch]`` and event shape ``[D]``.

    Raises:
        ValueError: No event axis, two shapes, or a known concentration at or below 0.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> def spread(concentration):
        ...     q = vi.families.von_mises(jnp.zeros(1), concentration)
        ...     return jnp.cos(q.rsample(jax.random.key(0), (100_000,))).mean()
        >>> gradient = jax.jit(jax.grad(spread))(jnp.ones(1))
        >>> print(f"{gradient[0]:.1f}")  # A' = 1 - A / kappa - A^2 = 0.354
        0.4

    References:
        Best and Fisher (1979), for the draws; Figurnov, Mohamed and Mnih (2018), section 4.
    """
    require_axis("von_mises", loc)
    require_shape("von_mises", "concentration", concentration, jnp.shape(loc), "[*batch, D]")
    remedy = "pass it through jnp.exp or jax.nn.softplus"
    require_positive("von_mises", "concentration", concentration, remedy)
    return VonMises(loc, concentration).to_event(1)


class VonMises(dist.VonMises):
    """Angles ``[*batch]``; made by ``von_mises``."""

    reparametrized_params = ["loc", "concentration"]  # noqa: RUF012

    def sample(self, key: Any, sample_shape=()):
        """Draw angles in [-pi, pi), ``[*sample_shape, *batch]``, with derivatives."""
        loc, concentration = jnp.asarray(self.loc), jnp.asarray(self.concentration)
        held = jax.lax.stop_gradient(concentration).astype(jnp.result_type(loc, concentration))
        x = _centred(key, held, self.shape(sample_shape))
        z = loc + _with_path(x, concentration)
        z = z - 2 * jnp.pi * jnp.floor((z + jnp.pi) / (2 * jnp.pi))  # as it is, where it is inside
        return jnp.where(z >= jnp.pi, -jnp.pi, z)

    @validate_sample
    def log_prob(self, value):
        """The log-density in nats, which keeps its digits at large concentrations."""
        half_chord = jnp.sin((value - jnp.asarray(self.loc)) / 2)
        concentration = jnp.asarray(self.concentration)
        log_volume = jnp.log(2 * jnp.pi) + _log_i0e(concentration)
        return -2 * concentration * half_chord**2 - log_volume


def _centred(key, concentration, shape):
    r"""Draws about 0, by rejection from a wrapped Cauchy of :math:`P(x) \propto 1 / (s - \cos x)`.

    With :math:`s = 1 + 1 / h` that of the fewest rejections, and u uniform on (-1, 1),

    .. math:: \sin \frac{x}{2} = \frac{\sin(\pi u / 2)}{\sqrt{1 + 2 h \cos^2(\pi u / 2)}}, \qquad
              P(\mathrm{accept}) = c \, e^{1 - c}, \quad c = \kappa (s - \cos x).

    The first round of proposals stands before the loop, whose carry then has its type from the
    start: inside ``jax.shard_map``, what differs between devices.
    """
    kappa = jnp.where(concentration >= 0, concentration, jnp.nan)
    excess = 1 + 1 / (jnp.sqrt(1 + 4 * kappa**2) + 2 * kappa)
    h, least = 2 * kappa / excess, excess / 2

    def propose(key):
        key, at_key, accept_key = jax.random.split(key, 3)
        angle = jnp.pi / 2 * jax.random.uniform(at_key, shape, kappa.dtype, -1.0, 1.0)
        half_chord = jnp.sin(angle) / jnp.sqrt(1 + 2 * h * jnp.cos(angle) ** 2)
        c = least + 2 * kappa * half_chord**2
        rejected = jax.random.uniform(accept_key, shape, kappa.dtype) > c * jnp.exp(1 - c)
        return key, half_chord, rejected  # a NaN is not rejected: there is an end

    def again(state):
        key, half_chord, waiting = state
        key, proposed, rejected = propose(key)
        return key, jnp.where(waiting, proposed, half_chord), waiting & rejected

    _, half_chord, _ = jax.lax.while_loop(lambda state: state[2].any(), again, propose(key))
    return 2 * jnp.arcsin(half_chord)


@jax.custom_jvp
def _with_path(x, concentration):
    """Centred draws, with the derivative at a fixed value of the distribution function."""
    del concentration
    return x


@_with_path.defjvp
def _with_path_jvp(primals, tangents):
    x, concentration = primals
    x_dot, concentration_dot = tangents
    moved = jnp.sign(x) * _slope(jnp.abs(x), concentration) * concentration_dot
    return x, x_dot + moved.astype(x.dtype)


def _slope(x, concentration):
    """``dx / d concentration`` for x >= 0: minus the integral over [0, x], or that over [x, pi].

    ``cos t - A`` is ``1 - A - 2 sin(t / 2)^2``, and the exponent a product of sines: nothing
    cancels.
    """
    rest = _one_minus_ratio(concentration)
    past_zero = 2 * jnp.sin(x / 2) ** 2 > rest
    start = jnp.where(past_zero, x, 0.0)
    end = jnp.where(past_zero, _negligible_from(x, concentration), x)
    length = (end - start)[..., None]
    t = start[..., None] + length * _NODES.astype(x.dtype)
    x, concentration, rest = x[..., None], concentration[..., None], rest[..., None]
    exponent = -2 * concentration * jnp.sin((t + x) / 2) * jnp.sin((t - x) / 2)
    integrand = jnp.exp(exponent) * (rest - 2 * jnp.sin(t / 2) ** 2)
    integral = (length * integrand * _WEIGHTS.astype(t.dtype)).sum(-1)
    return jnp.where(past_zero, integral, -integral)


def _negligible_from(x, concentration):
    """Where the density has fallen by 40 nats from its value at x; at most pi."""
    half_chord = jnp.sin(x / 2) ** 2 + _NEGLIGIBLE / (2 * concentration)
    inside = half_chord < 1
    return jnp.where(inside, 2 * jnp.arcsin(jnp.sqrt(jnp.where(inside, half_chord, 0.5))), jnp.pi)


def _one_minus_ratio(concentration):
    """``1 - I_1 / I_0``, the mean of ``1 - cos``, by two integrals: no digits cancel."""
    end = _negligible_from(jnp.zeros_like(concentration), concentration)[..., None]
    versine = 2 * jnp.sin(end * _NODES.astype(concentration.dtype) / 2) ** 2
    weight = _WEIGHTS.astype(concentration.dtype) * jnp.exp(-concentration[..., None] * versine)
    return (weight * versine).sum(-1) / weight.sum(-1)


@jax.custom_jvp
def _log_i0e(concentration):
    """``log(exp(-kappa) I_0(kappa))``, whose derivative ``A - 1`` NumPyro gets by cancellation."""
    return jnp.log(i0e(concentration))


@_log_i0e.defjvp
def _log_i0e_jvp(primals, tangents):
    return _log_i0e(*primals), -_one_minus_ratio(*primals) * tangents[0]
