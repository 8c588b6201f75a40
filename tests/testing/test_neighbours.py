"""The plugin beside other plugins and tools, as a project has them: all in one session, each with what it is for.

Every session is a process of its own, as others change classes that this one keeps, with warnings as errors. A test is
skipped, and says so, where a tool that it needs is not installed.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from aivvm_testing import FakeAivvm, Recording, Reply
from aivvm_testing.adversity import Case

pytest_plugins = ["pytester"]

TOOLS = {
    "xdist": "pytest-xdist",
    "pytest_randomly": "pytest-randomly",
    "pytest_socket": "pytest-socket",
    "pytest_timeout": "pytest-timeout",
    "pytest_asyncio": "pytest-asyncio",
    "pytest_recording": "pytest-recording",
    "vcr": "vcrpy",
    "responses": "responses",
    "aiohttp": "aiohttp",
    "httpx": "httpx",
}

CLIENT = """
import requests

SERVICE = "https://chat.aivvm.com"
BODY = {"model": "gpt-4", "messages": [{"role": "user", "content": "Hello"}]}

def ask(url, said="Hello"):
    body = {"model": "gpt-4", "messages": [{"role": "user", "content": said}]}
    with requests.post(url + "/api/chat", json=body, stream=True, timeout=5) as answer:
        return b"".join(answer.iter_content(None)).decode()
"""

ORDER = """
import random
import pytest
from aivvm_testing import Reply
from client import SERVICE, ask

@pytest.fixture(scope="session")
def url(aivvm_session_server):
    return aivvm_session_server.url

@pytest.mark.parametrize("n", range(4))
def test_recorded(aivvm_recording, aivvm_upstream, n):
    assert ask(aivvm_upstream, f"number {n}") == f"number {n}"

@pytest.mark.parametrize("n", range(4))
def test_scripted(url, aivvm_session_fake, n):
    aivvm_session_fake.reply(f"mine {n}")
    assert ask(url) == f"mine {n}"
    assert len(aivvm_session_fake.calls) == 1

def test_echo(url):
    assert ask(url, "as it was before") == "as it was before"

@pytest.mark.aivvm_sweep(chunkings=["random:5"])
def test_random_chunks_are_those_of_their_own_seed(aivvm_case):
    assert [len(chunk.data) for chunk in aivvm_case(Reply.of("x" * 80)).chunks] == SIZES

def test_nobody_else_s_dice_are_thrown(fake_aivvm, aivvm_server):
    before = random.getstate()
    assert ask(aivvm_server.url) == "Hello"
    with fake_aivvm.intercepting_requests():
        assert ask(SERVICE) == "Hello"
    assert random.getstate() == before
"""

SOCKETS = """
from client import SERVICE, ask

def test_provider(fake_aivvm, aivvm_provider):
    fake_aivvm.reply("Hi")
    assert list(aivvm_provider.create_completion("gpt-4", [])) == ["Hi"]

def test_intercepting(fake_aivvm):
    fake_aivvm.reply("Hi")
    with fake_aivvm.intercepting_requests():
        assert ask(SERVICE) == "Hi"

def test_recording(aivvm_recording, aivvm_upstream):
    assert ask(aivvm_upstream, "ours") == "ours"

def test_server(fake_aivvm, aivvm_server):
    fake_aivvm.reply("Hi")
    assert ask(aivvm_server.url) == "Hi"
"""

ASYNC = """
import asyncio
import aiohttp, httpx, pytest
from aivvm_testing import FakeAivvm, Reply, wait
from client import BODY, SERVICE, ask

pytestmark = pytest.mark.asyncio

async def test_what_is_asked_in_threads(fake_aivvm):
    fake_aivvm.reply("one").reply("one")
    with fake_aivvm.intercepting_requests():
        answers = await asyncio.gather(*[asyncio.to_thread(ask, SERVICE) for _ in range(2)])
    assert answers == ["one", "one"]

async def test_each_task_has_its_own_fake():
    async def answered(text):
        fake = FakeAivvm()
        fake.reply(text)
        with fake.intercepting_requests():
            await asyncio.sleep(0)
            return await asyncio.to_thread(ask, SERVICE)

    assert await asyncio.gather(answered("a"), answered("b")) == ["a", "b"]

async def test_recording(aivvm_recording, aivvm_upstream):
    assert await asyncio.to_thread(ask, aivvm_upstream, "said") == "said"

@pytest.mark.aivvm_sweep(chunkings=["1", "7"])
async def test_httpx(fake_aivvm, aivvm_server):
    fake_aivvm.reply("Привет")
    async with httpx.AsyncClient() as client:
        assert (await client.post(aivvm_server.url + "/api/chat", json=BODY)).text == "Привет"

async def test_aiohttp(fake_aivvm, aivvm_server):
    fake_aivvm.reply(Reply.of("Hel", wait(0.01), "lo"))
    async with aiohttp.ClientSession() as client:
        async with client.post(aivvm_server.url + "/api/chat", json=BODY) as answer:
            assert [data async for data, _ in answer.content.iter_chunks()] == [b"Hel", b"lo"]

