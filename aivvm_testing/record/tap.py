"""What every tap does: exchanges on their way into a journal, redacted, timed and ended.

A tap begins an entry for each request it sees, tells it what comes, and hands everything on without waiting for more than
that. What goes wrong with the recording itself never reaches whoever is recorded: it is raised when the tap is closed.
Secrets are taken out by `aivvm_testing.redaction` before a byte is written; where a request holds one, the journal, never
the reader, may lag behind by a chunk. Nothing here knows HTTP, or where chunks come from.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from aivvm.terminal import printable
from aivvm.transport import Headers, Request
from aivvm_testing.blanking import NO_SECRETS, placeholder
from aivvm_testing.clock import Clock, SystemClock, Timer, microseconds
from aivvm_testing.errors import SecretsFound, SetupFailure
from aivvm_testing.interrupts import is_interrupt
from aivvm_testing.journal import Journal
from aivvm_testing.recording import Exchange
from aivvm_testing.redaction import DEFAULT, BlankedReply, Redaction
from aivvm_testing.reply import Ending, EndingKind, Head

_NO_FIELDS = Headers()

_MOST_VALUES = 20
"""Secrets of one session that are looked for in the answers and requests before and after: each costs a search of all."""


class Tap:
    """The exchanges of one session, on their way into the recording at `path`. Safe to share between threads.

    Times come from `clock` (the system's by default), in seconds since each request was sent, rounded to microseconds.
    Exchanges start when they do on the system's clock, and all at 0.0 on a virtual one; those that start together are
    kept in the order of their `begin`. A recording that goes on was `recorded_at` that moment, and `began` so many
    seconds ago. `begun` is told each request, redacted, once it is written. A tap that is open when the process ends is
    closed then. Raises `FileExistsError` where another recorder writes to `path`, and `OSError` where nothing can be
    written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Clock | None = None,
        note: str = "",
        redaction: Redaction = DEFAULT,
        recorded_at: str | None = None,
        began: float = 0.0,
        begun: Callable[[Request], object] | None = None,
    ) -> None:
        if not isinstance(redaction, Redaction):
            raise TypeError(f"redaction is a Redaction(names=..., patterns=...), but got {redaction!r:.60}")
        self.clock: Clock = SystemClock() if clock is None else clock
        self._redaction = redaction
        self._journal = Journal(path, note=note, recorded_at=recorded_at)
        self.together = self._journal.together
        self._began = time.monotonic() - began
        self._begun = begun
        self._lock = threading.Lock()
        self._closed = False
        self._open: dict[int, Entry] = {}
        self._failure: Exception | None = None
        self._refusal: SecretsFound | None = None
        self._unchecked = True
        self._values: dict[str, None] = {}  # of secrets, to be looked for in other exchanges
        self._asked = 0
        _unfinished.add(self)

    def begin(self, request: Request, timer: Timer | None = None) -> Entry:
        """A request is about to be sent, or was when this timer began.

        Raises `SetupFailure` once the tap is closed: it would record nothing.
        """
        redacted: Request | None = None
        secrets = NO_SECRETS
        try:
            redacted, secrets = self._redaction.redact(request)
        except Exception as error:  # of a user's function
            if is_interrupt(error):
                raise
            why = f"an exchange is missing, as redaction failed with {type(error).__name__}: {error}"
            self.failed(SetupFailure(f"{self._journal.path} is written, but {why}"))
        self._asked += 1
        if secrets.searched and len(self._values) < _MOST_VALUES:
            self._values |= dict.fromkeys(secrets.unmistakable)
        started = 0.0
        if not self.clock.virtual:
            before = 0.0 if timer is None else timer.elapsed()
            started = microseconds(max(0.0, time.monotonic() - self._began - before))
        with self._lock:
            if self._closed:
                raise SetupFailure(f"this tap is closed, and {self._journal.path} is written: make a new tap")
            n = 0  # of which the journal writes nothing
            if redacted is not None:
                n = self._journal.begin(redacted, started)
            # The journal's lock, as a second one would have to be taken before it here and after it there.
            blanked = BlankedReply(self._redaction, secrets, partial(self._journal.chunk, n), self.together)
            entry = Entry(self._journal, n, blanked, self._open, self.failed)
        entry.timer = timer
        if self._begun is not None and redacted is not None:
            try:
                self._begun(redacted)
            except Exception as error:  # of a user's function
                self.failed(error)
        return entry

    def failed(self, error: Exception) -> None:
        """Something was not recorded as it was: `close` raises the first of these, once the rest is written.

        An interrupt is not ours to keep, and is raised on.
        """
        if is_interrupt(error):
            raise error
        if not self._closed:
            self._failure = self._failure or error

    @property
    def unreached(self) -> int:
        """How many requests met nobody who could have answered: no connection was made."""
        return self._journal.unreached

    def close(self, before: Iterable[Exchange] = ()) -> None:
        """Finishes the recording; exchanges that are still open go on, and are recorded as `closed`.

        `before` are exchanges that the recording had, and keeps.

        Raises `OSError` where not everything could be written: an earlier file is then as it was, and the journal
        beside it has what came until then. Closing again is harmless, and tries again what failed. Raises
        `SetupFailure` where the recording is finished and something is missing from it, and `SecretsFound` where
        `redaction` is strict and the recording is not finished.
        """
        with self._lock:
            self._closed = True
        for entry in list(self._open.values()):
            entry.end("closed")
        self._journal.end_open(Ending("closed"))
        if self._unchecked and not self._journal.inherited:
            self._check()
        if self._refusal is not None:
            _unfinished.discard(self)
            raise self._refusal
        self._journal.finish(before)
        _unfinished.discard(self)
        failure, self._failure = self._failure, None
        if isinstance(failure, SetupFailure):
            raise failure
        if failure is not None:
            raise SetupFailure(
                f"{self._journal.path} is written, but not all was recorded as it was: {type(failure).__name__}: {failure}"
            ) from failure

    def _check(self) -> None:
        values = [value.encode() for value in list(self._values)[:_MOST_VALUES]]
        if values and self._asked > 1:  # within its own exchange each was blanked out
            _blank_lines(self._journal.journal_path, values)
        if self._redaction.strict:
            from aivvm_testing.leaks import check_file  # nobody else needs it

            patterns = [*self._redaction.patterns, *map(re.escape, values)]
            found = check_file(self._journal.journal_path, replace(self._redaction, patterns=patterns))
            if found:
                self._journal.abandon()
                self._refusal = SecretsFound(self._journal.path, found)
        self._unchecked = False


