"""What a call would do (`--dry-run`), and what the last run did (`--explain`), as text."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.release.retrain.context import Context
from trainer.release.retrain.ledger import Ledger
from trainer.release.retrain.stages import STAGES, Stage
from trainer.release.retrain.state import Decision, Run, State, key_of


def would_do(decision: Decision, context: Context | None) -> str:
    """Text of the decision and of what each stage would do.

    Args:
        context: the run that would continue; None for a new one.
    """
    lines = [f"decision: {decision.decision}; {decision.reason}"]
    if decision.decision == "skip":
        return "\n".join([*lines, "No stage would run."])
    if context is None:
        return "\n".join([*lines, f"A new run would run all stages: {', '.join(stage.name for stage in STAGES)}."])
    return "\n".join([*lines, f"Run {context.run.id} would continue:", *_stages(context)])


def _stages(context: Context) -> Iterator[str]:
    open_already = False
    for stage in STAGES:
        why = None if open_already else _why(context, stage)
        open_already = open_already or why is not None
        state = (why or "would run after it") if open_already else "done, and its inputs are the same"
        yield f"  {stage.name}: {state}"


def _why(context: Context, stage: Stage) -> str | None:
    """Why a stage would run; None if it is done."""
    found = context.run.stages.get(stage.name)
    if found is None:
        return "would run, because it is not done yet"
    if found.key != key_of(stage.inputs(context)):
        return "would run again, because its settings or inputs have changed"
    return None


def last_run(state: State, ledger: Ledger) -> str:
    """The last decision and the last run."""
    lines = []
    if decision := state.decision:
        lines.append(f"last decision, {decision.at}: {decision.decision}; {decision.reason}")
    if run := state.run:
        lines += list(_run(run, ledger))
    return "\n".join(lines) or "There is no run and no decision yet."


def _run(run: Run, ledger: Ledger) -> Iterator[str]:
    yield f"run {run.id}: {run.outcome or 'not finished'}{f'; {run.message}' if run.message else ''}"
    yield f"  begun because: {run.reason}"
    yield f"  calls: {run.calls}; GPU hours: {ledger.of_run(run.id):.2f}"
    for name, done in run.stages.items():
        yield f"  {name}: {told(done.result)} ({done.seconds:g} s)"


def told(result: dict[str, object]) -> str:
    """A stage's result in a few words."""
    if "skipped" in result:
        return f"left out, {result['skipped']}"
    shown = {
        name: (len(value) if isinstance(value, list) else value)
        for name, value in result.items()
        if value not in (None, "") and not isinstance(value, dict) and name not in ("directory", "checkpoint")
    }
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items()) or "done"
