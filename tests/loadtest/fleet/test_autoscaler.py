"""The autoscaler against the manifest, and against the rules of Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtest.console import REPOSITORY
from loadtest.fleet.autoscaler import (
    ENGINE_WINDOW,
    LOAD_WINDOW,
    MANIFEST,
    QUERY,
    Autoscaler,
    Direction,
    Limits,
    ManifestError,
    Signal,
    read_limits,
)
from loadtest.fleet.simulation import SCRAPE_SECONDS

LIMITS = Limits(12, 2, 8, up=Direction(60, ((2, 60),)), down=Direction(600, ((1, 120),)))


@pytest.fixture
def spec() -> Any:
    return yaml.safe_load((REPOSITORY / MANIFEST).read_text())["spec"]


def test_the_simulation_has_the_query_and_the_limits_of_the_manifest(spec: Any) -> None:
    (trigger,) = spec["triggers"]
    assert QUERY.split() == trigger["metadata"]["query"].split()
    assert f"[{LOAD_WINDOW / 60:g}m]" in QUERY and f"[{ENGINE_WINDOW / 60:g}m]" in QUERY
    limits = read_limits(REPOSITORY / MANIFEST)
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert (limits.target, limits.fewest, limits.most) == (
        float(trigger["metadata"]["threshold"]),
        spec["minReplicaCount"],
        spec["maxReplicaCount"],
    )
    for direction, rules in ((limits.up, behavior["scaleUp"]), (limits.down, behavior["scaleDown"])):
        assert direction.window == rules["stabilizationWindowSeconds"]
        assert direction.policies == tuple((each["value"], each["periodSeconds"]) for each in rules["policies"])


def test_the_simulation_reads_the_pods_as_often_as_prometheus() -> None:
    monitor = yaml.safe_load((REPOSITORY / "k8s" / "monitoring" / "pod-monitor.yaml").read_text())
    assert {each["interval"] for each in monitor["spec"]["podMetricsEndpoints"]} == {f"{SCRAPE_SECONDS:g}s"}


@pytest.mark.parametrize(
    ("old", "new"),
    [("[1m]", "[2m]"), ("minReplicaCount: 2", "minReplicaCount: 0"), ("type: Pods", "type: Percent"), ("spec:", "x:")],
)
def test_a_manifest_that_the_simulation_would_not_follow_is_refused(old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "scaled-object.yaml"
    path.write_text((REPOSITORY / MANIFEST).read_text().replace(old, new))
    with pytest.raises(ManifestError, match="scaled-object"):
        read_limits(path)


def test_the_signal_is_the_sum_of_the_mean_requests_of_each_pod() -> None:
    # The same load as in tests/k8s/test_rules.py, where promtool runs the query itself.
    signal = Signal()
    for number in range(20):
        signal.scrape(15.0 * number, {0: 9, 1: 0})
    assert signal.value(285.0) == 9


def test_refused_requests_count_as_the_work_that_they_would_have_been() -> None:
    # Two refusals a second, each of them 2 s of work.
    signal = Signal()
    for second in range(480):
        signal.scrape(second, {0: 16})
        signal.answered(second, 2.0)
        signal.refused(second)
        signal.refused(second)
    assert signal.value(479.0) == 20


def test_refusals_count_nothing_while_no_request_has_been_answered() -> None:
    signal = Signal()
    signal.scrape(0.0, {0: 64})
    signal.refused(0.0)
    assert signal.value(1.0) == 64


def followed(scaler: Autoscaler, load: list[tuple[float, float]]) -> list[int]:
    """Replicas after each of these (seconds, signal), which are 15 s apart at most."""
    return [scaler.decide(now, signal) for now, signal in load]


def changes(replicas: list[int]) -> dict[int, int]:
    """Second → replicas, where they differ from 15 s before."""
    return {15 * n: now for n, now in enumerate(replicas) if n and now != replicas[n - 1]}


def test_replicas_are_added_after_a_minute_and_two_a_minute() -> None:
    scaler = Autoscaler(LIMITS, 2)
    replicas = followed(scaler, [(15.0 * n, 24.0 if n < 4 else 1000.0) for n in range(24)])
    changes = {
        15 * n: now for n, (before, now) in enumerate(zip([2, *replicas], replicas, strict=False)) if now > before
    }
    assert changes == {105: 4, 165: 6, 225: 8}


def test_a_short_peak_adds_nothing() -> None:
    assert set(followed(Autoscaler(LIMITS, 2), [(0, 24), (15, 90), (30, 90), (45, 24), (60, 90), (75, 24)])) == {2}


def test_a_deviation_within_the_tolerance_changes_nothing() -> None:
    scaler = Autoscaler(LIMITS, 4)
    assert set(followed(scaler, [(15.0 * n, 52.0) for n in range(60)])) == {4}
    assert followed(scaler, [(900 + 15.0 * n, 53.0) for n in range(6)])[-1] == 5


def test_replicas_are_removed_after_ten_minutes_one_every_two_minutes() -> None:
    replicas = followed(Autoscaler(LIMITS, 5), [(15.0 * n, 0.0) for n in range(80)])
    changes = {
        15 * n: now for n, (before, now) in enumerate(zip([5, *replicas], replicas, strict=False)) if now < before
    }
    assert changes == {600: 4, 720: 3, 840: 2}
