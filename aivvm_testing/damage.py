"""Everything that is wrong in a recording's file: what `Recording.load` raises for first, and whatever comes after it.

After a damage reading goes on with the next line that begins an exchange. Holds one exchange at a time. Nothing here
repairs, or looks for secrets (`leaks` does).
"""

from __future__ import annotations

import os
import re
from typing import BinaryIO, NamedTuple, cast

from aivvm_testing.errors import CorruptRecording
from aivvm_testing.format import MAX_LINE, Reader
from aivvm_testing.journal import is_orphaned
from aivvm_testing.recording import BUFFER

MOST_DAMAGES = 100
"""Of one file: a longer list helps nobody."""

_BEGINNING = re.compile(rb'\s*\{\s*(?:"started"\s*:[^,"]*,\s*)?"request"')


class Inspection(NamedTuple):
    """How many exchanges of a file are sound, and what is wrong, in the order of lines."""

    exchanges: int
    damages: list[CorruptRecording]


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Reads the whole file, every exchange of it. Raises `OSError` where it cannot be read, and nothing else.

    A file whose header is wrong is read no further, nor is one with `MOST_DAMAGES`.
    """
    name = os.fspath(path)
    damages: list[CorruptRecording] = []
    sound = n = 0
    with open(name, "rb", BUFFER) as file:
        lines = _Lines(file)
        reader = Reader(name, cast("BinaryIO", lines))
        try:
            reader.header()
        except CorruptRecording as error:
            return Inspection(0, [error])
        while len(damages) < MOST_DAMAGES:
            n += 1
            begun = reader.line + 1
            try:
                if reader.exchange(n) is None:
                    break
                sound += 1
            except CorruptRecording as error:
                damages.append(error)
                reader = Reader(name, cast("BinaryIO", lines), line=lines.skip(reader.line, begun))
    return Inspection(sound, damages)


def orphaned_journal(path: str | os.PathLike[str]) -> bool:
    """Whether a recorder of this file was stopped before it could finish, and left its journal."""
    try:
        with open(f"{os.fspath(path)}.journal", "rb") as journal:
            return is_orphaned(journal)
    except FileNotFoundError:
        return False


class _Lines:
    """The lines of a file, the last of which can be read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._last = b""
        self._again = False

    def readline(self, limit: int) -> bytes:
        if self._again:
            self._again = False
        else:
            self._last = self._file.readline(limit)
        return self._last

    def skip(self, line: int, begun: int) -> int:
        """After a damage in this line, of an exchange that has `begun` in that one: to the next that begins; how many
        lines are before it."""
        if line > begun and _BEGINNING.match(self._last):
            self._again = True
            return line - 1
        while True:
            while self._last and not self._last.endswith(b"\n"):  # the rest of a line that was too long
                self._last = self._file.readline(MAX_LINE)
            self._last = self._file.readline(MAX_LINE)
            if not self._last or _BEGINNING.match(self._last):
                self._again = True
                return line
            line += 1
