"""An HTTP/1.1 connection with the time limits that uvicorn lacks.

| the service waits for | limit | afterwards it |
|---|---|---|
| the first byte of a new connection | `header_seconds` | closes the connection |
| the rest of a request's headers | `header_seconds` from their first byte | answers 408 and closes the connection |
| the next request on an idle connection | uvicorn's `timeout_keep_alive` | closes the connection |
| the rest of a body after the response | `body_seconds` | closes the connection |
| the rest of a request that was refused | `body_seconds` | closes the connection |
| a client that does not read its response | `body_seconds` | closes the connection |

A close while the peer is still sending would lose the response: the kernel answers the unread bytes with a reset, which
makes the peer discard what it has not read (RFC 9112, section 9.6). So such a connection lingers: the service closes
its own side, and discards what arrives until the peer closes too.

`service.admission.upload` enforces the pace of a body before the response.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from service.errors import HEADER_TIMEOUT, MALFORMED, MEDIA_TYPE, Problem, problem_body
from service.ids import new_id
from service.logs import log

LOGGER = logging.getLogger("service.server.connection")


class _Awaited(Enum):
    """The events for which this module limits the waiting time."""

    FIRST_BYTE = auto()
    HEADERS = auto()
    REST_OF_REQUEST = auto()
    READING = auto()
    NEXT_REQUEST = auto()


class _LingeringTransport:
    """A transport that leaves its `close` to the connection, because uvicorn closes it in many places."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self.close = close
        self.lingers = False

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(H11Protocol):
    """uvicorn's protocol, extended by a timer for the peer's next action."""

    def __init__(self, *arguments: Any, header_seconds: float, body_seconds: float, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._seconds = {
            _Awaited.FIRST_BYTE: header_seconds,
            _Awaited.HEADERS: header_seconds,
            _Awaited.REST_OF_REQUEST: body_seconds,
            _Awaited.READING: body_seconds,
            _Awaited.NEXT_REQUEST: self.timeout_keep_alive,
        }
        self._awaited: _Awaited | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sends_too_much = False
        self.idle_since: float | None = None
        """Time at which the last response ended or the connection was opened; None while a request is in progress."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        self._transport = transport
        self._lingering = _LingeringTransport(transport, self._close)
        super().connection_made(self._lingering)  # type: ignore[arg-type]  # it has all methods of a transport
        self.idle_since = self.loop.time()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # uvicorn does this itself only if there is no error. Its timer would keep the connection's buffers in memory.
        self._unset_keepalive_if_required()
        self._stop_timer()
        # The two refer to each other, which would keep all buffers in memory until the next full garbage collection.
        self._lingering.close = self._transport.close

    def data_received(self, data: bytes) -> None:
        if self._lingering.lingers:
            return
        if self.conn.their_state is h11.MUST_CLOSE:  # RFC 9112, section 9.6: ignore what follows the last request
            self._sends_too_much = True
            return
        super().data_received(data)
        if self._in_progress:
            self.idle_since = None
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_progress:  # the buffer may already have held the next request
            self.idle_since = self.loop.time()
        self._watch()
        if self._awaited is _Awaited.HEADERS:  # the next headers have begun, so the connection is not idle
            self._unset_keepalive_if_required()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def shutdown(self) -> None:
        if self._in_progress and not self._lingering.lingers:
            super().shutdown()
        else:
            self._transport.close()  # without lingering, because no such peer may delay the end of the process

    def send_400_response(self, msg: str) -> None:
        self._refuse(MALFORMED, f"{msg} Send HTTP/1.1 with at most 64 KiB of headers.")

    def _unsupported_upgrade_warning(self) -> None:
        """Suppress two log lines of uvicorn. A client that requests a WebSocket gets an HTTP response."""

    @property
    def _in_progress(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _now_awaited(self) -> _Awaited | None:
        # A transport that closes first writes what it still holds, which may be less than would pause the writing.
        closing = self._transport.is_closing()
        if self.flow.write_paused or (closing and self._transport.get_write_buffer_size()):
            return _Awaited.READING
        if self._lingering.lingers:
            return _Awaited.REST_OF_REQUEST
        if self.transport.is_closing() or self._in_progress:
            return None
        if self.conn.their_state is h11.SEND_BODY:
            return _Awaited.REST_OF_REQUEST
        if self.conn.trailing_data[0]:
            return _Awaited.HEADERS
        # uvicorn's own timer is lost when the rest of a body arrives after the response.
        return _Awaited.FIRST_BYTE if self.cycle is None else _Awaited.NEXT_REQUEST

    def _watch(self) -> None:
        """Start the timer when the connection begins to wait for an event, and stop it when the event has happened."""
        if (awaited := self._now_awaited()) is self._awaited:
            return
        self._stop_timer()
        self._awaited = awaited
        if awaited is not None:
            self._timer = self.loop.call_later(self._seconds[awaited], self._expire)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        if self._awaited is _Awaited.READING:
            self.transport.abort()  # a regular close would wait until everything is written
        elif self._awaited is _Awaited.HEADERS:
            seconds = self._seconds[_Awaited.HEADERS]
            self._refuse(HEADER_TIMEOUT, f"The headers did not arrive within {seconds:g} s. Send the request again.")
        else:
            self._transport.close()
            self._watch()

    def _close(self) -> None:
        """Close the connection, or begin to linger if the peer is still sending."""
        if self.transport.is_closing():
            self._watch()
            return
        is_sending = self.conn.their_state in (h11.SEND_BODY, h11.ERROR) or bool(self.conn.trailing_data[0])
        if not (is_sending or self._sends_too_much):
            self._transport.close()
            self._watch()
            return
        self._lingering.lingers = True
        self.idle_since = self.loop.time()  # the listener may close it to make room
        self._unset_keepalive_if_required()
        if self.cycle is not None and self._in_progress:  # the app must neither wait for the body nor answer
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._transport.write_eof()
        self.flow.resume_reading()
        self._watch()

    def _refuse(self, problem: Problem, detail: str) -> None:
        """Answer with a problem document before the request is complete, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            request_id = new_id("req_")
            # The request did not reach the app, so this is the only log line with the id that the client gets.
            client = self.client[0] if self.client else None
            fields = {"status": problem.status, "client": client, "detail": detail, "request_id": request_id}
            log(LOGGER, logging.INFO, "refused", **fields)
            body = problem_body(problem, detail, path="", request_id=request_id)
            headers = [
                ("content-type", MEDIA_TYPE),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            reason = STATUS_PHRASES[problem.status]
            response = h11.Response(status_code=problem.status, headers=headers, reason=reason)
            # An answer to HEAD has no body, and h11 refuses to send one.
            is_head = self.conn.our_state is h11.SEND_RESPONSE and self.scope["method"] == "HEAD"
            events = (response, h11.Data(data=b"" if is_head else body), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()
