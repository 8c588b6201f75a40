"""What never reaches a file: secrets, by the name they go under in a request, and from then on by their value.

Every placeholder is as long as its secret, so that lengths and boundaries stay true, and redacting twice changes
nothing more: a matcher redacts the incoming request by the same rules and compares it with a recorded one. Names
are compared without case, hyphens, underscores and dots. Nothing here parses a body (what is not quite JSON keeps
its form and still loses its secrets), and nothing decides when to redact: taps do, before they write.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from urllib.parse import unquote_plus

from aivvm.transport import Headers, Request

SECRET_NAMES = frozenset(
    {
        "apikey",
        "auth",
        "authorization",
        "bearer",
        "cookie",
        "cookies",
        "credential",
        "credentials",
        "jwt",
        "key",
        "passphrase",
        "passwd",
        "password",
        "proxyauthorization",
        "pwd",
        "secret",
        "session",
        "sessionid",
        "setcookie",
        "sig",
        "signature",
        "token",
    }
)
"""Names whose values are secrets, as they are compared."""

SECRET_SUFFIXES = (
    "accesskey",
    "apikey",
    "authkey",
    "authorization",
    "credential",
    "functionskey",
    "password",
    "privatekey",
    "secret",
    "secretkey",
    "signature",
    "subscriptionkey",
    "token",
)
"""Names that end like this are secret as well: `x-amz-security-token`, `client_secret`."""

# The registered schemes of HTTP authentication, and those that services made up. Another first word may be the secret.
_SCHEME = re.compile(
    r"(?:aws4-hmac-sha256|apikey|api-key|basic|bearer|concealed|digest|dpop|gnap|hoba|key|mutual|negotiate|ntlm|oauth|"
    r"privatetoken|scram-sha-1|scram-sha-256|token|vapid)[ \t]+",
    re.IGNORECASE,
)
_VALUE = re.compile(r"(?<=[=:])[^;,=:\s\"]+(?=[;,\s]|$)")  # in a cookie field, or after a user name
_PLACEHOLDER = "REDACTED"
SHORTEST = 8
LONGEST = 16 * 1024
"""Bytes: shorter values, and longer ones, are redacted under their names alone."""

MOST = 100
"""So many values of one request are looked for in its answer: a hostile one could name any number."""


_USERINFO = re.compile(r"(?<=//)[^/?#\s\"'<>]+(?=@)")
_PARAMETER = re.compile(r"(?:(?<=[?&;#])|^)([^=&;?#\s\"'<>/]+)=")
_END_IN_URL = re.compile(r"[&#]|\Z")
_END_IN_TEXT = re.compile(r"[&#\s\"'<>]|\Z")

# In well-formed JSON a comma, a colon or a bracket lies between any two strings. A name has none of them, so a match
# never begins at the quote that closes a string. The value's own closing quote may be missing, as in a body cut short.
_MEMBER = re.compile(rb'("([A-Za-z0-9_.\-]{1,64})"\s*:\s*")([^"\\]*(?:\\.[^"\\]*)*)', re.DOTALL)


@lru_cache(maxsize=1024)  # every request of a session has the same names
def is_secret(name: str) -> bool:
    """Whether what goes under this name, of a header, a query parameter or a JSON member, is a secret."""
    plain = name.lower().replace("-", "").replace("_", "").replace(".", "")
    return plain in SECRET_NAMES or plain.endswith(SECRET_SUFFIXES)


def redact_request(request: Request) -> Request:
    """The request without the secrets in its url, headers and body.

    In a body these are the string values of JSON members at any depth, and the fields of a form. Wherever else in
    the request one of 8 bytes or more stands, it is blanked out too.
    """
    return redact(request)[0]


def redact(request: Request) -> tuple[Request, Secrets]:
    """The redacted request, and the secrets that were in it, by which its answer is to be redacted."""
    found: list[str] = []

    def blank(secret: str) -> str:
        found.append(secret)
        found.extend(_VALUE.findall(secret))
        return _placeholder(secret)

    method, url, headers, body = request
    if body:
        body = _MEMBER.sub(lambda match: _redacted_member(match, blank), body)
        if "x-www-form-urlencoded" in (headers.get("content-type") or "").lower():
            body = _redact_parameters(body.decode("latin-1"), _END_IN_URL, blank).encode("latin-1")
    url = _redact_parameters(_redact_userinfo(url, blank), _END_IN_URL, blank)
    headers = _redacted_headers(headers, blank)
    secrets = Secrets(found)
    if secrets:
        url, headers, body = secrets.blank_text(url), secrets.blank_headers(headers), secrets.blank(body)
    return Request(method, url, headers, body), secrets


def redact_headers(headers: Iterable[tuple[str, str]]) -> Headers:
    """The fields with the secret ones blanked out; the scheme of an authorization stays readable."""
    return _redacted_headers(headers, _placeholder)


def redact_text(text: str) -> str:
    """The text, such as an error about a url, without user names, passwords and secret query parameters."""
    return _redact_parameters(_redact_userinfo(text, _placeholder), _END_IN_TEXT, _placeholder)


class Secrets:
    """Values that must not reach a file wherever they show up; false where there are none.

    Each is known as it stood, and with the escapes of JSON and of urls undone; cookies and user information by each
    of their values, too. One of fewer than `SHORTEST` bytes is not looked for, as it would be found everywhere, nor one
    of more than `LONGEST`.
    """

    __slots__ = ("_found", "longest")

    def __init__(self, found: Iterable[str]) -> None:
        known = dict.fromkeys(value for text in found if len(text) <= LONGEST for value in _forms(text))
        values = [value for value in known if SHORTEST <= len(value) <= LONGEST][:MOST]
        self.longest = max(map(len, values), default=0)
        longest_first = sorted(values, key=lambda value: (-len(value), value))
        self._found = re.compile(b"|".join(map(re.escape, longest_first))) if values else None

    def __bool__(self) -> bool:
        return self._found is not None

    def blank(self, data: bytes) -> bytes:
        """The data with each secret blanked out, at the same length."""
        if self._found is None:
            return data
        return self._found.sub(lambda match: _placeholder(match[0].decode("latin-1")).encode(), data)

    def blank_text(self, text: str) -> str:
        """Likewise for text."""
        if self._found is None:
            return text
        try:
            return self.blank(text.encode("latin-1")).decode("latin-1")
        except UnicodeEncodeError:
            return self.blank(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def blank_headers(self, headers: Iterable[tuple[str, str]]) -> Headers:
        """Likewise for the values of header fields."""
        return Headers([(name, self.blank_text(value)) for name, value in headers])


class BlankedStream:
    """Chunks on their way to a file: `write` gets each without the secrets, also those split over several.

    What may be the beginning of a secret waits for the next chunk, so the file lags behind by less than the longest
    secret, and by the chunks that these bytes are in. Sizes, boundaries and moments stay. Safe between threads.
    """

    def __init__(self, secrets: Secrets, write: Callable[[bytes, float], None]) -> None:
        self._secrets = secrets
        self._write = write
        self._waiting: list[tuple[bytes, float]] = []
        self._lock = threading.Lock()

    def feed(self, data: bytes, at: float) -> None:
        """A chunk came."""
        with self._lock:
            self._waiting.append((data, at))
            self._pass_on(self._secrets.longest - 1)

    def finish(self) -> None:
        """No chunk comes any more."""
        with self._lock:
            self._pass_on(0)

    def _pass_on(self, kept: int) -> None:
        joined = self._secrets.blank(b"".join([data for data, _ in self._waiting]))
        waiting: list[tuple[bytes, float]] = []
        begin = 0
        for data, at in self._waiting:
            end = begin + len(data)
            if waiting or end > len(joined) - kept:
                waiting.append((joined[begin:end], at))
            else:
                self._write(joined[begin:end], at)
            begin = end
        self._waiting = waiting


def _forms(text: str) -> Iterator[bytes]:
    forms = {text, unquote_plus(text)}
    if "\\" in text:
        with suppress(ValueError):
            plain = json.loads(f'"{text}"')
            if '"' not in plain:  # with a quote in it, it could match across the strings of a JSON body
                forms.add(plain)
    for form in forms:
        for encoding in ("latin-1", "utf-8"):
            with suppress(UnicodeEncodeError):
                yield form.encode(encoding)


def _redacted_headers(headers: Iterable[tuple[str, str]], blank: Callable[[str], str]) -> Headers:
    return Headers(
        [
            (name, _redacted_field(value, blank) if is_secret(name) else redact_text(value))
            for name, value in headers
        ]
    )


def _redact_userinfo(text: str, blank: Callable[[str], str]) -> str:
    return _USERINFO.sub(lambda match: blank(match[0]), text) if "@" in text else text


def _redact_parameters(text: str, until: re.Pattern[str], blank: Callable[[str], str]) -> str:
    if "=" not in text:
        return text
    parts: list[str] = []
    done = 0
    for match in _PARAMETER.finditer(text):
        if match.start() >= done and is_secret(unquote_plus(match[1])):
            end = until.search(text, match.end())
            assert end is not None
            parts += text[done : match.end()], blank(text[match.end() : end.start()])
            done = end.start()
    return "".join([*parts, text[done:]])


def _redacted_field(value: str, blank: Callable[[str], str]) -> str:
    scheme = _SCHEME.match(value)
    kept = scheme.end() if scheme else 0
    return value[:kept] + blank(value[kept:])


def _redacted_member(match: re.Match[bytes], blank: Callable[[str], str]) -> bytes:
    if not is_secret(match[2].decode("ascii")):
        return match[0]
    before, _, value = match.groups()
    return before + blank(value.decode("latin-1")).encode("ascii")


def _placeholder(secret: str) -> str:
    return (_PLACEHOLDER * (len(secret) // len(_PLACEHOLDER) + 1))[: len(secret)]
