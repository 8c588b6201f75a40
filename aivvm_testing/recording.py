"""Sessions in files: `Exchange`, `Recording`, the JSON Lines format that holds them, and the journal of a recorder.

The format is specified in docs/recording-format.md. Its contract: `Recording.load(path)` after `recording.save(path)`
is equal to the recording, whatever it holds; saving is deterministic, and atomic against anything that stops the
process; everything that is wrong in a file is a `CorruptRecording` that names file and line; work and memory are
bounded by the size of the file, and by one line of at most `MAX_LINE` bytes.

A `Journal` is how a tap writes: each event is in the file beside the recording before the tap goes on, and `finish`
puts the events of each exchange together. Nothing here redacts (taps do, before they call), sends, plays or waits.
"""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from difflib import get_close_matches
from math import inf
from typing import Any, BinaryIO, Literal, NoReturn, TypeAlias, cast, get_args, overload

from aivvm.transport import Headers, Request
from aivvm_testing.errors import CorruptRecording
from aivvm_testing.reply import ENDING_KINDS, HEADLESS_KINDS, Chunk, Ending, EndingKind, Head, Reply

VERSION = 1
"""The version of the format that this module writes, and the only one that it reads."""

MAX_LINE = 256 * 1024 * 1024
"""Bytes. A longer line is neither read nor written, as reading it would take several times its size in memory."""

_BUFFER = 256 * 1024
"""Bytes. Lines are short, and a system call for each would cost more than all else."""

