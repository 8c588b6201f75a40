"""What a fake was told to answer: conditions on requests, and scripts of replies and faults to be given in order.

A `Script` counts what it gave; a `Condition` says whether a request is meant, and where not, how it differs; a `Rule` is
one of each. Which rule comes first, and what answers when none does, is the fake's decision.
"""

from __future__ import annotations

import json
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter, signature
from itertools import takewhile
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlsplit

from aivvm.errors import shown
from aivvm.transport import Headers, Request
from aivvm_testing.redaction import is_secret, redact_request
from aivvm_testing.reply import Reply
from aivvm_testing.service import date, dressed, json_of, last_user_message, model_id
from aivvm_testing.wire import check_head

if TYPE_CHECKING:
    from typing_extensions import Unpack  # Python 3.10 has none, and only type checkers read it

Fault: TypeAlias = Callable[[Reply], Reply]

_Method = TypeVar("_Method", bound=Callable[..., object])
_Difference: TypeAlias = (
    "tuple[tuple[str, str], Any, Any]"  # in what: a condition, and what within it; wanted, came
)
_MISSING = object()
_BEFORE, _AFTER = 16, 48  # characters around the first difference of long texts


class Conditions(TypedDict, total=False):
    """What a request may be asked for by name; None asks nothing. `FakeAivvm.on` says what each means."""

    model: str | None
    contains: str | None
    method: str | None
    url: str | None
    host: str | None
    path: str | None
    query: Mapping[str, str | Sequence[str]] | str | None
    headers: Mapping[str, str] | None
    json: Mapping[str, Any] | None
    body: bytes | str | None


def takes_conditions(method: _Method) -> _Method:
    """Lists the conditions by name in the signature of a method that takes them as `**wanted`, for `help` and editors."""
    whole = signature(method)
    parameters = [one for one in whole.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
    parameters += [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=hint.__forward_arg__)
        for name, hint in Conditions.__annotations__.items()
    ]
    method.__signature__ = whole.replace(parameters=parameters)  # type: ignore[attr-defined]  # where inspect looks first
    return method


class Condition:
    """What a request must be; built from what `FakeAivvm.on` and the assertions are given, and checked at once."""

    def __init__(
        self, predicate: Callable[[Request], bool] | None = None, **wanted: Unpack[Conditions]
    ) -> None:
        if predicate is not None and not callable(predicate):
            raise TypeError(
                f"a condition is a callable, or names as in contains={predicate!r}, but got {predicate!r}"
            )
        self._predicate = predicate
        self._wanted: dict[str, Any] = {}
        for name, value in wanted.items():
            if name not in _CHECKED:
                raise TypeError(f"there is no condition {name}={shown(value)}: {_hint(name)}")
            if value is not None:
                self._wanted[name] = _CHECKED[name](name, value)
        self._reads_json = bool(self._wanted.keys() & {"model", "contains", "json"})

    def __bool__(self) -> bool:
        return self._predicate is not None or bool(self._wanted)

    def fits(self, request: Request) -> bool:
        """Whether the request is meant."""
        wanted = self._wanted
        if wanted:
            body = json_of(request.body) if self._reads_json else None
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
        found = [
            _line(what, wanted, came, request)
            for name in self._wanted
            for what, wanted, came in self._differs(name, request, asked)
        ]
        if self._predicate is not None and not self._predicate(request):
            found.append("the predicate says no")
        return found

    def _differs(self, name: str, request: Request, asked: dict[str, Any]) -> list[_Difference]:
        wanted = self._wanted[name]
        if isinstance(wanted, Mapping):
            members = _MEMBERS[name](request, asked, wanted)
            return [
                ((name, key), value, got)
                for (key, value), got in zip(wanted.items(), members, strict=True)
                if got != value
            ]
        came = _CAME[name](request, asked, wanted)
        fits = wanted in came if name == "contains" else came == wanted
        return [] if fits else [((name, ""), wanted, came)]

    def __repr__(self) -> str:
        parts = [f"{name}={_without_secrets(name, value)!r:.200}" for name, value in self._wanted.items()]
        if self._predicate is not None:
            parts.insert(0, getattr(self._predicate, "__name__", repr(self._predicate)))
        return ", ".join(parts)


def _hint(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, _CHECKED, 1)
    return f"did you mean {near[0]}=?" if near else f"there are {', '.join(_CHECKED)}"


# What may be wanted: each check gives the form in which it is compared.


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is text, but got {shown(value)}")
    return value


def _path(name: str, value: object) -> str:
    path = _text(name, value)
    if not path.startswith("/") or "?" in path:
        raise ValueError(f"path begins with / and has no query, such as '/api/chat', but got {path!r}")
    return path


