"""A network in memory: urllib3's connections, with a fake where a socket would be.

urllib3 and `http.client` make the request, parse the answer, and keep, reuse or drop the connection, with their own
code; only the socket is replaced. It gives its reader what a socket would: bytes as they come due, one frame of the
answer at a time, timeouts as gaps between reads, and every ending. Requests are read and answers framed by `wire`, as
for the server. Nothing here knows `requests`, or which requests are meant: adapters do.

No TLS is spoken: an https connection counts as verified, and is the same memory.
"""

from __future__ import annotations

import errno
import http.client
import io
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Generator
from copy import copy
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import port_by_scheme
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util import Retry

from aivvm.transport import Request
from aivvm_testing.call import Call
from aivvm_testing.clock import Clock, Timer
from aivvm_testing.errors import SetupFailure
from aivvm_testing.matching import describe
from aivvm_testing.replay.play import NO_ANSWER, Play, chunks_so_far
from aivvm_testing.reply import HEADLESS_KINDS, Ending, Reply
from aivvm_testing.wire import (
    CONTINUE,
    AwaitsContinue,
    Incoming,
    RequestParser,
    Schedule,
    Schedules,
    body_framing,
)

if TYPE_CHECKING:
    from aivvm_testing.fake import FakeAivvm

_NOBODY = Request("", "")
_DONE = Ending()
_SILENCE = Ending("stall")


class Network:
    """Where a fake is every peer. May be shared between threads and clients.

    `failure` is the first `SetupFailure` that a request met here, the reading of its answer included, whether or not
    the code that asked has seen it.
    """

    def __init__(self, fake: FakeAivvm) -> None:
        self.clock: Clock = fake.clock
        self.failure: SetupFailure | None = None
        self._fake = fake
        self._schedules = Schedules()
        self._lock = threading.Lock()

    def failed(self, error: SetupFailure) -> None:
        """Keeps the error, and has the fake keep it."""
        self.failure = self.failure or error
        self._fake.failed(error)

    def call(self, request: Request) -> Call:
        """What the fake answers. Whatever else it raises is a `SetupFailure`: no client takes that for its own."""
        try:
            return self._fake.answer(request)
        except SetupFailure as error:
            self.failed(error)
            raise
        except Exception as error:
            failure = SetupFailure(
                f"no answer could be made to {describe(request)}: {type(error).__name__}: {error}"
            )
            self.failed(failure)
            raise failure from error

    def schedule(self, reply: Reply, asked: Incoming) -> Schedule:
        """The bytes of the reply, and when they are due."""
        with self._lock:
            return self._schedules.of(
                reply, method=asked.request.method, version=asked.version, keep_alive=asked.keep_alive
            )


class Pools:
    """One client's connections to a network, by scheme, host and port; `maxsize` and `block` as urllib3 has them.

    May be shared between threads as urllib3's pools may. After `close` it begins anew.
    """

    def __init__(self, network: Network, *, maxsize: int = 10, block: bool = False) -> None:
        self._network = network
        self._maxsize = maxsize
        self._block = block
        self._pools: dict[tuple[str, str], urllib3.HTTPConnectionPool] = {}
        self._lock = threading.Lock()

    def to(self, url: str) -> urllib3.HTTPConnectionPool:
        """The pool of connections for this url. Raises `ValueError` for a url without a host."""
        parts = urlsplit(url)
        place = parts[:2]  # the host may be written in several ways; each has connections of its own
        pool = self._pools.get(place)
        if pool is not None:
            return pool
        scheme, host = parts.scheme, parts.hostname
        if not host or scheme not in _POOLS:
            raise ValueError(f"a url begins with http:// or https:// and a host, but got {url!r}")
        made = _POOLS[scheme](
            host,
            parts.port or port_by_scheme[scheme],
            maxsize=self._maxsize,
            block=self._block,
            network=self._network,
        )
        with self._lock:
            return self._pools.setdefault(place, made)

    def close(self) -> None:
        """Closes the connections that nobody is using, and the others when they are given back."""
        with self._lock:
            pools = list(self._pools.values())
            self._pools.clear()
        for pool in pools:
            pool.close()


