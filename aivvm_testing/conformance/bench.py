"""The bench on which one check is done: a server of its own, the subject under test, and a clock that bounds each step.

A check is a function of a bench: it says what the server answers, what is waited for, reads streams, and raises `Broken`
where something is not as required. It runs in a thread of its own, so that a subject that never ends is a finding too.
Nothing here knows whether a provider or a transport is checked, and nothing is judged but time.
"""

from __future__ import annotations

import gc
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from time import monotonic, thread_time
from typing import Any, Generic, NamedTuple, TypeVar

from aivvm.errors import shown
from aivvm.terminal import one_line
from aivvm.transport import Request
from aivvm_testing.call import Call, Outcome
from aivvm_testing.errors import SetupFailure
from aivvm_testing.replay.server import FakeServer
from aivvm_testing.reply import Reply
from aivvm_testing.service import dressed
from aivvm_testing.wire import Refusal

PATIENCE = 5.0
"""Seconds that one step of a check may take before it counts as one that never ends. Only findings take that long."""

SHORT_TIMEOUT = 0.15
"""Seconds; what a subject is told where the server falls silent."""

GAP = 0.001
"""Seconds between chunks that must not arrive as one."""

SETTLING = 0.02
"""Seconds, for what a peer sent last to arrive."""

REASON = "Rate limit reached for default-gpt-4"
ERRORS = (400, 401, 403, 404, 429, 500, 502, 503)

_FAREWELL = 1.0  # seconds that what is not looked at may take
_SHOWN_CHARACTERS = 24  # of a text, around the place where it is wrong
_LONG, _SHORT = 2 * 1024 * 1024, 32 * 1024  # bytes of the answers whose times are compared
_STEEPEST = 3.0  # times as much as the longer one may take for each byte
_FREE = 0.3  # seconds of CPU that the longer one may take whatever the shorter one took


class Check(NamedTuple):
    """One thing that is required, in one sentence, and what to do where it is not so. `run` does it, on a bench."""

    code: str
    name: str
    requires: str
    advice: str
    run: Callable[[Any], None]


_Function = TypeVar("_Function", bound=Callable[[Any], None])


def required(
    checks: list[Check], code: str, name: str, requires: str, advice: str
) -> Callable[[_Function], _Function]:
    def add(run: _Function) -> _Function:
        checks.append(Check(code, name, requires, advice, run))
        return run

    return add


# The peer


class WatchedCall(Call):
    """A call that tells when it is over: the answer was played, or the client has left."""

    __slots__ = ("ended",)

    def __init__(self, request: Request, reply: Reply) -> None:
        super().__init__(request, reply)
        self.ended = threading.Event()

    def over(self, outcome: Outcome, lasted: float) -> None:
        super().over(outcome, lasted)
        self.ended.set()


class Peer:
    """What the server answers: whatever it is told, on every path, in order, and the last of it for ever."""

    def __init__(self) -> None:
        self.calls: list[WatchedCall] = []
        self.refusing = False
        self._answers: Callable[[Request, int], Reply] = lambda request, n: Reply.of()

    def gives(self, *replies: Reply) -> None:
        """From now on, and from the first of them on."""
        self.gives_what(lambda request, n: replies[min(n, len(replies) - 1)])

    def gives_what(self, answers: Callable[[Request, int], Reply]) -> None:
        self.calls = []
        self._answers = answers

    # For the server

    def answer(self, request: Request) -> Call:
        calls = self.calls
        call = WatchedCall(request, dressed(self._answers(request, len(calls))))
        calls.append(call)
        return call

    def refuses_next(self) -> bool:
        return self.refusing

    def skip_refused(self) -> None:
        self.refusing = False

    def refused(self, refusal: Refusal) -> None:
        """Not kept: that it was asked nothing is seen by all checks."""

    def failed(self, error: SetupFailure) -> None:
        """Kept by the server, too."""


# The bench


class Broken(Exception):
    """The check has found something: what happened."""


class GivenUp(BaseException):
    """Nobody waits for this check any more."""


Piece = TypeVar("Piece", str, bytes)


class Stream(Generic[Piece]):
    """One answer under test: what it gave, and what it raised."""

    def __init__(self, bench: Bench[Any], begin: Callable[[], Iterator[Piece]], kind: type[Piece]) -> None:
        self.pieces: list[Piece] = []
        self.length = 0
        self.error: BaseException | None = None
        self.over = False
        self._bench = bench
        self._kind: type[Piece] = kind
        self.iterator: Iterator[Piece] | None = None
        try:
            self.iterator = begin()
        except (Broken, GivenUp):
            raise
        except BaseException as error:  # of any kind: it is what is looked at
            self._stop(error)

    @property
    def whole(self) -> Piece:
        return self._kind().join(self.pieces)

    def read(self, enough: float = float("inf")) -> None:
        """Reads until there is so much, or no more."""
        while not self.over and self.length < enough:
            self._bench.look_at_the_clock()
            try:
                assert self.iterator is not None
                piece = next(self.iterator)
            except StopIteration:
                self._stop(None)
            except BaseException as error:  # likewise
                self._stop(error)
            else:
                if not isinstance(piece, self._kind):
                    raise Broken(f"it gave {shown(piece)} where {self._kind.__name__} was due")
                self.pieces.append(piece)
                self.length += len(piece)

    def close(self) -> None:
        """Closes it, or drops it where it has nothing to close; raises what that raises."""
        iterator, self.iterator = self.iterator, None
        self.over = True
        if (close := getattr(iterator, "close", None)) is not None:
            close()

    def drop(self) -> None:
        """Closes it, whatever that raises."""
        with suppress(BaseException):  # it is looked at by the check of closing
            self.close()

    def _stop(self, error: BaseException | None) -> None:
        self.error = error
        self.over = True


