"""Sessions: `Exchange`, `Recording`, load and save.

The contract: `Recording.load(path)` after `recording.save(path)` is equal to the recording, whatever it holds; saving is
deterministic, and atomic against anything that stops the process. What a file looks like is `format`'s business.
Nothing here redacts, sends, plays or waits.
"""

from __future__ import annotations

import errno
import io
import json
import os
import weakref
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from math import inf
from typing import Any, BinaryIO, cast, overload

from aivvm.transport import Request
from aivvm_testing.errors import CorruptRecording
from aivvm_testing.format import (
    MAX_LINE,
    WHOLE_EXCHANGE,
    Origin,
    Outline,
    Reader,
    checked_moment,
    checked_note,
    checked_origin,
    exchange_lines,
    header_line,
    line_size,
    outline,
    outline_of,
)
from aivvm_testing.reply import Reply

BUFFER = 256 * 1024
"""Bytes. Lines are short, and a system call for each would cost more than all else."""

LAZY_FROM = 1024 * 1024
"""Bytes. The exchanges of a longer file are read one by one, when they are asked for."""

_BLOCK = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its reply, `started` so many seconds after the recording began.

    Raises `ValueError` where `started` is negative or not finite.
    """

    request: Request
    reply: Reply
    started: float = 0.0

    def __post_init__(self) -> None:
        if not (isinstance(self.request, Request) and isinstance(self.reply, Reply)):
            raise TypeError(
                f"an exchange is a Request and a Reply, but got {self.request!r:.80} and {self.reply!r:.80}"
            )
        if not 0.0 <= self.started < inf:
            raise ValueError(f"started takes seconds, 0 or more, but got {self.started!r}")


class Recording(Sequence[Exchange]):
    """The exchanges of one session. Immutable, hashable, equal by value; a slice is a recording without `expected`.

    `origin`: `recorded`, `written` (by hand) or `converted`. `note`: why it exists. `recorded_at`: an ISO 8601 moment
    with its offset, such as `2026-11-23T00:00:00Z`, or None. `expected`: a JSON object that goes with the recording,
    kept as it is; None where there is none. Raises `ValueError` for a value that a file cannot hold.
    """

    __slots__ = ("_exchanges", "_expected", "_note", "_origin", "_recorded_at")

    def __init__(
        self,
        exchanges: Iterable[Exchange] = (),
        *,
        origin: Origin = "written",
        note: str = "",
        recorded_at: str | None = None,
        expected: Mapping[str, Any] | None = None,
    ) -> None:
        self._exchanges: Sequence[Exchange] = tuple(exchanges)
        for n, exchange in enumerate(self._exchanges):
            if not isinstance(exchange, Exchange):
                raise TypeError(f"a recording holds Exchange objects, but number {n} is {exchange!r}")
        self._origin: Origin = checked_origin(origin)
        self._note = checked_note(note)
        self._recorded_at = checked_moment(recorded_at)
        # As text, so that nobody can change it, and equal recordings are equal files.
        self._expected = None if expected is None else json.dumps(dict(expected), allow_nan=False)

    @property
    def origin(self) -> Origin:
        """How it came about."""
        return self._origin

    @property
    def note(self) -> str:
        """Why it exists, for people."""
        return self._note

    @property
    def recorded_at(self) -> str | None:
        """When it was recorded, as ISO 8601, or None."""
        return self._recorded_at

    @property
    def expected(self) -> dict[str, Any] | None:
        """A copy of the JSON object that goes with it, or None."""
        return None if self._expected is None else cast("dict[str, Any]", json.loads(self._expected))

    @overload
    def __getitem__(self, index: int) -> Exchange: ...
    @overload
    def __getitem__(self, index: slice) -> Recording: ...
    def __getitem__(self, index: int | slice) -> Exchange | Recording:
        if isinstance(index, slice):
            return Recording(
                self._exchanges[index], origin=self.origin, note=self.note, recorded_at=self.recorded_at
            )
        return self._exchanges[index]

    def __len__(self) -> int:
        return len(self._exchanges)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(self._exchanges)

    def outlines(self) -> Iterator[Outline]:
        """Of each request its method, url and body as a file has it, in order. Exchanges are not checked whole for it."""
        if isinstance(self._exchanges, _Stored):
            return self._exchanges.outlines()
        return (outline(exchange.request) for exchange in self._exchanges)

    def _value(self) -> tuple[object, ...]:
        return tuple(self._exchanges), self._origin, self._note, self._recorded_at, self._expected

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, Recording) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        count = f"{len(self)} exchange{'' if len(self) == 1 else 's'}"
        when = "" if self._recorded_at is None else f" at {self._recorded_at}"
        note = self._note if len(self._note) <= 60 else self._note[:57] + "..."
        return f"<Recording of {count}, {self._origin}{when}{f': {note!r}' if note else ''}>"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recording:
        """The recording in this file.

        Raises `CorruptRecording` for whatever is wrong in the file, and `OSError` (`FileNotFoundError` …) where it
        cannot be read.
        """
        name = os.fspath(path)
        try:
            file = open(name, "rb", BUFFER)  # noqa: SIM115  # closed below, outside the block that explains a missing file
        except FileNotFoundError as error:
            if not os.path.exists(f"{name}.journal"):
                raise
            why = f"no recording yet, only its journal {name}.journal: its recorder runs, or was stopped (then `aivvm-testing recover` makes a recording of it)"
            raise FileNotFoundError(errno.ENOENT, why, name) from error
        with file:
            reader = Reader(name, file)
            recording = cls(**reader.header())
            if os.fstat(file.fileno()).st_size > LAZY_FROM:
                recording._exchanges = _Stored(name, file, reader.line)
            else:
                recording._exchanges = tuple(_all(reader))
            return recording

    @classmethod
    def merged(cls, recordings: Iterable[Recording]) -> Recording:
        """All exchanges of these recordings, such as those of several processes, in the order in which they started.

        It begins when the first of them did: what `started` after another beginning is moved by the difference, in
        microseconds at best, and as exact as `recorded_at` is (taps write milliseconds). Recordings without a
        `recorded_at` are taken to have begun together; exchanges that started together are in the order of the
        recordings, and of each. Notes are joined, each once; origins that differ make it `converted`; `expected` is
        left out.

        Raises `ValueError` where some recordings have a `recorded_at` and others none.
        """
        parts = list(recordings)
        moments = [part.recorded_at for part in parts]
        known = sorted([moment for moment in moments if moment is not None], key=moment_of)
        if known and None in moments:
            raise ValueError(
                f"recordings are merged by their recorded_at, but number {moments.index(None) + 1} of {len(parts)} has none: "
                "give it one, or merge those without by themselves"
            )
        first = known[0] if known else None
        begins = [0.0 if moment is None else moment_of(moment) for moment in moments]
        exchanges = [
            _later(exchange, begin - min(begins))
            for part, begin in zip(parts, begins, strict=True)
            for exchange in part
        ]
        origins = {part.origin for part in parts} or {"written"}
        return cls(
            sorted(exchanges, key=lambda exchange: exchange.started),
            origin=origins.pop() if len(origins) == 1 else "converted",
            note="; ".join(dict.fromkeys([part.note for part in parts if part.note])),
            recorded_at=first,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, or replaces it whole: a reader sees the old one or the new one, never a part.

        Raises `OSError` where that is not possible, and `ValueError` for text that no file can hold; an earlier file
        is then as it was. Nothing is redacted here.
        """
        with replacing(os.fspath(path)) as file:
            file.write(header_line(self._origin, self._note, self._recorded_at, self.expected))
            for exchange in self._exchanges:
                file.writelines(exchange_lines(exchange.request, exchange.reply, exchange.started))


