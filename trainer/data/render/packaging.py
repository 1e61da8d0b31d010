"""Drawings of ten kinds of packaging, with cap, label, mark, number and stripes, from a shape and a look.

Lengths are in units of the product's height. y increases downward from 0 (top) to 1 (base), and x is 0 on the axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from trainer.data.render.marks import mark_mask, text_mask
from trainer.data.render.palette import Rgb, blend

Profile = list[tuple[float, float]]
"""(y, half width) from top to bottom."""

METAL: Rgb = (186, 190, 196)


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


def draw_flat(form: Form, look: Look, height: int) -> Image.Image:
    """The RGBA sprite of a product without light. The product is `height` pixels high, and its base is the last row."""
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
