"""What a server says to browsers about pages of other origins (the Fetch standard, CORS); it knows no sockets.

Credentials are not allowed for.
"""

from __future__ import annotations

import re

from aivvm.transport import Headers, Request
from aivvm_testing.reply import Reply

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?")
_PREFLIGHT_MAX_AGE = "600"


def cors_fields(cors: bool | str) -> Headers:
    """What each answer says to pages of other origins; nothing where that is not asked for."""
    if cors is False:
        return Headers()
    if cors is not True and not (isinstance(cors, str) and _ORIGIN.fullmatch(cors)):
        raise ValueError(f"cors is True, or an origin such as 'http://localhost:3000', but got {cors!r}")
    fields = [
        ("Access-Control-Allow-Origin", "*" if cors is True else cors),
        ("Access-Control-Expose-Headers", "*"),
    ]
    return Headers(fields if cors is True else [*fields, ("Vary", "Origin")])


def preflight(request: Request) -> Reply | None:
    """The answer to a browser that asks whether a page may ask (the Fetch standard, CORS-preflight); None to others."""
    if request.method != "OPTIONS":
        return None
    asked = request.headers.get("access-control-request-method")
    if asked is None or request.headers.get("origin") is None:
        return None
    fields = [("Access-Control-Allow-Methods", asked), ("Access-Control-Max-Age", _PREFLIGHT_MAX_AGE)]
    if names := request.headers.get("access-control-request-headers"):
        fields.append(("Access-Control-Allow-Headers", names))
    if request.headers.get("access-control-request-private-network") == "true":
        fields.append(("Access-Control-Allow-Private-Network", "true"))
    return Reply.of(status=204, headers=Headers(fields))
