"""The service starts with the environment and mounts of the manifests, as uid 10001, on a read-only root."""

from __future__ import annotations

import atexit
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import httpx
import pytest

from tests.k8s.rendering import K8S, ROOT, Resource, environment, generated_secrets, one, render
from tests.ports import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.getuid() != 0, reason="mount namespaces need root"),
    pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces are Linux's"),
]
OVERLAY = "laptop"
KEY = "laptop"
Running = tuple[subprocess.Popen[bytes], str]
"""The process, and the address of the service."""


def pod() -> Resource:
    spec: Resource = one(render(OVERLAY), "Deployment", "screening")["spec"]["template"]["spec"]
    return spec


def entrypoint(target: str) -> list[str]:
    """The command that the image of a target runs."""
    stages = re.split(r"(?m)^FROM .* AS ", (K8S / "images" / "Containerfile").read_text())
    (stage,) = (stage for stage in stages if stage.startswith(f"{target}\n"))
    (command,) = re.findall(r"(?m)^ENTRYPOINT (\[.*\])$", stage)
    return [str(part) for part in json.loads(command)]


def mounted_secrets() -> dict[str, str]:
    """Secrets by the paths at which they are mounted."""
    spec = pod()
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
    mounts = spec["containers"][0]["volumeMounts"]
    return {mount["mountPath"]: secrets[mount["name"]] for mount in mounts if mount["name"] in secrets}


def writable() -> list[str]:
    """The paths of all other mounts."""
    mounts = [mount["mountPath"] for mount in pod()["containers"][0]["volumeMounts"]]
    return [path for path in mounts if path not in mounted_secrets()]


@cache
def secret_folder(secret: str) -> Path:
    """A directory with the values of a Secret, which everyone may read."""
    folder = Path(tempfile.mkdtemp(prefix="screening-secret-"))
    atexit.register(shutil.rmtree, folder)
    folder.chmod(0o755)
    for name, value in generated_secrets(render(OVERLAY)).items():
        if name.startswith(f"{secret}/"):
            (folder / name.rpartition("/")[2]).write_text(value)
    return folder


def confined(command: list[str], variables: dict[str, str]) -> list[str]:
    """The command line that runs a command as the pod's container, on this machine's files."""
    mounts = [part for path in writable() for part in ("--mount", path)]
    folders = {Path(sys.prefix), Path(sys.base_prefix)}
    binds = [f"{ROOT / folder}:/app/{folder}" for folder in ("screening", "service", "models")]
    binds += [f"{folder}:{folder}" for folder in sorted(map(str, folders))]
    binds += [f"{secret_folder(secret)}:{path}" for path, secret in mounted_secrets().items()]
    options = [part for bind in binds for part in ("--bind", bind)]
    settings = [f"{name}={value}" for name, value in variables.items()]
    return [str(K8S / "images" / "confine"), "/", *options, *mounts, "--", "/usr/bin/env", "-i", *settings, *command]


def variables(**changes: str) -> dict[str, str]:
    """The container's environment; the image adds PYTHONPATH."""
    resources = render(OVERLAY)
    given = environment(resources, pod()["containers"][0], generated_secrets(resources))
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/app"} | given | changes


class Load:
    """Callers that send different questions at the same time until they are stopped."""

    def __init__(self, ask: Callable[[], int], callers: int) -> None:
        self.statuses: list[int] = []
        self.errors: list[Exception] = []
        self.waiting = 0
        """Callers that wait for an answer."""
        self._ask = ask
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        while True:
            with self._lock:
                if self._stopping.is_set():
                    return
                self.waiting += 1
            try:
                self.statuses.append(self._ask())
            except httpx.HTTPError as error:
                self.errors.append(error)
            with self._lock:
                self.waiting -= 1

    def stop_asking(self) -> None:
        """No further question after this; those that were asked are still answered."""
        with self._lock:
            self._stopping.set()

    def join(self) -> None:
        self.stop_asking()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def service(tmp_path: Path, wait_until: Callable[..., None], request: pytest.FixtureRequest) -> Iterator[Running]:
    """The service in its confinement, ready, and its address. A test may set the mean time of an answer in ms."""
    port, latency = str(free_port()), str(getattr(request, "param", 20))
    # Another engine, which needs no model, and a port that is free on this machine; everything else is the manifests'.
    environ = variables(SCREENING_ENGINE="scripted", SCREENING_SCRIPTED_LATENCY_MS=latency, SCREENING_PORT=port)
    command = [sys.executable, *entrypoint("service")[1:]]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(confined(command, environ), stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            return httpx.get(f"{url}/readyz", timeout=60).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(ready)
        yield process, url
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def ask(service: Running, repository: Path) -> Iterator[Callable[[], int]]:
    """Ask a question that was never asked before; returns the status of the answer."""
    product = sorted((repository / "clients" / "python" / "examples" / "products").iterdir())[0]
    names = [("original", "original"), *(("generated", letter) for letter in "abcd")]
    numbers = itertools.count()
    client = httpx.Client(base_url=service[1], headers={"Authorization": f"Bearer {KEY}"}, timeout=60)

    def asked() -> int:
        # Bytes after the end of a JPEG are not part of the picture, and make another file of it.
        end = next(numbers).to_bytes(4, "big")
        pictures = [(name, (f"{file}.jpg", (product / f"{file}.jpg").read_bytes() + end)) for name, file in names]
        return client.post("/screen", files=pictures).status_code

    with client:
        yield asked


def test_screens_as_an_unprivileged_user_on_a_read_only_root(service: Running, ask: Callable[[], int]) -> None:
    process, url = service
    assert ask() == 200
    assert httpx.post(f"{url}/screen", timeout=60).status_code == 401
    status = dict(re.findall(r"(\w+):\s+(.*)", Path(f"/proc/{process.pid}/status").read_text()))
    assert status["Uid"].split() == ["10001"] * 4
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_nothing_but_the_mounts_can_be_written() -> None:
    declared = writable()
    shut = ["/", "/app", "/app/models", "/etc", *mounted_secrets(), "/var", "/root", sys.prefix]
    places = " ".join(map(shlex.quote, [*declared, *shut]))
    script = f"for place in {places}; do touch $place/x 2>/dev/null && echo $place; done; true"
    done = subprocess.run(
        confined(["/bin/sh", "-c", script], variables()), capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == declared


def in_flight(url: str) -> int:
    (value,) = re.findall(r"(?m)^screening_in_flight (.*)$", httpx.get(f"{url}/metrics", timeout=60).text)
    return int(float(value))


@pytest.mark.parametrize("service", [10_000], indirect=True)  # all requests must be in flight at the same time
def test_leaves_under_load_without_failing_a_request(
    service: Running, ask: Callable[[], int], wait_until: Callable[..., None]
) -> None:
    process, url = service
    load = Load(ask, callers=4)
    wait_until(lambda: len(load.statuses) >= 4)
    # The kubelet waits for preStop while load balancers learn that the pod leaves; requests still arrive and are
    # answered. Then SIGTERM comes, with the last requests inside.
    load.stop_asking()
    wait_until(lambda: in_flight(url) == load.waiting)
    assert load.waiting > 0
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=pod()["terminationGracePeriodSeconds"]) == 0
    load.join()
    assert not load.errors
    assert set(load.statuses) == {200}
