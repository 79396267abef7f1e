"""Training: a loss becomes a ``Step``, ``run`` takes many of them purely, ``fit`` as a lab would.

``run`` is one ``lax.scan``, for the user to compile and vmap; ``fit`` compiles it in chunks and has
the host look on in between. Both draw the same minibatches and take the same steps.
"""

from vi.training._average import AverageState, average, averaged
from vi.training._checkpoint import Checkpoint, load
from vi.training._fit import FitResult, fit
from vi.training._run import run
from vi.training._schedules import cyclical_annealing, linear_annealing
from vi.training._state import State, init
from vi.training._step import Step, gradient_step, stateful_gradient_step
from vi.training._stop import Cause, Stopped, StopRule, patience, plateau

__all__ = [
    "AverageState",
    "Cause",
    "Checkpoint",
    "FitResult",
    "State",
    "Step",
    "StopRule",
    "Stopped",
    "average",
    "averaged",
    "cyclical_annealing",
    "fit",
    "gradient_step",
    "init",
    "linear_annealing",
    "load",
    "patience",
    "plateau",
    "run",
    "stateful_gradient_step",
]
