"""Door 4: a loopback server that plays a fake's replies to any client, exact to the byte, the chunk and the ending.

One thread, made by `start` and gone after `stop`, owns every socket: blocking clients, async ones and those of other
processes are served alike. What is answered is the fake's decision, what that is in bytes is `wire`'s; here is only
when bytes leave and how a connection ends.

    complete                 the connection takes the next request, unless one side said close
    cut                      FIN after everything was sent, then what still comes in is dropped
    reset                    RST, once the peer's kernel has everything
    stall                    open and silent until the client leaves or the server stops
    closed, unfinished       the client is expected to leave; one that stays is cut, and `ReadPastRecording` is raised
                             at the exit
    refused                  in order: while it is the next answer, the port is bound and does not listen, and the
                             kernel refuses every connection until `resume`. From a rule: a reset before any byte
    unresolved, tls,         a reset before any byte: whoever has reached a server cannot be told more
    unreachable

A call is `played` when its ending was given, a stall when the client gives up; it is `closed` when the client leaves,
or the server stops, before that. Its `position` is what was sent, and once it is `closed`, what of that the client's
kernel has taken (where the system tells: on Linux). A client that closed looks like one that closed its half and
reads on, until more is sent to it.

No client costs more than this, whatever it does:

    it says nothing, or nothing more          its connection is closed after `idle_timeout`
    its request does not become whole         408 after `request_timeout`; the parser bounds its size
    it takes nothing more of its answer       a reset after `write_timeout`; what it has not taken all clients share
    it asks on while it is answered           no more is read while a whole request waits
    it stays where a recorded client left     cut off 0.25 s after that one's time
    it talks on after FIN                     read and dropped for at most 2 s
    it is to be reset and takes nothing more  reset all the same after 5 s
"""

from __future__ import annotations

import heapq
import ipaddress
import os
import re
import select
import selectors
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from time import monotonic
from typing import Any, NamedTuple, Protocol

from aivvm.transport import Headers, Request
from aivvm_testing.call import Call, Outcome
from aivvm_testing.errors import ReadPastRecording, SetupFailure, UnmatchedRequest
from aivvm_testing.reply import Reply
from aivvm_testing.wire import (
    CONTINUE,
    AwaitsContinue,
    Event,
    Incoming,
    Refusal,
    RequestParser,
    Schedule,
    Schedules,
    Stop,
    schedule,
)

_GRACE = 0.25
_LINGER = 2.0
_RESET_PATIENCE = 5.0
_RESET_POLL = 0.001
_ACCEPT_AGAIN = 0.05
# What one turn does at most, so that neither those who come nor those who are served wait long for the others. Measured
# with 5,000 streams that begin together, a frame each 50 ms, on a core that cannot keep up: 99 % have their first byte
# after 0.25 s, and 99 % of the frames come 120 ms after the one before. With no bound on the calls it is 0.7 s and 130 ms,
# with half as many 0.2 s and 130 ms.
_ACCEPTS_AT_ONCE = 256
_EVENTS_AT_ONCE = 256
_CALLS_AT_ONCE = 512
_BACKLOG = 4096
_READ_SIZE = 64 * 1024
_MAX_JOINED = 64 * 1024
_LONGEST_WAIT = 3600.0  # in one call; the kernel counts milliseconds in 31 bits
_LAST_MOMENT = 1e12  # as good as never
_RST_ON_CLOSE = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)  # linger on, for 0 seconds
# A client that has read the last byte must not find the connection open, and use it again. So the kernel, where it can,
# keeps that byte until FIN goes with it.
_WITH_FIN: int = getattr(socket, "MSG_MORE", 0)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?")
_PREFLIGHT_MAX_AGE = "600"
_ON_CONTINUE = Schedule(((0.0, CONTINUE),), "keep", 0.0)


