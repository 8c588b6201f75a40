"""What never reaches a file: secrets, by the name they go under, and from then on by their value; and what a user adds.

`Redaction` is the policy, and its default is what every tap does unless told otherwise. Every placeholder is as long
as its secret, so that lengths and boundaries stay true, and redacting twice changes nothing more: a matcher redacts
the incoming request by the same rules and compares it with a recorded one. Names are compared without case, hyphens,
underscores, dots and brackets. Nothing here parses a body (what is not quite JSON keeps its form and still loses its
secrets), holds more of an answer than a match is long, or decides when to redact: taps do, before they write.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeAlias, cast
from urllib.parse import quote, quote_plus, unquote_plus

from aivvm.transport import Headers, Request

SECRET_NAMES = frozenset(
    {
        "accesskeyid",
        "apikey",
        "assertion",
        "auth",
        "authentication",
        "authorization",
        "awsaccesskeyid",
        "bearer",
        "codeverifier",
        "cookie",
        "cookies",
        "credential",
        "credentials",
        "csrf",
        "jwt",
        "key",
        "otp",
        "pass",
        "passcode",
        "passphrase",
        "passwd",
        "password",
        "pin",
        "proxyauthorization",
        "pwd",
        "samlresponse",
        "secret",
        "session",
        "sessionid",
        "setcookie",
        "sig",
        "signature",
        "token",
        "totp",
        "xsrf",
    }
)
"""Names whose values are secrets, as they are compared; those of headers with an `x-` before them, too."""

SECRET_SUFFIXES = (
    "accesskey",
    "accesskeys",
    "accesstokens",
    "apikey",
    "apikeys",
    "apitokens",
    "authkey",
    "authorization",
    "authorizationkey",
    "authtokens",
    "clientassertion",
    "credential",
    "credentials",
    "functionskey",
    "passphrase",
    "passwd",
    "password",
    "passwords",
    "privatekey",
    "privatekeypem",
    "privatekeys",
    "refreshtokens",
    "secret",
    "secretkey",
    "secretkeys",
    "secrets",
    "signature",
    "subscriptionkey",
    "token",
)
"""Names that end like this are secret as well: `x-amz-security-token`, `client_secret`, `user[password]`. `tokens` and
`keys` do not: they count what a model reads, and are what it says."""

AMBIGUOUS_NAMES = frozenset({"key", "session", "token"})
"""Under these a text, or a list of texts, is a secret; objects and numbers are what a model streams or is told."""

SHORTEST = 8
LONGEST = 16 * 1024
"""Bytes: shorter values, and longer ones, are redacted under their names alone."""

MOST = 100
"""So many values of one request are looked for in its answer: a hostile one could name any number."""

LONGEST_MATCH = 4 * 1024
"""Bytes that a match of a user's pattern, with what it looks at around it, may have in a stream. A private key fits."""

LONGEST_NAME = 400
"""Bytes: what goes under a longer name in JSON stays. Names that a user adds have at most 60 characters."""

_SETTLING = 8
"""So often patterns are searched again in a request until they find nothing new beside their own placeholders."""

Span: TypeAlias = "tuple[int, int]"
AnyPattern: TypeAlias = "str | bytes | re.Pattern[str] | re.Pattern[bytes]"

_PLACEHOLDER = "REDACTED"
_IGNORED = str.maketrans("", "", "-_.[]")

# The registered schemes of HTTP authentication, and those that services made up. Another first word may be the secret.
_SCHEME = re.compile(
    r"(aws4-hmac-sha256|apikey|api-key|basic|bearer|concealed|digest|dpop|gnap|hoba|key|mutual|negotiate|ntlm|oauth|"
    r"privatetoken|scram-sha-1|scram-sha-256|token|vapid)[ \t]+",
    re.IGNORECASE,
)
_VALUE = re.compile(r"(?<=[=:])[^;,=:\s\"]+(?=[;,\s]|$)")  # in a list of fields, or after a user name
_COOKIE = re.compile(r"\s*(?:[!#-'*+\-.0-9A-Z^-z|~]+\s*=)?\s*")
_ATTRIBUTE = re.compile(
    r"\s*(?:(?:expires|max-age|domain|path|samesite|priority)\s*=[^=]*|secure|httponly|partitioned)?\s*",
    re.IGNORECASE,
)

_USERINFO = re.compile(r"(?<=//)[^/?#\s\"'<>]+(?=@)")
_PARAMETER = re.compile(r"(?:(?<=[?&;#])|^)([^=&;?#\s\"'<>/]+)=")
_END_IN_URL = re.compile(r"[&#]|\Z")
_END_IN_TEXT = re.compile(r"[&#\s\"'<>]|\Z")
_FORM_PART = re.compile(rb"content-disposition:([^\r\n]*)", re.IGNORECASE)  # its fields, to where they end:
_END_OF_FIELDS = b"\r\n\r\n"
_FORM_NAME = re.compile(rb"[;\s]name=\"?([^\";]*)", re.IGNORECASE)

