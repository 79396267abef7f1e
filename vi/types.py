"""The contracts every room is written against: who hands what to whom, and in which shape.

Letters used in shapes: ``K`` samples, always axis 0; ``*batch`` the user's data axes; ``D``
latent dimensions. Log-densities and bounds are in nats.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vi._check import log_ratio

__all__ = [
    "Bound",
    "Coefficients",
    "Key",
    "Latent",
    "LogDensity",
    "Rule",
    "Variational",
    "log_weights",
]

Key: TypeAlias = PRNGKeyArray
"""One typed PRNG key, ``jax.random.key(seed)``. Whoever receives a key consumes it."""

Latent: TypeAlias = PyTree[Array]
"""Latent variables: an array or any pytree of arrays, each leaf ``[K, *batch, *event]``."""

LogDensity: TypeAlias = Callable[[Latent], Any]
"""``log_joint(z) -> log p(x, z)``, shape ``[K, *batch]``, in nats.

Pure; takes latents with any leading axes and returns those same leading axes; entry ``k`` depends
on ``z_k`` alone. It may return ``(log_p, aux)``, where every leaf of ``aux`` leads with the K axis.
"""

Bound: TypeAlias = Callable[[Float[Array, "K *batch"]], Float[Array, "*batch"]]
"""``bound(log_w)``: log-weights ``[K, *batch]`` to nats ``[*batch]``; reduces axis 0, nothing else.

``log_w[k] = log p(x, z_k) - log q(z_k | x)`` with ``z_k ~ q``. Whatever it is called it returns
with its own sign: a thing named elbo is the ELBO. ``vi.bounds.declare`` says what else is known of
it.
"""


class Coefficients(NamedTuple):
    """What a gradient estimator multiplies into each sample, each ``[K, *batch]``.

    The gradient of the objective is the sum over ``k`` of ::

        theta[k] * d log p(x, z_k)              its parameters, z_k held
        path[k]  * (d log w_k / d z_k) d z_k    through the draw
        score[k] * d log q(z_k)                 its parameters, z_k held
        signal[k] * d log q(discrete part of z_k)   in total: its parameters, and through the draw

    ``None`` means zero and is not computed; with ``path=None`` draws come from ``q.sample`` and are
    constants, so ``q`` need not be reparameterised. With ``signal`` the leaves of z that have a
    derivative carry it and the others are held (``q.partial_rsample``, ``q.score_log_prob``).
    """

    theta: Float[Array, "K *batch"]
    path: Float[Array, "K *batch"] | None = None
    score: Float[Array, "K *batch"] | None = None
    signal: Float[Array, "K *batch"] | None = None


Rule: TypeAlias = Callable[[Bound, Float[Array, "K *batch"]], Coefficients]
"""``rule(bound, log_w) -> Coefficients``: a gradient estimator, for every bound at once."""


@runtime_checkable
class Variational(Protocol):
    """An approximate posterior ``q(z | x)``: any object that samples and scores.

    Every NumPyro distribution is one. Optional members:

    * ``rsample``: as ``sample``, with draws that carry derivatives; ``has_rsample``: False where
      ``rsample`` exists but does not apply;
    * ``rsample_and_log_prob``: draws and their log-probability from one call, for a q that has it
      cheaper, or alone has it, at the moment of drawing; ``reparam`` asks for nothing else;
    * ``rsample_and_force``: ``(z, log q(z), force)``, with the derivative of log q in z beside the
      draws, leaves as theirs, which carries no derivative. All that ``dreg`` asks for;
    * ``partial_rsample``: as ``rsample``, with plain draws for the leaves that have no derivative,
      ``score_log_prob(z)``: the log-probability of those leaves, and ``has_path(z)``: for each
      leaf, whether a derivative flows through it (where ``has_rsample`` is given and True, seeds
      and indices may ride along without one);
    * ``independent_samples``: False where the draws of one call depend on each other along the
      last axis of ``sample_shape``.
    """

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Draw latents; every leaf is ``[*sample_shape, *batch, *event]``."""
        ...

    def log_prob(self, value: Any, /) -> Any:
        """Log-density of latents in nats, ``[*sample_shape, *batch]``: event axes are summed."""
        ...


def log_weights(z: Latent, q: Variational, log_joint: LogDensity) -> Float[Array, "K *batch"]:
    """Log importance weights of draws: ``log_w[k] = log p(x, z_k) - log q(z_k)``.

    Args:
        z: Draws, ``q.sample(key, (K,))`` or ``q.rsample(key, (K,))``; leaves
            ``[K, *batch, *event]``.
        q: The distribution they came from.
        log_joint: ``z -> log p(x, z)``, ``[K, *batch]``; an ``aux`` beside it is dropped.

    Returns:
        ``[K, *batch]`` in nats, at least float32.

    Raises:
        ValueError: The two log-densities differ in shape, lose the K axis or are not floating.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> q = dist.Normal(jnp.zeros(3), 1.0).to_event(1)
        >>> z = q.sample(jax.random.key(0), (5,))
        >>> log_weights(z, q, lambda z: q.log_prob(z) - 2.0)
        Array([-2., -2., -2., -2., -2.], dtype=float32)
    """
    num_samples = jax.tree.leaves(z)[0].shape[0]
    log_p = log_joint(z)
    log_p = log_p[0] if isinstance(log_p, tuple) else log_p
    return log_ratio("log_weights", num_samples, log_p, q.log_prob(z))
