"""Tap 3: a reverse proxy on loopback that any client can be pointed at, and which records what passes.

Contract: tee, never buffer. What one read of the upstream gives is in the journal and then with the client, before the
next is read; the bytes of a body are passed on as they came, so that every boundary, of chunks and within them, stays.
Requests and answers keep the case, the order and the duplicates of their fields. What belongs to one hop (RFC 9110,
7.6.1) is the proxy's own, Host names the upstream, and nothing is added that would tell of a proxy.

One thread for each client's connection, which has one connection to the upstream at a time, and lives as long: where
the upstream hangs up, so does the proxy. What is an answer is `answer`'s business, what is recorded of it `tap`'s; here
is how bytes travel, and how each failure of the upstream is recorded and handed on:

    recorded                        the client meets
    refused, unresolved, tls,       502, with `x-aivvm-testing: upstream` and a text: a server that is reached can
    unreachable                     refuse nothing any more
    cut, also of what is no HTTP    the same bytes, and then the end of the connection
    reset                           RST, once its kernel has what came before
    stall                           silence, until it leaves
    closed                          nothing: it left first, or the proxy was stopped
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import selectors
import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http import HTTPStatus
from math import inf
from time import monotonic
from typing import NamedTuple
from urllib.parse import urlsplit

from aivvm.terminal import one_line
from aivvm.transport import DEFAULT_TIMEOUT, Headers, Request, Timeout
from aivvm_testing.record.account import Account
from aivvm_testing.record.answer import AnswerChunk, AnswerEnd, AnswerParser
from aivvm_testing.record.tap import Tap
from aivvm_testing.redaction import DEFAULT, Redaction, redact_text
from aivvm_testing.reply import HEADLESS_KINDS, EndingKind, Head
from aivvm_testing.sockets import reset_on_close, unacknowledged
from aivvm_testing.wire import CONTINUE, AwaitsContinue, Event, Incoming, Refusal, RequestParser

_READ_SIZE = 64 * 1024
_MOST_CONNECTIONS = 256  # each has a thread; whoever comes then waits to be accepted
_BACKLOG = 4096
_LINGER = 2.0
_RESET_PATIENCE = 5.0
_RESET_POLL = 0.001
_ACCEPT_AGAIN = 0.05
_IDLE = 60.0  # seconds that a client may say nothing between two requests, or within one
_READ = selectors.EVENT_READ
_WRITE = selectors.EVENT_WRITE
_READ_WRITE = _READ | _WRITE
_NOT_YET = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_UNDER_WAY = frozenset(
    {errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK)}
)
_PLAIN = re.compile(r"[!-~]+")
_TARGET = re.compile(r"[/?].*")
_OF_ONE_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "upgrade",
    }
)
_NEEDED = frozenset({"content-length", "host", "transfer-encoding"})  # whatever Connection says
# Each connection has its own, and no file descriptor for it where there is poll.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


class RecordingProxy:
    """Passes what comes to `url` on to `upstream`, and records it; `stop` makes the file at `path` of it.

        with RecordingProxy("https://upstream.example", "session.jsonl") as proxy:
            any_client(proxy.url)

    `upstream` is an http or https url; its path, if it has one, stands before the path of each request. `timeout` is
    the proxy's own patience with it, in seconds, (connect, read): a read timeout is a gap between two reads. A client
    with less patience leaves first, which is recorded as `closed`. `verify`: a file or folder of certificates to trust
    instead of the system's. `redaction` takes secrets out of what is recorded, of nothing else.

    At most 256 clients are served at once. A client that closes its half of the connection has left, too. Not passed
    on: an Upgrade (so no WebSockets), and the trailers and chunk boundaries of a request, which is sent once it is
    whole, up to 64 MiB. Proxies of the environment are not used; redirects and cookies are left as they are.

    `start` and `stop`, or a `with` block; a proxy is started once. Raises `ValueError` for an upstream that is no such
    url, and for a `host` that is not loopback unless `allow_remote`; `start` raises `OSError` where the port is taken
    or nothing can be recorded, `FileExistsError` where another recorder writes to `path`. Methods may be called from
    any thread.
    """

    def __init__(
        self,
        upstream: str,
        path: str | os.PathLike[str],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        note: str = "",
        redaction: Redaction = DEFAULT,
        timeout: Timeout = DEFAULT_TIMEOUT,
        verify: bool | str | os.PathLike[str] = True,
        allow_remote: bool = False,
    ) -> None:
        self._upstream = _Upstream.of(upstream, timeout, verify)
        self._address = _checked(host, port, allow_remote)
        self._path = path
        self._note = note
        self._redaction = redaction
        self._tap: Tap | None = None
        self._running: _Running | None = None

    @property
    def port(self) -> int:
        """The port it listens on; `RuntimeError` when it is not running."""
        if self._running is None:
            raise RuntimeError("the proxy is not running: call start(), or use it in a with block")
        return self._running.port

    @property
    def url(self) -> str:
        """`http://host:port`, without a slash at the end; `RuntimeError` when it is not running."""
        host = self._address[1]
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def start(self) -> None:
        """Binds the port, begins the recording and passes requests on from now on."""
        if self._tap is not None:
            raise RuntimeError("a proxy makes one recording, and is started once: make a new one")
        family, host, port = self._address
        try:
            door = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise OSError(error.errno, f"no proxy at {host} port {port}: {error.strerror}") from error
        try:
            self._tap = Tap(self._path, note=self._note, redaction=self._redaction)
        except BaseException:
            door.close()
            raise
        self._running = _Running(self, self._upstream, door, self._tap)

    def stop(self) -> None:
        """Closes every connection, streams included, and finishes the recording. Harmless when stopped.

        Returns when all threads are gone; one that is asking for the upstream's address is waited for. Raises
        `OSError` where not everything could be written: an earlier file is then as it was, the journal beside it has
        what came until then, and stopping again tries again. Raises `SetupFailure` where something is missing from the
        recording, or it may not hold what it would.
        """
        running, self._running = self._running, None
        if running is not None:
            running.stop()
        if self._tap is not None:
            self._tap.close()

    def passed(self, request: Request, status: int | None, ending: EndingKind, chunks: int) -> None:
        """Called after each exchange, from its connection's thread, with the request as it was sent, secrets and all.

        Does nothing: for subclasses that show it.
        """

    def refused(self, status: int, why: str) -> None:
        """Called, likewise, for what is no request, or none that is passed on, such as one that is too long.

        Its client gets this status, and the reason as text. Nothing of it is recorded. Does nothing.
        """

    def __enter__(self) -> RecordingProxy:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


def _checked(host: str, port: int, allow_remote: bool) -> tuple[int, str, int]:
    """Family, host and port to listen on."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if not (allow_remote or ipaddress.ip_address(address[0]).is_loopback):
        raise ValueError(
            f"a recording proxy is for this machine alone, but host={host!r} is {address[0]}, which others may reach: "
            "use 127.0.0.1 or ::1, or say allow_remote=True"
        )
    return family, host, port


