"""A whole run of `compose`, and the data directory that it leaves.

OUT/samples.jsonl          one line per product that was composed, without a label
OUT/pictures/, OUT/steps/  see files.py
OUT/failures.jsonl         the products that were left out, with the reason
OUT/compose.json           settings, licence, counts, what was measured
OUT/compose.html, OUT/contact-sheet.png
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tqdm import tqdm

from screening.runtime.atomic_write import replacing, write_atomically
from screening.task import OPTIONS
from trainer.data.compose.failures import Failed
from trainer.data.compose.files import picture_file
from trainer.data.compose.order import Order, Tools, origin, prepare
from trainer.data.compose.page import contact_sheet, page
from trainer.data.compose.sample import Composed, Composer
from trainer.data.compose.sources import Source, products_in
from trainer.data_directory import SAMPLES_NAME, json_lines
from trainer.records import Original, Picture, Unlabelled
from trainer.runs.run_directory import claim, occupy

FAILURES, SUMMARY, PAGE, SHEET = "failures.jsonl", "compose.json", "compose.html", "contact-sheet.png"
QUESTIONS = "questions.jsonl"
SHOWN = 12
"""Number of samples on the page and on the contact sheet."""


@dataclass(frozen=True)
class Left:
    """A product that was left out."""

    source: Source
    error: Failed


@dataclass(frozen=True)
class Result:
    """What a run made."""

    samples: tuple[Composed, ...]
    left: tuple[Left, ...]
    tools: Tools

    @property
    def complete(self) -> bool:
        return not self.left


def compose(order: Order) -> Result:
    """Compose all products. Repeating the call finishes what was interrupted and retries what failed.

    Raises:
        ComposeError: a setting or an input directory cannot be used.
        RunMismatch: `out` belongs to a run with other settings or references.
        OSError: a file cannot be written.
    """
    tools = prepare(order)
    products = products_in(order.products)
    claim(order.out, origin(order, tools))
    occupy(order.out)
    composer, samples, left = Composer(order, tools), [], []
    for product in tqdm(products, desc="compose", unit="product", disable=None):
        try:
            samples.append(composer.compose(product))
        except Failed as error:
            left.append(Left(product, error))
    result = Result(tuple(samples), tuple(left), tools)
    _write(order, result)
    return result


def _write(order: Order, result: Result) -> None:
    """Write everything about the whole run; `samples.jsonl` comes last."""
    out, maker = order.out, result.tools.maker
    write_atomically(out / FAILURES, json_lines(_left_line(one, maker) for one in result.left))
    write_atomically(out / SUMMARY, json.dumps(_summary(order, result), indent=1, ensure_ascii=False) + "\n")
    shown = result.samples[:SHOWN]
    write_atomically(out / PAGE, page(out, shown, f"{len(result.samples)} samples painted by {maker}"))
    with replacing(out / SHEET) as partial:
        contact_sheet(out, shown, f"painted by {maker}").save(partial, "PNG")
    write_atomically(out / QUESTIONS, json_lines(_question(one) for one in result.samples))
    write_atomically(out / SAMPLES_NAME, json_lines(_record(one, result.tools) for one in result.samples))


def _record(sample: Composed, tools: Tools) -> dict[str, Any]:
    """A line of `samples.jsonl`."""
    record = Unlabelled(
        id=sample.id,
        product=sample.product,
        original=Original(file=picture_file(sample.id, "original"), attributes={"source": sample.source}),
        generated=tuple(Picture(file=picture_file(sample.id, option), option=option) for option in OPTIONS),
        setting=sample.setting,
        licence=sample.licence if tools.inpainter.licence.restricted else None,
    )
    return record.model_dump(mode="json", exclude_defaults=True)


def _question(sample: Composed) -> dict[str, Any]:
    """A line of `screening-client batch`."""
    return {
        "id": sample.id,
        "original": picture_file(sample.id, "original"),
        "generated": [picture_file(sample.id, option) for option in OPTIONS],
        "metadata": {"product": sample.product, "setting": sample.setting, "licence": sample.licence},
    }


def _left_line(one: Left, maker: str) -> dict[str, str]:
    return {
        "product": one.source.name,
        "file": one.source.file,
        "reason": one.error.reason,
        "detail": one.error.message,
        "painted_by": maker,
    }


def _summary(order: Order, result: Result) -> dict[str, Any]:
    inpainter, samples = result.tools.inpainter, result.samples
    return {
        "settings": origin(order, result.tools),
        "painted_by": result.tools.maker,
        "stand_in": inpainter.stand_in,
        "licence": inpainter.licence.name,
        "terms": inpainter.licence.restricted,
        "segmenter_licence": result.tools.segmenter.licence.name,
        "samples": len(samples),
        "failed": dict(Counter(one.error.reason for one in result.left)),
        "notes": dict(sorted(Counter(note for sample in samples for note in sample.notes).items())),
        "measures": _means(samples),
    }


def _means(samples: Sequence[Composed]) -> dict[str, float]:
    """Means over all pictures; the worst ones are in `composed.json` of each sample."""
    pictures = [one.model_dump() for sample in samples for one in sample.measures.values()]
    if not pictures:
        return {}
    means = {name: round(fmean(one[name] for one in pictures), 3) for name in pictures[0]}
    return means | {"least_difference": round(fmean(sample.least_difference or 0 for sample in samples), 3)}
