"""The queries of the Grafana dashboards, and what a Prometheus answers to them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from loadtest.console import REPOSITORY

DASHBOARDS = REPOSITORY / "k8s" / "monitoring" / "dashboards"
_SHOWN = 3
"""Series of one query that the table shows."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel."""

    dashboard: str
    panel: str
    legend: str
    """Grafana's template for the name of a series, such as `{{status}}`."""
    expression: str
    """PromQL, with the dashboard's variables replaced."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query returned: one number for each series that has one. Empty: no data."""

    query: Query
    values: tuple[tuple[str, float], ...]


def queries(*, rate_interval: str, folder: Path = DASHBOARDS) -> Iterator[Query]:
    """Every query of every dashboard.

    Args:
        rate_interval: replaces Grafana's `$__rate_interval`; at least four times the scrape interval.
    """
    for file in sorted(folder.glob("*.json")):
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", rate_interval).replace("$namespace", ".*")
                yield Query(file.stem, panel["title"], target["legendFormat"], expression)


def asking(prometheus: str) -> httpx.Client:
    """A client for `ask` and `alerts`. The caller closes it. Making one takes longer than a query.

    Args:
        prometheus: URL of the Prometheus.
    """
    return httpx.Client(base_url=prometheus, timeout=30, trust_env=False)


def ask(prometheus: httpx.Client, query: Query) -> Answer:
    """Ask a Prometheus for the present value of a query. NaN is no value: Grafana draws nothing either.

    Raises:
        httpx.HTTPError: Prometheus did not answer, or refused the query.
    """
    response = prometheus.get("/api/v1/query", params={"query": query.expression})
    response.raise_for_status()
    found = ((_name(query.legend, one["metric"]), float(one["value"][1])) for one in response.json()["data"]["result"])
    return Answer(query, tuple((name, value) for name, value in found if not math.isnan(value)))


def alerts(prometheus: httpx.Client) -> list[str]:
    """Alerts that fire or are about to, as `NAME (state)`.

    Raises:
        httpx.HTTPError: Prometheus did not answer.
    """
    response = prometheus.get("/api/v1/alerts")
    response.raise_for_status()
    return sorted({f"{one['labels']['alertname']} ({one['state']})" for one in response.json()["data"]["alerts"]})


def table(answers: Sequence[Answer]) -> str:
    """One line per query, by dashboard and panel."""
    lines = []
    dashboard = None
    for answer in answers:
        if answer.query.dashboard != dashboard:
            dashboard = answer.query.dashboard
            lines.append(f"\n{dashboard}")
        shown = answer.values[:_SHOWN]
        values = ", ".join(f"{'' if name == answer.query.panel else name} {value:.4g}".strip() for name, value in shown)
        more = len(answer.values) - _SHOWN
        lines.append(f"  {answer.query.panel:<54} {values or 'no data'}{f', and {more} more' if more > 0 else ''}")
    return "\n".join(lines).lstrip("\n")


def _name(legend: str, labels: dict[str, Any]) -> str:
    for label, value in labels.items():
        legend = legend.replace("{{" + label + "}}", str(value))
    return legend