Origin: TypeAlias = Literal["recorded", "written", "converted"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its reply, `started` so many seconds after the recording began.

    Raises `ValueError` where `started` is negative or not finite.
    """

    request: Request
    reply: Reply
    started: float = 0.0

    def __post_init__(self) -> None:
        if not (isinstance(self.request, Request) and isinstance(self.reply, Reply)):
            raise TypeError(
                f"an exchange is a Request and a Reply, but got {self.request!r:.80} and {self.reply!r:.80}"
            )
        if not 0.0 <= self.started < inf:
            raise ValueError(f"started takes seconds, 0 or more, but got {self.started!r}")


class Recording(Sequence[Exchange]):
    """The exchanges of one session. Immutable, hashable, equal by value; a slice is a recording without `expected`.

    `origin`: `recorded`, `written` (by hand) or `converted`. `note`: why it exists. `recorded_at`: an ISO 8601 moment
    with its offset, such as `2026-11-23T00:00:00Z`, or None. `expected`: a JSON object that goes with the recording,
    kept as it is; None where there is none. Raises `ValueError` for a value that a file cannot hold.
    """

    __slots__ = ("_exchanges", "_expected", "_note", "_origin", "_recorded_at")

    def __init__(
        self,
        exchanges: Iterable[Exchange] = (),
        *,
        origin: Origin = "written",
        note: str = "",
        recorded_at: str | None = None,
        expected: Mapping[str, Any] | None = None,
    ) -> None:
        self._exchanges = tuple(exchanges)
        for n, exchange in enumerate(self._exchanges):
            if not isinstance(exchange, Exchange):
                raise TypeError(f"a recording holds Exchange objects, but number {n} is {exchange!r}")
        self._origin: Origin = _checked_origin(origin)
        self._note = _checked_note(note)
        self._recorded_at = _checked_moment(recorded_at)
        # As text, so that nobody can change it, and equal recordings are equal files.
        self._expected = None if expected is None else json.dumps(dict(expected), allow_nan=False)

    @property
    def origin(self) -> Origin:
        """How it came about."""
        return self._origin

    @property
    def note(self) -> str:
        """Why it exists, for people."""
        return self._note

    @property
    def recorded_at(self) -> str | None:
        """When it was recorded, as ISO 8601, or None."""
        return self._recorded_at

    @property
    def expected(self) -> dict[str, Any] | None:
        """A copy of the JSON object that goes with it, or None."""
        return None if self._expected is None else cast("dict[str, Any]", json.loads(self._expected))

    @overload
    def __getitem__(self, index: int) -> Exchange: ...
    @overload
    def __getitem__(self, index: slice) -> Recording: ...
    def __getitem__(self, index: int | slice) -> Exchange | Recording:
        if isinstance(index, slice):
            return Recording(
                self._exchanges[index], origin=self.origin, note=self.note, recorded_at=self.recorded_at
            )
        return self._exchanges[index]

    def __len__(self) -> int:
        return len(self._exchanges)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(self._exchanges)

    def _value(self) -> tuple[object, ...]:
        return self._exchanges, self._origin, self._note, self._recorded_at, self._expected

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, Recording) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        count = f"{len(self)} exchange{'' if len(self) == 1 else 's'}"
        when = "" if self._recorded_at is None else f" at {self._recorded_at}"
        note = self._note if len(self._note) <= 60 else self._note[:57] + "..."
        return f"<Recording of {count}, {self._origin}{when}{f': {note!r}' if note else ''}>"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recording:
        """The recording in this file.

        Raises `CorruptRecording` for whatever is wrong in the file, and `OSError` (`FileNotFoundError` …) where it
        cannot be read.
        """
        name = os.fspath(path)
        try:
            file = open(name, "rb")  # noqa: SIM115  # closed below, outside the block that explains a missing file
        except FileNotFoundError as error:
            if not os.path.exists(f"{name}.journal"):
                raise
            why = f"no recording yet, only its journal {name}.journal: its recorder runs, or was never closed"
            raise FileNotFoundError(errno.ENOENT, why, name) from error
        with file:
            return _Reader(name, file).recording()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, or replaces it whole: a reader sees the old one or the new one, never a part.

        Raises `OSError` where that is not possible, and `ValueError` for text that no file can hold; an earlier file
        is then as it was. Nothing is redacted here.
        """
        with _replacing(os.fspath(path)) as file:
            file.write(_encode(_header(self._origin, self._note, self._recorded_at, self.expected)))
            for exchange in self._exchanges:
                for event in _events(exchange):
                    file.write(_encode(event))


class Journal:
    """The events of a session that is being recorded, each written to `path + ".journal"` as it happens.

    For taps; safe to share between threads. The journal is created at once, and only if there is none: raises
    `FileExistsError` where another recorder is at work or one was killed, and `OSError` where nothing can be written.
    `finish` makes the recording of it.

    Recording must never hurt what is recorded: `begin`, `head`, `chunk` and `end` raise nothing. The first error
    (a full disk) stops the writing, is kept as `failure`, and `finish` raises it. Whatever comes for an exchange
    that has ended is ignored.
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
        self.failure: Exception | None = None
        self._journal_path = f"{self.path}.journal"
        self._lock = threading.RLock()  # reentrant: garbage collection may close a stream in any line
        self._last: dict[int, float] = {}  # of each open exchange: when its last event was
        self._order: list[tuple[float, int]] = []
        self._finished = False
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._header = _encode(
            _header(_checked_origin(origin), _checked_note(note), _checked_moment(recorded_at) or now, None)
        )
        try:
            _check_replaceable(self.path)
            self._file = open(self._journal_path, "xb", buffering=0)  # noqa: SIM115  # open until finish
        except FileExistsError as error:
            why = (
                "this journal is there already: another recorder is writing it, or one was stopped before it "
                "could finish; see that none is running, then move it away or delete it"
            )
            raise FileExistsError(errno.EEXIST, why, self._journal_path) from error
        except OSError as error:
            raise _cannot_record(error, self.path) from error
        try:
            self._write(self._header)
        except OSError as error:
            self._file.close()
            os.unlink(self._journal_path)
            raise _cannot_record(error, self.path) from error

    def begin(self, request: Request, started: float) -> int:
        """A new exchange, begun so many seconds after the recording; gives its number for the other methods.

        Raises `ValueError` after `finish`, and nothing else.
        """
        with self._lock:
            if self._finished:
                raise ValueError(
                    f"the journal of {self.path} is finished: nothing more can be recorded in it"
                )
            n = len(self._order) + 1
            self._order.append((started, n))
            self._last[n] = 0.0
            self._event(n, _request_event, request, started)
        return n

    def head(self, n: int, head: Head) -> None:
        """The head of exchange `n` is there."""
        with self._lock:
            if n in self._last:
                self._event(n, _head_event, head, self._moment(n, head.at))

    def chunk(self, n: int, data: bytes, at: float) -> None:
        """A chunk of exchange `n` came."""
        with self._lock:
            if n in self._last:
                self._event(n, _chunk_event, data, self._moment(n, at))

    def end(self, n: int, ending: Ending) -> None:
        """Exchange `n` has ended. The first ending counts."""
        with self._lock:
            if n in self._last:
                self._event(n, _ending_event, ending, self._moment(n, ending.at))
                del self._last[n]

    def finish(self) -> None:
        """Replaces the file at `path` by the recording and removes the journal; once is enough, more is harmless.

        Exchanges come in the order in which they started. A session without any leaves an earlier file alone, and
        is an empty recording where there is none. Raises `ValueError` while an exchange has no ending, and `OSError`
        where not all could be written: an earlier file is then as it was, and the journal stays.
        """
        with self._lock:
            if self._finished:
                return
            if self._last:
                raise ValueError(f"exchange {min(self._last)} has no ending: end it before finishing")
            self._file.close()
            if self.failure is not None:
                why = (
                    f"recording stopped at an error ({self.failure}); the file is as it was before, and what was "
                    f"recorded until then is in {self._journal_path}"
                )
                raise OSError(
                    getattr(self.failure, "errno", None) or errno.EIO, why, self.path
                ) from self.failure
            if self._order or not os.path.exists(self.path):
                with open(self._journal_path, "rb", _BUFFER) as journal, _replacing(self.path) as file:
                    file.write(self._header)
                    file.writelines(_grouped(journal, [n for _, n in sorted(self._order)]))
            os.unlink(self._journal_path)
            self._finished = True

    def _moment(self, n: int, at: float) -> float | None:
        """`at` where it says something new; None where it is omitted, or would be a step back."""
        if at > self._last[n]:
            self._last[n] = at
            return at
        return None

    def _event(self, n: int, make: Callable[..., dict[str, object]], *args: object) -> None:
        if self.failure is None:
            try:
                self._write(_encode({"x": n, **make(*args)}))
            except Exception as error:
                self.failure = error

    def _write(self, line: bytes) -> None:
        written = self._file.write(line)
        while written < len(line):  # a disk that is nearly full takes a part
            line = line[written:]
            written = self._file.write(line)


def _cannot_record(error: OSError, path: str) -> OSError:
    return OSError(error.errno, f"nothing can be recorded here ({error.strerror})", path)


_TAG = re.compile(rb'\{"x": (\d+), ')


def _grouped(journal: BinaryIO, order: Iterable[int]) -> Iterator[bytes]:
    """The lines of a journal without their tags, exchange by exchange. Holds one line, and where the others are."""
    runs: dict[int, array[int]] = {n: array("Q") for n in order}  # of each exchange: begin, end, begin, end …
    begin = len(journal.readline())
    for number, line in enumerate(journal, 2):
        tag = _TAG.match(line)
        places = runs.get(int(tag[1])) if tag else None
        if places is None:
            why = "not a line of this recorder: something else wrote into its journal"
            raise CorruptRecording(journal.name, number, why)
        if places and places[-1] == begin:
            places.pop()
        else:
            places.append(begin)
        begin += len(line)
        places.append(begin)
    for n, places in runs.items():
        cut = len(f'{{"x": {n}, ')
        for begin, end in zip(places[::2], places[1::2], strict=True):
            journal.seek(begin)
            while begin < end:
                line = journal.readline()
                begin += len(line)
                yield b"{" + line[cut:]


def _check_replaceable(path: str) -> None:
    # A device would be replaced by a file as readily as a file is.
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "something that is not a file has this name")


@contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` at the end of the block; an error leaves everything as it was."""
    target = os.path.realpath(path)
    temporary = f"{target}.{os.urandom(4).hex()}.tmp"
    try:
        _check_replaceable(target)
        with open(temporary, "xb", buffering=_BUFFER) as file:
            yield file
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"the recording cannot be saved ({error.strerror})", path) from error
        raise