def _later(exchange: Exchange, seconds: float) -> Exchange:
    # Microseconds, as taps write: the sum of two decimals has digits that neither has.
    return replace(exchange, started=round(exchange.started + seconds, 6)) if seconds else exchange


def moment_of(moment: str) -> float:
    """Of a checked moment, since 1970 in UTC. (`fromisoformat` takes neither all digits nor `Z` before Python 3.11.)"""
    day, rest = datetime.fromisoformat(f"{moment[:19]}+00:00"), moment[19:].removesuffix("Z")
    offset = 0
    if rest[-3:-2] == ":":
        hours, minutes = rest[-5:].split(":")
        offset = (int(hours) * 60 + int(minutes)) * (60 if rest[-6] == "+" else -60)
        rest = rest[:-6]
    return day.timestamp() + float(rest or 0) - offset


def _all(reader: Reader) -> Iterator[Exchange]:
    n = 0
    while (found := reader.exchange(n)) is not None:
        yield Exchange(*found)
        n += 1


class _Stored(Sequence[Exchange]):
    """The exchanges of a long file, each read, and checked whole, when it is asked for.

    The file is kept open, so that they stay what they were when it is replaced. Safe to share between threads.
    """

    def __init__(self, path: str, file: BinaryIO, line: int) -> None:
        self._path = path
        self._begins = array("Q")  # where each exchange begins, and where the last one ends
        self._lines = array("Q")  # how many lines are before it
        self._scan(file, line)
        self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)

    def _scan(self, file: BinaryIO, line: int) -> None:
        """Finds the exchanges, and checks the order of their lines."""
        begin = file.tell()
        block = b""
        at = 0
        while True:
            found = WHOLE_EXCHANGE.match(block, at)
            if found is None:
                more = file.read(max(_BLOCK, len(block) - at))
                if more:
                    begin, block, at = begin + at, block[at:] + more, 0
                    ends = b"\n" in more or line_size(file, len(more)) is not None
                    if ends and len(block) <= MAX_LINE:
                        continue
                if at == len(block):
                    break
                # It begins otherwise than ours do, it or its line is longer than any, or the file is damaged here: the reader tells.
                file.seek(begin + at)
                reader = Reader(self._path, file, line=line)
                if reader.exchange(len(self._begins)) is None:
                    break
                self._begins.append(begin + at)
                self._lines.append(line)
                begin, block, at, line = file.tell(), b"", 0, reader.line
            else:
                self._begins.append(begin + at)
                self._lines.append(line)
                line += block.count(b"\n", at, found.end())
                at = found.end()
        self._begins.append(begin + at)

    def __len__(self) -> int:
        return len(self._lines)

    def outlines(self) -> Iterator[Outline]:
        begins = self._begins
        block, start = b"", 0
        for n in range(len(self)):
            at = begins[n] - start
            if begins[n + 1] - start > len(block):
                start, at = begins[n], 0
                block = _read(self._file, start, max(BUFFER, begins[n + 1] - start))
            yield outline_of(block, at) or outline(self[n].request)

    @overload
    def __getitem__(self, index: int) -> Exchange: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Exchange, ...]: ...
    def __getitem__(self, index: int | slice) -> Exchange | tuple[Exchange, ...]:
        if isinstance(index, slice):
            return tuple([self[n] for n in range(*index.indices(len(self)))])
        n = range(len(self))[index]
        begin, end = self._begins[n], self._begins[n + 1]
        lines = io.BytesIO(_read(self._file, begin, end - begin))
        found = Reader(self._path, lines, line=self._lines[n]).exchange(n)
        if found is None:
            raise CorruptRecording(self._path, 0, "the file was changed since it was opened: load it again")
        return Exchange(*found)


def _read(file: int, begin: int, size: int) -> bytes:
    parts = []
    while size and (part := os.pread(file, size, begin)):
        parts.append(part)
        begin += len(part)
        size -= len(part)
    return b"".join(parts)


def check_replaceable(path: str) -> None:
    # A device would be replaced by a file as readily as a file is.
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "something that is not a file has this name")


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` at the end of the block; an error leaves everything as it was."""
    target = os.path.realpath(path)
    temporary = f"{target}.{os.urandom(4).hex()}.tmp"
    try:
        check_replaceable(target)
        with open(temporary, "xb", buffering=BUFFER) as file:
            yield file
            if os.path.exists(
                target
            ):  # else a power cut could leave an empty file, and have taken the earlier one
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(
                error.errno, f"the recording cannot be saved ({why_not(error, target)})", path
            ) from error
        raise


def why_not(error: OSError, path: str) -> str:
    """Why nothing can be written to `path`; where a folder is missing, which."""
    folder = os.path.dirname(os.path.abspath(path))
    if error.errno != errno.ENOENT or os.path.exists(folder):
        return str(error.strerror)
    while not os.path.exists(above := os.path.dirname(folder)):
        folder = above
    return f"{error.strerror}: there is no folder {folder}"
