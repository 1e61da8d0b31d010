"""Reads and checks the fields of an answer's JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

from screening_client.errors import UnexpectedAnswer

T = TypeVar("T")


class Reader:
    """Reads fields of a JSON object. Errors name the field that is wrong."""

    def __init__(self, body: object, path: str, request_id: str | None, kind: str = "a screening") -> None:
        """
        Args:
            kind: what the answer should be, for errors.
        """
        self.path, self.request_id, self.kind = path, request_id, kind
        if not isinstance(body, dict):
            raise self.wrong(path.rstrip(".") or "the body", "an object", body)
        self.fields: dict[str, Any] = body

    def wrong(self, where: str, expected: str, value: object) -> UnexpectedAnswer:
        return UnexpectedAnswer(
            f"the answer is not {self.kind}: {where} is not {expected} but {str(value)[:60]!r}. "
            "Check that base_url is the address of the screening service.",
            request_id=self.request_id,
        )

    def take(self, name: str, kind: type[T]) -> T:
        value = self.fields.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(self.path + name, f"of type {kind.__name__}", value)
        return value

    def optional(self, name: str, kind: type[T]) -> T | None:
        return None if self.fields.get(name) is None else self.take(name, kind)

    def number(self, name: str) -> float:
        value = self.fields.get(name)
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else self.take(name, float)

    def optional_number(self, name: str) -> float | None:
        return None if self.fields.get(name) is None else self.number(name)

    def one_of(self, name: str, values: tuple[Any, ...]) -> Any:
        """Return a field whose value must be one of `values`, on which programs rely."""
        value = self.fields.get(name)
        if not isinstance(value, str) or value not in values:
            raise self.wrong(self.path + name, f"one of {' '.join(values)}", value)
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        values = self.take(name, list)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(self.path + name, "a list of strings", values)
        return tuple(values)

    def moment(self, name: str) -> datetime:
        """A time with its time zone."""
        text = self.take(name, str)
        try:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 does not read Z
        except ValueError:
            raise self.wrong(self.path + name, "a time", text) from None
        if moment.tzinfo is None:
            raise self.wrong(self.path + name, "a time with a time zone", text)
        return moment

    def inner(self, name: str) -> Reader:
        return Reader(self.fields.get(name), f"{self.path}{name}.", self.request_id, self.kind)

    def each(self, name: str) -> list[Reader]:
        values = self.take(name, list)
        return [Reader(value, f"{self.path}{name}[{n}].", self.request_id, self.kind) for n, value in enumerate(values)]
