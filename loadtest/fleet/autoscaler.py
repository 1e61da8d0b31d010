"""The autoscaler: the query of the ScaledObject, and the rules by which Kubernetes follows it.

All limits come from `k8s/components/autoscaling/scaled-object.yaml`. The query is PromQL, which this module cannot run,
so `Signal` computes the same in Python, and `read_limits` refuses a manifest with another query.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from screening.errors import UserError

MANIFEST = Path("k8s", "components", "autoscaling", "scaled-object.yaml")
"""Path within the repository."""
QUERY = (
    'sum(avg_over_time(screening_in_flight{namespace="screening"}[1m])) '
    '+ ( sum(rate(screening_rejected_total{namespace="screening", reason="queue_full"}[1m])) '
    '* ( sum(rate(screening_stage_seconds_sum{namespace="screening", stage="engine"}[5m])) '
    '/ (sum(rate(screening_stage_seconds_count{namespace="screening", stage="engine"}[5m])) > 0) ) '
    "or vector(0) )"
)
"""The query that `Signal` computes, with single spaces."""
LOAD_WINDOW = 60.0
"""Seconds over which the query averages the requests in flight and counts refusals."""
ENGINE_WINDOW = 300.0
"""Seconds over which the query averages the time of a request in the engine."""
SYNC_SECONDS = 15.0
"""Interval of the horizontal pod autoscaler, the default of kube-controller-manager."""
TOLERANCE = 0.1
"""Relative deviation from the target that changes nothing, the default of kube-controller-manager."""


class ManifestError(UserError):
    """The manifest of the autoscaler lacks something or states a rule that is not simulated."""


@dataclass(frozen=True, slots=True)
class Direction:
    """The rules for one direction: no faster than the most permissive of `policies`."""

    window: float
    """Stabilization window in seconds."""
    policies: tuple[tuple[int, float], ...]
    """Maximum number of pods, and the seconds in which they may come or go."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the ScaledObject states."""

    target: float
    """Requests per pod."""
    fewest: int
    most: int
    up: Direction
    down: Direction


def read_limits(path: Path) -> Limits:
    """Read the ScaledObject.

    Raises:
        ManifestError: an entry is missing, or the simulation would not do what the manifest says.
    """
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
        (trigger,) = spec["triggers"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        limits = Limits(
            target=float(trigger["metadata"]["threshold"]),
            fewest=int(spec["minReplicaCount"]),
            most=int(spec["maxReplicaCount"]),
            up=_direction(behavior["scaleUp"]),
            down=_direction(behavior["scaleDown"]),
        )
        if limits.fewest < 1:
            raise ValueError("minReplicaCount is below 1, and scaling from zero is not simulated")
        query, kind = trigger["metadata"]["query"], trigger["metricType"]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read as the ScaledObject of the service ({error!r}).") from error
    if (" ".join(query.split()), kind) != (QUERY, "AverageValue"):
        raise ManifestError(
            f"{path}: the simulation implements another query or metric type. Change `Signal` and QUERY in "
            "loadtest/fleet/autoscaler.py in the same way."
        )
    return limits


def _direction(rules: Mapping[str, Any]) -> Direction:
    if any(policy["type"] != "Pods" for policy in rules["policies"]) or rules.get("selectPolicy", "Max") != "Max":
        raise ValueError("only policies of type Pods with selectPolicy Max are simulated")
    policies = tuple((int(policy["value"]), float(policy["periodSeconds"])) for policy in rules["policies"])
    return Direction(float(rules["stabilizationWindowSeconds"]), policies)


class _Window:
    """Sum and number of the values of the last `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._values: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def add(self, now: float, value: float) -> None:
        self._values.append((now, value))
        self._sum += value

    def of(self, now: float) -> tuple[float, int]:
        while self._values and self._values[0][0] <= now - self._seconds:
            self._sum -= self._values.popleft()[1]
        return (self._sum, len(self._values)) if self._values else (0.0, 0)


class Signal:
    """The value of the query. It differs from Prometheus in one point: rates are exact, not between two scrapes."""

    def __init__(self) -> None:
        self._in_flight: dict[int, _Window] = {}
        self._refused = _Window(LOAD_WINDOW)
        self._engine = _Window(ENGINE_WINDOW)

    def scrape(self, now: float, in_flight: Mapping[int, int]) -> None:
        """Take the requests in flight of each pod, by its number."""
        for pod, value in in_flight.items():
            self._in_flight.setdefault(pod, _Window(LOAD_WINDOW)).add(now, value)

    def refused(self, now: float) -> None:
        """Count a request that was refused with `queue_full`."""
        self._refused.add(now, 1)

    def answered(self, now: float, engine_seconds: float) -> None:
        self._engine.add(now, engine_seconds)

    def value(self, now: float) -> float:
        """The load in requests."""
        pods = [window.of(now) for window in self._in_flight.values()]
        engine, answers = self._engine.of(now)
        refused_work = self._refused.of(now)[1] / LOAD_WINDOW * engine / answers if answers else 0.0
        return sum(total / count for total, count in pods if count) + refused_work


class Autoscaler:
    """The horizontal pod autoscaler with an external metric of type AverageValue (Kubernetes 1.33)."""

    def __init__(self, limits: Limits, replicas: int) -> None:
        self.limits = limits
        self.replicas = replicas
        self._wanted = [(0.0, replicas)]
        self._changes: list[tuple[float, int]] = []

    def decide(self, now: float, signal: float) -> int:
        """The number of replicas from now on."""
        wanted = self.replicas
        if abs(signal / (self.limits.target * self.replicas) - 1) > TOLERANCE:
            wanted = math.ceil(signal / self.limits.target)
        bounded = self._bounded(now, self._stabilized(now, wanted))
        if bounded != self.replicas:
            self._changes.append((now, bounded - self.replicas))
        self.replicas = bounded
        return bounded

    def _stabilized(self, now: float, wanted: int) -> int:
        """Upwards the smallest value wanted within the window of scaling up, downwards the largest of its window."""
        up, down = self.limits.up, self.limits.down
        self._wanted = [each for each in self._wanted if each[0] > now - max(up.window, down.window)]
        self._wanted.append((now, wanted))
        lowest = min(value for at, value in self._wanted if at > now - up.window or at == now)
        highest = max(value for at, value in self._wanted if at > now - down.window or at == now)
        return min(max(self.replicas, lowest), highest)

    def _bounded(self, now: float, wanted: int) -> int:
        limits = self.limits
        ceiling = max(self._before(now, seconds) + pods for pods, seconds in limits.up.policies)
        floor = min(self._before(now, seconds) - pods for pods, seconds in limits.down.policies)
        # A policy never forces a change in its own direction: it only bounds one.
        wanted = min(wanted, max(ceiling, self.replicas)) if wanted > self.replicas else wanted
        wanted = max(wanted, min(floor, self.replicas)) if wanted < self.replicas else wanted
        return min(max(wanted, limits.fewest), limits.most)

    def _before(self, now: float, seconds: float) -> int:
        """The number of replicas at the start of a policy's period."""
        return self.replicas - sum(_recent(self._changes, now - seconds))


def _recent(changes: Sequence[tuple[float, int]], since: float) -> list[int]:
    return [change for at, change in changes if at > since]
