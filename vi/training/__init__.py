"""Training: a loss becomes a ``Step``, ``run`` takes many of them purely, ``fit`` with a bar.

``run`` is one ``lax.scan``, for the user to compile and vmap; ``fit`` compiles it in chunks and has
the host look on in between. Both draw the same minibatches and take the same steps.
"""

from vi.training._fit import FitResult, fit
from vi.training._run import run
from vi.training._state import State, init
from vi.training._step import Step, gradient_step, stateful_gradient_step

__all__ = [
    "FitResult",
    "State",
    "Step",
    "fit",
    "gradient_step",
    "init",
    "run",
    "stateful_gradient_step",
]
