"""Door 4: a loopback server that plays a fake's replies to any client, exact to the byte, the chunk and the ending.

One thread, made by `start` and gone after `stop`, owns every socket; a stream costs a small object and, while it
waits, one entry in a heap of moments. What is answered is the fake's decision, what that is in bytes is `wire`'s;
here is only when bytes leave and how a connection ends.

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

Figures that are nobody's parameter: a client has 0.25 s more than the recorded reader to leave a `closed` answer;
after FIN its remaining bytes are read for at most 2 s; a reset waits 5 s for a peer that takes nothing more.
"""

from __future__ import annotations

import heapq
import ipaddress
import os
import selectors
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from queue import SimpleQueue
from time import monotonic
from typing import Any, Protocol

from aivvm.transport import Request
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
_ACCEPTS_AT_ONCE = 64  # then streams have their turn
_BACKLOG = 4096
_READ_SIZE = 64 * 1024
_MAX_JOINED = 64 * 1024
_MAX_WAITING = 64  # pipelined requests that a connection takes in while it is answering
_RST_ON_CLOSE = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)  # linger on, for 0 seconds
# A client that has read the last byte must not find the connection open, and use it again. So the kernel, where it can,
# keeps that byte until FIN goes with it.
_WITH_FIN: int = getattr(socket, "MSG_MORE", 0)
_ON_CONTINUE = Schedule(((0.0, CONTINUE),), "keep", 0.0)

if sys.platform == "linux":
    import fcntl

    _SIOCOUTQ = 0x5411  # linux/sockios.h

    def _unacknowledged(sock: socket.socket) -> int:
        """Bytes that were sent and that the peer's kernel has not confirmed."""
        return int.from_bytes(fcntl.ioctl(sock, _SIOCOUTQ, b"\0\0\0\0"), sys.byteorder)

else:

    def _unacknowledged(sock: socket.socket) -> int:
        """Not known here: a reset may overtake the last bytes before it."""
        return 0


class Answers(Protocol):
    """What a server needs of a fake. It is called from the server's thread and must not block."""

    def answer(self, request: Request) -> Reply:
        """The reply, its times in seconds since the request was whole."""
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


class FakeServer:
    """A server on `host` and `port` (0: a free one) that answers what the fake answers.

    `start` and `stop`, or a `with` block. Leaving the block without an exception raises the first failure that no
    client could be given: `UnmatchedRequest` (the client got a 501), `ReadPastRecording`, or a `SetupFailure` around
    whatever the fake raised (the client got a 500). A `host` that is not loopback is a `ValueError` unless
    `allow_remote`. `request_timeout`: seconds from a request's first byte to its last; 408 after that.

    Methods may be called from any thread but the server's own. A stopped server can be started again.
    """

    def __init__(
        self,
        fake: Answers,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        allow_remote: bool = False,
        request_timeout: float = 10.0,
    ) -> None:
        self._family, self._address = _resolve(host, port, allow_remote)
        self._fake = fake
        self._host = f"[{host}]" if ":" in host else host
        self._request_timeout = request_timeout
        self._failures: list[SetupFailure] = []
        self._running: tuple[_Loop, threading.Thread] | None = None

    @property
    def port(self) -> int:
        """The port it listens on; `RuntimeError` when it is not running."""
        return self._loop.port

    @property
    def url(self) -> str:
        """`http://host:port`, without a slash at the end; `RuntimeError` when it is not running."""
        return f"http://{self._host}:{self.port}"

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
        loop = _Loop(
            self._fake, self._family, self._address, self._host, self._request_timeout, self._failures
        )
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


