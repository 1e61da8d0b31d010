"""JSON schemas of requests, answers and problems, from which OpenAPI is generated. docs/http-api.md describes them."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from screening.answer import Mode
from screening.task import OPTIONS, Dimension

METADATA_BYTES = 4096
"""Maximum size of the metadata object as compact JSON in UTF-8."""

Probability = Annotated[float, Field(ge=0, le=1)]


def has_control_characters(text: str, *, allowed: str = "") -> bool:
    """Whether a text has control characters or half of a surrogate pair, which not every database stores.

    Other invisible characters occur in ordinary text: the no-break space, or the joiner within an emoji.

    Args:
        allowed: control characters that the text may have.
    """
    return any(unicodedata.category(one) in ("Cc", "Cs") for one in text if one not in allowed)


def _checked_comment(text: str) -> str:
    if has_control_characters(text, allowed="\n\r\t"):
        raise ValueError("control characters are not allowed")
    return text


MAX_COMMENT = 4000
"""Maximum number of characters of a comment."""
MAX_COMMENT_BYTES = 12 * MAX_COMMENT
"""Maximum size of a comment in JSON, where a character may be written as two escapes, such as `\\ud83d\\ude00`."""
Comment = Annotated[str, Field(max_length=MAX_COMMENT), AfterValidator(_checked_comment)]
"""Free text of a person, which may have several lines."""


class Documented(BaseModel):
    """A model whose field docstrings become the descriptions in OpenAPI."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class PictureAddress(Documented):
    """A picture that the service fetches from a host that the operator allows."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    url: str = Field(max_length=8192, examples=["https://cdn.shop.example/4711/original.jpg"])
    """`https://` URL of the picture. The service does not follow redirects."""


def _form_of_picture(value: Any) -> str:
    return "address" if isinstance(value, dict | PictureAddress) else "text"


_PictureText = Annotated[
    str,
    Tag("text"),
    Field(description="A JPEG, PNG, WebP or AVIF file as base64 text or as a data: URL, or its https:// URL."),
]
PictureField = Annotated[
    _PictureText | Annotated[PictureAddress, Tag("address")],
    Discriminator(_form_of_picture),
]


class ScreenRequest(Documented):
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
    """`cot`: the model explains, then answers. `direct`: the model answers with letters only."""
    locate: bool = False
    """Whether the answer says where each fault is (`options[].regions`). It takes longer, needs the mode `cot`, and a
    checkpoint that was trained for it."""
    metadata: dict[str, Any] = {}
    """Any JSON object of at most 4 KiB. The answer echoes it."""
    review_below: Probability | None = None
    """Confidence below which the answer has `needs_review` set. If it is missing or null, the operator's threshold
    applies."""


class RegionAnswer(Documented):
    """Where one issue of a picture is."""

    issue: Dimension
    """The issue, one of `issues`."""
    box: Annotated[list[Probability], Field(min_length=4, max_length=4, examples=[[0.31, 0.08, 0.52, 0.19]])]
    """Left, top, right and bottom edge, as shares of the picture's width and height. The picture is upright, as a
    browser shows it."""


class OptionAnswer(Documented):
    """What the answer says about one generated picture."""

    option: Literal["A", "B", "C", "D"]
    """Letter of the picture, given by its position in `generated`."""
    usable: bool
    """Whether the option is in `acceptable`."""
    probability: Probability | None
    """Calibrated probability that this picture may be shown. Each picture is judged on its own, so the four
    probabilities and `none_probability` need not sum to 1. Null if it could not be read from the model's output."""
    issues: list[Dimension]
    """What is wrong with the picture, by the model's sentence; normally empty for a usable picture. Always empty in
    `direct` mode. Only dimensions that the checkpoint was trained on; a later version of the service may know more of
    them."""
    comment: str | None
    """The model's sentence about the picture. Null in `direct` mode."""
    regions: list[RegionAnswer] | None = Field(None, exclude_if=lambda regions: regions is None)
    """Where the issues are, at most one region per issue. Only if the request had `locate` set. An issue whose place
    the model did not give, or gave outside the picture, is missing."""


class CheckpointName(Documented):
    """Identifies a checkpoint."""

    name: str
    """Name of the checkpoint."""
    version: str
    """Version of the checkpoint."""
    digest: str
    """SHA-256 over everything that decides the checkpoint's answers; probes and descriptive fields are left out."""


