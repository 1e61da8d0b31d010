# ruff: noqa: F401, F811 - fixtures of another module
"""Moves of the alias: rollback, a move that was killed, and two promoters at once."""

from __future__ import annotations

import json
import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from screening.checkpoint.registry import PRODUCTION, Registry
from tests.trainer import forked
from tests.trainer.published import loosen
from tests.trainer.release.test_promote import Shop, data, shop
from trainer.release.promote.moves import MoveError, move, previous, read_history

pytestmark = [pytest.mark.fork_server, pytest.mark.slow]


def promote_two(shop: Shop) -> None:
    """Versions 1 and 2, of the directories `one` and `two`; version 2 is in production."""
    for number, name in enumerate(("one", "two"), 1):
        shop.version(name)
        shop.run("promote", str(number), "--force", "--reason", "x")


def test_rollback_goes_back_step_by_step_and_history_tells_it(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
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
    promote_two(shop)
    (shop.folder / "store" / "one" / "model.safetensors").unlink()
    assert shop.run("rollback", "--reason", "x") == 2 and "missing" in capsys.readouterr().err
    assert shop.production() == 2


def test_a_rollback_to_a_directory_that_was_changed_by_hand_is_refused(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    promote_two(shop)
    loosen(shop.folder / "store" / "one")
    capsys.readouterr()
    assert shop.run("rollback", "--reason", "x") == 2
    said = capsys.readouterr().err
    assert f"{shop.folder / 'store' / 'one'}: " in said and "recorded on something else" in said
    assert shop.production() == 2


def test_a_rollback_goes_on_without_the_store_and_checks_it_where_it_is_mounted(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    promote_two(shop)
    mounted = (shop.folder / "store").rename(shop.folder / "mounted")
    weights = mounted / "one" / "model.safetensors"
    damaged = weights.rename(shop.folder / "away")
    capsys.readouterr()
    assert shop.run("rollback", "--reason", "x", "--store", str(mounted)) == 2
    assert "model.safetensors is missing" in capsys.readouterr().err
    assert shop.run("rollback", "--reason", "x", "--store", str(shop.folder / "store")) == 2
    assert "does not exist" in capsys.readouterr().err
    assert shop.production() == 2

    assert shop.run("rollback", "--reason", "x") == 0
    assert "warning: version 1 was not checked" in capsys.readouterr().err
    assert shop.production() == 1

    damaged.rename(weights)
    assert shop.run("promote", "2", "--force", "--reason", "x", "--store", str(mounted)) == 0
    capsys.readouterr()
    assert shop.run("rollback", "--reason", "x", "--store", str(mounted)) == 0
    assert "warning" not in capsys.readouterr().err and shop.production() == 1


def test_a_move_that_was_noted_and_killed_is_told_and_can_be_done_again(
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


def test_what_was_decided_on_other_facts_does_not_move(shop: Shop) -> None:
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
    together = multiprocessing.get_context("forkserver").Barrier(2)
    files = {number: shop.folder / f"said-{number}" for number in (2, 3)}
    promoters = [forked.start(_promote, shop.registry.uri, number, together, file) for number, file in files.items()]
    assert [forked.end(promoter) for promoter in promoters] == [0, 0]
    (winner,) = (number for number, file in files.items() if file.read_text() == "moved")
    assert shop.production() == winner
    assert [(one.before, one.after) for one in read_history(shop.registry).moves] == [(None, 1), (1, winner)]


def _promote(uri: str, number: int, together: Barrier, said: Path) -> None:
    registry = Registry(uri)
    expected, to = registry.named(PRODUCTION), registry.version(number)
    assert to is not None
    together.wait(900)
    try:
        move(registry, expected, to, "promote", by="x", reason=None)
        said.write_text("moved")
    except MoveError as error:
        said.write_text(str(error))
