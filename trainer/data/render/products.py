"""Rendered products: shape and look at random, with their properties in words.

A product is rendered without light as an RGBA sprite in its own colours (`flat`), and light.py shades it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from trainer.data.render.marks import MARKS
from trainer.data.render.packaging import Form, Look, draw_flat
from trainer.data.render.palette import COLOURS, LABELS, contrasting, lab
from trainer.data.render.words import BRANDS, describe

_CACHED_SPRITES = 6


@dataclass
class Product:
    """A rendered product. `attributes` are its properties, in words from fixed lists."""

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
            self._sprites[key] = draw_flat(self.form, look, height)
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
