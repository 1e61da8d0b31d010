"""Faults that no schema finds: names without a target, and numbers that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.__main__ import main as service_main
from service.config.named_keys import keys_in
from service.config.settings import Settings, load
from tests.k8s.rendering import (
    K8S,
    OVERLAYS,
    SECRETS,
    Resource,
    all_pods,
    containers,
    each_overlay,
    each_rendering,
    environment,
    named,
    of_kind,
    one,
    render,
    secrets,
)

ENGINE_STOP_SECONDS, MARGIN_SECONDS = 10, 15


@each_rendering
def test_volumes_claims_maps_secrets_and_accounts_exist(rendered: tuple[str, ...]) -> None:
    resources = render(*rendered)
    for name, template in all_pods(resources):
        spec = template["spec"]
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        claimed = {claim["metadata"]["name"] for resource in of_kind(resources, "StatefulSet")
                   if named(resource) == name for claim in resource["spec"]["volumeClaimTemplates"]}  # fmt: skip
        mounted = {mount["name"] for container in containers(template) for mount in container["volumeMounts"]}
        assert mounted == volumes.keys() | claimed, name
        for volume in volumes.values():
            if "configMap" in volume:
                one(resources, "ConfigMap", volume["configMap"]["name"])
            if "persistentVolumeClaim" in volume:
                one(resources, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
        if "serviceAccountName" in spec:
            one(resources, "ServiceAccount", spec["serviceAccountName"])
        for container in containers(template):
            environment(resources, container, secrets(resources))


def _named_secrets(node: object) -> Iterator[str]:
    """Names of the Secrets to which volumes, variables and ingresses refer, anywhere below a node."""
    if isinstance(node, dict):
        if isinstance(name := node.get("secretName"), str):
            yield name
        for key in ("secretKeyRef", "secretRef"):
            if isinstance(reference := node.get(key), dict):
                yield reference["name"]
    for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _named_secrets(below)


@each_rendering
def test_the_readme_names_each_secret_that_the_operator_creates(rendered: tuple[str, ...]) -> None:
    resources = render(*rendered)
    generated = {secret["metadata"]["name"] for secret in of_kind(resources, "Secret")}
    needed = {name for resource in resources for name in _named_secrets(resource)} - generated
    page = (K8S / "README.md").read_text()
    assert not {name for name in needed if name not in page}


@each_rendering
def test_pods_are_confined(rendered: tuple[str, ...]) -> None:
    for name, template in all_pods(render(*rendered)):
        spec = template["spec"]
        assert spec["enableServiceLinks"] is False, name
        assert spec["automountServiceAccountToken"] is (name == "CronJob/screening-retrain"), name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch", name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"], name
            assert ":" in container["image"].rpartition("/")[2], f"{name}: {container['image']} has no tag"


def service_settings(resources: tuple[Resource, ...], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that the service would start with, from the environment that the manifests give."""
    container = one(resources, "Deployment", "screening")["spec"]["template"]["spec"]["containers"][0]
    assert not container.get("args")
    for name, value in environment(resources, container, secrets(resources)).items():
        monkeypatch.setenv(name, value)
    return load({})


