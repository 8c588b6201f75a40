"""What verbs print: lines for people, neutralised, and JSON, in ASCII; neither with what looks like a secret in it.

Also what a verb needs that runs until Ctrl-C: `Lines`, a queue for threads that must not wait for whoever reads the
output, and `stoppable`. Nothing here knows what the lines are about.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from aivvm.terminal import printable
from aivvm_testing.leaks import redact_recording, redact_text
from aivvm_testing.recording import Recording

MOST_WAITING = 1000
"""So many lines are kept for whoever reads the output."""

TO_THE_END = 2.0
"""Seconds for the last lines."""

_PATIENCE = 1.0  # seconds; where a wait cannot be interrupted, as on Windows, Ctrl-C is seen that late
_CUT_WORD = re.compile(r"[\w+/=-]{8,}(?=…|\.\.\.)(?<!=)")


def say(text: str) -> None:
    """Prints foreign text at once."""
    print(shown(text), flush=True)


def shown(text: str) -> str:
    """The text as it may be on a screen."""
    return printable(redact_text(text))


def without_cut_words(text: str) -> str:
    """Text that was cut short before anybody looked for secrets, without the words that may be a part of one.

    A key of which the rest is missing has no shape any more.
    """
    return _CUT_WORD.sub("", text)


def as_json(value: object, *, indent: int | None = None) -> str:
    """The value as JSON, without secrets. ASCII, of which DEL alone could do harm on a screen."""
    # Text by text: what is taken out of JSON as it is written could take a quote with it.
    held = redact_recording(Recording(expected={"value": value})).expected
    assert held is not None
    return json.dumps(held["value"], indent=indent).replace("\x7f", "\\u007f")


def event(kind: str, **facts: object) -> str:
    """A line for programs."""
    return as_json({"event": kind, **facts})


def counted(count: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


class Lines:
    """Lines on their way to whoever reads the output. Threads that say one never wait: where too many are unread, it is
    dropped, and counted."""

    def __init__(self) -> None:
        self.dropped = 0
        self._waiting: SimpleQueue[Callable[[], str] | None] = SimpleQueue()

    def say(self, make: Callable[[], str], *, whatever_waits: bool = False) -> None:
        """Says what `make` gives when it is printed."""
        if whatever_waits or self._waiting.qsize() < MOST_WAITING:
            self._waiting.put(make)
        else:
            self.dropped += 1

    def no_more(self) -> None:
        """Lets `print_all` return once it has printed what was said before. Safe in a signal handler."""
        self._waiting.put(None)

    def print_all(self) -> None:
        """Prints each line when it is said."""
        while True:
            with suppress(Empty):
                make = self._waiting.get(timeout=_PATIENCE)
                if make is None:
                    return
                print(make(), flush=True)


@contextmanager
def stoppable(stop: Callable[[], None]) -> Iterator[Callable[[float], None]]:
    """Within it, the first SIGINT, SIGTERM or SIGHUP calls `stop`; another one is a `KeyboardInterrupt`.

    So it is where the block is not left within `TO_THE_END` seconds: it writes to somebody who does not read. What it
    gives says that there are so many seconds from now on; 0: as many as it takes.
    """
    timed = hasattr(signal, "setitimer")
    stopped = False

    def on_signal(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        for one in before:
            signal.signal(one, signal.default_int_handler)
        if timed:
            before[signal.SIGALRM] = signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, TO_THE_END)
        stop()

    def allow(seconds: float) -> None:
        if timed and stopped:
            signal.setitimer(signal.ITIMER_REAL, seconds)

    before: dict[signal.Signals, Any] = {
        one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)
    }
    hangup = getattr(signal, "SIGHUP", None)  # of a terminal that is closed
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # as nohup has it
        before[hangup] = signal.getsignal(hangup)
    try:
        for one in before:
            signal.signal(one, on_signal)
        yield allow
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for one, handler in before.items():
            signal.signal(one, handler)
