"""NVIL's centring and scaling of the signal, as a baseline."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi._check import refusal
from vi.bounds import first_derivative
from vi.gradients._score import Baseline


class SignalMoments(NamedTuple):
    """Moving mean and variance of a signal; part of your training state.

    Attributes:
        mean: In nats.
        variance: In nats squared.
    """

    mean: Float[Array, ""] = np.float32(0.0)  # pyright: ignore[reportAssignmentType]
    variance: Float[Array, ""] = np.float32(0.0)  # pyright: ignore[reportAssignmentType]

    def updated(self, signal: Float[Array, "*batch"], *, decay: float = 0.8) -> "SignalMoments":
        """The moments after one more minibatch of signals, each with weight ``1 - decay``.

        A signal that is not finite is left out; if none is, nothing changes.
        """
        signal = jax.lax.stop_gradient(signal)
        is_finite = jnp.isfinite(signal)
        moments = (moment(signal, where=is_finite) for moment in (jnp.mean, jnp.var))

        def moved(old, new):
            value = jnp.where(is_finite.any(), old + (1 - decay) * (new - old), old)
            return value.astype(jnp.asarray(old).dtype)

        return SignalMoments(*map(moved, self, moments))


def nvil(moments: SignalMoments, prediction: Float[Array, "*batch"] | float = 0.0) -> Baseline:
    r"""Centre the signal by a prediction and a moving mean, and divide it by its moving deviation.

    With :math:`s = \max(1, \sqrt v)` the score's coefficient becomes
    :math:`(F - F_k + 1 / K - C(x) - c) / s`; 1 / K is the mean of the F_k of a bound that moves
    with a shift, so that where C(x) + c is the bound's mean the signal is centred. The centring is
    an exact baseline. The division makes the mean gradient of q's parameters smaller by s, and no
    other: a learning rate for q that falls with the noise. The moments must be those of *earlier*
    steps: the paper updates them with the minibatch they are used on, which is a little biased.
    Under ``replicated`` hand ``updated`` the bounds of single replicates, not their mean.

    Args:
        moments: c and v, from ``SignalMoments().updated(...)`` of earlier steps.
        prediction: C(x), a network's, ``[*batch]`` in nats; its parameters stay yours to train.

    Returns:
        A baseline for ``vi.gradients.score``.

    Raises:
        ValueError: At the call: a prediction that is not one number for each datum.

    Examples:
        A step of training hands the moments on (``vi.training.stateful_gradient_step`` keeps them):

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> log_joint = lambda z: jnp.where(z == 1, 5.0, 0.0)
        >>> def loss(params, key, moments):
        ...     baseline = vi.gradients.nvil(moments, params["baseline"])
        ...     objective = vi.gradients.score(vi.bounds.elbo, baseline=baseline)
        ...     value = objective(key, dist.Bernoulli(logits=params["logit"]), log_joint, 8)
        ...     residual = jax.lax.stop_gradient(value) - moments.mean - params["baseline"]
        ...     return -value + residual**2, moments.updated(value - params["baseline"])
        >>> params, moments = {"logit": 0.5, "baseline": 0.0}, vi.gradients.SignalMoments()
        >>> gradient = jax.jit(jax.grad(loss, has_aux=True))
        >>> for key in jax.random.split(jax.random.key(0), 50):
        ...     of_params, moments = gradient(params, key, moments)
        >>> bool(abs(moments.mean - 3.8) < 1)  # the ELBO at this logit
        True

    References:
        Mnih and Gregor (2014), algorithm 1.
    """

    def nvil(bound, log_w):
        if jnp.shape(prediction) not in ((), log_w.shape[1:]):
            rule, got = f"be {list(log_w.shape[1:])}, one for each datum", jnp.shape(prediction)
            remedy = "take away the network's last axis of 1, if that is what differs"
            raise refusal("nvil", "prediction", rule, f"shape {list(got)}", remedy)
        signal = bound(log_w) - first_derivative(bound, log_w)
        scale = jnp.maximum(1.0, jnp.sqrt(moments.variance))
        centred = signal + 1 / log_w.shape[0] - prediction - moments.mean
        return signal - centred / scale

    return nvil
