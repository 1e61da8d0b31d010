"""Prometheus and Alertmanager for a few services on this machine, with the rules and alerts of k8s/monitoring."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from loadtest.console import REPOSITORY
from loadtest.targets.local_service import free_port
from screening.errors import UserError

MONITORING = REPOSITORY / "k8s" / "monitoring"
SCRAPE_SECONDS = 2
_START_SECONDS = 120
_STOP_SECONDS = 20


class MonitoringFailed(UserError):
    """Prometheus or Alertmanager is missing or did not start."""

    exit_status = 2


@dataclass(frozen=True, slots=True)
class Monitoring:
    """Addresses of the running programs."""

    prometheus: str
    alertmanager: str


@contextmanager
def monitoring(folder: Path, targets: Mapping[str, str]) -> Iterator[Monitoring]:
    """Run both programs during the block. Their files and logs are in `folder`.

    Args:
        targets: name of the pod → `HOST:PORT` of its `/metrics`.

    Raises:
        MonitoringFailed: a program is missing or did not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prometheus, alertmanager = (f"127.0.0.1:{free_port()}" for _ in range(2))
    _write_configuration(folder, targets, alertmanager)
    with ExitStack() as stack:
        stack.enter_context(
            _running(
                [
                    _program("alertmanager", "prometheus-alertmanager"),
                    f"--config.file={folder / 'alertmanager.yml'}",
                    f"--storage.path={folder / 'alertmanager'}",
                    f"--web.listen-address={alertmanager}",
                    "--cluster.listen-address=",
                ],
                alertmanager,
                folder / "alertmanager.log",
            )
        )
        stack.enter_context(
            _running(
                [
                    _program("prometheus"),
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'prometheus'}",
                    f"--web.listen-address={prometheus}",
                ],
                prometheus,
                folder / "prometheus.log",
            )
        )
        yield Monitoring(f"http://{prometheus}", f"http://{alertmanager}")


def _write_configuration(folder: Path, targets: Mapping[str, str], alertmanager: str) -> None:
    for name in ("rules", "alerts"):  # the resources of the operator wrap Prometheus' own format in `spec`
        spec = yaml.safe_load((MONITORING / f"{name}.yaml").read_text(encoding="utf-8"))["spec"]
        (folder / f"{name}.yml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    static = [
        {"targets": [address], "labels": {"namespace": "screening", "pod": pod}} for pod, address in targets.items()
    ]
    interval = f"{SCRAPE_SECONDS}s"
    prometheus = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(folder / "rules.yml"), str(folder / "alerts.yml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        # As in the cluster, Prometheus' own labels, such as `job` and `pod`, win over those of a target.
        "scrape_configs": [{"job_name": "screening", "static_configs": static}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(prometheus), encoding="utf-8")
    (folder / "alertmanager.yml").write_text(
        yaml.safe_dump({"route": {"receiver": "page"}, "receivers": [{"name": "page"}]}), encoding="utf-8"
    )


@contextmanager
def _running(command: Sequence[str], address: str, log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        # A separate session, so that Ctrl-C reaches only this program, which then stops it.
        process = subprocess.Popen(  # noqa: S603 - a program that the user installed
            command, stdout=output, stderr=output, start_new_session=True
        )
        try:
            _wait_ready(process, address, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"http://{address}/-/ready", trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    name = Path(str(process.args[0] if isinstance(process.args, list) else process.args)).name
    raise MonitoringFailed(f"{name} did not start. The end of {log}:\n{log.read_text(errors='replace')[-2000:]}")


def _program(*names: str) -> str:
    """A program beside our Python (`make tools` puts it there), or on PATH."""
    for name in names:
        if found := shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))):
            return found
    raise MonitoringFailed(
        f"{names[0]} was not found. Run `make tools`, or apt-get install prometheus prometheus-alertmanager."
    )
