"""In what two recordings differ, exchange by exchange, in lines that can be read, and shown.

Exchanges are compared by their numbers, requests by a `Matcher`, answers by what they are made of. Secrets never count:
both sides are compared as `leaks` would have them, and nothing that it takes out is in a `Difference`. What is told of a
session as a whole (`origin`, `note`, `recorded_at`, `expected`) is not compared, nor what a reader was told of an ending.
Pure; nothing here loads or prints.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from difflib import unified_diff
from itertools import zip_longest
from typing import NamedTuple

from aivvm.terminal import printable
from aivvm.transport import Headers, Request
from aivvm_testing.leaks import redact_recording
from aivvm_testing.matching import Matcher, describe
from aivvm_testing.recording import Exchange, Recording
from aivvm_testing.redaction import DEFAULT, Redaction
from aivvm_testing.reply import Reply

SAME_REQUEST = ("method", "scheme", "host", "port", "path", "query", "json")
"""What two requests share unless the caller says otherwise: a body counts by its meaning, header fields do not."""

_MOST_LINES = 24
_MOST_DIFFED = 64 * 1024  # bytes, and
_MOST_DIFFED_LINES = 1000  # as the time for a diff grows with their square
_WIDTH = 160
_BEFORE, _AFTER = 24, 72  # bytes around the first difference


class Difference(NamedTuple):
    """One thing in which two exchanges differ: `was` and `now` are printable lines that say how.

    `exchange` counts from 0, as in `recording[0]`. `aspect`: `exchange` (only one has it), `request`, `request headers`,
    `request body`, `status`, `headers`, `body`, `boundaries`, `ending`, `times`.
    """

    exchange: int
    aspect: str
    was: tuple[str, ...]
    now: tuple[str, ...]


def differences(
    one: Recording,
    other: Recording,
    *,
    matcher: Matcher | None = None,
    ignore: Collection[str] = (),
    times: float | None = None,
    redaction: Redaction = DEFAULT,
) -> Iterator[Difference]:
    """What differs, in order. Holds one exchange of each at a time.

    `matcher`: by what requests are compared, as `SAME_REQUEST` by default. `ignore`: names of header fields of answers
    that do not count; the value of `date` never does. `times`: seconds by which moments may differ; None: they do not
    count.
    """
    matcher = matcher or Matcher(SAME_REQUEST)
    ignored = {name.lower() for name in ignore}
    for n in range(max(len(one), len(other))):
        if n < min(len(one), len(other)) and one[n] == other[n]:  # quicker than to look for secrets
            continue
        was, now = _shown(one, n, redaction), _shown(other, n, redaction)
        if was is None or now is None:
            yield Difference(n, "exchange", _described(was), _described(now))
            continue
        found = [
            *_of_requests(was.request, now.request, matcher),
            *_of_replies(was.reply, now.reply, ignored),
        ]
        if times is not None:
            found += _of_times(was, now, times)
        for aspect, before, after in found:
            yield Difference(n, aspect, *_lines(before, after))


_Found = tuple[str, list[str], list[str]]


def _shown(recording: Recording, n: int, redaction: Redaction) -> Exchange | None:
    return redact_recording(Recording([recording[n]]), redaction)[0] if n < len(recording) else None


def _described(exchange: Exchange | None) -> tuple[str, ...]:
    return () if exchange is None else (describe(exchange.request),)


def _lines(was: list[str], now: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Both as they are shown: where long lines differ late, from shortly before that."""
    if len(was) == len(now):
        pairs = [_from_the_difference(one, other) for one, other in zip(was, now, strict=True)]
        was, now = [one for one, _ in pairs], [other for _, other in pairs]
    return _short(was), _short(now)


def _from_the_difference(one: str, other: str) -> tuple[str, str]:
    same = _shared(one, other)
    if same < _WIDTH // 2 or max(len(one), len(other)) <= _WIDTH:
        return one, other
    begin = same - _BEFORE
    return f"…{one[begin:]}", f"…{other[begin:]}"


