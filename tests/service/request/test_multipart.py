"""Multipart bodies as RFC 2046 allows them, and as they break."""

from __future__ import annotations

import pytest

from service.errors import InvalidRequest, MalformedRequest
from service.request.multipart import split

ONE = b'--edge\r\nContent-Disposition: form-data; name="one"\r\n\r\n\x00\xff\r\n--edg\r\n1\r\n'
TWO = b"--edge\r\nContent-Disposition: form-data; name=two\r\n\r\n\r\n"
WHOLE = ONE + TWO + b"--edge--\r\n"
EXPECTED = [("one", b"\x00\xff\r\n--edg\r\n1"), ("two", b"")]


def parts(body: bytes, boundary: bytes = b"edge") -> list[tuple[str, bytes]]:
    return [(part.name, part.data) for part in split(body, boundary, max_parts=9)]


@pytest.mark.parametrize(
    "body",
    [
        WHOLE,
        b"This is a multi-part message in MIME format.\r\n" + WHOLE,
        b"--edges are near\r\n\r\n" + WHOLE,
        b"\r\n\r\n" + WHOLE,
        b"\n" + WHOLE,
        WHOLE + b"epilogue\r\n--edge\r\nno part\r\n",
        WHOLE.rstrip(),
        WHOLE + b"\x00" * 100,
        WHOLE.replace(b"--edge\r\n", b"--edge \t \r\n").replace(b"--edge--", b"--edge-- \t"),
        WHOLE.replace(b"Content-Disposition: form-data;", b"CONTENT-DISPOSITION:form-data;\r\n\t"),
        WHOLE.replace(b"--edge\r\nContent", b"--edge\r\nContent-Type: image/png\r\nContent"),
    ],
    ids=range(11),
)
def test_every_form_that_the_standard_allows_is_read(body) -> None:
    assert parts(body) == EXPECTED


def test_line_feeds_alone_divide_a_body_that_uses_them_throughout() -> None:
    body = b'text\n--edge\nContent-Disposition: form-data; name="one"\n\n\xff\xd8\r\n--edge\n\nplain\n--edge--'
    assert parts(body) == [("one", b"\xff\xd8\r"), ("", b"plain")]


def test_a_boundary_may_hold_every_character_that_the_standard_lists() -> None:
    boundary = b"a'()+_,-./:=? 9"
    assert parts(WHOLE.replace(b"--edge", b"--" + boundary), boundary) == EXPECTED


@pytest.mark.parametrize(
    "body", [b"", b"--", b"nothing", b"x--edge\r\n\r\n\r\n", WHOLE[:-12], ONE, b"--edge\r\n--edge--"]
)
def test_a_body_that_breaks_off_or_is_divided_wrongly_is_malformed(body) -> None:
    with pytest.raises(MalformedRequest):
        parts(body)


def test_a_body_that_only_ends_has_no_parts() -> None:
    assert parts(b"preamble\r\n--edge--") == []


def test_a_part_without_the_end_of_its_headers_is_malformed() -> None:
    with pytest.raises(MalformedRequest, match="no empty line"):
        parts(b"--edge\r\nContent-Disposition: form-data; name=x\r\n--edge--\r\n")
    with pytest.raises(MalformedRequest, match="without a colon"):
        parts(b"--edge\r\nContent-Disposition\r\n\r\nx\r\n--edge--\r\n")


def test_parts_and_false_boundaries_are_counted() -> None:
    with pytest.raises(InvalidRequest, match="more than 9 parts"):
        parts(b"--edge\r\n\r\n\r\n" * 11 + b"--edge--")
    with pytest.raises(MalformedRequest, match="begin with its boundary"):
        parts(b"--edge\r\n\r\n" + b"\n--edgex" * 100)
