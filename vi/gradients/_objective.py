"""The objective: a bound with a gradient estimator, ready to be called."""

from dataclasses import dataclass, is_dataclass

import jax
from jaxtyping import Array, Float

from vi._check import name_of, refusal, require_bound, require_count, require_key, require_q
from vi.bounds import declaration
from vi.gradients import _engine
from vi.gradients._engine import Evaluation
from vi.types import Bound, Key, LogDensity, Rule, Variational


@dataclass(frozen=True, repr=False)
class Objective:
    """A bound whose gradient is taken by a rule: ``objective(key, q, log_joint, K) -> [*batch]``.

    Pure: it composes with ``jit``, ``vmap``, ``grad``, ``jacfwd``, ``checkpoint`` and ``scan``. The
    value is always the bound itself; the rule lives in the derivative. Under ``reparam`` higher
    derivatives are those of the bound; under any other rule a second derivative differentiates the
    estimator, and does not estimate the bound's Hessian.

    Attributes:
        rule: The gradient estimator.
        bound: The bound.
        chunk_size: Draws held in memory at once, or None for all K. Each chunk draws from its own
            key, so another chunk size is another set of draws; a key that ``log_joint`` closes over
            is the same in every chunk. Call it under ``jit``: eagerly, it compiles at each call.
        axis_name: The axis of a mesh over which the K draws are split, inside ``jax.shard_map``, or
            None. Each device draws, scores and differentiates its own K / n; the coefficients are
            those of all K, value and gradient the same on each device, and those of one device with
            ``chunk_size=K / n``.
    """

    rule: Rule
    bound: Bound
    chunk_size: int | None = None
    axis_name: str | None = None

    def __post_init__(self):
        require_bound(name_of(self.rule), self.bound)
        if self.chunk_size is not None:
            require_count(name_of(self.rule), "chunk_size", self.chunk_size)
        if not isinstance(self.axis_name, str | None):
            remedy = "pass one of the names of the mesh's axes"
            got = repr(self.axis_name)
            raise refusal(name_of(self.rule), "axis_name", "be a string", got, remedy)

    def __call__(
        self, key: Key, q: Variational, log_joint: LogDensity, num_samples: int
    ) -> Float[Array, "*batch"]:
        """The bound, estimated with ``num_samples`` draws from ``q``; see ``evaluate``."""
        return self.evaluate(key, q, log_joint, num_samples).value

    def evaluate(
        self, key: Key, q: Variational, log_joint: LogDensity, num_samples: int
    ) -> Evaluation:
        """The bound with its log-weights and whatever else ``log_joint`` returns.

        Args:
            key: A typed PRNG key; consumed.
            q: The approximate posterior. Rules with a path term call ``q.rsample(key, (K,))``,
                others ``q.sample(key, (K,))``, those with a signal ``q.partial_rsample(key, (K,))``
                where there is one.
            log_joint: ``z -> log p(x, z)``, ``[K, *batch]``, or ``(log_p, aux)``. Pure; entry ``k``
                depends on ``z_k`` alone. Gradients flow to everything it closes over.
            num_samples: K, a concrete integer.

        Returns:
            ``Evaluation(value [*batch], log_weights [K, *batch], aux)``, in nats.

        Raises:
            ValueError: Before anything is computed: a key that is not one typed key, a K below 1 or
                below what the bound or the rule needs, a ``q`` that neither draws nor scores (a
                flow that was not called), or is not reparameterised where the rule needs it, draws
                coupled inside K, wrong shapes or dtypes, a ``log_joint`` that mutates a module, an
                ``axis_name`` that is no axis here or does not divide K.
        """
        name = name_of(self.rule)
        require_key(name, key)
        require_q(name, q)
        num_samples = require_count(name, "num_samples", num_samples)
        least = declaration(self.bound).min_samples
        if num_samples < least:
            rule = f"be at least {least} for {name_of(self.bound)}"
            remedy = "draw more samples per bound"
            raise refusal(name, "num_samples", rule, num_samples, remedy)
        try:
            return _engine.evaluate(
                *(name, self.rule, self.bound, self.chunk_size, self.axis_name),
                *(key, q, log_joint, num_samples),
            )
        except jax.errors.UnexpectedTracerError as error:
            got = "a value kept from an earlier trace"
            remedy = "compute what they cache (a cached property, an attribute) in __init__"
            raise refusal(name, "q and log_joint", "keep nothing", got, remedy) from error

    def __repr__(self) -> str:
        options = vars(self.rule) if is_dataclass(self.rule) else {}
        shown = {name: name_of(option) for name, option in options.items() if option is not None}
        shown |= {"chunk_size": self.chunk_size, "axis_name": self.axis_name}
        tail = "".join(f", {name}={value}" for name, value in shown.items() if value is not None)
        return f"{name_of(self.rule)}({name_of(self.bound)}{tail})"
