"""What every flow is: a bijection of R^D with parameters, which pushes a base to a family."""

import math
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

from vi._check import refusal, require_batch_of, require_context, require_count
from vi.flows._transformed import FlowTransform, Transformed

Pair = tuple[Float[Array, "*shape D"], Float[Array, "*shape"]]


class Flow(nnx.Module):
    r"""A bijection :math:`y = f(x; c)` of :math:`R^D`, with parameters and perhaps a context c.

    Called with a base distribution it gives the family of :math:`f(x), x \sim` base,

    .. math:: \log q(y) = \log q_0(f^{-1}(y)) - \log |\det f'(f^{-1}(y))|.

    A flow of your own is a subclass with ``_forward(x, context)`` and, where there is one,
    ``_inverse(y, context)``, which return the image and the log-determinant of *their* Jacobian;
    shapes are checked before they are called. Entry by entry: an image depends on no other entry
    of the leading axes.

    Args:
        size: D.
        context_size: Size C of the context's last axis; 0 for none.

    Raises:
        ValueError: A size below 1, or (when called) an input or a context of another shape.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> class Shift(vi.flows.Flow):
        ...     def _forward(self, x, context):
        ...         return x + context, jnp.zeros(x.shape[:-1])
        ...     def _inverse(self, y, context):
        ...         return y - context, jnp.zeros(y.shape[:-1])
        >>> base = dist.Normal(jnp.zeros((3, 2)), 1.0).to_event(1)
        >>> q = Shift(2, context_size=2)(base, jnp.ones((3, 2)))
        >>> z = q.rsample(jax.random.key(0), (5,))
        >>> z.shape, q.log_prob(z).shape
        ((5, 3, 2), (5, 3))
    """

    def __init__(self, size: int, context_size: int = 0):
        self.size = require_count(self.name, "size", size)
        self.context_size = require_count(self.name, "context_size", context_size, least=0)

    @property
    def name(self) -> str:
        """What errors call the flow: its class in lower case."""
        return type(self).__name__.lower()

    def forward(
        self, x: Float[Array, "*shape D"], context: Float[Array, "*batch C"] | None = None
    ) -> Pair:
        """The image of ``x`` and the log-determinant of the Jacobian.

        Args:
            x: ``[*shape, *batch, D]``.
            context: ``[*batch, C]``, shared by the leading axes; None where its size is 0.

        Returns:
            ``y`` of the shape of ``x``, and ``log |det dy/dx|`` ``[*shape, *batch]``.
        """
        return self._forward(self._require("x", x, context), context)

    def inverse(
        self, y: Float[Array, "*shape D"], context: Float[Array, "*batch C"] | None = None
    ) -> Pair:
        """The point whose image is ``y``, and the log-determinant of the inverse's Jacobian.

        Args:
            y: ``[*shape, *batch, D]``.
            context: ``[*batch, C]``, shared by the leading axes; None where its size is 0.

        Returns:
            ``x`` of the shape of ``y``, and ``log |det dx/dy|`` ``[*shape, *batch]``.

        Raises:
            ValueError: The flow has no inverse in closed form.
        """
        return self._inverse(self._require("y", y, context), context)

    def transform(self, context: Float[Array, "*batch C"] | None = None) -> FlowTransform:
        """The map as a NumPyro transform; its ``call_with_intermediates`` keeps the log-det."""
        return FlowTransform(self, context)

    def __call__(
        self, base: dist.Distribution, context: Float[Array, "*batch C"] | None = None
    ) -> Transformed:
        """The family of images of a base, a NumPyro distribution.

        Args:
            base: Batch shape ``[*batch]``, event shape ``[D]``.
            context: ``[*batch, C]``; None where its size is 0.

        Raises:
            ValueError: A base of another event shape, or a context that is missing, not asked for,
                or of another size or batch.
        """
        if not isinstance(base, dist.Distribution) or base.event_shape != (self.size,):
            got = getattr(base, "event_shape", None)
            got = type(base).__name__ if got is None else f"event shape {list(got)}"
            rule = f"be a NumPyro distribution of event shape [{self.size}]"
            remedy = "give it D dimensions and .to_event(1)"
            raise refusal(self.name, "base", rule, got, remedy)
        if getattr(base.support, "is_discrete", False):
            remedy = "take vi.families.bernoulli, or another discrete family, as q itself"
            raise refusal(self.name, "base", "be continuous", type(base).__name__, remedy)
        require_context(self.name, context, self.context_size)
        if context is not None and jnp.shape(context)[:-1] != base.batch_shape:
            got = f"{list(jnp.shape(context)[:-1])} against {list(base.batch_shape)}"
            remedy = "base.expand(batch), or jnp.broadcast_to the context, if meant"
            raise refusal(self.name, "context", "have the batch of the base", got, remedy)
        return Transformed(base, self.transform(context))

    @property
    def has_force(self) -> bool:
        """Whether the derivative of log q can be carried along with a draw."""
        return type(self)._forward_with_force is not Flow._forward_with_force

    def forward_with_force(
        self, x: Float[Array, "*shape D"], context: Any, force: Float[Array, "*shape D"]
    ) -> tuple[Float[Array, "*shape D"], Float[Array, "*shape"], Float[Array, "*shape D"]]:
        r"""The image, the log-determinant, and the force at the image given that at ``x``.

        The force at x is the derivative in x of the log-density that x is drawn from; that at the
        image is the derivative in it of the log-density of the image. It is constant when
        differentiated once.

        Args:
            x: ``[*shape, *batch, D]``.
            context: ``[*batch, C]``; None where its size is 0.
            force: Of the shape of ``x``.

        Raises:
            ValueError: The flow does not carry one: ``has_force`` is False.
        """
        if not self.has_force:
            remedy = "dreg scores its draws by an inverse pass"
            raise refusal(self.name, "the flow", "carry a force", "has_force False", remedy)
        return self._forward_with_force(self._require("x", x, context), context, force)

    def _forward_with_force(self, x: Any, context: Any, force: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define _forward_with_force")

    def _forward(self, x: Any, context: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define _forward(x, context)")

    def _inverse(self, y: Any, context: Any) -> Any:
        no_inverse(self.name)

    def _require(self, argument: str, x, context):
        if jnp.ndim(x) == 0 or jnp.shape(x)[-1] != self.size:
            got, remedy = f"shape {list(jnp.shape(x))}", "the flow was made for that size"
            raise refusal(self.name, argument, f"have a last axis of {self.size}", got, remedy)
        require_context(self.name, context, self.context_size)
        require_batch_of(self.name, argument, jnp.shape(x)[:-1], context)
        return jnp.asarray(x)


def no_inverse(name: str) -> NoReturn:
    """Refuse a direction that a flow does not have."""
    raise ValueError(
        f"{name}: has no inverse in closed form, so that given points have no log_prob; use reparam"
        " or dreg of the flow itself, which score draws as they draw them"
    )


def conditioned(net: Any, x: Any, context: Any) -> Any:
    """What a network says of the parameters, over the root of its width."""
    return net(x, context) / root_width(net)


def root_width(net: Any) -> float:
    """The square root of the size of the last hidden layer, which parameters are divided by.

    So the effect of a small change of all weights does not grow with the width, and a flow whose
    weights are all off by 0.1 is still inverted to float32's last digits.
    """
    return math.sqrt(net.hidden[-1])


def stacked(modules: list[Any]) -> Any:
    """One module whose parameters lead with an axis over the modules, to be scanned."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *modules)
