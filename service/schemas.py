"""Requests, answers and problems as JSON; what OpenAPI shows. docs/http-api.md is the prose."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from screening.answer import Mode
from screening.task import OPTIONS, Dimension

METADATA_BYTES = 4096
"""Of the metadata object as compact JSON in UTF-8."""

_PICTURE = "Base64 text of a JPEG, PNG, WebP or AVIF file, or a data: URL with it."


class ScreenRequest(BaseModel):
    """One question: which of the four generated pictures may be shown for this product?"""

    model_config = ConfigDict(extra="forbid", strict=True)

    original: Annotated[str, Field(description=_PICTURE)]
    generated: Annotated[list[str], Field(min_length=len(OPTIONS), max_length=len(OPTIONS), description="A, B, C, D.")]
    mode: Annotated[Literal["cot", "direct"], Field(description="Think, then answer; or letters only.")] = "cot"
    metadata: Annotated[dict[str, Any], Field(description="At most 4 KiB; echoed in the answer.")] = {}


class OptionAnswer(BaseModel):
    """What the answer says about one generated picture."""

    option: Literal["A", "B", "C", "D"]
    usable: bool
    """Whether the option is among `acceptable`."""
    issues: list[Dimension]
    comment: str | None


class CheckpointName(BaseModel):
    """The checkpoint that answered."""

    name: str
    version: str
    digest: str


class Timings(BaseModel):
    """Milliseconds. `total_ms` runs from the door to the answer, the body's arrival included.

    Of work shared with other requests, what passed while this one waited. Of an answer from the cache, only
    `total_ms` is not 0.
    """

    queue_ms: float
    decode_ms: float
    engine_ms: float
    total_ms: float


class Usage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int


class AnswerWarning(BaseModel):
    """A reason to distrust an answer."""

    code: Literal["out-of-domain", "domain-unknown"]
    detail: str
    """A sentence for people."""
    pictures: list[Literal["original", "A", "B", "C", "D"]]
    """Which pictures it is about."""
    score: float | None
    """The highest out-of-domain score of these pictures; 1 and above is out of the domain. Null where it is unknown."""


class ScreenAnswer(BaseModel):
    """The decision. `outcome` `unreadable` means that the model's text was not understood: then nothing is chosen."""

    model_config = ConfigDict(
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
                        "issues": ["physical_shadow"],
                        "comment": "shadow: two shadows point apart",
                    },
                    {
                        "option": "B",
                        "usable": False,
                        "issues": ["appearance_deformation"],
                        "comment": "appearance: the cap changed its colour",
                    },
                    {"option": "C", "usable": True, "issues": [], "comment": "normal: the product is unchanged"},
                    {
                        "option": "D",
                        "usable": False,
                        "issues": ["placement_layout"],
                        "comment": "layout: the bottle floats",
                    },
                ],
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
        }
    )

    id: str
    outcome: Literal["answered", "unreadable"]
    unreadable_reason: str | None = None
    """One word for why the text was not understood; null when it was."""
    choice: Literal["A", "B", "C", "D", "N"] | None
    acceptable: list[Literal["A", "B", "C", "D"]]
    reasoning: str | None
    options: list[OptionAnswer]
    confidence: float = Field(ge=0, le=1)
    needs_review: bool
    warnings: list[AnswerWarning] = []
    """Why the answer should not be trusted, whatever its confidence; empty as a rule."""
    mode: Mode
    checkpoint: CheckpointName
    engine: Literal["vllm", "scripted"]
    source: Literal["engine", "shared", "cache"]
    """Written for this request, for an identical one that was in flight, or earlier by the same checkpoint."""
    timings: Timings
    usage: Usage
    metadata: dict[str, Any]


class Health(BaseModel):
    """A health answer that is green."""

    status: Literal["ok"] = "ok"
    engine: Literal["vllm", "scripted"]


class ProblemBody(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(title="Problem")

    type: str = Field(examples=["urn:screening:problem:image-unreadable"])
    title: str = Field(examples=["A picture could not be read"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["generated[1]: the JPEG picture is truncated or damaged (image file is truncated)"])
    instance: str = Field(examples=["/screen"])
    request_id: str = Field(examples=["req_01KAHD5Z0Q9YB7M2T4V6W8X0ZC"])
    picture: str | None = Field(None, examples=["generated[1]"])
