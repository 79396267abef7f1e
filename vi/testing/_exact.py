"""The objective without sampling, for users and for the tests: the truth of an estimator."""

import math

from vi._check import refusal, require_bound, require_count
from vi.testing import _support
from vi.testing._exact_objective import ExactObjective
from vi.types import Bound, Latent


def enumerated(
    bound: Bound, *, support: Latent | None = None, max_outcomes: int = 2**20
) -> ExactObjective:
    r"""The exact objective of a bound for a discrete q: a sum over all M^K outcomes of K draws.

    .. math:: \mathbb{E}_{z_1, \dots, z_K \sim q} \, F(\log w_1, \dots, \log w_K)

    Its value is exact to rounding, and its plain gradient is what every unbiased estimator must
    have as a mean: the truth for ``check_gradient``. A q of NumPyro's with a finite support is
    listed by itself, event axes jointly (``Bernoulli(logits).to_event(1)`` over 3 logits has 8
    outcomes). An outcome of probability zero contributes zero to value and gradient.

    Args:
        bound: ``log_w -> nats``; it is called on ``[K, outcomes, *batch]``.
        support: Every outcome once, leaves ``[M, *batch, *event]`` as of M draws and in their
            dtype, for a q that NumPyro cannot list. None asks q.
        max_outcomes: The most outcomes M^K that are summed; at most 2^30.

    Returns:
        An objective ``(key, q, log_joint, num_samples) -> [*batch]``; the key is checked, and
        nothing is drawn with it.

    Raises:
        ValueError: ``bound`` is not a function, or ``max_outcomes`` is out of range; on a call,
            what ``ExactObjective`` refuses.

    Examples:
        A fair coin with a joint of 0.1 and 0.3, so that the weights are 0.2 and 0.6 and
        log p(x) = log 0.4:

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> log_joint = lambda z: jnp.log(jnp.array([0.1, 0.3]))[z]
        >>> q, key = dist.Bernoulli(0.5), jax.random.key(0)
        >>> value = enumerated(vi.bounds.iwae)(key, q, log_joint, 2)
        >>> print(f"{jnp.exp(value):.4f}")  # (0.2 * 0.4**2 * 0.6)**(1/4)
        0.3722
    """
    require_bound("enumerated", bound)
    _require_limit("enumerated", max_outcomes)
    return ExactObjective(
        bound,
        "enumerated",
        "",
        "list every outcome of q once in support=, and give q a normalised log_prob",
        max_outcomes,
        lambda key, q: _support.finite(q) if support is None else _support.given(key, q, support),
    )


def quadrature(
    bound: Bound,
    *,
    lower: float,
    upper: float,
    num_nodes: int = 129,
    max_outcomes: int = 2**20,
) -> ExactObjective:
    r"""The exact objective of a bound for a q over one real number, by the trapezoid rule.

    .. math:: \sum_{z_1, \dots, z_K} h^K q(z_1) \cdots q(z_K) \, F(\log w_1, \dots, \log w_K),
              \qquad z_k \in \{\ell, \ell + h, \dots, u\}.

    For analytic integrands that vanish at both ends the error falls exponentially in the number
    of nodes. The nodes do not depend on any parameter, so the plain gradient is exact as well.
    What it needs is that q, ``log_joint`` and, at K > 1, the bound of the weights are smooth at the
    scale of h (a likelihood of width s makes them bend within about s^2), and that q F has nothing
    beyond ``lower`` and ``upper``.

    Outside of ``jit`` and ``vmap`` this is checked, under ``grad`` too: refused are a mass under q
    other than 1, a sum that is another on every second node (by ``sqrt(eps)`` of the spread of F
    under q; with exponential convergence the error of all nodes is the square of that), and
    integrands that do not vanish at the ends. Under ``jit`` nothing is checked: call it once
    without.

    Args:
        bound: ``log_w -> nats``, smooth; it is called on ``[K, tuples, *batch]``.
        lower: The first node.
        upper: The last node.
        num_nodes: Nodes per draw, an odd number; K draws have ``num_nodes^K`` tuples of them.
        max_outcomes: The most tuples that are summed; at most 2^30.

    Returns:
        An objective ``(key, q, log_joint, num_samples) -> [*batch]`` for q of event shape ``()``;
        the key is checked, and nothing is drawn with it.

    Raises:
        ValueError: ``bound`` is not a function, ``lower`` is not below ``upper``, or a count is out
            of range or ``num_nodes`` even; on a call, what ``ExactObjective`` refuses.

    Examples:
        The posterior is N(1, 1/2), so at q = N(1, 1) the ELBO is log p(x) - (1 - log 2) / 2:

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> log_joint = lambda z: dist.Normal(0, 1).log_prob(z) + dist.Normal(z, 1).log_prob(2.0)
        >>> exact = quadrature(vi.bounds.elbo, lower=-7, upper=9)
        >>> gap = -2.2655 - exact(jax.random.key(0), dist.Normal(1.0, 1.0), log_joint, 1)
        >>> print(f"{gap:.4f} {(1 - jnp.log(2)) / 2:.4f}")
        0.1534 0.1534

    References:
        Trefethen and Weideman (2014), The exponentially convergent trapezoidal rule.
    """
    require_bound("quadrature", bound)
    if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
        got, remedy = f"{lower} and {upper}", "give finite ends, lower below upper"
        raise refusal("quadrature", "lower and upper", "be an interval", got, remedy)
    num_nodes = require_count("quadrature", "num_nodes", num_nodes, least=3)
    if num_nodes % 2 == 0:
        remedy = "take one more: every second node, both ends among them, checks the rest"
        raise refusal("quadrature", "num_nodes", "be odd", num_nodes, remedy)
    _require_limit("quadrature", max_outcomes)
    return ExactObjective(
        bound,
        "quadrature",
        f", lower={lower}, upper={upper}, num_nodes={num_nodes}",
        "widen lower and upper or take more nodes, and give q a normalised log_prob",
        max_outcomes,
        lambda key, q: _support.grid(key, q, lower, upper, num_nodes),
    )


def _require_limit(where: str, max_outcomes) -> None:
    if require_count(where, "max_outcomes", max_outcomes) > 2**30:
        remedy = "more outcomes than that are not summed but sampled"
        raise refusal(where, "max_outcomes", "be at most 2**30", max_outcomes, remedy)
