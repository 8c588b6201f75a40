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
from aivvm_testing.clock import Timer
from aivvm_testing.errors import ReadPastRecording, WouldHang
from aivvm_testing.reply import HEADLESS_KINDS, Chunk, Ending
from aivvm_testing.wire import body_framing

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

    def send(self, request: Request, *, timeout: Timeout) -> Response:
        connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        clock = self._fake.clock
        timer = clock.timer()
        reply = self._fake.answer(request)
        play = _Play(timer, inf if read is None else read, clock.virtual)
        head = reply.head
        if head is None:
            if reply.ending.kind in HEADLESS_KINDS:
                play.patience = inf if connect is None else connect
            play.stop(reply.ending, "no answer was there")
        if head.at > 0:
            play.wait_for(head.at)
        ending = reply.ending
        framing = body_framing(head, request.method)
        if ending.kind == "cut" and framing == "close":
            ending = replace(ending, kind="complete")  # nobody can tell it from any other end
        length = framing if isinstance(framing, int) else None
        return Response(head.status, head.reason, head.headers, play.body(reply.chunks, ending, length))


class _Play:
    """One reply on its way to one reader."""

    __slots__ = ("patience", "timer", "virtual")

    def __init__(self, timer: Timer, patience: float, virtual: bool) -> None:
        self.timer = timer
        self.patience = patience
        self.virtual = virtual

    def wait_for(self, at: float) -> None:
        # A read that begins now lasts no longer than the reader's patience.
        latest = self.timer.elapsed() + self.patience
        if at > latest:
            self.timer.wait_until(latest)
            raise TimedOut(f"nothing came for {self.patience:g} s")
        self.timer.wait_until(at)

    def body(self, chunks: tuple[Chunk, ...], ending: Ending, length: int | None) -> Iterator[bytes]:
        if length == 0:
            return
        now = self.timer.elapsed()
        for chunk in chunks:
            if chunk.at > now:
                self.wait_for(chunk.at)
                now = chunk.at
            data = chunk.data
            if length is not None:
                data = data[:length]
                length -= len(data)
            yield data
            if length == 0:
                return
        if ending.kind == "complete":
            if ending.at > now:
                self.wait_for(ending.at)
            if not length:
                return
            raise Interrupted(
                f"the peer closed the connection {length} bytes short of the content-length it gave"
            )
        self.stop(ending, f"{len(chunks)} chunk{' was' if len(chunks) == 1 else 's were'} there")

    def stop(self, ending: Ending, so_far: str) -> NoReturn:
        kind = ending.kind
        if kind == "stall":
            if self.virtual and self.patience == inf:
                raise WouldHang(
                    f"{so_far}, the peer stays silent, the reader has no timeout, and time is virtual: this would "
                    "never end. Pass a timeout, or FakeAivvm(clock=SystemClock()) to hang for real"
                )
            self.wait_for(inf)
        if kind == "closed" or kind == "unfinished":
            self.wait_for(ending.at)
            raise ReadPastRecording(
                f"{so_far} when the recorded reader stopped, at {ending.at:g} s: what would have come next is not "
                "known. Stop reading here too, or record the session again"
            )
        if kind == "refused" or kind == "unresolved" or kind == "tls" or kind == "unreachable":
            self.timer.wait_until(min(ending.at, self.timer.elapsed() + self.patience))
            raise ConnectFailed(_WHY_NO_CONNECTION[kind], kind=kind)
        self.wait_for(ending.at)
        if kind == "reset":
            raise Interrupted(f"{so_far} when the peer reset the connection", kind="reset")
        raise Interrupted(f"{so_far} when the peer closed the connection", kind="cut")