# In well-formed JSON a comma, a colon or a bracket lies between any two strings. A name here has none of them, so a
# match never begins at the quote that closes a string, and need not know what came before.
_NAME = rb'[^"\\,:\[\]{}\s]*(?:\\u[0-9a-fA-F]{4}[^"\\,:\[\]{}\s]*)*'
_OPENING = re.compile(rb'"(' + _NAME + rb')"\s*:\s*(?=["\[{])')
_PLAIN_NAME = re.compile(
    rb'"([^"\\,:\[\]{}\s]*)"\s*:'
)  # of any member, where nothing is escaped; twice as quick
_PART_OF_OPENING = re.compile(rb'"' + _NAME + rb'(?:"\s*:?\s*|\\(?:u[0-9a-fA-F]{0,3})?)?\Z')
_REST_OF_VALUE = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)

_STRUCTURE = re.compile(
    rb"[\s,:0-9+\-.eEtrufalsn]*"
)  # of a list or an object, between its strings and brackets
_DEEPEST = 64
_SCHEMA_NAMES = frozenset({b"type", b"description", b"title", b"enum", b"anyOf", b"allOf", b"oneOf", b"$ref"})
"""An object that begins with one of these tells what a tool takes, or has names inside that say what is a secret."""
_LONGEST_SCHEMA_NAME = max(map(len, _SCHEMA_NAMES))
_QUOTE = ord('"')

# Of a request: numbers, and JSON that is in a string of JSON.
_NUMBER = re.compile(rb'"(' + _NAME + rb')"\s*:\s*(-?[0-9][0-9.eE+-]*)')
_DIGIT = re.compile(rb"[0-9]")
_NO_PLACEHOLDER = re.compile(rb"[02-9]")
_NESTED = re.compile(rb'(?<=[:,\[\s])"(?=(?:\s|\\[nrt])*[\[{])')
_NESTED_MEMBER = re.compile(
    rb'\\"([^"\\,:\[\]{}\s]*)\\"(?:\s|\\[nrt])*:(?:\s|\\[nrt])*\\"'
    rb'([^"\\]*(?:\\(?:[^"\\]|\\(?:\\.|[^"\\]))[^"\\]*)*)',
    re.DOTALL,
)

# Of bytes that are no answer: where a field may begin, how far what it says may go, and the sizes of chunks.
_RAW_NAME = re.compile(r"(?:\A|(?<=[\r\n]))([^\r\n:]{1,200}):[ \t]*")
_RAW_VALUE = re.compile(r"[^\n]*(?:\n[ \t][^\n]*)*")
_NOT_IN_TOKENS = re.compile(r"[^!-~]+")
_FRAME = re.compile(rb"(?:\A|\r?\n)[0-9A-Fa-f]{1,15}[ \t]*(?:;[^\r\n]*)?\r?\n")

