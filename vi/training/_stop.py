"""Why a run ends: the causes, and the rules that end it early."""

import enum
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from vi._check import refusal, require_count

StopRule: TypeAlias = Callable[[dict[str, np.ndarray], dict[str, np.ndarray]], str | None]
"""``stop(history, evaluations)`` of one run so far -> the reason to stop, or None to go on."""

_BLOCKS = 10


class Cause(enum.Enum):
    """What ended a run."""

    DONE = "all steps were taken"
    EARLY = "a stop rule ended it"
    NON_FINITE = "the next step has a non-finite loss or non-finite parameters"
    INTERRUPTED = "the user interrupted it"


class Stopped(NamedTuple):
    """How one run ended; ``str`` gives the sentence.

    Attributes:
        cause: The ``Cause``.
        step: ``state.step`` at the end, in steps.
        message: A sentence that says it all.
        skipped: Steps whose gradient was not finite and that ``optax.apply_if_finite`` left out.
    """

    cause: Cause
    step: int
    message: str
    skipped: int = 0

    def __str__(self) -> str:
        return self.message


def plateau(window: int, *, num_stderrs: float = 2.0) -> StopRule:
    """Stop when the minibatch loss no longer falls visibly above its noise.

    With ``m1`` and ``m2`` the mean losses of the last ``window`` steps and of the ``window`` before
    them, stop when ``m2 - m1 <= num_stderrs * se``. The standard error is that of batch means: ten
    blocks of the last window, so that autocorrelation shorter than a block is accounted for, less
    their straight line, so that a trend is no noise. A longer window sees slower progress. Losses
    that are not finite (of steps that were skipped) do not count.

    Args:
        window: Steps in each of the two windows, at least 20.
        num_stderrs: How many standard errors of fall count as progress; 0 ignores the noise.

    Returns:
        A rule for ``fit(..., stop=...)``; it needs ``2 * window`` steps before it says anything.

    Raises:
        ValueError: A window under 20 steps, or a negative ``num_stderrs``.

    Examples:
        >>> import numpy as np, vi
        >>> rule = vi.training.plateau(100)
        >>> noise = np.random.default_rng(0).normal(size=200)
        >>> rule({"loss": noise + np.linspace(9.0, 0.0, 200)}, {}) is None
        True
        >>> rule({"loss": noise}, {})
        'the loss fell by 0.1317 +- 0.1512 over 100 steps'

    References:
        Flegal and Jones (2010), "Batch means and spectral variance estimators in Markov chain Monte
        Carlo", section 1, for the standard error.
    """
    window = require_count("plateau", "window", window, least=2 * _BLOCKS)
    if not num_stderrs >= 0:
        raise refusal("plateau", "num_stderrs", "be at least 0", num_stderrs, "pass 2.0, say")

    def rule(history, evaluations):
        del evaluations
        losses = history["loss"][np.isfinite(history["loss"])].astype(float)
        if len(losses) < 2 * window:
            return None
        before, last = losses[-2 * window : -window], losses[-window:]
        fall = before.mean() - last.mean()
        blocks = last[-(window // _BLOCKS) * _BLOCKS :].reshape(_BLOCKS, -1).mean(1)
        at = np.arange(_BLOCKS)
        noise = blocks - np.polyval(np.polyfit(at, blocks, 1), at)
        stderr = np.sqrt(2 * (noise**2).sum() / (_BLOCKS - 2) / _BLOCKS)
        if fall > num_stderrs * stderr:
            return None
        return f"the loss fell by {fall:.4g} +- {stderr:.4g} over {window} steps"

    return rule


def patience(
    score: Callable[[dict[str, np.ndarray]], np.ndarray], times: int, *, least_gain: float = 0.0
) -> StopRule:
    """Stop when a held-out score has not risen above its best for ``times`` evaluations in a row.

    A NaN is no rise.

    Args:
        score: From the ``evaluations`` of one run to an array ``[times]`` of which up is good:
            ``lambda e: e["elbo"]``, or ``lambda e: -(e["rate"] + e["distortion"])``.
        times: Evaluations without a new best before it stops.
        least_gain: A new best must exceed the old by more than this, in the score's unit.

    Returns:
        A rule for ``fit(..., stop=...)``, which then needs ``evaluate`` and ``eval_every``.

    Raises:
        ValueError: ``times`` below 1, a negative ``least_gain``; when called, a score of another
            shape, or no evaluations.

    Examples:
        >>> import numpy as np, vi
        >>> rule = vi.training.patience(lambda e: e["elbo"], 2)
        >>> rule({}, {"elbo": np.array([-3.0, -1.0, -1.5])}) is None
        True
        >>> rule({}, {"elbo": np.array([-3.0, -1.0, -1.5, -1.2])})
        'the held-out score has not risen above -1 in 2 evaluations'
    """
    times = require_count("patience", "times", times)
    if not least_gain >= 0:
        raise refusal("patience", "least_gain", "be at least 0", least_gain, "pass 0.0, say")

    def rule(history, evaluations):
        del history
        if not evaluations:
            remedy = "pass evaluate=... and eval_every=... to fit"
            raise refusal("patience", "evaluations", "hold something", "none", remedy)
        scores = np.asarray(score(evaluations))
        if scores.ndim != 1:
            remedy = "return one number per evaluation, up is good"
            got = f"shape {list(scores.shape)}"
            raise refusal("patience", "score", "be numbers [times]", got, remedy)
        best, at = -np.inf, 0
        for i, value in enumerate(scores):
            if value > best + least_gain:
                best, at = value, i
        if len(scores) - 1 - at < times:
            return None
        return f"the held-out score has not risen above {best:.6g} in {times} evaluations"

    return rule
