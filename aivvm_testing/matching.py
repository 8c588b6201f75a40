"""Which recorded exchange answers a request, and why none does.

A criterion is a name of the table below or a callable `(recorded, incoming) -> bool`. Secrets never count: what
redaction takes out by its name compares as equal, whatever it was, so that a recording without its secrets answers a
client with other ones or none. (`body` alone compares bytes, and so the length of what was redacted.) Nothing here
knows what was played or plays anything.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias
from urllib.parse import SplitResult, parse_qsl, urlsplit

from aivvm.terminal import one_line, printable
from aivvm.transport import Request
from aivvm_testing.format import Outline
from aivvm_testing.redaction import DEFAULT, Redaction, redact_request

Criterion: TypeAlias = "str | Callable[[Request, Request], bool]"
JsonPath: TypeAlias = "str | Sequence[str | int]"

DEFAULT_MATCH_ON: tuple[Criterion, ...] = ("method", "path", "json")
"""No scheme, host or port: a recording made against a server plays at loopback."""

MOST_COMPARED = 200
"""Recorded requests that are compared to explain a miss, so that no recording can stretch the time it takes."""

_ANY = "(any secret)"
_DIFF_LINES = 24
_MOST_DIFFED = 64 * 1024  # bytes of a body
_SHOWN_NEAREST = 3
_SHOWN_WIDTH = 120
_PLACEHOLDERS = re.compile(rb"=(?:REDACTED)*(?:REDACTE|REDACT|REDAC|REDA|RED|RE|R)?(?=&|\Z)")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+|\*)\]")


class _Comparison:
    """What the criteria that have a name look at."""

    def __init__(self, redaction: Redaction, ignored: Sequence[tuple[str, ...]]) -> None:
        self._redaction = redaction
        self.ignored = ignored
        self.aspects: dict[str, Callable[[Request, SplitResult], Hashable]] = {
            "method": lambda request, url: request.method.upper(),
            "scheme": lambda request, url: url.scheme,
            "host": lambda request, url: url.hostname,
            "port": lambda request, url: url.port or {"http": 80, "https": 443}.get(url.scheme),
            "path": lambda request, url: url.path or "/",
            "query": lambda request, url: self._fields(parse_qsl(url.query, keep_blank_values=True)),
            "json": lambda request, url: self._body_by_meaning(request),
            "body": lambda request, url: request.body,
            "headers": lambda request, url: self._fields(
                (name.lower(), value) for name, value in request.headers
            ),
        }

    def _body_by_meaning(self, request: Request) -> Hashable:
        try:
            return json.dumps(self.meaning(json.loads(request.body)), sort_keys=True)
        except (ValueError, RecursionError):
            return _PLACEHOLDERS.sub(b"=", request.body)  # in a form, where a secret has any length

    def meaning(self, value: Any) -> Any:
        """JSON less what is ignored and what is secret, with one kind of number: 1 and 1.0 mean the same."""
        return self._canonical(_pruned(value, self.ignored) if self.ignored else value)

    def _canonical(self, value: Any) -> Any:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, list):
            return [self._canonical(item) for item in value]
        if isinstance(value, dict):
            return {
                key: self._canonical(item) if not self._redaction.is_secret(key) else self._blank(key, item)
                for key, item in value.items()
            }
        return value

    def _blank(self, name: str, value: Any) -> Any:
        # However long the secret is, and whether it is there at all: a replay is often run without the real one.
        if isinstance(value, str):
            return _ANY
        if value is not None and not isinstance(value, bool) and self._redaction.is_secret_throughout(name):
            return _ANY
        if isinstance(value, list):
            return [self._blank(name, item) for item in value]
        return self._canonical(value)

    def _fields(self, pairs: Iterable[tuple[str, str]]) -> Hashable:
        return tuple(sorted([pair for pair in pairs if not self._redaction.is_secret(pair[0])]))


_NAMES = tuple(_Comparison(DEFAULT, ()).aspects)


def _pruned(value: Any, paths: Sequence[tuple[str, ...]]) -> Any:
    """The value without what stands at these paths."""
    if isinstance(value, dict):
        kept = [(key, item, _below(paths, key)) for key, item in value.items()]
        return {
            key: _pruned(item, deeper) if deeper else item for key, item, deeper in kept if () not in deeper
        }
    if isinstance(value, list):
        items = [(item, _below(paths, str(n))) for n, item in enumerate(value)]
        return [_pruned(item, deeper) if deeper else item for item, deeper in items if () not in deeper]
    return value


def _below(paths: Sequence[tuple[str, ...]], step: str) -> list[tuple[str, ...]]:
    return [path[1:] for path in paths if path and path[0] in (step, "*")]


def _checked_path(path: JsonPath) -> tuple[str, ...]:
    if isinstance(path, str):
        text = path.removeprefix("$")
        steps = [match[1] or match[2] for match in _STEP.finditer(text)]
        if not steps or "".join([match[0] for match in _STEP.finditer(text)]) != text:
            raise ValueError(
                f"ignore_json takes paths such as 'temperature', 'messages[*].id' or ('a.b', 'c'), but got {path!r}"
            )
        return tuple(steps)
    steps = [str(step) for step in path]
    if not steps or not all(isinstance(step, (str, int)) for step in path):
        raise ValueError(
            f"ignore_json takes a path as its names and numbers, outermost first, but got {path!r}"
        )
    return tuple(steps)


class Matcher:
    """Compares requests by `match_on`.

    `redaction`: the one that the recording was made with; incoming requests are redacted by it before they are
    compared. `ignore_json`: members of a JSON body that do not count, as paths such as `temperature`,
    `messages[*].id` (`*` is any name or number) or, where a name has a dot, `("a.b", "c")`.

    Raises `ValueError` at once for a criterion that does not exist, and for what is no path.
    """

    def __init__(
        self,
        match_on: Sequence[Criterion] = DEFAULT_MATCH_ON,
        *,
        redaction: Redaction = DEFAULT,
        ignore_json: Sequence[JsonPath] = (),
    ) -> None:
        if isinstance(match_on, str):
            raise ValueError(f"match_on takes a sequence of criteria, such as ({match_on!r},)")
        for criterion in match_on:
            if isinstance(criterion, str) and criterion not in _NAMES:
                near = difflib.get_close_matches(criterion, _NAMES, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_NAMES)}"
                raise ValueError(f"match_on has no criterion {criterion!r}: {hint}")
            if not isinstance(criterion, str) and not callable(criterion):
                raise ValueError(f"match_on takes names and callables, but got {criterion!r}")
        if isinstance(ignore_json, str):
            raise ValueError(f"ignore_json takes a sequence of paths, such as ({ignore_json!r},)")
        if ignore_json and "json" not in match_on:
            raise ValueError("ignore_json is about the criterion 'json', which match_on does not have")
        if not isinstance(redaction, Redaction):
            raise TypeError(f"redaction is a Redaction(names=..., patterns=...), but got {redaction!r:.60}")
        self.match_on = tuple(match_on)
        self.ignore_json = tuple(ignore_json)
        self._redaction = redaction
        self._names = [criterion for criterion in match_on if isinstance(criterion, str)]
        self._predicates = [criterion for criterion in match_on if not isinstance(criterion, str)]
        self._comparison = _Comparison(redaction, [_checked_path(path) for path in ignore_json])
        self._compared = [self._comparison.aspects[name] for name in self._names]
        parts = {name for name in self._names if name in ("scheme", "query")}
        self._url_parts = [
            position
            for position, wanted in enumerate(
                (
                    "scheme" in parts,
                    bool({"host", "port"} & {*self._names}),
                    "path" in self._names,
                    "query" in parts,
                )
            )
            if wanted
        ]
        self._body_counts = bool({"json", "body"} & {*self._names})

    def redacted(self, incoming: Request) -> Request:
        """The request as a tap would have recorded it."""
        return self._redaction.redact_request(incoming)

    def key(self, redacted: Request) -> Hashable:
        """What two redacted requests must share to match, as far as names go."""
        url = urlsplit(redacted.url)
        return tuple([aspect(redacted, url) for aspect in self._compared])

    @property
    def asks(self) -> bool:
        """Whether there are callables among the criteria."""
        return bool(self._predicates)

    @property
    def is_exact(self) -> bool:
        """Whether `exact` tells enough: an outline has no headers."""
        return "headers" not in self._names

    def exact(self, one: Outline) -> Hashable:
        """What requests that are the same to the byte share: they match by every name. Much cheaper than `key`."""
        method, address, body = one
        url = urlsplit(address)
        return method, *[url[position] for position in self._url_parts], body if self._body_counts else b""

    def accepts(self, recorded: Request, incoming: Request) -> bool:
        """Whether the callables among the criteria agree."""
        return all(predicate(recorded, incoming) for predicate in self._predicates)

    def differing(self, recorded: Request, incoming: Request) -> list[str]:
        """The criteria by which the two differ, in the order of `match_on`."""
        ours, theirs = self.redacted(recorded), self.redacted(incoming)
        one, other = urlsplit(ours.url), urlsplit(theirs.url)
        aspects = self._comparison.aspects
        names = [name for name in self._names if aspects[name](ours, one) != aspects[name](theirs, other)]
        if not self.accepts(recorded, incoming):
            names.append("callable")
        return names

    def explain(self, incoming: Request, recorded: Iterable[tuple[int, Request, bool]]) -> list[str]:
        """Lines that tell how near the nearest recorded requests are; each comes as (number, request, played).

        Looks at the first `MOST_COMPARED` of them.
        """
        candidates = [one for _, one in zip(range(MOST_COMPARED), recorded, strict=False)]
        if not candidates:
            return ["Nothing is recorded."]
        how_far = [(self.differing(request, incoming), played, n) for n, request, played in candidates]
        same = [n for differing, _, n in how_far if not differing]
        if same:
            which = f"exchange {same[0]}" if len(same) == 1 else f"exchanges {', '.join(map(str, same))}"
            return [
                f"Recorded as {which}, and played already: it is asked once too often. "
                "(allow_playback_repeats=True would give the last of them again.)"
            ]
        whole = bool({"scheme", "host", "port"} & set(self._names))
        now = self._readable(incoming, whole)
        fewest = min([len(differing) for differing, _, _ in how_far])
        nearest = []
        for (differing, played, n), (_, request, _) in zip(how_far, candidates, strict=True):
            if len(differing) == fewest:
                was = self._readable(request, whole)
                score = difflib.SequenceMatcher(None, was, now, autojunk=False).ratio()
                nearest.append((played, -score, n, differing, was))
        nearest.sort()
        lines: list[str] = []
        for played, score, n, differing, was in nearest[:_SHOWN_NEAREST]:
            state = ", played already" if played else ""
            lines.append(
                f"{'or' if lines else 'Nearest:'} exchange {n} ({-score:.0%} alike{state}), "
                f"which differs in {', '.join(differing)}{'' if lines else ':'}"
            )
            if len(lines) == 1:
                diff = list(difflib.unified_diff(was, now, "recorded", "asked", lineterm="", n=1))
                lines += ["  " + _short(printable(line)) for line in diff[:_DIFF_LINES]]
                if len(diff) > _DIFF_LINES:
                    lines.append(f"  ... {len(diff) - _DIFF_LINES} more lines")
        bodies = [incoming.body, *[request.body for _, request, _ in candidates]]
        lines += [
            f"ignore_json has {path!r}, which is in none of these bodies." for path in self._in_none(bodies)
        ]
        return lines

    def _in_none(self, bodies: Iterable[bytes]) -> list[JsonPath]:
        """The paths that ignore nothing in these bodies."""
        idle = list(zip(self.ignore_json, self._comparison.ignored, strict=True))
        for body in bodies:
            if idle:
                with suppress(ValueError, RecursionError):
                    value = json.loads(body)
                    idle = [(path, steps) for path, steps in idle if _pruned(value, [steps]) == value]
        return [path for path, _ in idle]

    def _readable(self, request: Request, whole_url: bool) -> list[str]:
        request = self.redacted(request)
        url = request.url if whole_url else urlsplit(request.url)._replace(scheme="", netloc="").geturl()
        lines = [f"{request.method} {url}"]
        if "headers" in self._names:
            lines += sorted([f"{name.lower()}: {value}" for name, value in request.headers])
        if len(request.body) > _MOST_DIFFED:
            return [*lines, f"a body of {len(request.body)} bytes"]
        try:
            body = self._comparison.meaning(json.loads(request.body))
            lines += json.dumps(body, indent=1, ensure_ascii=False, sort_keys=True).split("\n")
        except (ValueError, RecursionError):
            lines += [repr(request.body)[:_SHOWN_WIDTH]]
        return lines

    def __str__(self) -> str:
        names = ", ".join([one if isinstance(one, str) else repr(one) for one in self.match_on]) or "nothing"
        if not self.ignore_json:
            return names
        return f"{names} (less {', '.join([path if isinstance(path, str) else repr(path) for path in self.ignore_json])})"


def _short(line: str) -> str:
    return line if len(line) <= _SHOWN_WIDTH else line[: _SHOWN_WIDTH - 1] + "…"


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
