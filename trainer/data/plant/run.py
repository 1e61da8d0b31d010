"""A whole run of `render --products`, and the data directory that it leaves.

OUT/samples.jsonl          one labelled line per sample, as `render` writes it
OUT/pictures/, OUT/done/   see sample.py
OUT/failures.jsonl         the photos that were left out, with the reason
OUT/render.json            settings, label statistics, counts of the reasons
OUT/contact-sheet.png      the first samples
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm

from screening.runtime.atomic_write import replacing, write_atomically
from trainer.data.compose.run import FAILURES
from trainer.data.compose.sources import Source, products_in
from trainer.data.plant.order import Order
from trainer.data.plant.sample import planted_or_reason
from trainer.data.render.contact_sheet import contact_sheet
from trainer.data.render.dataset import SHEET_SAMPLES, statistics
from trainer.data_directory import SAMPLES_NAME, json_lines
from trainer.runs.run_directory import claim, occupy
from trainer.runs.worker_processes import map_in_processes

_Planted = tuple[list[dict[str, Any]], tuple[str, str] | None]


@dataclass(frozen=True)
class Result:
    """What a run made."""

    summary: dict[str, Any]
    """The content of `render.json`."""
    left_out: dict[str, int]
    """Reason → number of photos."""


def plant(order: Order, workers: int = 1) -> Result:
    """Make the samples of all photos. Repeating the call finishes what was interrupted and retries what failed.

    Raises:
        ComposeError: a setting or an input directory cannot be used.
        RunMismatch: `out` belongs to a run with other settings or references.
        UserError: a worker process was killed, for example because the memory was full.
        OSError: a file cannot be written.
    """
    sources = products_in(order.products)
    claim(order.out, order.origin)
    occupy(order.out)
    records: list[dict[str, Any]] = []
    left: list[dict[str, str]] = []
    planted = tqdm(_planted(order, sources, workers), total=len(sources), desc="render", unit="photo", disable=None)
    for source, (made, failed) in zip(sources, planted, strict=True):
        records += made
        if failed:
            reason, detail = failed
            left.append({"product": source.name, "file": source.file, "reason": reason, "detail": detail})
    return _write(order, records, left)


def _planted(order: Order, sources: Sequence[Source], workers: int) -> Iterator[_Planted]:
    work = partial(planted_or_reason, order)
    return map(work, sources) if workers <= 1 else map_in_processes(work, sources, workers)


def _write(order: Order, records: Sequence[dict[str, Any]], left: Sequence[dict[str, str]]) -> Result:
    """Write everything about the whole run; `samples.jsonl` comes last."""
    out = order.out
    reasons = dict(sorted(Counter(one["reason"] for one in left).items()))
    summary = {
        "arguments": {**order.origin, "count": order.count, "products": order.products.name},
        **statistics(records),
        "left_out": reasons,
    }
    write_atomically(out / FAILURES, json_lines(left))
    write_atomically(out / "render.json", json.dumps(summary, indent=2) + "\n")
    with replacing(out / "contact-sheet.png") as temporary:
        contact_sheet(out, records[:SHEET_SAMPLES]).save(temporary, "PNG", compress_level=3)
    write_atomically(out / SAMPLES_NAME, json_lines(records))
    return Result(summary, reasons)
