"""Where secrets stand in data, whole or in pieces, and the same data without them: byte for byte as long.

`Secrets` are known by their value, `Members` by the name in JSON under which they stand; `Search` finds what is split over
pieces. A placeholder is as long as what it stands for, so that lengths and boundaries stay true. What is a secret is
`redaction`'s to say; nothing here parses a body, or holds more of it than a match is long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeAlias
from urllib.parse import quote, quote_plus, unquote_plus

from aivvm.transport import Headers, Request

SHORTEST = 8
LONGEST = 16 * 1024
"""Bytes: shorter values, and longer ones, are redacted under their names alone."""

MOST = 100
"""So many values of one request are looked for in its answer: a hostile one could name any number."""

LONGEST_MATCH = 4 * 1024
"""Bytes that a match of a user's pattern, with what it looks at around it, may have in a stream. A private key fits."""

LONGEST_NAME = 400
"""Bytes: what goes under a longer name in JSON stays. Names that a user adds have at most 60 characters."""

Span: TypeAlias = "tuple[int, int]"

_PLACEHOLDER = "REDACTED"

# In well-formed JSON a comma, a colon or a bracket lies between any two strings. A name here has none of them, so a
# match never begins at the quote that closes a string, and need not know what came before.
MEMBER_NAME = rb'[^"\\,:\[\]{}\s]*(?:\\u[0-9a-fA-F]{4}[^"\\,:\[\]{}\s]*)*'
_OPENING = re.compile(rb'"(' + MEMBER_NAME + rb')"\s*:\s*(?=["\[{])')
_PLAIN_NAME = re.compile(
    rb'"([^"\\,:\[\]{}\s]*)"\s*:'
)  # of any member, where nothing is escaped; twice as quick
_PART_OF_OPENING = re.compile(rb'"' + MEMBER_NAME + rb'(?:"\s*:?\s*|\\(?:u[0-9a-fA-F]{0,3})?)?\Z')
_NAME = re.compile(MEMBER_NAME)
REST_OF_VALUE = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)

_STRUCTURE = re.compile(
    rb"[\s,:0-9+\-.eEtrufalsn]*"
)  # of a list or an object, between its strings and brackets
_DEEPEST = 64
"""Of more brackets around a place, the outermost are forgotten: where these go on, nothing is found but by its name."""

_SCHEMA_NAMES = frozenset({b"type", b"description", b"title", b"enum", b"anyOf", b"allOf", b"oneOf", b"$ref"})
"""An object that begins with one of these tells what a tool takes, or has names inside that say what is a secret."""
_QUOTE = ord('"')

_HAS_MEMBERS = re.compile(r"json|script|event-stream|html", re.IGNORECASE)


@lru_cache(maxsize=64)  # a service has few
def has_members(content_type: str) -> bool:
    """Whether what is of this type has members of JSON, whatever it begins with."""
    return bool(_HAS_MEMBERS.search(content_type))


_BEFORE_JSON = b" \t\r\n\xef\xbb\xbf"
NO_JSON = re.compile(rb"[ \t\r\n\xef\xbb\xbf]*[^ \t\r\n\xef\xbb\xbf{\[]")
"""Matches text that does not begin as JSON does."""


