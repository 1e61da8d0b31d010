"""Writes the gate's result as a file for programs (`gate.json`) and a page for people (`gate.md`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from screening.answer import Mode
from screening.runtime.atomic_write import write_atomically
from trainer.products import counted
from trainer.release.promote.gate import Criterion
from trainer.release.promote.limits import Limits
from trainer.runs.markdown import table

GATE_NAME = "gate.json"
TABLE_NAME = "gate.md"
HEADER = ("criterion", "candidate", "production", "by", "measured", "limit", "n", "met")

_INTRO = """\
`measured` is compared with `limit`. Floors apply to every version. Against production, `measured` is the one-sided
{level:.0%} bound of the difference (paired: Newcombe 1998; bootstrap for the precision), or the plain difference for
position and calibration. Values are percentages, differences are percentage points; the calibration error is between
0 and 1."""


class Side(BaseModel):
    """One of the two versions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    digest: str
    evaluation: str
    """Directory of the version's evaluation."""


class Gate(BaseModel):
    """Everything in `gate.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    created: str
    """UTC, ISO 8601."""
    candidate: Side
    production: Side | None
    mode: Mode
    data: str
    """Digest of the test set."""
    samples: int
    products: int | None = Field(None, exclude_if=lambda products: products is None)
    """Number of products of the test set; None if each sample has its own."""
    frozen: bool = True
    """Whether the data is the frozen test set of a `trainer split`."""
    not_shown: tuple[str, ...] = ()
    """Dimensions of the candidate that no sample of the test set shows; they have no criteria."""
    lost_dimensions: tuple[str, ...] = ()
    """Dimensions that production was trained on and the candidate was not."""
    dimensions_unknown: bool = False
    """Whether the candidate was not trained on every dimension, and production's checkpoint could not be read, so that
    it is not known whether production was."""
    places_unknown: bool = False
    """Whether the candidate cannot say where issues are, and production's checkpoint could not be read, so that it is
    not known whether production can."""
    limits: Limits
    criteria: list[Criterion]

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the criteria that are not met."""
        return tuple(title(one) for one in self.criteria if not one.passed)

    @property
    def passed(self) -> bool:
        return not self.failed


def title(criterion: Criterion) -> str:
    """A criterion's name, with its kind: the same measure may have a floor and be compared with production."""
    return f"{criterion.name}, {'against production' if criterion.against_production else 'floor'}"


def write_gate(gate: Gate, out: Path) -> str:
    """Write both files; returns the page for people.

    Raises:
        OSError: a file cannot be written.
    """
    page = render(gate)
    write_atomically(out / TABLE_NAME, page)
    write_atomically(out / GATE_NAME, gate.model_dump_json(indent=1) + "\n")
    return page


def render(gate: Gate) -> str:
    """The gate as Markdown whose table also lines up as plain text."""
    production = gate.production
    against = f"against version {production.version}" if production else "floors only: no version is in production"
    verdict = f"{len(gate.failed)} of {len(gate.criteria)} criteria are not met" if gate.failed else "passed"
    return (
        f"# Version {gate.candidate.version}, {against}, {gate.mode}: {verdict}\n\n"
        f"{counted(gate.samples, gate.products)}.\ncandidate {gate.candidate.digest}\n"
        f"{f'production {production.digest}' if production else ''}\ndata {gate.data}\n\n"
        f"{_INTRO.format(level=gate.limits.level)}{_alike(gate)}{_not_frozen(gate)}{_without_dimensions(gate)}"
        f"{_lost_dimensions(gate)}{_dimensions_unknown(gate)}{_places_unknown(gate)}{_undefined(gate)}\n\n"
        f"{table(HEADER, criteria_rows(gate))}\n"
    )


def _alike(gate: Gate) -> str:
    if gate.products is None:
        return ""
    return (
        "\n\nAnswers about one product are alike, so its samples count as fewer in the bounds (effective number of "
        "samples, Rao and Scott 1992), and the bootstrap draws whole products."
    )


def _not_frozen(gate: Gate) -> str:
    if gate.frozen:
        return ""
    return (
        "\n\nThe data are not a frozen test set of `trainer split`, so the candidate may have been trained on "
        "single samples of them."
    )


def _without_dimensions(gate: Gate) -> str:
    if not gate.not_shown:
        return ""
    return (
        f"\n\nNo sample of the test set shows these dimensions, so they have no criteria: {', '.join(gate.not_shown)}."
    )


def _lost_dimensions(gate: Gate) -> str:
    if not gate.lost_dimensions:
        return ""
    return (
        "\n\nThe candidate was not trained on these dimensions, and production was: "
        f"{', '.join(gate.lost_dimensions)}. The candidate does not name them. Its score is compared with production's "
        "over the samples that show them."
    )


def _dimensions_unknown(gate: Gate) -> str:
    if not gate.dimensions_unknown:
        return ""
    return (
        "\n\nThe candidate was not trained on all dimensions. It is not known whether production was, because its "
        "checkpoint could not be read. If its store is mounted elsewhere, give `promote --store`."
    )


def _places_unknown(gate: Gate) -> str:
    if not gate.places_unknown:
        return ""
    return (
        "\n\nThe candidate cannot say where issues are. Whether production can was not checked, because its checkpoint "
        "could not be read. If its store is mounted elsewhere, give `promote --store`."
    )


def _undefined(gate: Gate) -> str:
    """Explain the rows that are met without a measured value."""
    if not any(one.passed and one.measured is None for one in gate.criteria):
        return ""
    return (
        "\n\nWhere production has no value, such as the precision of `N` if it never answers `N`, the candidate cannot "
        "be worse. Such a criterion is met, and the floor remains."
    )


def criteria_rows(gate: Gate) -> list[list[str]]:
    """The rows of the gate's table below `HEADER`, as plain text; the last cell is `yes` or `NO`."""
    return [
        [
            title(one),
            _number(one, one.candidate),
            _number(one, one.production),
            one.statistic,
            _number(one, one.measured, signed=one.against_production),
            f"{'≥' if one.at_least else '≤'} {_number(one, one.limit, signed=one.against_production)}",
            str(one.n),
            "yes" if one.passed else "NO",
        ]
        for one in gate.criteria
    ]


def _number(criterion: Criterion, value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    digits = 3 if criterion.name == "calibration error" else 2
    return f"{value:{'+' if signed else ''}.{digits}f}"
