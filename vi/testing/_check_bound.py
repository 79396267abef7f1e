"""Verify that a bound is what it declares."""

import jax

from vi._check import name_of, require_bound
from vi.bounds import declaration, declare
from vi.testing import _bound_claims as claims
from vi.testing import _bound_contract as contract
from vi.testing._report import BoundReport, Check
from vi.types import Bound

_CONTRACT = {
    "dtype": contract.dtype,
    "batch": contract.batch,
    "permutation": contract.permutation,
    "min_samples": contract.min_samples,
    "-inf": contract.minus_inf,
}
_CLAIMS = {
    "one_sample": claims.one_sample,
    "posterior": claims.posterior,
    "shift": claims.shift,
    "direction": claims.direction,
    "sense": claims.sense,
    "smooth": claims.smooth,
    "derivatives": claims.declared_derivatives,
    "additive": claims.additive,
}


def check_bound(bound: Bound) -> BoundReport:
    """Check that a bound keeps the contract of ``vi.types.Bound`` and is what it declares.

    The contract: ``[K, *batch]`` to ``[*batch]`` in float32, the same under ``jit``, ``vmap`` and
    any order of the samples, defined from ``min_samples`` on, and no NaN where weights are zero
    (``-inf``). The declaration (``vi.bounds.declare``, or its defaults for a bare function): the
    value with one sample, the value where q is the posterior, what a shift of the log-weights does,
    on which side of log p(x) the mean lies (by simulation, within 5 computed standard errors),
    whether the first derivative is free of jumps, whether declared derivatives are those of the
    bound, and whether what is declared additive is.

    It reports, and does not raise, what is wrong. Its draws are fixed: two calls agree. A pass is
    evidence and not proof: a clip at a log-weight of 100, say, is outside of where it looks.

    Args:
        bound: ``log_w -> nats``, declared or bare.

    Returns:
        A ``BoundReport``: ``passed``, the names of what ``failed``, the ``checks``; print it.

    Raises:
        ValueError: ``bound`` is not a function, or is a factory of bounds.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> check_bound(vi.bounds.iwae).passed
        True
        >>> check_bound(lambda log_w: log_w.max(0)).failed  # neither below log p(x) nor smooth
        ('direction', 'smooth')
    """
    require_bound("check_bound", bound)
    declared = declaration(bound)
    checks = [_run("shape", contract.shape, bound, declared)]
    if not checks[0].passed:
        names = ["jit", *_CONTRACT, *_CLAIMS]
        checks += [Check(name, None, "needs the right shape") for name in names]
        return BoundReport(name_of(bound), tuple(checks))
    checks.append(_run("jit", contract.jit, bound, declared))
    # Compiled, the checks are short; declared anew, since a wrapper inherits no derivatives.
    compiled = declare(**declared._asdict())(jax.jit(bound))
    checks += [_run(name, check, compiled, declared) for name, check in _CONTRACT.items()]
    with jax.enable_x64(claims.accepts_float64(compiled, declared)):
        checks += [_run(name, check, compiled, declared) for name, check in _CLAIMS.items()]
    return BoundReport(name_of(bound), tuple(checks))


def _run(name, check, bound, declared) -> Check:
    try:
        passed, detail = check(bound, declared)
    except Exception as error:  # whatever a user's function raises is what it is told
        first_line = str(error).strip().partition("\n")[0]
        return Check(name, False, f"raised {type(error).__name__}: {first_line}")
    return Check(name, passed, detail)
