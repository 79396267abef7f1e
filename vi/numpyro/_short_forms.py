"""The losses that most people want, by name."""

from vi import bounds
from vi._check import refusal
from vi.gradients import Estimator, dreg, reparam
from vi.numpyro._loss import Loss


def require_estimator(where: str, gradient) -> None:
    """Refuse the name of an estimator in its place."""
    if not callable(gradient):
        remedy = "pass the function, for instance vi.gradients.reparam"
        raise refusal(where, "gradient", "be an estimator", repr(gradient), remedy)


class ELBO(Loss):
    """The evidence lower bound with the reparameterisation gradient, as ``Trace_ELBO``.

    Args:
        num_particles: K, over which it is averaged; all see one minibatch.

    Examples:
        >>> import vi
        >>> vi.numpyro.ELBO()
        ELBO(reparam(elbo), num_particles=1)
    """

    def __init__(self, num_particles: int = 1):
        super().__init__(reparam(bounds.elbo), num_particles=num_particles)


class IWAE(Loss):
    """The importance-weighted bound, of each cell of the plates that all latents share.

    Args:
        num_particles: K.
        gradient: The estimator, a function; ``vimco`` for discrete latents.
        plates: As in ``Loss``.

    Examples:
        >>> import vi
        >>> vi.numpyro.IWAE(64)
        IWAE(dreg(iwae), num_particles=64)

    References:
        Burda, Grosse and Salakhutdinov (2016).
    """

    def __init__(
        self,
        num_particles: int,
        gradient: Estimator = dreg,
        *,
        plates: tuple[str, ...] | None = None,
    ):
        require_estimator("IWAE", gradient)
        super().__init__(gradient(bounds.iwae), num_particles=num_particles, plates=plates)


class Renyi(Loss):
    """The variational Renyi bound, of each cell of the plates that all latents share.

    A lower bound for alpha in [0, 1], with IWAE at 0; see ``vi.bounds.renyi``.

    Args:
        alpha: The order.
        num_particles: K.
        gradient: The estimator, a function; ``vimco`` for discrete latents.
        plates: As in ``Loss``.

    Examples:
        >>> import vi
        >>> vi.numpyro.Renyi(0.5, 64)
        Renyi(dreg(renyi(0.5)), num_particles=64)

    References:
        Li and Turner (2016).
    """

    def __init__(
        self,
        alpha: float,
        num_particles: int,
        gradient: Estimator = dreg,
        *,
        plates: tuple[str, ...] | None = None,
    ):
        require_estimator("Renyi", gradient)
        super().__init__(gradient(bounds.renyi(alpha)), num_particles=num_particles, plates=plates)
