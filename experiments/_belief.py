"""A sigmoid belief network and its recognition network, as Flax NNX modules."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

import vi
from experiments._data import Images, set_output_bias

Variable = Callable[[Any], Any]
"""Logits ``[*batch, H]`` to a distribution over a layer's H units."""

BASELINE_UNITS = 100


def bits(logits: Float[Array, "*batch H"]) -> vi.types.Variational:
    """H independent bits."""
    return vi.families.bernoulli(logits)


def relaxed_bits(temperature: Any) -> Variable:
    """H independent numbers in (0, 1), which tend to ``bits`` as the temperature goes to 0."""
    return lambda logits: vi.families.binary_concrete(logits, temperature=temperature)


class Generative(nnx.Module):
    """theta: ``p(z_L)``, and each layer given the one above, down to the pixels."""

    def __init__(self, pixels: int, hidden: int, layers: int, rngs: nnx.Rngs):
        self.top = nnx.Param(jnp.zeros(hidden))
        self.down = nnx.List([_linear(hidden, n, rngs) for n in [pixels] + [hidden] * (layers - 1)])


class Recognition(nnx.Module):
    """phi: ``q(z_1 | x)`` of centred pixels, and each layer given the one below."""

    def __init__(self, mean: Array, hidden: int, layers: int, rngs: nnx.Rngs):
        pixels = mean.shape[0]
        self.centre = nnx.Variable(mean)
        self.up = nnx.List([_linear(n, hidden, rngs) for n in [pixels] + [hidden] * (layers - 1)])

    def pixels_up(self, x) -> Array:
        """The logits of ``q(z_1 | x)``."""
        return self.up[0](2 * (x - self.centre[...]))


class SigmoidBelief(nnx.Module):
    """``x - z1 - ... - zL`` and back, every step linear and logistic; units are fed as -1 and 1.

    A latent is ``{"z1": [..., H], ..., "zL": [..., H]}``. The units may be ``bits``, the model
    itself, or ``relaxed_bits``: the same weights, another model.
    """

    def __init__(self, mean: Array, hidden: int, layers: int, rngs: nnx.Rngs):
        self.generative = Generative(mean.shape[0], hidden, layers, rngs)
        self.recognition = Recognition(mean, hidden, layers, rngs)

    @property
    def names(self) -> list[str]:
        """The layers from the pixels up."""
        return [f"z{i + 1}" for i in range(len(self.recognition.up))]

    def prior(self, variable: Variable = bits) -> vi.families.Chain:
        """``p(z_L) p(z_{L-1} | z_L) ... p(z_1 | z_2)``."""
        names, down = self.names, self.generative.down
        members: dict[str, Any] = {names[-1]: variable(self.generative.top[...])}
        for i in reversed(range(1, len(names))):
            members[names[i - 1]] = _given(names[i], down[i], variable)
        return vi.families.chain(members)

    def posterior(
        self, x: Float[Array, "*batch pixels"], variable: Variable = bits
    ) -> vi.families.Chain:
        """``q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1})``."""
        names, up = self.names, self.recognition.up
        members: dict[str, Any] = {names[0]: variable(self.recognition.pixels_up(x))}
        for i in range(1, len(names)):
            members[names[i]] = _given(names[i - 1], up[i], variable)
        return vi.families.chain(members)

    def observation(self, z) -> dist.Distribution:
        """``p(x | z1)``, independent bits."""
        return vi.likelihoods.bernoulli(self.generative.down[0](_signed(z["z1"])))

    def means(self, key, x, num_samples) -> dict[str, Array]:
        """``E_q[z_1 | x]``, exact, and of each layer above over draws of the one below."""
        q, names, up = self.posterior(x), self.names, self.recognition.up

        def add(i, totals):
            z = q.sample(jax.random.fold_in(key, i))
            lower = zip(totals.items(), names, up[1:], strict=False)
            return {
                name: total + jax.nn.sigmoid(layer(_signed(z[below])))
                for (name, total), below, layer in lower
            }

        first = jax.nn.sigmoid(self.recognition.pixels_up(x))
        totals = jax.lax.fori_loop(
            0, num_samples, add, {name: jnp.zeros_like(first) for name in names[1:]}
        )
        return {"z1": first} | {name: total / num_samples for name, total in totals.items()}


class Baseline(nnx.Module):
    """``C(x)``, one hidden tanh layer: what the bound at x is expected to be, in nats."""

    def __init__(self, mean: Array, rngs: nnx.Rngs):
        self.centre = nnx.Variable(mean)
        self.first = _linear(mean.shape[0], BASELINE_UNITS, rngs)
        self.second = _linear(BASELINE_UNITS, 1, rngs)

    def __call__(self, x: Float[Array, "*batch pixels"]) -> Float[Array, "*batch"]:
        return self.second(jnp.tanh(self.first(2 * (x - self.centre[...]))))[..., 0]


def build_belief(config: Any, images: Images, rngs: nnx.Rngs) -> dict[str, nnx.Module]:
    """A fresh network, its output bias the logit of the mean pixel, and a fresh baseline.

    ``config`` has ``hidden``, the bits in each layer, and ``layers``, the stochastic ones.
    """
    mean = np.asarray(images.mean, np.float32)
    network = SigmoidBelief(jnp.asarray(mean), config.hidden, config.layers, rngs)
    set_output_bias(network.generative.down[0], mean)
    return {"belief": network, "baseline": Baseline(jnp.asarray(mean), rngs)}


def log_joint(
    network: SigmoidBelief, x: Float[Array, "*batch pixels"], variable: Variable = bits
) -> vi.types.LogDensity:
    """``z -> log p(x | z1) + log p(z)``."""
    prior = network.prior(variable)
    return lambda z: network.observation(z).log_prob(x) + prior.log_prob(z)


def _given(parent: str, layer: nnx.Linear, variable: Variable) -> Callable[..., Any]:
    """A layer given the latent called ``parent``, which ``chain`` reads off the signature."""

    def member(**latents):
        return variable(layer(_signed(latents[parent])))

    argument = inspect.Parameter(parent, inspect.Parameter.KEYWORD_ONLY)
    member.__signature__ = inspect.Signature([argument])  # pyright: ignore[reportFunctionMemberAccess]
    return member


def _signed(units):
    return 2 * units - 1


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    glorot = nnx.initializers.glorot_uniform()
    return nnx.Linear(inputs, outputs, kernel_init=glorot, rngs=rngs)
