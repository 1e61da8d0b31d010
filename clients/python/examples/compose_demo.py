"""Compose pictures from a real cut-out photograph and from rendered product photos, without a model or a network.

    python clients/python/examples/compose_demo.py              writes to runs/compose-demo
    python clients/python/examples/compose_demo.py --out DIR    writes somewhere else

The photo has a transparent background. The rendered photos show a product on plain paper, and the segmenter finds it.
The references come from the trainer's renderer. Exit code: that of `python -m trainer compose`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from screening.runtime.environment import use_utf8
from trainer.__main__ import main as trainer
from trainer.data.render.light import draw_light
from trainer.data.render.scenes import SETTINGS, draw_background

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
SCENES = ("table", "marble", "kitchen", "window", "shelf")
RENDERED = ("01-blue-carton", "04-orange-dropper-bottle", "07-blue-spray-bottle", "08-green-jar")
SIDE = 512


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "compose-demo", metavar="DIR")
    out = parser.parse_args(argv).out
    products, references = collect_products(out / "products"), draw_references(out / "references")
    directories = ["--products", str(products), "--references", str(references), "--out", str(out / "data")]
    status = trainer(["compose", *directories, "--seed", "3", "--size", str(SIDE)])
    print(f"Open {out / 'data' / 'compose.html'}: original, placeholder, mask, initial and the four pictures.")
    return status


def collect_products(directory: Path) -> Path:
    """Copy the photograph and the rendered photos into one directory."""
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "photos" / "coffee-cup.webp", directory / "coffee-cup.webp")
    for name in RENDERED:
        shutil.copyfile(HERE / "products" / name / "original.jpg", directory / f"{name[3:]}.jpg")
    return directory


def draw_references(directory: Path) -> Path:
    """Draw one empty scene of each kind."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(SCENES):
        rng = np.random.default_rng(seed)
        picture, _ = draw_background(SETTINGS[name], rng, SIDE, draw_light(rng))
        picture.save(directory / f"{name}.png")
    return directory


if __name__ == "__main__":
    use_utf8()
    sys.exit(main())
