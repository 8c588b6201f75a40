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
from tests.benchmarks.table import interleaved, not_installed, render

MESSAGES = [{"role": "user", "content": "Hello, how are you?"}]
REPLY = Reply.text("Hello, мир. " * 5, chunk_size=8)
URL = "https://chat.aivvm.com/api/chat"
DOOR_1 = "aivvm, door 1 (payload and decoding too)"
DOOR_2 = "aivvm, door 2 (adapter, one Session)"
DOOR_3 = "aivvm, door 3 (in responses, one Session)"
DOOR_4 = "aivvm, door 4 (loopback server, as door 1)"
PEERS = ("responses", "requests_mock", "betamax", "vcr")
INTERCEPTED = "aivvm, interception: enter, call, exit"
MOCKED = "responses, RequestsMock: enter, call, exit"
ENTERED = "aivvm, interception: enter, exit"
ENTERED_MOCK = "responses, RequestsMock: enter, exit"


def report(*, quick: bool) -> str:
    rounds, turn = (2, 0.01) if quick else (25, 0.05)
    installed = [name for name in PEERS if importlib.util.find_spec(name)]
    contenders = {DOOR_1: _door_1, DOOR_2: _door_2, DOOR_3: _door_3, DOOR_4: _door_4}
    contenders |= {name: globals()[f"_{name}"] for name in installed}
    contenders |= {INTERCEPTED: _interception, MOCKED: _requests_mock_per_test}
    contenders |= {ENTERED: _entering, ENTERED_MOCK: _entering_a_requests_mock}
    seconds = interleaved(contenders, rounds=rounds, turn=turn)
    table = render("A. One mocked call", seconds, against="responses")
    table += f"\n  door 1 is {seconds['responses'] / seconds[DOOR_1]:.1f} x faster than responses"
    for ours, theirs in ((DOOR_2, "responses"), (INTERCEPTED, MOCKED), (ENTERED, ENTERED_MOCK)):
        table += f"\n  {ours} takes {seconds[ours] / seconds[theirs]:.2f} x {theirs}"
    missing = [name for name in PEERS if name not in installed]
    return table + not_installed(missing)


@contextmanager
def _door_1():
    fake = FakeAivvm()
    fake.reply(REPLY, forever=True)
    yield _ask(Aivvm(transport=fake.transport()), fake)


@contextmanager
def _door_2():
    fake = FakeAivvm()
    fake.reply(REPLY, forever=True)
    with requests.Session() as session:
        session.mount("https://", fake.adapter())
        yield _post(session, forget=fake.calls.clear)


@contextmanager
def _door_3():
    fake = FakeAivvm()
    fake.reply(REPLY, forever=True)
    with fake.responses() as mock, requests.Session() as session:

        def forget():
            fake.calls.clear()
            mock.calls.reset()
            for response in mock.registered():
                response.calls.reset()

        yield _post(session, forget=forget)


@contextmanager
def _door_4():
    fake = FakeAivvm()
    fake.reply(REPLY, forever=True)
    with fake.server() as server, RequestsTransport() as transport:
        yield _ask(Aivvm(transport=transport, url=server.url), fake)


def _ask(provider, fake):
    def call():
        fake.calls.clear()
        for _ in provider.create_completion("gpt-4", MESSAGES, stream=True):
            pass

    return call


def _post(client, url=URL, *, forget=lambda: None):
    """A call by a Session, or by `requests` itself; `forget` keeps the memory of a mock from growing."""
    request = build_request("gpt-4", MESSAGES)
    headers = dict(request.headers)

    def call():
        forget()
        with client.post(url, data=request.body, headers=headers, stream=True, timeout=5) as response:
            for _ in response.iter_content(4096):  # with None, betamax reads for ever
                pass

    return call


@contextmanager
def _interception():
    post = _post(requests)

    def test():
        fake = FakeAivvm()
        fake.reply(REPLY)
        with fake.intercepting_requests():
            post()

    yield test


@contextmanager
def _entering():
    fake = FakeAivvm()

    def test():
        with fake.intercepting_requests(must_be_asked=False):
            pass

    yield test


@contextmanager
def _entering_a_requests_mock():
    import responses

    def test():
        with responses.RequestsMock():
            pass

    yield test


@contextmanager
def _requests_mock_per_test():
    import responses

    post = _post(requests)

    def test():
        with responses.RequestsMock() as mock:
            mock.add(responses.POST, URL, body=REPLY.body)
            post()

    yield test


@contextmanager
def _responses():
    import responses

    with responses.RequestsMock() as mock, requests.Session() as session:
        answer = mock.add(responses.POST, URL, body=REPLY.body)

        def forget():
            mock.calls.reset()
            answer.calls.reset()

        yield _post(session, forget=forget)


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
