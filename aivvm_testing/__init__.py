"""A recording mock toolkit for streams: replies, fakes, recordings, and the doors and taps between them.

Everything here is imported when it is first used, so that importing the package, or loading its pytest plugin,
costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers know the name; `typing` takes longer to import than all that is here
if TYPE_CHECKING:
    from aivvm_testing import contract as contract
    from aivvm_testing import faults as faults
    from aivvm_testing import fixtures as fixtures
    from aivvm_testing import stateful as stateful
    from aivvm_testing import strategies as strategies
    from aivvm_testing.call import Call as Call
    from aivvm_testing.clock import SystemClock as SystemClock
    from aivvm_testing.clock import VirtualClock as VirtualClock
    from aivvm_testing.errors import CorruptRecording as CorruptRecording
    from aivvm_testing.errors import ReadPastRecording as ReadPastRecording
    from aivvm_testing.errors import RecordingDrift as RecordingDrift
    from aivvm_testing.errors import SecretsFound as SecretsFound
    from aivvm_testing.errors import SetupFailure as SetupFailure
    from aivvm_testing.errors import UnmatchedRequest as UnmatchedRequest
    from aivvm_testing.errors import UnplayedReplies as UnplayedReplies
    from aivvm_testing.errors import WouldHang as WouldHang
    from aivvm_testing.fake import FakeAivvm as FakeAivvm
    from aivvm_testing.record.adapter import RecordingAdapter as RecordingAdapter
    from aivvm_testing.record.proxy import RecordingProxy as RecordingProxy
    from aivvm_testing.record.transport import RecordingTransport as RecordingTransport
    from aivvm_testing.record.use import use_recording as use_recording
    from aivvm_testing.recording import Exchange as Exchange
    from aivvm_testing.recording import Recording as Recording
    from aivvm_testing.redaction import Redaction as Redaction
    from aivvm_testing.replay.responses import ReplyResponse as ReplyResponse
    from aivvm_testing.reply import Chunk as Chunk
    from aivvm_testing.reply import Ending as Ending
    from aivvm_testing.reply import Head as Head
    from aivvm_testing.reply import Reply as Reply
    from aivvm_testing.reply import wait as wait

_HOMES = {
    "aivvm_testing.call": ("Call",),
    "aivvm_testing.clock": ("SystemClock", "VirtualClock"),
    "aivvm_testing.errors": (
        "CorruptRecording",
        "ReadPastRecording",
        "RecordingDrift",
        "SecretsFound",
        "SetupFailure",
        "UnmatchedRequest",
        "UnplayedReplies",
        "WouldHang",
    ),
    "aivvm_testing.fake": ("FakeAivvm",),
    "aivvm_testing.record.adapter": ("RecordingAdapter",),
    "aivvm_testing.record.proxy": ("RecordingProxy",),
    "aivvm_testing.record.transport": ("RecordingTransport",),
    "aivvm_testing.record.use": ("use_recording",),
    "aivvm_testing.recording": ("Exchange", "Recording"),
    "aivvm_testing.redaction": ("Redaction",),
    "aivvm_testing.replay.responses": ("ReplyResponse",),
    "aivvm_testing.reply": ("Chunk", "Ending", "Head", "Reply", "wait"),
}
_MODULES = ("contract", "faults", "fixtures", "stateful", "strategies")
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, *_MODULES])


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
