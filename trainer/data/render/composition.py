"""Draw one generated picture from its plan: background, light map, stage, small objects, product.

Light and shadows are computed on a coarse grid and enlarged: they are soft, and they take most of the time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.render import textures
from trainer.data.render.cutouts import CutOut
from trainer.data.render.figure import Place, figure_of, flat_sprite, placed, put
from trainer.data.render.floor import Floor, below
from trainer.data.render.light import FORESHORTENING, Body, Light, body_of, contact, grid
from trainer.data.render.placing import Placed, place_item, place_reference
from trainer.data.render.scenes import Setting, Stage, draw_background, draw_stage
from trainer.data.render.staging import Staging

Floats = NDArray[np.float32]

COARSE = 3
"""Pixels per cell of the light grid."""
_CHANGED = 0.02
"""Change of one side of a product that counts, as a share of its height."""
_STAGES = {"podium": (190, 184, 176), "plinth": (238, 238, 236)}


@dataclass(frozen=True)
class Composition:
    """A picture and where everything in it is, from which `regions` finds the boxes of its defects."""

    image: Image.Image
    staging: Staging
    place: Place
    figure: Image.Image
    """The lit product at its size, whose bottom centre stands at `standing`."""
    body: Body
    stage: Stage | None
    horizon: float
    items: tuple[Placed, ...]
    """The invented items, in the order of `staging.items`."""

    @property
    def standing(self) -> Place:
        """Where the product is drawn; a floating one is above its place on the ground."""
        return replace(self.place, y=self.place.y - self.staging.gap * self.place.height)


def compose_scene(staging: Staging, scene: Setting, side: int, rng: np.random.Generator, size: int) -> Composition:
    """Draw the picture.

    Args:
        side: -1 places the product in the left half, 0 in the middle with room above, 1 in the right half.
    """
    light, n = staging.light, size // _cell(staging)
    sprite = flat_sprite(staging.product, staging.look, size)
    if staging.width != 1:
        sprite = sprite.resize((max(1, round(sprite.width * staging.width)), sprite.height), Image.Resampling.BILINEAR)
    place = _displaced(placed(staging, sprite, side, rng, size), staging, sprite)
    image, horizon = draw_background(scene, rng, size, light)
    gain = _ambience(n, light, horizon if scene.picture is None else None, rng)
    figure = figure_of(staging.product, sprite, place, staging.shading, size, staging)
    body = body_of(figure.getchannel("A"), place.x, place.y, size, staging.gap * place.height)
    solid = _solid(figure, place, size, n) if isinstance(staging.product, CutOut) and not staging.gap else None
    stage = _stage(scene, staging, body, place, rng) if scene.stage else None
    reference = place_reference(scene, staging, place, horizon, light, rng, size)
    items = tuple(place_item(item, staging, body, place, stage, light, rng, size) for item in staging.items)

    floor = Floor(n)
    for thing, at in [*([reference] if reference else []), *((i.sprite, i.at) for i in items if i.on_ground)]:
        floor.thing(thing, at, light, size)
    if stage is None:
        floor.product(staging, body, solid)
    else:
        below(floor, stage, staging, body)
    floor.shadow *= np.clip((grid(n)[1] - horizon) / 0.03, 0, 1)
    if staging.cut:
        # A sunk product pushes up the ground, which shows as a bright rim in front of a dark gap.
        gain = gain * (1 + 0.3 * contact(n, body.x, place.y + 0.03, body.foot * 1.2))
    image = lit(image, gain * floor.gain(light.strength))

    if reference is not None:
        put(image, *reference)
    if stage is not None:
        _put_stage(image, stage, staging, body, light, size)
    standing = (figure, replace(place, y=place.y - staging.gap * place.height))
    behind = [(i.sprite, i.at) for i in items if i.behind]
    for sprite, at in [*behind, standing, *((i.sprite, i.at) for i in items if not i.behind)]:
        put(image, sprite, at)
    return Composition(grained(image, rng), staging, place, figure, body, stage, horizon, items)


def _displaced(place: Place, staging: Staging, sprite: Image.Image) -> Place:
    """The place of a product that is too small, or partly beyond an edge of the picture.

    That is the nearer edge, or if another defect changed one side of the product, the edge at its other side.
    """
    product, place = staging.product, replace(place, height=place.height * staging.scale)
    if not staging.beyond or not isinstance(product, CutOut):
        return place
    columns = np.flatnonzero(np.asarray(sprite.getchannel("A")).max(0) > 127)
    # In pixels from the middle of the sprite: what is seen, and the right side of the product without other defects.
    left, right = float(columns[0]) - sprite.width / 2, float(columns[-1]) + 1 - sprite.width / 2
    own = product.ratio * staging.width * sprite.height / 2
    change = abs(right - own) - abs(left + own)
    at_left = change > 0 if abs(change) > _CHANGED * sprite.height else place.x < 0.5
    inset, aside = (right - left) / 2 * (1 - 2 * staging.beyond), (left + right) / 2
    scale = place.height / sprite.height
    return replace(place, x=(inset - aside) * scale if at_left else 1 - (inset + aside) * scale)


def _cell(staging: Staging) -> int:
    """Pixels per cell of the light grid. A hard shadow needs a fine one."""
    return 1 if any(light.hardness > 1 for light, _ in staging.shadows) else COARSE


def _solid(figure: Image.Image, place: Place, size: int, n: int) -> NDArray[np.bool_]:
    """The pixels of the product on a grid of n x n cells."""
    frame = Image.new("RGBA", (size, size))
    put(frame, figure, place)
    return np.asarray(frame.getchannel("A").resize((n, n), Image.Resampling.BOX)) >= 100


def _stage(scene: Setting, staging: Staging, body: Body, place: Place, rng: np.random.Generator) -> Stage:
    foot = body.foot
    half = max(float(rng.uniform(0.24, 0.3)), foot * 1.3 + 0.04)
    x = place.x + float(rng.uniform(-0.02, 0.02))
    if staging.overhang:
        beyond = 1 if place.x < 0.5 else -1  # beyond the edge on the side with more room
        half = max(0.24, foot * 1.05)
        x = place.x + beyond * (foot * (1 - 2 * staging.overhang) - half)
    height = float(rng.uniform(0.1, 0.13))
    colour = _STAGES[scene.stage]
    depth = half * (FORESHORTENING * 0.72) if scene.stage == "podium" else 0.05
    return Stage(scene.stage, x, place.y - 0.01, half, min(depth, 0.085), height, colour)


def _put_stage(image: Image.Image, stage: Stage, staging: Staging, body: Body, light: Light, size: int) -> None:
    """Paste the stage with the product's shadow on its upper face."""
    sprite, corner, face = draw_stage(stage, size, light)
    top_face = Floor(size // COARSE)
    top_face.product(staging, body)
    full = np.asarray(Image.fromarray(top_face.gain(light.strength)).resize((size, size), Image.Resampling.BILINEAR))
    pixels = np.array(sprite)
    top, left = corner[1], corner[0]
    rows, columns = np.arange(pixels.shape[0]) + top, np.arange(pixels.shape[1]) + left
    local = full[np.clip(rows, 0, size - 1)[:, None], np.clip(columns, 0, size - 1)[None, :]]
    pixels[..., :3] = pixels[..., :3] * (1 - face * (1 - local))[..., None]
    image.paste(Image.fromarray(pixels), corner, Image.fromarray(pixels[..., 3]))


def _ambience(n: int, light: Light, horizon: float | None, rng: np.random.Generator) -> Floats:
    """Brightness without shadows. It decreases away from the light, and the foot of the wall is slightly darker.

    Args:
        horizon: foot of the wall; None in a picture of a real scene.
    """
    xs, ys = grid(n)
    slope, level = float(rng.uniform(0.24, 0.36)), float(rng.uniform(0.97, 1.05))
    field = level * (1 + slope * light.side * (xs - 0.5)) * (1.03 - 0.08 * np.abs(ys - 0.6))
    if horizon is None:
        return np.asarray(field * (1 + 0.2 * light.side * (xs - 0.5)), np.float32)
    foot = 1 - 0.07 * np.exp(-(((ys - horizon) / 0.02) ** 2))
    return np.asarray(field * foot, np.float32)


def lit(image: Image.Image, gain: Floats) -> Image.Image:
    full = np.asarray(Image.fromarray(gain).resize(image.size, Image.Resampling.BICUBIC))
    pixels = np.asarray(image) * full[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def grained(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Fine sensor noise, and a slightly warm or cool light."""
    bank, size = textures.grain(), image.width
    x, y = int(rng.integers(128)), int(rng.integers(128))
    warm = float(rng.uniform(-3, 3))
    if size > bank.shape[0] - 128:  # larger pictures repeat the noise
        bank = np.tile(bank, (-(-(size + 128) // bank.shape[0]),) * 2 + (1,))
    pixels = np.asarray(image).astype(np.int16) + bank[y : y + size, x : x + size]
    pixels += np.rint(np.array([warm, 0, -warm])).astype(np.int16)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
