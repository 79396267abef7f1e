"""Gradient estimators: each takes any bound and gives an objective."""

import functools
from typing import Protocol

from vi._check import name_of, refusal
from vi.bounds import declaration, derivatives, first_derivative
from vi.gradients._objective import Objective
from vi.types import Bound, Coefficients, Rule


class Estimator(Protocol):
    """What turns a bound into an objective, as ``jax.grad`` turns a function into its gradient."""

    def __call__(
        self, bound: Bound, *, chunk_size: int | None = None, axis_name: str | None = None
    ) -> Objective:
        """The objective of ``bound``; the options are those of ``Objective``."""
        ...


def estimator(rule: Rule) -> Estimator:
    """Make a gradient estimator of a rule of your own.

    Args:
        rule: ``(bound, log_w) -> Coefficients``; ``vi.bounds.derivatives`` gives it the bound's
            derivatives. It decides what multiplies each sample and nothing else: sampling,
            closures, chunks and both modes of differentiation come with it.

    Returns:
        ``(bound, *, chunk_size=None, axis_name=None) -> Objective``, named after the rule. Draws
        coupled inside K are refused, unless the rule has an attribute ``is_plain_derivative``: its
        coefficients are then :math:`(F_k, F_k, -F_k)`, right for any draws, and the draws come
        scored from ``q.rsample_and_log_prob`` where there is one. A rule with an attribute
        ``is_path_derivative`` has no score coefficient, and takes the draws from
        ``q.rsample_and_force`` where there is one.

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
    def make(
        bound: Bound, *, chunk_size: int | None = None, axis_name: str | None = None
    ) -> Objective:
        return Objective(rule, bound, chunk_size, axis_name)

    del make.__wrapped__  # so that its signature is its own, not the rule's
    return make


def reparam(
    bound: Bound, *, chunk_size: int | None = None, axis_name: str | None = None
) -> Objective:
    r"""The reparameterisation gradient: differentiate the bound through its draws.

    Coefficients :math:`(F_k, F_k, -F_k)`: plain automatic differentiation of the bound. Unbiased
    for every bound whose draws are reparameterised, kinks and draws coupled inside K included; with
    ``iwae`` its signal-to-noise ratio for q falls as K grows.

    Args:
        bound: Any bound.
        chunk_size: Draws held in memory at once; None for all K.
        axis_name: The mesh axis of ``jax.shard_map`` over which K is split, or None.

    Returns:
        The objective ``(key, q, log_joint, num_samples) -> [*batch]``.

    Examples:
        The Gaussian ``p(z | x)`` is N(x / 2, 1/2); at any other q the bound has a gradient:

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> x, prior = jnp.array([3.0]), dist.Normal(0.0, 1.0)
        >>> def value(loc, key, objective):
        ...     q = vi.families.normal(loc, scale=jnp.array([0.5**0.5]))
        ...     log_joint = lambda z: (prior.log_prob(z) + dist.Normal(z, 1.0).log_prob(x)).sum(-1)
        ...     return objective(key, q, log_joint, 1000)
        >>> gradient = jax.grad(value)
        >>> at = jnp.array([1.0])  # the exact gradient of the ELBO is 2 (x / 2 - loc) = 1
        >>> print(gradient(at, jax.random.key(0), vi.gradients.reparam(vi.bounds.elbo)).round(1))
        [1.]

    References:
        Kingma and Welling (2014), eq. 4-6; Rainforth et al. (2018), theorem 1.
    """
    return Objective(_reparam, bound, chunk_size, axis_name)


def dreg(bound: Bound, *, chunk_size: int | None = None, axis_name: str | None = None) -> Objective:
    r"""The doubly reparameterised gradient, for any smooth bound.

    Coefficients :math:`(F_k, F_k - F_{kk}, 0)`. The score term of plain reparameterisation has,
    given the other draws, the same mean as a path term (reparameterise the score of
    :math:`F_k`); with it replaced, what is left vanishes as q approaches the posterior.
    ``dreg(elbo)`` is sticking the landing, ``dreg(iwae)`` has the squared normalised weights of the
    paper, and every other bound gets its own. It needs independent draws inside K. A flow that
    gives the derivative of its log-density with the draw (``rsample_and_force``) is not inverted;
    second derivatives are refused where its base moves, or a constraint on vectors carries it.

    Args:
        bound: A bound with a Lipschitz first derivative.
        chunk_size: Draws held in memory at once; None for all K.
        axis_name: The mesh axis of ``jax.shard_map`` over which K is split, or None.

    Returns:
        The objective ``(key, q, log_joint, num_samples) -> [*batch]``.

    Raises:
        ValueError: The bound declares ``smooth=False``; on kinks this estimator is biased, with the
            wrong sign even.

    Examples:
        A bound of one's own, unregistered, through both estimators, at the exact posterior: plain
        reparameterisation is noise there, this is 0.

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> def renyi_half(log_w):
        ...     return 2 * vi.bounds.iwae(log_w / 2)
        >>> x, prior = jnp.array([3.0]), dist.Normal(0.0, 1.0)
        >>> def value(loc, key, objective):
        ...     q = vi.families.normal(loc, scale=jnp.array([0.5**0.5]))
        ...     log_joint = lambda z: (prior.log_prob(z) + dist.Normal(z, 1.0).log_prob(x)).sum(-1)
        ...     return objective(key, q, log_joint, 8)
        >>> gradient = jax.grad(value)
        >>> noisy = gradient(x / 2, jax.random.key(0), vi.gradients.reparam(renyi_half))
        >>> still = gradient(x / 2, jax.random.key(0), vi.gradients.dreg(renyi_half))
        >>> bool(abs(noisy[0]) > 0.1), bool(abs(still[0]) < 1e-5)
        (True, True)

    References:
        Tucker, Lawson, Gu and Maddison (2019), eq. 7-8; Roeder, Wu and Duvenaud (2017), for
        the ELBO.
    """
    if not declaration(bound).smooth:
        remedy = "use reparam, which is unbiased on kinks"
        raise refusal(
            "dreg", "bound", "be smooth", f"{name_of(bound)}, declared smooth=False", remedy
        )
    return Objective(_dreg, bound, chunk_size, axis_name)


def _reparam(bound, log_w):
    first = first_derivative(bound, log_w)
    return Coefficients(theta=first, path=first, score=-first)


_reparam.is_plain_derivative = True  # pyright: ignore[reportFunctionMemberAccess]


def _dreg(bound, log_w):
    first, second = derivatives(bound, log_w)
    return Coefficients(theta=first, path=first - second)


_dreg.is_path_derivative = True  # pyright: ignore[reportFunctionMemberAccess]
