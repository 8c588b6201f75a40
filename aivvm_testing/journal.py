"""The journal of a recorder: each event is in the file beside the recording before the tap goes on.

`finish` puts the events of each exchange together and replaces the recording by them. Nothing here redacts (taps do,
before they call), sends, plays or waits.
"""

from __future__ import annotations

import errno
import io
import os
import re
import threading
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from math import inf
from typing import BinaryIO, TypeAlias

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]  # checked before each use

from aivvm.terminal import one_line
from aivvm.transport import Request
from aivvm_testing.errors import CorruptRecording, SetupFailure
from aivvm_testing.format import (
    PIECE,
    Origin,
    Reader,
    checked_moment,
    checked_note,
    checked_origin,
    chunk_line,
    ending_line,
    exchange_lines,
    finite,
    head_line,
    header_line,
    line_size,
    request_line,
)
from aivvm_testing.interrupts import is_interrupt
from aivvm_testing.recording import BUFFER, Exchange, check_replaceable, replacing, why_not
from aivvm_testing.reply import HEADLESS_KINDS, Ending, Head


class Journal:
    """The events of a session that is being recorded, each written to `path + ".journal"` as it happens.

    For taps; safe to share between threads. The journal is created at once, and only if there is none: raises
    `FileExistsError` where another recorder is at work or one was killed, and `OSError` where nothing can be written.
    `finish` makes the recording of it.

    Recording must never hurt what is recorded: `begin`, `head`, `chunk` and `end` raise nothing. The first error
    (a full disk) stops the writing, is kept as `failure`, and `finish` raises it. An event that no line can hold
    concerns its exchange alone: that is left out, or ends there as `closed`, and `finish` tells of it once the rest is
    written. Whatever comes for an exchange that has ended is ignored.

    A process that is forked while this is open has no part in it: what it begins is not recorded, and only its own
    `finish` fails of that.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        origin: Origin = "recorded",
        note: str = "",
        recorded_at: str | None = None,
    ) -> None:
        self.path = os.path.abspath(path)
        self.failure: BaseException | None = None
        self.journal_path = f"{self.path}.journal"
        self._lock = threading.RLock()  # reentrant: garbage collection may close a stream in any line
        self._count = 0
        self._written: list[_Written] = []
        self._open: dict[int, _Written] = {}
        self.unreached = 0
        """Exchanges that ended without a connection."""
        self._size = 0
        self._waiting: list[tuple[_Written, bytes]] = []  # lines that are to be written together
        self.together = _Together(self)
        """What is told within it is written at its end, at once, as it came at once; other threads wait."""
        self._unheld: list[str] = []  # exchanges of which something is missing, and why
        self._finished = False
        self.inherited = False
        """Whether this is the copy that a forked process has: the journal is its parent's."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._header = header_line(
            checked_origin(origin), checked_note(note), checked_moment(recorded_at) or now
        )
        try:
            check_replaceable(self.path)
            self._file = open(self.journal_path, "xb", buffering=0)  # noqa: SIM115  # open until finish
            _claim(self._file)
        except FileExistsError as error:
            raise FileExistsError(errno.EEXIST, whose(self.journal_path), self.journal_path) from error
        except OSError as error:
            raise _cannot_record(error, self.path) from error
        try:
            self._write(self._header)
            self._size = len(self._header)
        except OSError as error:
            self._file.close()
            os.unlink(self.journal_path)
            raise _cannot_record(error, self.path) from error
        _open_journals.add(self)

    def begin(self, request: Request, started: float) -> int:
        """A new exchange, begun so many seconds after the recording; gives its number for the other methods.

        Raises `ValueError` after `finish`, and nothing else.
        """
        with self._lock:
            if self._finished:
                raise ValueError(
                    f"the journal of {self.path} is finished: nothing more can be recorded in it"
                )
            self._count += 1
            n = self._count
            if self.inherited:
                self.failure = OSError(errno.EBADF, _INHERITED)
                return n
            one = _Written(started, n)
            if self._tell(one, request_line, request, started):
                one.last = 0.0
                self._written.append(one)
                self._open[n] = one
            else:
                self._unheld[-1] = f"exchange {n - 1}, {_named(request)}, is not in it: {self._unheld[-1]}"
        return n

    def head(self, n: int, head: Head, at: float | None = None) -> None:
        """The head of exchange `n` is there, `at` so many seconds if not at those that it says."""
        with self._lock:
            one = self._open.get(n)
            if one is not None and not self._tell(one, head_line, head, head.at if at is None else at):
                self._break_off(one)

    def chunk(self, n: int, data: bytes, at: float) -> None:
        """A chunk of exchange `n` came."""
        with self._lock:
            one = self._open.get(n)
            if one is not None and not self._tell(one, chunk_line, data, at):
                self._break_off(one)

    def end(self, n: int, ending: Ending) -> None:
        """Exchange `n` has ended. The first ending counts."""
        with self._lock:
            one = self._open.pop(n, None)
            if one is None:
                return
            self.unreached += ending.kind in HEADLESS_KINDS
            try:
                told = self._tell(one, ending_line, ending, ending.at)
            except BaseException:  # an interrupt
                if not one.ended:
                    self._open[n] = one
                raise
            if not told:
                self._break_off(one)

    def end_open(self, ending: Ending) -> None:
        """Ends all that is open so: where an interrupt came between, whoever began it may not know of it."""
        with self._lock:
            for n in list(self._open):
                self.end(n, ending)

    def finish(self, before: Iterable[Exchange] = ()) -> None:
        """Replaces the file at `path` by the recording and removes the journal; once is enough, more is harmless.

        Exchanges come in the order in which they started, after those that were there `before`. A session without any
        leaves an earlier file alone, and is an empty recording where there is none. Raises `ValueError` while an exchange
        has no ending, and `OSError` where not all could be written: an earlier file is then as it was, and the journal
        stays. Raises `SetupFailure` where all is written but what no line can hold.
        """
        with self._lock:
            if self._finished:
                return
            if self.inherited:
                if self.failure is not None:
                    raise OSError(errno.EBADF, _INHERITED, self.path)
                return
            if self._open:
                raise ValueError(f"exchange {min(self._open) - 1} has no ending: end it before finishing")
            self._flush()  # what waits after an interrupt
            self._file.close()
            if self.failure is not None:
                why = (
                    f"recording stopped at an error ({_told(self.failure)}); the file is as it was before, and what was "
                    f"recorded until then is in {self.journal_path}"
                )
                raise OSError(
                    getattr(self.failure, "errno", None) or errno.EIO, why, self.path
                ) from self.failure
            written = bool(self._written) or not os.path.exists(self.path)
            if written:
                with open(self.journal_path, "rb", BUFFER) as journal, replacing(self.path) as file:
                    file.write(self._header)
                    for had in before:
                        file.writelines(exchange_lines(had.request, had.reply, had.started))
                    if os.fstat(journal.fileno()).st_size != self._size:
                        # Tells the line, where a line is wrong.
                        _found(journal, [one.n for one in self._written])
                        raise CorruptRecording(self.journal_path, 0, _NOT_OURS)
                    for one in sorted(self._written, key=lambda one: (one.started, one.n)):
                        file.writelines(_untagged(journal, one.n, one.places))
            os.unlink(self.journal_path)
            self._finished = True
            if self._unheld:
                more = len(self._unheld) - 1
                others = f"; and {more} more of its exchanges are not as they were" if more else ""
                done = "is written" if written else "is as it was"
                raise SetupFailure(f"{self.path} {done}, but {self._unheld[0]}{others}")

    def abandon(self) -> None:
        """Lets go of the journal and leaves it as it is, for `recover`; harmless after `finish`."""
        with self._lock:
            self._file.close()

    def _leave_to_parent(self) -> None:
        self._lock = threading.RLock()  # another thread may have held it
        self._file.close()
        self._open.clear()
        self._waiting.clear()
        self.inherited = True

    def _tell(self, one: _Written, make: Callable[..., bytes], event: object, at: float) -> bool:
        """Writes the line down that `make` gives of the event; false where there is none, and why is noted.

        `at` is in it where it says something new, and is no step back.
        """
        if self.failure is not None:
            return True
        try:
            moment = None
            if at > one.last:
                one.last = moment = at if at < inf else finite(at)
            line = make(event, moment, one.tag)
        except Exception as error:
            if is_interrupt(error):
                raise
            self._unheld.append(_told(error))
            return False
        together = self.together
        if make is ending_line:
            one.ended = True
        if together.depth or self._waiting:
            self._waiting.append((one, line))
        else:  # what `_put` does, at half its cost, as there are many
            together.depth = 1
            begin = self._size
            try:
                self._size = begin + len(line)
                places = one.places
                if places and places[-1] == begin:
                    places[-1] = self._size
                else:
                    places.extend((begin, self._size))
                written = self._file.write(line)
                if written < len(line):
                    self._write(line[written:])
            except BaseException as error:
                if is_interrupt(error):
                    self._mend([(one, line)], begin)
                    raise
                self.failure = error
            finally:
                together.depth = 0
        if self._waiting and not together.depth:
            self._flush()
        return True

    def _flush(self) -> None:
        """Writes down what waits."""
        while self._waiting:
            self.together.depth += 1  # what garbage collection ends meanwhile, in any line, waits
            begin = self._size
            waiting = self._waiting[:]
            batch: list[tuple[_Written, bytes]] = []
            try:
                # Always the same list: somebody may be about to append to it.
                del self._waiting[: len(waiting)]
                batch = waiting
                self._put(batch, b"".join([line for _, line in batch]))
            except BaseException:
                self._mend(batch, begin)
                raise
            finally:
                self.together.depth -= 1

    def _put(self, batch: Sequence[tuple[_Written, bytes]], data: bytes) -> None:
        """Writes these lines, which are the data."""
        try:
            for one, line in batch:
                begin, self._size = self._size, self._size + len(line)
                _add(one.places, begin, self._size)
            if self.failure is None and not self.inherited:
                self._write(data)
        except Exception as error:
            if is_interrupt(error):
                raise
            self.failure = error

    def _mend(self, batch: Sequence[tuple[_Written, bytes]], begin: int) -> None:
        """Does what an interrupt has kept from being done: these lines, from that byte on, are written and noted."""
        data = b"".join([line for _, line in batch])
        end = begin
        for one, line in batch:
            end += len(line)
            if not one.places or one.places[-1] < end:
                _add(one.places, end - len(line), end)
        self._size = end
        try:
            if self.failure is None and not self.inherited:
                self._write(data[os.fstat(self._file.fileno()).st_size - begin :])
        except Exception as error:
            self.failure = error

    def _break_off(self, one: _Written) -> None:
        """Ends an exchange with what no line can hold, which was noted last."""
        why = self._unheld[-1]
        self._unheld[-1] = f"exchange {one.n - 1} breaks off in it: {why}"
        self._tell(one, ending_line, Ending("closed", 0.0, error=f"not recorded further: {why}"), 0.0)
        self._open.pop(one.n, None)

    def _write(self, data: bytes) -> None:
        while (written := self._file.write(data)) < len(data):  # a disk that is nearly full takes a part
            data = data[written:]