class Secrets:
    """Values, and patterns, that must not reach a file wherever they show up; false where there are none.

    Each value is known as it stood, and as JSON and urls write it; cookies and user information by each of their values,
    too. One of fewer than `SHORTEST` bytes is not looked for, as it would be found everywhere, nor one of more than
    `LONGEST`. Immutable.
    """

    __slots__ = (
        "_beginnings",
        "_firsts",
        "_found",
        "_patterns",
        "_short",
        "_values",
        "longest",
        "searched",
        "step",
    )

    def __init__(self, found: Iterable[str] = (), patterns: Iterable[re.Pattern[bytes]] = ()) -> None:
        self._found = tuple(found)
        self._patterns = tuple(patterns)
        known: dict[bytes, None] = {}
        for text in list(dict.fromkeys([text for text in self._found if len(text) <= LONGEST]))[:MOST]:
            known |= dict.fromkeys([form for form in _forms(text) if SHORTEST <= len(form) <= LONGEST])
        values = sorted(known, key=lambda value: (-len(value), value))  # the longest that begins at a place
        self._values = values
        self._short: frozenset[bytes] | None = (
            None  # beginnings of fewer than `SHORTEST` bytes, once asked for
        )
        self._firsts: tuple[bytes, ...] = ()  # and those of so many, as one pattern where they are not few
        self._beginnings: re.Pattern[bytes] | None = None
        self.longest = LONGEST_MATCH if self._patterns else 0
        self.step = LONGEST_MATCH // 8 if self._patterns else 0
        self.searched: list[Searched] = [(pattern, ()) for pattern in self._patterns]
        if values:
            self.longest = max(self.longest, len(values[0]))
            anchors = tuple(values) if len(values) <= _FEW else ()
            self.searched.append((re.compile(b"|".join(map(re.escape, values))), anchors))

    def __bool__(self) -> bool:
        return bool(self.searched)

    def and_also(self, found: Iterable[str]) -> Secrets:
        """These, and more values."""
        return Secrets((*self._found, *found), self._patterns)

    @property
    def unmistakable(self) -> list[str]:
        """Those that can be nothing else wherever they stand in a file: of 16 or more characters, letters and digits,
        and none that JSON escapes."""
        return [text for text in self._found if len(text) <= LONGEST and _UNMISTAKABLE.fullmatch(text)]

    @property
    def are_values(self) -> bool:
        """Whether there are values and no patterns: then `begun` tells all that may yet become one."""
        return bool(self._values) and not self._patterns

    def begun(self, data: bytes, at: int = 0) -> int:
        """The first place, from `at` on, where all that is left of the data is the beginning of a value; else its end.

        Takes time for what comes after `at`, however long the values are.
        """
        if not self._values:
            return len(data)
        if self._short is None:
            firsts = self._firsts = tuple(dict.fromkeys([value[:SHORTEST] for value in self._values]))
            self._short = frozenset([first[:n] for first in firsts for n in range(1, SHORTEST)])
        at = max(at, len(data) - len(self._values[0]) + 1)
        while (first := self._next_first(data, at)) >= 0:
            rest = data[first:]
            if any([len(rest) < len(value) and value.startswith(rest) for value in self._values]):
                return first
            at = first + 1
        end = data[max(at, len(data) - SHORTEST + 1) :]
        for n in range(len(end)):
            if end[n:] in self._short:
                return len(data) - len(end) + n
        return len(data)

    def _next_first(self, data: bytes, at: int) -> int:
        if len(self._firsts) <= _FEW:
            return min([found for first in self._firsts if (found := data.find(first, at)) >= 0], default=-1)
        if self._beginnings is None:
            self._beginnings = re.compile(b"|".join(map(re.escape, self._firsts)))
        match = self._beginnings.search(data, at)
        return match.start() if match else -1

    def spans(self, data: bytes) -> list[Span]:
        """Where they are in the data."""
        return [
            span_of(match)
            for pattern, anchors in self.searched
            if not anchors or any([anchor in data for anchor in anchors])
            for match in pattern.finditer(data)
        ]

    def blank_request(self, request: Request) -> Request:
        """The request with each secret blanked out, at the same length."""
        method, url, headers, body = request
        return Request(method, self.blank_text(url), self.blank_headers(headers), self.blank(body))

    def blank(self, data: bytes) -> bytes:
        """Likewise for data."""
        return painted(data, self.spans(data))

    def blank_text(self, text: str) -> str:
        """Likewise for text."""
        try:
            return self.blank(text.encode("latin-1")).decode("latin-1")
        except UnicodeEncodeError:
            data = text.encode("utf-8", "surrogatepass")
            whole = [_whole_characters(data, span) for span in self.spans(data)]
            return painted(data, whole).decode("utf-8", "surrogatepass")

    def blank_headers(self, headers: Iterable[tuple[str, str]]) -> Headers:
        """Likewise for the values of header fields."""
        return Headers([(name, self.blank_text(value)) for name, value in headers])