async def test_a_server_of_the_loop():
    async with FakeAivvm().server() as server, httpx.AsyncClient() as client:
        assert (await client.post(server.url + "/api/chat", json=BODY)).text == "Hello"
"""

CASSETTES = """
import pytest
from client import ask

@pytest.mark.vcr
def test_cassette(aivvm_upstream, vcr):
    assert ask(aivvm_upstream, "theirs") == "theirs"
    assert len(vcr) == 1

def test_recording(aivvm_recording, aivvm_upstream):
    assert ask(aivvm_upstream, "ours") == "ours"

@pytest.mark.vcr
@pytest.mark.aivvm_recording(allow=["localhost"])
def test_each_for_a_host_of_its_own(aivvm_recording, aivvm_upstream, vcr):
    assert ask(aivvm_upstream, "ours") == "ours"
    assert ask(aivvm_upstream.replace("127.0.0.1", "localhost"), "theirs") == "theirs"
    assert "localhost" in vcr.requests[-1].uri
"""

RESPONSES = """
import pytest, requests, responses
from aivvm_testing import Reply, ReplyResponse, wait
from client import SERVICE, ask

@responses.activate
def test_activated():
    responses.post(SERVICE + "/api/chat", body="theirs")
    assert ask(SERVICE) == "theirs"

def test_recording(aivvm_recording, aivvm_upstream):
    assert ask(aivvm_upstream, "ours") == "ours"

@pytest.mark.aivvm_recording(allow=["example.org"])
@responses.activate
def test_each_for_a_host_of_its_own(aivvm_recording, aivvm_upstream):
    responses.get("https://example.org/", body="theirs")
    responses.add_passthru(aivvm_upstream)
    assert ask(aivvm_upstream, "ours") == "ours"
    assert requests.get("https://example.org/", timeout=5).text == "theirs"

@responses.activate
def test_the_later_one_answers(fake_aivvm):
    responses.post(SERVICE + "/api/chat", body="theirs")
    fake_aivvm.reply("ours")
    assert ask(SERVICE) == "theirs"
    with fake_aivvm.intercepting_requests():
        assert ask(SERVICE) == "ours"

@responses.activate
def test_a_stream_among_its_answers():
    responses.add(ReplyResponse("POST", SERVICE + "/api/chat", Reply.of("Hel", wait(0.5), "lo")))
    assert ask(SERVICE) == "Hello"

def test_a_fake_within(fake_aivvm):
    fake_aivvm.reply("Hello")
    with fake_aivvm.responses():
        assert ask(SERVICE) == "Hello"