# The dearest parts of a call are `http.client`'s: to check and encode the fields of a request, and to parse the head of
# an answer. What comes of it depends on these bytes alone, and they are mostly those of the call before.


_LONGEST_FIELD = 2048  # bytes of what is remembered; a head is no longer than a reader's buffer
_MOST_REMEMBERED = 512


class _Memory(dict[Any, Any]):
    """What came of it before, as far as there is room."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if len(self) >= _MOST_REMEMBERED:
            self.clear()
        super().__setitem__(key, value)


_fields = _Memory()
_heads = _Memory()


class _Response(http.client.HTTPResponse):
    """An answer, whose head is parsed only once however often the same one comes."""

    _method: str | None

    def begin(self) -> None:
        data = self.fp.peek()
        head = data[: data.find(b"\r\n\r\n") + 4]
        key = head, self._method
        known = None if self.debuglevel else _heads.get(key)
        if known is not None:
            self.fp.read(len(head))
            state, fields = known
            vars(self).update(state)
            self.headers = self.msg = message = http.client.HTTPMessage()
            for field in fields:
                message.set_raw(*field)
            message.set_payload("")
            return
        before = dict(vars(self))
        super().begin()
        # It ends where the parser saw its end, and is no 1xx with another one after it.
        whole = head.endswith(b"\r\n\r\n") and head.count(b"\n") == head.count(b"\r\n") and head[9:10] != b"1"
        if whole and not self.msg.defects:
            state = {name: value for name, value in vars(self).items() if value is not before.get(name, self)}
            fields = state.pop("headers").items()
            del state["msg"]
            _heads[key] = state, fields


# What is urllib3's own keeps its name: it stands in the texts of errors.


class _InMemory:
    """What a connection does otherwise when its peer is in memory."""

    response_class: Any = _Response
    scheme: str
    sock: Any
    is_verified: bool
    _buffer: list[bytes]

    def __init__(self, *args: Any, network: Network, **options: Any) -> None:
        super().__init__(*args, **options)
        self._network = network

    def connect(self) -> None:
        self.sock = _Socket(self._network, self)
        self.is_verified = True  # else urllib3 warns that it is not

    @property
    def is_connected(self) -> bool:
        return self.sock is not None and self.sock.is_idle

    def putheader(self, *field: Any) -> None:
        try:
            self._buffer.append(_fields[field])
        except (KeyError, TypeError):  # not seen before, or not hashable
            before = len(self._buffer)
            super().putheader(*field)  # type: ignore[misc]  # it stands before a connection
            lines = self._buffer[before:]
            if {str, bytes}.issuperset(map(type, field)) and lines and len(lines[0]) <= _LONGEST_FIELD:
                _fields[field] = lines[0]


def _unchanged(kind: Any) -> Any:
    """urllib3's own class, also where this is first imported while vcrpy has put one of its own, made of it, in its place."""
    return next((one for one in kind.__mro__ if one.__module__ == "urllib3.connection"), kind)


if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection as _HTTPConnection
    from urllib3.connection import HTTPSConnection as _HTTPSConnection
else:
    _HTTPConnection = _unchanged(urllib3.connection.HTTPConnection)
    _HTTPSConnection = _unchanged(urllib3.connection.HTTPSConnection)


class HTTPConnection(_InMemory, _HTTPConnection):
    """A connection without a socket."""

    scheme = "http"


class HTTPSConnection(_InMemory, _HTTPSConnection):
    """A connection without a socket, and without TLS."""

    scheme = "https"


class _PoolInMemory:
    """What a pool does otherwise when its peers are in memory."""

    conn_kw: dict[str, Any]

    def urlopen(self, *args: Any, **options: Any) -> Any:
        retries = options.get("retries")  # which `requests` always names
        # What `requests` does by default repeats nothing, and so never sleeps.
        if isinstance(retries, Retry) and retries.total != 0 and self.conn_kw["network"].clock.virtual:
            options["retries"] = _unhurried(retries)
        return super().urlopen(*args, **options)  # type: ignore[misc]  # it stands before a pool


_sleeps = Retry.sleep, time.sleep


