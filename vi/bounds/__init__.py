"""Bounds: pure functions of log-weights ``[K, *batch]`` to nats ``[*batch]``.

One of your own is a function of ``log_w``; it needs no registration. ``declare`` states what else
is known about it, and ``vi.testing.check_bound`` verifies that.
"""

from vi.bounds._closed_kl import beta_elbo, elbo_closed_kl, free_bits
from vi.bounds._declare import Declaration, declaration, declare
from vi.bounds._derivatives import derivatives, first_derivative, generic_derivatives
from vi.bounds._elbo import elbo
from vi.bounds._iwae import iwae

__all__ = [
    "Declaration",
    "beta_elbo",
    "declaration",
    "declare",
    "derivatives",
    "elbo",
    "elbo_closed_kl",
    "first_derivative",
    "free_bits",
    "generic_derivatives",
    "iwae",
]
