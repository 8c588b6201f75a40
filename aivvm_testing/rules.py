"""What a fake was told to answer: conditions on requests, and scripts of replies and faults to be given in order.

A `Script` counts what it gave; a `Condition` says whether a request is meant, and where not, how it differs; a `Rule` is
one of each. Which rule comes first, and what answers when none does, is the fake's decision.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from aivvm.errors import shown
from aivvm.transport import Request
from aivvm_testing.redaction import is_secret
from aivvm_testing.reply import Reply
from aivvm_testing.service import date, dressed, json_of, last_user_message, model_id
from aivvm_testing.wire import check_head

Fault: TypeAlias = Callable[[Reply], Reply]

_MISSING = object()


class Condition:
    """What a request must be; built from the keywords that `FakeAivvm.on` and the assertions take."""

    def __init__(
        self,
        predicate: Callable[[Request], bool] | None = None,
        *,
        model: str | None = None,
        contains: str | None = None,
        path: str | None = None,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        json: Mapping[str, Any] | None = None,
    ) -> None:
        if predicate is not None and not callable(predicate):
            raise TypeError(
                f"a condition is a callable, or names as in contains={predicate!r}, but got {predicate!r}"
            )
        for name, mapping in (("headers", headers), ("json", json)):
            if mapping is not None and not isinstance(mapping, Mapping):
                raise TypeError(f"{name} is a mapping, such as {{'key': 'value'}}, but got {mapping!r}")
        wanted = {
            "model": model,
            "contains": contains,
            "path": path,
            "method": method,
            "headers": headers,
            "json": json,
        }
        self._predicate = predicate
        self._wanted: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}

    def __bool__(self) -> bool:
        return self._predicate is not None or bool(self._wanted)

    def fits(self, request: Request) -> bool:
        """Whether the request is meant."""
        wanted = self._wanted
        if wanted:
            body = json_of(request.body) if wanted.keys() & {"model", "contains", "json"} else None
            asked: dict[str, Any] = body if isinstance(body, dict) else {}
            for name in wanted:
                if self._differs(name, request, asked):
                    return False
        return self._predicate is None or bool(self._predicate(request))

    def misfits(self, request: Request) -> list[str]:
        """How the request differs from what is wanted, a line for each; the predicate is asked too. Secrets are named,
        not shown."""
        body = json_of(request.body)
        asked: dict[str, Any] = body if isinstance(body, dict) else {}
        found = [line for name in self._wanted for line in self._differs(name, request, asked)]
        if self._predicate is not None and not self._predicate(request):
            found.append("the predicate says no")
        return found

    def _differs(self, name: str, request: Request, asked: dict[str, Any]) -> list[str]:
        wanted = self._wanted[name]
        if name == "path":
            came: object = urlsplit(request.url).path
        elif name == "method":
            came, wanted = request.method.upper(), wanted.upper()
        elif name == "model":
            came = model_id(asked)
        elif name == "contains":
            said = last_user_message(asked)
            return [] if wanted in said else [_line("the last user message", wanted, said, "something with")]
        elif name == "headers":
            fields = [(key, value, request.headers.get(key)) for key, value in wanted.items()]
            return [
                _line(f"header {key}", value, _MISSING if got is None else got)
                for key, value, got in fields
                if got != value
            ]
        else:
            members = [(key, value, asked.get(key, _MISSING)) for key, value in wanted.items()]
            return [
                _line(f"json[{key!r}]", value, got, name=key) for key, value, got in members if got != value
            ]
        return [] if came == wanted else [_line(name, wanted, came)]

    def __repr__(self) -> str:
        parts = [f"{name}={_without_secrets(value)!r}" for name, value in self._wanted.items()]
        if self._predicate is not None:
            parts.insert(0, getattr(self._predicate, "__name__", repr(self._predicate)))
        return ", ".join(parts)


def _without_secrets(wanted: object) -> object:
    if not isinstance(wanted, Mapping):
        return wanted
    return {key: "(secret)" if is_secret(key) else value for key, value in wanted.items()}


def _line(what: str, wanted: object, came: object, article: str = "", *, name: str = "") -> str:
    if is_secret(name or what.removeprefix("header ")):
        return f"{what}: another secret" if came is not _MISSING else f"{what} is missing"
    expected = f"{article} {shown(wanted)}".strip()
    return f"{what}: expected {expected}, but " + (
        "it is missing" if came is _MISSING else f"got {shown(came)}"
    )


class Script:
    """Replies, and faults for replies that others give, in order, each with how often it may still be given."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[object, Reply | Fault, float]] = (
            deque()
        )  # as scripted, as given, how often
        self._dated = ""  # the date that the first step was dressed with
        self.added = 0
        self.given = 0

    def add_reply(self, reply: Reply | str | bytes, times: int, forever: bool) -> None:
        if isinstance(reply, (str, bytes)):
            reply = Reply.of(reply) if reply else Reply.of()
        elif not isinstance(reply, Reply):
            raise TypeError(f"a reply is text, bytes or a Reply, but got {reply!r}")
        if reply.head is not None:
            check_head(reply.head)
        self._add(reply, dressed(reply), times, forever)

    def add_fault(self, fault: Fault, times: int, forever: bool) -> None:
        if not callable(fault) or isinstance(fault, type):
            raise TypeError(f"a fault is a callable, such as faults.cut(after=3), but got {fault!r}")
        self._add(fault, fault, times, forever)

    def _add(self, scripted: object, given: Reply | Fault, times: int, forever: bool) -> None:
        if not isinstance(times, int) or times < 1:
            raise ValueError(f"times is a whole number, 1 or more, but got {times!r}")
        if forever and times != 1:
            raise ValueError(f"it is given times={times} or forever=True, not both")
        if self._waiting and self._waiting[-1][2] == inf:
            raise ValueError("this would never come: what is before it is given for ever")
        self.added += times
        self._waiting.append((scripted, given, inf if forever else times))

    def next_reply(self) -> Reply | None:
        """The reply that comes next, after whatever faults; it stays to be given."""
        return next((given for _, given, _ in self._waiting if isinstance(given, Reply)), None)

    def next(self) -> Reply | Fault | None:
        if not self._waiting:
            return None
        self._dress()
        _, given, left = self._waiting[0]
        if left <= 1:
            self._waiting.popleft()
            self._dated = ""
        elif left != inf:
            self._waiting[0] = (*self._waiting[0][:2], left - 1)
        self.given += 1
        return given

    def _dress(self) -> None:
        """The first step with the date of today; the same object in the same second, as doors keep what they make of it."""
        if self._dated != (now := date()):
            self._dated = now
            scripted, given, left = self._waiting[0]
            if isinstance(scripted, Reply) and isinstance(given, Reply):
                fresh = dressed(scripted)
                if fresh.headers != given.headers:
                    self._waiting[0] = (scripted, fresh, left)

    def peek(self) -> Reply | Fault | None:
        if not self._waiting:
            return None
        self._dress()
        return self._waiting[0][1]

    def left(self) -> list[str]:
        return [
            f"{scripted!r}" + (f" ({left:g} times)" if left > 1 else "")
            for scripted, _, left in self._waiting
            if left != inf
        ]


