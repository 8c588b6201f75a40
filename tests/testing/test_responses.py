"""Door 3: a fake, or a single reply, among the answers of `responses`, which counts and checks as its users expect."""

from __future__ import annotations

import copy
import gc
import re
import subprocess
import sys
import time

import pytest
import requests
import responses
from hypothesis import given
from requests.adapters import HTTPAdapter
from responses import matchers
from responses.registries import OrderedRegistry
from urllib3.util import Retry

from aivvm import Aivvm
from aivvm_testing import strategies
from aivvm_testing.clock import SystemClock, VirtualClock
from aivvm_testing.errors import ReadPastRecording, SetupFailure, UnmatchedRequest, UnplayedReplies, WouldHang
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.replay.responses import ReplyResponse
from aivvm_testing.reply import Chunk, Ending, Head, Reply, wait

URL = "https://chat.aivvm.com/api/chat"
CHAT = {"model": {"id": "gpt-4"}, "messages": [{"role": "user", "content": "Hello, big world"}]}


@pytest.fixture(autouse=True)
def _nothing_is_left():
    original = HTTPAdapter.send
    yield
    assert HTTPAdapter.send is original
    gc.collect()  # what is left open would warn, and warnings are errors


@pytest.fixture
def fake():
    return FakeAivvm()


def ask(url=URL, **options):
    return requests.post(url, json=CHAT, **{"stream": True, **options})


def played(size=None, url=URL, **options):
    """The chunks that a plain client gets, and the class of the error that stopped it or None."""
    chunks = []
    try:
        with ask(url, **options) as response:
            for chunk in response.iter_content(size):
                chunks.append(chunk)
    except (requests.RequestException, SetupFailure) as error:
        return chunks, type(error)
    return chunks, None


# A fake in a RequestsMock


def test_the_fake_answers_for_its_hosts_and_calls_are_counted(fake):
    with fake.responses() as rsps:
        assert [played(), played()] == [([b"Hello,", b" big", b" world"], None)] * 2
        assert requests.post("https://chat.aivvm.com/api/models", json={}).json()[0]["id"]
        assert len(rsps.calls) == 3
        assert rsps.calls[0].request.url == URL
        assert rsps.calls[0].response.status_code == 200
        assert rsps.assert_call_count(URL, 2)
        assert rsps.registered()[0].call_count == 3
    assert [call.outcome for call in fake.calls] == ["played"] * 3


@given(strategies.replies(with_head=True, endings=["complete", "cut", "reset"]))
def test_it_is_the_same_as_through_the_adapter(reply):
    fake = FakeAivvm()
    fake.on(lambda request: True).reply(reply, forever=True)
    for size in (None, 4096):
        with fake.responses():
            among_responses = played(size, timeout=99, allow_redirects=False)
        with fake.intercepting_requests():
            assert among_responses == played(size, timeout=99, allow_redirects=False)


def test_timeouts_of_minutes_take_milliseconds(fake):
    fake.reply(Reply.no_answer("unreachable", at=900)).reply(Reply.no_answer("stall"))
    fake.reply(Reply.of("a", "b").stall(after=1)).reply(Reply.of("a", wait(90), "b"))
    begun = time.monotonic()
    with fake.responses() as rsps:
        assert played(timeout=(300, 600)) == ([], requests.exceptions.ConnectTimeout)
        assert played(timeout=(300, 600)) == ([], requests.exceptions.ReadTimeout)
        assert played(timeout=1200) == ([b"a"], requests.exceptions.ConnectionError)
        assert played(timeout=91) == ([b"a", b"b"], None)
        assert isinstance(rsps.calls[0].response, requests.exceptions.ConnectTimeout)
        assert len(rsps.calls) == 4
    assert [call.lasted for call in fake.calls] == [300, 600, 1200, 90]
    assert time.monotonic() - begun < 5


def test_a_provider_streams_through_it(fake):
    fake.reply(Reply.of("caf", b"\xc3", b"\xa9"))
    with fake.responses():
        assert list(Aivvm.create_completion("gpt-4", [{"role": "user", "content": "x"}])) == ["caf", "é"]


