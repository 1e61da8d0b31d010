"""Small objects: muted reference objects that belong to a setting, and invented items that do not belong there.

The two are easy to distinguish on purpose. A reference object is grey or clay, small, and in the background at the edge
of the picture. An invented item is colourful, in the foreground, and beside or on the product.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from trainer.data.render.light import shade
from trainer.data.render.marks import text_mask

Rgb = tuple[int, int, int]

_TALL = 160
"""Height in pixels at which small objects are rendered before they are scaled down."""

_CLAYS: tuple[Rgb, ...] = ((176, 170, 162), (196, 180, 160), (150, 150, 152), (206, 200, 192), (170, 148, 130))


@lru_cache(maxsize=64)
def reference(kind: str, tone: int, side: int) -> Image.Image:
    """A lit reference object; its base is the last row."""
    colour = (*_CLAYS[tone % len(_CLAYS)], 255)
    w, h = {"stone": (220, 110), "cylinder": (100, 170), "cube": (150, 140), "vase": (110, 190)}[kind]
    image = Image.new("RGBA", (w, h), (*colour[:3], 0))
    draw = ImageDraw.Draw(image)
    if kind == "stone":
        draw.polygon(
            [
                (
                    w / 2 + w / 2 * cos(t) * (1 - 0.1 * sin(3 * t)),
                    h * 0.58 - h * 0.55 * sin(t) * (1.0 if sin(t) > 0 else 0.72),
                )
                for t in (i * pi / 24 for i in range(48))
            ],
            fill=colour,
        )
    elif kind == "vase":
        y = np.linspace(0, 1, 30)
        half = w / 2 * (0.45 + 0.53 * np.sin(np.clip((y - 0.12) / 0.88, 0, 1) * pi * 0.92) ** 0.8)
        points = [(w / 2 + v, t * h) for t, v in zip(y, half, strict=True)]
        draw.polygon(points + [(w - x, t) for x, t in reversed(points)], fill=colour)
    else:
        draw.rectangle((0, 0, w, h), fill=colour)
    return shade(image, "box" if kind == "cube" else "round", side, 1.0, 0.15, front_share=0.4)


ITEMS: dict[str, float] = {"fruit": 1.0, "flower": 1.7, "spoon": 1.25, "pills": 0.7, "ball": 1.0, "coins": 0.75}
"""Objects that may lie beside the product → height, relative to the item's size."""

_FRUITS: tuple[Rgb, ...] = ((226, 52, 40), (246, 146, 26), (250, 216, 50), (110, 180, 50))
_BALLS: tuple[Rgb, ...] = ((230, 60, 60), (50, 120, 220), (250, 200, 40), (150, 80, 190))


@lru_cache(maxsize=128)
def item(kind: str, variant: int, side: int) -> Image.Image:
    """A lit invented item; its base is the last row."""
    return _ITEM_DRAWERS[kind](variant, side)


def _ball_image(colour: Rgb, side: int, diameter: int) -> Image.Image:
    """A lit sphere."""
    y, x = np.mgrid[-1 : 1 : diameter * 1j, -1 : 1 : diameter * 1j]
    r2 = x * x + y * y
    z = np.sqrt(np.clip(1 - r2, 0, 1))
    light = np.clip(0.55 * side * x - 0.5 * y + 0.67 * z, 0, 1)
    lit = (
        np.array(colour)[None, None] * (0.42 + 0.68 * light)[..., None] + 120 * (np.clip(light, 0, 1) ** 30)[..., None]
    )
    alpha = np.clip((1 - np.sqrt(r2)) * diameter / 2 + 0.5, 0, 1) * 255
    return Image.fromarray(np.concatenate([np.clip(lit, 0, 255), alpha[..., None]], 2).astype(np.uint8))


def _fruit(variant: int, side: int) -> Image.Image:
    image = Image.new("RGBA", (_TALL, _TALL), (0, 0, 0, 0))
    image.paste(_ball_image(_FRUITS[variant % 4], side, 140), (10, 20))
    draw = ImageDraw.Draw(image)
    draw.line((80, 30, 88, 2), fill=(96, 66, 36, 255), width=7)
    draw.ellipse((86, 2, 136, 24), fill=(74, 146, 52, 255))
    return image


