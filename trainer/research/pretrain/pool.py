"""A pool of rendered pictures from which pretraining draws its samples.

Rendering a picture takes about as long as a training step on it, so pictures are rendered once and combined many times.
For each product there is an original and a set of usable and defective generated pictures; a sample is a random choice
of four of them in random order. The pixels are in one memory-mapped array at the model's size.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import open_memmap
from tqdm import tqdm

from screening.boxes import Box
from screening.runtime.atomic_write import replacing
from screening.task import Dimension
from trainer.runs.process_lock import LOCK_NAME, open_lock_file, try_lock, wait_for_lock
from trainer.runs.run_directory import claim
from trainer.runs.worker_processes import map_in_processes

if TYPE_CHECKING:
    from trainer.data.render.picture import Shot

PIXELS_NAME, PRODUCTS_NAME = "pixels.npy", "products.jsonl"


@dataclass(frozen=True, slots=True)
class PoolShot:
    """One picture of the pool, with a dimension and a sentence per defect."""

    row: int
    caption: str
    attributes: dict[str, str]
    dimensions: tuple[str, ...]
    comments: tuple[str, ...]
    changed: tuple[str, ...]
    """Attributes that differ from the original."""
    severity: int
    measures: dict[str, float]
    """Proportions and shades as rendered; see `trainer.data.render.products.Product.measures`."""
    boxes: dict[str, Box] = field(default_factory=dict)
    """Dimension → where its worst defect is. Empty for variations, in which several changes share a dimension."""


@dataclass(frozen=True, slots=True)
class PoolProduct:
    """All pictures of one product."""

    description: str
    original: PoolShot
    usable: tuple[PoolShot, ...]
    defective: tuple[PoolShot, ...]
    variations: tuple[PoolShot, ...] = ()
    """Pictures with several changed attributes, which teach comparison; see `trainer.data.render.defects.vary`."""

    @property
    def shots(self) -> tuple[PoolShot, ...]:
        return (self.original, *self.usable, *self.defective, *self.variations)


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """Settings of the pool; part of the recipe."""

    products: int
    usable_per_product: int
    defective_per_product: int
    seed: int
    render_size: int
    """Side of the rendered pictures in pixels; they are then scaled down as in the service."""
    size: int
    """Side of the model's input in pixels."""
    severities: tuple[float, float, float]
    dimension_weights: tuple[float, float, float, float]
    variations_per_product: int = 0
    kind_weights: Mapping[str, float] = field(default_factory=dict)
    """See `trainer.data.render.defects.apply_plan`."""

    @property
    def shots_per_product(self) -> int:
        return 1 + self.usable_per_product + self.defective_per_product + self.variations_per_product


class Pool:
    """Rendered pictures and the facts about them. `pixels`: uint8, (pictures, size, size, 3)."""

    def __init__(self, pixels: np.ndarray, products: list[PoolProduct]) -> None:
        self.pixels = pixels
        self.products = products

    def texts(self) -> Iterator[str]:
        """Every sentence of the pool, from which the vocabulary is learned."""
        for product in self.products:
            yield product.description
            for shot in product.shots:
                yield shot.caption
                yield from shot.comments


