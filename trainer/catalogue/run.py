"""One run of the command: claim the output, plan the blocks, screen those that are not finished, and summarise."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from screening.answer import Mode
from screening.checkpoint.manifest import verify
from screening.runtime.atomic_write import write_atomically
from screening.runtime.extensions import find
from trainer.catalogue.columns import ANSWER
from trainer.catalogue.job import ENGINES, Job
from trainer.catalogue.local import screen_here
from trainer.catalogue.on_ray import screen_on_ray
from trainer.catalogue.parts import Parts
from trainer.catalogue.plan import Block, plan_blocks
from trainer.catalogue.rejects import CatalogueError
from trainer.catalogue.sources import NEEDED, InputFile, find_files, kept_names
from trainer.catalogue.summary import Summary, summarise
from trainer.catalogue.worker import Screened
from trainer.evaluation.evaluate.by_checkpoint import check_can_locate
from trainer.runs.run_directory import claim, occupy

INPUTS_NAME = "inputs.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to screen, and how."""

    checkpoint: Path
    data: Path
    out: Path
    mode: Mode
    locate: bool
    """Whether the model is asked where the faults are."""
    batch: int
    review_below: float
    keep: tuple[str, ...] | None
    workers: Literal["local"] | int | None
    """`local` for this process alone; otherwise the number of Ray workers, None for one per GPU."""
    ray_address: str | None
    cost_per_hour: float | None
    retry_rejects: bool
    engine: str

    def origin(self, digest: str) -> dict[str, object]:
        """The settings that decide the content of the output. A continued run must have the same."""
        return {
            "command": "screen-dataset",
            "checkpoint": digest,
            "mode": self.mode.value,
            **({"locate": True} if self.locate else {}),
            "batch": self.batch,
            "review_below": self.review_below,
            "keep": None if self.keep is None else list(self.keep),
            "engine": self.engine,
        }


def screen_dataset(order: Order) -> Summary:
    """Screen every record of the input that no finished block contains.

    Raises:
        CatalogueError: the input cannot be used or has changed, or Ray cannot be used.
        EvaluationError: the checkpoint cannot say where faults are.
        CheckpointError: the checkpoint is incomplete or was changed.
        RunMismatch: the output directory belongs to a run with other settings, or another process uses it.
        OSError: the output cannot be written.
    """
    began = time.monotonic()
    find(order.engine, ENGINES, "engine")
    manifest = verify(order.checkpoint)
    if order.locate:
        check_can_locate(order.checkpoint, manifest)
    claim(order.out, order.origin(digest := manifest.digest))
    occupy(order.out)
    files = find_files(order.data, order.out)
    _check_columns(files, order.keep)
    files = _known_first(files, order.out)
    parts = Parts(order.out)
    parts.prepare()
    if order.retry_rejects:
        parts.reopen_rejected()
    finished = parts.finished()
    blocks = list(plan_blocks(files, order.batch))
    todo = [block for block in blocks if block.key not in finished]
    records = sum(block.count for block in blocks)
    with closing(_screened(order, digest, todo)) as screened:
        for _ in _with_progress(screened, records, sum(block.count for block in todo)):
            pass
    return summarise(
        order.out,
        records=records,
        screened_now=sum(block.count for block in todo),
        seconds=time.monotonic() - began,
        cost_per_hour=order.cost_per_hour,
    )


def _screened(order: Order, digest: str, todo: Sequence[Block]) -> Generator[Screened]:
    if not todo:
        return
    job = Job(
        checkpoint=order.checkpoint.absolute(),
        digest=digest,
        out=order.out.absolute(),
        mode=order.mode,
        locate=order.locate,
        review_below=order.review_below,
        keep=order.keep,
        engine=order.engine,
    )
    if order.workers == "local":
        yield from screen_here(job, todo)
    else:
        yield from screen_on_ray(job, todo, address=order.ray_address, workers=order.workers)


def _with_progress(screened: Iterator[Screened], records: int, todo: int) -> Iterator[Screened]:
    from tqdm import tqdm

    rejected = 0
    with tqdm(desc="screening", total=records, initial=records - todo, unit="record") as bar:
        for one in screened:
            rejected += one.rejected
            bar.set_postfix(rejected=rejected, refresh=False)
            bar.update(one.records)
            yield one


def _known_first(files: Sequence[InputFile], out: Path) -> list[InputFile]:
    """Compare the files with those of earlier runs, and put new ones last, so that they change no earlier block.

    Raises:
        CatalogueError: a file has changed or is missing.
    """
    path = out / INPUTS_NAME
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = {file.name: file for file in files}
    for name, fingerprint in known.items():
        if name not in found or found[name].fingerprint != fingerprint:
            state = "has changed" if name in found else "is missing"
            raise CatalogueError(f"{name} {state} since {out} was begun. Restore the file, or name another --out")
    ordered = [*(found[name] for name in known), *(file for file in files if file.name not in known)]
    write_atomically(path, json.dumps({file.name: file.fingerprint for file in ordered}, indent=1) + "\n")
    return ordered


def _check_columns(files: Sequence[InputFile], keep: tuple[str, ...] | None) -> None:
    """Refuse an input of which no record could be screened, or whose columns would be confused with an answer's.

    Raises:
        CatalogueError: no file has the columns of a question, a column has a name of ours, or `keep` is not there.
    """
    columns = {file.name: file.columns for file in files}
    for name, own in columns.items():
        if twice := sorted({one for one in own if own.count(one) > 1}):
            raise CatalogueError(f"{name} has two columns {twice[0]!r}. Rename or remove one")
    lacking = [[name for name in NEEDED if name not in own] for own in columns.values()]
    if all(lacking):
        name = next(iter(columns))
        raise CatalogueError(f"{name} has no column {', '.join(lacking[0])}. Needed are {', '.join(NEEDED)}")
    for name, own in columns.items():
        if taken := sorted(set(kept_names(own, keep)) & set(ANSWER.names)):
            raise CatalogueError(
                f"{name} has a column {taken[0]!r}, which an answer has too. Rename it, or list the columns to copy "
                "with --keep"
            )
    if keep and (unknown := set(keep) - set().union(*columns.values())):
        raise CatalogueError(f"--keep: no file has a column {sorted(unknown)[0]!r}")
