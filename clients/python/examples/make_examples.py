"""Creates the example products of the demo from a rendered data set that no model was trained on.

    python -m trainer render --count 60 --seed 770001 --out runs/examples     # no recipe uses this seed
    python clients/python/examples/make_examples.py runs/examples

The samples are chosen for variety of products, labels and planted defects, and without any model. Choosing samples that
a checkpoint gets right would make the demo misleading. The script needs Pillow.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

SIDE = 384
MAX_BYTES = 25_000
NAMES = ("original", "a", "b", "c", "d")


def main(argv: Sequence[str] | None = None) -> int:
    """Choose samples, convert them and write them. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, metavar="DATASET_DIR", help="contains samples.jsonl and pictures")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "products", metavar="DIR")
    parser.add_argument("--count", type=int, default=10, help="number of products (default: %(default)s)")
    parser.add_argument("--none", type=int, default=2, help="products without a usable picture (default: %(default)s)")
    parser.add_argument("--replace", action="store_true", help="remove existing products (default: keep them and stop)")
    arguments = parser.parse_args(argv)
    try:
        lines = (arguments.dataset / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        samples = choose([json.loads(line) for line in lines], arguments.count, arguments.none)
        there = sorted(path.parent for path in arguments.out.glob("*/truth.json"))
        if there and not arguments.replace:
            raise ValueError(f"{arguments.out} contains {len(there)} products already; --replace removes them")
        for folder in there:
            shutil.rmtree(folder)
        for number, sample in enumerate(samples, 1):
            print(write(sample, arguments.dataset, arguments.out, number))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"make_examples: {error!r}", file=sys.stderr)
        return 1
    return 0


def choose(samples: Sequence[dict[str, Any]], count: int, none: int) -> list[dict[str, Any]]:
    """Choose `count` samples, `none` of them labelled `N`, each with as many new features as possible.

    Raises:
        ValueError: there are too few samples.
    """
    chosen: list[int] = []
    seen: set[str] = set()
    for wanted, is_none in ((none, True), (count - none, False)):
        pool = [index for index, sample in enumerate(samples) if (sample["label"] == "N") is is_none]
        if len(pool) < wanted:
            raise ValueError(f"{len(pool)} samples {'with' if is_none else 'without'} label N; {wanted} are wanted")
        for _ in range(wanted):
            best = max(pool, key=lambda index: (len(features(samples[index]) - seen), -index))
            pool.remove(best)
            chosen.append(best)
            seen |= features(samples[best])
    return [samples[index] for index in sorted(chosen)]


def features(sample: dict[str, Any]) -> set[str]:
    """Return the features of a sample: its kind of product, setting, label and planted defects."""
    defects = [defect for picture in sample["generated"] for defect in picture.get("defects", ())]
    shown = {f"defect {defect['kind']}" for defect in defects} | {f"dimension {each['dimension']}" for each in defects}
    shown |= {f"label {sample['label']}", f"letters {len(sample['label'])}", f"setting {sample.get('setting')}"}
    return shown | {f"kind {sample['original'].get('attributes', {}).get('kind')}"}


def write(sample: dict[str, Any], dataset: Path, out: Path, number: int) -> Path:
    """Write one product: five pictures and the truth. `truth.json` is last, so a folder without it is incomplete."""
    attributes = sample["original"].get("attributes", {})
    words = f"{attributes.get('body', '')} {attributes.get('kind', sample['product'])}"
    folder = out / f"{number:02d}-{re.sub(r'[^a-z0-9]+', '-', words.lower()).strip('-')}"
    folder.mkdir(parents=True)
    files = [sample["original"]["file"], *(picture["file"] for picture in sample["generated"])]
    for name, file in zip(NAMES, files, strict=True):
        (folder / f"{name}.jpg").write_bytes(small_jpeg(dataset / file))
    truth = {
        "product": (sample["original"].get("caption") or sample["product"]).removesuffix(", on a white background"),
        "label": sample["label"],
        "pictures": [
            {"dimensions": sorted(picture["dimensions"]), "comment": picture.get("comment", "")}
            for picture in sample["generated"]
        ],
        "sample": sample["id"],
    }
    (folder / "truth.json").write_text(json.dumps(truth, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


def small_jpeg(path: Path) -> bytes:
    """Return a picture as a JPEG within SIDE and MAX_BYTES, unchanged if possible, else at the best quality."""
    data = path.read_bytes()
    with Image.open(BytesIO(data)) as image:
        if image.format == "JPEG" and max(image.size) <= SIDE and len(data) <= MAX_BYTES:
            return data
        rgb = image.convert("RGB")
    rgb.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    for quality in range(92, 40, -4):
        buffer = BytesIO()
        rgb.save(buffer, format="JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MAX_BYTES:
            return buffer.getvalue()
    raise ValueError(f"{path} does not fit into {MAX_BYTES} bytes")


if __name__ == "__main__":
    sys.exit(main())
