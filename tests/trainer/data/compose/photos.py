"""Product photos and references for the tests, drawn in a moment, and inpainters that misbehave on purpose."""

from __future__ import annotations

import multiprocessing
import os
import signal
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from trainer.__main__ import main
from trainer.data.compose.canvas import Canvas
from trainer.data.compose.inpainters.scene import Scene
from trainer.data.compose.licences import Licence
from trainer.data.compose.model_options import ModelOptions
from trainer.data.compose.segmenters.either import AlphaOrBackdrop
from trainer.data.render.products import make_product

SIDE = 96
HERE = "tests.trainer.data.compose.photos"


def cutout(seed: int = 0, height: int = 160) -> Image.Image:
    """An RGBA picture of a drawn product with transparent margins."""
    product = make_product(np.random.default_rng(seed))
    sprite = product.flat(product.look, height)
    canvas = Image.new("RGBA", (sprite.width + 30, sprite.height + 20))
    canvas.paste(sprite, (15, 10))
    return canvas


def two_halves(size: tuple[int, int] = (61, 121)) -> Image.Image:
    """An opaque product with a red upper and a blue lower half, whose left side is darker."""
    picture = Image.new("RGB", size, (40, 60, 200))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, size[0], size[1] // 2), fill=(210, 40, 40))
    draw.rectangle((0, 0, size[0] // 4, size[1]), fill=(60, 20, 60))
    return picture


def photographed(product: Image.Image, size: tuple[int, int] = (241, 281)) -> Image.Image:
    """A product in front of uneven grey paper, with a soft shadow and noise."""
    y, x = np.mgrid[0 : 1 : complex(size[1]), 0 : 1 : complex(size[0])]
    paper = (236 - 14 * (x - 0.4) ** 2 - 10 * y)[..., None] + np.zeros(3)
    left, top = (size[0] - product.width) // 2, (size[1] - product.height) // 2
    shadow = Image.new("L", size)
    ImageDraw.Draw(shadow).ellipse(
        (left - 20, top + product.height - 14, left + product.width + 20, top + product.height + 10), fill=110
    )
    dark = np.asarray(shadow.filter(ImageFilter.GaussianBlur(7)), float)[..., None] / 255
    noise = np.random.default_rng(1).normal(0, 1.2, (size[1], size[0], 1))
    photo = Image.fromarray(np.clip(paper * (1 - dark) + noise, 0, 255).astype(np.uint8))
    photo.paste(product, (left, top), product if product.mode == "RGBA" else None)
    return photo


def make_products(directory: Path, count: int = 3) -> Path:
    directory.mkdir(parents=True)
    for seed in range(count):
        cutout(seed).save(directory / f"product {seed}.png")
    return directory


def make_references(directory: Path) -> Path:
    directory.mkdir(parents=True)
    for number, (wall, table) in enumerate([((200, 210, 220), (150, 110, 70)), ((230, 220, 200), (90, 90, 95))]):
        picture = Image.new("RGB", (150 + 31 * number, 121), wall)
        ImageDraw.Draw(picture).rectangle((0, 70, 400, 200), fill=table)
        picture.save(directory / f"scene{number}.png")
    return directory


def compose(products: Path, references: Path, out: Path, *options: str, seed: int = 5) -> int:
    """Run the command; returns its exit status."""
    arguments = ["--products", products, "--references", references, "--out", out, "--seed", seed, "--size", SIDE]
    return main(["compose", *map(str, arguments), *options])


def files(directory: Path) -> dict[str, bytes]:
    """All files of a data directory but its lock."""
    found = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}


class Mover(Scene):
    """Moves the product by three pixels, as a generative model may."""

    name = "mover"
    identity = "mover"
    stand_in = False

    def paint(self, canvas: Canvas, seed: int) -> Image.Image:
        return Image.fromarray(np.roll(np.asarray(super().paint(canvas, seed)), 3, axis=1))


class Hungry(Scene):
    """Has too little memory for dark products."""

    name = "hungry"
    identity = "hungry"

    def paint(self, canvas: Canvas, seed: int) -> Image.Image:
        if np.asarray(canvas.placeholder)[canvas.kept].mean() < 60:
            raise MemoryError("CUDA out of memory")
        return super().paint(canvas, seed)


class OneColour(Scene):
    name = "one-colour"
    identity = "one-colour"

    def paint(self, canvas: Canvas, seed: int) -> Image.Image:  # noqa: ARG002
        return Image.new("RGB", (canvas.side, canvas.side))


class Forgetful(Scene):
    """Ignores the seed."""

    name = "forgetful"
    identity = "forgetful"

    def paint(self, canvas: Canvas, seed: int) -> Image.Image:  # noqa: ARG002
        return super().paint(canvas, 0)


class Shrinking(Scene):
    name = "shrinking"
    identity = "shrinking"

    def paint(self, canvas: Canvas, seed: int) -> Image.Image:
        return super().paint(canvas, seed).resize((canvas.side // 2, canvas.side // 2))


class Restricted(Scene):
    name = "restricted"
    identity = "restricted"
    licence = Licence("no-shops", "Not for shops.")


class Killed(Scene):
    """Ends its process, as the kernel does, when it has painted three pictures."""

    identity = Scene.identity
    painted: ClassVar[list[int]] = []

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options)

    def paint(self, canvas: Canvas, seed: int) -> Image.Image:
        if len(self.painted) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        self.painted.append(seed)
        return super().paint(canvas, seed)


class Deadly(AlphaOrBackdrop):
    """Ends a worker process, as the kernel does when the memory is full. In the main process it cuts as usual."""

    def cut(self, photo: Image.Image) -> Image.Image:
        if multiprocessing.parent_process():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().cut(photo)


def deadly(_: str) -> Deadly:
    return Deadly()


LOADED = "COMPOSE_TEST_LOADED"
"""Environment variable that names the file in which `Loading` notes the processes."""


class Loading(AlphaOrBackdrop):
    """Loads a model at the first photo, as the segmenter onnx does."""

    @cached_property
    def model(self) -> str:
        with Path(os.environ[LOADED]).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return "loaded"

    def cut(self, photo: Image.Image) -> Image.Image:
        assert self.model
        return super().cut(photo)


def loading(_: str) -> Loading:
    return Loading()
