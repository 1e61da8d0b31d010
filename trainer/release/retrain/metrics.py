"""Metrics of retraining for Prometheus' textfile collector, in a file that each call replaces at its end."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from trainer.release.retrain.config import Settings
from trainer.release.retrain.ledger import Ledger
from trainer.release.retrain.state import State, utc_now


def write_metrics(settings: Settings, state: State, ledger: Ledger, status: int) -> None:
    """Write the file that the configuration names, by one rename.

    Args:
        status: exit status of the call.

    Raises:
        OSError: it cannot be written.
    """
    if settings.metrics_file is None:
        return
    registry = CollectorRegistry()

    def gauge(name: str, text: str, value: float, **labels: str) -> None:
        made = Gauge(name, text, list(labels), registry=registry)
        (made.labels(**labels) if labels else made).set(value)

    now = utc_now()
    gauge(
        "screening_retrain_last_call_timestamp_seconds", "Unix time at which the command last ended.", now.timestamp()
    )
    gauge(
        "screening_retrain_exit_status",
        "Exit status of the last call; 4: a service does not serve the promoted model.",
        status,
    )
    gauge(
        "screening_retrain_gpu_hours_month",
        "GPU hours that retraining has used in this calendar month (UTC).",
        ledger.spent(now),
    )
    if (most := settings.budget.gpu_hours_per_month) is not None:
        gauge("screening_retrain_gpu_hours_month_limit", "GPU hours that retraining may use in a calendar month.", most)
    if state.decision:
        gauge("screening_retrain_new_labels", "Labels that were new at the last decision.", state.decision.new_labels)
    if run := state.run:
        gauge(
            "screening_retrain_run_info",
            "1 for the last run, by its outcome.",
            1,
            run=run.id,
            outcome=run.outcome or "unfinished",
        )
        gauge(
            "screening_retrain_run_started_timestamp_seconds",
            "Unix time at which the last run began.",
            _stamp(run.started),
        )
        gauge("screening_retrain_run_gpu_hours", "GPU hours of the last run.", ledger.of_run(run.id))
        if run.ended:
            gauge(
                "screening_retrain_run_ended_timestamp_seconds",
                "Unix time at which the last run ended.",
                _stamp(run.ended),
            )
    if state.finished and state.finished.ended:
        gauge(
            "screening_retrain_last_finished_timestamp_seconds",
            "Unix time of the end of the last run that was promoted, refused or unchanged.",
            _stamp(state.finished.ended),
        )
    Path(settings.metrics_file).parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(settings.metrics_file), registry)


def _stamp(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
