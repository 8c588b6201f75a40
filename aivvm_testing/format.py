"""The JSON Lines format of recordings, line by line: events out, events in.

docs/recording-format.md specifies it. Here is the syntax alone: what a line may hold, how equal things become equal
bytes, and what is wrong with a line that is not one. Whatever is wrong in a file is a `CorruptRecording` that names
file and line; work and memory are bounded by one line of at most `MAX_LINE` bytes, and a longer one is refused without
being held. What no wire can carry is neither written nor read. Files, their replacement and the order of exchanges are
`recording`'s and `journal`'s.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from difflib import get_close_matches
from functools import lru_cache
from json.encoder import encode_basestring
from math import inf, isfinite
from typing import Any, BinaryIO, Literal, NoReturn, TypeAlias, cast, get_args
from urllib.parse import urlsplit

from aivvm.transport import Headers, Request
from aivvm_testing.errors import CorruptRecording
from aivvm_testing.reply import ENDING_KINDS, HEADLESS_KINDS, Chunk, Ending, EndingKind, Head, Reply
from aivvm_testing.wire import check_head

VERSION = 1
"""The version of the format that this module writes, and the only one that it reads."""

MAX_LINE = 256 * 1024 * 1024
"""Bytes. A longer line is neither read nor written, as reading it would take several times its size in memory.

