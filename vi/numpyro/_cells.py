"""Which sites share a log-weight: one for the whole model, or one for each cell of some plates."""

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from vi._check import refusal
from vi.numpyro._structure import Site, Structure


class Cells(NamedTuple):
    """The sites of one kind of log-weight, and the plates whose cells have one each.

    Attributes:
        plates: The plates, in the order of the axes of the log-weights; () for a single weight.
        dims: Their axes, counted from the right.
        shape: How many cells along each.
        scale: What the plates' subsampling multiplies into a cell's bound, after the log.
        guide: The names of the guide's sites that belong here.
        model: Those of the model's.
    """

    plates: tuple[str, ...]
    dims: tuple[int, ...]
    shape: tuple[int, ...]
    scale: float
    guide: frozenset[str]
    model: frozenset[str]


class Partition(NamedTuple):
    """All sites: those inside the plates, and those outside."""

    inside: Cells
    outside: Cells

    @property
    def is_nested(self) -> bool:
        """Whether there are sites outside."""
        return bool(self.outside.guide or self.outside.model)


def partition(
    where: str, structure: Structure, plates: tuple[str, ...] | None, *, additive: bool
) -> Partition:
    """Give every site its log-weight.

    Args:
        where: Who asks, for a refusal.
        structure: The sites.
        plates: What the user said: the plates whose cells are weighed each, or None.
        additive: Whether the bound of a sum is the sum of bounds, so that nothing has to be told.
    """
    if plates is None:
        common = _common_plates(where, structure, additive=additive)
        split = _split(structure, common)
    else:
        _require_plates(where, structure, plates)
        split = _split(structure, tuple(plates))
    if not additive:
        for cells in split:
            _require_whole(where, structure, cells)
    return split


def _latents(structure: Structure) -> list[Site]:
    sites = (*structure.guide.values(), *structure.model.values())
    return [s for s in sites if not s.observed and s.name not in structure.summed_out]


def _common_plates(where: str, structure: Structure, *, additive: bool) -> tuple[str, ...]:
    latents = _latents(structure)
    sites = latents or [*structure.guide.values(), *structure.model.values()]
    around = [set(site.plates) for site in sites]
    if not any(around):
        return ()
    common = set.intersection(*around)
    names = tuple(sorted(common, key=lambda name: structure.plates[name].dim))
    split = _split(structure, names)
    if names and not split.is_nested:
        return names
    if additive or not latents:
        return ()
    if names:
        found = sorted(split.outside.guide | split.outside.model)
        raise _ambiguous(where, structure, names, "all latent sites are", found)
    names = tuple(dict.fromkeys(p for s in latents for p in s.plates))
    inside = [s for s in latents if s.plates]
    found = [s for s in latents if not s.plates]
    if {s.name for s in found} <= {s.name for s in inside}:  # the guide has no plate: name sides
        told = [f"{side} site {n}" for side, n in _sided(structure, inside)]
        missed = [f"{side} site {n}" for side, n in _sided(structure, found)]
    else:
        told = sorted({s.name for s in inside})
        missed = sorted({s.name for s in found} - set(told))
    raise _ambiguous(where, structure, names, f"{', '.join(told)} are", missed)


def _sided(structure: Structure, sites: list[Site]) -> list[tuple[str, str]]:
    sides = {"guide": structure.guide.values(), "model": structure.model.values()}
    return [(side, s.name) for side, of in sides.items() for s in of if any(s is x for x in sites)]


def _ambiguous(where, structure, names, inside: str, outside: Iterable[str]) -> ValueError:
    got = f"None, where {inside} in plates {', '.join(names)}"
    got += f" and {', '.join(outside)} outside" if outside else " and share none"
    remedy = (
        f"plates=({names[0]!r},) weighs every cell of {names[0]} on its own, given what is drawn"
        " outside; plates=() weighs the whole model at once"
    )
    return refusal(where, "plates", "be said", got, remedy)


def _require_plates(where: str, structure: Structure, plates) -> None:
    known = ", ".join(structure.plates) or "none"
    rule = "be a tuple of names of plates"
    remedy = f"the plates of model and guide are: {known}"
    if missing := [name for name in plates if name not in structure.plates]:
        raise refusal(where, "plates", rule, f"{missing[0]!r}, which is none", remedy)
    if len(set(plates)) < len(plates):
        raise refusal(where, "plates", "name each plate once", repr(plates), remedy)
    for site in (*structure.guide.values(), *structure.model.values()):
        if 0 < len(set(plates) & set(site.plates)) < len(plates):
            got = f"{site.name} inside {', '.join(site.plates)} alone"
            remedy = (
                "name the outer plates alone, what lies deeper is summed into their cells; of"
                " plates side by side name one, or none: plates=()"
            )
            raise refusal(where, "plates", "hold a site all or none", got, remedy)


def _split(structure: Structure, plates: tuple[str, ...]) -> Partition:
    def cells(inside: bool) -> Cells:
        def belonging(sites: dict[str, Site]) -> frozenset[str]:
            return frozenset(
                n for n, site in sites.items() if (set(plates) <= set(site.plates)) == inside
            )

        of = [structure.plates[name] for name in plates] if inside else []
        return Cells(
            plates=plates if inside else (),
            dims=tuple(plate.dim for plate in of),
            shape=tuple(plate.size for plate in of),
            scale=prod(plate.scale for plate in of),
            guide=belonging(structure.guide),
            model=belonging(structure.model),
        )

    return Partition(cells(True), cells(False))


def _require_whole(where: str, structure: Structure, cells: Cells) -> None:
    """Refuse a log-weight that contains a subsample: the bound of it is not that of the whole."""
    for sites, names in ((structure.guide, cells.guide), (structure.model, cells.model)):
        for name in sorted(names):
            for plate in sites[name].plates:
                if plate not in cells.plates and structure.plates[plate].scale != 1:
                    rule = f"hold {plate}, of which site {name} is a subsample"
                    remedy = (
                        f"plates=({plate!r},) weighs its cells each; a single weight needs all of"
                        " them (subsample_size=None), unless the bound is the ELBO"
                    )
                    raise refusal(where, "plates", rule, repr(cells.plates), remedy)
