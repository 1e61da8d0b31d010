"""The grammar of answers: which texts are read, which are refused and why, and that writing and reading agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening.answer import (
    Answer,
    Finding,
    Mode,
    Reason,
    Region,
    Unreadable,
    compose,
    parse,
    parse_findings,
    parse_options,
    render,
    with_boxes,
)
from screening.boxes import Box
from screening.task import OPTIONS, Dimension

APPEARANCE, SHADOW, LAYOUT, EXTENSION = Dimension

FULL = (
    "<think>The original is a red box. I observed <A> normal: the product is unchanged, "
    "<B> appearance: the cap has another colour, a darker one, <C> shadow + layout: it floats, "
    "<D> normal, so I ultimately chose AD.</think><answer>AD</answer>"
)


def test_a_complete_chain_of_thought_is_read():
    answer = parse(FULL, Mode.COT)
    assert isinstance(answer, Answer)
    assert answer.options == {"A", "D"}
    assert answer.text == "AD"
    assert answer.reasoning is not None
    assert answer.reasoning.startswith("The original is a red box.")
    assert answer.findings == (
        Finding("A", frozenset(), "the product is unchanged"),
        Finding("B", frozenset({APPEARANCE}), "the cap has another colour, a darker one"),
        Finding("C", frozenset({SHADOW, LAYOUT}), "it floats"),
        Finding("D", frozenset(), ""),
    )


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("<think></think><answer>N</answer>", ""),
        ("<think>x</think><answer>n</answer>", ""),
        ("<think>x</think><answer>ABCD</answer>", "ABCD"),
        ("  <think>x</think>\n\n<answer> d, B </answer>\n", "BD"),
        ("<think>two\nlines</think> <answer>C C C</answer>", "C"),
        ("<think>a < b and b > a</think><answer>A</answer>", "A"),
    ],
)
def test_a_chain_of_thought_answer_is_read_tolerantly(text, options):
    answer = parse(text, Mode.COT)
    assert isinstance(answer, Answer)
    assert answer.options == set(options)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.EMPTY),
        (" \n\t ", Reason.EMPTY),
        ("AC", Reason.NO_THINK),
        ("<answer>A</answer>", Reason.NO_THINK),
        ("<think>it goes on and on", Reason.NO_THINK),
        ("thinking</think><answer>A</answer>", Reason.NO_THINK),
        ("<THINK>x</THINK><ANSWER>A</ANSWER>", Reason.NO_THINK),
        ("<think>x</think>", Reason.NO_ANSWER),
        ("<think>x</think><answer>A", Reason.NO_ANSWER),
        ("<think>x</think>A</answer>", Reason.NO_ANSWER),
        ("<answer>A</answer><think>x</think>", Reason.STRAY_TEXT),
        ("Well: <think>x</think><answer>A</answer>", Reason.STRAY_TEXT),
        ("<think>x</think> so <answer>A</answer>", Reason.STRAY_TEXT),
        ("<think>x</think><answer>A</answer> Done.", Reason.STRAY_TEXT),
        ("<think>x</think><answer>A</answer><answer>B</answer>", Reason.STRAY_TEXT),
        ("<think>x</think><think>y</think><answer>A</answer>", Reason.STRAY_TEXT),
        ("<think>x<answer>A</answer></think><answer>B</answer>", Reason.STRAY_TEXT),
        ("<think>x</think><answer></answer>", Reason.EMPTY_ANSWER),
        ("<think>x</think><answer> , </answer>", Reason.EMPTY_ANSWER),
        ("<think>x</think><answer>E</answer>", Reason.UNKNOWN_OPTION),
        ("<think>x</think><answer>A or B</answer>", Reason.UNKNOWN_OPTION),
        ("<think>x</think><answer><A></answer>", Reason.UNKNOWN_OPTION),
        ("<think>x</think><answer>AN</answer>", Reason.CONTRADICTION),
        ("<think>x</think><answer>N, D</answer>", Reason.CONTRADICTION),
    ],
)
def test_an_unreadable_chain_of_thought_answer_has_a_reason(text, reason):
    unreadable = parse(text, Mode.COT)
    assert isinstance(unreadable, Unreadable)
    assert unreadable.reason is reason
    assert unreadable.detail.endswith(".")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("AC", "AC"),
        ("N", ""),
        (" b\n", "B"),
        ("d,c", "CD"),
        ("<answer>AB</answer>", "AB"),
        ("<answer> n </answer>", ""),
    ],
)
def test_a_direct_answer_is_read(text, options):
    answer = parse(text, Mode.DIRECT)
    assert answer == Answer(frozenset(options))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.EMPTY),
        ("<answer></answer>", Reason.EMPTY_ANSWER),
        ("The best one is C", Reason.UNKNOWN_OPTION),
        ("<answer>A</answer><answer>A</answer>", Reason.UNKNOWN_OPTION),
        (FULL, Reason.UNKNOWN_OPTION),
        ("ABN", Reason.CONTRADICTION),
    ],
)
def test_an_unreadable_direct_answer_has_a_reason(text, reason):
    unreadable = parse(text, Mode.DIRECT)
    assert isinstance(unreadable, Unreadable)
    assert unreadable.reason is reason


@pytest.mark.parametrize(
    "text", ["AC", "CA", "c a", "A, C", "A;C", "A/C", "A & C", "A+C", "A. C.", "AACCA", "\tA\nC\r\n"]
)
def test_an_option_set_is_read_in_any_order_case_spacing_and_repetition(text):
    assert parse_options(text) == {"A", "C"}


@pytest.mark.parametrize("text", ["E", "1", "A|C", "A-C", "Α", "none", "A?", "\u0000", "ß"])
def test_an_option_set_is_read_with_no_other_tolerance(text):
    unreadable = parse_options(text)
    assert isinstance(unreadable, Unreadable)
    assert unreadable.reason is Reason.UNKNOWN_OPTION


def test_the_first_sentence_about_a_picture_counts():
    findings = parse_findings("<A> normal: fine, <B> layout: it floats, <A> shadow: worse than <B> is")
    assert [(f.option, f.dimensions) for f in findings] == [("A", frozenset()), ("B", frozenset({LAYOUT}))]


@pytest.mark.parametrize(
    ("sentence", "dimensions"),
    [
        ("normal", frozenset()),
        ("Normal: clean", frozenset()),
        ("extension: a leaf", frozenset({EXTENSION})),
        ("shadow, layout: x", frozenset({SHADOW, LAYOUT})),
        ("Physical Shadow and placement layout: x", frozenset({SHADOW, LAYOUT})),
        ("shows a clear appearance deformation of the lid", frozenset({APPEARANCE})),
        ("the shadow is right", None),
        ("shadow + sunshine: x", None),
        ("", None),
    ],
)
def test_the_verdict_of_a_sentence(sentence, dimensions):
    (finding,) = parse_findings(f"I observed <C> {sentence}, so I ultimately chose N.")
    assert finding.dimensions == dimensions


def test_reasoning_without_markers_has_no_findings():
    assert parse_findings("All four look fine to me, so I ultimately chose ABCD.") == ()


option_sets = st.frozensets(st.sampled_from(OPTIONS))
comments = st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]), max_size=60)
findings_of_one = st.builds(
    Finding, st.sampled_from(OPTIONS), st.none() | st.frozensets(st.sampled_from(list(Dimension))), comments
)
findings_of_four = st.tuples(
    *(st.builds(Finding, st.just(o), st.frozensets(st.sampled_from(list(Dimension))), comments) for o in OPTIONS)
)


@given(option_sets)
def test_a_direct_answer_survives_writing_and_reading(options):
    assert parse(render(Answer(options), Mode.DIRECT), Mode.DIRECT) == Answer(options)


@pytest.mark.slow
@given(option_sets, findings_of_four, comments)
def test_a_composed_answer_survives_writing_and_reading(options, findings, opening):
    tidy = tuple(Finding(f.option, f.dimensions, " ".join(f.comment.split()).strip(" ,;")) for f in findings)
    answer = compose(options, tidy, opening)
    assert answer.findings == tidy
    assert parse(render(answer, Mode.COT), Mode.COT) == answer


@pytest.mark.slow
@given(option_sets, st.lists(findings_of_one, max_size=5).map(tuple), comments)
def test_findings_are_either_read_back_as_given_or_refused(options, findings, opening):
    try:
        answer = compose(options, findings, opening)
    except ValueError:
        return
    read = parse(render(answer, Mode.COT), Mode.COT)
    assert isinstance(read, Answer)
    assert read.findings == findings


@pytest.mark.parametrize(
    "comment", ["as <A>", "trailing ", "trailing,", "\u3000wide", "dull, so I ultimately chose to say so"]
)
def test_a_comment_that_would_not_survive_is_refused(comment):
    with pytest.raises(ValueError, match="would be read back"):
        compose(frozenset("A"), (Finding("D", frozenset(), comment),))


@pytest.mark.slow
@given(
    st.text()
    | st.lists(
        st.sampled_from(
            [
                "<think>",
                "</think>",
                "<answer>",
                "</answer>",
                "<A>",
                "<B>",
                "A",
                "N",
                "normal",
                ":",
                ",",
                " ",
                "shadow",
                "so I ultimately chose",
                "\n",
                "<",
                ">",
                "\u0000",
            ]
        ),
        max_size=20,
    ).map("".join),
    st.sampled_from(Mode),
)
def test_no_text_makes_the_parser_raise(text, mode):
    answer = parse(text, mode)
    if isinstance(answer, Answer):
        assert answer.options <= set(OPTIONS)
        assert parse(render(answer, mode), mode) == answer
    else:
        assert answer.detail


@given(st.text(max_size=200))
def test_no_reasoning_makes_the_reader_of_findings_raise(reasoning):
    options = [finding.option for finding in parse_findings(reasoning)]
    assert len(options) == len(set(options))


def test_an_answer_without_reasoning_is_not_written_as_a_chain_of_thought():
    with pytest.raises(ValueError, match="needs its reasoning"):
        render(Answer(frozenset("A")), Mode.COT)


@pytest.mark.parametrize("tag", ["<think>", "</think>", "<answer>", "</answer>"])
def test_reasoning_with_a_tag_is_not_written(tag):
    with pytest.raises(ValueError, match="tags"):
        render(Answer(frozenset("A"), f"first {tag} then"), Mode.COT)


def test_a_verdict_names_only_dimensions_of_the_checkpoint() -> None:
    text = "<think><A> layout: it floats, <B> shadow: x, <C> placement layout, so I ultimately chose N.</think>"
    answer = parse(f"{text}<answer>N</answer>", Mode.COT, (SHADOW,))
    assert isinstance(answer, Answer)
    assert [finding.dimensions for finding in answer.findings] == [None, frozenset({SHADOW}), None]


LOCATED = (
    "The original is a jar. I observed <A> normal: the product is unchanged, <B> appearance + shadow: the cap is red, "
    "<C> layout: it floats, <D> extension: a bow was added, so I ultimately chose A."
)
AT_CAP, AT_SHADOW, AT_BOW = Box(0.1, 0.1, 0.3, 0.2), Box(0.4, 0.8, 0.9, 0.9), Box(0.5, 0.5, 0.6, 0.7)


def test_boxes_are_written_after_the_sentences_and_read_back():
    text = with_boxes(LOCATED, {"B": [AT_CAP, AT_SHADOW], "D": [AT_BOW]})
    assert "the cap is red <box>[[100, 100, 300, 200]]</box><box>[[400, 800, 900, 900]]</box>, <C>" in text
    assert "a bow was added <box>[[500, 500, 600, 700]]</box>, so I ultimately chose A." in text
    answer = parse(f"<think>{text}</think><answer>A</answer>", Mode.COT)
    plain = parse(f"<think>{LOCATED}</think><answer>A</answer>", Mode.COT)
    assert (answer.reasoning, answer.options) == (LOCATED, frozenset("A"))
    regions = {finding.option: finding.regions for finding in answer.findings}
    assert regions == {
        "A": (),
        "B": (Region(APPEARANCE, AT_CAP), Region(SHADOW, AT_SHADOW)),
        "C": (),
        "D": (Region(EXTENSION, AT_BOW),),
    }
    without = [(finding.option, finding.dimensions, finding.text) for finding in answer.findings]
    assert without == [(finding.option, finding.dimensions, finding.text) for finding in plain.findings]


def test_useless_boxes_are_dropped_and_counted_and_never_shown():
    boxes = "<box>[[900, 0, 100, 50]]</box><box>[[400, 800, 900, 900]]</box><box>[[1, 1, 2, 2]]</box>"
    text = LOCATED.replace("the cap is red", f"the cap is red {boxes}").replace(
        "unchanged", "unchanged <box>[[1, 1, 2, 2]]</box>"
    )
    answer = parse(f"<think>{text}</think><answer>A</answer>", Mode.COT)
    assert isinstance(answer, Answer) and answer.reasoning == LOCATED
    normal, both = answer.findings[:2]
    assert both.regions == (Region(SHADOW, AT_SHADOW),)
    assert (normal.regions, normal.dropped_boxes, both.dropped_boxes) == ((), 1, 2)


def test_a_conclusion_may_contain_boxes():
    text = "I observed <D> layout: it floats, so I ultimately chose <box>[[0, 0, 9, 9]]</box> A"
    answer = parse(f"<think>{text}</think><answer>A</answer>", Mode.COT)
    assert [(one.option, one.comment, one.dropped_boxes) for one in answer.findings] == [("D", "it floats", 0)]
    assert answer.reasoning == "I observed <D> layout: it floats, so I ultimately chose A"


def test_boxes_are_written_into_no_reasoning_without_markers():
    assert with_boxes("Everything is right.", {"A": [AT_CAP]}) == "Everything is right."


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "</think><answer>" * 30_000 + "</answer>" * 50_000,
        "<A> layout: x " + "so I ultimately chose " * 45_000 + "<B> normal",
        f"<A> layout{' ' * 1_000_000}x: it floats",
    ],
    ids=["tags", "conclusions", "white space"],
)
def test_a_long_text_is_parsed_in_linear_time(text):
    # With a quadratic pattern, each of these takes minutes.
    parse(f"<think>{text}</think><answer>A</answer>", Mode.COT)
