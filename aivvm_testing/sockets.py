"""What sockets can do, and tell, that differs from system to system; each difference is named once, here.

Which socket, when, and what follows from the answer is the business of who owns it: this module keeps nothing.
"""

from __future__ import annotations

import os
import select
import selectors
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_RST_ON_CLOSE = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)  # linger on, for 0 seconds
WITH_FIN: int = getattr(socket, "MSG_MORE", 0)
"""For `send`: the kernel, where it can, keeps the last byte until FIN goes with it. So a client that has read that byte
does not find the connection open, and use it again."""


def reset_on_close(sock: socket.socket) -> None:
    """Lets closing send RST, not FIN, and drop what the peer's kernel has not taken. Harmless where it is gone."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)


class Selected:
    """What is used of `select.epoll`, for systems that have none."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, fd: int, mask: int) -> None:
        if mask:
            self._selector.register(fd, mask)

    def unregister(self, fd: int) -> None:
        with suppress(KeyError):
            self._selector.unregister(fd)

    def modify(self, fd: int, mask: int) -> None:
        self.unregister(fd)
        self.register(fd, mask)

    def poll(self, timeout: float | None, limit: int) -> list[tuple[int, int]]:
        return [(key.fd, events) for key, events in self._selector.select(timeout)]

    def close(self) -> None:
        self._selector.close()


if sys.platform == "linux":
    import fcntl

    # Not the selector around it, as that makes three objects for each event; and only so is a client's reset told of
    # when nothing is expected from it.
    poller: Callable[[], Any] = select.epoll
    READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT
    _SIOCOUTQ, _SIOCOUTQNSD = 0x5411, 0x894B  # linux/sockios.h

    def unacknowledged(sock: socket.socket) -> int:
        """Bytes that were sent and that the peer's kernel has not confirmed."""
        return int.from_bytes(fcntl.ioctl(sock, _SIOCOUTQ, b"\0\0\0\0"), sys.byteorder)

    def unsent(sock: socket.socket) -> int:
        """Bytes that are still here, for want of room in the peer's kernel."""
        return int.from_bytes(fcntl.ioctl(sock, _SIOCOUTQNSD, b"\0\0\0\0"), sys.byteorder)

else:
    poller = Selected
    READABLE, WRITABLE = selectors.EVENT_READ, selectors.EVENT_WRITE

    def unacknowledged(sock: socket.socket) -> int:
        """Not known here: a reset may overtake the last bytes before it."""
        return 0

    unsent = unacknowledged
