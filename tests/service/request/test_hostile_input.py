"""At least a thousand hostile requests: each gets an answer below 500, and the service still screens afterwards."""

from __future__ import annotations

import errno
import json
import random
import socket
import struct
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

Request = tuple[bytes, list[tuple[bytes, bytes]]]
"""Body and headers."""

ROUNDS = range(24)
PER_ROUND = 50

_JUNK: tuple[Any, ...] = (
    None, True, 0, -1, 10**400, 1e308, 1.5, "", "\x00", "\u202e", "A" * 5000, [], {}, [[]], {"a": {"b": []}},
    [1, 2, 3, 4], ["", "", "", ""], "data:", "data:;base64", "data:image/png;base64,####", "../../etc/passwd",
    "http://127.0.0.1/", "=" * 64, "é" * 40,
)  # fmt: skip


def huge_png(rng: random.Random) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    sides = [rng.choice((0, 1, 65_535, 2**31 - 1, 5_000, 100_000)) for _ in range(2)]
    depth, colour = rng.choice(((8, 2), (16, 6), (1, 0), (8, 3), (7, 9)))
    header = struct.pack(">IIBBBBB", *sides, depth, colour, 0, 0, rng.choice((0, 1)))
    bomb = zlib.compress(bytes(rng.choice((0, 1_000, 3_000_000))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bomb) + chunk(b"IEND", b"")


def hurt(data: bytes, rng: random.Random) -> bytes:
    """Break some bytes: flipped, cut, doubled, filled, or swapped for something else."""
    kind = rng.randrange(7)
    if kind == 0:
        broken = bytearray(data)
        for _ in range(rng.choice((1, 4, 64))):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        return bytes(broken)
    if kind == 1:
        return data[: rng.randrange(len(data))]
    if kind == 2:
        at = rng.randrange(len(data))
        return data[:at] + rng.randbytes(rng.choice((1, 100))) + data[at:]
    if kind == 3:
        return data[: rng.randrange(40)] + rng.randbytes(rng.randrange(400))
    if kind == 4:
        return huge_png(rng)
    if kind == 5:
        return bytes(rng.randrange(300))
    return rng.choice(
        (b"RIFF\xff\xff\xff\xffWEBPVP8 ", b"\xff\xd8\xff", b"GIF89a", b"\x00\x00\x00\x1cftypavif", data * 2)
    )


def hostile_multipart(sample: Any, rng: random.Random) -> Request:
    pictures = list(sample.pictures)
    content_type = sample.content_type.encode()
    kind = rng.randrange(8)
    if kind <= 2:
        for _ in range(rng.choice((1, 2, 5))):
            pictures[rng.randrange(5)] = hurt(pictures[rng.randrange(5)], rng)
    body = type(sample)(tuple(pictures)).multipart(mode=rng.choice(("cot", "direct")))
    if kind == 3:
        body = hurt(body, rng)
    elif kind == 4:
        old, new = rng.choice(
            (
                (b'name="original"', b'name="generated"'),
                (b'name="generated"', b'name="\x00"'),
                (b'name="original"', b"name=original; name=generated"),
                (b"form-data", b"attachment"),
                (b"Content-Disposition", b"X-" + b"y" * 9000),
                (b"\r\n\r\n", b"\r\n"),
                (b"filename=", b"filename*=utf-8''%ff%00; filename="),
                (b"image/jpeg", b"image/jpeg; charset=nonsense"),
                (b'name="mode"', b'name="metadata"'),
            )
        )
        body = body.replace(old, new)
    elif kind == 5:
        body = type(sample)(tuple(pictures)).multipart(
            **{rng.choice(("mode", "metadata", "x\x00", "original")): str(rng.choice(_JUNK))}
        )
    elif kind == 6:
        boundary = rng.choice((b"", b"other", b"x" * 300, b'"', b"\xff", b"a b", b"--", b"\x00"))
        content_type = b"multipart/form-data; boundary=" + boundary
    elif kind == 7:
        head, *parts = body.split(b"--screening-test-boundary")
        rng.shuffle(parts)
        body = b"--screening-test-boundary".join([head, *parts, *parts[: rng.randrange(6)]])
    return body, [(b"content-type", content_type)]


def hostile_json(sample: Any, rng: random.Random) -> Request:
    value: Any = sample.json()
    kind = rng.randrange(6)
    text: bytes | None = None
    if kind == 0:
        value[rng.choice(("original", "generated", "mode", "metadata", "surprise"))] = rng.choice(_JUNK)
    elif kind == 1:
        value["generated"][rng.randrange(4)] = rng.choice(_JUNK)
    elif kind == 2:
        deep = b"[" * rng.choice((100, 190, 5_000)) + b"]" * rng.choice((100, 190, 5_000))
        text = json.dumps(value)[:-1].encode() + b', "metadata": {"a": ' + deep + b"}}"
    elif kind == 3:
        number = rng.choice((b"9" * 5000, b"1e999", b"-1e-999", b"NaN", b"Infinity", b"0x10", b"9" * 300))
        text = json.dumps(value)[:-1].encode() + b', "metadata": {"a": ' + number + b"}}"
    elif kind == 4:
        text = hurt(json.dumps(value).encode(), rng)
    else:
        odd = rng.choice((b'"\\ud800"', b'"\\u0000"', b'"\xff"', b'{"\\udfff": 1}', b'{"a": "\\ud83d"}'))
        text = json.dumps(value)[:-1].encode() + b', "metadata": ' + odd + b', "mode": "cot", "mode": ' + odd + b"}"
    body = text if text is not None else json.dumps(value).encode()
    return body, [(b"content-type", rng.choice((b"application/json", b"application/json; charset=utf-7")))]


def odd_headers(rng: random.Random) -> list[tuple[bytes, bytes]]:
    return rng.sample(
        [
            (b"x-request-id", b"\xff\xfe"),
            (b"x-request-id", b"a" * 5000),
            (b"idempotency-key", b"\x80"),
            (b"idempotency-key", b"k" * 255),
            (b"authorization", b"Bearer \xff"),
            (b"content-encoding", b"gzip"),
            (b"expect", b"nothing"),
            (b"accept", b"image/*;q=nan"),
            (b"content-type", b"text/\xff; boundary=\x00"),
            (b"content-length", b"-5"),
            (b"content-length", b"99999999999999999999999"),
        ],
        k=rng.randrange(3),
    )


@pytest.mark.anyio
@pytest.mark.parametrize("round_", ROUNDS)
@pytest.mark.parametrize("mutate", [hostile_multipart, hostile_json])
async def test_mutated_requests_are_answered_below_500(
    start: Any, sample: Any, round_: int, mutate: Callable[[Any, random.Random], Request]
) -> None:
    assert 2 * len(ROUNDS) * PER_ROUND >= 1000
    rng = random.Random(f"{mutate.__name__} {round_}")
    async with start() as running:
        for number in range(PER_ROUND):
            body, headers = mutate(sample, rng)
            response = await running.client.post("/screen", content=body, headers=headers + odd_headers(rng))
            assert response.status_code < 500, (number, response.text, body[:300], headers)
            json.loads(response.content)
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200
        assert running.app.state.service.admission.inside == 0


def raw_attacks(request: bytes) -> list[bytes]:
    """Bytes that a broken or hostile client writes to the socket."""
    head, _, body = request.partition(b"\r\n\r\n")
    chunked = head.replace(b"Content-Length", b"X-Was").replace(
        b"Host: test", b"Host: test\r\nTransfer-Encoding: chunked"
    )
    return [
        b"",
        b"\x00" * 500,
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /screen HTTP/1.1\r\n",
        b"POST /screen HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"POST /screen HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"POST " + b"/a" * 50_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /%00%ff/..%2f HTTP/1.1\r\nHost: x\r\n\r\n",
        head + b"\r\n\r\n",
        head + b"\r\n\r\n" + body[:100],
        head + b"\r\n\r\n" + body[: len(body) // 2],
        request[:-1],
        head.replace(b"Content-Length: ", b"Content-Length: -") + b"\r\n\r\n" + body,
        head.replace(b"Content-Length: ", b"Content-Length: 9999999999") + b"\r\n\r\n" + body,
        head.replace(b"Content-Length: ", b"Content-Length: x") + b"\r\n\r\n" + body,
        head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + body,
        chunked + b"\r\n\r\nzz\r\n" + body,
        chunked + b"\r\n\r\n5\r\nabcdefgh\r\n",
        chunked + b"\r\n\r\nffffffffffffffff\r\n" + body,
        chunked + b"\r\n\r\n1\r\n-\r\n" * 50,
        chunked + b"\r\n\r\n0\r\n\r\n",
        request + request[:200],
        request + b"\x00garbage",
        head.replace(b"POST", b"post") + b"\r\n\r\n" + body,
        head.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n\r\n" + body,
        head.replace(b"multipart/form-data", b"multipart/\xff") + b"\r\n\r\n" + body,
        head + b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + body,
        head + b"\r\nExpect: 100-continue\r\n\r\n" + body[:50],
    ]


@pytest.mark.parametrize("hang_up_at_once", [True, False])
def test_raw_bytes_on_the_socket_are_survived(scripted_service: Any, sample: Any, hang_up_at_once: bool) -> None:
    for number, attack in enumerate(raw_attacks(sample.raw_request())):
        with socket.create_connection(scripted_service.address, timeout=30) as connection:
            try:
                connection.sendall(attack)
                if not hang_up_at_once:
                    connection.shutdown(socket.SHUT_WR)
                    answer = connection.recv(65536)
                    assert not answer.startswith(b"HTTP/1.1 5"), (number, answer)
            except OSError as error:  # being cut off is an answer too; `shutdown` then raises ENOTCONN
                assert isinstance(error, ConnectionError) or error.errno == errno.ENOTCONN
    assert scripted_service.popen.poll() is None
    response = httpx.post(f"{scripted_service.base_url}/screen", json=sample.json(), timeout=60)
    assert response.status_code == 200


def test_a_half_sent_body_on_an_open_connection_is_408(scripted_service: Any, sample: Any) -> None:
    with socket.create_connection(scripted_service.address, timeout=30) as connection:
        connection.sendall(sample.raw_request()[:-500])
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
    assert scripted_service.metric("screening_in_flight ") == 0


@pytest.mark.parametrize("headers", [b"X: " + b"y" * 200_000, b"\r\n".join([b"X: " + b"y" * 1_000] * 200)])
def test_200_kilobytes_of_headers_are_not_taken(scripted_service: Any, headers: bytes) -> None:
    with socket.create_connection(scripted_service.address, timeout=30) as connection:
        try:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n\r\n")
            answer = connection.recv(65536)
        except ConnectionError:
            answer = b""  # being cut off is an answer too
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
