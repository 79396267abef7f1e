"""Elementwise bijections whose parameters a flow's networks give."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from vi._check import refusal


@runtime_checkable
class Transformer(Protocol):
    """An increasing function of one number with P parameters, the identity where they are zero.

    ``forward`` and ``inverse`` act entry by entry. Of your own, make a frozen dataclass: it is
    part of a flow's structure, compared by value, so that two flows made alike share one compiled
    program.
    """

    @property
    def num_params(self) -> int:
        """P."""
        ...

    def forward(
        self, x: Float[Array, "*shape"], params: Float[Array, "*shape P"]
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """The image, and the log of the derivative."""
        ...

    def inverse(
        self, y: Float[Array, "*shape"], params: Float[Array, "*shape P"]
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """The point whose image is ``y``, and the log of the inverse's derivative."""
        ...


def affine(*, max_log_scale: float = 2.0) -> Transformer:
    r"""Shift and scale, with a log-scale that cannot run away.

    .. math:: y = e^s x + t, \qquad s = s_{max} \tanh(a / s_{max}),

    with parameters (a, t). The clamp keeps a flow invertible in floating point wherever training
    takes it: each of its layers loses at most ``max_log_scale / log(10)`` digits.

    Args:
        max_log_scale: The bound on ``abs(s)``, positive.

    Returns:
        A transformer of two parameters.

    Raises:
        ValueError: A bound that is not one positive number.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> y, log_slope = vi.flows.affine().forward(jnp.array(3.0), jnp.array([0.0, 1.0]))
        >>> float(y), float(log_slope)
        (4.0, 0.0)

    References:
        Dinh, Sohl-Dickstein and Bengio (2017), equations 7 and 8.
    """
    return Affine(require_positive("affine", "max_log_scale", max_log_scale))


def composed(*transformers: Transformer) -> Transformer:
    """Transformers one after the other, with the parameters of all.

    A spline followed by an affine map has tails of a learned scale, which a spline alone, the
    identity there, has not.

    Args:
        transformers: At least one, the first to act first.

    Returns:
        A transformer of as many parameters as all together.

    Raises:
        ValueError: Nothing, or what is not a transformer.

    Examples:
        >>> import vi
        >>> vi.flows.composed(vi.flows.spline(num_bins=8), vi.flows.affine()).num_params
        25
    """
    if not transformers:
        remedy = "pass vi.flows.spline(), vi.flows.affine()"
        raise refusal("composed", "transformers", "be at least one", "none", remedy)
    for transformer in transformers:
        require_transformer("composed", transformer)
    return Composed(tuple(transformers))


@dataclasses.dataclass(frozen=True)
class Affine:
    """Shift and scale; made by ``affine``."""

    max_log_scale: float

    @property
    def num_params(self) -> int:
        """A log-scale before its clamp, and a shift."""
        return 2

    def forward(self, x, params):
        """Scale, then shift."""
        log_scale = self._log_scale(params)
        return x * jnp.exp(log_scale) + params[..., 1], log_scale

    def inverse(self, y, params):
        """Shift back, then scale back."""
        log_scale = self._log_scale(params)
        return (y - params[..., 1]) * jnp.exp(-log_scale), -log_scale

    def _log_scale(self, params):
        return self.max_log_scale * jnp.tanh(params[..., 0] / self.max_log_scale)


@dataclasses.dataclass(frozen=True)
class Composed:
    """One after the other; made by ``composed``."""

    transformers: tuple[Transformer, ...]

    @property
    def num_params(self) -> int:
        """Those of all."""
        return sum(t.num_params for t in self.transformers)

    def forward(self, x, params):
        """The first acts first."""
        return self._through("forward", x, list(self._parts(params)))

    def inverse(self, y, params):
        """The last is undone first."""
        return self._through("inverse", y, list(self._parts(params))[::-1])

    def _parts(self, params):
        start = 0
        for transformer in self.transformers:
            yield transformer, params[..., start : start + transformer.num_params]
            start += transformer.num_params

    def _through(self, direction, x, parts):
        total = jnp.zeros_like(x)
        for transformer, params in parts:
            x, log_slope = getattr(transformer, direction)(x, params)
            total = total + log_slope
        return x, total


def require_positive(where: str, argument: str, value: Any) -> float:
    """Refuse what is not one concrete positive number; return it as a float."""
    if isinstance(value, Tracer) or jnp.ndim(value) or not 0 < float(value) < float("inf"):
        remedy = "it is part of the flow's structure: pass a Python float"
        raise refusal(where, argument, "be one positive number", repr(value), remedy)
    return float(value)


def require_transformer(where: str, transformer: Any) -> None:
    """Refuse what is not a transformer: a factory of them is called first."""
    if isinstance(transformer, type) or not isinstance(transformer, Transformer):
        remedy = "pass vi.flows.affine() or vi.flows.spline(), called"
        raise refusal(where, "transformer", "be a transformer", repr(transformer), remedy)


def require_layers(where: str, hidden: Any) -> Sequence[int]:
    """Refuse conditioners without a hidden layer."""
    if not isinstance(hidden, Sequence) or not hidden:
        remedy = "pass one size per hidden layer, for instance (64, 64)"
        raise refusal(where, "hidden", "name at least one layer", repr(hidden), remedy)
    return hidden
