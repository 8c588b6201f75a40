"""Where doors and taps get their time from: the system, or nowhere.

Time belongs to an exchange. A clock opens one timer per exchange, and a timer counts seconds since its request was
sent. An exchange that begins while another is beginning in the same thread (a tap around a fake) shares its timer,
so that the tap sees the fake's time.

    with clock.exchange() as timer:      # around sending the request
        ...
    timer.wait_until(0.25)               # later, from whichever thread reads the answer
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
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
        """A context manager that gives the `Timer` of the exchange that begins within it."""
        ...


class Beginning:
    """While it is entered, exchanges that begin in this thread share its timer."""

    __slots__ = ("_local", "_make", "_outermost", "_timer")

    def __init__(self, local: threading.local, make: Callable[[], Timer]) -> None:
        self._local = local
        self._make = make

    def __enter__(self) -> Timer:
        timer: Timer | None = getattr(self._local, "timer", None)
        self._outermost = timer is None
        if timer is None:
            timer = self._local.timer = self._make()
        return timer

    def __exit__(self, *exc_info: object) -> None:
        if self._outermost:
            self._local.timer = None


class SystemClock:
    """The machine's monotonic clock: waiting waits. Safe to share between threads."""

    virtual = False

    def __init__(self) -> None:
        self._local = threading.local()

    def exchange(self) -> Beginning:
        return Beginning(self._local, _SystemTimer)


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
        self._local = threading.local()
        self.furthest = 0.0

    def exchange(self) -> Beginning:
        return Beginning(self._local, lambda: _VirtualTimer(self))


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
