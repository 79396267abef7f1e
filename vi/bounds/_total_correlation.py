"""The KL of an ELBO averaged over data, in three terms: what each says of the aggregate posterior.

Functions of log-densities of draws under every posterior, not of log-weights.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi._check import at_least_float32, refusal, require_count


class KLTerms(NamedTuple):
    """The three terms of each draw, ``[*batch]`` in nats; only their means over data mean much.

    Attributes:
        mutual_information: ``log q(z|x) - log q(z)``: on average what z tells of which datum.
        total_correlation: ``log q(z) - sum_d log q(z_d)``: on average how dependent the dimensions
            are in the aggregate posterior.
        dimension_wise_kl: ``sum_d log q(z_d) - log p(z_d)``: on average how far its marginals are
            from the prior's.
    """

    mutual_information: Float[Array, "*batch"]
    total_correlation: Float[Array, "*batch"]
    dimension_wise_kl: Float[Array, "*batch"]


def kl_terms(
    log_q: Float[Array, "*batch D"],
    log_q_pairs: Float[Array, "*batch N D"],
    log_prior: Float[Array, "*batch D"],
    log_weights: Float[Array, "*batch N"],
) -> KLTerms:
    r"""Index-code mutual information, total correlation and dimension-wise KL.

    .. math:: \mathbb{E}_x \mathrm{KL}(q(z|x) \,\|\, p(z)) = \mathrm{I}(x; z)
              + \mathrm{KL}\Big(q(z) \,\Big\|\, \prod_d q(z_d)\Big)
              + \sum_d \mathrm{KL}(q(z_d) \,\|\, p(z_d)),
              \qquad q(z) \approx \sum_j v_j \, q(z | x_j).

    For posteriors and a prior whose dimensions are independent. Whatever the weights, the terms of
    a draw add up to ``log q(z|x) - log p(z)`` to rounding: an error in log q(z) moves nats from one
    term to another. Exact are weights of 1 / N over *all* the data, ``jnp.full((*batch, N),
    -log N)``; of a minibatch take ``minibatch_stratified`` or ``minibatch_weighted``. The
    beta-TC-VAE's objective is then ``log_lik - mi - beta * tc - dimension_wise_kl``, of means.

    Args:
        log_q: ``[*batch, D]``, log q(z_d | x) of a draw under its own posterior.
        log_q_pairs: ``[*batch, N, D]``, of the draw under each of N posteriors, its own among them:
            ``q.log_prob(z[:, None])`` for q and z of batch and dimension ``[B, D]``.
        log_prior: ``[*batch, D]``, log p(z_d).
        log_weights: ``[*batch, N]``, log v.

    Returns:
        ``KLTerms(mutual_information, total_correlation, dimension_wise_kl)``, each ``[*batch]``.

    Raises:
        ValueError: An argument that is not floating, or not of its shape.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> q = dist.Normal(jnp.array([[-1.0, 0.0], [1.0, 0.0]]), 0.1)  # two data, two dimensions
        >>> z, prior = q.sample(jax.random.key(0)), dist.Normal(0.0, 1.0)
        >>> weights = vi.bounds.minibatch_stratified(2, data_size=2)
        >>> terms = kl_terms(q.log_prob(z), q.log_prob(z[:, None]), prior.log_prob(z), weights)
        >>> print(terms.mutual_information.round(4))  # log 2: a draw says which datum
        [0.6931 0.6931]
        >>> bool((abs(terms.total_correlation) < 1e-5).all())
        True

    References:
        Chen, Li, Grosse and Duvenaud (2018), eq. 2; Hoffman and Johnson (2016) for the first term.
    """
    where = "kl_terms"
    log_q = at_least_float32(where, log_q, "log_q")
    named = {"log_q_pairs": log_q_pairs, "log_prior": log_prior, "log_weights": log_weights}
    pairs, log_prior, log_weights = (at_least_float32(where, v, n) for n, v in named.items())
    if pairs.ndim != log_q.ndim + 1:
        rule, remedy = "have one axis more than log_q", "score each draw under N posteriors"
        raise refusal(where, "log_q_pairs", rule, f"shape {list(pairs.shape)}", remedy)
    *batch, size = log_q.shape
    num_posteriors = pairs.shape[-2]
    for name, value, shape in (
        ("log_q_pairs", pairs, (*batch, num_posteriors, size)),
        ("log_prior", log_prior, (*batch, size)),
        ("log_weights", log_weights, (*batch, num_posteriors)),
    ):
        if value.shape != shape:
            remedy = "keep the dimensions of z apart (no to_event), with the draws' axes first"
            raise refusal(where, name, f"be {list(shape)}", f"shape {list(value.shape)}", remedy)
    log_joint = jax.nn.logsumexp(log_weights + pairs.sum(-1), axis=-1)
    log_marginals = jax.nn.logsumexp(log_weights[..., None] + pairs, axis=-2).sum(-1)
    return KLTerms(
        mutual_information=log_q.sum(-1) - log_joint,
        total_correlation=log_joint - log_marginals,
        dimension_wise_kl=log_marginals - log_prior.sum(-1),
    )


def minibatch_weighted(batch_size: int, *, data_size: int) -> Float[Array, "B B"]:
    r"""Log-weights that are all ``1 / (N B)``: a biased estimate of log q(z) from a minibatch.

    .. math:: q(z_i) \approx \frac{1}{N B} \sum_{j=1}^{B} q(z_i | x_j).

    The others count for less than they should: where posteriors coincide log q(z) comes out log N
    too low, and the mutual information log N, the total correlation (D - 1) log N too high. A
    constant moves no gradient, but each draw's own posterior has ``(N - 1) / (B - 1)`` times the
    share it should have beside the others, which biases the gradient too. It is here to reproduce
    what was trained with it; otherwise take ``minibatch_stratified``.

    Args:
        batch_size: B, the data of a minibatch.
        data_size: N, all data, at least B.

    Returns:
        ``[B, B]`` for ``kl_terms``: row i for the draw of datum i.

    Raises:
        ValueError: A count that is not a positive integer, or N below B.

    References:
        Chen, Li, Grosse and Duvenaud (2018), section 3.
    """
    batch_size, data_size = _counts("minibatch_weighted", batch_size, data_size)
    return jnp.asarray(np.full((batch_size, batch_size), -np.log(data_size) - np.log(batch_size)))


def minibatch_stratified(batch_size: int, *, data_size: int) -> Float[Array, "B B"]:
    r"""Log-weights under which a minibatch estimates q(z) without bias, and the whole exactly.

    .. math:: q(z_i) \approx \frac{1}{N} q(z_i | x_i)
              + \frac{N - 1}{N (B - 1)} \sum_{j \ne i} q(z_i | x_j).

    Unbiased for minibatches drawn without replacement; its log is low by Jensen. The published
    weights give one of the others ``(N - B + 1) / (N (B - 1))`` and the rest ``1 / (B - 1)``; these
    are their mean over which one it is: the same mean, no more variance, and ``1 / N`` at B = N.

    Args:
        batch_size: B, the data of a minibatch, at least 2 (1 where there is one datum).
        data_size: N, all data, at least B.

    Returns:
        ``[B, B]`` for ``kl_terms``: row i for the draw of datum i.

    Raises:
        ValueError: A count that is not a positive integer, N below B, or B = 1 < N.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> print(jnp.exp(minibatch_stratified(3, data_size=5)).round(3))
        [[0.2 0.4 0.4]
         [0.4 0.2 0.4]
         [0.4 0.4 0.2]]

    References:
        Chen, Li, Grosse and Duvenaud (2018), appendix C, before the mean.
    """
    where = "minibatch_stratified"
    batch_size, data_size = _counts(where, batch_size, data_size)
    if batch_size == 1 < data_size:
        remedy = "one datum tells nothing of the others: draw more"
        raise refusal(where, "batch_size", "be at least 2", batch_size, remedy)
    others = (data_size - 1) / (data_size * max(batch_size - 1, 1))
    weights = np.where(np.eye(batch_size, dtype=bool), 1 / data_size, others)
    return jnp.asarray(np.log(weights))


def _counts(where: str, batch_size: int, data_size: int) -> tuple[int, int]:
    batch_size = require_count(where, "batch_size", batch_size)
    data_size = require_count(where, "data_size", data_size)
    if data_size < batch_size:
        remedy = "give the number of training data"
        raise refusal(where, "data_size", f"be at least {batch_size}", data_size, remedy)
    return batch_size, data_size
