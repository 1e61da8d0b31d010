"""Discrete-event simulation of a fleet of pods below the autoscaler.

A request goes to a random ready pod. The pod runs up to `slots` requests, lets `queue` more wait, and refuses the rest
with 429 and the service's `Retry-After`; the caller then waits and retries as the SDK does. Not simulated: hot swaps,
crashes, and the SDK's connection errors. Pods that are removed finish what they have.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from loadtest.fleet.autoscaler import SYNC_SECONDS, Autoscaler, Limits, Signal
from screening_client import constants

SCRAPE_SECONDS = 15.0
"""Interval at which Prometheus reads the pods (k8s/monitoring/pod-monitor.yaml)."""


@dataclass(frozen=True, slots=True)
class Model:
    """One pod: its limits and its speed. With n running requests, each takes `fixed + n x each` seconds."""

    slots: int
    queue: int
    deadline: float
    """Seconds in a pod after which the caller gets 504."""
    fixed: float
    each: float
    start_seconds: float
    """Seconds from the decision for a new pod until it is ready."""
    spread: float = 0.25
    """Standard deviation of the logarithm of a request's work; answers differ in length."""

    def seconds(self, running: int) -> float:
        return self.fixed + running * self.each


@dataclass(slots=True)
class Request:
    """One request as its caller sees it. Times are in seconds since the start."""

    arrived: float
    work: float
    """Work as a multiple of an average request."""
    attempts: int = 0
    entered: float = 0.0
    began: float = 0.0
    finished: float = math.nan
    status: int = 0
    """200, 429 after the last retry, or 504; 0 while it is in the fleet."""


@dataclass(slots=True)
class Run:
    """What happened."""

    requests: list[Request] = field(default_factory=list)
    refusals: int = 0
    """Refused attempts, including those whose retry succeeded."""
    replicas: list[tuple[float, int, int]] = field(default_factory=list)
    """Time, replicas that the autoscaler asks for, and ready pods."""
    pod_seconds: float = 0.0
    """Time for which pods existed, starting and finishing included."""


class _Pod:
    """All running requests progress at the same speed, so the one with the least work left is the next to finish."""

    def __init__(self, model: Model, created: float, number: int) -> None:
        self.created, self.number = created, number
        self.ready = self.leaving = False
        self.version = 0
        """Increases with every change; an event of an older version is out of date."""
        self._model = model
        self._waiting: deque[Request] = deque()
        self._running: list[tuple[float, int, Request]] = []
        self._order = itertools.count()
        self._progress = self._at = 0.0

    @property
    def inside(self) -> int:
        return len(self._waiting) + len(self._running)

    def become_ready(self, _: float) -> None:
        self.ready = True

    def admit(self, now: float, request: Request) -> bool:
        """Take a request, unless the queue is full."""
        if self.inside >= self._model.slots + self._model.queue:
            return False
        request.entered = now
        self._waiting.append(request)
        self._fill(now)
        return True

    def retry_after(self) -> int:
        """The service's estimate in `service/admission/admission.py`."""
        mean = self._model.seconds(self._model.slots)
        return max(1, math.ceil((len(self._waiting) + 1) * mean / self._model.slots))

    def finish(self, now: float) -> Request:
        """Remove the request that is finished now."""
        self._advance(now)
        _, _, request = heapq.heappop(self._running)
        self._fill(now)
        return request

    def next_finish(self) -> float | None:
        if not self._running:
            return None
        return self._at + max(0.0, self._running[0][0] - self._progress) * self._model.seconds(len(self._running))

    def _fill(self, now: float) -> None:
        self._advance(now)
        while self._waiting and len(self._running) < self._model.slots:
            request = self._waiting.popleft()
            request.began = now
            heapq.heappush(self._running, (self._progress + request.work, next(self._order), request))

    def _advance(self, now: float) -> None:
        if self._running:
            self._progress += (now - self._at) / self._model.seconds(len(self._running))
        self._at = now
        self.version += 1