class _Selected:
    """What is used of `select.epoll`, for systems that have none."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, fd: int, mask: int) -> None:
        if mask:
            self._selector.register(fd, mask)

    def unregister(self, fd: int) -> None:
        with suppress(KeyError):
            self._selector.unregister(fd)

    def modify(self, fd: int, mask: int) -> None:
        self.unregister(fd)
        self.register(fd, mask)

    def poll(self, timeout: float | None, limit: int) -> list[tuple[int, int]]:
        return [(key.fd, events) for key, events in self._selector.select(timeout)]

    def close(self) -> None:
        self._selector.close()


if sys.platform == "linux":
    import fcntl

    # Not the selector around it, as that makes three objects for each event; and only so is a client's reset told of
    # when nothing is expected from it.
    _poller: Callable[[], Any] = select.epoll
    _READABLE, _WRITABLE = select.EPOLLIN, select.EPOLLOUT
    _SIOCOUTQ, _SIOCOUTQNSD = 0x5411, 0x894B  # linux/sockios.h

    def _unacknowledged(sock: socket.socket) -> int:
        """Bytes that were sent and that the peer's kernel has not confirmed."""
        return int.from_bytes(fcntl.ioctl(sock, _SIOCOUTQ, b"\0\0\0\0"), sys.byteorder)

    def _unsent(sock: socket.socket) -> int:
        """Bytes that are still here, for want of room in the peer's kernel."""
        return int.from_bytes(fcntl.ioctl(sock, _SIOCOUTQNSD, b"\0\0\0\0"), sys.byteorder)

else:
    _poller = _Selected
    _READABLE, _WRITABLE = selectors.EVENT_READ, selectors.EVENT_WRITE

    def _unacknowledged(sock: socket.socket) -> int:
        """Not known here: a reset may overtake the last bytes before it."""
        return 0

    _unsent = _unacknowledged


class Answers(Protocol):
    """What a server needs of a fake. It is called from the server's thread and must not block."""

    def answer(self, request: Request) -> Call:
        """The call with its reply, whose times are in seconds since the request was whole."""
        ...

    def refuses_next(self) -> bool:
        """Whether the next answer in order is a refused connection."""
        ...

    def skip_refused(self) -> None:
        """Counts that answer as given."""
        ...

    def failed(self, error: SetupFailure) -> None:
        """Takes an error that the client cannot be given."""
        ...


class _Settings(NamedTuple):
    """What a server was told when it was made."""

    family: int
    address: tuple[Any, ...]
    host: str
    added: Headers
    idle_timeout: float
    request_timeout: float
    write_timeout: float


class FakeServer:
    """A server on `host` and `port` (0: a free one) that answers what the fake answers.

    `start` and `stop`, or a `with` block; `async with` in an asyncio program, which then does not wait for the thread.
    Leaving the block without an exception raises the first failure that no client could be given: `UnmatchedRequest`
    (the client got a 501), `ReadPastRecording`, or a `SetupFailure` around whatever the fake raised (the client got a
    500). A `host` that is not loopback is a `ValueError` unless `allow_remote`.

    `cors`: whether pages of other origins may read what is answered: True for all, or the one that may, such as
    `http://localhost:3000`. Then every answer says so, refusals and failures too, unless the reply has a say of its
    own; and the server answers preflights itself, which are no calls of the fake. Credentials are not allowed for.

    Patience, in seconds. `idle_timeout`: with a connection that waits for its next request, or its first; the real
    server promises 5. `request_timeout`: from a request's first byte to its last. `write_timeout`: until a client takes
    more of what is due.

    Methods may be called from any thread but the server's own. A stopped server can be started again.
    """

    def __init__(
        self,
        fake: Answers,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        cors: bool | str = False,
        allow_remote: bool = False,
        idle_timeout: float = 60.0,
        request_timeout: float = 10.0,
        write_timeout: float = 60.0,
    ) -> None:
        patience = {
            "idle_timeout": idle_timeout,
            "request_timeout": request_timeout,
            "write_timeout": write_timeout,
        }
        for name, seconds in patience.items():
            if not seconds > 0:
                raise ValueError(f"{name} is a number of seconds over 0, but got {seconds!r}")
        added = _cors_fields(cors)
        family, address = _resolve(host, port, allow_remote)
        name = f"[{host}]" if ":" in host else host
        self._fake = fake
        self._settings = _Settings(family, address, name, added, **patience)
        self._failures: list[SetupFailure] = []
        self._running: tuple[_Loop, threading.Thread] | None = None

    @property
    def port(self) -> int:
        """The port it listens on; `RuntimeError` when it is not running."""
        return self._loop.port

    @property
    def url(self) -> str:
        """`http://host:port`, without a slash at the end; `RuntimeError` when it is not running."""
        return f"http://{self._loop.authority}"

    @property
    def _loop(self) -> _Loop:
        if self._running is None:
            raise RuntimeError("the server is not running: call start(), or use it in a with block")
        return self._running[0]

    def start(self) -> None:
        """Binds the port and answers from now on. Raises `OSError` where the port is taken."""
        if self._running is not None:
            raise RuntimeError(f"the server is already running at {self.url}")
        self._failures = []
        loop = _Loop(self._fake, self._settings, self._failures)
        thread = threading.Thread(target=loop.run, name=f"aivvm-server-{loop.port}", daemon=True)
        thread.start()
        self._running = loop, thread

    def stop(self) -> None:
        """Closes every connection, streams included, and returns when the thread is gone. Harmless when stopped."""
        running, self._running = self._running, None
        if running is not None:
            loop, thread = running
            loop.stop()
            thread.join()

    def resume(self) -> None:
        """Counts the refused connection that comes next as given, and listens again (until the next one)."""
        loop = self._loop
        self._fake.skip_refused()
        loop.call(loop.follow)

    def recheck(self) -> None:
        """Asks the fake again whether it refuses next: for a script that changed while no request was answered.

        From the server's own thread it does nothing: there an answer is being made, after which it asks anyway.
        """
        running = self._running
        if running is not None and running[1] is not threading.current_thread():
            with suppress(RuntimeError):  # it has stopped meanwhile
                running[0].call(running[0].follow)

    def __enter__(self) -> FakeServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.stop()
        if kind is None and self._failures:
            raise self._failures[0]

    async def __aenter__(self) -> FakeServer:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        import asyncio  # who comes here has it; others need not pay for it

        await asyncio.to_thread(self.stop)
        self.__exit__(kind)


