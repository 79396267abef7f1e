"""Distributions of flowjax and distrax, by what they do: neither library is imported."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer
from jaxtyping import Array, Float

from vi._check import is_key, refusal
from vi._mixed import require_rsample
from vi.types import Key


def adapt(distribution: Any, *, condition: Float[Array, "..."] | None = None) -> dist.Distribution:
    """A distribution of flowjax or distrax as a NumPyro one: a q, a prior, a member of a chain.

    Its floating arrays are leaves of the result, which passes through ``jit`` and ``jax.grad``;
    whatever else it holds is constant, the masks of a masked flow too. Draws and their log-density
    come from one pass where the library has one. Its support is unknown, since neither library
    tells: as a q or a guide it needs none, but NumPyro's samplers cannot take it as a prior, and
    ``constrained`` takes it for one over all reals: hand it no LogNormal, which is positive as it
    is.

    Reparameterised are the distributions of floats that choose no component: mixtures score only,
    in both libraries. A batch of flowjax distributions, ``eqx.filter_vmap`` of a constructor, is
    refused: ``jax.vmap`` over it, or give one distribution a batch of conditions.

    Args:
        distribution: A distribution of flowjax or distrax; one of NumPyro is returned as it is.
        condition: What a conditional flowjax distribution is given, ``[*batch, *cond_shape]``.

    Returns:
        A NumPyro distribution. From flowjax it has batch shape ``[*batch]``, that of the
        condition, and the distribution's shape as its event; from distrax, its own.

    Raises:
        ValueError: Anything else, a condition that is missing, not asked for or of another shape, a
            batch of flowjax distributions, or a distrax one that draws several arrays.

    Examples:
        >>> import flowjax.distributions, jax, jax.numpy as jnp, vi
        >>> theirs = flowjax.distributions.Normal(jnp.zeros(2), jnp.ones(2))
        >>> q = vi.families.adapt(theirs)
        >>> z, log_q = q.rsample_and_log_prob(jax.random.key(0), (5,))
        >>> q.event_shape, z.shape, log_q.shape
        ((2,), (5, 2), (5,))
    """
    if isinstance(distribution, dist.Distribution):
        _require_no_condition(condition)
        return distribution
    if _has(distribution, "shape", "cond_shape", "sample", "sample_and_log_prob", "log_prob"):
        return _from_flowjax(distribution, condition)
    if _has(distribution, "batch_shape", "event_shape", "dtype", "sample_and_log_prob", "log_prob"):
        _require_no_condition(condition)
        return _from_distrax(distribution)
    rule, remedy = (
        "be a distribution of NumPyro, flowjax or distrax",
        "give your own class sample(key, sample_shape) and log_prob(value): that is a q as it is",
    )
    raise refusal("adapt", "distribution", rule, type(distribution).__name__, remedy)


class Adapted(dist.Distribution):
    """A distribution of another library; made by ``adapt``."""

    arg_constraints = {}  # noqa: RUF012
    pytree_data_fields = ("arrays",)
    pytree_aux_fields = ("others",)

    def __init__(self, base_dist: Any, batch_shape: tuple[int, ...], event_shape: tuple[int, ...]):
        leaves, structure = jax.tree.flatten(base_dist)
        is_data = tuple(map(_is_data, leaves))
        parts = list(zip(leaves, is_data, strict=True))
        self.arrays = [leaf for leaf, keep in parts if keep]
        self.others = (structure, is_data, tuple(_Constant(x) for x, keep in parts if not keep))
        super().__init__(tuple(batch_shape), tuple(event_shape))

    @property
    def base_dist(self) -> Any:
        """The other library's."""
        structure, is_data, others = self.others
        arrays, others = iter(self.arrays), (constant.value for constant in others)
        return jax.tree.unflatten(structure, [next(arrays if a else others) for a in is_data])

    @property
    def has_rsample(self) -> bool:
        """Whether derivatives flow through the draws, by what they are made of."""
        return not any(
            base.__name__ in _WITHOUT_PATH
            for part in _parts(self.base_dist)
            for base in type(part).__mro__
        )


class FromFlowjax(Adapted):
    """A flowjax distribution, at a condition if it takes one."""

    pytree_data_fields = ("condition",)

    def __init__(self, base_dist: Any, condition: Any, batch_shape: tuple[int, ...]):
        self.condition = condition
        super().__init__(base_dist, batch_shape, base_dist.shape)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()):
        """Draw, ``[*sample_shape, *batch, *event]``."""
        return self.base_dist.sample(key, sample_shape, self.condition)

    def log_prob(self, value):
        """The log-density in nats, ``[*sample_shape, *batch]``."""
        return self.base_dist.log_prob(value, self.condition)

    def rsample_and_log_prob(self, key: Key, sample_shape: tuple[int, ...] = ()):
        """Draws with derivatives, and their log-density, in one pass."""
        require_rsample("adapt", "distribution", self)
        return self.base_dist.sample_and_log_prob(key, sample_shape, self.condition)


