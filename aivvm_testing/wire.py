"""HTTP/1.1 without I/O: bytes of requests in, timed bytes of replies out.

It owns the syntax (RFC 9112) in both directions and nothing else. `RequestParser` turns bytes, split anywhere, into
whole requests, and refuses what two readers could read in two ways: that is how requests are smuggled. `schedule`
turns a `Reply` into the bytes to send and when, boundaries kept: one HTTP chunk per chunk. No sockets, clocks or
threads here, and no opinion about what is answered: doors bring the bytes, the fake chooses the reply.

Limits, for each request: a head of 64 KiB and 1,000 fields, and a body of 64 MiB unless told otherwise. A parser never
holds more than one request's worth of unfinished bytes besides what it was just fed, and its time is linear in the
bytes, however they are split.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from http import HTTPStatus
from itertools import accumulate
from typing import Literal, NamedTuple, NoReturn, TypeAlias

from aivvm.transport import Headers, Request
from aivvm_testing.reply import EndingKind, Head, Reply

MAX_HEAD = 64 * 1024
MAX_BODY = 64 * 1024 * 1024
_MAX_FIELDS = 1000  # 64 KiB have room for 16,000, which take 2 MiB as objects
_MAX_CHUNK_LINE = 256
_MAX_DIGITS = 18  # of a length; more is past any limit, and costs more to read the longer it is

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""What a client that sent `Expect: 100-continue` waits for."""

# Requests in


class Incoming(NamedTuple):
    """A whole request. `version` is `1.1` or `1.0`; `keep_alive`: whether its sender can take another answer."""

    request: Request
    version: str = "1.1"
    keep_alive: bool = True


class AwaitsContinue(NamedTuple):
    """The client sent a head with `Expect: 100-continue`, and holds back the body until it reads `CONTINUE`."""


class Refusal(NamedTuple):
    """What came is no acceptable request: the `status` to answer, and `why`, for people to read.

    `request`: as far as it is known, and without a body: all of a good head, else method and url of a good request
    line, else None. A `status` of 0: there was nobody left to answer.
    """

    status: int
    why: str
    request: Request | None = None

    @property
    def answer(self) -> bytes:
        """The whole answer, as the real server gives it: no body, and the connection ends."""
        return (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\nConnection: close\r\n\r\n".encode()
        )


Event: TypeAlias = "Incoming | AwaitsContinue | Refusal"


