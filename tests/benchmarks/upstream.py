"""What recorders record in areas B and F and for `peers`: `python -m tests.benchmarks.upstream`.

It prints its port and serves until its standard input ends. The path of a request says what it gets, always in chunks
that leave as they are named here; connections are closed after an answer, but below `/kept`.

    /stream/N   N chunks of 4 KiB, as fast as the reader takes them: sent from one prepared block, so that it is the
                reader who is measured
    /six        six chunks, 80 ms apart, the first at once
    /body/N     the N-th of nine malformed bodies, each chunk when the one before it is likely to have been read
    /reset      three chunks, then RST
    /endless    an event every 10 ms, until the reader leaves or `ENDLESS` seconds are over
    /turn       `answer 1`, then `answer 2`, and so on, by the number of such requests with this very query
    /secret     JSON with a token
    /echo/TEXT  TEXT
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

GAP = 0.08
SIX = [b"one ", b"two ", b"three ", b"four ", b"five ", b"six"]
ENDLESS = 2.0
TOKEN = "tok-4f8a0c5d9be7416382"
# What a chat answers: text in several scripts, with a quotation and a line end now and then.
_LINE = 'Most of it is plain text, ещё немного кириллицы и 少しの日本語, and once a line "a quotation".\n'.encode()
CHUNK = (_LINE * 64)[: 4096 // len(_LINE) * len(_LINE)].ljust(4096, b".")
BLOCK = 128  # chunks
MALFORMED = (
    "above_10ffff",
    "bad_invalid_escape",
    "bad_lone_surrogate",
    "bad_plus_valid",
    "cesu_pair",
    "eof_truncated",
    "latin1_server",
    "overlong_slash",
    "split_then_bad",
)
"""The shipped recordings of them, by their names."""

_counts: Counter[str] = Counter()
_counting = threading.Lock()


def malformed(n: int) -> list[bytes]:
    """The chunks of `/body/n`."""
    from aivvm_testing import fixtures

    return [chunk.data for chunk in fixtures.load(MALFORMED[n])[0].reply.chunks]


def _frame(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _parts(target: str) -> Iterator[bytes]:
    """The chunks of an answer that is neither fast nor broken, each when it is due."""
    kind, _, rest = target.partition("?")[0].removeprefix("/kept").strip("/").partition("/")
    if kind == "six":
        begun = time.perf_counter()
        for n, part in enumerate(SIX):
            time.sleep(max(0.0, begun + n * GAP - time.perf_counter()))
            yield part
    elif kind == "body":
        for n, part in enumerate(malformed(int(rest))):
            time.sleep(0.005 if n else 0)
            yield part
    elif kind == "reset":
        for part in SIX[:3]:
            time.sleep(0.02)
            yield part
        time.sleep(0.05)  # RST takes away what the reader's kernel still has
    elif kind == "endless":
        end = time.perf_counter() + ENDLESS
        while time.perf_counter() < end:
            yield b"data: {}\n\n"
            time.sleep(0.01)
    elif kind == "turn":
        with _counting:
            _counts[target] += 1
            turn = _counts[target]
        yield b"answer %d" % turn
    elif kind == "secret":
        yield b'{"access_token": "%b"}' % TOKEN.encode()
    else:
        yield rest.encode()


def _answer(connection: socket.socket, target: str) -> None:
    keeps = target.startswith("/kept")
    kind = b"application/json" if target.startswith("/secret") else b"text/plain;charset=UTF-8"
    fields = b"" if keeps else b"Connection: close\r\n"
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%bTransfer-Encoding: chunked\r\n\r\n" % (kind, fields)
    )
    if target.startswith("/stream/"):
        left = int(target.partition("?")[0].rpartition("/")[2])
        block = _frame(CHUNK) * BLOCK
        while left >= BLOCK:
            connection.sendall(block)
            left -= BLOCK
        connection.sendall(_frame(CHUNK) * left)
    else:
        for part in _parts(target):
            connection.sendall(_frame(part))
    if target.startswith("/reset"):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        connection.sendall(b"0\r\n\r\n")


def _requests(connection: socket.socket) -> Iterator[str]:
    """The targets of the requests of a connection."""
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(65536)):
                return
            data += more
        head, _, data = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        length = sum([int(line[15:]) for line in lines if line.lower().startswith("content-length:")])
        while len(data) < length:
            if not (more := connection.recv(65536)):
                return
            data += more
        data = data[length:]
        yield lines[0].split(" ")[1]


def _serve(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, suppress(OSError):
        for target in _requests(connection):
            _answer(connection, target)
            if not target.startswith("/kept"):
                return


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def accepting() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accepting, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
