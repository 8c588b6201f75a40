"""HTTP/1.1 answers without I/O: bytes in, at any split; the head, the chunks and the end out.

The counterpart of `wire.RequestParser`, for taps that see an answer on its way. Its contract: what came is told as what
it was. A chunk is one HTTP chunk of a chunked answer, and there every split of the same bytes gives the same chunks;
of any other answer it is what was fed at once. What is no answer, or breaks off, ends as `cut`, with the raw bytes that
are in no event. No sockets and no clocks here; codings of the content are `coding`'s.

It reads what clients read: lines may end in LF alone, and folded fields are joined (RFC 9112, 2.2 and 5.2). Work and
memory are bounded, by a head or trailers of 64 KiB and a chunk of 16 MiB: a longer one comes in parts of that size.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, TypeAlias

from aivvm.transport import Headers
from aivvm_testing.reply import Head
from aivvm_testing.wire import MAX_HEAD, body_framing

MAX_CHUNK = 16 * 1024 * 1024
_MAX_LINE = 4096  # of a chunk's size and its extensions


class AnswerChunk(NamedTuple):
    """A part of the body, never empty. Its content-coding, if any, is not undone."""

    data: bytes


class AnswerEnd(NamedTuple):
    """Nothing more comes. `data`: the raw bytes after the last chunk, or the bytes that are no head."""

    kind: Literal["complete", "cut"]
    data: bytes = b""


_Stage: TypeAlias = Literal["head", "length", "close", "size", "long chunk", "trailers", "over"]

AnswerEvent: TypeAlias = "Head | AnswerChunk | AnswerEnd"


class AnswerParser:
    """Turns the bytes of one answer to a request of this `method` into events.

    The order is: at most one `Head`, that of the final answer, any number of `AnswerChunk`s, one `AnswerEnd`; what is fed
    after that is ignored. Answers with a status of 1xx are skipped; 101 leaves HTTP, and ends as `cut`. The names of
    header fields keep their case, order and duplicates; values are latin-1, without the blanks around them.

    `complete` is an answer that ended as its framing says (RFC 9112, 6.3 and 8): a chunked one with its last chunk,
    whether or not its trailers come, which are dropped. Its `data` came with the end and belongs to no answer. `cut`
    is everything else: an end that came too early, and what is malformed.
    """

    __slots__ = (
        "_buffer",
        "_keeps",
        "_left",
        "_line_checked",
        "_max_chunk",
        "_max_head",
        "_method",
        "_seen",
        "_stage",
        "coding",
        "head_size",
        "until_close",
    )

    def __init__(self, method: str = "GET", *, max_head: int = MAX_HEAD, max_chunk: int = MAX_CHUNK) -> None:
        self._method = method
        self._max_head = max_head
        self._max_chunk = max_chunk
        self._buffer = bytearray()  # what is in no event yet
        self._seen = 0  # so much of it was looked at before, in vain
        self._line_checked = False
        self._stage: _Stage = "head"
        self._left = 0  # of a body with a length, of a long chunk, or of the room for trailers
        self._keeps = False
        self.head_size = 0
        """Bytes up to the end of the head, those of skipped answers included; what is fed beyond them is the body."""
        self.coding = ""
        """The codings that the head names for the content, but for `identity`; known with the head."""
        self.until_close = False
        """Whether the body ends with the connection, and nothing in the head says so; known with the head."""

    @property
    def over(self) -> bool:
        """Whether the end was told."""
        return self._stage == "over"

    @property
    def keeps_connection(self) -> bool:
        """Whether the connection can carry another request after this answer.

        Once there is a head, as it says; certain when the answer is over. False before.
        """
        return self._keeps

    @property
    def pending(self) -> bytes:
        """The raw bytes that came and are in no event yet: the `data` of an ending that the reader knows of first."""
        if self._stage == "trailers":
            return b""  # the answer has ended
        if self._stage == "long chunk":
            return b"%x\r\n%b" % (self._left, bytes(self._buffer))
        return bytes(self._buffer)

    def feed(self, data: bytes) -> list[AnswerEvent]:
        """What these bytes complete, in order."""
        events: list[AnswerEvent] = []
        if self._stage == "over":
            return events
        if self._stage == "head" and not self._buffer:
            data = self._remembered_head(data, events)
        if self._stage == "size" and len(self._buffer) < len(data):
            data = self._whole_chunks(bytes(self._buffer) + data if self._buffer else data, events)
            self._buffer.clear()
        if not data:
            return events
        self._buffer += data
        try:
            while self._buffer and self._read(events):
                pass
        except _Malformed:
            self._end(events, "cut", self.pending)
        return events

    def finish(self) -> list[AnswerEvent]:
        """The peer has closed the connection: how the answer ended, unless that was told before."""
        events: list[AnswerEvent] = []
        if self._stage in ("close", "trailers"):
            self._end(events, "complete", b"")
        elif self._stage != "over":
            self._end(events, "cut", self.pending)
        self._keeps = False
        return events

    def _read(self, events: list[AnswerEvent]) -> bool:
        """Takes the next part from the buffer; false where it is not whole yet, or where nothing more comes."""
        if self._stage == "size" or self._stage == "long chunk":
            return self._read_chunk(events)
        if self._stage == "head":
            return self._read_head(events)
        if self._stage == "trailers":
            return self._read_trailer(events)
        if self._stage == "close":
            self._take(events, 0, len(self._buffer))
        else:
            taken = min(self._left, len(self._buffer))
            self._left -= taken
            self._take(events, 0, taken)
            if not self._left:
                self._complete(events)
        return False

    def _read_head(self, events: list[AnswerEvent]) -> bool:
        buffer = self._buffer
        if not self._line_checked:
            end = buffer.find(b"\n", self._seen, self._max_head) + 1
            if end and not _STATUS_LINE.fullmatch(buffer, 0, end):
                raise _Malformed
            self._line_checked = end > 0
        found = _EMPTY_LINE.search(buffer, max(0, self._seen - 2), self._max_head)
        if found is None:
            if len(buffer) >= self._max_head:
                raise _Malformed
            self._seen = len(buffer)
            return False
        size = found.end()
        data = bytes(buffer[:size])
        known = _known(data, self._method)
        if size <= _MAX_REMEMBERED:
            if len(_heads) >= _MOST_REMEMBERED:
                _heads.clear()
            _heads[self._method, data] = known
        del buffer[:size]
        self._seen = 0
        self._line_checked = False
        self._take_head(known, size, events)
        return True

    def _remembered_head(self, data: bytes, events: list[AnswerEvent]) -> bytes:
        """Takes the head that the data begins with, where it came before and has a body; what is left is for others."""
        size = data.find(b"\r\n\r\n", 0, _MAX_REMEMBERED) + 4
        known = _heads.get((self._method, data[:size]))
        if known is None or size > self._max_head or (known.stage == "length" and not known.left):
            return data
        self._take_head(known, size, events)
        return data[size:]

    def _take_head(self, known: _Known, size: int, events: list[AnswerEvent]) -> None:
        self.head_size += size
        if known.head.status >= 200:
            events.append(known.head)
            self._stage, self._left = known.stage, known.left
            self._keeps, self.until_close, self.coding = known.keeps, known.until_close, known.coding
            if self._stage == "length" and not self._left:
                self._complete(events)

    def _whole_chunks(self, data: bytes, events: list[AnswerEvent]) -> bytes:
        """Takes the chunks from the data that are whole in it, as most are; what is left is for `_read_chunk`."""
        at = 0
        while line := _CHUNK_LINE.match(data, at):
            begin = line.end()
            size = int(line[1], 16)
            end = begin + size
            if not 0 < size <= self._max_chunk or begin - at > _MAX_LINE or data[end : end + 2] != b"\r\n":
                break
            events.append(AnswerChunk(data[begin:end]))
            at = end + 2
        return data[at:] if at else data

    def _read_chunk(self, events: list[AnswerEvent]) -> bool:
        buffer = self._buffer
        begin, left = 0, self._left
        if self._stage == "size":
            begin = buffer.find(b"\n", 0, _MAX_LINE) + 1
            if not begin and len(buffer) < _MAX_LINE:
                return False
            size = _CHUNK_LINE.fullmatch(buffer, 0, begin)
            if size is None:
                raise _Malformed
            left = int(size[1], 16)
            if not left:
                del buffer[:begin]
                self._stage = "trailers"
                self._left = self._max_head
                return True
        end = begin + min(left, self._max_chunk)
        if left > self._max_chunk:
            if len(buffer) < end:
                return False
            self._take(events, begin, end, end)
            self._left = left - self._max_chunk
            self._stage = "long chunk"
            return True
        after = buffer[end : end + 2]
        if after == b"\r\n" or after[:1] == b"\n":
            self._take(events, begin, end, end + after.index(b"\n") + 1)
            self._stage = "size"
            return True
        if after and after != b"\r":
            raise _Malformed
        return False

    def _read_trailer(self, events: list[AnswerEvent]) -> bool:
        buffer = self._buffer
        end = buffer.find(b"\n", self._seen, self._left) + 1
        if not end and len(buffer) < self._left:
            self._seen = len(buffer)
            return False
        line = bytes(buffer[:end])
        if line == b"\r\n" or line == b"\n":
            del buffer[:end]
        elif _FIELD.fullmatch(line) or _FOLDED.fullmatch(line):
            del buffer[:end]
            self._left -= end
            self._seen = 0
            return True
        self._complete(events)
        return False

    def _take(self, events: list[AnswerEvent], begin: int, end: int, after: int | None = None) -> None:
        events.append(AnswerChunk(bytes(self._buffer[begin:end])))
        del self._buffer[: end if after is None else after]

    def _complete(self, events: list[AnswerEvent]) -> None:
        self._keeps = self._keeps and not self._buffer
        self._end(events, "complete", bytes(self._buffer))

    def _end(self, events: list[AnswerEvent], kind: Literal["complete", "cut"], data: bytes) -> None:
        self._keeps = self._keeps and kind == "complete"
        self._stage = "over"
        self._buffer.clear()
        events.append(AnswerEnd(kind, data))


class _Malformed(Exception):
    """No answer, or no body of one."""


_EMPTY_LINE = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([^\r\n\0]*))?\r?\n")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*:([^\r\n\0]*)\r?\n")
_PLAIN_FIELD = re.compile(r"^([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)\r\n", re.MULTILINE)
_FOLDED = re.compile(rb"[ \t]([^\r\n\0]*)\r?\n")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n\0]*)?\r?\n")
_SEPARATOR = re.compile(r"[ \t]*,[ \t]*")


class _Known(NamedTuple):
    """A head, and what it says of its body and its connection."""

    head: Head
    stage: _Stage
    left: int
    coding: str
    keeps: bool = False
    until_close: bool = False


def _known(data: bytes, method: str) -> _Known:
    """What the head that these bytes are, up to and with its empty line, says in answer to such a request."""
    head, version = _parse_head(data)
    fields = head.headers
    coding = ", ".join(fields.get_all("content-encoding"))
    if coding.strip(" \t,").lower() in ("", "identity"):
        coding = ""
    coded = fields.get("transfer-encoding") is not None
    framing = body_framing(head, method)
    if not isinstance(framing, int) and not (coded and framing == "chunked"):
        return _Known(head, "close", 0, coding, until_close=framing == "chunked")
    said = _SEPARATOR.split(",".join(fields.get_all("connection")).lower())
    persistent = "close" not in said and (version != "1.0" or "keep-alive" in said)
    # Two framings, or one that HTTP/1.0 does not have: where the next answer begins is anyone's guess.
    dubious = coded and (version == "1.0" or fields.get("content-length") is not None)
    stage: _Stage = "length" if isinstance(framing, int) else "size"
    return _Known(head, stage, framing if isinstance(framing, int) else 0, coding, persistent and not dubious)


# A server repeats itself: until the next second its heads are mostly the same. Long ones are not worth their memory.
_MAX_REMEMBERED = 2048
_MOST_REMEMBERED = 64
_heads: dict[tuple[str, bytes], _Known] = {}


def _parse_head(data: bytes) -> tuple[Head, str]:
    """The head that these bytes are, up to and with its empty line, and the version: `1.1` or `1.0`."""
    begin = data.index(b"\n") + 1
    first = _STATUS_LINE.fullmatch(data, 0, begin)
    if first is None or first[2] == b"101":
        raise _Malformed
    plain = _PLAIN_FIELD.findall(data[begin:].decode("latin-1"))
    # Each match is a whole line, so they are all lines if together they are as long.
    if begin + sum([len(name) + len(value) + 3 for name, value in plain]) + 2 == len(data):
        fields = [(name, value.strip(" \t")) for name, value in plain]
    else:
        fields = _lenient_fields(data[begin:])
    version = "1.0" if first[1] == b"0" else "1.1"
    return Head(int(first[2]), (first[3] or b"").decode("latin-1"), Headers(fields)), version


def _lenient_fields(data: bytes) -> list[tuple[str, str]]:
    """The fields of lines that may end in LF alone, be folded, or have blanks before their colon."""
    fields: list[tuple[str, str]] = []
    for line in data.splitlines(keepends=True)[:-1]:
        if field := _FIELD.fullmatch(line):
            fields.append((field[1].decode("ascii"), field[2].decode("latin-1").strip(" \t")))
        elif fields and (folded := _FOLDED.fullmatch(line)):
            name, value = fields.pop()
            fields.append((name, f"{value} {folded[1].decode('latin-1').strip(' ')}".strip(" \t")))
        else:
            raise _Malformed
    return fields
