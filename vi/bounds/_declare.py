"""What a bound says about itself: one attribute, no registry."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from vi._check import refusal, require_count
from vi.types import Bound

Direction = Literal["lower", "none", "upper_limit", "divergence"]
Sense = Literal["maximise", "minimise"]
Shift = Literal["equivariant", "invariant", "none"]
B = TypeVar("B", bound=Callable)


class Declaration(NamedTuple):
    """What is known of a bound; a bare function has these defaults.

    Attributes:
        direction: What the number is. ``lower``: its mean is at most log p(x) at every K. ``none``:
            no side is known. ``upper_limit``: an upper bound only as K grows without limit.
            ``divergence``: at least 0 in that limit, and 0 where q is the posterior.
        sense: What to do with it, ``maximise`` or ``minimise``.
        smooth: Whether its first derivative is Lipschitz; a maximum, a median, a clip are not.
        min_samples: The least K at which it is defined.
        shift: Under ``log_w + c``: ``equivariant`` moves by c, ``invariant`` stays, ``none``.
        derivatives: ``log_w -> (F_k, F_kk)``, first derivative and diagonal of the second, each
            ``[K, *batch]``, in O(K); None takes them by automatic differentiation in O(K^2).
        num_groups: The samples are exchangeable within each of so many equal runs of axis 0, and K
            is a multiple of it; None where their order matters.
        replaced: ``(log_w, new) -> [K, *batch]``, the value with ``new[k]`` in the place of
            ``log_w[k]``, for each k, in O(K); None computes K values in O(K^2).
        additive: Whether the bound of a sum of log-weights is the sum of their bounds, as for the
            mean: its derivative is then a constant, and independent parts need no weight each.
    """

    direction: Direction = "lower"
    sense: Sense = "maximise"
    smooth: bool = True
    min_samples: int = 1
    shift: Shift = "equivariant"
    derivatives: Callable[[Any], tuple[Any, Any]] | None = None
    num_groups: int | None = 1
    replaced: Callable[[Any, Any], Any] | None = None
    additive: bool = False


def declare(
    *,
    direction: Direction = "lower",
    sense: Sense = "maximise",
    smooth: bool = True,
    min_samples: int = 1,
    shift: Shift = "equivariant",
    derivatives: Callable[[Any], tuple[Any, Any]] | None = None,
    num_groups: int | None = 1,
    replaced: Callable[[Any, Any], Any] | None = None,
    additive: bool = False,
) -> Callable[[B], B]:
    """Decorate a bound with what is known of it (see ``Declaration`` for each field).

    Returns:
        A decorator that sets ``bound.declaration`` and returns the same function.

    Raises:
        ValueError: A field has a value outside its vocabulary.

    Examples:
        >>> import vi
        >>> @vi.bounds.declare(smooth=False, direction="upper_limit")
        ... def largest(log_w):
        ...     return log_w.max(0)
        >>> vi.bounds.declaration(largest).smooth
        False
    """
    for name, value, allowed in (
        ("direction", direction, get_args(Direction)),
        ("sense", sense, get_args(Sense)),
        ("shift", shift, get_args(Shift)),
        ("smooth", smooth, (True, False)),
        ("additive", additive, (True, False)),
    ):
        if value not in allowed:
            raise refusal(
                "declare", name, f"be one of {allowed}", repr(value), "choose one of them"
            )
    for name, value, shown in (
        ("derivatives", derivatives, "log_w -> (F_k, F_kk)"),
        ("replaced", replaced, "(log_w, new) -> [K, *batch]"),
    ):
        if value is not None and not callable(value):
            remedy = f"pass a function {shown}, or None"
            raise refusal("declare", name, "be a function", repr(value), remedy)
    require_count("declare", "min_samples", min_samples)
    if num_groups is not None:
        require_count("declare", "num_groups", num_groups)
    declared = Declaration(
        *(direction, sense, smooth, min_samples, shift, derivatives, num_groups, replaced),
        additive=additive,
    )

    def decorate(bound: B) -> B:
        try:
            bound.declaration = declared  # pyright: ignore[reportFunctionMemberAccess]
        except AttributeError:
            remedy = "declare a function that calls it"
            got = type(bound).__name__
            raise refusal("declare", "bound", "take an attribute", got, remedy) from None
        return bound

    return decorate


def declaration(bound: Bound) -> Declaration:
    """What ``bound`` declares, or the defaults where it declares nothing.

    A wrapper (``functools.wraps``, ``functools.partial``, ``jax.jit``) inherits all but
    ``derivatives`` and ``replaced``: those belong to the function that was wrapped.
    """
    return _declared(bound) or Declaration()


def promised(bound: Bound) -> Declaration:
    """The declaration to compute with: where nothing is declared, the shift is ``none``.

    A constant may be taken from the weights on the word of a bound, not on that of a default.
    """
    return _declared(bound) or Declaration(shift="none")


def _declared(bound: Bound) -> Declaration | None:
    wrapped = getattr(bound, "__wrapped__", None) or getattr(bound, "func", None)
    own = getattr(bound, "declaration", None)
    if wrapped is None or (own is not None and own is not getattr(wrapped, "declaration", None)):
        return own
    inherited = _declared(wrapped)
    return inherited and inherited._replace(derivatives=None, replaced=None)
