"""Samples on disk: whatever is wrong with them is found when they are read, with file, line and field."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image

from screening.task import Dimension
from tests.trainer.contracts import SMALL
from tests.trainer.record_files import bare, generated, in_full, write
from trainer.data.render.dataset import Order, write_dataset
from trainer.data.render.defects import SEVERITIES
from trainer.data_directory import (
    DataError,
    data_digest,
    picture_path,
    read_picture,
    read_samples,
    sample_lines,
)
from trainer.records import Sample


def record(name: str = "s1", label: str = "AC") -> dict[str, Any]:
    """A sample as the renderer writes it: the options outside the label have the wrong shadow."""
    return {
        "id": name,
        "product": "p1",
        "original": {"file": f"pictures/{name}/original.jpg", "caption": "a jar", "attributes": {"colour": "red"}},
        "generated": [generated(name, option, usable=option in label) for option in "ABCD"],
        "label": label,
        "reasoning": "I observed …",
        "seed": 7,
        "setting": "studio",
    }


def test_samples_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    samples = read_samples(write(tmp_path, record("b", "AC"), record("a", "N")))
    assert [(sample.id, sample.label) for sample in samples] == [("b", "AC"), ("a", "N")]
    assert samples[0].options == {"A", "C"}
    assert samples[1].options == frozenset()
    assert samples[0].files == tuple(f"pictures/b/{name}.jpg" for name in ("original", "a", "b", "c", "d"))
    assert samples[0].generated[1].dimensions == {Dimension.SHADOW}


def test_the_output_of_the_renderer_is_read(tmp_path: Path) -> None:
    order = Order(count=3, seed=11, size=64, severities=SEVERITIES)
    write_dataset(order, tmp_path / "data")
    samples = read_samples(tmp_path / "data")
    assert len(samples) == 3
    assert all(sample.reasoning and sample.product for sample in samples)
    assert any(picture.defects for sample in samples for picture in sample.generated)


def test_severity_of_a_dimension_is_that_of_its_worst_defect() -> None:
    changed = record()
    picture = changed["generated"][1]
    picture["defects"] += [
        {"dimension": "appearance_deformation", "kind": "shade", "severity": 1, "comment": "x"},
        {"dimension": "appearance_deformation", "kind": "text", "severity": 3, "comment": "y"},
    ]
    picture["dimensions"] = ["appearance_deformation", "physical_shadow"]
    picture["severity"] = 3
    read = Sample.model_validate(changed).generated[1]
    assert [read.severity_of(dimension) for dimension in Dimension] == [3, 2, 0, 0]


def test_annotated_pictures_may_name_dimensions_without_kinds() -> None:
    changed = record()
    changed["generated"][1]["defects"] = []
    read = Sample.model_validate(changed).generated[1]
    assert read.severity_of(Dimension.SHADOW) == 2
    assert read.severity_of(Dimension.LAYOUT) == 0


def test_dimensions_are_written_in_the_same_order_by_every_process() -> None:
    # Each process has another order of sets, and digests are over the bytes of the file.
    changed = record()
    changed["generated"][1] |= {"defects": [], "dimensions": list(Dimension)}
    written = json.loads(Sample.model_validate(changed).model_dump_json())
    assert written["generated"][1]["dimensions"] == sorted(Dimension)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("id",), "", "line 2, id:"),
        (("colour",), "red", "line 2, colour:"),
        (("generated", 0, "mood"), "calm", r"line 2, generated\.0\.mood:"),
        (("generated", 1, "defects", 0, "severity"), 4, r"line 2, generated\.1\.defects\.0\.severity:"),
        (
            ("generated", 1, "defects", 0, "dimension"),
            "shadow",
            "unknown dimension 'shadow'; choose from appearance_def",
        ),
        (
            ("generated", 1, "defects", 0, "box"),
            [0.5, 0.1, 0.4, 0.2],
            r"generated\.1\.defects\.0\.box: \[0\.5, 0\.1, 0\.4, 0\.2\] must be \[left, top, right, bottom\]",
        ),
        (
            ("generated", 1, "defects", 0, "box"),
            [0.5, 0.1, True],
            r"defects\.0\.box: \[0\.5, 0\.1, True\] must be \[left, top, right, bottom\]",
        ),
        (("generated", 1, "dimensions"), [], r"line 2, generated\.1: usable is False but dimensions is empty"),
        (("generated", 0, "usable"), False, r"line 2, generated\.0: usable is False but dimensions is empty"),
        (("generated", 1, "severity"), 1, r"line 2, generated\.1: the worst defect has severity 2 but severity is 1"),
        (
            ("generated", 1, "dimensions"),
            ["placement_layout"],
            r"generated\.1: the defects are of .* but dimensions are",
        ),
        (("generated", 0, "option"), "B", "must list options A, B, C, D in this order, not B, B, C, D"),
        (("generated",), [], "must list four pictures .options A, B, C, D., not 0"),
        (("label",), "A", "line 2: label is 'A' but the usable pictures are 'AC'"),
        (("label",), "CD", "line 2: label is 'CD' but the usable pictures are 'AC'"),
        (("label",), "", "line 2: '' is not a label; write the letters of the usable pictures"),
        (("label",), "AN", "line 2: 'AN' is not a label"),
        (("label",), "E", "line 2: 'E' is not a label"),
        (("label",), 3, "line 2: 3 is not a label"),
        (("label",), [], r"line 2: \[\] is not a label"),
        (
            ("reasoning",),
            "I see </think> it",
            r"line 2, reasoning: the reasoning must not hold .* holds </think>",
        ),
        (("reasoning",), "so <answer>A", r"line 2, reasoning: the reasoning must not hold .* holds <answer>"),
        (
            ("reasoning",),
            "a dent <box>[[1, 2, 30, 40]]</box>",
            "line 2, reasoning: the reasoning must not contain boxes",
        ),
        (
            ("original", "file"),
            "../secret.jpg",
            r"line 2, original\.file: '\.\./secret\.jpg' must be a relative path inside",
        ),
        (("original", "file"), "/etc/passwd", r"line 2, original\.file: '/etc/passwd' must be a relative path inside"),
    ],
)
def test_a_wrong_field_is_named_with_its_file_and_line(
    tmp_path: Path, path: tuple[str | int, ...], value: object, message: str
) -> None:
    wrong: Any = record("s2")
    place = wrong
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    directory = write(tmp_path, record("s1"), wrong)
    with pytest.raises(DataError, match=message) as caught:
        read_samples(directory)
    assert str(directory / "samples.jsonl") in str(caught.value)


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    directory = write(tmp_path, record())
    with (directory / "samples.jsonl").open("a") as handle:
        handle.write('{"id": "half')
    with pytest.raises(DataError, match=r"samples\.jsonl, line 2: Invalid JSON"):
        read_samples(directory)


def test_an_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2, id: 's1' is already in line 1"):
        read_samples(write(tmp_path, record("s1"), record("s1")))


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    directory = write(tmp_path, record("s1"))
    (directory / "pictures/s1/c.jpg").unlink()
    with pytest.raises(DataError, match=r"line 1: the picture pictures/s1/c\.jpg is not in"):
        read_samples(directory)


def test_a_directory_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is .* a data directory\?"):
        read_samples(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no samples"):
        read_samples(write(tmp_path))


def test_the_digest_changes_with_a_label_and_with_a_pixel_and_with_nothing_else(tmp_path: Path) -> None:
    first = write(tmp_path / "first", record("s1", "AC"))
    same = write(tmp_path / "same", record("s1", "AC"))
    label = write(tmp_path / "label", record("s1", "A"))
    pixel = write(tmp_path / "pixel", record("s1", "AC"))
    Image.new("RGB", (40, 40), (0, 90, 10)).save(pixel / "pictures/s1/d.jpg")
    digests = [data_digest(directory, read_samples(directory)) for directory in (first, same, label, pixel)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def encoded(format: str, size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = BytesIO()
    Image.radial_gradient("L").resize(size).save(buffer, format)
    return buffer.getvalue()


def cut(format: str) -> Callable[[], bytes]:
    return lambda: encoded(format)[: len(encoded(format)) // 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (cut("JPEG"), "the JPEG picture is truncated or damaged"),
        (cut("PNG"), "the PNG picture is truncated or damaged"),
        (cut("WEBP"), "damaged"),
        (lambda: cut("JPEG")() + b"\xff\xd9", "the JPEG picture is truncated or damaged"),
        (lambda: cut("PNG")() + b"\0\0\0\0IEND\xaeB`\x82", "the PNG picture is truncated or damaged"),
        (lambda: b"", "the picture is empty"),
        (lambda: b"no picture", "not a JPEG, PNG, WebP or AVIF"),
        (lambda: encoded("GIF"), "not a JPEG, PNG, WebP or AVIF"),
        (lambda: encoded("PNG", (6000, 5000)), "6000 x 5000 pixels; the limit is 25 megapixels"),
    ],
)
def test_a_picture_that_no_model_can_be_shown_is_named_with_file_line_and_field(
    content: Callable[[], bytes], message: str, tmp_path: Path
) -> None:
    directory = write(tmp_path, record("s1"), record("s2"))
    picture = directory / "pictures/s2/b.jpg"
    samples = read_samples(directory)
    before = data_digest(directory, samples)
    picture.write_bytes(content())
    with pytest.raises(DataError, match=message) as caught:
        data_digest(directory, samples)
    assert str(caught.value).startswith(f"{directory}/samples.jsonl, line 2, generated.1.file: {picture}: ")
    assert data_digest(directory, samples, check=False) != before
    with pytest.raises(DataError, match=message) as caught:
        read_picture(directory, "pictures/s2/b.jpg", SMALL)
    assert str(caught.value).startswith(f"{picture}: ")


@pytest.mark.parametrize(("size", "message"), [((31, 64), "at least 32"), ((64, 600), "at most 8 times")])
def test_a_picture_of_a_shape_that_the_service_refuses_is_not_trained_on(size, message, tmp_path: Path) -> None:
    directory = write(tmp_path, record("s1"))
    (directory / "pictures/s1/b.jpg").write_bytes(encoded("PNG", size))
    with pytest.raises(DataError, match=f"line 1, generated.1.file: .* {size[0]} x {size[1]} pixels; .* {message}"):
        data_digest(directory, read_samples(directory))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("behind", [b"", b"\0" * 100])
def test_complete_pictures_are_accepted_whatever_bytes_follow(format: str, behind: bytes, tmp_path: Path) -> None:
    directory = write(tmp_path, record())
    (directory / "pictures/s1/original.jpg").write_bytes(encoded(format) + behind)
    assert data_digest(directory, read_samples(directory)).startswith("sha256:")


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, record("s1"), record("s2"))
    path = tmp_path / "samples.jsonl"
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\xef\xbb\xbf" + first + b"\r\n\r\n  \n" + second + b"\n\n")
    assert [sample.id for sample in read_samples(tmp_path)] == ["s1", "s2"]
    assert [number for number, _ in sample_lines(tmp_path)] == [1, 4]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    write(tmp_path, record())
    path = tmp_path / "samples.jsonl"
    mark = "\ufeff" if encoding.endswith("be") else ""
    path.write_bytes((mark + path.read_text()).encode(encoding))
    with pytest.raises(DataError, match="is UTF-16 text; save it as UTF-8"):
        read_samples(tmp_path)


@pytest.mark.parametrize(("line_form", "disk_form"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_in_another_unicode_form_than_the_disk_has_is_found(
    tmp_path: Path, line_form: Literal["NFC", "NFD"], disk_form: Literal["NFC", "NFD"]
) -> None:
    name = "Crème brûlée"
    line = in_full(bare(unicodedata.normalize(line_form, name), label="A"))
    write(tmp_path, in_full(bare(unicodedata.normalize(disk_form, name), label="A")))
    (tmp_path / "samples.jsonl").write_text(json.dumps(line) + "\n")
    (sample,) = read_samples(tmp_path)
    assert read_picture(tmp_path, sample.original.file, SMALL).size == (64, 64)
    assert data_digest(tmp_path, [sample]).startswith("sha256:")


def test_a_name_that_the_file_system_refuses_is_a_data_error(tmp_path: Path) -> None:
    for name in ("a" * 300, "é" * 300):
        write(tmp_path, record())
        line = record() | {"original": f"{name}.jpg"}
        (tmp_path / "samples.jsonl").write_text(json.dumps(line) + "\n")
        with pytest.raises(DataError, match="cannot be read"):
            read_samples(tmp_path)


def test_byte_order_marks_of_files_that_were_joined_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, record("s1"), record("s2"))
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b"".join(b"\xef\xbb\xbf" + line + b"\n" for line in path.read_bytes().splitlines()))
    assert [sample.id for sample in read_samples(tmp_path)] == ["s1", "s2"]


def test_the_line_of_a_broken_picture_counts_blank_lines(tmp_path: Path) -> None:
    write(tmp_path, record("s1"), record("s2"))
    path = tmp_path / "samples.jsonl"
    path.write_text(path.read_text().replace("\n", "\n\n"))
    samples = read_samples(tmp_path)
    (tmp_path / samples[1].files[2]).write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"line 3, generated\.1\.file"):
        data_digest(tmp_path, samples)


def test_names_in_another_unicode_form_cost_one_listing_per_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        (tmp_path / unicodedata.normalize("NFD", f"é{number}.jpg")).write_bytes(b"")
    listings = []
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: listings.append(path) or listed(path))
    found = {picture_path(tmp_path, f"é{number}.jpg") for number in range(50)}
    assert found == set(listed(tmp_path))
    assert len(listings) == 1
