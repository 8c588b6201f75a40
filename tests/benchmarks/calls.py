"""Area A: one mocked call, a small JSON out and a streamed answer of ten small chunks back, read to its end."""

from __future__ import annotations

import contextlib
import importlib
import io
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests
from aivvm.requests_transport import RequestsTransport

from aivvm import Aivvm
from aivvm.payload import build_request
from aivvm_testing import FakeAivvm, Reply
from tests.benchmarks.table import interleaved, render

MESSAGES = [{"role": "user", "content": "Hello, how are you?"}]
REPLY = Reply.text("Hello, мир. " * 5, chunk_size=8)
URL = "https://chat.aivvm.com/api/chat"
PEERS = ("responses", "requests_mock", "betamax", "vcr")


def report(*, quick: bool) -> str:
    rounds, calls = (3, 5) if quick else (15, 60)
    with contextlib.ExitStack() as stack:
        contenders = {"aivvm, door 1 (provider, payload, decoding)": _door_1()}
        for name in PEERS:
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(name)
                contenders[name] = globals()[f"_{name}"](stack)
        contenders["aivvm, door 4 (loopback server)"] = _door_4(stack)
        missing = [name for name in PEERS if name not in contenders]
        seconds = interleaved(contenders, rounds=rounds, calls=calls)
    table = render("A. One mocked call", seconds, against="responses")
    ratio = seconds["responses"] / seconds["aivvm, door 1 (provider, payload, decoding)"]
    table += f"\n  door 1 is {ratio:.1f} x faster than responses"
    return table + (f"\n  not installed: {', '.join(missing)}" if missing else "")


def _door_1():
    fake = FakeAivvm()
    fake.reply(REPLY, forever=True)
    provider = Aivvm(transport=fake.transport())

    def call():
        fake.requests.clear()
        for _ in provider.create_completion("gpt-4", MESSAGES, stream=True):
            pass

    return call


def _door_4(stack):
    fake = FakeAivvm()
    fake.reply(REPLY, forever=True)
    server = stack.enter_context(fake.server())
    provider = Aivvm(transport=stack.enter_context(RequestsTransport()), url=server.url)

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
            for _ in response.iter_content(None):
                pass

    return call


def _responses(stack):
    import responses

    mock = stack.enter_context(responses.RequestsMock(assert_all_requests_are_fired=False))
    mock.add(responses.POST, URL, body=REPLY.body)
    post = _post(stack.enter_context(requests.Session()))

    def call():
        mock.calls.reset()
        post()

    return call


def _requests_mock(stack):
    import requests_mock

    session = stack.enter_context(requests.Session())
    adapter = requests_mock.Adapter()
    adapter.register_uri("POST", URL, content=REPLY.body)
    session.mount("https://", adapter)
    return _post(session)


def _loopback(stack):
    """A plain server for the recorders to record from."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(REPLY.body)))
            self.end_headers()
            self.wfile.write(REPLY.body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return f"http://127.0.0.1:{server.server_port}/api/chat"


def _betamax(stack):
    import betamax

    folder = stack.enter_context(tempfile.TemporaryDirectory())
    session = stack.enter_context(requests.Session())
    url = _loopback(stack)
    with betamax.Betamax(session, cassette_library_dir=folder).use_cassette("call", record="once"):
        _post(session, url)()
    stack.enter_context(
        betamax.Betamax(session, cassette_library_dir=folder).use_cassette(
            "call", record="none", allow_playback_repeats=True
        )
    )
    return _post(session, url)


def _vcr(stack):
    import vcr

    path = str(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "call.yaml")
    session = stack.enter_context(requests.Session())
    url = _loopback(stack)
    with contextlib.redirect_stderr(io.StringIO()), vcr.use_cassette(path):
        _post(session, url)()
    stack.enter_context(vcr.use_cassette(path, record_mode="none", allow_playback_repeats=True))
    return _post(session, url)
