"""Pictures by URL: from allowed hosts only, to the address that was checked, within limits."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.request.picture_fetch import resolve

pytestmark = pytest.mark.anyio

HOST = "pictures.example"
LOOPBACK = "127.0.0.0/8"


@dataclass
class PictureServer:
    """A server on 127.0.0.1 that answers each path with these bytes and records the requests."""

    port: int
    replies: dict[str, bytes]
    heads: list[str] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://{HOST}:{self.port}{path}"


def reply(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def picture_server(replies: dict[str, bytes], tls: ssl.SSLContext | None = None) -> AsyncIterator[PictureServer]:
    """A reply that is empty never comes."""
    served: PictureServer

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            served.heads.append(head)
            data = served.replies.get(head.split(" ")[1], reply(b"", "404 Not Found"))
            if not data:
                await reader.read()
            writer.write(data)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    served = PictureServer(server.sockets[0].getsockname()[1], replies)
    async with server:
        yield served


def resolver(*addresses: str) -> Callable[[str, int], Any]:
    """Each call gives the next of these addresses, and then the last again: a name server that changes its answer."""
    left = list(addresses)

    async def look_up(host: str, port: int) -> list[str]:
        return [left.pop(0) if len(left) > 1 else left[0]]

    return look_up


@asynccontextmanager
async def served(start: Any, sample: Any, look_up: Any = None, **settings: Any) -> AsyncIterator[Any]:
    """An app that may fetch the sample's pictures, `/0` to `/4`, from a server of the test."""
    replies = {f"/{index}": reply(data) for index, data in enumerate(sample.pictures)}
    async with picture_server(replies) as server:
        allowed = {"picture_hosts": f"http://{HOST}:{server.port}", "picture_networks": LOOPBACK} | settings
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("service.request.picture_fetch.resolve", look_up or resolver("127.0.0.1"))
            async with start(**allowed) as running:
                yield running, server


def problem(response: Any, status: int, slug: str, picture: str = "original") -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert body["type"] == f"urn:screening:problem:{slug}" and body["picture"] == picture
    detail: str = body["detail"]
    assert detail.startswith(f"{picture}: ")
    return detail


async def test_pictures_come_from_their_urls_as_texts_and_objects(start, sample) -> None:
    async with served(start, sample) as (running, server):
        plain = await running.client.post("/screen", json=sample.json())
        urls = [server.url(f"/{index}") for index in range(5)]
        sent = sample.json()["generated"][3]
        body = {"original": {"url": urls[0]}, "generated": [urls[1], {"url": urls[2]}, urls[3], sent]}
        response = await running.client.post("/screen", json=body)
        assert response.status_code == 200, response.text
        assert response.json()["source"] == "cache" and response.json()["reasoning"] == plain.json()["reasoning"]
    assert all(f"Host: {HOST}:{server.port}\r\n" in head for head in server.heads) and len(server.heads) == 4
    assert not [head for head in server.heads if "authorization" in head.lower()]


async def test_they_are_switched_off_by_default(start, sample) -> None:
    async with start() as running:
        for value in ("https://cdn.example/a.jpg", {"url": "https://cdn.example/a.jpg"}):
            response = await running.client.post("/screen", json=sample.json(original=value))
            assert "disabled" in problem(response, 422, "picture-url-refused")


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/a.jpg",
        "https://cdn.example.evil.example/a.jpg",
        "https://evilcdn.example/a.jpg",
        "https://cdn.example:8443/a.jpg",
        "https://cdn.example:22/a.jpg",
        "https://cdn.example:0/a.jpg",
        "http://cdn.example/a.jpg",
        "https://user:secret@cdn.example/a.jpg",
        "https://cdn.example@evil.example/a.jpg",
        "https://evil.example#@cdn.example/a.jpg",
        "https://evil.example\\@cdn.example/a.jpg",
        "https://cdn.example./a.jpg",
        "https://127.0.0.1/a.jpg",
        "https://2130706433/a.jpg",
        "https://0177.0.0.1/a.jpg",
        "https://0x7f.1/a.jpg",
        "https://[::1]/a.jpg",
        "https://[::ffff:127.0.0.1]/a.jpg",
        "https://\uff43dn.evil/a.jpg",
        "https:///a.jpg",
        "https://",
        "https://cdn.example:99999/a.jpg",
        "https://cdn.example/\x00",
        "ftp://cdn.example/a.jpg",
        "file:///etc/passwd",
        "gopher://cdn.example/",
        "s3://bucket/a.jpg",
        "https://cdn.example/" + "a" * 9000,
    ],
)
async def test_a_url_outside_the_list_is_refused_without_a_look_up(start, sample, url) -> None:
    async def never(host: str, port: int) -> list[str]:
        raise AssertionError(f"{host} was looked up")

    async with served(start, sample, never, picture_hosts="cdn.example,*.shop.example") as (running, _):
        text = problem(await running.client.post("/screen", json=sample.json(original=url)), 422, "picture-url-refused")
    assert "secret" not in text


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        ("cdn.example", "https://CDN.Example/a"),
        ("cdn.example", "https://cdn.example:443/a"),
        ("cdn.example", " https://cdn.example/a?b=c#d\n"),
        ("*.shop.example", "https://a.b.shop.example/a"),
        ("bücher.example", "https://bücher.example/a"),
        ("bücher.example", "https://xn--bcher-kva.example/a"),
        ("cdn.example:8443", "https://cdn.example:8443/a"),
        ("http://cdn.example", "http://cdn.example/a"),
    ],
)
async def test_a_host_of_the_list_is_known_in_every_spelling(start, sample, hosts, url) -> None:
    async with served(start, sample, resolver("10.0.0.1"), picture_hosts=hosts) as (running, _):
        response = await running.client.post("/screen", json=sample.json(original=url))
    assert "is not public" in problem(response, 422, "picture-url-refused")


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "ff02::1"]
)
async def test_an_allowed_host_inside_the_network_is_refused(start, sample, address) -> None:
    async with served(start, sample, resolver(address)) as (running, server):
        response = await running.client.post("/screen", json=sample.json(original=server.url("/0")))
    assert "is not public" in problem(response, 422, "picture-url-refused")
    assert server.heads == []


