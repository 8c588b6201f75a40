"""Tap 1: a transport around a transport, which records what passes.

Contract: tee, never buffer. The reader gets the same chunks, the same errors (the very objects) and the same head,
each as soon as it is there and its line is in the journal. How an exchange gets there is `tap`'s business.
"""

from __future__ import annotations

import os

from aivvm.errors import ConnectFailed, Interrupted, TimedOut
from aivvm.transport import Request, Response, Timeout, Transport
from aivvm_testing.clock import Clock
from aivvm_testing.record.tap import Entry, Tap
from aivvm_testing.redaction import DEFAULT, Redaction, redact_text
from aivvm_testing.reply import HEADLESS_KINDS, EndingKind, Head


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

    `redaction` takes secrets out. `transport` stays its owner's to close. Raises `FileExistsError` where another recorder
    writes to `path`, and `OSError` where nothing can be written.
    """

    def __init__(
        self,
        transport: Transport,
        path: str | os.PathLike[str],
        *,
        clock: Clock | None = None,
        note: str = "",
        redaction: Redaction = DEFAULT,
    ) -> None:
        if not callable(getattr(transport, "send", None)):
            raise TypeError(f"a transport has a method send(request, *, timeout), but got {transport!r}")
        self._transport = transport
        self._tap = Tap(path, clock=clock, note=note, redaction=redaction)

    def send(self, request: Request, *, timeout: Timeout) -> Response:
        """What the inner transport gives, or raises. A closed tap raises `SetupFailure`: it would record nothing."""
        entry = self._tap.begin(request)
        with self._tap.clock.exchange() as timer:
            entry.timer = timer
            try:
                response = self._transport.send(request, timeout=timeout)
            except BaseException as error:
                entry.end(*ending_of(error, headed=False))
                raise
            entry.head(Head(response.status, response.reason, response.headers))
        return _Recorded(response, entry)

    def close(self) -> None:
        """Finishes the recording; streams that are still open go on, and are recorded as `closed`.

        Raises `OSError` where not everything could be written: an earlier file is then as it was, and the journal
        beside it has what came until then. Closing again is harmless, and tries again what failed.
        """
        self._tap.close()

    def __enter__(self) -> RecordingTransport:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Recorded(Response):
    """A response that is written down while it is read."""

    def __init__(self, response: Response, entry: Entry) -> None:
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
