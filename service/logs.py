"""Structured logs: one JSON object per line on standard error. Never a picture, never a key."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Any

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The request that the current task works for."""

_FIELDS = "fields"


class JsonFormatter(logging.Formatter):
    """`ts` (UTC), `level`, `logger`, `event`, `request_id` where there is one, and the fields given."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "ts": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if (request_id := REQUEST_ID.get()) is not None:
            line["request_id"] = request_id
        line.update(getattr(record, _FIELDS, {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Send everything, the libraries' lines included, through one JSON handler. Called by the launcher only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # One line per request is written by `service.http.middleware`, with more in it.
    logging.getLogger("uvicorn.access").disabled = True


def log(logger: logging.Logger, level: int, event: str, **fields: Any) -> None:
    """Write one event with fields."""
    logger.log(level, event, extra={_FIELDS: fields})
