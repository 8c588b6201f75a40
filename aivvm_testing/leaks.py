"""What slipped through redaction: secrets in a recording, by the names they go under, by their shape and by their randomness.

Finding is guessing: what has a known shape is nearly always a key, what is merely random may be an id, and a short secret
under a name that nobody knows is not found at all. A `Leak` says where something is and never what it is. `find` looks
through a recording, `check_file` through its file or its journal, in memory that does not grow with it;
`redact_recording` takes out what `find` would tell. Nothing here writes files or decides what to do about a leak.
"""

from __future__ import annotations

import base64
import codecs
import json
import math
import os
import re
import zlib
from array import array
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from aivvm.terminal import one_line
from aivvm.transport import Headers, Request
from aivvm_testing.blanking import MOST, Members, Search, Searched, Secrets, Span, is_placeholder, span_of
from aivvm_testing.errors import CorruptRecording
from aivvm_testing.format import MAX_LINE
from aivvm_testing.recording import BUFFER, Exchange, Recording
from aivvm_testing.redaction import DEFAULT, Redaction
from aivvm_testing.reply import Chunk, Ending, Head, Reply

LONGEST_LEAK = 8 * 1024
"""Bytes: of a longer secret only the first so many may be told. A private RSA key of 8,192 bits is within it."""

SHORTEST_RANDOM = 32
LONGEST_RANDOM = 512
"""Characters. Shorter strings are mostly ids, longer ones data."""

RANDOM_BITS = 4.2
"""Bits of entropy a character, by how often each occurs in the string. Of random strings of 32 letters and digits 99 in
100 have 4.2 or more, of 40 nearly all have 4.4; identifiers and paths of that length have 3.5 to 4.1."""

RANDOM_CHANGES = 0.42
"""Share of neighbours of different kinds (lower case, upper case, digit, other). 99 in 100 random strings of 32 have more,
0.6 is usual; words in camel case, with their long runs of one kind, have less."""

MOST_DECODED = 64 * 1024 * 1024
"""Bytes of a body that are looked at where it was recorded in its content-coding: a small one may stand for terabytes."""

_STEP = 64 * 1024
_GLIMPSED = 256
_MANY = 1000  # chunks


@dataclass(frozen=True, slots=True)
class Leak:
    """Something that looks like a secret, in a recording.

    `exchange` counts from 0; None is outside of any. `part`: `url`, `request header x-name`, `request body`, `reason`,
    `reply header x-name`, `reply body`, `error`, `data after the body`, `note`, `expected` (its texts, as lines), or
    `line 7` for what is no line of a recording. `position`: its first byte in that part, from 0, chunks joined and a
    content-coding undone. `kind`: what it looks like. `glimpse`: its length, and its first characters, at most 4 and a
    quarter of it. `line`: where it begins in the file, from 1, as `check_file` tells; 0 where there is no file. It does
    not count when leaks are compared.
    """

    exchange: int | None
    part: str
    position: int
    kind: str
    glimpse: str
    line: int = field(default=0, compare=False)

    def __str__(self) -> str:
        where = f"exchange {self.exchange}, {self.part}" if self.exchange is not None else self.part
        return f"{where}, byte {self.position}: {self.kind}, {self.glimpse}"


def find(recording: Recording, redaction: Redaction = DEFAULT) -> list[Leak]:
    """What looks like a secret in the recording, exchange by exchange."""
    return [found.leak for found in _find(recording, redaction)]


def check_file(path: str | os.PathLike[str], redaction: Redaction = DEFAULT) -> list[Leak]:
    """What looks like a secret in this file, a recording or the journal of one.

    Holds one line, and at most 100 KiB of each exchange that has not ended, and where its chunks begin. A line that no
    recording has is searched as it stands. Raises `OSError` where the file cannot be read, and `CorruptRecording` for a line longer than any can be.
    """
    return [found.leak for found in _find_in_lines(os.fspath(path), redaction)]