def test_a_fake_that_is_not_asked_was_not_fired(fake):
    with (
        pytest.raises(AssertionError, match=r"Not all requests have been executed.*chat\\\\.aivvm\\\\.com"),
        fake.responses(),
    ):
        pass
    with fake.responses(assert_all_requests_are_fired=False):
        pass


def test_leaving_asks_whether_the_fake_was_asked_and_the_fake_whether_all_was_played(fake):
    fake.reply("a", times=2)
    with fake.responses():
        assert ask().text == "a"
    with fake.responses():
        fake.reply("b")
        assert ask().text == "a"
    with pytest.raises(UnplayedReplies, match="1 not played"), fake, fake.responses():
        ask("https://chat.aivvm.com/api/models")


def test_what_is_registered_beside_it_is_answered_as_ever(fake):
    fake.reply("from the fake", times=3)
    with fake.responses() as rsps:
        rsps.get("https://other.example/", body="other")
        rsps.post("https://chat.aivvm.com/api/models", body="models")
        rsps.post(URL, body="only when asked so", match=[matchers.header_matcher({"X": "1"})])
        for _ in range(2):
            assert ask().text == "from the fake"
            assert ask("https://chat.aivvm.com/api/models").text == "models"
            assert requests.get("https://other.example/").text == "other"
            assert ask(headers={"X": "1"}).text == "only when asked so"
        rsps.post(URL, body="added later")
        assert ask().text == "added later"
        rsps.remove(responses.POST, URL)
        assert ask().text == "from the fake"


def test_what_nobody_answers_is_still_refused_by_responses(fake):
    with fake.responses("a.example", "b.example:8080", assert_all_requests_are_fired=False) as rsps:
        for url in (URL, "https://b.example/"):
            with pytest.raises(requests.ConnectionError, match="Connection refused by Responses") as caught:
                ask(url)
            assert "- ANY " in str(caught.value)
            assert "the fake does not answer for this host" in str(caught.value)
        assert ask("http://B.example:8080/api/chat").text == "Hello, big world"
        rsps.add_passthru("https://c.example")
        with FakeAivvm().server() as server:
            rsps.add_passthru(server.url)
            assert ask(f"{server.url}/api/chat").text == "Hello, big world"
    assert len(fake.calls) == 1


def test_retries_by_status_are_those_of_responses(fake):
    fake.reply(Reply.error(503), times=2).reply("at last")
    retry = Retry(total=5, backoff_factor=0, allowed_methods=None, status_forcelist=[503])
    with fake.responses() as rsps, requests.Session() as session:
        session.mount("https://", HTTPAdapter(max_retries=retry))
        assert session.post(URL, json=CHAT).text == "at last"
        assert len(rsps.calls) == 3


def test_redirects_cookies_and_bodies_go_the_whole_way(fake, tmp_path):
    redirect = Reply.of(status=307, headers={"Location": "/there", "Set-Cookie": "one=1"})
    fake.on(path="/here").reply(redirect)
    fake.on(path="/there").reply("a", times=2)
    file = tmp_path / "body"
    file.write_bytes(b"from a file")
    with fake.responses(), requests.Session() as session, file.open("rb") as stream:
        assert session.post("https://chat.aivvm.com/here", data=b"x").text == "a"
        assert session.cookies.get_dict() == {"one": "1"}
        assert session.post("https://chat.aivvm.com/there", data=stream).text == "a"
    assert [request.body for request in fake.requests] == [b"x", b"x", b"from a file"]
    assert fake.requests[1].headers.get("cookie") == "one=1"


FAILING = {
    UnmatchedRequest: (),
    ReadPastRecording: (Reply(Head(), (Chunk(b"a"),), Ending("closed")),),
    WouldHang: (Reply.of("a").stall(),),
}


@pytest.mark.parametrize("kind", FAILING)
def test_leaving_raises_what_the_code_has_swallowed(fake, kind):
    fake.reply("first")
    for reply in FAILING[kind]:
        fake.reply(reply)
    rsps = fake.responses()
    rsps.__enter__()
    assert ask().text == "first"
    assert played()[1] is kind
    with pytest.raises(kind):
        rsps.__exit__(None, None, None)
    fake.reply("fine again")
    with fake.responses():
        assert ask().text == "fine again"