_HAS_MEMBERS = re.compile(r"json|script|event-stream|html", re.IGNORECASE)
_BEFORE_JSON = b" \t\r\n\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    r"""What a tap takes out before it writes. Without arguments: what is done anyway. Safe to share between threads.

        Redaction(names=["x-tenant", "ssn"], patterns=[r"\b\d{3}-\d\d-\d{4}\b", r"account (\d+)"], strict=True)

    `names`: more names of secrets: of a header, a query parameter, a member of JSON, a field of a form.
    `keep`: names that are no secrets here, such as `token` where a service streams its text under it.
    `patterns`: regular expressions; what they match, or what their first group matches, is blanked out at the same
    length in urls, header values, reasons, bodies and errors, of requests and answers alike. They are searched in bytes
    (`\w` is ASCII; text is UTF-8, or as JSON escapes it), in a whole request body, and in an answer also where chunks
    split it: there a match, with what it looks at around it, has at most `LONGEST_MATCH` bytes (a longer one may be
    blanked out in part), and the file, never the reader, lags behind by as much and an eighth.
    `edit_request`: called with each request when all of that was done, and gives the one to record. A matcher calls it
    for recorded requests, too: it must change nothing in what it gave.
    `edit_headers`: likewise for the header fields of an answer, before its body is there. An answer's body is not held
    until it is whole: patterns are for bodies.
    `strict`: a recording in which `aivvm_testing.leaks` finds something is not finished; its journal stays.

    Raises `TypeError` and `ValueError` at once for what cannot work.
    """

    names: Collection[str] = ()
    keep: Collection[str] = ()
    patterns: Collection[AnyPattern] = ()
    edit_request: Callable[[Request], Request] | None = None
    edit_headers: Callable[[Headers], Headers] | None = None
    strict: bool = False
    _names: frozenset[str] = field(init=False, repr=False, compare=False)
    _kept: frozenset[str] = field(init=False, repr=False, compare=False)
    _known: dict[str, bool] = field(init=False, repr=False, compare=False)
    _harmless: set[bytes] = field(init=False, repr=False, compare=False)
    _plain_fields: set[tuple[str, str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        def become(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        become("names", _checked_names("names", self.names))
        become("keep", _checked_names("keep", self.keep))
        become("patterns", tuple([_checked_pattern(one) for one in _listed("patterns", self.patterns)]))
        become("_names", SECRET_NAMES | {_plain(name) for name in self.names})
        become("_kept", frozenset())
        become("_known", {})
        become("_harmless", set())
        become("_plain_fields", set())
        for name in self.keep:
            if not self.is_secret(name) or _plain(name) in map(_plain, self.names):
                near = get_close_matches(_plain(name), self._names, 1)
                why = "names has it, too" if self.is_secret(name) else "it is none"
                hint = f" (did you mean {near[0]!r}?)" if near and not self.is_secret(name) else ""
                raise ValueError(f"keep takes names that would be secrets, but of {name!r} {why}{hint}")
        become("_kept", frozenset(map(_plain, self.keep)))
        self._known.clear()
        for name in ("edit_request", "edit_headers"):
            edit = getattr(self, name)
            if edit is not None and not callable(edit):
                raise TypeError(f"{name} is a function that gives what to record, but got {edit!r:.60}")
        if not isinstance(self.strict, bool):
            raise TypeError(f"strict is True or False, but got {self.strict!r:.60}")

    def is_secret(self, name: str) -> bool:
        """Whether what goes under this name, of a header, a query parameter or a JSON member, is a secret."""
        known = self._known.get(name)
        if known is None:  # every request of a session has the same names
            plain = _plain(name)
            known = plain not in self._kept and (
                plain in self._names
                or plain.endswith(SECRET_SUFFIXES)
                or (plain[1:] in SECRET_NAMES and name[:2].lower() in ("x-", "x_"))
            )
            if len(self._known) < 1000:
                self._known[name] = known
        return known

    def is_secret_throughout(self, name: str) -> bool:
        """Whether this is also so of an object that goes under it, with all its texts, and of a number in a request."""
        return self.is_secret(name) and _plain(name) not in AMBIGUOUS_NAMES

    @property
    def compiled(self) -> tuple[re.Pattern[bytes], ...]:
        """The patterns, as they are searched."""
        return cast("tuple[re.Pattern[bytes], ...]", self.patterns)

    # Requests

    def redact_request(self, request: Request) -> Request:
        """The request without the secrets in its url, headers and body.

        In a body these are the string values of JSON members at any depth, and the fields of a form. Wherever else in
        the request one of 8 bytes or more stands, it is blanked out too.
        """
        return self.redact(request)[0]

    def redact(self, request: Request) -> tuple[Request, Secrets]:
        """The redacted request, and the secrets that were in it, by which its answer is to be redacted."""
        found: list[str] = []
        method, url, headers, body = request
        if body:
            spans = self.body_secrets(body, headers.get("content-type", ""))
            for begin, end in spans:
                _note(body[begin:end].decode("latin-1"), found)
            body = _painted(body, spans)
            if numbers := self.number_secrets(body):
                found += [body[begin:end].decode() for begin, end in numbers]
                ones = b"".join([_DIGIT.sub(b"1", body[begin:end]) for begin, end in numbers])
                body = _put_back(ones, body, _gaps(numbers, len(body)))
        url = _blanked(url, self.url_secrets(url), found)
        headers = self._blanked_headers(headers, found)
        secrets = Secrets(found, self.compiled) if found or self.patterns else NO_SECRETS
        redacted = Request(method, url, headers, body)
        if secrets:
            redacted = secrets.blank_request(redacted)
            for _ in range(_SETTLING if self.patterns else 0):
                redacted, before = secrets.blank_request(redacted), redacted
                if redacted == before:
                    break
        if self.edit_request is not None:
            redacted = _checked_request(self.edit_request(redacted))
        return redacted, secrets

    # Answers

    def redact_reply(self, secrets: Secrets, write: Callable[[bytes, float], None]) -> BlankedReply:
        """The answer to the request that had these secrets, on its way to a file: `write` is told each chunk."""
        return BlankedReply(self, secrets, write)

    def redact_headers(self, headers: Iterable[tuple[str, str]]) -> Headers:
        """The fields with the secret ones blanked out; the scheme of an authorization, and all of a cookie but its value,
        stay readable."""
        return self._blanked_headers(headers, [])

    def redact_text(self, text: str) -> str:
        """The text, such as an error about a url, without user names, passwords and secret query parameters."""
        return _blanked(text, self.text_secrets(text), [])

    def _blanked_headers(self, headers: Iterable[tuple[str, str]], found: list[str]) -> Headers:
        blanked = []
        for pair in headers:
            if pair not in self._plain_fields:
                name, value = pair
                spans = self.field_secrets(name, value)
                if spans:
                    pair = name, _blanked(value, spans, found)
                    if value[:5].lower() == "basic":
                        with suppress(ValueError):
                            found.append(base64.b64decode(value[spans[0][0] :]).decode().partition(":")[2])
                elif len(value) <= _MAX_REMEMBERED and len(self._plain_fields) < 1000:
                    self._plain_fields.add((name, value))  # every message of a session has the same
            blanked.append(pair)
        return Headers(blanked)

    # Where they are: spans of characters or bytes

    def url_secrets(self, url: str) -> list[Span]:
        """The user information of a url, and the values of its secret parameters."""
        return self._in_text(url, _END_IN_URL)

    def text_secrets(self, text: str) -> list[Span]:
        """Likewise for the urls in a text, where a parameter ends before the next space or quote."""
        return self._in_text(text, _END_IN_TEXT)

    def field_secrets(self, name: str, value: str) -> list[Span]:
        """The secrets in a header field."""
        if not self.is_secret(name):
            return self.text_secrets(value)
        if _plain(name) in ("cookie", "setcookie"):
            return _cookie_values(value, attributes=_plain(name) == "setcookie")
        scheme = _SCHEME.match(value)
        return [(scheme.end() if scheme else 0, len(value))]

    def raw_secrets(self, data: bytes) -> list[Span]:
        """The secrets in bytes that may be a head, whole or damaged: header fields, and what is in urls.

        Told leniently: what a line says under a secret name goes on to its LF, and in folded lines.
        """
        text = data.decode("latin-1")
        spans = self.text_secrets(text)
        at = 0
        while named := _RAW_NAME.search(text, at):
            at = named.end()
            name = _NOT_IN_TOKENS.sub("", named[1])
            if self.is_secret(name):
                said = _RAW_VALUE.match(text, at)
                assert said is not None
                spans += [(at + begin, at + end) for begin, end in self.field_secrets(name, said[0].rstrip())]
                at = said.end()
        return spans

    def body_secrets(self, body: bytes, content_type: str) -> list[Span]:
        """The string values of secret JSON members, also in the JSON of its strings, and the secret fields of a form."""
        spans = [(piece.begin, piece.end) for piece in Members(self).feed(body)]
        body = _painted(body, spans)
        return spans + self.nested_secrets(body) + self.form_secrets(body, content_type)

    def nested_secrets(self, body: bytes) -> list[Span]:
        """The string values of secret members where a string of a JSON body is JSON, as the arguments of a tool are."""
        spans: list[Span] = []
        at = 0 if b'\\"' in body else len(body)
        while opening := _NESTED.search(body, at):
            rest = _REST_OF_VALUE.match(body, opening.end())
            assert rest is not None
            at = rest.end()
            spans += [
                member.span(2)
                for member in _NESTED_MEMBER.finditer(body, rest.start(), at)
                if member[2] and self.is_secret_throughout(member[1].decode("utf-8", "replace"))
            ]
        return spans

    def number_secrets(self, body: bytes) -> list[Span]:
        """The numbers under secret names in a JSON body; a placeholder has only ones as digits, so that it stays one."""
        return [
            member.span(2)
            for member in _NUMBER.finditer(body)
            if _NO_PLACEHOLDER.search(member[2]) and self.is_secret_member(member[1], throughout=True)
        ]

    def form_secrets(self, body: bytes, content_type: str) -> list[Span]:
        """The secret fields of a form; none where it is none."""
        if "x-www-form-urlencoded" in content_type.lower():
            return self._parameters(body.decode("latin-1"), _END_IN_URL)
        spans: list[Span] = []
        if "form-data" in content_type.lower():
            at = 0
            while part := _FORM_PART.search(body, at):
                at = part.end()
                names = _FORM_NAME.findall(part[1])
                if any([self.is_secret(name.decode("utf-8", "replace")) for name in names]):
                    begin = body.find(_END_OF_FIELDS, at)
                    if begin < 0:
                        break
                    begin += len(_END_OF_FIELDS)
                    at = body.find(b"\r\n--", begin)
                    at = len(body) if at < 0 else at
                    spans.append((begin, at))
        return spans

    def is_secret_member(self, name: bytes, *, throughout: bool = False) -> bool:
        """Whether the value of the JSON member with this name, as it stands between its quotes, is a secret."""
        if len(name) > LONGEST_NAME:
            return False
        text = name.decode("utf-8", "replace")
        if "\\" in text:
            text = json.loads(f'"{text}"', strict=False)
        return self.is_secret_throughout(text) if throughout else self.is_secret(text)

    def are_harmless(self, names: Collection[bytes]) -> bool:
        """Whether no member with one of these names is a secret; quick where all are known, as in long streams."""
        if not self._harmless.issuperset(names):
            if any([self.is_secret_member(name) for name in names]):
                return False
            if len(self._harmless) < 1000:
                self._harmless.update(names)
        return True

    def _in_text(self, text: str, until: re.Pattern[str]) -> list[Span]:
        if "=" not in text and "@" not in text:  # as in most
            return []
        spans = [match.span() for match in _USERINFO.finditer(text)] if "@" in text else []
        return spans + self._parameters(_blanked(text, spans, []), until)

    def _parameters(self, text: str, until: re.Pattern[str]) -> list[Span]:
        spans: list[Span] = []
        if "=" in text:
            done = 0
            for match in _PARAMETER.finditer(text):
                if match.start() >= done and self.is_secret(unquote_plus(match[1])):
                    end = until.search(text, match.end())
                    assert end is not None
                    done = end.start()
                    spans.append((match.end(), done))
        return spans


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
        return _painted(data, self.spans(data))

    def blank_text(self, text: str) -> str:
        """Likewise for text."""
        try:
            return self.blank(text.encode("latin-1")).decode("latin-1")
        except UnicodeEncodeError:
            data = text.encode("utf-8", "surrogatepass")
            whole = [_whole_characters(data, span) for span in self.spans(data)]
            return _painted(data, whole).decode("utf-8", "surrogatepass")

    def blank_headers(self, headers: Iterable[tuple[str, str]]) -> Headers:
        """Likewise for the values of header fields."""
        return Headers([(name, self.blank_text(value)) for name, value in headers])


NO_SECRETS = Secrets()

Searched: TypeAlias = "tuple[re.Pattern[bytes], tuple[bytes, ...]]"
"""A pattern, and what stands in all that it matches: one of these, where there are any. Saves most searches."""

_UNMISTAKABLE = re.compile(r"(?=.*[A-Za-z])(?=.*[0-9])[!#-\[\]-~]{16,}")

_MAX_REMEMBERED = 200
"""Characters of the value of a header field, up to which it is known again."""

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


class Members:
    """Where the string values of secret JSON members are in text that comes in pieces. Holds nothing back.

    Strings in lists, and in objects but for `AMBIGUOUS_NAMES`, are such values, too, each a value of its own. What is in
    none or breaks the rules of JSON ends the list.

    An answer's `content_type` tells whether there is JSON in it: where it says that it is JSON, an event stream, a script
    or a page, or where the text begins as JSON does. In other text, in which a model may speak of a key, nothing is found.
    """

    def __init__(self, redaction: Redaction, content_type: str = "json") -> None:
        self.idle = False
        """Nothing will be found any more, as this is no JSON."""
        self._redaction = redaction
        self._sure = bool(_HAS_MEMBERS.search(content_type))
        self._tail = b""  # what may become the name of a member
        self._inside = -1  # how many bytes of a secret value came
        self._escaped = False  # the next byte of it
        self._name = b""
        self._around: list[bytes] = []  # the brackets of the list or object of secrets
        self._throughout = False  # with the objects in it
        self._named = True  # the next string there is a value
        self._skips = False  # within a name there
        self._first: bytes | None = b""  # the first name in it, as far as it came; None once that is known

    @property
    def inside(self) -> bool:
        """Whether a secret value goes on in the next piece."""
        return self._inside >= 0

    def feed(self, data: bytes) -> list[Piece]:
        """The parts of secret values in this data."""
        found: list[Piece] = []
        if not self._sure and (begun := data.lstrip(_BEFORE_JSON)):
            self._sure = True
            self.idle = begun[:1] not in (b"{", b"[")
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
                    elif self._open(text[at : at + 1]):
                        at = before + self._go_through(data, at + 1 - before, found)
                    if self._inside >= 0 or self._around:
                        self._tail = b""
                        return found
        self._tail = _unfinished(text, at)
        return found

    def _open(self, bracket: bytes) -> bool:
        self._throughout = self._redaction.is_secret_member(self._name, throughout=True)
        if bracket == b"{" and not self._throughout:
            return False
        self._around.append(bracket)
        self._named = bracket == b"["
        self._first = b"" if bracket == b"{" else None
        return True

    def _go_through(self, data: bytes, at: int, found: list[Piece]) -> int:
        """On within a list or an object of secrets; gives where it ends, or the data does."""
        while self._around:
            if self._skips:
                rest = _REST_OF_VALUE.match(data, at + (self._escaped and at < len(data)))
                assert rest is not None
                if self._first is not None:
                    self._first += data[at : min(rest.end(), at + _LONGEST_SCHEMA_NAME + 1)]
                    if len(self._first) > _LONGEST_SCHEMA_NAME:
                        self._first = None
                at = rest.end()
                self._escaped = data[at:] == b"\\" or (self._escaped and not data)
                if at + self._escaped >= len(data):
                    return len(data)
                self._skips = False
                at += 1
                if self._first in _SCHEMA_NAMES:
                    self._around.clear()
                    return at
                self._first = None
            between = _STRUCTURE.match(data, at)
            assert between is not None
            if b":" in between[0] or b"," in between[0]:
                last = max(between[0].rfind(b":"), between[0].rfind(b","))
                self._named = self._around[-1] == b"[" or between[0][last : last + 1] == b":"
            at = between.end()
            if at == len(data):
                return at
            sign = data[at : at + 1]
            if sign == b'"' and self._named:
                self._inside = 0
                at = self._go_on(data, at + 1, found) + 1
                if self._inside >= 0:
                    return at
            elif sign == b'"':
                self._skips = True
                at += 1
            elif sign in (b"{", b"[") and len(self._around) < _DEEPEST and (sign == b"[" or self._throughout):
                self._around.append(sign)
                self._named = sign == b"["
                at += 1
            elif sign in (b"]", b"}") and (self._around.pop() == b"[") == (sign == b"]"):
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
            parts[begin:end] = _placeholder(end - begin, at).encode()
        return bytes(parts)

    def _go_on(self, data: bytes, begin: int, found: list[Piece]) -> int:
        end = begin
        if self._escaped and data:
            self._escaped = False
            end += 1
        rest = _REST_OF_VALUE.match(data, end)
        assert rest is not None
        end = rest.end()
        if end == len(data) - 1 and data.endswith(b"\\"):
            self._escaped = True
            end += 1
        if end > begin:
            found.append(Piece(begin, end, self._inside, self._name))
        self._inside = self._inside + end - begin if end == len(data) else -1
        return end


class BlankedReply:
    """An answer on its way to a file: `write` gets each chunk without the secrets, also those split over several.

    Under their names secrets are looked for in the head, and in JSON, as `Members` tells; these are blanked out at once.
    What is the beginning of a value waits for the next chunk; where there are patterns, all does that may be the beginning
    of a match, by which the file then lags behind, and by the chunks that these bytes are in. Sizes, boundaries and moments
    stay. Safe between threads.
    """

    def __init__(self, redaction: Redaction, secrets: Secrets, write: Callable[[bytes, float], None]) -> None:
        self._redaction = redaction
        self._secrets = secrets
        self._write = write
        self._plain = False  # nothing to look for, from here on
        self._headed = False
        self._members = Members(redaction, "")
        self._search: Search | None = None
        self._begin = 0  # of the first chunk that waits
        self._waiting: list[tuple[bytes, float]] = []
        self._spans: list[Span] = []
        self._lock = threading.Lock()

    def head(self, reason: str, headers: Headers) -> tuple[str, Headers]:
        """The head came: its reason and header fields without the secrets; those are looked for in what follows."""
        self._headed = True
        self._members = Members(self._redaction, headers.get("content-type", ""))
        found: list[str] = []
        headers = self._redaction._blanked_headers(headers, found)
        is_text = isinstance(reason, str)  # else the journal refuses it, without hurting the reader
        if is_text:
            reason = _blanked(reason, self._redaction.text_secrets(reason), found)
        if found:
            self._secrets = self._secrets.and_also(found)
        if self._secrets:
            headers = self._secrets.blank_headers(headers)
            if is_text:
                reason = self._secrets.blank_text(reason)
        if self._redaction.edit_headers is not None:
            headers = _checked_headers("edit_headers", self._redaction.edit_headers(headers))
        return reason, headers

    def chunk(self, data: bytes, at: float) -> None:
        """A chunk came."""
        if self._plain:
            self._write(data, at)
            return
        with self._lock:
            data = self._members.blank(data)
            if self._secrets:
                self._waiting.append((data, at))
                self._pass_on(data)
            else:
                self._plain = self._members.idle
                self._write(data, at)

    def finish(self, data: bytes = b"", *, complete: bool = False) -> bytes:
        """No chunk comes any more; `data` came raw after the last one, and is given without the secrets.

        It is the rest of a body, in which the sizes of chunks are passed over. Where no head came, or the body is
        `complete`, it may be a head, and anything may follow: then its lines are also looked at as header fields. What
        is not `complete` may break off within a secret: its beginning is blanked out, too.
        """
        with self._lock:
            if data and (complete or not self._headed):
                data = self._without_fields(data)
            frames = [match.span() for match in _FRAME.finditer(data)] if data else []
            body = self._members.blank(_between(data, frames))
            if self._secrets:
                self._pass_on(body, last=True, breaks_off=not complete)
                body = _painted(body, self._spans, self._begin)
            return _put_back(body, data, frames)

    def _without_fields(self, data: bytes) -> bytes:
        found: list[str] = []
        text = _blanked(data.decode("latin-1"), _apart(self._redaction.raw_secrets(data)), found)
        if self._search is None and found:
            self._secrets = self._secrets.and_also(found)
        self._members = Members(self._redaction)
        return text.encode("latin-1")

    def text(self, text: str) -> str:
        """What is said of it, such as an error, without the secrets."""
        return self._secrets.blank_text(self._redaction.redact_text(text))

    def _pass_on(self, data: bytes, *, last: bool = False, breaks_off: bool = False) -> None:
        if self._search is None:
            secrets = self._secrets
            begun = secrets.begun if secrets.are_values else None
            self._search = Search(secrets.searched, secrets.longest, step=secrets.step, begun=begun)
        if breaks_off:
            waiting = b"".join([*[chunk for chunk, _ in self._waiting], data])
            first = self._secrets.begun(waiting)
            if len(waiting) - first >= SHORTEST:
                self._spans.append((self._begin + first, self._begin + len(waiting)))
        for _, offset, match in self._search.feed(data, last=last):
            begin, end = span_of(match)
            self._spans.append((offset + begin, offset + end))
        passed = 0
        for waiting, at in self._waiting:
            end = self._begin + len(waiting)
            if end > self._search.settled:
                break
            self._write(_painted(waiting, self._spans, self._begin), at)
            self._begin = end
            passed += 1
        del self._waiting[:passed]
        if passed and self._spans:
            self._spans = [span for span in self._spans if span[1] > self._begin]


def is_secret(name: str) -> bool:
    """`Redaction.is_secret` of the default."""
    return DEFAULT.is_secret(name)


def redact_request(request: Request) -> Request:
    """`Redaction.redact_request` of the default."""
    return DEFAULT.redact_request(request)


def redact_headers(headers: Iterable[tuple[str, str]]) -> Headers:
    """`Redaction.redact_headers` of the default."""
    return DEFAULT.redact_headers(headers)


def redact_text(text: str) -> str:
    """`Redaction.redact_text` of the default."""
    return DEFAULT.redact_text(text)


def span_of(match: re.Match[bytes]) -> Span:
    """What a match of a user's pattern blanks out: its first group where that took part, else all of it."""
    return match.span(1) if match.re.groups and match.start(1) >= 0 else match.span()