def _url(name: str, value: object) -> str:
    url = _text(name, value)
    try:
        if urlsplit(url).scheme.lower() in ("http", "https"):
            return _in_one_form(url)
    except ValueError:
        pass
    raise ValueError(f"url is a whole one, such as 'https://chat.aivvm.com/api/chat', but got {url!r}")


def _host(name: str, value: object) -> str:
    host = _text(name, value)
    try:
        netloc = host if host.count(":") < 2 or host.startswith("[") else f"[{host}]"
        parts = urlsplit(f"//{netloc}")
        if parts.netloc == netloc and "@" not in netloc:
            return _authority(parts, parts.port)
    except ValueError:
        pass
    raise ValueError(f"host is a name, or name:port, such as 'chat.aivvm.com', but got {host!r}")


def _query(name: str, value: object) -> str | dict[str, str | list[str]]:
    if isinstance(value, str):
        if value.startswith("?"):
            raise ValueError(f"query is written without its question mark, but got {value!r}")
        return value
    wanted: dict[str, str | list[str]] = {}
    for key, one in _mapping(name, value).items():
        several = list(one) if isinstance(one, (list, tuple)) else [one]
        if not several or not all([isinstance(part, str) for part in (key, *several)]):
            raise TypeError(
                f"query has text, or a list of texts, under each name, but got {{{key!r}: {one!r}}}"
            )
        wanted[key] = several if len(several) > 1 else several[0]
    return wanted


def _headers(name: str, value: object) -> dict[str, str]:
    for key, one in _mapping(name, value).items():
        if not (isinstance(key, str) and isinstance(one, str)):
            raise TypeError(f"headers has text under each name, but got {{{key!r}: {one!r}}}")
    return _mapping(name, value)


def _mapping(name: str, value: object) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is a mapping, such as {{'key': 'value'}}, but got {value!r}")
    return dict(value)


def _body(name: str, value: object) -> bytes:
    if not isinstance(value, (bytes, str)):
        raise TypeError(
            f"body is bytes or text, all of it, but got {shown(value)}; for a part of JSON say json="
        )
    return value.encode() if isinstance(value, str) else value


_CHECKED: dict[str, Callable[[str, object], Any]] = {
    "model": _text,
    "contains": _text,
    "method": lambda name, value: _text(name, value).upper(),
    "url": _url,
    "host": _host,
    "path": _path,
    "query": _query,
    "headers": _headers,
    "json": _mapping,
    "body": _body,
}

# What came


def _in_one_form(url: str) -> str:
    """The url as it is compared: without its fragment, and without what changes nothing. `ValueError` for none."""
    parts = urlsplit(url)
    port = None if parts.port == _DEFAULT_PORTS.get(parts.scheme) else parts.port
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{_authority(parts, port)}{parts.path or '/'}{query}"


