"""Whether each factor of the data is told by one code alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vi._check import refusal, require_count
from vi._known import is_known


class MutualInformationGap(NamedTuple):
    """How far one code is ahead of the next in what it tells of a factor.

    Attributes:
        mean: Over factors, a scalar: the MIG.
        gap: ``[F]``, by factor, from 0 to 1.
        mutual_information: ``[D, F]``, of each code and factor, in nats.
        entropy: ``[F]``, of each factor, in nats.
    """

    mean: Float[Array, ""]
    gap: Float[Array, " F"]
    mutual_information: Float[Array, "D F"]
    entropy: Float[Array, " F"]


def mutual_information_gap(
    codes: Float[Array, "N D"], factors: Int[Array, "N F"], *, num_bins: int = 20
) -> MutualInformationGap:
    r"""The mutual information gap (MIG): one code per factor, and no other, gives 1.

    .. math:: \mathrm{MIG} = \frac{1}{F} \sum_f \frac{1}{\mathrm{H}(v_f)} \Big(
              \mathrm{I}(c_{(1)}; v_f) - \mathrm{I}(c_{(2)}; v_f) \Big),

    with (1) and (2) the codes that tell most and second most of factor f. The definition is that of
    Locatello et al.: codes are posterior means, each in ``num_bins`` bins of equal width from its
    least to its greatest value; information and entropy are those of the table of counts. (Chen et
    al. integrate over draws of q(z | x) instead.) Two things follow. A code that the model ignores
    counts as any other, since its bins shrink with it. And counts tell too much: of what is
    independent about ``(num_bins - 1) (V - 1) / 2 N`` nats, with V values of the factor.

    Args:
        codes: ``[N, D]``, D of at least 2, finite.
        factors: ``[N, F]``, integers: which of its values each factor has; N data that weigh the
            same, for instance all combinations once each.
        num_bins: Of each code.

    Returns:
        ``MutualInformationGap(mean, gap, mutual_information, entropy)``. What is refused outside of
        ``jit`` is NaN inside: the gap of a factor with one value, all gaps if a code is not finite.

    Raises:
        ValueError: Arrays that are not floating ``[N, D]`` and integer ``[N, F]`` of one N, codes
            that are not finite, a factor with one value, or ``num_bins`` below 2.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> codes = jnp.array([[0.0, 5.0], [0.1, 6.0], [1.0, 5.0], [1.1, 6.0]])
        >>> factors = jnp.array([[0, 1], [0, 0], [1, 1], [1, 0]])
        >>> print(vi.diagnostics.mutual_information_gap(codes, factors, num_bins=2).gap.round(3))
        [1. 1.]

    References:
        Chen, Li, Grosse and Duvenaud (2018), section 4; Locatello, Bauer, Lucic, Raetsch, Gelly,
        Schoelkopf and Bachem (2019), for the bins.
    """
    codes, factors = _checked(jnp.asarray(codes), jnp.asarray(factors))
    num_bins = require_count("mutual_information_gap", "num_bins", num_bins, least=2)
    low, high = codes.min(0), codes.max(0)
    width = jnp.where(high > low, high - low, 1)
    # a code at its greatest value is in the last bin
    bins = jnp.minimum((num_bins * ((codes - low) / width)).astype(jnp.int32), num_bins - 1)
    values = jax.vmap(_first_places, 1, 1)(factors)
    information = jax.vmap(lambda b: jax.vmap(lambda v: _information(b, v), 1)(values), 1)(bins)
    seen = jnp.isfinite(codes).all(0)[:, None]
    information = jnp.where(seen, jnp.maximum(information, 0), jnp.nan)
    varies = (factors != factors[0]).any(0)
    entropy = jnp.log(len(codes)) - jax.vmap(_log_counts, 1)(values).mean(-1)
    entropy = jnp.where(varies, entropy, 0)
    most = jax.lax.top_k(information.T, 2)[0]
    gap = (most[:, 0] - most[:, 1]) / jnp.where(varies & seen.all(), entropy, jnp.nan)
    return MutualInformationGap(gap.mean(), gap, information, entropy)


def _first_places(labels):
    """Labels as whole numbers below N: the place of the first of each among the sorted."""
    return jnp.searchsorted(jnp.sort(labels), labels).astype(jnp.int32)


def _log_counts(labels):
    """The log of how often each of the labels ``[N]`` occurs: no number of labels need be known."""
    order = jnp.sort(labels)
    first, last = (jnp.searchsorted(order, labels, side=side) for side in ("left", "right"))
    return jnp.log((last - first).astype(jnp.result_type(float)))


def _information(bins, values):
    """``mean log n n_ij / n_i n_j``: that of the table of counts, for values below N."""
    joint = bins * len(bins) + values
    logs = jnp.log(len(bins)) + _log_counts(joint) - _log_counts(bins) - _log_counts(values)
    return logs.mean()


def _checked(codes, factors):
    where = "mutual_information_gap"
    if not jnp.issubdtype(codes.dtype, jnp.floating):
        remedy = "pass the means of q(z | x), one row a datum"
        raise refusal(where, "codes", "be floating", f"dtype {codes.dtype}", remedy)
    if not jnp.issubdtype(factors.dtype, jnp.integer):
        remedy = "number the values of each factor"
        raise refusal(where, "factors", "be integers", f"dtype {factors.dtype}", remedy)
    if codes.ndim != 2 or codes.shape[1] < 2 or not len(codes):
        rule, remedy = "be [N, D] with D >= 2", "the gap is between two codes"
        raise refusal(where, "codes", rule, f"shape {list(codes.shape)}", remedy)
    if factors.ndim != 2 or len(factors) != len(codes) or not factors.shape[1]:
        rule, remedy = f"be [{len(codes)}, F], a row a datum", "stack factors on the last axis"
        raise refusal(where, "factors", rule, f"shape {list(factors.shape)}", remedy)
    if is_known(codes) and not jnp.isfinite(codes).all():
        raise refusal(where, "codes", "be finite", "NaN or inf", "look at what the encoder gave")
    if is_known(factors) and (alone := (factors == factors[0]).all(0)).any():
        got = f"one value in factor {int(alone.argmax())}"
        raise refusal(where, "factors", "have two values or more each", got, "leave that one out")
    return codes.astype(jnp.promote_types(codes.dtype, jnp.float32)), factors