class Timings(Documented):
    """Durations in milliseconds.

    If requests share one inference, each duration covers only the time that this request waited for it. For an answer
    from the cache, all durations except `total_ms` are 0.
    """

    queue_ms: float
    """Time spent waiting for a slot."""
    decode_ms: float
    """Time spent decoding the pictures."""
    engine_ms: float
    """Time spent in the engine."""
    total_ms: float
    """Time from admission to the answer, including the upload of the body."""


class Usage(Documented):
    """Number of tokens that the model read and wrote."""

    prompt_tokens: int
    """Number of prompt tokens, as the engine counts them."""
    completion_tokens: int
    """Number of generated tokens."""


class AnswerWarning(Documented):
    """A reason to distrust an answer."""

    code: Literal["out-of-domain", "domain-unknown"]
    """`out-of-domain`: the pictures are unlike the training data of the checkpoint. `domain-unknown`: the service could
    not determine whether they are."""
    detail: str
    """Explanation for people."""
    pictures: list[Literal["original", "A", "B", "C", "D"]]
    """The pictures that the warning is about."""
    score: float | None
    """Highest out-of-domain score of these pictures; 1 and above is out of domain. Null if it is unknown."""


class ScreenAnswer(Documented):
    """The decision. If `outcome` is `unreadable`, the model's output could not be parsed and nothing is chosen."""

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
    """Id of this answer: `scr_` followed by a ULID."""
    outcome: Literal["answered", "unreadable"]
    """`answered`, or `unreadable` if the model's output could not be parsed; then nothing is chosen."""
    unreadable_reason: str | None = None
    """Short code for why the output could not be parsed. Null if it could."""
    choice: Literal["A", "B", "C", "D", "N"] | None
    """The picture to show. `N` if none may be shown, null if the outcome is `unreadable`."""
    acceptable: list[Literal["A", "B", "C", "D"]]
    """Every picture that the model considers usable."""
    reasoning: str | None
    """The model's reasoning. Null in `direct` mode and if the output could not be parsed."""
    options: list[OptionAnswer]
    """The four pictures in the order A, B, C, D."""
    none_probability: Probability | None
    """Calibrated probability that none of the four may be shown. Null if it could not be read from the model's
    output."""
    confidence: Probability
    """Calibrated probability that `choice` is right. 0 if the outcome is `unreadable`."""
    needs_review: bool
    """Whether a person should review the answer: it is unreadable, it has a warning, or its confidence is below the
    threshold of the request (`review_below`) or else of the operator."""
    warnings: list[AnswerWarning] = []
    """Reasons to distrust the answer, independent of its confidence. Usually empty."""
    mode: Mode
    """Mode of the request."""
    checkpoint: CheckpointName
    """The checkpoint that produced the answer."""
    engine: str
    """The engine that produced the answer: `vllm`; `scripted`, a stand-in for tests whose answers carry no information;
    or the name of the operator's own engine."""
    source: Literal["engine", "shared", "cache"]
    """Where the answer comes from: `engine` ran for this request, `shared` ran for an identical request in flight,
    `cache` is an earlier answer of the same checkpoint."""
    timings: Timings
    """Durations of the stages of this request."""
    usage: Usage
    """Number of tokens of this answer."""
    metadata: dict[str, Any]
    """The `metadata` of the request."""


class Health(Documented):
    """The response of a successful probe."""

    status: Literal["ok"] = "ok"
    """Always `ok`. A failed probe answers 503."""
    engine: str
    """The engine that the service uses."""


class ProblemBody(Documented):
    """RFC 9457 problem details."""

    model_config = ConfigDict(title="Problem", use_attribute_docstrings=True)

    type: str = Field(examples=["urn:screening:problem:image-unreadable"])
    """Stable identifier of the problem. Programs should use it rather than `title` or `detail`."""
    title: str = Field(examples=["A picture could not be read"])
    """Short description of the problem type."""
    status: int = Field(examples=[422])
    """HTTP status code."""
    detail: str = Field(examples=["generated[1]: the JPEG picture is truncated or damaged (image file is truncated)"])
    """What is wrong, where, and what to do."""
    instance: str = Field(examples=["/screen"])
    """Path of the request."""
    request_id: str = Field(examples=["req_01KAHD5Z0Q9YB7M2T4V6W8X0ZC"])
    """The `X-Request-Id` of the response, which also appears in the log."""
    picture: str | None = Field(None, examples=["generated[1]"])
    """The picture at fault: `original`, or `generated[0]` to `generated[3]`."""
