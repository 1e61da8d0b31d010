"""From exchanges to figures, and from figures to verdicts. Pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.results.record import Exchange

LATE_MS = 100.0
"""A sender that is later than this at the median is not fast enough for the load."""

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least so many percent of the values do not exceed (nearest rank): one that occurred.

    NaN when there are none.
    """
    ordered = sorted(values)
    if not ordered:
        return math.nan
    # Rounded first: 0.999 x 1000 must not become the 1000th by a binary digit.
    return ordered[max(0, math.ceil(round(percent / 100 * len(ordered), 9)) - 1)]


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """`p50` to `p99.9`."""
    ordered = sorted(values)
    return {f"p{percent:g}": percentile(ordered, percent) for percent in PERCENTILES}


@dataclass(frozen=True, slots=True)
class Load:
    """Figures of one stretch of load. Times in milliseconds, rates per second, shares 0 to 1."""

    requests: int
    given_up: int
    """Under way when the run was stopped by hand; in no other figure."""
    seconds: float
    offered: float
    """Requests sent per second of the time in which requests were sent."""
    achieved: float
    """Answers per second of the whole time, the wait for the last ones included."""
    goodput: float
    """Answers within the limit per second of the whole time."""
    limit_ms: float
    latency_ms: dict[str, float]
    """Of answers, from the moment at which the request was to be sent."""
    answered: int
    unreadable: int
    sources: dict[str, int]
    """Answers by where the service had them from: its engine, an identical request in flight, its cache."""
    failed: dict[str, int]
    """By class of error, refusals included."""
    share_429: float
    share_503: float
    reject_ms: dict[str, float]
    """From sending to the 429 or 503, of requests that ended so."""
    retry_after: dict[str, float]
    """Seconds that refused callers were told to wait."""
    retried: int
    """Answers that took more than one attempt."""
    refused_attempts: dict[str, int]
    """Attempts before the last, by status."""
    late_ms: dict[str, float]
    """How late requests were sent. The sender's own fault: when it is large, latencies are the sender's too."""


def load_figures(exchanges: Sequence[Exchange], *, limit_ms: float, sending: float, given_up: int = 0) -> Load:
    """
    Args:
        limit_ms: an answer that took longer is no goodput.
        sending: seconds in which requests were sent.
    """
    answers = [each for each in exchanges if each.answered]
    refused = [each for each in exchanges if each.status in (429, 503)]
    began = min((each.intended for each in exchanges), default=0.0)
    seconds = max(sending, max((each.finished for each in exchanges), default=0.0) - began)
    good = sum(1000 * each.latency <= limit_ms for each in answers)
    return Load(
        requests=len(exchanges),
        given_up=given_up,
        seconds=seconds,
        offered=_per(len(exchanges) + given_up, sending),
        achieved=_per(len(answers), seconds),
        goodput=_per(good, seconds),
        limit_ms=limit_ms,
        latency_ms=percentiles(1000 * each.latency for each in answers),
        answered=len(answers),
        unreadable=sum(each.outcome == "unreadable" for each in answers),
        sources=dict(Counter(each.source or "unknown" for each in answers)),
        failed=dict(Counter(each.error or "unknown" for each in exchanges if not each.answered)),
        share_429=_share(exchanges, 429),
        share_503=_share(exchanges, 503),
        reject_ms=percentiles(1000 * (each.finished - each.sent) for each in refused),
        retry_after=percentiles(each.retry_after for each in refused if each.retry_after is not None),
        retried=sum(each.attempts > 1 for each in answers),
        refused_attempts=dict(Counter(str(status) for each in exchanges for status in each.refusals)),
        late_ms=percentiles(1000 * (each.sent - each.intended) for each in exchanges),
    )


def _share(exchanges: Sequence[Exchange], status: int) -> float:
    return _per(sum(each.status == status for each in exchanges), len(exchanges))


def _per(count: float, whole: float) -> float:
    return count / whole if whole else 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One criterion. `passed` is None for a figure that is only reported."""

    criterion: str
    wanted: str
    found: str
    passed: bool | None

    def __str__(self) -> str:
        mark = {True: "pass", False: "FAIL", None: "-"}[self.passed]
        return f"  {mark:<4}  {self.criterion:<54}  {self.wanted:<10}  {self.found}"


def at_most(criterion: str, limit: float, found: float, unit: str = "") -> Verdict:
    """NaN fails: a figure that is missing proves nothing."""
    return Verdict(criterion, f"<= {limit:g}{unit}", f"{found:.4g}{unit}", found <= limit)


def at_least(criterion: str, limit: float, found: float, unit: str = "") -> Verdict:
    return Verdict(criterion, f">= {limit:g}{unit}", f"{found:.4g}{unit}", found >= limit)


def none_of(criterion: str, found: int) -> Verdict:
    return Verdict(criterion, "0", str(found), found == 0)


def reported(criterion: str, found: str) -> Verdict:
    return Verdict(criterion, "", found, None)


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """1 if a criterion is not met."""
    return int(any(verdict.passed is False for verdict in verdicts))


def load_text(load: Load) -> str:
    """The figures for people."""
    lines = [
        f"requests      {load.requests} in {load.seconds:.1f} s"
        + (f", {load.given_up} given up at the stop" if load.given_up else ""),
        f"rate          offered {load.offered:.2f}/s, answered {load.achieved:.2f}/s, "
        f"within {load.limit_ms:g} ms {load.goodput:.2f}/s",
        f"latency ms    {_row(load.latency_ms)}",
        f"not answered  {_counts(load.failed)}; unreadable answers: {load.unreadable}",
        f"refused       429: {load.share_429:.1%}, 503: {load.share_503:.1%}"
        + (f"; time to refuse, ms: {_row(load.reject_ms)}" if load.share_429 or load.share_503 else ""),
    ]
    if set(load.sources) - {"engine"}:
        lines.append(f"answered by   {_counts(load.sources)}")
    if load.retried or load.refused_attempts:
        lines.append(f"retried       {load.retried} answers; refused attempts: {_counts(load.refused_attempts)}")
    late = "   <- the sender could not keep up: part of the latency is its own"
    lines.append(f"sent late ms  {_row(load.late_ms)}{late if load.late_ms['p50'] > LATE_MS else ''}")
    return "\n".join(lines)


def _row(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.0f}" for name, value in values.items())


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "0"


def as_json(value: Any) -> Any:
    """Dataclasses as objects, and NaN, which JSON does not have, as null."""
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares rise of y per unit of x; NaN for fewer than two different x."""
    if len({x for x, _ in points}) < 2:
        return math.nan
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    over = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return over / sum((x - mean_x) ** 2 for x, _ in points)
