"""Peers on loopback for the tests that need real sockets: threads with a plain socket, whose every byte is scripted.

Nothing sleeps here: threads wait for events and for data, and give up after `PATIENCE`.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
PATIENCE = 10.0  # seconds until a test that hangs fails instead


def framed(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


class Peer:
    """A server of one script: it reads a request, runs the script, and closes the connection."""

    def __init__(self, script: Callable[[socket.socket], None], keep_alive: bool) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.hung_up = threading.Event()  # the client closed a connection
        self._script = script
        self._keep_alive = keep_alive
        self._trouble: list[BaseException] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            connection.settimeout(PATIENCE)
            self.connections += 1
            try:
                with connection:
                    while request := self._read(connection):
                        self.requests.append(request)
                        self._script(connection)
                        if not self._keep_alive:
                            break
                    else:
                        self.hung_up.set()
            except (ConnectionError, ssl.SSLError):
                self.hung_up.set()
            except BaseException as error:
                self._trouble.append(error)

    @staticmethod
    def _read(connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(65536)):
                return data
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        while len(body) < length and (more := connection.recv(65536)):
            data += more
            body += more
        return data

    def stop(self) -> None:
        with suppress(OSError):  # a listener that a test has closed
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the peer still waits for something"
        if self._trouble:
            raise self._trouble[0]


@contextmanager
def serving(answer: bytes | Callable[[socket.socket], None], *, keep_alive: bool = False) -> Iterator[Peer]:
    peer = Peer(answer if callable(answer) else (lambda connection: connection.sendall(answer)), keep_alive)
    try:
        yield peer
    finally:
        peer.stop()