def load_or_render(directory: Path, spec: PoolSpec, workers: int) -> Pool:
    """Render the pool, or read it if it was rendered before. A killed run continues with the missing products.

    If another process is rendering the pool, this one waits until it ends.

    Raises:
        RunMismatch: the directory holds a pool with other settings, or from another version of the renderer.
    """
    claim(directory, {**asdict(spec), "renderer": _renderer_digest()})
    with _alone(directory):
        _render_missing(directory, spec, workers)
    pixels = np.load(directory / PIXELS_NAME, mmap_mode="r")
    done = _read_products(directory / PRODUCTS_NAME)
    return Pool(pixels, [_product(spec, done[index], index * spec.shots_per_product) for index in range(spec.products)])


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep other processes from rendering into a directory; wait for one that does."""
    lock = open_lock_file(directory / LOCK_NAME)
    try:
        if not try_lock(lock):
            print(f"another process is rendering {directory}; waiting until it ends", file=sys.stderr)
            wait_for_lock(lock)
        yield
    finally:
        os.close(lock)


def _render_missing(directory: Path, spec: PoolSpec, workers: int) -> None:
    shape = (spec.products * spec.shots_per_product, spec.size, spec.size, 3)
    pixel_file, product_file = directory / PIXELS_NAME, directory / PRODUCTS_NAME
    if not pixel_file.exists():
        with replacing(pixel_file) as temporary:
            open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape).flush()  # type: ignore[no-untyped-call]
            with temporary.open("r+b") as handle:  # on a full disk, a later write to the map would be a bus error
                os.posix_fallocate(handle.fileno(), 0, temporary.stat().st_size)
    pixels = open_memmap(pixel_file, mode="r+", shape=shape)  # type: ignore[no-untyped-call]

    done = _read_products(product_file)
    missing = [index for index in range(spec.products) if index not in done]
    if missing:
        jobs = map_in_processes(partial(_render_product, spec), missing, workers)
        with product_file.open("a") as handle:
            for index, block, record in tqdm(jobs, total=len(missing), desc="render pool", unit="product"):
                pixels[index * spec.shots_per_product : (index + 1) * spec.shots_per_product] = block
                handle.write(json.dumps({"index": index, **record}) + "\n")
        pixels.flush()
        with product_file.open("rb") as handle:
            os.fsync(handle.fileno())


def _render_product(spec: PoolSpec, index: int) -> tuple[int, np.ndarray, dict[str, Any]]:
    from screening.images import fit_square
    from trainer.data.render.defects import DIMENSION_WEIGHTS, plan_defects
    from trainer.data.render.picture import draw_generated, draw_original
    from trainer.data.render.products import make_product

    rng = np.random.default_rng([spec.seed, index])
    product = make_product(rng)
    weights = dict(zip(DIMENSION_WEIGHTS, spec.dimension_weights, strict=True))
    shots = [draw_original(product, rng, spec.render_size)]
    for usable in [True] * spec.usable_per_product + [False] * spec.defective_per_product:
        plan = plan_defects(rng, usable, spec.severities, weights)
        shots.append(draw_generated(product, rng, spec.render_size, plan, kind_weights=spec.kind_weights))
    boxes = [_boxes(shot) for shot in shots] + [{}] * spec.variations_per_product
    varied = range(spec.variations_per_product)
    shots += [draw_generated(product, rng, spec.render_size, varied=True) for _ in varied]
    block = np.stack([np.asarray(fit_square(shot.image, spec.size)) for shot in shots])
    records = [
        {
            "caption": shot.caption,
            "attributes": dict(shot.attributes),
            "dimensions": [d.dimension.value for d in shot.defects],
            "comments": [d.comment for d in shot.defects],
            "changed": [d.changed for d in shot.defects if d.dimension is Dimension.APPEARANCE],
            "severity": max((d.severity for d in shot.defects), default=0),
            "measures": {name: round(value, 4) for name, value in shot.measures.items()},
            "boxes": places,
        }
        for shot, places in zip(shots, boxes, strict=True)
    ]
    return index, block, {"description": product.describe(), "shots": records}


def _boxes(shot: Shot) -> dict[str, Box]:
    """Dimension → box of its worst defect, as `trainer.records.Generated.box_of` chooses it."""
    from trainer.data.render.regions import box_of

    boxes: dict[str, Box] = {}
    for defect in sorted(shot.defects, key=lambda one: -one.severity):
        assert shot.composition is not None
        if defect.dimension.value not in boxes and (box := box_of(defect, shot.composition)) is not None:
            boxes[defect.dimension.value] = box
    return boxes


def _renderer_digest() -> str:
    """SHA-256 over the renderer's source code, because other code may draw other pictures."""
    import trainer.data.render

    digest = hashlib.sha256()
    for path in sorted(Path(trainer.data.render.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read_products(path: Path) -> dict[int, dict[str, Any]]:
    if not path.exists():
        return {}
    records: dict[int, dict[str, Any]] = {}
    kept = 0
    with path.open("rb") as handle:
        for line in handle:
            if not line.endswith(b"\n"):
                break  # a kill may have cut the last line
            record = json.loads(line)
            records[record["index"]] = record
            kept += len(line)
    os.truncate(path, kept)
    return records


def _product(spec: PoolSpec, record: dict[str, Any], first_row: int) -> PoolProduct:
    shots = [
        PoolShot(
            first_row + i,
            shot["caption"],
            shot["attributes"],
            tuple(shot["dimensions"]),
            tuple(shot["comments"]),
            tuple(shot["changed"]),
            shot["severity"],
            shot["measures"],
            {dimension: Box(*edges) for dimension, edges in shot["boxes"].items()},
        )
        for i, shot in enumerate(record["shots"])
    ]
    defective = 1 + spec.usable_per_product
    varied = defective + spec.defective_per_product
    return PoolProduct(
        record["description"],
        shots[0],
        tuple(shots[1:defective]),
        tuple(shots[defective:varied]),
        tuple(shots[varied:]),
    )
