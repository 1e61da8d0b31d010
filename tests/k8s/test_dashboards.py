"""The dashboards are up to date with their source, and every metric of a query exists."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import promql_parser
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics
from tests.k8s.rendering import K8S, one, render
from trainer.release.retrain.config import read_config
from trainer.release.retrain.ledger import Ledger
from trainer.release.retrain.metrics import write_metrics
from trainer.release.retrain.state import Decision, Run, State

MONITORING = K8S / "monitoring"
MOMENT = "2026-01-01T00:00:00+00:00"
OF_OTHERS = {
    "up",
    "ALERTS",
    "kube_cronjob_spec_suspend",
    "kube_cronjob_status_last_successful_time",
    "kube_horizontalpodautoscaler_spec_max_replicas",
    "kube_horizontalpodautoscaler_status_current_replicas",
    "kube_job_status_active",
    "kube_job_status_failed",
    "kube_job_status_start_time",
    "kube_job_status_succeeded",
}
"""Metrics of Prometheus itself and of kube-state-metrics 2.x."""
OF_PROMETHEUS = {"job", "instance", "namespace", "pod", "container", "endpoint"}
"""Labels that Prometheus sets on every series of a pod. It renames a label of ours by this name to `exported_…`."""


def source() -> ModuleType:
    """k8s is a folder of manifests, not a package."""
    spec = importlib.util.spec_from_file_location("dashboards", MONITORING / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dashboards"] = module
    spec.loader.exec_module(module)
    return module


def ours() -> dict[str, set[str]]:
    """Names of the series that the service exposes → their labels."""
    series: dict[str, set[str]] = {}
    for family in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        for suffix in suffixes:
            series[family.name + suffix] = set()
    return series


def write_retraining_metrics(folder: Path) -> str:
    """The metrics that a retraining writes, with the configuration of the cluster."""
    settings = read_config(K8S / "base" / "retrain.yaml").model_copy(update={"metrics_file": folder / "file"})
    run = Run(id="one", started=MOMENT, ended=MOMENT, reason="new labels", outcome="promoted")
    decision = Decision(at=MOMENT, decision="run", reason="new labels")
    write_metrics(settings, State(run=run, finished=run, decision=decision), Ledger(folder), 0)
    return (folder / "file").read_text()


@cache
def of_retraining() -> set[str]:
    """Names of the metrics in the file of a retraining."""
    with TemporaryDirectory() as folder:
        return {family.name for family in text_string_to_metric_families(write_retraining_metrics(Path(folder)))}


def queries() -> Iterator[tuple[str, str]]:
    """Each query and its place in the dashboards."""
    for file in sorted((MONITORING / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{file.stem}: {panel['title']}", target["expr"].replace("$__rate_interval", "5m")
    for file in (MONITORING / "rules.yaml", MONITORING / "alerts.yaml"):
        for group in yaml.safe_load(file.read_text())["spec"]["groups"]:
            for rule in group["rules"]:
                yield rule.get("alert", rule.get("record")), rule["expr"]
    (trigger,) = one(render("production"), "ScaledObject", "screening")["spec"]["triggers"]
    yield "ScaledObject", trigger["metadata"]["query"]


def recorded() -> set[str]:
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]
    return {rule["record"] for group in groups for rule in group["rules"]}


def metrics_of(expression: object) -> Iterator[str]:
    """Names of the metrics in a parsed query."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield str(expression.name)
    for part in ("expr", "lhs", "rhs", "vector_selector", "param"):
        inner = getattr(expression, part, None)
        if inner is not None:
            yield from metrics_of(inner)
    for inner in getattr(expression, "args", None) or []:
        yield from metrics_of(inner)


def test_files_are_what_their_source_writes() -> None:
    module = source()
    assert {file.stem for file in (MONITORING / "dashboards").glob("*.json")} == module.DASHBOARDS.keys()
    for name in module.DASHBOARDS:
        text = (MONITORING / "dashboards" / f"{name}.json").read_text()
        assert text == module.text(name), "run python k8s/monitoring/dashboards.py"


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_every_metric_of_a_query_exists(where: str, query: str) -> None:
    names = set(metrics_of(promql_parser.parse(query)))
    assert names, f"{where}: no metric found in {query}"
    assert names <= ours().keys() | of_retraining() | recorded() | OF_OTHERS, where


def test_no_series_of_ours_has_a_label_that_prometheus_sets(tmp_path: Path) -> None:
    # Declared labels: a series appears only with its first event.
    metrics = [metric for metric in vars(Metrics()).values() if isinstance(metric, MetricWrapperBase)]
    labels = {metric._name: set(metric._labelnames) for metric in metrics}
    for family in text_string_to_metric_families(write_retraining_metrics(tmp_path)):
        labels[family.name] = {label for sample in family.samples for label in sample.labels}
    assert labels["screening_reviews"] == {"task"}
    assert not {name: found for name, own in labels.items() if (found := own & OF_PROMETHEUS)}


def test_the_parser_of_queries_finds_every_metric() -> None:
    query = "histogram_quantile(scalar(p), sum by (le) (rate(a[5m]))) / (b > 0) or -c + avg_over_time(d[1h:1m])"
    assert set(metrics_of(promql_parser.parse(query))) == {"a", "b", "c", "d", "p"}
