"""A retraining in bad circumstances: full disks, a registry that is down, wrong clocks, changed settings and data."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint.registry import PRODUCTION, Registry
from screening.errors import RegistryError
from tests.trainer.published import make_data
from tests.trainer.release.retrain.shop import SAMPLES, Shop
from trainer.release.promote.rollback import rollback
from trainer.release.retrain import machine
from trainer.release.retrain.lock import FencingToken, Lease, newest_lease
from trainer.release.retrain.state import utc_now, write_state

pytestmark = pytest.mark.slow


def fails_after(writes: int, monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let a disk be full after some writes."""
    left = [writes]

    def write(path: Path, content: str | bytes) -> None:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        left[0] -= 1
        real(path, content)

    from screening.runtime.atomic_write import write_atomically as real

    for module in modules:
        monkeypatch.setattr(f"trainer.release.retrain.{module}.write_atomically", write)


def before(stage: str, act: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen when a stage begins."""

    def changed(one: Any) -> Any:
        if one.name != stage:
            return one
        return replace(one, work=lambda *given: (act(), one.work(*given))[1])

    monkeypatch.setattr(machine, "STAGES", tuple(map(changed, machine.STAGES)))


def once_only(shop: Shop) -> None:
    """One version was published and the alias moved once."""
    run = shop.state.run
    assert run is not None and run.outcome == "promoted"
    assert [move.after for move in shop.history.moves] == [1, 2]
    assert shop.registry.version(3) is None


def test_a_file_that_cannot_be_written_after_a_promotion_is_a_warning(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop.folder / "metrics").write_text("a file in place of the directory")
    fails_after(0, monkeypatch, "report")
    assert shop.call() == 0
    once_only(shop)
    said = capsys.readouterr().err
    assert "warning: the report cannot be written" in said and "No space left" in said
    assert "warning: metrics_file cannot be written" in said


def test_a_run_continues_after_a_full_disk(shop: Shop) -> None:
    for writes in (0, 1, 5, 9):
        with pytest.MonkeyPatch.context() as full:
            fails_after(writes, full, "state", "ledger")
            assert shop.call() == 1
    assert shop.call() == 0
    once_only(shop)


def test_a_promotion_that_a_person_took_back_is_not_repeated(shop: Shop) -> None:
    production = shop.production
    with pytest.MonkeyPatch.context() as full:
        before("promote", lambda: fails_after(0, full, "state"), full)
        assert shop.call() == 1
    assert [move.after for move in shop.history.moves] == [1, 2], "the alias moved, and the stage is not recorded"
    rollback(shop.registry, by="ann", reason="wrong shadows")
    assert shop.call() == 0
    run = shop.state.run
    assert run is not None and run.outcome == "superseded" and "this run promoted version 2" in run.message
    assert shop.production == production and [move.after for move in shop.history.moves] == [1, 2, 1]


def test_a_first_promotion_that_was_only_noted_is_finished(
    shop: Shop, tmp_path: Path, registry_file: Path, empty_registry: Path
) -> None:
    registry_file.write_bytes(empty_registry.read_bytes())
    shop.config["training"]["base"] = str(tmp_path / "store" / "old")
    real = Registry.point

    def point(registry: Registry, alias: str, number: int) -> None:
        if alias == PRODUCTION:
            raise RegistryError("the registry does not answer")
        real(registry, alias, number)

    with pytest.MonkeyPatch.context() as down:
        down.setattr(Registry, "point", point)
        assert [shop.call() for _ in range(2)] == [3, 3]
    assert shop.call() == 0
    run = shop.state.run
    assert run is not None and run.outcome == "promoted"
    assert [move.after for move in shop.history.moves] == [1]


def test_a_run_continues_after_its_registry_was_down(shop: Shop) -> None:
    for stage in ("decide", "publish", "gate", "promote"):
        with pytest.MonkeyPatch.context() as down:

            def refuse(*_: Any, **__: Any) -> Any:
                raise RegistryError("the registry does not answer")

            before(stage, lambda down=down: down.setattr(Registry, "_asking", refuse), down)  # type: ignore[misc]
            assert shop.call() == 3, stage
            assert "screening_retrain_exit_status 3.0" in shop.metrics
    assert shop.scripted.asked.count("sft") == 1
    assert shop.call() == 0
    once_only(shop)


def test_a_run_continues_where_its_store_is_mounted_elsewhere(shop: Shop) -> None:
    with pytest.MonkeyPatch.context() as full:
        before("gate", lambda: _raise(OSError(errno.ENOSPC, "No space left on device")), full)
        assert shop.call() == 1
    shop.config["registry"]["store"] = str((shop.folder / "store").rename(shop.folder / "mounted"))
    assert shop.call() == 0
    once_only(shop)


def test_sigterm_ends_a_call_and_releases_its_lease(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.__main__ import main

    before("sft", lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    assert main(["retrain", "--config", str(shop.file())]) == 1
    run, lease = shop.state.unfinished, newest_lease(shop.registry)
    assert run is not None and run.message.startswith("ended by SIGTERM") and list(run.stages)[-1] == "split"
    assert lease is not None and lease.released
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_registry_that_is_down_stops_no_training(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Registry._asking

    def refuse(*_: Any, **__: Any) -> Any:
        raise RegistryError("the registry does not answer")

    before("split", lambda: monkeypatch.setattr(Registry, "_asking", refuse), monkeypatch)
    before("evaluate", lambda: monkeypatch.setattr(Registry, "_asking", real), monkeypatch)
    assert shop.call() == 0
    once_only(shop)


def test_a_run_that_is_overtaken_leaves_the_gpu(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtake() -> None:
        with pytest.MonkeyPatch.context() as free:
            free.setattr("trainer.release.retrain.lock.busy_with", lambda *_, **__: None)
            FencingToken(shop.registry, "elsewhere", "node-7", 600).acquire(ours_ended=True)

    before("sft", overtake, monkeypatch)
    assert shop.call() == 1
    assert shop.scripted.asked == ["sft"]


@pytest.mark.parametrize("options", [(), ("--decide-only",)])
def test_a_failed_decision_is_in_the_metrics(options: tuple[str, ...], shop: Shop) -> None:
    shop.config["data"]["directories"] = [str(shop.folder / "none")]
    assert shop.call(*options) == 2
    assert "screening_retrain_exit_status 2.0" in shop.metrics


def test_a_lease_from_a_wrong_clock_ends(shop: Shop) -> None:
    now = time.time()
    lease = Lease(token=1, work="elsewhere", holder="node-7", seen=now, released=False)
    assert lease.held_against("here", 600, ours_ended=True)
    assert replace(lease, seen=now + 300).held_against("here", 600, ours_ended=True), "clocks differ a little"
    assert not replace(lease, seen=now + 86_400 * 365).held_against("here", 600, ours_ended=True)


@pytest.mark.parametrize(
    ("ahead", "decided"), [(timedelta(minutes=5), "skip"), (timedelta(days=365), "run")], ids=["a little", "a year"]
)
def test_a_run_that_ended_by_a_wrong_clock_does_not_stop_later_ones(ahead: timedelta, decided: str, shop: Shop) -> None:
    assert shop.call() == 0
    state = shop.state
    assert state.finished is not None
    state.finished.ended = (utc_now() + ahead).isoformat()
    write_state(shop.work, state)
    shop.config["when"] = {"new_labels": 0, "new_products": 0, "days_after_run": 1}
    assert shop.call("--decide-only") == 0
    decision = shop.state.decision
    assert decision is not None and decision.decision == decided


@pytest.mark.parametrize("damage", ["soon", "nan", "inf"])
def test_a_damaged_lease_does_not_block(damage: str, shop: Shop) -> None:
    with FencingToken(shop.registry, "elsewhere", "node-7", 600) as other:
        other.acquire(ours_ended=True)
        with shop.registry.client() as client:
            client.set_model_version_tag("screening.retrain", "1", "seen", damage)
        lease = newest_lease(shop.registry)
        assert lease is not None and not lease.held_against("here", 600, ours_ended=True)


def test_changed_settings_repeat_the_stages_that_they_decide(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as full:
        real = shop.scripted.publish
        full.setattr(shop.scripted, "publish", lambda **_: _raise(OSError(errno.ENOSPC, "No space left on device")))
        assert shop.call() == 1
    assert shop.scripted.publish == real
    shop.config["measuring"]["modes"] = ["cot", "direct"]
    shop.scripted.asked.clear()
    assert shop.call() == 0
    assert shop.scripted.asked == ["calibrate", "evaluate", "publish"]
    once_only(shop)


def test_samples_that_disappear_are_bad_input_and_production_stays(shop: Shop, tmp_path: Path) -> None:
    data = make_data(tmp_path / "own", SAMPLES)
    shop.config["data"]["directories"] = [str(data)]
    shop.config["when"] |= {"new_labels": 0, "new_products": 0}
    assert shop.call() == 0
    production = shop.production
    tested = json.loads((shop.work / "split" / "testing" / "samples.jsonl").read_text().splitlines()[0])["id"]
    lines = (data / "samples.jsonl").read_text().splitlines(keepends=True)
    (data / "samples.jsonl").write_text("".join(line for line in lines if json.loads(line)["id"] != tested))
    assert shop.call() == 2
    run = shop.state.run
    assert run is not None and run.outcome == "failed" and tested in run.message
    assert shop.production == production


def _raise(error: Exception) -> Any:
    raise error
