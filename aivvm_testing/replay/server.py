"""Door 4: a loopback server that plays a fake's replies to any client, exact to the byte, the chunk and the ending.

One thread, made by `start` and gone after `stop`, owns every socket: blocking clients, async ones and those of other
processes are served alike. What is answered is the fake's decision, what that is in bytes is `wire`'s; here is only
when bytes leave and how a connection ends.

    complete                 the connection takes the next request, unless one side said close
    cut                      FIN after everything was sent, then what still comes in is dropped
    reset                    RST, once the peer's kernel has everything
    stall                    open and silent until the client leaves or the server stops; to a client that closed its
                             half, which may have left, for `idle_timeout`
    closed, unfinished       the client is expected to leave; one that stays is cut, and `ReadPastRecording` is raised
                             at the exit
    refused                  in order: while it is the next answer, the port is bound and does not listen, and the
                             kernel refuses every connection until `resume`. From a rule: a reset before any byte
    unresolved, tls,         a reset before any byte: whoever has reached a server cannot be told more
    unreachable

A call is `played` when its ending was given, a stall when the client gives up; it is `closed` when the client leaves,
or the server stops, before that. Its `position` is what was sent, and once it is `closed`, what of that the client's
kernel has taken (where the system tells: on Linux). A client that closed looks like one that closed its half and
reads on, until more is sent to it.

No client costs more than this, whatever it does:

    it says nothing, or nothing more          its connection is closed after `idle_timeout`, in a stall too once it
                                              has said that nothing more comes
    its request does not become whole         408 after `request_timeout`; `max_head` and `max_body` bound its size
    it takes nothing more of its answer       a reset after `write_timeout`; what it has not taken all clients share
    it asks on while it is answered           no more is read while a whole request waits
    it stays where a recorded client left     cut off 0.25 s after that one's time
    it talks on after FIN                     read and dropped for at most 2 s
    it is to be reset and takes nothing more  reset all the same after 5 s
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from contextlib import suppress
from typing import Any

from aivvm_testing.errors import SetupFailure
from aivvm_testing.replay.cors import cors_fields
from aivvm_testing.replay.loop import Answers, Loop, Settings
from aivvm_testing.wire import MAX_BODY, MAX_HEAD


class FakeServer:
    """A server on `host` and `port` (0: a free one) that answers what the fake answers.

    `start` and `stop`, or a `with` block; `async with` in an asyncio program, which then does not wait for the thread.
    Leaving the block without an exception raises the first failure that no client could be given: `UnmatchedRequest`
    (the client got a 501), `ReadPastRecording`, or a `SetupFailure` around whatever the fake raised (the client got a
    500). A `host` that is not loopback is a `ValueError` unless `allow_remote`.

    `cors`: whether pages of other origins may read what is answered: True for all, or the one that may, such as
    `http://localhost:3000`. Then every answer says so, refusals and failures too, unless the reply has a say of its
    own; and the server answers preflights itself, which are no calls of the fake. Credentials are not allowed for.

    Patience, in seconds. `idle_timeout`: with a connection that waits for its next request, or its first; the real
    server promises 5. `request_timeout`: from a request's first byte to its last. `write_timeout`: until a client takes
    more of what is due.

    Size, in bytes. `max_head`: of a request's line and fields together, else 431. `max_body`: of its body, else 413.
    What is refused is no call of the fake, which is told why: see `FakeAivvm.refusals`.

    Methods may be called from any thread but the server's own. A stopped server can be started again.
    """

    def __init__(
        self,
        fake: Answers,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        cors: bool | str = False,
        allow_remote: bool = False,
        idle_timeout: float = 60.0,
        request_timeout: float = 10.0,
        write_timeout: float = 60.0,
        max_head: int = MAX_HEAD,
        max_body: int = MAX_BODY,
    ) -> None:
        patience = {
            "idle_timeout": idle_timeout,
            "request_timeout": request_timeout,
            "write_timeout": write_timeout,
        }
        for name, seconds in patience.items():
            if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds > 0:
                raise ValueError(f"{name} is a number of seconds over 0, but got {seconds!r}")
        for name, size in {"max_head": max_head, "max_body": max_body}.items():
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"{name} is a whole number of bytes, 1 or more, but got {size!r}")
        added = cors_fields(cors)
        family, address = _resolve(host, port, allow_remote)
        name = f"[{host}]" if ":" in host else host
        self._fake = fake
        self._settings = Settings(
            family, address, name, added, **patience, max_head=max_head, max_body=max_body
        )
        self._failures: list[SetupFailure] = []
        self._running: tuple[Loop, threading.Thread] | None = None

    @property
    def port(self) -> int:
        """The port it listens on; `RuntimeError` when it is not running."""
        return self._loop.port

    @property
    def url(self) -> str:
        """`http://host:port`, without a slash at the end; `RuntimeError` when it is not running."""
        return f"http://{self._loop.authority}"

    @property
    def _loop(self) -> Loop:
        if self._running is None:
            raise RuntimeError("the server is not running: call start(), or use it in a with block")
        return self._running[0]

    def start(self) -> None:
        """Binds the port and answers from now on. Raises `OSError` where the port is taken."""
        if self._running is not None:
            raise RuntimeError(f"the server is already running at {self.url}")
        self._failures = []
        loop = Loop(self._fake, self._settings, self._failures)
        thread = threading.Thread(target=loop.run, name=f"aivvm-server-{loop.port}", daemon=True)
        thread.start()
        self._running = loop, thread

    def stop(self) -> None:
        """Closes every connection, streams included, and returns when the thread is gone. Harmless when stopped."""
        running, self._running = self._running, None
        if running is not None:
            loop, thread = running
            loop.stop()
            thread.join()

    def resume(self) -> None:
        """Counts the refused connection that comes next as given, and listens again (until the next one)."""
        loop = self._loop
        self._fake.skip_refused()
        loop.call(loop.follow)

    def recheck(self) -> None:
        """Asks the fake again whether it refuses next: for a script that changed while no request was answered.

        From the server's own thread it does nothing: there an answer is being made, after which it asks anyway.
        """
        running = self._running
        if running is not None and running[1] is not threading.current_thread():
            with suppress(RuntimeError):  # it has stopped meanwhile
                running[0].call(running[0].follow)

    def __enter__(self) -> FakeServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.stop()
        if kind is None and self._failures:
            raise self._failures[0]

    async def __aenter__(self) -> FakeServer:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        import asyncio  # who comes here has it; others need not pay for it

        await asyncio.to_thread(self.stop)
        self.__exit__(kind)


def _resolve(host: str, port: int, allow_remote: bool) -> tuple[int, tuple[Any, ...]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    if not (allow_remote or ipaddress.ip_address(address[0]).is_loopback):
        raise ValueError(
            f"a fake server is for this machine alone, but host={host!r} is {address[0]}, which others may reach: "
            "use 127.0.0.1 or ::1, or say allow_remote=True"
        )
    return family, address