The longest body that a proxy takes has room in it as hexadecimal digits, twice over.
"""

PIECE = 1024 * 1024
"""Bytes. A line that is longer is looked at in pieces of this size before any of it is kept."""

Origin: TypeAlias = Literal["recorded", "written", "converted"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)


# Writing: a line for each event. What tells an event from those of other exchanges, in a journal, is its `tag`.


def header_line(origin: str, note: str, recorded_at: str | None = None, expected: object = None) -> bytes:
    header: dict[str, object] = {"aivvm_recording": VERSION, "origin": origin, "note": note}
    if recorded_at is not None:
        header["recorded_at"] = recorded_at
    if expected is not None:
        header["expected"] = expected
    return _line(_ENCODER.encode(header)[1:-1])


def exchange_lines(request: Request, reply: Reply, started: float) -> Iterator[bytes]:
    """Those of an exchange."""
    last = 0.0

    def moment(at: float) -> float | None:
        nonlocal last
        if at == last:
            return None
        last = finite(at)
        return last

    yield request_line(request, started)
    if reply.head is not None:
        yield head_line(reply.head, moment(reply.head.at))
    for chunk in reply.chunks:
        yield chunk_line(chunk.data, moment(chunk.at))
    yield ending_line(reply.ending, moment(reply.ending.at))


def request_line(request: Request, started: float, tag: bytes = b"") -> bytes:
    """Raises `ValueError` where none can hold it."""
    method, url, headers, body = request
    _check(method, url)
    content = f", {_json_form(body) or _data(body)}" if body else ""
    return _line(
        f'"request": {{"method": {_quoted(method)}, "url": {_quoted(url)}, "headers": [{_pairs(headers)}]{content}}}, '
        f'"started": {finite(started)!r}',
        tag,
    )


def checked_request(request: Request) -> Request:
    """The request. Raises `ValueError` where no request line can hold its method, or nobody can take its url apart."""
    _check(request.method, request.url)
    return request


@lru_cache(maxsize=64)  # mostly they are those that were asked before
def _check(method: str, url: str) -> None:
    if _NO_METHOD.search(method):
        raise ValueError(f"a method holds no control characters, but got {_shown(method)}")
    try:
        url.encode()
        _ = urlsplit(url).port
    except ValueError as error:
        raise ValueError(f"{_shown(url)} is no url: {_why(error)}") from error


_NO_METHOD = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def _why(error: ValueError) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[error.start]!a} has no UTF-8 form"
    return str(error)


Outline: TypeAlias = tuple[str, str, bytes]
"""Of a request: its method, its url, and its body as a file has it."""


def outline(request: Request) -> Outline:
    """What `outline_of` finds in the line of this request."""
    line = request_line(request._replace(headers=Headers()), 0.0)
    return outline_of(line) or (request.method, request.url, line)


def outline_of(lines: bytes, at: int = 0) -> Outline | None:
    """What the line of a request says that begins `at` so many bytes, found without reading it as JSON.

    Two requests with the same outline are the same, but for their headers. None where the line is written otherwise than
    ours are.
    """
    end = lines.find(b"\n", at)
    method = at + len(_METHOD)
    url = lines.find(_URL, at, end)
    headers = lines.find(_HEADERS, url, end)
    last = lines.find(b'"]]', headers, end) + 3 if lines.startswith(b"[", headers + len(_HEADERS)) else 0
    started = lines.rfind(_STARTED, headers, end)
    if url < 0 or headers < 0 or started < 0 or last == 2 or not lines.startswith(_METHOD, at):
        return None
    before = lines[method:headers]
    if b"\\" in before:
        return None
    body = lines[last or headers + len(_HEADERS) + 1 : started]
    return before[: url - method].decode(), before[url - method + len(_URL) :].decode(), body


_METHOD = b'{"request": {"method": "'
_URL = b'", "url": "'
_HEADERS = b'", "headers": ['
_STARTED = b'}, "started": '


def request_of(one: Outline) -> Request:
    """The request of an outline, without its headers."""
    method, url, body = one
    value = json.loads(b"{" + body.removeprefix(b", ") + b"}")
    if "json" in value:
        data = _dump(value["json"], compact="json_style" in value).encode()
    else:
        data = bytes.fromhex(value["hex"]) if "hex" in value else value.get("text", "").encode()
    return Request(method, url, Headers(), data)


def head_line(head: Head, at: float | None, tag: bytes = b"") -> bytes:
    """Raises `ValueError` where no wire can carry it."""
    known = head.status, head.reason, head.headers, head.decoded
    hashable = type(head.status) is int and isinstance(head.reason, str)  # and a float may be equal
    reply = _replies.get(known) if hashable else None
    if reply is None:
        reply = _utf8(_reply(head))
        if len(_replies) >= _MOST_REMEMBERED:
            _replies.clear()
        if len(reply) <= _MAX_REMEMBERED:
            _replies[known] = reply
    return _framed(reply if at is None else b'%b, "at": %a' % (reply, float(at)), tag)


# A server repeats itself: until the next second its heads are mostly the same. Long ones are not worth their memory.
_replies: dict[tuple[int, str, Headers, Headers], bytes] = {}
_MAX_REMEMBERED = 2048
_MOST_REMEMBERED = 64


def _reply(head: Head) -> str:
    status, reason, headers, decoded = head.status, head.reason, head.headers, head.decoded
    if type(status) is not int or not 200 <= status <= 999 or not isinstance(reason, str):
        raise ValueError(f"an answer has a status of 200 to 999 and a reason, but got {status!r} {reason!r}")
    check_head(head)
    undone = ""
    if decoded:
        distinct = dict(decoded)
        pairs = f"[{_pairs(decoded)}]" if len(distinct) < len(decoded) else _ENCODER.encode(distinct)
        undone = f', "decoded": {pairs}'
    return f'"reply": {{"status": {status}, "reason": {_quoted(reason)}, "headers": [{_pairs(headers)}]{undone}}}'


def ending_line(ending: Ending, at: float | None, tag: bytes = b"") -> bytes:
    moment = "" if at is None else f'"at": {float(at)!r}, '
    error = "" if ending.error is None else f', "error": {_quoted(ending.error)}'
    data = f', "data": {{{_data(ending.data)}}}' if ending.data else ""
    return _line(f'{moment}"end": {_quoted(ending.kind)}{error}{data}', tag)


def _pairs(headers: Headers) -> str:
    return ", ".join([f"[{_quoted(name)}, {_quoted(value)}]" for name, value in headers])


def finite(at: float) -> float:
    """The moment as a line has it. Raises `ValueError` where none can."""
    if not isfinite(at):
        raise ValueError(f"a moment is a number of seconds, but got {at!r}")
    return float(at) + 0.0  # the sum is never a negative zero


def _data(data: bytes) -> str:
    try:
        return f'"text": {_quoted(data.decode())}'
    except UnicodeDecodeError:
        return f'"hex": "{data.hex()}"'


def _json_form(body: bytes) -> str | None:
    """The body as JSON, where writing that JSON gives these very bytes again in every Python."""
    if not body.isascii():
        return None
    text = body.decode()
    try:
        value = _PORTABLE.decode(text)
        if text.count("[") + text.count("{") > _MAX_NESTING and _nesting_exceeds(value, _MAX_NESTING):
            return None
        if _dump(value) == text:
            # Where nothing was escaped but what must be, a line has it as it is.
            return '"json": ' + (_ENCODER.encode(value) if "\\u" in text else text)
        if _dump(value, compact=True) == text:
            return f'"json": {_ENCODER.encode(value)}, "json_style": "compact"'
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
_quoted = encode_basestring  # its own, of text

# What disturbs terminals, editors and diffs, as UTF-8: DEL and the C1 controls, marks and overrides of direction,
# line and paragraph separators, the byte order mark, and surrogates (which have no UTF-8 form of their own).
_DISTURBING = re.compile(
    rb"\x7f|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]|\xef\xbb\xbf|\xed[\xa0-\xbf]."
)
_SPLIT_PAIR = re.compile(rb"\xed[\xa0-\xaf].\xed[\xb0-\xbf]", re.DOTALL)


def _line(members: str, tag: bytes = b"") -> bytes:
    return _framed(_utf8(members), tag)


def _utf8(members: str) -> bytes:
    if (members.isascii() and "\x7f" not in members) or members.isprintable():  # quick, and true of most
        return members.encode()
    line = members.encode("utf-8", "surrogatepass")
    if _SPLIT_PAIR.search(line):
        raise ValueError(
            "text holds a surrogate pair as two characters, which JSON cannot tell from the one character that "
            "they stand for: use that one"
        )
    return _DISTURBING.sub(_escaped, line)


def _framed(members: bytes, tag: bytes) -> bytes:
    line = b"{%b%b}\n" % (tag, members)
    if len(line) > MAX_LINE:
        raise ValueError(
            f"one event takes {len(line) - 1} bytes, and a line at most {MAX_LINE}: use smaller chunks"
        )
    return line


_SUSPECT = bytes({*range(32), *b"\x7f\xc2\xd8\xed"} - {*b"\n\r\t"})
"""Bytes without which text needs no other escapes than JSON's short ones: controls, and what begins the disturbing."""


