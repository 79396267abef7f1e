"""A model and a guide with all that they are called with, run once for one particle."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from numpyro import handlers
from numpyro.primitives import Messenger

Trace = dict[str, dict[str, Any]]
"""What ``numpyro.handlers.trace`` records: a message for every site."""


class Program(NamedTuple):
    """A model and a guide, their parameters and arguments.

    Attributes:
        model: The model.
        guide: The guide.
        params: Constrained parameters and mutable state of both, by site.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.
        raw_keys: Whether seeds go in as bits, as whoever called with a legacy key expects.
        plates: Indices of subsampled plates that all particles share.
        given: Values of guide sites that are drawn elsewhere.
    """

    model: Callable
    guide: Callable
    params: Mapping[str, Any]
    args: tuple
    kwargs: Mapping[str, Any]
    raw_keys: bool = False
    plates: Mapping[str, Any] = {}
    given: Mapping[str, Any] = {}

    def run_guide(self, seed, values: Mapping[str, Any] = {}) -> Trace:
        """Run the guide; ``values`` replace what it would draw at those sites."""
        data = {**self.params, **self.given, **values}
        guide = handlers.substitute(self._seeded(self.guide, seed), data=data)
        return handlers.trace(guide).get_trace(*self.args, **self.kwargs)

    def run_guide_without_paths(self, seed) -> Trace:
        """Run the guide with no derivative through a draw that is not reparameterised."""
        with _HeldDraws():
            return self.run_guide(seed)

    def run_model(self, seed, guide_trace: Trace, mutable: Mapping[str, Any]) -> Trace:
        """Run the model on the guide's draws, after the mutable state that the guide left."""
        model = self.replayed(seed, guide_trace, mutable)
        return handlers.trace(model).get_trace(*self.args, **self.kwargs)

    def replayed(self, seed, guide_trace: Trace, mutable: Mapping[str, Any]) -> Callable:
        """The model with everything but its arguments."""
        seeded = self._seeded(self.model, seed)
        model = handlers.replay(seeded, guide_trace)  # pyright: ignore[reportArgumentType]
        return handlers.substitute(model, data={**self.params, **mutable})

    def _seeded(self, function, seed):
        shared = handlers.substitute(function, data=dict(self.plates))
        return handlers.seed(shared, jax.random.key_data(seed) if self.raw_keys else seed)


class _HeldDraws(Messenger):
    """Makes constants of latent draws that carry no derivative of their own."""

    def postprocess_message(self, msg):
        if msg["type"] == "sample" and not msg["is_observed"] and not msg["fn"].has_rsample:
            msg["value"] = jax.lax.stop_gradient(msg["value"])
            msg["intermediates"] = []


def mutable_state(trace: Trace) -> dict[str, Any]:
    """The values of the mutable sites of a trace, by name."""
    return {name: site["value"] for name, site in trace.items() if site["type"] == "mutable"}
