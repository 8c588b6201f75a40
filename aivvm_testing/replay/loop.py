"""The one thread behind `server`: it owns every socket, and decides when bytes leave and how a connection ends.

A `Loop` waits for sockets and for moments and calls the connections whose time it is; a connection reads its client's
requests and plays the answers, one after the other. What is answered is the fake's decision, what that is in bytes is
`wire`'s, and what clients may expect of it all, and what they may cost, is written at the top of `server`. Nothing here
blocks but the wait, and no other thread touches anything but `Loop.stop` and `Loop.call`.
"""

from __future__ import annotations

import heapq
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from time import monotonic
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from aivvm.transport import Headers, Request
from aivvm_testing.call import Call, Outcome
from aivvm_testing.errors import ReadPastRecording, SetupFailure, UnmatchedRequest
from aivvm_testing.replay.cors import preflight
from aivvm_testing.reply import Reply
from aivvm_testing.sockets import (
    READABLE,
    WITH_FIN,
    WRITABLE,
    poller,
    reset_on_close,
    unacknowledged,
    unsent,
)
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
_ON_CONTINUE = Schedule(((0.0, CONTINUE),), "keep", 0.0)


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

    def refused(self, refusal: Refusal) -> None:
        """Takes note of what came and was no acceptable request: it is never asked as one."""
        ...

    def failed(self, error: SetupFailure) -> None:
        """Takes an error that the client cannot be given."""
        ...


class Settings(NamedTuple):
    """What a server was told when it was made."""

    family: int
    address: tuple[Any, ...]
    host: str
    added: Headers
    idle_timeout: float
    request_timeout: float
    write_timeout: float
    max_head: int
    max_body: int


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


class Timed(Protocol):
    """What is called when its time has come. `due` is for `Moments` alone: a tick, or 0."""

    due: int

    def on_time(self) -> None: ...


class Moments:
    """Who is called when: one moment for each, a later word replaces an earlier one.

    To the millisecond, never too early: the kernel waits no more exactly, and streams whose frames are due in the same
    one share an entry. Their order is kept.
    """

    def __init__(self) -> None:
        self._slots: dict[int, dict[Timed, None]] = {}
        self._ticks: list[int] = []  # a heap of all in `_slots`, and of some that are gone

    def set(self, whose: Timed, moment: float) -> None:
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

    def set_by(self, whose: Timed, moment: float) -> None:
        """As `set`, but an earlier moment stays: for whoever looks, when called, whether it is time, and mostly is not
        called at all. It is done for every answer, and does nothing then."""
        if not 0 < whose.due <= moment * 1000:
            self.set(whose, moment)

    def drop(self, whose: Timed) -> None:
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

    def due(self) -> list[Timed]:
        """Whose moment has come, in order; of many the first, and the others when it is asked again."""
        now = int(monotonic() * 1000)
        due: list[Timed] = []
        while self._ticks and self._ticks[0] <= now and len(due) < _CALLS_AT_ONCE:
            due += self._slots.pop(heapq.heappop(self._ticks), ())
        for whose in due:
            whose.due = 0
        return due


