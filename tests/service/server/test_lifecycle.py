"""Start-up, drain, and the end of the process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.engines.scripted_engine import ScriptedEngine

pytestmark = pytest.mark.slow


@contextmanager
def holding(launch_service: Callable[..., Any], folder: Path) -> Iterator[tuple[Any, Path]]:
    """A service whose requests stay in the engine until the test creates the file."""
    file = folder / "released"
    engine = ("--engine", "tests.service.held_engine:make")
    with launch_service(*engine, variables={"RELEASED": str(file)}) as process:
        yield process, file


@pytest.mark.anyio
async def test_while_the_engine_loads_the_process_lives_but_takes_nothing(start, sample) -> None:
    async with start(ScriptedEngine(start_ms=60_000), wait=False) as running:
        assert (await running.client.get("/livez")).status_code == 200
        for path in ("/readyz", "/startupz"):
            response = await running.client.get(path)
            assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1
        response = await running.client.post("/screen", json=sample.json())
        assert response.status_code == 503 and response.json()["type"].endswith(":not-ready")


@pytest.mark.anyio
async def test_once_started_all_health_is_green_and_names_the_engine(start) -> None:
    async with start() as running:
        for path in ("/livez", "/readyz", "/startupz"):
            response = await running.client.get(path)
            assert response.status_code == 200 and response.json() == {"status": "ok", "engine": "scripted"}


@pytest.mark.anyio
async def test_a_drain_refuses_new_requests_and_finishes_admitted_ones(start, sample) -> None:
    engine = ScriptedEngine(latency_ms=200)
    async with start(engine) as running:
        inside = asyncio.create_task(running.client.post("/screen", json=sample.json()))
        async with asyncio.timeout(60):
            while engine.running() == 0:
                await asyncio.sleep(0.001)
        running.app.state.service.admission.close()
        refused = await running.client.post("/screen", json=sample.json())
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        assert (await running.client.get("/readyz")).status_code == 503
        assert (await running.client.get("/livez")).status_code == 200
        assert (await running.client.get("/startupz")).status_code == 200
        assert (await inside).status_code == 200


def test_sigterm_finishes_requests_in_flight_refuses_new_ones_and_exits_with_0(
    launch_service, sample, make_sample, wait_until, tmp_path
) -> None:
    with holding(launch_service, tmp_path) as (process, released):
        statuses: list[int] = []

        def call(seed: int) -> None:
            body = make_sample(seed).json()
            statuses.append(httpx.post(f"{process.base_url}/screen", json=body, timeout=60).status_code)

        with httpx.Client(base_url=process.base_url, timeout=60) as kept_alive:
            kept_alive.get("/readyz")
            threads = [threading.Thread(target=call, args=(seed,)) for seed in range(6)]
            for thread in threads:
                thread.start()
            wait_until(lambda: process.metric("screening_engine_running ") == 6)
            process.popen.terminate()
            wait_until(lambda: kept_alive.get("/readyz").status_code == 503)
            assert kept_alive.post("/screen", json=sample.json()).status_code == 503
        released.touch()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 6
        assert process.popen.wait(60) == 0


def test_an_engine_that_cannot_start_ends_the_process_with_an_error(launch_service) -> None:
    with launch_service("--engine", "scripted", "--scripted-failure", "start", ready=False) as process:
        assert process.popen.wait(60) not in (0, None)
        assert any(event["event"] == "start failed" for event in process.events())


def test_a_checkpoint_that_is_not_there_is_said_without_a_traceback(launch_service, tmp_path) -> None:
    with launch_service("--checkpoint", str(tmp_path / "missing"), ready=False) as process:
        assert process.popen.wait(60) == 3
        (said,) = (event for event in process.events() if event["event"] == "start failed")
    assert "missing does not exist" in said["error"] and "exception" not in said


def test_every_request_leaves_one_log_line_with_its_id_and_no_picture(scripted_service, sample, wait_until) -> None:
    def lines(request_id: str) -> list[dict[str, Any]]:
        return [event for event in scripted_service.events() if event.get("request_id") == request_id]

    body = sample.json()
    for request_id in ("log-me", "the-next"):
        headers = {"X-Request-Id": request_id}
        httpx.post(f"{scripted_service.base_url}/screen", json=body, headers=headers, timeout=60)
    wait_until(lambda: lines("the-next"))
    (line,) = lines("log-me")
    assert line["event"] == "request" and line["status"] == 200 and line["outcome"] == "answered"
    assert {"choice", "checkpoint", "timings", "ms"} <= line.keys()
    assert body["original"][:40] not in json.dumps(line)


def test_a_service_reports_its_state_and_keeps_running(scripted_service) -> None:
    said = scripted_service.stacks()
    assert "thread 0x" in said and "in _serve" in said, said
    assert httpx.get(f"{scripted_service.base_url}/readyz").status_code == 200


def raw(process, data: bytes) -> socket.socket:
    """A connection on which this was sent."""
    connection = socket.create_connection(process.address, timeout=60)
    try:
        connection.sendall(data)
    except OSError:
        connection.close()
        raise
    return connection


UPLOAD = b"POST /screen HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"


@pytest.mark.parametrize(
    "number",
    [
        # The drain after SIGTERM is tested above, with more requests.
        pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive),
        signal.SIGINT,
        signal.SIGHUP,
    ],
)
def test_each_signal_to_end_drains(launch_service, sample, wait_until, tmp_path, number) -> None:
    with holding(launch_service, tmp_path) as (process, released):
        with raw(process, sample.raw_request()) as inside:
            wait_until(lambda: process.metric("screening_engine_running ") == 1)
            process.popen.send_signal(number)
            wait_until(lambda: httpx.get(f"{process.base_url}/readyz").status_code == 503)
            process.popen.send_signal(signal.SIGHUP)  # as systemd and terminals may, after the first
            released.touch()
            assert inside.recv(65536).startswith(b"HTTP/1.1 200")
        assert process.popen.wait(60) == 0


def test_nohup_is_respected(launch_service) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with launch_service("--engine", "scripted") as process:
            process.popen.send_signal(signal.SIGHUP)
            assert httpx.get(f"{process.base_url}/readyz").status_code == 200
            assert process.terminate() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "number",
    [
        # The same handler takes both signals. SIGINT shows in addition that the second signal may be another one.
        pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive),
        signal.SIGINT,
    ],
)
def test_a_second_signal_ends_at_once_and_still_answers(launch_service, sample, wait_until, number) -> None:
    with launch_service("--engine", "scripted", "--scripted-latency-ms", "60000") as process:
        with raw(process, sample.raw_request()) as inside:
            wait_until(lambda: process.metric("screening_engine_running ") == 1)
            process.popen.send_signal(signal.SIGTERM)
            wait_until(lambda: any(event["event"] == "draining" for event in process.events()))
            time.sleep(1)  # sooner, the next one would count as the same signal
            process.popen.send_signal(number)
            assert_service_ended(inside)
        assert process.popen.wait(60) == 128 + number
        assert "Traceback" not in process.log.read_text()


def test_a_request_that_outlasts_the_drain_is_answered_with_a_problem(launch_service, sample, wait_until) -> None:
    arguments = ("--scripted-latency-ms", "60000", "--drain-seconds", "0.5")
    with launch_service("--engine", "scripted", *arguments) as process:
        with raw(process, sample.raw_request()) as inside, raw(process, UPLOAD) as uploading:
            wait_until(lambda: process.metric("screening_in_flight ") == 2)
            process.popen.terminate()
            assert_service_ended(inside)
            assert_service_ended(uploading)
        assert process.popen.wait(60) == 0
        assert "Traceback" not in process.log.read_text()


def assert_service_ended(connection: socket.socket) -> None:
    response = b""
    while b"}" not in response:
        data = connection.recv(65536)
        assert data, response
        response += data
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: " in head.lower()
    problem = json.loads(body)
    assert problem["type"].endswith(":not-ready") and "shut down" in problem["detail"]


OPEN_CONNECTIONS = {
    "open": b"",
    "half": b"GET /readyz HT",
    "idle": b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n",
    "answered-early": b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{",
    "pipelined": b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + b"GET",
    "unread": b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 300,
    "upgrade": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize(
    "names",
    [
        list(OPEN_CONNECTIONS),
        *(pytest.param([name], marks=pytest.mark.exhaustive) for name in OPEN_CONNECTIONS),
    ],
    ids="-".join,
)
def test_open_connections_neither_hold_up_the_end_nor_break_it(launch_service, names) -> None:
    with launch_service("--engine", "scripted") as process, ExitStack() as stack:
        for name in names:
            stack.enter_context(raw(process, OPEN_CONNECTIONS[name]))
        time.sleep(0.3)
        assert process.terminate() == 0
        log = process.log.read_text()
        assert "Traceback" not in log and "Error" not in log
        assert process.events()[-1]["event"].startswith("Finished")


def test_connections_that_arrive_while_the_service_ends_do_not_break_it(launch_service) -> None:
    with launch_service("--engine", "scripted") as process:
        ended = threading.Event()

        def knock() -> None:
            while not ended.is_set():
                with suppress(OSError):
                    raw(process, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").close()

        threads = [threading.Thread(target=knock) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert process.terminate() == 0
        ended.set()
        for thread in threads:
            thread.join()
        assert "Traceback" not in process.log.read_text()


@pytest.mark.parametrize(
    "directories",
    [
        ("/nonexistent/metrics", "/proc/1"),
        pytest.param(("/proc/1", "/nonexistent/metrics"), marks=pytest.mark.exhaustive),
    ],
)
def test_a_directory_for_metrics_of_several_processes_is_ignored(launch_service, directories) -> None:
    variables = dict(zip(("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"), directories, strict=True))
    with launch_service("--engine", "scripted", variables=variables) as process:
        assert process.metric("screening_ready ") == 1
        for variable in variables:
            assert sum(variable in event["event"] for event in process.events()) == 1


def test_a_port_that_is_taken_ends_the_start_with_a_sentence(launch_service, scripted_service) -> None:
    port = str(scripted_service.address[1])
    with launch_service("--engine", "scripted", "--port", port, ready=False) as process:
        assert process.popen.wait(60) == 2
        last = process.log.read_text().splitlines()[-1]
        reason = "Address already in use. Choose another --host or --port."
        assert last == f"error: cannot listen on 127.0.0.1 port {port}: {reason}"


@pytest.mark.parametrize("host", ["0.0.0.0", pytest.param("", marks=pytest.mark.exhaustive)])
def test_an_open_service_on_every_interface_is_warned_of(launch_service, host) -> None:
    with launch_service("--engine", "scripted", "--host", host) as process:
        assert ["no API keys" in event["event"] for event in warnings(process)] == [True]


def test_a_service_for_this_machine_is_not_warned_of(scripted_service) -> None:
    assert warnings(scripted_service) == []


def test_a_review_without_sign_in_is_warned_of_and_refused_to_a_proxy(launch_service, tmp_path) -> None:
    stores = ["--decisions", f"sqlite:///{tmp_path / 'decisions.db'}", "--pictures", str(tmp_path / "pictures")]
    with launch_service("--engine", "scripted", "--review", "true", *stores) as process:
        assert ["without signing in" in event["event"] for event in warnings(process)] == [True]
        assert httpx.get(f"{process.base_url}/review/reviews").status_code == 200
        host = f"127.0.0.1:{process.address[1]}"
        with socket.create_connection(process.address, 30) as proxy:
            # What nginx sends with `proxy_pass` alone.
            proxy.sendall(f"GET /review/reviews HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            assert b" 403 " in proxy.makefile("rb").readline()


def warnings(process) -> list[dict[str, Any]]:
    """The warnings that the service logged while it started."""
    events = takewhile(lambda event: event["event"] != "ready", process.events())
    return [event for event in events if event["level"] == "warning"]


def test_a_service_with_keys_is_not_warned_of_and_its_request_log_names_the_caller(launch_service, sample) -> None:
    key, stranger = "a key of the shop", "a wrong key"
    allowed = hashlib.sha256(key.encode()).hexdigest()
    with launch_service("--engine", "scripted", "--host", "0.0.0.0", "--api-keys", allowed) as process:
        assert warnings(process) == []
        for number, given in enumerate((key, stranger)):
            headers = {
                "Authorization": f"Bearer {given}",
                "X-Forwarded-For": "203.0.113.9",
                "X-Request-Id": f"r{number}",
            }
            httpx.post(f"{process.base_url}/screen", json=sample.json(), headers=headers, timeout=60)
        assert process.terminate() == 0
        lines = {
            event["request_id"]: event
            for event in process.events()
            if event["event"] == "request" and "request_id" in event
        }
        assert key not in process.log.read_text() and stranger not in process.log.read_text()
    assert lines["r0"]["client"] == lines["r1"]["client"] == "127.0.0.1"
    assert lines["r0"]["caller"] == allowed[:8] and lines["r1"]["caller"] is None


def test_a_trusted_proxy_names_the_client(launch_service, sample) -> None:
    with launch_service("--engine", "scripted", "--trusted-proxies", "10.0.0.0/8, 127.0.0.1") as process:
        headers = {"X-Forwarded-For": "203.0.113.9, 10.1.2.3", "X-Request-Id": "proxied"}
        httpx.post(f"{process.base_url}/screen", json=sample.json(), headers=headers, timeout=60)
        assert process.terminate() == 0
        (line,) = (event for event in process.events() if event.get("request_id") == "proxied")
    assert line["client"] == "203.0.113.9"


def test_a_user_without_a_passwd_entry_and_a_home_can_start(launch_service, run_as_stranger) -> None:
    with launch_service("--engine", "scripted", prefix=run_as_stranger, variables={"HOME": "/"}) as process:
        assert httpx.get(f"{process.base_url}/readyz").status_code == 200
        assert process.terminate() == 0
