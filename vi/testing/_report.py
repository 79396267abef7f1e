"""What a checker found, in a form to read and a form to test."""

import dataclasses


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

    def __str__(self) -> str:
        verdict = {True: "ok", False: "FAILED", None: "skipped"}[self.passed]
        return f"  {self.name:<12} {verdict:<8} {self.detail}"


@dataclasses.dataclass(frozen=True)
class BoundReport:
    """What ``check_bound`` found; ``print`` it.

    Attributes:
        name: The name of the bound.
        checks: One ``Check`` each, in the order they ran.
    """

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

    def __str__(self) -> str:
        verdict = "passed" if self.passed else f"FAILED {', '.join(self.failed)}"
        return "\n".join([f"check_bound({self.name}): {verdict}", *map(str, self.checks)])
