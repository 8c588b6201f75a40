"""What never reaches a file: pure functions that blank secrets out, by the name they go under.

Every placeholder is as long as its secret, so that lengths and boundaries stay true, and redacting twice changes
nothing more: a matcher redacts the incoming request by the same rules and compares it with a recorded one. Names
are compared without case, hyphens, underscores and dots. Nothing here parses a body (what is not quite JSON keeps
its form and still loses its secrets), and nothing decides when to redact: taps do, before they write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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
_PLACEHOLDER = "REDACTED"

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

    In a body these are the string values of JSON members at any depth, and the fields of a form.
    """
    method, url, headers, body = request
    if body:
        body = _MEMBER.sub(_redacted_member, body)
        if "x-www-form-urlencoded" in (headers.get("content-type") or "").lower():
            body = _redact_parameters(body.decode("latin-1"), _END_IN_URL).encode("latin-1")
    url = _redact_parameters(_redact_userinfo(url), _END_IN_URL)
    return Request(method, url, redact_headers(headers), body)


def redact_headers(headers: Iterable[tuple[str, str]]) -> Headers:
    """The fields with the secret ones blanked out; the scheme of an authorization stays readable."""
    return Headers(
        [(name, _redacted_field(value) if is_secret(name) else redact_text(value)) for name, value in headers]
    )


def redact_text(text: str) -> str:
    """The text, such as an error about a url, without user names, passwords and secret query parameters."""
    return _redact_parameters(_redact_userinfo(text), _END_IN_TEXT)


def _redact_userinfo(text: str) -> str:
    return _USERINFO.sub(lambda match: _placeholder(match[0]), text) if "@" in text else text


def _redact_parameters(text: str, until: re.Pattern[str]) -> str:
    if "=" not in text:
        return text
    parts: list[str] = []
    done = 0
    for match in _PARAMETER.finditer(text):
        if match.start() >= done and is_secret(unquote_plus(match[1])):
            end = until.search(text, match.end())
            assert end is not None
            parts += text[done : match.end()], _placeholder(text[match.end() : end.start()])
            done = end.start()
    return "".join([*parts, text[done:]])


def _redacted_field(value: str) -> str:
    scheme = _SCHEME.match(value)
    kept = scheme.end() if scheme else 0
    return value[:kept] + _placeholder(value[kept:])


def _redacted_member(match: re.Match[bytes]) -> bytes:
    if not is_secret(match[2].decode("ascii")):
        return match[0]
    before, _, value = match.groups()
    return before + _placeholder(value.decode("latin-1")).encode("ascii")


def _placeholder(secret: str) -> str:
    return (_PLACEHOLDER * (len(secret) // len(_PLACEHOLDER) + 1))[: len(secret)]
