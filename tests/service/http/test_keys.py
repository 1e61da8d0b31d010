"""The keys file: read at the start, read again when it changes, and not trusted when it is wrong."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from service.config.settings import Settings
from service.http.keys import KeyRing, KeysFileError
from service.metrics import Metrics


def line(key: str, scopes: str = "screen", name: str = "shop") -> str:
    return f"{name} {scopes} {hashlib.sha256(key.encode()).hexdigest()}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(line("old"))
    return path


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def ring(file: Path, metrics: Metrics) -> KeyRing:
    return KeyRing(Settings(engine="scripted", keys_file=file), metrics)


def errors(metrics: Metrics) -> float:
    value = metrics.registry.get_sample_value("screening_keys_file_errors_total")
    assert value is not None
    return value


def knows(ring: KeyRing, key: str) -> bool:
    return ring.find(key.encode()) is not None


def test_keys_of_the_settings_and_of_the_file_add_up(file, metrics) -> None:
    hashed = hashlib.sha256(b"old").hexdigest()
    ring = KeyRing(Settings(engine="scripted", keys_file=file, admin_keys=f"lead:{hashed}"), metrics)
    assert ring.find(b"old") == ("lead", hashed, {"screen", "feedback", "review", "admin"})


def test_a_renamed_file_is_noticed_by_the_service_itself(file, metrics, wait_until) -> None:
    ring = KeyRing(Settings(engine="scripted", keys_file=file), metrics, poll_seconds=0.01)
    ring.start()
    replacement = file.with_name("keys.new")
    replacement.write_text(line("new"))
    replacement.rename(file)
    wait_until(lambda: knows(ring, "new"))
    ring.stop()
    assert not knows(ring, "old") and errors(metrics) == 0


def test_a_secret_that_kubernetes_swaps_is_noticed(tmp_path, metrics) -> None:
    for folder, key in (("..1", "old"), ("..2", "new")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "keys").write_text(line(key))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys").symlink_to("..data/keys")
    ring = KeyRing(Settings(engine="scripted", keys_file=tmp_path / "keys"), metrics)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    for _ in range(2):
        ring.refresh()
    assert knows(ring, "new") and not knows(ring, "old")


def test_a_file_that_is_being_written_counts_when_it_is_complete(file, ring, metrics) -> None:
    whole = line("old") + line("new")
    for part in ("", whole[:40], line("old"), whole):
        file.write_text(part)
        ring.refresh()
        assert knows(ring, "old") and not knows(ring, "new")
    ring.refresh()
    assert knows(ring, "new") and errors(metrics) == 0


def _remove(path: Path) -> None:
    path.unlink()


def _make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_remove, "cannot be read: No such file or directory"),
        (_make_directory, "cannot be read: Is a directory"),
        (lambda path: path.write_text(""), "there is no key in it"),
        (lambda path: path.write_text(line("new")[:-3]), "line 1: the hash"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is not UTF-8 text"),
        (lambda path: path.write_bytes(b"#" * (2**20 + 1)), "more than 1048576 bytes"),
    ],
    ids=["missing", "directory", "empty", "cut", "binary", "huge"],
)
def test_a_wrong_file_ends_the_start_but_changes_nothing_later(
    file: Path, ring: KeyRing, metrics: Metrics, caplog, spoil: Callable[[Path], object], words: str
) -> None:
    spoil(file)
    with caplog.at_level(logging.ERROR):
        for _ in range(4):
            ring.refresh()
    assert knows(ring, "old") and errors(metrics) >= 3
    (logged,) = caplog.records
    assert words in logged.fields["error"] and str(file) in logged.fields["error"], "once, and not at each read"
    with pytest.raises(KeysFileError, match=words):
        KeyRing(Settings(engine="scripted", keys_file=file), metrics)
    if file.is_dir():
        file.rmdir()
    file.write_text(line("new"))
    for _ in range(2):
        ring.refresh()
    assert knows(ring, "new")


@pytest.mark.slow
def test_a_service_does_not_start_on_a_wrong_keys_file(launch_service, tmp_path) -> None:
    with launch_service("--engine", "scripted", "--keys-file", str(tmp_path / "none"), ready=False) as process:
        assert process.popen.wait(60) == 2
    (said,) = process.log.read_text().splitlines()
    assert said == f"error: the keys file {tmp_path / 'none'} cannot be read: No such file or directory"


@pytest.mark.slow
@pytest.mark.anyio
async def test_keys_are_rotated_while_the_service_runs(start, sample, file) -> None:
    async with start(keys_file=file) as running:

        async def status(key: str) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            return (await running.client.post("/screen", json=sample.json(), headers=headers)).status_code

        assert (await status("old"), await status("new")) == (200, 401)
        file.write_text(line("old") + line("new"))
        while await status("new") != 200:
            assert await status("old") == 200
            await asyncio.sleep(0.05)
        file.write_text(line("new"))
        while await status("old") != 401:
            assert await status("new") == 200
            await asyncio.sleep(0.05)
