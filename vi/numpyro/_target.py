"""The log-density of a NumPyro model over R^D, with its data as arguments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree
from numpyro.handlers import substitute
from numpyro.infer.util import compute_log_probs

from vi._check import refusal
from vi.numpyro._latents import explored, onto_support, require_settled

_ARRAY = object()
_JACOBIAN = "/log_abs_det_jacobian"


@dataclass(frozen=True, eq=False)
class Target:
    """An unnormalised log-density over R^D, and the way back to what it is about.

    Attributes:
        log_density: ``(u, data) -> []`` in nats, of one point ``u``; pure, so that ``jax.jit``,
            ``jax.grad`` and ``jax.vmap`` apply.
        data: What to pass as ``data``: a pytree of arrays.
        constrain: ``(u, data) -> {name: value}``, of one point: what ``u`` stands for.
        initial: A point of finite density, ``{name: array}``.
        names: One per coordinate, in the order of ``jax.flatten_util.ravel_pytree(initial)``.
    """

    log_density: Callable[[dict[str, Array], PyTree[Array]], Float[Array, ""]]
    data: PyTree[Array]
    constrain: Callable[[dict[str, Array], PyTree[Array]], dict[str, Array]]
    initial: dict[str, Array]
    names: tuple[str, ...]


def log_density(model: Callable, /, *args: Any, **kwargs: Any) -> Target:
    r"""The log-joint density of a model over its unconstrained latents.

    .. math:: \log p(x, z(u)) + \log |\det dz / du|

    Every latent is mapped onto its support from R^D; a support that depends on other latents is
    taken anew at every point. The log-joint is NumPyro's, ``handlers.scale`` and ``mask`` included.
    The Jacobian belongs to the coordinates and is neither scaled nor masked: under a scale of 2 the
    density of z is p(z) squared (NumPyro's ``potential_energy`` scales both).

    Arrays among the arguments become ``data``, which is ``(args, kwargs)`` with None for all else:
    numbers, strings and functions are part of the density, as is what a ``functools.partial``
    holds, for instance an index that must stay concrete. Data of the same shapes compile nothing.

    ``initial`` is zero in every coordinate, which in a mixture is a saddle: add noise of your own.
    Mutable sites stay as a run of the model finds them. Where ``obs_mask`` says observed, the
    unobserved counterpart has no density: it is flat.

    Args:
        model: The model.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        The ``Target``; its ``constrain`` returns the deterministic sites too.

    Raises:
        ValueError: A latent that is discrete or a ``Delta``, or whose support R^D does not map
            onto; a ``numpyro.param`` without a value; a density that is random (a subsampled plate,
            a random key) or changes as it runs (dropout, batch statistics); no latent; arguments
            that are traced; a log-probability at ``initial`` that is not finite, by site. When
            called: a point or data of other shapes.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, vi
        >>> def model(y):
        ...     sigma = numpyro.sample("sigma", dist.HalfNormal(1))
        ...     with numpyro.plate("N", len(y)):
        ...         numpyro.sample("y", dist.Normal(0, sigma), obs=y)
        >>> target = vi.numpyro.log_density(model, jnp.array([0.6, -0.8]))
        >>> target.log_density(target.initial, target.data)
        Array(-3.06366..., dtype=float32)
        >>> target.constrain(target.initial, target.data), target.names
        ({'sigma': Array(1., dtype=float32)}, ('sigma',))
        >>> density = jax.jit(target.log_density)  # compiled once for both
        >>> density(target.initial, ((jnp.zeros(2),), {})) - density(target.initial, target.data)
        Array(0.5, dtype=float32)
    """
    static, data = _split((args, kwargs))

    def program(data):
        args, kwargs = _merge(static, data)
        return model(*args, **kwargs)

    density = _Density(program, _shapes(data), *explored(program, data))
    initial = {name: jnp.zeros(shape) for name, shape in density.latents.items()}
    require_settled(density.parts, density.held, initial, data)
    names = [
        f"{name}[{','.join(map(str, index))}]" if shape else name
        for name, shape in sorted(density.latents.items())
        for index in np.ndindex(shape)
    ]
    return Target(density.log_density, data, density.constrain, initial, tuple(names))


@dataclass(frozen=True, eq=False)
class _Density:
    """A model as a function of its data, and what is known of its sites.

    Attributes:
        program: ``data -> `` the model's run.
        data: The shape of each array in ``data``, by its place.
        latents: The unconstrained shape of each latent.
        held: The values of sites that are neither latents nor data.
    """

    program: Callable[[PyTree[Array]], Any]
    data: dict[str, tuple[int, ...]]
    latents: dict[str, tuple[int, ...]]
    held: dict[str, Any]

    def log_density(self, u: dict[str, Array], data: PyTree[Array]) -> Float[Array, ""]:
        """``log p(x, z(u)) + log |det dz / du|`` in nats."""
        parts, _ = self.parts(u, data)
        return jnp.stack(list(parts.values())).sum()

    def constrain(self, u: dict[str, Array], data: PyTree[Array]) -> dict[str, Array]:
        """The latents on their supports, and the deterministic sites."""
        _, sites = self._run(u, data)
        return {
            name: site["value"]
            for name, site in sites.items()
            if name in self.latents
            or (site["type"] == "deterministic" and not name.endswith(_JACOBIAN))
        }

    def parts(self, u, data) -> tuple[dict[str, Array], dict[str, dict]]:
        """The log-probability of each site and the log-Jacobian of each latent, and the sites."""
        log_probs, sites = self._run(u, data)
        jacobians = {n: s["value"].sum() for n, s in sites.items() if n.endswith(_JACOBIAN)}
        return log_probs | jacobians, sites

    def _run(self, u, data):
        latents = {f"['{name}']": shape for name, shape in self.latents.items()}
        _require_shapes("u", u, latents, "pass one point, or jax.vmap over several")
        _require_shapes("data", data, self.data, "make a target for them, or jax.vmap over several")

        def place(site):
            if site["type"] != "sample" or site["name"] not in u:
                return None
            x, step = u[site["name"]], site["infer"].get("_scan_current_index")
            x = x if step is None else x[step]
            transform = onto_support(site)
            value = transform(x)
            # A deterministic site is neither scaled nor masked, and leaves a scan.
            log_det = transform.log_abs_det_jacobian(x, value)
            numpyro.deterministic(site["name"] + _JACOBIAN, jnp.sum(log_det))
            return value

        # Fresh containers: a module writes its new state into those that it is given.
        held = jax.tree.map(lambda leaf: leaf, self.held)
        model = substitute(substitute(self.program, data=held), substitute_fn=place)
        return compute_log_probs(model, (data,), {}, {})


def _is_array(leaf) -> bool:
    return isinstance(leaf, jax.Array) or (
        isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "OSUMm"
    )


def _split(arguments) -> tuple[Any, PyTree[Array]]:
    """The arguments with a mark in place of each array, and the arrays with None for the rest."""
    static = jax.tree.map(lambda leaf: _ARRAY if _is_array(leaf) else leaf, arguments)
    data = jax.tree.map(lambda leaf: jnp.asarray(leaf) if _is_array(leaf) else None, arguments)
    traced = [name for name, leaf in _named(data).items() if isinstance(leaf, Tracer)]
    if traced:
        remedy = "make the target outside, and pass data to its log_density"
        raise refusal("log_density", "data", "be concrete", f"traced {', '.join(traced)}", remedy)
    return static, data


def _merge(static, data) -> Any:
    """The arguments again, ``(args, kwargs)``."""
    pick = lambda kept, given: given if kept is _ARRAY else kept  # noqa: E731
    return jax.tree.map(pick, static, data, is_leaf=lambda leaf: leaf is None)


def _named(tree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    return {name: jnp.shape(leaf) for name, leaf in _named(tree).items()}


def _require_shapes(argument: str, given, expected: dict[str, tuple[int, ...]], remedy: str):
    def told(shapes):
        return ", ".join(
            f"{argument}{n} {list(shapes[n])}" if n in shapes else f"no {argument}{n}"
            for n in differ
        )

    shapes = _shapes(given)
    differ = sorted(n for n in shapes | expected if shapes.get(n) != expected.get(n))
    if differ:
        raise refusal("log_density", argument, f"hold {told(expected)}", told(shapes), remedy)
