r"""Bytes in, text out: the decoders of a streamed answer. Sans-IO, and they know no HTTP.

The specification: every chunk is decoded as UTF-8, and where that fails with Python's `unicode-escape` (the
fallback). A character that is split over two chunks makes that fail on an answer that nobody damaged.

    BoundarySafeDecoder    the specification, with characters that straddle a boundary kept whole: the default
    PerChunkDecoder        the specification to the letter: raises and warns as the codecs do
    SubpartDecoder         the fallback for ill-formed bytes alone: the text does not depend on the boundaries

`feed` takes a chunk and returns the text that it makes certain, often `""`; `finish` returns what is left at the end
and makes the decoder as new. What comes out is not sanitised: controls, a BOM and lone surrogates (from `\ud83d` in
the fallback) are given as the codecs give them, and whoever prints must neutralise them.

"Well formed" is Unicode's definition (table 3-7 of its core specification), so encoded surrogates, overlong forms
and anything above U+10FFFF are malformed. A decoder belongs to one stream and one thread at a time.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from codecs import unicode_escape_decode, utf_8_decode
from typing import Protocol


class Decoder(Protocol):
    """Turns the chunks of one stream into text."""

    def feed(self, chunk: bytes) -> str:
        """The text that is certain now that `chunk` has come; may be empty. An empty chunk changes nothing."""
        ...

    def finish(self) -> str:
        """The rest of the text at the end of the stream; the decoder may be used for another stream then."""
        ...


class PerChunkDecoder:
    """Each chunk on its own: UTF-8, else `unicode-escape`. Holds nothing back.

    Damages well-formed answers, raises `UnicodeDecodeError` where the fallback does, and warns where it does. It is
    there to show what happens without care.
    """

    __slots__ = ()

    def feed(self, chunk: bytes) -> str:
        """The chunk's text; raises `UnicodeDecodeError` where neither codec can read it."""
        try:
            return chunk.decode("utf-8")
        except UnicodeDecodeError:
            return chunk.decode("unicode-escape")

    def finish(self) -> str:
        """Always `""`."""
        return ""


class _HoldingDecoder(ABC):
    """Decodes UTF-8 and holds back the beginning of an unfinished character; subclasses say what malformed means.

    `_held` is at most 3 bytes, always a proper prefix of a well-formed sequence.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> str:
        """The text that is certain now that `chunk` has come; never raises, never warns."""
        held = self._held
        try:
            if held:
                data = held + chunk
            elif chunk[-1] < 0x80:
                # Nothing held and nothing to hold: this is the faster way to call the same decoder, and for ASCII
                # in chunks of 4 KiB the call costs as much as the decoding.
                return chunk.decode()
            else:
                data = chunk
            text, certain = utf_8_decode(data, "strict", False)
        except UnicodeDecodeError as error:
            return self._malformed(chunk, error.start)
        except IndexError:
            return ""  # an empty chunk has no last byte
        if certain < len(data):
            tail = data[certain:]
            # CPython waits for the third byte here, though ED A0..BF begins no well-formed sequence.
            if tail[0] == 0xED and tail[1:] > b"\x9f":
                return self._malformed(chunk, certain)
            self._held = tail
        elif held:
            self._held = b""
        return text

    def finish(self) -> str:
        """What was held back, byte by byte as latin-1; the decoder is as new then."""
        held, self._held = self._held, b""
        return held.decode("latin-1")

    @abstractmethod
    def _malformed(self, chunk: bytes, start: int) -> str:
        """What `feed` returns for `chunk`, where the held bytes and it together are malformed, first at `start`."""


class BoundarySafeDecoder(_HoldingDecoder):
    """The specification, with characters that straddle a boundary kept whole. Never raises, never warns.

    The text of well-formed input is exact, however it is cut. A chunk that is malformed gets the fallback as a
    whole, except a character that began in the chunk before it and one that may go on in the next. Held bytes that
    the next chunk disproves get the fallback alone, and that chunk is read afresh. Bytes that `unicode-escape`
    cannot read are read as UTF-8 with U+FFFD.
    """

    __slots__ = ()

    def _malformed(self, chunk: bytes, start: int) -> str:
        straddling, held = "", self._held
        if held:
            if start == 0:
                return self.finish() + self.feed(chunk)
            lead = held[0]
            taken = (2 if lead < 0xE0 else 3 if lead < 0xF0 else 4) - len(held)
            straddling = (held + chunk[:taken]).decode()
            chunk = chunk[taken:]
        self._held = _unfinished_tail(chunk)
        return straddling + _fallback(chunk[: len(chunk) - len(self._held)])


class SubpartDecoder(_HoldingDecoder):
    """The fallback for ill-formed maximal subparts alone (Unicode 3.9, "U+FFFD substitution of maximal subparts").

    Such a subpart never contains a backslash, so each of its bytes becomes the latin-1 character of its value, and
    all else is UTF-8. Never raises, never warns, and the joined text is the same for every way to cut the input.
    """

    __slots__ = ()

    def _malformed(self, chunk: bytes, start: int) -> str:
        data = self._held + chunk
        self._held = _unfinished_tail(data)
        # `surrogateescape` marks the bytes in C and in linear time; well-formed UTF-8 has no surrogates to confuse.
        text = data[: len(data) - len(self._held)].decode("utf-8", "surrogateescape")
        return re.sub(_MARKED, _as_latin_1, text)


# The patterns are compiled when the first malformed chunk comes (`re` keeps them): importing this must be quick.

_MARKED = "[\udc80-\udcff]+"


def _as_latin_1(marked: re.Match[str]) -> str:
    return marked[0].encode("ascii", "surrogateescape").decode("latin-1")


# Table 3-7: every proper prefix of a well-formed sequence of two, three or four bytes.
_UNFINISHED = (
    rb"(?:[\xc2-\xdf]"
    rb"|\xe0[\xa0-\xbf]?|[\xe1-\xec\xee\xef][\x80-\xbf]?|\xed[\x80-\x9f]?"
    rb"|\xf0(?:[\x90-\xbf][\x80-\xbf]?)?|[\xf1-\xf3](?:[\x80-\xbf][\x80-\xbf]?)?|\xf4(?:[\x80-\x8f][\x80-\xbf]?)?)\Z"
)


def _unfinished_tail(data: bytes) -> bytes:
    """The at most 3 bytes at the end of `data` that later ones may complete to a character."""
    found = re.compile(_UNFINISHED).search(data, max(0, len(data) - 3))
    return found[0] if found else b""


# What `unicode-escape` warns about: a backslash before a byte that begins no escape, and an octal escape above \377.
# Pairs of backslashes match only to be stepped over, as the second of a pair begins nothing.
_WARNED_ABOUT = rb"\\(?:([4-7][0-7][0-7])|\\|(?=[^\n\\'\"abfnrtv0-7xuUN]))"


def _silenced(escape: re.Match[bytes]) -> bytes:
    octal = escape[1]
    return rb"\\" if octal is None else rb"\u%04x" % int(octal, 8)


def _fallback(data: bytes) -> str:
    """`unicode-escape` without its warnings; UTF-8 with U+FFFD where it raises."""
    if b"\\" not in data:
        return data.decode("latin-1")
    try:
        return unicode_escape_decode(re.sub(_WARNED_ABOUT, _silenced, data))[0]
    except UnicodeError:
        return data.decode("utf-8", "replace")
