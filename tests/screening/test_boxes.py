"""Boxes: geometry, the conversion between picture and square, and the notation in a model's text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening.boxes import Box, Frame, box_text, split_boxes

BOX = Box(0.25, 0.5, 0.75, 1.0)
WIDE = Frame((400, 100))


@pytest.mark.parametrize("size", [(100, 100), (400, 100), (100, 400), (333, 250)])
def test_a_box_survives_the_way_to_the_square_and_back(size):
    assert Frame(size).on_picture(Frame(size).on_canvas(BOX)) == pytest.approx(BOX)


def test_a_wide_picture_lies_in_the_middle_rows_of_its_square():
    assert WIDE.on_canvas(Box(0, 0, 1, 1)) == pytest.approx((0, 0.375, 1, 0.625))
    assert WIDE.on_picture(Box(0.5, 0.0, 1.0, 0.5)) == pytest.approx((0.5, 0.0, 1.0, 0.5))


def test_a_picture_with_tiles_lies_on_the_canvas_of_its_grid():
    frame = Frame((300, 100), (2, 1))  # padded above and below by a sixth
    assert frame.on_canvas(Box(0, 0, 1, 1)) == pytest.approx((0, 1 / 6, 1, 5 / 6))
    assert Frame((200, 100), (896, 448)).on_canvas(BOX) == pytest.approx(BOX)
    assert frame.on_picture(frame.on_canvas(BOX)) == pytest.approx(BOX)


def test_a_box_in_the_padding_is_no_box_on_the_picture():
    assert WIDE.on_picture(Box(0.1, 0.0, 0.4, 0.3)) is None


def test_overlap_is_intersection_over_union():
    assert BOX.iou(BOX) == 1
    assert BOX.iou(Box(0.5, 0.5, 1.0, 1.0)) == pytest.approx(1 / 3)
    assert BOX.iou(Box(0, 0, 0.2, 0.2)) == 0


@pytest.mark.parametrize(
    "box, text",
    [
        (BOX, "<box>[[250, 500, 750, 1000]]</box>"),
        (Box(0.2549, 0.0, 0.2551, 1.0), "<box>[[250, 0, 260, 1000]]</box>"),
        (Box(0.9999, 0.9999, 1.0, 1.0), "<box>[[990, 990, 1000, 1000]]</box>"),
    ],
)
def test_a_box_is_written_in_hundredths_and_never_empty(box, text):
    assert box_text(box) == text
    assert split_boxes(f"the cap is red {text}") == ("the cap is red", (pytest.approx(box, abs=0.011),))


@pytest.mark.parametrize(
    "text, boxes",
    [
        ("the cap is red", ()),
        ("it floats <box>[[1, 2, 3]]</box>", (None,)),
        ("it floats <box>[[500, 0, 400, 100]]</box>", (None,)),
        ("it floats <box>[[0, 0, 1200, 100]]</box>", (None,)),
        ("it floats <box>[[-5, 0, 100, 100]]</box>", (None,)),
        ("it floats <box>[[0, 0, 100, 1", (None,)),
        ("it floats <box></box>", (None,)),
        ("it floats <box>[[nan, 0, inf, 1e5]]</box>", (None,)),
        ("it floats <box>[[0, 0, 500, 100], [0, 0, 9, 9]]</box>", (None,)),
        ("it floats <box>(0, 0), (500, 100)</box>", (None,)),
        ("it floats [[0, 0, 500]]", (None,)),
        ("it floats [[0, 0, 12345678901, 100]]", (None,)),
        ("it floats [[0, 0, 50", (None,)),
        ("it floats </box>", ()),
        ("it floats [[0, 0, 500, 100]]", (Box(0, 0, 0.5, 0.1),)),
        (
            "it floats <BOX>[[0,0,500,100]]</BOX> <box>[[0, 0, 9, 9]]</box>",
            (Box(0, 0, 0.5, 0.1), Box(0, 0, 0.009, 0.009)),
        ),
    ],
)
def test_markup_is_taken_out_whole_or_damaged(text, boxes):
    rest, found = split_boxes(text)
    assert found == boxes
    assert "box" not in rest.lower() and "[" not in rest and rest.startswith(("it floats", "the cap is red"))


def test_prose_around_a_stray_tag_is_kept():
    assert split_boxes("left <box>of the label</box> it blurs") == ("left of the label it blurs", (None,))
    assert split_boxes("left <box>3 bolts</box>, it blurs") == ("left 3 bolts, it blurs", (None,))
    assert split_boxes("it floats <box>[[0, 0, 500, 100]] 3 cm up") == ("it floats 3 cm up", (Box(0, 0, 0.5, 0.1),))
    assert split_boxes("the list [[1]] and [[2, 3 of them]]") == ("the list [[1]] and [[2, 3 of them]]", ())


@pytest.mark.parametrize(
    "text, rest",
    [
        ("the <bo<box>[[0, 0, 500, 100]]</box>x> floats", "the <bo x> floats"),
        ("it [[1, [[0, 0, 500, 100]], 2, 3, 4]] floats", "it  [1,, 2, 3, 4]] floats"),
    ],
)
def test_nested_markup_leaves_no_markup(text, rest):
    assert split_boxes(text) == (rest, (Box(0, 0, 0.5, 0.1),))
    assert split_boxes(rest) == (rest, ())


PIECES = [
    "<box>",
    "</box>",
    "<BOX>",
    "<bo",
    "x>",
    "[[",
    "]]",
    "[1, 2, 3, 4]",
    "7",
    ", ",
    "-",
    "(5,6)",
    " ",
    "it",
    "<A>",
    ".",
]


@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_no_markup_survives_and_no_letter_is_lost(text):
    rest, _ = split_boxes(text)
    assert split_boxes(rest) == (rest, ())
    assert _letters(rest) == _letters(text)


def _letters(text):
    return re.sub(r"</?box>|[^a-z]", "", text, flags=re.IGNORECASE)


def test_a_box_that_the_answer_would_round_to_nothing_is_none_on_the_picture():
    # The picture fills the canvas from 0.33399 on, so 0.00001 of the canvas are left of this box.
    frame = Frame((33202, 100_000), (1, 1))
    assert frame.on_picture(Box(0.1, 0.1, 0.334, 0.9)) is None


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", [f"the cap{' ' * 1_000_000}[[is red", "[[1, " * 200_000, "<box>[[" * 150_000])
def test_a_long_text_takes_linear_time(text):
    # With a quadratic pattern, each of these takes minutes.
    assert split_boxes(text)[0].count("[[") <= 1
