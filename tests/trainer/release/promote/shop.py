"""A model registry with published versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from screening.checkpoint.registry import PRODUCTION, Registry
from tests.trainer.published import make_checkpoint, make_evaluation
from trainer.__main__ import main
from trainer.evaluation.compare.pairs import read_pairs
from trainer.release.promote.gate import Criterion, measure_criteria
from trainer.release.promote.limits import Limits
from trainer.release.promote.report import title
from trainer.release.publish.register import register

OLD_WRONG = range(0, 200, 6)
"""Numbers of 34 samples with wrong answers, spread over all labels."""


class Shop:
    """A registry with versions, their directories and evaluations, and the commands on it."""

    def __init__(self, folder: Path, registry: Registry, data: Path) -> None:
        self.folder, self.registry, self.data = folder, registry, data

    def version(self, name: str, **answers: Any) -> int:
        """Publish a checkpoint, and write an evaluation with `make_evaluation`."""
        directory = self.folder / "store" / name
        manifest = make_checkpoint(directory, name)
        make_evaluation(self.folder / f"evaluation-{name}", self.data, manifest, **answers)
        return register(self.registry, directory, manifest).number

    def promote(self, name: str, version: int | str, *more: str, production: str | None = None) -> int:
        given = ["--candidate-evaluation", str(self.folder / f"evaluation-{name}")]
        if production:
            given += ["--production-evaluation", str(self.folder / f"evaluation-{production}")]
        out = self.folder / f"gate-{version}-{name}"
        gate = ["--data", str(self.data), "--out", str(out), "--by", "ann"]
        return self.run("promote", str(version), *gate, *given, *more)

    def run(self, command: str, *arguments: str) -> int:
        return main([command, *arguments, "--tracking-uri", self.registry.uri])

    def production(self) -> int | None:
        version = self.registry.resolve(PRODUCTION)
        return version.number if version else None

    def gate(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / f"gate-{name}" / "gate.json").read_text()))


def criteria(shop: Shop, old: dict[str, Any], new: dict[str, Any], **trained: Any) -> dict[str, Criterion]:
    sides = [
        make_evaluation(shop.folder / name, shop.data, make_checkpoint(shop.folder / f"c-{name}", name), **answers)
        for name, answers in (("old", old), ("new", new))
    ]
    return {
        title(one): one for one in measure_criteria(read_pairs(*sides, shop.data), Limits(), first=False, **trained)
    }
