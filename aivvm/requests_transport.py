"""Requests over the network with `requests`: the only module that imports it, and only when something is sent.

Owns how bytes travel (connections, proxies, chunks) and which of two libraries' many exceptions is which
`TransportError`. It knows nothing of chats; it repeats nothing, and follows no redirect.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from aivvm.errors import ConnectFailed, Interrupted, InvalidOption, TimedOut, TransportError, shown
from aivvm.transport import DEFAULT_TIMEOUT, Headers, Request, Response, Timeout

if TYPE_CHECKING:
    import requests
    from urllib3.response import HTTPResponse

_LONGEST_READ = 64 * 1024  # bytes of an answer that is not chunked; a read gives what is there, up to this
_LONGEST_CHUNK = 16 * 1024 * 1024  # bytes; a longer HTTP chunk comes in parts, so that memory stays bounded
_INFLATED = frozenset(("gzip", "x-gzip", "deflate"))
_GZIP = b"\x1f\x8b"  # what each member begins with
_MOST_CODINGS = 5  # one within the other, as urllib3 has it


class RequestsTransport:
    """Sends with a `requests.Session`: the caller's own, which is never closed here, or one of its own.

    Whatever the session is set up with (adapters, retries, headers, cookies, proxies, certificates) applies, and so
    do the proxies of the environment; a loopback host is always reached directly. Each chunk of a response is one
    HTTP chunk where the answer is chunked, else what one read gave, as soon as it is there. The content-coding is
    undone: gzip and deflate must come to their own end, else the answer is `Interrupted`, whatever its framing says;
    br and zstd are left to urllib3, which reports that the end of zstd is missing, but not that of br.

    `close`, or leaving the context, closes the transport's own session; a later `send` begins another. It may be
    shared between threads as far as its session may. Raises `InvalidOption` for a session that is none.
    """

    def __init__(self, session: requests.Session | None = None) -> None:
        if session is not None and not hasattr(session, "merge_environment_settings"):
            raise InvalidOption(f"session must be a requests.Session, but got {shown(session)}")
        self._given = session
        self._own: requests.Session | None = None
        self._lock = threading.Lock()

    def send(self, request: Request, *, timeout: Timeout = DEFAULT_TIMEOUT) -> Response:
        """Sends the request; returns when the head of the answer is there. A redirect is an answer like others.

        Raises `ConnectFailed`, `TimedOut` or `Interrupted`, here and while the response is iterated.
        """
        import requests

        session = self._session()
        try:
            fields = _by_name(request.headers)
            prepared = session.prepare_request(
                requests.Request(request.method, request.url, headers=fields, data=request.body)
            )
            prepared.headers.update(fields)  # preparing changes the case of some
            prepared.hooks["response"].append(_hide_redirect)
            settings = session.merge_environment_settings(prepared.url, {}, True, None, None)
            if _is_loopback(prepared.url):
                settings["proxies"] = {}
            answer = session.send(prepared, timeout=timeout, allow_redirects=False, **settings)
            headers = _received(answer)
        except Exception as error:
            failure = _failure(error, request.url, timeout, answered=False)
            if failure is None:
                raise
            raise failure from error
        return Response(
            answer.status_code,
            answer.reason or "",
            headers,
            _chunks(answer, request.url, timeout),
            answer.close if answer.raw is not None else None,
        )

    def close(self) -> None:
        """Closes the connections of the transport's own session. Closing twice is harmless."""
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            own.close()

    def __enter__(self) -> RequestsTransport:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _session(self) -> requests.Session:
        import requests

        if self._given is not None:
            return self._given
        with self._lock:
            if self._own is None:
                self._own = requests.Session()
            return self._own


def _by_name(headers: Headers) -> dict[str, str]:
    """A field per name, as `requests` has it: the values of a repeated one are joined (RFC 9110, 5.3)."""
    return {name: ", ".join(headers.get_all(name)) for name, _ in headers}


def _hide_redirect(answer: requests.Response, **_: object) -> None:
    # Told not to follow a redirect, requests still reads its whole body, endless or not, and parses where it leads.
    answer.headers.pop("location", None)


