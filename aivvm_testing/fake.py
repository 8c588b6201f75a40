"""The fake: answers requests from an echo, from scripted replies or from a recording, and remembers what it was asked.

It decides *what* is answered; the doors (`transport`, `server`) carry the answer to a client. The order of decision:

1. rules, `fake.on(model="gpt-4").reply(...)`, in the order they were made, whatever the path;
2. a recording, where the fake replays one; what it has no answer for is an error, but for `/api/models` and as long
   as the queue lasts;
3. what the real server does with this path, method and body: models, errors, 404s;
4. the queue, `fake.reply(...)`, in order; without any script, an echo of the last user message.

A fake may be shared between threads and doors: each request takes exactly one reply.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet

from aivvm.errors import shown
from aivvm.transport import Request
from aivvm_testing.clock import Clock, VirtualClock
from aivvm_testing.errors import SetupFailure, UnmatchedRequest, UnplayedReplies
from aivvm_testing.matching import DEFAULT_MATCH_ON, Criterion, Matcher, describe
from aivvm_testing.recording import Exchange, Recording
from aivvm_testing.reply import Reply
from aivvm_testing.service import (
    answer_without_model,
    dressed,
    echo,
    is_models,
    json_of,
    last_user_message,
    model_id,
)
from aivvm_testing.wire import check_head

if TYPE_CHECKING:
    from aivvm_testing.replay.server import FakeServer
    from aivvm_testing.replay.transport import FakeTransport

_TOO_MANY = (
    "\nTo fix it: 1. make the code under test ask for what it should;"
    "\n           2. script, or record, no more than it asks for;"
    "\n           3. say fake.reply(..., forever=True) where it need not ask."
)
_Fake = TypeVar("_Fake", bound="FakeAivvm")


class FakeAivvm:
    """A fake Aivvm service.

    `clock` is what doors 1 to 3 wait with: virtual unless told otherwise; the server always uses the system's.
    `requests` holds every request in the order of arrival. As a context manager it ends with `assert_all_played()`.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        if clock is not None and not callable(getattr(clock, "timer", None)):
            raise TypeError(f"a clock is a VirtualClock() or a SystemClock(), but got {clock!r}")
        self.clock: Clock = VirtualClock() if clock is None else clock
        self.requests: list[Request] = []
        self._lock = threading.RLock()  # a predicate may ask the fake something
        self._rules: list[Rule] = []
        self._queue = _Script()
        self._scripted = False
        self._recording: _Playback | None = None
        self._failure: SetupFailure | None = None
        self._servers: WeakSet[FakeServer] = WeakSet()

    @classmethod
    def replaying(
        cls: type[_Fake],
        source: str | os.PathLike[str] | Recording,
        *,
        match_on: Sequence[Criterion] = DEFAULT_MATCH_ON,
        speed: float = 0,
        clock: Clock | None = None,
    ) -> _Fake:
        """A fake that answers from a recording, each exchange once, identical requests in recorded order.

        `speed` 1 keeps the recorded times, 2 is twice as fast, 0 leaves no gaps (a stall stays a stall).
        """
        fake = cls(clock=clock)
        where = "the recording" if isinstance(source, Recording) else os.fspath(source)
        recording = source if isinstance(source, Recording) else Recording.load(source)
        fake._scripted = True
        fake._recording = _Playback(recording, where, Matcher(match_on), speed)
        return fake

    # Scripting

    def reply(self, reply: Reply | str | bytes, *, times: int = 1, forever: bool = False) -> FakeAivvm:
        """Adds a reply to the queue, to be given `times` times or `forever`. From now on there is no echo."""
        with self._lock:
            self._scripted = True
            self._queue.add(reply, times, forever)
        if self._servers and self.refuses_next():
            for server in list(self._servers):
                server.recheck()
        return self

    def on(
        self,
        predicate: Callable[[Request], bool] | None = None,
        *,
        model: str | None = None,
        contains: str | None = None,
        path: str | None = None,
        method: str | None = None,
    ) -> Rule:
        """A rule for requests that fit all that is given; it answers once `.reply(...)` was said on it.

        `model`: the model's id. `contains`: text within the last user message. `path`: the url's path.
        `predicate`: a callable. A rule whose replies are used up steps aside. From now on there is no echo.
        """
        wanted = {"model": model, "contains": contains, "path": path, "method": method}
        criteria = {name: value for name, value in wanted.items() if value is not None}
        if predicate is not None and not callable(predicate):
            raise TypeError(
                f"on() takes a callable, or names as in on(contains={predicate!r}), but got {predicate!r}"
            )
        if not criteria and predicate is None:
            raise ValueError("on() needs something to go by, such as model='gpt-4' or a predicate")
        rule = Rule(self._lock, predicate, criteria)
        with self._lock:
            self._scripted = True
            self._rules.append(rule)
        return rule

    # Answering: for doors

    def answer(self, request: Request) -> Reply:
        """The reply to this request, in the fake's own speed; it counts as played. Never blocks.

        Raises `UnmatchedRequest`, which `assert_all_played` raises again in case the code under test swallows it.
        """
        with self._lock:
            self.requests.append(request)
            for rule in self._rules:
                if rule.fits(request) and (reply := rule.script.next()) is not None:
                    return reply
            if self._recording is not None and (reply := self._recording.next(request)) is not None:
                return reply
            served = answer_without_model(request)
            if isinstance(served, Reply) and (self._recording is None or is_models(request)):
                return served
            if not self._scripted:
                return echo({} if isinstance(served, Reply) else served)
            if (reply := self._queue.next()) is not None:
                return reply
            error = UnmatchedRequest(self._explain(request))
            self.failed(error)
            raise error

    def refuses_next(self) -> bool:
        """Whether the next reply in order is a refused connection, which a server can only give by not listening."""
        with self._lock:
            reply = self._queue.peek() if self._recording is None else self._recording.peek()
            return reply is not None and reply.ending.kind == "refused"

    def skip_refused(self) -> None:
        """Counts the refused connection that comes next as played: no server ever sees it."""
        if self.refuses_next():
            with self._lock:
                if self._recording is None:
                    self._queue.next()
                else:
                    self._recording.skip()

    def failed(self, error: SetupFailure) -> None:
        """Keeps an error that the code under test may never see, the first one, for `assert_all_played`."""
        with self._lock:
            self._failure = self._failure or error

    # Verification

    def assert_all_played(self) -> None:
        """Raises the first error that a request met, else `UnplayedReplies` where replies are left over.

        Replies given `forever` are never left over.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            left = [f"in the queue: {one}" for one in self._queue.left()]
            for rule in self._rules:
                left += [f"for {rule}: {one}" for one in rule.script.left()]
                left += [] if rule.script.added else [f"{rule}, on which no .reply(...) was said"]
            if self._recording is not None:
                left += self._recording.left()
            if left:
                asked = f"{len(self.requests)} request{'' if len(self.requests) == 1 else 's'} came"
                raise UnplayedReplies("\n  ".join([f"{len(left)} not played ({asked}):", *left]) + _TOO_MANY)

    def __enter__(self) -> FakeAivvm:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.assert_all_played()

    # Doors

    def transport(self) -> FakeTransport:
        """Door 1: a Python transport, for `Aivvm(transport=...)`. Needs no closing."""
        from aivvm_testing.replay.transport import FakeTransport

        return FakeTransport(self)

    def server(self, *, host: str = "127.0.0.1", port: int = 0) -> FakeServer:
        """Door 4: a server on loopback, on a free port unless one is named; a context manager that starts it."""
        from aivvm_testing.replay.server import FakeServer

        server = FakeServer(self, host=host, port=port)
        self._servers.add(server)
        return server

    def _explain(self, request: Request) -> str:
        lines = [f"no reply for {describe(request)}"]
        if self._recording is not None:
            return "\n".join(lines + self._recording.explain(request))
        lines.append(
            f"The queue is empty: {self._queue.given} of {self._queue.added} scripted replies were given"
            + (f", and none of {len(self._rules)} rules has one left that fits." if self._rules else ".")
        )
        lines += [
            f"  rule: {rule}, {rule.script.given} of {rule.script.added} given; {rule.explain(request)}"
            for rule in self._rules
        ]
        lines += [
            "To fix it: 1. script one more, fake.reply(...);",
            "           2. let one answer for ever, fake.reply(..., forever=True);",
            "           3. look at fake.requests: was the code expected to ask so often?",
        ]
        return "\n".join(lines)


class Rule:
    """Replies for the requests that fit; made by `FakeAivvm.on`."""

    def __init__(
        self, lock: threading.RLock, predicate: Callable[[Request], bool] | None, criteria: dict[str, str]
    ) -> None:
        self.script = _Script()
        self._lock = lock
        self._predicate = predicate
        self._criteria = criteria

    def reply(self, reply: Reply | str | bytes, *, times: int = 1, forever: bool = False) -> Rule:
        """Adds a reply to this rule, to be given `times` times or `forever`."""
        with self._lock:
            self.script.add(reply, times, forever)
        return self

    def fits(self, request: Request) -> bool:
        """Whether the request is what the rule was made for."""
        return self._misfit(request) is None

    def explain(self, request: Request) -> str:
        """Why the rule does not answer this request."""
        return self._misfit(request) or "it fits, and has no reply left: say .reply(...) on it once more"

    def _misfit(self, request: Request) -> str | None:
        given = self._criteria
        if given:
            body = json_of(request.body) if "model" in given or "contains" in given else None
            asked: dict[str, Any] = body if isinstance(body, dict) else {}
            if "path" in given and (path := urlsplit(request.url).path) != given["path"]:
                return f"the path is {path!r}"
            if "method" in given and request.method.upper() != given["method"].upper():
                return f"the method is {request.method!r}"
            if "model" in given and (model := model_id(asked)) != given["model"]:
                return f"the model is {model!r}"
            if "contains" in given and given["contains"] not in last_user_message(asked):
                return f"the last user message is {shown(last_user_message(asked))}"
        if self._predicate is not None and not self._predicate(request):
            return "the predicate says no"
        return None

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name, value in self._criteria.items()]
        if self._predicate is not None:
            shown.insert(0, getattr(self._predicate, "__name__", repr(self._predicate)))
        return f"on({', '.join(shown)})"


class _Script:
    """Replies in order, each with how often it may still be given."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Reply, Reply, float]] = deque()  # as scripted, as sent, how often
        self.added = 0
        self.given = 0

    def add(self, reply: Reply | str | bytes, times: int, forever: bool) -> None:
        if isinstance(reply, (str, bytes)):
            reply = Reply.of(reply) if reply else Reply.of()
        elif not isinstance(reply, Reply):
            raise TypeError(f"a reply is text, bytes or a Reply, but got {reply!r}")
        if not isinstance(times, int) or times < 1:
            raise ValueError(f"times is a whole number, 1 or more, but got {times!r}")
        if forever and times != 1:
            raise ValueError(f"a reply is given times={times} or forever=True, not both")
        if self._waiting and self._waiting[-1][2] == inf:
            raise ValueError("this reply would never come: the one before it is given for ever")
        if reply.head is not None:
            check_head(reply.head)
        self.added += times
        self._waiting.append((reply, dressed(reply), inf if forever else times))

    def next(self) -> Reply | None:
        if not self._waiting:
            return None
        scripted, sent, left = self._waiting[0]
        if left <= 1:
            self._waiting.popleft()
        elif left != inf:
            self._waiting[0] = (scripted, sent, left - 1)
        self.given += 1
        return sent

    def peek(self) -> Reply | None:
        return self._waiting[0][0] if self._waiting else None

    def left(self) -> list[str]:
        return [
            f"{reply!r}" + (f" ({left:g} times)" if left > 1 else "")
            for reply, _, left in self._waiting
            if left != inf
        ]


