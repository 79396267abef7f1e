"""Which latent dimensions a trained encoder uses."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vi._check import refusal


class ActiveUnits(NamedTuple):
    """How many latent dimensions are in use, and how much each is.

    Attributes:
        count: The number of dimensions whose variance exceeds the threshold, a scalar.
        variance: ``[D]``, the variance over data of each posterior mean, in squared units of z.
    """

    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    variance: Float[Array, "D"]


def active_units(posterior_means: Float[Array, "N D"], *, threshold: float = 0.01) -> ActiveUnits:
    r"""Count the latent dimensions whose posterior mean moves with the data.

    .. math:: A_u = \operatorname{Var}_{x} \big( \mathbb{E}_{q(u|x)}[u] \big) > 0.01.

    For a unit-variance prior, ``A_u`` is near 1 where the posterior is sharp and 0 where it has
    collapsed onto the prior; the distribution of ``A_u`` has two far modes, so the threshold hardly
    matters. A_u is in units of z: with another prior scale it.

    Args:
        posterior_means: ``[N, D]``, the mean of q(z | x_n) for each of N data.
        threshold: The variance above which a dimension counts.

    Returns:
        ``ActiveUnits(count, variance)``.

    Raises:
        ValueError: ``posterior_means`` is not a floating ``[N, D]`` with N of at least 2.

    Examples:
        >>> import jax.numpy as jnp
        >>> active_units(jnp.array([[1.0, 0.01], [-1.0, -0.01]])).count
        Array(1, dtype=int32)

    References:
        Burda, Grosse and Salakhutdinov (2016), section 5.2.
    """
    where, name = "active_units", "posterior_means"
    means = jnp.asarray(posterior_means)
    if not jnp.issubdtype(means.dtype, jnp.floating):
        remedy = "pass the means of q(z | x), one row a datum"
        raise refusal(where, name, "be floating", f"dtype {means.dtype}", remedy)
    if means.ndim != 2 or means.shape[0] < 2:
        rule, remedy = "be [N, D] with N >= 2", "stack q's mean for each datum, latents flattened"
        raise refusal(where, name, rule, f"shape {list(means.shape)}", remedy)
    variance = jnp.var(means.astype(jnp.promote_types(means.dtype, jnp.float32)), axis=0)
    return ActiveUnits((variance > threshold).sum(), variance)
