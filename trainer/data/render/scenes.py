"""Settings of generated pictures: walls, grounds, blurred background objects, and the stage below a product."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from trainer.data.render import textures
from trainer.data.render.light import Light, shade
from trainer.data.render.views import another_view

Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class Setting:
    """One kind of setting."""

    name: str
    phrase: str
    """The phrase for captions."""
    ground: str
    """Material of the ground: one of textures.py, or `sweep` for seamless paper."""
    wall: str
    """Material of the wall, `sweep`, or `blur` for a distant view that consists of background objects only."""
    dressing: str = ""
    """Blurred objects in the background."""
    stage: str = ""
    """Stage in all pictures of this setting: `podium` (round) or `plinth` (box)."""
    references: tuple[str, ...] = ("stone", "cylinder", "cube")
    """Small sharp objects in the background that show the direction of shadows."""
    picture: Image.Image | None = field(default=None, repr=False, compare=False)
    """Picture of a real scene, a square, that takes the place of the rendered wall and ground; None to render them."""


def real_setting(name: str, picture: Image.Image) -> Setting:
    """The setting that a reference picture shows. Its lower third must be a surface on which a product can stand."""
    return Setting(name, "in the scene of a reference picture", "", "", references=(), picture=picture)


SETTINGS: dict[str, Setting] = {
    s.name: s
    for s in (
        Setting("studio", "on a studio sweep", "sweep", "sweep", references=("cylinder", "cube")),
        Setting("table", "on a wooden table", "wood", "plaster", "plants", references=("vase", "cube")),
        Setting("marble", "on a marble counter", "marble", "plaster", "bath", references=("vase", "cylinder")),
        Setting("bathroom", "in a tiled bathroom", "terrazzo", "tiles", "", references=("cylinder", "vase")),
        Setting("podium", "on a stone podium", "sweep", "sweep", "", "podium", references=("cylinder", "stone")),
        Setting("plinth", "on a white plinth", "concrete", "plaster", "", "plinth", references=("cube", "cylinder")),
        Setting("shelf", "on a wooden shelf", "wood", "concrete", "frames", references=("vase", "cube")),
        Setting("cloth", "on a linen cloth", "cloth", "plaster", "plants", references=("vase", "stone")),
        Setting("grass", "on green grass", "grass", "blur", "meadow", references=("stone",)),
        Setting("kitchen", "in a kitchen", "marble", "blur", "kitchen", references=("vase", "cylinder")),
        Setting("window", "by a window", "wood", "blur", "window", references=("vase", "cube")),
        Setting("beach", "on a sandy beach", "sand", "blur", "sea", references=("stone",)),
        Setting("concrete", "on a concrete floor", "concrete", "concrete", "", references=("cube", "cylinder")),
        Setting("slate", "on grey slate", "slate", "plaster", "plants", references=("stone", "vase")),
        Setting("terrazzo", "on a terrazzo top", "terrazzo", "sweep", "", references=("cylinder", "cube")),
    )
}
"""All settings. Their phrases are fixed, so that captions use few words."""


_PAPERS: tuple[Rgb, ...] = (
    (236, 218, 206),
    (208, 222, 232),
    (222, 214, 232),
    (214, 228, 212),
    (240, 226, 190),
    (226, 226, 224),
    (232, 206, 206),
    (198, 218, 216),
)
_REAL_HORIZON = 0.6
"""Assumed border of wall and ground in a reference picture."""
_FAR = 40
"""Width in pixels of a distant, blurred view before it is enlarged."""


def draw_background(setting: Setting, rng: np.random.Generator, size: int, light: Light) -> tuple[Image.Image, float]:
    """Draw wall and ground without light; returns the picture and the height y of their border (share of the frame)."""
    if setting.picture is not None:
        view = another_view(setting.picture.resize((size, size)), rng).clip(0, 255).round().astype(np.uint8)
        return Image.fromarray(view), _REAL_HORIZON
    horizon = float(rng.uniform(0.54, 0.62))
    if setting.dressing == "sea" or setting.dressing == "meadow":
        horizon -= 0.06
    paper = _PAPERS[int(rng.integers(len(_PAPERS)))]
    image = _sweep(paper, rng, size, horizon)
    line = round(horizon * size)
    if setting.wall == "blur":
        image.paste(_far(setting.dressing, (200, 200, 196), rng, light, (size, line), horizon), (0, 0))
    elif setting.wall != "sweep":
        variant, box = int(rng.integers(textures.VARIANTS)), _crop(rng, textures.SIDE, textures.SIDE, 0.62)
        wall = textures.wall(setting.wall, variant)
        if setting.dressing:
            colour = wall.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
            far = _far(setting.dressing, colour, rng, light, (size, line), horizon)  # type: ignore[arg-type]
            image.paste(far, (0, 0))
        else:
            # The background is out of focus, so a third of the pixels is enough.
            image.paste(
                wall.resize((size // 3, line // 3), Image.Resampling.BILINEAR, box).resize(
                    (size, line), Image.Resampling.BICUBIC
                ),
                (0, 0),
            )
    if setting.ground != "sweep":
        variant = int(rng.integers(textures.VARIANTS))
        ground = textures.ground(setting.ground, variant)
        shift = float(rng.uniform(0, ground.width * 0.25))
        box = (shift, 0.0, shift + ground.width * 0.75, float(ground.height))
        image.paste(ground.resize((size, size - line), Image.Resampling.BILINEAR, box), (0, line))
        if setting.name == "shelf":
            _edge(image, size)
    return image, horizon


def _sweep(paper: Rgb, rng: np.random.Generator, size: int, horizon: float) -> Image.Image:
    """Seamless paper: the ground is brighter and merges into the wall without a line."""
    y = np.linspace(0, 1, 24)
    level = 0.9 + 0.12 / (1 + np.exp(-(y - horizon - 0.04) * 22)) + float(rng.uniform(-0.03, 0.03))
    column = np.clip(np.array(paper)[None, :] * level[:, None], 0, 255).astype(np.uint8)[:, None, :]
    return Image.fromarray(column).resize((size, size), Image.Resampling.BICUBIC)


def _crop(rng: np.random.Generator, width: int, height: int, share: float) -> tuple[float, float, float, float]:
    x, y = float(rng.uniform(0, 1 - share)) * width, float(rng.uniform(0, 1 - share)) * height
    return (x, y, x + share * width, y + share * height)


def _edge(image: Image.Image, size: int) -> None:
    """The front edge of a shelf's board."""
    top = round(size * 0.955)
    strip = image.crop((0, top, size, size)).point(lambda value: int(value * 0.62))
    image.paste(strip, (0, top))


