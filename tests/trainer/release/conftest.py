"""What the tests of releases leave out."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no `comparison.png`, which takes a quarter of a retraining; `tests/trainer/evaluation/compare` has it."""
    monkeypatch.setattr("trainer.evaluation.compare.plot.plot", lambda *_: None)