def _short(lines: list[str]) -> tuple[str, ...]:
    shown = [printable(line.replace("\n", "\\n").replace("\t", "\\t")) for line in lines]
    shown = [line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…" for line in shown]
    if len(shown) > _MOST_LINES:
        shown[_MOST_LINES:] = [f"... {len(shown) - _MOST_LINES} more lines"]
    return tuple(shown)


def _shared(one: Sequence[object], other: Sequence[object]) -> int:
    """How long their common beginning is."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low


def _of_requests(was: Request, now: Request, matcher: Matcher) -> Iterator[_Found]:
    aspects = {"json": "request body", "body": "request body", "headers": "request headers"}
    for aspect in dict.fromkeys([aspects.get(name, "request") for name in matcher.differing(was, now)]):
        if aspect == "request body":
            yield (aspect, *_only(_body_lines(was), _body_lines(now)))
        elif aspect == "request headers":
            yield (aspect, *_fields_only(_fields(was.headers, set()), _fields(now.headers, set())))
        else:
            yield aspect, [f"{was.method} {was.url}"], [f"{now.method} {now.url}"]


def _of_replies(was: Reply, now: Reply, ignored: set[str]) -> Iterator[_Found]:
    before, after = _status(was), _status(now)
    if before != after:
        yield "status", [before], [after]
    if was.head is not None and now.head is not None:
        fields = [
            _fields(head.headers, ignored) + _fields(head.decoded, ignored, "decoded ")
            for head in (was.head, now.head)
        ]
        if fields[0] != fields[1]:
            yield ("headers", *_fields_only(*fields))
    if was.body != now.body:
        yield ("body", *_around(was, now))
    elif (sizes := _sizes(was)) != (others := _sizes(now)):
        n = next(n for n, (one, other) in enumerate(zip_longest(sizes, others)) if one != other)
        yield "boundaries", [_sized(sizes, n)], [_sized(others, n)]
    if (was.ending.kind, was.ending.data) != (now.ending.kind, now.ending.data):
        yield "ending", [_ended(was)], [_ended(now)]


def _of_times(was: Exchange, now: Exchange, tolerance: float) -> Iterator[_Found]:
    pairs = [("started", was.started, now.started)]
    if was.reply.head is not None and now.reply.head is not None:
        pairs.append(("head", was.reply.head.at, now.reply.head.at))
    if _sizes(was.reply) == _sizes(now.reply):
        chunks = zip(was.reply.chunks, now.reply.chunks, strict=True)
        pairs += [(f"chunk {n}", one.at, other.at) for n, (one, other) in enumerate(chunks)]
    pairs.append(("ending", was.reply.ending.at, now.reply.ending.at))
    # The sums and differences of decimals are off by less than this.
    late = [pair for pair in pairs if abs(pair[1] - pair[2]) > tolerance + 1e-9]
    if late:
        yield (
            "times",
            [f"{what} at {at:.6g} s" for what, at, _ in late],
            [f"{what} at {at:.6g} s" for what, _, at in late],
        )


def _status(reply: Reply) -> str:
    return "no answer" if reply.head is None else f"{reply.head.status} {reply.head.reason}"


def _ended(reply: Reply) -> str:
    after = f", then {reply.ending.data[:_AFTER]!r}" if reply.ending.data else ""
    return f"{reply.ending.kind}{after}"


def _fields(headers: Headers, ignored: set[str], prefix: str = "") -> Counter[str]:
    """What is said, however often: neither case nor order of names counts."""
    fields = [(name.lower(), value) for name, value in headers if name.lower() not in ignored]
    return Counter([f"{prefix}{name}: {value if name != 'date' else '(any)'}" for name, value in fields])


def _fields_only(was: Counter[str], now: Counter[str]) -> tuple[list[str], list[str]]:
    return sorted((was - now).elements()), sorted((now - was).elements())


def _sizes(reply: Reply) -> list[int]:
    return [len(chunk.data) for chunk in reply.chunks]


def _sized(sizes: list[int], n: int) -> str:
    what = f"chunk {n} of {len(sizes)} has {sizes[n]} bytes" if n < len(sizes) else f"{len(sizes)} chunks"
    return f"{what}, in the same {sum(sizes)} bytes"


def _around(was: Reply, now: Reply) -> tuple[list[str], list[str]]:
    """Both bodies where they first differ."""
    one, other = was.body, now.body
    same = _shared(one, other)
    begin = max(0, same - _BEFORE)

    def piece(reply: Reply, body: bytes) -> list[str]:
        text = body[begin : same + _AFTER].decode("utf-8", "backslashreplace")
        where = f"byte {same} of {len(body)}, in {len(reply.chunks)} chunks"
        return [f"{where}: {'…' if begin else ''}{text}{'…' if same + _AFTER < len(body) else ''}"]

    return piece(was, one), piece(now, other)


def _body_lines(request: Request) -> list[str]:
    body = request.body
    if not body:
        return ["(no body)"]
    if len(body) <= _MOST_DIFFED:
        try:
            lines = json.dumps(json.loads(body), indent=1, ensure_ascii=False, sort_keys=True).split("\n")
        except (ValueError, RecursionError):
            lines = [repr(line)[1:] for line in body.split(b"\n")]
        if len(lines) <= _MOST_DIFFED_LINES:
            return lines
    return [f"a body of {len(body)} bytes"]


def _only(was: list[str], now: list[str]) -> tuple[list[str], list[str]]:
    """The lines that differ, of those of both."""
    if was == now:  # by more than can be shown
        return was, now
    found = list(unified_diff(was, now, lineterm="", n=0))[2:]
    return [line[1:] for line in found if line[0] == "-"], [line[1:] for line in found if line[0] == "+"]