class FromDistrax(Adapted):
    """A distrax distribution."""

    def __init__(self, base_dist: Any):
        super().__init__(base_dist, base_dist.batch_shape, base_dist.event_shape)

    @property
    def has_rsample(self) -> bool:
        """Whether derivatives flow through the draws: floats, and made of what has a path."""
        return super().has_rsample and jnp.issubdtype(self.base_dist.dtype, jnp.floating)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()):
        """Draw, ``[*sample_shape, *batch, *event]``."""
        return self.base_dist.sample(seed=key, sample_shape=sample_shape)

    def log_prob(self, value):
        """The log-density in nats, ``[*sample_shape, *batch]``."""
        return self.base_dist.log_prob(value)

    def rsample_and_log_prob(self, key: Key, sample_shape: tuple[int, ...] = ()):
        """Draws with derivatives, and their log-density, in one pass."""
        require_rsample("adapt", "distribution", self)
        return self.base_dist.sample_and_log_prob(seed=key, sample_shape=sample_shape)


class _Constant:
    """What has no derivative, as part of a structure: arrays are compared by value."""

    def __init__(self, value: Any):
        self.value = value
        self._key = value
        if isinstance(value, jax.Array | np.ndarray):
            array = np.asarray(value)
            self._key = array.shape, array.dtype, array.tobytes()

    def __eq__(self, other):
        return isinstance(other, _Constant) and self._key == other._key

    def __hash__(self):
        return hash(self._key)


def _is_data(leaf: Any) -> bool:
    """Floats, and what is not known yet, or not as bytes: a traced mask, a key."""
    if not isinstance(leaf, jax.Array | np.ndarray):
        return False
    return isinstance(leaf, Tracer) or is_key(leaf) or jnp.issubdtype(leaf.dtype, jnp.inexact)


_WITHOUT_PATH = {  # some draw floats all the same; a subclass has its base's name among its own
    *("Bernoulli", "Categorical", "CategoricalUniform", "Clipped", "MixtureOfTwo"),
    *("MixtureSameFamily", "Multinomial", "Quantized", "VmapMixture"),
}


def _parts(node: Any):
    """A distribution and those inside it."""
    yield node
    for value in vars(node).values():
        if hasattr(type(value), "log_prob"):
            yield from _parts(value)


def _has(distribution: Any, *names: str) -> bool:
    return all(hasattr(distribution, name) for name in names)


def _from_flowjax(distribution: Any, condition: Any) -> FromFlowjax:
    q = FromFlowjax(distribution, condition, _batch_of(distribution, condition))
    try:
        jax.eval_shape(q.sample, jax.random.key(0))
    except ValueError as error:
        rule, got = "draw its own shape", type(distribution).__name__
        remedy = f"jax.vmap over a batch of distributions; flowjax says: {error}"
        raise refusal("adapt", "distribution", rule, got, remedy) from error
    return q


def _from_distrax(distribution: Any) -> FromDistrax:
    if not isinstance(distribution.event_shape, tuple):
        rule, remedy = "draw one array", "adapt its parts, and join them by vi.families.independent"
        got = type(distribution).__name__
        raise refusal("adapt", "distribution", rule, got, remedy)
    return FromDistrax(distribution)


def _require_no_condition(condition) -> None:
    if condition is not None:
        remedy = "only a conditional distribution of flowjax takes one"
        raise refusal("adapt", "condition", "be None", type(condition).__name__, remedy)


def _batch_of(distribution: Any, condition: Any) -> tuple[int, ...]:
    """The batch of a flowjax distribution, that of its condition."""
    wanted = distribution.cond_shape
    if wanted is None:
        _require_no_condition(condition)
        return ()
    shape = None if condition is None else jnp.shape(condition)
    if shape is None or shape[len(shape) - len(wanted) :] != tuple(wanted):
        rule = f"be [*batch, *{list(wanted)}]"
        got = "None" if shape is None else f"shape {list(shape)}"
        remedy = "pass what the distribution depends on"
        raise refusal("adapt", "condition", rule, got, remedy)
    return shape[: len(shape) - len(wanted)]
