"""The service's answer, typed. Fields are those of docs/http-api.md; unknown ones stay in `raw`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, cast

from screening_client.errors import UnexpectedAnswer

Choice: TypeAlias = Literal["A", "B", "C", "D", "N"]

_CHOICES = ("A", "B", "C", "D", "N")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OptionVerdict:
    """What was found about one generated picture."""

    option: str
    usable: bool
    issues: tuple[str, ...]
    """Dimensions such as `physical_shadow`; empty for a usable picture and in direct mode."""
    comment: str | None


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
    """A reason to distrust an answer, whatever its confidence."""

    code: str
    """`out-of-domain`: pictures unlike those that the checkpoint was trained on. `domain-unknown`: the service could
    not tell. Later versions of the service may send others."""
    detail: str
    """A sentence for people."""
    pictures: tuple[str, ...]
    """Which pictures it is about: `original`, `A` to `D`."""
    score: float | None
    """How unlike the pictures are; 1 and above is out of the domain. None where that is unknown."""


@dataclass(frozen=True, slots=True)
class Screening:
    """Which of the four pictures may be shown, and why."""

    id: str
    outcome: str
    """`answered`, or `unreadable` when the model's text could not be understood."""
    choice: Choice | None
    """The picture to show; `N` when none may be shown; None when the outcome is `unreadable`."""
    acceptable: tuple[str, ...]
    """Every picture that the model named."""
    reasoning: str | None
    options: tuple[OptionVerdict, ...]
    confidence: float
    """Probability, 0 to 1, that the answer is right."""
    needs_review: bool
    mode: str
    checkpoint: CheckpointInfo
    engine: str
    """`vllm`, or `scripted`: the stand-in for laptops and tests, whose answers mean nothing."""
    source: str
    """`engine`; `shared` when an identical request in flight was answered as well; `cache` when one was before."""
    timings: Timings
    usage: Usage
    metadata: Mapping[str, Any] = field(hash=False)
    unreadable_reason: str | None = None
    warnings: tuple[AnswerWarning, ...] = ()
    """Empty as a rule, and always from a service of a version that knows no warnings."""
    request_id: str | None = field(default=None, compare=False)
    """The `X-Request-Id` of the exchange."""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The answer as it came, with fields that this version does not know."""

    @property
    def answered(self) -> bool:
        return self.outcome == "answered"


def parse_screening(body: object, *, request_id: str | None = None) -> Screening:
    """Read the JSON of a 200.

    Raises:
        UnexpectedAnswer: a field is missing or of another type; the message names it.
    """
    top = _Reader(body, "", request_id)
    checkpoint, timings, usage = top.inner("checkpoint"), top.inner("timings"), top.inner("usage")
    return Screening(
        id=top.take("id", str),
        outcome=top.take("outcome", str),
        choice=_choice(top),
        acceptable=top.strings("acceptable"),
        reasoning=top.optional("reasoning", str),
        options=tuple(_option(each) for each in top.each("options")),
        confidence=top.number("confidence"),
        needs_review=top.take("needs_review", bool),
        mode=top.take("mode", str),
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
        warnings=tuple(_warning(each) for each in top.each("warnings")) if "warnings" in top.fields else (),
        request_id=request_id,
        raw=top.fields,
    )


class _Reader:
    """Takes fields out of a JSON object, and says which one is wrong."""

    def __init__(self, body: object, path: str, request_id: str | None) -> None:
        self.path, self.request_id = path, request_id
        if not isinstance(body, dict):
            raise self.wrong(path.rstrip(".") or "the body", "an object", body)
        self.fields: dict[str, Any] = body

    def wrong(self, where: str, expected: str, value: object) -> UnexpectedAnswer:
        return UnexpectedAnswer(
            f"the answer is not a screening: {where} is not {expected} but {str(value)[:60]!r}. "
            "Is base_url the screening service's address?",
            request_id=self.request_id,
        )

    def take(self, name: str, kind: type[T]) -> T:
        value = self.fields.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(self.path + name, f"of type {kind.__name__}", value)
        return value

    def optional(self, name: str, kind: type[T]) -> T | None:
        return None if self.fields.get(name) is None else self.take(name, kind)

    def number(self, name: str) -> float:
        value = self.fields.get(name)
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else self.take(name, float)

    def strings(self, name: str) -> tuple[str, ...]:
        values = self.take(name, list)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(self.path + name, "a list of texts", values)
        return tuple(values)

    def inner(self, name: str) -> _Reader:
        return _Reader(self.fields.get(name), f"{self.path}{name}.", self.request_id)

    def each(self, name: str) -> list[_Reader]:
        values = self.take(name, list)
        return [_Reader(value, f"{self.path}{name}[{n}].", self.request_id) for n, value in enumerate(values)]


def _warning(one: _Reader) -> AnswerWarning:
    return AnswerWarning(
        code=one.take("code", str),
        detail=one.take("detail", str),
        pictures=one.strings("pictures"),
        score=None if one.fields.get("score") is None else one.number("score"),
    )


def _choice(top: _Reader) -> Choice | None:
    """A choice outside the contract must not pass for a picture's name."""
    choice = top.fields.get("choice")
    if choice not in (*_CHOICES, None) or (choice is None and top.fields.get("outcome") == "answered"):
        raise top.wrong("choice", "one of A B C D N", choice)
    return cast("Choice | None", choice)


def _option(each: _Reader) -> OptionVerdict:
    return OptionVerdict(
        option=each.take("option", str),
        usable=each.take("usable", bool),
        issues=each.strings("issues"),
        comment=each.optional("comment", str),
    )
