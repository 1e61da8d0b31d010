"""Typed results. The fields are those of docs/http-api.md; unknown fields remain available in `raw`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, SupportsIndex, TypeAlias, cast, get_args, overload

from screening_client.errors import InputError
from screening_client.reader import Reader
from screening_client.request import Mode

Option: TypeAlias = Literal["A", "B", "C", "D"]
"""Letter of a generated picture, given by its position in `generated`."""
Choice: TypeAlias = Literal["A", "B", "C", "D", "N"]
"""An option, or `N` if no picture may be shown."""
KnownIssue: TypeAlias = Literal[
    "appearance_deformation", "physical_shadow", "placement_layout", "extension_rationality"
]
"""The issues that this version of the client knows."""
Issue: TypeAlias = KnownIssue | str
"""What can be wrong with a picture. Issues that this version does not know are passed through."""
Outcome: TypeAlias = Literal["answered", "unreadable"]


class Box(NamedTuple):
    """A rectangle. Its edges are shares, 0 to 1, of the width and height of the picture as a browser shows it."""

    left: float
    top: float
    right: float
    bottom: float

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in pixels of a picture of this size, for PIL's `crop`; at least 1 x 1."""
        left, top = min(round(self.left * width), width - 1), min(round(self.top * height), height - 1)
        return left, top, max(round(self.right * width), left + 1), max(round(self.bottom * height), top + 1)


@dataclass(frozen=True, slots=True)
class Region:
    """Where one issue of a picture is."""

    issue: Issue
    box: Box


@dataclass(frozen=True, slots=True)
class OptionVerdict:
    """The verdict on one generated picture."""

    option: Option
    usable: bool
    issues: tuple[Issue, ...]
    """What is wrong with the picture, by the model's sentence: dimensions such as `physical_shadow`. Normally empty for
    a usable picture, and always empty in direct mode."""
    comment: str | None
    probability: float | None = None
    """Probability, 0 to 1, that this picture may be shown. None if the service does not report it."""
    regions: tuple[Region, ...] | None = None
    """Where the issues are, at most one region per issue. None if the request did not set `locate`."""


class Options(tuple[OptionVerdict, ...]):
    """A tuple of the verdicts in the order A, B, C, D, which can also be indexed by letter: `options["B"]`."""

    __slots__ = ()

    @overload
    def __getitem__(self, key: SupportsIndex | Option) -> OptionVerdict: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[OptionVerdict, ...]: ...

    def __getitem__(self, key: SupportsIndex | slice | Option) -> OptionVerdict | tuple[OptionVerdict, ...]:
        """
        Raises:
            KeyError: no verdict has this letter.
            IndexError: the number is out of range.
        """
        if not isinstance(key, str):
            return super().__getitem__(key)
        for verdict in self:
            if verdict.option == key:
                return verdict
        raise KeyError(f"{key!r}; the options are {', '.join(verdict.option for verdict in self)}")


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """The checkpoint that produced the answer."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Durations of the stages of the request in milliseconds."""

    queue_ms: float
    decode_ms: float
    engine_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Number of tokens that the model read and wrote."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class AnswerWarning:
    """A reason to distrust the answer, independent of its confidence."""

    code: str
    """`out-of-domain`: the pictures are unlike the training data of the checkpoint. `domain-unknown`: the service could
    not determine whether they are. Newer versions of the service may send other codes."""
    detail: str
    """Explanation for people."""
    pictures: tuple[str, ...]
    """The pictures that the warning is about: `original`, or letters."""
    score: float | None
    """Highest out-of-domain score of the pictures; 1 and above is out of domain. None if it is unknown."""


@dataclass(frozen=True)
class Screening:
    """The result of a screening: which of the four pictures may be shown, and why."""

    id: str
    outcome: Outcome
    """`answered`, or `unreadable` if the model's text could not be read."""
    choice: Choice | None
    """The picture to show. `N` if none may be shown, None if the outcome is `unreadable`."""
    acceptable: tuple[Option, ...]
    """Every picture that the model considers usable."""
    reasoning: str | None
    options: Options
    confidence: float
    """Probability, 0 to 1, that the answer is right."""
    needs_review: bool
    mode: Mode
    checkpoint: CheckpointInfo
    engine: str
    """`vllm`; `scripted`, a stand-in for laptops and tests whose answers carry no information; or the operator's own
    engine."""
    source: str
    """`engine`: computed for this request. `shared`: computed for an identical request in flight. `cache`: an earlier
    answer."""
    timings: Timings
    usage: Usage
    metadata: Mapping[str, Any] = field(hash=False)
    unreadable_reason: str | None = None
    none_probability: float | None = None
    """Probability, 0 to 1, that none of the four may be shown. None if the service does not report it."""
    warnings: tuple[AnswerWarning, ...] = ()
    """Reasons to distrust the answer. Usually empty."""
    request_id: str | None = field(default=None, compare=False)
    """The `X-Request-Id` of the request."""

    @property
    def answered(self) -> bool:
        """Whether there is a decision."""
        return self.outcome == "answered"

    @property
    def best(self) -> OptionVerdict | None:
        """The verdict on the chosen picture. None if no picture may be shown or the outcome is `unreadable`."""
        return None if self.choice is None or self.choice == "N" else self.options[self.choice]

    @property
    def raw(self) -> Mapping[str, Any]:
        """The unchanged answer, including fields that this version does not know. Empty for a result built by hand."""
        raw: Mapping[str, Any] = self.__dict__.get("_raw", {})
        return raw

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types, followed by the fields of the answer that this version does not know."""
        known: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        for option in known["options"]:
            if option["regions"] is None:
                del option["regions"]
        return known | {name: value for name, value in self.raw.items() if name not in known}

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the result of `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)

    @classmethod
    def from_dict(cls, answer: Mapping[str, Any]) -> Screening:
        """Build a result from the output of `to_dict`, an entry of a batch file or an answer of the service.

        Raises:
            UnexpectedAnswer: a field is missing or has a wrong type.
            InputError: `answer` is not a mapping.
        """
        if not isinstance(answer, Mapping):
            raise InputError(f"from_dict takes a mapping, not {type(answer).__name__}; read JSON with json.loads")
        request_id = answer.get("request_id")
        return parse_screening(dict(answer), request_id=request_id if isinstance(request_id, str) else None)

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows."""
        from screening_client.notebook import html

        return html(self)