def _unhurried(retries: Retry) -> Retry:
    """The same retries, which wait for nothing: no peer is any further for it. Sleep that somebody watches stays."""
    kind: Any = type(retries)
    if (kind.sleep, time.sleep) != _sleeps:
        return retries
    same = copy(retries)
    same.__class__ = _without_sleep(kind)
    return same


@lru_cache(maxsize=64)
def _without_sleep(kind: Any) -> Any:
    def sleep(self: Retry, response: object = None) -> None:
        pass

    return type(kind.__name__, (kind,), {"sleep": sleep, "__module__": kind.__module__, "__slots__": ()})


class HTTPConnectionPool(_PoolInMemory, urllib3.HTTPConnectionPool):
    """Connections without sockets to one host."""

    ConnectionCls = HTTPConnection


class HTTPSConnectionPool(_PoolInMemory, urllib3.HTTPSConnectionPool):
    """Connections without sockets, and without TLS, to one host."""

    ConnectionCls = HTTPSConnection


_POOLS = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}


class _Socket:
    """What `http.client` needs of a connected socket. For one thread at a time, as a connection is."""

    def __init__(self, network: Network, connection: Any) -> None:
        self._network = network
        self._connection = connection
        host = f"[{connection.host}]" if ":" in connection.host else connection.host
        self._parser = RequestParser(scheme=connection.scheme, authority=f"{host}:{connection.port}")
        self._plays: deque[tuple[_Play, Generator[bytes, int, None]]] = deque()
        self._readers = 0
        self._closed = False
        self.settimeout(connection.timeout)

    @property
    def is_idle(self) -> bool:
        """Whether it can take a request: nothing is left to read, not even an end."""
        return not self._plays

    def gettimeout(self) -> float | None:
        return None if self._patience == inf else self._patience

    def getpeername(self) -> tuple[str, int]:
        return self._connection.host, self._connection.port

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 0

    def setsockopt(self, *option: object) -> None:
        """There is nothing to set."""

    def fileno(self) -> int:
        return -1

    def settimeout(self, timeout: float | None) -> None:
        self._patience = inf if timeout is None else timeout
        for play, _ in self._plays:
            play.patience = self._patience

    # Requests

    def sendall(self, data: bytes) -> None:
        for event in self._parser.feed(data):
            timer = self._network.clock.timer()  # its time begins when the request is whole
            if isinstance(event, Incoming):
                self._answer(event, timer)
            elif isinstance(event, AwaitsContinue):
                self._say(Schedule(((0.0, CONTINUE),), "keep", 0.0), timer)
            else:
                self._say(Schedule(((0.0, event.answer),), "close", 0.0), timer)

    def _answer(self, asked: Incoming, timer: Timer) -> None:
        call = self._network.call(asked.request)
        reply = call.reply
        assert reply is not None
        if reply.ending.kind in HEADLESS_KINDS:
            Play(self._network, call, timer, self._patience).end(reply.ending, NO_ANSWER)
            self._cannot_connect(reply.ending.kind)
        made = self._network.schedule(reply, asked)
        call.on_wire(made.ends)
        self._play(call, timer, made, reply.ending)

    def _say(self, made: Schedule, timer: Timer, ending: Ending = _DONE) -> _Play:
        """Gives the reader something that is no answer of the fake."""
        return self._play(Call(_NOBODY, None), timer, made, ending)

    def _play(self, call: Call, timer: Timer, made: Schedule, ending: Ending) -> _Play:
        play = _Play(self._network, call, timer, self._patience, made, ending)
        pieces = play.pieces()
        next(pieces)
        self._plays.append((play, pieces))
        return play

    def _cannot_connect(self, kind: str) -> None:
        """Raises what urllib3's attempt to connect would have: that comes first over a network, and here last."""
        connection = self._connection
        if kind == "unresolved":
            unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            raise NameResolutionError(connection.host, connection, unknown) from unknown
        if kind == "refused":
            refused = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            raise NewConnectionError(
                connection, f"Failed to establish a new connection: {refused}"
            ) from refused
        if kind == "tls":
            raise ssl.SSLError(1, "[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] sslv3 alert handshake failure")
        late = TimeoutError("timed out")
        raise ConnectTimeoutError(
            connection, f"Connection to {connection.host} timed out. (connect timeout={connection.timeout})"
        ) from late

    # Answers

    def makefile(self, mode: str, *_: object) -> io.BufferedReader:
        self._readers += 1
        return io.BufferedReader(_Reader(self))

    def take_into(self, buffer: memoryview) -> int:
        """As `recv_into` of a socket: what is due next, no more than one frame of it; 0 is the end."""
        if not self._plays:
            self._wait_for_nothing()
        play, pieces = self._plays[0]
        try:
            data = pieces.send(len(buffer))
        except StopIteration:
            play.stop()
            return 0
        size = len(data)
        buffer[:size] = data
        if play.gives_way:
            self._plays.popleft()
        return size

    def _wait_for_nothing(self) -> None:
        """The client reads, but the rest of a request is missing, or all of one: the peer waits, too."""
        play = self._say(Schedule((), "stall", 0.0), self._network.clock.timer(), _SILENCE)
        play.so_far = f"{'a part of a' if self._parser.incomplete else 'no'} request was sent"

    # Its end

    def shutdown(self, how: int) -> None:
        """Nothing more comes: what the reader waits for is the end."""
        self._leave()
        self._say(Schedule((), "close", 0.0), self._network.clock.timer())

    def close(self) -> None:
        self._closed = True
        if not self._readers:
            self._leave()

    def let_go(self) -> None:
        """A reader is closed; the last one of a closed socket ends it."""
        self._readers -= 1
        if self._closed:
            self.close()

    def _leave(self) -> None:
        for play, _ in self._plays:
            play.left()
        self._plays.clear()


