"""Area A: one mocked call, a small JSON out and a streamed answer of ten small chunks back, read to its end."""

from __future__ import annotations

import importlib.util
import tempfile
from contextlib import contextmanager
from pathlib import Path

import requests

from aivvm import Aivvm
from aivvm.payload import build_request
from aivvm.requests_transport import RequestsTransport
from aivvm_testing import FakeAivvm, Reply
from tests.benchmarks.table import interleaved, render

MESSAGES = [{"role": "user", "content": "Hello, how are you?"}]
REPLY = Reply.text("Hello, мир. " * 5, chunk_size=8)
URL = "https://chat.aivvm.com/api/chat"
DOOR_1 = "aivvm, door 1 (payload and decoding too)"
DOOR_4 = "aivvm, door 4 (loopback server, the same)"
PEERS = ("responses", "requests_mock", "betamax", "vcr")


def report(*, quick: bool) -> str:
    rounds, turn = (2, 0.01) if quick else (25, 0.05)
    installed = [name for name in PEERS if importlib.util.find_spec(name)]
    contenders = {DOOR_1: _door_1, DOOR_4: _door_4} | {name: globals()[f"_{name}"] for name in installed}
    seconds = interleaved(contenders, rounds=rounds, turn=turn)
    table = render("A. One mocked call", seconds, against="responses")
    table += f"\n  door 1 is {seconds['responses'] / seconds[DOOR_1]:.1f} x faster than responses"
    missing = [name for name in PEERS if name not in installed]
    return table + (f"\n  not installed: {', '.join(missing)}" if missing else "")


@contextmanager
def _door_1():
    fake = FakeAivvm()
    fake.reply(REPLY, forever=True)
    yield _ask(Aivvm(transport=fake.transport()), fake)


@contextmanager
def _door_4():
    fake = FakeAivvm()
    fake.reply(REPLY, forever=True)
    with fake.server() as server, RequestsTransport() as transport:
        yield _ask(Aivvm(transport=transport, url=server.url), fake)


def _ask(provider, fake):
    def call():
        fake.requests.clear()
        for _ in provider.create_completion("gpt-4", MESSAGES, stream=True):
            pass

    return call


def _post(session, url=URL):
    request = build_request("gpt-4", MESSAGES)
    headers = dict(request.headers)

    def call():
        with session.post(url, data=request.body, headers=headers, stream=True, timeout=5) as response:
            for _ in response.iter_content(4096):  # with None, betamax reads for ever
                pass

    return call


@contextmanager
def _responses():
    import responses

    with responses.RequestsMock() as mock, requests.Session() as session:
        mock.add(responses.POST, URL, body=REPLY.body)
        post = _post(session)

        def call():
            mock.calls.reset()
            post()

        yield call


@contextmanager
def _requests_mock():
    import requests_mock

    adapter = requests_mock.Adapter()
    adapter.register_uri("POST", URL, content=REPLY.body)
    with requests.Session() as session:
        session.mount("https://", adapter)
        yield _post(session)


@contextmanager
def _betamax():
    import betamax

    with tempfile.TemporaryDirectory() as folder, requests.Session() as session, _recorded_from() as url:
        with betamax.Betamax(session, cassette_library_dir=folder).use_cassette("call", record="once"):
            _post(session, url)()
        player = betamax.Betamax(session, cassette_library_dir=folder)
        with player.use_cassette("call", record="none", allow_playback_repeats=True):
            yield _post(session, url)


@contextmanager
def _vcr():
    import vcr

    with tempfile.TemporaryDirectory() as folder, requests.Session() as session, _recorded_from() as url:
        path = str(Path(folder) / "call.yaml")
        with vcr.use_cassette(path):
            _post(session, url)()
        with vcr.use_cassette(path, record_mode="none", allow_playback_repeats=True):
            yield _post(session, url)


@contextmanager
def _recorded_from():
    """A server for the recorders to record from."""
    fake = FakeAivvm()
    fake.reply(REPLY)
    with fake.server() as server:
        yield f"{server.url}/api/chat"