class Bench(Generic[Piece]):
    """One check's own server, the subject under test, and the clock that bounds each step."""

    kind: type[Piece]

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.peer = Peer()
        self._server = FakeServer(self.peer)
        self._streams: list[Stream[Piece]] = []
        self._made: list[object] = []
        self.url = ""
        self._given_up = False
        self._doing: str | None = ""
        self._allowed = patience
        self._deadline = 0.0

    # For whoever runs a check

    def conduct(self, check: Callable[[Any], None]) -> str | None:
        """Runs it; gives what it found, if anything."""
        found: list[str] = []
        worker = threading.Thread(target=self._work, args=(check, found), name="aivvm-contract", daemon=True)
        self.wait_for("what it makes")
        self._server.start()
        self.url = self._server.url
        try:
            worker.start()
            while worker.is_alive():
                left = self._deadline - monotonic()
                if left <= 0:
                    self._given_up = True
                    if self._doing is not None:
                        found.append(f"after {self._allowed:g} s it was still to give {self._doing}")
                    break
                worker.join(left)
        finally:
            self._server.stop()
            worker.join(min(self.patience, 1.0))  # what waited for the server goes on now, and may end
        return found[0] if found else None

    def _work(self, check: Callable[[Any], None], found: list[str]) -> None:
        try:
            check(self)
        except Broken as broken:
            found.append(str(broken))
        except GivenUp:
            pass
        except BaseException as error:  # whatever the subject raises where nothing may be raised
            found.append(f"it raised {told(error)}")
        finally:
            self._let_go()

    def _let_go(self) -> None:
        with suppress(GivenUp):
            self.wait_for_nothing()
        for stream in self._streams:
            stream.drop()
        for made in self._made:
            with suppress(BaseException):  # likewise
                self.close(made)

    # For checks

    def wait_for(self, what: str, seconds: float | None = None) -> None:
        """From now on so many seconds, or the patience, are allowed for it."""
        self.look_at_the_clock()
        self._doing = what
        self._allowed = self.patience if seconds is None else seconds
        self._deadline = monotonic() + self._allowed

    def wait_for_nothing(self) -> None:
        """From now on what takes too long ends the check, and is no finding of it: another check looks at that."""
        self.wait_for("", min(self.patience, _FAREWELL))
        self._doing = None

    def look_at_the_clock(self) -> None:
        if self._given_up:
            raise GivenUp

    def open(self, begin: Callable[[], Iterator[Piece]]) -> Stream[Piece]:
        stream: Stream[Piece] = Stream(self, begin, self.kind)
        self._streams.append(stream)
        return stream

    def keep(self, made: object) -> object:
        """Has it closed after the check."""
        self._made.append(made)
        return made

    def close(self, made: object) -> None:
        if callable(close := getattr(made, "close", None)):
            close()

    def forget(self) -> None:
        """Holds on to nothing that was made or opened so far."""
        self._streams.clear()
        self._made.clear()

    def stop_listening(self) -> None:
        """From now on every connection is refused."""
        self.peer.refusing = True
        self._server.recheck()

    def try_out(self) -> None:
        """One good answer; `TypeError` or `SetupFailure` where none can be had on account of the test."""
        raise NotImplementedError

    def at_once(self, *tasks: Callable[[], None]) -> None:
        """Runs them in threads, and raises the first that one of them raised."""
        raised: list[BaseException] = []

        def run(task: Callable[[], None]) -> None:
            try:
                task()
            except BaseException as error:  # is raised again below
                raised.append(error)

        threads = [threading.Thread(target=run, args=(task,), daemon=True) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if raised:
            raise raised[0]

    def over(self, call: WatchedCall) -> bool:
        """Waits until it is over, as long as the patience lasts."""
        return call.ended.wait(self.patience)

    def left_behind(self, threads: set[threading.Thread]) -> list[str]:
        """What is there, after a while, that was not before: sockets to the server, threads."""
        port = self._server.port
        end = monotonic() + self.patience
        new: list[threading.Thread] = []
        sockets: list[int] = []
        while monotonic() < end:
            gc.collect()
            new = [one for one in threading.enumerate() if one not in threads]
            sockets = _sockets_to(port)
            if not (new or sockets):
                break
            threading.Event().wait(SETTLING)
        found: list[str] = [f"a connection that is still open (file {number})" for number in sockets]
        return [*found, *[f"a thread that still runs ({one.name})" for one in new]]


def _sockets_to(port: int) -> list[int]:
    """Sockets of this process that are connected to it, by number."""
    found: list[int] = []
    for one in gc.get_objects():
        # Not isinstance(), as some objects answer it with code of their own.
        if issubclass(type(one), socket.socket) and one.fileno() != -1:
            with suppress(OSError):
                peer = one.getpeername()
                if isinstance(peer, tuple) and peer[1] == port:
                    found.append(one.fileno())
    return found


def told(error: BaseException) -> str:
    text = one_line(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def name_of(make: object) -> str:
    return one_line(getattr(make, "__qualname__", "") or shown(make))


def check_callable(make: object, form: str) -> None:
    if callable(make):
        return
    guess = (
        f"; did you mean lambda{'' if form == 'make()' else ' url'}: ...?"
        if hasattr(make, "send") or hasattr(make, "create_completion")
        else ""
    )
    raise TypeError(
        f"make is a callable, {form}, which gives what is to be checked, but got {shown(make)}{guess}"
    )


# What checks tell


def ending(stream: Stream[Any]) -> str:
    gave = f"it gave {one_line(repr(stream.whole), 60)}" if stream.whole else "it gave nothing"
    if stream.error is not None:
        return f"{gave} and raised {told(stream.error)}"
    return f"{gave} and ended" if stream.over else gave


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that led to it."""
    seen: list[BaseException] = []
    waiting = [error]
    for one in waiting:
        if not any(one is other for other in seen):
            seen.append(one)
            waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
            yield one


def tells(error: BaseException, facts: Iterable[str]) -> bool:
    """Whether one of these stands in the exception, or in one that led to it."""
    for one in chain(error):
        said = [str(one), *map(str, one.args), *map(str, getattr(one, "__dict__", {}).values())]
        for fact in facts:
            alone = re.compile(rf"(?<!\w){re.escape(fact)}(?!\w)")  # 500, and not 45003
            if fact and any(alone.search(text) for text in said):
                return True
    return False


def difference(wanted: str | bytes, came: str | bytes) -> str:
    """Where the two part."""
    n = next((n for n, (one, other) in enumerate(zip(wanted, came, strict=False)) if one != other), None)
    if n is None:
        n = min(len(wanted), len(came))
        if n == len(came):
            return f"it ended after {n} of {len(wanted)}"
    begin = max(0, n - 4)
    end = n + _SHOWN_CHARACTERS
    return f"{came[begin:end]!r} came where {wanted[begin:end]!r} was due, at {n}"


def check_whole(stream: Stream[Any], wanted: str | bytes, how: str) -> None:
    if stream.error is not None:
        raise Broken(f"{how} it raised {told(stream.error)}")
    if stream.whole != wanted:
        raise Broken(f"{how} {difference(wanted, stream.whole)}")


def check_long(bench: Bench[Any], ask: Callable[[], Stream[Any]], piece: str | bytes) -> None:
    """A long answer of such pieces, each a chunk, is whole, and takes no more for each byte than a short one.

    Time is that of this thread alone, as others may keep the machine busy.
    """

    def read(size: int, limit: float) -> float:
        count, what = size // len(piece), f"of {size // 1024} KiB"
        bench.peer.gives(Reply.of(*[piece] * count))
        bench.wait_for(f"the end of an answer {what}", 6 * bench.patience)
        began = thread_time()
        stream = ask()
        while not stream.over:
            stream.read(stream.length + 64 * len(piece))
            if thread_time() - began > limit:
                raise Broken(
                    f"{limit:.1f} s of CPU went by with {stream.length / size:.0%} {what}; one of "
                    f"{_SHORT // 1024} KiB took {short:.3f} s"
                )
        spent = thread_time() - began
        check_whole(stream, piece * count, what)
        return spent

    short = float("inf")
    for _ in range(2):
        short = min(short, read(_SHORT, float("inf")))
    read(_LONG, _FREE + _STEEPEST * short * (_LONG // _SHORT))


def check_left(bench: Bench[Any], make: Callable[[], object], ask: Callable[[object], Stream[Any]]) -> None:
    """Nothing is left of a subject that was closed, or dropped, after a good answer, an error and a cut."""
    threads = set(threading.enumerate())
    made: object = make()
    for reply in (Reply.of("Hello-", "world"), Reply.error(500), Reply.of("Hello-").cut()):
        bench.peer.gives(reply)
        bench.wait_for("an answer, and the end of it")
        stream = ask(made)
        stream.read()
        stream.drop()
        stream.error = None  # it holds frames, and what these hold
    with suppress(Exception):  # what closing raises is looked at by another check
        bench.close(made)
    made = None
    del stream
    bench.forget()
    bench.wait_for("up its connections and threads", 2 * bench.patience)
    if left := bench.left_behind(threads):
        raise Broken(f"after it was closed there was {', '.join(left[:3])}")