def _far(
    dressing: str, colour: Rgb, rng: np.random.Generator, light: Light, size: tuple[int, int], horizon: float
) -> Image.Image:
    """A distant view: large shapes that are rendered small, blurred and enlarged."""
    image = Image.new("RGB", (_FAR, max(8, round(_FAR * horizon))), colour)
    draw = ImageDraw.Draw(image)
    _DRESSERS[dressing](draw, image.width, image.height, rng, light)
    return image.filter(ImageFilter.GaussianBlur(1.3)).resize(size, Image.Resampling.BICUBIC)


def _plants(draw: ImageDraw.ImageDraw, w: int, h: int, rng: np.random.Generator, light: Light) -> None:
    for _ in range(int(rng.integers(0, 3))):
        x, green = float(rng.uniform(0, w)), (int(rng.integers(90, 140)), int(rng.integers(140, 170)), 110)
        for _ in range(7):
            dx, dy = float(rng.normal(0, 3)), float(rng.uniform(4, h * 0.8))
            draw.ellipse((x + dx - 2, h - dy - 3, x + dx + 2, h - dy + 3), fill=green)
        draw.rectangle((x - 2, h - 5, x + 2, h), fill=(196, 168, 146))


def _bath(draw: ImageDraw.ImageDraw, w: int, h: int, rng: np.random.Generator, light: Light) -> None:
    x = float(rng.uniform(4, w - 4))
    draw.ellipse((x - 8, 1, x + 8, h * 0.75), fill=(214, 226, 232), outline=(184, 170, 140))
    for _ in range(2):
        x = float(rng.uniform(0, w))
        draw.rectangle((x - 2, h - float(rng.uniform(4, 8)), x + 2, h), fill=(206, 196, 182))


def _frames(draw: ImageDraw.ImageDraw, w: int, h: int, rng: np.random.Generator, light: Light) -> None:
    for _ in range(2):
        x, y = float(rng.uniform(0, w - 8)), float(rng.uniform(0, h * 0.4))
        draw.rectangle((x, y, x + 8, y + 9), fill=(220, 214, 204), outline=(140, 128, 116))


def _kitchen(draw: ImageDraw.ImageDraw, w: int, h: int, rng: np.random.Generator, light: Light) -> None:
    draw.rectangle((0, 0, w, h), fill=(222, 218, 208))
    board = int(h * 0.4)
    draw.rectangle((0, board, w, board + 1), fill=(168, 132, 98))
    tones = ((196, 150, 110), (150, 162, 150), (206, 200, 190), (170, 120, 96), (190, 176, 130))
    for base in (board, h):
        x = float(rng.uniform(0, 4))
        while x < w:
            wide, tall = float(rng.uniform(3, 6)), float(rng.uniform(4, 9))
            if rng.random() < 0.6:
                draw.rectangle((x, base - tall, x + wide, base), fill=tones[int(rng.integers(len(tones)))])
            x += wide + 2


