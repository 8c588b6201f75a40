"""The servers of area D, each a process of its own: `python -m tests.benchmarks.served NAME CHUNKS`.

It prints its port and serves until its standard input ends. All give the same chunks to every POST: without CHUNKS a
small answer of ten, else a stream of so many, `GAP` seconds apart. Each is the least that one would write with that
library, without logs and with TCP_NODELAY; none shares an interpreter with its client.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import resource
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aivvm_testing import FakeAivvm, Reply

OURS = "aivvm, door 4"
ANSWER = Reply.text("Hello, мир. " * 5, chunk_size=8)
PART = b"~ a few words and more"  # by whose tilde the client counts
GAP = 0.05
BACKLOG = 4096


def serve_aivvm(parts, gap):
    fake = FakeAivvm()
    fake.reply(Reply.of(*parts).pace(gap), forever=True)
    with fake.server() as server:
        print(server.port, flush=True)
        threading.Event().wait()


def serve_uvicorn(parts, gap):
    import uvicorn

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for n, part in enumerate(parts):
            if n and gap:
                await asyncio.sleep(gap)
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    # Only on a socket that says that it is TCP does asyncio set TCP_NODELAY.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    sock.listen(BACKLOG)
    print(sock.getsockname()[1], flush=True)
    config = uvicorn.Config(
        app,
        http="httptools",
        loop="asyncio",
        lifespan="off",
        log_level="critical",
        access_log=False,
        backlog=BACKLOG,
    )
    uvicorn.Server(config).run(sockets=[sock])


def serve_aiohttp(parts, gap):
    from aiohttp import web

    async def handle(request):
        await request.read()
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for n, part in enumerate(parts):
            if n and gap:
                await asyncio.sleep(gap)
            await response.write(part)
        await response.write_eof()
        return response

    sock = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    print(sock.getsockname()[1], flush=True)
    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    web.run_app(app, sock=sock, backlog=BACKLOG, access_log=None, print=None)


def serve_threads(parts, gap):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for n, part in enumerate(parts):
                if n and gap:
                    time.sleep(gap)
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = BACKLOG

        def handle_error(self, request, client_address):
            pass  # a client that is done hangs up

    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


def serve_pytest_httpserver(parts, gap):
    from pytest_httpserver import HTTPServer
    from werkzeug import Response

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)

    def paced(request):
        def body():
            for n, part in enumerate(parts):
                if n and gap:
                    time.sleep(gap)
                yield part

        return Response(body())

    server = HTTPServer(threaded=True)
    server.expect_request("/api/chat").respond_with_handler(paced)
    server.start()
    print(server.port, flush=True)
    threading.Event().wait()


SERVERS = {
    OURS: serve_aivvm,
    "uvicorn": serve_uvicorn,
    "aiohttp": serve_aiohttp,
    "ThreadingHTTPServer": serve_threads,
    "pytest_httpserver": serve_pytest_httpserver,
}
NEEDED = {
    "uvicorn": ("uvicorn", "httptools"),
    "aiohttp": ("aiohttp",),
    "pytest_httpserver": ("pytest_httpserver",),
}


def installed():
    """The names of those that can run here, and of those that cannot."""
    here = [
        name for name in SERVERS if all(importlib.util.find_spec(module) for module in NEEDED.get(name, ()))
    ]
    return here, [name for name in SERVERS if name not in here]


def main():
    def until_told():
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=until_told, daemon=True).start()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    name, *chunks = sys.argv[1:]
    if chunks:
        SERVERS[name]([PART] * int(chunks[0]), GAP)
    else:
        SERVERS[name]([chunk.data for chunk in ANSWER.chunks], 0.0)


if __name__ == "__main__":
    main()
