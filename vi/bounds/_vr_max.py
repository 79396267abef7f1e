"""The largest log-weight."""

from jaxtyping import Array, Float

from vi._check import at_least_float32
from vi.bounds._declare import declare


@declare(direction="upper_limit", smooth=False)
def vr_max(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
    r"""The VR-max bound: the largest log-weight, ``renyi`` as alpha -> -infinity.

    .. math:: \max_k \log w_k.

    The ELBO's one draw at K = 1; on every draw between ``iwae`` and ``iwae`` + log K. As K grows it
    rises to the largest log-weight there is, above log p(x), without limit if q's tails are the
    lighter. It is maximised all the same, at small K, as a cheap stand-in for ``iwae``: one draw of
    K carries the gradient. A maximum has kinks, so that ``dreg`` refuses it.

    Args:
        log_w: Log-weights ``[K, *batch]``.

    Returns:
        ``[*batch]`` in nats, at least float32; ``-inf`` where every weight is zero.

    References:
        Li and Turner (2016), section 4.
    """
    return at_least_float32("vr_max", log_w).max(0)
