"""The manifests as kubectl renders them, and ways to look at them."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
Resource = dict[str, Any]

OVERLAYS = tuple(sorted(path.name for path in (K8S / "overlays").iterdir()))
RENDERED = [
    *((overlay,) for overlay in OVERLAYS),
    ("production", "decisions", "decisions-database", "picture-hosts", "review"),
    *(("production", component) for component in ("multi-node-trainjob", "multi-node-jobset", "spare-gpu", "tracing")),
]
"""Every overlay, and the components that no overlay has. Together they hold every component."""
each_rendering = pytest.mark.parametrize("rendered", RENDERED, ids="+".join)
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
SECRETS = {
    "screening-keys/keys": f"shop screen {'0' * 64}\noperator admin {'1' * 64}\n",
    "mlflow-database/password": "secret",
    "screening-database/password": "secret",
    "screening-decisions/database": "postgresql://screening:secret@database.example.com/screening",
    "screening-decisions/pictures": "s3://screening-pictures/production",
    "screening-object-store/AWS_ACCESS_KEY_ID": "screening",
    "screening-object-store/AWS_SECRET_ACCESS_KEY": "secret",
    "screening-object-store/AWS_REGION": "eu-central-1",
}
"""The secrets that k8s/README.md tells the operator to create."""
WORKLOADS = ("Deployment", "StatefulSet", "CronJob", "Job", "JobSet", "TrainingRuntime")


def program(name: str) -> str:
    """A program that the dev extra or `.ci/monitoring-tools` installs: from this environment first, then from PATH."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    assert found, f"{name} is missing: `make tools` installs it"
    return found


@cache
def render(overlay: str, *components: str) -> tuple[Resource, ...]:
    """The resources of an overlay, with further components."""
    directory = K8S / "overlays" / overlay
    if not components:
        return _kustomize(directory)
    with tempfile.TemporaryDirectory() as folder:
        # kustomize refuses absolute paths.
        here = Path(os.path.relpath(K8S, Path(folder).resolve()))
        text = {
            "resources": [str(here / "overlays" / overlay)],
            "components": [str(here / "components" / component) for component in components],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(text))
        return _kustomize(Path(folder))


def _kustomize(directory: Path) -> tuple[Resource, ...]:
    done = subprocess.run(
        [program("kubectl"), "kustomize", str(directory)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def named(resource: Resource) -> str:
    return f"{resource['kind']}/{resource['metadata']['name']}"


def of_kind(resources: tuple[Resource, ...], *kinds: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] in kinds]


def one(resources: tuple[Resource, ...], kind: str, name: str) -> Resource:
    (found,) = (resource for resource in of_kind(resources, kind) if resource["metadata"]["name"] == name)
    return found


def pod_templates(resource: Resource) -> Iterator[Resource]:
    """The pod templates of a workload, with `metadata` and `spec`."""
    for job in job_specs(resource):
        yield job["template"]
    if resource["kind"] in ("Deployment", "StatefulSet"):
        yield resource["spec"]["template"]


def job_specs(resource: Resource) -> Iterator[Resource]:
    """Specs of the Jobs that a resource creates."""
    spec = resource["spec"]
    match resource["kind"]:
        case "Job":
            yield spec
        case "CronJob":
            yield spec["jobTemplate"]["spec"]
        case "JobSet":
            yield from (job["template"]["spec"] for job in spec["replicatedJobs"])
        case "TrainingRuntime":
            yield from (job["template"]["spec"] for job in spec["template"]["spec"]["replicatedJobs"])


def all_pods(resources: tuple[Resource, ...]) -> list[tuple[str, Resource]]:
    """Name of the workload and pod template, for each workload."""
    return [(named(one), template) for one in of_kind(resources, *WORKLOADS) for template in pod_templates(one)]


def containers(template: Resource) -> list[Resource]:
    spec = template["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def environment(resources: tuple[Resource, ...], container: Resource, secrets: dict[str, str]) -> dict[str, str]:
    """The variables that a container gets.

    Args:
        secrets: `SECRET/KEY` → value, for secrets that are not among the resources.
    """
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if (reference := source.get("secretRef")) is not None:
            values |= _entries(reference, secrets)
        else:
            values |= one(resources, "ConfigMap", source["configMapRef"]["name"])["data"]
    for entry in container.get("env", []):
        if "value" in entry:
            values[entry["name"]] = entry["value"]
        elif (reference := entry["valueFrom"].get("secretKeyRef")) is not None:
            value = secrets.get(f"{reference['name']}/{reference['key']}")
            assert value is not None or reference.get("optional"), f"{reference} has no value"
            if value is not None:
                values[entry["name"]] = value
    return values


def _entries(reference: Resource, secrets: dict[str, str]) -> dict[str, str]:
    """Key → value of a whole Secret; empty if it is optional and missing."""
    prefix = f"{reference['name']}/"
    entries = {key.removeprefix(prefix): value for key, value in secrets.items() if key.startswith(prefix)}
    assert entries or reference.get("optional"), f"{reference} has no value"
    return entries


def generated_secrets(resources: tuple[Resource, ...]) -> dict[str, str]:
    """`SECRET/KEY` → value, of the Secrets among the resources."""
    return {
        f"{secret['metadata']['name']}/{key}": base64.b64decode(value).decode()
        for secret in of_kind(resources, "Secret")
        for key, value in secret["data"].items()
    }


def secrets(resources: tuple[Resource, ...]) -> dict[str, str]:
    """Secrets that the operator creates and those that the overlay generates."""
    return SECRETS | generated_secrets(resources)
