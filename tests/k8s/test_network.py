"""What the pods, Services, network policies and ingresses say about each other: labels, ports, paths and host names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

import pytest

from service.app import create_app
from service.config.address_guard import may_connect
from service.config.picture_hosts import picture_host
from service.config.settings import Settings
from service.config.traces_endpoint import traces_endpoint
from service.engines.scripted_engine import ScriptedEngine
from tests.k8s.rendering import (
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


def matches(selector: Resource, labels: dict[str, str]) -> bool:
    """Whether a label selector, or the plain map of a Service, matches."""
    if not {"matchLabels", "matchExpressions"} & selector.keys():
        return bool(selector) and selector.items() <= labels.items()
    assert all(rule["operator"] == "In" for rule in selector.get("matchExpressions", []))
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", [])
    )


def selected(resources: tuple[Resource, ...], selector: Resource) -> list[Resource]:
    """Pod templates that a selector matches."""
    return [template for _, template in all_pods(resources) if matches(selector, template["metadata"]["labels"])]


def port_names(template: Resource) -> set[str | int]:
    ports = [port for container in containers(template) for port in container.get("ports", [])]
    return {port["name"] for port in ports} | {port["containerPort"] for port in ports}


@pytest.mark.slow
@each_rendering
def test_selectors_match_pods_that_have_the_port(rendered: tuple[str, ...]) -> None:
    resources = render(*rendered)
    for service in of_kind(resources, "Service"):
        pods = selected(resources, service["spec"]["selector"])
        assert pods, named(service)
        for port in service["spec"]["ports"]:
            assert all(port["targetPort"] in port_names(pod) for pod in pods), named(service)
    for monitor in of_kind(resources, "PodMonitor"):
        pods = selected(resources, monitor["spec"]["selector"])
        assert pods, named(monitor)
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert all(endpoint["port"] in port_names(pod) for pod in pods), named(monitor)
    for budget in of_kind(resources, "PodDisruptionBudget"):
        assert selected(resources, budget["spec"]["selector"]), named(budget)


@each_rendering
def test_controllers_select_their_own_pods_only(rendered: tuple[str, ...]) -> None:
    resources = render(*rendered)
    for controller in of_kind(resources, "Deployment", "StatefulSet"):
        assert selected(resources, controller["spec"]["selector"]) == [controller["spec"]["template"]]


def policy_rules(policy: Resource) -> Iterator[tuple[list[Resource], list[Resource], bool]]:
    """Peers, ports, and whether the rule is about traffic that enters."""
    for rule in policy["spec"].get("ingress", []):
        yield rule.get("from", []), rule.get("ports", []), True
    for rule in policy["spec"].get("egress", []):
        yield rule.get("to", []), rule.get("ports", []), False


@each_overlay
def test_network_policies_name_pods_and_ports_that_exist(overlay: str) -> None:
    resources = render(overlay)
    denial = one(resources, "NetworkPolicy", "default-deny")["spec"]
    assert denial == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in of_kind(resources, "NetworkPolicy"):
        targets = selected(resources, policy["spec"]["podSelector"])
        for peers, ports, enters in policy_rules(policy):
            receivers = targets if enters else [
                pod for peer in peers if peer.get("podSelector") for pod in selected(resources, peer["podSelector"])
            ]  # fmt: skip
            for port in ports:
                assert all(port["port"] in port_names(pod) for pod in receivers), named(policy)


def test_each_connection_that_a_pod_makes_is_allowed_on_both_sides() -> None:
    resources = render("production")
    allowed = {
        (source["spec"]["containers"][0]["name"], target["spec"]["containers"][0]["name"])
        for source, target in _connections(resources)
    }
    assert allowed == {
        ("service", "mlflow"),
        ("decide", "mlflow"),
        ("decide", "service"),
        ("retrain", "mlflow"),
        ("mlflow", "postgres"),
        ("retrain", "service"),
        ("retrain", "retrain"),
    }


def _connections(resources: tuple[Resource, ...]) -> Iterator[tuple[Resource, Resource]]:
    policies = of_kind(resources, "NetworkPolicy")
    pods = [template for _, template in all_pods(resources)]

    def allows(one: Resource, other: Resource, enters: bool) -> bool:
        return any(
            matches(peer["podSelector"], other["metadata"]["labels"])
            for policy in policies
            if one in selected(resources, policy["spec"]["podSelector"])
            for peers, _, direction in policy_rules(policy)
            if direction == enters
            for peer in peers
            if peer.get("podSelector")
        )

    for source in pods:
        for target in pods:
            if allows(source, target, False) and allows(target, source, True):
                yield source, target


@each_rendering
def test_probes_name_a_port_and_a_path_of_the_container(rendered: tuple[str, ...]) -> None:
    resources = render(*rendered)
    paths = set(create_app(Settings(engine="scripted"), ScriptedEngine()).openapi()["paths"])
    for name, template in all_pods(resources):
        for container in containers(template):
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                get = container.get(probe, {}).get("httpGet")
                if get is not None:
                    assert get["port"] in ports, f"{name} {probe}"
                    assert container["name"] != "service" or get["path"] in paths, f"{name} {probe}"


def test_traces_go_where_the_network_policy_lets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    resources = render("production", "tracing")
    container = one(resources, "Deployment", "screening")["spec"]["template"]["spec"]["containers"][0]
    endpoint = traces_endpoint(environment(resources, container, secrets(resources)))
    assert endpoint is not None
    address = urlsplit(endpoint)
    (rule,) = one(resources, "NetworkPolicy", "to-tracing")["spec"]["egress"]
    assert address.port in {port["port"] for port in rule["ports"]}
    namespace = rule["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert f".{namespace}.svc" in str(address.hostname)


def test_pictures_are_fetched_from_the_internet_and_not_from_the_cluster() -> None:
    resources = render("production", "picture-hosts")
    policy = one(resources, "NetworkPolicy", "to-picture-hosts")["spec"]
    service = one(resources, "Deployment", "screening")["spec"]["template"]
    assert selected(resources, policy["podSelector"]) == [service] and policy["policyTypes"] == ["Egress"]
    (rule,) = policy["egress"]
    variables = environment(resources, service["spec"]["containers"][0], secrets(resources))
    hosts = [picture_host(entry) for entry in variables["SCREENING_PICTURE_HOSTS"].split(",")]
    assert {port["port"] for port in rule["ports"]} == {host.port for host in hosts}

    def reaches(address: str) -> bool:
        return any(
            ip_address(address) in ip_network(peer["ipBlock"]["cidr"])
            and not any(ip_address(address) in ip_network(one) for one in peer["ipBlock"].get("except", ()))
            for peer in rule["to"]
        )

    for address in ("8.8.8.8", "172.32.0.1", "2606:4700::1111"):
        assert reaches(address) and may_connect(address), address
    for address in ("10.1.2.3", "172.20.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "fd00::1", "fe80::1"):
        assert not reaches(address) and not may_connect(address), address


def test_the_ingress_routes_nothing_but_the_screening() -> None:
    resources = render("production")
    (ingress,) = of_kind(resources, "Ingress")
    for rule in ingress["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            assert (path["path"], path["pathType"]) in {("/screen", "Exact"), ("/v1/screen", "Exact")}
            service = one(resources, "Service", path["backend"]["service"]["name"])
            assert path["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


@each_rendering
def test_host_names_in_settings_are_services(rendered: tuple[str, ...]) -> None:
    resources = render(*rendered)
    services = {service["metadata"]["name"]: service for service in of_kind(resources, "Service")}
    used: dict[str, int] = {}
    for config in of_kind(resources, "ConfigMap"):
        for text in config["data"].values():
            used |= _addresses(text)
    for _, template in all_pods(resources):
        for container in containers(template):
            for value in environment(resources, container, secrets(resources)).values():
                used |= _addresses(value)
    if rendered[0] != "laptop":
        assert {"mlflow", "screening-pods"} <= used.keys()
        for name, port in used.items():
            assert port in {one["port"] for one in services[name]["spec"]["ports"]}, name


def _addresses(text: str) -> dict[str, int]:
    return {name: int(port) for name, port in re.findall(r"http://([\w-]+)\.screening\.svc:(\d+)", text)}