class _Written:
    """An exchange that is written down: where its lines are, and when its last event was."""

    __slots__ = ("ended", "last", "n", "places", "started", "tag")

    def __init__(self, started: float, n: int) -> None:
        self.started = started
        self.n = n
        self.tag = b'"x": %d, ' % n
        self.ended = False
        self.last = -inf
        self.places: _Places = array("Q")


class _Together:
    """`Journal.together`. What is entered again within itself is no end; `depth`: how often it is."""

    __slots__ = ("_journal", "_lock", "depth")

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.depth = 0

    def __enter__(self) -> None:
        lock = self._journal._lock
        lock.acquire()
        self._lock = lock  # which a fork within this replaces
        self.depth += 1

    def __exit__(self, *exc_info: object) -> None:
        self.depth -= 1
        try:
            if not self.depth:
                self._journal._flush()
        finally:
            self._lock.release()


_INHERITED = "what a forked process does is not recorded by the recorder of its parent: record it into a file of its own"
_open_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


def _after_fork() -> None:
    """In the child: a second writer would give its numbers twice, and would hold the lock when the parent is gone."""
    for journal in list(_open_journals):
        journal._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _named(request: Request) -> str:
    return one_line(f"{request.method} {request.url}"[:100])


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__


def whose(journal: str) -> str:
    """Who left this journal, and what to do about it."""
    with suppress(OSError), open(journal, "rb") as file:
        if not is_orphaned(file):
            return (
                "another recorder is at work on this journal: record to another file, or close that one first"
            )
    return (
        "a recorder that was stopped before it could finish left this journal: `aivvm-testing recover` makes a "
        "recording of it; or move it away"
    )


