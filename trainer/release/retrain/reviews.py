"""The labels that people give on the review page of a running service, as a source of a retraining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.collect.command import read_key
from trainer.data.collect.errors import NothingReviewed
from trainer.data.collect.export import Item
from trainer.data.collect.samples import choose, record_of
from trainer.data.collect.service import ReviewService
from trainer.data.collect.snapshot import collect, read_export, read_snapshot, unusable_tasks
from trainer.records import Sample
from trainer.release.retrain.truth import Truth

SNAPSHOT_NAME = "reviews"
"""Name of the snapshot in the directory of a run."""


@dataclass(frozen=True, slots=True)
class Reviews:
    """Reviews of a service. Erased decisions disappear from them."""

    service: str
    key_file: Path | None
    can_lose = True

    @property
    def describes(self) -> Any:
        return {"service": self.service}

    def truths(self, run: Path | None) -> dict[str, Truth]:
        """The labels as the service states them now; no picture is fetched.

        Questions whose pictures the last finished run could not use are left out: they are in no snapshot, so their
        labels would be new again at every decision.
        """
        unusable = unusable_tasks(run / SNAPSHOT_NAME) if run else set()
        with self._open() as service:
            chosen, _ = choose(read_export(service))
        return {name: _truth(name, item) for name, item in chosen.items() if item.task not in unusable}

    def directories(self, run: Path) -> Sequence[Path]:
        """Collect the reviews into the run's directory, once: a run that is killed later keeps its snapshot."""
        out = run / SNAPSHOT_NAME
        if read_snapshot(out) is None:
            try:
                with self._open() as service:
                    collect(service, out)
            except NothingReviewed:
                return []
        return [out]

    def _open(self) -> ReviewService:
        return ReviewService(self.service, read_key(self.key_file))


def _truth(name: str, item: Item) -> Truth:
    sample = Sample.model_validate(record_of(name, item))
    return Truth.of(sample, lambda: item.digests[0])
