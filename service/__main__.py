"""`python -m service`: parse, then import what is heavy, then serve."""

from __future__ import annotations

import argparse
import faulthandler
import signal
import sys
from collections.abc import Sequence
from typing import Any

EXAMPLES = """\
examples:
  python -m service --checkpoint models/tiny
  python -m service --checkpoint models/tiny --host 0.0.0.0 --port 8000 --max-concurrent 32
  python -m service --engine scripted            # no model: a deterministic stand-in for laptops and tests

then:
  curl -s localhost:8000/readyz
  curl -s localhost:8000/screen -F original=@o.jpg -F generated=@a.jpg -F generated=@b.jpg \\
       -F generated=@c.jpg -F generated=@d.jpg

Each option is also an environment variable: --max-queue is SCREENING_MAX_QUEUE. The command line wins.
docs/operations.md explains the settings, docs/http-api.md the interface.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service until it is told to stop; returns the exit code."""
    from service.config import SettingsError, load

    parser = _parser()
    given = {key: value for key, value in vars(parser.parse_args(argv)).items() if value is not None}
    try:
        settings = load(given)
    except SettingsError as error:
        parser.error(str(error))
    return _serve(settings)


def _parser() -> argparse.ArgumentParser:
    from service.config import PREFIX, Settings

    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Serve POST /screen: which of four generated pictures may be shown for a product?",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f" (default: {field.default})"
        text = f"{field.description} [{PREFIX}{name.upper()}]{default}".replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar="VALUE", help=text)
    return parser


def _serve(settings: Any) -> int:
    import uvicorn

    from screening.errors import CheckpointError
    from service.app import create_app
    from service.drain import DrainingServer
    from service.logs import configure

    configure(settings.log_level)
    # A service that stands still can be asked where, without a debugger in its container.
    faulthandler.register(signal.SIGUSR1)
    servers: list[DrainingServer] = []
    try:
        app = create_app(settings, _engine(settings), on_failed_start=lambda: servers[0].fail_start())
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        # httptools, which uvicorn prefers, takes headers of any size.
        http="h11",
        h11_max_incomplete_event_size=65536,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        # After our own drain nothing should be left; this only bounds what hangs.
        timeout_graceful_shutdown=5,
    )
    server = DrainingServer(config, app.state.service.admission, drain_seconds=settings.drain_seconds)
    servers.append(server)
    with _guard(app.state.service.served):
        server.run()
    return server.exit_code


def _guard(served: Any) -> Any:
    """While it is open, the engine's processes and our temporary files go when we are killed."""
    from contextlib import nullcontext

    from screening.remains import guard

    if served is None:
        return nullcontext()

    return guard(*served.temporary)


def _engine(settings: Any) -> Any:
    if settings.engine == "scripted":
        from service.scripted_engine import ScriptedEngine

        return ScriptedEngine(
            latency_ms=settings.scripted_latency_ms,
            start_ms=settings.scripted_start_ms,
            failure=settings.scripted_failure,
        )
    from service.vllm_engine import VllmEngine

    return VllmEngine(
        device=settings.device,
        max_concurrent=settings.max_concurrent,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        cpu_worker=settings.cpu_worker,
        draft_tokens=settings.draft_tokens,
    )


if __name__ == "__main__":
    sys.exit(main())
