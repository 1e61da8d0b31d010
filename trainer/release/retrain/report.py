"""One HTML page per run: its outcome, data, stages with their cost, and the gate. The page has no scripts, and links
the flips."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from screening.runtime.atomic_write import write_atomically
from trainer.release.promote.report import GATE_NAME, HEADER, Gate, criteria_rows
from trainer.release.retrain.explain import told
from trainer.release.retrain.ledger import Ledger
from trainer.release.retrain.stages import STAGES
from trainer.release.retrain.state import Run
from trainer.runs.html import CLOSING, opening

REPORT_NAME = "report.html"
_STYLE = """
table { border-collapse: collapse; width: 100%; background: #fff; font-size: .85rem; }
th, td { border: 1px solid var(--line); padding: .3rem .5rem; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; } .no { color: var(--worse); font-weight: 600; }
"""
Rows = Sequence[Sequence[str]]


def write_report(run: Run, directory: Path, ledger: Ledger) -> Path:
    """Write the page of a run, finished or not.

    Raises:
        OSError: it cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / REPORT_NAME
    write_atomically(path, page(run, directory, ledger))
    return path


def page(run: Run, directory: Path, ledger: Ledger) -> str:
    """The page as HTML."""
    outcome = run.outcome or "not finished"
    facts = [
        ["outcome", outcome],
        ["because", run.message or "-"],
        ["begun", f"{run.started}: {run.reason}"],
        ["ended", run.ended or "-"],
        ["calls of the command", str(run.calls)],
        ["GPU hours", f"{ledger.of_run(run.id):.2f}"],
    ]
    parts = [opening(f"Retraining {run.id}: {outcome}", _STYLE), _table((), facts), _data(run), _stages(run, ledger)]
    return "\n".join([*parts, _gate(run, directory), CLOSING])


def _data(run: Run) -> str:
    if "split" not in run.stages:
        return ""
    split, collected = run.stages["split"].result, run.stages["collect"].result
    rows = [[name, str(one["samples"]), str(one["products"])] for name, one in split["parts"].items()]
    without = split["parts"]["sft"].get("without_reasoning", 0)
    notes = [
        f"{collected['samples']} labelled samples of {collected['products']} products were collected; "
        f"{collected['unlabelled']} without a label were skipped.",
        f"{split['held_back']} samples are held back: their products belong to the frozen test set.",
        f"{without} samples of the part sft have no reasoning and could not be given one.",
        f"{collected['changed_in_test_set']} changed labels of the frozen test set were ignored.",
    ]
    if gone := collected.get("gone"):
        notes.append(f"{gone} samples were erased since the last run, so the data were divided again.")
    said = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<h2>Data</h2>{_table(('part', 'samples', 'products'), rows)}{said}"


def _stages(run: Run, ledger: Ledger) -> str:
    hours: dict[str, float] = {}
    for entry in ledger.entries:
        if entry.run == run.id:
            hours[entry.stage] = hours.get(entry.stage, 0.0) + entry.gpu_hours
    rows = []
    for stage in STAGES:
        done = run.stages.get(stage.name)
        what = told(done.result) if done else "not done"
        cost = f"{hours[stage.name]:.2f}" if stage.name in hours else "-"
        rows.append([stage.name, what, f"{done.seconds:g}" if done else "-", cost])
    return f"<h2>Stages</h2>{_table(('stage', 'result', 'seconds', 'GPU hours'), rows)}"


def _gate(run: Run, directory: Path) -> str:
    if "gate" not in run.stages:
        return ""
    result = run.stages["gate"].result
    gate = Gate.model_validate_json((Path(result["directory"]) / GATE_NAME).read_bytes())
    flips = ""
    if result["flips"]:
        link = os.path.relpath(result["flips"], directory)
        flips = (
            f'<p><a href="{escape(link, quote=True)}">Questions that are answered differently, with pictures</a></p>'
        )
    return f"<h2>Gate, on {gate.samples} samples</h2>{_table(HEADER, criteria_rows(gate))}{flips}"


def _table(header: Sequence[str], rows: Rows) -> str:
    head = f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in header)}</tr>" if header else ""
    return f"<table>{head}{''.join(f'<tr>{_cells(row)}</tr>' for row in rows)}</table>"


def _cells(row: Sequence[Any]) -> str:
    return "".join(f"<td{' class=no' if cell == 'NO' else ''}>{escape(cell)}</td>" for cell in row)
