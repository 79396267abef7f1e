"""Mixtures as priors: of free normals, and of the posterior at learned pseudo-inputs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

from vi._check import refusal, require_count
from vi._known import require_positive
from vi.priors._event import require_event


class MixturePrior(nnx.Module):
    r"""A learned mixture of normals.

    .. math:: p(z) = \sum_c w_c \prod_d N(z_d; \mu_{cd}, \sigma_{cd}^2)

    Means begin as draws of a normal of scale ``spread``, scales at 1, weights equal. Train it with
    the rest of the model: its parameters are in the log-joint, so that every estimator reaches
    them.

    Args:
        size: D.
        num_components: C.
        spread: Standard deviation of the first means; at 0 all components would stay one.
        rngs: Where they come from.

    Raises:
        ValueError: A size or a number of components below 1, or a spread that is not positive
            and finite; on scoring, values that are not ``[D]``.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> from flax import nnx
        >>> prior = vi.priors.MixturePrior(2, num_components=10, rngs=nnx.Rngs(0))
        >>> prior().log_prob(jnp.zeros((5, 3, 2))).shape
        (5, 3)
    """

    def __init__(self, size: int, *, num_components: int, spread: float = 1.0, rngs: nnx.Rngs):
        require_count("MixturePrior", "size", size)
        require_count("MixturePrior", "num_components", num_components)
        remedy = "components that begin as one stay one"
        require_positive("MixturePrior", "spread", spread, remedy)
        shape = num_components, size
        self.loc = nnx.Param(spread * jax.random.normal(rngs.params(), shape))
        self.log_scale = nnx.Param(jnp.zeros(shape))
        self.logits = nnx.Param(jnp.zeros(num_components))

    def __call__(self) -> dist.Distribution:
        """``p(z)``, a NumPyro distribution with event shape ``[D]``."""
        normals = dist.Normal(self.loc[...], jnp.exp(self.log_scale[...])).to_event(1)
        return Mixture("MixturePrior", self.logits[...], normals)


class VampPrior(nnx.Module):
    r"""The mixture of the variational posterior at learned pseudo-inputs.

    .. math:: p(z) = \frac{1}{C} \sum_c q(z | u_c)

    The encoder is shared with q and is handed in at each call, so that its parameters have two
    roles. Both are differentiated by every estimator: what ``dreg`` leaves out is the score of q as
    the law that drew, and the prior's part stands in the log-joint.

    Args:
        raw: What is learned, ``[C, *event]``: pseudo-inputs before ``squash``. Training data, or
            noise around their mean, are good beginnings.
        squash: From ``raw`` to the range of the data, for instance ``jax.nn.sigmoid`` for pixels in
            [0, 1] with ``raw`` their logits. None leaves them as they are.
        logits: Log-weights ``[C]`` to be learned too; None for equal ones, those of the paper.

    Raises:
        ValueError: Pseudo-inputs that are no array of two axes or more, or weights that do not
            match them; on calling, a posterior that is not one NumPyro distribution per
            pseudo-input.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> prior = vi.priors.VampPrior(jnp.zeros((4, 6)), squash=jax.nn.sigmoid)
        >>> encoder = lambda x: vi.families.normal(x[..., :2], scale=jnp.ones_like(x[..., :2]))
        >>> prior(encoder).log_prob(jnp.zeros((5, 3, 2))).shape
        (5, 3)

    References:
        Tomczak and Welling (2018), equation 9.
    """

    def __init__(
        self,
        raw: Float[Array, "C ..."],
        *,
        squash: Callable[[Array], Array] | None = None,
        logits: Float[Array, " C"] | None = None,
    ):
        if jnp.ndim(raw) < 2 or not jnp.issubdtype(jnp.result_type(raw), jnp.floating):
            got = f"{jnp.result_type(raw)} of shape {list(jnp.shape(raw))}"
            remedy = "pass C pseudo-inputs as one floating array"
            raise refusal("VampPrior", "raw", "be [C, *event]", got, remedy)
        if logits is not None and jnp.shape(logits) != (len(raw),):
            got, remedy = f"shape {list(jnp.shape(logits))}", "give one log-weight a pseudo-input"
            raise refusal("VampPrior", "logits", f"be [C] = [{len(raw)}]", got, remedy)
        self.raw = nnx.Param(jnp.asarray(raw))
        self.squash = squash
        self.logits = None if logits is None else nnx.Param(jnp.asarray(logits))

    def inputs(self) -> Float[Array, "C ..."]:
        """The pseudo-inputs, in the range of the data."""
        return self.raw[...] if self.squash is None else self.squash(self.raw[...])

    def __call__(self, posterior: Callable[[Array], Any]) -> dist.Distribution:
        """``p(z)`` with the event of q, for ``posterior: x -> q(z | x)``, the model's own."""
        inputs = self.inputs()
        count = len(inputs)
        components = posterior(inputs)
        if (
            not isinstance(components, dist.Distribution)
            or components.batch_shape[-1:] != (count,)
            or len(components.batch_shape) > 1
        ):
            shape = getattr(components, "batch_shape", None)
            got = f"{type(components).__name__} of batch shape {shape}"
            remedy = "of a chain, pass the member that this is the prior of"
            rule = f"give a NumPyro distribution of batch shape ({count},)"
            raise refusal("VampPrior", "posterior", rule, got, remedy)
        raw_dtype = self.raw[...].dtype
        logits = jnp.zeros(count, raw_dtype) if self.logits is None else self.logits[...]
        return Mixture("VampPrior", logits, components)


class Mixture(dist.MixtureSameFamily):
    """NumPyro's, whose components each see the value at their full batch, as a flow must."""

    pytree_aux_fields = ("where",)

    def __init__(self, where: str, logits: Float[Array, " C"], components: dist.Distribution):
        self.where = where
        mixing: Any = dist.Categorical(logits=logits)
        super().__init__(mixing, components)

    def component_log_probs(self, value: Any) -> Float[Array, "*shape C"]:
        """``log w_c + log p_c(z)`` in nats, for each component."""
        require_event(self.where, value, self.event_shape)
        axis = jnp.ndim(value) - self.event_dim
        each = jnp.repeat(jnp.expand_dims(value, axis), self.mixture_size, axis)
        logits: Any = self.mixing_distribution.logits
        return jax.nn.log_softmax(logits) + self.component_distribution.log_prob(each)
