"""Writes the Grafana dashboards: `python k8s/monitoring/dashboards.py` after a change here; a test compares.

A dashboard is a list of rows, a row is a list of panels, and a panel has a title, a unit and queries by legend.
Grafana's own JSON is ten times as long and cannot be reviewed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
_HERE = 'namespace=~"$namespace"'
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 24, 8


@dataclass(frozen=True)
class Panel:
    """One graph, or one number."""

    title: str
    queries: dict[str, str]
    """Legend → PromQL; `@` stands for the label filter of the dashboard's variables."""
    unit: str = "short"
    kind: str = "timeseries"
    maximum: float | None = None


def _quantiles(metric: str, match: str = "") -> dict[str, str]:
    buckets = f"sum by (le) (rate({metric}_bucket{{@{match}}}[$__rate_interval]))"
    return {f"p{percent}": f"histogram_quantile(0.{percent}, {buckets})" for percent in (50, 95, 99)}


def _rate(metric: str, by: str, match: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{@{match}}}[$__rate_interval]))"


def _share_of_outputs(part: str) -> str:
    """Share of the model's outputs, readable or not, that `part` counts."""
    readable, unreadable = (f"sum(rate(screening_{name}_total{{@}}[1h]))" for name in ("choices", "unreadable_answers"))
    return f"sum(rate({part}{{@}}[1h])) / ({readable} + {unreadable} > 0)"


SERVICE = [
    [
        Panel("Ready replicas", {"": "sum(screening_ready{@})"}, kind="stat"),
        Panel(
            "Errors of the service, 1 h",
            {"": "max(namespace:screening_requests:error_ratio_1h{@})"},
            "percentunit",
            "stat",
        ),
        Panel("95th percentile", {"": "max(namespace:screening_latency_seconds:p95_5m{@})"}, "s", "stat"),
        Panel(
            "Places taken", {"": "sum(screening_in_flight{@}) / sum(screening_capacity{@})"}, "percentunit", "stat", 1
        ),
    ],
    [
        Panel("Requests", {"{{status}} {{outcome}}": _rate("screening_requests_total", "status, outcome")}, "reqps"),
        Panel("Time of answered requests", _quantiles("screening_stage_seconds", ', stage="total"'), "s"),
        Panel(
            "Mean time by stage",
            {
                "{{stage}}": _rate("screening_stage_seconds_sum", "stage", ', stage!="total"')
                + " / "
                + _rate("screening_stage_seconds_count", "stage", ', stage!="total"')
            },
            "s",
        ),
    ],
    [
        Panel("In flight", {"{{pod}}": "sum by (pod) (screening_in_flight{@})"}),
        Panel("Queued", {"{{pod}}": "sum by (pod) (screening_queue_length{@})"}),
        Panel("Inside the engine", {"{{pod}}": "sum by (pod) (screening_engine_running{@})"}),
    ],
    [
        Panel("Refused", {"{{reason}}": _rate("screening_rejected_total", "reason")}, "reqps"),
        Panel("Given up", {"{{reason}}": _rate("screening_aborted_total", "reason")}, "reqps"),
        Panel("Answers by source", {"{{source}}": _rate("screening_answers_total", "source")}, "reqps"),
        Panel("Memory of cached answers", {"{{kind}}": "sum by (kind) (screening_cache_bytes{@})"}, "bytes"),
    ],
    [
        Panel(
            "Error budget burnt, in multiples of the allowed rate",
            {
                window: f"max(namespace:screening_requests:error_ratio_{window}{{@}}) / 0.005"
                for window in ("5m", "1h", "6h", "3d")
            },
        ),
        Panel(
            "Engine restarts, 1 h",
            {"{{cause}} {{result}}": "sum by (cause, result) (increase(screening_engine_restarts_total{@}[1h]))"},
        ),
        Panel(
            "Decisions to be stored",
            {"{{result}}": _rate("screening_decisions_total", "result")},
            "reqps",
        ),
        Panel("Bytes that wait to be stored", {"{{pod}}": "sum by (pod) (screening_decision_queue_bytes{@})"}, "bytes"),
        Panel("Engine alive", {"{{pod}}": "sum by (pod) (screening_engine_alive{@})"}, maximum=1),
    ],
]

MODEL = [
    [
        Panel(
            "Checkpoints served", {"{{name}} {{version}}": "count by (name, version) (screening_checkpoint_info{@})"}
        ),
        Panel("Swaps, 1 h", {"{{result}}": "sum by (result) (increase(screening_swaps_total{@}[1h]))"}),
        Panel("Pause of a swap", _quantiles("screening_swap_pause_seconds"), "s"),
    ],
    [
        Panel("Decisions by option", {"{{option}}": _rate("screening_choices_total", "option")}, "reqps"),
        Panel("Confidence", _quantiles("screening_confidence"), "percentunit", maximum=1),
        Panel("Out-of-domain score", _quantiles("screening_domain_score")),
    ],
    [
        Panel(
            "Answers that need review",
            {"": _share_of_outputs("screening_needs_review_total")},
            "percentunit",
        ),
        Panel("Unreadable answers", {"{{reason}}": _rate("screening_unreadable_answers_total", "reason")}, "reqps"),
        Panel(
            "Pictures unlike the training data",
            {"": _share_of_outputs("screening_out_of_domain_total")},
            "percentunit",
        ),
    ],
    [
        Panel("Tokens", {"{{kind}}": _rate("screening_tokens_total", "kind")}, "cps"),
        Panel("Registry polls", {"{{outcome}}": _rate("screening_registry_polls_total", "outcome")}, "cps"),
        Panel(
            "Replicas on an older version, or without a registry",
            {
                "{{pod}} behind": "sum by (pod) (screening_registry_behind{@})",
                "{{pod}} reachable": "sum by (pod) (screening_registry_reachable{@})",
            },
            maximum=1,
        ),
        Panel("Hanging reads of the store", {"{{pod}}": "sum by (pod) (screening_store_reads_hanging{@})"}),
    ],
]

