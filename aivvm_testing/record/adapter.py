"""Tap 2: what `requests` sends and receives, recorded at the connection, one exchange for each request on the wire.

Contract: tee, never buffer, and change nothing. urllib3 and `http.client` connect, send, parse and raise with their own
code; while a request is under way its connection's socket is behind one that tells what passed. So redirects and
retries are exchanges of their own, chunks are those of the wire, whatever the reader's chunk size, and each has the
moment at which its bytes came from the socket, which may be before the reader asks for them.

Somebody's adapter, and its pools, are never changed: a tapped one is an object of a subclass that shares their state.
How an exchange gets into the file is `tap`'s business, what its bytes mean `wire`'s, `answer`'s and `coding`'s.
"""

from __future__ import annotations

import io
import os
import socket
import ssl
from collections.abc import Callable
from functools import lru_cache, wraps
from http.client import HTTPException, RemoteDisconnected
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

import urllib3
import urllib3.exceptions as u
from requests.adapters import HTTPAdapter

from aivvm.transport import Headers, Request
from aivvm_testing.clock import Clock, Timer, microseconds
from aivvm_testing.errors import SetupFailure
from aivvm_testing.interrupts import is_interrupt
from aivvm_testing.record.account import Account
from aivvm_testing.record.answer import MAX_CHUNK, AnswerEnd, AnswerParser
from aivvm_testing.record.tap import Tap
from aivvm_testing.redaction import DEFAULT, Redaction
from aivvm_testing.reply import EndingKind
from aivvm_testing.wire import Incoming, Refusal, RequestParser, whole_request

if TYPE_CHECKING:
    from requests import PreparedRequest, Response
    from urllib3 import HTTPConnectionPool

    _Adapter: TypeAlias = HTTPAdapter
    _Pool: TypeAlias = HTTPConnectionPool
else:
    _Adapter = _Pool = object  # each stands before a class that is known when there is one to tap


