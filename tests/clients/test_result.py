"""Results: typed, serialisable, shown in notebooks."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import asdict, replace
from html.parser import HTMLParser
from typing import Any, get_args

import pytest

from screening_client import Client, InputError, OptionVerdict, Screening, UnexpectedAnswer
from screening_client.result import Choice, Mode, Option, Outcome, parse_screening


@pytest.fixture
def answer(server: Any) -> dict[str, Any]:
    """The body of a good answer, with fields that only newer services have."""
    body: dict[str, Any] = json.loads(server.good().body)
    for number, option in enumerate(body["options"]):
        option["probability"] = number / 10
    return body | {"none_probability": 0.05, "from_the_future": {"x": [1]}}


@pytest.fixture
def screening(answer: dict[str, Any]) -> Screening:
    return parse_screening(answer, request_id="req_1")


def test_options_are_a_tuple_that_takes_letters(screening: Screening) -> None:
    options = screening.options
    assert options["B"] is options[1] and options["D"] is options[-1] and options[1:3] == (options["B"], options["C"])
    assert [each.option for each in options] == list("ABCD") and len(options) == 4 and isinstance(options, tuple)
    with pytest.raises(KeyError, match="'E'; the options are A, B, C, D"):
        options["E"]  # type: ignore[call-overload]
    with pytest.raises(IndexError):
        options[4]


def test_best_is_the_verdict_on_the_choice(screening: Screening, answer: dict[str, Any]) -> None:
    assert screening.best == screening.options["C"]
    none = {"choice": "N", "acceptable": []}
    assert parse_screening(answer | none).best is None
    unreadable = {"outcome": "unreadable", "choice": None, "acceptable": []}
    assert parse_screening(answer | unreadable).best is None


def test_probabilities_are_optional(server: Any, screening: Screening) -> None:
    assert [each.probability for each in screening.options] == [0.0, 0.1, 0.2, 0.3]
    assert screening.none_probability == 0.05
    older = parse_screening(json.loads(server.good().body))
    assert older.none_probability is None and {each.probability for each in older.options} == {None}


def test_warnings_are_optional(screening: Screening, answer: dict[str, Any]) -> None:
    assert screening.warnings == ()
    warning = {"code": "out-of-domain", "detail": "B: a <photo>", "pictures": ["B"], "score": 1.5, "future": 1}
    warned = parse_screening(answer | {"warnings": [warning, {"code": "new", "detail": "Something."}]})
    assert [each.code for each in warned.warnings] == ["out-of-domain", "new"]
    assert (warned.warnings[0].pictures, warned.warnings[0].score) == (("B",), 1.5)
    assert Screening.from_dict(warned.to_dict()) == warned and "B: a &lt;photo&gt;" in warned._repr_html_()


def test_a_result_is_json_and_comes_back(screening: Screening, answer: dict[str, Any]) -> None:
    as_dict = screening.to_dict()
    assert as_dict == answer | {"request_id": "req_1", "warnings": []}
    assert json.loads(screening.to_json()) == json.loads(screening.to_json(indent=2)) == as_dict
    assert Screening.from_dict(as_dict) == screening and Screening.from_dict(as_dict).to_dict() == as_dict
    assert type(as_dict["options"]) is list and type(as_dict["options"][0]["issues"]) is list


def test_text_of_other_languages_stays_readable(answer: dict[str, Any]) -> None:
    assert "Süß 鞋" in parse_screening(answer | {"reasoning": "Süß 鞋"}).to_json()


def test_the_answer_is_not_repeated_by_asdict(screening: Screening, answer: dict[str, Any]) -> None:
    assert "raw" not in asdict(screening) and "from_the_future" not in json.dumps(asdict(screening))
    assert screening.raw == answer
    assert replace(screening, id="other").id == "other" and replace(screening, id="other").raw == {}


def test_a_result_survives_being_sent_between_processes(screening: Screening, answer: dict[str, Any]) -> None:
    for each in (pickle.loads(pickle.dumps(screening)), copy.copy(screening), copy.deepcopy(screening)):
        assert each == screening and each.raw == answer and each.options["B"] == screening.options["B"]
        assert hash(each) == hash(screening)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outcome": "maybe"}, "outcome is not one of answered unreadable"),
        ({"mode": "fast"}, "mode is not one of cot direct"),
        ({"acceptable": ["E"]}, "acceptable is not"),
        ({"options": []}, "options is not"),
        ({"choice": "E", "outcome": "unreadable"}, "choice is not one of A B C D N"),
        ({"none_probability": "high"}, "none_probability is not"),
    ],
)
def test_values_outside_the_contract_are_not_passed_on(answer: dict[str, Any], changes: Any, said: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=said):
        parse_screening(answer | changes)


def test_options_in_another_order_are_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(UnexpectedAnswer, match="options is not the list of A B C D"):
        parse_screening(answer | {"options": answer["options"][::-1]})


def test_issues_of_a_newer_service_are_passed_on(answer: dict[str, Any]) -> None:
    answer["options"][1]["issues"] = ["from_the_future"]
    assert parse_screening(answer).options["B"].issues == ("from_the_future",)


def test_types_name_their_values() -> None:
    assert get_args(Option) == tuple("ABCD") and get_args(Choice) == tuple("ABCDN")
    assert get_args(Outcome) == ("answered", "unreadable") and get_args(Mode) == ("cot", "direct")
    annotations = Screening.__annotations__ | OptionVerdict.__annotations__
    wanted = {"outcome": "Outcome", "mode": "Mode", "option": "Option", "issues": "tuple[Issue, ...]"}
    assert {name: annotations[name] for name in wanted} == wanted


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        self.open: list[str] = []
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        super().__init__()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.names.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


EVIL = "<img src='https://example.org/x.png' onerror=alert(1)>&\"'"


def test_a_notebook_shows_a_result_without_running_or_loading_anything(answer: dict[str, Any]) -> None:
    for option in answer["options"]:
        option |= {"comment": EVIL, "issues": [EVIL]}
    answer["checkpoint"] |= {"name": EVIL, "version": EVIL}
    for changes in ({}, {"outcome": "unreadable", "choice": None, "acceptable": []}, {"choice": "N"}):
        more = {"reasoning": EVIL, "id": EVIL, "engine": EVIL, "unreadable_reason": EVIL}
        tags = Tags(parse_screening(answer | more | changes)._repr_html_())
        assert not tags.open
        assert tags.names <= {
            "div",
            "p",
            "b",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "details",
            "summary",
            "small",
        }
        assert {name for name, _ in tags.attributes} <= {"style"}


def test_a_notebook_shows_the_decision(screening: Screening) -> None:
    shown = screening._repr_html_()
    for part in ("Show picture C", "0.93", "C ✓", "appearance deformation", "two suns", "I observed &lt;A&gt;"):
        assert part in shown


def test_a_result_is_read_from_a_real_answer(real_service: str, question: Any) -> None:
    with Client(base_url=real_service) as client:
        screening = client.screen(**question)
    assert Screening.from_dict(screening.raw) == Screening.from_dict(screening.to_dict()) == screening


@pytest.mark.parametrize("answer", ["{}", [1], None])
def test_from_dict_takes_a_mapping(answer: Any) -> None:
    with pytest.raises(InputError, match="takes a mapping"):
        Screening.from_dict(answer)