_SHORT_ESCAPES = ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\n", b"\\n"), (b"\r", b"\\r"), (b"\t", b"\\t"))


_LONG = 512
"""Bytes, from which on it is quicker to look for what needs an escape than to write it character by character."""


def chunk_line(data: bytes, at: float | None, tag: bytes = b"") -> bytes:
    """At half the cost of other events for most long text, as there is much of it."""
    if len(data) >= _LONG and _is_plain(data):
        for plain, escaped in _SHORT_ESCAPES:
            if plain in data:
                data = data.replace(plain, escaped)
        if at is None:
            return b'{%b"text": "%b"}\n' % (tag, data)
        return b'{%b"at": %a, "text": "%b"}\n' % (tag, float(at), data)
    try:
        content = _utf8(f'"text": {_quoted(data.decode())}')
    except UnicodeDecodeError:
        content = b'"hex": "%b"' % data.hex().encode()
    return _framed(content if at is None else b'"at": %a, %b' % (float(at), content), tag)


def _is_plain(data: bytes) -> bool:
    """Whether it is text of which a line needs no other escapes than the short ones."""
    if (
        len(data.translate(None, _SUSPECT)) != len(data)
        or len(data) > MAX_LINE // 2
        or (b"\xe2" in data and (b"\xe2\x80" in data or b"\xe2\x81" in data))
        or (b"\xef" in data and b"\xef\xbb\xbf" in data)
    ):
        return False
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


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


