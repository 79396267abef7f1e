"""ELBOs whose KL is known in closed form: functions of log-likelihoods and a KL, not of weights."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import at_least_float32, refusal
from vi.bounds._arguments import is_traced, require_scalar


def elbo_closed_kl(
    log_lik: Float[Array, "K *batch"], kl: Float[Array, "*batch_or_D"]
) -> Float[Array, "*batch"]:
    r"""The ELBO with an analytic KL: mean log-likelihood minus KL(q(z|x) || p(z)).

    .. math:: \mathcal{L} = \frac{1}{K} \sum_k \log p(x|z_k) - \mathrm{KL}(q(z|x) \,\|\, p(z)).

    Args:
        log_lik: ``[K, *batch]``, log p(x | z_k).
        kl: ``[*batch]``, or ``[*batch, D]`` per latent dimension, which is summed.

    Returns:
        ``[*batch]`` in nats.

    Raises:
        ValueError: ``kl`` is neither ``[*batch]`` nor ``[*batch, D]``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> vi.bounds.elbo_closed_kl(jnp.full((4, 2), -3.0), kl=jnp.ones((2, 5)))
        Array([-8., -8.], dtype=float32)

    References:
        Kingma and Welling (2014), eq. 3.
    """
    return _penalised("elbo_closed_kl", log_lik, kl, 1.0)


def beta_elbo(
    log_lik: Float[Array, "K *batch"],
    kl: Float[Array, "*batch_or_D"],
    beta: float | Float[Array, ""],
) -> Float[Array, "*batch"]:
    r"""The beta-VAE objective: mean log-likelihood minus beta KL(q(z|x) || p(z)).

    A lower bound on log p(x) for beta >= 1; the ELBO at 1. A traced ``beta`` (KL annealing) is
    fine.

    Args:
        log_lik: ``[K, *batch]``, log p(x | z_k).
        kl: ``[*batch]``, or ``[*batch, D]`` per latent dimension, which is summed.
        beta: The weight of the KL, a scalar of at least 0.

    Returns:
        ``[*batch]`` in nats.

    Raises:
        ValueError: A wrong shape of ``kl`` or ``beta``, or a negative ``beta``.

    References:
        Higgins et al. (2017), eq. 4.
    """
    _require_at_least_zero("beta_elbo", "beta", beta)
    return _penalised("beta_elbo", log_lik, kl, beta)


def free_bits(
    kl: Float[Array, "*shape"], min_nats: float | Float[Array, ""]
) -> Float[Array, "*shape"]:
    r"""Each KL term, but at least ``min_nats``: below that it costs nothing to use a latent.

    .. math:: \max(\mathrm{KL}_j, \lambda).

    Hand it the KL per datum and dimension, ``[*batch, D]``, and the result to ``elbo_closed_kl`` or
    ``beta_elbo``. The reference floors the minibatch mean instead: hand it ``kl.mean(0)``, ``[D]``,
    and the result, with log-likelihoods averaged over the batch too, ``[K]``, to either.

    Args:
        kl: KL terms in nats, any shape.
        min_nats: The floor of each term, in nats; a scalar of at least 0.

    Returns:
        The shape of ``kl``, in nats.

    Raises:
        ValueError: ``min_nats`` is not a scalar, or negative.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> vi.bounds.free_bits(jnp.array([0.01, 2.0]), min_nats=0.5)
        Array([0.5, 2. ], dtype=float32)

    References:
        Kingma et al. (2016), eq. 15.
    """
    _require_at_least_zero("free_bits", "min_nats", min_nats)
    return jnp.maximum(kl, min_nats)


def _penalised(where, log_lik, kl, beta):
    log_lik = at_least_float32(where, log_lik, "log_lik")
    kl = at_least_float32(where, jnp.asarray(kl)[None], "kl")[0]
    batch = log_lik.shape[1:]
    if kl.shape != batch and kl.shape[:-1] != batch:
        rule = f"have shape {list(batch)} or {[*batch, 'D']}"
        remedy = "give one KL per datum, or one per datum and latent dimension"
        raise refusal(where, "kl", rule, list(kl.shape), remedy)
    kl = kl if kl.shape == batch else kl.sum(-1)
    return log_lik.mean(0) - beta * kl


def _require_at_least_zero(where, name, value):
    value = require_scalar(where, name, value)
    if not is_traced(value) and value < 0:
        raise refusal(where, name, "be at least 0", value, "pass 0 or more")
