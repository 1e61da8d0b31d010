"""Drawn products: ten kinds of packaging, with cap, label, mark, number and stripes.

A product is drawn without light as an RGBA sprite in its own colours (`flat`), and light.py shades it. Lengths are in
units of the product's height. y increases downward from 0 (top) to 1 (base), and x is 0 on the axis.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageDraw

from trainer.data.render.marks import MARKS, mark_mask, text_mask
from trainer.data.render.palette import COLOURS, LABELS, Rgb, blend, contrasting, lab
from trainer.data.render.words import BRANDS, describe

Profile = list[tuple[float, float]]
"""(y, half width) from top to bottom."""

METAL: Rgb = (186, 190, 196)
_CACHED_SPRITES = 6


@dataclass(frozen=True)
class Look:
    """Colours, print and cap of a product. Appearance defects change the look."""

    body: Rgb
    cap: Rgb | None
    label: Rgb
    ink: Rgb
    mark: str | None
    mark_colour: Rgb
    number: str
    word: str
    stripes: Rgb | None
    stripe_count: int = 2
    stripe_width: float = 0.034
    cap_height: float = 1.0
    """Factor on the height of the cap."""
    cap_width: float = 1.0
    words: tuple[tuple[str, str], ...] = ()
    """The attributes in words."""

    def reworded(self, **words: str) -> Look:
        """The same look with other attributes in words."""
        return replace(self, words=tuple({**dict(self.words), **words}.items()))


@dataclass(frozen=True)
class Form:
    """The shape of one product, drawn at random within the limits of its kind."""

    kind: str
    width: float
    """Half width of the body."""
    neck: float
    """Half width of the neck."""
    cap: float
    """Height of the cap."""
    shoulder: float
    """Height of the shoulder."""
    flip: bool
    """Whether the nozzle points to the left."""


@dataclass
class Product:
    """A drawn product. `attributes` are its properties, in words from fixed lists."""

    id: str
    attributes: dict[str, str]
    form: Form
    look: Look
    gloss: float
    _sprites: OrderedDict[tuple[Look, int], Image.Image] = field(default_factory=OrderedDict, repr=False)

    def describe(self) -> str:
        """`a red bottle with a white cap, a blue star and the number 24`."""
        return describe(self.attributes)

    @property
    def surface(self) -> str:
        """The shape for shading: `round`, `box` or `soft`."""
        return {"carton": "box", "pouch": "soft"}.get(self.form.kind, "round")

    def measures(self, look: Look, width: float = 1.0) -> dict[str, float]:
        """Proportions (shares of the product's height) and shades (CIE L*a*b*) with a given look.

        Args:
            width: factor on the product's width.
        """
        cap = self.form.cap * look.cap_height if look.cap is not None else 0.0
        found = {"width": 2 * self.form.width * width, "cap_height": cap}
        for name, colour in (("body", look.body), ("cap", look.cap or look.body)):
            found |= {f"{name}_{axis}": value for axis, value in zip("lab", lab(colour), strict=True)}
        return found

    def flat(self, look: Look, height: int) -> Image.Image:
        """The RGBA sprite without light. The product is `height` pixels high, and its base is the last row."""
        key = (look, height)
        if key not in self._sprites:
            self._sprites[key] = _draw_flat(self.form, look, height)
            while len(self._sprites) > _CACHED_SPRITES:
                self._sprites.popitem(last=False)
        return self._sprites[key]


_RANGES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    # kind: half width, neck share of it, cap height, shoulder height
    "bottle": ((0.19, 0.23), (0.42, 0.55), (0.12, 0.17), (0.07, 0.13)),
    "jar": ((0.33, 0.39), (0.86, 0.94), (0.17, 0.23), (0.03, 0.06)),
    "carton": ((0.26, 0.34), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0)),
    "tube": ((0.21, 0.26), (0.66, 0.8), (0.13, 0.18), (0.03, 0.05)),
    "can": ((0.25, 0.30), (0.84, 0.9), (0.0, 0.0), (0.04, 0.06)),
    "pouch": ((0.31, 0.38), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0)),
    "pump bottle": ((0.22, 0.26), (0.4, 0.5), (0.24, 0.28), (0.05, 0.08)),
    "dropper bottle": ((0.23, 0.27), (0.38, 0.46), (0.27, 0.32), (0.05, 0.09)),
    "tub": ((0.38, 0.43), (1.0, 1.0), (0.15, 0.21), (0.0, 0.0)),
    "spray bottle": ((0.21, 0.25), (0.38, 0.46), (0.22, 0.26), (0.12, 0.17)),
}
KINDS: tuple[str, ...] = tuple(_RANGES)
CAPLESS = frozenset({"carton", "can", "pouch"})


def make_product(rng: np.random.Generator) -> Product:
    """Draw a product at random."""
    kind = KINDS[int(rng.integers(len(KINDS)))]
    width, neck, cap, shoulder = (float(rng.uniform(*r)) for r in _RANGES[kind])
    form = Form(kind, width, width * neck, cap, shoulder, bool(rng.random() < 0.5))
    names = list(COLOURS)
    body = names[int(rng.integers(len(names)))]
    label = _label(rng, body)
    cap_name = names[int(rng.integers(len(names)))] if kind not in CAPLESS else "none"
    mark = MARKS[int(rng.integers(len(MARKS)))]
    mark_colour = contrasting(rng, [LABELS[label]], 55, 18)
    number = str(int(rng.integers(10, 100)))
    stripes = contrasting(rng, [COLOURS[body]], 62) if rng.random() < 0.4 else "none"
    attributes = {"kind": kind, "body": body}
    if cap_name != "none":
        attributes["cap"] = cap_name
    attributes |= {
        "label": label,
        "mark": mark,
        "mark_colour": mark_colour,
        "number": number,
        "word": BRANDS[int(rng.integers(len(BRANDS)))],
        "stripes": stripes,
    }
    look = Look(
        body=COLOURS[body],
        cap=COLOURS.get(cap_name),
        label=LABELS[label],
        ink=(248, 248, 246) if label == "black" else (30, 30, 36),
        mark=mark,
        mark_colour=COLOURS[mark_colour],
        number=number,
        word=attributes["word"],
        stripes=COLOURS.get(stripes),
        words=tuple(attributes.items()),
    )
    digest = hashlib.sha256(repr((form, attributes)).encode()).hexdigest()
    return Product(f"p{digest[:12]}", attributes, form, look, gloss=float(rng.uniform(0.25, 1.0)))


def _label(rng: np.random.Generator, body: str) -> str:
    choices = {"white": ("cream", "black"), "black": ("white", "cream")}.get(body, ("white", "white", "cream", "black"))
    return choices[int(rng.integers(len(choices)))]


def _draw_flat(form: Form, look: Look, height: int) -> Image.Image:
    sketch = _Sketch(form, look, height)
    _DRAWERS[form.kind](sketch)
    image = sketch.image
    return _bend(image, 0.035, form.width * height) if form.kind not in ("carton", "pouch") else image


class _Sketch:
    """A canvas in units of the product's height, with room for parts that extend above and beside it."""

    def __init__(self, form: Form, look: Look, height: int) -> None:
        self.form, self.look, self.px = form, look, height
        # An enlarged cap may extend above the product's own height, so there is room above y = 0.
        self.lift = max(0.0, form.cap * (look.cap_height - 1)) if form.kind != "tube" else 0.0
        self.half = max(form.width * 1.08, form.neck * look.cap_width * 1.5) + (0.1 if "p" in form.kind[0:2] else 0.02)
        size = (round(2 * self.half * height), round((1 + self.lift) * height))
        self.image = Image.new("RGBA", size, (*look.body, 0))
        self.draw = ImageDraw.Draw(self.image)

    def at(self, x: float, y: float) -> tuple[float, float]:
        return (x + self.half) * self.px, (y + self.lift) * self.px

    def part(self, profile: Sequence[tuple[float, float]], colour: Rgb) -> None:
        """A part that is symmetric about the axis."""
        right = [self.at(w, y) for y, w in profile]
        left = [self.at(-w, y) for y, w in reversed(profile)]
        self.draw.polygon(right + left, fill=(*colour, 255))

    def polygon(self, points: Sequence[tuple[float, float]], colour: Rgb) -> None:
        self.draw.polygon([self.at(x, y) for x, y in points], fill=(*colour, 255))

    def seam(self, y: float, width: float, colour: Rgb, share: float = 0.35, thick: float = 0.008) -> None:
        """A dark line where two parts meet."""
        self.part([(y, width), (y + thick, width)], blend(colour, (0, 0, 0), share))

    def print(self, top: float, bottom: float, width: Callable[[float], float], centre: float = 0.0) -> None:
        """Draw stripes and label on a body from `top` to `bottom` with the half width `width(y)`."""
        look, tall = self.look, bottom - top
        if look.stripes is not None:
            for i in range(look.stripe_count):
                y = bottom - tall * 0.05 - (i + 1) * look.stripe_width - i * look.stripe_width * 0.7
                self.polygon(
                    [
                        (centre - width(y), y),
                        (centre + width(y), y),
                        (centre + width(y + look.stripe_width), y + look.stripe_width),
                        (centre - width(y + look.stripe_width), y + look.stripe_width),
                    ],
                    look.stripes,
                )
        low = bottom - tall * 0.05 - 0.12
        high = top + tall * 0.05
        half = 0.84 * min(width(low), width(high))
        self._label((centre - half, high, centre + half, low))

    def _label(self, box: tuple[float, float, float, float]) -> None:
        look = self.look
        x0, y0, x1, y1 = box
        corner = 0.02 * self.px
        self.draw.rounded_rectangle([self.at(x0, y0), self.at(x1, y1)], corner, fill=(*look.label, 255))
        wide, tall = x1 - x0, y1 - y0
        line = 0.13 * tall
        self._ink(text_mask(look.word), (x0 + wide * 0.2, y1 - line * 1.1, x1 - wide * 0.2, y1 - line * 0.25), look.ink)
        y1 -= line * 1.25
        tall = y1 - y0
        if wide > 1.15 * tall:  # mark beside number
            sign = (x0 + wide * 0.05, y0 + tall * 0.1, x0 + wide * 0.44, y1 - tall * 0.05)
            digits = (x0 + wide * 0.47, y0 + tall * 0.12, x1 - wide * 0.05, y1 - tall * 0.05)
        else:
            sign = (x0 + wide * 0.1, y0 + tall * 0.05, x1 - wide * 0.1, y0 + tall * 0.46)
            digits = (x0 + wide * 0.07, y0 + tall * 0.52, x1 - wide * 0.07, y1 - tall * 0.02)
        if look.mark is not None:
            self._ink(mark_mask(look.mark), sign, look.mark_colour)
        self._ink(text_mask(look.number), digits, look.ink)

    def _ink(self, mask: Image.Image, box: tuple[float, float, float, float], colour: Rgb) -> None:
        """Print a mask centred in a box, as large as fits."""
        (left, top), (right, bottom) = self.at(*box[:2]), self.at(*box[2:])
        scale = min((right - left) / mask.width, (bottom - top) / mask.height)
        size = (max(1, round(mask.width * scale)), max(1, round(mask.height * scale)))
        corner = (round((left + right - size[0]) / 2), round((top + bottom - size[1]) / 2))
        self.image.paste((*colour, 255), corner, mask.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _curve(y0: float, w0: float, y1: float, w1: float, steps: int = 10) -> Profile:
    """A smooth S curve from one half width to another."""
    t = np.linspace(0, 1, steps)
    s = 0.5 - 0.5 * np.cos(np.pi * t)
    return [(float(y), float(w)) for y, w in zip(y0 + (y1 - y0) * t, w0 + (w1 - w0) * s, strict=True)]


def _foot(width: float, radius: float = 0.03) -> Profile:
    """A rounded lower edge at y = 1."""
    t = np.linspace(0, np.pi / 2, 6)
    return [(1 - radius + radius * float(np.sin(a)), width - radius + radius * float(np.cos(a))) for a in t]


def _crown(y: float, width: float, radius: float = 0.015) -> Profile:
    """A rounded upper edge."""
    return [(y, width - radius), (y + radius * 0.4, width - radius * 0.4), (y + radius, width)]


def _ridged(s: _Sketch, top: float, bottom: float, width: float, colour: Rgb) -> None:
    """A screw cap with fine vertical ridges."""
    s.part([*_crown(top, width), (bottom, width)], colour)
    dark = blend(colour, (0, 0, 0), 0.16)
    for x in np.linspace(-0.92, 0.92, 13):
        x0 = float(np.sin(x * np.pi / 2)) * width
        s.polygon(
            [(x0 - 0.003, top + 0.02), (x0 + 0.003, top + 0.02), (x0 + 0.003, bottom), (x0 - 0.003, bottom)], dark
        )
    s.seam(bottom - 0.008, width, colour)


def _bottle(s: _Sketch) -> None:
    f, look = s.form, s.look
    cap_bottom = f.cap
    top = cap_bottom - f.cap * look.cap_height
    shoulder = cap_bottom + 0.02
    s.part([(cap_bottom - 0.7 * f.cap, f.neck * 0.8), (shoulder, f.neck * 0.85)], blend(look.body, (0, 0, 0), 0.22))
    body = shoulder + f.shoulder
    s.part([*_curve(shoulder, f.neck * 0.9, body, f.width), *_foot(f.width)], look.body)
    if look.cap is not None:
        _ridged(s, top, cap_bottom, f.neck * look.cap_width, look.cap)
    s.print(body, 1, lambda y: f.width)


def _jar(s: _Sketch) -> None:
    f, look = s.form, s.look
    bottom = f.cap
    s.part([(bottom - 0.07, f.neck * 0.95), (bottom + 0.01, f.neck * 0.95)], blend(look.body, (0, 0, 0), 0.25))
    s.part([*_curve(bottom, f.neck, bottom + f.shoulder, f.width), *_foot(f.width, 0.05)], look.body)
    if look.cap is not None:
        _ridged(s, bottom - f.cap * look.cap_height, bottom, f.width * 0.97 * look.cap_width, look.cap)
    s.print(bottom + f.shoulder, 1, lambda y: f.width)


def _carton(s: _Sketch) -> None:
    f, look = s.form, s.look
    s.part([(0, f.width), (1, f.width)], look.body)
    edge = f.width * FRONT_SHARE
    s.polygon([(-f.width, 0.045), (edge, 0.045), (edge, 0.05), (-f.width, 0.05)], blend(look.body, (0, 0, 0), 0.25))
    s.polygon(
        [(edge - 0.003, 0), (edge + 0.003, 0), (edge + 0.003, 1), (edge - 0.003, 1)], blend(look.body, (0, 0, 0), 0.3)
    )
    half = (edge + f.width) / 2
    s.print(0.06, 1, lambda y: half, centre=edge - half)


FRONT_SHARE = 0.72
"""Position of the edge between a carton's front and its side, as a share of the half width."""


def _tube(s: _Sketch) -> None:
    f, look = s.form, s.look
    cap_top = 1 - f.cap * min(look.cap_height, 2.0)
    s.part([*_curve(0.06, f.width, cap_top - 0.02, f.neck * 1.12, 12), (cap_top, f.neck)], look.body)
    s.part([(0, f.width * 1.03), (0.06, f.width * 1.03)], blend(look.body, (255, 255, 255), 0.22))
    for x in np.linspace(-1, 1, 23):
        s.polygon(
            [(x * f.width, 0), (x * f.width + 0.004, 0), (x * f.width + 0.004, 0.06), (x * f.width, 0.06)], look.body
        )
    if look.cap is not None:
        w = f.neck * look.cap_width
        s.part([(cap_top, w), (0.985, w * 0.95), (1, w * 0.9)], look.cap)
        s.seam(cap_top, w, look.cap)
    s.print(0.06, cap_top, lambda y: float(np.interp(y, [0.06, cap_top], [f.width * 0.98, f.neck * 1.14])))


def _can(s: _Sketch) -> None:
    f, look = s.form, s.look
    s.part([(0, f.neck), (0.012, f.neck * 1.03), (0.03, f.neck)], METAL)
    s.part([*_curve(0.03, f.neck, 0.03 + f.shoulder, f.width), (0.955, f.width), (0.97, f.width * 0.96)], look.body)
    s.part([(0.968, f.width * 0.96), (0.99, f.neck), (1, f.neck)], METAL)
    s.print(0.03 + f.shoulder, 0.96, lambda y: f.width)


def _pouch(s: _Sketch) -> None:
    f, look = s.form, s.look
    w = f.width
    s.part(
        [
            (0, w * 0.94),
            (0.1, w * 0.9),
            *_curve(0.1, w * 0.9, 0.5, w * 0.97),
            *_curve(0.5, w * 0.97, 0.95, w),
            (1, w * 0.97),
        ],
        look.body,
    )
    dark = blend(look.body, (0, 0, 0), 0.22)
    for y in (0.0, 0.028, 0.056):
        s.part([(y + 0.014, w * 0.93), (y + 0.022, w * 0.93)], dark)
    s.part([(0.085, w * 0.9), (0.095, w * 0.9)], dark)
    s.polygon([(-w * 0.94, 0.02), (-w * 0.88, 0.035), (-w * 0.94, 0.05)], dark)
    s.print(0.11, 0.99, lambda y: w * 0.95)


def _pump(s: _Sketch) -> None:
    f, look = s.form, s.look
    bottom = f.cap
    body = bottom + f.shoulder
    s.part([(bottom - 0.06, f.neck * 0.8), (bottom, f.neck * 0.8)], blend(look.body, (0, 0, 0), 0.22))
    s.part([*_curve(bottom, f.neck, body, f.width), *_foot(f.width, 0.04)], look.body)
    if look.cap is not None:
        top = bottom - f.cap * look.cap_height
        side = -1 if f.flip else 1
        collar = bottom - 0.085
        s.part([(top + 0.03, 0.022), (collar, 0.022)], blend(look.cap, (0, 0, 0), 0.12))
        s.part([*_crown(collar, f.neck * look.cap_width), (bottom, f.neck * look.cap_width)], look.cap)
        s.part([*_crown(top, 0.07), (top + 0.055, 0.06)], look.cap)
        reach = 0.2 * side
        s.polygon(
            [
                (0, top + 0.002),
                (reach, top + 0.012),
                (reach * 1.1, top + 0.06),
                (reach * 0.9, top + 0.06),
                (reach * 0.85, top + 0.04),
                (0, top + 0.045),
            ],
            look.cap,
        )
        s.seam(bottom - 0.008, f.neck * look.cap_width, look.cap)
    s.print(body, 1, lambda y: f.width)


def _dropper(s: _Sketch) -> None:
    f, look = s.form, s.look
    bottom = f.cap
    body = bottom + f.shoulder
    s.part([(bottom - 0.08, f.neck * 0.75), (bottom, f.neck * 0.8)], blend(look.body, (0, 0, 0), 0.22))
    s.part([*_curve(bottom, f.neck, body, f.width), *_foot(f.width, 0.035)], look.body)
    if look.cap is not None:
        top = bottom - f.cap * look.cap_height
        collar = bottom - 0.13
        bulb = f.neck * 0.62 * look.cap_width
        s.part(
            [
                (top, bulb * 0.35),
                (top + 0.015, bulb * 0.75),
                (top + 0.04, bulb),
                (collar - 0.02, bulb * 0.95),
                (collar, bulb * 0.8),
            ],
            look.cap,
        )
        _ridged(s, collar, bottom, f.neck * 1.05 * look.cap_width, blend(look.cap, (0, 0, 0), 0.1))
    s.print(body, 1, lambda y: f.width)


def _tub(s: _Sketch) -> None:
    f, look = s.form, s.look
    bottom = f.cap
    low = f.width * 0.84
    s.part([(bottom - 0.03, f.width * 0.96), (bottom, f.width * 0.97), (0.97, low), (1, low - 0.025)], look.body)
    s.seam(bottom - 0.03, f.width * 0.96, look.body)
    if look.cap is not None:
        w = f.width * look.cap_width
        top = bottom - f.cap * look.cap_height
        s.part([*_crown(top, w * 0.96), (bottom - 0.05, w * 0.97), (bottom - 0.05, w), (bottom, w)], look.cap)
        s.seam(bottom - 0.052, w, look.cap, 0.2)
        s.seam(bottom, f.width * 0.97, look.body)
    s.print(bottom, 1, lambda y: float(np.interp(y, [bottom, 0.97], [f.width * 0.96, low])))


def _spray(s: _Sketch) -> None:
    f, look = s.form, s.look
    bottom = f.cap
    body = bottom + f.shoulder
    s.part([(bottom - 0.08, f.neck * 0.75), (bottom, f.neck * 0.8)], blend(look.body, (0, 0, 0), 0.22))
    s.part([*_curve(bottom, f.neck * 0.95, body, f.width), *_foot(f.width, 0.03)], look.body)
    if look.cap is not None:
        top = bottom - f.cap * look.cap_height
        k = -1 if f.flip else 1
        head = top + 0.1
        s.polygon(
            [
                (-0.1 * k, top + 0.01),
                (0.13 * k, top),
                (0.18 * k, top + 0.02),
                (0.18 * k, top + 0.06),
                (0.08 * k, head),
                (-0.09 * k, head),
            ],
            look.cap,
        )
        s.polygon(
            [
                (0.1 * k, head - 0.03),
                (0.14 * k, head - 0.04),
                (0.12 * k, head + 0.05),
                (0.15 * k, head + 0.09),
                (0.11 * k, head + 0.085),
                (0.09 * k, head + 0.03),
            ],
            blend(look.cap, (0, 0, 0), 0.15),
        )
        s.part([(head - 0.01, 0.075), (bottom - 0.055, 0.07)], look.cap)
        _ridged(s, bottom - 0.06, bottom, f.neck * look.cap_width, look.cap)
    s.print(body, 1, lambda y: f.width)


_DRAWERS: dict[str, Callable[[_Sketch], None]] = {
    "bottle": _bottle,
    "jar": _jar,
    "carton": _carton,
    "tube": _tube,
    "can": _can,
    "pouch": _pouch,
    "pump bottle": _pump,
    "dropper bottle": _dropper,
    "tub": _tub,
    "spray bottle": _spray,
}


def _bend(image: Image.Image, depth: float, half: float) -> Image.Image:
    """Bend horizontal lines as on a round body seen from slightly above: flat at the top, curved below."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    rows = np.arange(height)[:, None]
    x = np.clip(np.abs(np.arange(width) - (width - 1) / 2) / half, 0, 1)[None, :]
    shift = depth * rows * (1 - np.sqrt(1 - x * x))
    source = np.minimum(rows + np.rint(shift).astype(np.int32), height)
    index = source * width + np.arange(width)[None, :]
    padded = np.concatenate([pixels.reshape(-1, 4), np.zeros((width, 4), np.uint8)])
    return Image.fromarray(padded[index])