class Fleet:
    """The simulation. `run` may be called once."""

    def __init__(self, model: Model, limits: Limits, seed: int = 0) -> None:
        self._model = model
        self._chance = random.Random(seed)  # noqa: S311 - a simulation needs no cryptographic randomness
        self._signal = Signal()
        self._scaler = Autoscaler(limits, limits.fewest)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._pods: list[_Pod] = []
        self._numbers = itertools.count()
        self._run = Run()
        for _ in range(limits.fewest):
            self._create_pod(0.0).ready = True

    def run(self, arrivals: Iterable[float], seconds: float) -> Run:
        """Simulate until `seconds`, and on until the last request has left.

        Args:
            arrivals: send times in order.
        """
        self._arrivals = iter(arrivals)
        self._next_arrival()
        self._every(SCRAPE_SECONDS, seconds, self._scrape)
        self._every(SYNC_SECONDS, seconds, self._scale)
        now = 0.0
        while self._events:
            now, _, happen = heapq.heappop(self._events)
            happen(now)
        for pod in self._pods:
            self._run.pod_seconds += seconds - pod.created
        return self._run

    def _at(self, moment: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), happen))

    def _every(self, interval: float, until: float, happen: Callable[[float], None]) -> None:
        for number in range(math.ceil(until / interval)):
            self._at(number * interval, happen)

    def _next_arrival(self) -> None:
        moment = next(self._arrivals, None)
        if moment is not None:
            self._at(moment, self._arrive)

    def _arrive(self, now: float) -> None:
        spread = self._model.spread
        request = Request(now, self._chance.lognormvariate(-spread * spread / 2, spread))
        self._run.requests.append(request)
        self._ask(now, request)
        self._next_arrival()

    def _ask(self, now: float, request: Request) -> None:
        request.attempts += 1
        pod = self._chance.choice([pod for pod in self._pods if pod.ready and not pod.leaving])
        if pod.admit(now, request):
            self._expect(pod)
            return
        self._signal.refused(now)
        self._run.refusals += 1
        if request.attempts > constants.MAX_RETRIES or pod.retry_after() > constants.LONGEST_RETRY_AFTER:
            request.finished, request.status = now, 429
            return
        longest = min(constants.LONGEST_WAIT, constants.FIRST_WAIT * 2 ** (request.attempts - 1))
        wait = pod.retry_after() + self._chance.uniform(0, longest)
        self._at(now + wait, lambda moment: self._ask(moment, request))

    def _expect(self, pod: _Pod) -> None:
        moment, version = pod.next_finish(), pod.version
        if moment is not None:
            self._at(moment, lambda now: self._finish(now, pod) if pod.version == version else None)

    def _finish(self, now: float, pod: _Pod) -> None:
        request = pod.finish(now)
        request.finished, request.status = now, 200 if now - request.entered <= self._model.deadline else 504
        self._signal.answered(now, now - request.began)
        self._expect(pod)
        self._remove_if_idle(now, pod)

    def _scrape(self, now: float) -> None:
        self._signal.scrape(now, {pod.number: pod.inside for pod in self._pods if pod.ready})

    def _scale(self, now: float) -> None:
        wanted = self._scaler.decide(now, self._signal.value(now))
        kept = [pod for pod in self._pods if not pod.leaving]
        for _ in range(wanted - len(kept)):
            pod = self._create_pod(now)
            self._at(now + self._model.start_seconds, pod.become_ready)
        # Kubernetes removes pods that are not ready first, and of the others the youngest.
        for pod in sorted(kept, key=lambda pod: (pod.ready, -pod.created))[: max(0, len(kept) - wanted)]:
            pod.leaving = True
            self._remove_if_idle(now, pod)
        self._run.replicas.append((now, wanted, sum(pod.ready and not pod.leaving for pod in self._pods)))

    def _create_pod(self, now: float) -> _Pod:
        pod = _Pod(self._model, now, next(self._numbers))
        self._pods.append(pod)
        return pod

    def _remove_if_idle(self, now: float, pod: _Pod) -> None:
        if pod.leaving and not pod.inside and pod in self._pods:
            self._pods.remove(pod)
            self._run.pod_seconds += now - pod.created
