"""Settings: three sources, one order, nothing unknown."""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.config.launch_options import add_options
from service.config.settings import PREFIX, Settings, SettingsError, StoreSettings, load


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
        ({"engine": "scripted", "api_keys": "plain-key"}, "--api-keys"),
        ({"checkpoint": "c", "registry": "user:secret@mlflow"}, "--registry is not a tracking URI; give"),
        ({"checkpoint": "c", "registry_model": "a/b"}, "--registry-model"),
        ({"engine": "scripted", "review": "true"}, "--review needs --decisions"),
        ({"engine": "scripted", "decisions_required": "true"}, "--decisions-required needs --decisions"),
        ({"engine": "scripted", "decisions_days": "inf"}, "--decisions-days"),  # such a date does not exist
        ({"state_dir": "s3://bucket/state"}, r"--state-dir .*: s3:/bucket/state is not a path in a file system"),
    ],
)
def test_a_wrong_value_names_its_option(given, word) -> None:
    with pytest.raises(SettingsError, match=word):
        load(given)


@pytest.mark.parametrize("name", sorted(Settings.model_fields.keys() - {"api_keys", "keys_file"}))
def test_an_empty_variable_counts_as_not_set(name, monkeypatch) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), "")
    assert getattr(load({}), name) == Settings.model_fields[name].default


def test_empty_variables_of_the_decision_store_count_as_not_set(monkeypatch) -> None:
    monkeypatch.setenv("SCREENING_DECISIONS", "")
    monkeypatch.setenv("SCREENING_PICTURES", "")
    assert (StoreSettings().decisions, StoreSettings().pictures) == (None, None)
    monkeypatch.setenv("SCREENING_DECISIONS_REQUIRED", "true")
    with pytest.raises(SettingsError, match="--decisions-required needs --decisions"):
        load({"engine": "scripted"})


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint",
        "state_dir",
        "checkpoint_store",
        "registry",
        "draft_tokens",
        "decisions",
        "pictures",
        "decisions_days",
    ],
)
def test_an_empty_option_without_a_default_counts_as_not_given(name) -> None:
    assert getattr(load({name: ""}), name) is None


def test_the_variable_counts_if_the_option_is_empty_except_for_lists(monkeypatch) -> None:
    monkeypatch.setenv("SCREENING_STATE_DIR", "/state")
    monkeypatch.setenv("SCREENING_CORS_ORIGINS", "https://shop.example")
    settings = load({"engine": "scripted", "state_dir": "", "cors_origins": ""})
    assert (settings.state_dir, settings.cors_origins) == (Path("/state"), ())


@pytest.mark.parametrize("name", ["port", "max_body_bytes", "decisions_required"])
def test_an_empty_option_with_a_default_is_refused(name) -> None:
    with pytest.raises(SettingsError, match=f"--{name.replace('_', '-')} "):
        load({"engine": "scripted", name: ""})


@pytest.mark.parametrize(
    ("given", "variables"),
    [
        ({}, {"SCREENING_KEYS_FILE": ""}),
        ({}, {"screening_keys_file": ""}),
        ({}, {"SCREENING_KEYS_FILE": "", "SCREENING_API_KEYS": "a" * 64}),
        ({"keys_file": ""}, {}),
        ({"keys_file": ""}, {"SCREENING_KEYS_FILE": "keys"}),
    ],
)
def test_an_empty_path_of_the_keys_file_does_not_open_the_service(given, variables, monkeypatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=r"--keys-file \(SCREENING_KEYS_FILE\): the path is empty"):
        load({"engine": "scripted", **given})


@pytest.mark.parametrize(
    ("given", "variables"),
    [
        ({}, {"SCREENING_API_KEYS": ""}),
        ({}, {"screening_api_keys": " ,\n"}),
        ({}, {"SCREENING_API_KEYS": "", "SCREENING_KEYS_FILE": "keys"}),
        ({"api_keys": ""}, {}),
        ({"api_keys": ","}, {"SCREENING_API_KEYS": "a" * 64}),
    ],
)
def test_an_empty_list_of_keys_does_not_open_the_service(given, variables, monkeypatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=r"--api-keys \(SCREENING_API_KEYS\): there is no key in it"):
        load({"engine": "scripted", **given})


def test_the_option_of_the_keys_file_wins_over_an_empty_variable(monkeypatch) -> None:
    monkeypatch.setenv("SCREENING_KEYS_FILE", "")
    settings = load({"engine": "scripted", "keys_file": "keys"})
    assert settings.keys_file == Path("keys") and settings.needs_key


