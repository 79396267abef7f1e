"""Gradient estimators: each takes any bound and gives an objective."""

import functools
from typing import Protocol

from vi._check import refusal
from vi.bounds import declaration, derivatives, first_derivative
from vi.gradients._objective import Objective
from vi.types import Bound, Coefficients, Rule


class Estimator(Protocol):
    """What turns a bound into an objective, as ``jax.grad`` turns a function into its gradient."""

    def __call__(self, bound: Bound, *, chunk_size: int | None = None) -> Objective:
        """The objective of ``bound``; ``chunk_size`` draws in memory at once, None for all."""
        ...


def estimator(rule: Rule) -> Estimator:
    """Make a gradient estimator of a rule of your own.

    Args:
        rule: ``(bound, log_w) -> Coefficients``; ``vi.bounds.derivatives`` gives it the bound's
            derivatives. It decides what multiplies each sample and nothing else: sampling,
            closures, chunks and both modes of differentiation come with it.

    Returns:
        ``(bound, *, chunk_size=None) -> Objective``, named after the rule.

    Examples:
        The draws held constant, as a rule of three lines:

        >>> import vi
        >>> @vi.gradients.estimator
        ... def held(bound, log_w):
        ...     first = vi.bounds.first_derivative(bound, log_w)
        ...     return vi.types.Coefficients(theta=first, score=-first)
        >>> held(vi.bounds.iwae, chunk_size=8)
        held(iwae, chunk_size=8)
    """

    @functools.wraps(rule, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def make(bound: Bound, *, chunk_size: int | None = None) -> Objective:
        return Objective(rule, bound, chunk_size)

    del make.__wrapped__  # so that its signature is its own, not the rule's
    return make


def reparam(bound: Bound, *, chunk_size: int | None = None) -> Objective:
    r"""The reparameterisation gradient: differentiate the bound through its draws.

    Coefficients :math:`(F_k, F_k, -F_k)`: plain automatic differentiation of the bound. Unbiased
    for every bound whose draws are reparameterised, kinks and draws coupled inside K included; with
    ``iwae`` its signal-to-noise ratio for q falls as K grows.

    Args:
        bound: Any bound.
        chunk_size: Draws held in memory at once; None for all K.

    Returns:
        The objective ``(key, q, log_joint, num_samples) -> [*batch]``.

    References:
        Kingma and Welling (2014), eq. 4-6; Rainforth et al. (2018), theorem 1.
    """
    return Objective(_reparam, bound, chunk_size)


def dreg(bound: Bound, *, chunk_size: int | None = None) -> Objective:
    r"""The doubly reparameterised gradient, for any smooth bound.

    Coefficients :math:`(F_k, F_k - F_{kk}, 0)`. The score term of plain reparameterisation has,
    given the other draws, the same mean as a path term (reparameterise the score of
    :math:`F_k`); with it replaced, what is left vanishes as q approaches the posterior.
    ``dreg(elbo)`` is sticking the landing, ``dreg(iwae)`` has the squared normalised weights of the
    paper, and every other bound gets its own. It needs independent draws inside K.

    Args:
        bound: A bound with a Lipschitz first derivative.
        chunk_size: Draws held in memory at once; None for all K.

    Returns:
        The objective ``(key, q, log_joint, num_samples) -> [*batch]``.

    Raises:
        ValueError: The bound declares ``smooth=False``; on kinks this estimator is biased, with the
            wrong sign even.

    References:
        Tucker, Lawson, Gu and Maddison (2019), eq. 7-8; Roeder, Wu and Duvenaud (2017), eq. 8.
    """
    if not declaration(bound).smooth:
        remedy = "use reparam, which is unbiased on kinks"
        name = getattr(bound, "__name__", repr(bound))
        raise refusal("dreg", "bound", "be smooth", f"{name}, declared smooth=False", remedy)
    return Objective(_dreg, bound, chunk_size)


def _reparam(bound, log_w):
    first = first_derivative(bound, log_w)
    return Coefficients(theta=first, path=first, score=-first)


def _dreg(bound, log_w):
    first, second = derivatives(bound, log_w)
    return Coefficients(theta=first, path=first - second)
