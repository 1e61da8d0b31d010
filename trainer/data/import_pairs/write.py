"""The stage: read the pairs, check their pictures, group them, and write a data directory and the pairs left over.

OUT/samples.jsonl, OUT/pictures/…   the data directory
OUT/left-over.jsonl                 one line per pair that belongs to no question, with the reason
OUT/import-pairs.json               counts, label statistics; written last
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from screening.errors import ImageError
from screening.images import accept, decode
from screening.runtime.atomic_write import write_atomically
from screening.runtime.digests import file_sha256
from screening.task import OPTIONS, options_text
from trainer.data.import_pairs.group import Digests, LeftOver, Question, Reason, group, sort_out
from trainer.data.import_pairs.pairs import Columns, Pair, read_pair
from trainer.data.import_pairs.rows import Layout, PairsError, read_rows
from trainer.data.split.assign import Item
from trainer.data.split.write import write_data
from trainer.data_directory import DataError, is_there, json_lines, read_bytes
from trainer.metrics import label_statistics
from trainer.records import Sample
from trainer.runs.run_directory import claim, occupy, see_whose

REPORT_NAME = "import-pairs.json"
LEFT_OVER_NAME = "left-over.jsonl"


class Report(BaseModel):
    """The content of `import-pairs.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    files: dict[str, str]
    """Name → SHA-256 of each input file."""
    pairs: int
    usable: int
    """Number of pairs with the verdict usable."""
    originals: int
    questions: int
    left_over: dict[Reason, int]
    labels: dict[str, int]
    mean_label_length: float
    """Mean length of the labels; `N` has length 1 (paper, section 5.1)."""
    random_baseline: float
    """Score of blind guessing in percent; see `trainer.metrics.random_baseline`."""
    share_of_n: float


@dataclass(frozen=True, slots=True)
class Order:
    """The settings of one import."""

    files: Sequence[Path]
    images: Path
    out: Path
    layout: Layout
    columns: Columns
    seed: int


def read_pairs(order: Order) -> list[Pair]:
    """Read all pairs of all files.

    Raises:
        PairsError: a file or a row cannot be used, the files have no rows, or no row has the column of the comment.
    """
    rows = (row for path in order.files for row in read_rows(path, order.layout))
    pairs, found = [], dict[str, None]()
    for row in rows:
        pairs.append(read_pair(row, order.columns, order.images))
        found.update(dict.fromkeys(row.values))
    if not pairs:
        raise PairsError(f"no pairs in {', '.join(map(str, order.files))}")
    comment = order.columns.comment
    if comment is not None and comment not in found:
        raise PairsError(
            f"no row has the column {comment!r} (found: {', '.join(found)}); name another with --comment-column"
        )
    return pairs


def import_pairs(order: Order, pairs: Sequence[Pair]) -> Report:
    """Write the data directory of these pairs.

    Raises:
        PairsError: the pairs do not fill a single question of four.
        RunMismatch: `out` belongs to another run.
        DataError, OSError: a file cannot be read or written.
    """
    files = {name: f"sha256:{file_sha256(path)}" for name, path in _named(order.files).items()}
    origin = {"stage": "import-pairs", "files": files, "layout": order.layout, "seed": order.seed}
    origin |= {"columns": asdict(order.columns)}
    see_whose(order.out, origin)
    digests, broken = _look_at(order.images, pairs)
    left = [_left_by(pair, broken) for pair in pairs if {pair.original, pair.generated} & broken.keys()]
    kept, useless = sort_out((one for one in pairs if not {one.original, one.generated} & broken.keys()), digests)
    questions, remaining = group(kept, order.seed, digests)
    left += useless + remaining
    if not questions:
        raise PairsError(f"no original has {len(OPTIONS)} suitable pictures; {_counts(left)}")
    claim(order.out, origin)
    occupy(order.out)
    items = [_item(question, order.images, digests) for question in questions]
    write_data(order.out, items, copy=False)
    write_atomically(order.out / LEFT_OVER_NAME, json_lines(map(_record, left)))
    report = _report(files, pairs, questions, left, digests)
    write_atomically(order.out / REPORT_NAME, report.model_dump_json(indent=1) + "\n")
    return report


def _named(files: Iterable[Path]) -> dict[str, Path]:
    """Names of the files without their paths, which differ between machines; equal names are numbered."""
    named: dict[str, Path] = {}
    for path in files:
        number = sum(path.name == other.name for other in named.values())
        named[f"{path.name} ({number + 1})" if number else path.name] = path
    return named


def _look_at(images: Path, pairs: Iterable[Pair]) -> tuple[dict[str, str], dict[str, LeftOver]]:
    """SHA-256 of each picture that the service would accept, and the reason for each of the others."""
    digests: dict[str, str] = {}
    broken: dict[str, LeftOver] = {}
    wanted = {picture: pair for pair in pairs for picture in (pair.original, pair.generated)}
    for picture, pair in tqdm(wanted.items(), desc="pictures", unit="picture", disable=None):
        try:
            if not is_there(images, picture):
                broken[picture] = LeftOver(pair, Reason.MISSING, pair.urls.get(picture, picture))
                continue
            data = read_bytes(images, picture)
            decode(accept(data), shrink_to=1)
            digests[picture] = hashlib.sha256(data).hexdigest()
        except (ImageError, DataError) as error:
            broken[picture] = LeftOver(pair, Reason.UNREADABLE, f"{picture}: {error}")
    return digests, broken


def _left_by(pair: Pair, broken: Mapping[str, LeftOver]) -> LeftOver:
    fault = broken.get(pair.generated) or broken[pair.original]
    return LeftOver(pair, fault.reason, fault.detail)


def _item(question: Question, images: Path, digests: Mapping[str, str]) -> Item:
    first = question.pairs[0]
    generated = [_generated(option, pair) for option, pair in zip(OPTIONS, question.pairs, strict=True)]
    label = options_text(option for option, pair in zip(OPTIONS, question.pairs, strict=True) if pair.usable)
    record = {
        "id": question.id,
        "product": first.product or question.original,
        "original": {"file": question.original},
        "generated": generated,
        "label": label,
    }
    sample = Sample.model_validate(record)
    line = json.dumps(record, ensure_ascii=False).encode()
    return Item(sample, line, images, tuple(digests[file] for file in sample.files))


def _generated(option: str, pair: Pair) -> dict[str, object]:
    picture: dict[str, object] = {"file": pair.generated, "option": option, "usable": pair.usable}
    if pair.dimensions:
        picture["dimensions"] = sorted(pair.dimensions)
    if pair.comment:
        picture["comment"] = pair.comment
    return picture


def _record(left: LeftOver) -> dict[str, str]:
    pair = left.pair
    record = {"row": pair.where, "original": pair.original, "generated": pair.generated, "reason": left.reason}
    return record | ({"detail": left.detail} if left.detail else {})


def _counts(left: Iterable[LeftOver]) -> str:
    counted = Counter(one.reason for one in left)
    return "left over: " + (", ".join(f"{count} × {reason}" for reason, count in counted.most_common()) or "nothing")


def _report(
    files: dict[str, str],
    pairs: Sequence[Pair],
    questions: Sequence[Question],
    left: Sequence[LeftOver],
    digests: Digests,
) -> Report:
    labels = [
        options_text(o for o, pair in zip(OPTIONS, question.pairs, strict=True) if pair.usable)
        for question in questions
    ]
    return Report(
        files=files,
        pairs=len(pairs),
        usable=sum(pair.usable is True for pair in pairs),
        originals=len({digests.get(pair.original, pair.original) for pair in pairs}),
        questions=len(questions),
        left_over=dict(Counter(one.reason for one in left).most_common()),
        **label_statistics(labels),
    )
