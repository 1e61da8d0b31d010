"""Which evaluation a directory holds: `evaluation.json`. Another one is never mixed into it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from screening.answer import Mode
from screening.runtime.atomic_write import write_atomically
from trainer.evaluation.evaluate.errors import EvaluationError

IDENTITY_NAME = "evaluation.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EndpointModel(_Record):
    """A model behind an endpoint and how it is asked: all that decides its answers.

    Where the endpoint is does not: a server that comes back at another address is the same model.
    """

    model: str
    """The name that it is asked by."""
    prompt: str
    """Version of the instruction."""
    instruction: str
    """Its text, in the mode of the evaluation."""
    picture_size: int
    """Longer side, in pixels."""
    reply_tokens: int
    temperature: float | None = None
    """None: the endpoint's own."""
    extra_body: dict[str, Any]

    @property
    def digest(self) -> str:
        """`sha256:…` over all of it."""
        return f"sha256:{hashlib.sha256(self.model_dump_json().encode()).hexdigest()}"


class Identity(_Record):
    """What makes two evaluations the same: their predictions can be mixed.

    Either a checkpoint answers or a model behind an endpoint.
    """

    format: Literal[1] = 1
    checkpoint: str | None = None
    """Digest of the manifest."""
    endpoint: EndpointModel | None = None
    data: str
    """Digest of the data directory."""
    mode: Mode

    def difference(self, other: Identity) -> str | None:
        """The first thing in which another evaluation differs, for a message; None if it is the same."""
        mine, others = self._facts(), other._facts()
        for name in mine | others:
            if (old := mine.get(name)) != (new := others.get(name)):
                return f"{name}: {str(old)[:80]}, not {str(new)[:80]}"
        return None

    def _facts(self) -> dict[str, object]:
        """By the words of a message, in the order of their weight."""
        asked = self.endpoint.model_dump() if self.endpoint else {}
        facts = {"checkpoint": self.checkpoint or "an endpoint", "data set": self.data, "mode": self.mode}
        return facts | {name.replace("_", " "): value for name, value in asked.items()}


def claim(directory: Path, identity: Identity) -> None:
    """Make the directory this evaluation's, or see that it is.

    Raises:
        EvaluationError: it is another one's, or holds foreign files.
    """
    path = directory / IDENTITY_NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            foreign = sorted(entry.name for entry in directory.iterdir() if entry.name != f".{IDENTITY_NAME}.partial")
            if foreign:
                raise EvaluationError(
                    f"{directory} is not empty ({', '.join(foreign[:3])}) and holds no evaluation; give a new --out"
                )
            write_atomically(path, identity.model_dump_json(indent=2, exclude_none=True) + "\n")
            return
        there = Identity.model_validate_json(path.read_bytes())
    except OSError as error:
        raise EvaluationError(f"{directory} cannot be used as --out ({error.strerror})") from error
    except ValidationError as error:
        raise EvaluationError(f"{path} is not from this version of the evaluation; give a new --out") from error
    if difference := there.difference(identity):
        raise EvaluationError(f"{directory} holds another evaluation ({difference}); give a new --out")