def _window(draw: ImageDraw.ImageDraw, w: int, h: int, rng: np.random.Generator, light: Light) -> None:
    draw.rectangle((0, 0, w, h), fill=(208, 202, 194))
    # The window is on the side of the light.
    left = float(rng.uniform(-2, 3)) if light.side < 0 else w - 22 + float(rng.uniform(0, 5))
    draw.rectangle((left, 1, left + 20, h - 2), fill=(250, 252, 250))
    draw.rectangle((left, h * 0.55, left + 20, h - 2), fill=(214, 230, 204))
    for x in (left, left + 10, left + 20):
        draw.line((x, 0, x, h - 1), fill=(170, 160, 150))
    draw.line((left, h * 0.5, left + 20, h * 0.5), fill=(180, 170, 160))


def _meadow(draw: ImageDraw.ImageDraw, w: int, h: int, rng: np.random.Generator, light: Light) -> None:
    draw.rectangle((0, 0, w, h), fill=(176, 206, 150))
    draw.rectangle((0, 0, w, h * 0.35), fill=(206, 226, 226))
    for _ in range(14):
        x, y, r = float(rng.uniform(0, w)), float(rng.uniform(h * 0.3, h)), float(rng.uniform(1.5, 5))
        tone = int(rng.integers(-24, 24))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(140 + tone, 180 + tone, 110 + tone))


def _sea(draw: ImageDraw.ImageDraw, w: int, h: int, rng: np.random.Generator, light: Light) -> None:
    line = h * float(rng.uniform(0.5, 0.65))
    draw.rectangle((0, 0, w, line), fill=(198, 222, 238))
    draw.rectangle((0, line, w, h), fill=(104, 170, 192))
    draw.rectangle((0, h - 3, w, h - 2), fill=(226, 236, 236))
    for _ in range(2):
        x, y = float(rng.uniform(0, w)), float(rng.uniform(1, line * 0.6))
        draw.ellipse((x - 6, y - 1.5, x + 6, y + 1.5), fill=(240, 244, 246))


_DRESSERS = {
    "plants": _plants,
    "bath": _bath,
    "frames": _frames,
    "kitchen": _kitchen,
    "window": _window,
    "meadow": _meadow,
    "sea": _sea,
}


@dataclass(frozen=True)
class Stage:
    """A podium or plinth. Lengths are shares of the frame; (x, y) is the middle of its upper face."""

    kind: str
    x: float
    y: float
    half: float
    depth: float
    """Half of the upper face's height in the picture."""
    height: float
    colour: Rgb


def draw_stage(stage: Stage, size: int, light: Light) -> tuple[Image.Image, tuple[int, int], NDArray[np.float32]]:
    """Returns the lit RGBA sprite, the position of its corner, and the mask of the upper face (0-1)."""
    scale = 2
    half, depth, height = (round(v * size * scale) for v in (stage.half, stage.depth, stage.height))
    box = (2 * half, 2 * depth + height)
    flat = Image.new("RGBA", box, (*stage.colour, 0))
    face = Image.new("L", box, 0)
    draw, face_draw = ImageDraw.Draw(flat), ImageDraw.Draw(face)
    if stage.kind == "podium":
        draw.rectangle((0, depth, 2 * half, depth + height), fill=(*stage.colour, 255))
        draw.ellipse((0, height, 2 * half - 1, 2 * depth + height - 1), fill=(*stage.colour, 255))
        face_draw.ellipse((0, 0, 2 * half - 1, 2 * depth - 1), fill=255)
    else:
        draw.rectangle((0, 2 * depth, 2 * half, 2 * depth + height), fill=(*stage.colour, 255))
        slant = round(half * 0.07)
        face_draw.polygon([(slant, 0), (2 * half - slant, 0), (2 * half, 2 * depth), (0, 2 * depth)], fill=255)
    size_out = (round(box[0] / scale), round(box[1] / scale))
    small = flat.resize(size_out, Image.Resampling.BOX)
    small_face = face.resize(size_out, Image.Resampling.BOX)
    lit = shade(small, "round" if stage.kind == "podium" else "soft", light.side, light.strength * 0.85, 0.0)
    if stage.kind == "plinth":
        lit = Image.merge("RGBA", [c.point(lambda v: int(v * 0.8)) for c in lit.split()[:3]] + [lit.getchannel("A")])
    lit.paste((*(min(255, v + 10) for v in stage.colour), 255), (0, 0), small_face)
    corner = (round((stage.x - stage.half) * size), round((stage.y - stage.depth) * size))
    return lit, corner, np.asarray(small_face, np.float32) / np.float32(255)
