"""`python -m service review`: work for reviewers from the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.__main__ import main as command
from service.decisions.database import Database
from service.decisions.schema_version import migrate
from service.review import export, reviews
from tests.service.review.conftest import insert_decision, submission, take


@pytest.fixture
def database_url(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'decisions.db'}"


@pytest.fixture
def run(database, database_url, capsys):
    """Run a command that succeeds; returns what it prints."""

    def ran(*words: str) -> Any:
        assert command(["review", *words, "--decisions", database_url]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return ran


def test_decisions_become_tasks_and_tasks_become_gold_questions(database: Database, run) -> None:
    now = datetime.now(UTC)
    for number in range(4):
        insert_decision(database, number, at=now - timedelta(days=number, minutes=1))
    made = run(
        "queue", "--count", "9", "--since", (now - timedelta(days=2)).isoformat(), "--seed", "3", "--reviews", "1"
    )
    assert made == {"low_confidence": 0, "disagreement": 0, "audit": 2, "gold": 0, "repeat": 0}
    kept, _ = reviews.submit(database, submission(take(database, "ann"), "BD"), "ann")
    task = kept.review.task_id
    assert run("gold", "add", task) == {task: "BD"}
    assert [one["task"] for one in run("gold", "list")] == [task]
    assert run("gold", "remove", task) == {task: True} and run("gold", "list") == []
    export.note(database, caller="lead", digest="sha256:1", tasks=[task])
    (snapshot,) = run("snapshots")
    assert (snapshot["digest"], snapshot["tasks"], snapshot["erased"]) == ("sha256:1", 1, 0)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["queue"], 2, "--count"),
        (["queue", "--count", "0"], 2, "whole number"),
        (["queue", "--count", "5", "--since", "2026-01-01"], 2, "with its zone"),
        (["queue", "--count", "5", "--reviews", "3"], 2, "--reviews"),
        (["import", "none", "--batch", "a b"], 2, "letters, digits"),
        (["gold", "add", "tsk_unknown"], 2, "there is no task tsk_unknown"),
    ],
)
def test_a_mistake_is_named(database, database_url, capsys, words, status, message) -> None:
    try:
        ended = command(["review", *words, "--decisions", database_url])
    except SystemExit as end:
        ended = int(str(end.code))
    assert ended == status and message in capsys.readouterr().err


def test_a_database_of_another_version_is_refused(database, database_url, capsys) -> None:
    migrate(database, "0001")
    assert command(["review", "queue", "--count", "1", "--decisions", database_url]) == 1
    assert "python -m service database upgrade" in capsys.readouterr().err
