"""The parameters that SVI begins with, and what is known of all sites from then on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import biject_to, constraints
from numpyro.handlers import replay, seed, substitute, trace
from numpyro.infer import ELBO

from vi._check import name_of, refusal
from vi.numpyro._batches import Whole, arguments
from vi.numpyro._restarts import guide_to_start, is_joint
from vi.types import Key

_WHERE = "svi_step.init"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sites:
    """What a state knows of the sites beside what trains: ``state.extra`` of an ``SVIStep``.

    Attributes:
        mutable: The values of the mutable sites.
        bounds: The arrays in the maps from R^D onto the constraints of the parameters.
        maps: The rest of them, static.
        batch: The structure of a batch, static.
    """

    mutable: Any
    bounds: Any
    maps: Any = field(metadata={"static": True})
    batch: Any = field(metadata={"static": True})

    def constrained(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters as model and guide see them."""
        treedef, scalars = self.maps
        bounds = iter(self.bounds)
        leaves = [next(bounds) if scalar is None else scalar for scalar in scalars]
        maps = jax.tree.unflatten(treedef, leaves)
        return {name: maps[name](value) for name, value in params.items()}


def start(
    model: Callable, guide: Callable, loss: ELBO, key: Key, batch: Any, given: dict[str, Any]
) -> tuple[dict[str, Any], Sites]:
    """The unconstrained parameters before the first step, and the sites.

    Model and guide run once; the seeds are those of ``SVI.init``. A parameter of both is the
    guide's. The constraints stay as they are found here.

    Args:
        model: The model.
        guide: The guide.
        loss: The loss, for what it can infer.
        key: For the initial values.
        batch: What both are called with.
        given: Constrained values to begin with, by site.
    """
    args, kwargs = arguments(batch)
    _, model_key, guide_key = jax.random.split(key, 3)
    with jax.debug_key_reuse(False):  # NumPyro's plates and automatic guides use a key twice
        starting = guide_to_start(guide, key, args, kwargs)
        starting = substitute(seed(starting, guide_key), data=given)
        in_guide = trace(starting).get_trace(*args, **kwargs)
        values = {n: s["value"] for n, s in in_guide.items() if s["type"] == "param"} | given
        seeded = seed(model, model_key)
        if getattr(loss, "multi_sample_guide", False):
            drawn = {n: s["value"] for n, s in in_guide.items() if s["type"] == "sample"}
            values |= {name: value[0] for name, value in drawn.items() if jnp.size(value)}
        else:
            seeded = replay(seeded, in_guide)
        in_model = trace(substitute(seeded, data=values)).get_trace(*args, **kwargs)
    sites = [*in_model.values(), *in_guide.values()]

    params = {site["name"]: site for site in sites if site["type"] == "param"}
    _require_params(params, given)
    _require_inferable(loss, sites)
    if not isinstance(batch, Whole):
        _require_any_order(guide, batch, [*in_model.values()], [*in_guide.values()])
    maps = {
        n: biject_to(s["kwargs"].get("constraint", constraints.real)) for n, s in params.items()
    }
    leaves, treedef = jax.tree.flatten(maps)
    is_bound = [hasattr(leaf, "dtype") for leaf in leaves]
    known = Sites(
        mutable={site["name"]: site["value"] for site in sites if site["type"] == "mutable"},
        bounds=[leaf for leaf, bound in zip(leaves, is_bound, strict=True) if bound],
        maps=(treedef, tuple(None if b else x for x, b in zip(leaves, is_bound, strict=True))),
        batch=jax.tree.structure(batch),
    )
    unconstrained = {name: maps[name].inv(site["value"]) for name, site in params.items()}
    return jax.tree.map(jnp.asarray, unconstrained), known


def _require_params(params: dict[str, dict], given: dict[str, Any]) -> None:
    if not any(jax.tree.leaves(site["value"]) for site in params.values()):
        remedy = "use an automatic guide, or numpyro.param"
        raise refusal(_WHERE, "guide", "have parameters", "none in guide and model", remedy)
    if strangers := sorted(given.keys() - params.keys()):
        remedy = f"name some of {', '.join(sorted(params))}"
        raise refusal(_WHERE, "init_params", "be sites", ", ".join(strangers), remedy)


def _require_inferable(loss: ELBO, sites: Iterable[dict]) -> None:
    discrete = {
        site["name"]
        for site in sites
        if site["type"] == "sample" and not site["is_observed"] and site["fn"].support.is_discrete
    }
    if discrete and not loss.can_infer_discrete:
        rule, got = "infer discrete latents", f"{name_of(loss)} for {', '.join(sorted(discrete))}"
        raise refusal(_WHERE, "loss", rule, got, "use vi.numpyro.Loss with vimco, score or mixed")


def _require_any_order(
    guide: Callable, batch: Any, in_model: list[dict], in_guide: list[dict]
) -> None:
    """Refuse rows in random order where a row has a place, as far as the sites show it."""
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(lengths) != 1 or () in lengths:
        return
    ((length,),) = lengths
    samples = [site for site in in_model if site["type"] == "sample"]
    observed = [site for site in samples if site["is_observed"]]
    of_data = {f.name for site in observed for f in site["cond_indep_stack"] if f.size == length}
    local = [s for s in samples if not s["is_observed"] and _plates(s) & of_data]
    plates = of_data & set().union(*map(_plates, local))
    sizes = {(s["args"][0],) for s in in_model if s["type"] == "plate" and s["name"] in plates}
    params = [site for site in in_guide if site["type"] == "param"]
    rowwise = [
        s for s in params if s["kwargs"].get("event_dim") is not None and _plates(s) & plates
    ]
    rowwise += [site for site in params if _leading(site["value"]) in sizes]
    placed = {site["name"] for site in rowwise}
    placed |= {site["name"] for site in local if is_joint(guide)}
    series = [site for site in observed if site.get("_control_flow_done")]
    placed |= {site["name"] for site in series if _leading(site["value"]) == (length,)}
    if placed:
        got = f"{', '.join(sorted(placed))} for each of {length} rows"
        remedy = "pass data = whole(...) to init and fit, with batch_size=1"
        raise refusal(_WHERE, "batch", "be whole where a row has a place", got, remedy)


def _plates(site: dict) -> set[str]:
    return {frame.name for frame in site["cond_indep_stack"]}


def _leading(value: Any) -> tuple[int, ...]:
    return getattr(value, "shape", ())[:1]
