"""The seam between the provider and the network: one method, three nouns. Knows no HTTP library.

A transport is any object with `send(request, *, timeout) -> Response`. It raises `ConnectFailed`, `TimedOut` or
`Interrupted`, from `send` or from the response's iteration, and nothing else. It sends one request and gives one
answer: it follows no redirects and repeats nothing.

This is a complete fake:

    class Canned:
        def send(self, request, *, timeout):
            return Response(200, "OK", Headers(), [b"Hello"])
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, overload

Timeout: TypeAlias = "float | tuple[float | None, float | None] | None"
"""Seconds: one figure for both, or a pair (connect, read); None waits for ever. A read timeout is a gap between
two reads, not a bound on the whole answer."""

DEFAULT_TIMEOUT = (10.0, 120.0)
"""Connect and read, in seconds. A real server was silent for 75 s and then answered."""


class Headers(tuple[tuple[str, str], ...]):
    """Header fields as they were sent: pairs, with case, order and duplicates kept; equal and hashed as a tuple."""

    __slots__ = ()

    def __new__(cls, fields: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> Headers:
        if type(fields) is cls:
            return fields
        pairs = fields.items() if isinstance(fields, Mapping) else fields
        return super().__new__(cls, tuple([(name, value) for name, value in pairs]))

    @overload
    def get(self, name: str) -> str | None: ...

    @overload
    def get(self, name: str, default: str) -> str: ...

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value under `name` in whatever case, else `default`."""
        wanted = name.lower()
        for key, value in self:
            if key.lower() == wanted:
                return value
        return default

    def get_all(self, name: str) -> list[str]:
        """Every value under `name` in whatever case, in order."""
        wanted = name.lower()
        return [value for key, value in self if key.lower() == wanted]

    def without(self, *names: str) -> Headers:
        """The same fields less those called one of `names`, in whatever case."""
        unwanted = {name.lower() for name in names}
        return Headers(pair for pair in self if pair[0].lower() not in unwanted)

    def __repr__(self) -> str:
        return f"Headers({list(self)!r})"


class Request(NamedTuple):
    """One HTTP request, whole. `url` is absolute; `body` is sent as it is."""

    method: str
    url: str
    headers: Headers = Headers()
    body: bytes = b""

    def json(self) -> Any:
        """The body as JSON; raises `ValueError` where it is none."""
        return json.loads(self.body)


class Response:
    """The head of an answer, and its body as an iterator of chunks.

    Iterating gives each chunk when it arrives, with the content-coding undone; `headers` are as they were received.
    Whoever called `send` closes the response; closing it twice is harmless, and iterating it after that ends at once.
    One thread at a time may iterate it.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Headers,
        chunks: Iterable[bytes],
        close: Callable[[], object] | None = None,
    ) -> None:
        if isinstance(chunks, (str, bytes, bytearray)):
            raise TypeError(f"chunks is an iterable of bytes, such as [b'Hello'], but got {chunks!r:.60}")
        self.status = status
        self.reason = reason
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self._chunks = iter(chunks)
        self._close = close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        """Lets go of the connection. What was not read is lost."""
        self._chunks = iter(())
        close, self._close = self._close, None
        if close is not None:
            close()

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Transport(Protocol):
    """Whatever carries a request to a peer and brings back the answer."""

    def send(self, request: Request, *, timeout: Timeout) -> Response:
        """Sends the request and returns when the head of the answer is there."""
        ...
