"""Draws from uniforms: the inverse distribution function of what NumPyro can invert."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from vi._check import is_reparameterised, refusal

_Bernoulli: Any = dist.BernoulliLogits | dist.BernoulliProbs
_Categorical: Any = dist.CategoricalLogits | dist.CategoricalProbs


def noise_shape(where: str, q: Any) -> tuple[int, ...]:
    """The shape of the uniforms that one draw of ``q`` is made from, its batch aside.

    Raises:
        ValueError: ``q``, or what it is made of, has no inverse distribution function.
    """
    if isinstance(q, dist.Independent):
        batch = q.base_dist.batch_shape
        event = batch[len(batch) - q.reinterpreted_batch_ndims :]
        return (*event, *noise_shape(where, q.base_dist))
    if isinstance(q, dist.ExpandedDistribution | dist.TransformedDistribution):
        return noise_shape(where, q.base_dist)
    if isinstance(q, _Bernoulli | _Categorical | dist.MultivariateNormal):
        return q.event_shape
    # NumPyro's icdf of a discrete uniform is none; ours of bits and categories are above
    support = getattr(q, "support", None)
    discrete = getattr(support, "is_discrete", False) and not is_reparameterised(q)
    if discrete or not _has_icdf(q):
        remedy = "draw plainly, or from normals and transforms of them"
        got = type(q).__name__
        raise refusal(where, "q", "have an inverse distribution function", got, remedy)
    return q.event_shape


def from_uniforms(q: Any, u: Float[Array, "..."]) -> Any:
    """The draws of ``q`` at uniforms ``[*shape, *batch, *noise_shape]``, which they follow."""
    if isinstance(q, dist.Independent | dist.ExpandedDistribution):
        return from_uniforms(q.base_dist, u)
    if isinstance(q, dist.TransformedDistribution):
        z = from_uniforms(q.base_dist, u)
        for transform in q.transforms:
            z = transform(z)
        return z
    if isinstance(q, _Bernoulli):
        return (u > 1 - q.probs).astype(jnp.result_type(int))
    if isinstance(q, _Categorical):
        below = jnp.cumsum(q.probs, axis=-1)[..., :-1]
        return (u[..., None] > below).sum(-1, dtype=jnp.result_type(int))
    if isinstance(q, dist.MultivariateNormal):
        return q.loc + jnp.einsum("...ij,...j->...i", q.scale_tril, ndtri(u))
    return q.icdf(u)


def _has_icdf(q) -> bool:
    """NumPyro raises where it has none, and where the special function is another package's."""
    try:
        u = jax.ShapeDtypeStruct((*q.batch_shape, *q.event_shape), jnp.result_type(float))
        jax.eval_shape(q.icdf, u)
    except (AttributeError, ImportError, NotImplementedError):
        return False
    return True
