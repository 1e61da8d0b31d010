"""Moves of the alias: roll-back, kills, and several promoters at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint.registry import Registry
from tests.trainer.release.promote.shop import Shop
from trainer.__main__ import main
from trainer.release.promote.moves import MoveError, move, previous, read_history


def test_rollback_goes_back_step_by_step_and_history_shows_it(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("one", "two", "three"), 1):
        shop.version(name)
        assert shop.run("promote", str(number), "--force", "--reason", f"because of {name}") == 0
    for expected in (2, 1):
        assert shop.run("rollback", "--reason", "complaints") == 0
        assert shop.production() == expected
    assert shop.run("rollback", "--reason", "complaints") == 2
    capsys.readouterr()
    assert shop.run("history") == 0
    printed = capsys.readouterr().out
    assert printed.count("rollback") == 2 and printed.index("complaints") < printed.index("because of three")
    assert shop.run("history", "--json") == 0
    moves = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["before"], one["after"]) for one in moves] == [(None, 1), (1, 2), (2, 3), (3, 2), (2, 1)]


def test_a_rollback_to_a_damaged_directory_is_refused(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("one", "two"), 1):
        shop.version(name)
        shop.run("promote", str(number), "--force", "--reason", "x")
    (shop.folder / "store" / "one" / "model.safetensors").unlink()
    assert shop.run("rollback", "--reason", "x") == 2 and "missing" in capsys.readouterr().err
    assert shop.production() == 2


def test_a_move_that_was_noted_and_killed_is_reported_and_can_be_repeated(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        shop.version(name)
    shop.run("promote", "1", "--force", "--reason", "x")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "point", killed)
        assert shop.run("promote", "2", "--force", "--reason", "x") == 130
    capsys.readouterr()
    shop.run("history")
    assert "interrupted" in capsys.readouterr().out
    assert previous(read_history(shop.registry).moves, 1) is None, "what never was in production is not gone back to"
    assert shop.run("promote", "2", "--force", "--reason", "x") == 0
    assert shop.production() == 2 and previous(read_history(shop.registry).moves, 2) == 1


def test_a_decision_on_outdated_facts_does_not_move_the_alias(shop: Shop) -> None:
    for name in ("one", "two", "three"):
        shop.version(name)
    one, two, three = (shop.registry.version(number) for number in (1, 2, 3))
    assert one and two and three
    move(shop.registry, None, one, "promote", by="ann", reason=None)
    move(shop.registry, 1, two, "promote", by="ann", reason=None)
    with pytest.raises(MoveError, match="from version 1 to version 2"):
        move(shop.registry, 1, three, "promote", by="bob", reason=None)
    assert shop.production() == 2


def test_of_two_promoters_at_once_one_wins_and_none_is_lost(shop: Shop) -> None:
    for name in ("one", "two", "three"):
        shop.version(name)
    shop.run("promote", "1", "--force", "--reason", "x")
    program = (
        "import sys; from screening.checkpoint.registry import PRODUCTION, Registry\n"
        "from trainer.release.promote.moves import MoveError, move\n"
        "registry = Registry(sys.argv[1]); expected = registry.named(PRODUCTION)\n"
        "to = registry.version(int(sys.argv[2]))\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try:\n    move(registry, expected, to, 'promote', by='x', reason=None); print('moved')\n"
        "except MoveError as error:\n    print(error)"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    promoters = [
        subprocess.Popen([sys.executable, "-c", program, shop.registry.uri, str(number)], **pipes) for number in (2, 3)
    ]
    for one in promoters:
        assert one.stdout is not None and one.stdout.readline() == "ready\n"
    for one in promoters:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    said = [one.communicate(timeout=300)[0].strip() for one in promoters]
    assert sorted(text == "moved" for text in said) == [False, True], said
    winner = 2 + [text == "moved" for text in said].index(True)
    assert shop.production() == winner
    assert [(one.before, one.after) for one in read_history(shop.registry).moves] == [(None, 1), (1, winner)]


def test_the_commands_say_where_the_registry_should_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["history"]) == 2
    assert "--tracking-uri" in capsys.readouterr().err
    assert main(["history", "--store", str(tmp_path / "store")]) == 2
    assert "mlflow.db: there is no such file" in capsys.readouterr().err
    assert main(["history", "--tracking-uri", "none"]) == 2
    assert "needs a registry" in capsys.readouterr().err
