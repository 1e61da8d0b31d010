"""Structured logs: one JSON object per line on standard error. Log lines never contain pictures or keys.

python-json-logger does not fit: it takes fields as attributes of the record, where names such as `name` are reserved,
and the format of the time, the level and the request id would still be our own code.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Any

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request that the current task handles."""

_FIELDS = "fields"


class JsonFormatter(logging.Formatter):
    """Writes `ts` (UTC), `level`, `logger`, `event`, the fields of the event and, inside a request, `request_id`."""

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
    """Send all log lines, also those of libraries, through one JSON handler. Only the launcher calls this."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # `service.http.middleware` writes one line per request, with more fields.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it logs each of its plugins when it is imported


def log(logger: logging.Logger, level: int, event: str, **fields: Any) -> None:
    """Log one event with its fields."""
    logger.log(level, event, extra={_FIELDS: fields})