def redact_recording(recording: Recording, redaction: Redaction = DEFAULT) -> Recording:
    """The recording as a tap with this redaction would have made it, and without whatever `find` finds then.

    Sizes, boundaries and moments stay. What is found is blanked out wherever it stands, in other exchanges, too. What was
    recorded in its content-coding stays as it is.
    """
    # A password in a url may be too short to be known by its value.
    redaction = replace(redaction, patterns=(*redaction.patterns, _PASSWORD))
    described = Secrets((), redaction.compiled)
    recording = _remade(
        recording,
        [_redacted(exchange, redaction) for exchange in recording],
        lambda text: described.blank_text(redaction.redact_text(text)),
    )
    values = list(dict.fromkeys([found.value.decode("latin-1") for found in _find(recording, redaction)]))
    for begin in range(0, len(values), MOST):
        secrets = Secrets(values[begin : begin + MOST])
        exchanges = [_without(exchange, secrets) for exchange in recording]
        recording = _remade(recording, exchanges, secrets.blank_text)
    return recording


def redact_text(text: str, redaction: Redaction = DEFAULT) -> str:
    """The text, such as a line that is about to be shown, without what looks like a secret; as long as it was."""
    return redact_recording(Recording(note=text), redaction).note


# What a secret looks like


def _is_varied(secret: bytes) -> bool:
    """Whether it may be random, and is no `sk-xxxxxxxxxxxxxxxx` and no placeholder."""
    return len(set(secret)) >= 8 and bool(re.search(rb"\d", secret)) and b"EXAMPLE" not in secret


def _is_token(secret: bytes) -> bool:
    with suppress(ValueError):
        head = secret.split(b".")[0]
        return b'"alg"' in base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4))
    return False


def _is_key(secret: bytes) -> bool:
    return len(re.findall(rb"[A-Za-z0-9+/]{16}", secret)) >= 3


def _is_basic(secret: bytes) -> bool:
    with suppress(ValueError):
        text = base64.b64decode(secret, validate=True).decode()
        return ":" in text and text.isprintable()
    return False


def _is_password(secret: bytes) -> bool:
    return (
        secret.lower() not in (b"pass", b"passwd", b"password", b"pwd", b"secret")
        and secret[:1] not in b"$%{[(*.<"
        and not is_placeholder(secret)
    )


def _is_random(secret: bytes) -> bool:
    secret = secret.rstrip(b"=")
    text = secret.decode("ascii")
    if len(text) > LONGEST_RANDOM or _UUID.search(text):
        return False
    kinds = [
        "a" if char.islower() else "A" if char.isupper() else "0" if char.isdigit() else "-" for char in text
    ]
    changes = sum([one != other for one, other in zip(kinds[1:], kinds[:-1], strict=True)]) / (len(kinds) - 1)
    bits = -sum([n / len(text) * math.log2(n / len(text)) for n in Counter(text).values()])
    return (
        {"a", "A", "0"} <= set(kinds)  # hashes and many ids have one case
        and changes >= RANDOM_CHANGES
        and bits >= RANDOM_BITS
        and max(map(len, text.split("/"))) >= SHORTEST_RANDOM // 2  # else a path
        and "EXAMPLE" not in text
    )


class _Kind(NamedTuple):
    name: str
    anchors: tuple[bytes, ...]
    pattern: re.Pattern[bytes]
    is_one: Callable[[bytes], bool]


def _kind(name: str, anchors: str, pattern: bytes, is_one: Callable[[bytes], bool] = _is_varied) -> _Kind:
    return _Kind(name, tuple(anchors.encode().split()), re.compile(pattern), is_one)


