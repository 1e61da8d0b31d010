"""The manifests and the command `retrain` belong together: configuration, options, exit statuses, mounts, metrics."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
import yaml

from tests.k8s.rendering import (
    K8S,
    RENDERED,
    Resource,
    containers,
    job_specs,
    named,
    of_kind,
    one,
    render,
)
from trainer.__main__ import main
from trainer.release import launch_job
from trainer.release.retrain.config import Settings, read_config
from trainer.release.retrain.errors import BadInput, RegistryTrouble, RetrainError, Unconfirmed

RETRAINING = [rendered for rendered in RENDERED if rendered != ("laptop",)]
each_rendering = pytest.mark.parametrize("rendered", RETRAINING, ids="+".join)
CONFIGS = sorted(K8S.rglob("retrain.yaml"))
FINAL = [BadInput.exit_status, Unconfirmed.exit_status]
"""Exit statuses after which Kubernetes must not start the command again."""


def pods(rendered: tuple[str, ...]) -> Iterator[tuple[str, Resource, Resource]]:
    """Name, Job and container of all that retrains or decides about it."""
    resources = render(*rendered)
    for workload in of_kind(resources, "CronJob", "JobSet", "TrainingRuntime"):
        for job in job_specs(workload):
            if job["template"]["metadata"]["labels"]["app.kubernetes.io/name"] == "screening-retrain":
                (container,) = containers(job["template"])
                yield named(workload), job, container


def configuration(rendered: tuple[str, ...], job: Resource, tmp_path: Path) -> Settings:
    """The configuration that the pods of a Job read from the mounted ConfigMap."""
    volumes = job["template"]["spec"]["volumes"]
    (name,) = [volume["configMap"]["name"] for volume in volumes if "configMap" in volume]
    (tmp_path / "retrain.yaml").write_text(one(render(*rendered), "ConfigMap", name)["data"]["retrain.yaml"])
    return read_config(tmp_path / "retrain.yaml")


def test_every_configuration_is_found() -> None:
    assert [path.parent.name for path in CONFIGS] == ["base", "multi-node-jobset", "multi-node-trainjob"]


@each_rendering
def test_each_pod_mounts_a_configuration_that_the_command_accepts(rendered: tuple[str, ...], tmp_path: Path) -> None:
    found = list(pods(rendered))
    assert found
    for name, job, container in found:
        settings = configuration(rendered, job, tmp_path)
        assert settings.confirm.services and settings.confirm.every_address, name
        machines = job.get("parallelism", 1)
        if (name, rendered[-1]) == ("TrainingRuntime/screening-retrain", "multi-node-trainjob"):
            machines = one(render(*rendered), "TrainJob", "screening-retrain")["spec"]["trainer"]["numNodes"]
        if not name.startswith("CronJob") or not rendered[-1].startswith("multi-node"):
            assert settings.training.nodes == machines, name
        if "nvidia.com/gpu" in container["resources"]["limits"] and not name.startswith("CronJob"):
            assert settings.training.processes == int(container["resources"]["limits"]["nvidia.com/gpu"]), name
            assert settings.budget.gpus == settings.training.processes * machines, name


def command_lines(container: Resource) -> list[list[str]]:
    """The command lines of a container, without the interpreter."""
    if container.get("command", [""])[0] == "/bin/sh":
        return [shlex.split(line)[4:] for line in re.findall(r"exec python -m trainer .*", container["args"][0])]
    return [container["args"]]


@each_rendering
def test_each_command_line_is_one_that_the_command_accepts(
    rendered: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr("trainer.release.retrain.command.run", lambda args: given.append(args) or 0)
    for name, _, container in pods(rendered):
        if container.get("command", [])[:3] == ["python", "-m", launch_job.__name__]:
            args = launch_job._parser().parse_args([*container["args"], "--name", "week-7", "--namespace", "screening"])
            assert args.config == "/etc/screening/retrain.yaml"
            one(render(*rendered), "CronJob", args.template)
            continue
        for line in command_lines(container):
            assert main([part.replace("$rank", "1") for part in line]) == 0, f"{name}: {line}"
            assert given.pop().config == Path("/etc/screening/retrain.yaml")


@each_rendering
def test_kubernetes_repeats_what_the_docs_say_can_be_repeated(rendered: tuple[str, ...], repository: Path) -> None:
    page = (repository / "docs" / "retraining.md").read_text()
    documented = {int(status) for status in re.findall(r"(?m)^\| (\d) \| ", page)}
    errors = (RetrainError, BadInput, RegistryTrouble, Unconfirmed)
    assert documented == {0, *(error.exit_status for error in errors)}
    for name, job, container in pods(rendered):
        (final,) = [rule for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
        # A decision promotes nothing, so it never ends with 4.
        decides = container.get("command", [])[-1:] == [launch_job.__name__]
        assert final["onExitCodes"] == {"operator": "In", "values": FINAL[:1] if decides else FINAL}, name


@pytest.mark.parametrize("component", ["multi-node-trainjob", "multi-node-jobset"])
def test_a_set_of_jobs_is_not_restarted_after_a_final_exit_status(component: str) -> None:
    resources = render("production", component)
    specs = [one["spec"] for one in of_kind(resources, "JobSet")]
    specs += [one["spec"]["template"]["spec"] for one in of_kind(resources, "TrainingRuntime")]
    (spec,) = specs
    (rule,) = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


@each_rendering
def test_the_volumes_hold_what_the_configuration_names(rendered: tuple[str, ...], tmp_path: Path) -> None:
    for name, job, container in pods(rendered):
        settings = configuration(rendered, job, tmp_path)
        claims = {volume["name"] for volume in job["template"]["spec"]["volumes"] if "persistentVolumeClaim" in volume}
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"] if mount["name"] in claims}
        assert settings.metrics_file is not None
        writable = [settings.work, settings.metrics_file]
        if container.get("command", [])[-1:] != [launch_job.__name__]:
            writable.append(settings.registry.store)
        for path in writable:
            assert not _mount_of(path, mounts).get("readOnly"), f"{name}: {path}"
        for directory in settings.data.directories:
            _mount_of(Path(directory), mounts)


def _mount_of(path: Path, mounts: dict[str, Resource]) -> Resource:
    (found,) = [mount for where, mount in mounts.items() if PurePosixPath(path).is_relative_to(where)]
    return found


@each_rendering
def test_prometheus_reads_the_file_that_the_retraining_writes(rendered: tuple[str, ...], tmp_path: Path) -> None:
    resources = render(*rendered)
    exporter = one(resources, "Deployment", "screening-retrain-metrics")["spec"]["template"]
    (container,) = containers(exporter)
    (served,) = [arg.partition("=")[2] for arg in container["args"] if arg.startswith("--collector.textfile.directory")]
    (claim,) = exporter["spec"]["volumes"]
    for name, job, _ in pods(rendered):
        settings = configuration(rendered, job, tmp_path)
        assert settings.metrics_file is not None and str(settings.metrics_file.parent) == served, name
        assert settings.metrics_file.suffix == ".prom", "node exporter reads no other files"
        assert claim["persistentVolumeClaim"] in [
            volume.get("persistentVolumeClaim") for volume in job["template"]["spec"]["volumes"]
        ]
    assert _mount_of(Path(served), {mount["mountPath"]: mount for mount in container["volumeMounts"]})["readOnly"]


def test_the_configurations_of_several_machines_differ_in_the_machines_only() -> None:
    base, *others = [yaml.safe_load(path.read_text()) for path in CONFIGS]
    for other in others:
        other["training"] = base["training"] | {
            key: other["training"][key] for key in base["training"].keys() & other["training"].keys()
        }
        assert other | {"budget": base["budget"]} == base
