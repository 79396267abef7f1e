"""Data that are levels, 0 to M - 1, and the mass of the logistic between two edges."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro.distributions import constraints


class Levels(dist.Distribution):
    """A distribution over the whole numbers ``0 .. num_levels - 1``."""

    num_levels: int

    @constraints.dependent_property(is_discrete=True, event_dim=0)  # pyright: ignore[reportArgumentType]
    def support(self):
        """Every level."""
        return constraints.integer_interval(0, self.num_levels - 1)

    @property
    def data_rule(self) -> str:
        """What its data are, for a refusal."""
        return f"be whole levels from 0 to {self.num_levels - 1}"

    data_remedy = "count the levels from 0: jnp.round((x - low) / step)"


def entry_at(
    every: Float[Array, "*shape_or_fewer M"], index: Int[Array, "*shape_or_fewer"]
) -> Float[Array, "*shape"]:
    """The entry of the last axis that ``index`` names, the axes before it broadcast jointly."""
    shape = jnp.broadcast_shapes(index.shape, every.shape[:-1])
    index = jnp.broadcast_to(index, shape)[..., None]
    every = jnp.broadcast_to(every, (*shape, every.shape[-1]))
    return jnp.take_along_axis(every, index, axis=-1)[..., 0]


def log_logistic_mass(
    above: Float[Array, "*shape"],
    below: Float[Array, "*shape"],
    width: Float[Array, "*shape"],
    *,
    is_first: Array,
    is_last: Array,
) -> Float[Array, "*shape"]:
    r"""``log(sigmoid(above) - sigmoid(below))``, with the tails for the first and last level.

    .. math:: \log(\sigma(b) - \sigma(a)) = \log \sigma(b) + \log \sigma(-a) + \log(1 - e^{a - b})

    No difference of two numbers near 1 or near 0 is taken, so that nothing underflows. Above the
    last level and below the first any finite number may stand.

    Args:
        above: The upper edge less the centre, in scales.
        below: The lower edge, likewise.
        width: ``above - below``, from where it has all its digits; positive.
        is_first: Whether this is the level whose lower edge is minus infinity.
        is_last: Whether this is the level whose upper edge is infinity.
    """
    left_of_above = jnp.where(is_last, 0.0, -jax.nn.softplus(-above))
    right_of_below = jnp.where(is_first, 0.0, -jax.nn.softplus(below))
    has_a_tail = is_first | is_last
    between = jnp.log(-jnp.expm1(-jnp.where(has_a_tail, 1.0, width)))
    return left_of_above + right_of_below + jnp.where(has_a_tail, 0.0, between)
