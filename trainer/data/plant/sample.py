"""Make the samples of one photo. Those that are on disk already, undamaged, are not made again.

OUT/pictures/ID/{original,a,b,c,d}.jpg    the question
OUT/done/ID.json                          the record, and the hash of every picture; written last
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, ValidationError

from screening.runtime.atomic_write import write_atomically
from screening.runtime.digests import file_sha256, json_digest
from trainer.data.compose.cutout import checked
from trainer.data.compose.failures import Failed, Reason
from trainer.data.compose.files import is_intact
from trainer.data.compose.seeds import seed_of
from trainer.data.compose.sources import Source, as_original, choose_reference, read_photo
from trainer.data.compose.white import on_white
from trainer.data.plant.order import Order
from trainer.data.render.cutouts import CutOut
from trainer.data.render.dataset import jpegs, record_of
from trainer.data.render.photo_kinds import unsuitable
from trainer.data.render.sample import make_sample
from trainer.data.render.scenes import SETTINGS, Setting, real_setting

_WIDEST = 8
"""Maximum width of a product per height."""


class Done(BaseModel):
    """The content of `done/ID.json`."""

    model_config = ConfigDict(extra="forbid")

    key: str
    """Digest of everything that decides the sample."""
    files: dict[str, str]
    """Picture, relative to the data directory → hex SHA-256."""
    record: dict[str, Any]
    """The line of `samples.jsonl`."""


class Planter:
    """Makes the samples of one run."""

    def __init__(self, order: Order) -> None:
        self._order = order

    def plant(self, source: Source) -> list[dict[str, Any]]:
        """The records of all samples of a photo, whose pictures are on disk.

        Raises:
            Failed: the photo cannot be used; the reason says why.
            OSError: a file cannot be written.
        """
        product: CutOut | None = None
        records = []
        for number in range(self._order.count):
            seed = seed_of(self._order.seed, "plant", source.digest, number)
            name = f"{source.id}-{seed:016x}"
            key = json_digest([self._order.origin, source.name, source.file, source.digest, number])
            if (found := self._found(name, key)) is None:
                product = product or self._cut_out(source)
                found = self._made(name, key, seed, product, source)
            records.append(found.record)
        return records

    def _cut_out(self, source: Source) -> CutOut:
        photo = read_photo(source)
        cut = checked(self._order.cutter.cut(photo))
        _refuse_flat(cut.picture)
        shown = as_original(photo, self._order.size)
        product = CutOut(source.name, {"source": source.file}, cut.picture, shown)
        facts = {"notes": [str(note) for note in cut.notes], "unsuitable": unsuitable(product)}
        product.attributes |= {name: found for name, found in facts.items() if found}
        return product

    def _made(self, name: str, key: str, seed: int, product: CutOut, source: Source) -> Done:
        order = self._order
        settings = self._settings(seed, source)
        shares = (order.severities, order.usable_counts)
        sample = replace(make_sample(seed, order.size, *shares, product=product, settings=settings), id=name)
        files = {}
        for file, content in jpegs(sample):
            path = order.out / file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
            files[file] = file_sha256(path)
        done = Done(key=key, files=files, record=record_of(sample))
        state = self._state(name)
        state.parent.mkdir(exist_ok=True)
        write_atomically(state, json.dumps(done.model_dump(mode="json"), ensure_ascii=False) + "\n")
        return done

    def _settings(self, seed: int, source: Source) -> list[Setting]:
        """The scene of one reference; without references, all drawn ones in which a product stands on the ground."""
        if not self._order.scenes:
            return [setting for setting in SETTINGS.values() if not setting.stage]
        reference = choose_reference(seed, source, self._order.scenes)
        size = (self._order.size, self._order.size)
        picture = ImageOps.fit(on_white(read_photo(reference)), size, Image.Resampling.LANCZOS)
        return [real_setting(f"reference {reference.name}", picture)]

    def _found(self, name: str, key: str) -> Done | None:
        try:
            done = Done.model_validate_json(self._state(name).read_bytes())
        except (OSError, ValidationError):
            return None
        intact = done.key == key and all(is_intact(self._order.out, *entry) for entry in done.files.items())
        return done if intact else None

    def _state(self, name: str) -> Path:
        return self._order.out / "done" / f"{name}.json"


def _refuse_flat(product: Image.Image) -> None:
    """
    Raises:
        Failed: the product is so wide that it would be a few pixels high in the pictures.
    """
    if (ratio := product.width / product.height) > _WIDEST:
        raise Failed(Reason.TOO_SMALL, f"the product is {ratio:.0f} times as wide as high, more than {_WIDEST}")


def planted_or_reason(order: Order, source: Source) -> tuple[list[dict[str, Any]], tuple[str, str] | None]:
    """The records of a photo, or the reason for leaving it out and a sentence about it."""
    try:
        return Planter(order).plant(source), None
    except Failed as error:
        return [], (str(error.reason), error.message)
