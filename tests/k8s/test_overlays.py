"""Every overlay and component renders, and every resource has the schema of the cluster versions that we support."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest

from tests.k8s.rendering import K8S, Resource, each_rendering, job_specs, named, of_kind, render

# It reads all definitions of a version, 2 MB, for every resource.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)

VERSIONS = ("1.33", "1.37")
SCHEMAS = Path(__file__).parent / "schemas"
CLUSTER_WIDE = {"Namespace", "ResourceFlavor", "ClusterQueue"}


@cache
def custom_validator(kind: str, api_version: str) -> jsonschema.Draft202012Validator:
    """Schema of a custom resource; a kind without a schema here is a failure."""
    group, _, version = api_version.partition("/")
    file = SCHEMAS / f"{kind.lower()}-{group}-{version}.json"
    assert file.exists(), f"{kind} of {api_version} is neither Kubernetes' nor in {SCHEMAS}"
    return jsonschema.Draft202012Validator(json.loads(file.read_text()))


@cache
def checked(text: str, version: str) -> None:
    """Like `check`, but once for resources that several overlays share."""
    check(json.loads(text), version)


def check(resource: Resource, version: str) -> None:
    try:
        kubernetes_validate.validate(resource, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        custom_validator(resource["kind"], resource["apiVersion"]).validate(resource)
        # The schemas here leave embedded Jobs open: Kubernetes' own schema checks them.
        for spec in job_specs(resource):
            job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "embedded"}, "spec": spec}
            kubernetes_validate.validate(job, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@each_rendering
def test_is_valid(rendered: tuple[str, ...], version: str) -> None:
    for resource in render(*rendered):
        try:
            checked(json.dumps(resource), version)
        except jsonschema.ValidationError as error:
            pytest.fail(f"{named(resource)}, {'.'.join(map(str, error.path))}: {error.message}")


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("Deployment", "kind", "Deploymint"),
        ("Deployment", "spec.minReadySecond", 3),
        ("ScaledObject", "spec.minReplicas", 3),
        ("ScaledObject", "apiVersion", "keda.sh/v2"),
        ("CronJob", "spec.jobTemplate.spec.template.spec.restart", "Never"),
    ],
)
def test_the_check_finds_unknown_kinds_and_fields(name: str, field: str, value: object) -> None:
    resource = copy.deepcopy(of_kind(render("production"), name)[0])
    check(resource, VERSIONS[0])
    *path, last = field.split(".")
    place = resource
    for part in path:
        place = place[part]
    place[last] = value
    with pytest.raises((jsonschema.ValidationError, AssertionError)):
        check(resource, VERSIONS[0])


@each_rendering
def test_everything_is_in_the_namespace_and_named_once(rendered: tuple[str, ...]) -> None:
    resources = render(*rendered)
    names = [named(resource) for resource in resources]
    assert sorted(names) == sorted(set(names))
    for resource in resources:
        expected = None if resource["kind"] in CLUSTER_WIDE else "screening"
        assert resource["metadata"].get("namespace") == expected, named(resource)


@pytest.mark.parametrize(
    ("component", "used", "needed"),
    [
        ("autoscaling", "\n    behavior: currentReplicasIfHigher\n", "KEDA 2.17"),
        ("kueue", "apiVersion: kueue.x-k8s.io/v1beta2\n", "Kueue 0.15"),
        ("multi-node-trainjob", "\n  activeDeadlineSeconds:", "Kubeflow Trainer 2.2"),
    ],
)
def test_the_stated_version_of_an_operator_is_the_first_that_has_what_we_use(
    component: str, used: str, needed: str
) -> None:
    folder = K8S / "components" / component
    assert any(used in file.read_text() for file in folder.glob("*.yaml")), "this row is no longer needed"
    header = (folder / "kustomization.yaml").read_text().partition("\napiVersion:")[0]
    for text in (header.replace("#", " "), (K8S / "README.md").read_text()):
        assert needed in " ".join(text.split())