class _Upstream(NamedTuple):
    """Where requests go, and how patiently."""

    host: str
    port: int
    root: str  # the url without its path
    prefix: str  # the path, without a slash at its end
    tls: ssl.SSLContext | None
    connect_timeout: float | None
    read_timeout: float | None

    @classmethod
    def of(cls, url: str, timeout: Timeout, verify: bool | str | os.PathLike[str]) -> _Upstream:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            (host or "").encode("idna")  # what is no name to it, neither resolver nor TLS takes
            good = _PLAIN.fullmatch(url) and host and port != 0 and parts.scheme in ("http", "https")
        except (ValueError, TypeError, AttributeError):
            good = None
        if not good or "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                "upstream is the http or https url of a server, maybe with a path, in ASCII, without user name, query "
                f"and fragment, such as https://upstream.example/v1, but got {redact_text(repr(url))}"
            )
        assert host is not None
        secure = parts.scheme == "https"
        connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        for seconds in (connect, read):
            if seconds is not None and not 0 < seconds < inf:
                raise ValueError(f"a timeout is more than 0 seconds, or None, but got {timeout!r}")
        return cls(
            host,
            port or (443 if secure else 80),
            f"{parts.scheme}://{parts.netloc.rstrip(':')}",
            parts.path.rstrip("/"),
            _trusting(verify) if secure else None,
            connect,
            read,
        )

    @property
    def authority(self) -> str:
        """As Host has it."""
        return self.root.partition("//")[2]

    def target(self, request: Request) -> str:
        """What this request to the proxy asks the upstream for."""
        found = _TARGET.search(request.url.partition("//")[2])
        if found is None:
            return "*"
        return f"{self.prefix}{found[0]}" if found[0].startswith("/") else f"{self.prefix}/{found[0]}"

    def forwarded(self, incoming: Incoming) -> Request:
        """The request as the upstream gets it."""
        request = incoming.request
        target = self.target(request)
        fields = _passed_on(request.headers.without("trailer"), closes=not incoming.keep_alive)
        headers = [(name, self.authority if name.lower() == "host" else value) for name, value in fields]
        if request.headers.get("host") is None:
            headers.insert(0, ("Host", self.authority))
        url = self.root if target == "*" else f"{self.root}{target}"
        return Request(request.method, url, Headers(headers), request.body)


