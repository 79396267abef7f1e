"""The Gaussian Markov chain: a block-tridiagonal precision, in linear time."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from vi._check import refusal
from vi.families._gaussian_checks import (
    is_known,
    require_positive_diagonal,
    require_shape,
    require_symmetric,
)


def markov(
    loc: Float[Array, "*batch T d"],
    *,
    diagonal: Float[Array, "*batch T d d"],
    below: Float[Array, "*batch T-1 d d"],
) -> "Markov":
    r"""A Gaussian over a sequence in which neighbours alone are coupled.

    .. math:: \Lambda = L L^T, \qquad L_{tt} = D_t, \quad L_{t+1,t} = B_t, \qquad
              z = \mu + L^{-T} \epsilon,
    .. math:: x_t = D_t^{-T} (\epsilon_t - B_t^T x_{t+1}), \qquad
              \epsilon_t = D_t^T x_t + B_t^T x_{t+1}, \qquad x = z - \mu.

    The precision is block tridiagonal, the posterior's own structure in a linear state-space model;
    the covariance is dense, and never formed. A draw is one scan from the end, :math:`O(T d^2)`
    after T triangular systems that are solved side by side; a density takes no scan at all, and a
    draw is scored from its own noise (``rsample_and_log_prob``).

    Args:
        loc: Means ``[*batch, T, d]``; the last two axes are the event.
        diagonal: D, ``[*batch, T, d, d]``, lower triangular with positive diagonals; what stands
            above a diagonal is not read. Inverse standard deviations, where B is 0.
        below: B, ``[*batch, T - 1, d, d]``, any matrices.

    Returns:
        A NumPyro distribution with batch shape ``[*batch]`` and event shape ``[T, d]``.

    Raises:
        ValueError: No event axes, blocks of other shapes, or a known D with an entry at or below 0
            on a diagonal.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> q = vi.families.markov(
        ...     jnp.zeros((100, 2)), diagonal=jnp.tile(2 * jnp.eye(2), (100, 1, 1)),
        ...     below=jnp.tile(-jnp.eye(2), (99, 1, 1)))
        >>> q.rsample(jax.random.key(0), (5,)).shape, q.event_shape
        ((5, 100, 2), (100, 2))
        >>> print(q.variance[0, 0].round(4))  # 1 / 4 + 1 / 4 (1 / 4 + 1 / 4 (...)) = 1 / 3
        0.3333

    References:
        Archer, Park, Buesing, Cunningham and Paninski (2015), section 3.2.
    """
    _require_blocks("markov", loc, diagonal, below)
    require_positive_diagonal("markov", "diagonal", diagonal)
    return Markov(loc, jnp.tril(diagonal), below)


def markov_from_precision(
    loc: Float[Array, "*batch T d"],
    *,
    diagonal: Float[Array, "*batch T d d"],
    below: Float[Array, "*batch T-1 d d"],
) -> "Markov":
    r"""The same family from the blocks of the precision itself, factored by one scan.

    .. math:: D_t D_t^T = \Lambda_{tt} - B_{t-1} B_{t-1}^T, \qquad B_t = \Lambda_{t+1,t} D_t^{-T}.

    For potentials that add, the likelihood's to the prior's, each of them a network's output.

    Args:
        loc: Means ``[*batch, T, d]``; the last two axes are the event.
        diagonal: Blocks of the precision, ``[*batch, T, d, d]``, symmetric.
        below: Blocks below them, ``[*batch, T - 1, d, d]``.

    Returns:
        A NumPyro distribution with batch shape ``[*batch]`` and event shape ``[T, d]``.

    Raises:
        ValueError: No event axes, blocks of other shapes, known diagonal blocks that are not
            symmetric, or a known precision that is not positive definite; a traced one gives NaN.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> q = vi.families.markov_from_precision(
        ...     jnp.zeros((3, 1)), diagonal=jnp.full((3, 1, 1), 2.0), below=-jnp.ones((2, 1, 1)))
        >>> [round(float(v), 3) for v in q.variance[:, 0]]
        [0.75, 1.0, 0.75]
    """
    where = "markov_from_precision"
    _require_blocks(where, loc, diagonal, below)
    require_symmetric(where, "diagonal", "have symmetric blocks", diagonal)

    def step(carried, blocks):
        here, after = blocks
        factor = jnp.linalg.cholesky(here - carried @ jnp.swapaxes(carried, -1, -2))
        transposed = solve_triangular(factor, jnp.swapaxes(after, -1, -2), lower=True)
        return jnp.swapaxes(transposed, -1, -2), (factor, jnp.swapaxes(transposed, -1, -2))

    time = jnp.ndim(loc) - 2
    after = jnp.concatenate([below, jnp.zeros_like(diagonal[..., :1, :, :])], axis=time)
    blocks = jax.tree.map(lambda x: jnp.moveaxis(x, time, 0), (jnp.asarray(diagonal), after))
    none = jnp.zeros_like(blocks[0][0])
    _, factors = jax.lax.scan(step, none, blocks)
    factor, coupling = jax.tree.map(lambda x: jnp.moveaxis(x, 0, time), factors)
    if is_known(factor) and not jnp.isfinite(factor).all():
        remedy = "add to the diagonal blocks, or learn the factor and call markov"
        got = "blocks that have no Cholesky factor"
        raise refusal(where, "the precision", "be positive definite", got, remedy)
    return Markov(loc, factor, coupling[..., :-1, :, :])


class Markov(dist.Distribution):
    """A Gaussian ``[*batch, T, d]`` of block-tridiagonal precision; made by ``markov``."""

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.independent(constraints.real, 2),
        "diagonal": constraints.independent(constraints.lower_cholesky, 1),
        "below": constraints.independent(constraints.real, 3),
    }
    support: Any = constraints.independent(constraints.real, 2)
    reparametrized_params = ["loc", "diagonal", "below"]  # noqa: RUF012

    def __init__(self, loc, diagonal, below, *, validate_args: bool | None = None):
        self.loc, self.diagonal, self.below = loc, diagonal, below
        super().__init__(jnp.shape(loc)[:-2], jnp.shape(loc)[-2:], validate_args=validate_args)

    def sample(self, key: Any, sample_shape=()):
        """Draw ``[*sample_shape, *batch, T, d]``, with derivatives."""
        return self.rsample_and_log_prob(key, sample_shape)[0]

    def rsample_and_log_prob(self, key: Any, sample_shape=()):
        """Draw, and the log-density of the draws in nats from their noise."""
        T, d = self.event_shape
        lead = (*self.batch_shape, T, d)
        count = math.prod(sample_shape)
        noise = jax.random.normal(key, (*lead, count), jnp.result_type(self.loc))
        own = solve_triangular(self.diagonal, noise, lower=True, trans="T")
        passed_on = self._from_next()
        time = len(self.batch_shape)

        def step(after, terms):
            own, passed_on = terms
            x = own - passed_on @ after
            return x, x

        terms = jax.tree.map(lambda x: jnp.moveaxis(x, time, 0), (own, passed_on))
        _, x = jax.lax.scan(step, jnp.zeros_like(terms[0][0]), terms, reverse=True)
        x = jnp.moveaxis(jnp.moveaxis(x, 0, time), -1, 0)
        log_q = self._score(jnp.moveaxis(noise, -1, 0))
        z = self.loc + x
        return z.reshape(self.shape(sample_shape)), log_q.reshape(*sample_shape, *self.batch_shape)

    @validate_sample
    def log_prob(self, value):
        """The log-density in nats; all times at once."""
        x = value - self.loc
        noise = jnp.einsum("...tji,...tj->...ti", self.diagonal, x)
        from_next = jnp.einsum("...tji,...tj->...ti", self.below, x[..., 1:, :])
        return self._score(noise.at[..., :-1, :].add(from_next))

    @property
    def mean(self):
        """``loc``."""
        return self.loc

    @property
    def covariance_blocks(self):
        """The covariance of each time with itself, ``[*batch, T, d, d]``, by one scan."""
        identity = jnp.broadcast_to(jnp.eye(self.event_shape[1]), self.diagonal.shape)
        inverse = solve_triangular(self.diagonal, identity, lower=True, trans="T")
        time = len(self.batch_shape)

        def step(after, terms):
            inverse, passed_on = terms
            own = inverse @ jnp.swapaxes(inverse, -1, -2)
            here = own + passed_on @ after @ jnp.swapaxes(passed_on, -1, -2)
            return here, here

        terms = jax.tree.map(lambda x: jnp.moveaxis(x, time, 0), (inverse, self._from_next()))
        _, blocks = jax.lax.scan(step, jnp.zeros_like(terms[0][0]), terms, reverse=True)
        return jnp.moveaxis(blocks, 0, time)

    @property
    def variance(self):
        """The variance of each number, ``[*batch, T, d]``."""
        return jnp.diagonal(self.covariance_blocks, axis1=-2, axis2=-1)

    def entropy(self):
        """In nats, ``[*batch]``."""
        return 0.5 * math.prod(self.event_shape) * (1 + jnp.log(2 * jnp.pi)) - self._log_det()

    def _from_next(self):
        """``D_t^{-T} B_t^T``, what a draw takes from the next time; 0 at the last."""
        none = jnp.zeros_like(self.diagonal[..., :1, :, :])
        below = jnp.concatenate([self.below, none], axis=-3)
        transposed = jnp.swapaxes(below, -1, -2)
        return solve_triangular(self.diagonal, transposed, lower=True, trans="T")

    def _log_det(self):
        return jnp.log(jnp.diagonal(self.diagonal, axis1=-2, axis2=-1)).sum((-2, -1))

    def _score(self, noise):
        normaliser = 0.5 * math.prod(self.event_shape) * jnp.log(2 * jnp.pi)
        return self._log_det() - 0.5 * (noise**2).sum((-2, -1)) - normaliser


def _require_blocks(where, loc, diagonal, below) -> None:
    """Refuse blocks that do not go with ``loc``."""
    if jnp.ndim(loc) < 2:
        remedy = "one sequence is [T, d]; loc[:, None] is one of numbers"
        raise refusal(where, "loc", "be [*batch, T, d]", f"shape {list(jnp.shape(loc))}", remedy)
    *batch, T, d = jnp.shape(loc)
    require_shape(where, "diagonal", diagonal, (*batch, T, d, d), "[*batch, T, d, d]")
    require_shape(where, "below", below, (*batch, T - 1, d, d), "[*batch, T - 1, d, d]")