class _Playback:
    """A recording being played: each exchange once, found by key in constant time."""

    def __init__(self, recording: Recording, where: str, matcher: Matcher, speed: float) -> None:
        if not 0 <= speed < inf:
            raise ValueError(f"a speed is 0 (no gaps) or more, but got {speed!r}")
        self._recording = recording
        self._where = where
        self._matcher = matcher
        self._factor = 1 / speed if speed else 0.0
        self._played = [False] * len(recording)
        self._first = 0  # all before it are played
        self._by_key: dict[Hashable, deque[int]] = {}
        for n, exchange in enumerate(recording):
            self._by_key.setdefault(matcher.key(exchange.request), deque()).append(n)

    def next(self, request: Request) -> Reply | None:
        waiting = self._by_key.get(self._matcher.key(request), ())
        for n in waiting:
            if not self._played[n] and self._matcher.accepts(self._recording[n].request, request):
                return self._play(n)
        return None

    def _play(self, n: int) -> Reply:
        self._played[n] = True
        exchange: Exchange = self._recording[n]
        waiting = self._by_key[self._matcher.key(exchange.request)]
        waiting.remove(n)
        return _at_speed(exchange.reply, self._factor)

    def peek(self) -> Reply | None:
        while self._first < len(self._played) and self._played[self._first]:
            self._first += 1
        return self._recording[self._first].reply if self._first < len(self._played) else None

    def skip(self) -> None:
        if self.peek() is not None:
            self._play(self._first)

    def left(self) -> list[str]:
        return [
            f"exchange {n} of {self._where}: {describe(exchange.request)}"
            for n, exchange in enumerate(self._recording)
            if not self._played[n]
        ]

    def explain(self, request: Request) -> list[str]:
        match_on = ", ".join(c if isinstance(c, str) else repr(c) for c in self._matcher.match_on)
        return [
            f"Replaying {self._where}: {sum(self._played)} of {len(self._played)} exchanges played, "
            f"matched on {match_on}.",
            *self._matcher.explain(
                request, ((n, one.request, self._played[n]) for n, one in enumerate(self._recording))
            ),
            "To fix it: 1. make the request equal to the recorded one, if the code under test is wrong;",
            "           2. record the session again, if the request has changed for good;",
            "           3. compare less: FakeAivvm.replaying(..., match_on=...).",
        ]


def _at_speed(reply: Reply, factor: float) -> Reply:
    """The reply with its moments times `factor`, but for what its reader did: one that left is given as long again."""
    if factor == 1:
        return reply
    scaled = reply.scale(factor)
    if reply.ending.kind != "closed":
        return scaled
    last = (reply.chunks or (reply.head,))[-1]
    since = reply.ending.at - (last.at if last else 0.0)
    return replace(scaled, ending=replace(scaled.ending, at=scaled.ending.at - since * factor + since))
