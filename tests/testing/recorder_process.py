"""Recorders in processes of their own, which tests may kill at any moment.

`Recorders` starts one interpreter, which forks a recorder for each task: that takes milliseconds, where an interpreter
takes a quarter of a second. A recorder tells through a pipe what its reader has, as soon as it has it: each byte is one
chunk. Run as a script this is that interpreter; what a recorder does is in `TASKS`.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

ROOT = Path(__file__).parents[2]
TAPS = ("transport", "adapter", "use_recording", "proxy")


class Recorders:
    """An interpreter that forks recorders. For one thread; `stop` ends it, and so does leaving its `with` block."""

    def __init__(self) -> None:
        own, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", __name__, str(its.fileno())],
                pass_fds=[its.fileno()],
                cwd=ROOT,
            )
        self._line = own
        self._line.settimeout(30)

    def start(self, task: str, **options: Any) -> Recorder:
        reader, writer = os.pipe()
        try:
            request = json.dumps({"task": task, "options": options}).encode()
            socket.send_fds(self._line, [request], [writer])
        finally:
            os.close(writer)
        return Recorder(self, json.loads(self._line.recv(1024)), reader)

    def ended(self, pid: int, *, kill: bool) -> int:
        """The exit status of a recorder, once it is gone: below 0 a signal."""
        self._line.send(json.dumps({"pid": pid, "kill": kill}).encode())
        status: int = json.loads(self._line.recv(1024))
        return status

    def stop(self) -> None:
        self._line.close()
        assert self._process.wait(30) == 0

    def __enter__(self) -> Recorders:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class Recorder:
    """A process that records; `told` is what came through its pipe so far."""

    def __init__(self, recorders: Recorders, pid: int, pipe: int) -> None:
        self.told = b""
        self._recorders = recorders
        self._pid = pid
        self._pipe = pipe

    def listen(self, seconds: float) -> bool:
        """Takes in what it tells for so long; false where it is gone before."""
        deadline = monotonic() + seconds
        while (left := deadline - monotonic()) > 0:
            if select.select([self._pipe], [], [], left)[0]:
                data = os.read(self._pipe, 65536)
                if not data:
                    return False
                self.told += data
        return True

    def kill(self) -> None:
        """SIGKILL; all that it told before it died is in `told` then."""
        status = self._recorders.ended(self._pid, kill=True)
        assert status in (-signal.SIGKILL, 0), f"a recorder has failed: {status}"
        self.listen(30)
        os.close(self._pipe)

    def finish(self) -> bytes:
        """What it told until it ended by itself, in good order."""
        assert not self.listen(60), "a recorder does not end"
        os.close(self._pipe)
        assert self._recorders.ended(self._pid, kill=False) == 0, self.told.decode()
        return self.told


def _stream(
    tell: Callable[[bytes], object], *, url: str, path: str, tap: str, authorization: str = ""
) -> None:
    """Reads one stream after another, through a tap."""
    with _reading(url, path, tap, authorization) as read:
        while True:
            for _ in read():
                tell(b".")


@contextmanager
def _reading(
    url: str, path: str, tap: str, authorization: str = ""
) -> Iterator[Callable[[], Iterator[bytes]]]:
    """What gives the chunks of a stream."""
    import requests

    from aivvm import RequestsTransport
    from aivvm.payload import build_request
    from aivvm.transport import Headers
    from aivvm_testing import RecordingProxy, RecordingTransport, use_recording
    from aivvm_testing.record.adapter import RecordingAdapter

    def ask(url: str) -> Iterator[bytes]:
        with session.post(f"{url}/api/chat", json={"messages": []}, stream=True, timeout=10) as answer:
            yield from answer.iter_content(None)

    headers = [("Authorization", authorization)] if authorization else []
    with requests.Session() as session:
        session.trust_env = False
        session.headers.update(headers)
        if tap == "transport":
            with RequestsTransport() as network, RecordingTransport(network, path) as recording:
                request = build_request("gpt-4", [], url=url)
                request = request._replace(headers=Headers([*request.headers, *headers]))
                yield lambda: iter(recording.send(request, timeout=10))
        elif tap == "adapter":
            with RecordingAdapter(path) as adapter:
                session.mount("http://", adapter)
                yield lambda: ask(url)
        elif tap == "use_recording":
            with use_recording(path, "all", must_be_asked=False):
                yield lambda: ask(url)
        else:
            with RecordingProxy(url, path) as proxy:
                yield lambda: ask(proxy.url)


def _ask(tell: Callable[[bytes], object], *, url: str, path: str, texts: list[str]) -> None:
    """Asks for an echo of each of these texts, in one recording."""
    import requests

    from aivvm_testing import use_recording

    with use_recording(path, "rewrite"):
        for text in texts:
            body = {"model": "gpt-4", "messages": [{"role": "user", "content": text}]}
            assert requests.post(f"{url}/api/chat", json=body, timeout=10).text == text
            tell(b".")


def _fill(
    tell: Callable[[bytes], object], *, url: str, path: str, tap: str, room: int, at_the_end: bool
) -> None:
    """Reads one stream while files cannot grow beyond `room` bytes, or can only `at_the_end` not; tells each error."""

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if not at_the_end:
        limit(room)
    try:
        with _reading(url, path, tap) as read:
            for _ in read():
                tell(b".")
            limit(room)
    except OSError as error:
        tell(f"\n{error}".encode())
    limit(resource.RLIM_INFINITY)


def _refuse(tell: Callable[[bytes], object], *, folder: str, path: str, tap: str) -> None:
    """Records, as somebody who may not write there."""
    import aivvm_testing.record.proxy  # while everything can still be read
    import aivvm_testing.record.use  # noqa: F401  # likewise

    with _reading("http://127.0.0.1:9", os.path.join(folder, "first.jsonl"), tap):
        pass
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        with _reading("http://127.0.0.1:9", path, tap):
            tell(b"entered")
    except OSError as error:
        tell(f"{type(error).__name__}: {error}".encode())


TASKS: dict[str, Callable[..., None]] = {"stream": _stream, "ask": _ask, "fill": _fill, "refuse": _refuse}


def _serve(line: socket.socket) -> None:
    """Forks a recorder for each task, and says how each ended when asked."""
    import aivvm_testing.record.proxy
    import aivvm_testing.record.use  # noqa: F401  # so that no recorder has to import them

    while True:
        data, fds, _, _ = socket.recv_fds(line, 1 << 20, 1)
        if not data:
            return
        asked = json.loads(data)
        if "task" in asked:
            pid = os.fork()
            if not pid:
                line.close()
                _run(asked, fds[0])
            os.close(fds[0])
            line.send(json.dumps(pid).encode())
        else:
            if asked["kill"]:
                os.kill(asked["pid"], signal.SIGKILL)
            _, status = os.waitpid(asked["pid"], 0)
            line.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())


def _run(asked: dict[str, Any], pipe: int) -> None:
    status = 1
    try:
        TASKS[asked["task"]](lambda data: os.write(pipe, data), **asked["options"])
        status = 0
    except BaseException as error:
        os.write(pipe, f"\n{type(error).__name__}: {error}".encode())
    finally:
        os._exit(status)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as line:
        _serve(line)
