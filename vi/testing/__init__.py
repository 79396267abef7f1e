"""What the tests and the users share: exact models, and checks of one's own parts."""

from vi.testing._check_bound import check_bound
from vi.testing._describe import describe
from vi.testing._linear_gaussian import LinearGaussian, ppca
from vi.testing._report import BoundReport, Check

__all__ = ["BoundReport", "Check", "LinearGaussian", "check_bound", "describe", "ppca"]
