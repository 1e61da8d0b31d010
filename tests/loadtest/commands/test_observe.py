"""`loadtest observe` shows values while it runs, and Ctrl-C ends everything that it started."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow

READY = re.compile(r"(?m)^  Ready replicas +1$")


def test_shows_the_dashboards_values_until_ctrl_c(
    tmp_path: Path, repository: Path, wait_until: Callable[..., None]
) -> None:
    command = [sys.executable, "-m", "loadtest", "observe", "--engine", "scripted", "--every", "3"]
    told, shown = tmp_path / "stderr", tmp_path / "stdout"
    with told.open("wb") as errors, shown.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--out", str(tmp_path / "run")], cwd=repository, stdout=output, stderr=errors
        )
        try:
            wait_until(lambda: process.poll() is not None or READY.search(shown.read_text()))
            process.send_signal(signal.SIGINT)
            assert process.wait(300) == 0, told.read_text()
        finally:
            process.kill()
            process.wait()
    assert READY.search(shown.read_text())
    addresses = dict(re.findall(r"(?m)^(Service|Prometheus|Alertmanager) +(http://\S+)$", told.read_text()))
    assert len(addresses) == 3
    for address in addresses.values():
        with pytest.raises(httpx.ConnectError):
            httpx.get(address)


def test_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loadtest.targets import monitoring

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with (
        pytest.raises(monitoring.MonitoringFailed, match="alertmanager was not found"),
        monitoring.monitoring(tmp_path / "run", {"a": "127.0.0.1:1"}),
    ):
        pass
