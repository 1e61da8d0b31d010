"""The stage `collect`: reads the reviews, downloads the pictures, registers the snapshot, and then makes it visible.

    OUT/samples.jsonl              one sample per reviewed question, in the order of the ids
    OUT/pictures/SHA256.SUFFIX     each picture once
    OUT/left-out.jsonl             tasks that gave no sample, with the reason
    OUT/collect.json               the manifest: digest, service, counts, time range, agreement

All of it is written to `.OUT.partial` and becomes visible by one rename. A killed run leaves that directory, and the
next one takes over the pictures that it holds.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

from screening.errors import ImageError
from screening.images import accept, decode
from screening.runtime.atomic_write import partial_path, write_atomically
from screening.runtime.digests import file_sha256, json_digest
from screening.runtime.utc_time import utc_now_text
from trainer.data.collect.errors import ErasedMeanwhile, NothingReviewed
from trainer.data.collect.export import Item
from trainer.data.collect.samples import PICTURES_NAME, LeftOut, choose, file_of, record_of
from trainer.data.collect.service import ReviewService
from trainer.data_directory import SAMPLES_NAME, data_digest, json_lines, read_samples
from trainer.runs.process_lock import LOCK_NAME, open_lock_file, try_lock
from trainer.runs.run_directory import RunMismatch

MANIFEST_NAME = "collect.json"
LEFT_OUT_NAME = "left-out.jsonl"
_UNUSABLE = "a picture cannot be used: "
ROUNDS = 5
"""Maximum number of times that the export is read, if data are erased meanwhile."""
CONNECTIONS = 4


class Snapshot(BaseModel):
    """The content of `collect.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    digest: str
    """`trainer.data_directory.data_digest`: the same reviews have the same digest."""
    export: str
    """Digest of the service's whole answer, from which a later call sees whether reviews have changed."""
    service: str
    created: str
    """UTC, ISO 8601; not part of the digest."""
    samples: int
    products: int
    reviews: int
    """Number of people's reviews of these samples."""
    jobs: dict[str, int]
    reasons: dict[str, int]
    """Number of samples by the reason for which people were asked."""
    decided: dict[str, int]
    """Number of samples decided by `one` person, by two who `agreed`, or by a third (`adjudicated`)."""
    with_reasoning: int
    """Number of samples that keep the model's reasoning, because it contradicts no verdict."""
    weighted: int
    """Number of samples with an inclusion probability."""
    left_out: dict[str, int]
    """Number of tasks without a sample, by reason."""
    first: str
    """Time of the earliest verdict."""
    last: str
    """Time of the latest verdict."""
    agreement: list[dict[str, Any]]
    """How far reviewers agree, as the service's statistics said at this time."""


def collect(service: ReviewService, out: Path) -> Snapshot:
    """Collect all reviews into the new directory `out`.

    If `out` holds a snapshot of the same reviews, nothing happens: a snapshot never changes.

    Raises:
        RunMismatch: `out` holds other files, or a snapshot of other reviews, or another process writes it.
        CollectError: the reviews cannot be used, or there are none; or the service does not answer.
        OSError: a file cannot be written.
    """
    there = read_snapshot(out)
    if there is not None:
        if there.export != export_digest(read_export(service)):
            raise RunMismatch(
                f"{out} holds the snapshot {there.digest}, and the reviews have changed since. A snapshot never "
                "changes: name another --out"
            )
        return there
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunMismatch(f"{out} holds other files; name another --out")
    out = out.resolve()  # nothing can be renamed to a link or to `.`
    with _locked(partial_path(out)) as partial:
        for _ in range(ROUNDS):
            try:
                return _collected(service, partial, out)
            except ErasedMeanwhile as error:
                tqdm.write(f"{error}; collecting again")
                last = error
        raise last


def read_snapshot(out: Path) -> Snapshot | None:
    """The manifest of a complete snapshot; None if there is none.

    Raises:
        RunMismatch: it is damaged.
    """
    path = out / MANIFEST_NAME
    try:
        return Snapshot.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise RunMismatch(f"{path} is damaged or from another version; name another --out") from error


def unusable_tasks(out: Path) -> set[str]:
    """Ids of the tasks that a snapshot leaves out because of a picture; none if there is no snapshot.

    Raises:
        RunMismatch: the list is damaged.
    """
    path = out / LEFT_OUT_NAME
    try:
        left_out = [LeftOut(**json.loads(line)) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return set()
    except (ValueError, TypeError) as error:
        raise RunMismatch(f"{path} is damaged or from another version; remove it") from error
    return {one.task for one in left_out if one.reason.startswith(_UNUSABLE)}


def read_export(service: ReviewService) -> list[Item]:
    """All reviewed tasks, each once and in the order of their ids.

    A task that is reviewed again while the pages are read may come twice; its latest verdict counts.

    Raises:
        CollectError: the service does not give them.
    """
    found: dict[str, Item] = {}
    for item in tqdm(service.items(), desc="reading reviews", unit="task", disable=None):
        other = found.setdefault(item.task, item)
        found[item.task] = max(other, item, key=lambda one: one.at)
    return [found[task] for task in sorted(found)]


def export_digest(items: Sequence[Item]) -> str:
    """Digest of all reviews, whatever the pages they came in."""
    return json_digest([item.model_dump(mode="json") for item in items])


def _collected(service: ReviewService, partial: Path, out: Path) -> Snapshot:
    items = read_export(service)
    chosen, left_out = choose(items)
    records = {name: record_of(name, item) for name, item in chosen.items()}
    unusable = _download(service, partial, chosen.values())
    for name, item in list(chosen.items()):
        if problem := next((unusable[sha256] for sha256 in item.digests if sha256 in unusable), None):
            left_out.append(LeftOut(item.task, f"{_UNUSABLE}{problem}"))
            del chosen[name], records[name]
    _remove_others(partial, chosen.values())
    if not chosen:
        raise NothingReviewed(
            f"{service.url} has no reviewed question that can be used ({len(left_out)} tasks were left out); review "
            "some first"
        )
    write_atomically(partial / SAMPLES_NAME, json_lines(records.values()))
    write_atomically(
        partial / LEFT_OUT_NAME,
        json_lines({"task": one.task, "reason": one.reason} for one in sorted(left_out, key=lambda one: one.task)),
    )
    digest = data_digest(partial, read_samples(partial), check=False)  # each picture was checked on arrival
    snapshot = _manifest(service, digest, export_digest(items), chosen, list(records.values()), left_out)
    write_atomically(partial / MANIFEST_NAME, snapshot.model_dump_json(indent=1) + "\n")
    service.register(digest, sorted(item.task for item in chosen.values()))
    (partial / LOCK_NAME).unlink()
    partial.rename(out)
    return snapshot


def _download(service: ReviewService, partial: Path, items: Iterable[Item]) -> dict[str, str]:
    """Fetch the pictures that are missing.

    Returns:
        SHA-256 of each picture that the trainings would refuse → the reason.
    """
    folder = partial / PICTURES_NAME
    folder.mkdir(exist_ok=True)
    wanted = {file.sha256: partial / file_of(file) for item in items for file in item.files}
    unusable: dict[str, str] = {}

    def fetch(sha256: str) -> None:
        target = wanted[sha256]
        if target.exists() and file_sha256(target) == sha256:
            return
        data = service.picture(sha256)
        try:
            decode(accept(data), shrink_to=1)
        except ImageError as error:
            unusable[sha256] = str(error)
        else:
            write_atomically(target, data)

    with (
        ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="collect") as pool,
        tqdm(total=len(wanted), desc="fetching pictures", unit="picture", disable=None) as bar,
    ):
        try:
            for _ in pool.map(fetch, sorted(wanted)):
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return unusable


def _remove_others(partial: Path, items: Iterable[Item]) -> None:
    """Remove the pictures that no sample shows: those of erased tasks, and partial ones that a killed run left."""
    names = {Path(file_of(file)).name for item in items for file in item.files}
    for path in (partial / PICTURES_NAME).iterdir():
        if path.name not in names:
            path.unlink()


def _manifest(
    service: ReviewService,
    digest: str,
    export: str,
    chosen: Mapping[str, Item],
    records: Sequence[Mapping[str, Any]],
    left_out: Sequence[LeftOut],
) -> Snapshot:
    items = chosen.values()
    times = sorted(item.at.astimezone(UTC) for item in items)
    return Snapshot(
        digest=digest,
        export=export,
        service=service.url,
        created=utc_now_text(),
        samples=len(items),
        products=len({item.product or item.digests[0] for item in items}),
        reviews=sum(len(item.reviews) for item in items),
        jobs=_counts(item.job for item in items),
        reasons=_counts(item.reason for item in items),
        decided=_counts(item.decided for item in items),
        with_reasoning=sum("reasoning" in record for record in records),
        weighted=sum("weight" in record for record in records),
        left_out=_counts(one.reason for one in left_out),
        first=times[0].isoformat(),
        last=times[-1].isoformat(),
        agreement=service.agreement(),
    )


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


@contextmanager
def _locked(partial: Path) -> Iterator[Path]:
    """Keep other processes out of the directory, until this one leaves it or ends."""
    partial.mkdir(parents=True, exist_ok=True)
    lock = open_lock_file(partial / LOCK_NAME)
    try:
        if not try_lock(lock):
            raise RunMismatch(f"another process is writing {partial}; wait until it ends, or stop it")
        yield partial
    finally:
        os.close(lock)
