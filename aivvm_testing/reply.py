"""The one data model: what a client was answered, chunk by chunk, when, and how it stopped.

A recorded stream, a scripted answer and a fault are all a `Reply`. Replies are frozen, hashable and equal by value;
every transform returns a new one. All times (`at`) are seconds since the request was sent and never decrease within
a reply. Nothing here performs I/O or waits: the doors play replies, the taps make them.

    Reply.text("Hello, мир", chunk_size=4)
    Reply.of("a", wait(0.25), b"\\xc3").cut(after=1).delay(0.5)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from math import isfinite
from typing import Any, Literal, TypeAlias, get_args

from aivvm.transport import Headers

EndingKind: TypeAlias = Literal[
    "complete", "cut", "reset", "stall", "closed", "refused", "unresolved", "tls", "unreachable", "unfinished"
]
ENDING_KINDS: tuple[EndingKind, ...] = get_args(EndingKind)
HEADLESS_KINDS = frozenset({"refused", "unresolved", "tls", "unreachable"})
"""Endings of a connection that never came about: a reply that ends so has no head."""

_SHOWN_CHUNKS = 8
_SHOWN_BYTES = 40


@dataclass(frozen=True, slots=True)
class Chunk:
    """What arrived at once: `data`, `at` so many seconds. Empty data stands for a read that gave nothing."""

    data: bytes
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers, complete `at` so many seconds.

    `decoded` keeps the fields (content-encoding, content-length) that described the coding which was undone.
    """

    status: int = 200
    reason: str = "OK"
    headers: Headers = field(default_factory=Headers)
    at: float = 0.0
    decoded: Headers = field(default_factory=Headers)


@dataclass(frozen=True, slots=True)
class Ending:
    """How and when a reply stopped.

    | kind | meaning |
    |---|---|
    | `complete` | the answer ended as its framing says |
    | `cut` | the peer closed the connection early |
    | `reset` | the peer reset the connection (TCP RST) |
    | `stall` | open and silent until the reader gave up |
    | `closed` | the reader stopped early |
    | `refused` `unresolved` `tls` `unreachable` | no connection; only without a head |
    | `unfinished` | the recorder died before the end was known; no tap writes it |

    `data`: raw bytes that came after the last chunk. `error`: what the reader was told, for people to read.
    """

    kind: EndingKind = "complete"
    at: float = 0.0
    data: bytes = b""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class wait:
    """A gap of so many `seconds` between two parts of `Reply.of`."""

    seconds: float

    def __post_init__(self) -> None:
        if not (isfinite(self.seconds) and self.seconds >= 0):
            raise ValueError(f"a wait takes seconds, 0 or more, but got {self.seconds!r}")