# No letter or digit before it, unless an escape of JSON or of a url ends there.
_B = rb"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f][0-9A-Fa-f])|(?<=\\u00[0-9a-fA-F][0-9a-fA-F]))"
_KEY_TEXT = rb"[A-Za-z0-9+/=\s]|\\+[nr]"
_PASSWORD = re.compile(rb"://[^\s/:@\"'<>\\?#]{0,200}:([^\s/@\"'<>\\?#]{1,200})@")
_WORD = rb"(?:[A-Za-z]?[a-z]{1,14}(?:[A-Z][a-z]{1,14}){0,4}|[A-Z]{1,10})?\d{0,4}"
_WORDS = re.compile(_WORD + rb"(?:[-_./: ]" + _WORD + rb")*")
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-")
_KINDS = (
    _kind(
        "a private key",
        "-----BEGIN",
        rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        rb"(?:(?:(?!-----BEGIN)[,.:-]|"
        + _KEY_TEXT
        + rb"){0,7500}?-----END [A-Z0-9 ]{0,40}-----|(?:"
        + _KEY_TEXT
        + rb"){0,7500})",
        _is_key,
    ),
    _kind(
        "a JSON web token",
        "eyJ",
        # It goes no further than to where the next may begin, or many beginnings in a row would take ages.
        _B + rb"eyJ(?:(?![_-]eyJ)[\w-]){8,}\.[\w-]{8,}\.[\w-]*(?:\.[\w-]+){0,2}",
        _is_token,
    ),
    _kind("an API key", "sk- k_live_ k_test_", _B + rb"(?:sk-|[rs]k_(?:live|test)_)[\w-]{16,}"),
    _kind("a GitHub token", "ghp_ gho_ ghs_ github_pat_", _B + rb"(?:gh[pos]_|github_pat_)\w{20,}"),
    _kind("a GitLab token", "glpat-", _B + rb"glpat-[\w.-]{20,}"),
    _kind("an AWS access key", "AKIA ASIA", _B + rb"A[KS]IA[A-Z0-9]{16}(?![A-Za-z0-9])"),
    _kind("a Google key", "AIza ya29.", _B + rb"(?:AIza[\w-]{35}|ya29\.[\w-]{20,})"),
    _kind("a Slack token", "xox xapp-", _B + rb"(?:xox[abeoprs]|xapp)-[\w-]{10,}"),
    _kind(
        "a service's token",
        "hf_ npm_ pypi- SG.",
        _B + rb"(?:(?:hf|npm)_\w{30,}|pypi-[\w-]{40,}|SG\.[\w-]{20,}\.[\w-]{20,})",
    ),
    _Kind("a password in a url", (b"://",), _PASSWORD, _is_password),
    _kind("a bearer token", "earer EARER", rb"(?i:bearer)[ \t]+([\w.~+/=-]{20,})"),
    _kind("basic authorization", "asic ASIC", rb"(?i:basic)[ \t]+([A-Za-z0-9+/]{8,}={0,2})", _is_basic),
    _kind("a random string", "", rb"[A-Za-z0-9+/_-]{%d,}={0,2}" % SHORTEST_RANDOM, _is_random),
)

# Random, and known to be no secret: ids and digests, by their names, and lines of data.
_ID = r"(?:ids?|ray|hash|e-?tag|digest|checksum|sha-?\d*|md5|crc\w*|uuid|fingerprint|cursor|integrity|nonce|trace\w*)"
_ID_FIELD = re.compile(
    rf"\w+ header (?:.*-{_ID}|{_ID}|report-to|reporting-endpoints|nel|content-security-policy.*|sec-websocket-.*)"
)
_ID_BEFORE = re.compile(
    _ID.encode() + rb"[\"'\\]*\s*[:=]\s*(?:W/)?[\"'\\]*\Z|sha\d+[-:=]\Z|base64,\Z", re.IGNORECASE
)
_LINE_BEFORE = re.compile(rb"(?:[A-Za-z0-9+/_=-]{32}(?:\s|\\[nr])+|[A-Za-z0-9+/_-])\Z")
_LINE_AFTER = re.compile(rb"(?:\s|\\[nr])+[A-Za-z0-9+/_-]{32}")


def _is_explained(match: re.Match[bytes]) -> bool:
    before = match.string[max(0, match.start() - 100) : match.start()]
    return bool(
        _ID_BEFORE.search(before)
        or _LINE_BEFORE.search(before)
        or _LINE_AFTER.match(match.string, match.end())
    )


# Where it is


class _Found(NamedTuple):
    leak: Leak
    value: bytes