# Writing: an event is a dict, and a line of the file


def _header(origin: str, note: str, recorded_at: str | None, expected: object) -> dict[str, object]:
    header: dict[str, object] = {"aivvm_recording": VERSION, "origin": origin, "note": note}
    if recorded_at is not None:
        header["recorded_at"] = recorded_at
    if expected is not None:
        header["expected"] = expected
    return header


def _events(exchange: Exchange) -> Iterator[dict[str, object]]:
    last = 0.0

    def moment(at: float) -> float | None:
        nonlocal last
        if at == last:
            return None
        last = at
        return at

    reply = exchange.reply
    yield _request_event(exchange.request, exchange.started)
    if reply.head is not None:
        yield _head_event(reply.head, moment(reply.head.at))
    for chunk in reply.chunks:
        yield _chunk_event(chunk.data, moment(chunk.at))
    yield _ending_event(reply.ending, moment(reply.ending.at))


def _request_event(request: Request, started: float) -> dict[str, object]:
    body = {} if not request.body else _json_form(request.body) or _data(request.body)
    return {
        "request": {"method": request.method, "url": request.url, "headers": _pairs(request.headers), **body},
        "started": float(started) + 0.0,  # the sum is never a negative zero
    }


def _head_event(head: Head, at: float | None) -> dict[str, object]:
    if type(head.status) is not int or not 200 <= head.status <= 999 or not isinstance(head.reason, str):
        raise ValueError(
            f"an answer has a status of 200 to 999 and a reason, but got {head.status!r} {head.reason!r}"
        )
    reply: dict[str, object] = {
        "status": head.status,
        "reason": head.reason,
        "headers": _pairs(head.headers),
    }
    if head.decoded:
        distinct = dict(head.decoded)
        reply["decoded"] = distinct if len(distinct) == len(head.decoded) else _pairs(head.decoded)
    return {"reply": reply} if at is None else {"reply": reply, "at": float(at)}


