"""Variational families: what an encoder's outputs, or free parameters, become.

A family returns a NumPyro distribution, or an object with the same ``sample``, ``rsample`` and
``log_prob``.
"""

from vi.families._chain import Chain, chain
from vi.families._normal import normal

__all__ = ["Chain", "chain", "normal"]
