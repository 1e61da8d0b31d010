"""Configuration, ledger and child processes of a retraining."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from pydantic import BaseModel

from trainer.release.retrain import config
from trainer.release.retrain.closing import prune
from trainer.release.retrain.config import Settings, read_config
from trainer.release.retrain.errors import BadInput, RetrainError
from trainer.release.retrain.ledger import Entry, Ledger
from trainer.release.retrain.state import Done, Run, State, read_state
from trainer.release.retrain.worker import Order, execute

pytestmark = pytest.mark.slow

LEAST: dict[str, Any] = {
    "work": "work",
    "data": {"directories": ["labels"]},
    "training": {"recipe": "tiny-rl"},
    "registry": {"store": "store"},
}


def test_the_shortest_configuration_has_defaults(tmp_path: Path) -> None:
    path = tmp_path / "retrain.yaml"
    path.write_text(yaml.safe_dump(LEAST))
    assert read_config(path).when.new_labels == 50


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wrok": "x"}, "wrok"),
        ({"training": {"recipe": "tiny", "start": "base"}}, "`base` must name a checkpoint"),
        ({"training": {"recipe": "tiny", "nodes": 2}}, "several nodes need `rendezvous`"),
        ({"confirm": {"services": ["shop:8000"]}}, "not a URL"),
        ({"confirm": {"services": ["http://shop:800000"]}}, "not a URL"),
        ({"confirm": {"services": ["http://"]}}, "not a URL"),
        ({"confirm": {"services": ["https://shop"], "every_address": True}}, "confirm: every_address needs URLs"),
        ({"training": {"recipe": "tiny", "nodes": 2, "rendezvous": "node-0"}}, "training.rendezvous"),
        ({"data": {"directories": []}}, "data: give directories, or collect"),
        ({"data": {"collect": {"service": "shop:8000", "key_file": "key"}}}, "data.collect.service: 'shop:8000'"),
        ({"when": {"days_after_run": float("nan")}}, "when.days_after_run"),
        ({"when": {"days_after_run": 1e300}}, "when.days_after_run"),
        ({"when": {"new_labels": -1}}, "when.new_labels"),
        ({"budget": {"gpu_hours_per_month": float("inf")}}, "budget.gpu_hours_per_month"),
        ({"registry": {"store": "store", "lease_seconds": 1e300}}, "registry.lease_seconds"),
        ({"confirm": {"interval_seconds": 1e300}}, "confirm.interval_seconds"),
    ],
)
def test_a_wrong_configuration_is_refused_by_the_field(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "retrain.yaml"
    path.write_text(yaml.safe_dump(LEAST | change))
    with pytest.raises(BadInput, match=said):
        read_config(path)


def test_all_wrong_fields_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "retrain.yaml"
    path.write_text("work: work\nwrok: x\n")
    with pytest.raises(BadInput) as caught:
        read_config(path)
    assert all(name in str(caught.value) for name in ("wrok", "data", "training", "registry"))


def test_every_setting_is_described_and_listed_in_the_docs(repository: Path) -> None:
    page = (repository / "docs" / "retraining.md").read_text()
    sections = [one for one in vars(config).values() if isinstance(one, type) and issubclass(one, BaseModel)]
    assert Settings in sections
    for section in sections:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            assert f"`{name}`" in page, f"docs/retraining.md does not mention {section.__name__}.{name}"


def test_the_ledger_counts_a_month_and_survives_a_kill(tmp_path: Path) -> None:
    november, december = (datetime(2025, month, 1, tzinfo=UTC).timestamp() for month in (11, 12))
    ledger = Ledger(tmp_path)
    ledger.entries += [
        Entry(run="a", stage="sft", gpus=2, started=november, seen=november + 3600),
        Entry(run="b", stage="sft", gpus=1, started=december, seen=december + 1800),
    ]
    with ledger.recorded("b", "publish", 1):
        found = Ledger(tmp_path).entries[-1]
        assert (found.run, found.stage) == ("b", "publish"), "an entry is there while the stage works"
    assert ledger.spent(datetime(2025, 11, 20, tzinfo=UTC)) == 2.0
    assert ledger.of_run("a") == 2.0


def test_the_ledger_counts_time_that_passes_while_the_clock_goes_backwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Backwards(datetime):
        moments: ClassVar = [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in range(23)]

        @classmethod
        def now(cls, _zone: object = None) -> Any:
            return cls.moments.pop()

    monkeypatch.setattr("trainer.release.retrain.ledger.datetime", Backwards)
    ledger = Ledger(tmp_path)
    with ledger.recorded("one", "sft", 1):
        started = time.monotonic()
        while time.monotonic() == started:
            pass
    assert ledger.of_run("one") > 0


_RUN = '{"run": {"id": "one", "started": "2026-01-01", "reason": "new labels"'


@pytest.mark.parametrize(
    "text", ["", '{"format": 1, "run', "[]", '{"format": 2}', _RUN + '}, "more": 1}', _RUN + ', "ended": "soon"}}']
)
def test_a_damaged_state_is_refused_by_its_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(_RUN + "}}")
    assert read_state(tmp_path).unfinished is not None
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(BadInput, match=r"state\.json is damaged"):
        read_state(tmp_path)


def test_old_runs_and_evaluations_are_removed_but_those_in_use_stay(tmp_path: Path) -> None:
    path = tmp_path / "retrain.yaml"
    path.write_text(yaml.safe_dump(LEAST | {"work": str(tmp_path), "keep_runs": 2}))
    for number, name in enumerate("abcd"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        answers = tmp_path / "evaluations" / f"of-{name}" / "production-cot"
        answers.mkdir(parents=True)
        for one in (answers, answers.parent):
            os.utime(one, (number, number))
    os.utime(tmp_path / "evaluations" / "of-b" / "production-cot", (9, 9))  # scored again by a later run
    used = {"production": str(tmp_path / "evaluations" / "of-a" / "production-cot")}
    done = Done(key="k", ended="2026-01-01", seconds=1, result=used)
    run = Run(id="a", started="2026-01-01", reason="new labels", stages={"evaluate": done})
    prune(read_config(path), State(run=run))
    assert {one.name for one in (tmp_path / "runs").iterdir()} == {"a", "c", "d"}
    assert {one.name for one in (tmp_path / "evaluations").iterdir()} == {"of-a", "of-b", "of-d"}


def test_a_first_run_has_no_evaluations_to_remove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "retrain.yaml"
    path.write_text(yaml.safe_dump(LEAST | {"work": str(tmp_path)}))
    (tmp_path / "runs").mkdir()
    prune(read_config(path), State())
    assert not capsys.readouterr().err


@pytest.mark.parametrize("seen", ["", "NaN", "Infinity", '"x"'])
def test_a_damaged_ledger_is_refused_by_its_name(seen: str, tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text(
        f'[{{"run": "one", "stage": "sft", "gpus": 1, "started": 0, "seen": {seen}}}]'
    )
    with pytest.raises(BadInput, match=r"ledger\.json is damaged"):
        Ledger(tmp_path)


def test_a_child_process_says_whether_its_input_was_wrong(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"publish: .*does not exist|publish: .*not a checkpoint"):
        execute("publish", {"checkpoint": str(tmp_path), "store": str(tmp_path / "store")}, tmp_path / "orders")


def test_a_child_process_that_leaves_no_result_can_be_started_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RetrainError, match="left no result") as raised:
        execute("no-such-stage", {}, tmp_path / "orders")
    assert raised.value.exit_status == 1
    assert "no-such-stage" in capfd.readouterr().err


@pytest.mark.parametrize(
    "begin",
    ["worker.main([order, str(os.getppid())])", "os.setsid(); worker.main([order])"],
    ids=["alone", "started by torchrun"],
)
def test_a_child_process_ends_with_its_parent(begin: str, tmp_path: Path, wait_until: Any) -> None:
    """kill -9 of the parent; the child would otherwise keep training, at the same time as the one that is started
    again."""
    import signal
    import subprocess
    import sys

    (tmp_path / "sft.json").write_text(Order(stage="sft", arguments={}).model_dump_json())
    program = (
        "import os, sys, time\nfrom trainer.release.retrain import worker\norder = sys.argv[1]\n"
        "def work(_order):\n    print(os.getpid(), flush=True); time.sleep(600)\n"
        f"worker._done = work\nif os.fork() == 0:\n    {begin}\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "sft.json")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not _runs(child))


def _runs(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
