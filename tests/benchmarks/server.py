"""Area D: the loopback server, against servers that people write or install for tests.

Three tables: starting and stopping; small answers of ten chunks, on 1 connection and on 32; slow streams, thousands at
once. In the latter two, server and client are processes of their own (`served`, `load`), and each server is alone with
its client while it is measured. Small answers are asked for by wrk where it is installed, else by a client of ours.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import resource
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from statistics import median

from aivvm_testing import FakeAivvm
from tests.benchmarks.load import BODY
from tests.benchmarks.processes import output_of, run, serving
from tests.benchmarks.served import GAP, OURS, installed
from tests.benchmarks.table import interleaved, not_installed, render

CONNECTIONS = (1, 32)
CHUNKS = 20
A_THREAD_EACH = ("ThreadingHTTPServer", "pytest_httpserver")
SCRIPT = f"""
wrk.method = "POST"
wrk.body = '{BODY.decode()}'
wrk.headers["Content-Type"] = "application/json"
"""


def report(*, quick: bool) -> str:
    return "\n\n".join([_start_and_stop(quick), _answers(quick), _streams(quick)])


# Starting and stopping


def _start_and_stop(quick: bool) -> str:
    servers = {OURS: _ours, "asyncio in a thread, canned": _asyncio, "ThreadingHTTPServer": _threading}
    left_out = ""
    if quick:
        left_out = "\n  left out of a quick run, as it takes half a second to stop: pytest_httpserver"
    elif importlib.util.find_spec("pytest_httpserver"):
        servers["pytest_httpserver"] = _pytest_httpserver
    else:
        left_out = not_installed(["pytest_httpserver"])

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


@contextmanager
def _ours() -> Iterator[None]:
    with FakeAivvm().server():
        yield


@contextmanager
def _asyncio() -> Iterator[None]:
    started: SimpleQueue[Callable[[], object]] = SimpleQueue()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        async with await loop.create_server(asyncio.Protocol, "127.0.0.1", 0):
            started.put(lambda: loop.call_soon_threadsafe(stopped.set))
            await stopped.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    stop = started.get()
    yield
    stop()
    thread.join()


@contextmanager
def _threading() -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


@contextmanager
def _pytest_httpserver() -> Iterator[None]:
    from pytest_httpserver import HTTPServer

    with HTTPServer():
        yield


# Against a server in a process of its own


def _served(name: str, chunks: int = 0) -> AbstractContextManager[tuple[int, int]]:
    """Its port, and its process."""
    return serving("served", name, *([chunks] if chunks else []))


def _answers(quick: bool) -> str:
    names, missing = installed()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(SCRIPT)
        wrk = None if quick else shutil.which("wrk")  # whose shortest run is a second

        def once(port: int, connections: int) -> float:
            if wrk is None:
                return float(run("load", "answers", port, connections, 0.05 if quick else 2))
            url = f"http://127.0.0.1:{port}/api/chat"
            told = output_of(wrk, "-t1", f"-c{connections}", "-d2s", "-s", script, url)
            assert "Non-2xx" not in told, told
            found = re.search(r"Requests/sec: +([0-9.]+)", told)
            assert found, told
            return float(found[1])

        rates: dict[tuple[str, int], list[float]] = {}
        for _ in range(1 if quick else 3):
            for name in names:
                with _served(name) as (port, _):
                    for connections in CONNECTIONS:
                        rates.setdefault((name, connections), []).append(once(port, connections))
    by_whom = "our own client" if wrk is None else "wrk"
    lines = [f"D. Small answers of 10 chunks, requests/s on 1 and 32 connections; asked for by {by_whom}"]
    lines.append(f"  {'':44}" + "".join([f"{f'on {n}':>9}{'ours is x':>12}" for n in CONNECTIONS]))
    for name in names:
        figures = [(median(rates[name, n]), median(rates[OURS, n])) for n in CONNECTIONS]
        lines.append(f"  {name:44}" + "".join([f"{rate:9.0f}{ours / rate:12.1f}" for rate, ours in figures]))
    return "\n".join(lines) + not_installed(missing)


def _streams(quick: bool) -> str:
    if sys.platform != "linux":
        return "D. Slow streams: not measured here, as processes are looked at the way Linux shows them"
    names, missing = installed()
    count, chunks = (100, 4) if quick else (5000, CHUNKS)
    count = min(count, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100)
    lines = [
        f"D. {count} slow streams at once, each of {chunks} chunks {GAP * 1000:.0f} ms apart",
        f"  {'':32}{'whole':>7}{'gap p50':>9}{'p99, ms':>9}{'first p50':>11}{'p99, ms':>9}{'CPU, s':>8}{'KiB each':>10}",
    ]
    for name in names:
        if name in A_THREAD_EACH or (quick and name != OURS):
            continue
        runs = []
        for _ in range(1 if quick or name != OURS else 3):
            with _served(name, chunks) as (port, pid):
                runs.append(json.loads(run("load", "streams", port, count, chunks, pid)))
        whole = min([run["whole"] for run in runs])
        gaps, firsts = (
            [1000 * median(figures) for figures in zip(*[run[key] for run in runs], strict=True)]
            for key in ("gap", "first")
        )
        cpu, memory = (median([run[key] for run in runs]) for key in ("cpu", "memory"))
        lines.append(
            f"  {name:32}{whole:7}{gaps[0]:9.0f}{gaps[1]:9.0f}{firsts[0]:11.0f}{firsts[1]:9.0f}{cpu:8.2f}{memory / 1024:10.1f}"
        )
    lines.append(
        "  left out of a quick run: all others"
        if quick
        else f"  left out, as they take a thread for each stream: {', '.join(A_THREAD_EACH)}"
    )
    return "\n".join(lines) + ("" if quick else not_installed(missing))
