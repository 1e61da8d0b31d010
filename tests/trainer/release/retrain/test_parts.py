"""Configuration, ledger and child processes of a retraining."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from trainer.release.retrain import config
from trainer.release.retrain.config import Settings, read_config
from trainer.release.retrain.errors import BadInput, RetrainError
from trainer.release.retrain.ledger import Entry, Ledger
from trainer.release.retrain.worker import execute

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
        ({"data": {"directories": []}}, "data.directories"),
    ],
)
def test_a_wrong_configuration_is_refused_by_the_field(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "retrain.yaml"
    path.write_text(yaml.safe_dump(LEAST | change))
    with pytest.raises(BadInput, match=said):
        read_config(path)


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


def test_a_child_process_says_whether_its_input_was_wrong(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"publish: .*does not exist|publish: .*not a checkpoint"):
        execute("publish", {"checkpoint": str(tmp_path), "store": str(tmp_path / "store")}, tmp_path / "orders")


def test_a_child_process_that_leaves_no_result_can_be_started_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RetrainError, match="left no result") as raised:
        execute("no-such-stage", {}, tmp_path / "orders")
    assert raised.value.status == 1
    assert "no-such-stage" in capfd.readouterr().err


def test_a_child_process_ends_with_its_parent(tmp_path: Path, wait_until: Any) -> None:
    """kill -9 of the parent; the child would otherwise keep training, at the same time as the one that is started
    again."""
    import signal
    import subprocess
    import sys

    program = (
        "import os, sys, time\nfrom trainer.release.retrain.worker import end_with\n"
        "if os.fork() == 0:\n    end_with(os.getppid()); print(os.getpid(), flush=True); time.sleep(600)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
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
