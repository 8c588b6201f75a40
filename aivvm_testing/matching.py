"""Which recorded exchange answers a request, and why none does.

A criterion is a name of the table below or a callable `(recorded, incoming) -> bool`. Secrets never count: what
redaction takes out by its name compares as equal, whatever it was, so that a recording without its secrets answers a
client with other ones or none. (`body` alone compares bytes, and so the length of what was redacted.) Nothing here
knows what was played or plays anything.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeAlias
from urllib.parse import SplitResult, parse_qsl, urlsplit

from aivvm.terminal import one_line, printable
from aivvm.transport import Request
from aivvm_testing.redaction import is_secret, redact_request

Criterion: TypeAlias = "str | Callable[[Request, Request], bool]"

DEFAULT_MATCH_ON: tuple[Criterion, ...] = ("method", "path", "json")
"""No scheme, host or port: a recording made against a server plays at loopback."""

_ANY = "(any secret)"
_COMPARED = 200
_DIFF_LINES = 24
_MOST_DIFFED = 64 * 1024  # bytes of a body
_SHOWN_WIDTH = 120


def _body_by_meaning(request: Request) -> Hashable:
    try:
        return json.dumps(_canonical(json.loads(request.body)), sort_keys=True)
    except (ValueError, RecursionError):
        return request.body


def _canonical(value: Any) -> Any:
    # JSON has one kind of number: 1 and 1.0 mean the same.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, dict):
        return {key: _canonical(item) if not _secret(key, item) else _ANY for key, item in value.items()}
    return value


def _secret(name: str, value: object) -> bool:
    # However long the secret is, and whether it is there at all: a replay is often run without the real one.
    return isinstance(value, str) and is_secret(name)


def _fields(pairs: Iterable[tuple[str, str]]) -> Hashable:
    return tuple(sorted((name, _ANY if _secret(name, value) else value) for name, value in pairs))


_ASPECTS: dict[str, Callable[[Request, SplitResult], Hashable]] = {
    "method": lambda request, url: request.method.upper(),
    "scheme": lambda request, url: url.scheme,
    "host": lambda request, url: url.hostname,
    "port": lambda request, url: url.port or {"http": 80, "https": 443}.get(url.scheme),
    "path": lambda request, url: url.path or "/",
    "query": lambda request, url: _fields(parse_qsl(url.query, keep_blank_values=True)),
    "json": lambda request, url: _body_by_meaning(request),
    "body": lambda request, url: request.body,
    "headers": lambda request, url: _fields((name.lower(), value) for name, value in request.headers),
}


class Matcher:
    """Compares requests by `match_on`; raises `ValueError` at once for a criterion that does not exist."""

    def __init__(self, match_on: Sequence[Criterion] = DEFAULT_MATCH_ON) -> None:
        if isinstance(match_on, str):
            raise ValueError(f"match_on takes a sequence of criteria, such as ({match_on!r},)")
        for criterion in match_on:
            if isinstance(criterion, str) and criterion not in _ASPECTS:
                near = difflib.get_close_matches(criterion, _ASPECTS, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_ASPECTS)}"
                raise ValueError(f"match_on has no criterion {criterion!r}: {hint}")
        self.match_on = tuple(match_on)
        self._names = [criterion for criterion in match_on if isinstance(criterion, str)]
        self._predicates = [criterion for criterion in match_on if not isinstance(criterion, str)]

    def key(self, request: Request) -> Hashable:
        """What two requests must share to match, as far as names go: the same key, whatever was redacted."""
        request = redact_request(request)
        url = urlsplit(request.url)
        return tuple([_ASPECTS[name](request, url) for name in self._names])

    def accepts(self, recorded: Request, incoming: Request) -> bool:
        """Whether the callables among the criteria agree."""
        return all(predicate(recorded, incoming) for predicate in self._predicates)

    def differing(self, recorded: Request, incoming: Request) -> list[str]:
        """The criteria by which the two differ, in the order of `match_on`."""
        ours, theirs = redact_request(recorded), redact_request(incoming)
        one, other = urlsplit(ours.url), urlsplit(theirs.url)
        names = [name for name in self._names if _ASPECTS[name](ours, one) != _ASPECTS[name](theirs, other)]
        if not self.accepts(recorded, incoming):
            names.append("callable")
        return names

    def explain(self, incoming: Request, recorded: Iterable[tuple[int, Request, bool]]) -> list[str]:
        """Lines that tell how near the nearest recorded request is; each comes as (number, request, played)."""
        candidates = list(recorded)
        if not candidates:
            return ["Nothing is recorded."]
        if len(candidates) > _COMPARED:
            # Whoever waits for an answer waits for this: the likeliest, in time that no recording can stretch.
            target = incoming.method, urlsplit(incoming.url).path
            candidates.sort(key=lambda one: ((one[1].method, urlsplit(one[1].url).path) != target, one[2]))
            del candidates[_COMPARED:]
        how_far = [(self.differing(request, incoming), played, n) for n, request, played in candidates]
        best = min(range(len(candidates)), key=lambda n: (len(how_far[n][0]), *how_far[n][1:]))
        number, nearest, played = candidates[best]
        names = how_far[best][0]
        if not names:
            same = [n for differing, _, n in how_far if not differing]
            which = f"exchange {same[0]}" if len(same) == 1 else f"exchanges {', '.join(map(str, same))}"
            return [f"Recorded as {which}, and played already: it is asked once too often."]
        state = " (played already)" if played else ""
        lines = [f"Nearest: exchange {number}{state}, which differs in {', '.join(names)}:"]
        whole = bool({"scheme", "host", "port"} & set(self._names))
        was, now = _readable(nearest, whole), _readable(incoming, whole)
        diff = list(difflib.unified_diff(was, now, "recorded", "asked", lineterm="", n=1))
        lines += ["  " + printable(line)[:_SHOWN_WIDTH] for line in diff[:_DIFF_LINES]]
        if len(diff) > _DIFF_LINES:
            lines.append(f"  ... {len(diff) - _DIFF_LINES} more lines")
        return lines


def _readable(request: Request, whole_url: bool) -> list[str]:
    request = redact_request(request)
    url = request.url if whole_url else urlsplit(request.url)._replace(scheme="", netloc="").geturl()
    lines = [f"{request.method} {url}"]
    if len(request.body) > _MOST_DIFFED:
        return [*lines, f"a body of {len(request.body)} bytes"]
    try:
        body = _canonical(json.loads(request.body))
        lines += json.dumps(body, indent=1, ensure_ascii=False, sort_keys=True).split("\n")
    except (ValueError, RecursionError):
        lines += [repr(request.body)[:_SHOWN_WIDTH]]
    return lines


def describe(request: Request) -> str:
    """One printable line that names a request without its secrets: a chat by its model and last message."""
    request = redact_request(request)
    what = f"{request.method} {request.url}"
    try:
        body = json.loads(request.body)
        model, last = body["model"], body["messages"][-1]["content"]
        what += f" ({model['id'] if isinstance(model, dict) else model}: {last})"
    except (ValueError, RecursionError, LookupError, TypeError):
        what += f" {request.body.decode('utf-8', 'replace')}" if request.body else ""
    return one_line(what, _SHOWN_WIDTH)
