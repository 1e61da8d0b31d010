"""`evaluation.json`: records which evaluation a directory holds, so that two evaluations are never mixed in it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from screening.answer import Mode
from screening.runtime.atomic_write import write_atomically
from trainer.evaluation.evaluate.errors import EvaluationError

IDENTITY_NAME = "evaluation.json"


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

    format: Literal[1] = 1
    checkpoint: str | None = None
    """Digest of the checkpoint."""
    endpoint: EndpointModel | None = None
    data: str
    """Digest of the data directory."""
    mode: Mode
    locate: bool = Field(False, exclude_if=lambda locate: not locate)
    """Whether the model was asked where the faults are."""

    def difference(self, other: Identity) -> str | None:
        """The first difference to another evaluation, for a message; None if there is none."""
        mine, others = self._facts(), other._facts()
        for name in mine | others:
            if (old := mine.get(name)) != (new := others.get(name)):
                return f"{name}: {str(old)[:80]}, not {str(new)[:80]}"
        return None

    def _facts(self) -> dict[str, object]:
        """Values by their names in a message, the most important first."""
        asked = self.endpoint.model_dump() if self.endpoint else {}
        facts: dict[str, object] = {"checkpoint": self.checkpoint or "an endpoint", "data set": self.data}
        facts |= {"mode": self.mode, "locate": self.locate}
        return facts | {name.replace("_", " "): value for name, value in asked.items()}


def claim(directory: Path, identity: Identity) -> None:
    """Claim a directory for an evaluation, or check that it already belongs to it.

    Raises:
        EvaluationError: the directory belongs to another evaluation or holds other files.
    """
    path = directory / IDENTITY_NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            foreign = sorted(entry.name for entry in directory.iterdir() if entry.name != f".{IDENTITY_NAME}.partial")
            if foreign:
                raise EvaluationError(
                    f"{directory} is not empty ({', '.join(foreign[:3])}) and holds no evaluation. Give a new --out"
                )
            write_atomically(path, identity.model_dump_json(indent=2, exclude_none=True) + "\n")
            return
        there = Identity.model_validate_json(path.read_bytes())
    except OSError as error:
        raise EvaluationError(f"{directory} cannot be used as --out ({error.strerror})") from error
    except ValidationError as error:
        raise EvaluationError(f"{path} was written by another version of the trainer. Give a new --out") from error
    if difference := there.difference(identity):
        raise EvaluationError(f"{directory} holds another evaluation ({difference}). Give a new --out")