_unfinished: set[Tap] = set()


def _after_fork() -> None:
    """In the child: another thread may have held these, and is not there to let go of them."""
    for tap in list(_unfinished):
        tap._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _finish_all() -> None:
    """What nobody has closed when the process ends is recorded all the same."""
    for tap in list(_unfinished):
        try:
            tap.close()
        except Exception as error:
            print(f"aivvm_testing: {printable(str(error))}", file=sys.stderr)


class Entry:
    """One exchange on its way into the journal. Its times are `timer`'s, without one 0; or `at`, in whole microseconds.

    Nothing here raises: recording never hurts what is recorded.
    """

    def __init__(
        self,
        journal: Journal,
        n: int,
        blanked: BlankedReply,
        open: dict[int, Entry],
        failed: Callable[[Exception], None],
    ) -> None:
        self.timer: Timer | None = None
        self._journal = journal
        self._n = n
        self._blanked = blanked
        self._open = open
        self._failed = failed
        open[n] = self

    def head(self, head: Head, *, at: float | None = None, decoded: bool = True) -> None:
        """The head is there, or was `at` so many seconds; not `decoded`: the chunks come in its content-coding."""
        try:
            reason, headers = self._blanked.head(head.reason, head.headers)
        except Exception as error:  # of a user's function
            self._failed(error)
            reason, headers = "", Headers()
        undone = _NO_FIELDS
        if decoded:
            headers, undone = _without_coding(Headers(headers))
        if reason is not head.reason or headers is not head.headers:
            head = Head(head.status, reason, headers, decoded=undone)
        self._journal.head(self._n, head, self.now() if at is None else at)

    def chunk(self, data: bytes, *, at: float | None = None) -> None:
        """A chunk came, or did `at` so many seconds."""
        if not isinstance(data, (bytes, bytearray)):  # of somebody else's transport
            self._failed(TypeError(f"a chunk is bytes, but got {data!r:.60}"))
            self.end("closed", "the rest could not be recorded")
            return
        self._blanked.chunk(data, self.now() if at is None else at)

    def end(
        self, kind: EndingKind, error: str | None = None, data: bytes = b"", *, at: float | None = None
    ) -> None:
        """It is over, for this reason; `data` came raw after the last chunk. What is said first stays."""
        data = self._blanked.finish(data, complete=kind == "complete")
        said = None if error is None else self._blanked.text(error)
        self._journal.end(self._n, Ending(kind, self.now() if at is None else at, data, said))
        self._open.pop(self._n, None)

    def now(self) -> float:
        """The moment, as it is recorded; where the clock gives none, that of the event before."""
        try:
            return 0.0 if self.timer is None else microseconds(self.timer.elapsed())
        except Exception as error:  # of a user's clock
            self._failed(error)
            return 0.0


# Not where an escape of JSON goes over into it.
_NO_ESCAPE_BEFORE = rb"(?<!\\)(?<!\\u)(?<!\\u.)(?<!\\u..)(?<!\\u...)"
_HEX = re.compile(rb"[0-9a-f]+")


def _blank_lines(journal: str, values: Sequence[bytes]) -> None:
    """Blanks out these values, which are unmistakable, wherever a line of the journal has one whole."""
    # The bytes of a chunk that is no text may look like a value that is a number.
    found = [
        (re.compile(_NO_ESCAPE_BEFORE + re.escape(value)), value, bool(_HEX.fullmatch(value)))
        for value in sorted(values, key=len, reverse=True)
    ]
    places: list[tuple[int, int]] = []
    begin = 0
    with open(journal, "r+b") as file:
        for line in file:
            for pattern, value, is_hex in found:
                if value in line and not (is_hex and b'"hex": "' in line):
                    places += [(begin + match.start(), len(value)) for match in pattern.finditer(line)]
            begin += len(line)
        for at, length in places:
            file.seek(at)
            file.write(placeholder(length).encode())


def _without_coding(headers: Headers) -> tuple[Headers, Headers]:
    """The fields as a recording keeps them where a content-coding was undone, and those that described it."""
    coding = headers.get("content-encoding", "")
    if not coding or coding.strip().lower() == "identity":
        return headers, _NO_FIELDS
    described = ("content-encoding", "content-length")
    undone = Headers(pair for pair in headers if pair[0].lower() in described)
    return headers.without(*described), undone
