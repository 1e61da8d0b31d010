"""Bodies as people's libraries write them: what has one meaning is accepted, and the rest is named."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from email.mime.image import MIMEImage
from email.mime.multipart import MIMEMultipart

import pytest

from tests.service.conftest import BOUNDARY

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}


def detail(response, status: int, slug: str) -> str:
    assert response.status_code == status, response.text
    assert response.json()["type"] == f"urn:screening:problem:{slug}"
    text: str = response.json()["detail"]
    return text


def form(sample, names) -> list:
    """The sample's files, the generated ones under other names."""
    first, *rest = sample.files()
    return [first, *[(name, file) for name, (_, file) in zip(names, rest, strict=True)]]


async def test_a_utf8_byte_order_mark_is_accepted(start, sample) -> None:
    async with start() as running:
        body = b"\xef\xbb\xbf" + json.dumps(sample.json(metadata={"a": "ä"})).encode()
        assert (await running.client.post("/screen", content=body, headers=JSON)).json()["metadata"] == {"a": "ä"}
        files = sample.files()
        response = await running.client.post("/screen", files=files, data={"metadata": '\ufeff{"a": 1}'})
        assert response.json()["metadata"] == {"a": 1}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
async def test_other_unicode_encodings_of_json_are_named(start, sample, encoding) -> None:
    async with start() as running:
        body = json.dumps(sample.json()).encode(encoding)
        response = await running.client.post("/screen", content=body, headers=JSON)
    assert encoding[:6].upper() in detail(response, 400, "malformed-request")


async def test_base64_forms_with_one_meaning_are_accepted(start, sample) -> None:
    texts = sample.json()
    url_safe = base64.urlsafe_b64encode(sample.pictures[0]).decode().rstrip("=")
    async with start() as running:
        for text in (url_safe, base64.encodebytes(sample.pictures[0]).decode(), f"data:image/png;base64,{url_safe}"):
            response = await running.client.post("/screen", json=texts | {"original": text})
            assert response.status_code == 200, response.text


async def test_a_wrong_character_is_named_with_its_picture_and_place(start, sample) -> None:
    body = sample.json()
    body["generated"][2] = body["generated"][2][:40] + "*" + body["generated"][2][41:]
    async with start() as running:
        response = await running.client.post("/screen", json=body)
    assert "generated[2]: character 41 is '*'" in detail(response, 422, "invalid-request")
    assert response.json()["picture"] == "generated[2]"


@pytest.mark.parametrize(
    "encodings",
    [
        ["gzip"],
        ["GZip"],
        ["deflate"],
        ["br"],
        ["zstd"],
        ["identity, gzip"],
        ["gzip", "br"],
        ["identity", "br"],
        ["odd"],
    ],
)
@pytest.mark.parametrize("kind", ["json", "multipart"])
async def test_a_compressed_body_is_415_before_it_is_read(start, sample, encodings, kind) -> None:
    async def unread():
        raise AssertionError("the body was read")
        yield b""

    headers = [("content-type", "application/json" if kind == "json" else sample.content_type)]
    headers += [("content-encoding", value) for value in encodings]
    async with start() as running:
        response = await running.client.post("/screen", content=unread(), headers=headers)
    assert "uncompressed" in detail(response, 415, "unsupported-media-type")
    assert response.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("value", ["identity", "Identity", "", " identity , identity"])
async def test_identity_is_accepted_as_no_compression(start, sample, value) -> None:
    async with start() as running:
        response = await running.client.post("/screen", json=sample.json(), headers={"content-encoding": value})
    assert response.status_code == 200


async def test_a_compressed_body_that_does_not_say_so_is_415(start, sample) -> None:
    async with start() as running:
        for body in (gzip.compress(b"{}"), zlib.compress(b"{}"), b"\x28\xb5\x2f\xfd\x00"):
            for kind in ("application/json", sample.content_type):
                response = await running.client.post("/screen", content=body, headers={"content-type": kind})
                assert "uncompressed" in detail(response, 415, "unsupported-media-type")


async def test_an_admin_body_that_is_compressed_is_415(serve) -> None:
    from tests.service.obedient_engine import ADMIN

    async with serve() as running:
        body = gzip.compress(b'{"checkpoint": "two"}')
        headers = {**ADMIN, "content-encoding": "gzip"}
        response = await running.client.post("/admin/checkpoint", content=body, headers=headers)
        assert "uncompressed" in detail(response, 415, "unsupported-media-type")
        body = b'\xef\xbb\xbf{"checkpoint": "two"}'
        assert (await running.client.post("/admin/checkpoint", content=body, headers=ADMIN)).status_code == 200


@pytest.mark.parametrize(
    "kind", ['multipart/form-data; boundary="{}"', "MULTIPART/Form-Data; charset=utf-8; Boundary={}"]
)
async def test_preamble_epilogue_and_a_quoted_boundary_are_accepted(start, sample, kind) -> None:
    body = b"This is a multi-part message.\r\n\r\n" + sample.multipart() + b"epilogue"
    async with start() as running:
        headers = {"content-type": kind.format(BOUNDARY)}
        response = await running.client.post("/screen", content=body, headers=headers)
    assert response.status_code == 200, response.text


async def test_the_output_of_a_mail_library_is_accepted(start, sample) -> None:
    message = MIMEMultipart("form-data", boundary="edge")
    for name, data in zip(("original", *["generated"] * 4), sample.pictures, strict=True):
        part = MIMEImage(data, "jpeg")  # as base64 in lines
        part.add_header("Content-Disposition", "form-data", name=name, filename="picture.jpg")
        message.attach(part)
    async with start(answer_cache_entries=0) as running:
        headers = {"content-type": "multipart/form-data; boundary=edge"}
        answer = await running.client.post("/screen", content=message.as_bytes(), headers=headers)
        plain = await running.client.post("/screen", files=sample.files())
    assert answer.status_code == 200, answer.text
    assert answer.json()["reasoning"] == plain.json()["reasoning"]


