"""The service's answer, typed. Fields are those of docs/http-api.md; unknown ones stay in `raw`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, SupportsIndex, TypeAlias, cast, get_args, overload

from screening_client.errors import InputError
from screening_client.reader import Reader
from screening_client.request import Mode

Option: TypeAlias = Literal["A", "B", "C", "D"]
"""A generated picture, by its place in `generated`."""
Choice: TypeAlias = Literal["A", "B", "C", "D", "N"]
"""An option, or `N`: no picture may be shown."""
KnownIssue: TypeAlias = Literal[
    "appearance_deformation", "physical_shadow", "placement_layout", "extension_rationality"
]
"""The issues that this version of the client knows."""
Issue: TypeAlias = KnownIssue | str
"""What can be wrong with a picture. A service may name issues that this client does not know: they are passed on."""
Outcome: TypeAlias = Literal["answered", "unreadable"]


@dataclass(frozen=True, slots=True)
class OptionVerdict:
    """What was found about one generated picture."""

    option: Option
    usable: bool
    issues: tuple[Issue, ...]
    """Dimensions such as `physical_shadow`; empty for a usable picture and in direct mode."""
    comment: str | None
    probability: float | None = None
    """Probability, 0 to 1, that this picture may be shown; None where the service does not say."""


class Options(tuple[OptionVerdict, ...]):
    """The verdicts in the order A, B, C, D: a tuple that also takes a letter, `options["B"]`."""

    __slots__ = ()

    @overload
    def __getitem__(self, key: SupportsIndex | Option) -> OptionVerdict: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[OptionVerdict, ...]: ...

    def __getitem__(self, key: SupportsIndex | slice | Option) -> OptionVerdict | tuple[OptionVerdict, ...]:
        """
        Raises:
            KeyError: a letter that no verdict has.
            IndexError: a number out of range.
        """
        if not isinstance(key, str):
            return super().__getitem__(key)
        for verdict in self:
            if verdict.option == key:
                return verdict
        raise KeyError(f"{key!r}; the options are {', '.join(verdict.option for verdict in self)}")


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """The weights that answered."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, in milliseconds."""

    queue_ms: float
    decode_ms: float
    engine_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens in and out."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class AnswerWarning:
    """A reason to distrust the answer, whatever its confidence."""

    code: str
    """`out-of-domain`: pictures unlike those that the checkpoint was trained on. `domain-unknown`: the service could
    not tell. Later versions of the service may send others."""
    detail: str
    """A sentence for people."""
    pictures: tuple[str, ...]
    """The pictures that it is about: `original`, or letters."""
    score: float | None
    """How unlike the pictures are; 1 and above is out of the domain. None where that is unknown."""


@dataclass(frozen=True)
class Screening:
    """Which of the four pictures may be shown, and why."""

    id: str
    outcome: Outcome
    """`answered`, or `unreadable` when the model's text could not be understood."""
    choice: Choice | None
    """The picture to show; `N` when none may be shown; None when the outcome is `unreadable`."""
    acceptable: tuple[Option, ...]
    """Every picture that the model named."""
    reasoning: str | None
    options: Options
    confidence: float
    """Probability, 0 to 1, that the answer is right."""
    needs_review: bool
    mode: Mode
    checkpoint: CheckpointInfo
    engine: str
    """`vllm`; `scripted`: the stand-in for laptops and tests, whose answers mean nothing; or the operator's own."""
    source: str
    """`engine`; `shared` when an identical request in flight was answered as well; `cache` when one was before."""
    timings: Timings
    usage: Usage
    metadata: Mapping[str, Any] = field(hash=False)
    unreadable_reason: str | None = None
    none_probability: float | None = None
    """Probability, 0 to 1, that none of the four may be shown; None where the service does not say."""
    warnings: tuple[AnswerWarning, ...] = ()
    """Why the answer should not be trusted; empty as a rule."""
    request_id: str | None = field(default=None, compare=False)
    """The `X-Request-Id` of the exchange."""

    @property
    def answered(self) -> bool:
        """Whether there is a decision."""
        return self.outcome == "answered"

    @property
    def best(self) -> OptionVerdict | None:
        """The verdict on the chosen picture; None when none may be shown, or when the outcome is `unreadable`."""
        return None if self.choice is None or self.choice == "N" else self.options[self.choice]

    @property
    def raw(self) -> Mapping[str, Any]:
        """The answer as it came, with fields that this version does not know. Empty for a result made by hand."""
        raw: Mapping[str, Any] = self.__dict__.get("_raw", {})
        return raw

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON has them, and after them the fields of the answer that this version does not know."""
        known: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return known | {name: value for name, value in self.raw.items() if name not in known}

    def to_json(self, *, indent: int | None = None) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)

    @classmethod
    def from_dict(cls, answer: Mapping[str, Any]) -> Screening:
        """The result for what `to_dict`, a batch file or the service itself gives.

        Raises:
            UnexpectedAnswer: a field is missing or of another type.
            InputError: `answer` is not a mapping.
        """
        if not isinstance(answer, Mapping):
            raise InputError(f"from_dict takes a mapping, not {type(answer).__name__}; read JSON with json.loads")
        request_id = answer.get("request_id")
        return parse_screening(dict(answer), request_id=request_id if isinstance(request_id, str) else None)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from screening_client.notebook import html

        return html(self)


def parse_screening(body: object, *, request_id: str | None = None) -> Screening:
    """Read the JSON of a 200.

    Raises:
        UnexpectedAnswer: a field is missing or of another type; the message names it.
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
    # Not a field: `asdict` and `replace` would carry the whole answer a second time.
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
    )


def _warning(each: Reader) -> AnswerWarning:
    return AnswerWarning(
        code=each.take("code", str),
        detail=each.take("detail", str),
        pictures=each.strings("pictures") if "pictures" in each.fields else (),
        score=each.optional_number("score"),
    )