def is_placeholder(text: str | bytes, at: int = 0) -> bool:
    """Whether this stands where a secret was, or for what begins `at` so many bytes of one."""
    blank = _placeholder(len(text), at)
    return text == (blank if isinstance(text, str) else blank.encode())


def placeholder(length: int) -> bytes:
    """What stands where a secret of so many bytes was."""
    return _placeholder(length).encode()


def _placeholder(length: int, at: int = 0) -> str:
    at %= len(_PLACEHOLDER)
    return (_PLACEHOLDER * ((at + length) // len(_PLACEHOLDER) + 1))[at : at + length]


def _note(secret: str, found: list[str]) -> None:
    found.append(secret)
    found += _VALUE.findall(secret)


def _blanked(text: str, spans: Sequence[Span], found: list[str]) -> str:
    """The text without these spans, each of which is added to `found`, as are the values in it."""
    if not spans:
        return text
    parts: list[str] = []
    done = 0
    for begin, end in sorted(spans):
        _note(text[begin:end], found)
        parts += text[done:begin], _placeholder(end - begin)
        done = end
    return "".join([*parts, text[done:]])


def _painted(data: bytes, spans: Sequence[Span], begin: int = 0) -> bytes:
    """The data without these spans, which may overlap; `begin` is where it begins in what they count from."""
    if not spans:
        return data
    parts = bytearray(data)
    end = begin + len(data)
    # Where two overlap, that which begins first has the last word.
    for first, last in sorted(spans, reverse=True):
        one, other = max(first, begin), min(last, end)
        if one < other:
            parts[one - begin : other - begin] = _placeholder(other - one, one - first).encode()
    return bytes(parts)


def _between(data: bytes, spans: Sequence[Span]) -> bytes:
    """The data without these spans, which are in order and apart."""
    ends = [0, *[end for _, end in spans]]
    begins = [*[begin for begin, _ in spans], len(data)]
    return b"".join([data[end:begin] for end, begin in zip(ends, begins, strict=True)])


def _gaps(spans: Sequence[Span], length: int) -> list[Span]:
    """What is between these spans, which are in order and apart, before them and after."""
    return list(zip([0, *[end for _, end in spans]], [*[begin for begin, _ in spans], length], strict=True))


def _put_back(rest: bytes, data: bytes, spans: Sequence[Span]) -> bytes:
    """What `_between` gave, or something as long, with these spans of the data in it again."""
    parts: list[bytes] = []
    taken = done = 0
    for begin, end in spans:
        parts += rest[taken : taken + begin - done], data[begin:end]
        taken += begin - done
        done = end
    return b"".join([*parts, rest[taken:]])


def _apart(spans: Iterable[Span]) -> list[Span]:
    """The spans, those that overlap as one."""
    apart: list[Span] = []
    for begin, end in sorted(spans):
        if apart and begin < apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
        else:
            apart.append((begin, end))
    return apart


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


def _cookie_values(field: str, *, attributes: bool) -> list[Span]:
    spans = []
    begin = 0
    for n, part in enumerate(field.split(";")):
        if not (attributes and n and _ATTRIBUTE.fullmatch(part)):
            named = _COOKIE.match(part)
            assert named is not None
            spans.append((begin + named.end(), begin + max(named.end(), len(part.rstrip()))))
        begin += len(part) + 1
    return spans


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


def _plain(name: str) -> str:
    return name.lower().translate(_IGNORED)


def _listed(what: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes, re.Pattern)):
        raise TypeError(f"{what} takes a list, such as {what}=[{value!r:.60}], but got {value!r:.60}")
    try:
        return tuple(cast("Iterable[Any]", value))
    except TypeError:
        raise TypeError(f"{what} takes a list, but got {value!r:.60}") from None


def _checked_names(what: str, names: object) -> tuple[str, ...]:
    listed = _listed(what, names)
    for name in listed:
        if not isinstance(name, str):
            raise TypeError(f"{what} takes names, such as 'x-tenant', but got {name!r:.60}")
        if not 0 < len(name) <= 60 or not _plain(name) or _NOT_IN_NAMES.search(name):
            raise ValueError(
                f'a name has 1 to 60 characters, one of them a letter or digit, and no spaces or any of "\\,:{{}}=&;?#<>/ '
                f"(patterns find what has no name), but {what} has {name!r:.80}"
            )
    return listed


_NOT_IN_NAMES = re.compile(r"[\s\"\\,:{}=&;?#<>/\x00-\x1f]")


def _checked_pattern(pattern: object) -> re.Pattern[bytes]:
    flags = 0
    source = pattern
    if isinstance(pattern, re.Pattern):
        source, flags = pattern.pattern, pattern.flags & ~re.UNICODE
    if isinstance(source, str):
        if not source.isascii():
            raise ValueError(
                f"patterns are searched in bytes: give {source!r:.60} as those of its UTF-8, {source.encode()!r:.90}"
            )
        source = source.encode()
    if not isinstance(source, bytes):
        raise TypeError(
            f"patterns takes regular expressions, such as r'account (\\d+)', but got {pattern!r:.60}"
        )
    try:
        compiled = re.compile(source, flags)
    except (re.error, ValueError, OverflowError) as error:
        raise ValueError(f"patterns has {pattern!r:.60}, which is no regular expression: {error}") from error
    if compiled.search(b""):
        raise ValueError(f"patterns has {pattern!r:.60}, which finds nothing at all, everywhere: use + for *")
    return compiled


def _checked_request(request: object) -> Request:
    if not (
        isinstance(request, Request)
        and isinstance(request.method, str)
        and isinstance(request.url, str)
        and isinstance(request.body, bytes)
    ):
        raise TypeError(
            f"edit_request gives a Request of text, Headers and bytes, but it gave {request!r:.80}"
        )
    return request._replace(headers=_checked_headers("edit_request", request.headers))


def _checked_headers(what: str, headers: object) -> Headers:
    with suppress(TypeError, ValueError):
        fields = Headers(cast("Iterable[tuple[str, str]]", headers))
        if all([isinstance(name, str) and isinstance(value, str) for name, value in fields]):
            return fields
    raise TypeError(f"{what} gives Headers, which are pairs of text, but it gave {headers!r:.80}")


DEFAULT = Redaction()
"""What is redacted unless someone says otherwise."""
