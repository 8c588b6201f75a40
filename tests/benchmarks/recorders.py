"""Everything that records and replays here, ours and the peers that are installed, with one interface: `RECORDERS`.

Each records into a folder of its own and replays from it, with the defaults that its documentation shows first. What
reads is always a `Client`, so that contenders differ in the recorder and in nothing else. Peers are imported when they
are used.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import requests

from aivvm import RequestsTransport
from aivvm.transport import Headers, Request
from aivvm_testing import (
    FakeAivvm,
    RecordingAdapter,
    RecordingProxy,
    RecordingTransport,
    SystemClock,
    use_recording,
)

TAP_1 = "aivvm, tap 1 (RecordingTransport)"
TAP_2 = "aivvm, tap 2 (use_recording)"
TAP_2_ADAPTER = "aivvm, tap 2 (RecordingAdapter)"
TAP_3 = "aivvm, tap 3 (RecordingProxy)"
BARE = "no recorder"
BARE_TRANSPORT = "no recorder, a transport"
READ_SIZE = 4096
TIMEOUT = 60
MITMDUMP = "mitmdump"
LISTENS = re.compile(r"(?:listening at |running on http://)(127\.0\.0\.1:\d+)")


class Client:
    """Asks what is at `url`, by a Session, `requests` itself or a transport, and reads in pieces of up to `READ_SIZE`."""

    def __init__(self, url: str, by: Any) -> None:
        self.url = url
        self.by = by

    @contextmanager
    def reading(self, target: str, size: int | None = READ_SIZE, **sent: Any) -> Iterator[Iterator[bytes]]:
        """The pieces of the answer to a GET, or to a POST of `json`. `sent`: what `requests` takes, where it is that."""
        if hasattr(self.by, "request"):
            method = "POST" if "json" in sent else "GET"
            with self.by.request(method, self.url + target, stream=True, timeout=TIMEOUT, **sent) as response:
                response.raise_for_status()  # what a server says that has no answer
                yield response.iter_content(size)
        else:
            response = self.by.send(Request("GET", self.url + target, Headers()), timeout=TIMEOUT)
            try:
                yield response
            finally:
                response.close()

    def read(self, target: str, **sent: Any) -> bytes:
        """The whole answer."""
        with self.reading(target, **sent) as pieces:
            return b"".join(pieces)


Door = Callable[[str, str], AbstractContextManager[Client]]  # of a folder and the upstream's url


class Recorder(NamedTuple):
    """`as_recorded`: replays with the recorded times, in real time; `recover`: what to do after it was killed.

    `needs`: a module, or `MITMDUMP`, a program. `patience`: seconds; a truth about it that takes longer hangs. One takes up
    to two, and up to 18 starts of a process.
    """

    recording: Door
    replaying: Door
    needs: str = "aivvm_testing"
    as_recorded: Door | None = None
    recover: Callable[[str], object] | None = None
    patience: float = 5.0


def installed(names: list[str]) -> tuple[list[str], list[str]]:
    """Those of these recorders that can run here, and what those need that cannot."""
    here = [
        name
        for name in names
        if (_mitmdump() if (needs := RECORDERS[name].needs) == MITMDUMP else importlib.util.find_spec(needs))
    ]
    return here, sorted({RECORDERS[name].needs for name in names if name not in here})


def _file(folder: str) -> str:
    return os.path.join(folder, "session.jsonl")


@contextmanager
def bare(folder: str, url: str) -> Iterator[Client]:
    """A Session that nobody records."""
    with requests.Session() as session:
        yield Client(url, session)


@contextmanager
def bare_transport(folder: str, url: str) -> Iterator[Client]:
    with RequestsTransport() as transport:
        yield Client(url, transport)


@contextmanager
def _record_transport(folder: str, url: str) -> Iterator[Client]:
    with RequestsTransport() as network, RecordingTransport(network, _file(folder)) as tap:
        yield Client(url, tap)


@contextmanager
def _replay_transport(folder: str, url: str) -> Iterator[Client]:
    yield Client(url, FakeAivvm.replaying(_file(folder)).transport())


def _using(mode: str, **options: Any) -> Door:
    @contextmanager
    def door(folder: str, url: str) -> Iterator[Client]:
        with (
            use_recording(_file(folder), record_mode=mode, on_unplayed="ignore", **options),
            requests.Session() as session,
        ):
            yield Client(url, session)

    return door


@contextmanager
def _record_adapter(folder: str, url: str) -> Iterator[Client]:
    with requests.Session() as session:
        session.mount("http://", RecordingAdapter(_file(folder)))
        yield Client(url, session)


@contextmanager
def _replay_adapter(folder: str, url: str) -> Iterator[Client]:
    with requests.Session() as session:
        session.mount("http://", FakeAivvm.replaying(_file(folder)).adapter())
        yield Client(url, session)


@contextmanager
def _record_proxy(folder: str, url: str) -> Iterator[Client]:
    with RecordingProxy(url, _file(folder)) as proxy, requests.Session() as session:
        yield Client(proxy.url, session)


def _replay_server(speed: float) -> Door:
    @contextmanager
    def door(folder: str, url: str) -> Iterator[Client]:
        fake = FakeAivvm.replaying(_file(folder), speed=speed)
        with fake.server() as server, requests.Session() as session:
            yield Client(server.url, session)

    return door


def _recover(folder: str) -> None:
    from aivvm_testing.journal import recover

    recover(_file(folder))


def _vcr(serializer: str) -> tuple[Door, Door]:
    def door(mode: str) -> Door:
        @contextmanager
        def using(folder: str, url: str) -> Iterator[Client]:
            import vcr

            path = os.path.join(folder, f"session.{serializer}")
            with (
                vcr.use_cassette(path, serializer=serializer, record_mode=mode),
                requests.Session() as session,
            ):
                yield Client(url, session)

        return using

    return door("once"), door("none")


def _betamax(mode: str) -> Door:
    @contextmanager
    def using(folder: str, url: str) -> Iterator[Client]:
        import betamax

        with requests.Session() as session:
            recorder = betamax.Betamax(session, cassette_library_dir=folder)
            with recorder.use_cassette("session", record=mode):
                yield Client(url, session)

    return using


def _cassetter(mode: str) -> Door:
    @contextmanager
    def using(folder: str, url: str) -> Iterator[Client]:
        import cassetter

        path = os.path.join(folder, "session.yaml")
        with cassetter.use_cassette(path, record_mode=mode), requests.Session() as session:
            yield Client(url, session)

    return using


@contextmanager
def _record_responses(folder: str, url: str) -> Iterator[Client]:
    from responses._recorder import Recorder as ItsRecorder

    with ItsRecorder() as recorder, requests.Session() as session:
        try:
            yield Client(url, session)
        finally:
            recorder.dump_to_file(os.path.join(folder, "session.yaml"))


@contextmanager
def _replay_responses(folder: str, url: str) -> Iterator[Client]:
    import responses

    with responses.RequestsMock(assert_all_requests_are_fired=False) as mocked, requests.Session() as session:
        mocked._add_from_file(os.path.join(folder, "session.yaml"))
        yield Client(url, session)


@contextmanager
def _mocket(folder: str, url: str) -> Iterator[Client]:
    """What it has recorded in the folder, it replays; all else it asks for and records."""
    from mocket import Mocketizer

    with (
        Mocketizer(truesocket_recording_dir=folder, namespace="session"),
        requests.Session() as session,
    ):
        yield Client(url, session)


@contextmanager
def _replay_mocket(folder: str, url: str) -> Iterator[Client]:
    """Its strict mode refuses what is recorded, too, so the network is taken away where it would be asked."""
    unreachable = mock.patch("mocket.socket.true_gethostbyname", side_effect=OSError("there is no network"))
    with unreachable, _mocket(folder, url) as client:
        yield client


def _started(command: Callable[[str, str], list[str]], path: str = "") -> Door:
    """A proxy in a process of its own, which says where it listens, and is asked (SIGTERM) to end."""

    @contextmanager
    def door(folder: str, url: str) -> Iterator[Client]:
        with subprocess.Popen(
            command(folder, url), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None  # what it says later is little, and fits into the pipe
            try:
                if not (found := next(filter(None, map(LISTENS.search, process.stdout)), None)):
                    raise ChildProcessError(f"{process.args} did not say where it listens")
                with requests.Session() as session:
                    yield Client(f"http://{found[1]}{path}", session)
            finally:
                process.terminate()

    return door


def _mitmdump() -> str | None:
    """The program, of this interpreter or on the PATH."""
    return shutil.which(MITMDUMP, path=os.path.dirname(sys.executable)) or shutil.which(MITMDUMP)


def _mitmproxy(*options: str) -> Door:
    """`options`: the last takes the file. Keys that it makes are in the folder, too, and not in the user's."""

    def command(folder: str, url: str) -> list[str]:
        listens = ["--mode", f"reverse:{url}", "--listen-host", "127.0.0.1", "--listen-port", "0"]
        keys = ["--set", f"confdir={os.path.join(folder, 'keys')}"]
        return [_mitmdump() or MITMDUMP, *listens, *keys, *options, os.path.join(folder, "session")]

    return _started(command)


