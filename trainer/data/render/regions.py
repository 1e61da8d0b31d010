"""Where the defects of a rendered picture are.

The region of a defect is, by its dimension:

- appearance: the part of the product that changed, in its old and its new form (the cap; the place of a missing mark);
  the whole product if its proportions or all its colours changed;
- shadow: the shadow in question, both if there are two, or the place where the missing one would be; the product if its
  own shading is wrong;
- layout: the product;
- extension: the added object, as far as the product does not hide it.

Regions end at the edge of the picture and include neither contact shadows nor the shadows of added objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from screening.boxes import Box
from screening.task import Dimension
from trainer.data.render.composition import Composition
from trainer.data.render.cutouts import CutOut, CutOutLook
from trainer.data.render.figure import Place, at_size, flat_sprite, posed, put
from trainer.data.render.floor import Floor, own_shadow, raised
from trainer.data.render.light import grid
from trainer.data.render.packaging import Look
from trainer.data.render.palette import Rgb
from trainer.data.render.photo_edits import EDITS
from trainer.data.render.products import Product
from trainer.data.render.scenes import draw_stage
from trainer.data.render.staging import Defect, Staging

Mask = NDArray[np.bool_]

_CHANGED = 14
"""Minimum difference of a changed pixel, of 255."""
_SOLID = 124
"""Minimum opacity of a pixel that shows an object, of 255."""
_MARKED = 80
"""Minimum brightness, after scaling, of a pixel that was marked as changed, of 255. Thin letters become faint."""
_SHADED = 0.25
"""Minimum strength of a pixel that belongs to a shadow."""
_EVERYWHERE = ("all_colours",)
"""Edits of a product in a photo that change all of it."""


def box_of(defect: Defect, picture: Composition) -> Box | None:
    """The region of one defect as shares of the picture; None if nothing of it can be seen."""
    mask = _FINDERS.get(defect.dimension, _layout)(defect, picture)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    side = mask.shape[0]
    edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return Box(*(round(float(edge) / side, 4) for edge in edges))


def _product(picture: Composition) -> Mask:
    return _pasted(picture.figure, picture.standing, picture.image.width)


def _pasted(sprite: Image.Image, at: Place, size: int) -> Mask:
    """Where an object is seen in the frame."""
    shape, frame = Image.new("RGBA", sprite.size, (255, 255, 255)), Image.new("RGB", (size, size))
    shape.putalpha(sprite.getchannel("A"))
    put(frame, shape, at)
    return np.asarray(frame.getchannel("R")) >= _SOLID


# --- appearance, and pieces that grow out of a product in a photo -------------------------------------------------


def _other_colour(colour: Rgb) -> Rgb:
    """A colour that differs from this one by half of the range in each channel."""
    red, green, blue = ((value + 128) % 256 for value in colour)
    return red, green, blue


_WITHOUT: Mapping[str, Callable[[Look], Look]] = {
    "body": lambda look: replace(look, body=_other_colour(look.body)),
    "cap": lambda look: replace(look, cap=None),
    "cap_shape": lambda look: replace(look, cap=None),
    "mark": lambda look: replace(look, mark=None),
    "mark_colour": lambda look: replace(look, mark=None),
    "number": lambda look: replace(look, number=" "),
    "stripes": lambda look: replace(look, stripes=None),
}
"""Changed attribute → the same look without the part that has it, or with that part in another colour."""


def _appearance(defect: Defect, picture: Composition) -> Mask:
    product, size = picture.staging.product, picture.image.width
    if isinstance(product, CutOut):
        return _edited(defect, picture)
    if (without := _WITHOUT.get(defect.changed or "")) is None:
        return _product(picture)
    assert isinstance(picture.staging.look, Look)
    found = np.zeros((size, size), bool)
    if defect.changed == "number" and picture.staging.look.word != product.look.word:
        without = _without_lettering
    for look in (product.look, picture.staging.look):
        found |= _part(product, look, without(look), picture)
    return found


def _without_lettering(look: Look) -> Look:
    return replace(look, number=" ", word=" ")


def _edited(defect: Defect, picture: Composition) -> Mask:
    """What an edit of a cut-out changed; the whole product for other changes."""
    product, look = picture.staging.product, picture.staging.look
    if not isinstance(product, CutOut) or not isinstance(look, CutOutLook):
        return _product(picture)
    if defect.kind not in EDITS or defect.kind in _EVERYWHERE:
        return _product(picture)
    index = [name for name, _, _ in look.edits].index(defect.kind)
    return _part(product, CutOutLook(look.edits[:index]), CutOutLook(look.edits[: index + 1]), picture)


def _part(product: Product | CutOut, one: Look | CutOutLook, other: Look | CutOutLook, picture: Composition) -> Mask:
    """Where two looks of the product differ, in the frame."""
    size, staging = picture.image.width, picture.staging
    first, second = flat_sprite(product, one, size), flat_sprite(product, other, size)
    canvas = (max(first.width, second.width), max(first.height, second.height))
    first, second = _on_canvas(first, canvas), _on_canvas(second, canvas)
    marked = _difference(first, second)
    outline = ImageChops.lighter(ImageChops.lighter(first.getchannel("A"), second.getchannel("A")), marked)
    sprite = Image.merge("RGBA", (marked, marked, marked, outline))
    if staging.width != 1:
        sprite = sprite.resize((max(1, round(sprite.width * staging.width)), sprite.height), Image.Resampling.BILINEAR)
    figure = posed(at_size(sprite, picture.place, size), staging)
    frame = Image.new("RGBA", (size, size), (0, 0, 0, 255))
    put(frame, figure, picture.standing)
    return np.asarray(frame.getchannel("R")) > _MARKED


def _on_canvas(sprite: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Both sprites of a product have its base in the middle of their last row."""
    canvas = Image.new("RGBA", size)
    canvas.paste(sprite, ((size[0] - sprite.width) // 2, size[1] - sprite.height))
    return canvas


def _difference(one: Image.Image, other: Image.Image) -> Image.Image:
    """White where two sprites differ. Transparent pixels have no colour."""
    pixels = [np.asarray(sprite, np.int16) for sprite in (one, other)]
    shown = [sprite[..., :3] * (sprite[..., 3:] / 255) for sprite in pixels]
    apart = np.maximum(np.abs(shown[0] - shown[1]).max(2), np.abs(pixels[0][..., 3] - pixels[1][..., 3]))
    return Image.fromarray(((apart > _CHANGED) * 255).astype(np.uint8))


# --- shadow -------------------------------------------------------------------------------------------------------


def _shadow(defect: Defect, picture: Composition) -> Mask:
    if defect.kind == "wrong_side":
        return _product(picture)
    staging = picture.staging
    if defect.kind == "missing":
        staging = replace(staging, shadows=[(staging.light, 1.0)])
    return _cast(staging, picture) & ~_product(picture)


def _cast(staging: Staging, picture: Composition) -> Mask:
    """Where the product's cast shadows are seen, on the ground and on the stage."""
    size, stage = picture.image.width, picture.stage
    ground = Floor(size)
    if stage is None:
        ground.product(staging, picture.body)
        return _above(ground.shadow * (grid(size)[1] > picture.horizon))
    face = Floor(size)
    face.product(staging, picture.body)
    own = Floor(size)
    own_shadow(own, stage, staging.light)
    for source, share in staging.shadows:
        ground.cast(raised(picture.body, stage), source, share)
    beyond = ground.shadow * (grid(size)[1] > picture.horizon)
    sprite, corner, top = draw_stage(stage, size, staging.light)
    hidden, upper = (_framed(mask, corner, size) for mask in (np.asarray(sprite.getchannel("A")) >= _SOLID, top > 0.5))
    return (_above(beyond) & ~_above(own.shadow) & ~hidden) | (_above(face.shadow) & upper)


def _above(shadow: NDArray[np.floating]) -> Mask:
    return np.asarray(shadow > _SHADED)


def _framed(mask: Mask, corner: tuple[int, int], size: int) -> Mask:
    """A mask whose corner is at a position of the frame."""
    frame = Image.new("L", (size, size))
    frame.paste(Image.fromarray((mask * 255).astype(np.uint8)), corner)
    return np.asarray(frame) > 127


# --- layout and extension -----------------------------------------------------------------------------------------


def _layout(_: Defect, picture: Composition) -> Mask:
    return _product(picture)


def _extension(defect: Defect, picture: Composition) -> Mask:
    for (name, _, _), item in zip(picture.staging.items, picture.items, strict=True):
        if name == defect.kind:
            seen = _pasted(item.sprite, item.at, picture.image.width)
            return seen & ~_product(picture) if item.behind else seen
    return _edited(defect, picture)


_FINDERS: Mapping[Dimension, Callable[[Defect, Composition], Mask]] = {
    Dimension.APPEARANCE: _appearance,
    Dimension.SHADOW: _shadow,
    Dimension.LAYOUT: _layout,
    Dimension.EXTENSION: _extension,
}
"""Dimension → where a defect of it is. The region of any other dimension is the product."""
