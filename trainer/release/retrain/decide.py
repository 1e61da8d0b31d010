"""Is there work? It runs on a machine without a GPU, so it imports neither torch nor an engine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from screening.checkpoint.registry import Registry
from screening.runtime.utc_time import utc_now_text
from trainer.release.promote.moves import read_history
from trainer.release.promote.standing import read_standing
from trainer.release.retrain.collect import Collector, News, news
from trainer.release.retrain.config import Settings
from trainer.release.retrain.context import SPLIT_NAME
from trainer.release.retrain.errors import NO_START, BadInput
from trainer.release.retrain.ledger import Ledger
from trainer.release.retrain.state import CLOCK_ERROR, Decision, Run, State, utc_now

GPU_STAGES = ("sft", "hard-cases", "hcm-grpo", "calibrate", "evaluate", "publish")


def decide(settings: Settings, state: State, registry: Registry, collector: Collector, ledger: Ledger) -> Decision:
    """Whether a call should work, and why.

    Raises:
        BadInput: there is work, and no checkpoint from which the training could start.
        DataError, CollectError, SplitError: the data cannot be read.
        RegistryError: the registry does not answer.
    """
    now = utc_now()
    if run := state.unfinished:
        if _needs_gpu(run) and (spent := _spent(settings, ledger, now)):
            return _decision("skip", f"run {run.id} is not finished, and {spent}")
        return _decision("run", f"run {run.id} is not finished; it continues after {_last(run)}")
    found = news(collector, snapshot_of(state.finished), settings.work / SPLIT_NAME)
    reasons = [
        *_too_few(settings, found),
        *_too_recent(settings, state.finished, registry, now),
        *filter(None, [_spent(settings, ledger, now)]),
    ]
    said = f"{found.labels} new labels of {found.products} products"
    if reasons:
        return _decision("skip", "; ".join(reasons), found)
    if settings.training.base is None and (registry.missing or read_standing(registry).alias is None):
        raise BadInput(NO_START)
    return _decision("run", said, found)


def snapshot_of(run: Run | None) -> Path | None:
    """The data of a run, if they still exist."""
    done = run.stages.get("collect") if run else None
    path = Path(done.result["directory"]) if done else None
    return path if path and path.is_dir() else None


def _decision(kind: str, reason: str, found: News = News(0, 0)) -> Decision:  # noqa: B008 - immutable
    return Decision.model_validate(
        {
            "at": utc_now_text(),
            "decision": kind,
            "reason": reason,
            "new_labels": found.labels,
            "new_products": found.products,
        }
    )


def _too_few(settings: Settings, found: News) -> list[str]:
    when = settings.when
    reasons = []
    if found.labels < when.new_labels:
        reasons.append(f"{found.labels} labels are new or changed, and when.new_labels asks for {when.new_labels}")
    if found.products < when.new_products:
        reasons.append(f"they show {found.products} products, and when.new_products asks for {when.new_products}")
    return reasons


def _too_recent(settings: Settings, finished: Run | None, registry: Registry, now: datetime) -> list[str]:
    reasons = []
    if finished and finished.ended:
        reasons += _since("the last run ended", finished.ended, settings.when.days_after_run, "days_after_run", now)
    moves = [] if registry.missing else read_history(registry).moves
    if back := next((move for move in reversed(moves) if move.kind == "rollback"), None):
        days = settings.when.days_after_rollback
        reasons += _since("production was rolled back", back.at, days, "days_after_rollback", now)
    return reasons


def _since(what: str, at: str, days: float, setting: str, now: datetime) -> list[str]:
    passed = now - datetime.fromisoformat(at).astimezone(UTC)
    if passed >= timedelta(days=days) or passed < -CLOCK_ERROR:
        return []
    return [f"{what} {at}, and when.{setting} asks for {days:g} days"]


def _spent(settings: Settings, ledger: Ledger, now: datetime) -> str | None:
    most = settings.budget.gpu_hours_per_month
    if most is None or (spent := ledger.spent(now)) < most:
        return None
    return f"{spent:.2f} GPU hours of this month's {most:g} are spent (budget.gpu_hours_per_month)"


def _needs_gpu(run: Run) -> bool:
    return any(stage not in run.stages for stage in GPU_STAGES)


def _last(run: Run) -> str:
    return f"the stage {list(run.stages)[-1]}" if run.stages else "its decision"