def _replay_mitmproxy(folder: str, url: str) -> AbstractContextManager[Client]:
    """What it has not, it asks for, and its option against that holds only until its last answer, so the network is taken
    away: the upstream is a port where nobody listens, which it neither compares nor connects to before it must.
    """
    offline = ["--set", "server_replay_ignore_port=true", "--set", "connection_strategy=lazy"]
    return _mitmproxy(*offline, "--server-replay")(folder, "http://127.0.0.1:1")


def _reel(mode: str) -> Door:
    def command(folder: str, url: str) -> list[str]:
        path = os.path.join(folder, "session.jsonl")
        return [sys.executable, "-m", "reel.cli.main", mode, "-c", path, "--port", "0", "--upstream", url]

    return _started(command, "/openai")


RECORDERS = {
    TAP_1: Recorder(_record_transport, _replay_transport, recover=_recover),
    TAP_2: Recorder(
        _using("rewrite"),
        _using("none"),
        as_recorded=_using("none", speed=1, clock=SystemClock()),
        recover=_recover,
    ),
    TAP_2_ADAPTER: Recorder(_record_adapter, _replay_adapter, recover=_recover),
    TAP_3: Recorder(_record_proxy, _replay_server(0), as_recorded=_replay_server(1), recover=_recover),
    "vcrpy, YAML": Recorder(*_vcr("yaml"), needs="vcr"),
    "vcrpy, JSON": Recorder(*_vcr("json"), needs="vcr"),
    "betamax": Recorder(_betamax("once"), _betamax("none"), needs="betamax"),
    "responses' recorder": Recorder(_record_responses, _replay_responses, needs="responses"),
    "mocket": Recorder(_mocket, _replay_mocket, needs="mocket"),
    "cassetter": Recorder(_cassetter("once"), _cassetter("none"), needs="cassetter"),
    "mitmproxy": Recorder(_mitmproxy("-w"), _replay_mitmproxy, needs=MITMDUMP, patience=60.0),
    "reel-vcr": Recorder(
        _reel("auto"), _reel("replay"), needs="reel", as_recorded=_reel("replay"), patience=60.0
    ),
}
