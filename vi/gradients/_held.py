"""Estimators that hold the draws constant: any q that samples and scores will do."""

from vi._check import name_of, refusal
from vi.bounds import declaration, first_derivative
from vi.gradients._objective import Objective
from vi.types import Bound, Coefficients


def fixed(
    bound: Bound, *, chunk_size: int | None = None, axis_name: str | None = None
) -> Objective:
    r"""The gradient with the draws held as constants, from a law that does not move.

    Coefficients :math:`(F_k, 0, -F_k)`: the derivative of the mean of the bound under draws from a
    fixed r, taken at r = q. For the model's parameters it is that of every other estimator, and
    needs no reparameterised q. For q's it is another gradient than that of E_q: with
    ``log_variance`` it is VarGrad, whose mean is the gradient of minus the ELBO; with ``elbo`` its
    mean is zero. With another bound to be maximised, going up moves q *away* from the weighted
    draws (it makes their weights larger): use it for the model's parameters, and ``wake``
    for q's.

    Args:
        bound: Any bound, kinks included.
        chunk_size: Draws held in memory at once; None for all K.
        axis_name: The mesh axis of ``jax.shard_map`` over which K is split, or None.

    Returns:
        The objective ``(key, q, log_joint, num_samples) -> [*batch]``.

    Examples:
        The posterior p(z | x) is N(x / 2, 1/2); VarGrad finds the gradient of the ELBO,
        2 (x / 2 - loc) = 1, with a sign of its own: a divergence goes down where the ELBO goes up.

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> x, prior = jnp.array([3.0]), dist.Normal(0.0, 1.0)
        >>> def value(loc, key):
        ...     q = vi.families.normal(loc, scale=jnp.array([0.5**0.5]))
        ...     log_joint = lambda z: (prior.log_prob(z) + dist.Normal(z, 1.0).log_prob(x)).sum(-1)
        ...     return vi.gradients.fixed(vi.bounds.log_variance)(key, q, log_joint, 10_000)
        >>> print(jax.grad(value)(jnp.array([1.0]), jax.random.key(0)).round(1))
        [-1.]

    References:
        Richter, Boustati, Nuesken, Ruiz and Akyildiz (2020), proposition 1.
    """
    return Objective(_fixed, bound, chunk_size, axis_name)


def wake(bound: Bound, *, chunk_size: int | None = None, axis_name: str | None = None) -> Objective:
    r"""The wake-phase gradient: q climbs towards the weighted draws.

    Coefficients :math:`(F_k, 0, +F_k)`. For the model's parameters it is ``fixed``. For q's, with
    ``iwae``, it is :math:`\sum_k \bar w_k \nabla \log q(z_k | x)`, which climbs
    :math:`-\mathrm{KL}(p(z|x) \,\|\, q(z|x))`: the wake-phase update of q in reweighted wake-sleep.
    It is not the derivative of the value, which is the bound: go up along it. With ``iwae`` it is
    biased at finite K, as any ratio of two means, by O(1 / K). With ``elbo`` its mean is zero.

    Args:
        bound: A bound to be maximised, kinks included.
        chunk_size: Draws held in memory at once; None for all K.
        axis_name: The mesh axis of ``jax.shard_map`` over which K is split, or None.

    Returns:
        The objective ``(key, q, log_joint, num_samples) -> [*batch]``.

    Raises:
        ValueError: The bound declares ``sense="minimise"``: going down it, q would flee the draws
            of large weight.

    Examples:
        The posterior p(z | x) is N(x / 2, 1/2). The gradient of -KL(p || q) in the location is
        (x / 2 - loc) / scale^2 = 1:

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> x, prior = jnp.array([3.0]), dist.Normal(0.0, 1.0)
        >>> def value(loc, key):
        ...     q = vi.families.normal(loc, scale=jnp.array([0.5**0.5]))
        ...     log_joint = lambda z: (prior.log_prob(z) + dist.Normal(z, 1.0).log_prob(x)).sum(-1)
        ...     return vi.gradients.wake(vi.bounds.iwae)(key, q, log_joint, 10_000)
        >>> print(jax.grad(value)(jnp.array([1.0]), jax.random.key(0)).round(1))
        [1.]

    References:
        Bornschein and Bengio (2015); Le, Kosiorek, Siddharth, Teh and Wood (2019).
    """
    if declaration(bound).sense == "minimise":
        remedy = "use fixed, or reparam, which go down it"
        raise refusal(
            "wake", "bound", "be one to maximise", f"{name_of(bound)}, to minimise", remedy
        )
    return Objective(_wake, bound, chunk_size, axis_name)


def _fixed(bound, log_w):
    first = first_derivative(bound, log_w)
    return Coefficients(theta=first, score=-first)


def _wake(bound, log_w):
    first = first_derivative(bound, log_w)
    return Coefficients(theta=first, score=first)