NO_SECRETS = Secrets()

Searched: TypeAlias = "tuple[re.Pattern[bytes], tuple[bytes, ...]]"
"""A pattern, and what stands in all that it matches: one of these, where there are any. Saves most searches."""

_UNMISTAKABLE = re.compile(r"(?=.*[A-Za-z])(?=.*[0-9])[!#-\[\]-~]{16,}")

_FEW = 8
"""Looking for so many values one by one is quicker than one pattern of them all: 2 to 35 us in 4 KiB."""


class Search:
    """Where patterns match in data that comes in pieces, each by itself from left to right, as in the whole.

    A match, with what it looks at around it, has at most `longest` bytes; it is told once so many came after where it
    begins, or at the end. With `step`, it may wait for so many bytes more, as looking costs more than waiting. With
    `begun` nothing waits but what this tells: from where on, in some data, a match may have begun that looks at nothing
    around it, given that none has before a place.
    """

    def __init__(
        self,
        searched: Sequence[Searched],
        longest: int,
        *,
        step: int = 0,
        begun: Callable[[bytes, int], int] | None = None,
    ) -> None:
        self.settled = 0
        """All that begins before this byte has been told."""
        self._searched = searched
        self._next = [0] * len(searched)
        self._longest = longest
        self._step = step
        self._begun = begun
        self._window = b""  # what is not settled, and as much before it
        self._begin = 0

    def feed(self, data: bytes, *, last: bool = False) -> list[tuple[int, int, re.Match[bytes]]]:
        """The matches that are settled by this piece: the number of the pattern, where byte 0 of the match's string
        is in the whole, and the match."""
        window = self._window = self._window + data
        begin = self._begin
        end = begin + len(window)
        if last:
            settled = end
        elif self._begun is not None:
            settled = begin + self._begun(window, self.settled - begin)
        else:
            settled = end - self._longest + 1
        if settled - self.settled <= (0 if last else self._step):
            return []
        found = []
        for n, (pattern, anchors) in enumerate(self._searched):
            if self._next[n] < settled and (not anchors or any([anchor in window for anchor in anchors])):
                for match in pattern.finditer(window, self._next[n] - begin):
                    if begin + match.start() >= settled:
                        break
                    found.append((n, begin, match))
                    self._next[n] = begin + match.end()
            self._next[n] = max(self._next[n], settled)
        self.settled = settled
        passed = settled - begin - (0 if self._begun else self._longest)
        if passed > 0:
            self._window = window[passed:]
            self._begin += passed
        return found


class Piece(NamedTuple):
    """A part of a secret value: where it begins and ends, where in the value that is, and the name it goes under."""

    begin: int
    end: int
    at: int
    name: bytes


class Policy(Protocol):
    """Tells which members of JSON are secrets, as `redaction.Redaction` does."""

    def is_secret_member(self, name: bytes, *, throughout: bool = False) -> bool: ...

    def are_harmless(self, names: Collection[bytes]) -> bool: ...


