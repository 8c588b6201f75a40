"""The clients of area D, in a process of their own: `python -m tests.benchmarks.load answers|streams PORT ...`.

`answers PORT CONNECTIONS SECONDS` asks again on each connection as soon as it is answered, and prints the answers per
second: for machines without wrk. `streams PORT COUNT CHUNKS PID` opens so many connections, asks on all of them at
once, reads the streams to their ends, and prints what came as one line of JSON, with what the server's process PID
needed for it. A gap is the time between two reads that brought something: chunks that come together count as one.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import socket
import sys
from array import array
from itertools import islice
from time import perf_counter

from tests.benchmarks.processes import cpu_seconds, resident

BODY = b'{"model": {"id": "gpt-4"}, "messages": [{"role": "user", "content": "Hello"}]}'
REQUEST = (
    b"POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    % len(BODY)
) + BODY
END = b"0\r\n\r\n"  # on its own, where a server writes each frame on its own
CONNECTING = 100  # at once; a backlog of 128 is usual
ASKING = 16  # at once; then it reads what has come
SILENCE = 30.0  # seconds of it, and the streams that are left are given up


def connected(port):
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


def answers(port, connections, seconds):
    """Answers per second. Who closes after each is connected to again."""
    poll = select.poll()
    socks, closing = {}, set()

    def ask():
        sock = connected(port)
        socks[sock.fileno()] = sock
        poll.register(sock, select.POLLIN)
        sock.send(REQUEST)

    for _ in range(connections):
        ask()
    begun, count = perf_counter(), 0
    while perf_counter() < begun + seconds:
        for fd, _ in poll.poll(1000):
            data = socks[fd].recv(65536)
            if b"Connection: close" in data:
                closing.add(fd)
            if data and not data.endswith(END):
                continue
            count += 1
            if data and fd not in closing:
                socks[fd].send(REQUEST)
            else:
                closing.discard(fd)
                poll.unregister(fd)
                socks.pop(fd).close()
                ask()
    took = perf_counter() - begun
    for sock in socks.values():
        sock.close()
    return count / took


def streams(port, count, chunks, pid):
    """All `count` of them: how many came whole, when, and what the server needed."""
    gc.disable()
    before, cpu = resident(pid), cpu_seconds(pid)
    socks = [connected(port) for _ in range(count)]
    top = max(sock.fileno() for sock in socks) + 1
    poll = select.epoll()
    for sock in socks:
        poll.register(sock, select.EPOLLIN)
    last, seen, begun = [0.0] * top, [0] * top, [False] * top
    firsts, gaps = array("d"), array("d")
    read, left, whole, memory = os.read, count, 0, 0
    to_ask = iter(socks)
    while left:
        for sock in (some := list(islice(to_ask, ASKING))):
            last[sock.fileno()] = perf_counter()
            sock.send(REQUEST)
        asking = bool(some)
        events = poll.poll(0 if asking else SILENCE)
        if not (events or asking):
            break
        for fd, _ in events:
            try:
                data = read(fd, 4096)
            except OSError:
                data = b""
            now = perf_counter()
            seen[fd] += data.count(b"~")
            over = not data or data.endswith(END)
            if data:
                (gaps if begun[fd] else firsts).append(now - last[fd])
                begun[fd] = True
                last[fd] = now
            if over:
                memory = memory or resident(pid)  # nearly all are still open
                poll.unregister(fd)
                left -= 1
                whole += seen[fd] == chunks
    found = {"whole": whole, "cpu": cpu_seconds(pid) - cpu, "memory": (memory - before) / count}
    for sock in socks:
        sock.close()
    return found | {"first": _percentiles(firsts), "gap": _percentiles(gaps)}


def _percentiles(values):
    ordered = sorted(values) or [float("nan")]
    return [ordered[int(len(ordered) * share)] for share in (0.5, 0.99)]


def main():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    kind, *figures = sys.argv[1:]
    if kind == "answers":
        print(answers(int(figures[0]), int(figures[1]), float(figures[2])))
    else:
        print(json.dumps(streams(*map(int, figures))))


if __name__ == "__main__":
    main()