def test_keys_are_separated_by_commas_and_may_have_names() -> None:
    keys = load({"engine": "scripted", "api_keys": f"shop:{'a' * 64}, {'B' * 64},shop:{'c' * 64},"}).api_keys
    assert keys == (("shop", "a" * 64), ("b" * 8, "b" * 64), ("shop", "c" * 64))


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("api_keys", "secret", "entry 1 is not the SHA-256 of a key"),
        ("admin_keys", f"{'a' * 64},shop:secret", "entry 2 is not the SHA-256 of a key"),
        ("api_keys", f"a shop:{'a' * 64}", "entry 1"),
        ("api_keys", f"{'n' * 65}:{'a' * 64}", "entry 1"),
        ("api_keys", f"one:{'a' * 64},two:{'A' * 64}", "entry 2 repeats"),
        ("cors_origins", "https://shop.example/path", "is not an origin"),
        ("cors_origins", "shop.example", "is not an origin"),
        ("cors_origins", "null", "is not an origin"),
        ("picture_hosts", "https://cdn.example/path", "is not a host"),
        ("picture_hosts", "user@cdn.example", "is not a host"),
        ("picture_hosts", "*", "is not a host"),
        ("picture_hosts", "ftp://cdn.example", "is not a host"),
        ("picture_hosts", "cdn.example:99999", "port"),
        ("picture_networks", "10.0.0.1/8", "has host bits set"),
        ("picture_networks", "intranet", "does not appear to be"),
    ],
)
def test_a_wrong_entry_of_a_list_is_named_and_a_key_is_never_repeated(setting, value, words) -> None:
    with pytest.raises(SettingsError, match=f"--{setting.replace('_', '-')}") as caught:
        load({"engine": "scripted", setting: value})
    assert words in str(caught.value) and "secret" not in str(caught.value)


def test_lists_of_origins_and_hosts_are_read() -> None:
    settings = load(
        {
            "engine": "scripted",
            "cors_origins": "https://Shop.example:443, http://localhost:3000,",
            "picture_hosts": "CDN.example, *.shop.example, http://[::1]:8080, bücher.example",
            "picture_networks": "10.1.0.0/16, fd00::/8",
        }
    )
    assert settings.cors_origins == ("https://shop.example", "http://localhost:3000")
    assert [(host.scheme, host.host, host.port, host.subdomains) for host in settings.picture_hosts] == [
        ("https", "cdn.example", 443, False),
        ("https", "shop.example", 443, True),
        ("http", "::1", 8080, False),
        ("https", "xn--bcher-kva.example", 443, False),
    ]
    assert [str(network) for network in settings.picture_networks] == ["10.1.0.0/16", "fd00::/8"]


@pytest.mark.parametrize("setting", ["api_keys", "admin_keys"])
@pytest.mark.parametrize("value", ["secret", f"{'a' * 64},secret", "a" * 63, f"secret {'a' * 64}"])
def test_a_key_in_place_of_its_hash_is_refused_without_repeating_it(setting, value) -> None:
    with pytest.raises(SettingsError, match="SHA-256") as refused:
        load({"engine": "scripted", setting: value})
    assert "sha256sum" in str(refused.value) and "secret" not in str(refused.value)


@pytest.mark.parametrize("value", ["nginx", "10.0.0.0/99", "127.0.0.1, proxy"])
def test_a_trusted_proxy_is_an_address_or_a_network(value) -> None:
    with pytest.raises(SettingsError, match=r"--trusted-proxies .* is not an IP address"):
        load({"engine": "scripted", "trusted_proxies": value})


@pytest.mark.parametrize(
    ("value", "trusted"),
    [("10.0.0.5/8", "10.1.2.3"), ("127.0.0.1, fd00::1", "fd00::1"), ("fd00::5/8", "fd12::1"), ("*", "203.0.113.9")],
)
def test_uvicorn_trusts_the_proxies_that_are_given(value, trusted) -> None:
    settings = load({"engine": "scripted", "trusted_proxies": value})
    hosts = ProxyHeadersMiddleware(None, list(settings.trusted_proxies)).trusted_hosts
    assert trusted in hosts and (value == "*" or "203.0.113.9" not in hosts)


def test_every_peer_is_trusted_alone_or_not_at_all() -> None:
    with pytest.raises(SettingsError, match=r"--trusted-proxies: \* trusts every peer; give it alone"):
        load({"engine": "scripted", "trusted_proxies": "10.0.0.0/8, *"})


def test_help_shows_values_units_bounds_and_defaults() -> None:
    parser = ArgumentParser()
    add_options(parser)
    text = " ".join(parser.format_help().split())
    for shown in (
        "--log-level {debug,info,warning,error}",
        "--deadline-seconds SECONDS",
        "--max-body-bytes BYTES",
        "--checkpoint DIR",
        "(at least 0; at most 65535; default: 8000) [SCREENING_PORT]",
        "(more than 0; default: 60) [SCREENING_DEADLINE_SECONDS]",
    ):
        assert shown in text, shown


@pytest.mark.slow
def test_help_explains_every_setting_without_heavy_imports(repository) -> None:
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


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_drain_is_longer_than_the_deadline_of_admitted_requests() -> None:
    settings = load({"engine": "scripted"})
    assert settings.drain_seconds > settings.deadline_seconds