def _is_loopback(url: str | None) -> bool:
    from ipaddress import ip_address
    from urllib.parse import urlsplit

    host = (urlsplit(url or "").hostname or "").removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _received(answer: requests.Response) -> Headers:
    """The fields as they came; from the parser itself where there is one, as later layers merge and reorder them.

    Raises `HTTPException` where the head breaks off or has a line that is no field: `http.client` takes what follows
    for the body, so that the rest of a head, or nothing, would pass for an answer. A status below 200 only announces an
    answer, and where `http.client` takes it for one, none is to be had.
    """
    from email.errors import MissingHeaderBodySeparatorDefect
    from email.message import Message
    from http.client import HTTPException

    if answer.status_code < 200:
        answer.close()
        raise HTTPException(f"status {answer.status_code}, which only announces an answer")
    parsed = getattr(getattr(answer.raw, "_original_response", None), "msg", None)
    if isinstance(parsed, Message):
        if any(isinstance(defect, MissingHeaderBodySeparatorDefect) for defect in parsed.defects):
            answer.close()
            raise HTTPException("a line of its head is not a header field")
        return Headers(parsed.items())
    fields: Mapping[str, str] = getattr(answer.raw, "headers", None) or answer.headers
    return Headers(fields.items())


def _chunks(answer: requests.Response, url: str, timeout: Timeout) -> Iterator[bytes]:
    try:
        yield from _read(answer)
    except Exception as error:
        failure = _failure(error, url, timeout, answered=True)
        if failure is None:
            raise
        try:
            raise failure from error
        finally:
            del failure  # else it and this frame would hold each other, and the connection's pool with them


