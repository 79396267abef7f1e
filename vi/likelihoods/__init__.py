"""Observation models: normalised log-likelihoods that sum over the event and keep the batch."""

from vi.likelihoods._bernoulli import bernoulli
from vi.likelihoods._bits import bits_per_dimension
from vi.likelihoods._categorical import categorical
from vi.likelihoods._continuous_bernoulli import continuous_bernoulli
from vi.likelihoods._discretised_logistic import discretised_logistic
from vi.likelihoods._discretised_mixture import discretised_logistic_mixture
from vi.likelihoods._event import Observation
from vi.likelihoods._laplace import laplace
from vi.likelihoods._masked import masked
from vi.likelihoods._multinomial import bag_of_words, multinomial
from vi.likelihoods._negative_binomial import negative_binomial
from vi.likelihoods._normal import normal
from vi.likelihoods._ordinal import ordinal
from vi.likelihoods._poisson import poisson
from vi.likelihoods._scaled import scaled_log_joint
from vi.likelihoods._scales import clamped_scale, optimal_scale
from vi.likelihoods._student_t import student_t
from vi.likelihoods._zero_inflated import zero_inflated

__all__ = [
    "Observation",
    "bag_of_words",
    "bernoulli",
    "bits_per_dimension",
    "categorical",
    "clamped_scale",
    "continuous_bernoulli",
    "discretised_logistic",
    "discretised_logistic_mixture",
    "laplace",
    "masked",
    "multinomial",
    "negative_binomial",
    "normal",
    "optimal_scale",
    "ordinal",
    "poisson",
    "scaled_log_joint",
    "student_t",
    "zero_inflated",
]