def _cannot_record(error: OSError, path: str) -> OSError:
    return OSError(error.errno, f"nothing can be recorded here ({why_not(error, path)})", path)


def recover(path: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None) -> int:
    """Makes a recording of the journal that a recorder of `path` left when it was killed; gives its number of exchanges.

    What had no ending by then is `unfinished`. A last line that was not written whole is left out. The recording is
    written to `out`, by default to `path`, and the journal removed once it is there.

    Raises `FileNotFoundError` where there is no journal, `FileExistsError` where `out` exists or the recorder is still
    at work, `CorruptRecording` for a journal that no recorder wrote, or of which no sound recording can be made, and
    `OSError` where nothing can be written: the journal then stays as it is.
    """
    path = os.path.abspath(path)
    out = path if out is None else os.path.abspath(out)
    name = f"{path}.journal"
    with open(name, "rb", BUFFER) as journal:
        if not is_orphaned(journal):
            raise FileExistsError(errno.EEXIST, "its recorder is still at work: close it instead", name)
        if os.path.exists(out):
            why = "there is a recording of an earlier session: name another file to recover to, or move this one away"
            raise FileExistsError(errno.EEXIST, why, out)
        header = next(_lines(journal), b"")
        if not header.endswith(b"\n") and header.startswith(_HEADER[: len(header)]):  # stopped within it
            header = header_line("recorded", "")
        Reader(name, io.BytesIO(header)).header()
        order = _begun(journal)
        runs, unfinished = _found(journal, order)
        with replacing(out) as file:
            file.write(header)
            for n in order:
                file.writelines(_untagged(journal, n, runs[n]))
                if n in unfinished:
                    file.write(ending_line(Ending("unfinished"), None))
            file.flush()
            _check_sound(name, file.name, order)
    os.unlink(name)
    return len(order)


