"""Area D, in part: what starting and stopping a loopback server costs, and small answers on one connection.

The client of the second table is a process of its own: it shares no interpreter with what it measures.
"""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from statistics import median

from aivvm_testing import FakeAivvm, Reply
from aivvm_testing.wire import schedule
from tests.benchmarks.table import interleaved, render

OURS = "aivvm, door 4"
REPLY = Reply.text("Hello, мир. " * 5, chunk_size=8)
ANSWER = b"".join([data for _, data in schedule(REPLY).steps])
CLIENT = r"""
import socket, sys, time
port, calls = map(int, sys.argv[1:])
body = b'{"model": {"id": "gpt-4"}, "messages": [{"role": "user", "content": "Hello"}]}'
head = b"POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
with socket.create_connection(("127.0.0.1", port)) as sock:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    began = time.perf_counter()
    for _ in range(calls):
        sock.sendall(head % len(body) + body)
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            piece = sock.recv(65536)
            assert piece
            answer += piece
    print((time.perf_counter() - began) / calls)
"""


def report(*, quick: bool) -> str:
    return f"{_start_and_stop(quick)}\n\n{_answers(quick)}"


def _start_and_stop(quick: bool) -> str:
    servers = {OURS: _ours, "asyncio in a thread, canned": _asyncio, "ThreadingHTTPServer": _threading}
    left_out = ""
    if quick:
        left_out = "\n  left out of a quick run, as it takes half a second to stop: pytest_httpserver"
    elif importlib.util.find_spec("pytest_httpserver"):
        servers["pytest_httpserver"] = _pytest_httpserver
    else:
        left_out = "\n  not installed: pytest_httpserver"

    def once(server):
        @contextmanager
        def contender():
            def start_and_stop():
                with server():
                    pass

            yield start_and_stop

        return contender

    contenders = {name: once(server) for name, server in servers.items()}
    seconds = interleaved(contenders, rounds=1 if quick else 5, turn=0.01 if quick else 0.5)
    return render("D. Start + stop", seconds, against=OURS, unit=1e-3, name="ms") + left_out


def _answers(quick: bool) -> str:
    """The other two parse no request and make no bytes: they are floors."""
    servers = {
        OURS: _ours,
        "asyncio in a thread, canned": _asyncio,
        "ThreadingHTTPServer, canned": partial(_threading, poll=0.05),  # stopping it is not measured here
    }
    took: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(1 if quick else 5):
        for name, server in servers.items():
            with server() as port:
                run = subprocess.run(
                    [sys.executable, "-c", CLIENT, str(port), "50" if quick else "3000"],
                    capture_output=True,
                    text=True,
                    check=True,
                )
            took[name].append(float(run.stdout))
    seconds = {name: median(times) for name, times in took.items()}
    table = render("D. A small answer of 10 chunks, one connection", seconds, against=OURS)
    return f"{table}\n  {OURS}: {1 / seconds[OURS]:.0f} requests/s"


@contextmanager
def _ours() -> Iterator[int]:
    fake = FakeAivvm()
    fake.reply(REPLY, forever=True)
    with fake.server() as server:
        yield server.port


@contextmanager
def _asyncio() -> Iterator[int]:
    class Canned(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(ANSWER)

    started: SimpleQueue[tuple[int, Callable[[], object]]] = SimpleQueue()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        async with await loop.create_server(Canned, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            started.put((port, lambda: loop.call_soon_threadsafe(stopped.set)))
            await stopped.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    port, stop = started.get()
    yield port
    stop()
    thread.join()


@contextmanager
def _threading(poll: float = 0.5) -> Iterator[int]:
    class Canned(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.wfile.write(ANSWER)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Canned) as server:
        thread = threading.Thread(target=server.serve_forever, args=(poll,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@contextmanager
def _pytest_httpserver() -> Iterator[int]:
    from pytest_httpserver import HTTPServer

    with HTTPServer() as server:
        yield server.port
