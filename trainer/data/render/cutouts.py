"""A product that is cut out of a photo. Only its pixels are known, so defects of its appearance edit the picture."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from trainer.data.render.photo_edits import EDITS
from trainer.data.render.photo_facts import Detail, edge_colour, find_copy, find_detail, mirror_shows


@dataclass(frozen=True)
class CutOutLook:
    """Edits of a cut-out: (name, severity, seed)."""

    edits: tuple[tuple[str, int, int], ...] = ()

    def edited(self, name: str, severity: int, seed: int) -> CutOutLook:
        return CutOutLook((*self.edits, (name, severity, seed)))


@dataclass
class CutOut:
    """A product in a photo."""

    id: str
    attributes: dict[str, Any]
    picture: Image.Image = field(repr=False)
    """RGBA, cropped to the product."""
    photo: Image.Image = field(repr=False)
    """RGB: the photo as it is shown as the original."""
    look: CutOutLook = CutOutLook()
    gloss: float = 0.0
    _sprites: OrderedDict[tuple[CutOutLook, int], Image.Image] = field(default_factory=OrderedDict, repr=False)

    def describe(self) -> str:
        return "a product"

    @property
    def ratio(self) -> float:
        """Width per height."""
        return self.picture.width / self.picture.height

    @property
    def surface(self) -> str:
        return "photo"

    @cached_property
    def detail(self) -> Detail | None:
        """Where lettering, a mark or other fine detail is; None for a plain product."""
        return find_detail(self.picture)

    @cached_property
    def can_be_copied(self) -> bool:
        """Whether the product has room for a second copy of its detail, in which the copy would be seen."""
        return self.detail is not None and find_copy(self.picture, self.detail) is not None

    @cached_property
    def can_be_mirrored(self) -> bool:
        """Whether its detail looks different in a mirror."""
        return self.detail is not None and mirror_shows(self.picture, self.detail)

    @cached_property
    def colour(self) -> tuple[int, int, int]:
        """Colour of the product at its side."""
        return edge_colour(self.picture)

    def flat(self, look: CutOutLook, height: int) -> Image.Image:
        """The sprite with its edits. The product is `height` pixels high, and its base is the last row."""
        key = (look, height)
        if key not in self._sprites:
            width = max(1, round(self.picture.width * height / self.picture.height))
            sprite = self.picture.resize((width, height), Image.Resampling.BICUBIC)
            for name, severity, seed in look.edits:
                sprite = EDITS[name](sprite, severity, np.random.default_rng(seed), self.detail)
            self._sprites[key] = sprite
            while len(self._sprites) > 4:
                self._sprites.popitem(last=False)
        return self._sprites[key]