def _authority(parts: SplitResult, port: int | None) -> str:
    host = (parts.hostname or "").rstrip(".")
    if not host:
        raise ValueError("no name of a host")
    if not host.isascii():
        host = host.encode("idna").decode()
    return (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")


def _url_of(request: Request, asked: dict[str, Any], wanted: str) -> str:
    try:
        return _in_one_form(request.url)
    except ValueError:  # a client may ask for anything
        return request.url


def _host_of(request: Request, asked: dict[str, Any], wanted: str) -> str:
    try:
        parts = urlsplit(request.url)
        with_port = urlsplit(f"//{wanted}").port is not None
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        return _authority(parts, port if with_port else None)
    except ValueError:
        return ""


_DEFAULT_PORTS = {"http": 80, "https": 443}
_CAME: dict[str, Callable[[Request, dict[str, Any], Any], Any]] = {
    "model": lambda request, asked, wanted: model_id(asked),
    "contains": lambda request, asked, wanted: last_user_message(asked),
    "method": lambda request, asked, wanted: request.method.upper(),
    "url": _url_of,
    "host": _host_of,
    "path": lambda request, asked, wanted: urlsplit(request.url).path or "/",
    "query": lambda request, asked, wanted: urlsplit(request.url).query,
    "body": lambda request, asked, wanted: request.body,
}


def _parameters(request: Request, asked: dict[str, Any], names: Iterable[str]) -> list[object]:
    came: dict[str, list[str]] = {}
    for name, value in parse_qsl(urlsplit(request.url).query, keep_blank_values=True):
        came.setdefault(name, []).append(value)
    return [
        _MISSING if name not in came else came[name] if len(came[name]) > 1 else came[name][0]
        for name in names
    ]


def _fields(request: Request, asked: dict[str, Any], names: Iterable[str]) -> list[object]:
    return [_MISSING if (value := request.headers.get(name)) is None else value for name in names]


_MEMBERS: dict[str, Callable[[Request, dict[str, Any], Iterable[str]], list[object]]] = {
    "query": _parameters,
    "headers": _fields,
    "json": lambda request, asked, names: [asked.get(name, _MISSING) for name in names],
}

# What people read


def _line(what: tuple[str, str], wanted: object, came: object, request: Request) -> str:
    name, key = what
    said = {
        "contains": "the last user message",
        "headers": f"header {key}",
    }.get(name, f"{name}[{key!r}]" if key else name)
    if key and is_secret(key):
        return f"{said}: another secret" if came is not _MISSING else f"{said} is missing"
    of = "" if key else name
    expected = shown(_without_secrets(of, wanted, request))
    if came is _MISSING:
        return f"{said}: expected {expected}, but it is missing"
    got = shown(_without_secrets(of, came, request))
    if "..." in expected or expected == got:
        expected, got = _around_the_difference(name, key, wanted, came, request)
    if expected == got:
        return f"{said}: it differs in what is not shown"
    return f"{said}: expected {'something with ' if name == 'contains' else ''}{expected}, but got {got}"


def _around_the_difference(name: str, key: str, wanted: Any, came: Any, request: Request) -> tuple[str, str]:
    """Both, where they first differ: long texts do so late. Without the secrets, at any depth."""
    texts = []
    for value in (wanted, came):
        value = _without_secrets("" if key else name, value, request)
        if not isinstance(value, str):
            try:
                body = json.dumps({key: value}, ensure_ascii=False, sort_keys=True).encode()
                value = redact_request(Request("POST", "http://host/", Headers(), body)).body.decode()[
                    len(key) + 6 : -1
                ]
            except (TypeError, ValueError):
                value = repr(value)
        texts.append(value)
    one, other = texts
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    begin = max(0, same - _BEFORE)

    def piece(text: str) -> str:
        part = text[begin : same + _AFTER]
        return ("…" if begin else "") + shown(part) + ("…" if same + _AFTER < len(text) else "")

    return piece(one), piece(other)


def _without_secrets(name: str, value: Any, request: Request | None = None) -> object:
    """The value as it may be shown; `request` is the one that it is compared with."""
    if isinstance(value, Mapping):
        return {key: "(secret)" if is_secret(key) else one for key, one in value.items()}
    if name == "url":
        return redact_request(Request("GET", value)).url
    if name == "query" and isinstance(value, str):
        return redact_request(Request("GET", f"http://host/?{value}")).url.partition("?")[2]
    if name == "body":
        headers = Headers() if request is None else request.headers
        return redact_request(Request("POST", "http://host/", headers, value)).body
    return value


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
        from aivvm_testing.faults import CATALOGUE  # only who scripts a fault needs it

        made: object = fault
        for kind in CATALOGUE.values():
            if made is kind.make:
                raise TypeError(f"faults.{kind.name} makes a fault: did you mean faults.{kind.name}()?")
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

    def left(self) -> list[tuple[int, str]]:
        """How often each may still be given, and which it is; without those that are given for ever."""
        return [
            (int(left), f"{scripted!r}" + (f" ({left:g} times)" if left > 1 else ""))
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
            self._check_once("reply", times, forever)
            self.script.add_reply(reply, times, forever)
            self._on_reply()
        return self

    def fault(self, fault: Fault, *, times: int = 1, forever: bool = False) -> Rule:
        """Adds a fault, a callable from reply to reply, for `times` requests or `forever`."""
        with self._lock:
            self._check_once("fault", times, forever)
            self.script.add_fault(fault, times, forever)
        return self

    def _check_once(self, what: str, times: int, forever: bool) -> None:
        """Refuses what would never come: the nth request is one."""
        if self._nth is None:
            return
        why = ""
        if self.script.added:
            why = "has its step already"
        elif forever or times != 1:
            why = f"is not given {'forever=True' if forever else f'times={times!r}'}"
        if why:
            raise ValueError(
                f"{self} is for one request, so it {why}: for another one make another rule, "
                f"fake.on(nth={self._nth + 1}, ...).{what}(...)"
            )

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
        if not found and self._probability < 1 and self.script.peek() is not None:
            found = [f"chance decided against it (probability={self._probability:g}, seed={self._seed})"]
        return found

    def left(self) -> list[tuple[int, str]]:
        """What should have been given, and how often; nothing where chance decides."""
        if not self.script.added:
            return [(1, f"{self}, on which neither .reply(...) nor .fault(...) was said")]
        if self._probability < 1:
            return []
        return [(times, f"for {self}: {one}") for times, one in self.script.left()]

    def __repr__(self) -> str:
        parts = [repr(self._condition)] if self._condition else []
        parts += [f"nth={self._nth}"] if self._nth is not None else []
        parts += [f"probability={self._probability:g}, seed={self._seed}"] if self._probability < 1 else []
        return f"on({', '.join(parts)})" if parts else "every request"
