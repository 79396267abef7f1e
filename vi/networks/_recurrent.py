"""Gated recurrent encoders and decoders of sequences."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vi._check import refusal, require_count
from vi.networks._mlp import LECUN, affine_layers, projection, require_input

Steps = tuple[Float[Array, "*shape T H"], Float[Array, "*shape H"]]


class RecurrentEncoder(nnx.Module):
    r"""Sequences to states: gated recurrent units, from a state of zero.

    .. math:: r_t, u_t &= \sigma(W_{r,u} x_t + b_{r,u} + U_{r,u} h_{t-1}) \\
              n_t &= \tanh(W_n x_t + b_n + r_t \odot U_n h_{t-1}) \\
              h_t &= (1 - u_t) \odot n_t + u_t \odot h_{t-1}

    A loop over time, ``jax.lax.scan``; inputs are projected at once for all steps.

    Args:
        in_size: Size F of the input's last axis.
        hidden_size: H.
        rngs: Where the initial weights come from.

    Raises:
        ValueError: A size below 1, or (when called) an input of another size or without time.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> from flax import nnx
        >>> net = vi.networks.RecurrentEncoder(3, 8, rngs=nnx.Rngs(0))
        >>> states, final = net(jnp.ones((7, 20, 3)))
        >>> states.shape, final.shape
        ((7, 20, 8), (7, 8))

    References:
        Cho et al. (2014), equations 5 to 8, with the reset gate after the product.
    """

    def __init__(self, in_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        self.in_size = require_count("RecurrentEncoder", "in_size", in_size)
        self.hidden_size = require_count("RecurrentEncoder", "hidden_size", hidden_size)
        self.inward, self.recur = _gru_layers(in_size, hidden_size, rngs)

    def __call__(self, x: Float[Array, "*shape T F"]) -> Steps:
        """Map ``[*shape, T, F]`` to all states ``[*shape, T, H]`` and the last ``[*shape, H]``."""
        _require_sequence("RecurrentEncoder", x, self.in_size)
        inward = jnp.moveaxis(self.inward(x), -2, 0)
        state = jnp.zeros((*inward.shape[1:-1], self.hidden_size), inward.dtype)
        return _run(self.recur, inward, state)


class BidirectionalEncoder(nnx.Module):
    """Two recurrent encoders, of the past and of the future of each step.

    State t is that of the one after ``x[:t + 1]`` and of the other after ``x[t:]``, side by side;
    the last state is each one's own last.

    Args:
        in_size: Size F of the input's last axis.
        hidden_size: H, of each.
        rngs: Where the initial weights come from.

    Raises:
        ValueError: A size below 1, or (when called) an input of another size or without time.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> from flax import nnx
        >>> net = vi.networks.BidirectionalEncoder(3, 8, rngs=nnx.Rngs(0))
        >>> states, final = net(jnp.ones((7, 20, 3)))
        >>> states.shape, final.shape
        ((7, 20, 16), (7, 16))

    References:
        Schuster and Paliwal (1997).
    """

    def __init__(self, in_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        self.forwards = RecurrentEncoder(in_size, hidden_size, rngs=rngs)
        self.backwards = RecurrentEncoder(in_size, hidden_size, rngs=rngs)

    def __call__(self, x: Float[Array, "*shape T F"]) -> Steps:
        """Map ``[*shape, T, F]`` to states ``[*shape, T, 2 H]`` and the last ``[*shape, 2 H]``."""
        _require_sequence("BidirectionalEncoder", x, self.forwards.in_size)
        past, after_last = self.forwards(x)
        future, after_first = self.backwards(jnp.flip(x, -2))
        states = jnp.concatenate([past, jnp.flip(future, -2)], axis=-1)
        return states, jnp.concatenate([after_last, after_first], axis=-1)


class RecurrentDecoder(nnx.Module):
    r"""Vectors to sequences: a recurrence that starts from the vector, and sees it at each step.

    .. math:: h_0 = \tanh(A z + a), \quad h_t = \mathrm{GRU}(z, h_{t-1}), \quad y_t = B h_t + b.

    It does not see its own outputs: a likelihood of :math:`y_t` given earlier data is a
    ``RecurrentEncoder`` of these, with an affine layer behind it.

    Args:
        in_size: Size of the input's last axis.
        hidden_size: H.
        out_size: Size F of the output's last axis.
        rngs: Where the initial weights come from.

    Raises:
        ValueError: A size below 1, or (when called) an input of another size or no steps.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> from flax import nnx
        >>> net = vi.networks.RecurrentDecoder(5, 8, 3, rngs=nnx.Rngs(0))
        >>> net(jnp.ones((4, 7, 5)), 20).shape
        (4, 7, 20, 3)
    """

    def __init__(self, in_size: int, hidden_size: int, out_size: int, *, rngs: nnx.Rngs):
        self.in_size = require_count("RecurrentDecoder", "in_size", in_size)
        hidden_size = require_count("RecurrentDecoder", "hidden_size", hidden_size)
        out_size = require_count("RecurrentDecoder", "out_size", out_size)
        (self.start,) = affine_layers([in_size, hidden_size], [LECUN], rngs)
        self.inward, self.recur = _gru_layers(in_size, hidden_size, rngs)
        (self.last,) = affine_layers([hidden_size, out_size], [LECUN], rngs)

    def __call__(self, z: Float[Array, "*shape I"], num_steps: int) -> Float[Array, "*shape T F"]:
        """Map ``[*shape, in_size]`` to ``[*shape, num_steps, out_size]``."""
        require_input("RecurrentDecoder", z, self.in_size, None, 0)
        num_steps = require_count("RecurrentDecoder", "num_steps", num_steps)
        inward = self.inward(z)
        inward = jnp.broadcast_to(inward, (num_steps, *inward.shape))
        return self.last(_run(self.recur, inward, jnp.tanh(self.start(z)))[0])


def _gru_layers(in_size: int, hidden_size: int, rngs: nnx.Rngs):
    """The maps of input and state to the three gates, side by side."""
    (inward,) = affine_layers([in_size, 3 * hidden_size], [LECUN], rngs)
    orthogonal = jax.nn.initializers.orthogonal()
    return inward, projection(hidden_size, 3 * hidden_size, orthogonal, rngs)


def _run(recur, inward, state):
    """States ``[*shape, T, H]`` and the last one, from projected inputs ``[T, *shape, 3 H]``."""
    kernel = recur.kernel[...]

    def step(state, inward):
        reset_x, update_x, new_x = jnp.split(inward, 3, axis=-1)
        reset_h, update_h, new_h = jnp.split(state @ kernel, 3, axis=-1)
        update = jax.nn.sigmoid(update_x + update_h)
        new = jnp.tanh(new_x + jax.nn.sigmoid(reset_x + reset_h) * new_h)
        state = (1 - update) * new + update * state
        return state, state

    final, states = jax.lax.scan(step, state, inward)
    return jnp.moveaxis(states, 0, -2), final


def _require_sequence(where: str, x, in_size: int) -> None:
    require_input(where, x, in_size, None, 0)
    if jnp.ndim(x) < 2 or jnp.shape(x)[-2] == 0:
        rule, remedy = "have an axis of time, of at least one step", "sequences are [*shape, T, F]"
        raise refusal(where, "x", rule, f"shape {list(jnp.shape(x))}", remedy)