_JOB = ', job_name=~"screening-retrain-.*"'
RETRAINING = [
    [
        Panel(
            "Since the last successful decision",
            {"": 'time() - max(kube_cronjob_status_last_successful_time{@, cronjob="screening-retrain"})'},
            "s",
            "stat",
        ),
        Panel("Running", {"": f"sum(kube_job_status_active{{@{_JOB}}})"}, kind="stat"),
        Panel("Suspended", {"": 'max(kube_cronjob_spec_suspend{@, cronjob="screening-retrain"})'}, kind="stat"),
    ],
    [
        Panel("Jobs that succeeded", {"{{job_name}}": f"sum by (job_name) (kube_job_status_succeeded{{@{_JOB}}})"}),
        Panel("Pods that failed", {"{{job_name}}": f"sum by (job_name) (kube_job_status_failed{{@{_JOB}}})"}),
        Panel(
            "Time of a running job",
            {
                "{{job_name}}": f"(time() - kube_job_status_start_time{{@{_JOB}}}) "
                "and on (namespace, job_name) kube_job_status_active > 0"
            },
            "s",
        ),
    ],
    [
        Panel("Exit status of the last call", {"": "max(screening_retrain_exit_status{@})"}, kind="stat"),
        Panel(
            "Outcome of the last run", {"{{outcome}}": "max by (outcome) (screening_retrain_run_info{@})"}, kind="stat"
        ),
        Panel(
            "GPU hours of this month",
            {
                "used": "max(screening_retrain_gpu_hours_month{@})",
                "limit": "max(screening_retrain_gpu_hours_month_limit{@})",
            },
        ),
        Panel("New labels at the last decision", {"": "max(screening_retrain_new_labels{@})"}),
    ],
    [
        Panel(
            "Checkpoints served", {"{{name}} {{version}}": "count by (name, version) (screening_checkpoint_info{@})"}
        ),
        Panel("Checkpoints loaded, 1 d", {"{{result}}": "sum by (result) (increase(screening_swaps_total{@}[1d]))"}),
    ],
]

_OPEN = 'screening_review_queue{@, state="open"}'
# Each replica reports the whole queue, which is in their common database: hence max, and no sum over replicas.
REVIEW = [
    [
        Panel("Tasks that wait", {"": f"max(sum by (pod) ({_OPEN}))"}, kind="stat"),
        Panel("Age of the oldest task", {"": "max(screening_review_queue_age_seconds{@})"}, "s", "stat"),
        Panel("Reviews, 1 d", {"": "sum(increase(screening_reviews_total{@}[1d]))"}, kind="stat"),
        Panel(
            "Answers that need review, 1 h",
            {"": _share_of_outputs("screening_needs_review_total")},
            "percentunit",
            "stat",
        ),
    ],
    [
        Panel("Tasks that wait, by reason", {"{{reason}}": f"max by (reason) ({_OPEN})"}),
        Panel(
            "Age of the oldest task, by reason",
            {"{{reason}}": "max by (reason) (screening_review_queue_age_seconds{@})"},
            "s",
        ),
        Panel("Tasks by state", {"{{state}}": "max by (state) (sum by (state, pod) (screening_review_queue{@}))"}),
    ],
    [
        Panel("Reviews, 1 h", {"{{task}}": "sum by (task) (increase(screening_reviews_total{@}[1h]))"}),
        Panel("Decisions to be stored", {"{{result}}": _rate("screening_decisions_total", "result")}, "reqps"),
        Panel("Bytes that wait to be stored", {"{{pod}}": "sum by (pod) (screening_decision_queue_bytes{@})"}, "bytes"),
    ],
]

DASHBOARDS = {"service": SERVICE, "model": MODEL, "retraining": RETRAINING, "review": REVIEW}


def dashboard(name: str, rows: list[list[Panel]]) -> dict[str, Any]:
    """A dashboard in Grafana's format."""
    panels: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        width = _WIDTH // len(row)
        for column, panel in enumerate(row):
            place = {"x": column * width, "y": number * _HEIGHT, "w": width, "h": _HEIGHT}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel)})
    return {
        "uid": f"screening-{name}",
        "title": f"Screening / {name}",
        "tags": ["screening"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_datasource(), _namespace()]},
        "panels": panels,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    return {
        "type": panel.kind,
        "title": panel.title,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query.replace("@", _HERE), "legendFormat": legend or panel.title}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _namespace() -> dict[str, Any]:
    query = "label_values(screening_ready, namespace)"
    return {
        "name": "namespace",
        "type": "query",
        "datasource": _SOURCE,
        "query": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
    }


def text(name: str) -> str:
    """The content of a dashboard's file."""
    return json.dumps(dashboard(name, DASHBOARDS[name]), indent=1) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(text(name), encoding="utf-8")