def _chunk_event(data: bytes, at: float | None) -> dict[str, object]:
    return _data(data) if at is None else {"at": float(at), **_data(data)}


def _ending_event(ending: Ending, at: float | None) -> dict[str, object]:
    event: dict[str, object] = {"end": ending.kind} if at is None else {"at": float(at), "end": ending.kind}
    if ending.error is not None:
        event["error"] = ending.error
    if ending.data:
        event["data"] = _data(ending.data)
    return event


def _pairs(headers: Headers) -> list[list[str]]:
    return [[name, value] for name, value in headers]


def _data(data: bytes) -> dict[str, object]:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"hex": data.hex()}


def _json_form(body: bytes) -> dict[str, object] | None:
    """The body as JSON, where writing that JSON gives these very bytes again in every Python."""
    if not body.isascii():
        return None
    try:
        value = _PORTABLE.decode(body.decode())
        if _nesting_exceeds(value, _MAX_NESTING):
            return None
        text = body.decode()
        if _dump(value) == text:
            return {"json": value}
        if _dump(value, compact=True) == text:
            return {"json": value, "json_style": "compact"}
    except (ValueError, RecursionError):
        pass
    return None


def _dump(value: object, *, compact: bool = False) -> str:
    return json.dumps(value, separators=(",", ":")) if compact else json.dumps(value)


def _small_int(digits: str) -> int:
    if len(digits) > 17 or abs(int(digits)) > 2**53:
        raise ValueError("not every reader of JSON keeps this number")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_PORTABLE = json.JSONDecoder(parse_int=_small_int, parse_constant=_no_constant)
_MAX_NESTING = 100