class Members:
    """Where the string values of secret JSON members are in text that comes in pieces. Holds nothing back.

    Strings in lists, and in objects but for `AMBIGUOUS_NAMES`, are such values, too, each a value of its own; in other
    objects, also in a list of such values, each member goes by its own name. What breaks the rules of JSON ends the list.

    An answer's `content_type` tells whether there is JSON in it: where it says that it is JSON, an event stream, a script
    or a page, or where the text begins as JSON does. In other text, in which a model may speak of a key, nothing is found.
    """

    idle = False
    """Nothing will be found any more, as this is no JSON."""

    _tail = b""  # what may become the name of a member
    _inside = -1  # how many bytes of a secret value came
    _escaped = False  # the next byte of it
    _name = b""  # under which the next value goes; empty where that is no secret
    _named = True  # the next string is a value
    _said: bytes | None = None  # of a name, or of a string that is no secret, its beginning as far as it came
    _begins = False  # the object's next name is the first, and tells whether it is one of secrets

    def __init__(self, redaction: Policy, content_type: str = "json") -> None:
        self._redaction = redaction
        # The brackets of the list or object of secrets, and of what is in it, each with the secret name that its strings
        # go under; empty where they go under none, or by the names of its members.
        self._around: list[tuple[bytes, bytes]] = []
        self._sure = has_members(content_type)

    @property
    def inside(self) -> bool:
        """Whether a secret value goes on in the next piece."""
        return self._inside >= 0

    def feed(self, data: bytes) -> list[Piece]:
        """The parts of secret values in this data."""
        found: list[Piece] = []
        if not self._sure and data.lstrip(_BEFORE_JSON):
            self._sure = True
            self.idle = NO_JSON.match(data) is not None
        if self.idle or not self._sure:
            return found
        at = 0
        if self._inside >= 0:
            at = self._go_on(data, 0, found)
            if self._inside >= 0:
                return found
            at += bool(self._around)
        if self._around:
            at = self._go_through(data, at, found)
            if self._around:
                return found
        text = self._tail + data if self._tail else data
        before = len(text) - len(data)
        names = (_OPENING if b"\\u" in text else _PLAIN_NAME).findall(text, at)
        if not self._redaction.are_harmless(names):
            while opening := _OPENING.search(text, at):
                at = opening.end()
                if self._redaction.is_secret_member(opening[1]):
                    self._name = opening[1]
                    if text[at] == _QUOTE:
                        self._inside = 0
                        at = before + self._go_on(data, at + 1 - before, found)
                    else:
                        self._open(text[at : at + 1])
                        at = before + self._go_through(data, at + 1 - before, found)
                    if self._inside >= 0 or self._around:
                        self._tail = b""
                        return found
        self._tail = _unfinished(text, at)
        return found

    def _open(self, bracket: bytes) -> None:
        if bracket == b"{" and self._name:
            self._begins = not (self._around and self._around[-1][1])
            if not self._redaction.is_secret_member(self._name, throughout=True):
                self._name = b""
        self._named = bracket == b"["
        if self._around or self._name:
            if len(self._around) == _DEEPEST:
                del self._around[0]
            self._around.append((bracket, self._name))

    def _learn(self, name: bytes) -> None:
        """What a name in an object tells of what comes under it, or of the object."""
        begins, self._begins = self._begins, False
        if not self._around[-1][1]:
            is_secret = _NAME.fullmatch(name) and not self._redaction.are_harmless((name,))
            self._name = name if is_secret else b""
        elif begins and name in _SCHEMA_NAMES:
            self._name = b""
            self._around.pop()
            self._open(b"{")

    def _go_through(self, data: bytes, at: int, found: list[Piece]) -> int:
        """On within a list or an object of secrets; gives where it ends, or the data does."""
        while self._around:
            if self._said is not None:
                rest = REST_OF_VALUE.match(data, at + (self._escaped and at < len(data)))
                assert rest is not None
                end = rest.end()
                self._escaped = data[end:] == b"\\" or (self._escaped and not data)
                if len(self._said) <= LONGEST_NAME:
                    self._said += data[at : min(end + self._escaped, at + LONGEST_NAME + 1)]
                if end + self._escaped >= len(data):
                    return len(data)
                said, self._said = self._said, None
                at = end + 1
                if not self._named:
                    self._learn(said)
                continue
            between = _STRUCTURE.match(data, at)
            assert between is not None
            if b":" in between[0] or b"," in between[0]:
                last = max(between[0].rfind(b":"), between[0].rfind(b","))
                self._named = self._around[-1][0] == b"[" or between[0][last : last + 1] == b":"
            at = between.end()
            if at == len(data):
                return at
            sign = data[at : at + 1]
            if sign == b'"' and self._named and self._name:
                self._inside = 0
                at = self._go_on(data, at + 1, found) + 1
                if self._inside >= 0:
                    return at
            elif sign == b'"':
                self._said = b""
                at += 1
            elif sign in (b"{", b"["):
                self._open(sign)
                at += 1
            elif sign in (b"]", b"}") and (self._around.pop()[0] == b"[") == (sign == b"]"):
                self._name = self._around[-1][1] if self._around else b""
                at += 1
            else:
                self._around.clear()
        return at

    def blank(self, data: bytes) -> bytes:
        """The data with what `feed` finds in it blanked out."""
        found = self.feed(data)
        if not found:
            return data
        parts = bytearray(data)
        for begin, end, at, _ in found:
            parts[begin:end] = placeholder(end - begin, at).encode()
        return bytes(parts)

    def _go_on(self, data: bytes, begin: int, found: list[Piece]) -> int:
        end = begin
        if self._escaped and data:
            self._escaped = False
            end += 1
        rest = REST_OF_VALUE.match(data, end)
        assert rest is not None
        end = rest.end()
        if end == len(data) - 1 and data.endswith(b"\\"):
            self._escaped = True
            end += 1
        if end > begin:
            found.append(Piece(begin, end, self._inside, self._name))
        self._inside = self._inside + end - begin if end == len(data) else -1
        return end


