"""Settings: three sources, one order, nothing unknown."""

from __future__ import annotations

import subprocess
import sys

import pytest

from service.config import Settings, SettingsError, load


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCREENING_TEST_CHECKPOINT", raising=False)


def test_the_command_line_wins_over_the_environment_and_that_over_defaults(monkeypatch) -> None:
    monkeypatch.setenv("SCREENING_PORT", "9001")
    monkeypatch.setenv("SCREENING_MAX_QUEUE", "7")
    settings = load({"engine": "scripted", "port": "9002"})
    assert (settings.port, settings.max_queue, settings.max_concurrent) == (9002, 7, 16)


def test_an_unknown_variable_is_refused_with_the_nearest_name(monkeypatch) -> None:
    monkeypatch.setenv("SCREENING_MAX_QUEU", "7")
    with pytest.raises(SettingsError, match="did you mean SCREENING_MAX_QUEUE"):
        load({"engine": "scripted"})


def test_the_clients_variables_are_left_alone(monkeypatch) -> None:
    monkeypatch.setenv("SCREENING_API_KEY", "a key of the client")
    assert load({"engine": "scripted"}).api_keys == ()


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"engine": "scripted", "port": "many"}, "--port"),
        ({"engine": "scripted", "max_concurrent": "0"}, "--max-concurrent"),
        ({"engine": "magic"}, "--engine"),
        ({"engine": "scripted", "api_keys": "plain-key"}, "--api-keys"),
        ({}, "--checkpoint"),
        ({"checkpoint": "c", "registry": "mlflow.db"}, "--registry mlflow.db is no address"),
        ({"checkpoint": "c", "registry_model": "a/b"}, "--registry-model"),
        ({"engine": "scripted", "registry": "sqlite:///mlflow.db"}, "--registry needs the vllm engine"),
    ],
)
def test_a_wrong_value_names_its_option(given, word) -> None:
    with pytest.raises(SettingsError, match=word):
        load(given)


def test_keys_are_separated_by_commas() -> None:
    assert load({"engine": "scripted", "api_keys": f"{'a' * 64}, {'B' * 64}"}).api_keys == ("a" * 64, "b" * 64)


def test_help_teaches_every_setting_without_importing_what_is_heavy(repository) -> None:
    code = (
        "import sys\nfrom service.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'vllm', 'transformers', 'fastapi', 'uvicorn'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in done.stdout


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_drain_is_longer_than_the_deadline_of_what_was_let_in() -> None:
    settings = load({"engine": "scripted"})
    assert settings.drain_seconds > settings.deadline_seconds
