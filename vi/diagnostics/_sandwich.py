"""The evidence from both sides: lower bounds, an upper estimate and, where it can be, a bound."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from vi._check import refusal, require_count, require_key
from vi.bounds import elbo, eubo, iwae
from vi.diagnostics._pareto import pareto_k
from vi.diagnostics._weights import effective_sample_size
from vi.types import Key, Latent, LogDensity, Variational, log_weights

_LEAST_SAMPLES = 21


class Sandwich(NamedTuple):
    """Estimates on either side of log p(x) in nats, each ``[*batch]``; ``print`` it for a table.

    A standard error is ``inf`` where it cannot be known: a bound that is ``-inf``, one draw.

    Attributes:
        elbo: The ELBO, averaged over K draws.
        elbo_stderr: Its standard error.
        iwae: The importance-weighted bound at this K. Its mean is below log p(x), at least the
            ELBO, and rises with K.
        iwae_stderr: Its standard error; not reliable where ``pareto_k`` is not below its threshold.
        upper_estimate: An *estimate* of the evidence upper bound, biased low at finite K; see
            ``sandwich``.
        upper_estimate_stderr: Its standard error, too small where ``pareto_k`` nears its threshold.
        effective_sample_size: Of the K samples.
        pareto_k: The shape of the weights' tail.
        pareto_threshold: ``min(1 - 1 / log10(K), 0.7)``: where ``pareto_k`` is not below it,
            ``upper_estimate`` says nothing.
        upper_bound: From draws of the exact posterior, its mean above log p(x); None without them.
        upper_bound_stderr: Its standard error; means something where ``1 / w`` has a variance under
            the posterior.
    """

    elbo: Float[Array, "*batch"]
    elbo_stderr: Float[Array, "*batch"]
    iwae: Float[Array, "*batch"]
    iwae_stderr: Float[Array, "*batch"]
    upper_estimate: Float[Array, "*batch"]
    upper_estimate_stderr: Float[Array, "*batch"]
    effective_sample_size: Float[Array, "*batch"]
    pareto_k: Float[Array, "*batch"]
    pareto_threshold: Float[Array, "*batch"]
    upper_bound: Float[Array, "*batch"] | None = None
    upper_bound_stderr: Float[Array, "*batch"] | None = None

    def __str__(self) -> str:
        """A table: one datum's figures, or means over the data and the worst of the diagnostics.

        The upper estimate appears for data with k-hat below the threshold alone. Data with a NaN
        are counted and left out.
        """
        if any(isinstance(leaf, Tracer | jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(self)):
            return repr(self)
        host = jax.tree.map(lambda figure: np.ravel(figure).astype(float), self)
        valid = ~np.isnan(jax.tree.leaves(host)).any(0)
        title = f"sandwich: mean of {valid.sum()} data" if valid.size > 1 else "sandwich"
        title = f"{title:<28}nats{'stderr':>10}"
        if not valid.all():
            title += f"  {valid.size - valid.sum()} of {valid.size} data NaN, left out"
        if not valid.any():
            return title
        return "\n".join([title, *_rows(jax.tree.map(lambda figure: figure[valid], host))])


def sandwich(
    key: Key,
    q: Variational,
    log_joint: LogDensity,
    num_samples: int,
    *,
    posterior_draws: Latent | None = None,
) -> Sandwich:
    r"""Estimate log p(x) from below and, with exact posterior draws, bound it from above.

    .. math:: \tfrac1K \sum_k \log w_k \;\le\; \log \tfrac1K \sum_k w_k
              \;\le\; \sum_k v_k \log w_k, \qquad v_k = \frac{w_k}{\sum_j w_j}.

    On any draws the three are in this order; their gaps are KL divergences between ``v`` and equal
    weights. The last estimates the evidence upper bound,
    :math:`\mathbb{E}_{p(z|x)} \log w = \log p(x) + \mathrm{KL}(p(z|x) \,\|\, q)`. It is *not* a
    bound: its mean approaches that from below as K grows, and where q misses a mode all three sit
    below log p(x), whatever the diagnostics. It says something where k-hat is below
    :math:`\min(1 - 1 / \log_{10} K, 0.7)`, which is 0.24 at K = 21 and 0.5 at 100. It takes the
    weights as they are: Pareto-smoothed ones give less noise, no better intervals and, at k-hat of
    0.5 and K = 1000, two to three times the bias, on the side that flatters q.

    A true upper bound needs draws from the exact posterior, which simulated data have and real data
    do not: with :math:`z_m \sim p(z|x)`, by Jensen's inequality, for every M,

    .. math:: \mathbb{E} \Big[ -\log \frac1M \sum_m \frac{1}{w_m} \Big] \ge \log p(x).

    It is tight where q is the posterior, and good where q is no wider than the posterior in any
    direction: elsewhere ``1 / w`` is unbounded, its sum noisy, and its variance may not exist.

    Standard errors are those of the mean, of the log of a mean and of a ratio of means, the latter
    two to first order in 1 / K: for the upper estimate :math:`u` the root of
    :math:`\sum_k v_k^2 (\log w_k - u)^2`.

    Draws come from one call of ``q.sample``; all K log-weights are held, as their tail is fitted.
    Gradients are stopped. ``jit`` (``num_samples`` static) and ``vmap`` apply.

    Args:
        key: One typed PRNG key.
        q: The distribution to draw from, normalised.
        log_joint: ``z -> log p(x, z)``, ``[K, *batch]``, for any K.
        num_samples: ``K``, at least 21, the least for ``pareto_k``.
        posterior_draws: Independent draws from p(z | x), leaves ``[M, *batch, *event]``, for any M.
            Draws of another distribution give a number that bounds nothing; -inf where one of them
            has density zero.

    Returns:
        A ``Sandwich`` of ``[*batch]`` arrays.

    Raises:
        ValueError: A key that is not one typed key, ``num_samples`` not an integer of at least 21,
            log-densities that are not ``[K, *batch]``, posterior draws shaped unlike those of q.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> model = vi.testing.LinearGaussian(jnp.ones((1, 1)), jnp.zeros(1), jnp.array(1.0))
        >>> x, q = jnp.array([2.0]), dist.Normal(jnp.array([1.2]), 0.7).to_event(1)
        >>> draws = model.posterior(x).sample(jax.random.key(1), (1000,))
        >>> print(f"{model.log_evidence(x):.4f}")
        -2.2655
        >>> print(sandwich(jax.random.key(0), q, model.log_joint(x), 1000, posterior_draws=draws))
        sandwich                    nats    stderr
          elbo                   -2.3052    0.0088
          iwae                   -2.2653    0.0095
          upper estimate         -2.2237    0.0109  biased low
          upper bound            -2.2584    0.0093
          effective samples        916.8
          k-hat                     0.20  trusted below 0.67

    References:
        Burda, Grosse and Salakhutdinov (2016), for the importance-weighted bound; Grosse,
        Ghahramani and Adams (2015) and Grosse, Ancha and Roy (2016), for upper bounds from exact
        posterior draws of simulated data; Owen (2013), Monte Carlo theory, methods and examples,
        section 9.2, for the standard errors; Vehtari, Simpson, Gelman, Yao and Gabry (2024), for
        the threshold.
    """
    where = "sandwich"
    require_key(where, key)
    num_samples = require_count(where, "num_samples", num_samples, least=_LEAST_SAMPLES)
    z = q.sample(key, (num_samples,))
    log_w = jax.lax.stop_gradient(log_weights(z, q, log_joint))
    bound, bound_error = None, None
    if posterior_draws is not None:
        draws = jax.tree.map(jnp.asarray, posterior_draws)
        _require_like(where, draws, z)
        log_inverse = -jax.lax.stop_gradient(log_weights(draws, q, log_joint))
        log_mean, bound_error = _log_mean(log_inverse)
        bound = -log_mean

    low = elbo(log_w)
    low_error = jnp.where(low == -jnp.inf, jnp.inf, log_w.std(0, ddof=1) / num_samples**0.5)
    return Sandwich(
        low,
        low_error,
        *_log_mean(log_w),
        *_upper(log_w),
        effective_sample_size(log_w),
        pareto_k(log_w),
        jnp.full_like(low, min(1 - 1 / np.log10(num_samples), 0.7)),
        bound,
        bound_error,
    )


def _log_mean(log_w):
    """The log of the mean weight, and its standard error by the delta method."""
    num_samples, value = len(log_w), iwae(log_w)
    if num_samples == 1:
        return value, jnp.full_like(value, jnp.inf)
    log_max = log_w.max(0)
    log_unit = log_w - jnp.where(log_max == -jnp.inf, 0.0, log_max)[None]
    away = jnp.expm1(log_unit)  # w - 1, centred: nearly equal weights lose no digits
    spread = jnp.sqrt(jnp.square(away - away.mean(0)[None]).sum(0))
    total = jnp.exp(log_unit).sum(0)
    finite = jnp.isfinite(value)
    stderr = spread / jnp.where(finite, total, 1.0) * (num_samples / (num_samples - 1)) ** 0.5
    return value, jnp.where(finite, stderr, jnp.inf)


def _upper(log_w):
    """The self-normalised mean of ``log_w``, and its standard error by the delta method."""
    upper = eubo(log_w)
    empty = upper == -jnp.inf
    weight = jax.nn.softmax(jnp.where(empty[None], 0.0, log_w), axis=0)
    away = jnp.where(weight == 0, 0.0, log_w - upper[None])
    stderr = jnp.sqrt(jnp.square(weight * jnp.where(empty[None], 0.0, away)).sum(0))
    return upper, jnp.where(empty, jnp.inf, stderr)


def _rows(host):
    """The lines of the table but the first, of figures ``[data]`` on the host."""
    num_data, trusted = host.pareto_k.size, host.pareto_k < host.pareto_threshold
    threshold = f"{host.pareto_threshold.min():.2f}"
    caution = "" if trusted.all() else f"stderr not reliable: k-hat >= {threshold}"
    if trusted.any() and caution:
        caution += f" in {num_data - trusted.sum()} of {num_data} data"
    rows = [_row("elbo", host.elbo, host.elbo_stderr)]
    rows += [_row("iwae", host.iwae, host.iwae_stderr, caution)]
    if trusted.any():
        note = "biased low"
        if caution:
            note += f"; over {trusted.sum()} of {num_data} data, those with k-hat < {threshold}"
            note += f", where iwae is {host.iwae[trusted].mean():.4f}"
        estimate, error = host.upper_estimate[trusted], host.upper_estimate_stderr[trusted]
        rows += [_row("upper estimate", estimate, error, note)]
    else:
        rows += [f"  {'upper estimate':<18}not shown: k-hat >= {threshold}"]
    if host.upper_bound is not None:
        rows += [_row("upper bound", host.upper_bound, host.upper_bound_stderr)]
    least, largest = ("  the least", "  the largest; ") if num_data > 1 else ("", "  ")
    rows += [f"  {'effective samples':<18}{host.effective_sample_size.min():>12.1f}{least}"]
    largest += f"trusted below {threshold}"
    return [*rows, f"  {'k-hat':<18}{host.pareto_k.max():>12.2f}{largest}"]


def _row(name, value, stderr, note=""):
    """A line of the table: the mean over data and its standard error, their draws independent."""
    error = np.sqrt(np.square(stderr).sum()) / stderr.size
    return f"  {name:<18}{value.mean():>12.4f}{error:>10.4f}  {note}".rstrip()


def _require_like(where: str, draws: Any, z: Any):
    """Refuse draws that differ from those of q in more than their number."""

    def shapes(tree):
        return jax.tree.map(lambda leaf: leaf.shape[1:] if leaf.ndim else None, tree)

    no_draw = any(leaf.shape[:1] in ((), (0,)) for leaf in jax.tree.leaves(draws))
    if no_draw or shapes(draws) != shapes(z):
        rule = "have the structure and shapes of q's draws, with any number of them first"
        got = jax.tree.map(jnp.shape, draws)
        remedy = f"pass leaves [M, *batch, *event]; {jax.tree.map(jnp.shape, z)} are those of q"
        raise refusal(where, "posterior_draws", rule, got, remedy)
