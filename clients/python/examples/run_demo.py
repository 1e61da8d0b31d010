"""Run a demo as a command: signals end it, and errors become one line."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import suppress

import httpx
from demo_products import DemoFailed

from loadtest.targets.local_service import ServiceFailed
from screening_client import ScreeningClientError


def run_demo(name: str, demo: Callable[[], int], *, stopped: str, stopped_status: int = 130) -> int:
    """Run the demo; returns its exit code.

    Args:
        name: begins the line that reports an error, whose exit code is 1.
        demo: does the work and returns the exit code.
        stopped: is printed after Ctrl-C, SIGTERM or SIGHUP (a closed terminal).
        stopped_status: exit code after one of them.
    """
    # SIGTERM and a closed terminal must stop the service too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # `nohup` has it ignored
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        return demo()
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be closed
            print(f"\n{stopped}", file=sys.stderr)
        return stopped_status
    except (DemoFailed, ServiceFailed, ScreeningClientError, OSError, httpx.HTTPError) as error:
        print(f"\n{name}: {error}", file=sys.stderr)
        return 1


def _interrupt(number: int, _frame: object) -> None:
    if number == signal.SIGHUP:
        # A closing terminal may send it twice. The second one must not interrupt the stop of the service.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt
