"""The kinds of defects: how each one changes the plan of a picture, and the fixed sentence that describes it.

Severity 1 is subtle (an attentive person sees it at 384 pixels), 2 is clear, 3 is gross. Kinds without a subtle form
have no severity 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from screening.task import Dimension
from trainer.data.render.cutouts import CutOut
from trainer.data.render.marks import MARKS
from trainer.data.render.packaging import Look
from trainer.data.render.palette import COLOURS, changed, contrasting, nearest
from trainer.data.render.photo_kinds import PHOTO_KINDS
from trainer.data.render.products import Product
from trainer.data.render.props import ITEMS
from trainer.data.render.staging import Apply, Kind, Staging
from trainer.data.render.words import BRANDS

# --- appearance of drawn products ---------------------------------------------------------------------------------


def _drawn(staging: Staging) -> Look | None:
    return staging.look if isinstance(staging.look, Look) else None


def _has(test: Callable[[Look], bool]) -> Callable[[Staging], bool]:
    def fits(staging: Staging) -> bool:
        look = _drawn(staging)
        return look is not None and test(look)

    return fits


def _look(staging: Staging) -> Look:
    assert isinstance(staging.look, Look)
    return staging.look


def _body_colour(s: Staging, severity: int, rng: np.random.Generator) -> str:
    look = _look(s)
    against = [look.label] + ([look.stripes] if look.stripes else [])
    colour = changed(rng, look.body, severity, against)
    s.look = replace(look, body=colour).reworded(body=nearest(colour))
    return "body"


def _cap_colour(s: Staging, severity: int, rng: np.random.Generator) -> str:
    look = _look(s)
    assert look.cap is not None
    colour = changed(rng, look.cap, severity, [])
    s.look = replace(look, cap=colour).reworded(cap=nearest(colour))
    return "cap"


_ALIKE = {
    "circle": "drop",
    "drop": "circle",
    "star": "cross",
    "cross": "star",
    "leaf": "moon",
    "moon": "leaf",
    "heart": "triangle",
    "triangle": "diamond",
    "diamond": "heart",
}


def _mark_replaced(s: Staging, severity: int, rng: np.random.Generator) -> str:
    look = _look(s)
    others = [m for m in MARKS if m not in (look.mark, _ALIKE[look.mark or "circle"])]
    mark = _ALIKE[look.mark or "circle"] if severity == 1 else others[int(rng.integers(len(others)))]
    s.look = replace(look, mark=mark).reworded(mark=mark)
    return "mark"


def _mark_missing(s: Staging, severity: int, rng: np.random.Generator) -> str:
    s.look = replace(_look(s), mark=None).reworded(mark="none")
    return "mark"


def _mark_colour(s: Staging, severity: int, rng: np.random.Generator) -> str:
    look = _look(s)
    colour = changed(rng, look.mark_colour, severity, [look.label])
    s.look = replace(look, mark_colour=colour).reworded(mark_colour=nearest(colour))
    return "mark_colour"


def _number(s: Staging, severity: int, rng: np.random.Generator) -> str:
    look = _look(s)
    digits = list(look.number)
    # Severity 1 changes one digit, 2 changes both, 3 changes both and adds another word below.
    places = [int(rng.integers(2))] if severity == 1 else [0, 1]
    for place in places:
        choices = [d for d in ("123456789" if place == 0 else "0123456789") if d != digits[place]]
        digits[place] = choices[int(rng.integers(len(choices)))]
    number = "".join(digits)
    s.look = replace(look, number=number).reworded(number=number)
    if severity == 3:
        words = [w for w in BRANDS if w != look.word]
        word = words[int(rng.integers(len(words)))]
        s.look = replace(s.look, word=word).reworded(word=word)
    return "number"


_STRETCH = {1: 0.16, 2: 0.26, 3: 0.38}


def _slim(s: Staging, severity: int, rng: np.random.Generator) -> str:
    s.width = 1 - _STRETCH[severity] * 0.9
    return "width"


def _wide(s: Staging, severity: int, rng: np.random.Generator) -> str:
    s.width = 1 + _STRETCH[severity] * 1.1
    return "width"


def _cap_shape(s: Staging, severity: int, rng: np.random.Generator) -> str:
    tall = {1: 1.4, 2: 1.7, 3: 2.1}[severity]
    flat = {1: 0.68, 2: 0.5, 3: 0.36}[severity]
    kind = s.product.form.kind if isinstance(s.product, Product) else ""
    grow = bool(rng.random() < 0.5) or kind in ("pump bottle", "spray bottle", "dropper bottle")
    if kind in ("pump bottle", "spray bottle", "dropper bottle"):
        tall = 1 + (tall - 1) * 0.6
    s.look = replace(_look(s), cap_height=tall if grow else flat, cap_width=1.0 if grow else 1.12)
    return "cap_shape"


def _cap_missing(s: Staging, severity: int, rng: np.random.Generator) -> str:
    s.look = replace(_look(s), cap=None).reworded(cap="none")
    return "cap"


def _stripes_added(s: Staging, severity: int, rng: np.random.Generator) -> str:
    look = _look(s)
    name = contrasting(rng, [look.body], 62)
    s.look = replace(
        look, stripes=COLOURS[name], stripe_count=min(severity, 2), stripe_width={1: 0.026, 2: 0.034, 3: 0.05}[severity]
    ).reworded(stripes=name)
    return "stripes"


def _stripes_missing(s: Staging, severity: int, rng: np.random.Generator) -> str:
    s.look = replace(_look(s), stripes=None).reworded(stripes="none")
    return "stripes"


# --- light and shadow ---------------------------------------------------------------------------------------------


def _mirrored(s: Staging, severity: int, rng: np.random.Generator) -> None:
    s.shadows = [(s.light.mirrored(), {2: 0.8, 3: 1.0}[severity])]


def _doubled(s: Staging, severity: int, rng: np.random.Generator) -> None:
    second = replace(s.light.mirrored(), angle=s.light.angle + float(rng.uniform(-12, 12)))
    s.shadows = [*s.shadows, (second, {1: 0.5, 2: 0.75, 3: 1.0}[severity])]


def _missing(s: Staging, severity: int, rng: np.random.Generator) -> None:
    s.shadows = []
    s.contact = {1: 0.9, 2: 0.45, 3: 0.0}[severity]
    s.show_reference = True


def _direction(s: Staging, severity: int, rng: np.random.Generator) -> None:
    off = {1: 24.0, 2: 44.0, 3: 70.0}[severity]
    s.shadows = [(replace(light, angle=light.angle - off), share) for light, share in s.shadows]
    s.show_reference = True


def _too_long(s: Staging, severity: int, rng: np.random.Generator) -> None:
    factor = {1: 1.6, 2: 2.1, 3: 2.8}[severity]
    # Lowered, so that the product stays on the ground and in the picture.
    s.shadows = [
        (replace(light, length=light.length * factor, angle=light.angle * 0.8), share) for light, share in s.shadows
    ]
    s.show_reference = True


def _wrong_side(s: Staging, severity: int, rng: np.random.Generator) -> None:
    s.shading = replace(s.light.mirrored(), strength={1: 0.75, 2: 1.0, 3: 1.25}[severity])


# --- placement ----------------------------------------------------------------------------------------------------


def _floating(s: Staging, severity: int, rng: np.random.Generator) -> None:
    s.gap = {1: 0.045, 2: 0.085, 3: 0.15}[severity]
    if isinstance(s.product, CutOut):  # a wide one is low in the picture, and such a share of its height few pixels
        s.gap *= max(1.0, s.product.ratio / 2)


def _sunk(s: Staging, severity: int, rng: np.random.Generator) -> None:
    s.cut = {1: 0.10, 2: 0.18, 3: 0.30}[severity]


def _leaning(s: Staging, severity: int, rng: np.random.Generator) -> None:
    s.lean = {1: 8.0, 2: 14.0, 3: 22.0}[severity] * (1 if rng.random() < 0.5 else -1)


def _overhang(s: Staging, severity: int, rng: np.random.Generator) -> None:
    s.overhang = {1: 0.3, 2: 0.45, 3: 0.62}[severity]


# --- extension ----------------------------------------------------------------------------------------------------


def _add(name: str) -> Apply:
    def apply(s: Staging, severity: int, rng: np.random.Generator) -> None:
        s.items = [*s.items, (name, {1: 0.0, 2: 0.5, 3: 1.0}[severity], int(rng.integers(4)))]

    return apply


_LIFELIKE = ("fruit", "ball")

_A, _S, _L, _E = Dimension.APPEARANCE, Dimension.SHADOW, Dimension.LAYOUT, Dimension.EXTENSION


def _is_drawn(s: Staging) -> bool:
    return _drawn(s) is not None


def _suits(name: str) -> Callable[[Staging], bool]:
    """Next to a product in a photo, items must not look drawn."""
    return (lambda staging: True) if name in _LIFELIKE else _is_drawn


def _upright(s: Staging) -> bool:
    return s.gap == 0 and s.cut == 0 and s.lean == 0 and s.overhang == 0


KINDS: dict[str, Kind] = {
    "body_colour": Kind(_A, "the body has another colour", _body_colour, fits=_is_drawn),
    "cap_colour": Kind(_A, "the cap has another colour", _cap_colour, fits=_has(lambda k: k.cap is not None)),
    "mark_replaced": Kind(_A, "the mark has another shape", _mark_replaced, fits=_has(lambda k: k.mark is not None)),
    "mark_missing": Kind(_A, "the mark is missing", _mark_missing, (2, 3), _has(lambda k: k.mark is not None)),
    "mark_colour": Kind(_A, "the mark has another colour", _mark_colour, fits=_has(lambda k: k.mark is not None)),
    "number": Kind(_A, "the number differs", _number, fits=_is_drawn),
    "slim": Kind(_A, "the product is too slim", _slim),
    "wide": Kind(_A, "the product is too wide", _wide),
    "cap_shape": Kind(_A, "the cap has another shape", _cap_shape, fits=_has(lambda k: k.cap is not None)),
    "cap_missing": Kind(
        _A,
        "the cap is missing",
        _cap_missing,
        (3,),
        _has(lambda k: k.cap is not None and dict(k.words)["kind"] != "tube"),
    ),
    "stripes_added": Kind(_A, "stripes were added", _stripes_added, fits=_has(lambda k: k.stripes is None)),
    "stripes_missing": Kind(
        _A, "the stripes are missing", _stripes_missing, (2, 3), _has(lambda k: k.stripes is not None)
    ),
    "mirrored": Kind(_S, "its shadow falls toward the light", _mirrored, (2, 3)),
    "doubled": Kind(_S, "two shadows fall in different directions", _doubled),
    "missing": Kind(_S, "it casts no shadow", _missing, fits=_upright),
    "direction": Kind(_S, "its shadow points the wrong way", _direction, fits=lambda s: _upright(s) and _is_drawn(s)),
    "too_long": Kind(_S, "its shadow is too long", _too_long, fits=_upright),
    "wrong_side": Kind(_S, "its lit side does not match the shadow", _wrong_side, fits=_is_drawn),
    "floating": Kind(_L, "it floats above the ground", _floating),
    "sunk": Kind(_L, "it sinks into the ground", _sunk),
    "leaning": Kind(_L, "it leans without support", _leaning),
    "overhang": Kind(_L, "it hangs over the edge", _overhang, fits=lambda s: s.staged),
    **{
        name: Kind(_E, f"{a} added beside it", _add(name), fits=_suits(name))
        for name, a in zip(
            ITEMS, ("a fruit was", "a flower was", "a spoon was", "pills were", "a ball was", "coins were"), strict=True
        )
    },
    "second_product": Kind(_E, "a second product was added beside it", _add("second_product")),
    "bow": Kind(_E, "a bow was added on it", _add("bow"), fits=_is_drawn),
    "handle": Kind(_E, "a handle was added on it", _add("handle")),
    "spout": Kind(_E, "a spout was added on it", _add("spout")),
    "sticker": Kind(_E, "a sticker was added on it", _add("sticker")),
    "sparkles": Kind(_E, "sparkles were added around it", _add("sparkles")),
    **PHOTO_KINDS,
}
"""Name → kind. Comments have at most eight words and no comma, colon or angle bracket."""

VARIATIONS: tuple[tuple[str, ...], ...] = (
    ("body_colour",),
    ("cap_colour", "cap_colour", "cap_shape"),
    ("mark_replaced", "mark_replaced", "mark_replaced", "mark_missing"),
    ("mark_colour",),
    ("number",),
    ("stripes_added", "stripes_missing"),
    ("slim", "wide"),
)
"""Attributes that `vary` changes independently of each other, one of each row with equal probability."""
