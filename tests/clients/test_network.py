"""Proxies and certificates of the environment: used as curl does, or refused by the variable's name."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path
from typing import Any

import certifi
import httpx
import pytest

from screening_client import (
    AsyncClient,
    Client,
    ConfigurationError,
    ConnectionFailed,
    InputError,
    ScreeningClientError,
)
from screening_client.network import bypasses_proxy, network_for
from tests.clients.calls import screen

PROXY_NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
both = pytest.mark.parametrize("kind", [Client, AsyncClient])


@pytest.fixture(autouse=True)
def no_network_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXY_NAMES, *map(str.upper, PROXY_NAMES), "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "no_proxy",
    [
        "::1",
        "[::1]",
        "[::1]:8000",
        "::/0",
        "[::]/0",
        "localhost,::1",
        "localhost, [::1] ,example.org",
        "0:0:0:0:0:0:0:1",
        "fe80::/10,::1/128",
        "*",
        "http://[::1]",
    ],
)
def test_an_ipv6_address_is_reached_without_the_proxy(monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.com:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert network_for("http://[::1]:8000").proxy is None
    with Client(base_url="http://[::1]:8000") as client:
        assert not client._connections.current()._mounts


@pytest.mark.parametrize(
    ("address", "no_proxy", "bypassed"),
    [
        ("http://host.example.com", "example.com", True),
        ("http://host.example.com", ".example.com", True),
        ("http://host.example.com", "*.example.com", True),
        ("http://example.com", ".example.com", True),
        ("http://EXAMPLE.com.", "example.COM", True),
        ("http://notexample.com", "example.com", False),
        ("http://example.com:8000", "example.com:8000", True),
        ("http://example.com:8001", "example.com:8000", False),
        ("https://example.com", "example.com:443", True),
        ("https://example.com", "http://example.com", False),
        ("https://example.com", "all://example.com", True),
        ("http://10.1.2.3", "10.0.0.0/8", True),
        ("http://11.1.2.3", "10.0.0.0/8", False),
        ("http://127.0.0.1:8000", "127.0.0.1", True),
        ("http://127.0.0.1:8000", "localhost", False),
        ("http://127.0.0.1:8000", "1", False),
        ("http://[fd00::5]", "fd00::/8", True),
        ("http://[fe80::5]", "fd00::/8", False),
        ("http://[::1]", "10.0.0.0/8,not::an::address,[,]:,//", False),
        ("http://localhost", "localhost example.com", True),
        ("http://localhost", " ,, ", False),
        ("http://localhost", "", False),
        ("http://example.com:8000", "example.com:abc", False),
        ("http://example.com:8000", "*:8000", True),
        ("http://example.com:8000", "*:8001", False),
        ("http://b\xfccher.example", "xn--bcher-kva.example", True),
        ("http://xn--bcher-kva.example", "B\xdcCHER.example", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://[::1]:8000", "[::1]:8001", False),
    ],
)
def test_addresses_without_a_proxy_are_matched_as_curl_does(address: str, no_proxy: str, bypassed: bool) -> None:
    assert bypasses_proxy(httpx.URL(address), no_proxy) is bypassed


@both
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080", r"httpx\[socks\]"),
        ("all_proxy", "socks5h://u:secret@127.0.0.1:1080", r"httpx\[socks\]"),
        ("http_proxy", "socks5://127.0.0.1:1080", r"httpx\[socks\]"),
        ("ALL_PROXY", "socks4://127.0.0.1:1080", "socks4"),
        ("HTTP_PROXY", "ftp://127.0.0.1", "ftp"),
        ("HTTP_PROXY", "http://proxy:port", "not a proxy's address"),
        ("http_proxy", "http://u:secret@proxy:99999999", "not a proxy's address"),
        ("HTTP_PROXY", "http://", "names no host"),
        ("HTTP_PROXY", "http://[::1", "not a proxy's address"),
        ("http_proxy", "://", "begins with"),
        ("http_proxy", "http://a..b:3128", "not a proxy's address"),
    ],
)
def test_an_unusable_proxy_is_refused_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, kind: Any, name: str, value: str, said: str
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=rf"^{name} .*{said}") as caught:
        kind(base_url="http://screening.example.com")
    assert isinstance(caught.value, InputError) and "secret" not in str(caught.value)
    assert "NO_PROXY" in str(caught.value)
    monkeypatch.setenv("NO_PROXY", "screening.example.com")
    kind(base_url="http://screening.example.com")


@pytest.mark.parametrize("value", ["127.0.0.1:{port}", "http://127.0.0.1:{port}", "u:p@127.0.0.1:{port}"])
@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_is_used_with_and_without_its_scheme(
    server: Any, question: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value.format(port=server.url.rpartition(":")[2]))
    with Client(base_url="http://screening.example.com") as client:
        assert client.screen(**question).answered
    assert server.received[0].path == "http://screening.example.com/screen"


def test_an_https_proxy_without_a_scheme_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "proxy.example.com:3128")
    assert network_for("https://screening.example.com").proxy == "http://proxy.example.com:3128"
    assert network_for("http://screening.example.com").proxy is None


@both
@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_missing_certificates_are_refused_by_their_variable(
    monkeypatch: pytest.MonkeyPatch, kind: Any, name: str, tmp_path: Path
) -> None:
    for address in ("http://localhost", "https://localhost"):
        monkeypatch.setenv(name, str(tmp_path / "missing"))
        with pytest.raises(ConfigurationError, match=rf"^{name}=.*missing.* unset it"):
            kind(base_url=address)


@pytest.mark.parametrize("content", [b"", b"no certificate", b"\0\xff" * 99])
def test_a_file_without_certificates_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "ca.pem").write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(ConfigurationError, match=r"^SSL_CERT_FILE=.*PEM"):
        Client()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path))
    with pytest.raises(ConfigurationError, match="is not a file"):
        Client()


def test_certificates_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'missing'}:{tmp_path}")
    network = network_for("https://localhost")
    context = network._verify()
    assert isinstance(context, ssl.SSLContext) and context.get_ca_certs()
    assert context.verify_mode == ssl.CERT_REQUIRED


def test_variables_of_other_libraries_and_empty_ones_disturb_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/missing")
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.setenv(name, " ")
    with Client() as client:
        assert not client.ready()


@both
def test_an_own_http_client_is_not_held_up_by_the_environment(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    monkeypatch.setenv("SSL_CERT_FILE", "/missing")
    kind(http_client=(httpx.Client if kind is Client else httpx.AsyncClient)(trust_env=False, verify=False))


def test_a_proxy_that_is_not_there_is_a_failed_connection(question: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with Client(base_url="http://screening.example.com", max_retries=0) as client, pytest.raises(ConnectionFailed):
        client.screen(**question)


PROXY_HINT = r"went through the proxy http://127\.0\.0\.1:\d+: check it, or add screening\.example\.com to NO_PROXY"


@both
def test_a_failed_connection_names_the_proxy(question: Any, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:1")
    for address in ("http://screening.example.com", "https://screening.example.com"):
        monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@127.0.0.1:1")
        with pytest.raises(ConnectionFailed, match=PROXY_HINT) as caught:
            screen(kind, question, base_url=address, max_retries=0)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [200, 403, 407, 502])
def test_an_answer_that_is_not_the_service_s_names_the_proxy(
    server: Any, question: Any, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    server.replies = [type(server.good())(status, b"<h1>Intranet</h1>", {"Content-Type": "text/html"})]
    monkeypatch.setenv("HTTP_PROXY", server.url)
    with pytest.raises(ScreeningClientError, match=PROXY_HINT):
        screen(Client, question, base_url="http://screening.example.com", max_retries=0)


def test_a_problem_of_the_service_does_not_blame_the_proxy(
    server: Any, question: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.replies = [server.problem(422, "image-unreadable")]
    monkeypatch.setenv("HTTP_PROXY", server.url)
    with pytest.raises(ScreeningClientError) as caught:
        screen(Client, question, base_url="http://screening.example.com", max_retries=0)
    assert "proxy" not in str(caught.value)


def test_a_proxy_s_scheme_may_be_in_upper_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "HTTPS://u:p@proxy.example.com:3128")
    assert network_for("https://screening.example.com").proxy == "https://u:p@proxy.example.com:3128"
