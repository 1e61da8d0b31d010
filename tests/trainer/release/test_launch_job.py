"""The decision pod creates the GPU Job exactly when there is work, against a server with the batch API."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trainer.release.launch_job import Batch, LaunchError, launch

pytestmark = pytest.mark.slow

TEMPLATE = {
    "metadata": {"labels": {"app.kubernetes.io/component": "retraining"}},
    "spec": {"template": {"spec": {"containers": [{"name": "retrain", "image": "screening-trainer:0.1.0"}]}}},
}
JOBS = "/apis/batch/v1/namespaces/screening/jobs"


@dataclass
class Cluster:
    """The parts of a Kubernetes API server that the launcher uses."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    token: str = "secret-token"
    url: str = ""
    says: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Method → status and body in place of the usual answer."""

    def answer(self, method: str, path: str, authorization: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if authorization != f"Bearer {self.token}":
            return 401, {"message": "Unauthorized"}
        if (method, path) == ("GET", "/apis/batch/v1/namespaces/screening/cronjobs/screening-retrain-gpu"):
            return 200, {"spec": {"jobTemplate": TEMPLATE}}
        if (method, path) == ("GET", f"{JOBS}?labelSelector=app.kubernetes.io%2Fcomponent%3Dretraining"):
            return 200, {"items": list(self.jobs.values())}
        if (method, path) == ("POST", JOBS):
            name = body["metadata"]["name"]
            if name in self.jobs:
                return 409, {"message": f'jobs.batch "{name}" already exists'}
            self.jobs[name] = body
            return 201, body
        return 404, {"message": f"{method} {path} is not known"}

    def finish(self, name: str, condition: str) -> None:
        self.jobs[name]["status"] = {"conditions": [{"type": condition, "status": "True"}]}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length) or b"{}")
            if self.command in cluster.says:
                status, content = cluster.says[self.command]
            else:
                status, answer = cluster.answer(self.command, self.path, self.headers["Authorization"], body)
                content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815 - as http.server names them

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    cluster.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield cluster
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("secret-token\n")
    return tmp_path


@pytest.fixture
def batch(cluster: Cluster, account: Path) -> Batch:
    return Batch(cluster.url, "screening", account)


def test_creates_the_job_of_the_template(cluster: Cluster, batch: Batch) -> None:
    assert launch(batch, "screening-retrain-gpu", "screening-retrain-1-gpu") == {"launched": "screening-retrain-1-gpu"}
    (job,) = cluster.jobs.values()
    assert (job["apiVersion"], job["kind"], job["spec"]) == ("batch/v1", "Job", TEMPLATE["spec"])
    assert job["metadata"] == {"name": "screening-retrain-1-gpu", "labels": TEMPLATE["metadata"]["labels"]}


def test_a_repeated_decision_creates_no_second_job(cluster: Cluster, batch: Batch) -> None:
    launch(batch, "screening-retrain-gpu", "first-gpu")
    cluster.finish("first-gpu", "Complete")
    assert launch(batch, "screening-retrain-gpu", "first-gpu")["launched"] is None
    assert list(cluster.jobs) == ["first-gpu"]


def test_finds_the_retrainings_that_have_not_ended(cluster: Cluster, batch: Batch) -> None:
    for name in ("first-gpu", "second-gpu", "third-gpu"):
        launch(batch, "screening-retrain-gpu", name)
    cluster.finish("first-gpu", "Complete")
    cluster.finish("second-gpu", "Failed")
    assert batch.unfinished() == ["third-gpu"]


def test_the_refusal_of_the_api_server_is_reported(cluster: Cluster, account: Path) -> None:
    cluster.token = "another"
    with pytest.raises(LaunchError, match="401 Unauthorized"):
        launch(Batch(cluster.url, "screening", account), "screening-retrain-gpu", "first-gpu")


@pytest.mark.parametrize("body", [b"<html>busy</html>", b"", b"[]", b'{"items": 3}', b'{"items": [{}]}', b"\xff"])
def test_an_answer_that_is_not_the_api_servers_is_an_error(body: bytes, cluster: Cluster, batch: Batch) -> None:
    cluster.says["GET"] = 200, body
    with pytest.raises(LaunchError, match=r"GET /apis/batch/v1/namespaces/screening/jobs: this is not an answer"):
        batch.unfinished()
    with pytest.raises(LaunchError, match=r"GET .*/cronjobs/screening-retrain-gpu: this is not an answer"):
        batch.template("screening-retrain-gpu")


@pytest.mark.parametrize("body", [b'{"items": null}', b'{"items": []}'])
def test_no_jobs_is_a_list_of_none(body: bytes, cluster: Cluster, batch: Batch) -> None:
    """Go writes an empty list as null where it was never filled."""
    cluster.says["GET"] = 200, body
    assert batch.unfinished() == []


@pytest.mark.parametrize(
    "status", [{}, None, {"conditions": None}, {"conditions": [{"type": "Failed", "status": "False"}]}]
)
def test_a_job_without_conditions_is_under_way(status: Any, cluster: Cluster, batch: Batch) -> None:
    cluster.jobs["week-6-gpu"] = {"metadata": {"name": "week-6-gpu"}, "status": status}
    assert batch.unfinished() == ["week-6-gpu"]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, b'{"message": "jobs.batch is forbidden"}', "403 jobs.batch is forbidden"),
        (422, b'{"message": "spec.template: Required value"}', "422 spec.template: Required value"),
        (502, b"<html>bad gateway</html>", "502 <html>bad gateway</html>"),
        (307, b"", "307"),
    ],
)
def test_a_job_that_is_refused_is_an_error(status: int, body: bytes, said: str, cluster: Cluster, batch: Batch) -> None:
    cluster.says["POST"] = status, body
    with pytest.raises(LaunchError, match=f"POST /apis/batch/v1/namespaces/screening/jobs: {said}"):
        launch(batch, "screening-retrain-gpu", "first-gpu")


def test_an_api_server_that_is_slow_is_an_error(account: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and never answers
        batch = Batch(f"http://127.0.0.1:{silent.getsockname()[1]}", "screening", account, timeout=0.1)
        with pytest.raises(LaunchError, match=r"does not answer: .*timed out"):
            batch.unfinished()


def test_a_token_that_is_replaced_is_used_at_once(cluster: Cluster, batch: Batch, account: Path) -> None:
    assert batch.unfinished() == []
    cluster.token = "the-next-token"
    (account / "token").write_text("the-next-token")
    assert batch.unfinished() == []
    (account / "token").unlink()
    with pytest.raises(LaunchError, match="token cannot be read"):
        batch.unfinished()


def test_the_api_server_is_not_asked_through_a_proxy(
    cluster: Cluster, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert Batch(cluster.url, "screening", account).unfinished() == []


def run_with_decision(tmp_path: Path, cluster: Cluster, program: str) -> subprocess.CompletedProcess[str]:
    """The launcher's process, in which `python -m trainer` is a program of a few lines."""
    package = tmp_path / "python" / "sitecustomize.py"
    package.parent.mkdir()
    # The decision is a child of the same interpreter; only the child has `trainer retrain` on its command line.
    package.write_text(f"import sys\nif sys.argv[0] == '-m' and 'retrain' in sys.orig_argv:\n    {program}\n")
    paths = [str(package.parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), str(Path.cwd())]
    return subprocess.run(
        [sys.executable, "-m", "trainer.release.launch_job", "--config", "retrain.yaml", "--template",
         "screening-retrain-gpu", "--server", cluster.url, "--account", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "JOB_NAME": "week-7", "POD_NAMESPACE": "screening"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def decided(decision: str) -> str:
    line = json.dumps({"decision": decision, "reason": "because"})
    return f"import os; print({line!r}, flush=True); os._exit(0)"


def test_work_becomes_a_job_named_after_the_decision(account: Path, cluster: Cluster) -> None:
    done = run_with_decision(account, cluster, decided("run"))
    assert done.returncode == 0, done.stderr
    assert list(cluster.jobs) == ["week-7-gpu"]
    assert done.stdout.splitlines()[-1] == '{"launched": "week-7-gpu"}'


def test_a_skip_creates_nothing_and_repeats_the_reason(account: Path, cluster: Cluster) -> None:
    done = run_with_decision(account, cluster, decided("skip"))
    assert (done.returncode, cluster.jobs) == (0, {})
    assert json.loads(done.stdout) == {"decision": "skip", "reason": "because"}


def test_a_failed_decision_keeps_its_exit_status(account: Path, cluster: Cluster) -> None:
    done = run_with_decision(account, cluster, "import os; os._exit(2)")
    assert (done.returncode, cluster.jobs) == (2, {})


def test_a_decision_that_was_killed_may_be_repeated(account: Path, cluster: Cluster) -> None:
    done = run_with_decision(account, cluster, "import os; os.kill(os.getpid(), 9)")
    assert (done.returncode, cluster.jobs) == (1, {})


@pytest.mark.parametrize("program", ["import os; os._exit(0)", decided("perhaps"), decided("")])
def test_a_decision_without_words_is_an_error(program: str, account: Path, cluster: Cluster) -> None:
    done = run_with_decision(account, cluster, program)
    assert (done.returncode, cluster.jobs) == (1, {})
    assert "did not end with a JSON line" in done.stderr


def test_while_a_retraining_is_under_way_nothing_is_decided(account: Path, cluster: Cluster) -> None:
    cluster.jobs["week-6-gpu"] = {"metadata": {"name": "week-6-gpu"}}
    done = run_with_decision(account, cluster, "import os; os._exit(1)")
    assert (done.returncode, list(cluster.jobs)) == (0, ["week-6-gpu"])
    assert json.loads(done.stdout)["reason"] == "a retraining is under way: week-6-gpu"
