"""A pytest plugin that puts our losses where NumPyro's own tests look for theirs.

The classes take NumPyro's names and arguments, and are swapped before anything is collected, in
every module of NumPyro that holds one. Tests of what our losses leave out are skipped: ``SKIPS``
is the whole list.
"""

import runpy
import sys

import jax
import numpyro
import pytest
from numpyro.infer import elbo as upstream

import vi.numpyro
from vi.bounds import elbo
from vi.gradients import mixed, reparam

USED = "tests on our losses"
used = set()
"""The classes of ours that have been asked for a loss since the last test began."""


class Counted:
    """A loss that leaves its name when it is used: a swap without effect would pass every test."""

    def loss(self, *args, **kwargs):
        used.add(type(self).__name__)
        return super().loss(*args, **kwargs)

    def loss_with_mutable_state(self, *args, **kwargs):
        used.add(type(self).__name__)
        return super().loss_with_mutable_state(*args, **kwargs)


class BySite:
    """A loss of theirs with a value for each site, at the keys that our particles have."""

    def __init__(self, num_particles, vectorize_particles):
        super().__init__(num_particles, vectorize_particles, sum_sites=False)

    def loss(self, rng_key, *args, **kwargs):
        if self.num_particles > 1:
            _, rng_key = jax.random.split(rng_key)  # the other is for the subsamples of plates
        return super().loss(rng_key, *args, **kwargs)


class TraceBySite(BySite, upstream.Trace_ELBO):
    """What the sum over sites is held to."""


class MeanFieldBySite(BySite, upstream.TraceMeanField_ELBO):
    """What the sum over sites is held to."""


class Trace_ELBO(Counted, vi.numpyro.ELBO):  # noqa: N801
    """``reparam(elbo)``."""

    def __new__(cls, num_particles=1, vectorize_particles=True, sum_sites=True):
        if not sum_sites:
            return TraceBySite(num_particles, vectorize_particles)
        return super().__new__(cls)

    def __init__(self, num_particles=1, vectorize_particles=True, sum_sites=True):
        super().__init__(num_particles)


class TraceMeanField_ELBO(Counted, vi.numpyro.MeanFieldELBO):  # noqa: N801
    """The same, with the analytic KL."""

    def __new__(cls, num_particles=1, vectorize_particles=True, sum_sites=True):
        if not sum_sites:
            return MeanFieldBySite(num_particles, vectorize_particles)
        return super().__new__(cls)

    def __init__(self, num_particles=1, vectorize_particles=True, sum_sites=True):
        super().__init__(num_particles)


class RenyiELBO(Counted, vi.numpyro.Renyi):
    """The same bound under the same estimator."""

    def __init__(self, alpha=0.0, num_particles=2):
        super().__init__(alpha, num_particles, gradient=reparam)

    def _single_particle_elbo(self, model, guide, param_map, args, kwargs, rng_key):
        """One log-weight for each cell of the plates, and what its bound is multiplied by."""
        log_w = vi.numpyro.log_weights(
            rng_key, param_map, model, guide, *args, num_particles=1, **kwargs
        )[0]
        one = vi.numpyro.ELBO().loss(rng_key, param_map, model, guide, *args, **kwargs)
        return log_w, -one / log_w.sum()


class TraceGraph_ELBO(Counted, vi.numpyro.Loss):  # noqa: N801
    """``mixed(elbo)``, whose baseline needs a second particle."""

    def __init__(self, num_particles=1, vectorize_particles=True):
        super().__init__(mixed(elbo), num_particles=max(2, num_particles))


LOSSES = {
    loss.__name__: loss for loss in (Trace_ELBO, TraceMeanField_ELBO, RenyiELBO, TraceGraph_ELBO)
}
THEIRS = {name: getattr(upstream, name) for name in LOSSES}

STATE = "it wants a warning that several particles lose mutable state; ours keep the last one's"
MINIBATCH = "each of thousands of particles has its own minibatch there; ours all see the same"
SKIPS = {
    "test_svi.py::test_multi_sample_guide": "several draws in one guide: ours is num_particles",
    "test_svi.py::test_renyi_nonnested_plates": "two plates side by side: ours wants plates=()",
    "test_svi.py::test_svi_discrete_latent": "a biased gradient after a warning: ours is refused",
    "test_svi.py::test_mutable_state[Trace_ELBO-10-True]": STATE,
    "test_svi.py::test_mutable_state[Trace_ELBO-10-False]": STATE,
    "test_svi.py::test_mutable_state[TraceMeanField_ELBO-10-True]": STATE,
    "test_svi.py::test_mutable_state[TraceMeanField_ELBO-10-False]": STATE,
    "test_autoguide.py::test_autosemidais": MINIBATCH,
    "test_handlers.py::test_subsample_gradient[subsample-unscaled]": MINIBATCH,
    "test_handlers.py::test_subsample_gradient[subsample-scaled]": MINIBATCH,
}
"""What is left out, by file and full name of the test, and why."""


def pytest_configure(config):
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "numpyro":
            for loss, theirs in THEIRS.items():
                if vars(module).get(loss) is theirs:
                    setattr(module, loss, LOSSES[loss])


def pytest_report_header(config):
    theirs = runpy.run_path(str(config.rootpath / "numpyro" / "version.py"))["__version__"]
    return f"our losses on numpyro {numpyro.__version__}; the tests are of {theirs}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        reason = SKIPS.get(item.nodeid.rpartition("/")[2])
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"vi: {reason}"))


def pytest_runtest_call(item):
    used.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        report.user_properties.append((USED, sorted(used)))
    return report


def pytest_terminal_summary(terminalreporter):
    counts = dict.fromkeys(LOSSES, 0)
    for reports in terminalreporter.stats.values():
        for properties in (getattr(report, "user_properties", ()) for report in reports):
            for loss in dict(properties).get(USED, ()):
                counts[loss] += 1
    terminalreporter.write_line(
        f"{USED}: " + ", ".join(f"{n} {loss}" for loss, n in counts.items())
    )
