"""Requests, answers and problems as JSON; what OpenAPI shows. docs/http-api.md is the prose."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from screening.answer import Mode
from screening.task import OPTIONS, Dimension

METADATA_BYTES = 4096
"""Of the metadata object as compact JSON in UTF-8."""

Probability = Annotated[float, Field(ge=0, le=1)]


class _Documented(BaseModel):
    """Docstrings of fields are their descriptions in OpenAPI."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class PictureAddress(_Documented):
    """A picture that the service fetches, where the operator allows its host."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    url: str = Field(max_length=8192, examples=["https://cdn.shop.example/4711/original.jpg"])
    """The picture's `https://` address. Redirects are not followed."""


def _form_of_picture(value: Any) -> str:
    return "address" if isinstance(value, dict | PictureAddress) else "text"


_PictureText = Annotated[
    str,
    Tag("text"),
    Field(description="Base64 text of a JPEG, PNG, WebP or AVIF file, a data: URL with it, or its https:// address."),
]
PictureField = Annotated[
    _PictureText | Annotated[PictureAddress, Tag("address")],
    Discriminator(_form_of_picture),
]


class ScreenRequest(_Documented):
    """One question: which of the four generated pictures may be shown for this product?"""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        json_schema_extra={
            "example": {
                "original": "/9j/4AAQSkZJRgABAQAAAQABAAD…",
                "generated": ["/9j/4AAQ…A", "/9j/4AAQ…B", "/9j/4AAQ…C", "/9j/4AAQ…D"],
                "mode": "cot",
                "metadata": {"sku": "4711"},
                "review_below": 0.8,
            }
        },
    )

    original: PictureField
    """The photo of the product."""
    generated: Annotated[list[PictureField], Field(min_length=len(OPTIONS), max_length=len(OPTIONS))]
    """The four generated pictures, in the order A, B, C, D."""
    mode: Literal["cot", "direct"] = "cot"
    """`cot`: think, then answer. `direct`: letters only."""
    metadata: dict[str, Any] = {}
    """Any JSON object of at most 4 KiB. The answer repeats it."""
    review_below: Probability | None = None
    """Threshold of this request: an answer with a lower confidence carries `needs_review`. Missing or null: the
    operator's threshold."""


class OptionAnswer(_Documented):
    """What the answer says about one generated picture."""

    option: Literal["A", "B", "C", "D"]
    """The picture's letter, by its place in `generated`."""
    usable: bool
    """Whether the option is among `acceptable`."""
    probability: Probability | None
    """Calibrated probability that this picture may be shown, judged by itself: the four and `none_probability` need not
    sum to 1. Null where the model's text did not show it."""
    issues: list[Dimension]
    """What is wrong with the picture; empty for a usable one and in `direct` mode. Only dimensions that the checkpoint
    was trained on. A later version of the service may know more of them."""
    comment: str | None
    """The model's sentence about the picture; null in `direct` mode."""


class CheckpointName(_Documented):
    """The checkpoint that answered."""

    name: str
    """Its name."""
    version: str
    """Its version."""
    digest: str
    """SHA-256 of its manifest, which names every file."""


class Timings(_Documented):
    """Milliseconds. `total_ms` runs from admission to the answer, the body's arrival included.

    Of work shared with other requests, what passed while this one waited. Of an answer from the cache, only
    `total_ms` is not 0.
    """

    queue_ms: float
    """Waiting for a slot."""
    decode_ms: float
    """Decoding the pictures."""
    engine_ms: float
    """In the model."""
    total_ms: float
    """From admission to the answer."""


class Usage(_Documented):
    """Tokens of the model."""

    prompt_tokens: int
    """Tokens of the prompt, as the engine counts them."""
    completion_tokens: int
    """Tokens written."""


class AnswerWarning(_Documented):
    """A reason to distrust an answer."""

    code: Literal["out-of-domain", "domain-unknown"]
    """`out-of-domain`: pictures unlike those that the checkpoint was trained on; `domain-unknown`: this could not be
    told."""
    detail: str
    """A sentence for people."""
    pictures: list[Literal["original", "A", "B", "C", "D"]]
    """Which pictures it is about."""
    score: float | None
    """The highest out-of-domain score of these pictures; 1 and above is out of the domain. Null where it is unknown."""