@dataclass(frozen=True, slots=True, repr=False)
class Reply:
    """An optional head, chunks in the order they came, and an ending.

    Without a head: ending `cut` is an empty response, `stall` a server that never answered, `refused` and its like a
    connection that never was. Raises `ValueError` for times that decrease or are not finite, for chunks without a
    head, and for an ending that does not go with the head.
    """

    head: Head | None
    chunks: tuple[Chunk, ...] = ()
    ending: Ending = field(default_factory=Ending)

    def __post_init__(self) -> None:
        if type(self.chunks) is not tuple:
            object.__setattr__(self, "chunks", tuple(self.chunks))
        now, where = 0.0, "the request"
        for at, what in self._moments():
            if not now <= at < float("inf"):
                raise ValueError(
                    f"times are finite and never decrease, but {what} is at {at!r} and {where} at {now!r}"
                )
            now, where = at, what
        kind = self.ending.kind
        if kind not in ENDING_KINDS:
            raise ValueError(f"an ending is one of {', '.join(ENDING_KINDS)}, but got {kind!r}")
        if self.head is None:
            if self.chunks:
                raise ValueError("a reply without a head has no chunks")
            if kind == "complete":
                raise ValueError("a reply without a head cannot be complete")
        else:
            if kind in HEADLESS_KINDS:
                raise ValueError(f"a reply that ends {kind!r} has no head: there was no connection")
            if type(self.head.status) is not int or not 200 <= self.head.status <= 999:
                raise ValueError(f"the status of an answer is 200 to 999, but got {self.head.status!r}")

    def _moments(self) -> Iterator[tuple[float, str]]:
        if self.head is not None:
            yield self.head.at, "the head"
        for n, chunk in enumerate(self.chunks):
            if not isinstance(chunk.data, bytes):
                raise ValueError(f"a chunk's data is bytes, but chunk {n} has {chunk.data!r}")
            yield chunk.at, f"chunk {n}"
        yield self.ending.at, "the ending"

    # Constructors

    @classmethod
    def of(
        cls,
        *parts: str | bytes | wait,
        status: int = 200,
        reason: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> Reply:
        """A complete reply of these chunks. Text is sent as UTF-8; a `wait` delays all that follows it.

        A wait before the first chunk delays the head too, as a silent server sends nothing at all.
        """
        now = head_at = 0.0
        chunks: list[Chunk] = []
        for part in parts:
            if isinstance(part, wait):
                now += part.seconds
                if not chunks:
                    head_at = now
            else:
                chunks.append(Chunk(_as_bytes(part), now))
        head = Head(status, _phrase(status) if reason is None else reason, Headers(headers), head_at)
        return cls(head, tuple(chunks), Ending(at=now))

    @classmethod
    def text(cls, text: str, *, chunk_size: int | None = None) -> Reply:
        """A complete reply of this text in UTF-8, in chunks of `chunk_size` bytes (one chunk without it).

        Characters are split over chunks wherever the size says so; an empty text is a reply without chunks.
        """
        reply = cls.of(text) if text else cls.of()
        return reply if chunk_size is None else reply.rechunk(chunk_size)

    @classmethod
    def error(
        cls,
        status: int = 500,
        *,
        reason: str | None = None,
        body: str | bytes = "Error",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        retry_after: int | None = None,
    ) -> Reply:
        """An error as the real server sends it: the message is the reason phrase, the body is `Error`.

        Without a reason, or with an empty one, it is the status's own phrase.

        A reason that a status line cannot carry (outside latin-1, or with a control character) makes what it makes
        of the real server: its own 500 without a content-type. `retry_after` is in seconds.
        """
        reason = reason or _phrase(status)
        if not _fits_status_line(reason):
            return cls.of("Internal Server Error", status=500)
        fields = [("content-type", "text/plain;charset=UTF-8"), *Headers(headers)]
        if retry_after is not None:
            fields.append(("retry-after", str(retry_after)))
        return cls.of(body, status=status, reason=reason, headers=fields)

    @classmethod
    def no_answer(cls, kind: EndingKind = "cut", *, at: float = 0.0) -> Reply:
        """A reply without a head: nothing came before it ended `at` so many seconds."""
        return cls(None, (), Ending(kind, at))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Reply:
        """The reply of a recording that holds one exchange; `ValueError` where it holds another number."""
        from aivvm_testing.recording import Recording

        recording = Recording.load(path)
        if len(recording) != 1:
            raise ValueError(
                f"{os.fspath(path)} holds {len(recording)} exchanges, not one: "
                "choose with Recording.load(path)[n].reply"
            )
        return recording[0].reply

    # What it holds

    @property
    def status(self) -> int | None:
        """The status, or None without a head."""
        return None if self.head is None else self.head.status

    @property
    def headers(self) -> Headers:
        """The head's fields; none without a head."""
        return Headers() if self.head is None else self.head.headers

    @property
    def body(self) -> bytes:
        """All chunks joined."""
        return b"".join([chunk.data for chunk in self.chunks])

    @property
    def duration(self) -> float:
        """Seconds from the request to the ending."""
        return self.ending.at

    # Transforms: bytes and their order stay as they are unless the name says otherwise

    def rechunk(self, size: int | Sequence[int]) -> Reply:
        """The same bytes in chunks of `size` bytes, or of these sizes in turn and then one with what is left.

        A chunk comes when its last byte came. Chunks without data vanish.
        """
        if isinstance(size, int):
            if size < 1:
                raise ValueError(f"a chunk size is 1 or more bytes, but got {size!r}")
            body = self.body
            sizes = [size] * (len(body) // size)
        else:
            sizes, body = list(size), self.body
            if any(n < 1 for n in sizes):
                raise ValueError(f"chunk sizes are 1 or more bytes, but got {sizes!r}")
        edges = iter(self.chunks)
        chunks: list[Chunk] = []
        begin = arrived = 0
        at = 0.0
        for n in (*sizes, len(body)):
            end = min(begin + n, len(body))
            if end == begin:
                break
            while arrived < end:
                source = next(edges)
                arrived += len(source.data)
                at = source.at
            chunks.append(Chunk(body[begin:end], at))
            begin = end
        return replace(self, chunks=tuple(chunks))

    def cut(self, *, after: int | None = None, after_bytes: int | None = None) -> Reply:
        """The server closes the connection after so many chunks (or bytes); after all of them without either."""
        return self._ended("cut", after, after_bytes)

    def reset(self, *, after: int | None = None, after_bytes: int | None = None) -> Reply:
        """The server resets the connection after so many chunks (or bytes)."""
        return self._ended("reset", after, after_bytes)

    def stall(self, *, after: int | None = None, after_bytes: int | None = None) -> Reply:
        """The server falls silent after so many chunks (or bytes), and keeps the connection open."""
        return self._ended("stall", after, after_bytes)

    def _ended(self, kind: EndingKind, after: int | None, after_bytes: int | None) -> Reply:
        if self.head is None:
            return replace(self, ending=Ending(kind, self.ending.at))
        chunks = self.chunks
        if after_bytes is not None:
            if after is not None:
                raise ValueError("give after (chunks) or after_bytes, not both")
            have = sum(len(chunk.data) for chunk in chunks)
            if not 0 <= after_bytes <= have:
                raise ValueError(f"the reply has {have} bytes: after_bytes={after_bytes!r} is not within it")
            kept: list[Chunk] = []
            left = after_bytes
            for chunk in chunks:
                if not left:
                    break
                kept.append(Chunk(chunk.data[:left], chunk.at))
                left -= len(kept[-1].data)
            chunks = tuple(kept)
        elif after is not None:
            if not 0 <= after <= len(chunks):
                raise ValueError(f"the reply has {len(chunks)} chunks: after={after!r} is not within it")
            chunks = chunks[:after]
        at = chunks[-1].at if chunks else self.head.at
        return replace(self, chunks=chunks, ending=Ending(kind, at))

    def pace(self, gap: float) -> Reply:
        """Chunks `gap` seconds apart; the first comes with the head, the ending with the last."""
        wait(gap)
        if self.head is None:
            return self
        start = self.head.at
        chunks = tuple([Chunk(chunk.data, start + n * gap) for n, chunk in enumerate(self.chunks)])
        return replace(
            self, chunks=chunks, ending=replace(self.ending, at=chunks[-1].at if chunks else start)
        )

    def scale(self, factor: float) -> Reply:
        """Every moment times `factor`: 2.0 is half as fast, 0 is without any gap."""
        if not (isfinite(factor) and factor >= 0):
            raise ValueError(f"a factor is 0 or more, but got {factor!r}")
        return self._retimed(lambda at: at * factor)

    def delay(self, seconds: float) -> Reply:
        """The head, and everything after it, `seconds` later."""
        wait(seconds)
        return self._retimed(lambda at: at + seconds)

    def _retimed(self, change: Callable[[float], float]) -> Reply:
        return Reply(
            None if self.head is None else replace(self.head, at=change(self.head.at)),
            tuple([Chunk(chunk.data, change(chunk.at)) for chunk in self.chunks]),
            replace(self.ending, at=change(self.ending.at)),
        )

    def __repr__(self) -> str:
        if self.head is None:
            return f"Reply.no_answer({self.ending.kind!r}, at={self.ending.at!r})"
        parts: list[str] = []
        now = 0.0
        for chunk in self.chunks[:_SHOWN_CHUNKS] or (Chunk(b"", self.head.at),):
            if chunk.at > now:
                parts.append(f"wait({chunk.at - now:.6g})")
            now = chunk.at
            if self.chunks:
                parts.append(_shown(chunk.data))
        if len(self.chunks) > _SHOWN_CHUNKS:
            parts.append(f"... {len(self.chunks) - _SHOWN_CHUNKS} more chunks")
        if self.head.status != 200:
            parts.append(f"status={self.head.status}")
        if self.head.reason != _phrase(self.head.status):
            parts.append(f"reason={self.head.reason!r}")
        if self.head.headers:
            parts.append(f"headers={list(self.head.headers)!r}")
        ending = self.ending
        how = "" if ending.kind == "complete" else f".{ending.kind}()"
        then = f" + {_shown(ending.data)}" if ending.data else ""
        return f"Reply.of({', '.join(parts)}){how}{then}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For hypothesis and IPython, which would list the fields."""
        printer.text(repr(self))


def _as_bytes(part: object) -> bytes:
    if isinstance(part, str):
        try:
            return part.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{part[error.start]!r} at {error.start} has no UTF-8 form: give the bytes themselves"
            ) from error
    if isinstance(part, (bytes, bytearray, memoryview)):
        return bytes(part)
    raise TypeError(f"a part of a reply is text, bytes or wait(seconds), but got {part!r}")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _fits_status_line(reason: str) -> bool:
    return all((" " <= c <= "~") or "\xa0" <= c <= "\xff" or c == "\t" for c in reason)


def _shown(data: bytes) -> str:
    try:
        text = repr(data[:_SHOWN_BYTES].decode()) if len(data) <= _SHOWN_BYTES else repr(data[:_SHOWN_BYTES])
    except UnicodeDecodeError:
        text = repr(data[:_SHOWN_BYTES])
    return text if len(data) <= _SHOWN_BYTES else f"{text}...[{len(data)} bytes]"
