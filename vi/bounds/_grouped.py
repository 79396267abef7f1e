"""The mean of a bound over groups of samples."""

from jaxtyping import Array, Float

from vi._check import at_least_float32, refusal, require_bound, require_count
from vi.bounds._arguments import factory, named, require_samples
from vi.bounds._declare import declare, promised
from vi.bounds._derivatives import derivatives as derivatives_of
from vi.types import Bound


@factory("grouped(vi.bounds.iwae, 4)")
def grouped(bound: Bound, num_groups: int) -> Bound:
    r"""The mean of a bound over M equal groups of the K samples; of ``iwae`` it is MIWAE.

    .. math:: \frac{1}{M} \sum_{m=1}^{M} F(\log w_{m,1}, \dots, \log w_{m,K/M}).

    The same draws trade tightness for variance: M = 1 is ``bound`` at K, M = K the ELBO. Its mean
    is that of ``bound`` with K / M samples, so that as M grows with K / M held it tends to that
    mean, and as K / M grows to the limit of ``bound``. Group m is the m-th run of K / M neighbours
    on axis 0.

    Args:
        bound: Any bound.
        num_groups: M; K must be a multiple of it.

    Returns:
        The bound ``log_w [K, *batch] -> [*batch]`` in nats.

    Raises:
        ValueError: M below 1; at the call, a K that M does not divide.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> vi.bounds.grouped(vi.bounds.vr_max, 2)(jnp.array([1.0, 2.0, 5.0, 4.0]))
        Array(3.5, dtype=float32)

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh (2018), with (M, K) there (M, K / M)
        here.
    """
    require_bound("grouped", bound)
    inner = promised(bound)
    num_groups = require_count("grouped", "num_groups", num_groups)
    least = num_groups * inner.min_samples

    def split(log_w):
        log_w = require_samples("grouped", at_least_float32("grouped", log_w), least)
        K, *batch = log_w.shape
        if K % num_groups:
            rule = f"have a multiple of {num_groups} samples"
            fewer = K // num_groups * num_groups
            remedy = f"draw {max(fewer, least)} or {fewer + num_groups}"
            raise refusal("grouped", "log_w", rule, f"K = {K}", remedy)
        return log_w.reshape(num_groups, K // num_groups, *batch).swapaxes(0, 1)

    def derivatives(log_w):
        parts = derivatives_of(bound, split(log_w))
        return tuple(p.swapaxes(0, 1).reshape(log_w.shape) / num_groups for p in parts)

    own = inner.num_groups
    declared = inner._replace(
        min_samples=least,
        derivatives=derivatives,
        num_groups=None if own is None else own * num_groups,
        replaced=None,
    )

    @named("grouped", bound, num_groups)
    @declare(**declared._asdict())
    def mean(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
        return bound(split(log_w)).mean(0)

    return mean
