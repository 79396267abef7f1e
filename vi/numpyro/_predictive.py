"""Posterior predictions from a guide's draws, resampled by their importance weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int
from numpyro.handlers import substitute
from numpyro.infer import Predictive

from vi import diagnostics
from vi._check import refusal, require_count, require_key
from vi.numpyro._particles import Particles, WholeRuns
from vi.numpyro._prepare import prepare, require_all_drawn
from vi.numpyro._program import Program
from vi.types import Key

_LEAST = 21  # the fewest weights whose tail can be judged


def _smoothed(log_w: Float[Array, "K"]) -> Float[Array, "K"]:
    return diagnostics.pareto_smoothed(log_w).log_weights


@dataclass(frozen=True, eq=False)
class WeightedPredictive:
    r"""NumPyro's ``Predictive``, with a guide's draws corrected by importance weights.

    ``condition`` draws K times from the guide and weighs each draw by the data; the result
    predicts from draws taken with probability

    .. math:: \bar{w}_k \propto p(x, z_k) / q(z_k), \qquad z_k \sim q,

    so that predictions follow the posterior as K grows, whatever the guide, where
    ``Predictive(model, guide=guide)`` follows the guide. See ``pareto_k`` before trusting them:
    above 0.7 no feasible K will do.

    Weights are of the whole model, so plates may not be subsampled while conditioning, and many
    local latents make one weight carry all.

    Args:
        model: The model.
        guide: The guide.
        params: Constrained parameters of both (``SVI.get_params``) and mutable state, by site.
        num_particles: K, at least 21.
        num_samples: How many draws a prediction takes; None for K.
        held_sites: The latents that predictions take from the draws, where the model is to draw the
            others anew, as the local latents of new data; None for all.
        return_sites: What predictions return; None for what ``Predictive`` does.
        smooth: What is done to the log-weights before draws are taken by them; ``lambda log_w:
            log_w`` for nothing.

    Raises:
        ValueError: A count that is too small.

    Examples:
        The guide has the wrong place and the wrong width; the posterior is N(2, 1/2).

        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, vi
        >>> def model(x, y=None):
        ...     w = numpyro.sample("w", dist.Normal(0, 1))
        ...     numpyro.sample("y", dist.Normal(w * x, 1), obs=y)
        >>> def guide(x, y=None):
        ...     numpyro.sample("w", dist.Normal(1, 1.5))
        >>> predictive = vi.numpyro.WeightedPredictive(model, guide, {}, num_particles=10_000)
        >>> posterior = jax.jit(predictive.condition)(jax.random.key(0), 1.0, 4.0)
        >>> print(posterior.pareto_k < 0.5, posterior.effective_sample_size > 3_000)
        True True
        >>> y = jax.jit(posterior)(jax.random.key(1), 10.0)["y"]
        >>> print(y.shape, y.mean().round(), y.std().round())
        (10000,) 20.0 7.0

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), for the smoothing.
    """

    model: Callable
    guide: Callable
    params: Mapping[str, Any]
    _: KW_ONLY
    num_particles: int
    num_samples: int | None = None
    held_sites: Sequence[str] | None = None
    return_sites: Sequence[str] | None = None
    smooth: Callable[[Float[Array, "K"]], Float[Array, "K"]] = _smoothed

    def __post_init__(self):
        require_count("WeightedPredictive", "num_particles", self.num_particles, _LEAST)
        if self.num_samples is not None:
            require_count("WeightedPredictive", "num_samples", self.num_samples)
        for name in ("held_sites", "return_sites"):
            if isinstance(sites := getattr(self, name), str):
                remedy = f"pass ({sites!r},)"
                raise refusal("WeightedPredictive", name, "be names of sites", repr(sites), remedy)

    def condition(self, key: Key, *args, **kwargs) -> "WeightedPosterior":
        """Draw from the guide and weigh every draw by the data.

        Args:
            key: Consumed. The weights are those of ``vi.numpyro.log_weights`` with ``plates=()``.
            *args: Arguments of model and guide, the data among them.
            **kwargs: Keyword arguments of both.

        Returns:
            A ``WeightedPosterior``, to be called with a key and new arguments.

        Raises:
            ValueError: A subsampled plate; ``held_sites`` that are no latents; outside of ``jit``,
                weights that are all zero or not a number.
        """
        require_key("WeightedPredictive", key)
        program = Program(self.model, self.guide, self.params, args, kwargs)
        prepared = prepare("WeightedPredictive", key, program, (), one=False, additive=False)
        program, structure, whole = prepared.program, prepared.structure, prepared.partition.inside
        require_all_drawn("WeightedPredictive", structure)
        runs = WholeRuns(Particles(program, structure, whole, one=False))
        z, log_q = runs.rsample_and_log_prob(prepared.key, (self.num_particles,))
        log_w = runs.log_joint(z)[0] - log_q
        _require_weight(log_w)
        latents = {name: value for name, value in z["values"].items() if name in structure.model}
        held = tuple(latents if self.held_sites is None else self.held_sites)
        if unknown := [name for name in held if name not in latents]:
            remedy = f"the latents of model and guide are: {', '.join(latents) or 'none'}"
            raise refusal("WeightedPredictive", "held_sites", "be latents", unknown[0], remedy)
        smoothed = self.smooth(log_w)
        return WeightedPosterior(
            samples={name: latents[name] for name in held},
            log_weights=log_w,
            smoothed=smoothed,
            pareto_k=diagnostics.pareto_k(log_w),
            effective_sample_size=diagnostics.effective_sample_size(smoothed),
            params=dict(self.params),
            model=self.model,
            num_samples=self.num_samples or self.num_particles,
            return_sites=None if self.return_sites is None else tuple(self.return_sites),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, kw_only=True)
class WeightedPosterior:
    """Draws of a guide with the weights that make them a posterior's: a pytree, and callable.

    Attributes:
        samples: The latents that are held, ``{site: [K, ...]}``, as the guide drew them.
        log_weights: Their log-weights ``[K]`` in nats, not normalised.
        smoothed: The log-weights by which draws are taken, ``[K]``.
        pareto_k: The shape of the weights' tail; predictions are not to be trusted above 0.7.
        effective_sample_size: How many equally weighted draws these are worth, at most K.
        params: Parameters and mutable state, by site.
        model: The model.
        num_samples: How many draws a prediction takes.
        return_sites: What predictions return.
    """

    samples: dict[str, Array] = field(repr=False)
    log_weights: Float[Array, "K"] = field(repr=False)
    smoothed: Float[Array, "K"] = field(repr=False)
    pareto_k: Float[Array, ""]
    effective_sample_size: Float[Array, ""]
    params: dict[str, Any] = field(repr=False)
    model: Callable = field(metadata={"static": True})
    num_samples: int = field(metadata={"static": True})
    return_sites: tuple[str, ...] | None = field(metadata={"static": True})

    def resample(self, key: Key) -> dict[str, Array]:
        """Equally weighted draws of the posterior, in random order.

        Systematic resampling: with n = ``num_samples``, draw k appears n times its weight, rounded
        up or down. That adds less noise than independent choices would.

        Args:
            key: Consumed.

        Returns:
            ``{site: [num_samples, ...]}``.

        References:
            Kitagawa (1996), appendix; Carpenter, Clifford and Fearnhead (1999), algorithm 2.
        """
        require_key("WeightedPosterior", key)
        index = _systematic(key, self.smoothed, self.num_samples)
        return {name: value[index] for name, value in self.samples.items()}

    def __call__(self, key: Key, *args, **kwargs) -> dict[str, Array]:
        """Predictions of the model, one for each of ``num_samples`` draws of the posterior.

        Args:
            key: Consumed.
            *args: Arguments of the model: those that it was conditioned with or others, None for
                what is to be predicted.
            **kwargs: Keyword arguments of the model.

        Returns:
            ``{site: [num_samples, ...]}``.

        Raises:
            ValueError: A held latent has another shape under these arguments.
        """
        require_key("WeightedPosterior", key)
        of_draws, of_model = jax.random.split(key)
        held = self.resample(of_draws)
        predictive = Predictive(
            substitute(self.model, substitute_fn=_shapes_of(held)),
            held,
            params=self.params,
            num_samples=self.num_samples,
            return_sites=self.return_sites,
            parallel=True,
        )
        return predictive(of_model, *args, **kwargs)


def _systematic(key: Key, log_w: Float[Array, "K"], num_samples: int) -> Int[Array, "S"]:
    """Indices of draws, each taken its share of times; never one of weight zero."""
    of_offset, of_order = jax.random.split(key)
    below = jnp.cumsum(jax.nn.softmax(log_w))
    offset = 1 - jax.random.uniform(of_offset, dtype=below.dtype)  # in (0, 1]
    points = (jnp.arange(num_samples) + offset) / num_samples
    index = jnp.searchsorted(below / below[-1], points)
    return jax.random.permutation(of_order, index)


def _shapes_of(held: Mapping[str, Array]) -> Callable[[dict[str, Any]], None]:
    """Refuses, where a model meets a held latent, one that has another shape there."""

    def check(site):
        if site["type"] != "sample" or site["is_observed"] or site["name"] not in held:
            return
        if site["infer"].get("_scan_current_index") is not None:
            return
        shape = site["fn"].shape(site["kwargs"]["sample_shape"])
        drawn = held[site["name"]].shape[1:]
        if shape != drawn:
            rule = f"draw {site['name']} in the shape it was conditioned in, {list(drawn)}"
            remedy = "draw it anew: name the latents that stay in held_sites"
            raise refusal("WeightedPosterior", "model", rule, list(shape), remedy)

    return check


def _require_weight(log_w: Float[Array, "K"]) -> None:
    if not isinstance(log_w, Tracer) and not jnp.isfinite(log_w.max()):
        remedy = "see where the guide draws what the model gives no probability"
        got = f"a largest log-weight of {log_w.max()}"
        raise refusal("WeightedPredictive", "guide", "draw what has a weight", got, remedy)