def parse_screening(body: object, *, request_id: str | None = None) -> Screening:
    """Build a result from the JSON of a successful answer.

    Raises:
        UnexpectedAnswer: a field is missing or has a wrong type. The message names it.
    """
    top = Reader(body, "", request_id)
    checkpoint, timings, usage = top.inner("checkpoint"), top.inner("timings"), top.inner("usage")
    screening = Screening(
        id=top.take("id", str),
        outcome=top.one_of("outcome", get_args(Outcome)),
        choice=_choice(top),
        acceptable=_acceptable(top),
        reasoning=top.optional("reasoning", str),
        options=_options(top),
        confidence=top.number("confidence"),
        needs_review=top.take("needs_review", bool),
        mode=top.one_of("mode", get_args(Mode)),
        checkpoint=CheckpointInfo(
            name=checkpoint.take("name", str),
            version=checkpoint.take("version", str),
            digest=checkpoint.take("digest", str),
        ),
        engine=top.take("engine", str),
        source=top.take("source", str),
        timings=Timings(
            queue_ms=timings.number("queue_ms"),
            decode_ms=timings.number("decode_ms"),
            engine_ms=timings.number("engine_ms"),
            total_ms=timings.number("total_ms"),
        ),
        usage=Usage(
            prompt_tokens=usage.take("prompt_tokens", int), completion_tokens=usage.take("completion_tokens", int)
        ),
        metadata=top.take("metadata", dict),
        unreadable_reason=top.optional("unreadable_reason", str),
        none_probability=top.optional_number("none_probability"),
        warnings=tuple(_warning(each) for each in top.each("warnings")) if top.fields.get("warnings") else (),
        request_id=request_id,
    )
    # This is not a field, because `asdict` and `replace` would copy the whole answer a second time.
    object.__setattr__(screening, "_raw", top.fields)
    return screening


def _choice(top: Reader) -> Choice | None:
    if top.fields.get("choice") is None and top.fields.get("outcome") != "answered":
        return None
    return cast("Choice", top.one_of("choice", get_args(Choice)))


def _acceptable(top: Reader) -> tuple[Option, ...]:
    letters = top.strings("acceptable")
    if not set(letters) <= set(get_args(Option)):
        raise top.wrong("acceptable", "a list of letters among A B C D", letters)
    return cast("tuple[Option, ...]", letters)


def _options(top: Reader) -> Options:
    verdicts = Options(_option(each) for each in top.each("options"))
    if [verdict.option for verdict in verdicts] != list(get_args(Option)):
        raise top.wrong("options", "the list of A B C D", [verdict.option for verdict in verdicts])
    return verdicts


def _option(each: Reader) -> OptionVerdict:
    return OptionVerdict(
        option=each.one_of("option", get_args(Option)),
        usable=each.take("usable", bool),
        issues=each.strings("issues"),
        comment=each.optional("comment", str),
        probability=each.optional_number("probability"),
        regions=tuple(map(_region, each.each("regions"))) if each.fields.get("regions") is not None else None,
    )


def _region(each: Reader) -> Region:
    edges = each.take("box", list)
    if len(edges) != 4 or any(isinstance(edge, bool) or not isinstance(edge, int | float) for edge in edges):
        raise each.wrong(f"{each.path}box", "a list of four numbers", edges)
    return Region(issue=each.take("issue", str), box=Box(*map(float, edges)))


def _warning(each: Reader) -> AnswerWarning:
    return AnswerWarning(
        code=each.take("code", str),
        detail=each.take("detail", str),
        pictures=each.strings("pictures") if "pictures" in each.fields else (),
        score=each.optional_number("score"),
    )
