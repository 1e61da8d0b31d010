"""Compose one product: cut out, place, paint four times, measure. What is on disk already is not made again."""

from __future__ import annotations

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from screening.runtime.atomic_write import write_atomically
from screening.runtime.digests import json_digest
from screening.task import OPTIONS
from trainer.data.compose.canvas import Canvas, make_canvas
from trainer.data.compose.cutout import CutOut, checked
from trainer.data.compose.failures import Failed, Note, Reason
from trainer.data.compose.files import STATE, STEPS, is_intact, picture_file, step_file, write_png
from trainer.data.compose.layout import Placement, choose_layout, place
from trainer.data.compose.measure import Measures, least_difference, measure, refuse_failed, refuse_repeated
from trainer.data.compose.order import Order, Tools, origin
from trainer.data.compose.paste import paste
from trainer.data.compose.seeds import seed_of
from trainer.data.compose.sources import Source, as_original, choose_reference, read_photo


class Composed(BaseModel):
    """The content of `composed.json`: one sample, finished or not."""

    model_config = ConfigDict(extra="forbid")

    key: str
    """Digest of everything that decides the pictures."""
    id: str
    product: str
    source: str
    """Name of the product's file."""
    reference: str
    layout: str
    made_by: str
    licence: str
    notes: list[Note] = []
    files: dict[str, str] = {}
    """File, relative to the data directory → hex SHA-256."""
    measures: dict[str, Measures] = {}
    """Option → what was measured on its picture."""
    least_difference: float | None = None
    """Mean difference of the two pictures that are most alike, of 255; None until all four are painted."""

    @property
    def setting(self) -> str:
        """Where the generated pictures came from, for `samples.jsonl`."""
        return f"reference {self.reference}, {self.layout}, painted by {self.made_by}"


class Composer:
    """Composes the products of one run."""

    def __init__(self, order: Order, tools: Tools) -> None:
        self._order = order
        self._tools = tools
        self._origin = origin(order, tools)

    def compose(self, product: Source) -> Composed:
        """Compose a product, or finish it, or return it as it is if it is complete and unchanged.

        Raises:
            Failed: the product is left out; the reason says why.
            OSError: a file cannot be written.
        """
        reference = choose_reference(self._order.seed, product, self._tools.references)
        key = json_digest([self._origin, product.id, product.name, product.file, product.digest, reference.digest])
        found = self._on_disk(product, key)
        if found and found.least_difference is not None and all(self._intact(found, file) for file in found.files):
            refuse_repeated(found.least_difference)
            return found
        photo = read_photo(product)
        cut = checked(self._tools.segmenter.cut(photo))
        placement = self._place(cut, product, reference)
        canvas = make_canvas(cut.picture, placement, read_photo(reference), self._order.side)
        if not canvas.kept.any():
            raise Failed(Reason.TOO_SMALL, f"nothing of the product is visible in a picture of {canvas.side} pixels")
        sample = Composed(
            key=key,
            id=product.id,
            product=product.name,
            source=product.file,
            reference=reference.name,
            layout=placement.layout,
            made_by=self._tools.maker,
            licence=self._tools.inpainter.licence.name,
            notes=[*cut.notes, *([Note.ENLARGED] if placement.enlarged else [])],
        )
        self._write_steps(sample, photo, cut, canvas)
        self._paint(sample, canvas, found, (product.digest, reference.digest, placement.layout))
        return sample

    def _place(self, cut: CutOut, product: Source, reference: Source) -> Placement:
        size, seeds = cut.picture.size, (product.digest, reference.digest)
        layout = choose_layout(size, self._order.layout, seed_of(self._order.seed, "layout", *seeds))
        return place(size, layout, self._order.side, seed_of(self._order.seed, "place", *seeds, layout))

    def _paint(self, sample: Composed, canvas: Canvas, found: Composed | None, seeds: tuple[str, ...]) -> None:
        """Paint the pictures that are not on disk yet. The state is written after each, so a kill loses at most one."""
        pictures = []
        for option in OPTIONS:
            file = picture_file(sample.id, option)
            if found and option in found.measures and self._intact(found, file):
                with Image.open(self._order.out / file) as written:
                    pictures.append(written.convert("RGB"))
                sample.files[file], sample.measures[option] = found.files[file], found.measures[option]
            else:
                picture = self._painted(canvas, seed_of(self._order.seed, "paint", *seeds, option))
                sample.measures[option] = measure(picture, canvas)
                sample.files[file] = self._write(file, picture, sample.setting)
                pictures.append(picture)
                self._save(sample)
        sample.least_difference = least_difference(pictures)
        self._save(sample)
        refuse_repeated(sample.least_difference)

    def _painted(self, canvas: Canvas, seed: int) -> Image.Image:
        try:
            picture = self._tools.inpainter.paint(canvas, seed)
        except MemoryError as error:
            raise Failed(
                Reason.OUT_OF_MEMORY,
                f"{self._tools.inpainter.name} does not fit into memory ({error or 'no memory left'}). "
                "Use a smaller --size, or --offload with a GPU",
            ) from error
        refuse_failed(picture, canvas)
        return paste(picture, canvas) if self._order.paste else picture

    def _write_steps(self, sample: Composed, photo: Image.Image, cut: CutOut, canvas: Canvas) -> None:
        steps = {
            picture_file(sample.id, "original"): as_original(photo, self._order.side),
            step_file(sample.id, "cutout"): cut.picture,
            step_file(sample.id, "placeholder"): canvas.placeholder,
            step_file(sample.id, "initial"): canvas.initial,
            step_file(sample.id, "mask"): canvas.mask,
        }
        for file, picture in steps.items():
            sample.files[file] = self._write(file, picture, f"step towards: {sample.setting}")

    def _write(self, file: str, picture: Image.Image, comment: str) -> str:
        return write_png(self._order.out, file, picture, comment)

    def _save(self, sample: Composed) -> None:
        path = self._order.out / STEPS / sample.id / STATE
        write_atomically(path, sample.model_dump_json(indent=1) + "\n")

    def _on_disk(self, product: Source, key: str) -> Composed | None:
        path = self._order.out / STEPS / product.id / STATE
        try:
            found = Composed.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None
        return found if found.key == key else None

    def _intact(self, sample: Composed, file: str) -> bool:
        return is_intact(self._order.out, file, sample.files.get(file))
