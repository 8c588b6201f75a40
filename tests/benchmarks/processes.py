"""Processes for the benchmarks: an upstream, a contender, each alone in its interpreter, and what they need.

Memory is looked at the way Linux shows it; elsewhere it is `None`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PATIENCE = 600.0  # seconds; a contender that takes longer hangs


@contextmanager
def serving(module: str, *words: object) -> Iterator[tuple[int, int]]:
    """`python -m module words`, which prints its port and serves until its standard input ends: port and process."""
    with subprocess.Popen(
        _command(module, words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.stdin.close()
            process.wait()


def run(module: str, *words: object, patience: float = PATIENCE) -> str:
    """What `python -m module words` prints. Raises `CalledProcessError` with what it said where it fails."""
    return output_of(*_command(module, words), patience=patience)


def output_of(*command: object, patience: float = PATIENCE) -> str:
    with _and_its_own([str(word) for word in command], stderr=subprocess.PIPE, text=True) as process:
        output, said = process.communicate(timeout=patience)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args, output, said)
    return str(output)


def killed_when_ready(module: str, *words: object, patience: float = PATIENCE) -> None:
    """Starts `python -m module words`, and kills (SIGKILL) it and all that it started as soon as it prints a line, or after
    `patience`.
    """
    with _and_its_own(_command(module, words), stderr=subprocess.DEVNULL) as process:
        late = threading.Timer(patience, process.kill)
        late.start()
        process.stdout.readline()
        late.cancel()


@contextmanager
def _and_its_own(command: list[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process, whose output is a pipe. At the end it is killed (SIGKILL), and so is what it started and left behind."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # all of them have come to their end
                os.killpg(process.pid, signal.SIGKILL)


def _command(module: str, words: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, words)]


def resident(pid: int | str = "self") -> int | None:
    """Bytes of it that are in memory."""
    return _status(pid, "VmRSS")


def peak() -> int | None:
    """The most bytes of this process that were in memory since `forget_peak`."""
    return _status("self", "VmHWM")


def forget_peak() -> None:
    """Begins to look for a peak now. Where that cannot be, `peak` is that of the whole life."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak_of_children() -> int:
    """The most bytes that any process had in memory that this one has started, and that is over."""
    if sys.platform != "linux":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def _status(pid: int | str, name: str) -> int | None:
    if sys.platform != "linux":
        return None
    found = re.search(rf"{name}:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found, f"/proc/{pid}/status has no {name}"
    return int(found[1]) * 1024


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU time that this process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