class RequestParser:
    """Bytes in, at any split; what they amount to out.

    The same bytes give the same requests and the same refusal however they are split. A `Refusal` is the last thing
    that a parser gives: whatever comes after it cannot be trusted to begin where a request begins, and is dropped.

    The url of a request is its absolute-form target, else made of `scheme`, the Host field (`authority` where that
    is missing from HTTP/1.0, or empty) and the target. Header names keep their case, order and duplicates; values
    are latin-1, without the blanks around them. A chunked body is joined, its extensions and trailers are checked
    and dropped.

    Refused with 400: anything malformed, including bare CR or LF, NUL and other controls, folded lines, blanks
    before a colon, no Host or several, two lengths, a length with a transfer coding. 413: a body over `max_body`
    bytes. 417: an expectation other than 100-continue. 431: a head over `max_head` bytes or over 1,000 fields, and
    chunk extensions and trailers that have more than `max_head` bytes together. 501: a transfer coding before chunked,
    and CONNECT. 505: neither HTTP/1.0 nor HTTP/1.1.
    """

    __slots__ = (
        "_authority",
        "_body",
        "_buffer",
        "_head",
        "_last",
        "_line_end",
        "_max_body",
        "_max_head",
        "_over",
        "_scheme",
        "_seen",
    )

    def __init__(
        self,
        *,
        authority: str = "localhost",
        scheme: str = "http",
        max_head: int = MAX_HEAD,
        max_body: int = MAX_BODY,
    ) -> None:
        self._authority = authority
        self._scheme = scheme
        self._max_head = max_head
        self._max_body = max_body
        self._buffer = bytearray()
        self._seen = 0  # so much of a head was looked at before, in vain
        self._line_end = 0  # and so much of it is a good request line
        self._head: _Head | None = None
        self._last: _Head | None = None
        self._body: _ChunkedBody | None = None
        self._over = False

    @property
    def incomplete(self) -> bool:
        """Whether a request has begun and is not whole yet."""
        return bool(self._buffer) or self._head is not None

    def feed(self, data: bytes) -> list[Event]:
        """What these bytes complete, in order."""
        events: list[Event] = []
        if self._over:
            return events
        last = self._last
        if last is not None and not self._buffer and self._head is None:
            # Most of what comes is the head that came before, again, and its body with it.
            begin = 0
            while data.startswith(last.data, begin) and begin + last.whole <= len(data):
                body = data[begin + len(last.data) : begin + last.whole]
                request = Request(last.method, last.url, last.headers, body)
                events.append(Incoming(request, last.version, last.keep_alive))
                begin += last.whole
            if begin == len(data):
                return events
            if begin:
                data = data[begin:]
        self._buffer += data
        try:
            while self._buffer:
                head = self._head
                if head is None:
                    head = self._read_head()
                    if head is None:
                        break
                    if head.awaits_continue and not self._buffer:
                        events.append(AwaitsContinue())
                content = self._read_body(head)
                if content is None:
                    break
                self._head = None
                request = Request(head.method, head.url, head.headers, content)
                events.append(Incoming(request, head.version, head.keep_alive))
        except _Malformed as error:
            events.append(self.give_up(error.status, error.why))
        return events

    def give_up(self, status: int, why: str) -> Refusal:
        """Refuses the request that has begun, for a reason that its bytes do not give, such as their time."""
        request: Request | None = None
        if (head := self._head) is not None:
            request = Request(head.method, head.url, head.headers)
        else:
            line = bytes(self._buffer[: self._buffer.find(b"\n", 0, self._max_head) + 1])
            with suppress(_Malformed):
                method, target, _ = _parse_line(line)
                request = Request(method, _url(method, target, self._scheme, self._authority))
        self._over = True
        self._buffer.clear()
        self._head = self._body = None
        return Refusal(status, why, request)

    def _read_head(self) -> _Head | None:
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):  # RFC 9112, 2.2: some clients end a body with one too many
            del buffer[:2]
        end = buffer.find(b"\r\n\r\n", max(0, self._seen - 3), self._max_head) + 4
        if end < 4:
            self._check_beginning()
            self._seen = len(buffer)
            return None
        data = bytes(buffer[:end])
        self._head = head = _head_of(data, self._scheme, self._authority)
        del buffer[:end]
        self._seen = self._line_end = 0
        if head.length is None:
            self._body = _ChunkedBody(self._max_body, self._max_head)
        elif head.length > self._max_body:
            raise _Malformed(413, f"a body has at most {self._max_body} bytes")
        self._last = head if head.whole else None
        return head

    def _check_beginning(self) -> None:
        """Refuses a head that cannot become one, without waiting for its end: its sender may be waiting, too.

        So it is with the bytes after a body that was longer than its Content-Length.
        """
        buffer = self._buffer
        if not _METHOD.match(buffer) and not b"\r".startswith(buffer):
            raise _Malformed(400, f"a request begins with its method, but came {_shown(buffer)}")
        if not self._line_end:
            self._line_end = buffer.find(b"\n", self._seen, self._max_head) + 1
            if self._line_end:
                _parse_line(bytes(buffer[: self._line_end]))
        if _EMPTY_LINE.search(buffer, max(0, self._seen - 2), self._max_head):
            raise _Malformed(400, "lines of a head end in CRLF, but came a bare LF")
        if len(buffer) >= self._max_head:
            raise _Malformed(431, f"a head has at most {self._max_head} bytes")

    def _read_body(self, head: _Head) -> bytes | None:
        if head.length == 0:
            return b""
        if self._body is not None:
            body = self._body.read(self._buffer)
            if body is not None:
                self._body = None
            return body
        if head.length is None or len(self._buffer) < head.length:
            return None
        # Mostly it is all there is, and no slice is needed, which is one copy more.
        body = bytes(self._buffer if len(self._buffer) == head.length else self._buffer[: head.length])
        del self._buffer[: head.length]
        return body