def _nesting_exceeds(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return False
    return True


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

# What disturbs terminals, editors and diffs, as UTF-8: DEL and the C1 controls, marks and overrides of direction,
# line and paragraph separators, the byte order mark, and surrogates (which have no UTF-8 form of their own).
_DISTURBING = re.compile(
    rb"\x7f|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]|\xef\xbb\xbf|\xed[\xa0-\xbf]."
)
_SPLIT_PAIR = re.compile(rb"\xed[\xa0-\xaf].\xed[\xb0-\xbf]", re.DOTALL)


def _encode(event: Mapping[str, object]) -> bytes:
    text = _ENCODER.encode(event)
    if (text.isascii() and "\x7f" not in text) or text.isprintable():  # quick, and true of most
        line = text.encode()
    else:
        line = text.encode("utf-8", "surrogatepass")
        if _SPLIT_PAIR.search(line):
            raise ValueError(
                "text holds a surrogate pair as two characters, which JSON cannot tell from the one character that "
                "they stand for: use that one"
            )
        line = _DISTURBING.sub(_escaped, line)
    if len(line) >= MAX_LINE:
        raise ValueError(
            f"one event takes {len(line)} bytes, and a line at most {MAX_LINE}: use smaller chunks"
        )
    return line + b"\n"


def _escaped(match: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(match[0].decode("utf-8", "surrogatepass"))


# Reading


def _whole(digits: str) -> int:
    if len(digits) > 4300:  # Python's own limit, also where Python is too old to have it
        raise ValueError(f"a number of {len(digits)} digits is too long")
    return int(digits)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{_shown(twice)} is there twice")
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_int=_whole, parse_constant=_no_constant)
_EVENTS = ("request", "reply", "text", "hex", "end")
_EXAMPLE = '{"aivvm_recording": 1, "origin": "written", "note": "why it exists"}'
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


def _checked_origin(origin: object) -> Origin:
    if origin not in ORIGINS:
        raise ValueError(f"origin is one of {', '.join(ORIGINS)}, but got {_shown(origin)}")
    return origin


def _checked_note(note: object) -> str:
    if not isinstance(note, str):
        raise TypeError(f"note is a string, but got {_shown(note)}")
    return note


def _checked_moment(moment: object) -> str | None:
    if moment is None:
        return None
    try:
        if isinstance(moment, str) and _MOMENT.fullmatch(moment):
            datetime.fromisoformat(moment[:19])
            return moment
    except ValueError:
        pass
    raise ValueError(f"recorded_at is a moment such as 2026-11-23T00:00:00Z, but got {_shown(moment)}")


def _shown(value: object) -> str:
    """Foreign data in a message: short, and nothing in it that a terminal would obey."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _names(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


class _Reader:
    """Reads one file, event by event, and knows where it is."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._line = 0

    def recording(self) -> Recording:
        exchanges: list[Exchange] = []
        try:
            header = self._header()
            while (event := self._event()) is not None:
                exchanges.append(self._exchange(event, len(exchanges) + 1))
            return Recording(exchanges, **header)
        except RecursionError:
            self._fail("JSON that is nested too deeply for an event")

    def _fail(self, why: str) -> NoReturn:
        raise CorruptRecording(self._path, self._line, why)

    def _raw(self) -> bytes:
        line = self._file.readline(MAX_LINE + 1)
        if line:
            self._line += 1
        if len(line) > MAX_LINE:
            self._fail(f"a line of more than {MAX_LINE} bytes: no recorder writes one")
        return line

    def _parsed(self, line: bytes) -> Any:
        try:
            return _DECODER.decode(line.decode())
        except UnicodeDecodeError as error:
            self._fail(f"byte {error.start + 1} of the line is not UTF-8: save the file as UTF-8")
        except json.JSONDecodeError as error:
            what = f"not JSON (column {error.colno}: {error.msg})"
            if not line.endswith(b"\n"):
                self._fail(
                    f"{what}, and the file ends here: it was cut off; restore it, or delete its last exchange"
                )
            self._fail(f"{what}: every line is one JSON object")
        except ValueError as error:
            self._fail(f"not JSON that a recording can hold: {error}")

    def _header(self) -> dict[str, Any]:
        line = self._raw()
        if not line:
            self._fail(f"the file is empty: a recording begins with a line such as {_EXAMPLE}")
        if line.startswith(b"\xef\xbb\xbf"):
            self._fail("the file begins with a byte order mark: save it as UTF-8 without one")
        if not line.lstrip().startswith(b"{"):
            self._fail(
                f"not a recording: it begins with a line such as {_EXAMPLE}, but this file with {line[:20]!r}"
            )
        header = self._parsed(line)
        if "aivvm_recording" not in header:
            found = ", ".join(map(_shown, list(header)[:3])) or "nothing"
            self._fail(
                f"no header: a recording begins with a line such as {_EXAMPLE}, but this line has {found}"
            )
        version = header["aivvm_recording"]
        if type(version) is not int or version != VERSION:
            self._fail(
                f"version {_shown(version)} of the format, and this aivvm_testing reads version {VERSION}: "
                "was it written by a newer one? Then upgrade"
            )
        self._known(header, "the header", ("aivvm_recording",), ("origin", "note", "recorded_at", "expected"))
        if not isinstance(header.get("expected", {}), dict):
            self._fail(f'"expected" is an object, but got {_shown(header["expected"])}')
        if "recorded_at" in header:
            self._text(header, "recorded_at")
        values = {"origin": "written", **header}
        del values["aivvm_recording"]
        try:
            Recording(**values)
        except (TypeError, ValueError) as error:
            self._fail(str(error))
        return values

    def _event(self) -> dict[str, Any] | None:
        line = self._raw()
        if not line:
            return None
        if not line.strip():
            self._fail("an empty line: every line is one event; delete it")
        event = self._parsed(line)
        if not isinstance(event, dict):
            self._fail(f"every line is one JSON object, but got {_shown(event)}")
        if "x" in event:
            self._fail(
                "a line of a journal, not of a recording: its recorder was never closed, and only closing makes the recording"
            )
        if "aivvm_recording" in event:
            self._fail("a second header: one file is one recording, and its header is the first line")
        if not any(name in event for name in _EVENTS):
            others = [name for name in event if name != "at"]
            found = self._guess(others[0], _EVENTS) if others else 'only "at"' if event else "nothing"
            self._fail(f"an event has one of {_names(_EVENTS)}, but this line has {found}")
        return event

    def _exchange(self, event: dict[str, Any], n: int) -> Exchange:
        begun = self._line
        if "request" not in event:
            what = next(name for name in _EVENTS if name in event)
            self._fail(
                f'"{what}" outside an exchange: each begins with a "request" line and is over with its "end" line'
            )
        self._known(event, "a request line", ("request",), ("started",))
        request = self._request(event["request"])
        started = self._seconds(event, "started", 0.0)
        head: Head | None = None
        chunks: list[Chunk] = []
        at = 0.0
        while True:
            following = self._event()
            if following is None:
                self._fail(
                    f'exchange {n}, begun in line {begun}, has no end: its last line is one such as {{"end": "complete"}}; '
                    "restore it, or delete the exchange"
                )
            event = following
            if "request" in event:
                self._fail(
                    f"a request, but exchange {n}, begun in line {begun}, has no end yet: "
                    'a line such as {"end": "complete"} comes first'
                )
            now = self._seconds(event, "at", at)
            if now < at:
                self._fail(f'"at" never decreases within an exchange, but got {now!r} after {at!r}')
            at = now
            if "reply" in event:
                if head is not None:
                    self._fail(
                        f'a second "reply" in exchange {n}, begun in line {begun}: an exchange has one head'
                    )
                self._known(event, "a reply line", ("reply",), ("at",))
                head = self._head(event["reply"], at)
            elif "end" in event:
                self._known(event, "an end line", ("end",), ("at", "error", "data"))
                ending = self._ending(event, at, head is not None)
                try:
                    return Exchange(request, Reply(head, tuple(chunks), ending), started)
                except ValueError as error:  # a rule of theirs that no line breaks by itself
                    self._fail(str(error))
            else:
                if head is None:
                    self._fail(f'a chunk before the head of exchange {n}: a "reply" line comes first')
                self._known(event, "a chunk line", (), ("at", "text", "hex"))
                chunks.append(Chunk(self._data(event), at))

    def _request(self, value: Any) -> Request:
        self._known(value, '"request"', ("method", "url"), ("headers", "json", "text", "hex", "json_style"))
        if "json_style" in value and ("json" not in value or value["json_style"] != "compact"):
            self._fail(
                f'"json_style" is "compact", beside "json", or absent, but got {_shown(value["json_style"])}'
            )
        if "json" in value and ("text" in value or "hex" in value):
            self._fail('a body is one of "json", "text", "hex", but got two of them')
        if "json" in value:
            body = _dump(value["json"], compact="json_style" in value).encode()
        else:
            body = self._data(value) if "text" in value or "hex" in value else b""
        return Request(self._text(value, "method"), self._text(value, "url"), self._headers(value), body)

    def _head(self, value: Any, at: float) -> Head:
        self._known(value, '"reply"', ("status", "reason"), ("headers", "decoded"))
        status = value["status"]
        if type(status) is not int or not 200 <= status <= 999:
            self._fail(f'"status" is a whole number, 200 to 999, but got {_shown(status)}')
        decoded = value.get("decoded", {})
        fields = {"decoded": list(map(list, decoded.items()))} if isinstance(decoded, dict) else value
        return Head(
            status, self._text(value, "reason"), self._headers(value), at, self._headers(fields, "decoded")
        )

    def _ending(self, event: dict[str, Any], at: float, headed: bool) -> Ending:
        kind = event["end"]
        if kind not in ENDING_KINDS:
            near = self._near(kind, ENDING_KINDS)
            self._fail(f'"end" is one of {_names(ENDING_KINDS)}, but got {_shown(kind)}{near}')
        if headed and kind in HEADLESS_KINDS:
            self._fail(f'"{kind}" means that there was no connection, but the exchange has a head')
        if not headed and kind == "complete":
            self._fail('"complete" means that an answer came whole, but the exchange has no "reply" line')
        data = b""
        if "data" in event:
            self._known(event["data"], '"data"', (), ("text", "hex"))
            data = self._data(event["data"])
        error = self._text(event, "error") if "error" in event else None
        return Ending(cast("EndingKind", kind), at, data, error)

    # The parts of an event

    def _known(self, value: Any, what: str, required: Sequence[str], optional: Sequence[str]) -> None:
        if not isinstance(value, dict):
            self._fail(f"{what} is an object, but got {_shown(value)}")
        known = (*required, *optional)
        for name in value:
            if name not in known:
                self._fail(f"{what} has no member {self._guess(name, known)}; it has {_names(known)}")
        for name in required:
            if name not in value:
                self._fail(f'{what} has no "{name}", and needs one')

    def _guess(self, name: str, known: Collection[str]) -> str:
        return _shown(name) + self._near(name, known)

    def _near(self, name: object, known: Collection[str]) -> str:
        near = get_close_matches(name.lower(), known, 1) if isinstance(name, str) and len(name) < 60 else []
        return f' (did you mean "{near[0]}"?)' if near else ""

    def _text(self, value: dict[str, Any], name: str, default: str | None = None) -> str:
        text = value.get(name, default)
        if not isinstance(text, str):
            self._fail(f'"{name}" is a string, but got {_shown(text)}')
        return text

    def _seconds(self, event: dict[str, Any], name: str, default: float) -> float:
        value = event.get(name, default)
        try:
            seconds = float(value) if type(value) in (int, float) else inf
        except OverflowError:
            seconds = inf
        if not 0.0 <= seconds < inf:
            self._fail(f'"{name}" takes seconds, 0 or more, but got {_shown(value)}')
        return seconds + 0.0  # the sum is never a negative zero

    def _headers(self, value: dict[str, Any], name: str = "headers") -> Headers:
        pairs = value.get(name, [])
        if not isinstance(pairs, list):
            self._fail(f'"{name}" is a list of [name, value] pairs, but got {_shown(pairs)}')
        for pair in pairs:
            if not (
                isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
            ):
                self._fail(f'"{name}" is a list of [name, value] pairs of strings, but got {_shown(pair)}')
        return Headers((key, field) for key, field in pairs)

    def _data(self, value: dict[str, Any]) -> bytes:
        if ("text" in value) == ("hex" in value):
            found = "both" if "text" in value else "neither"
            self._fail(f'data is either "text" or "hex", but got {found}')
        if "text" in value:
            text = self._text(value, "text")
            try:
                return text.encode()
            except UnicodeEncodeError as error:
                self._fail(
                    f'{_shown(text[error.start])} in "text" has no UTF-8 form: give the bytes as "hex"'
                )
        digits = self._text(value, "hex")
        try:
            return bytes.fromhex(digits)
        except ValueError:
            self._fail(
                f'"hex" is two hexadecimal digits a byte, but got {len(digits)} characters: {_shown(digits)}'
            )
