"""Starts a retraining in Kubernetes when there is work: `python -m trainer.release.launch_job --config FILE`.

The scheduled pod that runs this has no GPU. It asks `trainer retrain --decide-only` whether there is anything to do. If
so, it creates a Job from the template of a suspended CronJob, so that a GPU is asked for only then.

The Job's name follows from the name of the Job that this pod belongs to: a repeated decision finds the Job that the
first one created, and creates no second one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx

from screening.runtime.command_line import Parser
from screening.runtime.exits import UNFINISHED

T = TypeVar("T")
COMPONENT = "app.kubernetes.io/component=retraining"
"""Label of the Jobs that retrain."""
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_OVER = {"Complete", "Failed"}


class LaunchError(Exception):
    """The Job cannot be created; the message says why. A repetition may succeed."""


class Batch:
    """The few calls of Kubernetes' batch API that are needed, with the pod's service account."""

    def __init__(self, server: str, namespace: str, account: Path, timeout: float = 30.0) -> None:
        """
        Args:
            account: directory with `token`, and with `ca.crt` if the server uses TLS.
            timeout: maximum time to wait for the server to connect or to send data, in seconds.

        Raises:
            OSError: the certificate cannot be read.
        """
        authority = account / "ca.crt"
        self._token = account / "token"
        self._client = httpx.Client(
            base_url=f"{server}/apis/batch/v1/namespaces/{namespace}/",
            verify=str(authority) if authority.exists() else True,
            timeout=timeout,
            trust_env=False,  # the API server is not asked through a proxy
        )

    def template(self, cronjob: str) -> dict[str, Any]:
        """The `jobTemplate` of a CronJob."""

        def read(found: Any) -> dict[str, Any]:
            template = found["spec"]["jobTemplate"]
            return {"metadata": dict(template.get("metadata") or {}), "spec": dict(template["spec"])}

        return _understood(self._ask("GET", f"cronjobs/{cronjob}"), read)

    def unfinished(self) -> list[str]:
        """Names of the retraining Jobs that are neither complete nor failed."""
        answer = self._ask("GET", "jobs", params={"labelSelector": COMPONENT})
        return _understood(
            answer,
            lambda found: [
                str(job["metadata"]["name"]) for job in found["items"] or [] if not _OVER & _conditions(job)
            ],
        )

    def create(self, name: str, template: dict[str, Any]) -> bool:
        """Create a Job; returns False if one with this name exists."""
        metadata = {**template["metadata"], "name": name}
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]}
        return self._ask("POST", "jobs", json=job, also=409).status_code != 409

    def _ask(self, method: str, path: str, *, also: int | None = None, **options: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, headers={"Authorization": self._bearer()}, **options)
        except httpx.HTTPError as error:
            raise LaunchError(
                f"{method} {path}: the Kubernetes API does not answer: {error or type(error).__name__}"
            ) from error
        if not answer.is_success and answer.status_code != also:
            raise LaunchError(f"{method} {answer.url.path}: {answer.status_code} {_reason(answer)}")
        return answer

    def _bearer(self) -> str:
        """Read before each request: Kubernetes replaces the token while the pod runs."""
        try:
            return f"Bearer {self._token.read_text(encoding='utf-8').strip()}"
        except (OSError, UnicodeDecodeError) as error:
            raise LaunchError(f"the service account's token cannot be read: {error}") from error


def _understood(answer: httpx.Response, read: Callable[[Any], T]) -> T:
    """What is read from the JSON of an answer.

    Raises:
        LaunchError: the answer is something else, for example the page of a proxy.
    """
    try:
        return read(answer.json())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise LaunchError(
            f"GET {answer.url.path}: this is not an answer of Kubernetes' batch API ({type(error).__name__}: {error}); "
            "check --server"
        ) from error


def _conditions(job: dict[str, Any]) -> set[str]:
    conditions = (job.get("status") or {}).get("conditions") or []
    return {condition["type"] for condition in conditions if condition["status"] == "True"}


def _reason(answer: httpx.Response) -> str:
    """What the API server says; a proxy in front of it may answer something else than JSON."""
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]


def main(argv: Sequence[str] | None = None) -> int:
    """Decide, and create the Job; returns the exit status, which is the decision's where that fails."""
    args = _parser().parse_args(argv)
    try:
        return _decide_and_launch(args, _batch(args))
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNFINISHED


def _decide_and_launch(args: argparse.Namespace, batch: Batch) -> int:
    if running := batch.unfinished():
        _say({"launched": None, "reason": f"a retraining is under way: {', '.join(running)}"})
        return 0
    done = subprocess.run(  # noqa: S603 - our own command; the file's name comes from the manifest
        [sys.executable, "-m", "trainer", "retrain", "--config", args.config, "--decide-only"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return max(done.returncode, UNFINISHED)  # negative: it was killed
    print(done.stdout, end="", flush=True)
    if _decision(done.stdout) == "run":
        _say(launch(batch, args.template, f"{args.name}-gpu"))
    return 0


def _decision(printed: str) -> str:
    try:
        decision = str(json.loads(printed.splitlines()[-1])["decision"])
    except (IndexError, ValueError, KeyError, TypeError):
        decision = ""
    if decision not in ("run", "skip"):
        raise LaunchError("`trainer retrain --decide-only` did not end with a JSON line that has a decision")
    return decision


def launch(batch: Batch, cronjob: str, name: str) -> dict[str, str | None]:
    """Create the Job from the template; returns its name, or the reason why none was created.

    Raises:
        LaunchError: the API server refuses or does not answer.
    """
    if not batch.create(name, batch.template(cronjob)):
        return {"launched": None, "reason": f"{name} exists already"}
    return {"launched": name}


def _say(outcome: dict[str, str | None]) -> None:
    print(json.dumps(outcome), flush=True)


def _batch(args: argparse.Namespace) -> Batch:
    try:
        return Batch(args.server, args.namespace, args.account)
    except (OSError, httpx.InvalidURL) as error:
        raise LaunchError(f"--server or the certificate in --account cannot be used: {error}") from error


def _parser() -> argparse.ArgumentParser:
    environment = os.environ
    parser = Parser(prog="python -m trainer.release.launch_job", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True, metavar="FILE", help="configuration of `trainer retrain`")
    parser.add_argument(
        "--template", required=True, metavar="CRONJOB", help="suspended CronJob that holds the template"
    )
    parser.add_argument(
        "--name",
        default=environment.get("JOB_NAME"),
        required="JOB_NAME" not in environment,
        help="name of the Job that this pod belongs to [JOB_NAME]",
    )
    parser.add_argument(
        "--namespace",
        default=environment.get("POD_NAMESPACE"),
        required="POD_NAMESPACE" not in environment,
        help="namespace of the Job and the template [POD_NAMESPACE]",
    )
    host, port = environment.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc"), "KUBERNETES_SERVICE_PORT"
    parser.add_argument(
        "--server",
        default=f"https://{f'[{host}]' if ':' in host else host}:{environment.get(port, '443')}",
        metavar="URL",
        help="Kubernetes API (default: from the pod's environment)",
    )
    parser.add_argument(
        "--account", type=Path, default=ACCOUNT, metavar="DIR", help="service account (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
