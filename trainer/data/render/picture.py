"""Draw one picture: the original photo, or a generated scene with its planned defects.

All lengths are shares of the frame, so the same seed gives the same picture at every size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from screening.task import Dimension
from trainer.data.render.composition import COARSE, Composition, compose_scene, grained, lit
from trainer.data.render.cutouts import CutOut
from trainer.data.render.defects import Plan, apply_plan, dimensions_of, vary
from trainer.data.render.figure import AnyProduct, Place, figure_of, flat_sprite, put
from trainer.data.render.light import Light, body_of, contact, draw_light, grid
from trainer.data.render.packaging import Look
from trainer.data.render.products import Product
from trainer.data.render.scenes import SETTINGS, Setting
from trainer.data.render.staging import Defect, Staging
from trainer.data.render.words import caption

_CENTRED = ("doubled", "grown", "continued", "attached")
"""Defects of products in photos that need room on both sides."""


@dataclass(frozen=True)
class Shot:
    """A picture and the facts about it."""

    image: Image.Image
    caption: str
    attributes: Mapping[str, str]
    """Attributes of the product as rendered; a recoloured cap has its new colour here."""
    defects: tuple[Defect, ...]
    setting: str
    light: str | None
    """Side of the light: `left`, `right`, or None for the original photo."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """Proportions and shades as rendered, which captions cannot express; see `Product.measures`. Empty for cut-outs."""
    composition: Composition | None = field(default=None, repr=False, compare=False)
    """Where everything is; None for the original photo."""

    @property
    def usable(self) -> bool:
        return not self.defects


def draw_original(product: AnyProduct, rng: np.random.Generator, size: int) -> Shot:
    """Draw the product photo: centred on white, lit from the front, 75-85 % of the frame high.

    The original of a product in a photo is the photo.
    """
    if isinstance(product, CutOut):
        text = caption(product.attributes, "in a product photo", None, ())
        return Shot(product.photo, text, product.attributes, (), "original", None)
    tone = int(rng.integers(245, 256))
    sprite = flat_sprite(product, product.look, size)
    height = min(float(rng.uniform(0.75, 0.85)), 0.9 * sprite.height / sprite.width)
    place = Place(0.5 + float(rng.uniform(-0.01, 0.01)), 0.5 + height / 2 + 0.015, height)
    front = Light(0, strength=0.9)
    image = Image.new("RGB", (size, size), (tone, tone, tone))
    figure = figure_of(product, sprite, place, front, size)
    body = body_of(figure.getchannel("A"), place.x, place.y, size)
    n = size // COARSE
    # Like two soft boxes, this light has no direction and leaves only a shade on the paper around the base.
    xs, ys = grid(n)
    wide = np.exp(-(((xs - place.x) / (body.foot * 1.7)) ** 2 + ((ys - place.y) / 0.05) ** 2))
    gain = (1 - 0.22 * wide) * (1 - 0.5 * contact(n, place.x + float(body.centres[:3].mean()), place.y, body.foot))
    image = lit(image, gain.astype(np.float32))
    put(image, figure, place)
    drawn = _words(product, product.look)
    text = caption(drawn, "on a white background", None, ())
    return Shot(grained(image, rng), text, drawn, (), "original", None, _measures(product, product.look))


def draw_generated(
    product: AnyProduct,
    rng: np.random.Generator,
    size: int,
    plan: Plan = (),
    *,
    setting: Setting | str | None = None,
    varied: bool = False,
    kind_weights: Mapping[str, float] | None = None,
) -> Shot:
    """Draw a scene with the product. The picture is usable if the plan is empty.

    Args:
        plan: dimension (or kind) and severity (1-3) of each defect.
        setting: a setting, or a name in scenes.SETTINGS; None chooses at random.
        varied: change several attributes of the product instead of following a plan; see `vary`.
        kind_weights: see `apply_plan`.

    Raises:
        KeyError: the setting is unknown.
        ValueError: the plan is impossible; see `apply_plan`.
    """
    if setting is None:
        setting = list(SETTINGS)[int(rng.integers(len(SETTINGS)))]
    scene = SETTINGS[setting] if isinstance(setting, str) else setting
    light = draw_light(rng)
    side = (-1, 0, 0, 1)[
        int(rng.integers(4))
    ]  # product in the left half, in the middle with room above, or in the right half
    if side:
        light = _facing(light, side, plan, rng)
    staging = Staging(product, product.look, light, light, [(light, 1.0)], staged=bool(scene.stage))
    # Defects of a photo have a stream of their own, so that the scene is the same with and without them.
    choices = rng.spawn(1)[0] if isinstance(product, CutOut) else rng
    defects = vary(staging, rng) if varied else apply_plan(staging, plan, choices, kind_weights)
    if isinstance(product, CutOut) and any(d.kind in _CENTRED for d in defects):
        side = 0
    if side and any(d.kind == "mirrored" for d in defects):
        # The wrong shadow must fall inside the picture.
        _turn(staging, side)
    composition = compose_scene(staging, scene, side, rng, size)
    drawn = _words(product, staging.look)
    seen = [d.comment for d in defects if d.dimension is not Dimension.APPEARANCE]
    text = caption(drawn, scene.phrase, staging.light.name, seen)
    measures = _measures(product, staging.look, staging.width)
    return Shot(composition.image, text, drawn, defects, scene.name, staging.light.name, measures, composition)


def _facing(light: Light, side: int, plan: Plan, rng: np.random.Generator) -> Light:
    """Choose a light from the product's own half for most pictures, so that shadows fall inside the picture."""
    chance = rng.random()
    inward = Dimension.SHADOW in dimensions_of(plan) or chance < 0.75
    return replace(light, side=side if inward else -side)


def _turn(staging: Staging, side: int) -> None:
    """Mirror the light so that the product's shadow falls away from the edge `side`."""
    if staging.shadows and -staging.shadows[0][0].side != -side:
        staging.light, staging.shading = staging.light.mirrored(), staging.shading.mirrored()
        staging.shadows = [(shadow.mirrored(), share) for shadow, share in staging.shadows]


def _words(product: AnyProduct, look: object) -> dict[str, str]:
    return dict(look.words) if isinstance(look, Look) else dict(product.attributes)


def _measures(product: AnyProduct, look: object, width: float = 1.0) -> dict[str, float]:
    return product.measures(look, width) if isinstance(product, Product) and isinstance(look, Look) else {}
