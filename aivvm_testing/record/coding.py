"""Content-codings, undone while an answer comes in: every part of it as soon as its bytes are there.

Contract: what `requests` gets out of the same bytes, with nothing held back that could be given. gzip and deflate are
zlib's; br and zstd are left to urllib3's decoders, imported when first needed, where they are installed. Nothing here
knows an answer, or what is done about one that does not decode; taps do, and all of them this:

- no body, a coding that is not known here, or a body whose first bytes do not decode: recorded as received, its header
  fields kept;
- damage further on: what was decoded until then stays, and the answer ends there as `cut`, with an `error` that says
  so. A replay of that breaks at the same place, but as a connection that was cut: it has no coding left to damage.
"""

from __future__ import annotations

import zlib
from typing import Protocol

from aivvm_testing.interrupts import is_interrupt

MAX_PART = 64 * 1024 * 1024
"""Bytes that one `feed` may decode to: a few that unpack to more are an attack on memory."""

_SLICE = 64
"""Bytes that a decoder is given at once which cannot be told a limit. Of br each may stand for 1.4 MiB (RFC 7932, 9.2: a
meta-block of 16 MiB takes 12 bytes), so that what is found out too late is no more than about `MAX_PART` again."""

_MOST_CODINGS = 5  # one within the other, as urllib3 has it


class Decoding:
    """The codings that a content-encoding field names, being undone; the last one named is undone first.

    Raises `ValueError` where one of them is unknown, or not installed, or there are more than five. `identity` is none.
    """

    def __init__(self, content_encoding: str) -> None:
        codings = [coding.strip() for coding in content_encoding.lower().split(",")]
        codings = [coding for coding in codings if coding not in ("", "identity")]
        if len(codings) > _MOST_CODINGS:
            raise ValueError(f"{len(codings)} codings, one within the other, are more than {_MOST_CODINGS}")
        self._stages = [_stage(coding) for coding in reversed(codings)]

    def feed(self, data: bytes) -> bytes:
        """What these bytes decode to, maybe nothing yet. Raises `ValueError` where they do not, and is over then."""
        for stage in self._stages:
            data = stage.feed(data)
        return data

    def finish(self) -> None:
        """Nothing more comes. Raises `ValueError` where an end is missing that readers miss: zstd's.

        Of gzip, deflate and br they take what there is.
        """
        for stage in self._stages:
            stage.finish()


class _Stage(Protocol):
    """One coding."""

    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> None: ...


def _stage(coding: str) -> _Stage:
    if coding in ("gzip", "x-gzip"):
        return _Gzip()
    return _Deflate() if coding == "deflate" else _Other(coding)


class _Gzip:
    """Members of a gzip file (RFC 1952, 2.2); what follows the first one and is none is ignored."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(31)
        self._first = True
        self._over = False

    def feed(self, data: bytes) -> bytes:
        parts = []
        size = 0
        while data and not self._over:
            if self._member.eof:
                self._member = zlib.decompressobj(31)
                self._first = False
            try:
                part = _inflate(self._member, data, size)
            except _TooMuch:
                raise
            except ValueError:
                if self._first:
                    raise
                self._over = True
            else:
                parts.append(part)
                size += len(part)
            data = self._member.unused_data
        return b"".join(parts)

    def finish(self) -> None:
        """Its end is not missed."""


class _Deflate:
    """With zlib's header (RFC 1950), or as some servers send it: without."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj()
        self._tried: bytes | None = b""  # with a header, so far; None once it is known

    def feed(self, data: bytes) -> bytes:
        if self._inflater.eof:
            return b""
        if self._tried is None:
            return _inflate(self._inflater, data)
        self._tried += data
        try:
            part = _inflate(self._inflater, data)
        except _TooMuch:
            raise
        except ValueError:
            self._inflater = zlib.decompressobj(-15)
            part = _inflate(self._inflater, self._tried)
            self._tried = None
        if part:
            self._tried = None
        return part

    def finish(self) -> None:
        """Its end is not missed."""


class _Other:
    """What urllib3 decodes with other libraries."""

    def __init__(self, coding: str) -> None:
        from urllib3.response import HTTPResponse, MultiDecoder

        if coding not in HTTPResponse.CONTENT_DECODERS:
            raise ValueError(f"no decoder for {coding!r} is installed")
        self._coding = coding
        self._decoder = MultiDecoder(coding)

    def feed(self, data: bytes) -> bytes:
        # Not every version of these decoders takes a limit, and some that do warn and go on without one.
        parts = []
        size = 0
        for begin in range(0, len(data), _SLICE):
            try:
                part = self._decoder.decompress(data[begin : begin + _SLICE])
            except Exception as error:
                if is_interrupt(error):
                    raise
                raise ValueError(f"damaged {self._coding}: {_told(error)}") from error
            if part:
                parts.append(part)
                size += len(part)
                _check_size(size, len(data))
        return b"".join(parts)

    def finish(self) -> None:
        try:
            self._decoder.flush()
        except Exception as error:
            raise ValueError(f"the end of its {self._coding} is missing: {_told(error)}") from error


def _inflate(inflater: zlib._Decompress, data: bytes, before: int = 0) -> bytes:
    """What these bytes decode to, where so many came out of the same `feed` before."""
    try:
        part = inflater.decompress(data, MAX_PART - before + 1)
    except zlib.error as error:
        raise ValueError(f"damaged deflate: {error}") from error
    _check_size(before + len(part), len(data))
    return part


class _TooMuch(ValueError):
    """What is too long is not damaged."""


def _check_size(size: int, of: int) -> None:
    if size > MAX_PART:
        raise _TooMuch(f"{of} bytes unpack to more than {MAX_PART}")


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