async def test_another_transfer_encoding_of_a_part_is_named(start, sample) -> None:
    body = sample.multipart().replace(b"Content-Type:", b"Content-Transfer-Encoding: quoted-printable\r\nContent-Type:")
    async with start() as running:
        response = await running.client.post("/screen", content=body, headers={"content-type": sample.content_type})
    assert "quoted-printable" in detail(response, 422, "invalid-request")


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["generated[]"] * 4, (0, 1, 2, 3)),
        (["generated", "generated[]", "generated", "generated[]"], (0, 1, 2, 3)),
        ([f"generated[{index}]" for index in range(4)], (0, 1, 2, 3)),
        ([f"generated[{index}]" for index in (3, 1, 0, 2)], (2, 1, 3, 0)),
    ],
)
async def test_names_of_the_four_that_have_one_meaning_are_accepted(start, sample, names, order) -> None:
    meant = type(sample)((sample.pictures[0], *(sample.pictures[1 + index] for index in order)))
    async with start() as running:
        response = await running.client.post("/screen", files=form(sample, names))
        assert response.status_code == 200, response.text
        again = await running.client.post("/screen", json=meant.json())
    assert again.json()["source"] == "cache", "the pictures were taken in another order"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["generated[0]", "generated[0]", "generated[1]", "generated[2]"], "generated[0], generated[1]"),
        (["generated[1]", "generated[2]", "generated[3]", "generated[4]"], "must be generated[0]"),
        (["generated[0]", "generated[1]", "generated[2]", "generated"], "have an index and others do not"),
        (["generated_0", "generated_1", "generated_2", "generated_3"], "generated_0"),
        (["a", "b", "c", "d"], "'a'"),
        (["Generated"] * 4, "'Generated'"),
        (["generated[a]"] * 4, "'generated[a]'"),
        (["generated[0][1]"] * 4, "'generated[0][1]'"),
    ],
)
async def test_other_names_of_the_four_are_refused_with_the_right_ones(start, sample, names, words) -> None:
    async with start() as running:
        text = detail(await running.client.post("/screen", files=form(sample, names)), 422, "invalid-request")
    assert words in text and "generated" in text


async def test_a_missing_index_and_a_field_given_twice_are_named(start, sample) -> None:
    async with start() as running:
        three = form(sample, [f"generated[{index}]" for index in range(4)])[:-1]
        assert "3 files" in detail(await running.client.post("/screen", files=three), 422, "invalid-request")
        twice = [*sample.files(), sample.files()[0]]
        assert "original: 2 files" in detail(await running.client.post("/screen", files=twice), 422, "invalid-request")
        for field in ('"mode": "cot"', '"review_below": 0.5', '"original": "QUJD"'):
            body = f"{json.dumps(sample.json(mode='cot', review_below=0.5))[:-1]}, {field}}}"
            response = await running.client.post("/screen", content=body, headers=JSON)
            assert "is given twice" in detail(response, 422, "invalid-request")


async def test_a_field_s_name_inside_the_metadata_is_not_a_second_one(start, sample) -> None:
    metadata = {"original": "x", "mode": {"mode": 1, "metadata": []}, "number": 1.5}
    async with start() as running:
        assert (await running.client.post("/screen", json=sample.json(metadata=metadata))).json()[
            "metadata"
        ] == metadata


@pytest.mark.parametrize("field", ["generated[0]", "image", "colour"])
async def test_an_unknown_json_field_is_refused_with_the_right_ones(start, sample, field) -> None:
    async with start() as running:
        response = await running.client.post("/screen", json=sample.json(**{field: "x"}))
    text = detail(response, 422, "invalid-request")
    assert repr(field) in text and "generated (4 pictures" in text


async def test_a_field_given_twice_is_named_however_its_name_is_written(start, sample) -> None:
    texts = sample.json()
    head = json.dumps(texts)[:-1]
    other = json.dumps(texts["generated"][0])
    bodies = {
        "original": head + f', "\\u006friginal": {other}}}',
        "mode": head + ', "mode": "cot", "mod\\u0065": "direct"}',
        "url": json.dumps({**texts, "original": 0}).replace("0", '{"url": "https://a/", "ur\\u006c": "https://b/"}', 1),
    }
    async with start() as running:
        for name, body in bodies.items():
            response = await running.client.post("/screen", content=body, headers=JSON)
            assert f"{name} is given twice" in detail(response, 422, "invalid-request")
        inside = head + ', "metadata": {"original": "\\u00fc", "url": 1}}'
        assert (await running.client.post("/screen", content=inside, headers=JSON)).status_code == 200


async def test_a_data_url_may_begin_with_blanks(start, sample) -> None:
    texts = sample.json()
    async with start() as running:
        response = await running.client.post(
            "/screen", json=texts | {"original": "\n data:;base64," + texts["original"]}
        )
    assert response.status_code == 200, response.text


async def test_a_part_without_a_name_is_named(start, sample) -> None:
    body = f"--{BOUNDARY}\r\nContent-Type: image/png\r\n\r\nx\r\n--{BOUNDARY}--\r\n"
    async with start() as running:
        headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
        response = await running.client.post("/screen", content=body, headers=headers)
    assert "A part of the form has no field name" in detail(response, 422, "invalid-request")
