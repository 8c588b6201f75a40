"""What every tap does: exchanges on their way into a journal, redacted, timed and ended.

A tap begins an entry for each request it sees, tells it what comes, and hands everything on without waiting for more than
that. What goes wrong with the recording itself never reaches whoever is recorded: it is raised when the tap is closed.
Secrets are taken out by `aivvm_testing.redaction` before a byte is written; where a request holds one, the journal, never
the reader, may lag behind by a chunk. Nothing here knows HTTP, or where chunks come from.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from functools import partial

from aivvm.transport import Headers, Request
from aivvm_testing.clock import Clock, SystemClock, Timer
from aivvm_testing.errors import SetupFailure
from aivvm_testing.journal import Journal
from aivvm_testing.redaction import BlankedStream, Secrets, redact, redact_headers
from aivvm_testing.reply import Ending, EndingKind, Head


class Tap:
    """The exchanges of one session, on their way into the recording at `path`. Safe to share between threads.

    Times come from `clock` (the system's by default), in seconds since each request was sent, rounded to microseconds.
    Exchanges start when they do on the system's clock, and all at 0.0 on a virtual one; those that start together are
    kept in the order of their `begin`. Raises `FileExistsError` where another recorder writes to `path`, and `OSError`
    where nothing can be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock | None = None, note: str = "") -> None:
        self.clock: Clock = SystemClock() if clock is None else clock
        self._journal = Journal(path, note=note)
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._closed = False
        self._open: dict[int, Entry] = {}

    def begin(self, request: Request) -> Entry:
        """A request is about to be sent. Raises `SetupFailure` once the tap is closed: it would record nothing."""
        redacted, secrets = redact(request)
        started = 0.0 if self.clock.virtual else round(time.monotonic() - self._began, 6)
        with self._lock:
            if self._closed:
                raise SetupFailure(f"this tap is closed, and {self._journal.path} is written: make a new tap")
            return Entry(self._journal, self._journal.begin(redacted, started), secrets, self._open)

    def close(self) -> None:
        """Finishes the recording; exchanges that are still open go on, and are recorded as `closed`.

        Raises `OSError` where not everything could be written: an earlier file is then as it was, and the journal
        beside it has what came until then. Closing again is harmless, and tries again what failed.
        """
        with self._lock:
            self._closed = True
        for entry in list(self._open.values()):
            entry.end("closed")
        self._journal.finish()


class Entry:
    """One exchange on its way into the journal. Its times are `timer`'s; without one, all are 0.

    Nothing here raises: recording never hurts what is recorded.
    """

    def __init__(self, journal: Journal, n: int, secrets: Secrets, open: dict[int, Entry]) -> None:
        self.timer: Timer | None = None
        self._journal = journal
        self._n = n
        self._secrets = secrets
        self._open = open
        self._stream = BlankedStream(secrets, partial(journal.chunk, n)) if secrets else None
        open[n] = self

    def head(self, status: int, reason: str, headers: Headers) -> None:
        """The head is there."""
        if self._secrets:
            headers = self._secrets.blank_headers(headers)
            if isinstance(reason, str):  # else the journal refuses it, without hurting the reader
                reason = self._secrets.blank_text(reason)
        self._journal.head(self._n, recorded_head(status, reason, headers, self._now()))

    def chunk(self, data: bytes) -> None:
        """A chunk came."""
        if self._stream is None:
            self._journal.chunk(self._n, data, self._now())
        else:
            self._stream.feed(data, self._now())

    def end(self, kind: EndingKind, error: str | None = None, data: bytes = b"") -> None:
        """It is over, for this reason; `data` came raw after the last chunk. What is said first stays."""
        if self._stream is not None:
            self._stream.finish()
        said = None if error is None else self._secrets.blank_text(error)
        self._journal.end(self._n, Ending(kind, self._now(), self._secrets.blank(data), said))
        self._open.pop(self._n, None)

    def _now(self) -> float:
        return 0.0 if self.timer is None else round(self.timer.elapsed(), 6)


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
