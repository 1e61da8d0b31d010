"""Figures of a simulated fleet: one row for each period, and one for the whole run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.fleet.simulation import Request, Run
from loadtest.results.summary import percentile


@dataclass(frozen=True, slots=True)
class Period:
    """Requests that arrived in one period. Rates are per second, latencies in seconds; NaN without an answer."""

    start: float
    offered: float
    wanted: int
    """Replicas that the autoscaler asked for at the end of the period."""
    ready: int
    """Pods that were ready then."""
    p50: float
    p99: float
    retried: float
    """Retries after a refusal."""
    rejected: float
    """Requests refused after their last retry."""


@dataclass(frozen=True, slots=True)
class Total:
    """Figures of the whole run. Latencies are in seconds."""

    requests: int
    answered: int
    rejected: int
    """Requests refused after their last retry."""
    timed_out: int
    refused_attempts: int
    p50: float
    p99: float
    most_replicas: int
    pod_hours: float
    cost: float
    cost_per_million: float
    """Cost of a million answers; NaN without an answer."""


def periods(run: Run, seconds: float, length: float) -> list[Period]:
    """Divide the run into periods of `length` seconds, by the arrival of the requests."""
    count = max(1, round(seconds / length))
    members: list[list[Request]] = [[] for _ in range(count)]
    for request in run.requests:
        members[min(count - 1, int(request.arrived / length))].append(request)
    return [_period(run, number * length, length, group) for number, group in enumerate(members)]


def _period(run: Run, start: float, length: float, members: Sequence[Request]) -> Period:
    latencies = sorted(_latencies(members))
    _, wanted, ready = max(each for each in run.replicas if each[0] < start + length)
    return Period(
        start=start,
        offered=len(members) / length,
        wanted=wanted,
        ready=ready,
        p50=percentile(latencies, 50),
        p99=percentile(latencies, 99),
        retried=sum(each.attempts - 1 for each in members) / length,
        rejected=_rejected(members) / length,
    )


def total(run: Run, price: float) -> Total:
    """
    Args:
        price: price of a pod for one hour.
    """
    latencies = sorted(_latencies(run.requests))
    cost = run.pod_seconds / 3600 * price
    return Total(
        requests=len(run.requests),
        answered=len(latencies),
        rejected=_rejected(run.requests),
        timed_out=sum(each.status == 504 for each in run.requests),
        refused_attempts=run.refusals,
        p50=percentile(latencies, 50),
        p99=percentile(latencies, 99),
        most_replicas=max(wanted for _, wanted, _ in run.replicas),
        pod_hours=run.pod_seconds / 3600,
        cost=cost,
        cost_per_million=1e6 * cost / len(latencies) if latencies else float("nan"),
    )


def _latencies(requests: Sequence[Request]) -> list[float]:
    return [each.finished - each.arrived for each in requests if each.status == 200]


def _rejected(requests: Sequence[Request]) -> int:
    return sum(each.status == 429 for each in requests)


def table(rows: Sequence[Period], whole: Total) -> str:
    """The figures as text."""
    head = ("minute", "offered/s", "asked for", "ready", "p50 s", "p99 s", "retries/s", "refused/s")
    lines = ["".join(f"{name:>11}" for name in head)]
    for row in rows:
        cells = (
            f"{row.start / 60:.1f}",
            f"{row.offered:.2f}",
            str(row.wanted),
            str(row.ready),
            *("-" if value != value else f"{value:.2f}" for value in (row.p50, row.p99)),
            f"{row.retried:.2f}",
            f"{row.rejected:.2f}",
        )
        lines.append("".join(f"{cell:>11}" for cell in cells))
    share = whole.rejected / whole.requests if whole.requests else 0.0
    lines += [
        f"requests   {whole.requests}: {whole.answered} answered, {whole.rejected} refused after all retries "
        f"({share:.2%}), {whole.timed_out} timed out; {whole.refused_attempts} refused attempts",
        f"latency    p50 {whole.p50:.2f} s, p99 {whole.p99:.2f} s",
        f"cost       {whole.pod_hours:.2f} pod hours, at most {whole.most_replicas} replicas: {whole.cost:.2f}, "
        f"{whole.cost_per_million:.2f} for a million answers",
    ]
    return "\n".join(lines)