async def test_one_internal_address_among_others_is_refused(start, sample) -> None:
    async def both(host: str, port: int) -> list[str]:
        return ["127.0.0.1", "10.0.0.1"]

    async with served(start, sample, both) as (running, server):
        response = await running.client.post("/screen", json=sample.json(original=server.url("/0")))
    problem(response, 422, "picture-url-refused")
    assert server.heads == []


async def test_a_name_server_that_changes_its_answer_cannot_reach_internal_addresses(
    start, sample, monkeypatch
) -> None:
    """The connection goes to the address that was checked: no second look-up takes place (DNS rebinding)."""
    connected: list[str] = []
    connect = httpcore.AnyIOBackend.connect_tcp

    async def note(backend: Any, host: str, *arguments: Any) -> Any:
        connected.append(host)
        return await connect(backend, host, *arguments)

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", note)
    async with served(start, sample, resolver("127.0.0.1", "10.0.0.1")) as (running, server):
        response = await running.client.post("/screen", json=sample.json(original=server.url("/0")))
        assert response.status_code == 200 and connected == ["127.0.0.1"]
        response = await running.client.post("/screen", json=sample.json(original=server.url("/0")))
        problem(response, 422, "picture-url-refused")
        assert connected == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (reply(b"", "302 Found", "Location: http://169.254.169.254/"), "redirect"),
        (reply(b"", "304 Not Modified"), "redirect"),
        (reply(b"gone", "404 Not Found"), "answered 404"),
        (reply(b"", "503 Service Unavailable"), "answered 503"),
        (reply(b"", "204 No Content"), "answered 204"),
        (reply(b"x", "200 OK", "Content-Encoding: gzip"), "compressed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort", "failed"),
        (b"not HTTP\r\n\r\n", "failed"),
        (b"", "within 0.5 s"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000 + b"\r\n\r\n", "failed"),
    ],
)
async def test_a_picture_that_does_not_arrive_is_named(start, sample, data, words) -> None:
    async with served(start, sample, picture_fetch_seconds=10 if data else 0.5) as (running, server):
        server.replies["/odd"] = data
        body = sample.json()
        body["generated"][2] = {"url": server.url("/odd")}
        text = problem(await running.client.post("/screen", json=body), 422, "picture-fetch-failed", "generated[2]")
        assert words in text
        assert running.app.state.service.admission.inside == 0


