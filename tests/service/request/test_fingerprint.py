"""Two requests have the same fingerprint if and only if they ask the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from screening.answer import Mode
from service.request.fingerprint import content_digest, request_fingerprint, work_key

PICTURES = (b"o", b"a", b"b", b"c", b"d")


def test_mode_order_and_content_of_the_pictures_all_count() -> None:
    swapped = (b"o", b"b", b"a", b"c", b"d")
    others = [
        content_digest(Mode.COT, PICTURES),
        content_digest(Mode.DIRECT, PICTURES),
        content_digest(Mode.COT, swapped),
        content_digest(Mode.COT, (*PICTURES[:4], b"e")),
    ]
    assert len(set(others)) == len(others)
    assert others[0] == content_digest(Mode.COT, list(PICTURES))


@given(st.lists(st.binary(max_size=4), max_size=5), st.lists(st.binary(max_size=4), max_size=5))
def test_bytes_that_move_from_one_picture_to_the_next_are_another_content(one, other) -> None:
    assert (content_digest(Mode.COT, one) == content_digest(Mode.COT, other)) is (one == other)


def test_the_checkpoint_counts() -> None:
    content = content_digest(Mode.COT, PICTURES)
    assert work_key("sha256:1", content) != work_key("sha256:2", content)


def test_the_order_of_metadata_does_not_matter() -> None:
    content = content_digest(Mode.COT, PICTURES)
    metadata = {"sku": "1", "shop": {"a": 1, "b": 2}}
    one = request_fingerprint(content, metadata, None)
    assert one == request_fingerprint(content, {"shop": {"b": 2, "a": 1}, "sku": "1"}, None)
    assert one != request_fingerprint(content, {"sku": "2", "shop": {"a": 1, "b": 2}}, None)
    assert one != request_fingerprint(content_digest(Mode.DIRECT, PICTURES), metadata, None)


def test_the_threshold_for_review_counts() -> None:
    content = content_digest(Mode.COT, PICTURES)
    assert len({request_fingerprint(content, {}, threshold) for threshold in (None, 0.0, 0.5, 1.0)}) == 4
