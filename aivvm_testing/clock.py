"""Where doors and taps get their time from: the system, or nowhere.

Time belongs to an exchange. A clock opens one timer per exchange, and a timer counts seconds since its request was
sent. A fake that is asked while a tap around it, in the same thread, is sending, shares the tap's timer: so the tap
sees the fake's time.

    with clock.exchange() as timer:      # a tap, around sending the request
        ...
    timer = clock.timer()                # a door, which sends nothing on
    timer.wait_until(0.25)               # later, from whichever thread reads the answer
"""

from __future__ import annotations

import threading
import time
from math import inf
from typing import Protocol


class Timer(Protocol):
    """The time of one exchange."""

    def elapsed(self) -> float:
        """Seconds since the request was sent; never decreasing."""
        ...

    def wait_until(self, at: float) -> None:
        """Returns when `elapsed()` is at least `at` seconds; at once if it is already. `at` may be infinite."""
        ...


class Clock(Protocol):
    """What opens timers."""

    @property
    def virtual(self) -> bool:
        """Whether waiting costs nothing, so that a wait without end must be an error."""
        ...

    def exchange(self) -> Beginning:
        """A context manager that gives a `Timer`, which `timer` gives too within it and in the same thread."""
        ...

    def timer(self) -> Timer:
        """The timer of the exchange that is beginning in this thread, else a new one."""
        ...


def microseconds(seconds: float) -> float:
    """The moment as recordings have it, rounded to microseconds."""
    return int(seconds * 1e6 + 0.5) / 1e6  # `round` takes four times as long


class _Local(threading.local):
    """The timer that a tap shares, in each thread."""

    timer: Timer | None = None  # here, so that a thread without one is told so without an exception


class Beginning:
    """While it is entered, whoever asks the clock in this thread gets its timer."""

    __slots__ = ("_local", "_outer", "_timer")

    def __init__(self, local: _Local, timer: Timer) -> None:
        self._local = local
        self._timer = timer

    def __enter__(self) -> Timer:
        self._outer = self._local.timer
        self._local.timer = self._timer
        return self._timer

    def __exit__(self, *exc_info: object) -> None:
        self._local.timer = self._outer


class SystemClock:
    """The machine's monotonic clock: waiting waits. Safe to share between threads."""

    virtual = False

    def __init__(self) -> None:
        self._local = _Local()

    def exchange(self) -> Beginning:
        return Beginning(self._local, self._local.timer or _SystemTimer())

    def timer(self) -> Timer:
        return self._local.timer or _SystemTimer()


class _SystemTimer:
    __slots__ = ("_start",)

    def __init__(self) -> None:
        self._start = time.monotonic()

    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def wait_until(self, at: float) -> None:
        while (left := at - self.elapsed()) > 0:
            time.sleep(min(left, 3600.0))  # an infinite wait sleeps an hour at a time


class VirtualClock:
    """Time that passes only by being waited for, at no cost. Safe to share between threads.

    `furthest` is the longest that any exchange has come, in seconds: a test of a 60 s timeout can assert it.
    """

    virtual = True

    def __init__(self) -> None:
        self._local = _Local()
        self.furthest = 0.0

    def exchange(self) -> Beginning:
        return Beginning(self._local, self.timer())

    def timer(self) -> Timer:
        return self._local.timer or _VirtualTimer(self)


class _VirtualTimer:
    __slots__ = ("_clock", "_now")

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._now = 0.0

    def elapsed(self) -> float:
        return self._now

    def wait_until(self, at: float) -> None:
        if at == inf:
            raise ValueError("virtual time never reaches infinity: check for it before waiting")
        if at > self._now:
            self._now = at
            if at > self._clock.furthest:
                self._clock.furthest = at
