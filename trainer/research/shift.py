"""`python -m trainer shift`: the same samples as photographed elsewhere, with other light, contrast and noise.

This makes a domain shift of known size out of rendered pictures, for experiments. All five pictures of a sample change
alike, so labels stay true: what differs between the original and a generated picture still differs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from tqdm import tqdm

from screening.errors import ImageError, UserError
from screening.images import accept, decode
from screening.runtime.argument_types import amount, not_negative, share
from screening.runtime.atomic_write import replacing_directory
from trainer.data_directory import SAMPLES_NAME, DataError, read_any_samples, read_bytes
from trainer.runs.arguments import add_directory

RECORD_NAME = "shift.json"
JPEG_QUALITY = 92
GREY = 128


@dataclass(frozen=True, slots=True)
class Shift:
    """The treatment of every picture, in the order of the fields. Zeros and ones change nothing."""

    warmth: float = 0.0
    """Warm light: red is multiplied by 1 + warmth and blue by 1 - warmth."""
    contrast: float = 1.0
    """Distance of every value from middle grey, as a factor."""
    blur: float = 0.0
    """Radius of a Gaussian blur, in thousandths of the picture's longer side."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise, in levels of 0 to 255."""
    seed: int = 0
    """Seed of the noise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m trainer shift`."""
    add_directory(parser, "--data", "data directory with samples.jsonl, labelled or not")
    add_directory(parser, "--out", "new directory")
    parser.add_argument(
        "--warmth", type=share, default=0.0, metavar="W", help="red x (1 + W), blue x (1 - W), 0 to 1 (default: 0)"
    )
    parser.add_argument(
        "--contrast", type=share, default=1.0, metavar="C", help="factor of the contrast, 0 to 1 (default: 1)"
    )
    parser.add_argument(
        "--blur",
        type=amount,
        default=0.0,
        metavar="R",
        help="radius of a blur in thousandths of the longer side (default: 0)",
    )
    parser.add_argument(
        "--noise", type=amount, default=0.0, metavar="S", help="standard deviation of noise in levels (default: 0)"
    )
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of the noise (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    shift = Shift(args.warmth, args.contrast, args.blur, args.noise, args.seed)
    count = write_shifted(args.data, args.out, shift)
    print(f"{args.out}: {count} samples, {RECORD_NAME}")
    return 0


def write_shifted(data: Path, out: Path, shift: Shift) -> int:
    """Write the samples of a data directory with changed pictures. Returns the number of samples.

    Raises:
        DataError: the data directory cannot be used.
        UserError: `out` exists already.
        OSError: a file cannot be read or written.
    """
    if out.exists():
        raise UserError(f"{out} exists already; name a new --out or remove it")
    samples = read_any_samples(data)
    with replacing_directory(out) as directory:
        for sample in tqdm(samples, desc="shift", unit="sample"):
            for file in sample.files:
                target = directory / file
                target.parent.mkdir(parents=True, exist_ok=True)
                save: dict[str, Any] = {"quality": JPEG_QUALITY} if target.suffix.lower() in (".jpg", ".jpeg") else {}
                shifted(_decoded(data, file), shift, file).save(target, **save)
        shutil.copyfile(data / SAMPLES_NAME, directory / SAMPLES_NAME)
        (directory / RECORD_NAME).write_text(json.dumps(asdict(shift)) + "\n", encoding="utf-8")
    return len(samples)


def _decoded(data: Path, file: str) -> Image.Image:
    """A picture as the model sees it: upright, in sRGB, on white."""
    try:
        return decode(accept(read_bytes(data, file)))
    except ImageError as error:
        raise DataError(f"{data / file}: {error}") from error


def shifted(image: Image.Image, shift: Shift, name: str) -> Image.Image:
    """One picture after the treatment. The noise depends only on the seed and the picture's name."""
    light = np.array([1 + shift.warmth, 1.0, 1 - shift.warmth], np.float32)
    values = np.asarray(image, np.float32) * light
    values = GREY + (values.clip(0, 255) - GREY) * shift.contrast
    if shift.blur:
        radius = shift.blur * max(image.size) / 1000
        soft = Image.fromarray(values.round().astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
        values = np.asarray(soft, np.float32)
    generator = np.random.default_rng((shift.seed, zlib.crc32(name.encode())))
    values = values + generator.normal(0, shift.noise, values.shape) if shift.noise else values
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
