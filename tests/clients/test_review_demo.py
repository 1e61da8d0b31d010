"""`make review`: a service with a task for each example product, until Ctrl-C or the end of its terminal."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from tests.ports import free_port


def _look_at_the_tasks(repository, number, *options):
    """Start the demo, see a task of each product, and end the demo with a signal. Returns the address of its page."""
    program = repository / "clients" / "python" / "examples" / "review_demo.py"
    port = free_port()
    command = [sys.executable, "-u", str(program), "--engine", "scripted", "--port", str(port), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        printed = ""
        while "Ctrl-C" not in printed and demo.poll() is None:
            printed += demo.stdout.readline()
        (url,) = re.findall(r"http://\S+/review", printed)
        page = httpx.get(url)
        demo.send_signal(number)
        _, err = demo.communicate(timeout=120)
    assert page.status_code == 200 and "<b>10</b> tasks wait" in page.text
    assert demo.returncode == 0, err
    return url


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_examples_wait_for_review_and_a_signal_ends_everything(repository, number):
    url = _look_at_the_tasks(repository, number)
    with pytest.raises(httpx.TransportError):
        httpx.get(url)


@pytest.mark.slow
def test_the_tasks_are_made_once_even_if_the_first_start_was_interrupted(repository, tmp_path):
    (tmp_path / "decisions.db").touch()  # what the first start leaves if it ends before the tasks are made
    for _ in range(2):
        _look_at_the_tasks(repository, signal.SIGINT, "--keep", str(tmp_path))


@pytest.mark.slow
def test_a_port_in_use_is_refused_before_anything_is_sent_to_it(repository):
    program = repository / "clients" / "python" / "examples" / "review_demo.py"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = [sys.executable, str(program), "--engine", "scripted", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()
    assert done.returncode == 1
    assert f"review: Cannot listen on port {port}: " in done.stderr and "PORT=N" in done.stderr
    assert "Traceback" not in done.stderr