class _Part:
    """A part of an exchange that is searched as it comes; each place is told once, as the first kind that it is."""

    def __init__(
        self, exchange: int | None, name: str, redaction: Redaction, *, may_be_random: bool = True
    ) -> None:
        self._exchange = exchange
        self._name = name
        self._by_pattern = len(redaction.compiled)
        self._may_be_random = may_be_random
        searched: list[Searched] = [(pattern, ()) for pattern in redaction.compiled]
        searched += [(kind.pattern, kind.anchors) for kind in _KINDS]
        self._search = Search(searched, LONGEST_LEAK, step=_STEP)
        self._told: list[Span] = []

    def named(self, begin: int, value: bytes, length: int) -> Iterator[_Found]:
        """Here something goes under a secret name; to be told before that place is searched."""
        insort(self._told, (begin, begin + length))
        yield self._found(begin, "what goes under a secret name", value, length)

    def feed(self, data: bytes, *, last: bool = False) -> Iterator[_Found]:
        """The next piece of it."""
        for n, offset, match in sorted(self._search.feed(data, last=last), key=lambda found: found[0]):
            begin, end = span_of(match)
            secret = match.string[begin:end]
            span = offset + begin, offset + end
            after = bisect_right(self._told, span)  # they are apart, so its neighbours tell
            told = any(
                [
                    span[0] < other and one < span[1]
                    for one, other in self._told[max(0, after - 1) : after + 1]
                ]
            )
            if not told and (kind := self._kind(n, match, secret)):
                self._told.insert(after, span)
                yield self._found(offset + begin, kind, secret, len(secret))
        self._told = [span for span in self._told if span[1] > self._search.settled - LONGEST_LEAK]

    @property
    def settled(self) -> int:
        return self._search.settled

    def sealed(self, length: int) -> _Found:
        """All of it cannot be looked into."""
        return self._found(0, "an encoded body that cannot be looked into", b"", length)

    def _kind(self, n: int, match: re.Match[bytes], secret: bytes) -> str | None:
        if n < self._by_pattern:
            return None if is_placeholder(secret) else "what a pattern describes"
        kind = _KINDS[n - self._by_pattern]
        if kind is _KINDS[-1] and (_is_explained(match) or not self._may_be_random):
            return None
        return kind.name if kind.is_one(secret) else None

    def _found(self, position: int, kind: str, value: bytes, length: int) -> _Found:
        shown = one_line(value[: min(4, length // 4)].decode("utf-8", "replace"))
        return _Found(Leak(self._exchange, self._name, position, kind, f"{shown}… ({length} bytes)"), value)


class _Body:
    """A body, chunk by chunk."""

    def __init__(self, exchange: int | None, name: str, redaction: Redaction, content_type: str) -> None:
        self.part = _Part(exchange, name, redaction)
        self._members = Members(redaction, content_type)
        self.came = 0
        self._value: _Value | None = None

    def feed(self, data: bytes, *, last: bool = False) -> Iterator[_Found]:
        for begin, end, at, name in self._members.feed(data):
            if at == 0:
                yield from self._named()
                self._value = _Value(self.came + begin, name)
            assert self._value is not None
            self._value.add(data[begin:end], at)
        if last or not self._members.inside:
            yield from self._named()
        self.came += len(data)
        yield from self.part.feed(data, last=last)

    @property
    def open(self) -> int:
        """Nothing that is still to be told begins before this."""
        settled = self.part.settled
        return settled if self._value is None else min(settled, self._value.begin)

    def _named(self) -> Iterator[_Found]:
        value, self._value = self._value, None
        if value is not None and value.may_be_secret():
            yield from self.part.named(value.begin, value.known, value.length)


class _Value:
    """What goes under a secret name, as far as it came."""

    def __init__(self, begin: int, name: bytes) -> None:
        self.begin = begin
        self.known = b""
        self.length = 0
        self._name = name
        self._is_placeholder = True

    def add(self, piece: bytes, at: int) -> None:
        self._is_placeholder = self._is_placeholder and is_placeholder(piece, at)
        self.known += piece[: _GLIMPSED - len(self.known)]
        self.length += len(piece)

    def may_be_secret(self) -> bool:
        # A `key` is that of a map as often as that of a door, and then consists of words.
        return not (self._is_placeholder or (self._name.lower() == b"key" and _WORDS.fullmatch(self.known)))


class _Places:
    """In which line each chunk of a body begins, as far back as anything may still be found."""

    def __init__(self) -> None:
        self._positions = array("Q")
        self._lines = array("Q")
        self._full = _MANY

    def begin(self, position: int, line: int, needed: int) -> None:
        """A chunk begins here; what is before the chunk with `needed` is asked for no more."""
        self._positions.append(position)
        self._lines.append(line)
        if len(self._lines) >= self._full:
            first = max(0, bisect_right(self._positions, needed) - 1)
            del self._positions[:first], self._lines[:first]
            self._full = max(_MANY, 2 * len(self._lines))

    def line(self, position: int) -> int:
        return self._lines[max(0, bisect_right(self._positions, position) - 1)]


class _Look:
    """Looks through one exchange, in the order in which its events come."""

    def __init__(self, exchange: int | None, redaction: Redaction) -> None:
        self._exchange = exchange
        self._redaction = redaction
        self._body = _Body(exchange, "reply body", redaction, "")
        self._coding = _Coding(Headers())
        self._places = _Places()
        self._headed = False

    def request(self, request: Request) -> Iterator[_Found]:
        _, url, headers, body = request
        yield from self._texts(
            [("url", url, self._redaction.url_secrets(url)), *self._fields("request", headers)]
        )
        looked_at = _Body(self._exchange, "request body", self._redaction, "json")
        coding = _Coding(headers)
        body = b"".join(coding.undone(body))
        if coding.sealed:
            yield looked_at.part.sealed(coding.came)
        spans = self._redaction.form_secrets(body, headers.get("content-type", ""))
        spans = [*spans, *self._redaction.nested_secrets(body), *self._redaction.number_secrets(body)]
        for begin, end in spans:
            if not is_placeholder(body[begin:end]):
                yield from looked_at.part.named(begin, body[begin:end], end - begin)
        yield from looked_at.feed(body, last=True)

    def head(self, head: Head) -> Iterator[_Found]:
        self._headed = True
        self._body = _Body(
            self._exchange, "reply body", self._redaction, head.headers.get("content-type", "")
        )
        self._coding = _Coding(head.headers)
        parts = [("reason", head.reason, self._redaction.text_secrets(head.reason))]
        return self._texts(
            [*parts, *self._fields("reply", head.headers), *self._fields("reply", head.decoded)]
        )

    def chunk(self, data: bytes, line: int = 0) -> Iterator[_Found]:
        if line:
            self._places.begin(self._body.came, line, self._body.open)
        for piece in self._coding.undone(data):
            yield from self._body.feed(piece)

    def end(self, ending: Ending) -> Iterator[_Found]:
        yield from self._body.feed(b"", last=True)
        if self._coding.sealed:
            yield self._body.part.sealed(self._coding.came)
        said, data = ending.error or "", ending.data.decode("latin-1")
        # What is no head, or follows a whole body, may hold header fields.
        is_apart = ending.kind == "complete" or not self._headed
        spans = self._redaction.raw_secrets(ending.data) if is_apart else []
        yield from self._texts(
            [("error", said, self._redaction.text_secrets(said)), ("data after the body", data, spans)]
        )

    def line_of(self, leak: Leak, last: int) -> int:
        """In which line this leak, which the `last` line has shown, begins."""
        return self._places.line(leak.position) if leak.part == "reply body" else last

    def header(self, note: str, expected: object) -> Iterator[_Found]:
        """What a recording says of itself."""
        texts: list[str] = []

        def kept(text: str) -> str:
            texts.append(text)
            return text

        _with_texts(expected, kept)
        return self.texts([("note", note), ("expected", "\n".join(texts))])

    def texts(self, texts: Iterable[tuple[str, str]]) -> Iterator[_Found]:
        """Texts that are in no exchange, or in no known part of one, with their names."""
        return self._texts([(name, text, self._redaction.text_secrets(text)) for name, text in texts])

    def _fields(self, whose: str, headers: Headers) -> list[tuple[str, str, list[Span]]]:
        return [
            (
                f"{whose} header {one_line(name.lower(), 40)}",
                value,
                self._redaction.field_secrets(name, value),
            )
            for name, value in headers
        ]

    def _texts(self, parts: list[tuple[str, str, list[Span]]]) -> Iterator[_Found]:
        # One search of them all instead of one each, as there is nearly never anything to find. (A user's pattern may
        # ask where a part begins or ends.)
        parts = [part for part in parts if part[1]]
        joined = _as_bytes("\0".join([text for _, text, _ in parts]))
        clean = not self._redaction.patterns and not any(
            _Part(None, "", self._redaction).feed(joined, last=True)
        )
        for name, text, spans in parts:
            secrets = [(b, e) for b, e in spans if e > b and not is_placeholder(text[b:e])]
            if secrets or not clean:
                part = _Part(
                    self._exchange, name, self._redaction, may_be_random=not _ID_FIELD.fullmatch(name)
                )
                for begin, end in secrets:
                    value = _as_bytes(text[begin:end])
                    yield from part.named(len(_as_bytes(text[:begin])), value, len(value))
                yield from part.feed(_as_bytes(text), last=True)


def _find(recording: Recording, redaction: Redaction) -> Iterator[_Found]:
    yield from _Look(None, redaction).header(recording.note, recording.expected)
    for n, exchange in enumerate(recording):
        look = _Look(n, redaction)
        yield from look.request(exchange.request)
        if exchange.reply.head is not None:
            yield from look.head(exchange.reply.head)
        for chunk in exchange.reply.chunks:
            yield from look.chunk(chunk.data)
        yield from look.end(exchange.reply.ending)


def _find_in_lines(path: str, redaction: Redaction) -> Iterator[_Found]:
    looks: dict[int, _Look] = {}  # by the tags of a journal; a recording has one at a time, under 0
    number, n = 0, -1
    with open(path, "rb", BUFFER) as file:
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise CorruptRecording(
                    path, number, f"a line of more than {MAX_LINE} bytes: no recorder writes one"
                )
            try:
                event = json.loads(line)
                tag = event.get("x", 0)
                if "request" in event:
                    n = tag - 1 if tag else n + 1
                    looks[tag] = _Look(n, redaction)
                look = _Look(None, redaction) if "aivvm_recording" in event else looks[tag]
                found = [_in_line(one, look, number) for one in _in_event(look, event, number)]
                if "end" in event:
                    del looks[tag]
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
                look = _Look(None, redaction)
                texts = [(f"line {number}", line.decode("utf-8", "replace"))]
                found = [_in_line(one, look, number) for one in look.texts(texts)]
            yield from found
    for look in looks.values():
        for one in look.end(Ending("unfinished")):
            yield _in_line(one, look, number)


def _in_line(found: _Found, look: _Look, last: int) -> _Found:
    return found._replace(leak=replace(found.leak, line=look.line_of(found.leak, last)))


def _in_event(look: _Look, event: dict[str, Any], line: int) -> Iterator[_Found]:
    if "request" in event:
        value = event["request"]
        body = _data(value) if "text" in value or "hex" in value else b""
        if "json" in value:
            body = json.dumps(
                value["json"], separators=(",", ":") if "json_style" in value else None
            ).encode()
        return look.request(Request(value["method"], value["url"], _headers(value.get("headers", [])), body))
    if "reply" in event:
        value = event["reply"]
        decoded = value.get("decoded", {})
        fields = list(decoded.items()) if isinstance(decoded, dict) else decoded
        return look.head(
            Head(value["status"], value["reason"], _headers(value.get("headers", [])), 0.0, _headers(fields))
        )
    if "end" in event:
        said = event.get("error", "")
        if not isinstance(said, str):
            raise TypeError
        return look.end(Ending("unfinished", 0.0, _data(event["data"]) if "data" in event else b"", said))
    if "aivvm_recording" in event:
        return look.header(event.get("note", ""), event.get("expected"))
    return look.chunk(_data(event), line)


def _headers(pairs: Iterable[Iterable[str]]) -> Headers:
    return Headers([(name, value) for name, value in pairs])


def _data(value: dict[str, Any]) -> bytes:
    return bytes.fromhex(value["hex"]) if "hex" in value else str(value["text"]).encode()


def _as_bytes(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


class _Coding:
    """Undoes a content-coding, as far as this module can and the data is right; other data is given as it stands.

    `sealed`: not all could be undone, so what came may hide anything. `came`: bytes.
    """

    def __init__(self, headers: Headers) -> None:
        codings = [coding.strip().lower() for coding in headers.get("content-encoding", "").split(",")]
        self._coding = ",".join([coding for coding in codings if coding not in ("", "identity")])
        self._decoder = (
            zlib.decompressobj(47) if self._coding in _UNDONE else None
        )  # gzip or zlib, as its first bytes say
        self._begun: bytes | None = b""  # as long as it may be something else
        self._left = MOST_DECODED
        self.came = 0
        self.sealed = False

    def undone(self, data: bytes) -> Iterator[bytes]:
        """The next bytes, decoded."""
        self.came += len(data)
        if self._decoder is None:
            self.sealed = self.sealed or bool(data and _SEALED.search(self._coding))
            yield data
            return
        if self._begun is not None:
            self._begun += data
        while data and self._left > 0:
            if self._decoder.eof:  # the next member of a gzip file
                self._decoder = zlib.decompressobj(47)
            try:
                piece = self._decoder.decompress(data, _STEP)
            except zlib.error:
                yield from self._gave_up(data)
                return
            data = self._decoder.unconsumed_tail or self._decoder.unused_data
            self._left -= len(piece)
            if piece:
                self._begun = None
                yield piece

    def _gave_up(self, data: bytes) -> Iterator[bytes]:
        begun, self._begun = self._begun, None
        self._decoder = None
        self._coding = ""
        if begun is None:
            self.sealed = True
            yield data
            return
        with suppress(zlib.error):  # some send it without a header
            bare = zlib.decompressobj(-15)
            if piece := bare.decompress(begun, _STEP):
                self._decoder = bare
                self._left -= len(piece)
                yield piece
                if bare.unconsumed_tail:
                    yield from self.undone(bare.unconsumed_tail)
                return
        try:
            codecs.getincrementaldecoder("utf-8")().decode(begun)
        except UnicodeDecodeError:
            self.sealed = True
        yield begun


_UNDONE = ("gzip", "x-gzip", "deflate")
_SEALED = re.compile(r"\b(?:br|zstd|compress|x-compress|gzip|x-gzip|deflate)\b")


# Taking it out


def _remade(recording: Recording, exchanges: Iterable[Exchange], blank: Callable[[str], str]) -> Recording:
    expected = recording.expected
    return Recording(
        exchanges,
        origin=recording.origin,
        note=blank(recording.note),
        recorded_at=recording.recorded_at,
        expected=None if expected is None else _with_texts(expected, blank),
    )


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """The JSON value with each text in it changed."""
    if isinstance(value, dict):
        return {change(name): _with_texts(item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _redacted(exchange: Exchange, redaction: Redaction) -> Exchange:
    request, secrets = redaction.redact(exchange.request)
    head, ending = exchange.reply.head, exchange.reply.ending
    chunks: list[Chunk] = []
    blanked = redaction.redact_reply(secrets, lambda data, at: chunks.append(Chunk(data, at)))
    if head is not None:
        reason, headers = blanked.head(head.reason, head.headers)
        head = Head(head.status, reason, headers, head.at, redaction.redact_headers(head.decoded))
    for chunk in exchange.reply.chunks:
        blanked.chunk(chunk.data, chunk.at)
    data = blanked.finish(ending.data, complete=ending.kind == "complete")
    error = None if ending.error is None else blanked.text(ending.error)
    return Exchange(
        request, Reply(head, tuple(chunks), replace(ending, data=data, error=error)), exchange.started
    )


def _without(exchange: Exchange, secrets: Secrets) -> Exchange:
    head, ending = exchange.reply.head, exchange.reply.ending
    body = secrets.blank(exchange.reply.body)
    chunks: list[Chunk] = []
    begin = 0
    for chunk in exchange.reply.chunks:
        end = begin + len(chunk.data)
        chunks.append(Chunk(body[begin:end], chunk.at))
        begin = end
    if head is not None:
        headers, decoded = secrets.blank_headers(head.headers), secrets.blank_headers(head.decoded)
        head = Head(head.status, secrets.blank_text(head.reason), headers, head.at, decoded)
    error = None if ending.error is None else secrets.blank_text(ending.error)
    ending = replace(ending, data=secrets.blank(ending.data), error=error)
    return Exchange(
        secrets.blank_request(exchange.request), Reply(head, tuple(chunks), ending), exchange.started
    )