async def test_an_unknown_name_and_a_closed_port_are_failures(start, sample) -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with served(start, sample, unknown) as (running, server):
        response = await running.client.post("/screen", json=sample.json(original=server.url("/0")))
    assert "was not found" in problem(response, 422, "picture-fetch-failed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        async with served(start, sample, picture_hosts=f"http://{HOST}:{port}") as (running, _):
            response = await running.client.post("/screen", json=sample.json(original=f"http://{HOST}:{port}/0"))
    assert "connection" in problem(response, 422, "picture-fetch-failed")


async def test_bytes_are_limited_while_they_arrive(start, sample) -> None:
    endless = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(500_000)
    async with served(start, sample, max_picture_bytes=100_000) as (running, server):
        server.replies |= {"/endless": endless, "/claimed": b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n"}
        for path in ("/endless", "/claimed"):
            response = await running.client.post("/screen", json=sample.json(original=server.url(path)))
            problem(response, 413, "request-too-large")


async def test_all_pictures_together_are_limited(start, sample) -> None:
    total = sum(map(len, sample.pictures))
    async with served(start, sample, max_body_bytes=total - 1) as (running, server):
        urls = [server.url(f"/{index}") for index in range(5)]
        response = await running.client.post("/screen", json={"original": urls[0], "generated": urls[1:]})
        assert response.status_code == 413
    async with served(start, sample, max_body_bytes=total) as (running, server):
        urls = [server.url(f"/{index}") for index in range(5)]
        response = await running.client.post("/screen", json={"original": urls[0], "generated": urls[1:]})
        assert response.status_code == 200


async def test_fetched_pictures_are_checked_like_sent_ones(start, sample) -> None:
    async with served(start, sample) as (running, server):
        server.replies |= {"/text": reply(b"hello"), "/empty": reply(b"")}
        for path, slug in (("/text", "image-unsupported"), ("/empty", "image-unreadable")):
            problem(await running.client.post("/screen", json=sample.json(original=server.url(path))), 422, slug)


async def test_nothing_is_fetched_for_a_request_that_is_not_admitted(start, sample) -> None:
    async with served(start, sample) as (running, server):
        running.app.state.service.admission.close()
        response = await running.client.post("/screen", json=sample.json(original=server.url("/0")))
        assert response.status_code == 503 and server.heads == []


async def test_proxies_of_the_environment_are_not_used(start, sample, monkeypatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with served(start, sample) as (running, server):
        response = await running.client.post("/screen", json=sample.json(original=server.url("/0")))
    assert response.status_code == 200, response.text


async def test_a_multipart_field_is_never_taken_for_an_address(start, sample) -> None:
    async with served(start, sample) as (running, server):
        files = sample.files()
        files[0] = ("original", ("o", server.url("/0").encode(), "text/plain"))
        response = await running.client.post("/screen", files=files)
        problem(response, 422, "image-unsupported")
    assert server.heads == []


@pytest.mark.parametrize("value", [{}, {"url": 7}, {"url": "https://a/", "x": {}}, {"href": "https://a/"}, 7, None, []])
async def test_an_object_without_a_url_is_refused_by_name(start, sample, value) -> None:
    async with start() as running:
        body = sample.json()
        body["generated"][1] = value
        response = await running.client.post("/screen", json=body)
    assert response.status_code == 422 and "generated[1]" in response.json()["detail"]


async def test_the_system_s_resolver_gives_addresses() -> None:
    assert set(await resolve("localhost", 80)) <= {"127.0.0.1", "::1"}


def certificate(name: str, folder: Path) -> Path:
    """A self-signed certificate for a name, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = folder / f"{name}.pem"
    path.write_bytes(
        made.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.mark.parametrize(
    ("name", "trusted", "status"), [(HOST, True, 200), ("other.example", True, 422), (HOST, False, 422)]
)
async def test_tls_is_about_the_url_s_name_though_the_connection_goes_to_an_address(
    start, sample, tmp_path, monkeypatch, name, trusted, status
) -> None:
    path = certificate(name, tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
    asked: list[str | None] = []
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(path)
    tls.sni_callback = lambda _socket, host, _context: asked.append(host)
    async with (
        picture_server({"/0": reply(sample.pictures[0])}, tls) as server,
        start(picture_hosts=f"{HOST}:{server.port}", picture_networks=LOOPBACK) as running,
    ):
        monkeypatch.setattr("service.request.picture_fetch.resolve", resolver("127.0.0.1"))
        url = server.url("/0").replace("http:", "https:")
        response = await running.client.post("/screen", json=sample.json(original=url))
    assert response.status_code == status, response.text
    assert asked == [HOST]
    if status != 200:
        assert "certificate" in problem(response, 422, "picture-fetch-failed").lower()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://xn--.shop.example/a.jpg", "the URL is not valid"),
        ("https://xn--a-ecp.xn--.shop.example/a.jpg", "the URL is not valid"),
        ("https://cdn.shop.example/" + "a" * 8192, "more than 8192 characters"),
    ],
)
async def test_a_url_that_cannot_be_read_is_refused(start, sample, url, words) -> None:
    async with start(picture_hosts="*.shop.example") as running:
        response = await running.client.post("/screen", json=sample.json() | {"original": url})
    assert words in problem(response, 422, "picture-url-refused")