class _Reader(io.RawIOBase):
    """What a socket's `makefile` reads from: after a timeout it is of no more use."""

    def __init__(self, sock: _Socket) -> None:
        self._sock = sock
        self._timed_out = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._timed_out:
            raise OSError("cannot read from timed out object")
        try:
            return self._sock.take_into(buffer)
        except TimeoutError:
            self._timed_out = True
            raise

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._sock.let_go()


class _Play(Play):
    """One answer, frame by frame."""

    __slots__ = ("_ending", "_schedule", "gives_way", "so_far")

    def __init__(
        self, network: Network, call: Call, timer: Timer, patience: float, made: Schedule, ending: Ending
    ) -> None:
        super().__init__(network, call, timer, patience)
        self.gives_way = False  # all was given, and the connection is free for the next answer
        self.so_far: str | None = None
        self._schedule = made
        self._ending = ending

    def pieces(self) -> Generator[bytes, int, None]:
        """Is sent how many bytes its reader has room for, and gives what is due next, up to the end of its frame.

        To begin with it gives nothing, and waits to be sent something.
        """
        call = self.call
        steps, stop, _, ends = self._schedule
        enough = _enough(call, self._schedule, self._ending)
        now = self.timer.elapsed()
        frame = begin = position = 0
        room = yield b""
        for at, data in steps:
            if at > now:
                self.wait_for(at)
                now = at
            after = begin + len(data)
            while position < after:
                start = position - begin
                position += room
                if frame < len(ends) and position >= ends[frame]:
                    position = ends[frame]
                    frame += 1
                elif position > after:
                    position = after
                call.position = position
                if position >= enough:
                    self.left("played")
                    self.gives_way = stop == "keep"
                room = yield data[start : position - begin]
            begin = after

    def stop(self) -> None:
        """Waits for the end of the connection, and raises it where it is more than an end."""
        so_far = self.so_far
        if so_far is None:
            so_far = chunks_so_far(self.call.chunks_taken) if self._schedule.steps else NO_ANSWER
        self.end(self._ending, so_far)
        if self._schedule.stop == "reset":
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


def _enough(call: Call, made: Schedule, ending: Ending) -> float:
    """After so many bytes a client has a whole answer, or rubbish, and needs not see how the connection ends."""
    steps, stop, _, ends = made
    total = sum([len(data) for _, data in steps])
    if stop == "keep":
        return total
    head = None if call.reply is None else call.reply.head
    framing = "close" if head is None else body_framing(head, call.request.method)
    if isinstance(framing, int):
        return (ends[0] if ends else total) + framing
    if ending.data:
        return total
    return total if framing == "chunked" and ending.kind == "complete" else inf
