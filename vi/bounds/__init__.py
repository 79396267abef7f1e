"""Bounds: pure functions of log-weights ``[K, *batch]`` to nats ``[*batch]``.

One of your own is a function of ``log_w``; it needs no registration. ``declare`` states what else
is known about it, and ``vi.testing.check_bound`` verifies that.
"""

from vi.bounds._closed_kl import beta_elbo, elbo_closed_kl, free_bits
from vi.bounds._csiszar import csiszar
from vi.bounds._declare import Declaration, declaration, declare
from vi.bounds._derivatives import derivatives, first_derivative, generic_derivatives
from vi.bounds._discrepancy import (
    gaussian_kernel,
    inverse_multiquadratic_kernel,
    squared_mmd_biased,
    squared_mmd_unbiased,
)
from vi.bounds._divergences import (
    chi_square,
    forward_kl,
    jensen_shannon,
    reverse_kl,
    squared_hellinger,
    total_variation,
)
from vi.bounds._elbo import elbo
from vi.bounds._grouped import grouped
from vi.bounds._iwae import iwae
from vi.bounds._jackknife import jackknife
from vi.bounds._log_variance import log_variance
from vi.bounds._mix import mix
from vi.bounds._renyi import cubo, renyi
from vi.bounds._replaced import generic_replaced, learning_signal, leave_one_out, replaced
from vi.bounds._stratified_mixture import stratified_elbo, stratified_iwae
from vi.bounds._sumo import Roulette, sumo
from vi.bounds._tempered import tempered
from vi.bounds._thermodynamic import eubo, tvo_lower, tvo_upper
from vi.bounds._total_correlation import (
    KLTerms,
    kl_terms,
    minibatch_stratified,
    minibatch_weighted,
)
from vi.bounds._vr_max import vr_max

__all__ = [
    "Declaration",
    "KLTerms",
    "Roulette",
    "beta_elbo",
    "chi_square",
    "csiszar",
    "cubo",
    "declaration",
    "declare",
    "derivatives",
    "elbo",
    "elbo_closed_kl",
    "eubo",
    "first_derivative",
    "forward_kl",
    "free_bits",
    "gaussian_kernel",
    "generic_derivatives",
    "generic_replaced",
    "grouped",
    "inverse_multiquadratic_kernel",
    "iwae",
    "jackknife",
    "jensen_shannon",
    "kl_terms",
    "learning_signal",
    "leave_one_out",
    "log_variance",
    "minibatch_stratified",
    "minibatch_weighted",
    "mix",
    "renyi",
    "replaced",
    "reverse_kl",
    "squared_hellinger",
    "squared_mmd_biased",
    "squared_mmd_unbiased",
    "stratified_elbo",
    "stratified_iwae",
    "sumo",
    "tempered",
    "total_variation",
    "tvo_lower",
    "tvo_upper",
    "vr_max",
]
