# ruff: noqa: F401, F811 - fixtures of another module
"""A production version that the registry has lost or changed: promotion is refused without a comparison."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from screening.checkpoint.registry import PRODUCTION, Registry
from tests.trainer.release.test_promote import OLD_WRONG, Shop, data, shop
from trainer.release.promote.moves import read_history
from trainer.release.publish.register import register

pytestmark = pytest.mark.slow

WORSE = range(0, 200, 3)
"""Samples with wrong answers: clearly more than OLD_WRONG, but within every floor."""


def delete_version(shop: Shop, client: MlflowClient) -> None:
    client.delete_model_version("screening", "1")


def delete_alias(shop: Shop, client: MlflowClient) -> None:
    client.delete_registered_model_alias("screening", PRODUCTION)


def delete_model(shop: Shop, client: MlflowClient) -> None:
    """Delete the model, and register both versions again so that `bad` gets the number that was in production."""
    client.delete_registered_model("screening")
    publish_again(shop, "bad")


def delete_model_and_keep_the_number(shop: Shop, client: MlflowClient) -> None:
    client.delete_registered_model("screening")
    publish_again(shop, "other")
    publish_again(shop, "bad")
    client.set_registered_model_alias("screening", PRODUCTION, "1")


def strip_notes(shop: Shop, client: MlflowClient) -> None:
    """Delete the notes of the model and the version."""
    for key in client.get_registered_model("screening").tags:
        client.delete_registered_model_tag("screening", key)
    client.delete_model_version("screening", "1")


def strip_digest(shop: Shop, client: MlflowClient) -> None:
    client.delete_model_version_tag("screening", "1", "digest")


def point_elsewhere(shop: Shop, client: MlflowClient) -> None:
    publish_again(shop, "other")
    client.set_registered_model_alias("screening", PRODUCTION, "3")


def damage_note(shop: Shop, client: MlflowClient) -> None:
    (key,) = client.get_registered_model("screening").tags
    client.set_registered_model_tag("screening", key, '{"number": 1, "kind"')


def publish_again(shop: Shop, name: str) -> None:
    directory = shop.folder / "store" / name
    if not directory.exists():
        shop.version(name, wrong=range(0, 200, 2))
    else:
        from screening.checkpoint.manifest import read_manifest

        register(shop.registry, directory, read_manifest(directory))


def number_of(shop: Shop, name: str) -> int:
    from screening.checkpoint.manifest import read_manifest

    digest = read_manifest(shop.folder / "store" / name).digest
    client = MlflowClient(shop.registry.uri, shop.registry.uri)
    found = client.search_model_versions(f"name = 'screening' and tag.digest = '{digest}'")
    return int(found[0].version)


LOSSES: list[tuple[Callable[[Shop, MlflowClient], None], str]] = [
    (delete_version, "no production version"),
    (delete_alias, "no production version"),
    (delete_model, "no production version"),
    (delete_model_and_keep_the_number, "the model was deleted and registered again"),
    (strip_notes, "no production version"),
    (strip_digest, "version 1 was not registered"),
    (point_elsewhere, "points to version 3"),
    (damage_note, "the history cannot be read"),
]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path, data: Path) -> Path:
    """The folder of a shop with `good` in production and `bad` published, with its registry."""
    folder = tmp_path_factory.mktemp("before")
    shop = Shop(folder, Registry(f"sqlite:///{shutil.copy(empty_registry, folder)}"), data)
    shop.version("good", wrong=OLD_WRONG)
    assert shop.promote("good", 1) == 0
    shop.version("bad", wrong=WORSE)
    return folder


@pytest.fixture
def lost(shop: Shop, before: Path) -> Shop:
    """A copy of `before`, in which a test can lose something."""
    shutil.copytree(before, shop.folder, dirs_exist_ok=True)
    return shop


@pytest.mark.parametrize(("lose", "message"), LOSSES)
def test_where_production_was_lost_nothing_moves_without_force(
    lose: Callable[[Shop, MlflowClient], None], message: str, lost: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    lose(lost, MlflowClient(lost.registry.uri, lost.registry.uri))
    before, bad = lost.registry.named(PRODUCTION), number_of(lost, "bad")
    capsys.readouterr()
    assert lost.promote("bad", bad, production="good") == 2
    said = capsys.readouterr().err
    assert message in said and "--force" in said and "Traceback" not in said
    assert lost.registry.named(PRODUCTION) == before
    assert not (lost.folder / f"gate-{bad}-bad").exists(), "it is refused before any measurement"

    assert lost.run("rollback", "--reason", "x") == 2, "rollback does not guess either"
    assert lost.registry.named(PRODUCTION) == before and "--force" in capsys.readouterr().err

    assert lost.run("promote", str(bad), "--force", "--reason", "production was deleted by mistake") == 0
    assert lost.production() == bad
    last = read_history(lost.registry).last
    assert last is not None and last.forced and last.after == bad, "force is recorded as force"


def test_rollback_from_a_deleted_version_needs_force(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("one", "two"), 1):
        shop.version(name)
        shop.run("promote", str(number), "--force", "--reason", "x")
    MlflowClient(shop.registry.uri, shop.registry.uri).delete_model_version("screening", "2")
    assert shop.run("rollback", "--reason", "x") == 2
    assert "With --force it goes back to" in capsys.readouterr().err
    assert shop.run("rollback", "--reason", "x", "--force") == 0
    assert shop.production() == 1


def test_rollback_never_serves_another_checkpoint_of_the_same_number(
    shop: Shop,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number, name in enumerate(("one", "two"), 1):
        shop.version(name)
        shop.run("promote", str(number), "--force", "--reason", "x")
    client = MlflowClient(shop.registry.uri, shop.registry.uri)
    client.delete_registered_model("screening")
    publish_again(shop, "two")
    publish_again(shop, "one")
    client.set_registered_model_alias("screening", PRODUCTION, "2")
    assert shop.run("rollback", "--reason", "x", "--force") == 2
    assert "not the checkpoint that was in production" in capsys.readouterr().err
    assert shop.production() == 2


def test_production_is_put_back_by_promoting_the_same_checkpoint(lost: Shop) -> None:
    delete_alias(lost, MlflowClient(lost.registry.uri, lost.registry.uri))
    assert lost.promote("good", 1) == 0
    assert lost.production() == 1
    delete_version(lost, MlflowClient(lost.registry.uri, lost.registry.uri))
    publish_again(lost, "good")
    assert lost.promote("good", 3) == 0
    assert lost.promote("bad", 2, production="good") == 1, "measured against production again"


def test_history_reports_lost_moves(lost: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    delete_version(lost, MlflowClient(lost.registry.uri, lost.registry.uri))
    capsys.readouterr()
    assert lost.run("history") == 0
    printed = capsys.readouterr().out
    assert "production: none" in printed and "The history says that version 1" in printed


def test_history_shows_readable_moves_and_names_the_others(lost: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert lost.run("promote", "2", "--force", "--reason", "x") == 0
    client = MlflowClient(lost.registry.uri, lost.registry.uri)
    keys = sorted(client.get_registered_model("screening").tags)
    client.set_registered_model_tag("screening", keys[0], "damaged")
    capsys.readouterr()
    assert lost.run("history") == 2
    printed = capsys.readouterr()
    assert keys[0] in printed.err and "forced, not measured" in printed.out


def test_an_old_damaged_note_does_not_block_a_promotion(lost: Shop) -> None:
    damage_note(lost, MlflowClient(lost.registry.uri, lost.registry.uri))
    assert lost.run("promote", "1", "--force", "--reason", "the note is damaged, and this is in production") == 0
    assert lost.promote("bad", 2, production="good") == 1, "measured again"
    assert lost.promote("bad", 2, "--force", "--reason", "x", production="good") == 0
    assert lost.run("rollback", "--reason", "x") == 0 and lost.production() == 1


@pytest.mark.parametrize("text", ["bytes that are not UTF-8: \udcff", " "])
def test_a_reason_that_cannot_be_kept_is_refused(text: str, lost: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        lost.run("promote", "2", "--force", "--reason", text)
    assert caught.value.code == 2 and "a reason" in capsys.readouterr().err
    assert lost.production() == 1


def test_an_interrupted_promotion_is_finished_by_the_same_command(
    lost: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost.version("better", wrong=range(0, 200, 12))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "point", killed)
        assert lost.promote("better", 3, production="good") == 130
    assert lost.production() == 1
    assert lost.promote("better", 3, production="good") == 0
    assert lost.production() == 3


def test_each_registered_model_has_its_own_history(lost: Shop, tmp_path: Path) -> None:
    other = Registry(lost.registry.uri, "another")
    assert read_history(other).moves == ()