class Rule:
    """Replies and faults for the requests that are meant; made by `FakeAivvm.on` and `FakeAivvm.fault`.

    Its steps are taken in order, one for each request. A step that is a fault changes whatever answers next: a later
    rule, the recording, the queue, the echo.
    """

    def __init__(
        self,
        lock: threading.RLock,
        condition: Condition,
        *,
        nth: int | None = None,
        probability: float = 1.0,
        seed: int = 0,
        on_reply: Callable[[], None] = lambda: None,
    ) -> None:
        if nth is not None and (not isinstance(nth, int) or nth < 1):
            raise ValueError(f"nth counts the requests that fit from 1, but got {nth!r}")
        if not 0 <= probability <= 1:
            raise ValueError(f"a probability is 0 to 1, but got {probability!r}")
        self.script = Script()
        self.counts = nth is not None
        self._lock = lock
        self._condition = condition
        self._nth = nth
        self._came = 0
        self._probability = probability
        self._seed = seed
        self._dice = random.Random(seed)
        self._on_reply = on_reply

    def reply(self, reply: Reply | str | bytes, *, times: int = 1, forever: bool = False) -> Rule:
        """Adds a reply, to be given `times` times or `forever`."""
        with self._lock:
            self.script.add_reply(reply, times, forever)
            self._on_reply()
        return self

    def fault(self, fault: Fault, *, times: int = 1, forever: bool = False) -> Rule:
        """Adds a fault, a callable from reply to reply, for `times` requests or `forever`."""
        with self._lock:
            self.script.add_fault(fault, times, forever)
        return self

    def takes(self, request: Request) -> bool:
        """Whether it is this rule's turn; for each request that comes by to be asked once, as it counts them."""
        if not self._condition.fits(request):
            return False
        self._came += 1
        if self._nth is not None and self._came != self._nth:
            return False
        return self._probability == 1 or self._dice.random() < self._probability

    def misfits(self, request: Request) -> list[str]:
        """Why the rule does not answer this request."""
        found = self._condition.misfits(request)
        if not found and self._nth is not None and self._came != self._nth:
            found = [
                f"nth: expected request {self._nth} of those that fit, but this was request {self._came}"
            ]
        return found

    def left(self) -> list[str]:
        """What should have been given; nothing where chance decides."""
        if not self.script.added:
            return [f"{self}, on which neither .reply(...) nor .fault(...) was said"]
        return [f"for {self}: {one}" for one in self.script.left()] if self._probability == 1 else []

    def __repr__(self) -> str:
        parts = [repr(self._condition)] if self._condition else []
        parts += [f"nth={self._nth}"] if self._nth is not None else []
        parts += [f"probability={self._probability:g}, seed={self._seed}"] if self._probability < 1 else []
        return f"on({', '.join(parts)})" if parts else "every request"
