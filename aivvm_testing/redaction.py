"""What never reaches a file: secrets, by the name they go under, and from then on by their value; and what a user adds.

`Redaction` is the policy, and its default is what every tap does unless told otherwise. Every placeholder is as long
as its secret, so that lengths and boundaries stay true, and redacting twice changes nothing more: a matcher redacts
the incoming request by the same rules and compares it with a recorded one. Names are compared without case, hyphens,
underscores, dots and brackets. Nothing here parses a body (what is not quite JSON keeps its form and still loses its
secrets), holds more of an answer than a match is long, or decides when to redact: taps do, before they write. How secrets
are found in pieces of data, and blanked out, is `blanking`'s.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, TypeAlias, cast
from urllib.parse import unquote_plus

from aivvm.transport import Headers, Request
from aivvm_testing.blanking import (
    LONGEST_NAME,
    MEMBER_NAME,
    NO_JSON,
    NO_SECRETS,
    REST_OF_VALUE,
    SHORTEST,
    Members,
    Search,
    Secrets,
    Span,
    has_members,
    painted,
    placeholder,
    span_of,
)

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

_SETTLING = 8
"""So often patterns are searched again in a request until they find nothing new beside their own placeholders."""

AnyPattern: TypeAlias = "str | bytes | re.Pattern[str] | re.Pattern[bytes]"

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

# Of a request: numbers, and JSON that is in a string of JSON.
_BEFORE_NUMBER = re.compile(rb":\s*-?[0-9]")
_NUMBER = re.compile(rb'"(' + MEMBER_NAME + rb')"\s*:\s*(-?[0-9][0-9.eE+-]*)')
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
    _plain_heads: dict[tuple[str, Headers], str] = field(init=False, repr=False, compare=False)

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
        become("_plain_heads", {})
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
            body = painted(body, spans)
            if numbers := self.number_secrets(body):
                found += [body[begin:end].decode() for begin, end in numbers]
                ones = b"".join([_DIGIT.sub(b"1", body[begin:end]) for begin, end in numbers])
                body = _put_back(ones, body, _gaps(numbers, len(body)))
        if ("=" in url or "@" in url) and (in_url := self.url_secrets(url)):
            url = _blanked(url, in_url, found)
        headers = self._blanked_headers(headers, found)
        secrets = Secrets(found, self.compiled) if found or self.patterns else NO_SECRETS
        redacted = Request(method, url, headers, body)
        if secrets.searched:
            redacted = secrets.blank_request(redacted)
            for _ in range(_SETTLING if self.patterns else 0):
                redacted, before = secrets.blank_request(redacted), redacted
                if redacted == before:
                    break
        if self.edit_request is not None:
            redacted = _checked_request(self.edit_request(redacted))
        return redacted, secrets

    # Answers

    def redact_reply(
        self,
        secrets: Secrets,
        write: Callable[[bytes, float], None],
        lock: AbstractContextManager[object] | None = None,
    ) -> BlankedReply:
        """The answer to the request that had these secrets, on its way to a file: `write` is told each chunk.

        `lock`, which may be taken again within itself, is held meanwhile; whoever holds it already may tell of the answer.
        """
        return BlankedReply(self, secrets, write, lock)

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
        return Headers(blanked) if found or not isinstance(headers, Headers) else headers

    def _remember_plain(self, reason: str, headers: Headers, content_type: str) -> None:
        if len(reason) + sum([len(name) + len(value) for name, value in headers]) <= _MAX_HEAD_REMEMBERED:
            if len(self._plain_heads) >= _MOST_HEADS_REMEMBERED:
                self._plain_heads.clear()
            self._plain_heads[reason, headers] = content_type

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
        body = painted(body, spans)
        return spans + self.nested_secrets(body) + self.form_secrets(body, content_type)

    def nested_secrets(self, body: bytes) -> list[Span]:
        """The string values of secret members where a string of a JSON body is JSON, as the arguments of a tool are."""
        spans: list[Span] = []
        at = 0 if b'\\"' in body else len(body)
        while opening := _NESTED.search(body, at):
            rest = REST_OF_VALUE.match(body, opening.end())
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
        if not _BEFORE_NUMBER.search(body):  # ten times as quick as to look at every name
            return []
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


_MAX_REMEMBERED = 200
"""Characters of the value of a header field, up to which it is known again."""

_MAX_HEAD_REMEMBERED = 2048
"""Likewise of a reason and all fields."""

_MOST_HEADS_REMEMBERED = 64


class BlankedReply:
    """An answer on its way to a file: `write` gets each chunk without the secrets, also those split over several.

    Under their names secrets are looked for in the head, and in JSON, as `Members` tells; these are blanked out at once.
    What is the beginning of a value waits for the next chunk; where there are patterns, all does that may be the beginning
    of a match, by which the file then lags behind, and by the chunks that these bytes are in. Sizes, boundaries and moments
    stay. Safe between threads.
    """

    def __init__(
        self,
        redaction: Redaction,
        secrets: Secrets,
        write: Callable[[bytes, float], None],
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self._redaction = redaction
        self._secrets = secrets
        self._write = write
        self._plain = False  # nothing to look for, from here on
        self._headed = False
        self._content_type = ""
        self._members: Members | None = None  # of the body, once there is one
        self._search: Search | None = None
        self._begin = 0  # of the first chunk that waits
        self._waiting: list[tuple[bytes, float]] = []
        self._spans: list[Span] = []
        self._lock = threading.RLock() if lock is None else lock

    def head(self, reason: str, headers: Headers) -> tuple[str, Headers]:
        """The head came: its reason and header fields without the secrets; those are looked for in what follows."""
        self._headed = True
        if not isinstance(headers, Headers):  # of somebody else's transport
            headers = Headers(headers)
        is_text = isinstance(reason, str)  # else the journal refuses it, without hurting the reader
        policy = self._redaction
        may_be_plain = is_text and not self._secrets.searched and policy.edit_headers is None
        known = policy._plain_heads.get((reason, headers)) if may_be_plain else None
        if known is not None:
            self._content_type = known
            return reason, headers
        content_type = headers.get("content-type", "")
        self._content_type = content_type if isinstance(content_type, str) else ""  # likewise
        found: list[str] = []
        blanked = policy._blanked_headers(headers, found)
        if is_text:
            reason = _blanked(reason, policy.text_secrets(reason), found)
        if found:
            self._secrets = self._secrets.and_also(found)
        elif may_be_plain:
            policy._remember_plain(reason, headers, self._content_type)
        if self._secrets:
            blanked = self._secrets.blank_headers(blanked)
            if is_text:
                reason = self._secrets.blank_text(reason)
        if policy.edit_headers is not None:
            blanked = _checked_headers("edit_headers", policy.edit_headers(blanked))
        return reason, blanked

    def chunk(self, data: bytes, at: float) -> None:
        """A chunk came."""
        if self._plain:
            self._write(data, at)
            return
        members = self._members
        if members is None:
            if not (self._secrets.searched or has_members(self._content_type)) and NO_JSON.match(data):
                self._plain = True
                self._write(data, at)
                return
            members = self._members = Members(self._redaction, self._content_type)
        with self._lock:
            data = members.blank(data)
            if self._secrets:
                self._waiting.append((data, at))
                self._pass_on(data)
            else:
                self._plain = members.idle
                self._write(data, at)

    def finish(self, data: bytes = b"", *, complete: bool = False) -> bytes:
        """No chunk comes any more; `data` came raw after the last one, and is given without the secrets.

        It is the rest of a body, in which the sizes of chunks are passed over. Where no head came, or the body is
        `complete`, it may be a head, and anything may follow: then its lines are also looked at as header fields. What
        is not `complete` may break off within a secret: its beginning is blanked out, too.
        """
        if not data and not self._secrets:
            return data
        with self._lock:
            if data and (complete or not self._headed):
                data = self._without_fields(data)
            frames = [match.span() for match in _FRAME.finditer(data)] if data else []
            members = self._members = self._members or Members(self._redaction, self._content_type)
            body = members.blank(_between(data, frames))
            if self._secrets:
                self._pass_on(body, last=True, breaks_off=not complete)
                body = painted(body, self._spans, self._begin)
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
            self._write(painted(waiting, self._spans, self._begin), at)
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
        parts += text[done:begin], placeholder(end - begin)
        done = end
    return "".join([*parts, text[done:]])


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
