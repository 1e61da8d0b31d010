"""Bad requests: one problem type per cause, and the name of the field."""

from __future__ import annotations

import asyncio
import hashlib
import io
import struct
import zlib
from collections.abc import AsyncIterator

import pytest
from PIL import Image

from service.errors import MEDIA_TYPE

pytestmark = pytest.mark.anyio


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header claims this size; a few dozen bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def animated_webp() -> bytes:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:])
    return out.getvalue()


def gif() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(out, "GIF")
    return out.getvalue()


def assert_problem(response, status: int, slug: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    body = response.json()
    assert body["type"] == f"urn:screening:problem:{slug}"
    assert body["status"] == status and body["title"] and body["detail"] and body["instance"]
    assert body["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("replacement", "status", "slug"),
    [
        (b"", 422, "image-unreadable"),
        (b"hello", 422, "image-unsupported"),
        (gif(), 422, "image-unsupported"),
        (animated_webp(), 422, "image-unsupported"),
        (png_header(60_000, 60_000), 422, "image-too-large"),
        (png_header(9_000, 3_000), 422, "image-too-large"),
        (png_header(50, 50), 422, "image-unreadable"),
        (png_header(1, 25_000_000), 422, "image-too-large"),
        (png_header(20_000, 20), 422, "image-too-large"),
        (png_header(1, 1), 422, "image-shape"),
        (png_header(31, 400), 422, "image-shape"),
        (png_header(2_000, 20), 422, "image-shape"),
        (png_header(1_000, 100), 422, "image-shape"),
    ],
)
async def test_a_bad_picture_is_named(start, sample, replacement, status, slug) -> None:
    files = sample.files()
    files[2] = ("generated", ("b.jpg", replacement, "image/jpeg"))
    async with start() as running:
        response = await running.client.post("/screen", files=files)
    assert_problem(response, status, slug)
    assert response.json()["picture"] == "generated[1]"


async def test_a_truncated_picture_is_unreadable(start, sample) -> None:
    files = sample.files()
    files[0] = ("original", ("o.jpg", sample.pictures[0][:-200], "image/jpeg"))
    async with start() as running:
        response = await running.client.post("/screen", files=files)
    assert_problem(response, 422, "image-unreadable")
    assert response.json()["picture"] == "original"


async def test_the_sum_of_pixels_is_limited(start, sample) -> None:
    async with start(max_total_pixels=30_000) as running:
        assert_problem(await running.client.post("/screen", files=sample.files()), 422, "image-too-large")


async def test_a_picture_over_the_byte_limit_is_413(start, sample) -> None:
    async with start(max_picture_bytes=500) as running:
        response = await running.client.post("/screen", files=sample.files())
    assert_problem(response, 413, "request-too-large")
    assert response.json()["picture"] == "original"


@pytest.mark.parametrize("count", [0, 1, 3, 5, 6])
async def test_exactly_four_generated_pictures(start, sample, count) -> None:
    files = [sample.files()[0], *[sample.files()[1]] * count]
    async with start() as running:
        response = await running.client.post("/screen", files=files)
        body = sample.json()
        body["generated"] = [body["generated"][0]] * count
        other = await running.client.post("/screen", json=body)
    assert_problem(response, 422, "invalid-request")
    assert_problem(other, 422, "invalid-request")
    assert "generated" in response.json()["detail"] and "generated" in other.json()["detail"]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({"mode": "loud"}, "mode"),
        ({"metadata": "[1]"}, "metadata"),
        ({"metadata": "{"}, "metadata"),
        ({"metadata": '{"a": 1e999}'}, "metadata"),
        ({"metadata": '{"a": "' + "x" * 4100 + '"}'}, "metadata"),
        ({"colour": "red"}, "colour"),
        ({"original": "again"}, "original"),
    ],
)
async def test_a_wrong_field_is_named(start, sample, data, word) -> None:
    async with start() as running:
        response = await running.client.post("/screen", files=sample.files(), data=data)
    assert_problem(response, 422, "invalid-request")
    assert word in response.json()["detail"]


@pytest.mark.parametrize(
    ("change", "status", "slug"),
    [
        ({"original": 7}, 422, "invalid-request"),
        ({"original": "not base64!"}, 422, "invalid-request"),
        ({"mode": None}, 422, "invalid-request"),
        ({"metadata": "text"}, 422, "invalid-request"),
        ({"surprise": 1}, 422, "invalid-request"),
    ],
)
async def test_a_wrong_json_field_is_refused(start, sample, change, status, slug) -> None:
    async with start() as running:
        assert_problem(await running.client.post("/screen", json=sample.json(**change)), status, slug)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'{"original": "\\ud800"}', b"\xff\xfe{}"])
