"""How a decoder's outputs are read as a distribution over grey levels.

Data are ``x = level + noise`` in ``[0, M)``, the noise uniform on [0, 1): a mass scores the level
``floor(x)``, a density scores ``x / M`` and pays ``log M`` for the width of a level, so that both
are nats of levels. For a density that is a lower bound on the log of its integral over the level,
by Jensen's inequality (Theis, van den Oord and Bethge, 2016, equation 3).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

import vi

COMPONENTS = 5
FIXED_SCALE = (
    0.5**0.5
)  # under which minus the log-density is the sum of squares, but for a constant
LOGISTIC_SD = np.pi / 3**0.5  # of a logistic of scale 1

Outputs = Float[Array, "*batch pixels width"]


@dataclass(frozen=True)
class Reading:
    """One observation model; greys are levels over M - 1."""

    num_levels: int
    width: ClassVar[int] = 1  # outputs of the decoder for each pixel

    def observe(self, outputs: Outputs) -> vi.likelihoods.Observation:
        """``p(x | z)`` in its own units."""
        raise NotImplementedError

    def log_prob(self, outputs: Outputs, x: Float[Array, "*data pixels"]) -> Float[Array, "*batch"]:
        """Of levels with noise, in nats."""
        raise NotImplementedError

    def levels(self, values: Array) -> Int[Array, "*shape"]:
        """The levels nearest to draws of ``observe``."""
        return values

    def mean(self, observation: Any) -> Float[Array, "*batch pixels"]:
        """The mean grey value."""
        return vi.predictive.mean(observation)

    def bias(self, levels: Int[np.ndarray, "N pixels"]) -> Float[np.ndarray, "pixels width"]:
        """Of the decoder's last layer, to begin with the average of the training images."""
        return self._logit(levels)[:, None]

    def _logit(self, levels):
        grey = np.clip(levels.mean(0) / (self.num_levels - 1), 1e-3, 1 - 1e-3)
        return np.log(grey) - np.log1p(-grey)

    def _scale(self, raw):
        """From a tenth of a level to the whole range."""
        return vi.likelihoods.clamped_scale(raw, low=0.1 / self.num_levels, high=1.0)


class BernoulliOnGreys(Reading):
    """The common recipe: binary cross-entropy of grey values, which is no log-probability."""

    def observe(self, outputs):
        """Bits: what the decoder says data are."""
        return vi.likelihoods.bernoulli(outputs[..., 0])

    def log_prob(self, outputs, x):
        """``sum_i x_i l_i - softplus(l_i)`` at greys: its exponential does not sum to 1."""
        grey = jnp.floor(x) / (self.num_levels - 1)
        return -optax.sigmoid_binary_cross_entropy(outputs[..., 0], grey).sum(-1)

    def levels(self, values):
        """Black or white."""
        return values * (self.num_levels - 1)


class _Mass(Reading):
    def log_prob(self, outputs, x):
        """The log-mass of the levels."""
        return self.observe(outputs).log_prob(jnp.floor(x).astype(int))

    def mean(self, observation):
        """The mean level over M - 1."""
        return super().mean(observation) / (self.num_levels - 1)


class _Density(Reading):
    def log_prob(self, outputs, x):
        """A lower bound on the log-mass of the levels, in expectation over the noise."""
        log_width = -jnp.log(self.num_levels)
        return self.observe(outputs).log_prob(x / self.num_levels) + x.shape[-1] * log_width

    def levels(self, values):
        """The bins they fall into; those outside of [0, 1] are cut."""
        return jnp.floor(values * self.num_levels).clip(0, self.num_levels - 1).astype(int)


class Categorical(_Mass):
    """Any M probabilities for each pixel."""

    @property
    def width(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A logit for each level."""
        return self.num_levels

    def observe(self, outputs):
        """Levels."""
        return vi.likelihoods.categorical(outputs)

    def mean(self, observation):
        """From the probabilities: classes have no mean of their own."""
        grey = jnp.linspace(0.0, 1.0, self.num_levels)
        return jax.nn.softmax(observation.base_dist.logits) @ grey

    def bias(self, levels):
        """Logs of the frequencies of each pixel's levels, with one count more of each."""
        counts = (levels[..., None] == np.arange(self.num_levels)).sum(0) + 1.0
        return np.log(counts / (len(levels) + self.num_levels))


class NormalisedBernoulli(Categorical):
    """``BernoulliOnGreys`` divided by its sum over the levels: the same optimum, a probability."""

    width = 1  # pyright: ignore[reportAssignmentType]

    def observe(self, outputs):
        """Levels, with logits that are linear in the grey value."""
        return vi.likelihoods.categorical(outputs * jnp.linspace(0.0, 1.0, self.num_levels))

    def bias(self, levels):
        """Those of bits."""
        return Reading.bias(self, levels)


class ContinuousBernoulli(_Density):
    """``BernoulliOnGreys`` divided by its integral over [0, 1]."""

    def observe(self, outputs):
        """Greys in [0, 1]."""
        return vi.likelihoods.continuous_bernoulli(outputs[..., 0])


class FixedNormal(_Density):
    """The sum of squared errors."""

    def observe(self, outputs):
        """Reals around a grey value."""
        return vi.likelihoods.normal(jax.nn.sigmoid(outputs[..., 0]), scale=self.scale(outputs))

    def scale(self, outputs: Outputs) -> Float[Array, "*batch pixels"]:
        """The standard deviation of the greys, before they are cut to the range."""
        return jnp.full(outputs.shape[:-1], FIXED_SCALE, outputs.dtype)


class Normal(FixedNormal):
    """A normal whose scale is the decoder's too."""

    width = 2

    def scale(self, outputs):
        """The standard deviation of the greys, before they are cut to the range."""
        return self._scale(outputs[..., 1])

    def bias(self, levels):
        """The middle of the scales to begin with."""
        return np.stack([logit := self._logit(levels), np.zeros_like(logit)], axis=-1)


class Logistic(_Mass):
    """A rounded logistic whose scale is the decoder's too."""

    width = 2
    bias = Normal.bias

    def observe(self, outputs):
        """Levels."""
        loc, scale = jax.nn.sigmoid(outputs[..., 0]), self._scale(outputs[..., 1])
        grid = {"low": 0.0, "high": 1.0, "num_levels": self.num_levels}
        return vi.likelihoods.discretised_logistic(loc, scale=scale, **grid)

    def scale(self, outputs: Outputs) -> Float[Array, "*batch pixels"]:
        """The standard deviation of the greys, before they are rounded and cut."""
        return LOGISTIC_SD * self._scale(outputs[..., 1])


class Mixture(_Mass):
    """A mixture of rounded logistics."""

    width = 3 * COMPONENTS

    def observe(self, outputs):
        """Levels."""
        logits, loc, raw = jnp.split(outputs, 3, axis=-1)
        grid = {"low": 0.0, "high": 1.0, "num_levels": self.num_levels}
        return vi.likelihoods.discretised_logistic_mixture(
            logits, jax.nn.sigmoid(loc), scale=self._scale(raw), **grid
        )

    def bias(self, levels):
        """Even weights, centres on both sides of the average."""
        loc = self._logit(levels)[:, None] + np.linspace(-2, 2, COMPONENTS)
        zeros = np.zeros_like(loc)
        return np.concatenate([zeros, loc, zeros], axis=-1)


READINGS: dict[str, type[Reading]] = {
    "bernoulli": BernoulliOnGreys,
    "continuous": ContinuousBernoulli,
    "squares": FixedNormal,
    "normal": Normal,
    "logistic": Logistic,
    "mixture": Mixture,
    "categorical": Categorical,
}
