"""Everything that is wrong in a recording's file: what `Recording.load` raises for first, and whatever comes after it.

After a damage reading goes on with the next line that begins an exchange. Holds one exchange at a time. Nothing here
repairs, or looks for secrets (`leaks` does).
"""

from __future__ import annotations

import os
import re
from typing import BinaryIO, NamedTuple, cast

from aivvm_testing.errors import CorruptRecording
from aivvm_testing.format import PIECE, Reader
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
            begun = reader.line + 1
            try:
                if reader.exchange(n) is None:
                    break
                sound += 1
            except CorruptRecording as error:
                damages.append(error)
                reader = Reader(name, cast("BinaryIO", lines), line=lines.skip(reader.line, begun))
            n += 1
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
        self._begin = 0
        self._last = b""  # or its first piece
        self.tell, self.seek, self.read = file.tell, file.seek, file.read  # how a long line is looked at

    def readline(self, limit: int) -> bytes:
        self._begin = self._file.tell()
        self._last = self._file.readline(limit)
        return self._last

    def skip(self, line: int, begun: int) -> int:
        """After a damage in this line, of an exchange that has `begun` in that one: to the next that begins; how many
        lines are before it."""
        self._file.seek(self._begin)
        if line > begun and _BEGINNING.match(self._last):
            return line - 1
        self._skip_line()
        while True:
            self._begin = self._file.tell()
            piece = self._file.readline(PIECE)
            if not piece or _BEGINNING.match(piece):
                self._file.seek(self._begin)
                return line
            if not piece.endswith(b"\n"):
                self._skip_line()
            line += 1

    def _skip_line(self) -> None:
        while (piece := self._file.readline(PIECE)) and not piece.endswith(b"\n"):
            pass