@each_overlay
def test_the_environment_is_one_that_the_service_accepts(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = render(overlay)
    settings = service_settings(resources, monkeypatch)
    container = one(resources, "Deployment", "screening")["spec"]["template"]["spec"]["containers"][0]
    assert settings.host == "0.0.0.0"
    assert {"name": "http", "containerPort": settings.port} in container["ports"]
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert str(settings.state_dir) in writable
    assert str(settings.checkpoint_store) in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert settings.registry is None or overlay != "laptop"


@each_overlay
def test_the_keys_file_is_the_mounted_secret(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = render(overlay)
    file = service_settings(resources, monkeypatch).keys_file
    assert file is not None, "everyone in the cluster could call /screen"
    spec = one(resources, "Deployment", "screening")["spec"]["template"]["spec"]
    (mount,) = (mount for mount in spec["containers"][0]["volumeMounts"] if mount["mountPath"] == str(file.parent))
    assert "subPath" not in mount, "Kubernetes would never update it"
    (volume,) = (volume["secret"] for volume in spec["volumes"] if volume["name"] == mount["name"])
    keys = keys_in(secrets(resources)[f"{volume['secretName']}/{file.name}"])
    assert {"screen", "admin"} <= set().union(*(key.scopes for key in keys))
    assert volume["defaultMode"] & 0o004, "the service does not run as root"


@pytest.mark.slow
def test_the_decision_store_is_switched_on_by_its_component(monkeypatch: pytest.MonkeyPatch) -> None:
    assert service_settings(render("production"), monkeypatch).decisions is None
    settings = service_settings(render("production", "decisions"), monkeypatch)
    assert settings.decisions == SECRETS["screening-decisions/database"]
    assert settings.pictures == SECRETS["screening-decisions/pictures"]
    assert not settings.review
    assert service_settings(render("production", "decisions", "review"), monkeypatch).review


@pytest.mark.parametrize("created", [True, False])
def test_all_who_use_the_object_store_get_its_credentials_if_there_are_any(created: bool) -> None:
    resources = render("production", "decisions", "review")
    given = secrets(resources)
    if not created:  # a metadata server gives the credentials
        given = {key: value for key, value in given.items() if not key.startswith("screening-object-store/")}
    users = {
        name: variables
        for name, template in all_pods(resources)
        for container in containers(template)
        if "SCREENING_PICTURES" in (variables := environment(resources, container, given))
    }
    assert users.keys() == {
        "Deployment/screening",
        "CronJob/screening-prune",
        "CronJob/screening-database",
        "CronJob/screening-review-queue",
    }
    credentials = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"}
    for name, variables in users.items():
        assert credentials & variables.keys() == (credentials if created else set()), name


def test_maintenance_of_the_decision_store_is_what_the_service_understands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SCREENING_DECISIONS", f"sqlite:///{tmp_path / 'decisions.db'}")
    monkeypatch.setenv("SCREENING_PICTURES", str(tmp_path / "pictures"))
    jobs = {
        job["metadata"]["name"]: job["spec"]
        for job in of_kind(render("production", "decisions", "review"), "CronJob")
        if job["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "maintenance"
    }
    for name in ("screening-database", "screening-prune", "screening-review-queue"):  # the tables come first
        (container,) = jobs.pop(name)["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        assert service_main(container["args"]) == 0, name
    assert not jobs


@each_rendering
def test_the_grace_period_covers_the_delay_the_drain_and_the_engine(
    rendered: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = render(*rendered)
    settings = service_settings(resources, monkeypatch)
    spec = one(resources, "Deployment", "screening")["spec"]["template"]["spec"]
    delay = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = delay + settings.drain_seconds + ENGINE_STOP_SECONDS + MARGIN_SECONDS
    if settings.decisions is not None:
        needed += settings.decisions_flush_seconds
    assert spec["terminationGracePeriodSeconds"] >= needed
    assert settings.drain_seconds > settings.deadline_seconds
    # An endpoint that fails its readiness probe leaves the load balancer before the socket closes.
    readiness = spec["containers"][0]["readinessProbe"]
    assert delay > readiness["periodSeconds"] * readiness["failureThreshold"]


@each_overlay
def test_a_slow_start_is_neither_killed_nor_called_failed(overlay: str) -> None:
    spec = one(render(overlay), "Deployment", "screening")["spec"]
    startup = spec["template"]["spec"]["containers"][0]["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 1200
    assert spec["progressDeadlineSeconds"] > 1200


@each_overlay
def test_a_rollout_needs_no_more_gpus_than_there_are(overlay: str) -> None:
    strategy = one(render(overlay), "Deployment", "screening")["spec"]["strategy"]
    assert strategy["type"] == "Recreate" or strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_the_spare_gpu_is_used_by_a_rollout() -> None:
    strategy = one(render("production", "spare-gpu"), "Deployment", "screening")["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


@each_rendering
def test_nothing_fights_the_autoscaler_or_blocks_a_node_drain(rendered: tuple[str, ...]) -> None:
    resources = render(*rendered)
    for scaler in of_kind(resources, "ScaledObject"):
        target = one(resources, "Deployment", scaler["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"]
    for budget in of_kind(resources, "PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] >= 1
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_autoscaler_aims_at_three_quarters_of_the_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    resources = render("production")
    (trigger,) = one(resources, "ScaledObject", "screening")["spec"]["triggers"]
    slots = service_settings(resources, monkeypatch).max_concurrent
    assert float(trigger["metadata"]["threshold"]) == 0.75 * slots
    assert trigger["metricType"] == "AverageValue"


@each_overlay
def test_retraining_never_repeats_wrong_input_and_never_overlaps(overlay: str) -> None:
    for job in of_kind(render(overlay), "CronJob"):
        spec, pod = job["spec"], job["spec"]["jobTemplate"]["spec"]
        assert (spec["concurrencyPolicy"], spec["timeZone"]) == ("Forbid", "Etc/UTC")
        assert spec["startingDeadlineSeconds"] == 3600
        assert (pod["backoffLimit"], pod["podReplacementPolicy"]) == (6, "Failed")
        assert pod["activeDeadlineSeconds"] > 0
        assert pod["template"]["spec"]["restartPolicy"] == "Never"  # a pod failure policy demands it
        ignore, fail = pod["podFailurePolicy"]["rules"]
        assert (ignore["action"], fail["action"]) == ("Ignore", "FailJob")
        final = [2] if job["metadata"]["name"] == "screening-retrain" else [2, 4]
        assert fail["onExitCodes"] == {"operator": "In", "values": final}


def test_only_production_retrains_by_the_clock_and_the_decision_holds_no_gpu() -> None:
    suspended = {
        (overlay, job["metadata"]["name"]): job["spec"]["suspend"]
        for overlay in OVERLAYS
        for job in of_kind(render(overlay), "CronJob")
    }
    assert [key for key, value in suspended.items() if not value] == [("production", "screening-retrain")]
    decision = one(render("production"), "CronJob", "screening-retrain")["spec"]["jobTemplate"]["spec"]["template"]
    assert "nvidia.com/gpu" not in decision["spec"]["containers"][0]["resources"]["limits"]


def test_the_decision_has_only_the_permissions_that_it_uses() -> None:
    resources = render("production")
    template, jobs = one(resources, "Role", "screening-retrain")["rules"]
    assert template == {
        "apiGroups": ["batch"],
        "resources": ["cronjobs"],
        "resourceNames": ["screening-retrain-gpu"],
        "verbs": ["get"],
    }
    assert (jobs["resources"], sorted(jobs["verbs"])) == (["jobs"], ["create", "list"])
    decision = one(resources, "CronJob", "screening-retrain")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    arguments = decision["containers"][0]["args"]
    one(resources, "CronJob", arguments[arguments.index("--template") + 1])
    (subject,) = one(resources, "RoleBinding", "screening-retrain")["subjects"]
    assert subject["name"] == decision["serviceAccountName"]
    # The launcher finds Jobs under way by this label.
    job = one(resources, "CronJob", "screening-retrain-gpu")["spec"]["jobTemplate"]
    assert job["metadata"]["labels"]["app.kubernetes.io/component"] == "retraining"


@each_rendering
def test_trainings_write_lines_and_no_progress_bars(rendered: tuple[str, ...]) -> None:
    resources = render(*rendered)
    for name, template in all_pods(resources):
        for container in containers(template):
            if "screening-trainer:" in container["image"]:
                assert environment(resources, container, secrets(resources))["TQDM_DISABLE"] == "1", name


@pytest.mark.parametrize("component", ["multi-node-trainjob", "multi-node-jobset"])
def test_several_machines_replace_the_scheduled_retraining(component: str) -> None:
    resources = render("production", component)
    assert one(resources, "CronJob", "screening-retrain")["spec"]["suspend"] is True
    (training,) = of_kind(resources, "TrainJob", "JobSet")
    assert training["spec"]["suspend"] is True