"""


def needs(*modules):
    missing = [TOOLS[name] for name in modules if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture
def upstream():
    with FakeAivvm().server() as server:
        yield server


@pytest.fixture
def project(pytester, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AIVVM_")]:
        monkeypatch.delenv(name)
    pytester.makeini(
        """
        [pytest]
        addopts = --strict-markers --strict-config -p no:cacheprovider
        filterwarnings =
            error
            ignore:The configuration option .asyncio_default_fixture_loop_scope. is unset
        """
    )
    pytester.makepyfile(client=CLIENT)
    return pytester


@needs(*TOOLS)
def test_all_in_one_session_in_any_order_and_in_several_processes(project, upstream):
    sizes = [len(chunk.data) for chunk in Case("random:5")(Reply.of("x" * 80)).chunks]
    project.makepyfile(
        test_order=ORDER.replace("SIZES", str(sizes)),
        test_sockets=SOCKETS,
        test_async=ASYNC,
        test_cassettes=CASSETTES,
        test_responses=RESPONSES,
    )
    common = f"--aivvm-upstream={upstream.url}", "--allow-hosts=127.0.0.1,localhost", "--timeout=60"
    record = "--aivvm-record=once", "--record-mode=once"

    def run(*options):
        return project.runpytest_subprocess(*common, *options)

    run("-p", "randomly", "--randomly-seed=1", *record).assert_outcomes(passed=31)
    files = sorted((project.path / "recordings").rglob("*.jsonl"))
    assert len(files) == 10
    upstream.stop()

    result = run("-n", "2", "--dist", "loadfile", "--randomly-seed=2", "--aivvm-orphans=fail")
    result.assert_outcomes(passed=31)
    assert result.ret == 0

    orphan = files[0].with_name("test_gone.jsonl")
    orphan.write_bytes(files[0].read_bytes())
    result = run("-n", "2", "--dist", "worksteal", "--randomly-seed=3", "--aivvm-orphans=fail")
    result.assert_outcomes(passed=31)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["=* aivvm: recordings that no test uses =*", str(orphan), "=*"], consecutive=True
    )


@needs("pytest_socket")
def test_where_sockets_are_forbidden_only_a_server_fails(project, upstream):
    project.makepyfile(test_sockets=SOCKETS)
    record = f"--aivvm-upstream={upstream.url}", "--aivvm-record=once"
    project.runpytest_subprocess("--allow-hosts=127.0.0.1", *record).assert_outcomes(passed=4)
    result = project.runpytest_subprocess("--disable-socket")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["ERROR test_sockets.py::test_server - *A test tried to use socket.*"])


@needs("pytest_timeout")
def test_a_test_that_takes_too_long_is_stopped_and_leaves_nothing_behind(project, upstream):
    project.makepyfile(
        """
        import threading
        import pytest, requests
        from aivvm_testing import Reply, wait
        from client import SERVICE, ask

        @pytest.mark.timeout(0.3)
        def test_hangs_on_a_server(fake_aivvm, aivvm_server):
            fake_aivvm.reply(Reply.of("Hel", "lo").stall()).reply("never asked for")
            ask(aivvm_server.url)

        @pytest.mark.timeout(0.3)
        def test_hangs_in_a_recording(aivvm_recording, aivvm_upstream):
            assert ask(aivvm_upstream, "before it hung") == "before it hung"
            threading.Event().wait()

        def test_that_comes_then(fake_aivvm, aivvm_server):
            assert not hasattr(requests.adapters.HTTPAdapter.send, "_patch")
            assert len([one for one in threading.enumerate() if one.name.startswith("aivvm-")]) == 1
            fake_aivvm.reply("Hi")
            assert ask(aivvm_server.url) == "Hi"

        def test_virtual_time_is_nobody_s(fake_aivvm):
            fake_aivvm.reply(Reply.of(*[part for n in range(100) for part in (wait(4), f"{n} ")]))
            with fake_aivvm.intercepting_requests():
                assert ask(SERVICE).split() == [str(n) for n in range(100)]
        """
    )
    result = project.runpytest_subprocess(
        "-p", "no:randomly", "--timeout=30", "--aivvm-record=once", f"--aivvm-upstream={upstream.url}"
    )
    result.assert_outcomes(failed=2, passed=2)
    result.stdout.fnmatch_lines(
        [
            "E * Timeout (>0.3s) from pytest-timeout.",
            "*- aivvm -*",
            "POST http://127.0.0.1:*",
            "*+0.000  stall",
        ]
    )
    (path,) = (project.path / "recordings").rglob("*.jsonl")
    assert Recording.load(path)[0].reply.body == b"before it hung"


@needs("pytest_asyncio")
def test_what_fails_in_a_coroutine_is_told_as_elsewhere(project):
    project.makepyfile(
        test_mine="""
        import asyncio
        from hypothesis import Phase, given, settings
        from aivvm_testing import strategies
        from client import ask

        async def test_forgets_to_ask(fake_aivvm):
            fake_aivvm.reply("never")

        async def test_fails(fake_aivvm, aivvm_server):
            fake_aivvm.reply("Hello")
            assert await asyncio.to_thread(ask, aivvm_server.url) == "Bye"

        @settings(database=None, derandomize=True, deadline=None, phases=[Phase.generate, Phase.shrink])
        @given(stream=strategies.byte_streams())
        async def test_property(stream):
            await asyncio.sleep(0)
            for chunk in stream:
                chunk.decode()
        """
    )
    result = project.runpytest_subprocess(
        "--asyncio-mode=auto", "--aivvm-save-failures=found", "-p", "no:randomly"
    )
    result.assert_outcomes(passed=1, failed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*UnplayedReplies: 1 not played (0 requests came):*",
            "*- aivvm -*",
            "POST http://127.0.0.1:*",
            "again: python -m pytest test_mine.py::test_fails",
        ]
    )
    body = Recording.load(project.path / "found" / "test_mine.test_property.stream.jsonl")[0].reply.body
    assert body in {bytes([n]) for n in range(0x80, 0x100)}


@needs("vcr", "pytest_recording")
def test_a_cassette_and_a_recording_of_one_request(project, upstream):
    project.makepyfile(
        test_mine="""
        import pytest
        from client import ask

        @pytest.mark.vcr
        def test_both(aivvm_recording, aivvm_upstream, vcr):
            assert ask(aivvm_upstream, "one two") == "one two"
            print("the cassette played", vcr.play_count, "of", len(vcr))
        """
    )
    url = f"--aivvm-upstream={upstream.url}"
    path = project.path / "recordings" / "test_mine" / "test_both.jsonl"

    both = project.runpytest_subprocess("-s", url, "--aivvm-record=once", "--record-mode=once")
    both.assert_outcomes(passed=1)
    both.stdout.fnmatch_lines(["*the cassette played 0 of 1"])
    recorded = Recording.load(path)
    assert [chunk.data for chunk in recorded[0].reply.chunks] == [b"one", b" two"]

    replayed = project.runpytest_subprocess("-s", url, "--block-network")
    replayed.assert_outcomes(passed=1)
    replayed.stdout.fnmatch_lines(["*the cassette played 0 of 1"])

    from_the_cassette = project.runpytest_subprocess(url, "--aivvm-record=rewrite")
    from_the_cassette.assert_outcomes(passed=1, errors=1)
    from_the_cassette.stdout.fnmatch_lines(
        ["*SetupFailure: the answer to a POST to 127.0.0.1:* is not recorded*"]
    )
    assert Recording.load(path)
