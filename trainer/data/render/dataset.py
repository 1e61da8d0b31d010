"""Write a directory of labelled samples, rendered by several processes.

    DIR/samples.jsonl            one object per sample, in order
    DIR/pictures/ID/             original.jpg, a.jpg, b.jpg, c.jpg, d.jpg
    DIR/contact-sheet.png        an overview of the first samples
    DIR/render.json              arguments and statistics

Sample i depends only on the seed and i, so the number of processes does not matter. Everything is written to
DIR/.partial first and moved up when it is complete, render.json last. So DIR may be a mount point or a link.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from screening.errors import ScreeningError
from screening.runtime.atomic_write import write_atomically
from screening.task import OPTIONS, Dimension
from trainer.data.render.contact_sheet import contact_sheet
from trainer.data.render.picture import Shot
from trainer.data.render.regions import box_of
from trainer.data.render.sample import USABLE_COUNTS, Sample, comment_on, make_sample
from trainer.data.render.staging import Defect
from trainer.data_directory import SAMPLES_NAME, json_lines
from trainer.metrics import LabelStatistics, label_statistics
from trainer.runs.process_lock import LOCK_NAME
from trainer.runs.run_directory import occupy
from trainer.runs.worker_processes import map_in_processes

JPEG_QUALITY = 92
SHEET_SAMPLES = 12
_UNFINISHED = ".partial"
"""Folder of the data directory in which everything is written first."""
_MOVED = ("pictures", "contact-sheet.png", "samples.jsonl", "render.json")
"""What is moved up from there, in this order."""


class DatasetError(ScreeningError):
    """A data set cannot be written; the message says what to do."""


@dataclass(frozen=True)
class Order:
    """The settings of a data set."""

    count: int
    seed: int
    size: int
    severities: tuple[float, ...]
    usable_counts: tuple[float, ...] = USABLE_COUNTS

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings as written to render.json."""
        return {
            "count": self.count,
            "seed": self.seed,
            "size": self.size,
            "severities": list(self.severities),
            "usable_counts": list(self.usable_counts),
        }