def _flower(variant: int, side: int) -> Image.Image:
    petal = ((240, 96, 150), (252, 210, 60), (235, 235, 245), (190, 90, 210))[variant % 4]
    w, h = 150, 255
    image = Image.new("RGBA", (w, h), (60, 140, 60, 0))
    draw = ImageDraw.Draw(image)
    draw.rectangle((71, 80, 79, h), fill=(64, 140, 60, 255))
    draw.ellipse((78, 150, 140, 182), fill=(78, 158, 66, 255))
    draw.ellipse((14, 180, 74, 210), fill=(78, 158, 66, 255))
    for i in range(6):
        x, y = 75 + 40 * cos(i * pi / 3), 75 + 40 * sin(i * pi / 3)
        draw.ellipse(
            (x - 31, y - 31, x + 31, y + 31), fill=(*petal, 255), outline=(*(int(v * 0.8) for v in petal), 255)
        )
    draw.ellipse((53, 53, 97, 97), fill=(236, 170, 40, 255))
    return image


def _spoon(variant: int, side: int) -> Image.Image:
    """A spoon that leans with its bowl down, because an upright one would look odd in perspective."""
    image = Image.new("RGBA", (120, 200), (190, 194, 200, 0))
    draw = ImageDraw.Draw(image)
    metal = ((196, 200, 206), (214, 178, 96), (176, 130, 86), (196, 200, 206))[variant % 4]
    draw.line((92, 6, 52, 140), fill=(*metal, 255), width=13)
    draw.ellipse((14, 116, 84, 198), fill=(*metal, 255))
    draw.ellipse((24, 126, 74, 188), fill=(*(int(v * 0.72) for v in metal), 255))
    return image


def _pills(variant: int, side: int) -> Image.Image:
    image = Image.new("RGBA", (260, 130), (240, 240, 240, 0))
    one, two = (
        ((228, 60, 60), (250, 250, 250)),
        ((60, 120, 220), (250, 220, 80)),
        ((70, 170, 90), (250, 250, 250)),
        ((244, 140, 40), (250, 250, 250)),
    )[variant % 4]
    for x, y in ((6, 60), (136, 66), (70, 10)):
        capsule = Image.new("RGBA", (118, 60), (0, 0, 0, 0))
        draw = ImageDraw.Draw(capsule)
        draw.rounded_rectangle((0, 0, 117, 59), 29, fill=(*one, 255))
        draw.rounded_rectangle((59, 0, 117, 59), 29, fill=(*two, 255))
        draw.rectangle((50, 0, 78, 59), fill=(*two, 255))
        draw.rectangle((18, 8, 100, 16), fill=(255, 255, 255, 110))
        draw.rectangle((12, 47, 106, 55), fill=(0, 0, 0, 50))
        image.alpha_composite(capsule, (x, y))
    return image


def _toy(variant: int, side: int) -> Image.Image:
    image = _ball_image(_BALLS[variant % 4], side, _TALL)
    band = Image.new("RGBA", image.size, (250, 250, 250, 0))
    ImageDraw.Draw(band).arc((-60, 50, 220, 200), 190, 350, fill=(250, 250, 250, 235), width=20)
    band.putalpha(Image.composite(band.getchannel("A"), Image.new("L", image.size, 0), image.getchannel("A")))
    image.alpha_composite(band)
    return image


def _coins(variant: int, side: int) -> Image.Image:
    image = Image.new("RGBA", (150, 120), (214, 170, 60, 0))
    draw = ImageDraw.Draw(image)
    for i in range(5):
        y = 96 - i * 19
        x = 6 + (i * 37 + variant * 11) % 9
        draw.rectangle((x, y - 10, x + 130, y + 5), fill=(206, 160, 50, 255))
        draw.ellipse((x, y - 8, x + 130, y + 20), fill=(190, 142, 40, 255))
        draw.ellipse((x, y - 24, x + 130, y + 6), fill=(238, 198, 84, 255), outline=(168, 124, 34, 255), width=3)
    return shade(image, "round", side, 0.7, 0.3)