def whole_request(data: bytes, *, authority: str, scheme: str) -> Request | None:
    """The request that these bytes are, as a parser would give it; None where only a parser can tell."""
    size = data.find(b"\r\n\r\n", 0, MAX_HEAD) + 4
    try:
        head = _head_of(data[:size], scheme, authority) if size >= 4 else None
    except _Malformed:
        return None
    if head is None or head.length != len(data) - size or head.length > MAX_BODY:
        return None
    return Request(head.method, head.url, head.headers, data[size:])


class _Malformed(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.status = status
        self.why = why


class _Head(NamedTuple):
    method: str
    url: str
    headers: Headers
    version: str
    keep_alive: bool
    length: int | None  # None: chunked
    awaits_continue: bool
    data: bytes  # that it was read from
    whole: int  # so many bytes with the body; 0: chunked, or not worth remembering


class _ChunkedBody:
    """A chunked request body on its way in (RFC 9112, 7.1)."""

    __slots__ = ("_data", "_left", "_max_body", "_room", "_stage")

    def __init__(self, max_body: int, max_extras: int) -> None:
        self._data = bytearray()
        self._max_body = max_body
        self._room = max_extras  # for extensions and trailers, which are read and dropped
        self._left = 0
        self._stage: Literal["size", "data", "data end", "trailers"] = "size"

    def read(self, buffer: bytearray) -> bytes | None:
        """Takes what it can from the front of `buffer`; gives the body once it is whole."""
        while True:
            if self._stage == "size":
                end = buffer.find(b"\n", 0, _MAX_CHUNK_LINE) + 1
                if not end and len(buffer) < _MAX_CHUNK_LINE:
                    return None
                size = _CHUNK_LINE.fullmatch(buffer, 0, end)
                if size is None:
                    raise _Malformed(400, f"a chunk begins with its size, but came {_shown(buffer)}")
                self._left = int(size[1], 16)
                if len(self._data) + self._left > self._max_body:
                    raise _Malformed(413, f"a body has at most {self._max_body} bytes")
                self._room -= end - 2 - size.end(1)
                if self._room < 0:
                    raise _Malformed(431, "the extensions of the chunks are too long")
                del buffer[:end]
                self._stage = "data" if self._left else "trailers"
            elif self._stage == "data":
                taken = buffer[: self._left]
                del buffer[: self._left]
                self._data += taken
                self._left -= len(taken)
                if self._left:
                    return None
                self._stage = "data end"
            elif self._stage == "data end":
                if len(buffer) < 2 and b"\r".startswith(buffer):
                    return None
                if not buffer.startswith(b"\r\n"):
                    raise _Malformed(400, f"CRLF ends a chunk, but came {_shown(buffer)}")
                del buffer[:2]
                self._stage = "size"
            else:
                end = buffer.find(b"\n", 0, self._room) + 1
                if not end:
                    if len(buffer) >= self._room:
                        raise _Malformed(431, "the trailers are too long")
                    return None
                line = buffer[:end].decode("latin-1")
                del buffer[:end]
                if line == "\r\n":
                    return bytes(self._data)
                if not _FIELD.fullmatch(line):
                    _explain_fields(line)
                self._room -= end


_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_METHOD = re.compile(rb"[A-Z][A-Z-]{0,31}(?: |\Z)")
_LINE = re.compile(rb"[A-Z][A-Z-]{0,31} [!\"$-~]+ HTTP/[0-9]\.[0-9]\r\n")
_EMPTY_LINE = re.compile(rb"\n\r?\n")
_FIELD = re.compile(rf"^({_TOKEN}):([\t\x20-\x7e\x80-\xff]*)\r\n", re.MULTILINE)
_NAME = re.compile(_TOKEN)
_NAMED = r"[A-Za-z0-9._~!$&'()*+;=-]*"  # RFC 3986 has a comma too, but it is how two Host fields become one
_AUTHORITY = re.compile(
    rf"(?:(?=[^:]){_NAMED}(?:%[0-9A-Fa-f]{{2}}{_NAMED})*|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{{0,5}}))?"
)
_ABSOLUTE = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://([^/?]*)([/?].*)?")
_DIGITS = re.compile(r"[0-9]+")
_QUOTED = r'"(?:[\t\x20!#-\[\]-~\x80-\xff]|\\[\t\x20-~\x80-\xff])*"'
_EXTENSION = rf"[\t ]*;[\t ]*{_TOKEN}(?:[\t ]*=[\t ]*(?:{_TOKEN}|{_QUOTED}))?"
_CHUNK_LINE = re.compile(rf"([0-9A-Fa-f]{{1,15}})(?:{_EXTENSION})*\r\n".encode())
_BREAKING = re.compile(r"[\r\n\0]")
_TELLING = frozenset({"host", "connection", "transfer-encoding", "content-length", "expect"})


def _parse_head(data: bytes, scheme: str, authority: str) -> _Head:
    """The head that these bytes are, up to and with its empty line."""
    end = data.index(b"\n") + 1
    method, target, version = _parse_line(data[:end])
    fields = _parse_fields(data[end:-2].decode("latin-1"))
    if len(fields) > _MAX_FIELDS:
        raise _Malformed(431, f"a head has at most {_MAX_FIELDS} fields, but got {len(fields)}")
    said: dict[str, list[str]] = {}
    for name, value in fields:
        if (lower := name.lower()) in _TELLING:
            said.setdefault(lower, []).append(value)

    hosts = said.get("host", ())
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise _Malformed(400, f"a request has one Host field, but got {len(hosts)}")
    if hosts and hosts[0]:
        authority = hosts[0]
        _check_authority(authority)

    connection = _tokens(said.get("connection", ()))
    keep_alive = "close" not in connection and (version == "1.1" or "keep-alive" in connection)

    length: int | None = 0
    if "transfer-encoding" in said:
        length = None
        # Not even empty members of the list are passed over: some read the first one, some the last.
        listed = ",".join(said["transfer-encoding"]).lower()
        codings = [coding.strip(" \t") for coding in listed.split(",")]
        if "content-length" in said:
            raise _Malformed(400, "both Content-Length and Transfer-Encoding say how long the body is")
        if version == "1.0":
            raise _Malformed(400, "HTTP/1.0 has no Transfer-Encoding")
        if codings.count("chunked") != 1 or codings[-1] != "chunked":
            raise _Malformed(
                400, f"chunked comes last and once in Transfer-Encoding, but got {_shown(listed)}"
            )
        if len(codings) > 1:
            raise _Malformed(501, f"the only transfer coding is chunked, but got {_shown(listed)}")
    elif "content-length" in said:
        lengths = said["content-length"]
        if len(lengths) > 1 or not _DIGITS.fullmatch(lengths[0]):
            raise _Malformed(400, f"Content-Length is one number, but got {_shown(', '.join(lengths))}")
        if len(lengths[0]) > _MAX_DIGITS:
            raise _Malformed(413, "Content-Length is beyond all bounds")
        length = int(lengths[0])

    expected = ",".join(said.get("expect", ())).lower() if version == "1.1" else ""
    if expected not in ("", "100-continue"):
        raise _Malformed(417, f"the only expectation is 100-continue, but got {_shown(expected)}")
    return _Head(
        method,
        _url(method, target, scheme, authority),
        fields,
        version,
        keep_alive,
        length,
        bool(expected) and length != 0,
        data,
        0 if length is None or len(data) > _MAX_REMEMBERED else len(data) + length,
    )


# A client repeats itself: its next head is mostly its last. Long ones are not worth their memory.
_MAX_REMEMBERED = 2048
_remembered = lru_cache(maxsize=128)(_parse_head)


def _head_of(data: bytes, scheme: str, authority: str) -> _Head:
    parse = _remembered if len(data) <= _MAX_REMEMBERED else _parse_head
    return parse(data, scheme, authority)


def _parse_line(line: bytes) -> tuple[str, str, str]:
    parts = _LINE.fullmatch(line)
    if parts is None:
        raise _Malformed(400, f"a request line is METHOD target HTTP/1.1 and CRLF, but came {_shown(line)}")
    method, target, version = line.decode().split()
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise _Malformed(505, f"the versions are HTTP/1.1 and HTTP/1.0, but came {version}")
    return method, target, version[5:]


def _url(method: str, target: str, scheme: str, authority: str) -> str:
    if method == "CONNECT":
        raise _Malformed(501, "this server is no tunnel")
    if target.startswith("/"):
        return f"{scheme}://{authority}{target}"
    if target == "*" and method == "OPTIONS":
        return f"{scheme}://{authority}"  # RFC 9112, 3.3: about the server, without a path
    if absolute := _ABSOLUTE.fullmatch(target):
        _check_authority(absolute[1])
        return target if absolute[2] else target + "/"
    raise _Malformed(400, f"a target is a path or an http url, but got {_shown(target)}")


def _check_authority(text: str) -> None:
    """Refuses what `urlsplit` would choke on later, too: it takes any url of this parser apart."""
    found = _AUTHORITY.fullmatch(text)
    if found is None or int(found[2] or 0) > 65535 or not (found[1] is None or _is_ipv6(found[1])):
        raise _Malformed(400, f"an authority is a host and maybe a port, but got {_shown(text)}")


def _is_ipv6(text: str) -> bool:
    from ipaddress import IPv6Address  # rare, and as slow to import as all else here together

    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _parse_fields(text: str) -> Headers:
    """The fields of whole lines."""
    found = _FIELD.findall(text)
    # Each match is a whole line, so they are all lines if together they are as long.
    if sum([len(name) + len(value) + 3 for name, value in found]) != len(text):
        _explain_fields(text)
    return Headers([(name, value.strip(" \t")) for name, value in found])


def _explain_fields(text: str) -> NoReturn:
    lines = enumerate(text[:-1].split("\n"), 1)
    number, line = next((n, line) for n, line in lines if not _FIELD.fullmatch(line + "\n"))
    name, colon, _ = line.partition(":")
    if line.startswith((" ", "\t")):
        why = "a line is folded"
    elif not line.endswith("\r") or "\r" in line[:-1]:
        why = "a line holds a bare CR or LF"
    elif not colon:
        why = "a line has no colon"
    elif name.endswith((" ", "\t")):
        why = "a blank stands before the colon"
    elif not _NAME.fullmatch(name):
        why = "a name is no token"
    else:
        why = "a value holds a control character"
    raise _Malformed(400, f"{why}: line {number} of the header fields")  # which may be a secret


def _tokens(values: Sequence[str]) -> list[str]:
    return [token for value in values for part in value.split(",") if (token := part.strip(" \t").lower())]


def _shown(data: bytes | bytearray | str) -> str:
    start = data[:40]
    return repr(bytes(start) if isinstance(start, bytearray) else start) + ("..." if len(data) > 40 else "")


# Replies out

Stop: TypeAlias = Literal["keep", "close", "reset", "stall", "closed"]
"""How a connection goes on when a schedule is done: `keep` takes the next request; `close` sends FIN; `reset` sends
RST once the peer has what was sent; `stall` stays open and silent; `closed` expects that the client has left."""


class Schedule(NamedTuple):
    """What to send when, and how it stops. Times are seconds since the request was whole, and never decrease.

    `steps` are (at, bytes), one for each moment: frames that are due together leave together. The stop is due `at`
    so many seconds, after all steps. `ends` are counts of bytes, from the first of all steps: where the head is whole,
    then each chunk that is sent.
    """

    steps: tuple[tuple[float, bytes], ...]
    stop: Stop
    at: float
    ends: tuple[int, ...] = ()


Framing: TypeAlias = "int | Literal['chunked', 'close']"

_NONE = Headers()
_BODILESS = frozenset({204, 304})
_LENGTH = re.compile(r"\+?[0-9]{1,18}")
_STOPS: dict[EndingKind, Stop] = {
    "complete": "keep",
    "cut": "close",
    "reset": "reset",
    "stall": "stall",
    "closed": "closed",
    "unfinished": "closed",  # likewise: what would have come next is not known
    # A server that was reached cannot take that back: a reset before any byte is the nearest it has.
    "refused": "reset",
    "unresolved": "reset",
    "tls": "reset",
    "unreachable": "reset",
}


def body_framing(head: Head, method: str) -> Framing:
    """How a client learns where the body ends: after so many bytes, by chunks, or by the connection's end.

    A content-length that is no single number says nothing, and the connection's end decides.
    """
    if method == "HEAD" or head.status in _BODILESS:
        return 0
    if codings := _tokens(head.headers.get_all("transfer-encoding")):
        return "chunked" if codings[-1] == "chunked" else "close"
    if lengths := _tokens(head.headers.get_all("content-length")):
        said = {int(length) if _LENGTH.fullmatch(length) else -1 for length in lengths}
        return said.pop() if len(said) == 1 and -1 not in said else "close"
    return "close" if "close" in _tokens(head.headers.get_all("connection")) else "chunked"


def schedule(
    reply: Reply,
    *,
    method: str = "GET",
    version: str = "1.1",
    keep_alive: bool = True,
    added: Headers = _NONE,
) -> Schedule:
    """The bytes of a reply to such a request, and when each is due.

    `added` are the server's own fields: each is sent unless the reply has one of that name.

    The head is the reply's own. Without a transfer-encoding, a content-length and `connection: close`, it gains
    `Transfer-Encoding: chunked`; a given content-length is sent as it is, right or wrong. The framing is chunked
    where the head says so. An answer to HEAD, a 204 or a 304 has no body, and gains nothing. A client that keeps
    no connection, or speaks HTTP/1.0, is told `close` where the head says keep-alive, as the real server does;
    HTTP/1.0 knows no chunks, and its bodies end with the connection.

    `Ending.data` goes out raw, after the last chunk, and after the end of a complete body. A connection stays open
    only after a complete answer that came out as long as its framing says, and that says it once: of two lengths, or of
    a length and a transfer coding, some clients believe the one and some the other.

    Raises `ValueError` for a reason or a field that would break its line or that latin-1 cannot carry.
    """
    head, ending = reply.head, reply.ending
    stop = _STOPS[ending.kind]
    if head is None:
        return Schedule(((ending.at, ending.data),) if ending.data else (), stop, ending.at)

    fields = head.headers
    if added:
        fields = Headers([*fields, *[pair for pair in added if fields.get(pair[0]) is None]])
    closes = "close" in _tokens(fields.get_all("connection"))
    bodiless = head.status in _BODILESS
    bare = bodiless or method == "HEAD"
    framing = body_framing(head, method)
    chunked = framing == "chunked" and version != "1.0"
    if version == "1.0" or bodiless:
        fields = fields.without("transfer-encoding")
    elif chunked and fields.get("transfer-encoding") is None:
        fields = Headers([*fields, ("Transfer-Encoding", "chunked")])
    if not keep_alive or version == "1.0":
        closes = True
        fields = _closing(fields)

    pieces = [(head.at, _head_bytes(head, fields))]
    whole = bare
    ends: tuple[int, ...] = ()
    if not bare:
        pieces += [
            (chunk.at, _frame(chunk.data) if chunked else chunk.data) for chunk in reply.chunks if chunk.data
        ]
        ends = tuple(accumulate([len(data) for _, data in pieces]))
        if ending.kind == "complete" and chunked:
            pieces.append((ending.at, b"0\r\n\r\n"))
        if ending.data:
            pieces.append((ending.at, ending.data))
        said = _tokens(fields.get_all("content-length"))
        if chunked:
            whole = not said
        else:
            whole = len(said) == 1 and framing == sum([len(chunk.data) for chunk in reply.chunks])
    if stop == "keep" and (closes or not whole or ending.data):
        stop = "close"
    return Schedule(_together(pieces), stop, ending.at, ends)


class Schedules:
    """`schedule`, with the bytes of a reply made once however many clients it is played to.

    Keeps the schedules it made last, up to `max_bytes` of them. For one thread at a time.
    """

    def __init__(self, *, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._left = max_bytes
        self._made: dict[tuple[int, str, str, bool, Headers], tuple[Reply, Schedule, int]] = {}

    def of(
        self, reply: Reply, *, method: str, version: str, keep_alive: bool, added: Headers = _NONE
    ) -> Schedule:
        # By identity: hashing a reply costs as much as making its bytes. The entry keeps the reply, and so its id.
        key = (id(reply), method, version, keep_alive, added)
        entry = self._made.get(key)
        if entry is not None:
            return entry[1]
        made = schedule(reply, method=method, version=version, keep_alive=keep_alive, added=added)
        # The reply's own bytes, which may live here alone, and about so much for the objects around both.
        size = 2 * sum([len(data) for _, data in made.steps]) + 1024 + 256 * len(reply.chunks)
        self._made[key] = (reply, made, size)
        self._left -= size
        while self._left < 0:
            oldest = next(iter(self._made))
            self._left += self._made.pop(oldest)[2]
        return made


def _frame(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _closing(fields: Headers) -> Headers:
    return Headers(
        [
            (name, "close")
            if name.lower() == "connection" and value.lower() == "keep-alive"
            else (name, value)
            for name, value in fields
            if name.lower() != "keep-alive"
        ]
    )


def check_head(head: Head) -> None:
    """Raises `ValueError` for a head that no wire can carry: a broken line, a name that is no token, no latin-1."""
    _check_lines(head.status, head.reason, head.headers)


@lru_cache(maxsize=16)  # mostly it is the head that came before, again
def _check_lines(status: int, reason: str, headers: Headers) -> None:
    _head_bytes(Head(status, reason), headers)


def _head_bytes(head: Head, fields: Headers) -> bytes:
    lines = [f"HTTP/1.1 {head.status} {head.reason}"]
    for name, value in fields:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"the name of a header field is a token (RFC 9110, 5.6.2), but got {_shown(name)}"
            )
        lines.append(f"{name}: {value}")
    for line in lines:
        if _BREAKING.search(line):
            raise ValueError(f"a line of the head holds no CR, LF or NUL, but got {_shown(line)}")
        if not line.isascii() and max(line) > "\xff":
            raise ValueError(f"a head is latin-1, which cannot carry {max(line)!r} of {_shown(line)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _together(pieces: list[tuple[float, bytes]]) -> tuple[tuple[float, bytes], ...]:
    """Pieces that are due at the same moment, joined."""
    steps: list[tuple[float, bytes]] = []
    due: list[bytes] = []
    now = pieces[0][0]
    for at, data in pieces:
        if at != now:
            steps.append((now, b"".join(due)))
            now, due = at, []
        due.append(data)
    steps.append((now, b"".join(due)))
    return tuple(steps)
