"""The table of families: a new one adds a row here and inherits every property.

A row says how to make one batch element from its parameters, where its mass is, and which
estimators it works under. Keep events to two numbers, so that everything is exact.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flowjax.bijections
import flowjax.distributions
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints, transforms

import vi

PATH = ("reparam", "dreg")
SCORE = ("score", "vimco", "fixed", "wake")


class Grid(NamedTuple):
    """Where the mass of a row is: the nodes of a midpoint rule, or every outcome.

    ``locate(z)`` gives the node that each draw belongs to, ``[n]``, and N for one that has none;
    ``stretch(z, node)`` is the broken twin's draws, as nodes; ``axes`` is the shape of the lattice
    of nodes, ``()`` for outcomes.
    """

    z: Any
    log_volume: np.ndarray
    locate: Callable
    stretch: Callable
    axes: tuple[int, ...] = ()


def box(
    *bounds: tuple[float, float],
    num_nodes: int = 0,
    transform: Any = None,
    pack: Callable = lambda u: u,
    unpack: Callable = lambda z: z,
) -> Callable[..., Grid]:
    """The midpoint rule over a box of flat coordinates u, whose event is ``pack(transform(u))``.

    Args:
        bounds: The lower and upper end of each coordinate, beyond which there is no mass to speak
            of.
        num_nodes: Along each coordinate; 2048 in one dimension and 96 in two.
        transform: NumPyro's, from ``[N, d]`` to the support; its Jacobian is taken into account.
        pack: From ``[N, d]`` to the draws of the family, a pytree or another shape: a relabelling.
        unpack: Its inverse.
    """
    num_nodes = num_nodes or {1: 2048, 2: 96}[len(bounds)]
    transform = transform or transforms.IdentityTransform()

    def make(coarser: int = 1) -> Grid:
        lower, upper = np.array(bounds, float).T
        size = num_nodes // coarser
        step = (upper - lower) / size
        axes = [a + h * (np.arange(size) + 0.5) for a, h in zip(lower, step, strict=True)]
        u = np.stack([g.ravel() for g in np.meshgrid(*axes, indexing="ij")], axis=-1)
        y = transform(jnp.asarray(u))
        log_det = np.asarray(transform.log_abs_det_jacobian(jnp.asarray(u), y))
        log_det = log_det.sum(-1) if log_det.ndim == 2 else log_det
        shape = (size,) * len(bounds)

        def node_of(u):
            index = np.floor((u - lower) / step).astype(int)
            inside = ((index >= 0) & (index < size)).all(-1)
            clipped = np.clip(index, 0, size - 1)
            return np.where(inside, np.ravel_multi_index(tuple(clipped.T), shape), len(y))

        def flat(z):
            z = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), z)
            return np.asarray(transform.inv(unpack(z)))

        def stretch(z, node):
            u = flat(z)
            return node_of(u.mean(0) + 1.1 * (u - u.mean(0)))

        log_volume = log_det + np.log(step).sum()
        return Grid(pack(y), log_volume, lambda z: node_of(flat(z)), stretch, shape)

    return make


def outcomes(*values) -> Callable[..., Grid]:
    """Every outcome of a discrete family, each an event."""

    def make(coarser: int = 1) -> Grid:
        z = np.asarray(values)
        every = z.reshape(len(z), -1)

        def locate(draws):
            same = (np.asarray(draws).reshape(-1, 1, every.shape[1]) == every).all(-1)
            return np.where(same.any(-1), same.argmax(-1), len(z))

        def stretch(draws, node):
            return np.where(np.arange(len(node)) % 5 == 0, (node + 1) % len(z), node)

        return Grid(z, np.zeros(len(z)), locate, stretch)

    return make


class Row(NamedTuple):
    """One family.

    Attributes:
        make: ``params -> q``; parameters may lead with batch axes.
        params: A pytree of floating arrays, those of one batch element.
        grid: ``box(...)`` or ``outcomes(...)``; ``grid(4)`` has a quarter of the nodes an axis.
        estimators: Those that are right, of ``PATH`` and ``SCORE``.
        biased_path: Whether it also offers a path that is biased by intent.
        is_pytree: Whether q itself is one.
        features: What the log-joint sees of a draw: of an angle, what is periodic.
    """

    make: Callable[[Any], Any]
    params: Any
    grid: Callable[..., Grid]
    estimators: tuple[str, ...] = PATH + SCORE
    biased_path: bool = False
    is_pytree: bool = True
    features: Callable = lambda z: z

    @property
    def column(self) -> str:
        """What the documentation says of its gradients."""
        path, score = set(PATH) & set(self.estimators), set(SCORE) & set(self.estimators)
        if self.biased_path:
            return "both, the path biased"
        return "both" if path and score else "path" if path else "score only"


def of(**params):
    """Parameters as NumPy float32 arrays."""
    return {name: np.asarray(value, np.float32) for name, value in params.items()}


def _scalar(u):
    return u[..., 0]


def _with_axis(z):
    return z[..., None]


def _chain(p):
    return vi.families.chain(
        {
            "a": vi.families.normal(p["loc"], log_scale=p["log_scale"]),
            "b": lambda a: vi.families.normal(jnp.sin(a), scale=jnp.full_like(a, 0.6)),
        }
    )


def _independent(p):
    loc, log_scale = p["loc"], p["log_scale"]
    a = vi.families.normal(loc[..., :1], log_scale=log_scale[..., :1])
    return vi.families.independent(
        {"a": a, "b": dist.Logistic(loc[..., 1:], jnp.exp(log_scale[..., 1:])).to_event(1)}
    )


def _same(condition):
    return condition


def _flowjax(p):
    """A normal about its condition, scaled: flowjax takes batches of conditions alone."""
    scale = flowjax.distributions.Normal(jnp.zeros(2), np.array([0.8, 1.1], np.float32))
    shift = flowjax.bijections.AdditiveCondition(_same, (2,), (2,))
    return vi.families.adapt(flowjax.distributions.Transformed(scale, shift), condition=p["loc"])


PAIR = of(loc=[0.3, -0.4], log_scale=[-0.2, 0.1])
TRIL = np.array([[0.9, 0.0], [0.5, 0.7]])
PLANE = box((-7, 7), (-7, 7))

FAMILIES: dict[str, Row] = {
    "normal": Row(lambda p: vi.families.normal(p["loc"], log_scale=p["log_scale"]), PAIR, PLANE),
    "laplace": Row(
        lambda p: dist.Laplace(p["loc"], p["scale"]).to_event(1),
        of(loc=[0.3], scale=[0.8]),
        box((-16, 16.6), num_nodes=8192),
    ),
    "logistic": Row(
        lambda p: dist.Logistic(p["loc"], p["scale"]).to_event(1),
        of(loc=[0.3], scale=[0.5]),
        box((-14, 14)),
    ),
    "student_t": Row(
        lambda p: dist.StudentT(p["df"], p["loc"], p["scale"]).to_event(1),
        of(df=[9.0], loc=[0.3], scale=[0.8]),
        box((-40, 40)),
    ),
    "gamma": Row(
        lambda p: dist.Gamma(p["concentration"], p["rate"]),
        of(concentration=1.7, rate=1.3),
        box((-16, 4), transform=transforms.ExpTransform(), pack=_scalar, unpack=_with_axis),
    ),
    "beta": Row(
        lambda p: dist.Beta(p["a"], p["b"]),
        of(a=1.6, b=2.3),
        box((-18, 14), transform=transforms.SigmoidTransform(), pack=_scalar, unpack=_with_axis),
    ),
    "dirichlet": Row(
        lambda p: dist.Dirichlet(p["concentration"]),
        of(concentration=[2.1, 3.0, 2.5]),
        box((-8, 7), (-8, 7), transform=transforms.StickBreakingTransform()),
    ),
    "numpyro_von_mises": Row(
        lambda p: dist.VonMises(p["loc"], p["concentration"]).to_event(1),
        of(loc=[0.8], concentration=[1.5]),
        box((-np.pi, np.pi)),
        SCORE,
    ),
    "numpyro_mixture": Row(
        lambda p: dist.MixtureSameFamily(
            dist.Categorical(logits=p["logits"]), dist.Normal(p["loc"], jnp.exp(p["log_scale"]))
        ),
        of(logits=[0.2, -0.3], loc=[-1.0, 1.2], log_scale=[-0.3, -0.1]),
        box((-9, 9), pack=_scalar, unpack=_with_axis),
        SCORE,
    ),
    "bernoulli": Row(
        lambda p: vi.families.bernoulli(p["logits"]),
        of(logits=[0.7, -0.9]),
        outcomes([0, 0], [0, 1], [1, 0], [1, 1]),
        SCORE,
    ),
    "categorical": Row(
        lambda p: dist.Categorical(logits=p["logits"]),
        of(logits=[0.7, -0.9, 0.1]),
        outcomes(0, 1, 2),
        SCORE,
    ),
    "binary_concrete": Row(
        lambda p: vi.families.binary_concrete(p["logits"], temperature=0.9),
        of(logits=[0.4]),
        box((-15, 15), transform=transforms.SigmoidTransform()),
    ),
    "concrete": Row(
        lambda p: vi.families.concrete(p["logits"], temperature=1.2),
        of(logits=[[0.4, -0.3, 0.0]]),
        box(
            (-13, 13),
            (-13, 13),
            num_nodes=160,
            transform=transforms.StickBreakingTransform(),
            pack=lambda y: y[..., None, :],
            unpack=lambda z: z[..., 0, :],
        ),
    ),
    "straight_through_bernoulli": Row(
        lambda p: vi.families.straight_through_bernoulli(p["logits"], temperature=0.7),
        of(logits=[0.7, -0.9]),
        outcomes([0, 0], [0, 1], [1, 0], [1, 1]),
        SCORE,
        biased_path=True,
    ),
    "straight_through_categorical": Row(
        lambda p: vi.families.straight_through_categorical(p["logits"], temperature=0.7),
        of(logits=[[0.7, -0.9, 0.1]]),
        outcomes(*np.eye(3)[:, None]),
        SCORE,
        biased_path=True,
    ),
    "full_rank": Row(
        lambda p: vi.families.full_rank(p["loc"], scale_tril=p["scale_tril"]),
        of(loc=[0.3, -0.4], scale_tril=TRIL),
        PLANE,
    ),
    "full_rank, covariance": Row(
        lambda p: vi.families.full_rank(p["loc"], covariance=p["covariance"]),
        of(loc=[0.3, -0.4], covariance=TRIL @ TRIL.T),
        PLANE,
    ),
    "full_rank, precision": Row(
        lambda p: vi.families.full_rank(p["loc"], precision=p["precision"]),
        of(loc=[0.3, -0.4], precision=np.linalg.inv(TRIL @ TRIL.T)),
        PLANE,
    ),
    "low_rank": Row(
        lambda p: vi.families.low_rank(p["loc"], factor=p["factor"], variances=p["variances"]),
        of(loc=[0.3, -0.4], factor=[[0.7], [-0.5]], variances=[0.3, 0.4]),
        PLANE,
    ),
    "block_diagonal": Row(
        lambda p: vi.families.block_diagonal(p["loc"], (p["first"], p["second"])),
        of(loc=[0.3, -0.4], first=[[0.8]], second=[[1.1]]),
        PLANE,
    ),
    "markov": Row(
        lambda p: vi.families.markov(p["loc"], diagonal=p["diagonal"], below=p["below"]),
        of(loc=[[0.3], [-0.4]], diagonal=[[[1.3]], [[1.1]]], below=[[[-0.7]]]),
        box((-7, 7), (-7, 7), pack=_with_axis, unpack=_scalar),
    ),
    "markov_from_precision": Row(
        lambda p: vi.families.markov_from_precision(
            p["loc"], diagonal=p["diagonal"], below=p["below"]
        ),
        of(loc=[[0.3], [-0.4]], diagonal=[[[1.7]], [[1.6]]], below=[[[-0.9]]]),
        box((-7, 7), (-7, 7), pack=_with_axis, unpack=_scalar),
    ),
    "mixture": Row(
        lambda p: vi.families.mixture(
            p["logits"], dist.Normal(p["loc"], jnp.exp(p["log_scale"])).to_event(1)
        ),
        of(
            logits=[0.2, -0.3],
            loc=[[-1.0, 0.4], [1.2, -0.6]],
            log_scale=[[-0.3, 0.1], [0.0, -0.1]],
        ),
        box((-8, 8), (-8, 8)),
    ),
    "mixture, logistic": Row(
        lambda p: vi.families.mixture(p["logits"], dist.Logistic(p["loc"], p["scale"]).to_event(1)),
        of(logits=[0.2, -0.3, 0.1], loc=[[-2.0], [1.2], [0.3]], scale=[[0.4], [0.5], [0.3]]),
        box((-14, 14)),
    ),
    "von_mises": Row(
        lambda p: vi.families.von_mises(p["loc"], p["concentration"]),
        of(loc=[0.8], concentration=[1.5]),
        box((-np.pi, np.pi)),
        features=lambda z: jnp.concatenate([jnp.cos(z), jnp.sin(z)], -1),
    ),
    "chain": Row(
        _chain,
        of(loc=[0.3], log_scale=[-0.2]),
        box(
            (-7, 7),
            (-7, 7),
            pack=lambda u: {"a": u[..., :1], "b": u[..., 1:]},
            unpack=lambda z: jnp.concatenate([z["a"], z["b"]], -1),
        ),
        is_pytree=False,
    ),
    "independent": Row(
        _independent,
        PAIR,
        box(
            (-7, 7),
            (-18, 18),
            num_nodes=200,
            pack=lambda u: {"a": u[..., :1], "b": u[..., 1:]},
            unpack=lambda z: jnp.concatenate([z["a"], z["b"]], -1),
        ),
    ),
    "constrained": Row(
        lambda p: vi.families.constrained(
            vi.families.normal(p["loc"], log_scale=p["log_scale"]), constraints.positive
        ),
        of(loc=[0.3], log_scale=[-0.6]),
        box((-6, 6), transform=transforms.ExpTransform()),
    ),
    "adapt": Row(_flowjax, of(loc=[0.3, -0.4]), PLANE),
}

NEIGHBOURS = {  # near another row: what takes compiling is a slow test
    *("beta", "student_t", "logistic", "straight_through_categorical", "categorical"),
    *("full_rank, covariance", "full_rank, precision", "markov_from_precision"),
    *("mixture, logistic", "numpyro_von_mises", "laplace", "gamma", "block_diagonal"),
}


def batched(params, shape: tuple[int, ...]):
    """Perturbed copies of one element's parameters, ``[*shape, ...]``."""
    count = int(np.prod(shape))

    def stack(leaf):
        factors = 1 + 0.1 * np.arange(count, dtype=np.float32)
        copies = factors.reshape(count, *(1 for _ in leaf.shape)) * leaf
        return np.reshape(copies, (*shape, *leaf.shape))

    return jax.tree.map(stack, params)


def columns() -> dict[str, str]:
    """What the documentation says of each row: path, score only, or both."""
    return {name: row.column for name, row in FAMILIES.items()}
