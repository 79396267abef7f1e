"""Bounds of a mixture drawn one component after the other."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import at_least_float32, refusal
from vi.bounds._arguments import factory, is_traced, named, require_samples
from vi.bounds._declare import declare
from vi.bounds._self_normalised import softmax, top_of
from vi.types import Bound


@factory("stratified_elbo(logits)")
def stratified_elbo(logits: Float[Array, "*batch M"]) -> Bound:
    r"""The ELBO of a mixture, its components drawn in turn and weighted.

    .. math:: \sum_m \pi_m \frac{1}{K_m} \sum_{k \in m} \log w_k, \qquad
              w_k = \frac{p(x, z_k)}{q(z_k | x)}, \quad z_k \sim q_m, \quad
              q = \sum_m \pi_m q_m.

    Its mean is that of ``elbo`` under draws of the mixture; the noise of which component is drawn
    is gone, and the mixture's weights have a derivative of their own, through
    :math:`\pi_m` here and through q in the log-weights. Component m has the draws m, m + M,
    m + 2 M, ...: those of ``vi.families.component_draws``. Differentiate it with ``reparam``.

    Args:
        logits: Unnormalised log-weights of the M components, those of q: one for all data, or
            ``[*batch, M]``. They may be traced, and learned.

    Returns:
        The bound ``log_w [K, *batch] -> [*batch]`` in nats, K at least M.

    Raises:
        ValueError: No axis of components; at the call, fewer samples than components, or weights of
            another batch.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> bound = vi.bounds.stratified_elbo(jnp.log(jnp.array([0.25, 0.75])))
        >>> value = bound(jnp.array([0.0, 1.0, 2.0, 3.0]))
        >>> print(f"{value:.2f}")  # 1/4 of (0 + 2) / 2, 3/4 of (1 + 3) / 2
        1.75

    References:
        Roeder, Wu and Duvenaud (2017), section 4; Morningstar, Vikram, Ham, Gallagher and Dillon
        (2021), the stratified ELBO.
    """
    logits, least = _require_components("stratified_elbo", logits)

    def derivatives(log_w):
        _, share = _with_shares("stratified_elbo", log_w, logits, least)
        return share, jnp.zeros_like(share)

    @named("stratified_elbo", _shown(logits))
    @declare(min_samples=least, num_groups=None, derivatives=derivatives)
    def bound(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
        log_w, share = _with_shares("stratified_elbo", log_w, logits, least)
        left_out = (share == 0) & jnp.isinf(log_w)
        return (share * jnp.where(left_out, 0.0, log_w)).sum(0)

    return bound


@factory("stratified_iwae(logits)")
def stratified_iwae(logits: Float[Array, "*batch M"]) -> Bound:
    r"""The importance-weighted bound of a mixture, its components drawn in turn and weighted.

    .. math:: \log \sum_m \pi_m \frac{1}{K_m} \sum_{k \in m} w_k, \qquad
              w_k = \frac{p(x, z_k)}{q(z_k | x)}, \quad z_k \sim q_m, \quad
              q = \sum_m \pi_m q_m.

    The mean inside the logarithm is p(x), so that its mean is a lower bound. At K = M it sees every
    component once, and mixtures whose components specialise are not punished for it as by
    ``stratified_elbo``. Component m has the draws m, m + M, m + 2 M, ...: those of
    ``vi.families.component_draws``. Differentiate it with ``reparam``.

    Args:
        logits: Unnormalised log-weights of the M components, those of q: one for all data, or
            ``[*batch, M]``. They may be traced, and learned.

    Returns:
        The bound ``log_w [K, *batch] -> [*batch]`` in nats, K at least M.

    Raises:
        ValueError: No axis of components; at the call, fewer samples than components, or weights of
            another batch.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> log_w = jnp.log(jnp.array([1.0, 2.0]))
        >>> bound = vi.bounds.stratified_iwae(jnp.log(jnp.array([0.25, 0.75])))
        >>> print(f"{jnp.exp(bound(log_w)):.3f}")  # 1/4 of 1, 3/4 of 2
        1.750

    References:
        Morningstar, Vikram, Ham, Gallagher and Dillon (2021), the stratified importance-weighted
        bound; Burda, Grosse and Salakhutdinov (2016).
    """
    logits, least = _require_components("stratified_iwae", logits)

    def derivatives(log_w):
        log_w, log_share = _with_log_shares("stratified_iwae", log_w, logits, least)
        weight = softmax(log_w + log_share)
        return weight, weight * (1 - weight)

    @named("stratified_iwae", _shown(logits))
    @declare(min_samples=least, num_groups=None, derivatives=derivatives)
    def bound(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
        log_w, log_share = _with_log_shares("stratified_iwae", log_w, logits, least)
        shared = log_w + log_share
        top = top_of(shared)
        return top[0] + jnp.log(jnp.exp(shared - top).sum(0))

    return bound


def _require_components(where: str, logits):
    """Refuse a scalar; the logits, and M."""
    logits = jnp.asarray(logits)
    if logits.ndim == 0:
        remedy = "pass the logits of the mixture, [M] or [*batch, M]"
        raise refusal(where, "logits", "have a last axis of components", "a scalar", remedy)
    return logits, logits.shape[-1]


def _shown(logits) -> str:
    if is_traced(logits) or logits.ndim > 1:
        return f"logits {list(logits.shape)}"
    return f"[{', '.join(f'{float(logit):.6g}' for logit in logits)}]"


def _with_shares(where: str, log_w, logits, least: int):
    """Log-weights, and what multiplies each: its component's weight, shared among its draws."""
    log_w, log_share = _with_log_shares(where, log_w, logits, least)
    return log_w, jnp.exp(log_share)


def _with_log_shares(where: str, log_w, logits, least: int):
    """The same, with the logarithm of what multiplies: a weight too small for a float has one."""
    log_w = require_samples(where, at_least_float32(where, log_w), least)
    K, *batch = log_w.shape
    *own, M = logits.shape
    if own and own != batch:
        got = f"weights of batch {own} for log-weights of batch {batch}"
        remedy = "give one mixture per datum, or one for all"
        raise refusal(where, "logits", "have the batch of log_w", got, remedy)
    logits = logits.astype(jnp.promote_types(logits.dtype, log_w.dtype))
    weights = jnp.moveaxis(jax.nn.log_softmax(logits, axis=-1), -1, 0)
    weights = weights.reshape(M, *(own or (1,) * len(batch)))
    component = jnp.arange(K) % M
    counts = (K - 1 - component) // M + 1
    log_share = weights[component] - jnp.log(counts).reshape(K, *(1 for _ in batch))
    return log_w, jnp.broadcast_to(log_share, log_w.shape).astype(log_w.dtype)