def _resolve(host: str, port: int, allow_remote: bool) -> tuple[int, tuple[Any, ...]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    if not (allow_remote or ipaddress.ip_address(address[0]).is_loopback):
        raise ValueError(
            f"a fake server is for this machine alone, but host={host!r} is {address[0]}, which others may reach: "
            "use 127.0.0.1 or ::1, or say allow_remote=True"
        )
    return family, address


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


class _Loop:
    """Everything that the server's thread owns. Only `stop` and `call` are for other threads."""

    def __init__(
        self,
        fake: Answers,
        family: int,
        address: tuple[Any, ...],
        host: str,
        request_timeout: float,
        failures: list[SetupFailure],
    ) -> None:
        self._fake = fake
        self._family = family
        self._door = _bind(family, address)
        self._address = (address[0], self._door.getsockname()[1], *address[2:])
        self.port: int = self._address[1]
        self.authority = f"{host}:{self.port}"
        self._failures = failures
        self._schedules = Schedules()
        self._connections: set[_Connection] = set()
        self._moments: list[tuple[float, int, _Connection | _Loop]] = []
        self._moment = 0
        self._request_timeout = request_timeout
        self._unfinished: dict[_Connection, float] = {}  # all are given as long, so the first is due first
        self._commands: deque[tuple[Callable[[], None], SimpleQueue[Exception | None]]] = deque()
        self._over = False
        self.due: float | None = None  # when it accepts again, after the process ran out of file descriptors
        self.refusing = True
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ, self._hear)
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
        try:
            while not self._over:
                for key, _ in self._selector.select(self._patience()):
                    if isinstance(key.data, _Connection):
                        self._attend(key.data, key.data.ready)
                    else:
                        key.data()
                self._keep_time()
        finally:
            self._over = True
            self._turn_away()
            for connection in list(self._connections):
                connection.close()
            for sock in (self._door, self._bell, self._ear):
                sock.close()
            self._selector.close()

    def _patience(self) -> float | None:
        """Seconds until something is due."""
        due = next(iter(self._unfinished.values()), inf)
        if self._moments:
            due = min(due, self._moments[0][0])
        return None if due == inf else max(0.0, due - monotonic())

    def _keep_time(self) -> None:
        moments = self._moments
        now = monotonic()
        while moments and moments[0][0] <= now:
            at, _, whose = heapq.heappop(moments)
            if whose.due == at:
                whose.due = None
                if isinstance(whose, _Connection):
                    self._attend(whose, whose.on_time)
                else:
                    self._open_door()
        while self._unfinished:
            connection, deadline = next(iter(self._unfinished.items()))
            if deadline > now:
                break
            self._attend(connection, connection.expire)

    def _attend(self, connection: _Connection, event: Callable[[], None]) -> None:
        try:
            event()
        except Exception as error:  # one connection's, never the thread's
            self.report(_wrapped(error, "a connection could not be served"))
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
            self._open_door()
            return
        if self.due is None:
            self._selector.unregister(self._door)
        self.due = None
        self._door.close()
        self._door = _bind(self._family, self._address)
        for connection in list(self._connections):
            connection.dismiss()

    def _open_door(self) -> None:
        self._selector.register(self._door, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        if self.refusing:  # since the event was seen: what waited at the door was reset when it closed
            return
        try:
            for _ in range(_ACCEPTS_AT_ONCE):
                sock, _ = self._door.accept()
                sock.setblocking(False)
                with suppress(OSError):  # gone already: reading will tell
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = _Connection(self, sock)
                self._connections.add(connection)
                self._selector.register(sock, selectors.EVENT_READ, connection)
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            pass
        except OSError:
            # Out of file descriptors, most likely. Who waits at the door stays readable: look again a little later.
            self._selector.unregister(self._door)
            self.call_at(monotonic() + _ACCEPT_AGAIN, self)

    # For connections

    def answer(self, incoming: Incoming) -> Schedule:
        """What this request is answered; a failure is answered too, and reported."""
        request, version, keep_alive = incoming
        try:
            reply = self._fake.answer(request)
            made = self._schedules.of(reply, method=request.method, version=version, keep_alive=keep_alive)
        except BaseException as error:  # pytest.fail() too: the client gets an answer, and the test the error
            failure = _wrapped(error, f"no answer could be made to {request.method} {request.url}")
            self.report(failure)
            reply = _explaining(failure)
            made = schedule(reply, method=request.method, version=version, keep_alive=keep_alive)
        return made

    def report(self, error: SetupFailure) -> None:
        if not self._failures:  # only the first is raised, and a long-lived server may meet many
            self._failures.append(error)
        with suppress(Exception):  # it is kept here already
            self._fake.failed(error)

    def call_at(self, moment: float, whose: _Connection | _Loop) -> None:
        """Has `whose` called at that moment of the monotonic clock, unless its `due` says otherwise by then."""
        whose.due = moment
        self._moment += 1  # equal moments are kept in order, and connections are not compared
        heapq.heappush(self._moments, (moment, self._moment, whose))

    def watch(self, connection: _Connection, sock: socket.socket, events: int, before: int) -> None:
        if not before:
            self._selector.register(sock, events, connection)
        elif events:
            self._selector.modify(sock, events, connection)
        else:
            self._selector.unregister(sock)

    def expect_the_rest(self, connection: _Connection, incomplete: bool) -> None:
        """A request has `request_timeout` from its first byte on."""
        if not incomplete:
            self._unfinished.pop(connection, None)
        elif connection not in self._unfinished:
            self._unfinished[connection] = monotonic() + self._request_timeout

    def forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._unfinished.pop(connection, None)


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


def _nothing() -> None:
    """What happens after the end."""


class _Connection:
    """One client: reads its requests, plays one answer after the other, and ends as the answer does.

    `_playing` is the answer under way, None while it waits for a request. Once `_after` is set, all that will ever
    be sent has been: what still comes in is dropped, and `_after` is what happens when `due`.
    """

    __slots__ = (
        "_after",
        "_asked",
        "_began",
        "_left",
        "_loop",
        "_parser",
        "_pending",
        "_playing",
        "_sock",
        "_step",
        "_unacknowledged",
        "_waiting",
        "_watched",
        "due",
    )

    def __init__(self, loop: _Loop, sock: socket.socket) -> None:
        self.due: float | None = None
        self._loop = loop
        self._sock = sock
        self._watched: int = selectors.EVENT_READ
        self._parser = RequestParser(authority=loop.authority)
        self._waiting: list[Event] = []
        self._asked = ("", "")  # method and url
        self._playing: Schedule | None = None
        self._began = 0.0  # when the request was whole, and its turn had come
        self._step = 0
        self._pending: memoryview | None = None  # of a step that the kernel did not take whole
        self._left = False  # the client sends nothing more: it has closed, or half of it
        self._after: Callable[[], None] | None = None
        self._unacknowledged = 0

    # What the loop calls

    def ready(self) -> None:
        if self._pending is not None:
            data, self._pending = self._pending, None
            self._send(data)
            self._advance()
        if self._watched & selectors.EVENT_READ:
            self._receive()

    def on_time(self) -> None:
        if self._after is not None:
            self._after()
        else:
            self._advance()

    def expire(self) -> None:
        self._waiting.append(Refusal(408, "the rest of the request did not come in time"))
        self._advance()

    def dismiss(self) -> None:
        """Closes where it is idle: its next request must meet a refused connection."""
        if self._playing is None and self._after is None and not self._parser.incomplete:
            self.close()

    def close(self) -> None:
        self._after = _nothing
        self._left = True
        self._waiting = []
        self._playing = self._pending = self.due = None
        self._settle()
        self._sock.close()
        self._loop.forget(self)

    # Requests

    def _receive(self) -> None:
        try:
            data = self._sock.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if not data:
            self._client_left()
        elif self._after is None:
            self._waiting += (events := self._parser.feed(data))
            if events and isinstance(events[-1], Refusal) and not self._step:
                # As the real server does: a request whose body was longer than it said is not answered at all.
                del self._waiting[:-1]
                self._playing = self.due = None
            self._advance()

    def _client_left(self) -> None:
        """It closed, or closed its half and still reads: that shows only when more is sent."""
        self._left = True
        if self._playing is None or self._after is not None:
            self.close()
        else:
            self._settle()

    # Answers

    def _advance(self) -> None:
        """Does all that is due."""
        while self._after is None and self._pending is None:
            playing = self._playing
            if playing is None:
                if not self._waiting:
                    break
                self._begin(self._waiting.pop(0))
            elif self._step < len(playing.steps):
                if not self._is_due(playing.steps[self._step][0]):
                    break
                self._send(self._due_bytes(playing.steps))
            elif self._is_due(playing.at):
                self._stop(playing.stop)
            else:
                break
        self._settle()

    def _begin(self, event: Event) -> None:
        self._began = monotonic()
        if isinstance(event, Incoming):
            self._asked = event.request[:2]
            self._playing = self._loop.answer(event)
            self._loop.follow()
        elif isinstance(event, AwaitsContinue):
            self._playing = _ON_CONTINUE
        else:
            self._playing = Schedule(((0.0, event.answer),), "close", 0.0)

    def _due_bytes(self, steps: tuple[tuple[float, bytes], ...]) -> bytes:
        """The next step, which is due, and those that have become due meanwhile: late frames leave in one write."""
        data = steps[self._step][1]
        self._step += 1
        elapsed = monotonic() - self._began
        while self._step < len(steps) and steps[self._step][0] <= elapsed and len(data) < _MAX_JOINED:
            data += steps[self._step][1]
            self._step += 1
        return data

    def _is_due(self, at: float) -> bool:
        moment = self._began + at
        if moment <= monotonic():
            return True
        if self.due != moment:
            self._loop.call_at(moment, self)
        return False

    def _send(self, data: bytes | memoryview) -> None:
        try:
            sent = self._sock.send(data, _WITH_FIN if self._ends_here() else 0)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._pending = memoryview(data)[sent:]

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
        return stop == "close" or (stop == "keep" and (self._left or self._loop.refusing))

    def _stop(self, stop: Stop) -> None:
        if self._hangs_up_after(stop):
            self._hang_up()
        elif stop == "keep":
            self._playing = None
            self._step = 0
        elif stop == "reset":
            self._reset()
        elif self._left:
            self.close()
        elif stop == "stall":
            self._after = _nothing
        else:
            self._finish(self._read_past, _GRACE)

    def _finish(self, after: Callable[[], None], seconds: float) -> None:
        self._after = after
        self._loop.call_at(monotonic() + seconds, self)

    def _hang_up(self) -> None:
        """FIN. Closing at once would send RST after it if the client has sent something that nobody read."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._left = True
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
            self._began = now  # it still takes some
        if left and now < self._began + _RESET_PATIENCE:
            self._finish(self._reset, _RESET_POLL)
        else:
            with suppress(OSError):  # gone already
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            self.close()

    def _read_past(self) -> None:
        method, url = self._asked
        self._loop.report(
            ReadPastRecording(
                f"{method} {url}: the recording stops where its reader left, and this reader stayed "
                f"{_GRACE:g} s longer, so it was cut off. Close the response as early as the recorded reader did, "
                "or record the answer whole."
            )
        )
        self._hang_up()

    # Readiness

    def _settle(self) -> None:
        """Waits for what is needed next, and for nothing else."""
        events = 0
        if not self._left and (self._after is not None or len(self._waiting) < _MAX_WAITING):
            events = selectors.EVENT_READ
        if self._pending is not None:
            events |= selectors.EVENT_WRITE
        if events != self._watched:
            self._loop.watch(self, self._sock, events, self._watched)
            self._watched = events
        idle = self._playing is None and self._after is None
        self._loop.expect_the_rest(self, idle and self._parser.incomplete)
