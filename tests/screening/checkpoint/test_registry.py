"""The registry on real MLflow stores: versions that never change, aliases that move in one step, and clear errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from screening.checkpoint.registry import CANDIDATE, PRODUCTION, Registry, without_password
from screening.errors import RegistryError


@pytest.fixture
def registry(registry_file: Path) -> Registry:
    return Registry(f"sqlite:///{registry_file}")


def test_a_digest_keeps_its_version_when_it_is_registered_again(registry: Registry, tmp_path: Path) -> None:
    first = registry.register(tmp_path / "a", "sha256:a", {"parent": "sha256:0"})
    second = registry.register(tmp_path / "b", "sha256:b", {})
    again = registry.register(tmp_path / "elsewhere", "sha256:a", {"parent": "another"})
    assert (first.number, second.number) == (1, 2)
    assert again == first == registry.version(1)
    assert first.directory == tmp_path / "a" and first.tags["parent"] == "sha256:0"


def test_a_directory_may_have_any_name(registry: Registry, tmp_path: Path) -> None:
    directory = tmp_path / "50 % of ünicode#?"
    assert registry.register(directory, "sha256:a", {}).directory == directory


def test_a_version_is_found_by_its_name_wherever_its_store_is_mounted(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.register(tmp_path / "store" / "a", "sha256:a", {})
    here = version.in_store(tmp_path / "mounted")
    assert here.directory == tmp_path / "mounted" / "a" and (here.number, here.digest) == (1, "sha256:a")
    monkeypatch.chdir(tmp_path)
    assert version.in_store(Path("mounted")) == here
    assert version.in_store(None) == version


def test_an_alias_names_version_digest_and_directory_and_moves(registry: Registry, tmp_path: Path) -> None:
    versions = [registry.register(tmp_path / name, f"sha256:{name}", {}) for name in "ab"]
    assert registry.resolve(PRODUCTION) is None
    for version in versions:
        registry.point(PRODUCTION, version.number)
        assert registry.resolve(PRODUCTION) == version
    assert registry.resolve(CANDIDATE) is None


def test_models_in_one_store_do_not_meet(registry: Registry, tmp_path: Path) -> None:
    other = Registry(registry.uri, "another")
    registry.register(tmp_path / "a", "sha256:a", {})
    assert other.resolve(PRODUCTION) is None and other.version(1) is None and other.notes() == {}
    assert other.register(tmp_path / "b", "sha256:a", {}).directory == tmp_path / "b"


@pytest.mark.slow
def test_publishers_at_the_same_moment_get_the_same_version(registry: Registry, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from screening.checkpoint.registry import Registry\n"
        "registry = Registry(sys.argv[1]); registry.notes(); print('ready', flush=True); sys.stdin.readline()\n"
        "print(registry.register(Path(sys.argv[2]), 'sha256:a', {}).number)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", program, registry.uri, str(tmp_path / "a")]
    publishers = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for one in publishers:
        assert one.stdout.readline() == "ready\n"
    for one in publishers:
        one.stdin.write("go\n")
        one.stdin.flush()
    numbers = [one.communicate(timeout=300)[0].strip() for one in publishers]
    assert numbers[0] == numbers[1]
    assert registry.version(int(numbers[0])) is not None and registry.version(3 - int(numbers[0])) is None


def test_notes_are_kept_by_key(registry: Registry, tmp_path: Path) -> None:
    registry.register(tmp_path / "a", "sha256:a", {})
    registry.note("one", "1")
    registry.note("two", "2")
    assert registry.notes() == {"one": "1", "two": "2"}


def test_a_database_that_is_not_there_is_not_made_by_asking(tmp_path: Path) -> None:
    missing = tmp_path / "typing-error.db"
    with pytest.raises(RegistryError, match=r"screening in sqlite:.*no such file"):
        Registry(f"sqlite:///{missing}").resolve(PRODUCTION)
    assert not missing.exists()


@pytest.mark.slow
def test_the_error_for_an_unreachable_registry_hides_its_password() -> None:
    with pytest.raises(RegistryError) as caught:
        Registry("http://user:secret@127.0.0.1:9").resolve(PRODUCTION)
    assert "secret" not in str(caught.value) and "127.0.0.1:9" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("x://a:b@c", "x://a:***@c"),
        ("postgresql://mlflow:ab/cd+e==@db:5432/mlflow", "postgresql://mlflow:***@db:5432/mlflow"),
        ("postgresql://mlflow:a@b@db/mlflow, said the driver", "postgresql://mlflow:***@db/mlflow, said the driver"),
        (
            "postgresql://db/mlflow?user=a&password=b&sslmode=on",
            "postgresql://db/mlflow?user=a&password=***&sslmode=on",
        ),
        ("http://host:5000/path", "http://host:5000/path"),
        ("sqlite:////srv/mlflow.db", "sqlite:////srv/mlflow.db"),
    ],
)
def test_no_password_is_shown(address: str, shown: str) -> None:
    assert without_password(address) == shown


def test_a_version_made_by_hand_is_refused(registry: Registry, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    registry.register(tmp_path / "a", "sha256:a", {})
    MlflowClient(registry.uri, registry.uri).create_model_version("screening", "file:///somewhere")
    with pytest.raises(RegistryError, match="version 2 was not registered"):
        registry.version(2)


def test_a_database_that_was_restored_from_a_copy_is_read_again(
    registry: Registry, registry_file: Path, tmp_path: Path
) -> None:
    registry.register(tmp_path / "a", "sha256:a", {})
    old = registry_file.read_bytes()
    registry.point(PRODUCTION, 1)
    registry_file.unlink()
    with pytest.raises(RegistryError):
        registry.resolve(PRODUCTION)
    registry_file.write_bytes(old)
    assert registry.resolve(PRODUCTION) is None


@pytest.mark.parametrize("name", ["", "a/b", "it's", "a b", "ä"])
def test_a_name_that_would_need_quoting_is_refused(name: str) -> None:
    with pytest.raises(RegistryError, match="is not valid"):
        Registry("sqlite:///x.db", name)
