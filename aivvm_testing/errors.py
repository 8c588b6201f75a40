"""What is wrong with a test's set-up: every error here is an `AssertionError`.

    SetupFailure (AssertionError)
    ├── UnmatchedRequest      the fake was asked something that it has no answer for
    ├── UnplayedReplies       the test ended, and answers were left over
    ├── ReadPastRecording     the reader went on where the recorded one had stopped
    ├── WouldHang             a silent peer, no timeout, and virtual time: it would never end
    ├── CorruptRecording      a file is not a recording, or a damaged one
    ├── RecordingDrift        the live upstream does not answer as it did when it was recorded
    └── SecretsFound          a strict recorder finds secrets in what it wrote

None is an `aivvm.AivvmError`, so no `except` clause of the code under test catches one by accident.
"""

from __future__ import annotations

from collections.abc import Sequence


class SetupFailure(AssertionError):
    """The test, not the code under test, must change."""


class UnmatchedRequest(SetupFailure):
    """A request came that no reply, rule or recorded exchange answers."""


class UnplayedReplies(SetupFailure):
    """Replies were scripted or recorded, and never asked for."""


class ReadPastRecording(SetupFailure):
    """The recording stops where its reader stopped; what would have come next is not known."""


class WouldHang(SetupFailure):
    """The peer stays silent, the reader set no timeout, and the clock is virtual: nothing would ever happen."""


class CorruptRecording(SetupFailure):
    """`path`, `line` (from 1; 0 for the whole file) and `why` say what is wrong with a recording."""

    def __init__(self, path: str, line: int, why: str) -> None:
        super().__init__(path, line, why)
        self.path = path
        self.line = line
        self.why = why

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.why}" if self.line else f"{self.path}: {self.why}"


class RecordingDrift(SetupFailure):
    """The live upstream does not answer as the recording says; each of `drifts` is a line, or a few."""

    def __init__(self, path: str, drifts: Sequence[str], asked: int) -> None:
        super().__init__(path, drifts, asked)
        self.path = path
        self.drifts = drifts
        self.asked = asked

    def __str__(self) -> str:
        count = f"{len(self.drifts)} of {self.asked} answer{'' if self.asked == 1 else 's'}"
        return "\n".join(
            [
                f"{self.path}: {count} of the live upstream differ{'s' if len(self.drifts) == 1 else ''} from the recording",
                *self.drifts,
                'If the upstream is right, record it again: record_mode="all" replaces what was asked, "rewrite" everything.',
            ]
        )


class SecretsFound(SetupFailure):
    """The recording `path` was not finished, as there are secrets in it: `leaks` says where. Its journal stays."""

    def __init__(self, path: str, leaks: Sequence[object]) -> None:
        super().__init__(path, leaks)
        self.path = path
        self.leaks = leaks

    def __str__(self) -> str:
        shown = [f"  {leak}" for leak in self.leaks[:_SHOWN_LEAKS]]
        if len(self.leaks) > _SHOWN_LEAKS:
            shown.append(f"  ... and {len(self.leaks) - _SHOWN_LEAKS} more")
        return "\n".join(
            [
                f"{self.path} is not written, as there would be secrets in it:",
                *shown,
                f"What was recorded is in {self.path}.journal, secrets and all: keep it to yourself, or delete it.",
                "To fix it: 1. name what they go under, Redaction(names=[...]), or describe them, Redaction(patterns=[...]);",
                "           2. aivvm-testing recover, then aivvm-testing redact, makes a recording without them;",
                "           3. say strict=False where these are no secrets.",
            ]
        )


_SHOWN_LEAKS = 10
