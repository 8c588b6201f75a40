"""One reply on its way to one reader, as far as doors agree about it: time, patience, and how it ends.

Doors that carry a reply themselves build on it: they hand out what they carry, chunks or bytes, and raise what their
readers expect. No sockets and no HTTP here.
"""

from __future__ import annotations

from math import inf
from typing import NoReturn, Protocol

from aivvm_testing.call import Call, Outcome
from aivvm_testing.clock import Clock, Timer
from aivvm_testing.errors import ReadPastRecording, SetupFailure, WouldHang
from aivvm_testing.reply import HEADLESS_KINDS, Ending


class Source(Protocol):
    """Where replies come from: a fake, or a door's own part of one."""

    clock: Clock

    def failed(self, error: SetupFailure) -> None:
        """Takes an error that the code under test may swallow."""
        ...


class Play:
    """The time of one reply. `patience`: seconds that a read which begins now waits at most; it may change.

    Times are the timer's, which begins with the request. For one thread at a time.
    """

    __slots__ = ("call", "patience", "source", "timer")

    def __init__(self, source: Source, call: Call, timer: Timer, patience: float) -> None:
        self.source = source
        self.call = call
        self.timer = timer
        self.patience = patience

    def timed_out(self) -> Exception:
        """What the reader is told when its patience is at its end: what a socket says, unless the door knows better."""
        return TimeoutError("timed out")

    def wait_for(self, at: float) -> None:
        """Waits until then, or raises `timed_out()` when the reader would not wait so long."""
        latest = self.timer.elapsed() + self.patience
        if at > latest:
            self.timer.wait_until(latest)
            self.left("played" if at == inf else "closed")
            raise self.timed_out()
        self.timer.wait_until(at)

    def end(self, ending: Ending, so_far: str) -> None:
        """Waits for the ending; the reply is played when it returns, and the door does what the peer did.

        Silence lasts until the reader's patience is at its end. Raises `WouldHang` where that would be never, and
        `ReadPastRecording` where the recorded reader had left. `so_far`: what the reader has got, for people to read.
        """
        kind = ending.kind
        if kind == "stall":
            if self.source.clock.virtual and self.patience == inf:
                self.fail(
                    WouldHang(
                        f"{so_far}, the peer stays silent, the reader has no timeout, and time is virtual: this would "
                        "never end. Pass a timeout, or FakeAivvm(clock=SystemClock()) to hang for real"
                    )
                )
            self.wait_for(inf)
        if kind in HEADLESS_KINDS:
            self.timer.wait_until(min(ending.at, self.timer.elapsed() + self.patience))
        else:
            self.wait_for(ending.at)
        self.left("played")
        if kind == "closed" or kind == "unfinished":
            who = "the recorded reader stopped" if kind == "closed" else "the recorder was killed"
            self.fail(
                ReadPastRecording(
                    f"{so_far} when {who}, at {ending.at:g} s: what would have come next is not "
                    "known. Stop reading here too, or record the session again"
                )
            )

    def left(self, outcome: Outcome = "closed") -> None:
        """The reader takes no more."""
        if self.call.outcome == "open":
            self.call.over(outcome, self.timer.elapsed())

    def fail(self, error: SetupFailure) -> NoReturn:
        """Raises it, and keeps it in case the code under test swallows it."""
        self.source.failed(error)
        raise error


def chunks_so_far(count: int) -> str:
    """What a reader of so many chunks has got."""
    return f"{count} chunk{' was' if count == 1 else 's were'} there"


NO_ANSWER = "no answer was there"
