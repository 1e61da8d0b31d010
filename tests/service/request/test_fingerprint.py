"""Two requests have the same fingerprint if and only if they ask the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from screening.answer import Mode
from service.request.fingerprint import question_digest, request_fingerprint, work_key

PICTURES = (b"o", b"a", b"b", b"c", b"d")


def test_mode_order_and_content_of_the_pictures_all_count() -> None:
    swapped = (b"o", b"b", b"a", b"c", b"d")
    others = [
        question_digest(Mode.COT, PICTURES),
        question_digest(Mode.DIRECT, PICTURES),
        question_digest(Mode.COT, swapped),
        question_digest(Mode.COT, (*PICTURES[:4], b"e")),
    ]
    assert len(set(others)) == len(others)
    assert others[0] == question_digest(Mode.COT, list(PICTURES))


@given(st.lists(st.binary(max_size=4), max_size=5), st.lists(st.binary(max_size=4), max_size=5))
def test_bytes_that_move_from_one_picture_to_the_next_are_another_question(one, other) -> None:
    assert (question_digest(Mode.COT, one) == question_digest(Mode.COT, other)) is (one == other)


def test_the_checkpoint_counts() -> None:
    question = question_digest(Mode.COT, PICTURES)
    assert work_key("sha256:1", question) != work_key("sha256:2", question)


def test_the_order_of_metadata_does_not_matter() -> None:
    question = question_digest(Mode.COT, PICTURES)
    metadata = {"sku": "1", "shop": {"a": 1, "b": 2}}
    one = request_fingerprint(question, metadata, None)
    assert one == request_fingerprint(question, {"shop": {"b": 2, "a": 1}, "sku": "1"}, None)
    assert one != request_fingerprint(question, {"sku": "2", "shop": {"a": 1, "b": 2}}, None)
    assert one != request_fingerprint(question_digest(Mode.DIRECT, PICTURES), metadata, None)


def test_the_threshold_for_review_counts() -> None:
    question = question_digest(Mode.COT, PICTURES)
    assert len({request_fingerprint(question, {}, threshold) for threshold in (None, 0.0, 0.5, 1.0)}) == 4
