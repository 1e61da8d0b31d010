"""The state between two calls: one file, `WORK/state.json`, which is replaced as a whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from screening.runtime.atomic_write import write_atomically
from screening.runtime.digests import json_digest
from trainer.release.retrain.errors import BadInput

STATE_NAME = "state.json"
Outcome = Literal["promoted", "refused", "unchanged", "superseded", "failed"]
"""`refused`: by the gate. `unchanged`: the training led to the model in production. `superseded`: production was moved
by others during the run. `failed`: bad input."""
FINISHED: frozenset[Outcome] = frozenset({"promoted", "refused", "unchanged"})
"""Outcomes after which the labels of a run are no longer new."""
CLOCK_ERROR = timedelta(days=1)
"""Maximum time that a recorded moment may lie in the future, for example because of another time zone. A later one is
from a wrong clock and is ignored, because it would hold for years."""


def _is_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Time = Annotated[str, AfterValidator(_is_time)]
"""A moment as ISO 8601."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Done(_Record):
    """A stage that is done."""

    key: str
    """Digest of what decided its result."""
    ended: Time
    seconds: float
    result: dict[str, Any]
    """What later stages and the report need; `skipped` holds the reason if the stage was skipped."""


class Run(_Record):
    """One retraining, over all its calls."""

    id: str
    """Start time, which is also the name of its directory below `WORK/runs`."""
    started: Time
    reason: str
    """Why it was begun."""
    calls: int = 0
    """Number of calls of the command for this run; more than 1 after a kill."""
    fencing_tokens: list[int] = []
    """Fencing token of each call."""
    stages: dict[str, Done] = {}
    ended: Time | None = None
    outcome: Outcome | None = None
    """None until the run has ended."""
    message: str = ""
    """The last problem, or the reason of the outcome."""


class Decision(_Record):
    """The last decision whether there is work."""

    at: Time
    decision: Literal["run", "skip"]
    reason: str
    new_labels: int = 0
    new_products: int = 0


class State(_Record):
    """Everything in `state.json`."""

    format: Literal[1] = 1
    decision: Decision | None = None
    run: Run | None = None
    """The run that is under way, or the last one."""
    finished: Run | None = None
    """The last run whose outcome is in `FINISHED`."""

    @property
    def unfinished(self) -> Run | None:
        """The run that the next call continues."""
        return self.run if self.run and self.run.outcome is None else None


def read_state(work: Path) -> State:
    """The state of a work directory; an empty one where there is none.

    Raises:
        BadInput: the file is damaged or not from this version.
    """
    path = work / STATE_NAME
    try:
        return State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return State()
    except ValidationError as error:
        raise BadInput(f"{path} is damaged or not from this version; restore it, or give another `work`") from error


def write_state(work: Path, state: State) -> None:
    """Replace the file: a reader sees the old state or the new one.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(work / STATE_NAME, state.model_dump_json(indent=1) + "\n")


def key_of(inputs: Any) -> str:
    """Digest of what decides a stage's result. Its first digits are part of the name of the stage's directory.

    Args:
        inputs: JSON values.
    """
    return json_digest(inputs).removeprefix("sha256:")


def utc_now() -> datetime:
    """Now, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
