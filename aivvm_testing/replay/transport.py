"""Door 1: a Python transport that plays a fake's replies, chunk for chunk, in microseconds.

It waits with the fake's clock, which is virtual unless told otherwise. A chunk of the reply is a chunk for the
reader, empty ones included; an explicit content-length is kept to, as a client would keep to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, NoReturn

from aivvm.errors import ConnectFailed, Interrupted, TimedOut
from aivvm.transport import Request, Response, Timeout
from aivvm_testing.replay.play import NO_ANSWER, Play, chunks_so_far
from aivvm_testing.reply import HEADLESS_KINDS, Chunk, Ending, Head
from aivvm_testing.wire import Framing, body_framing

if TYPE_CHECKING:
    from aivvm_testing.fake import FakeAivvm

_WHY_NO_CONNECTION = {
    "refused": "the peer refused the connection",
    "unresolved": "the peer's name has no address",
    "tls": "the peer and the client agreed on no TLS session",
    "unreachable": "the peer did not answer the attempt to connect",
}


class FakeTransport:
    """A transport whose every answer is the fake's. May be shared between threads; needs no closing.

    Raises what a transport raises, and the `SetupFailure`s of the fake: `UnmatchedRequest`; `ReadPastRecording`
    where the recorded reader had stopped; `WouldHang` for silence without a timeout in virtual time.
    """

    def __init__(self, fake: FakeAivvm) -> None:
        self._fake = fake
        # A fake gives one head again and again, and its fields tell the framing the same each time.
        self._last: tuple[Head | None, str, Framing] = (None, "", "close")

    def send(self, request: Request, *, timeout: Timeout) -> Response:
        connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        timer = self._fake.clock.timer()
        call = self._fake.answer(request)
        reply = call.reply
        assert reply is not None
        play = _Play(self._fake, call, timer, inf if read is None else read)
        head = reply.head
        if head is None:
            if reply.ending.kind in HEADLESS_KINDS:
                play.patience = inf if connect is None else connect
            play.stop(reply.ending, NO_ANSWER)
        if head.at > 0:
            play.wait_for(head.at)
        ending = reply.ending
        last_head, method, framing = self._last
        if last_head is not head or method != request.method:
            framing = body_framing(head, request.method)
            self._last = (head, request.method, framing)
        if ending.kind == "cut" and framing == "close":
            ending = replace(ending, kind="complete")  # nobody can tell it from any other end
        length = framing if isinstance(framing, int) else None
        body = play.body(reply.chunks, ending, length)
        return Response(head.status, head.reason, head.headers, body, play.left)


class _Play(Play):
    """One reply, chunk by chunk, and a transport's errors."""

    __slots__ = ()

    def timed_out(self) -> TimedOut:
        return TimedOut(f"nothing came for {self.patience:g} s")

    def body(self, chunks: tuple[Chunk, ...], ending: Ending, length: int | None) -> Iterator[bytes]:
        call = self.call
        if length == 0:
            self.left("played")
            return
        now = self.timer.elapsed()
        try:
            for chunk in chunks:
                if chunk.at > now:
                    self.wait_for(chunk.at)
                    now = chunk.at
                data = chunk.data
                if length is None:
                    call.position += 1
                    yield data
                    continue
                data = data[:length]
                length -= len(data)
                call.position += 1
                yield data
                if length == 0:
                    self.left("played")
                    return
            if ending.kind == "complete":
                if ending.at > now:
                    self.wait_for(ending.at)
                self.left("played")
                if not length:
                    return
                raise Interrupted(
                    f"the peer closed the connection {length} bytes short of the content-length it gave"
                )
            self.stop(ending, chunks_so_far(len(chunks)))
        finally:
            self.left()

    def stop(self, ending: Ending, so_far: str) -> NoReturn:
        self.end(ending, so_far)
        kind = ending.kind
        if kind == "refused" or kind == "unresolved" or kind == "tls" or kind == "unreachable":
            raise ConnectFailed(_WHY_NO_CONNECTION[kind], kind=kind)
        if kind == "reset":
            raise Interrupted(f"{so_far} when the peer reset the connection", kind="reset")
        raise Interrupted(f"{so_far} when the peer closed the connection", kind="cut")