class RecordingAdapter(HTTPAdapter):
    """Sends through `inner` and records every exchange; `close`, or the session's, makes the file at `path` of them.

        session.mount("https://", RecordingAdapter("session.jsonl", inner=HTTPAdapter(max_retries=3)))

    The settings are `inner`'s, and so is what it overrides; without one it is a plain `HTTPAdapter()`. It is closed
    with this one. Safe to share between threads and sessions as far as `inner` is. Times come from `clock` (the
    system's by default), in seconds since each attempt to send began, rounded to microseconds.

    | on the connection | recorded ending |
    |---|---|
    | the answer ends as its framing says | `complete` |
    | it breaks off, or is none | `cut`, with the bytes that are in no chunk |
    | a reset | `reset` |
    | a read timeout | `stall` |
    | no connection | `refused`, `unresolved`, `unreachable`, or `tls` |
    | the response is closed or dropped before its end, or the adapter is | `closed` |
    | any other exception, such as `KeyboardInterrupt` | `closed`, with the exception's name as `error` |

    The caller gets what it would get without, the very exceptions included. What goes wrong with the recording is
    raised by `close`: `OSError` where not everything could be written, `SetupFailure` where something was not recorded
    as it was. Raises `TypeError` for an inner adapter that is no `HTTPAdapter` or cannot be subclassed,
    `FileExistsError` where another recorder writes to `path`, and `OSError` where nothing can be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        inner: HTTPAdapter | None = None,
        clock: Clock | None = None,
        note: str = "",
        redaction: Redaction = DEFAULT,
    ) -> None:
        if inner is not None and not isinstance(inner, HTTPAdapter):
            raise TypeError(f"inner takes an HTTPAdapter, such as HTTPAdapter(), but got {inner!r}")
        super().__init__()
        self._inner = HTTPAdapter() if inner is None else inner
        owner: type = type(self._inner)
        _subclass(TappedAdapter, owner)  # raises now what it would raise with the first request
        self._tap = Tap(path, clock=clock, note=note, redaction=redaction)
        self._path = path
        self._closed = False

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """What `inner` gives, or raises. A closed adapter raises `SetupFailure`: it would record nothing."""
        if self._closed:
            raise SetupFailure(
                f"this adapter is closed, and {os.fspath(self._path)} is written: make a new one"
            )
        through = tapped(self._inner, self._tap)
        response = through.send(
            request, stream=stream, timeout=timeout, verify=verify, cert=cert, proxies=proxies
        )
        if not through.reached:
            self._tap.failed(
                SetupFailure(
                    f"a {request.method} to {urlsplit(request.url or '').hostname} was answered, but on no connection "
                    "of the inner adapter, and is not recorded: did something else answer, such as `responses`?"
                )
            )
        response.connection = self  # whoever sends another request with it wants that recorded, too
        return response

    def close(self) -> None:
        """Closes `inner` and finishes the recording; streams that are still open go on, and are recorded as `closed`.

        Raises `OSError` where not everything could be written: an earlier file is then as it was, and the journal
        beside it has what came until then. Raises `SetupFailure` where something is missing from the file that it has
        written. Closing again is harmless, and tries again what failed.
        """
        self._closed = True
        super().close()
        self._inner.close()
        self._tap.close()

    def __enter__(self) -> RecordingAdapter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def tapped(adapter: HTTPAdapter, tap: Tap) -> TappedAdapter:
    """The adapter, its state and all that it overrides, but with connections that `tap` records.

    It is made for one request, and costs nothing: make another one for the next. `adapter` is not changed. One that is
    tapped already is given back as it is. Raises `TypeError` for one whose class cannot be subclassed.
    """
    if isinstance(adapter, TappedAdapter):
        return adapter
    one: TappedAdapter = _sharing(TappedAdapter, adapter)
    one._tap = tap
    one.reached = False
    return one


class TappedAdapter(_Adapter):
    """What `tapped` gives. `reached`: whether a request has come as far as a pool of connections."""

    __slots__ = ()
    _own: HTTPAdapter
    _tap: Tap
    reached: bool

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        own = super().get_connection_with_tls_context(*args, **options)
        pool = tapped_pool(own, self._tap)
        self.reached = self.reached or pool is not own
        return pool

    def build_response(self, *args: Any) -> Response:
        response: Any = super().build_response(*args)
        response.connection = self._own
        return response  # type: ignore[no-any-return]  # so far the type is what `requests` says it is

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


def tapped_pool(own: Any, tap: Tap) -> Any:
    """The pool, its state and all that it overrides, but `tap` records what its connections carry.

    It is made for one request, and costs nothing. `own` is not changed; what cannot be tapped, or is already, is given
    back as it is.
    """
    if not isinstance(own, urllib3.HTTPConnectionPool) or isinstance(own, TappedPool):
        return own
    try:
        pool: TappedPool = _sharing(TappedPool if own.proxy is None else _PoolOfProxy, own)
    except TypeError as error:
        tap.failed(error)
        return own
    pool._tap = tap
    return pool


class TappedPool(_Pool):
    """A pool that tells of each attempt to send a request, and of what passes then."""

    __slots__ = ()
    _own: HTTPConnectionPool
    _tap: Tap

    def _make_request(self, conn: Any, *args: Any, **options: Any) -> Any:
        with self._tap.clock.exchange() as timer:
            attempt = _Attempt(self._tap, timer, self, args, options)
            untap = attempt.tap(conn)
            try:
                response = super()._make_request(conn, *args, **options)
            except BaseException as error:
                attempt.failed(error)
                raise
            finally:
                untap()
            attempt.answered()
            return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


class _PoolOfProxy(TappedPool):
    """One whose connections go through a proxy."""

    __slots__ = ()
    _own: HTTPConnectionPool
    _tap: Tap
    _asked: tuple[tuple[Any, ...], dict[str, Any]]

    def urlopen(self, *args: Any, **options: Any) -> Any:
        self._asked = args, options
        return super().urlopen(*args, **options)

    def _prepare_proxy(self, conn: Any) -> None:
        """Builds the tunnel, which is no exchange; but without one, the request comes no further."""
        with self._tap.clock.exchange() as timer:
            attempt = _Attempt(self._tap, timer, self, *self._asked)
            try:
                super()._prepare_proxy(conn)
            except BaseException as error:
                attempt.connecting = "tunnel"
                attempt.failed(error)
                raise


_ASKED = (
    "method",
    "url",
    "body",
    "headers",
)  # the first parameters of `urlopen`, and of `_make_request` after `conn`


def _sharing(kind: type, own: Any) -> Any:
    """An object that behaves as `kind` says, else as `own`, and shares its state."""
    owner: type = type(own)
    one: Any = object.__new__(_subclass(kind, owner))
    one.__dict__ = own.__dict__
    one._own = own  # a pool closes its connections when nobody holds it any more
    return one


@lru_cache(maxsize=256)
def _subclass(kind: type, owner: type) -> type:
    # What is its own is in slots, as its dictionary is the owner's. So is its name: it stands in the texts of errors.
    own = tuple(kind.__annotations__)
    return type(owner.__name__, (kind, owner), {"__slots__": own, "__module__": owner.__module__})


class _Socket:
    """A connected socket, TLS and all, that tells what passes."""

    __slots__ = ("_attempt", "own", "settimeout")

    def __init__(self, own: Any, attempt: _Attempt) -> None:
        self.own = own
        self.settimeout = own.settimeout  # which is asked for most
        self._attempt = attempt

    def sendall(self, data: Any, *flags: int) -> None:
        try:
            self.own.sendall(data, *flags)
        except TypeError:  # it is no bytes, and none were sent; `http.client` may send what is in it
            raise
        except BaseException:  # it may have come through as well; the answer, or its absence, shows
            self._attempt.sent(data)
            raise
        self._attempt.sent(data)

    def makefile(self, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode != "rb" or args or options:
            return self.own.makefile(mode, *args, **options)
        self._attempt.awaits()
        raw = self.own.makefile(mode, 0)
        if isinstance(raw, io.BufferedReader):
            raw = raw.detach()
        return io.BufferedReader(_Stream(raw, self._attempt), _READ_AHEAD)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


_READ_AHEAD = 32 * 1024
"""Bytes that are read at once where so many have come; four times what `http.client` reads."""


class _Stream(io.RawIOBase):
    """What an answer is read from, telling what comes."""

    def __init__(self, own: Any, attempt: _Attempt) -> None:
        self._own = own
        self._attempt = attempt
        self._sock = getattr(own, "_sock", None)  # which others look for here; any name would cost each read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        try:
            size: int | None = self._own.readinto(buffer)
        except BaseException as error:
            self._attempt.broke(error)
            raise
        if size is not None:
            self._attempt.came(bytes(buffer[:size]))
        return size

    def fileno(self) -> int:
        number: int = self._own.fileno()
        return number

    def close(self) -> None:
        if not self.closed:
            super().close()
            try:
                self._own.close()
            finally:
                self._attempt.left()


def _harmless(method: Callable[..., None]) -> Callable[..., None]:
    """Recording never hurts: what goes wrong with it is the tap's to raise, later, and this exchange's end."""

    @wraps(method)
    def told(self: _Attempt, *args: Any) -> None:
        if not self.over:
            try:
                method(self, *args)
            except Exception as error:
                self._loses(error)

    return told


class _Attempt:
    """One request on its way out, and its answer on its way in: an entry in the tap once somebody awaits an answer.

    None of its methods raises. For one thread at a time, but for `left`.
    """

    connecting: Literal["directly", "tunnel"] | None = None
    over = False
    _requests: RequestParser | None = None
    _refusal: str | None = None
    _sending = True
    _read = False  # whether anybody reads the answer where it can be seen
    _account: Account | None = None
    _at = 0.0  # when the last bytes came
    _malformed: bytearray | None = None  # what came since then, as a reader may be able to read it

    def __init__(
        self, tap: Tap, timer: Timer, pool: Any, args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        # Before the request is out there is no time for more.
        self._tap = tap
        self._timer = timer
        self._pool = pool
        self._asked = args, options
        self._sent: list[bytes] = []  # and not looked at yet

    def tap(self, conn: Any) -> Callable[[], None]:
        """From now on the connection's socket tells what passes, until what this gives is called.

        Then the connection is as it was; what reads the answer goes on telling.
        """
        own = vars(conn)
        if "real_connection" in own:  # vcrpy puts one of its own before it
            conn = own["real_connection"]
            own = vars(conn)
        before = own.get("connect")
        if conn.sock is not None:
            conn.sock = _Socket(conn.sock, self)
        else:
            connect = conn.connect

            def connecting() -> None:
                self.connecting = "directly"
                connect()
                self.connecting = None
                conn.sock = _Socket(conn.sock, self)

            conn.connect = connecting

        def untap() -> None:
            if before is not None:
                conn.connect = before
            else:
                own.pop("connect", None)
            if isinstance(conn.sock, _Socket):
                conn.sock = conn.sock.own

        return untap

    # The request

    def sent(self, data: Any) -> None:
        """These bytes were sent, or some of them."""
        if self._account is None and self._refusal is None:
            self._sent.append(bytes(data))
            if len(self._sent) > _UNSEEN:
                self._is_long()

    @_harmless
    def _is_long(self) -> None:
        self._look()

    def awaits(self) -> None:
        """Somebody is about to wait for the answer: while the peer works, there is time to write down the request."""
        self._read = True
        if self.over:
            return
        try:
            self._look()
        except Exception as error:
            self._loses(error)

    def _look(self) -> None:
        """Finds the request in what was sent."""
        sent, self._sent = self._sent, []
        if self._requests is None:
            kind = {"scheme": self._pool.scheme, "authority": self._authority}
            if request := whole_request(b"".join(sent), **kind):  # as most are
                self._begin(request)
                return
            self._requests = RequestParser(**kind)
        for data in sent:
            for event in self._requests.feed(data):
                if isinstance(event, Incoming) and self._account is None:
                    self._begin(event.request)
                elif isinstance(event, Refusal):
                    self._refusal = event.why

    def _begin(self, request: Request) -> Account:
        if self._pool.proxy is not None:
            request = request._replace(headers=request.headers.without("proxy-authorization"))
        self._answer = AnswerParser(request.method)
        self._account = Account(self._tap.begin(request, self._timer), self._answer)
        return self._account

    def _begun(self) -> Account:
        """The account of the request that was sent; or that was to be sent, where not all of it was, as far as it is known."""
        if self._sent:
            self._look()
        if self._account is not None:
            return self._account
        method, target, body, fields = map(self._meant, _ASKED)
        url = f"{self._pool.scheme}://{self._authority}{target}" if target.startswith("/") else target
        headers = [(_text(name), _text(value)) for name, value in (fields or {}).items()]
        if not any(name.lower() == "host" for name, _ in headers):
            headers.insert(0, ("Host", urlsplit(url).netloc))
        known = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else b""
        if self._refusal is not None and body and not known:
            self._tap.failed(
                SetupFailure(
                    f"the body of a {method} to {self._authority} is not recorded, as the request is none that can be "
                    f"read again: {self._refusal}"
                )
            )
        return self._begin(Request(method, url, Headers(headers), known))

    def _meant(self, name: str) -> Any:
        """What was asked for, as the parameter of this name."""
        args, options = self._asked
        at = _ASKED.index(name)
        return args[at] if at < len(args) else options.get(name)

    @property
    def _authority(self) -> str:
        pool = self._pool
        host = f"[{pool.host}]" if ":" in pool.host else pool.host
        return host if pool.port in (None, _PORTS.get(pool.scheme)) else f"{host}:{pool.port}"

    # Its answer

    def came(self, data: bytes) -> None:
        """These bytes came; none are the end of the connection."""
        if self.over:
            return
        try:
            account = self._account or self._begun()
            at = self._at = microseconds(self._timer.elapsed())
            if self._malformed is not None:
                self._goes_on(self._malformed, data)
                return
            events = self._answer.feed(data) if data else self._answer.finish()
            if len(events) == 1:
                account.note(events[0], at)
            elif events:
                with self._tap.together:
                    for event in events:
                        account.note(event, at)
            if account.kind is not None:
                self.over = True
            elif events and isinstance(end := events[-1], AnswerEnd):
                if data:
                    self._malformed = bytearray(end.data)
                else:
                    self._end("cut", rest=end.data, at=at)
        except Exception as error:
            self._loses(error)

    def _goes_on(self, malformed: bytearray, data: bytes) -> None:
        malformed += data
        if not data or len(malformed) > MAX_CHUNK:
            self._end("cut", at=self._at)

    # Its end

    def _loses(self, error: Exception) -> None:
        if is_interrupt(error):
            raise error
        self.over = True
        self._tap.failed(error)
        if self._account is not None:
            self._account.end("closed", "the rest could not be recorded")

    @_harmless
    def broke(self, error: BaseException) -> None:
        """Reading the answer raised this."""
        self._end(*_ending_of(error, self._has_head))

    @_harmless
    def failed(self, error: BaseException) -> None:
        """There is no answer, but this."""
        self._sending = False
        handshake = self.connecting == "directly" and self._pool.scheme == "https"
        self._end(*_ending_of(error, self._has_head, connecting=bool(self.connecting), handshake=handshake))

    def answered(self) -> None:
        """The caller has the head of the answer."""
        self._sending = False
        if not self._read:
            self._misses()

    @_harmless
    def _misses(self) -> None:
        self._begun()
        raise SetupFailure(
            f"the answer to a {self._meant('method')} to {self._authority} is not recorded: it is not read as http.client "
            "reads answers"
        )

    @_harmless
    def left(self) -> None:
        """The answer is read no further."""
        if not self._sending:  # else whoever sends tells why
            self._end("closed")

    @property
    def _has_head(self) -> bool:
        return self._account is not None and self._account.status is not None

    def _end(
        self,
        kind: EndingKind,
        error: str | None = None,
        *,
        rest: bytes | None = None,
        at: float | None = None,
    ) -> None:
        if self.over:
            return
        account = self._account or self._begun()
        self.over = True
        if self._malformed is not None:
            account.end("cut" if kind == "closed" else kind, error, bytes(self._malformed), at=at)
        else:
            account.end(kind, error, rest=self._answer.pending if rest is None else rest, at=at)


_PORTS = {"http": 80, "https": 443}

_UNSEEN = 8
"""Pieces of a request that wait to be looked at: most have a head and a body, and long ones should not be held twice."""


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _ending_of(
    error: BaseException, headed: bool, *, connecting: bool = False, handshake: bool = False
) -> tuple[EndingKind, str | None]:
    """The kind of ending that this error of urllib3, or of what is below it, is, and what a recording says of it.

    `connecting`: there was no connection yet; `handshake`: it was to be one with TLS.
    """
    causes = _causes(error)
    said = next((text for one in reversed(causes) if (text := str(one))), None)
    if not isinstance(error, (OSError, HTTPException, u.HTTPError)):
        name = type(error).__name__
        return "closed", f"{name}: {said}" if said else name

    def holds(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in causes)

    if not headed:
        if holds(socket.gaierror, u.NameResolutionError):
            return "unresolved", said
        if holds(ConnectionRefusedError):
            return "refused", said
        if holds(u.ConnectTimeoutError, u.NewConnectionError) or (connecting and holds(TimeoutError)):
            return "unreachable", said
        if handshake or (holds(ssl.SSLError, u.SSLError) and not holds(ssl.SSLEOFError)):
            return "tls", said
        if connecting:
            return "unreachable", said
    if holds(TimeoutError, u.TimeoutError):
        return "stall", said
    resets = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
    if holds(*resets) and not holds(RemoteDisconnected):  # which is a reset by name alone
        return "reset", said
    return "cut", said


def _causes(error: BaseException) -> list[BaseException]:
    """The error and those that it was made from, outermost first."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    for one in waiting:
        if isinstance(one, BaseException) and not any(one is other for other in found):
            found.append(one)
            waiting += (one.__cause__, *one.args)
    return found