def test_stopping_raises_it_too_and_once(fake):
    fake.reply(Reply.of("a").stall())
    rsps = fake.responses()
    rsps.start()
    assert played() == ([b"a"], WouldHang)
    with pytest.raises(WouldHang):
        rsps.stop()
    rsps.stop()
    rsps.start()
    fake.reply("b")
    response = ask()
    assert response.text == "b"
    assert response.raw._pool.pool.qsize() == 10
    rsps.stop()
    assert response.raw._pool.pool is None


def test_leaving_adds_no_failure_to_an_error_that_is_on_its_way(fake):
    fake.reply(Reply.of("a").stall())
    rsps = fake.responses()
    rsps.__enter__()
    assert played() == ([b"a"], WouldHang)
    rsps.__exit__(KeyError, KeyError(), None)


def test_a_failure_says_more_than_that_not_all_was_fired(fake):
    fake.on(path="/x").reply("a")
    rsps = fake.responses()
    rsps.__enter__()
    rsps.get("https://other.example/", body="never asked for")
    assert played() == ([], UnmatchedRequest)
    with pytest.raises(UnmatchedRequest):
        rsps.__exit__(None, None, None)


def test_it_works_inside_another_requests_mock_and_within_an_interception(fake):
    with responses.RequestsMock() as outer, FakeAivvm().intercepting_requests(must_be_asked=False):
        outer.get("https://other.example/", body="outer")
        with fake.responses():
            assert ask().text == "Hello, big world"
        with FakeAivvm().intercepting_requests(allow=["other.example"], must_be_asked=False):
            assert requests.get("https://other.example/").text == "outer"


@pytest.mark.parametrize("host", ["https://chat.aivvm.com", ""])
def test_what_is_no_host_is_refused(fake, host):
    with pytest.raises(ValueError, match="hosts takes hosts as"):
        fake.responses(host)


# A reply in a RequestsMock


def test_a_reply_keeps_its_chunks_and_its_ending():
    with responses.RequestsMock() as rsps:
        added = rsps.add(ReplyResponse("POST", URL, Reply.of("a", "b").cut()))
        for size in (None, 1, 4096):
            assert played(size) == ([b"a", b"b"], requests.exceptions.ChunkedEncodingError)
        assert rsps.calls[0].response.status_code == 200
        assert (added.call_count, len(rsps.calls)) == (3, 3)


def test_of_several_each_is_given_once_and_the_last_again_and_again():
    with responses.RequestsMock() as rsps:
        for text in "abc":
            rsps.add(ReplyResponse("POST", URL, Reply.of(text)))
        rsps.post("https://chat.aivvm.com/other", body="other")
        assert [ask().text for _ in range(5)] == ["a", "b", "c", "c", "c"]
        assert ask("https://chat.aivvm.com/other").text == "other"


def test_a_reply_knows_how_much_of_it_was_taken():
    with responses.RequestsMock() as rsps:
        added = rsps.add(ReplyResponse("POST", URL, Reply.of("a", "bc", "d")))
        with ask() as response:
            chunks = response.iter_content(None)
            assert [next(chunks), next(chunks)] == [b"a", b"bc"]
        ask().close()
        assert len(added.calls) == 2
    assert [(call.chunks_taken, call.bytes_taken) for call in added.fake.calls] == [(2, 3), (0, 0)]
    assert all([call.closed for call in added.fake.calls])
    assert added.fake.requests[0].json() == CHAT


def test_a_reply_may_be_registered_twice():
    reply = ReplyResponse("POST", URL, Reply.of("a"), clock=VirtualClock())
    with responses.RequestsMock() as rsps:
        assert rsps.add(reply) is reply
        again = rsps.add(reply)
        assert again is not reply
        assert (again, again.reply) == (reply, reply.reply)
        assert [ask().text, ask().text] == ["a", "a"]
        assert (reply.call_count, again.call_count) == (1, 1)
    assert copy.deepcopy(reply).reply == reply.reply