def checked_origin(origin: object) -> Origin:
    if origin not in ORIGINS:
        raise ValueError(f"origin is one of {', '.join(ORIGINS)}, but got {_shown(origin)}")
    return origin


def checked_note(note: object) -> str:
    if not isinstance(note, str):
        raise TypeError(f"note is a string, but got {_shown(note)}")
    return note


def checked_moment(moment: object) -> str | None:
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


_TIMED = rb'\{(?:"at": [^,\n]*, )?"'
WHOLE_EXCHANGE = re.compile(
    rb'\{"request": .*\n(?:\{"reply": .*\n)?(?:'
    + _TIMED
    + rb'(?:text|hex)": .*\n)*'
    + _TIMED
    + rb'end": .*\n'
)
"""The lines of one exchange in their order, as this module writes them; files from other hands may be right otherwise."""


def line_size(file: BinaryIO, size: int) -> int | None:
    """How many bytes the line has of which so many were read; None for more than `MAX_LINE`.

    Holds a piece of it. The file stays where it is.
    """
    begin = file.tell()
    end = 0
    while size <= MAX_LINE and not end and (piece := file.read(PIECE)):
        end = piece.find(b"\n") + 1
        size += end or len(piece)
    file.seek(begin)
    return None if size > MAX_LINE else size


class Reader:
    """Reads the lines of one file, which can seek, in order, from its header or from the exchange that begins after `line` lines."""

    def __init__(self, path: str, file: BinaryIO, *, line: int = 0) -> None:
        self._path = path
        self._file = file
        self._line = line

    @property
    def line(self) -> int:
        """How many lines were read, those before the first included."""
        return self._line

    def exchange(self, n: int) -> tuple[Request, Reply, float] | None:
        """The next exchange, the `n`th from 0: its request, its reply and when it started. None at the end."""
        try:
            event = self._event()
            return None if event is None else self._exchange(event, n)
        except RecursionError:
            self._fail("JSON that is nested too deeply for an event")

    def _fail(self, why: str) -> NoReturn:
        raise CorruptRecording(self._path, self._line, why)

    def _raw(self) -> bytes:
        line = self._file.readline(PIECE)
        if line:
            self._line += 1
        if len(line) == PIECE and not line.endswith(b"\n"):
            size = line_size(self._file, PIECE)
            if size is None:
                self._fail_as_too_long()
            self._file.seek(-PIECE, os.SEEK_CUR)
            line = self._file.read(size)
        if len(line) > MAX_LINE:
            self._fail_as_too_long()
        return line

    def _fail_as_too_long(self) -> NoReturn:
        self._fail(f"a line of more than {MAX_LINE} bytes: no recorder writes one")

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

    def header(self) -> dict[str, Any]:
        """The members of the header, its version checked and left out; `origin` is always there."""
        try:
            return self._header(self._raw())
        except RecursionError:
            self._fail("JSON that is nested too deeply for an event")

    def _header(self, line: bytes) -> dict[str, Any]:
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
            checked_origin(values["origin"])
            checked_note(values.get("note", ""))
            checked_moment(values.get("recorded_at"))
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

    def _exchange(self, event: dict[str, Any], n: int) -> tuple[Request, Reply, float]:
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
                    return request, Reply(head, tuple(chunks), ending), started
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
        request = Request(self._text(value, "method"), self._text(value, "url"), self._headers(value), body)
        try:
            return checked_request(request)
        except ValueError as error:
            self._fail(str(error))

    def _head(self, value: Any, at: float) -> Head:
        self._known(value, '"reply"', ("status", "reason"), ("headers", "decoded"))
        status = value["status"]
        if type(status) is not int or not 200 <= status <= 999:
            self._fail(f'"status" is a whole number, 200 to 999, but got {_shown(status)}')
        decoded = value.get("decoded", {})
        fields = {"decoded": list(map(list, decoded.items()))} if isinstance(decoded, dict) else value
        head = Head(
            status, self._text(value, "reason"), self._headers(value), at, self._headers(fields, "decoded")
        )
        try:
            check_head(head)
        except ValueError as error:
            self._fail(str(error))
        return head

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
