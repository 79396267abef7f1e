"""Published numbers that the experiments show beside their own."""

from typing import NamedTuple

from experiments._results import Reference

_TABLE_1 = "Burda, Grosse and Salakhutdinov 2016, Table 1"
_REPRODUCED = "nbip/IWAE, a public reproduction, its README"
_EXEMPLAR = "Norouzi, Fleet and Norouzi 2020 (Exemplar VAE), its table of dynamic binarisation"
_NBIP = "the same schedule and k; Keras's Adam and bits drawn once an epoch, by its code"
_MNIST = "MNIST, dynamic binarisation, 3,280 epochs, k = 5,000, all 10,000 test images"


class Cell(NamedTuple):
    """One row of the IWAE paper's Table 1."""

    layers: int
    num_samples: int

    def __str__(self) -> str:
        return f"{self.layers} layer{'s' * (self.layers > 1)}, k = {self.num_samples}"


def _references(
    source: str, protocol: str, table: dict[Cell, dict[str, float]]
) -> dict[Cell, dict[str, Reference]]:
    return {
        cell: {
            objective: Reference(value, source, "read", protocol)
            for objective, value in row.items()
        }
        for cell, row in table.items()
    }


TABLE_1 = _references(
    _TABLE_1,
    _MNIST,
    {
        Cell(1, 1): {"vae": 86.76, "iwae": 86.76},
        Cell(1, 5): {"vae": 86.47, "iwae": 85.54},
        Cell(1, 50): {"vae": 86.35, "iwae": 84.78},
        Cell(2, 1): {"vae": 85.33, "iwae": 85.33},
        Cell(2, 5): {"vae": 85.01, "iwae": 83.89},
        Cell(2, 50): {"vae": 84.78, "iwae": 82.90},
    },
)
"""The paper's NLL, by cell and objective."""

REPRODUCED = _references(
    _REPRODUCED,
    f"{_MNIST}; {_NBIP}",
    {
        Cell(1, 1): {"vae": 86.35, "iwae": 86.35, "dreg": 86.08},
        Cell(1, 5): {"vae": 86.10, "iwae": 85.18, "dreg": 84.90},
        Cell(1, 50): {"vae": 86.06, "iwae": 84.59, "dreg": 84.32},
        Cell(2, 1): {"vae": 84.83, "iwae": 84.83},
        Cell(2, 5): {"vae": 84.08, "iwae": 83.48},
        Cell(2, 50): {"vae": 83.89, "iwae": 82.82},
    },
)
"""What a later reproduction got."""

FASHION_MNIST_VAE = Reference(
    228.70, _EXEMPLAR, "read", "Fashion-MNIST, dynamic binarisation, another architecture"
)


def test_nll(data: str, layers: int, bound: str, num_samples: int) -> Reference | None:
    """The published test NLL nearest to a model trained on ``data`` with a bound, if there is one.

    It says what it was measured on: another training schedule, and maybe another K.
    """
    if data == "mnist":
        cell = Cell(layers, num_samples)
        published = TABLE_1.get(cell, {}).get({"elbo": "vae"}.get(bound, bound))
        return published and published._replace(protocol=f"{published.protocol}; {cell}")
    if data == "fashion_mnist" and (layers, bound) == (1, "elbo"):
        return FASHION_MNIST_VAE
    return None


_VIMCO = "Mnih and Rezende 2016 (VIMCO)"
_BELIEF = "MNIST, static binarisation, 200-200-200, their schedule"
_BELIEF_NLL = {
    ("vimco", 2): 93.5,
    ("vimco", 5): 92.8,
    ("vimco", 10): 92.6,
    ("vimco", 50): 91.9,
    ("nvil", 1): 95.2,
    ("nvil", 50): 96.2,
}


def belief_nll(
    data: str, layers: int, hidden: int, method: str, num_samples: int
) -> Reference | None:
    """The published test NLL of a sigmoid belief network, where there is one.

    NVIL's at another K is that of its one sample. It says what it was measured on.
    """
    if (data, layers, hidden) != ("mnist", 3, 200):
        return None
    cell = (method, num_samples)
    cell = ("nvil", 1) if method == "nvil" and cell not in _BELIEF_NLL else cell
    if cell not in _BELIEF_NLL:
        return None
    return Reference(_BELIEF_NLL[cell], _VIMCO, "recalled", f"{_BELIEF}; K = {cell[1]}")
