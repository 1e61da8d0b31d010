"""Alerts and recording rules: valid, tested by promtool in both directions, each with its section in the runbook."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from service.metrics import Metrics
from tests.k8s.rendering import K8S, RENDERED, of_kind, one, program, render

MONITORING = K8S / "monitoring"
TESTS = sorted((MONITORING / "tests").glob("*.yaml"))
ALERTS = [rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"]["groups"]
          for rule in group["rules"]]  # fmt: skip


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules in Prometheus' own format: the resources of its operator wrap them in `spec`."""
    folder = tmp_path_factory.mktemp("rules")
    for name in ("rules.yaml", "alerts.yaml"):
        spec = yaml.safe_load((MONITORING / name).read_text())["spec"]
        (folder / name).write_text(yaml.safe_dump(spec))
    return folder


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_are_valid(rules: Path) -> None:
    promtool("check", "rules", "--lint-fatal", rules / "rules.yaml", rules / "alerts.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_fire_when_they_should_and_only_then(rules: Path, file: Path) -> None:
    text = file.read_text().replace("rule_files: [rules.yaml, alerts.yaml]", f"rule_files: ['{rules}/*.yaml']")
    assert str(rules) in text
    (rules / "tests").mkdir(exist_ok=True)
    (rules / "tests" / file.name).write_text(text)
    promtool("test", "rules", rules / "tests" / file.name)


def test_every_alert_is_tested_in_both_directions() -> None:
    tested = {}
    for file in TESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            (check,) = test["promql_expr_test"]
            alert, _, outcome = test["name"].partition(" ")
            assert f'alertname="{alert}"' in check["expr"]
            assert bool(check["exp_samples"]) == (outcome == "fires"), test["name"]
            tested[test["name"]] = alert
    names = [rule["alert"] for rule in ALERTS]
    assert sorted(tested) == sorted(f"{name} {outcome}" for name in names for outcome in ("fires", "stays silent"))


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_has_its_section_in_the_runbook(repository: Path, rule: dict[str, dict[str, str]]) -> None:
    name = str(rule["alert"])
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
    assert rule["labels"]["severity"] in ("critical", "warning")
    text = (repository / "docs" / "runbook.md").read_text()
    match = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"docs/runbook.md has no section {name}"
    section = match[1]
    (commands,) = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert len([line for line in commands.splitlines() if not line.startswith((" ", "#"))]) == 3, name
    assert "**Means:**" in section
    assert "**Remedy:**" in section


def test_the_runbook_has_no_section_without_an_alert(repository: Path) -> None:
    sections = re.findall(r"^## (Screening\w+)$", (repository / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(rule["alert"] for rule in ALERTS)


@pytest.mark.slow
def test_every_scheduled_job_has_alerts_for_failures_and_for_a_long_time_without_success() -> None:
    scheduled = {
        job["metadata"]["name"]
        for rendered in RENDERED
        for job in of_kind(render(*rendered), "CronJob")
        if not job["spec"].get("suspend", False)
    }
    assert {"screening-retrain", "screening-prune", "screening-review-queue"} <= scheduled
    for metric, label, suffix in (
        ("kube_job_status_failed", "job_name", "-29384750"),
        ("kube_cronjob_status_last_successful_time", "cronjob", ""),
    ):
        selector = re.compile(rf'{metric}\{{{label}=~?"([^"]+)"\}}')
        patterns = [pattern for rule in ALERTS for pattern in selector.findall(rule["expr"])]
        missed = {name for name in scheduled if not any(re.fullmatch(pattern, name + suffix) for pattern in patterns)}
        assert not missed, metric


def _texts_of_the_service() -> set[str]:
    """The string constants of the service, without docstrings: what it can write to its log is made of them."""
    found = set()
    for file in [*(K8S.parent / "service").rglob("*.py"), *(K8S.parent / "screening").rglob("*.py")]:
        tree = ast.parse(file.read_text())
        unused = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in unused:
                found.add(node.value)
            elif isinstance(node, ast.keyword) and node.arg:
                found.add(f'"{node.arg}"')  # a field of a log line
    return found


def test_the_runbook_looks_for_texts_that_the_service_logs(repository: Path) -> None:
    texts = {text.lower() for text in _texts_of_the_service()}
    texts |= {f'"{text}"' for text in texts if text.isidentifier()}
    pipes = re.findall(r"^kubectl .* logs .*?(\|.*)$", (repository / "docs" / "runbook.md").read_text(), re.MULTILINE)
    patterns = [words for pipe in pipes for words in re.findall(r"grep (?:-[Eiv] )?('[^']+'|\S+)", pipe)]
    searched = {text.lower() for pattern in patterns for text in pattern.strip("'").split("|")}
    assert {"engine lost", '"outcome"', "out-of-domain"} <= searched
    assert not {text for text in searched if not any(text in written for written in texts)}


@pytest.mark.parametrize("page", ["docs/runbook.md", "docs/operations.md", "docs/checkpoints.md", "k8s/README.md"])
def test_commands_inside_a_pod_are_in_its_image(repository: Path, page: str) -> None:
    """The image has Python and Debian's essential packages, but neither curl nor ps nor kill."""
    used = set(re.findall(r"exec POD -- (\S+)", (repository / page).read_text()))
    assert used <= {"python", "sh", "ls", "timeout", "nvidia-smi"}


PODS = 'namespace="screening", pod'
LOAD = {
    # Two pods. One has been loading for some time and its counters stay at 0.
    "a load without refusals": (
        [(f'screening_in_flight{{{PODS}="a"}}', "9x20"), (f'screening_in_flight{{{PODS}="b"}}', "0x20")],
        9.0,
    ),
    # Two refused a second, each of them 2 s of work: four requests more at any time.
    "refused requests count as work": (
        [
            (f'screening_in_flight{{{PODS}="a"}}', "16x20"),
            (f'screening_rejected_total{{{PODS}="a", reason="queue_full"}}', "0+60x20"),
            (f'screening_rejected_total{{{PODS}="a", reason="not_ready"}}', "0+6000x20"),
            (f'screening_stage_seconds_sum{{{PODS}="a", stage="engine"}}', "0+120x20"),
            (f'screening_stage_seconds_count{{{PODS}="a", stage="engine"}}', "0+60x20"),
        ],
        20.0,
    ),
    "no series is no load of zero": ([], None),
}  # fmt: skip


@pytest.mark.parametrize("case", LOAD)
def test_the_autoscaler_sees_the_load(tmp_path: Path, case: str) -> None:
    series, expected = LOAD[case]
    (trigger,) = one(render("production"), "ScaledObject", "screening")["spec"]["triggers"]
    test = {
        "interval": "30s",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "promql_expr_test": [
            {
                "expr": trigger["metadata"]["query"],
                "eval_time": "8m",
                "exp_samples": [] if expected is None else [{"labels": "{}", "value": expected}],
            }
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "1m", "tests": [test]}))
    promtool("test", "rules", file)


def test_the_first_event_of_a_kind_is_an_increase() -> None:
    """A series that begins with its first event goes from nothing to 1, and `increase` sees 0."""
    from_the_start = {
        (sample.name, value)
        for family in Metrics().registry.collect()
        for sample in family.samples
        for value in sample.labels.values()
    }
    watched = {
        (metric, value)
        for rule in ALERTS
        for metric, values in re.findall(r'increase\((\w+)\{\w+=~?"([\w|]+)"\}', rule["expr"])
        for value in values.split("|")
    }
    assert ("screening_swaps_total", "rolled_back") in watched
    assert watched <= from_the_start


def test_a_share_of_the_outputs_exists_before_the_first_readable_one() -> None:
    """The divisor adds readable and unreadable outputs. It has no value while either has no series."""
    exposed = {sample.name for family in Metrics().registry.collect() for sample in family.samples}
    assert {"screening_choices_total", "screening_unreadable_answers_total"} <= exposed


def test_the_latency_alert_has_buckets_around_its_threshold() -> None:
    """Without them the quantile is interpolated between 10 and 30 s, and says nothing about 20 s."""
    metrics = Metrics()
    metrics.stage_seconds.labels("total").observe(1)
    bounds = {
        float(sample.labels["le"])
        for family in metrics.registry.collect()
        if family.name == "screening_stage_seconds"
        for sample in family.samples
        if "le" in sample.labels
    }
    assert {15.0, 20.0, 45.0} <= bounds