_ITEM_DRAWERS: dict[str, Callable[[int, int], Image.Image]] = {
    "fruit": _fruit,
    "flower": _flower,
    "spoon": _spoon,
    "pills": _pills,
    "ball": _toy,
    "coins": _coins,
}

_GIFTS: tuple[Rgb, ...] = ((214, 40, 60), (60, 110, 210), (240, 190, 50), (236, 120, 170))


@lru_cache(maxsize=16)
def bow(variant: int) -> Image.Image:
    """A ribbon bow, 240 x 150."""
    colour = _GIFTS[variant % 4]
    dark = tuple(int(v * 0.7) for v in colour)
    image = Image.new("RGBA", (240, 150), (*colour, 0))
    draw = ImageDraw.Draw(image)
    draw.polygon([(110, 60), (70, 148), (100, 140), (124, 70)], fill=(*dark, 255))
    draw.polygon([(130, 60), (170, 148), (140, 140), (116, 70)], fill=(*dark, 255))
    for k in (-1, 1):
        draw.polygon(
            [(120, 55), (120 + k * 60, 4), (120 + k * 116, 18), (120 + k * 116, 96), (120 + k * 60, 106)],
            fill=(*colour, 255),
        )
        draw.polygon([(120, 55), (120 + k * 70, 40), (120 + k * 100, 56), (120 + k * 70, 70)], fill=(*dark, 255))
    draw.ellipse((98, 34, 142, 78), fill=(*colour, 255), outline=(*dark, 255), width=4)
    return image


@lru_cache(maxsize=16)
def sticker(variant: int) -> Image.Image:
    """A jagged price badge, 160 x 160."""
    colour = ((240, 60, 40), (250, 200, 20), (30, 150, 90), (240, 90, 160))[variant % 4]
    image = Image.new("RGBA", (160, 160), (*colour, 0))
    points = [
        (80 + (78 if i % 2 else 66) * cos(i * pi / 16), 80 + (78 if i % 2 else 66) * sin(i * pi / 16))
        for i in range(32)
    ]
    ImageDraw.Draw(image).polygon(points, fill=(*colour, 255))
    mask = text_mask("SALE")
    mask = mask.resize((104, round(104 * mask.height / mask.width)), Image.Resampling.BILINEAR)
    ink = (30, 30, 30, 255) if variant % 4 == 1 else (255, 255, 255, 255)
    image.paste(ink, (28, 80 - mask.height // 2), mask)
    return image


@lru_cache(maxsize=1)
def sparkle() -> Image.Image:
    """A four-pointed sparkle, 120 x 120."""
    image = Image.new("RGBA", (120, 120), (255, 206, 60, 0))
    draw = ImageDraw.Draw(image)
    for scale, colour in ((1.0, (255, 196, 30, 255)), (0.6, (255, 246, 190, 255))):
        points = [
            (
                60 + (58 if i % 2 == 0 else 13) * scale * cos(i * pi / 4),
                60 + (58 if i % 2 == 0 else 13) * scale * sin(i * pi / 4),
            )
            for i in range(8)
        ]
        draw.polygon(points, fill=colour)
    return image


@lru_cache(maxsize=64)
def handle(colour: Rgb, side: int) -> Image.Image:
    """A ring to the right of x = 0, 100 x 200: a mug's handle."""
    image = Image.new("RGBA", (100, 200), (*colour, 0))
    ImageDraw.Draw(image).ellipse((-84, 6, 94, 194), outline=(*colour, 255), width=26)
    return shade(image, "round", side, 0.8, 0.4)


@lru_cache(maxsize=64)
def spout(colour: Rgb, side: int) -> Image.Image:
    """A watering can's spout to the right of x = 0, 120 x 150."""
    image = Image.new("RGBA", (120, 150), (*colour, 0))
    draw = ImageDraw.Draw(image)
    draw.polygon([(0, 90), (70, 14), (60, 4), (112, 0), (118, 34), (100, 32), (0, 150)], fill=(*colour, 255))
    return shade(image, "soft", side, 0.8, 0.2)
