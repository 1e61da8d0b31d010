"""Pure functions that compute figures from exchanges, and verdicts from figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.results.record import Exchange

LATE_MS = 100.0
"""Median delay of the sender in milliseconds above which the sender is too slow for the load."""

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


def percentile(values: Iterable[float], percent: float) -> float:
    """Percentile by nearest rank: the smallest value that at least this percentage of the values do not exceed.

    NaN without values.
    """
    ordered = sorted(values)
    if not ordered:
        return math.nan
    # Rounded first, so that a floating-point error in 0.999 x 1000 does not select the 1000th value.
    return ordered[max(0, math.ceil(round(percent / 100 * len(ordered), 9)) - 1)]


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """The percentiles `p50` to `p99.9`."""
    ordered = sorted(values)
    return {f"p{percent:g}": percentile(ordered, percent) for percent in PERCENTILES}


@dataclass(frozen=True, slots=True)
class Load:
    """Figures of one period of load. Times are in milliseconds, rates per second, shares 0 to 1."""

    requests: int
    given_up: int
    """Requests in flight when the user stopped the run; no other figure includes them."""
    seconds: float
    offered: float
    """Requests per second during the time in which requests were sent."""
    achieved: float
    """Answers per second over the whole time, including the wait for the last answers."""
    sustained: float
    """Answers per second over the whole time without one median latency, which the last answers take in any case. It is
    close to `offered` for slow answers too, unless requests queue or fail."""
    goodput: float
    """Answers within the latency limit per second, over the whole time."""
    limit_ms: float
    latency_ms: dict[str, float]
    """Latency of answers from the planned send time."""
    answered: int
    unreadable: int
    sources: dict[str, int]
    """Number of answers by source: the engine, an identical request in flight, the cache."""
    failed: dict[str, int]
    """Number of failures by error class, including refusals."""
    share_429: float
    share_503: float
    reject_ms: dict[str, float]
    """Time from sending to the 429 or 503, for refused requests."""
    retry_after: dict[str, float]
    """Seconds in `Retry-After`, for refused requests."""
    retried: int
    """Number of answers that needed more than one attempt."""
    refused_attempts: dict[str, int]
    """Number of attempts before the last, by status."""
    late_ms: dict[str, float]
    """Delay of the sender after the planned send times. If it is large, the latencies include it."""


def load_figures(exchanges: Sequence[Exchange], *, limit_ms: float, sending: float, given_up: int = 0) -> Load:
    """
    Args:
        limit_ms: maximum latency of an answer that counts as goodput.
        sending: duration of sending in seconds.
    """
    answers = [each for each in exchanges if each.answered]
    refused = [each for each in exchanges if each.status in (429, 503)]
    began = min((each.intended for each in exchanges), default=0.0)
    seconds = max(sending, max((each.finished for each in exchanges), default=0.0) - began)
    median = percentile((each.latency for each in answers), 50) if answers else 0.0
    good = sum(1000 * each.latency <= limit_ms for each in answers)
    return Load(
        requests=len(exchanges),
        given_up=given_up,
        seconds=seconds,
        offered=_per(len(exchanges) + given_up, sending),
        achieved=_per(len(answers), seconds),
        sustained=_per(len(answers), max(sending, seconds - median)),
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
    """The result of one criterion. `passed` is None for a figure that is only reported."""

    criterion: str
    wanted: str
    found: str
    passed: bool | None

    def __str__(self) -> str:
        mark = {True: "pass", False: "FAIL", None: "-"}[self.passed]
        return f"  {mark:<4}  {self.criterion:<54}  {self.wanted:<10}  {self.found}"


def at_most(criterion: str, limit: float, found: float, unit: str = "") -> Verdict:
    """A criterion with an upper limit. NaN fails, because a missing figure proves nothing."""
    return Verdict(criterion, f"<= {limit:g}{unit}", f"{found:.4g}{unit}", found <= limit)


def at_least(criterion: str, limit: float, found: float, unit: str = "") -> Verdict:
    return Verdict(criterion, f">= {limit:g}{unit}", f"{found:.4g}{unit}", found >= limit)


def none_of(criterion: str, found: int) -> Verdict:
    return Verdict(criterion, "0", str(found), found == 0)


def reported(criterion: str, found: str) -> Verdict:
    return Verdict(criterion, "", found, None)


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """The exit status: 1 if a criterion is not met."""
    return int(any(verdict.passed is False for verdict in verdicts))


def load_text(load: Load) -> str:
    """The figures as text."""
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
    late = "   <- the sender was too slow: part of the latency is its delay"
    lines.append(f"sent late ms  {_row(load.late_ms)}{late if load.late_ms['p50'] > LATE_MS else ''}")
    return "\n".join(lines)


def _row(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.0f}" for name, value in values.items())


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "0"


def as_json(value: Any) -> Any:
    """Convert dataclasses to JSON objects, and NaN, which JSON does not have, to null."""
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of y over x; NaN for fewer than two different x."""
    if len({x for x, _ in points}) < 2:
        return math.nan
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    over = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return over / sum((x - mean_x) ** 2 for x, _ in points)
