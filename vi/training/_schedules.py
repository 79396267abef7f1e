"""Weights that change with the step: functions of it, as every optax schedule is."""

import jax.numpy as jnp
import optax

from vi._check import refusal, require_count


def linear_annealing(num_steps: int, *, start: float = 0.0, end: float = 1.0) -> optax.Schedule:
    """A weight that goes from ``start`` to ``end`` in ``num_steps`` steps and stays there.

    ``beta(t) = start + (end - start) min(t / num_steps, 1)``, for the weight of the KL in a
    ``stateful_gradient_step`` (which is given the step), or for the nats of ``free_bits``.

    Args:
        num_steps: Steps of the ramp.
        start: The value at step 0.
        end: The value from ``num_steps`` on.

    Returns:
        A function of the step, an integer or an integer array, that traces.

    Raises:
        ValueError: ``num_steps`` is no integer of at least 1.

    Examples:
        >>> import vi
        >>> beta = vi.training.linear_annealing(100)
        >>> [float(beta(t)) for t in (0, 50, 100, 1000)]
        [0.0, 0.5, 1.0, 1.0]

    References:
        Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio (2016), "Generating sentences from a
        continuous space", section 3.1.
    """
    num_steps = require_count("linear_annealing", "num_steps", num_steps)
    return optax.linear_schedule(start, end, num_steps)


def cyclical_annealing(
    num_steps: int, num_cycles: int = 4, *, ramp: float = 0.5, start: float = 0.0, end: float = 1.0
) -> optax.Schedule:
    """A weight that rises from ``start`` to ``end`` again in each of ``num_cycles`` cycles.

    With ``tau = (t mod ceil(T / M)) / (T / M)``, T steps and M cycles:
    ``beta(t) = start + (end - start) min(tau / ramp, 1)``, and ``end`` from ``num_steps`` on.

    Args:
        num_steps: Steps of all cycles together.
        num_cycles: M, the cycles; the last is shorter where they do not divide the steps.
        ramp: R, the part of a cycle in which the weight rises, in (0, 1].
        start: The value at the beginning of each cycle.
        end: The value that each cycle reaches, and afterwards.

    Returns:
        A function of the step, an integer or an integer array, that traces.

    Raises:
        ValueError: A count that is no integer of at least 1, more cycles than steps, or a ``ramp``
            outside (0, 1].

    Examples:
        >>> import vi
        >>> beta = vi.training.cyclical_annealing(100, 2)
        >>> [round(float(beta(t)), 3) for t in (0, 20, 30, 50, 60, 99, 100)]
        [0.0, 0.8, 1.0, 0.0, 0.4, 1.0, 1.0]

    References:
        Fu, Li, Liu, Gao, Celikyilmaz and Carin (2019), "Cyclical annealing schedule: a simple
        approach to mitigating KL vanishing", equations 6 and 7 (M = 4 and R = 0.5 are theirs; they
        write t - 1, counting steps from 1).
    """
    num_steps = require_count("cyclical_annealing", "num_steps", num_steps)
    num_cycles = require_count("cyclical_annealing", "num_cycles", num_cycles)
    if num_cycles > num_steps:
        remedy = f"pass num_cycles={num_steps} or less"
        raise refusal("cyclical_annealing", "num_cycles", "be <= num_steps", num_cycles, remedy)
    if not 0 < ramp <= 1:
        remedy = "pass the part of a cycle that rises, 0.5 say"
        raise refusal("cyclical_annealing", "ramp", "be in (0, 1]", ramp, remedy)
    length = -(-num_steps // num_cycles)

    def schedule(step):
        tau = (step % length) * (num_cycles / num_steps)
        rise = start + (end - start) * jnp.minimum(tau / ramp, 1.0)
        return jnp.where(step < num_steps, rise, end)

    return schedule
