"""The current time as records hold it."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now_text() -> str:
    """Return the current time in UTC as ISO 8601 text with whole seconds, such as `2026-03-01T09:30:00+00:00`."""
    return datetime.now(UTC).isoformat(timespec="seconds")
