"""kill -9 in every stage, two at once, and a run that was overtaken: one version, one move, the same digest."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint.registry import Registry
from tests.trainer import forked
from tests.trainer.release.retrain.shop import Shop
from trainer.release.retrain import releasing
from trainer.release.retrain.errors import Stale
from trainer.release.retrain.lock import FencingToken, newest_lease, work_lock
from trainer.release.retrain.stages import STAGES

pytestmark = [pytest.mark.fork_server, pytest.mark.slow]

MOMENTS = [f"{when} {stage.name}" for stage in STAGES for when in ("before", "after")]
MOMENTS.insert(MOMENTS.index("after promote"), "noted")
"""In the order in which they occur in a run; `noted`: the move is in the history and the alias stays."""


FEW = ("after sft", "after publish", "noted")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "moments", [FEW, pytest.param(MOMENTS, marks=pytest.mark.exhaustive)], ids=["few", "every stage"]
)
def test_a_run_that_is_killed_again_and_again_ends_like_an_uninterrupted_one(
    moments: Sequence[str], shop: Shop, tmp_path: Path, registry_file: Path, labels: Path
) -> None:
    registry_copy = tmp_path / "copy.db"
    registry_copy.write_bytes(registry_file.read_bytes())
    for moment in moments:
        assert shop.killed(moment) == -signal.SIGKILL, moment
    assert shop.call() == 0
    run = shop.state.run
    assert run is not None and run.outcome == "promoted" and run.calls == len(moments) + 1
    assert [move.after for move in shop.history.moves] == [1, 2], "one move of the alias"
    assert shop.registry.version(3) is None, "one registered version"

    (tmp_path / "unbroken").mkdir()
    unbroken = Shop(tmp_path / "unbroken", labels, Registry(f"sqlite:///{registry_copy}"))
    shutil.copytree(shop.folder / "store" / "old", unbroken.folder / "store" / "old")
    assert unbroken.call() == 0
    assert unbroken.production == shop.production


def test_of_two_runs_at_once_one_works_and_the_other_is_refused(shop: Shop) -> None:
    with work_lock(shop.work):
        assert forked.run(_second, shop.file()) == 1


def _second(config: Path) -> None:
    import contextlib
    import io

    from trainer.__main__ import main

    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main(["retrain", "--config", str(config)])
    assert "another retraining uses" in said.getvalue()
    raise SystemExit(status)


def test_a_run_on_another_machine_is_waited_for_until_its_lease_ends(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    with FencingToken(shop.registry, "elsewhere", "node-7", 600) as other:
        other.acquire(ours_ended=True)
        assert shop.call() == 1
        assert "runs on node-7 (fencing token 1" in capsys.readouterr().out
        assert shop.call("--decide-only") == 0
        assert '"decision": "skip"' in capsys.readouterr().out
    assert shop.call() == 0, "it has released the model"
    lease = newest_lease(shop.registry)
    assert lease is not None and (lease.token, lease.released) == (2, True)


@pytest.mark.parametrize("stage", ["publish", "promote"])
def test_a_stale_run_can_neither_publish_nor_promote(stage: str, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine takes over while this one believes that it works."""

    monkeypatch.setattr("trainer.release.retrain.lock.busy_with", lambda *_, **__: None)
    owner, name = (shop.scripted, "publish") if stage == "publish" else (releasing, "move")
    real = getattr(owner, name)

    def overtaken(*given: Any, **named: Any) -> Any:
        FencingToken(shop.registry, "elsewhere", "node-7", 600).acquire(ours_ended=True)
        return real(*given, **named)

    monkeypatch.setattr(owner, name, overtaken)
    before = shop.production
    assert shop.call() == 1
    assert shop.production == before and len(shop.history.moves) == 1
    assert (shop.registry.version(2) is None) == (stage == "publish")


def test_a_fencing_token_knows_when_it_is_overtaken(shop: Shop) -> None:
    with FencingToken(shop.registry, "one", "node-1", 600) as first:
        first.acquire(ours_ended=False)
        first.check()
        first._tag("seen", "0")  # its last sign of life was in 1970
        with FencingToken(shop.registry, "two", "node-2", 600) as second:
            second.acquire(ours_ended=False)
            second.check()
            with pytest.raises(Stale, match=r"fencing token 1, but the newest is 2, held by node-2"):
                first.check()
