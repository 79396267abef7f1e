"""Global latents, shared by all data, and local ones, a set for each datum."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from vi._check import refusal
from vi._mixed import has_path, partial_rsample, require_rsample, score_log_prob, scored_rsample
from vi.types import Key, Variational


def global_local(
    q_global: Variational, q_local: Variational | Callable[[Any], Variational]
) -> "GlobalLocal":
    r"""Global latents :math:`\beta`, and given them independent local ones :math:`z_n`.

    .. math:: q(\beta, z) = q(\beta) \prod_{n=1}^{N} q(z_n | \beta)

    A draw is ``{"global": beta, "local": z}``; the data axis is summed, so that the log-density,
    and every log-weight, is one number per draw.

    **Minibatches.** With a minibatch of B data out of N the family has B local latents, and
    s = N / B stands for the others in the *log-joint*:

    .. math:: \log p(\beta) + s \sum_n \log p(x_n, z_n | \beta) - (s - 1) \sum_n \log q(z_n | \beta)

    whose mean over minibatches, less q's own log-density, is the log-weight of all data. The ELBO
    is linear in it, so that value and gradient are unbiased under every estimator; other bounds
    of a minibatch are not those of the data. The family's log-density stays that of the draws:
    scaled inside, it is of another law, which the score estimators, and ``dreg`` of other bounds
    than the ELBO, would differentiate.

    Args:
        q_global: A distribution of batch shape ``[]``.
        q_local: A distribution of batch shape ``[N]``, or a function from the global draws
            ``[*sample_shape, *event]`` to one of batch shape ``[*sample_shape, N]``.

    Returns:
        A family with ``log_prob`` ``[*sample_shape]`` and ``local_log_prob``
        ``[*sample_shape, N]``. It is a pytree where its parts are.

    Raises:
        ValueError: A global batch, a local one that is not one data axis, or (on drawing) a
            conditional that lost the sample axes.

    Examples:
        A mean with one effect per datum; 5 data of 100 at a time:

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> normal = lambda loc: dist.Normal(loc, 1.0)
        >>> x, scale = jnp.ones(5), 100 / 5
        >>> q = vi.families.global_local(normal(0.0), lambda b: normal(b[..., None] + 0.1 * x))
        >>> def log_joint(z):
        ...     beta, local = z["global"], z["local"]
        ...     log_p = normal(beta[..., None]).log_prob(local) + normal(local).log_prob(x)
        ...     others = (scale - 1) * q.local_log_prob(z).sum(-1)
        ...     return normal(0.0).log_prob(beta) + scale * log_p.sum(-1) - others
        >>> z = q.sample(jax.random.key(0), (7,))
        >>> jax.tree.map(jnp.shape, z), q.log_prob(z).shape, q.local_log_prob(z).shape
        ({'global': (7,), 'local': (7, 5)}, (7,), (7, 5))
        >>> vi.gradients.dreg(vi.bounds.elbo)(jax.random.key(1), q, log_joint, 7).shape
        ()

    References:
        Hoffman, Blei, Wang and Paisley (2013), section 2; Titsias and Lazaro-Gredilla (2014).
    """
    if tuple(getattr(q_global, "batch_shape", ())) != ():
        got = f"batch shape {list(q_global.batch_shape)}"  # pyright: ignore
        remedy = "make its axes events (to_event); the data axis is the local latents'"
        raise refusal("global_local", "q_global", "have no batch axis", got, remedy)
    if isinstance(q_local, Variational):
        _require_data_axis(q_local, ())
    elif not callable(q_local):
        rule, remedy = "be a distribution or a function of global draws", "pass one of them"
        raise refusal("global_local", "q_local", rule, type(q_local).__name__, remedy)
    return GlobalLocal(q_global, q_local)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GlobalLocal:
    """Global and local latents; made by ``global_local``.

    Attributes:
        q_global: The distribution of the global latents.
        q_local: That of the local ones, or a function from global draws to it.
    """

    q_global: Any
    q_local: Any

    batch_shape = ()

    @property
    def independent_samples(self) -> bool:
        """Whether those of both parts are."""
        parts = (self.q_global, self.q_local)
        return all(getattr(part, "independent_samples", True) for part in parts)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> dict[str, PyTree[Array]]:
        """Draw, ``{"global": [*sample_shape, *event], "local": [*sample_shape, N, *event]}``."""
        return jax.lax.stop_gradient(self._draw(key, sample_shape, _sample))

    def rsample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> dict[str, PyTree[Array]]:
        """Draw with derivatives; refuses, by name, a part that has none."""
        return self._draw(key, sample_shape, _rsample)

    def partial_rsample(
        self, key: Key, sample_shape: tuple[int, ...] = ()
    ) -> dict[str, PyTree[Array]]:
        """Draw with derivatives where the part has them: for ``vi.gradients.mixed``."""
        return self._draw(key, sample_shape, _partial_rsample)

    def rsample_and_log_prob(
        self, key: Key, sample_shape: tuple[int, ...] = ()
    ) -> tuple[dict[str, PyTree[Array]], Float[Array, "*shape"]]:
        """Draw with derivatives, and score each part with its draw."""
        terms: dict[str, Any] = {}

        def draw(name, part, key, shape):
            z, terms[name] = scored_rsample("global_local", name, part, key, shape)
            return z

        return self._draw(key, sample_shape, draw), _total(terms["q_global"], terms["q_local"])

    def log_prob(self, value: dict[str, PyTree[Array]], /) -> Float[Array, "*shape"]:
        """The log-density of global and all local latents, ``[*sample_shape]``, in nats."""
        return _total(self.global_log_prob(value), self._local(value).log_prob(value["local"]))

    def global_log_prob(self, value: dict[str, PyTree[Array]], /) -> Float[Array, "*shape"]:
        """The log-density of the global latents, ``[*sample_shape]``."""
        return self.q_global.log_prob(value["global"])

    def local_log_prob(self, value: dict[str, PyTree[Array]], /) -> Float[Array, "*shape N"]:
        """The log-density of each datum's latents given the global ones, ``[*sample_shape, N]``."""
        return self._local(value).log_prob(value["local"])

    def score_log_prob(self, value: dict[str, PyTree[Array]], /) -> Float[Array, "*shape"]:
        """The log-probability of the latents whose draws have no derivative."""
        of_global = score_log_prob(self.q_global, value["global"])
        return _total(of_global, score_log_prob(self._local(value), value["local"]))

    def has_path(self, value: dict[str, PyTree[Array]], /) -> dict[str, PyTree[bool]]:
        """Whether each latent has a derivative."""
        return {
            "global": has_path(self.q_global, value["global"]),
            "local": has_path(self._local(value), value["local"]),
        }

    def _local(self, value) -> Any:
        if set(value) != {"global", "local"}:
            rule, remedy = "have ['global', 'local']", "pass what sample or rsample returned"
            raise refusal("global_local.log_prob", "value", rule, sorted(value), remedy)
        if isinstance(self.q_local, Variational):
            return self.q_local
        return self.q_local(value["global"])

    def _draw(self, key, sample_shape, draw):
        of_global, of_local = jax.random.split(key)
        beta = draw("q_global", self.q_global, of_global, sample_shape)
        if isinstance(self.q_local, Variational):
            return {"global": beta, "local": draw("q_local", self.q_local, of_local, sample_shape)}
        local = self.q_local(beta)
        _require_data_axis(local, sample_shape)
        return {"global": beta, "local": draw("q_local", local, of_local, ())}


def _sample(name, part, key, sample_shape):
    return part.sample(key, sample_shape)


def _rsample(name, part, key, sample_shape):
    require_rsample("global_local", name, part)
    return part.rsample(key, sample_shape)


def _partial_rsample(name, part, key, sample_shape):
    return partial_rsample(part, key, sample_shape)


def _require_data_axis(q_local: Any, sample_shape: tuple[int, ...]) -> None:
    if not hasattr(q_local, "batch_shape"):
        return  # a chain: its log-density is checked
    shape = tuple(q_local.batch_shape)
    if shape[:-1] != tuple(sample_shape) or not shape:
        rule = f"have batch shape {[*sample_shape, 'N']}"
        remedy = "give it one data axis, after the sample axes of the global draws: beta[..., None]"
        raise refusal("global_local", "q_local", rule, list(shape), remedy)


def _total(of_global, of_local):
    shape = jnp.shape(of_local)
    if not shape or shape[:-1] != jnp.shape(of_global):
        got = f"{list(shape)} against {list(jnp.shape(of_global))} of the global ones"
        remedy = "sum the event axes of both, and keep one data axis for the local latents"
        raise refusal("global_local", "q_local", "score [*sample_shape, N]", got, remedy)
    return of_global + of_local.sum(-1)
