"""Continuous flows: a draw is carried along by a vector field for a unit of time."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vi._check import refusal, require_count, require_rngs
from vi.flows._flow import Flow, conditioned
from vi.flows._transformers import require_layers
from vi.networks import MLP

Field: TypeAlias = Callable[[Float[Array, "D"]], Float[Array, "D"]]
Divergence: TypeAlias = Callable[[Field, Float[Array, "D"]], tuple[Array, Array]]
"""``divergence(field, z) -> (field(z), trace of its Jacobian)``, at one point ``[D]``."""


def exact_divergence(
    field: Field, z: Float[Array, "D"]
) -> tuple[Float[Array, "D"], Float[Array, ""]]:
    """A vector field and the trace of its Jacobian, by D products with the Jacobian.

    Args:
        field: ``[D]`` to ``[D]``.
        z: ``[D]``.

    Returns:
        ``field(z)`` ``[D]`` and the divergence, a scalar.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> value, divergence = vi.flows.exact_divergence(lambda z: 2 * z, jnp.ones(3))
        >>> print(value, divergence)
        [2. 2. 2.] 6.0
    """
    value, push = jax.linearize(field, z)
    return value, jnp.trace(jax.vmap(push)(jnp.eye(z.shape[0], dtype=z.dtype)))


def continuous(
    size: int,
    *,
    hidden: Sequence[int],
    context_size: int = 0,
    num_steps: int = 16,
    solver: Any = None,
    controller: Any = None,
    divergence: Divergence = exact_divergence,
    rngs: nnx.Rngs,
) -> "Continuous":
    r"""The flow of an ordinary differential equation from time 0 to 1, solved by diffrax.

    .. math:: \frac{dz}{dt} = v(z, t, c), \qquad
              \frac{d \log |\det|}{dt} = \mathrm{tr} \frac{\partial v}{\partial z}.

    No structure is asked of the network v: every dimension moves with every other. The inverse is
    the same equation backwards, and equals it to the solver's error, which is also that of the
    log-density; look at it by doubling ``num_steps``. Derivatives, in both modes, are those of the
    solver's steps, through ``diffrax.DirectAdjoint``. The identity at the start. It does not run
    on draws split over devices (``axis_name``): diffrax's loops do not.

    Args:
        size: D; the exact divergence costs D products with a Jacobian at each evaluation.
        hidden: Sizes of the hidden layers of v.
        context_size: Size C of the context's last axis; 0 for none.
        num_steps: Steps, all equal; with a ``controller``, one in this number is the first
            step, and 16 times as many the most.
        solver: A diffrax solver, ``diffrax.Tsit5()`` by default.
        controller: A diffrax step-size controller, for instance
            ``diffrax.PIDController(rtol=1e-6, atol=1e-6)``; each entry then has its own steps, and
            the solution the derivative of those it took.
        divergence: ``(field, z) -> (field(z), divergence)``, at one point.
        rngs: Where the initial weights come from.

    Returns:
        A flow; call it with a base distribution.

    Raises:
        ImportError: Without diffrax; ``pip install 'vi[ode]'``.
        ValueError: A size or a number of steps below 1; when called, inputs that differ between
            the devices of a ``jax.shard_map``.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> from flax import nnx
        >>> flow = vi.flows.continuous(2, hidden=(16,), num_steps=4, rngs=nnx.Rngs(0))
        >>> q = flow(dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        >>> z, log_q = jax.jit(q.rsample_and_log_prob, static_argnums=1)(jax.random.key(0), (5,))
        >>> z.shape, log_q.shape
        ((5, 2), (5,))

    References:
        Chen, Rubanova, Bettencourt and Duvenaud (2018), theorem 1; Grathwohl, Chen, Bettencourt,
        Sutskever and Duvenaud (2019); Kidger (2021), section 5.1, for the derivatives.
    """
    diffrax = _diffrax()
    require_rngs("continuous", rngs)
    field = MLP(
        require_count("continuous", "size", size) + 1,
        require_layers("continuous", hidden),
        size,
        context_size=context_size,
        out_kernel_init=jax.nn.initializers.zeros,
        rngs=rngs,
    )
    num_steps = require_count("continuous", "num_steps", num_steps)
    solve = _Solve(diffrax.Tsit5() if solver is None else solver, controller, num_steps)
    return Continuous(size, context_size, field, solve, divergence)


class Continuous(Flow):
    """The flow of a vector field; made by ``continuous``."""

    def __init__(self, size, context_size, field, solve, divergence):
        super().__init__(size, context_size)
        self.field, self.solve, self.divergence = field, solve, divergence

    def _forward(self, x, context):
        return self._carried(x, context, 0.0, 1.0)

    def _inverse(self, y, context):
        return self._carried(y, context, 1.0, 0.0)

    def _carried(self, x, context, start, stop):
        def velocity(t, state, c):
            def field(z):
                return conditioned(self.field, jnp.append(z, t.astype(z.dtype)), c)

            return self.divergence(field, state[0])

        def one(x, c):
            return self.solve(velocity, start, stop, (x, jnp.zeros((), x.dtype)), c)

        x = x.astype(jnp.result_type(x, *jax.tree.leaves(self.field)))
        _require_one_device(x, context, self.field)
        if context is None:
            return jnp.vectorize(lambda x: one(x, None), signature="(d)->(d),()")(x)
        return jnp.vectorize(one, signature="(d),(c)->(d),()")(x, context)


@dataclasses.dataclass(frozen=True)
class _Solve:
    """Solves an initial value problem from one time to another; compared by value."""

    solver: Any
    controller: Any
    num_steps: int

    def __call__(self, velocity, start, stop, state, args):
        diffrax = _diffrax()
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            self.solver,
            start,
            stop,
            (stop - start) / self.num_steps,
            state,
            args,
            adjoint=diffrax.DirectAdjoint(),
            stepsize_controller=self.controller or diffrax.ConstantStepSize(),
            max_steps=self.num_steps * (16 if self.controller else 1),
        )
        return jax.tree.map(lambda leaf: leaf[0], solution.ys)


def _require_one_device(*inputs) -> None:
    """Refuse what differs between the devices of a mesh: diffrax's loops start from what does not.

    Inside ``jax.shard_map`` a loop must start from the types that it comes back with.
    """
    axes = frozenset().union(*(jax.typeof(leaf).mat.varying for leaf in jax.tree.leaves(inputs)))
    if axes:
        rule = "be the same on all devices of a jax.shard_map"
        got = f"what differs along {', '.join(sorted(axes))}"
        remedy = (
            "use chunk_size in place of axis_name, or a coupling or autoregressive flow: diffrax's"
            " loops do not run on what differs"
        )
        raise refusal("continuous", "the draws", rule, got, remedy)


def _diffrax() -> Any:
    try:
        import diffrax
    except ImportError as error:
        raise ImportError("continuous: needs diffrax; pip install 'vi[ode]'") from error
    return diffrax