class ScreenAnswer(_Documented):
    """The decision. `outcome` `unreadable` means that the model's text was not understood: then nothing is chosen."""

    model_config = ConfigDict(
        use_attribute_docstrings=True,
        json_schema_extra={
            "example": {
                "id": "scr_01KAHD5Z0Q9YB7M2T4V6W8X0ZC",
                "outcome": "answered",
                "choice": "C",
                "acceptable": ["C"],
                "reasoning": "I observed <A> shadow: two shadows point apart, <B> appearance: the cap changed its "
                "colour, <C> normal: the product is unchanged, <D> layout: the bottle floats, so I ultimately chose C.",
                "options": [
                    {
                        "option": "A",
                        "usable": False,
                        "probability": 0.08,
                        "issues": ["physical_shadow"],
                        "comment": "shadow: two shadows point apart",
                    },
                    {
                        "option": "B",
                        "usable": False,
                        "probability": 0.02,
                        "issues": ["appearance_deformation"],
                        "comment": "appearance: the cap changed its colour",
                    },
                    {
                        "option": "C",
                        "usable": True,
                        "probability": 0.93,
                        "issues": [],
                        "comment": "normal: the product is unchanged",
                    },
                    {
                        "option": "D",
                        "usable": False,
                        "probability": 0.11,
                        "issues": ["placement_layout"],
                        "comment": "layout: the bottle floats",
                    },
                ],
                "none_probability": 0.06,
                "confidence": 0.93,
                "needs_review": False,
                "warnings": [],
                "mode": "cot",
                "checkpoint": {"name": "tiny", "version": "1", "digest": "sha256:0f343b0931126a20f133d67c2b018a3b"},
                "engine": "vllm",
                "source": "engine",
                "timings": {"queue_ms": 0.4, "decode_ms": 9.1, "engine_ms": 310.2, "total_ms": 321.0},
                "usage": {"prompt_tokens": 142, "completion_tokens": 71},
                "metadata": {"sku": "4711"},
            }
        },
    )

    id: str
    """Name of this answer: `scr_` and a ULID."""
    outcome: Literal["answered", "unreadable"]
    """`unreadable`: the model's text was not understood, so that nothing is chosen."""
    unreadable_reason: str | None = None
    """One word for why the text was not understood; null when it was."""
    choice: Literal["A", "B", "C", "D", "N"] | None
    """The picture to show; `N` when none may be shown; null when the outcome is `unreadable`."""
    acceptable: list[Literal["A", "B", "C", "D"]]
    """Every picture that the model calls usable."""
    reasoning: str | None
    """The model's reasoning; null in `direct` mode and when the text was not understood."""
    options: list[OptionAnswer]
    """The four pictures in the order A, B, C, D."""
    none_probability: Probability | None
    """Calibrated probability that none of the four may be shown; null where the model's text did not show it."""
    confidence: Probability
    """Calibrated probability that `choice` is right; 0 when the outcome is `unreadable`."""
    needs_review: bool
    """Whether a person should look: the confidence is below the request's `review_below`, or the operator's, or there
    is a warning."""
    warnings: list[AnswerWarning] = []
    """Why the answer should not be trusted, whatever its confidence; empty as a rule."""
    mode: Mode
    """The mode of the request."""
    checkpoint: CheckpointName
    """The checkpoint that wrote the answer."""
    engine: str
    """`vllm`; `scripted`: the stand-in for tests, whose answers mean nothing; or the name of the operator's own
    engine."""
    source: Literal["engine", "shared", "cache"]
    """Written for this request, for an identical one that was in flight, or earlier by the same checkpoint."""
    timings: Timings
    """Where the time went."""
    usage: Usage
    """Tokens that the answer took."""
    metadata: dict[str, Any]
    """The request's `metadata`."""


class Health(_Documented):
    """The answer of a probe that succeeds."""

    status: Literal["ok"] = "ok"
    """Always `ok`: a probe that fails answers 503."""
    engine: str
    """The engine behind the service."""


class ProblemBody(_Documented):
    """RFC 9457 problem details."""

    model_config = ConfigDict(title="Problem", use_attribute_docstrings=True)

    type: str = Field(examples=["urn:screening:problem:image-unreadable"])
    """Stable name of the problem. Programs should decide by it, not by `title` or `detail`."""
    title: str = Field(examples=["A picture could not be read"])
    """The type in words."""
    status: int = Field(examples=[422])
    """The HTTP status."""
    detail: str = Field(examples=["generated[1]: the JPEG picture is truncated or damaged (image file is truncated)"])
    """What is wrong, where, and what to do."""
    instance: str = Field(examples=["/screen"])
    """The path that was asked for."""
    request_id: str = Field(examples=["req_01KAHD5Z0Q9YB7M2T4V6W8X0ZC"])
    """The `X-Request-Id` of the answer, which the log names too."""
    picture: str | None = Field(None, examples=["generated[1]"])
    """The picture at fault: `original`, or `generated[0]` to `generated[3]`."""
