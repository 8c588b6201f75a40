"""One request that a fake was asked, what it answered, and how far the client has come with the answer.

A fake keeps its calls in the order of arrival; the door that carries the answer says how far it is. Nothing here waits,
plays or judges: assertions about calls are the fake's.

    call = fake.calls[-1]
    call.request.json(), call.chunks_taken, call.closed
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, TypeAlias

from aivvm.transport import Request
from aivvm_testing.reply import Reply

Outcome: TypeAlias = "Literal['open', 'played', 'closed', 'unmatched']"


class Call:
    """A request and its answer. Attributes may be read from any thread, while the answer is under way too.

    `at`: seconds from the making of the fake to the request, on the system's monotonic clock. `reply`: as it is
    played, faults and speed included; None where the fake had none. `faults`: what was done to it, in order.

    | outcome | meaning |
    |---|---|
    | `open` | the answer is under way |
    | `played` | all of it was given out, and its ending too |
    | `closed` | the client left before that |
    | `unmatched` | there was no answer |

    `lasted`: seconds from the request to the outcome, in the time of the door that played it; None while it is open.
    """

    __slots__ = ("_ends", "at", "faults", "lasted", "outcome", "position", "reply", "request")

    def __init__(
        self, request: Request, reply: Reply | None, *, at: float = 0.0, faults: Sequence[object] = ()
    ) -> None:
        self.request = request
        self.reply = reply
        self.at = at
        self.faults = tuple(faults)
        self.outcome: Outcome = "open"
        self.lasted: float | None = None
        self.position = 0  # chunks, or bytes on the wire where `_ends` is set
        self._ends: Sequence[int] | None = None

    @property
    def closed(self) -> bool:
        """Whether the client left before the answer was over."""
        return self.outcome == "closed"

    @property
    def chunks_taken(self) -> int:
        """How many chunks of the reply the client has taken whole; empty ones do not travel on a wire, nor count there.

        Through a server it is what the client's system has accepted, which may be more than the client has read.
        """
        if self._ends is None:
            return self.position
        return max(0, bisect_right(self._ends, self.position) - 1)

    @property
    def bytes_taken(self) -> int:
        """How many bytes those chunks have, and what was taken of the next one."""
        if self.reply is None:
            return 0
        sizes = [len(chunk.data) for chunk in self.reply.chunks]
        if self._ends is None:
            return sum(sizes[: self.position])
        sizes = [size for size in sizes if size][: len(self._ends) - 1]
        whole = self.chunks_taken
        taken = sum(sizes[:whole])
        if whole < len(sizes):
            begun = self.position - self._ends[whole]
            frame = self._ends[whole + 1] - self._ends[whole]
            before = frame - sizes[whole] - 2 if frame > sizes[whole] else 0  # the chunk's size and CRLF
            taken += min(max(0, begun - before), sizes[whole])
        return taken

    # For doors

    def on_wire(self, ends: Sequence[int]) -> None:
        """From now on `position` counts bytes of the answer as it is sent: head and chunks end at these."""
        self._ends = ends

    def over(self, outcome: Outcome, lasted: float) -> None:
        """The answer is over; what is said first stays."""
        if self.outcome == "open":
            self.outcome = outcome
            self.lasted = lasted

    def __repr__(self) -> str:
        return f"<{self.request.method} {self.request.url} -> {self.reply!r}, {self.outcome}>"
