"""A learned autoregressive prior over rows of codes, and its training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

import vi
from experiments._data import binarise
from experiments._run import Run

EMBEDDED = 8  # numbers for each code
HELD_OUT = 8  # every so many-th training image decides when to stop
DRAWS = 4  # of each held-out image's bits
LOOKS, PATIENCE = 20, 3
HELD_STREAM = 0x68656C64  # "held": of each seed's key, for those bits


class CodePrior(nnx.Module):
    """``p(c) = prod_t p(c_t | c_1 .. c_(t-1))``: a masked network over embedded codes.

    What it puts out at the first number of a code sees the numbers before: all earlier codes.
    """

    def __init__(self, length: int, num_codes: int, hidden: int, rngs: nnx.Rngs):
        start = jax.random.normal(rngs.params(), (num_codes, EMBEDDED))
        self.embedding = nnx.Param(start)
        sizes = length * EMBEDDED, (hidden, hidden), num_codes
        self.network = vi.networks.MaskedMLP(*sizes, activation=jax.nn.gelu, rngs=rngs)
        self.length = length

    def logits(self, codes: Int[Array, "*batch P"]) -> Float[Array, "*batch P M"]:
        """Those of each place given the places before it."""
        numbers = self.embedding[...][codes].reshape(*codes.shape[:-1], -1)
        weights, biases = (each[::EMBEDDED] for each in self.network.heads())
        return jnp.einsum("...h,phm->...pm", self.network.features(numbers), weights) + biases

    def log_prob(self, codes: Int[Array, "*batch P"]) -> Float[Array, "*batch"]:
        """``log p(c)`` in nats."""
        return vi.likelihoods.categorical(self.logits(codes)).log_prob(codes)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Int[Array, "*shape P"]:
        """Rows of codes, drawn place by place."""

        def draw(codes, place):
            logits = self.logits(codes)[..., place, :]
            drawn = jax.random.categorical(jax.random.fold_in(key, place), logits)
            return codes.at[..., place].set(drawn), None

        empty = jnp.zeros((*sample_shape, self.length), int)
        return jax.lax.scan(draw, empty, jnp.arange(self.length))[0]


def train_prior(
    config: Any, run: Run, name: str, grey: np.ndarray, models: Any, keys: Array
) -> vi.training.FitResult:
    """Priors of trained autoencoders ``[S]``, on the codes of fresh bits at each step.

    An eighth of the training images is held out, and training stops when their codes no longer
    become more likely: the test set has no part in it.
    """
    held = np.arange(len(grey)) % HELD_OUT == 0
    rate = optax.cosine_decay_schedule(config.prior_rate, config.prior_steps, 0.01)
    optimizer = optax.adamw(rate, weight_decay=config.prior_decay)

    def init(key, model):
        sizes = model.length, model.codebook.num_codes, config.prior_hidden
        return vi.training.init(CodePrior(*sizes, nnx.Rngs(key)), optimizer, extra=model)

    def loss(prior, model, key, grey, step):
        return -prior.log_prob(model.codes(binarise(key, grey))).mean(), (model, {})

    @jax.jit
    @jax.vmap
    def look(key, state):
        x = binarise(key, np.tile(grey[held], (DRAWS, 1)))
        return {"log_prob": state.model.log_prob(state.extra.codes(x)).mean()}

    held_keys = jax.vmap(lambda key: jax.random.fold_in(key, HELD_STREAM))(run.key)
    return run.fit(
        name,
        vi.training.stateful_gradient_step(loss, optimizer),
        jax.jit(jax.vmap(init))(keys, models),
        grey[~held],
        num_steps=config.prior_steps,
        batch_size=min(config.batch_size, int((~held).sum())),
        evaluate=lambda _, state: look(jax.random.clone(held_keys), state),
        eval_every=max(config.prior_steps // LOOKS, 1),
        stop=vi.training.patience(lambda seen: seen["log_prob"], PATIENCE),
    )