def _read(answer: requests.Response) -> Iterator[bytes]:
    from urllib3.exceptions import DecodeError
    from urllib3.response import HTTPResponse

    raw = answer.raw
    if (
        getattr(answer, "_content", False) is not False
    ):  # a hook or a mock has it already, and `raw` is used up
        if answer.content:
            yield answer.content
        return
    if not isinstance(raw, HTTPResponse):  # an adapter that is not HTTP's, or a mock
        yield from answer.iter_content(_LONGEST_READ)
        return
    codings = [coding.strip() for coding in raw.headers.get("content-encoding", "").lower().split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    for coding in codings:
        if coding not in raw.CONTENT_DECODERS:
            raise DecodeError(f"no decoder for {coding!r} is installed")
    if len(codings) > _MOST_CODINGS:
        raise DecodeError(f"{len(codings)} codings, one within the other, are more than {_MOST_CODINGS}")
    ours = _INFLATED.issuperset(codings)
    pieces = _pieces(raw, decode=not ours)
    for coding in reversed(codings if ours else []):
        pieces = _inflated(pieces, coding)
    yield from pieces


def _pieces(raw: HTTPResponse, *, decode: bool) -> Iterator[bytes]:
    if raw.chunked and raw.supports_chunked_reads():
        yield from raw.read_chunked(_LONGEST_CHUNK, decode_content=decode)
    else:
        while data := raw.read1(_LONGEST_READ, decode_content=decode):
            yield data


def _inflated(pieces: Iterator[bytes], coding: str) -> Iterator[bytes]:
    """What each of the pieces unpacks to, at once. Raises `DecodeError` for damage and for data that lacks its end.

    Done here, as urllib3 does not tell whether the end was there. No data at all needs none; what follows the end is
    ignored, unless it is one more member of a gzip file (RFC 1952, 2.2).
    """
    import zlib

    from urllib3.exceptions import DecodeError

    unpacking = None
    for piece in pieces:
        while piece:
            if unpacking is None or unpacking.eof:
                bits = 31  # zlib's word for gzip
                if coding == "deflate":  # with zlib's header, or as some servers send it: without
                    bits = 15 if piece[0] & 0x0F == 8 else -15
                if unpacking is not None and (bits != 31 or not _GZIP.startswith(piece[:2])):
                    for _ in pieces:  # the answer ends where its framing does
                        pass
                    return
                unpacking = zlib.decompressobj(bits)
            full = True
            while full:
                try:
                    part = unpacking.decompress(piece, _LONGEST_CHUNK)
                except zlib.error as error:
                    raise DecodeError(f"damaged {coding}", error) from error
                piece, full = unpacking.unconsumed_tail, len(part) == _LONGEST_CHUNK
                if part:
                    yield part
            piece = unpacking.unused_data
    if unpacking is not None and not unpacking.eof:
        raise DecodeError(f"the end of its {coding} is missing, and some of the answer may be, too")


def _failure(error: Exception, url: str, timeout: Timeout, *, answered: bool) -> TransportError | None:
    """Which failure of the network this is; None where it is none, such as the AssertionError of a test's set-up.

    `answered`: the head had come. What libraries wrap into each other is told by all that is inside.
    """
    import socket
    import ssl
    from http.client import HTTPException, RemoteDisconnected

    import requests.exceptions as r
    import urllib3.exceptions as u

    # Of an answer, libraries also make a ValueError where a figure in it is none. Before it, one is the caller's.
    if not isinstance(error, (OSError, HTTPException, u.HTTPError, ValueError if answered else OSError)):
        return None
    chain = _chain(error)

    def holds(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in chain)

    connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    place = _place(url)
    detail = _detail(chain)
    cannot = f"cannot connect to {place}{' through a proxy' if holds(u.ProxyError, r.ProxyError) else ''}"
    when = "within its answer" if answered else "before it answered"

    if holds(u.DecodeError, r.ContentDecodingError):
        return Interrupted(f"the answer of {place} does not decode as its content-encoding says: {detail}")
    if holds(socket.gaierror, u.NameResolutionError, u.LocationValueError, r.InvalidURL):
        return ConnectFailed(
            f"{cannot}: the name does not resolve ({detail}). Is the url right, and is there a network?",
            kind="unresolved",
        )
    if holds(ConnectionRefusedError):
        return ConnectFailed(f"{cannot}: connection refused. Is a server listening there?", kind="refused")
    shaking_hands = any(_passed(one, "do_handshake") for one in chain)
    if holds(u.ConnectTimeoutError, r.ConnectTimeout) or (shaking_hands and holds(TimeoutError)):
        if not holds(u.NewConnectionError):
            detail = f"no connection within {connect:g} s" if connect else "no connection"
        return ConnectFailed(f"{cannot}: {detail}", kind="unreachable")
    # After the handshake, TLS that just stops is a connection that was cut.
    if shaking_hands or (
        not answered and holds(ssl.SSLError, u.SSLError, r.SSLError) and not holds(ssl.SSLEOFError)
    ):
        return ConnectFailed(f"{cannot}: TLS failed ({detail})", kind="tls")
    if holds(TimeoutError, u.TimeoutError, r.Timeout):
        silence = f"for {read:g} s" if read else "for too long"
        return TimedOut(
            f"{place} sent nothing {silence} {when}; timeout=(connect, read) sets how long to wait"
        )
    if holds(RemoteDisconnected, ssl.SSLEOFError):
        return Interrupted(f"{place} closed the connection {when}")
    if holds(ConnectionResetError, ConnectionAbortedError, BrokenPipeError):
        return Interrupted(f"{place} reset the connection {when}", kind="reset")
    if holds(u.ResponseError, r.RetryError):
        return Interrupted(
            f"the session's retries gave up on {place} ({detail}); with Retry(raise_on_status=False) the last answer "
            "is handed over"
        )
    if answered:
        return Interrupted(f"the connection to {place} ended before its answer did: {detail}")
    if holds(HTTPException, u.ProtocolError, u.InvalidHeader, r.ChunkedEncodingError):
        return Interrupted(f"{place} sent something that is not an HTTP answer: {detail}")
    return ConnectFailed(f"{cannot}: {detail}", kind="unreachable")


def _chain(error: BaseException) -> list[BaseException]:
    """The exception and those that it was made from, outermost first.

    `__context__` is left out: it leads on to whatever the caller was handling when it called.
    """
    found: list[BaseException] = []
    waiting: list[object] = [error]
    for one in waiting:
        if isinstance(one, BaseException) and not any(one is other for other in found):
            found.append(one)
            waiting += (one.__cause__, getattr(one, "reason", None), *one.args)
    return found


def _passed(error: BaseException, function: str) -> bool:
    """Whether the error came up through a function of this name."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == function:
            return True
        trace = trace.tb_next
    return False


def _detail(chain: list[BaseException]) -> str:
    from aivvm.terminal import one_line

    for one in reversed(chain):
        text = (one.strerror if isinstance(one, OSError) else None) or str(one)
        if text:
            return one_line(text)
    return type(chain[0]).__name__


def _place(url: str) -> str:
    return url.partition("//")[2].partition("/")[0].rpartition("@")[2] or "a url without a host"
