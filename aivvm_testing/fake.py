"""The fake: answers requests from an echo, from scripted replies or from a recording, and remembers what it was asked.

It decides *what* is answered; the doors (`transport`, `adapter`, `responses`, `server`) carry the answer to a client.
The order of decision:

1. rules, `fake.on(model="gpt-4").reply(...)`, in the order they were made, whatever the path;
2. a recording, where the fake replays one; what it has no answer for is an error, but for `/api/models` and as long
   as the queue lasts;
3. what the real server does with this path, method and body: models, errors, 404s;
4. the queue, `fake.reply(...)`, in order; without any script, an echo of the last user message.

Faults, `fake.fault(faults.cut(after=3))` or on a rule, change what this gives. Where one took something away,
whoever asks the same again is given the same answer again: a client that retries gets what it lost.

A fake may be shared between threads and doors: each request takes exactly one reply.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlsplit
from weakref import WeakSet

from aivvm.terminal import printable
from aivvm.transport import Request
from aivvm_testing.call import Call
from aivvm_testing.clock import Clock, VirtualClock
from aivvm_testing.errors import SetupFailure, UnmatchedRequest, UnplayedReplies
from aivvm_testing.matching import DEFAULT_MATCH_ON, Criterion, JsonPath, Matcher, describe
from aivvm_testing.playback import Playback
from aivvm_testing.recording import Recording
from aivvm_testing.redaction import DEFAULT, Redaction
from aivvm_testing.reply import Reply
from aivvm_testing.rules import Condition, Conditions, Fault, Rule, Script, takes_conditions
from aivvm_testing.service import answer_without_model, dressed, echo, is_models
from aivvm_testing.wire import MAX_BODY, MAX_HEAD, Refusal, check_head

if TYPE_CHECKING:
    from responses import RequestsMock
    from typing_extensions import Unpack  # Python 3.10 has none, and only type checkers read it
    from urllib3.util import Retry

    from aivvm_testing.replay.adapter import FakeAdapter, Interception
    from aivvm_testing.replay.server import FakeServer
    from aivvm_testing.replay.transport import FakeTransport

_TOO_MANY = (
    "\nTo fix it: 1. make the code under test ask for what it should;"
    "\n           2. script, or record, no more than it asks for;"
    "\n           3. say {unasked} where it need not ask."
)
_SERVICE = "chat.aivvm.com"
_MOST_OWED = 1024  # answers that are kept for whoever asks again
_SHOWN_CALLS = 20
_MOST_REFUSALS = 1000
_SHOWN_REFUSALS = 3
_SHOWN_ASTRAY = 3
_Fake = TypeVar("_Fake", bound="FakeAivvm")


class FakeAivvm:
    """A fake Aivvm service.

    `clock` is what doors 1 to 3 wait with: virtual unless told otherwise; the server always uses the system's.
    `calls` holds every request in the order of arrival, with what it was answered; a long-lived fake may clear it.
    `refusals` holds what a server refused, as it was no request that can be answered: `why`, the `status` it was
    answered, and the `request` as far as it is known. As a context manager a fake ends with `assert_all_played()`.
    """

    _advice: tuple[str, ...] = (
        "To fix it: 1. make the request equal to the recorded one, if the code under test is wrong;",
        "           2. record the session again, if the request has changed for good;",
        "           3. compare less: FakeAivvm.replaying(..., match_on=..., ignore_json=...).",
    )
    _unasked = "fake.reply(..., forever=True)"

    def __init__(self, *, clock: Clock | None = None) -> None:
        if clock is not None and not callable(getattr(clock, "timer", None)):
            raise TypeError(f"a clock is a VirtualClock() or a SystemClock(), but got {clock!r}")
        self.clock: Clock = VirtualClock() if clock is None else clock
        self.calls: list[Call] = []
        self.refusals: list[Refusal] = []
        self._born = monotonic()
        self._lock = threading.RLock()  # a predicate may ask the fake something
        self._rules: list[Rule] = []
        self._queue = Script()
        self._scripted = False
        self._owed: dict[tuple[str, str, bytes], Reply] = {}
        self._recording: Playback | None = None
        self._failure: SetupFailure | None = None
        self._servers: WeakSet[FakeServer] = WeakSet()

    @classmethod
    def replaying(
        cls: type[_Fake],
        source: str | os.PathLike[str] | Recording,
        *,
        match_on: Sequence[Criterion] = DEFAULT_MATCH_ON,
        ignore_json: Sequence[JsonPath] = (),
        redaction: Redaction = DEFAULT,
        allow_playback_repeats: bool = False,
        speed: float = 0,
        clock: Clock | None = None,
    ) -> _Fake:
        """A fake that answers from a recording, each exchange once, identical requests in recorded order.

        `match_on`: `method`, `scheme`, `host`, `port`, `path`, `query`, `json` (by meaning), `body` (bytes), `headers`,
        or callables `(recorded, incoming) -> bool`. `ignore_json`: members of a JSON body that do not count, as paths
        such as `messages[*].id`. `redaction`: the one that the recording was made with, if that was not the default.
        With `allow_playback_repeats` the last exchange that matches answers again and again.
        `speed` 1 keeps the recorded times, 2 is twice as fast, 0 leaves no gaps (a stall stays a stall).
        """
        fake = cls(clock=clock)
        where = "the recording" if isinstance(source, Recording) else os.fspath(source)
        recording = source if isinstance(source, Recording) else Recording.load(source)
        fake._scripted = True
        matcher = Matcher(match_on, redaction=redaction, ignore_json=ignore_json)
        fake._recording = Playback(recording, where, matcher, speed=speed, repeats=allow_playback_repeats)
        return fake

    # Scripting

    def reply(self, reply: Reply | str | bytes, *, times: int = 1, forever: bool = False) -> FakeAivvm:
        """Adds a reply to the queue, to be given `times` times or `forever`. From now on there is no echo."""
        with self._lock:
            self._queue.add_reply(reply, times, forever)
            self._scripted = True
        if self._servers and self.refuses_next():
            for server in list(self._servers):
                server.recheck()
        return self

    @takes_conditions
    def on(
        self,
        predicate: Callable[[Request], bool] | None = None,
        *,
        nth: int | None = None,
        probability: float = 1.0,
        seed: int = 0,
        **wanted: Unpack[Conditions],
    ) -> Rule:
        """A rule for requests that fit all that is given; what it does is said with `.reply(...)` or `.fault(...)`.

        `predicate`: a callable. `nth`: only this one, from 1, of the requests that fit the rest; it has one step.
        `probability`: by chance, the same for the same `seed`. The other names are conditions:

        | condition | what it asks for |
        |---|---|
        | `model` | the model's id |
        | `contains` | text within the last user message |
        | `method` | GET, POST and so on, in any case |
        | `url` | the whole url, query included |
        | `host` | its name, or `name:port`, in any case |
        | `path` | its path, without the query |
        | `query` | as text, all of it; as a mapping, parameters that must be there and equal |
        | `headers` | fields that must be there and equal, a mapping |
        | `json` | members of the body that must be there and equal, a mapping |
        | `body` | all of the body, as bytes or as text in UTF-8 |

        What none of these can be is a `TypeError` or a `ValueError`. A rule whose steps are used up steps aside. Once a
        rule has a reply there is no echo.
        """
        condition = Condition(predicate, **wanted)
        if not condition and nth is None and probability == 1:
            raise ValueError("on() needs something to go by, such as model='gpt-4' or a predicate")
        rule = Rule(
            self._lock, condition, nth=nth, probability=probability, seed=seed, on_reply=self._end_echo
        )
        with self._lock:
            self._rules.append(rule)
        return rule

    @takes_conditions
    def fault(
        self, fault: Fault, *, times: int = 1, forever: bool = False, **wanted: Unpack[Conditions]
    ) -> FakeAivvm:
        """Does this to the next `times` answers, or to all of them `forever`, whatever answers.

        With conditions, those of `on`, only to answers of requests that fit them all.

        A fault is a callable from reply to reply, such as `faults.cut(after=3)`. One that takes something away does not
        use an answer up: the same request, asked again, is given the same answer, and the fault if there is one left.
        """
        rule = Rule(self._lock, Condition(**wanted)).fault(fault, times=times, forever=forever)
        with self._lock:
            self._rules.append(rule)
        return self

    def _end_echo(self) -> None:
        self._scripted = True

    # Answering: for doors

    def answer(self, request: Request) -> Call:
        """The call that this request makes, with the reply in the fake's own speed; it counts as played. Never blocks.

        The door says on the call how far its client comes. Raises `UnmatchedRequest`, or the `SetupFailure` of a fault
        that cannot be done to this reply; `assert_all_played` raises them again in case the code under test swallows
        them.
        """
        with self._lock:
            call = Call(request, None, at=monotonic() - self._born)
            self.calls.append(call)
            try:
                call.reply, call.faults = self._decide(request)
            except SetupFailure as error:
                call.over("unmatched", 0.0)
                self.failed(error)
                raise
            return call

    def _decide(self, request: Request) -> tuple[Reply, tuple[Fault, ...]]:
        owed = reply = self._owed.pop(_asking(request), None) if self._owed else None
        if not self._rules:
            return (self._unruled(request) if reply is None else reply), ()
        faulty: list[Rule] = []
        for rule in self._rules:
            step = rule.script.peek()
            if step is None or (reply is not None and isinstance(step, Reply) and not rule.counts):
                continue
            if rule.takes(request):
                if not isinstance(step, Reply):
                    faulty.append(rule)
                elif reply is owed:  # what is said of the nth request comes then, whatever is owed
                    rule.script.next()
                    reply = step
        if owed is not None and reply is not owed:
            self._owed[_asking(request)] = owed
        if not faulty:
            return (self._unruled(request) if reply is None else reply), ()
        # Where a rule's own reply comes after its fault, the rule has it ready, and nobody owes it.
        owned = next((own for rule in faulty if (own := rule.script.next_reply()) is not None), None)
        whole = reply or owned or self._unruled(request)
        faults = tuple([cast("Fault", rule.script.next()) for rule in faulty])
        changed = whole
        for fault in faults:
            changed = _faulty(fault, changed)
        if (reply is not None or owned is None) and _takes_away(whole, changed):
            self._owed.setdefault(_asking(request), whole)
            if len(self._owed) > _MOST_OWED:
                del self._owed[next(iter(self._owed))]
        return changed, faults

    def _unruled(self, request: Request) -> Reply:
        if self._recording is not None and (reply := self._recording.next(request)) is not None:
            return reply
        served = answer_without_model(request)
        if isinstance(served, Reply) and (self._recording is None or is_models(request)):
            return served
        if not self._scripted:
            return echo({} if isinstance(served, Reply) else served)
        queued = self._queue.next()
        if isinstance(queued, Reply):
            return queued
        raise UnmatchedRequest(self._explain(request))

    def refuses_next(self) -> bool:
        """Whether the next reply in order is a refused connection, which a server can only give by not listening."""
        with self._lock:
            if self._owed:  # whoever asks again comes first
                return False
            reply = self._queue.peek() if self._recording is None else self._recording.peek()
            return isinstance(reply, Reply) and reply.ending.kind == "refused"

    def skip_refused(self) -> None:
        """Counts the refused connection that comes next as played: no server ever sees it."""
        if self.refuses_next():
            with self._lock:
                if self._recording is None:
                    self._queue.next()
                else:
                    self._recording.skip()

    def refused(self, refusal: Refusal) -> None:
        """Keeps what a server could not accept as a request, the last 1,000 of them; it is no call."""
        with self._lock:
            self.refusals.append(refusal)
            del self.refusals[:-_MOST_REFUSALS]

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
            left = [(times, f"in the queue: {one}") for times, one in self._queue.left()]
            for rule in self._rules:
                left += rule.left()
            if self._recording is not None:
                left += self._recording.left()
            if left:
                asked = f"{len(self.calls)} request{'' if len(self.calls) == 1 else 's'} came"
                count = sum([times for times, _ in left])
                lines = [f"{count} not played ({asked}):", *[line for _, line in left]]
                lines += [*(self._astray() if self._queue.left() else ()), *self._refused()]
                raise UnplayedReplies("\n  ".join(lines) + _TOO_MANY.format(unasked=self._unasked))

    def reset(self) -> None:
        """Forgets every script, fault and request, as if it were new; a recording that it replays begins again."""
        with self._lock:
            self.calls.clear()
            self.refusals.clear()
            self._rules.clear()
            self._owed.clear()
            self._queue = Script()
            self._failure = None
            self._scripted = self._recording is not None
            if self._recording is not None:
                self._recording.rewind()

    @property
    def requests(self) -> list[Request]:
        """Every request, in the order of arrival."""
        return [call.request for call in self.calls]

    @takes_conditions
    def assert_called_once_with(
        self, predicate: Callable[[Request], bool] | None = None, **wanted: Unpack[Conditions]
    ) -> Call:
        """Exactly one request came, and it is what is wanted, by the conditions of `on`; gives its call."""
        condition = Condition(predicate, **wanted)
        if len(self.calls) == 1 and condition.fits(self.calls[0].request):
            return self.calls[0]
        raise AssertionError(
            self._asked(f"one request with {condition}" if condition else "one request", condition)
        )

    @takes_conditions
    def assert_any_call(
        self, predicate: Callable[[Request], bool] | None = None, **wanted: Unpack[Conditions]
    ) -> Call:
        """Some request came that is what is wanted, by the conditions of `on`; gives the first one's call."""
        condition = Condition(predicate, **wanted)
        for call in self.calls:
            if condition.fits(call.request):
                return call
        raise AssertionError(
            self._asked(f"a request with {condition}" if condition else "a request", condition)
        )

    def assert_not_called(self) -> None:
        """No request came."""
        if self.calls:
            raise AssertionError(self._asked("no request", Condition()))

    def _asked(self, expected: str, condition: Condition) -> str:
        """What was expected, and what came: each request with how it differs, the last ones of many."""
        calls = self.calls
        lines = [f"expected {expected}, but {len(calls) or 'none'} came" + (":" if calls else "")]
        if len(calls) > _SHOWN_CALLS:
            lines.append(f"  ... {len(calls) - _SHOWN_CALLS} earlier ones")
        for call in calls[-_SHOWN_CALLS:]:
            lines.append(f"  {describe(call.request)}")
            lines += [f"      {printable(misfit)}" for misfit in condition.misfits(call.request)]
        return "\n".join(lines + [f"  {one}" for one in self._refused()])

    def _astray(self) -> list[str]:
        """The paths at which the queue answers nothing, as the service has none such."""
        paths = [
            printable(urlsplit(call.request.url).path)
            for call in self.calls
            if call.reply is not None and call.reply.status == 404
        ]
        return [
            f"{path} is no path of the service, and got 404: fake.on(path={path!r}).reply(...) answers there"
            for path in list(dict.fromkeys(paths))[:_SHOWN_ASTRAY]
        ]

    def _refused(self) -> list[str]:
        """What a server refused, which may be why a request did not come: the last of it, a line for each."""
        refusals = self.refusals
        if not refusals:
            return []
        what = "request was" if len(refusals) == 1 else "requests were"
        lines = [f"{len(refusals)} more {what} refused by a server, and not counted:"]
        for status, why, request in refusals[-_SHOWN_REFUSALS:]:
            about = f"{describe(request)}: " if request is not None else ""
            lines.append(f"  {about}{printable(why)}" + (f" ({status})" if status else ""))
        return lines

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

    def adapter(self, *, max_retries: Retry | int = 0) -> FakeAdapter:
        """Door 2: for `session.mount("https://chat.aivvm.com", fake.adapter())`; closed with its session.

        The request is made, and the answer parsed, by `http.client` and urllib3; only the socket is missing.
        """
        from aivvm_testing.replay.adapter import FakeAdapter

        return FakeAdapter(self, max_retries=max_retries)

    def intercepting_requests(
        self, *hosts: str, allow: Iterable[str] = (), must_be_asked: bool = True
    ) -> Interception:
        """Door 2 for every `requests.Session` of the process, as long as the context manager is entered.

        `hosts`: those that the fake answers for, as `name`, `name:port` or `*`; without any, the service's own,
        `chat.aivvm.com`, and for a replaying fake those of its recording. All other hosts are blocked, with an
        `UnmatchedRequest`, but for those that are named in `allow`.

        Leaving it without an exception raises the first `SetupFailure` that a request met, in case the code under test
        swallowed it, and where no request came at all a `SetupFailure` that says so, unless `must_be_asked=False`.
        """
        from aivvm_testing.replay.adapter import Interception

        return Interception(self, hosts or self._hosts(), allow=allow, must_be_asked=must_be_asked)

    def responses(self, *hosts: str, assert_all_requests_are_fired: bool = True) -> RequestsMock:
        """Door 3: a `responses.RequestsMock` in which this fake answers for `hosts`, by default as above.

        Chunk boundaries, times and mid-stream errors are kept. More can be registered in it, as in any other.
        `assert_all_requests_are_fired`: the fake counts as one of them, fired once it was asked. That all its replies
        were played is asserted by leaving the fake, not its doors: `with FakeAivvm() as fake, fake.responses():`.
        """
        from aivvm_testing.replay.responses import mocked

        return mocked(
            self, hosts or self._hosts(), assert_all_requests_are_fired=assert_all_requests_are_fired
        )

    def _hosts(self) -> tuple[str, ...]:
        recorded = () if self._recording is None else self._recording.hosts()
        return tuple(dict.fromkeys([_SERVICE, *recorded]))

    def server(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        cors: bool | str = False,
        allow_remote: bool = False,
        idle_timeout: float = 60.0,
        request_timeout: float = 10.0,
        write_timeout: float = 60.0,
        max_head: int = MAX_HEAD,
        max_body: int = MAX_BODY,
    ) -> FakeServer:
        """Door 4: a server on loopback, on a free port unless one is named; a context manager that starts it.

        `cors`: whether pages of other origins may read the answers: True for any origin, or the one that may. A host
        that is not loopback needs `allow_remote=True`.

        Patience with clients, in seconds: `idle_timeout` until a request begins, `request_timeout` until it is whole,
        `write_timeout` until more of an answer is taken. Bounds of a request, in bytes: `max_head` and `max_body`.
        """
        from aivvm_testing.replay.server import FakeServer

        server = FakeServer(
            self,
            host=host,
            port=port,
            cors=cors,
            allow_remote=allow_remote,
            idle_timeout=idle_timeout,
            request_timeout=request_timeout,
            write_timeout=write_timeout,
            max_head=max_head,
            max_body=max_body,
        )
        self._servers.add(server)
        return server

    def _explain(self, request: Request) -> str:
        lines = [f"no reply for {describe(request)}"]
        if self._recording is not None:
            return "\n".join([*lines, *self._recording.explain(request), *self._advice])
        queue, rules = self._queue, len(self._rules)
        lines.append(
            f"The queue is empty: {queue.given} of {queue.added} scripted replies were given."
            if queue.added
            else "Nothing is scripted but rules."
        )
        if rules:
            lines.append(
                "The only rule does not answer it:" if rules == 1 else f"None of {rules} rules answers it:"
            )
        # The nearest first: it differs least.
        misfits = sorted([(rule.misfits(request), n) for n, rule in enumerate(self._rules)], key=_how_far)
        for nearness, (found, n) in enumerate(misfits):
            rule = self._rules[n]
            given = f"{rule.script.given} of {rule.script.added} given"
            lines.append(f"  {'nearest rule' if nearness == 0 else 'rule'}: {rule}, {given}")
            if not found and rule.script.peek() is None:
                found = ["it fits, and has nothing left: say .reply(...) on it once more"]
            elif not found:
                found = ["it fits, and has a fault but no answer to do it to: say .reply(...) on it, too"]
            lines += [f"      {printable(one)}" for one in found]
        lines += [
            "To fix it: 1. script one more, fake.reply(...);",
            "           2. let one answer for ever, fake.reply(..., forever=True);",
            "           3. look at fake.requests: was the code expected to ask so often?",
        ]
        return "\n".join(lines)


def _asking(request: Request) -> tuple[str, str, bytes]:
    """What is equal where the same is asked again."""
    return request.method, request.url, request.body


def _how_far(found: tuple[list[str], int]) -> tuple[int, int]:
    return len(found[0]), found[1]


def _takes_away(whole: Reply, changed: Reply) -> bool:
    """Whether a client that was given this has not got all of that, or an error, and may ask again."""
    return (
        changed.ending.kind != whole.ending.kind
        or changed.status != whole.status
        or len(changed.body) < len(whole.body)
        or changed.headers.get_all("content-length") != whole.headers.get_all("content-length")
    )


def _faulty(fault: Fault, reply: Reply) -> Reply:
    try:
        changed = fault(reply)
        if not isinstance(changed, Reply):
            raise TypeError(f"it gave {changed!r} instead of a Reply")
        if changed.head is not None:
            check_head(changed.head)
    except Exception as error:
        raise SetupFailure(
            f"the fault {fault!r} cannot be done to this answer: {type(error).__name__}: {error}\n"
            f"The answer is {reply!r}"
        ) from error
    return dressed(changed)
