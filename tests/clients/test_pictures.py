"""Whatever a caller calls a picture becomes the bytes of one image file, or a clear error before any network."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, OrderedDict, UserList, deque
from io import BytesIO, StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from screening_client import Client, InputError
from screening_client.pictures import four_pictures, picture_bytes


def test_paths_as_text_and_path_give_the_files_bytes(tmp_path: Path) -> None:
    path = tmp_path / "ä picture.jpg"
    path.write_bytes(b"bytes")
    assert picture_bytes(str(path), "original") == picture_bytes(path, "original") == b"bytes"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_bytes_is_taken_as_it_is(kind: Any) -> None:
    assert picture_bytes(kind(b"bytes"), "original") == b"bytes"


def test_a_file_object_is_read_from_its_beginning_however_often_it_is_given() -> None:
    file = BytesIO()
    file.write(b"bytes")
    assert [picture_bytes(file, "original") for _ in range(2)] == [b"bytes", b"bytes"]


def test_a_pipe_is_read_from_where_it_stands() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as end:
        end.write(b"bytes")
    with os.fdopen(reader, "rb") as pipe:
        assert picture_bytes(pipe, "original") == b"bytes"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "F"])
def test_pil_images_of_every_mode_become_a_png_of_the_same_size(mode: str) -> None:
    data = picture_bytes(Image.new(mode, (5, 3)), "original")
    with Image.open(BytesIO(data)) as image:
        assert (image.format, image.size) == ("PNG", (5, 3))


def test_pixels_of_a_pil_image_survive() -> None:
    image = Image.effect_noise((9, 7), 80).convert("RGB")
    with Image.open(BytesIO(picture_bytes(image, "original"))) as sent:
        assert sent.tobytes() == image.tobytes()


def test_a_pil_image_with_an_orientation_is_sent_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as image:
        data = picture_bytes(image, "original")
    with Image.open(BytesIO(data)) as sent:
        assert sent.size == (4, 8) and not sent.getexif().get(0x0112)


def test_a_damaged_pil_image_is_named() -> None:
    buffer = BytesIO()
    Image.effect_noise((64, 64), 80).save(buffer, format="PNG")
    with Image.open(BytesIO(buffer.getvalue()[:1000])) as image, pytest.raises(InputError, match=r"generated\[1\]"):
        picture_bytes(image, "generated[1]")


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (b"", "is empty"),
        (BytesIO(), "is empty"),
        (StringIO("text"), "'rb'"),
        ("no/such/file.jpg", "cannot be read"),
        ("nul\0character", "cannot be read"),
        (".", "cannot be read"),
        ("https://example.org/a.jpg", "download it"),
        ("HTTPS://example.org/a.jpg", "download it"),
        (" http://example.org/a.jpg", "download it"),
        (Path("https://example.org/a.jpg"), "download it"),
        ("s3://bucket/a.jpg", "download it"),
        ("file:///tmp/a.jpg", "URL"),
        ("data:image/png;base64,AAAA", "URL"),
        (None, "NoneType"),
        (4711, "int"),
        ([b"bytes"], "list"),
    ],
)
def test_an_argument_that_is_not_a_picture_is_refused_by_name(picture: Any, said: str) -> None:
    with pytest.raises(InputError, match=r"^generated\[2\]") as caught:
        picture_bytes(picture, "generated[2]")
    assert said in str(caught.value)


def test_a_closed_file_is_refused(tmp_path: Path) -> None:
    file = (tmp_path / "a").open("wb+")
    file.close()
    with pytest.raises(InputError, match="closed"):
        picture_bytes(file, "original")


def test_an_empty_file_is_named_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    with pytest.raises(InputError, match=r"original \(.*empty\.jpg\) is empty"):
        picture_bytes(path, "original")


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_another_number_than_four_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"has {count} pictures"):
        four_pictures([b"x"] * count)


@pytest.mark.parametrize(
    "not_a_list", ["abcd", b"abcd", bytearray(b"abcd"), memoryview(b"abcd"), Path("abcd"), BytesIO(b"abcd"), None, 4]
)
def test_one_picture_in_place_of_four_is_refused(not_a_list: Any) -> None:
    with pytest.raises(InputError, match="list of 4 pictures"):
        four_pictures(not_a_list)


LETTERS = {letter: letter.encode() for letter in "abcd"}


@pytest.mark.parametrize(
    "unordered",
    [
        set(LETTERS),
        frozenset(LETTERS),
        LETTERS,
        OrderedDict(LETTERS),
        Counter(LETTERS),
        MappingProxyType(LETTERS),
        LETTERS.keys(),
        LETTERS.values(),
        LETTERS.items(),
        OrderedDict(LETTERS).values(),
        iter(set(LETTERS)),
        iter(frozenset(LETTERS)),
        iter(LETTERS),
        iter(LETTERS.values()),
        iter(OrderedDict(LETTERS)),
    ],
    ids=lambda each: type(each).__name__,
)
def test_four_pictures_without_an_order_are_refused(unordered: Any, server: Any) -> None:
    with pytest.raises(InputError, match="has no order"):
        four_pictures(unordered)
    with Client(base_url=server.url) as client, pytest.raises(InputError, match="has no order"):
        client.screen(original=b"o", generated=unordered)
    assert server.received == []


FOUR = [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize(
    "ordered",
    [FOUR, tuple(FOUR), deque(FOUR), UserList(FOUR), iter(FOUR), (each for each in FOUR), map(bytes, FOUR)],
    ids=lambda each: type(each).__name__,
)
def test_four_pictures_in_an_order_keep_it(ordered: Any) -> None:
    assert four_pictures(ordered) == tuple(FOUR)


def test_an_array_of_four_paths_keeps_its_order() -> None:
    assert four_pictures(np.array(list("abcd"))) == tuple("abcd")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ndarray"):
        four_pictures(np.zeros((4, 8, 8)))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 3, 5])
def test_an_iterator_of_another_length_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"has {count} pictures"):
        four_pictures(iter([b"x"] * count))  # type: ignore[arg-type]


def test_swapped_arguments_are_named(server: Any) -> None:
    with Client(base_url=server.url) as client:
        with pytest.raises(InputError, match="generated is of type str; pass a list"):
            client.screen(original=FOUR, generated="a.jpg")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="swapped"):
            client.screen(original=FOUR, generated=FOUR)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"generated\[2\] is of type NoneType"):
            client.screen(original=b"o", generated=[b"a", b"b", None, b"d"])  # type: ignore[list-item]


@pytest.mark.slow
def test_importing_and_using_the_client_pulls_in_nothing_heavy() -> None:
    program = """
import sys
import screening_client, screening_client.cli
from screening_client.pictures import picture_bytes
picture_bytes(b"bytes", "original")
heavy = {"torch", "pydantic", "PIL", "numpy", "vllm", "fastapi", "screening", "service", "trainer"}
print(*sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
