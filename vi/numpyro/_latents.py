"""What a log-density has to know of a model before the first point: its latents, and no more."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import biject_to
from numpyro.handlers import substitute, trace
from numpyro.primitives import Messenger

from vi._check import is_key, refusal


def explored(program: Callable, data) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Run a model once, every latent at zero in R^D.

    Returns:
        The unconstrained shape of each latent, and the values of the sites that stay as they are:
        mutable ones, and the parameters that a random module leaves empty.

    Raises:
        ValueError: Sites that a density over R^D cannot have, by name.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    scanned, discrete, degenerate = set(), set(), set()

    def place(site):
        if site["type"] != "sample" or site["is_observed"] or site["value"] is not None:
            return None
        name, fn, sample_shape = site["name"], site["fn"], site["kwargs"]["sample_shape"]
        if fn.support.is_discrete:
            discrete.add(name)
            return fn(rng_key=jax.random.key(0), sample_shape=sample_shape)
        if _is_delta(fn):
            degenerate.add(name)
        if site["infer"].get("_scan_current_index") is not None:
            scanned.add(name)
        transform = onto_support(site)
        shapes[name] = (*sample_shape, *transform.inverse_shape(fn.shape()))
        return transform(jnp.zeros(shapes[name]))

    @jax.jit
    def others(data):
        sites = trace(substitute(program, substitute_fn=place)).get_trace(data)
        for name in scanned & shapes.keys():
            shapes[name] = (sites[name]["value"].shape[0], *shapes[name])
        return opened.mutable, {name: sites[name]["value"] for name in opened.open["param"]}

    with _Open() as opened:
        mutable, params = others(data)
    fixable = {name for name, value in params.items() if jax.tree.leaves(value)}
    _refuse(discrete, "be continuous", "sum it out, or use svi_step with a vimco or score loss")
    _refuse(degenerate, "have a density", "use numpyro.deterministic in place of Delta")
    _refuse(opened.open["plate"], "be a full plate", "pass subsample_size=None")
    _refuse(fixable, "have a value", "fix it: numpyro.handlers.substitute(model, data=params)")
    if not shapes:
        remedy = "give it a numpyro.sample without obs"
        raise refusal("log_density", "model", "have a latent site", "none", remedy)
    return shapes, mutable | params


def require_settled(parts: Callable, held: dict[str, Any], u, data) -> None:
    """Refuse what is random, changes as it runs, or is not finite at ``u``.

    Args:
        parts: ``(u, data) -> `` the terms of the log-density by name, and the sites.
        held: The values that sites ought to keep.
        u: The first point.
        data: The data.
    """

    @jax.jit
    def first(u, data):
        terms, sites = parts(u, data)
        return terms, {name: site["value"] for name, site in sites.items() if name in held}

    with _Open() as opened:
        terms, after = first(u, data)
    remedy = "put the module in its mode of evaluation: no dropout, no batch statistics"
    if opened.open["prng_key"]:
        raise refusal("log_density", "model", "draw nothing", "numpyro.prng_key", remedy)
    changed = {name for name in held if _bits(after[name]) != _bits(held[name])}
    _refuse(changed, "stay as it is", remedy)
    unbounded = {name for name, term in terms.items() if not jnp.isfinite(term)}
    remedy = "see that the data lie in its support, and scale it so that 0 in R^D is a fair guess"
    _refuse(unbounded, "be finite at the initial point", remedy)


def onto_support(site: dict[str, Any]) -> Any:
    """The map from R^D onto the support of a site."""
    support = site["fn"].support
    try:
        return biject_to(support)
    except NotImplementedError:
        rule, remedy = "have a support that R^D maps onto", "use numpyro.handlers.reparam"
        raise refusal("log_density", f"site {site['name']}", rule, support, remedy) from None


class _Open(Messenger):
    """Notes, outside of all other handlers, what has no value yet, and gives it one."""

    def __init__(self):
        super().__init__()
        self.open: dict[str, set[str]] = {"plate": set(), "prng_key": set(), "param": set()}
        self.mutable: dict[str, Any] = {}

    def __enter__(self) -> "_Open":
        super().__enter__()
        return self

    def process_message(self, msg):
        if msg["type"] not in self.open or msg["value"] is not None:
            return
        self.open[msg["type"]].add(msg.get("name", ""))
        if msg["type"] == "plate":
            msg["value"] = jnp.arange(msg["args"][1])
        elif msg["type"] == "prng_key":
            msg["value"] = jax.random.key(0)

    def postprocess_message(self, msg):
        if msg["type"] == "mutable":
            self.mutable[msg["name"]] = jax.tree.map(lambda leaf: leaf, msg["value"])


def _refuse(names: set[str], rule: str, remedy: str) -> None:
    if names:
        argument = f"site{'s' * (len(names) > 1)} {', '.join(sorted(names))}"
        raise refusal("log_density", "every site", rule, argument, remedy)


def _is_delta(fn) -> bool:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def _bits(tree) -> list[bytes]:
    leaves = [jax.random.key_data(x) if is_key(x) else x for x in jax.tree.leaves(tree)]
    return [np.asarray(leaf).tobytes() for leaf in leaves]
