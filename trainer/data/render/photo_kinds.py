"""The kinds of defects that only products in photos get; defect_kinds.py says what a kind is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from screening.task import Dimension
from trainer.data.render.cutouts import CutOut, CutOutLook
from trainer.data.render.light import Light
from trainer.data.render.staging import Apply, Kind, Staging

_A, _S, _L, _E = Dimension.APPEARANCE, Dimension.SHADOW, Dimension.LAYOUT, Dimension.EXTENSION


def _in_photo(test: Callable[[CutOut], bool] = lambda product: True) -> Callable[[Staging], bool]:
    return lambda staging: isinstance(staging.product, CutOut) and test(staging.product)


def _edit(name: str) -> Apply:
    def apply(s: Staging, severity: int, rng: np.random.Generator) -> None:
        assert isinstance(s.look, CutOutLook)
        s.look = s.look.edited(name, severity, int(rng.integers(2**31)))

    return apply


def _detached(s: Staging, severity: int, rng: np.random.Generator) -> None:
    s.detached = {1: 0.6, 2: 1.1, 3: 1.8}[severity]


def _hard(s: Staging, severity: int, rng: np.random.Generator) -> None:
    hardness, share = {1: (3.0, 1.1), 2: (5.0, 1.25), 3: (8.0, 1.45)}[severity]
    s.shadows = [(replace(light, hardness=hardness), share) for light, _ in s.shadows]


def _cut_off(s: Staging, severity: int, rng: np.random.Generator) -> None:
    s.beyond = {1: 0.08, 2: 0.2, 3: 0.4}[severity]


def _too_small(s: Staging, severity: int, rng: np.random.Generator) -> None:
    s.scale = {1: 0.58, 2: 0.4, 3: 0.25}[severity]


_DETAILED = _in_photo(lambda product: product.detail is not None)

PHOTO_KINDS: Mapping[str, Kind] = {
    "all_colours": Kind(_A, "the colours differ", _edit("all_colours"), fits=_in_photo()),
    "part_colour": Kind(_A, "a part has another colour", _edit("part_colour"), fits=_in_photo()),
    "bent": Kind(_A, "it is bent out of shape", _edit("bent"), fits=_in_photo()),
    "part_stretched": Kind(_A, "a part is out of proportion", _edit("part_stretched"), fits=_in_photo()),
    "part_missing": Kind(_A, "a part is missing", _edit("part_missing"), fits=_in_photo()),
    "part_doubled": Kind(
        _A, "a part occurs twice", _edit("part_doubled"), fits=_in_photo(lambda product: product.can_be_copied)
    ),
    "details_blurred": Kind(_A, "lettering or details are blurred", _edit("details_blurred"), fits=_DETAILED),
    "details_garbled": Kind(_A, "lettering or details are garbled", _edit("details_garbled"), fits=_DETAILED),
    "details_erased": Kind(_A, "lettering or details are missing", _edit("details_erased"), fits=_DETAILED),
    "details_mirrored": Kind(
        _A,
        "lettering or details are mirrored",
        _edit("details_mirrored"),
        fits=_in_photo(lambda product: product.can_be_mirrored),
    ),
    "detached": Kind(_S, "its shadow lies apart from it", _detached, fits=_in_photo()),
    "hard": Kind(_S, "its shadow is too hard and dark", _hard, fits=_in_photo()),
    "cut_off": Kind(_L, "it is cut off by the edge", _cut_off, fits=_in_photo()),
    "too_small": Kind(_L, "it is too small for the scene", _too_small, fits=_in_photo()),
    "grown": Kind(_E, "a piece grows out of it", _edit("grown"), fits=_in_photo()),
    "continued": Kind(_E, "it continues beyond its edge", _edit("continued"), fits=_in_photo()),
    "attached": Kind(_E, "a second piece is attached to it", _edit("attached"), fits=_in_photo()),
}
"""Name → kind, as in `KINDS`."""


def unsuitable(product: CutOut) -> list[str]:
    """The kinds that a photo does not allow, because the product is too plain or too small for them."""
    light = Light(1)
    staging = Staging(product, product.look, light, light, [(light, 1.0)])
    return [name for name, kind in PHOTO_KINDS.items() if not kind.fits(staging)]
