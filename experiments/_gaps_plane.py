"""Where z has two dimensions: the best q of each family for the same true posterior."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from experiments._data import Images
from experiments._flow_vae import FlowVAE, build
from experiments._gaps_local import Climb, local_family, optimise
from experiments._vae import log_joint


class Best(nnx.Module):
    """A model whose q is the best of its family for each image, found when it is asked for."""

    def __init__(self, model: FlowVAE, climb: Climb):
        self.model: Any = model
        self.climb = climb

    def prior(self) -> Any:
        """``p(z)``."""
        return self.model.prior()

    def observation(self, z) -> Any:
        """``p(x | z)``."""
        return self.model.observation(z)

    def posterior(self, x) -> Any:
        """The best ``q(z | x)`` for one image."""
        start, make_q = local_family(self.model, x)
        log_p = log_joint(self.model, x)
        return make_q(optimise(jax.random.key(0), start, make_q, log_p, self.climb))


def best_of_families(
    model: FlowVAE, images: Images, heads: Mapping[str, Callable[..., nnx.Module]], climb: Climb
) -> dict[str, Any]:
    """The model with the encoder's q, and with the best q of each head's family, by their names.

    All have one decoder, hence one true posterior; every search begins at the encoder's normal.
    """
    trained: Any = model.head
    shown: dict[str, Any] = {"encoder's": model}
    for name, head in heads.items():
        begun: Any = build(images, trained.heads.in_features, model.latent, head, nnx.Rngs(0))
        begun.encoder, begun.decoder = model.encoder, model.decoder
        begun.head.heads = trained.heads
        shown[f"best {name}"] = Best(begun, climb)
    return shown