def _trusting(verify: bool | str | os.PathLike[str]) -> ssl.SSLContext:
    if isinstance(verify, (str, os.PathLike)):
        folder = os.path.isdir(verify)
        context = ssl.create_default_context(
            cafile=None if folder else os.fspath(verify), capath=os.fspath(verify) if folder else None
        )
    elif verify is True:
        context = ssl.create_default_context()
    else:
        raise ValueError(f"verify is True, or a file or folder of certificates to trust, but got {verify!r}")
    context.set_alpn_protocols(["http/1.1"])
    return context


def _passed_on(fields: Headers, *, closes: bool) -> Iterator[tuple[str, str]]:
    """The fields without those of one hop; Connection says whether this one closes, where it said something."""
    said = [token.strip(" \t") for token in ",".join(fields.get_all("connection")).split(",")]
    dropped = {token.lower() for token in said} - _NEEDED | _OF_ONE_HOP
    wanted = "close" if closes else "keep-alive"
    kept = [token for token in said if token.lower() == wanted] or ([wanted] if closes else [])
    for name, value in fields:
        lower = name.lower()
        if lower not in dropped:
            yield name, value
        elif lower == "connection" and kept:
            yield name, kept[0]
            kept = []
    if kept:
        yield "Connection", kept[0]


def _head_bytes(first: str, fields: Iterable[tuple[str, str]]) -> bytes:
    lines = [first, *[f"{name}: {value}" for name, value in fields], "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _request_bytes(request: Request, target: str) -> bytes:
    head = _head_bytes(f"{request.method} {target} HTTP/1.1", request.headers)
    if request.headers.get("transfer-encoding") is None:
        return head + request.body
    body = b"%x\r\n%b\r\n" % (len(request.body), request.body) if request.body else b""
    return head + body + b"0\r\n\r\n"


class _Failed(Exception):
    """The upstream gave no answer, or not all of one: what kind of ending that is, and why."""

    def __init__(self, kind: EndingKind, why: str, data: bytes | None = None) -> None:
        super().__init__(kind, why)
        self.kind = kind
        self.why = why
        self.data = data


class _Left(Exception):
    """The client is gone."""


class _Stopped(Exception):
    """The proxy is being stopped."""


class _Running:
    """A started proxy: the thread that accepts clients, and theirs."""

    def __init__(self, proxy: RecordingProxy, upstream: _Upstream, door: socket.socket, tap: Tap) -> None:
        self.upstream = upstream
        self.tap = tap
        self.passed = proxy.passed
        self.refused = proxy.refused
        self.port: int = door.getsockname()[1]
        self._door = door
        self._door.setblocking(False)
        # Closing the bell is heard by all who wait, as often as they do.
        self._bell, self.ear = socket.socketpair()
        self._slots = threading.Semaphore(_MOST_CONNECTIONS)
        self._threads: list[threading.Thread] = []  # the porter's, until it is gone
        self._porter = threading.Thread(target=self._accept, name=f"aivvm-proxy-{self.port}", daemon=True)
        self._porter.start()

    def stop(self) -> None:
        self._bell.close()
        self._porter.join()
        for thread in self._threads:
            thread.join()
        self._door.close()
        self.ear.close()

    def _accept(self) -> None:
        with _Selector() as selector:
            selector.register(self._door, _READ)
            selector.register(self.ear, _READ)
            while True:
                self._slots.acquire()
                if any(key.fileobj is self.ear for key, _ in selector.select()):
                    return
                try:
                    client, _ = self._door.accept()
                except OSError:
                    # Out of file descriptors, most likely. Whoever waits at the door is still there a little later.
                    self._slots.release()
                    selector.unregister(self._door)
                    selector.select(_ACCEPT_AGAIN)
                    selector.register(self._door, _READ)
                    continue
                thread = threading.Thread(
                    target=self._attend, args=(client,), name=f"{self._porter.name}-client", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # the system gives no more threads
                    client.close()
                    self._slots.release()
                else:
                    self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]

    def _attend(self, client: socket.socket) -> None:
        try:
            _Connection(self, client).run()
        finally:
            self._slots.release()


class _Connection:
    """One client, and its connection to the upstream, in one thread."""

    def __init__(self, running: _Running, client: socket.socket) -> None:
        client.setblocking(False)
        with suppress(OSError):  # gone already: reading will tell
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._running = running
        self._to = running.upstream
        self._client = client
        self._upstream: socket.socket | None = None
        self._parser = RequestParser(authority=self._to.authority)
        self._waiting: deque[Event] = deque()
        self._answering = False
        self._unsent = memoryview(b"")  # of the request
        self._trouble: OSError | None = None  # that ended its sending
        self._selector = _Selector()
        self._selector.register(running.ear, _READ)
        self._watched: dict[int, int] = {}  # file descriptor: events

    def run(self) -> None:
        try:
            while (event := self._next()) is not None and self._attend(event):
                pass
        except _Left:
            pass
        except _Stopped:
            if self._answering:
                self._break_off()
        finally:
            self._drop_upstream()
            self._client.close()
            self._selector.close()

    # Requests

    def _next(self) -> Event | None:
        """What the client says next; None where it has no connection any more."""
        while not self._waiting:
            client, upstream = self._select(_IDLE, _READ, _READ if self._upstream else 0)
            if client:
                self._hear()
            elif not upstream and self._parser.incomplete:
                return self._parser.give_up(408, f"nothing came for {_IDLE:g} s within a request")
            elif not upstream:  # others may be waiting for its place
                self._hang_up()
                return None
            elif self._has_hung_up():
                self._drop_upstream()
                if not self._parser.incomplete:
                    self._hang_up()
                    return None
        return self._waiting.popleft()

    def _attend(self, event: Event) -> bool:
        """Answers; whether the connection goes on."""
        if isinstance(event, Incoming):
            self._answering = True
            goes_on = self._exchange(event)
            self._answering = False
            return goes_on
        if isinstance(event, AwaitsContinue):
            self._send(CONTINUE)
            return True
        self._running.refused(event.status, event.why)
        self._send(_refusing(event))
        self._hang_up()
        return False

    def _exchange(self, incoming: Incoming) -> bool:
        request = self._to.forwarded(incoming)
        tap = self._running.tap
        timer = tap.clock.timer()
        parser = AnswerParser(request.method)
        account = Account(tap.begin(request, timer), parser)
        try:
            self._reach()
            self._unsent = memoryview(_request_bytes(request, self._to.target(incoming.request)))
            goes_on = self._carry(incoming, parser, account)
        except _Failed as failure:
            goes_on = self._hand_on(failure, incoming, parser, account)
        except (_Left, _Stopped):
            account.end("closed")
            raise
        finally:
            self._running.passed(request, account.status, account.kind or "closed", account.chunks)
        return goes_on

    # Answers

    def _carry(self, incoming: Incoming, parser: AnswerParser, account: Account) -> bool:
        """Passes the answer on, read by read; whether both connections go on."""
        modern = incoming.version != "1.0"
        fed = 0
        while True:
            data = self._receive()
            events = parser.feed(data) if data else parser.finish()
            head = events[0] if events and isinstance(events[0], Head) else None
            end = events[-1] if events and isinstance(events[-1], AnswerEnd) else None
            for event in events:
                account.note(event)
            if not modern:
                body = b"".join([event.data for event in events if isinstance(event, AnswerChunk)])
            elif head is not None:
                body = data[parser.head_size - fed :]
            else:
                body = data if account.status is not None else b""
            fed += len(data)
            if head is not None:
                goes_on = modern and incoming.keep_alive and parser.keeps_connection
                fields = head.headers if modern else head.headers.without("transfer-encoding")
                line = f"HTTP/1.1 {head.status} {head.reason}"
                body = _head_bytes(line, _passed_on(fields, closes=not goes_on)) + body
            if end is not None and end.kind == "cut":
                why = self._why_cut(data, account.status)
                account.end("cut", why, end.data if data else b"", rest=b"" if data else end.data)
                self._send(body)
                raise _Failed("cut", why, end.data)
            self._send(body)
            if end is not None:
                break
        if not (modern and incoming.keep_alive and parser.keeps_connection) or self._unsent:
            self._drop_upstream()
            self._hang_up()
            return False
        return True

    def _why_cut(self, data: bytes, status: int | None) -> str:
        if not data:
            when = "before it answered" if status is None else "within its answer"
            return f"{self._to.authority} closed the connection {when}"
        what = "something that is not an HTTP answer" if status is None else "a body with malformed chunks"
        return f"{self._to.authority} sent {what}"

    def _hand_on(self, failure: _Failed, incoming: Incoming, parser: AnswerParser, account: Account) -> bool:
        """What the client gets of a failure; whether its connection goes on."""
        data = parser.pending if failure.data is None else failure.data
        answered = account.status is not None
        kind = "cut" if answered and failure.kind in HEADLESS_KINDS else failure.kind
        account.end(kind, failure.why, rest=data)
        self._drop_upstream()
        if failure.kind in HEADLESS_KINDS and not answered:
            goes_on = incoming.keep_alive and incoming.version != "1.0"
            self._send(_unreachable(failure.why, incoming.request.method, closes=not goes_on))
            if not goes_on:
                self._hang_up()
            return goes_on
        if not answered:
            self._send(data)
        if failure.kind == "reset":
            self._reset()
        elif failure.kind == "stall":
            self._until_it_leaves(None)
        else:
            self._hang_up()
        return False

    # The upstream

    def _reach(self) -> None:
        """Connects, unless there is a connection that was kept."""
        if self._upstream is not None:
            if not self._has_hung_up():
                return
            self._drop_upstream()
        to = self._to
        try:
            found = socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise self._unreached("unresolved", f"the name does not resolve ({_said(error)})") from error
        failure = self._unreached("unresolved", "the name has no address")
        for family, kind, protocol, _, address in found:
            try:
                self._dial(socket.socket(family, kind, protocol), address)
                break
            except _Failed as error:
                failure = error
            except OSError as error:  # no such family here, or no file descriptor
                failure = self._unreached("unreachable", _said(error))
            self._drop_upstream()
        else:
            raise failure
        if to.tls is not None:
            self._shake_hands(to.tls)

    def _dial(self, sock: socket.socket, address: object) -> None:
        self._upstream = sock
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address)  # type: ignore[arg-type]  # as getaddrinfo gave it
        if code in _UNDER_WAY:
            self._wait_to_connect(_WRITE)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == errno.ECONNREFUSED:
            raise self._unreached("refused", "connection refused")
        if code:
            raise self._unreached("unreachable", os.strerror(code))

    def _shake_hands(self, tls: ssl.SSLContext) -> None:
        assert self._upstream is not None
        self._watch(self._upstream, 0)
        try:
            self._upstream = sock = tls.wrap_socket(
                self._upstream, server_hostname=self._to.host, do_handshake_on_connect=False
            )
            while True:
                try:
                    sock.do_handshake()
                    return
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                    self._wait_to_connect(_WRITE if isinstance(error, ssl.SSLWantWriteError) else _READ)
        except (OSError, ValueError) as error:
            raise self._unreached("tls", f"TLS failed ({_said(error)})") from error

    def _wait_to_connect(self, events: int) -> None:
        patience = self._to.connect_timeout
        if not self._wait(events, patience):
            raise self._unreached("unreachable", f"no connection within {patience:g} s")

    def _unreached(self, kind: EndingKind, why: str) -> _Failed:
        return _Failed(kind, f"cannot connect to {self._to.authority}: {why}")

    def _receive(self) -> bytes:
        """What is there next, and until then as much of the request is sent as the upstream takes."""
        assert self._upstream is not None
        while True:
            if self._unsent:
                self._send_request()
            try:
                data = self._upstream.recv(_READ_SIZE)
                if not data and self._trouble is not None:
                    raise self._trouble
                return data
            except _NOT_YET as error:
                writes = bool(self._unsent) or isinstance(error, ssl.SSLWantWriteError)
            except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError) as error:
                raise _Failed("reset", f"{self._to.authority} reset the connection") from error
            except ssl.SSLError as error:
                raise _Failed("tls", f"TLS with {self._to.authority} failed: {_said(error)}") from error
            except OSError as error:
                raise _Failed(
                    "cut", f"the connection to {self._to.authority} broke: {_said(error)}"
                ) from error
            patience = self._to.read_timeout
            if not self._wait(_READ_WRITE if writes else _READ, patience):
                raise _Failed("stall", f"{self._to.authority} sent nothing for {patience:g} s")

    def _send_request(self) -> None:
        assert self._upstream is not None
        try:
            while self._unsent:
                self._unsent = self._unsent[self._upstream.send(self._unsent) :]
        except _NOT_YET:
            return
        except OSError as error:  # what it has sent before it hung up is still to be read
            self._unsent = memoryview(b"")
            if not isinstance(error, BrokenPipeError):  # which says that it did so in good order
                self._trouble = error

    def _has_hung_up(self) -> bool:
        assert self._upstream is not None
        try:
            self._upstream.recv(1)
        except _NOT_YET:
            return False
        except OSError:
            return True
        return True  # its end, or something that nobody asked for

    def _drop_upstream(self) -> None:
        self._unsent = memoryview(b"")
        self._trouble = None
        if self._upstream is not None:
            self._watch(self._upstream, 0)
            self._upstream.close()
            self._upstream = None

    # The client

    def _hear(self) -> None:
        """Takes in what the client sent. One that closed its half of the connection has left, too."""
        try:
            data = self._client.recv(_READ_SIZE)
        except _NOT_YET:
            return
        except OSError:
            raise _Left from None
        if not data:
            raise _Left
        self._waiting.extend(self._parser.feed(data))

    def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[self._client.send(left) :]
            except _NOT_YET:
                self._select(None, _WRITE, 0)
            except OSError:
                raise _Left from None

    def _hang_up(self) -> None:
        """FIN. Closing at once would send RST after it if the client has sent something that nobody read."""
        self._answering = False
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)
            self._until_it_leaves(_LINGER)

    def _until_it_leaves(self, patience: float | None) -> None:
        deadline = inf if patience is None else monotonic() + patience
        while (now := monotonic()) < deadline:
            client, _ = self._select(None if patience is None else deadline - now, _READ, 0)
            try:
                if client and not self._client.recv(_READ_SIZE):
                    return
            except OSError:
                return

    def _reset(self) -> None:
        """RST, which discards what the client's kernel has not taken yet: so that comes first."""
        deadline = monotonic() + _RESET_PATIENCE
        with suppress(OSError):
            while unacknowledged(self._client) and monotonic() < deadline:
                self._select(_RESET_POLL, 0, 0)
        self._break_off()

    def _break_off(self) -> None:
        """Lets closing send RST: what was sent is no whole answer, and must not look like one."""
        reset_on_close(self._client)

    # Waiting

    def _wait(self, events: int, patience: float | None) -> bool:
        """Until the upstream is ready; false where that takes longer. Meanwhile, the client is heard."""
        deadline = inf if patience is None else monotonic() + patience
        while True:
            left = None if patience is None else max(0.0, deadline - monotonic())
            client, upstream = self._select(left, 0 if self._waiting else _READ, events)
            if client:
                self._hear()
            if upstream:
                return True
            if not client and monotonic() >= deadline:
                return False

    def _select(self, patience: float | None, client: int, upstream: int) -> tuple[bool, bool]:
        """Which of the two is ready; neither, where that takes longer."""
        self._watch(self._client, client)
        if self._upstream is not None:
            self._watch(self._upstream, upstream)
        ready = [key.fd for key, _ in self._selector.select(patience)]
        if self._running.ear.fileno() in ready:
            raise _Stopped
        of_client = self._client.fileno() in ready
        return of_client, len(ready) > of_client

    def _watch(self, sock: socket.socket, events: int) -> None:
        fd = sock.fileno()
        before = self._watched.get(fd, 0)
        if events == before:
            return
        if not before:
            self._selector.register(fd, events)
        elif events:
            self._selector.modify(fd, events)
        else:
            self._selector.unregister(fd)
        self._watched[fd] = events


_OURS = "This is the answer of a recording proxy (aivvm-testing)"


def _unreachable(why: str, method: str, *, closes: bool) -> bytes:
    """The answer where there is no upstream."""
    said = f"{why}. {_OURS}: its upstream cannot be reached, which is what it recorded."
    return _own_answer(502, said, "upstream", method, closes=closes)


def _refusing(refusal: Refusal) -> bytes:
    """The answer to what is no request, or none that this proxy takes."""
    said = f"{refusal.why}. {_OURS}: it passed nothing on, and recorded nothing."
    method = "GET" if refusal.request is None else refusal.request.method
    return _own_answer(refusal.status, said, "refused", method, closes=True)


def _own_answer(status: int, said: str, kind: str, method: str, *, closes: bool) -> bytes:
    body = f"{said}\n".encode("utf-8", "backslashreplace")
    fields = [
        ("content-type", "text/plain;charset=UTF-8"),
        ("content-length", str(len(body))),
        ("x-aivvm-testing", kind),
    ]
    if closes:
        fields.append(("connection", "close"))
    head = _head_bytes(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", fields)
    return head + (b"" if method == "HEAD" else body)


def _said(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return one_line(text)
