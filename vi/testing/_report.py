"""What a checker found, in a form to read and a form to test."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What was checked, one word.
        passed: True, False, or None where the check does not apply.
        detail: The figure behind the verdict, or why there is none.
    """

    name: str
    passed: bool | None
    detail: str

    def line(self, width: int) -> str:
        """The check as a line of a table whose names take ``width`` characters."""
        verdict = {True: "ok", False: "FAILED", None: "skipped"}[self.passed]
        return f"  {self.name:<{width}} {verdict:<8} {self.detail}"

    def __str__(self) -> str:
        return self.line(12)


@dataclasses.dataclass(frozen=True)
class _Report:
    name: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the checks that failed."""
        return tuple(check.name for check in self.checks if check.passed is False)

    def _table(self, title: str) -> str:
        verdict = "passed" if self.passed else f"FAILED {', '.join(self.failed)}"
        width = max([12, *(len(check.name) for check in self.checks)])
        return "\n".join([f"{title}: {verdict}", *(check.line(width) for check in self.checks)])


@dataclasses.dataclass(frozen=True)
class BoundReport(_Report):
    """What ``check_bound`` found; ``print`` it.

    Attributes:
        name: The name of the bound.
        checks: One ``Check`` each, in the order they ran.
    """

    def __str__(self) -> str:
        return self._table(f"check_bound({self.name})")


@dataclasses.dataclass(frozen=True, eq=False)
class GradientReport(_Report):
    """What ``check_gradient`` found; ``print`` it.

    Attributes:
        name: The name of the objective.
        checks: The contracts of ``value``, ``log_joint`` and ``q.log_prob``, then one ``Check`` for
            each leaf of the parameters, under its key path, with the figures of its worst entry.
        num_samples: ``K``, draws per value.
        num_replicates: ``S``, independent gradients.
        mean: The mean gradient, a pytree like the parameters.
        stderr: Its standard error, from the spread of the replicates.
        z: ``(mean - truth) / stderr``, with a fifth of the allowance for rounding joined to
            ``stderr`` as the root of the sum of squares.
    """

    num_samples: int
    num_replicates: int
    mean: Any
    stderr: Any
    z: Any

    def __str__(self) -> str:
        sizes = f"K = {self.num_samples}, S = {self.num_replicates}"
        return self._table(f"check_gradient({self.name}, {sizes})")
