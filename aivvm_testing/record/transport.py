"""Tap 1: a transport around a transport, which records what passes.

Contract: tee, never buffer. The reader gets the same chunks, the same errors (the very objects) and the same head,
each as soon as it is there and its line is in the journal. What goes wrong with the recording itself never reaches
the reader: it is raised when the tap is closed. Secrets are taken out by `aivvm_testing.redaction` before a byte is
written; where a request holds one, the journal, never the reader, may lag behind by a chunk. Nothing here knows HTTP,
the format of the file, or where chunks come from.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from functools import partial

from aivvm.errors import ConnectFailed, Interrupted, TimedOut
from aivvm.transport import Headers, Request, Response, Timeout, Transport
from aivvm_testing.clock import Clock, SystemClock, Timer
from aivvm_testing.errors import SetupFailure
from aivvm_testing.journal import Journal
from aivvm_testing.redaction import BlankedStream, Secrets, redact, redact_headers, redact_text
from aivvm_testing.reply import HEADLESS_KINDS, Ending, EndingKind, Head


class RecordingTransport:
    """Sends through `transport` and records every exchange; `close` makes the file at `path` of them.

        with RecordingTransport(RequestsTransport(), "session.jsonl") as tap:
            Aivvm(transport=tap)...

    Safe to share between threads. Times come from `clock` (the system's by default), in seconds since each request
    was sent, rounded to microseconds. Exchanges start when they do on the system's clock, and all at 0.0 on a virtual
    one; those that start together are kept in the order of their `send`.

    | the reader gets | recorded ending |
    |---|---|
    | the end of the body | `complete` |
    | `Interrupted` | its kind, `cut` or `reset` |
    | `TimedOut` | `stall` |
    | `ConnectFailed` | its kind |
    | any other exception, such as `KeyboardInterrupt` | `closed`, with the exception's name as `error` |
    | nothing more: it closed or dropped the response, or the tap was closed | `closed` |

    `transport` stays its owner's to close. Raises `FileExistsError` where another recorder writes to `path`, and
    `OSError` where nothing can be written.
    """

    def __init__(
        self,
        transport: Transport,
        path: str | os.PathLike[str],
        *,
        clock: Clock | None = None,
        note: str = "",
    ) -> None:
        if not callable(getattr(transport, "send", None)):
            raise TypeError(f"a transport has a method send(request, *, timeout), but got {transport!r}")
        self._transport = transport
        self._clock: Clock = SystemClock() if clock is None else clock
        self._journal = Journal(path, note=note)
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._closed = False
        self._open: dict[int, _Entry] = {}

    def send(self, request: Request, *, timeout: Timeout) -> Response:
        """What the inner transport gives, or raises. A closed tap raises `SetupFailure`: it would record nothing."""
        redacted, secrets = redact(request)
        started = 0.0 if self._clock.virtual else round(time.monotonic() - self._began, 6)
        with self._lock:
            if self._closed:
                raise SetupFailure(f"this tap is closed, and {self._journal.path} is written: make a new tap")
            entry = _Entry(self._journal, self._journal.begin(redacted, started), secrets, self._open)
        with self._clock.exchange() as timer:
            entry.timer = timer
            try:
                response = self._transport.send(request, timeout=timeout)
            except BaseException as error:
                entry.end(*ending_of(error, headed=False))
                raise
            entry.head(response)
        return _Recorded(response, entry)

    def close(self) -> None:
        """Finishes the recording; streams that are still open go on, and are recorded as `closed`.

        Raises `OSError` where not everything could be written: an earlier file is then as it was, and the journal
        beside it has what came until then. Closing again is harmless, and tries again what failed.
        """
        with self._lock:
            self._closed = True
        for entry in list(self._open.values()):
            entry.end("closed")
        self._journal.finish()

    def __enter__(self) -> RecordingTransport:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Entry:
    """One exchange on its way into the journal; among the `open` ones until it has ended."""

    def __init__(self, journal: Journal, n: int, secrets: Secrets, open: dict[int, _Entry]) -> None:
        self.timer: Timer | None = None
        self._journal = journal
        self._n = n
        self._secrets = secrets
        self._open = open
        self._stream = BlankedStream(secrets, partial(journal.chunk, n)) if secrets else None
        open[n] = self

    def head(self, response: Response) -> None:
        reason, headers = response.reason, response.headers
        if self._secrets:
            headers = self._secrets.blank_headers(headers)
            if isinstance(reason, str):  # else the journal refuses it, without hurting the reader
                reason = self._secrets.blank_text(reason)
        self._journal.head(self._n, recorded_head(response.status, reason, headers, self._now()))

    def chunk(self, data: bytes) -> None:
        if self._stream is None:
            self._journal.chunk(self._n, data, self._now())
        else:
            self._stream.feed(data, self._now())

    def end(self, kind: EndingKind, error: str | None = None) -> None:
        if self._stream is not None:
            self._stream.finish()
        said = None if error is None else self._secrets.blank_text(error)
        self._journal.end(self._n, Ending(kind, self._now(), error=said))
        self._open.pop(self._n, None)

    def _now(self) -> float:
        return 0.0 if self.timer is None else round(self.timer.elapsed(), 6)


class _Recorded(Response):
    """A response that is written down while it is read."""

    def __init__(self, response: Response, entry: _Entry) -> None:
        self._ended = True  # until there is something to end
        self.status = response.status
        self.reason = response.reason
        self.headers = response.headers
        self._response = response
        self._chunks = iter(response)
        self._entry = entry
        self._ended = False

    def __next__(self) -> bytes:
        try:
            data = next(self._chunks)
        except StopIteration:
            self._end("complete")
            raise
        except BaseException as error:
            self._end(*ending_of(error, headed=True))
            raise
        self._entry.chunk(data)
        return data

    def _end(self, kind: EndingKind, error: str | None = None) -> None:
        if not self._ended:
            self._ended = True
            self._entry.end(kind, error)

    def close(self) -> None:
        self._end("closed")
        self._chunks = iter(())
        self._response.close()

    def __del__(self) -> None:
        self._end("closed")


def recorded_head(status: int, reason: str, headers: Iterable[tuple[str, str]], at: float) -> Head:
    """A head as a recording keeps it: redacted, and without the fields of a content-coding that was undone.

    Those, content-encoding and content-length, are its `decoded`.
    """
    kept = redact_headers(headers)
    coding = kept.get("content-encoding", "")
    if not coding or coding.strip().lower() == "identity":
        return Head(status, reason, kept, at)
    described = ("content-encoding", "content-length")
    undone = Headers(pair for pair in kept if pair[0].lower() in described)
    return Head(status, reason, kept.without(*described), at, undone)


def ending_of(error: BaseException, *, headed: bool) -> tuple[EndingKind, str | None]:
    """The kind of ending that this error of a transport is, and what a recording says of it."""
    said = redact_text(str(error)) or None
    if isinstance(error, TimedOut):
        return "stall", said
    if isinstance(error, Interrupted):
        return ("reset" if error.kind == "reset" else "cut"), said
    if isinstance(error, ConnectFailed) and not headed:
        return (error.kind if error.kind in HEADLESS_KINDS else "unreachable"), said
    name = type(error).__name__
    return "closed", f"{name}: {said}" if said else name