def sample_seed(seed: int, index: int) -> int:
    """The seed of one sample: 63 bits, different for every (seed, index)."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0] >> 1)


def write_dataset(order: Order, out: Path, workers: int = 1) -> dict[str, Any]:
    """Draw a data set into `out` and return its statistics. An existing data set with the same settings is kept.

    Raises:
        DatasetError: `out` holds other files.
        RunMismatch: another process is writing `out`.
        UserError: a worker process was killed, for example because the memory was full.
    """
    if (summary := _already_drawn(order, out)) is not None:
        return summary
    unfinished = out / _UNFINISHED
    if out.exists() and (not out.is_dir() or _names(out) - {LOCK_NAME, _UNFINISHED, *_half_moved(unfinished)}):
        raise DatasetError(f"{out} exists and is not empty; choose another directory or remove it first")
    out.mkdir(parents=True, exist_ok=True)
    occupy(out)
    _remove_rest(out, unfinished)
    unfinished.mkdir()
    try:
        statistics = _write(order, unfinished, workers)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for name in _MOVED:
        (unfinished / name).rename(out / name)
    shutil.rmtree(unfinished, ignore_errors=True)
    return statistics


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def _half_moved(unfinished: Path) -> tuple[str, ...]:
    """What a run that was killed while it moved its files may have moved already; nothing if there was no such run."""
    return _MOVED[:-1] if (unfinished / _MOVED[-1]).exists() else ()


def _remove_rest(out: Path, unfinished: Path) -> None:
    """Remove what a killed run left. The folder goes last, because it shows that the other files belong to that run."""
    for name in _half_moved(unfinished):
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    shutil.rmtree(unfinished, ignore_errors=True)


def _already_drawn(order: Order, out: Path) -> dict[str, Any] | None:
    """The summary of a finished data set with these settings; None if there is none. render.json is written last."""
    try:
        summary: dict[str, Any] = json.loads((out / "render.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary if summary.get("arguments") == order.arguments else None


def _write(order: Order, directory: Path, workers: int) -> dict[str, Any]:
    (directory / "pictures").mkdir()
    records = list(tqdm(_drawn(order, directory, workers), total=order.count, unit="sample", desc="render"))
    (directory / SAMPLES_NAME).write_text(json_lines(records), encoding="utf-8")
    contact_sheet(directory, records[:SHEET_SAMPLES]).save(directory / "contact-sheet.png", compress_level=3)
    summary = {
        "arguments": order.arguments,
        **statistics(records),
    }
    write_atomically(directory / "render.json", json.dumps(summary, indent=2) + "\n")
    return summary


def _drawn(order: Order, directory: Path, workers: int) -> Iterator[dict[str, Any]]:
    work = partial(_draw, order, directory)
    samples = range(order.count)
    return map(work, samples) if workers <= 1 else map_in_processes(work, samples, workers)


def _draw(order: Order, directory: Path, index: int) -> dict[str, Any]:
    sample = make_sample(sample_seed(order.seed, index), order.size, order.severities, order.usable_counts)
    for file, content in jpegs(sample):
        path = directory / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return record_of(sample)


def jpegs(sample: Sample) -> Iterator[tuple[str, bytes]]:
    """The five pictures of a sample: path inside the data directory, and content."""
    for name, shot in zip(("original", *OPTIONS), (sample.original, *sample.generated), strict=True):
        buffer = BytesIO()
        shot.image.save(buffer, "JPEG", quality=JPEG_QUALITY)
        yield f"pictures/{sample.id}/{name.lower()}.jpg", buffer.getvalue()


def record_of(sample: Sample) -> dict[str, Any]:
    """The sample as a line of samples.jsonl."""
    folder = f"pictures/{sample.id}"
    return {
        "id": sample.id,
        "product": sample.product.id,
        "original": {
            "file": f"{folder}/original.jpg",
            "caption": sample.original.caption,
            "attributes": dict(sample.original.attributes),
        },
        "generated": [_generated(shot, option, folder) for option, shot in zip(OPTIONS, sample.generated, strict=True)],
        "label": sample.label,
        "reasoning": sample.answer().reasoning,
        "seed": sample.seed,
        "setting": sample.setting,
    }


def _generated(shot: Shot, option: str, folder: str) -> dict[str, Any]:
    named = {d.dimension for d in shot.defects}
    return {
        "file": f"{folder}/{option.lower()}.jpg",
        "option": option,
        "usable": shot.usable,
        "dimensions": [d.value for d in Dimension if d in named],
        "severity": max((d.severity for d in shot.defects), default=0),
        "defects": [_defect(d, shot) for d in shot.defects],
        "comment": comment_on(shot),
        "caption": shot.caption,
    }


def _defect(defect: Defect, shot: Shot) -> dict[str, Any]:
    assert shot.composition is not None
    record: dict[str, Any] = {
        "dimension": defect.dimension.value,
        "kind": defect.kind,
        "severity": defect.severity,
        "comment": defect.comment,
    }
    if (box := box_of(defect, shot.composition)) is not None:
        record["box"] = list(box)
    return record


def statistics(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Statistics of the labels and pictures.

    The baseline of a dimension covers the samples in which at least one picture has the issue.
    """
    pictures = [g for r in records for g in r["generated"]]
    defects = [d for g in pictures for d in g["defects"]]
    by_dimension = {
        d.value: [r for r in records if any(d.value in g["dimensions"] for g in r["generated"])] for d in Dimension
    }
    return {
        "samples": len(records),
        "products": len({r["product"] for r in records}),
        **_labels(records),
        "random_baseline_by_dimension": {d: _labels(rows)["random_baseline"] for d, rows in by_dimension.items()},
        "samples_by_dimension": {d: len(rows) for d, rows in by_dimension.items()},
        "share_of_usable_pictures": round(float(np.mean([g["usable"] for g in pictures])), 4) if pictures else 0.0,
        "share_by_dimension": _shares([d["dimension"] for d in defects]),
        "share_by_kind": _shares([d["kind"] for d in defects]),
        "share_by_severity": _shares([str(d["severity"]) for d in defects]),
        "share_by_setting": _shares([r["setting"] for r in records]),
    }


def _labels(records: Sequence[dict[str, Any]]) -> LabelStatistics:
    return label_statistics([r["label"] for r in records])


def _shares(names: Sequence[str]) -> dict[str, float]:
    return {name: round(count / len(names), 4) for name, count in sorted(Counter(names).items())}