def test_replies_are_replaced_removed_and_upserted():
    with responses.RequestsMock() as rsps:
        rsps.upsert(ReplyResponse("POST", URL, Reply.of("a")))
        assert ask().text == "a"
        rsps.replace(ReplyResponse("POST", URL, Reply.of("b")))
        assert ask().text == "b"
        rsps.upsert(responses.POST, URL, body="c")
        assert ask().text == "c"
        rsps.upsert(ReplyResponse("POST", URL, Reply.of("d")))
        assert ask().text == "d"
        assert len(rsps.registered()) == 1
        assert rsps.remove(responses.POST, URL)
        with pytest.raises(requests.ConnectionError, match="Connection refused by Responses"):
            ask()
        with pytest.raises(ValueError, match="not registered"):
            rsps.replace(ReplyResponse("POST", URL, Reply.of("e")))


def test_an_unasked_reply_was_not_fired():
    with (
        pytest.raises(AssertionError, match="Not all requests have been executed"),
        responses.RequestsMock() as rsps,
    ):
        rsps.add(ReplyResponse("POST", URL, Reply.of("a")))


def test_matchers_and_patterns_choose_among_replies():
    with responses.RequestsMock() as rsps:
        rsps.add(ReplyResponse("POST", URL, Reply.of("one"), match=[matchers.header_matcher({"X": "1"})]))
        rsps.add(ReplyResponse("POST", re.compile(r"https://.*/api/chat$"), Reply.of("two")))
        assert ask().text == "two"
        assert ask(headers={"X": "1"}).text == "one"


def test_an_ordered_registry_takes_replies():
    with responses.RequestsMock(registry=OrderedRegistry) as rsps:
        rsps.add(ReplyResponse("POST", URL, Reply.of("a").cut()))
        rsps.post(URL, body="b")
        assert played() == ([b"a"], requests.exceptions.ChunkedEncodingError)
        assert ask().text == "b"


@responses.activate
def test_the_decorator_takes_replies():
    responses.add(ReplyResponse("POST", URL, Reply.of("a", wait(60), "b").cut()))
    assert played(timeout=61) == ([b"a", b"b"], requests.exceptions.ChunkedEncodingError)
    assert played(timeout=59) == ([b"a"], requests.exceptions.ConnectionError)
    responses.assert_call_count(URL, 2)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("refused", requests.exceptions.ConnectionError),
        ("unresolved", requests.exceptions.ConnectionError),
        ("tls", requests.exceptions.SSLError),
        ("unreachable", requests.exceptions.ConnectTimeout),
        ("cut", requests.exceptions.ConnectionError),
        ("reset", requests.exceptions.ConnectionError),
        ("stall", requests.exceptions.ReadTimeout),
        ("closed", ReadPastRecording),
    ],
)
def test_no_answer_is_the_error_that_requests_would_raise(kind, error):
    with responses.RequestsMock() as rsps:
        rsps.add(ReplyResponse("POST", URL, Reply.no_answer(kind)))
        assert played(timeout=60) == ([], error)
        assert type(rsps.calls[0].response) is error


def test_a_reply_is_waited_for_with_the_clock_it_is_given():
    clock = VirtualClock()
    with responses.RequestsMock() as rsps:
        rsps.add(ReplyResponse("POST", URL, Reply.of("a", wait(90), "b"), clock=clock))
        rsps.add(ReplyResponse("POST", URL, Reply.of("a", wait(0.01), "b"), clock=SystemClock()))
        assert played() == ([b"a", b"b"], None)
        assert clock.furthest == 90
        begun = time.monotonic()
        assert played() == ([b"a", b"b"], None)
        assert time.monotonic() - begun >= 0.01


def test_a_reply_says_what_it_is():
    reply = ReplyResponse("POST", URL, Reply.of("a", "b").cut())
    assert repr(reply) == f"<ReplyResponse(POST {URL} -> Reply.of('a', 'b').cut())>"


def test_what_is_no_reply_is_refused():
    with pytest.raises(TypeError, match=r"a reply is text, bytes or a Reply, but got 7"):
        ReplyResponse("POST", URL, 7)


def test_without_responses_it_says_what_to_install():
    code = """
import sys
sys.modules["responses"] = None
from aivvm_testing import FakeAivvm
try:
    FakeAivvm().responses()
except ModuleNotFoundError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (
        run.stdout == "this door needs responses, which the extra brings: pip install 'aivvm[testing]'\n"
    ), run.stderr
