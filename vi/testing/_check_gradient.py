"""Verify that a gradient estimator has the right mean."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from vi._check import refusal, require_count, require_key
from vi.testing._density_probe import probe
from vi.testing._report import Check, GradientReport
from vi.types import Key, LogDensity, Variational

_NUM_STANDARD_ERRORS = 5
_NUM_ROUNDINGS = 64  # what a gradient of zero may be, in units of rounding


def check_gradient(
    objective: Callable[[Key, Variational, LogDensity, int], Float[Array, "*batch"]],
    make_q: Callable[[Any], Variational],
    params: PyTree[Array],
    log_joint: Callable[[Any], LogDensity],
    *,
    key: Key,
    num_samples: int,
    num_replicates: int,
    truth: PyTree[Array],
    batch_size: int = 128,
) -> GradientReport:
    r"""Check that the gradient of an objective has the mean it should have, entry by entry.

    .. math:: z = \frac{\bar g - g}{\mathrm{se}}, \qquad
              \bar g = \frac{1}{S} \sum_s \nabla_\theta \sum_{\text{batch}}
              \mathrm{objective}(\mathrm{key}_s, q_\theta, \log p_\theta, K), \qquad
              \mathrm{se}^2 = \frac{1}{S (S - 1)} \sum_s (g_s - \bar g)^2.

    An entry fails where :math:`|\bar g - g|` is above :math:`\sqrt{(5\,\mathrm{se})^2 + r^2}`, or
    is not a number; r is what rounding may do. The check serves any function with the signature of
    an objective: ``vi.gradients``' and those written by hand.

    A z-score can be trusted where the gradient has a fourth moment, so that the standard error is
    known from its replicates: with heavy-tailed weights (q narrower than the posterior, cubo) a
    right estimator fails. P entries raise a false alarm with a chance of about P times 6e-7, some
    four times that at 100 replicates. A bias of 5 standard errors passes half the time; one of 10
    is found: read ``stderr`` beside ``truth``.

    .. math:: r = \sqrt{\epsilon} \max_{\text{leaf}} |g|
                  + 64\,\epsilon \max\bigl(1, \max_{\text{all leaves}} |g|\bigr)

    is all that judges an entry without spread (``dreg`` at the exact posterior), epsilon being that
    of the leaf's dtype. In float32 that is 3.5e-4 of the largest entry of the leaf, and 8e-6 where
    the truth is zero: a gradient as small is not told from zero, so rescale the parameters or use
    float64. Half precision tells 3% (float16) or 9% (bfloat16) of the largest entry, no less.

    On the way it checks what an objective owes (the shape ``[*batch]``), and what the densities owe
    it: entry k of ``log_joint`` and of ``q.log_prob`` depends on ``z_k`` alone, found out by
    changing every other draw. The value is not compared: ``check_bound`` tests bounds.

    Args:
        objective: ``(key, q, log_joint, num_samples) -> [*batch]``.
        make_q: ``params -> q``.
        params: Floating leaves, what the gradient is taken with respect to.
        log_joint: ``params -> (z -> log p(x, z))``.
        key: One typed PRNG key; consumed.
        num_samples: ``K``, draws per value.
        num_replicates: ``S``, at least 100; compiled.
        truth: The exact gradient, a pytree like ``params``: of the objective's mean, summed over
            the batch. ``jax.grad`` of ``enumerated``, of ``quadrature`` or of a closed form such as
            ``LinearGaussian.elbo`` gives it. It is the gradient and not a function to be
            differentiated, since some estimators (wake-phase) follow the gradient of something
            other than their value.
        batch_size: Replicates in memory at once.

    Returns:
        A ``GradientReport``: ``passed``, the names of what ``failed``, the ``checks``, and
        ``mean``, ``stderr``, ``z`` as pytrees; print it.

    Raises:
        ValueError: An argument that is not a function where one is expected, parameters that are
            not floating or have no entry, a truth of another structure, a key or a count out of its
            range, an objective that returns no floating array, densities that are not
            ``[K, *batch]``.

    Examples:
        An ELBO written by hand, which stops the gradient at log q by mistake; where p(x, z) is a
        normal, the ELBO is minus the divergence of q from it:

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> def by_hand(key, q, log_joint, num_samples):
        ...     z = q.rsample(key, (num_samples,))
        ...     return (log_joint(z) - jax.lax.stop_gradient(q.log_prob(z))).mean(0)
        >>> target = dist.Normal(0.0, 1.5)
        >>> make_q = lambda params: dist.Normal(params["loc"], params["scale"])
        >>> exact = lambda params: -dist.kl_divergence(make_q(params), target)
        >>> params = {"loc": jnp.array(0.5), "scale": jnp.array(1.2)}
        >>> def report(objective, seed):
        ...     return check_gradient(
        ...         objective, make_q, params, lambda params: target.log_prob, num_samples=2,
        ...         key=jax.random.key(seed), num_replicates=2000, truth=jax.grad(exact)(params))
        >>> report(by_hand, 0).failed
        ("params['scale']",)
        >>> report(vi.gradients.dreg(vi.bounds.elbo), 1).passed
        True
    """
    functions = {"objective": objective, "make_q": make_q, "log_joint": log_joint}
    for name, function in functions.items():
        is_q = isinstance(function, Variational) and not isinstance(function, type)
        if not callable(function) or is_q:  # NumPyro's distributions are callable
            signature = "(key, q, log_joint, num_samples)" if name == "objective" else "params"
            got = type(function).__name__
            raise _refusal(name, "be a function", got, f"pass a function of {signature}")
    require_key("check_gradient", key)
    num_samples = require_count("check_gradient", "num_samples", num_samples)
    num_replicates = require_count("check_gradient", "num_replicates", num_replicates, least=100)
    batch_size = require_count("check_gradient", "batch_size", batch_size)
    params, truth = _require_alike(params, truth)
    if not callable(log_joint(params)):
        got, remedy = type(log_joint(params)).__name__, "return z -> log p(x, z)"
        raise _refusal("log_joint", "map params to a function", got, remedy)

    probe_key, key = jax.random.split(key)
    batch, checks = probe(probe_key, make_q(params), log_joint(params), num_samples)

    def value(params, key):
        return objective(key, make_q(params), log_joint(params), num_samples)

    checks.insert(0, _check_value(jax.eval_shape(value, params, key), batch))
    gradient = jax.grad(lambda params, key: value(params, key).sum())
    size = min(num_replicates, batch_size)
    num_blocks = -(-num_replicates // size)
    keys = jax.random.split(key, (num_blocks, size))
    moments = jax.jit(lambda *args: _moments(gradient, num_replicates, *args))
    away, stderr = moments(keys, params, truth)
    z = jax.tree.map(_score, away, stderr, _rounding(params, truth))
    mean = jax.tree.map(jnp.add, truth, away)
    leaves = [jax.tree.leaves(tree) for tree in (z, mean, stderr, truth)]
    paths = [f"params{jax.tree_util.keystr(path)}" for path, _ in jax.tree.leaves_with_path(z)]
    checks += [_check_leaf(*leaf) for leaf in zip(paths, *leaves, strict=True)]
    name = repr(objective) if not hasattr(objective, "__name__") else objective.__name__
    return GradientReport(name, tuple(checks), num_samples, num_replicates, mean, stderr, z)


def _moments(gradient, num_replicates: int, keys, params, truth):
    """Mean and standard error of ``gradient - truth``: small numbers, so nothing cancels.

    ``keys`` is ``[blocks, size]``, one for each replicate and some more to fill the last block.
    """
    number = jnp.arange(keys.size).reshape(keys.shape)

    def add_block(sums, block):
        number, keys = block
        each = jax.vmap(gradient, in_axes=(None, 0))(params, keys)
        asked_for = number < num_replicates

        def add(sums, each, truth):
            asked = asked_for.reshape(-1, *(1 for _ in truth.shape))
            away = jnp.where(asked, each.astype(truth.dtype) - truth, 0)
            return sums + jnp.stack([away.sum(0), (away**2).sum(0)])

        return jax.tree.map(add, sums, each, truth), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape), leaf.dtype), truth)
    sums, _ = jax.lax.scan(add_block, zeros, (number, keys))
    mean = jax.tree.map(lambda sums: sums[0] / num_replicates, sums)

    def stderr(mean, sums):
        variance = jnp.maximum(sums[1] / num_replicates - mean**2, 0) / (num_replicates - 1)
        return jnp.where(jnp.isfinite(sums[1]), jnp.sqrt(variance), jnp.nan)

    return mean, jax.tree.map(stderr, mean, sums)


def _rounding(params, truth):
    """What rounding may do to the gradient, one number for each leaf."""
    largest = jax.tree.map(lambda leaf: jnp.abs(leaf).max(initial=0.0), truth)
    overall = max(1.0, *map(float, jax.tree.leaves(largest)))

    def rounding(param, largest):
        eps = float(jnp.finfo(param.dtype).eps)
        return eps**0.5 * largest + _NUM_ROUNDINGS * eps * overall

    return jax.tree.map(rounding, params, largest)


def _score(away, stderr, rounding):
    return away / jnp.hypot(stderr, rounding / _NUM_STANDARD_ERRORS)


def _check_value(value, batch) -> Check:
    if not jnp.issubdtype(getattr(value, "dtype", bool), jnp.floating):
        got = getattr(value, "dtype", type(value).__name__)
        remedy = "return the value alone, [*batch] nats"
        raise _refusal("objective", "return a floating array", got, remedy)
    if value.shape == batch:
        return Check("value", True, f"shape {list(batch)}")
    got = f"shape {list(value.shape)} for the batch {list(batch)}"
    return Check("value", False, f"{got}: return one bound per datum, reduce the K axis alone")


def _check_leaf(name: str, *leaves) -> Check:
    z, mean, stderr, truth = (np.asarray(leaf, float) for leaf in leaves)
    if z.size == 0:
        return Check(name, None, "no entries")
    distance = np.where(np.isnan(z), np.inf, np.abs(z))
    at = np.unravel_index(distance.argmax(), z.shape)
    beyond = int((distance > _NUM_STANDARD_ERRORS).sum())
    figures = f"z {z[at]:+6.2f} | mean {mean[at]:+.4e} +- {stderr[at]:.1e} | truth {truth[at]:+.4e}"
    where = f" | worst at {[int(i) for i in at]} of {list(z.shape)}" if z.ndim else ""
    count = f", {beyond} entries beyond {_NUM_STANDARD_ERRORS}" if beyond and z.ndim else ""
    return Check(name, beyond == 0, figures + where + count)


def _require_alike(params, truth):
    """Both as arrays, the truth in the dtypes of the parameters, at least float32."""
    trees = [jax.tree.structure(tree) for tree in (params, truth)]
    is_function = any(map(callable, jax.tree.leaves(truth)))
    if trees[0] != trees[1] or is_function:
        remedy = "give the gradient itself, for instance jax.grad(exact)(params)"
        got = "a function" if is_function else f"{trees[1]} for {trees[0]}"
        raise _refusal("truth", "be a pytree like params", got, remedy)
    params = jax.tree.map(jnp.asarray, params)
    if not sum(leaf.size for leaf in jax.tree.leaves(params)):
        remedy = "pass what the gradient is taken with respect to"
        raise _refusal("params", "have at least one entry", trees[0], remedy)
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            name = f"params{jax.tree_util.keystr(path)}"
            remedy = "close over what has no gradient"
            raise _refusal(name, "be floating", f"dtype {leaf.dtype}", remedy)

    def alike(path, leaf, given):
        if jnp.shape(given) != leaf.shape:
            name = f"truth{jax.tree_util.keystr(path)}"
            got = f"shape {list(jnp.shape(given))}"
            remedy = "give one number per parameter, summed over the batch"
            raise _refusal(name, f"have the shape {list(leaf.shape)}", got, remedy)
        return jnp.asarray(given, jnp.promote_types(leaf.dtype, jnp.float32))

    return params, jax.tree.map_with_path(alike, params, truth)


def _refusal(argument, rule, got, remedy) -> ValueError:
    return refusal("check_gradient", argument, rule, got, remedy)