class Loop:
    """Everything that the server's thread owns. Only `stop` and `call` are for other threads."""

    def __init__(self, fake: Answers, settings: Settings, failures: list[SetupFailure]) -> None:
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
        self.moments = Moments()
        self.due = 0  # set while the process is out of file descriptors: then it accepts again
        self.refusing = True
        self._poller = poller()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._poller.register(self._ear.fileno(), READABLE)
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

    def _give_up(self, connection: Timed, error: Exception) -> None:
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
        self._poller.register(self._door.fileno(), READABLE)

    def _accept(self) -> None:
        if self.refusing:  # since the event was seen: what waited at the door was reset when it closed
            return
        try:
            for _ in range(_ACCEPTS_AT_ONCE):
                sock, _ = self._door.accept()
                sock.setblocking(False)
                with suppress(OSError):  # gone already: reading will tell
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._poller.register(sock.fileno(), READABLE)
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
        reply = preflight(request) if added else None
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

    def refuse(self, refusal: Refusal) -> Schedule:
        """What is answered to no acceptable request, as the real server does: no body, and the connection ends."""
        self.note(refusal)
        reply = Reply.of(status=refusal.status, headers={"Connection": "close"})
        return schedule(reply, added=self.settings.added)

    def note(self, refusal: Refusal) -> None:
        try:
            self._fake.refused(refusal)
        except Exception as error:  # the fake's own, whoever wrote it
            self.report(_wrapped(error, "the fake could not take note of a refused request"))

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

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self.due = 0
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._mask = READABLE
        limits = loop.settings
        self._parser = RequestParser(
            authority=loop.authority, max_head=limits.max_head, max_body=limits.max_body
        )
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
        if events & WRITABLE:
            self.flush()
        if events & READABLE:
            if self._waiting:  # enough for now
                self._watch(self._mask & ~READABLE)
            else:
                self._receive()
        elif events & ~WRITABLE:  # gone for good, while nothing was expected of it
            self.close()

    def on_time(self) -> None:
        """Looks whether it is time, too: it may be called early."""
        if self._after is not None:
            self._after()
        elif self._mask & WRITABLE:
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
            sent = self._sock.send(data, WITH_FIN if self._ends_here() else 0)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if self._call is not None:
            self._call.position += sent
        if sent == len(data):
            self._out = None
            if self._mask & WRITABLE:
                self._watch(self._mask & ~WRITABLE)
            self._go_on()
            return
        if sent or not self._mask & WRITABLE:
            self._since = monotonic()
            self._loop.moments.set_by(self, self._since + self._loop.settings.write_timeout)
        self._out = memoryview(data)[sent:]
        self._watch(self._mask | WRITABLE)

    def dismiss(self) -> None:
        """Closes where it is idle: its next request must meet a refused connection."""
        if self._playing is None and self._after is None and not self._partial:
            self.close()

    def close(self) -> None:
        if self._after is _closed:
            return
        self._settle()
        self._after = _closed
        self._waiting = []
        self._playing = self._out = None
        self._loop.forget(self._fd, self)
        self._sock.close()

    def _settle(self) -> None:
        """The client has left, as far as one can tell: its answer is over."""
        call = self._call
        if call is not None:
            # FIN confirms all that had come. A reset confirms nothing, but what was sent before it had come, too.
            missing = unacknowledged if self._left else unsent
            call.position = max(0, call.position - missing(self._sock))
            self._over("played" if self._after is _silent else "closed")

    # Requests

    def _receive(self) -> None:
        try:
            data = self._sock.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self._note_unfinished()
            self.close()
            return
        if not data:
            self._note_unfinished()
            self._client_left()
        elif self._after is None:
            self._waiting = events = self._parser.feed(data)
            if not events:
                if self._playing is None and not self._partial:
                    self._rest()
                return
            if not self._step and isinstance(events[-1], Refusal):
                # As the real server does: a request whose body was longer than it said is not answered at all.
                self._drop_before(events)
                self._over("closed")
                self._playing = None
            self._go_on()

    def _drop_before(self, events: list[Event]) -> None:
        """Leaves the refusal that is the last of these, which tells what is not answered on its account."""
        refusal = events.pop()
        assert isinstance(refusal, Refusal)
        requests = [event.request for event in events if isinstance(event, Incoming)]
        if self._call is not None:
            requests.insert(0, self._call.request)
        if requests:
            before = f"{requests[-1].method} {urlsplit(requests[-1].url).path}"
            why = f"{refusal.why}; {before} came right before it, and is not answered either"
            refusal = refusal._replace(why=why)
        events[:] = [refusal]

    def _note_unfinished(self) -> None:
        if self._partial and self._playing is None and self._after is None:
            self._loop.note(self._parser.give_up(0, "the client left before its request was whole"))

    def _client_left(self) -> None:
        """It closed, or closed its half and still reads: that shows only when more is sent."""
        self._left = monotonic()
        if self._after is _silent:
            self._stay_silent()
        elif self._playing is None or self._after not in (None, self._reset):
            self.close()
        else:
            self._watch(self._mask & ~READABLE)

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
        patience = self._loop.settings.request_timeout
        why = f"the rest of the request did not come within {patience:g} s"
        self._waiting = [self._parser.give_up(408, why)]
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
        if not (self._waiting or self._mask & READABLE or self._left):
            self._watch(self._mask | READABLE)
        self._began = monotonic()
        self._partial = False
        self._step = 0
        if isinstance(event, Incoming):
            self._playing, self._call = self._loop.answer(event)
            self._loop.follow()
        elif isinstance(event, AwaitsContinue):
            self._playing = _ON_CONTINUE
        else:
            self._playing = self._loop.refuse(event)

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
            if stop == "closed":
                self._finish(self._read_past, _GRACE)
                if self._left:
                    self.close()
                return
            self._finish(_silent)
            if self._left:
                self._stay_silent()

    def _stay_silent(self) -> None:
        """The client of a stall has closed, or closed its half and waits on; nothing that may be sent to it would tell.

        For the journal it has given up, and for the case that it has not the connection stays open for a while.
        """
        self._settle()
        self._finish(self.close, self._loop.settings.idle_timeout)

    def _finish(self, after: Callable[[], None], seconds: float | None = None) -> None:
        """Nothing more will be sent. `after` so many seconds, unless the client leaves before."""
        self._after = after
        self._waiting = []
        self._watch(0 if self._left else READABLE)
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
        left = unacknowledged(self._sock)
        if left != self._unacknowledged:
            self._unacknowledged = left
            self._since = now  # it still takes some
        if left and now < self._since + _RESET_PATIENCE:
            self._finish(self._reset, max(_RESET_POLL, (now - self._since) / 4))
        else:
            self._over("played")
            self._abort()

    def _abort(self) -> None:
        reset_on_close(self._sock)
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
