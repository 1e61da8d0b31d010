"""Place small objects: the reference object in the background, and invented items in the foreground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from trainer.data.render import props
from trainer.data.render.cutouts import CutOut
from trainer.data.render.figure import Place, flat_sprite, scaled
from trainer.data.render.light import Body, Light, shade
from trainer.data.render.packaging import Look
from trainer.data.render.scenes import Setting, Stage
from trainer.data.render.staging import Staging


def place_reference(
    scene: Setting, staging: Staging, place: Place, horizon: float, light: Light, rng: np.random.Generator, size: int
) -> tuple[Image.Image, Place] | None:
    """A small muted object in the background at the edge of the picture, in about 60 % of scenes."""
    chance, pick, tone = rng.random(), int(rng.integers(12)), int(rng.integers(5))
    height, edge = float(rng.uniform(0.085, 0.13)), float(rng.uniform(0.05, 0.1))
    if not scene.references or (chance > 0.6 and not staging.show_reference):
        return None
    kind = scene.references[pick % len(scene.references)]
    sprite = props.reference(kind, tone, light.side)
    if kind == "stone":
        height *= 0.6
    # Placed on the side away from the product, with room for its shadow.
    right = place.x < 0.5 if abs(place.x - 0.5) > 0.08 else light.side > 0
    outward = right == (light.side < 0)
    inset = edge + (0.09 if outward else 0.02)
    at = Place(1 - inset if right else inset, horizon + 0.055 + 0.3 * edge, height)
    tall = max(3, round(height * size))
    thing = sprite.resize((max(3, round(sprite.width * tall / sprite.height)), tall), Image.Resampling.BOX)
    return thing, at


@dataclass(frozen=True)
class Placed:
    """An invented item and its position."""

    sprite: Image.Image
    at: Place
    behind: bool = False
    """Whether the product hides a part of it."""
    on_ground: bool = False
    """Whether it stands beside the product and casts a shadow."""


def place_item(
    item: tuple[str, float, int],
    staging: Staging,
    body: Body,
    place: Place,
    stage: Stage | None,
    light: Light,
    rng: np.random.Generator,
    size: int,
) -> Placed:
    """Place an invented item (kind, size 0-1, variant) beside, on or around the product."""
    kind, salience, variant = item
    standing = Place(place.x, place.y - staging.gap * place.height, body.height - body.lift)
    roomy = 1 if place.x < 0.5 or (place.x == 0.5 and variant % 2) else -1
    if kind in ("handle", "spout"):
        return _attached(kind, salience, staging, body, standing, roomy, light, size)
    if kind in ("bow", "sticker"):
        return _stuck_on(kind, salience, variant, body, standing, roomy, size)
    if kind == "sparkles":
        return _sparkles(float(body.widths.max()), salience, standing, rng, size)
    if kind == "second_product":
        product = staging.product
        tall = place.height * (0.34 + 0.2 * salience)
        flat = scaled(flat_sprite(product, product.look, size), tall, size)
        sprite = shade(flat, product.surface, light.side, light.strength, product.gloss)
    else:
        tall = (0.115 + 0.085 * salience) * props.ITEMS[kind]
        sprite = scaled(props.item(kind, variant, light.side), tall, size)
    width = sprite.width / size
    ground = place.y + 0.03 + 0.02 * salience
    if stage is not None:  # on the floor in front of the stage
        ground = stage.y + stage.height + stage.depth + 0.02
    x = place.x + roomy * (float(body.widths.max()) + width / 2 + 0.015)
    x = min(max(x, width / 2 + 0.01), 0.99 - width / 2)
    return Placed(sprite, Place(x, min(ground, 0.985), tall), on_ground=True)


def _attached(
    kind: str, salience: float, staging: Staging, body: Body, standing: Place, roomy: int, light: Light, size: int
) -> Placed:
    """A handle or spout in the body's own colour, at its side."""
    colour = staging.look.body if isinstance(staging.look, Look) else (150, 150, 150)
    if isinstance(staging.product, CutOut):
        colour = staging.product.colour
    sprite = (props.handle if kind == "handle" else props.spout)(colour, light.side * roomy)
    tall = standing.height * (0.28 + 0.2 * salience) * (1.2 if kind == "handle" else 0.8)
    level = standing.height * (0.42 if kind == "handle" else 0.55)
    edge = float(np.interp(level + body.lift, body.heights, body.widths))
    thing = scaled(sprite, tall, size)
    if roomy < 0:  # lit before it was mirrored, so its light must be mirrored too
        thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    x = standing.x + roomy * (edge * 0.94 + thing.width / size / 2)
    return Placed(thing, Place(x, standing.y - level + 0.2 * standing.height, tall), behind=True)


def _stuck_on(kind: str, salience: float, variant: int, body: Body, standing: Place, roomy: int, size: int) -> Placed:
    """A bow near the top or a price badge near the base."""
    half = float(body.widths.max())
    if kind == "sticker":
        half = min(half, standing.height / 2)
    sprite = props.bow(variant) if kind == "bow" else props.sticker(variant)
    wide = half * 2 * (0.42 + 0.4 * salience)
    thing = scaled(sprite, wide * sprite.height / sprite.width, size)
    if kind == "bow":
        return Placed(thing, Place(standing.x, standing.y - standing.height * 0.7, wide))
    return Placed(thing, Place(standing.x + roomy * half * 0.62, standing.y - standing.height * 0.06, wide))


def _sparkles(half: float, salience: float, standing: Place, rng: np.random.Generator, size: int) -> Placed:
    """A transparent layer with three to seven sparkles, alternately to the right and the left of the product."""
    wide, tall = half * 2 + 0.24, standing.height + 0.08
    sheet = Image.new("RGBA", (max(8, round(wide * size)), max(8, round(tall * size))), (255, 206, 60, 0))
    for i in range(3 + round(4 * salience)):
        edge = max(4, round((0.075 + 0.05 * salience) * float(rng.uniform(0.8, 1.2)) * size))
        star = props.sparkle().resize((edge, edge), Image.Resampling.BOX)
        level, offset = float(rng.uniform(0.0, 0.8)) * tall, 0.06 * float(rng.uniform(0.0, 1.0))
        x = wide - 0.12 + offset if i % 2 == 0 else offset
        corner = (min(round(x * size), sheet.width - edge), min(round(level * size), sheet.height - edge))
        sheet.alpha_composite(star, (max(0, corner[0]), max(0, corner[1])))
    return Placed(sheet, Place(standing.x, standing.y, tall))