async def test_a_body_that_is_not_json_is_malformed(start, body) -> None:
    async with start() as running:
        response = await running.client.post("/screen", content=body, headers={"content-type": "application/json"})
    assert_problem(response, 400, "malformed-request")


async def test_a_multipart_body_that_breaks_off_is_malformed(start, sample) -> None:
    async with start() as running:
        for body in (sample.multipart()[:-20], b"", b"no boundary here"):
            response = await running.client.post("/screen", content=body, headers={"content-type": sample.content_type})
            assert_problem(response, 400, "malformed-request")


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded", "multipart/mixed; boundary=a"])
async def test_another_content_type_is_415(start, kind) -> None:
    async with start() as running:
        response = await running.client.post("/screen", content=b"x", headers={"content-type": kind})
    assert_problem(response, 415, "unsupported-media-type")


async def test_multipart_without_a_boundary_is_malformed(start) -> None:
    async with start() as running:
        response = await running.client.post("/screen", content=b"x", headers={"content-type": "multipart/form-data"})
    assert_problem(response, 400, "malformed-request")


async def test_a_body_over_the_limit_is_413_with_and_without_content_length(start, sample) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 100

    async with start(max_body_bytes=1000) as running:
        assert_problem(await running.client.post("/screen", files=sample.files()), 413, "request-too-large")
        headers = {"content-type": sample.content_type}
        response = await running.client.post("/screen", content=chunks(), headers=headers)
        assert_problem(response, 413, "request-too-large")


async def test_a_body_that_trickles_is_408(start, sample) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        yield b"--"
        await asyncio.sleep(30)
        yield b"never sent"

    async with start(body_timeout_seconds=0.5) as running:
        headers = {"content-type": sample.content_type}
        response = await running.client.post("/screen", content=trickle(), headers=headers)
        assert_problem(response, 408, "body-timeout")


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "caf\xe9"])
async def test_an_idempotency_key_must_be_visible_and_short(start, sample, key) -> None:
    async with start() as running:
        headers = {b"Idempotency-Key": key.encode("latin-1")}
        assert_problem(
            await running.client.post("/screen", json=sample.json(), headers=headers), 400, "malformed-request"
        )


async def test_with_keys_set_only_a_known_key_gets_in(start, sample) -> None:
    async with start(api_keys=hashlib.sha256(b"secret").hexdigest()) as running:
        for authorization in (None, "Bearer wrong", "Basic secret", "Bearer", "secret"):
            headers = {"Authorization": authorization} if authorization else {}
            response = await running.client.post("/screen", json=sample.json(), headers=headers)
            assert_problem(response, 401, "unauthenticated")
            assert response.headers["www-authenticate"].startswith("Bearer")
        response = await running.client.post("/screen", json=sample.json(), headers={"Authorization": "Bearer secret"})
        assert response.status_code == 200
        assert (await running.client.get("/readyz")).status_code == 200


async def test_unknown_paths_and_methods_are_problems(start) -> None:
    async with start() as running:
        assert_problem(await running.client.get("/nowhere"), 404, "not-found")
        response = await running.client.put("/screen")
        assert_problem(response, 405, "method-not-allowed")
        assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("values", [b"[]," * 350_000 + b"[]", b"{}," * 5_000 + b"1", b"1," * 5_000 + b"1"])
async def test_json_with_more_values_than_a_request_has_is_refused_before_it_is_built(
    start, monkeypatch, values
) -> None:
    def build(_body: bytes) -> None:
        raise AssertionError("the tree was built")

    monkeypatch.setattr("service.request.json_body.ScreenRequest.model_validate_json", build)
    async with start() as running:
        body = b'{"x":[' + values + b"]}"
        response = await running.client.post("/screen", content=body, headers={"Content-Type": "application/json"})
        assert_problem(response, 400, "malformed-request")


async def test_base64_may_be_broken_into_lines_but_not_hold_anything_else(start, sample) -> None:
    async with start() as running:
        broken = sample.json()
        broken["original"] = "\r\n\t ".join(broken["original"][at : at + 76] for at in range(0, 9999, 76))
        assert (await running.client.post("/screen", json=broken)).status_code == 200
        for extra in ("é", "\u2003", "!", "\x00"):
            response = await running.client.post("/screen", json=sample.json(original=extra + broken["original"]))
            assert_problem(response, 422, "invalid-request")