def span_of(match: re.Match[bytes]) -> Span:
    """What a match of a user's pattern blanks out: its first group where that took part, else all of it."""
    return match.span(1) if match.re.groups and match.start(1) >= 0 else match.span()


def is_placeholder(text: str | bytes, at: int = 0) -> bool:
    """Whether this stands where a secret was, or for what begins `at` so many bytes of one."""
    blank = placeholder(len(text), at)
    return text == (blank if isinstance(text, str) else blank.encode())


def placeholder(length: int, at: int = 0) -> str:
    at %= len(_PLACEHOLDER)
    return (_PLACEHOLDER * ((at + length) // len(_PLACEHOLDER) + 1))[at : at + length]


def painted(data: bytes, spans: Sequence[Span], begin: int = 0) -> bytes:
    """The data without these spans, which may overlap; `begin` is where it begins in what they count from."""
    if not spans:
        return data
    parts = bytearray(data)
    end = begin + len(data)
    # Where two overlap, that which begins first has the last word.
    for first, last in sorted(spans, reverse=True):
        one, other = max(first, begin), min(last, end)
        if one < other:
            parts[one - begin : other - begin] = placeholder(other - one, one - first).encode()
    return bytes(parts)


def _whole_characters(data: bytes, span: Span) -> Span:
    begin, end = span
    while begin < end and data[begin] & 0xC0 == 0x80:
        begin -= 1
    while end < len(data) and data[end] & 0xC0 == 0x80:
        end += 1
    return begin, end


def _unfinished(text: bytes, begin: int) -> bytes:
    """What may be the beginning of a member at the end of this text, without the spaces in it."""
    last = text.rfind(b'"', begin)
    for at in (text.rfind(b'"', begin, max(last, begin)), last):  # the name's quotes, or the first of them
        if at >= 0 and _PART_OF_OPENING.match(text, at):
            tail = b"".join(text[at:].split())
            if len(tail) <= LONGEST_NAME + len(b'"":'):
                return tail
    return b""


def _forms(text: str) -> Iterator[bytes]:
    forms = [text, text.strip('"'), unquote_plus(text), quote(text, safe=""), quote_plus(text)]
    if "\\" in text:
        with suppress(ValueError):
            plain = json.loads(f'"{text}"')
            if '"' not in plain:  # with a quote in it, it could match across the strings of a JSON body
                forms.append(plain)
    with suppress(UnicodeError):  # bytes of a body that stand for other letters than latin-1's
        forms.append(text.encode("latin-1").decode())
    forms += [json.dumps(form)[1:-1] for form in forms]
    forms += [form.replace("/", "\\/") for form in forms if "/" in form]
    for form in dict.fromkeys(forms):
        for encoding in ("latin-1", "utf-8"):
            with suppress(UnicodeEncodeError):
                yield form.encode(encoding)
