"""A data directory becomes labelling tasks, without its labels."""

from __future__ import annotations

import json
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.__main__ import main as command
from service.decisions import erasure
from service.decisions.review_tables import REVIEW_TASK
from service.decisions.schema_version import migrate
from service.decisions.tables import PICTURE
from service.review import leases, reviews
from service.review.data_import import ImportRefused, import_directory
from tests.service.conftest import draw
from tests.service.review.conftest import submission, take

pytestmark = pytest.mark.slow


def write(directory: Path, *lines: dict, pictures: int = 10) -> Path:
    directory.mkdir(exist_ok=True)
    for number in range(pictures):
        (directory / f"{number}.jpg").write_bytes(draw(number))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (directory / "samples.jsonl").write_bytes(text.encode())
    return directory


def sample(identity: str, first: int = 0, **fields) -> dict:
    files = [f"{first + place}.jpg" for place in range(5)]
    return {"id": identity, "original": files[0], "generated": files[1:]} | fields


def test_a_sample_becomes_a_task_that_people_label(database, pictures, tmp_path) -> None:
    by_letter = [
        {"file": f"{n}.jpg", "option": letter, "usable": True} for n, letter in zip((6, 7, 8, 9), "DCBA", strict=True)
    ]
    data = write(
        tmp_path / "data",
        sample("tea-1", product="tea", label="AC"),
        {"id": "tea-2", "original": {"file": "5.jpg", "caption": "tea"}, "generated": by_letter},
    )
    assert import_directory(database, pictures, data, batch="first", reviews=1) == (2, 0)
    assert import_directory(database, pictures, data, batch="first", reviews=1) == (0, 2), "a repetition adds nothing"
    found = {}
    for _ in range(2):
        lease = take(database, "ann", "label")
        kept, _ = reviews.submit(database, submission(lease, "B"), "ann")
        assert kept.job == "label" and kept.answer is None and kept.review.blind
        found[kept.review.task_id] = [pictures.get(one.sha256) for one in kept.pictures]
    with database.reading() as connection:
        rows = {row.sample: row for row in connection.execute(sa.select(REVIEW_TASK))}
    assert [rows[name].product for name in ("tea-1", "tea-2")] == ["tea", None]
    assert found[rows["tea-1"].id] == [draw(number) for number in range(5)]
    assert found[rows["tea-2"].id] == [draw(number) for number in (5, 9, 8, 7, 6)]
    assert leases.lease(database, "ann", count=1, job="label") == ([], 0)


def test_the_product_of_a_sample_can_be_erased(database, pictures, tmp_path) -> None:
    data = write(
        tmp_path / "data", sample("1", product="tea"), sample("2", 5, product="mug"), sample("3", product="jar")
    )
    import_directory(database, pictures, data, batch="first", reviews=1)
    reviews.submit(database, submission(take(database, "ann"), "A"), "ann")
    assert erasure.erase_samples(database, pictures, "tea", caller="lead") == 1
    assert erasure.erase_samples(database, pictures, "mug", caller="lead") == 1
    with database.reading() as connection:
        assert connection.scalars(sa.select(REVIEW_TASK.c.sample)).all() == ["3"]
        gone = connection.scalars(sa.select(PICTURE.c.sha256).where(PICTURE.c.purged_at.is_not(None))).all()
    assert len(gone) == 5 and not any(map(pictures.get, gone)), "the pictures that sample 3 shows are still there"


def test_going_back_a_version_leaves_no_pictures_of_samples(database, pictures, tmp_path) -> None:
    data = write(tmp_path / "data", sample("1"))
    import_directory(database, pictures, data, batch="first", reviews=1)
    migrate(database, "0001")
    assert erasure.prune(database, pictures, datetime.now(UTC)) == (0, 5)


def test_a_file_name_is_found_in_either_unicode_form(database, pictures, tmp_path) -> None:
    data = write(tmp_path / "data", sample("1", original=unicodedata.normalize("NFD", "tée.jpg")))
    (data / unicodedata.normalize("NFC", "tée.jpg")).write_bytes(draw(50))
    assert import_directory(database, pictures, data, batch="first", reviews=2) == (1, 0)


def test_only_a_line_feed_ends_a_line(database, pictures, tmp_path) -> None:
    said = "one\u2028two\u2029three\x85four"
    data = write(tmp_path / "data", sample("1", reasoning=said), sample("2", comment=said))
    assert import_directory(database, pictures, data, batch="first", reviews=1) == (2, 0)


def test_ids_and_products_may_have_spaces_of_any_kind(database, pictures, tmp_path) -> None:
    data = write(tmp_path / "data", sample("a\u3000b", product="No.\u00a01"))
    assert import_directory(database, pictures, data, batch="first", reviews=1) == (1, 0)
    assert erasure.erase_samples(database, pictures, "No.\u00a01", caller="lead") == 1


def test_files_with_byte_order_marks_may_be_joined(database, pictures, tmp_path) -> None:
    lines = (write(tmp_path / "data", sample("1"), sample("2")) / "samples.jsonl").read_bytes()
    joined = b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n\xef\xbb\xbf")
    (tmp_path / "data" / "samples.jsonl").write_bytes(joined)
    assert import_directory(database, pictures, tmp_path / "data", batch="first", reviews=1) == (2, 0)


def test_text_in_another_encoding_is_refused_with_its_line(database, pictures, tmp_path) -> None:
    data = write(tmp_path / "data", sample("1"))
    with (data / "samples.jsonl").open("ab") as file:
        file.write('{"id": "tée"}'.encode("latin-1"))
    with pytest.raises(ImportRefused, match=r"line 2: this is not UTF-8"):
        import_directory(database, pictures, data, batch="first", reviews=1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: this is not JSON"),
        ("[]", "line 1: this is not a JSON object"),
        (json.dumps(sample("")), "line 1, id: "),
        (json.dumps(sample("a\tb")), "line 1, id: "),
        (json.dumps(sample("1", generated=["1.jpg"])), "line 1, generated: give four"),
        (json.dumps(sample("1", original="../secret.jpg")), "inside"),
        (json.dumps(sample("1", original="/etc/passwd")), "inside"),
        (json.dumps(sample("1", original="none.jpg")), "the picture none.jpg is not in"),
        (json.dumps(sample("1", original="x" * 300)), f"the picture {'x' * 300} is not in"),
        (json.dumps(sample("1", original="samples.jsonl")), "samples.jsonl: "),
        (json.dumps(sample("1", generated=[{"file": "1.jpg", "option": "A"}] * 4)), "each of the letters"),
        (json.dumps(sample("1")) + "\n" + json.dumps(sample("1")), "line 2, id: '1' is already in"),
        ("", "holds no samples"),
    ],
)
def test_a_wrong_line_is_refused_with_its_place(tmp_path, capsys, line, message) -> None:
    data = write(tmp_path / "data")
    (data / "samples.jsonl").write_text(line, "utf-8")
    store = ["--decisions", f"sqlite:///{tmp_path / 'decisions.db'}", "--pictures", str(tmp_path / "pictures")]
    assert command(["database", "upgrade", *store]) == 0
    assert command(["review", "import", str(data), "--batch", "first", *store]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_directory_is_refused(database, pictures, tmp_path) -> None:
    with pytest.raises(ImportRefused, match=r"cannot be read"):
        import_directory(database, pictures, tmp_path / "none", batch="first", reviews=1)
