"""What the tests and the users share: exact models, and checks of one's own parts."""

from vi.testing._check_bound import check_bound
from vi.testing._check_gradient import check_gradient
from vi.testing._describe import describe
from vi.testing._exact import enumerated, quadrature
from vi.testing._exact_objective import ExactObjective
from vi.testing._linear_gaussian import LinearGaussian, ppca
from vi.testing._report import BoundReport, Check, GradientReport

__all__ = [
    "BoundReport",
    "Check",
    "ExactObjective",
    "GradientReport",
    "LinearGaussian",
    "check_bound",
    "check_gradient",
    "describe",
    "enumerated",
    "ppca",
    "quadrature",
]
