"""A recording that answers requests: which exchange is next for each, and which were played.

Each exchange is played once. A request is answered by the first one, in recorded order, that is the same to the byte and
not yet played; where there is none, by the first that matches. Finding it takes the same time wherever it stands, and
however long the recording is: the exchanges that are not played are not read. What matches is `matching`'s business.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace
from heapq import nsmallest
from math import inf
from urllib.parse import urlsplit

from aivvm.transport import Request
from aivvm_testing.format import Outline, outline, request_of
from aivvm_testing.matching import MOST_COMPARED, Matcher, describe
from aivvm_testing.recording import Recording
from aivvm_testing.reply import Reply

_SHOWN_LEFT = 20
_LOOKED_AT = 4096  # bytes at either end of a body
_NONE = -1


class Playback:
    """A recording being played. Not safe to share between threads: whoever does holds a lock.

    `where` names it in errors, as `mode` does the way in which it is used. `speed` 1 keeps the recorded times, 2 is
    twice as fast, 0 leaves no gaps. With `repeats` the last exchange that answered a request answers it again for ever.
    Raises `ValueError` for a negative speed.
    """

    def __init__(
        self,
        recording: Recording,
        where: str,
        matcher: Matcher,
        *,
        speed: float = 0,
        repeats: bool = False,
        mode: str = "",
    ) -> None:
        if isinstance(speed, bool) or not isinstance(speed, (int, float)) or not 0 <= speed < inf:
            raise ValueError(f"a speed is 0 (no gaps) or more, but got {speed!r}")
        self.recording = recording
        self.where = where
        self._matcher = matcher
        self._factor = 1 / speed if speed else 0.0
        self._repeats = repeats
        self._mode = mode
        self._played = bytearray(len(recording))
        self._first = 0  # all before it are played
        self._same = (
            _Index(self._played, map(matcher.exact, recording.outlines())) if matcher.is_exact else None
        )
        self._alike: _Index | None = (
            None  # made for the first request that is written otherwise than the recorded ones
        )

    def next(self, request: Request) -> Reply | None:
        """The answer to this request, which counts as played; None where there is none."""
        n = self.take(request)
        return None if n is None else at_speed(self.recording[n].reply, self._factor)

    def take(self, request: Request) -> int | None:
        """The number of the exchange that answers this request, and counts as played; None where there is none."""
        last = None
        for n in self._candidates(self._matcher.redacted(request)):
            # An exchange is read for the callables alone: it may be a long one.
            if not self._matcher.asks or self._matcher.accepts(self.recording[n].request, request):
                last = n
                if not self._played[n]:
                    break
        if last is not None:
            self._played[last] = True
        return last

    def unplayed(self) -> Iterator[int]:
        """The numbers of the exchanges that were not played, in order."""
        return (n for n, played in enumerate(self._played) if not played)

    def _candidates(self, redacted: Request) -> Iterator[int]:
        """The exchanges that match by name and were not played; with `repeats` all that match, once those are gone."""
        if self._same is not None:
            yield from self._same.waiting(self._matcher.exact(outline(redacted)))
        if self._alike is None:
            self._alike = _Index(self._played, map(self._matcher.key, self._recorded()))
        key = self._matcher.key(redacted)
        yield from self._alike.waiting(key)
        if self._repeats:
            yield from self._alike.all(key)

    def _recorded(self) -> Iterator[Request]:
        """The requests, redacted, and without their headers where these do not matter."""
        if self.recording.origin != "recorded" or self._same is None:
            for exchange in self.recording:
                yield self._matcher.redacted(exchange.request)
            return
        for n, one in enumerate(self.recording.outlines()):
            try:
                yield request_of(one)
            except Exception:  # whatever is wrong with it, the reader says it better
                yield self.recording[n].request

    def peek(self) -> Reply | None:
        """The answer of the first exchange that was not played, None where all were."""
        self._first = self._played.find(0, self._first)
        if self._first < 0:
            self._first = len(self._played)
            return None
        return self.recording[self._first].reply

    def skip(self) -> None:
        """Counts that one as played."""
        if self.peek() is not None:
            self._played[self._first] = True

    def rewind(self) -> None:
        """Nothing was played."""
        self._played[:] = bytes(len(self._played))
        self._first = 0
        for index in (self._same, self._alike):
            if index is not None:
                index.rewind()

    def hosts(self) -> list[str]:
        """The hosts of the recorded requests, each once."""
        return [
            host
            for host in dict.fromkeys(urlsplit(url).netloc for _, url, _ in self.recording.outlines())
            if host
        ]

    def left(self) -> list[tuple[int, str]]:
        """What was not played: how many exchanges, and a line that tells of them."""
        left = list(self.unplayed())
        lines = [
            (1, f"exchange {n} of {self.where}: {describe(self.recording[n].request)}")
            for n in left[:_SHOWN_LEFT]
        ]
        if more := len(left) - len(lines):
            lines.append((more, f"... and {more} more of {self.where}"))
        return lines

    def explain(self, request: Request) -> list[str]:
        """Lines that tell why there is no answer."""
        mode = f" (record_mode {self._mode!r})" if self._mode else ""
        count = len(self._played)
        return [
            f"Replaying {self.where}{mode}: {sum(self._played)} of {count} exchange{'' if count == 1 else 's'} played, "
            f"matched on {self._matcher}.",
            *self._matcher.explain(request, self._nearest(request)),
        ]

    def _nearest(self, request: Request) -> Iterator[tuple[int, Request, bool]]:
        """The likeliest first: those that ask the same path, in the same way, and most of the same bytes."""
        asked = outline(self._matcher.redacted(request))
        wanted = asked[0], urlsplit(asked[1]).path

        def distance(numbered: tuple[int, Outline]) -> tuple[bool, int, int, int]:
            n, (method, url, body) = numbered
            other = (method, urlsplit(url).path) != wanted
            return other, -_in_common(body, asked[2]), self._played[n], n

        for n, _ in nsmallest(MOST_COMPARED, enumerate(self.recording.outlines()), key=distance):
            yield n, self.recording[n].request, bool(self._played[n])


def _in_common(one: bytes, other: bytes) -> int:
    """How many bytes the two share at their beginnings and, besides, at their ends."""
    most = min(len(one), len(other), _LOOKED_AT)
    begin, beyond = 0, most + 1  # that many are equal, and so many are not
    while beyond - begin > 1:
        middle = (begin + beyond) // 2
        if one[:middle] == other[:middle]:
            begin = middle
        else:
            beyond = middle
    end, beyond = 0, most - begin + 1
    while beyond - end > 1:
        middle = (end + beyond) // 2
        if one[-middle:] == other[-middle:]:
            end = middle
        else:
            beyond = middle
    return begin + end


class _Index:
    """The exchanges of each key, in their order. Of a key its hash is kept, of 64 bits: a recording may be long."""

    def __init__(self, played: bytearray, keys: Iterable[Hashable]) -> None:
        self._played = played
        self._hashes = array("q", map(hash, keys))
        self._after = array("q", bytes(8 * len(self._hashes)))
        self._waiting: dict[int, int] = {}  # of each key the first, less some that were played
        self.rewind()

    def rewind(self) -> None:
        self._waiting.clear()
        for n in range(len(self._hashes) - 1, -1, -1):
            self._after[n] = self._waiting.get(self._hashes[n], _NONE)
            self._waiting[self._hashes[n]] = n

    def waiting(self, key: Hashable) -> Iterator[int]:
        """Those that were not played."""
        hashed = hash(key)
        n = self._waiting.get(hashed, _NONE)
        while n != _NONE and self._played[n]:
            n = self._waiting[hashed] = self._after[n]
        while n != _NONE:
            if not self._played[n]:
                yield n
            n = self._after[n]

    def all(self, key: Hashable) -> Iterator[int]:
        """Those that were played, too; takes longer, the longer the recording is."""
        hashed = hash(key)
        return (n for n, one in enumerate(self._hashes) if one == hashed)


def at_speed(reply: Reply, factor: float) -> Reply:
    """The reply with its moments times `factor`, but for what its reader did: one that left is given as long again."""
    if factor == 1:
        return reply
    scaled = reply.scale(factor)
    if reply.ending.kind != "closed":
        return scaled
    last = (reply.chunks or (reply.head,))[-1]
    since = reply.ending.at - (last.at if last else 0.0)
    return replace(scaled, ending=replace(scaled.ending, at=scaled.ending.at - since * factor + since))
