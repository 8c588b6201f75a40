"""What RECORDING stands for on the command line: a file, else a shipped recording's name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from difflib import get_close_matches

from aivvm_testing import fixtures
from aivvm_testing.leaks import redact_recording
from aivvm_testing.recording import Exchange, Recording
from aivvm_testing.redaction import DEFAULT, Redaction


def path_of(source: str) -> str:
    """The file; raises `FileNotFoundError`, with the nearest names, where there is none."""
    if os.path.exists(source) or os.path.exists(f"{source}.journal"):
        return source
    named = os.path.basename(source) == source
    if named and source in fixtures.names():
        return str(fixtures.path(source))
    folder, name = os.path.split(source)
    there = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    files = [os.path.join(folder, one) for one in get_close_matches(name, there, 2)]
    shipped = get_close_matches(name.removesuffix(".jsonl"), fixtures.names(), 3)
    near = [*files, *shipped]
    guess = f"did you mean {' or '.join(near)}?" if near else "aivvm-testing show --list names those."
    raise FileNotFoundError(f"{source} is neither a file nor a shipped recording; {guess}")


def recording_of(source: str) -> Recording:
    """What it holds, secrets and all."""
    return Recording.load(path_of(source))


def without_secrets(recording: Recording, redaction: Redaction = DEFAULT) -> Iterator[Exchange]:
    """Its exchanges as they may be shown, one at a time: a long recording is not held."""
    for n in range(len(recording)):
        yield redact_recording(Recording([recording[n]]), redaction)[0]
