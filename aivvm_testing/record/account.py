"""One answer on its way from a parser into a tap's entry, its content-coding undone.

For taps that see the bytes of an answer: they feed an `AnswerParser` and tell its events here, and how it ended where no
event says that. An answer is written down decoded, or, where its body does not decode from the start, as it came; one
that stops decoding later ends there. Bytes, sockets and what a caller is told are the taps' business.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from aivvm.transport import Headers
from aivvm_testing.record.answer import AnswerChunk, AnswerEvent, AnswerParser
from aivvm_testing.record.coding import Decoding
from aivvm_testing.record.tap import Entry
from aivvm_testing.reply import EndingKind, Head


class Account:
    """Writes what `answer`, a parser, finds into `entry`. Moments are `at`, in whole microseconds, else those of `entry`.

    `status` and `kind` are those of the head and of the ending, None until then; `chunks` counts what was written.
    For one thread at a time.
    """

    def __init__(self, entry: Entry, answer: AnswerParser) -> None:
        self.status: int | None = None
        self.kind: EndingKind | None = None
        self.chunks = 0
        self._entry = entry
        self._answer = answer
        self._decoding: Decoding | None = None
        self._held: tuple[Head, float] | None = None  # until it is known whether its body decodes

    def note(self, event: AnswerEvent, at: float | None = None) -> None:
        """This was found; but how an answer broke off, which the end of one that is `cut` does not tell, is for `end`."""
        if self.kind is not None:
            return
        if isinstance(event, AnswerChunk):
            data = event.data if self._decoding is None else self._undone(event.data, at)
            if data:
                self._entry.chunk(data, at=at)
                self.chunks += 1
        elif isinstance(event, Head):
            self._head(event, at)
        elif event.kind == "complete":
            self._complete(event.data, at)

    def end(
        self,
        kind: EndingKind,
        why: str | None = None,
        data: bytes = b"",
        *,
        rest: bytes = b"",
        at: float | None = None,
    ) -> None:
        """It is over, with these raw bytes, or with the `rest`: what came of a chunk. What was said first stays."""
        if self.kind is None:
            if self._held is not None:  # there is no body
                self._release(decoded=False)
            self.kind = kind
            self._entry.end(kind, why, data or self._decoded(rest), at=at)

    def _head(self, head: Head, at: float | None) -> None:
        self.status = head.status
        if self._answer.until_close:
            # Only its connection says where it ends. A replay is to know, as a reply that does not say so is chunked.
            head = replace(head, headers=Headers([*head.headers, ("Connection", "close")]))
        if self._answer.coding:
            with suppress(ValueError):
                self._decoding = Decoding(self._answer.coding)
                self._held = head, self._entry.now() if at is None else at
                return
        self._entry.head(head, at=at, decoded=False)

    def _release(self, *, decoded: bool) -> None:
        assert self._held is not None
        head, at = self._held
        self._held = None
        if not decoded:
            self._decoding = None
        self._entry.head(head, at=at, decoded=decoded)

    def _undone(self, data: bytes, at: float | None) -> bytes:
        """What these bytes are without their coding; nothing where they end the answer, as they are not in it."""
        assert self._decoding is not None
        try:
            decoded = self._decoding.feed(data)
        except ValueError as error:
            if self._held is None:
                self._undecodable(error, at)
                return b""
            self._release(decoded=False)
            return data
        if self._held is not None:
            self._release(decoded=True)
        return decoded

    def _complete(self, data: bytes, at: float | None) -> None:
        if self._decoding is not None and self._held is None:
            try:
                self._decoding.finish()
            except ValueError as error:
                self._undecodable(error, at)
                return
        self.end("complete", data=data, at=at)

    def _undecodable(self, error: ValueError, at: float | None) -> None:
        self.end("cut", f"the answer does not decode as its content-encoding says: {error}", at=at)

    def _decoded(self, rest: bytes) -> bytes:
        """What came of a chunk, size and all, decoded where the chunks are."""
        if self._decoding is None or not rest:
            return rest
        try:
            part = self._decoding.feed(rest.partition(b"\n")[2])
        except ValueError:
            part = b""
        return b"%x\r\n%b" % (len(part) + 1, part) if part else b""  # one more, as it is not whole either