_HEADER = b'{"aivvm_recording": 1, "origin": '
_TAG = re.compile(rb'\{"x": (\d+), ')
_BEGINNING = re.compile(rb'\{"x": (\d+), "request": .*, "started": ([^,]+)\}\n')
_END = re.compile(rb'\{"x": \d+, (?:"at": [^,]*, )?"end": ')


def _lines(journal: BinaryIO) -> Iterator[bytes]:
    """The lines from here on. A longer one than any recorder writes is refused, and not held."""
    number = 0
    while line := journal.readline(PIECE):
        number += 1
        if len(line) == PIECE and not line.endswith(b"\n"):
            size = line_size(journal, PIECE)
            if size is None:
                raise CorruptRecording(journal.name, number, _NOT_OURS)
            journal.seek(-PIECE, os.SEEK_CUR)
            line = journal.read(size)
        yield line


def _begun(journal: BinaryIO) -> list[int]:
    """The numbers of the exchanges of a journal, in the order in which they started."""
    started: dict[int, float] = {}
    journal.seek(0)
    for number, line in enumerate(_lines(journal), 1):
        if found := _BEGINNING.fullmatch(line):
            n = int(found[1])
            if n in started:
                why = f'"x": {n} begins a second time: two processes wrote into this journal'
                raise CorruptRecording(journal.name, number, why)
            started[n] = float(found[2])
    return sorted(started, key=lambda n: (started[n], n))


def _check_sound(journal: str, made: str, order: list[int]) -> None:
    with open(made, "rb", BUFFER) as file:
        reader = Reader(made, file)
        reader.header()
        for n, tag in enumerate(order):
            try:
                reader.exchange(n)
            except CorruptRecording as error:  # of a file that will not be there
                raise CorruptRecording(journal, 0, f'no exchange with "x": {tag}: {error.why}') from error
        if file.read(1):
            raise CorruptRecording(journal, 0, "it has more than the exchanges that begin in it")


_Places: TypeAlias = "array[int]"
"""Where the lines of an exchange are: begin, end, begin, end …, neighbours as one."""


def _add(places: _Places, begin: int, end: int) -> None:
    if places and places[-1] == begin:
        places[-1] = end
    else:
        places.extend((begin, end))


_NOT_OURS = "not a line of this recorder: something else wrote into its journal"


def _found(journal: BinaryIO, order: Iterable[int]) -> tuple[dict[int, _Places], set[int]]:
    """Where the lines of each exchange are, and which exchanges have no end."""
    runs: dict[int, _Places] = {}
    unfinished = set(order)
    journal.seek(0)
    begin = 0
    for number, line in enumerate(_lines(journal), 1):
        if number == 1:
            begin = len(line)
            continue
        if not line.endswith(b"\n"):
            break  # its recorder was stopped within it
        tag = _TAG.match(line)
        n = int(tag[1]) if tag else 0
        if n not in runs and n not in unfinished:
            raise CorruptRecording(journal.name, number, _NOT_OURS)
        _add(runs.setdefault(n, array("Q")), begin, begin + len(line))
        if _END.match(line):
            unfinished.discard(n)
        begin += len(line)
    return runs, unfinished


def _untagged(journal: BinaryIO, n: int, places: _Places) -> Iterator[bytes | memoryview]:
    """The lines of an exchange without their tags, in pieces. Holds about `BUFFER` bytes, or a line."""
    tag_size = len(b'{"x": %d, ' % n)
    for begin, end in zip(places[::2], places[1::2], strict=True):
        journal.seek(begin)
        while begin < end:
            lines = journal.read(min(BUFFER, end - begin))
            if not lines.endswith(b"\n"):
                lines += journal.readline()
            begin += len(lines)
            view, at = memoryview(lines), 0
            while at < len(lines):
                after = lines.find(b"\n", at) + 1
                yield b"{"
                yield view[at + tag_size : after]
                at = after


if fcntl is not None:

    def _claim(journal: BinaryIO) -> None:
        """Shows that the recorder of this journal is at work, for as long as the process holds the file open."""
        with suppress(OSError):  # a file system without locks
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def is_orphaned(journal: BinaryIO) -> bool:
        """Whether no recorder is at work on this open journal."""
        try:
            fcntl.flock(journal, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

else:

    def _claim(journal: BinaryIO) -> None:
        """Here an open file cannot be removed, which is enough."""

    def is_orphaned(journal: BinaryIO) -> bool:
        return True
