"""Which exceptions are somebody else's, whatever code they come up in: Ctrl-C, and what a signal handler raises.

For code that keeps its own failures from its caller: an interrupt is meant for the caller, such as the timeout of a watchdog
that an alarm brings. Nothing here handles a signal.
"""

from __future__ import annotations

from types import FrameType


def is_interrupt(error: BaseException) -> bool:
    """Whether this is no `Exception`, or came out of a signal handler: a function that was given a frame."""
    if not isinstance(error, Exception):
        return True
    trace = error.__traceback__
    while trace is not None:
        for value in trace.tb_frame.f_locals.values():
            given = value if isinstance(value, tuple) else (value,)
            if any(isinstance(one, FrameType) for one in given):
                return True
        trace = trace.tb_next
    return False
