"""Identity of an evaluation. The run directory records it, so that two evaluations are never mixed in one directory."""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from screening.answer import Mode


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EndpointModel(_Record):
    """A model at an endpoint and how it is asked: everything that decides its answers.

    The address of the endpoint is not part of it: a server that moves to another address has the same model.
    """

    model: str
    """Name of the model in requests."""
    prompt: str
    """Version of the instruction."""
    instruction: str
    """Text of the instruction in the mode of the evaluation."""
    picture_size: int
    """Longer side of the pictures in pixels."""
    reply_tokens: int
    temperature: float | None = None
    """None for the endpoint's default."""
    extra_body: dict[str, Any]

    @property
    def digest(self) -> str:
        """`sha256:…` over all fields."""
        return f"sha256:{hashlib.sha256(self.model_dump_json().encode()).hexdigest()}"


class Identity(_Record):
    """Everything that must be equal for the predictions of two evaluations to be mixed.

    Either `checkpoint` or `endpoint` is set.
    """

    checkpoint: str | None = None
    """Digest of the checkpoint."""
    endpoint: EndpointModel | None = None
    data: str
    """Digest of the data directory."""
    mode: Mode
    locate: bool = Field(False, exclude_if=lambda locate: not locate)
    """Whether the model was asked where the issues are."""

    @property
    def origin(self) -> dict[str, Any]:
        """The record of the run directory; see `trainer.runs.run_directory.claim`."""
        return {"stage": "evaluate", **self.model_dump(mode="json")}
