"""What a label is worth in nats, and whether a classifier sees the labels that were asked for."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

import vi
from experiments._conditional_vae import ConditionalVAE, Labelled
from experiments._data import binarise, probabilities
from experiments._evaluate import Evaluation, model_of, stream
from experiments._results import Metric, Reference, over_data
from experiments._run import Run

_STREAM = 0x6D616B65  # "make": of every seed's key
VIEWS = "greys", "bits"


class Classifiers(nnx.Module):
    """One of grey values and one of bits, which share nothing but their minibatches."""

    def __init__(self, pixels: int, hidden: int, classes: int, rngs: nnx.Rngs):
        sizes = pixels, (hidden, hidden), classes
        self.greys = vi.networks.MLP(*sizes, rngs=rngs)
        self.bits = vi.networks.MLP(*sizes, rngs=rngs)

    def guess(self, images: Mapping[str, Array]) -> dict[str, Int[Array, "*batch"]]:
        """The labels that each sees in its view of images."""
        return {view: getattr(self, view)(images[view]).argmax(-1) for view in VIEWS}


class ByLabel(NamedTuple):
    """A model that is told the label, scored under every label; each ``[S, M]``, in nats.

    Attributes:
        told: ``-log p(x | y)`` of the true label.
        marginal: ``-log sum_y p(y) p(x | y)``, labels being alike: what the same model says of
            images whose label is not given.
        surprise: ``-log p(y | x)`` of the true label, by Bayes' rule.
        right: Whether the most probable label is the true one.
    """

    told: Float[np.ndarray, "S M"]
    marginal: Float[np.ndarray, "S M"]
    surprise: Float[np.ndarray, "S M"]
    right: Float[np.ndarray, "S M"]


def by_label(nll: Float[np.ndarray, "classes S M"], labels: Int[np.ndarray, " M"]) -> ByLabel:
    """From ``-log p(x | y)`` under every y: ``told = marginal + surprise - log classes``."""
    true = nll[labels, :, np.arange(len(labels))].T
    marginal = np.log(len(nll)) - np.logaddexp.reduce(-nll.astype(float), axis=0)
    surprise = true - marginal + np.log(len(nll))
    return ByLabel(true, marginal, surprise, (nll.argmin(0) == labels).astype(float))


def worth(held: ByLabel, without: Evaluation, classes: int) -> dict[str, Metric]:
    """The rows of the model that is told; ``without`` is the one that is not, on the same images.

    The gain has two parts: what the label says of the image, at most the log of the number of
    classes, and what a mixture over labels is better as a model.
    """
    protocol = "labels alike, and certain given the image; the two models say the same p(x)"
    most = Reference(-float(np.log(classes)), "-log of the number of classes", "exact", protocol)
    gain = over_data(held.told - without.nll, better="lower", reference=most)
    return {
        "test NLL - unconditional's, paired": gain,
        "NLL, label summed out": over_data(held.marginal, better="lower"),
        "NLL, label summed out - unconditional's, paired": over_data(
            held.marginal - without.nll, better="lower"
        ),
        "NLL - with label summed out, paired": over_data(held.told - held.marginal, reference=most),
        "label by Bayes' rule: accuracy": over_data(held.right, unit="share", better="higher"),
        "label by Bayes' rule: -log p(y | x)": over_data(held.surprise, better="lower"),
    }


def classifier_loss(classifiers: Classifiers, key: Array, batch: Labelled) -> Array:
    """The sum of both cross-entropies, the bits drawn afresh."""
    grey = jnp.asarray(probabilities(batch.grey))
    logits = classifiers.greys(grey), classifiers.bits(binarise(key, grey))
    labels = jnp.asarray(batch.labels)
    each = [optax.softmax_cross_entropy_with_integer_labels(one, labels).mean() for one in logits]
    return sum(each, jnp.zeros(()))


def agreement(
    run: Run,
    model_state: vi.training.State,
    classifier_state: vi.training.State,
    tests: Mapping[str, Float[Array, "M pixels"]],
    labels: Int[np.ndarray, " M"],
    num_images: int,
    classes: int,
) -> dict[str, np.ndarray]:
    """Whether each classifier gives the label, 0 or 1: of test images, and of images made for it.

    What is made has every label in turn, and is seen as the classifier was trained: means of
    ``p(x | z, y)`` by the one of greys, draws from it by the one of bits.
    """
    asked = np.arange(num_images) % classes

    @jax.jit
    def judge(key, model: ConditionalVAE, classifiers: Classifiers):
        label = jax.nn.one_hot(asked, classes)
        made = vi.predictive.generate(
            key, model.prior(), lambda z: model.decode(z, label), (num_images,)
        )
        seen = classifiers.guess({"greys": made.observation.mean, "bits": made.values})
        right = {f"{view}/generated": said == asked for view, said in seen.items()}
        right |= {f"{view}/test": said == labels for view, said in classifiers.guess(tests).items()}
        return jax.tree.map(lambda yes: yes.astype(jnp.float32), right)

    each = [
        judge(key, model_of(model_state, i), model_of(classifier_state, i))
        for i, key in enumerate(stream(run.key, _STREAM))
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


def agreements(held: Mapping[str, np.ndarray]) -> dict[str, Metric]:
    """A column for each classifier: shares, with their binomial standard errors."""
    names = {"generated": "generated labels agreed with", "test": "test labels agreed with"}
    return {
        f"classifier of {view}/{names[what]}": over_data(values, unit="share", better="higher")
        for (view, what), values in ((name.split("/"), values) for name, values in held.items())
    }
