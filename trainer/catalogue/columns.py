"""The columns that an answer adds to its record, with the same content as an answer of the service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa

from screening.answer import Answer, Mode, Unreadable
from screening.boxes import Frame
from screening.checkpoint.manifest import Manifest
from screening.decision import picture_verdicts, read_decision
from screening.inference.generation import Watched
from screening.task import NONE
from trainer.catalogue.rejects import Reject
from trainer.evaluation.evaluate.generate import Reply

_REGION = pa.struct([("issue", pa.string()), ("box", pa.list_(pa.float64()))])
_VERDICT = pa.struct(
    [
        ("option", pa.string()),
        ("usable", pa.bool_()),
        ("probability", pa.float64()),
        ("issues", pa.list_(pa.string())),
        ("comment", pa.string()),
        ("regions", pa.list_(_REGION)),
    ]
)
ANSWER = pa.schema(
    [
        ("outcome", pa.string()),
        ("unreadable_reason", pa.string()),
        ("choice", pa.string()),
        ("acceptable", pa.list_(pa.string())),
        ("confidence", pa.float64()),
        ("none_probability", pa.float64()),
        ("needs_review", pa.bool_()),
        ("reasoning", pa.string()),
        ("options", pa.list_(_VERDICT)),
        ("warning", pa.string()),
        ("domain_score", pa.float64()),
        ("mode", pa.string()),
        ("checkpoint_name", pa.string()),
        ("checkpoint_version", pa.string()),
        ("checkpoint_digest", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
    ]
)
"""Columns of an answer; docs/catalogue.md explains them."""
REJECT = pa.schema(
    [
        ("id", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("picture", pa.string()),
        ("detail", pa.string()),
    ]
)


class Screening(Protocol):
    """What the content of an answer depends on, besides the model's output."""

    @property
    def mode(self) -> Mode: ...
    @property
    def locate(self) -> bool: ...
    @property
    def review_below(self) -> float: ...


def answer_row(
    reply: Reply, frames: Sequence[Frame], manifest: Manifest, watched: Watched, screening: Screening
) -> dict[str, Any]:
    """Read the model's output as the service does.

    Args:
        frames: how original, A, B, C and D lie on what the model saw.

    Returns:
        One value per column of `ANSWER`.
    """
    warning = _warning(reply, manifest)
    decision = read_decision(
        reply.text,
        reply.steps,
        screening.mode,
        watched=watched,
        calibration=manifest.calibration_of(screening.mode),
        dimensions=manifest.dimensions,
        confidence_cap=manifest.domain.confidence_cap if manifest.domain and warning else 1.0,
        frames=frames[1:] if screening.locate else None,
    )
    parsed = decision.parsed
    answer = parsed if isinstance(parsed, Answer) else None
    return {
        "outcome": "answered" if answer else "unreadable",
        "unreadable_reason": parsed.reason.value if isinstance(parsed, Unreadable) else None,
        "choice": decision.choice,
        "acceptable": sorted(answer.options) if answer else [],
        "confidence": decision.confidence,
        "none_probability": decision.probabilities.get(NONE),
        "needs_review": answer is None or warning is not None or decision.confidence < screening.review_below,
        "reasoning": answer.reasoning if answer else None,
        "options": [
            {
                "option": one.option,
                "usable": one.usable,
                "probability": one.probability,
                "issues": [issue.value for issue in one.issues],
                "comment": one.comment,
                "regions": [each.as_json() for each in one.regions] if screening.locate else None,
            }
            for one in picture_verdicts(parsed, decision.probabilities)
        ],
        "warning": warning,
        "domain_score": reply.domain_score,
        "mode": screening.mode.value,
        "checkpoint_name": manifest.name,
        "checkpoint_version": manifest.version,
        "checkpoint_digest": manifest.digest,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
    }


def answers_table(records: pa.Table, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Append the columns of the answers to the kept columns of their records."""
    answers = pa.Table.from_pylist(list(rows), schema=ANSWER)
    table = records
    for field in ANSWER:
        table = table.append_column(field, answers.column(field.name))
    return table


def rejects_table(file: str, rejects: Sequence[Reject]) -> pa.Table:
    """Make the rejects table of one block."""
    rows = [
        {"id": one.id, "file": file, "row": one.row, "reason": one.reason, "picture": one.picture, "detail": one.detail}
        for one in rejects
    ]
    return pa.Table.from_pylist(rows, schema=REJECT)


def _warning(reply: Reply, manifest: Manifest) -> str | None:
    """The code of the service's warning about the pictures, or None."""
    if manifest.domain is None:
        return None
    if reply.domain_score is None:
        return "domain-unknown"
    return "out-of-domain" if reply.domain_score >= 1 else None