def _resolve(host: str, port: int, allow_remote: bool) -> tuple[int, tuple[Any, ...]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    if not (allow_remote or ipaddress.ip_address(address[0]).is_loopback):
        raise ValueError(
            f"a fake server is for this machine alone, but host={host!r} is {address[0]}, which others may reach: "
            "use 127.0.0.1 or ::1, or say allow_remote=True"
        )
    return family, address


def _cors_fields(cors: bool | str) -> Headers:
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


def _preflight(request: Request) -> Reply | None:
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


def _bind(family: int, address: tuple[Any, ...]) -> socket.socket:
    """A socket that holds the port. It refuses every connection until it listens."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere the option lets others take the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise OSError(
            error.errno, f"no server at {address[0]} port {address[1]}: {error.strerror}"
        ) from error
    return sock


class _Timed(Protocol):
    """What is called when its time has come. `due` is for `_Moments` alone: a tick, or 0."""

    due: int

    def on_time(self) -> None: ...


class _Moments:
    """Who is called when: one moment for each, a later word replaces an earlier one.

    To the millisecond, never too early: the kernel waits no more exactly, and streams whose frames are due in the same
    one share an entry. Their order is kept.
    """

    def __init__(self) -> None:
        self._slots: dict[int, dict[_Timed, None]] = {}
        self._ticks: list[int] = []  # a heap of all in `_slots`, and of some that are gone

    def set(self, whose: _Timed, moment: float) -> None:
        tick = int(min(moment, _LAST_MOMENT) * 1000) + 1
        if whose.due:
            if whose.due == tick:
                return
            self.drop(whose)
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = {}
            heapq.heappush(self._ticks, tick)
        slot[whose] = None
        whose.due = tick

    def set_by(self, whose: _Timed, moment: float) -> None:
        """As `set`, but an earlier moment stays: for whoever looks, when called, whether it is time, and mostly is not
        called at all. It is done for every answer, and does nothing then."""
        if not 0 < whose.due <= moment * 1000:
            self.set(whose, moment)

    def drop(self, whose: _Timed) -> None:
        slot = self._slots.get(whose.due)
        if slot is not None and whose in slot:  # not if it is being called
            del slot[whose]
            if not slot:
                del self._slots[whose.due]
                if len(self._ticks) > 2 * len(self._slots) + 64:
                    self._ticks = list(self._slots)
                    heapq.heapify(self._ticks)
        whose.due = 0

    def patience(self) -> float | None:
        """Seconds until someone is due; None for never."""
        if not self._ticks:
            return None
        return min(max(0.0, self._ticks[0] / 1000 - monotonic()), _LONGEST_WAIT)

    def due(self) -> list[_Timed]:
        """Whose moment has come, in order; of many the first, and the others when it is asked again."""
        now = int(monotonic() * 1000)
        due: list[_Timed] = []
        while self._ticks and self._ticks[0] <= now and len(due) < _CALLS_AT_ONCE:
            due += self._slots.pop(heapq.heappop(self._ticks), ())
        for whose in due:
            whose.due = 0
        return due


class _Loop:
    """Everything that the server's thread owns. Only `stop` and `call` are for other threads."""

    def __init__(self, fake: Answers, settings: _Settings, failures: list[SetupFailure]) -> None:
        self.settings = settings
        self._fake = fake
        self._failures = failures
        self._door = _bind(settings.family, settings.address)
        self._address = (settings.address[0], self._door.getsockname()[1], *settings.address[2:])
        self.port: int = self._address[1]
        self.authority = f"{settings.host}:{self.port}"
        self._schedules = Schedules()
        self._connections: dict[int, _Connection] = {}
        self.sending: list[_Connection] = []  # to be flushed when all that is ready has been looked at
        self._commands: deque[tuple[Callable[[], None], SimpleQueue[Exception | None]]] = deque()
        self._over = False
        self.moments = _Moments()
        self.due = 0  # set while the process is out of file descriptors: then it accepts again
        self.refusing = True
        self._poller = _poller()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._poller.register(self._ear.fileno(), _READABLE)
        self.follow()

    # For other threads

    def stop(self) -> None:
        self._over = True
        self._ring()

    def call(self, command: Callable[[], None]) -> None:
        """Runs `command` in the loop's thread; returns, or raises, when it has."""
        outcome: SimpleQueue[Exception | None] = SimpleQueue()
        self._commands.append((command, outcome))
        self._ring()
        if self._over:  # perhaps before it saw this one
            self._turn_away()
        if (error := outcome.get()) is not None:
            raise error

    def _turn_away(self) -> None:
        with suppress(IndexError):
            while True:
                _, outcome = self._commands.popleft()
                outcome.put(RuntimeError("the server has stopped"))

    def _ring(self) -> None:
        with suppress(OSError):  # full: it rings already; closed: nobody is left to hear it
            self._bell.send(b"\0")

    # The thread

    def run(self) -> None:
        poll, connections, patience = self._poller.poll, self._connections, self.moments.patience
        try:
            while not self._over:
                for fd, events in poll(0 if self.sending else patience(), _EVENTS_AT_ONCE):
                    connection = connections.get(fd)
                    if connection is not None:
                        try:
                            connection.ready(events)
                        except Exception as error:
                            self._give_up(connection, error)
                    elif fd == self._ear.fileno():
                        self._hear()
                    elif fd == self._door.fileno():  # else it was closed since
                        self._accept()
                self._keep_time()
                self._send()
        finally:
            self._over = True
            self._turn_away()
            for connection in list(connections.values()):
                connection.close()
            for sock in (self._door, self._bell, self._ear):
                sock.close()
            self._poller.close()

    def _keep_time(self) -> None:
        for whose in self.moments.due():
            try:
                whose.on_time()
            except Exception as error:
                self._give_up(whose, error)

    def _send(self) -> None:
        sending, self.sending = self.sending, []
        for connection in sending:
            try:
                connection.flush()
            except Exception as error:
                self._give_up(connection, error)

    def _give_up(self, connection: _Timed, error: Exception) -> None:
        """One connection could not be served; the others can."""
        self.report(_wrapped(error, "a connection could not be served"))
        if isinstance(connection, _Connection):
            connection.close()

    def _hear(self) -> None:
        self._ear.recv(4096)
        while self._commands:
            command, outcome = self._commands.popleft()
            try:
                command()
            except Exception as error:  # the caller's
                outcome.put(error)
            else:
                outcome.put(None)

    # The door

    def follow(self) -> None:
        """Listens, or refuses, as the fake's next answer asks for."""
        try:
            refusing = self._fake.refuses_next()
        except Exception as error:  # the fake's own, whoever wrote it
            self.report(_wrapped(error, "the fake could not say what comes next"))
            refusing = False
        if refusing == self.refusing:
            return
        self.refusing = refusing
        if not refusing:
            self._door.listen(_BACKLOG)
            self.on_time()
            return
        if self.due:
            self.moments.drop(self)
        else:
            self._poller.unregister(self._door.fileno())
        self._door.close()
        self._door = _bind(self.settings.family, self._address)
        for connection in list(self._connections.values()):
            connection.dismiss()

    def on_time(self) -> None:
        """Accepts, from now on."""
        self._poller.register(self._door.fileno(), _READABLE)

    def _accept(self) -> None:
        if self.refusing:  # since the event was seen: what waited at the door was reset when it closed
            return
        try:
            for _ in range(_ACCEPTS_AT_ONCE):
                sock, _ = self._door.accept()
                sock.setblocking(False)
                with suppress(OSError):  # gone already: reading will tell
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._poller.register(sock.fileno(), _READABLE)
                self._connections[sock.fileno()] = _Connection(self, sock)
        except (BlockingIOError, ConnectionAbortedError):
            pass
        except OSError:
            # Out of file descriptors, most likely. Who waits at the door stays readable: look again a little later.
            self._poller.unregister(self._door.fileno())
            self.moments.set(self, monotonic() + _ACCEPT_AGAIN)

    # For connections

    def answer(self, incoming: Incoming) -> tuple[Schedule, Call | None]:
        """What this request is answered, and as which call; a failure is answered too, and reported."""
        request, version, keep_alive = incoming
        method, added = request.method, self.settings.added
        call: Call | None = None
        reply = _preflight(request) if added else None
        if reply is None:
            try:
                call = self._fake.answer(request)
                assert call.reply is not None
                made = self._schedules.of(
                    call.reply, method=method, version=version, keep_alive=keep_alive, added=added
                )
                call.on_wire(made.ends)
                return made, call
            # pytest.fail() too: the client gets an answer, and the test the error.
            except BaseException as error:
                failure = _wrapped(error, f"no answer could be made to {method} {request.url}")
                self.report(failure)
                reply = _explaining(failure)
                if call is not None:
                    call.over("unmatched", 0.0)
        return schedule(reply, method=method, version=version, keep_alive=keep_alive, added=added), None

    def refuse(self, status: int) -> Schedule:
        """What is answered to no acceptable request, as the real server does: no body, and the connection ends."""
        return schedule(Reply.of(status=status, headers={"Connection": "close"}), added=self.settings.added)

    def report(self, error: SetupFailure) -> None:
        if not self._failures:  # only the first is raised, and a long-lived server may meet many
            self._failures.append(error)
        with suppress(Exception):  # it is kept here already
            self._fake.failed(error)

    def watch(self, fd: int, mask: int) -> None:
        self._poller.modify(fd, mask)

    def forget(self, fd: int, connection: _Connection) -> None:
        # Closing the socket is not enough: a forked child may hold it open, and the kernel would go on about it.
        self._poller.unregister(fd)
        del self._connections[fd]
        self.moments.drop(connection)


def _wrapped(error: BaseException, what: str) -> SetupFailure:
    if isinstance(error, SetupFailure):
        return error
    failure = SetupFailure(f"{what}: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _explaining(failure: SetupFailure) -> Reply:
    """What a client is told about a failure: the first line in the reason phrase, all of it in the body."""
    status, kind = (501, "unmatched") if isinstance(failure, UnmatchedRequest) else (500, "error")
    text = str(failure)
    first = text.partition("\n")[0][:200]
    body = text.encode("utf-8", "backslashreplace")
    headers = [
        ("content-type", "text/plain;charset=UTF-8"),
        ("content-length", str(len(body))),
        ("x-aivvm-testing", kind),
    ]
    reason = "".join([c if " " <= c <= "~" else "?" for c in first])
    return Reply.of(body, status=status, reason=reason, headers=headers)


def _silent() -> None:
    """What happens while an answer stalls."""


def _closed() -> None:
    """What happens after the end."""


class _Connection:
    """One client: reads its requests, plays one answer after the other, and ends as the answer does.

    It waits for one thing at a time. `_playing` is the answer under way, None while it is the client's turn. `_out` is
    what is due of it, until the kernel has taken it. Once `_after` is set, all that will ever be sent has been: what
    still comes in is dropped, and `_after` is what happens next.
    """

    __slots__ = (
        "_after",
        "_began",
        "_call",
        "_fd",
        "_left",
        "_loop",
        "_mask",
        "_out",
        "_parser",
        "_partial",
        "_playing",
        "_since",
        "_sock",
        "_step",
        "_unacknowledged",
        "_waiting",
        "due",
    )

    def __init__(self, loop: _Loop, sock: socket.socket) -> None:
        self.due = 0
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._mask = _READABLE
        self._parser = RequestParser(authority=loop.authority)
        self._waiting: list[Event] = []
        self._playing: Schedule | None = None
        self._call: Call | None = None
        self._began = 0.0  # when the request was whole, and its turn had come
        self._step = 0
        self._out: bytes | memoryview | None = None
        self._left = 0.0  # when the client said that it sends nothing more: it has closed, or half of it
        self._after: Callable[[], None] | None = None
        self._unacknowledged = 0
        self._partial = False  # a request has begun, and it is the client's turn
        self._since = 0.0  # when it last did what it is expected to do
        self._rest()

    # What the loop calls

    def ready(self, events: int) -> None:
        if events & _WRITABLE:
            self.flush()
        if events & _READABLE:
            if self._waiting:  # enough for now
                self._watch(self._mask & ~_READABLE)
            else:
                self._receive()
        elif events & ~_WRITABLE:  # gone for good, while nothing was expected of it
            self.close()

    def on_time(self) -> None:
        """Looks whether it is time, too: it may be called early."""
        if self._after is not None:
            self._after()
        elif self._mask & _WRITABLE:
            self._expect(self._loop.settings.write_timeout, self._abort)
        elif self._playing is not None:
            self._advance()
            self.flush()
        elif self._partial:
            self._expect(self._loop.settings.request_timeout, self._refuse_slow)
        else:
            self._expect(self._loop.settings.idle_timeout, self.close)

    def flush(self) -> None:
        """Sends what is due, as far as the kernel takes it."""
        data = self._out
        if data is None:  # closed since
            return
        try:
            sent = self._sock.send(data, _WITH_FIN if self._ends_here() else 0)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if self._call is not None:
            self._call.position += sent
        if sent == len(data):
            self._out = None
            if self._mask & _WRITABLE:
                self._watch(self._mask & ~_WRITABLE)
            self._go_on()
            return
        if sent or not self._mask & _WRITABLE:
            self._since = monotonic()
            self._loop.moments.set_by(self, self._since + self._loop.settings.write_timeout)
        self._out = memoryview(data)[sent:]
        self._watch(self._mask | _WRITABLE)

    def dismiss(self) -> None:
        """Closes where it is idle: its next request must meet a refused connection."""
        if self._playing is None and self._after is None and not self._partial:
            self.close()

    def close(self) -> None:
        if self._after is _closed:
            return
        call = self._call
        if call is not None:
            # FIN confirms all that had come. A reset confirms nothing, but what was sent before it had come, too.
            missing = _unacknowledged if self._left else _unsent
            call.position = max(0, call.position - missing(self._sock))
            self._over("played" if self._after is _silent else "closed")
        self._after = _closed
        self._waiting = []
        self._playing = self._out = None
        self._loop.forget(self._fd, self)
        self._sock.close()

    # Requests

    def _receive(self) -> None:
        try:
            data = self._sock.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._client_left()
        elif self._after is None:
            self._waiting = events = self._parser.feed(data)
            if not events:
                if self._playing is None and not self._partial:
                    self._rest()
                return
            if not self._step and isinstance(events[-1], Refusal):
                # As the real server does: a request whose body was longer than it said is not answered at all.
                del events[:-1]
                self._over("closed")
                self._playing = None
            self._go_on()

    def _client_left(self) -> None:
        """It closed, or closed its half and still reads: that shows only when more is sent."""
        self._left = monotonic()
        if self._playing is None or self._after not in (None, self._reset):
            self.close()
        else:
            self._watch(self._mask & ~_READABLE)

    def _rest(self) -> None:
        """It is the client's turn."""
        self._since = monotonic()
        self._partial = self._parser.incomplete
        settings = self._loop.settings
        patience = settings.request_timeout if self._partial else settings.idle_timeout
        self._loop.moments.set_by(self, self._since + patience)

    def _expect(self, patience: float, late: Callable[[], None]) -> None:
        """The client's time may be up."""
        moment = self._since + patience
        if moment > monotonic():
            self._loop.moments.set(self, moment)
        else:
            late()

    def _refuse_slow(self) -> None:
        self._waiting = [Refusal(408, "the rest of the request did not come in time")]
        self._go_on()

    # Answers

    def _go_on(self) -> None:
        """Advances, and has what is due sent when all clients that are ready have been looked at.

        So answers leave in one go: a client that the first of them woke is awake for the next, which saves a fifth of
        the time of a send. And nobody who asks on at once keeps the others waiting.
        """
        self._advance()
        if self._out is not None:
            self._loop.sending.append(self)

    def _advance(self) -> None:
        """Goes on until something is to be sent, or it is the client's turn, or the clock's."""
        while self._out is None and self._after is None:
            playing = self._playing
            if playing is None:
                if not self._waiting:
                    self._rest()
                    break
                self._begin(self._waiting.pop(0))
            elif self._step < len(playing.steps):
                at = playing.steps[self._step][0]
                if at and not self._is_due(at):
                    break
                self._out = self._due_bytes(playing.steps)
            elif playing.at and not self._is_due(playing.at):
                break
            else:
                self._stop(playing.stop)

    def _begin(self, event: Event) -> None:
        if not (self._waiting or self._mask & _READABLE or self._left):
            self._watch(self._mask | _READABLE)
        self._began = monotonic()
        self._partial = False
        self._step = 0
        if isinstance(event, Incoming):
            self._playing, self._call = self._loop.answer(event)
            self._loop.follow()
        elif isinstance(event, AwaitsContinue):
            self._playing = _ON_CONTINUE
        else:
            self._playing = self._loop.refuse(event.status)

    def _due_bytes(self, steps: tuple[tuple[float, bytes], ...]) -> bytes:
        """The next step, which is due, and those that have become due meanwhile: late frames leave in one write."""
        data = steps[self._step][1]
        self._step += 1
        if self._step < len(steps):
            elapsed = monotonic() - self._began
            while self._step < len(steps) and steps[self._step][0] <= elapsed and len(data) < _MAX_JOINED:
                data += steps[self._step][1]
                self._step += 1
        return data

    def _is_due(self, at: float) -> bool:
        moment = self._began + at
        if moment <= monotonic():
            return True
        self._loop.moments.set(self, moment)
        return False

    def _ends_here(self) -> bool:
        """Whether FIN follows what is being sent."""
        playing = self._playing
        return (
            playing is not None
            and self._hangs_up_after(playing.stop)
            and self._step == len(playing.steps)
            and self._is_due(playing.at)
        )

    def _hangs_up_after(self, stop: Stop) -> bool:
        return stop == "close" or (stop == "keep" and (self._left > 0 or self._loop.refusing))

    def _stop(self, stop: Stop) -> None:
        if self._hangs_up_after(stop):
            self._hang_up()
        elif stop == "keep":
            self._over("played")
            self._playing = None
            self._step = 0
        elif stop == "reset":
            self._since = monotonic()
            self._reset()
        else:
            if stop == "stall":
                self._finish(_silent)
            else:
                self._finish(self._read_past, _GRACE)
            if self._left:
                self.close()

    def _finish(self, after: Callable[[], None], seconds: float | None = None) -> None:
        """Nothing more will be sent. `after` so many seconds, unless the client leaves before."""
        self._after = after
        self._waiting = []
        self._watch(0 if self._left else _READABLE)
        if seconds is None:
            self._loop.moments.drop(self)
        else:
            self._loop.moments.set(self, monotonic() + seconds)

    def _hang_up(self) -> None:
        """FIN. Closing at once would send RST after it if the client has sent something that nobody read."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._over("played")
        if self._left:
            self.close()
        else:
            self._finish(self.close, _LINGER)

    def _reset(self) -> None:
        """RST, which discards what the peer's kernel has not taken yet: so that comes first."""
        now = monotonic()
        left = _unacknowledged(self._sock)
        if left != self._unacknowledged:
            self._unacknowledged = left
            self._since = now  # it still takes some
        if left and now < self._since + _RESET_PATIENCE:
            self._finish(self._reset, max(_RESET_POLL, (now - self._since) / 4))
        else:
            self._over("played")
            self._abort()

    def _abort(self) -> None:
        with suppress(OSError):  # gone already
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self.close()

    def _read_past(self) -> None:
        assert self._call is not None
        method, url = self._call.request[:2]
        self._loop.report(
            ReadPastRecording(
                f"{method} {url}: the recording stops where its reader left, and this reader stayed "
                f"{_GRACE:g} s longer, so it was cut off. Close the response as early as the recorded reader did, "
                "or record the answer whole."
            )
        )
        self._hang_up()

    def _over(self, outcome: Outcome) -> None:
        call, self._call = self._call, None
        if call is not None:
            left = outcome == "closed" and self._left > self._began
            call.over(outcome, (self._left if left else monotonic()) - self._began)

    def _watch(self, mask: int) -> None:
        if mask != self._mask:
            self._mask = mask
            self._loop.watch(self._fd, mask)
