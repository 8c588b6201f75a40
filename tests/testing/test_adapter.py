"""Door 2: plain `requests` clients, unchanged, over a network in memory; one Session, or all of them."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import gzip
import inspect
import pickle
import re
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, nullcontext, suppress
from typing import ClassVar
from unittest import mock

import pytest
import requests
import responses
from hypothesis import given, settings
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth, HTTPDigestAuth
from urllib3.util import Retry

from aivvm import Aivvm
from aivvm.errors import Interrupted
from aivvm.requests_transport import RequestsTransport
from aivvm_testing import fixtures, strategies
from aivvm_testing.clock import SystemClock
from aivvm_testing.errors import ReadPastRecording, SetupFailure, UnmatchedRequest, WouldHang
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.record.adapter import RecordingAdapter
from aivvm_testing.recording import Recording
from aivvm_testing.replay import adapter as adapter_module
from aivvm_testing.reply import Chunk, Ending, Head, Reply, wait

URL = "https://chat.aivvm.com/api/chat"
CHAT = {"model": {"id": "gpt-4"}, "messages": [{"role": "user", "content": "Hello, big world"}]}


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """`requests` is as it was, and whatever was left open would warn, which is an error."""
    original, threads = methods(), threading.active_count()
    yield
    assert methods() == original
    assert threading.active_count() == threads
    gc.collect()


def methods(owner=HTTPAdapter):
    """What an interception replaces."""
    return vars(owner)["send"], vars(owner)["get_connection_with_tls_context"]


@pytest.fixture
def fake():
    return FakeAivvm()


@pytest.fixture
def session(fake):
    with requests.Session() as session:
        session.mount("https://", fake.adapter())
        session.mount("http://", fake.adapter())
        yield session


def anything(fake, *replies):
    """The fake answers any request with these, in order."""
    for reply in replies:
        fake.on(lambda request: True).reply(reply)
    return fake


def ask(client=requests, url=URL, **options):
    return client.post(url, json=CHAT, **{"stream": True, **options})


def played(client, size=None, url=URL, **options):
    """The chunks that a plain client gets, and the error that stopped it or None."""
    chunks = []
    try:
        with ask(client, url, **options) as response:
            for chunk in response.iter_content(size):
                chunks.append(chunk)
    except (requests.RequestException, SetupFailure) as error:
        return chunks, error
    return chunks, None


# Reading, as over a socket


STREAM = Reply.of("caf", b"\xc3", b"\xa9\n", "x" * 300_000, "\nend")


def test_chunks_are_chunks(fake, session):
    fake.reply(STREAM, times=3)
    assert played(session) == ([chunk.data for chunk in STREAM.chunks], None)
    assert played(session, 1) == ([bytes([byte]) for byte in STREAM.body], None)
    chunks, _ = played(session, 4096)
    assert chunks[:4] == [b"caf", b"\xc3", b"\xa9\n", b"x" * 4096]
    assert b"".join(chunks) == STREAM.body
    assert max(map(len, chunks)) == 4096


def test_every_other_way_to_read(fake, session):
    fake.reply(STREAM, times=7)
    assert list(ask(session).iter_lines()) == STREAM.body.split(b"\n")
    assert [len(piece) for piece in ask(session).raw.stream(10**6)] == [3, 1, 2, 300_000, 4]
    raw = ask(session).raw
    assert [raw.read1(), raw.read1()] == [b"caf", b"\xc3"]
    raw.close()
    assert ask(session).raw.read() == STREAM.body
    assert ask(session).content == STREAM.body
    response = ask(session)
    response.encoding = "utf-8"
    assert response.text == STREAM.body.decode()
    assert ask(session, stream=False).content == STREAM.body
    assert session.get("https://chat.aivvm.com/api/models").status_code == 500
    assert session.post("https://chat.aivvm.com/api/models", json={}).json()[0].keys() == {"id", "name"}


def test_a_recorded_stream_arrives_as_it_was_recorded(fake, session):
    reply = fixtures.load("split_emoji_4ways")[0].reply
    anything(fake, reply)
    assert played(session)[0] == [chunk.data for chunk in reply.chunks]


def test_content_codings_are_undone_by_urllib3(fake, session):
    packed = gzip.compress("Привет, мир".encode() * 100)
    fake.reply(Reply.of(packed, headers={"content-encoding": "gzip"}).rechunk(7), times=2)
    assert b"".join(played(session)[0]).decode() == "Привет, мир" * 100
    assert ask(session).raw.read() == packed


def test_head_and_204_have_no_body(fake, session):
    anything(fake, Reply.of("abc"), Reply.of("abc", status=204), "next")
    assert session.head(URL).content == b""
    assert (session.get(URL).content, session.get(URL).content) == (b"", b"next")


def test_status_reason_and_headers_arrive(fake, session):
    fake.reply(Reply.error(429, reason="Zu viel für heute", retry_after=7))
    response = ask(session)
    assert (response.status_code, response.reason) == (429, "Zu viel für heute")
    assert response.headers["Retry-After"] == "7"
    assert response.text == "Error"
    with pytest.raises(requests.HTTPError, match="429 Client Error"):
        response.raise_for_status()


# The request, as over a socket


def test_the_fake_gets_what_is_sent(fake, session):
    session.headers["X-Mine"] = "yes"
    ask(session, auth=HTTPBasicAuth("me", "secret"), params={"q": "ü"}).close()
    request = fake.requests[0]
    assert (request.method, request.url) == ("POST", URL + "?q=%C3%BC")
    assert request.json() == CHAT
    assert request.headers.get("host") == "chat.aivvm.com"
    assert request.headers.get("x-mine") == "yes"
    assert request.headers.get("authorization", "").startswith("Basic ")


def test_bodies_of_every_kind_arrive(fake, session, tmp_path):
    anything(fake, *"abcd")
    file = tmp_path / "body"
    file.write_bytes(b"from a file")
    assert session.post(URL, data=(part for part in (b"one", b"two"))).text == "a"
    with file.open("rb") as stream:
        assert session.post(URL, data=stream).text == "b"
    assert session.post(URL, data={"form": "field"}).text == "c"
    assert session.post(URL, data=b"x" * 1_000_000, headers={"Expect": "100-continue"}).text == "d"
    assert [request.body[:12] for request in fake.requests] == [
        b"onetwo",
        b"from a file",
        b"form=field",
        b"x" * 12,
    ]
    assert len(fake.requests[3].body) == 1_000_000


def test_a_proxy_in_the_environment_does_not_matter(fake, session, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy.invalid:3128")
    anything(fake, *"abcd")
    assert session.get(URL).text == "a"
    assert session.get("http://chat.aivvm.com/x").text == "b"
    with fake.intercepting_requests():
        assert requests.get("http://chat.aivvm.com/x").text == "c"
        assert (
            requests.get("https://chat.aivvm.com/x", proxies={"https": "socks5://proxy.invalid"}).text == "d"
        )
    assert {request.url for request in fake.requests} == {
        URL,
        "http://chat.aivvm.com/x",
        "https://chat.aivvm.com/x",
    }


# What `requests` and urllib3 do by themselves


def test_redirects_are_followed(fake, session):
    fake.reply("here")
    response = ask(session, URL + "/")
    assert (response.text, response.url) == ("here", URL)
    assert [one.status_code for one in response.history] == [308]
    anything(fake, Reply.of(status=302, headers={"Location": "/api/else?x=1"}), "there")
    response = session.post(URL, data=b"x")
    assert (response.text, response.url) == ("there", "https://chat.aivvm.com/api/else?x=1")
    assert fake.requests[-1].method == "GET"


def test_cookies_are_kept_and_sent(fake, session):
    anything(
        fake, Reply.of("a", headers=[("Set-Cookie", "one=1; Path=/"), ("Set-Cookie", "two=2; Path=/")]), *"bc"
    )
    assert session.get(URL).cookies.get_dict() == {"one": "1", "two": "2"}
    session.get(URL)
    assert fake.requests[1].headers.get("cookie") == "one=1; two=2"
    session.get("https://other.example/")
    assert fake.requests[2].headers.get("cookie") is None


def test_hooks_are_called(fake, session):
    seen = []
    session.hooks["response"].append(
        lambda response, **options: seen.append((response.text, options["timeout"]))
    )
    fake.reply("a")
    ask(session, timeout=3)
    assert seen == [("a", 3)]


def test_an_authentication_that_asks_again_goes_the_same_way(fake, session):
    challenge = Reply.of(
        "no", status=401, headers={"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}
    )
    anything(fake, challenge, "yes")
    assert session.get(URL, auth=HTTPDigestAuth("me", "secret")).text == "yes"
    anything(fake, challenge, "yes")
    with fake.intercepting_requests():
        assert requests.get(URL, auth=HTTPDigestAuth("me", "secret")).text == "yes"
    assert fake.requests[-1].headers.get("authorization", "").startswith("Digest ")


def retrying(**options):
    return Retry(backoff_factor=0, allowed_methods=None, **options)


def test_a_retry_by_status_is_the_sessions_own(fake):
    fake.reply(Reply.error(503), times=2).reply("at last").reply(Reply.error(503), times=3)
    adapter = fake.adapter(max_retries=retrying(total=2, status_forcelist=[503]))
    with requests.Session() as session:
        session.mount("https://", adapter)
        assert ask(session).text == "at last"
        with pytest.raises(requests.exceptions.RetryError, match="too many 503 error responses"):
            ask(session)


class Watched(Retry):
    slept: ClassVar[list[object]] = []

    def sleep(self, response=None):
        self.slept.append(self.get_backoff_time())


def hours(retries, **options):
    return retries(total=9, status_forcelist=[503], allowed_methods=None, backoff_factor=600, **options)


def test_backoff_takes_no_time_where_time_is_virtual(fake):
    fake.reply(Reply.error(503, retry_after=3600)).reply(Reply.error(503), times=2).reply("at last")
    begun = time.monotonic()
    with requests.Session() as session:
        session.mount("https://", fake.adapter(max_retries=hours(Retry)))
        response = session.post(URL, json=CHAT)
    assert time.monotonic() - begun < 60
    assert response.text == "at last"
    assert [one.status for one in response.raw.retries.history] == [503] * 3


def test_a_sleep_that_somebody_watches_is_slept(fake, monkeypatch):
    fake.reply(Reply.error(503), times=3).reply("at last").reply(Reply.error(503), times=2).reply("at last")
    slept = []
    with requests.Session() as session:
        session.mount("https://", fake.adapter(max_retries=hours(Watched)))
        assert session.post(URL, json=CHAT).text == "at last"
        monkeypatch.setattr(time, "sleep", slept.append)
        session.mount("https://", fake.adapter(max_retries=hours(Retry, backoff_max=900)))
        assert session.post(URL, json=CHAT).text == "at last"
    assert len(Watched.slept) == 3
    assert slept == [900]


def test_a_retry_by_failed_connections_is_the_sessions_own(fake):
    fake.reply(Reply.no_answer("refused"), times=3).reply("at last").reply(
        Reply.no_answer("refused"), times=4
    )
    with requests.Session() as session:
        session.mount("https://", fake.adapter(max_retries=retrying(connect=3, total=9)))
        assert ask(session).text == "at last"
        with pytest.raises(requests.exceptions.ConnectionError, match="Connection refused"):
            ask(session)
    assert len(fake.calls) == 8


def test_a_connection_is_kept(fake, session):
    fake.reply("a", times=3)
    for _ in range(3):
        assert ask(session).text == "a"
    pool = session.get_adapter(URL).get_connection_with_tls_context(
        requests.Request("GET", URL).prepare(), True
    )
    assert (pool.num_connections, pool.num_requests) == (1, 3)
    assert pool.pool.queue[-1].sock.is_idle


def pool_of(response):
    return response.raw._pool


def test_a_closed_session_can_be_used_again(fake, session):
    fake.reply("a", times=2)
    response = ask(session)
    assert response.text == "a"
    session.close()
    assert pool_of(response).pool is None
    assert ask(session).text == "a"


def test_there_is_no_certificate_to_verify(fake, session, tmp_path):
    missing = str(tmp_path / "missing.pem")
    assert ask(session, verify=missing, cert=missing).text == "Hello, big world"
    assert ask(session, verify=False).text == "Hello, big world"


def test_the_errors_name_urllib3s_own_classes(fake, session):
    anything(fake, Reply.no_answer("refused"), Reply.no_answer("stall"))
    with pytest.raises(requests.exceptions.ConnectionError) as refused:
        session.get(URL)
    text = str(refused.value)
    assert text.startswith(
        "HTTPSConnectionPool(host='chat.aivvm.com', port=443): Max retries exceeded with url: /api/chat"
    )
    assert "NewConnectionError" in text
    with pytest.raises(
        requests.exceptions.ReadTimeout, match=r"^HTTPSConnectionPool\(host='chat.aivvm.com', port=443\)"
    ):
        session.get(URL, timeout=1)


def test_a_copy_of_a_session_asks_the_same_fake_over_its_own_connections(fake):
    fake.reply(Reply.error(503)).reply("a").reply("b").reply("c")
    retries = retrying(total=1, status_forcelist=[503])
    with requests.Session() as session:
        session.mount("https://", fake.adapter(max_retries=retries))
        with copy.deepcopy(session) as other, closing(copy.copy(session.get_adapter(URL))) as third:
            assert ask(other).text == "a"
            assert ask(session).text == "b"
            assert type(other.get_adapter(URL)) is type(session.get_adapter(URL))
            assert third.send(requests.Request("POST", URL, json=CHAT).prepare()).text == "c"
            pools = [
                one.get_connection_with_tls_context(requests.Request("GET", URL).prepare(), True)
                for one in (other.get_adapter(URL), session.get_adapter(URL), third)
            ]
            assert len(set(map(id, pools))) == 3


def test_a_session_with_a_fake_cannot_be_pickled_and_says_what_to_do(session):
    with pytest.raises(TypeError, match=r"cannot be pickled.* mount another one .*fake\.server\(\)"):
        pickle.dumps(session)


# Time and endings


def test_timeouts_of_minutes_take_milliseconds(fake, session):
    fake.reply(Reply.no_answer("unreachable", at=900)).reply(Reply.no_answer("stall"))
    fake.reply(Reply.of("a", "b").stall(after=1)).reply(Reply.of(*"abcd").pace(59))
    begun = time.monotonic()
    with pytest.raises(requests.exceptions.ConnectTimeout, match=r"connect timeout=300"):
        ask(session, timeout=(300, 600))
    assert fake.clock.furthest == 300
    with pytest.raises(requests.exceptions.ReadTimeout, match=r"read timeout=600"):
        ask(session, timeout=(300, 600))
    assert fake.clock.furthest == 600
    chunks, error = played(session, timeout=1200)
    assert (chunks, type(error)) == ([b"a"], requests.exceptions.ConnectionError)
    assert "Read timed out" in str(error)
    assert fake.clock.furthest == 1200
    assert played(session, timeout=60) == ([b"a", b"b", b"c", b"d"], None)
    assert time.monotonic() - begun < 5
    assert [call.lasted for call in fake.calls] == [300, 600, 1200, 3 * 59]


def test_two_streams_read_in_turns_do_not_disturb_each_others_time(fake, session):
    fake.reply(Reply.of("a", "b").stall(after=1)).reply(Reply.of("c", wait(5), "d"))
    one, other = ask(session, timeout=60).iter_content(None), ask(session, timeout=10).iter_content(None)
    assert (next(one), next(other)) == (b"a", b"c")
    with pytest.raises(requests.exceptions.ConnectionError, match="Read timed out"):
        next(one)
    assert next(other) == b"d"


def test_two_streams_read_in_threads_do_not_disturb_each_others_time(fake):
    slow, fast = FakeAivvm(clock=fake.clock), fake
    slow.reply(Reply.of(*"abcdefgh").pace(50), forever=True)
    fast.reply(Reply.of(*"abcdefgh").pace(0.5), forever=True)
    got = []

    def read(fake, timeout):
        with requests.Session() as session:
            session.mount("https://", fake.adapter())
            got.extend(played(session, timeout=timeout) for _ in range(20))

    run_all([lambda: read(slow, 51), lambda: read(fast, 0.6)] * 3)
    assert got == [([letter.encode() for letter in "abcdefgh"], None)] * 120


def run_all(works):
    """Each in a thread of its own; the first error of any is raised."""
    errors = []

    def run(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    if errors:
        raise errors[0]


def test_the_systems_clock_waits_for_real():
    fake = FakeAivvm(clock=SystemClock())
    fake.reply(Reply.of("a", wait(0.01), "b")).reply(Reply.of("a").stall())
    with requests.Session() as session:
        session.mount("https://", fake.adapter())
        begun = time.monotonic()
        assert played(session) == ([b"a", b"b"], None)
        assert time.monotonic() - begun >= 0.01
        chunks, error = played(session, timeout=0.01)
        assert (chunks, type(error)) == ([b"a"], requests.exceptions.ConnectionError)


def test_a_reader_that_leaves_early_is_seen_to_leave(fake, session):
    fake.reply(Reply.of("one", "two", "three"))
    with ask(session) as response:
        chunks = response.iter_content(None)
        assert [next(chunks), next(chunks)] == [b"one", b"two"]
    assert (fake.calls[0].closed, fake.calls[0].chunks_taken) == (True, 2)


def test_failures_of_the_set_up_come_out_as_they_are(fake, session):
    closed = Reply(Head(), (Chunk(b"a"),), Ending("closed", at=2))
    fake.reply(closed).reply(Reply.of("a").stall())
    for kind in (ReadPastRecording, WouldHang):
        chunks, error = played(session)
        assert (chunks, type(error)) == ([b"a"], kind)
    with pytest.raises(UnmatchedRequest, match="The queue is empty: 2 of 2"):
        ask(session)
    with pytest.raises(ReadPastRecording):  # the first one is kept
        fake.assert_all_played()


# The same as a server


def shape(error):
    """The class of an error and its text, without what differs from one object to the next."""
    return error and (type(error), re.sub(r"0x[0-9a-f]+", "0x", str(error)))


def assert_equal_through_a_server(reply, timeout):
    """Chunks, error and head are the same through both doors."""
    fake = FakeAivvm()
    fake.on(lambda request: True).reply(reply, forever=True)
    with fake.server() as server, requests.Session() as real, requests.Session() as ours:
        real.trust_env = ours.trust_env = False
        ours.mount("http://", fake.adapter())
        for size in (None, 1, 4096):
            options = {"size": size, "url": server.url + "/x", "timeout": timeout, "allow_redirects": False}
            (theirs, stopped), (got, error) = played(real, **options), played(ours, **options)
            assert (got, shape(error)) == (theirs, shape(stopped))
        seen = [
            session.post(server.url, timeout=20, stream=True, allow_redirects=False)
            for session in (real, ours)
        ]
        # The fake's own Date is that of the second in which it answers.
        real_head, our_head = [
            (one.status_code, one.reason, [field for field in one.raw.headers.items() if field[0] != "Date"])
            for one in seen
        ]
        assert real_head == our_head
        for response in seen:
            response.close()


@settings(max_examples=60)
@given(strategies.replies(with_head=True, endings=["complete", "cut", "reset"]))
def test_a_client_cannot_tell_it_from_a_server(reply):
    assert_equal_through_a_server(reply.scale(0), 20)


def test_nor_can_a_client_that_waits_in_vain():
    # Apart from the others, as it takes real time: enough for a busy machine to send what comes before the silence.
    assert_equal_through_a_server(Reply.of("a", "b" * 5000, "c").stall(after=2), 0.25)


# Every Session


def test_an_interception_answers_code_that_makes_its_own_requests(fake):
    with fake.intercepting_requests() as entered:
        assert ask().text == "Hello, big world"
        with requests.Session() as session:
            assert list(ask(session).iter_content(None)) == [b"Hello,", b" big", b" world"]
    assert entered is fake
    assert len(fake.calls) == 2


def test_the_examples_of_the_specification_run_as_they_are(fake, capsys):
    fake.reply("I am fine.").reply("Привет")
    with fake.intercepting_requests():
        result = Aivvm.create_completion(model="gpt-3.5-turbo", messages=[{"role": "user", "content": "Hello, how are you?"}], stream=True)  # fmt: skip
        for chunk in result:
            print(chunk, end="")
        assert capsys.readouterr().out == "I am fine."
        result = Aivvm.create_completion(
            model="gpt-4",
            messages=[{"role": "user", "content": "Translate 'hello' to Russian."}],
            stream=True,
            system_message="You are a translator.",
            temperature=0.5,
        )
        assert "".join(result) == "Привет"
    asked = fake.requests[1].json()
    assert (asked["prompt"], asked["temperature"]) == ("You are a translator.", 0.5)


def test_a_provider_sees_the_endings_as_over_a_network(fake):
    fake.reply(Reply.of("a", "b").cut())
    with fake.intercepting_requests(), pytest.raises(Interrupted) as caught:
        list(Aivvm.create_completion("gpt-4", [{"role": "user", "content": "x"}]))
    assert (caught.value.kind, caught.value.text) == ("cut", "ab")


def test_the_users_adapter_stays_the_users(fake):
    class Adapter(HTTPAdapter):
        sent = 0

        def send(self, request, **options):
            self.sent += 1
            return super().send(request, **{**options, "timeout": options["timeout"] or 60})

        def add_headers(self, request, **options):
            request.headers["X-Added"] = "by the adapter"

        def build_response(self, request, response):
            built = super().build_response(request, response)
            built.mine = True
            return built

    fake.reply(Reply.error(503), times=2).reply(Reply.of("a").stall()).reply(
        Reply.no_answer("refused"), times=4
    )
    adapter = Adapter(max_retries=retrying(total=3, status_forcelist=[503]))
    with fake.intercepting_requests(), requests.Session() as session:
        session.mount("https://", adapter)
        response = ask(session)
        assert response.mine
        assert response.connection is adapter
        with pytest.raises(requests.exceptions.ConnectionError, match="Read timed out"):
            bytes(response.content)
        with pytest.raises(requests.exceptions.ConnectionError, match="refused"):
            ask(session)
    assert adapter.sent == 2
    assert fake.clock.furthest == 60
    assert {request.headers.get("x-added") for request in fake.requests} == {"by the adapter"}


def test_the_users_pool_is_as_large_and_as_strict_as_the_user_said(fake):
    with fake.intercepting_requests(), requests.Session() as session:
        session.mount("https://", HTTPAdapter(pool_maxsize=1, pool_block=True))
        held = ask(session)
        pool = session.get_adapter(URL).get_connection_with_tls_context(held.request, True)
        assert (pool.pool.maxsize, pool.block, pool.pool.qsize()) == (1, True, 0)
        assert held.text == ask(session).text
        assert pool.num_connections == 1


def test_adapters_that_are_not_https_own_are_left_alone(fake):
    class Other(requests.adapters.BaseAdapter):
        def send(self, request, **options):
            response = requests.Response()
            response.status_code = 299
            return response

        def close(self):
            pass

    with fake.intercepting_requests(must_be_asked=False), requests.Session() as session:
        session.mount("https://", Other())
        assert ask(session).status_code == 299


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        (["chat.aivvm.com"], URL),
        (["CHAT.Aivvm.com"], "https://chat.AIVVM.com:8443/api/chat"),
        (["chat.aivvm.com:443"], URL),
        (["chat.aivvm.com:80"], "http://chat.aivvm.com/api/chat"),
        (["chat.aivvm.com."], URL),
        (["*"], "http://whatever.example:1234/api/chat"),
        (["127.0.0.1:3000"], "http://127.0.0.1:3000/api/chat"),
        (["::1"], "http://[::1]:3000/api/chat"),
        (["[::1]:3000"], "http://[::1]:3000/api/chat"),
        (["bücher.example"], "https://bücher.example/api/chat"),
        (["chat.aivvm.com"], "https://user:password@chat.aivvm.com/api/chat"),
        (["*.aivvm.com"], URL),
        (["*.Aivvm.com."], "https://a.b.aivvm.com/api/chat"),
        (["*.bücher.example"], "https://neue.bücher.example/api/chat"),
        (["*.aivvm.com:8443"], "https://chat.aivvm.com:8443/api/chat"),
        (["*:8443"], "https://chat.aivvm.com:8443/api/chat"),
    ],
)
def test_a_host_is_meant_by_name_with_or_without_a_port(fake, hosts, url):
    with fake.intercepting_requests(*hosts):
        assert ask(url=url).text == "Hello, big world"


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        (["chat.aivvm.com"], "https://aivvm.com/"),
        (["chat.aivvm.com:443"], "http://chat.aivvm.com/"),
        (["aivvm.com"], URL),
        (["[::1]:3000"], "http://[::1]:3001/"),
        (["*.aivvm.com"], "https://aivvm.com/"),
        (["*.aivvm.com"], "https://chat-aivvm.com/"),
        (["*.aivvm.com:80"], URL),
        (["*:80"], URL),
    ],
)
def test_every_other_host_is_blocked(fake, hosts, url):
    with pytest.raises(UnmatchedRequest), fake.intercepting_requests(*hosts):
        requests.get(url)


@pytest.mark.parametrize(
    "host",
    [
        *["https://chat.aivvm.com", "chat.aivvm.com/api", "", "host:port", "host:99999", ":80"],
        *["**", "*aivvm.com", "*.*.com", "chat.*.com", "chat.*", "*.aivvm*"],
    ],
)
def test_what_is_no_host_is_refused(fake, host):
    with pytest.raises(
        ValueError,
        match=r"hosts takes hosts as name, name:port, \*\.name or \*, such as 'chat.aivvm.com', but",
    ):
        fake.intercepting_requests(host)
    with pytest.raises(ValueError, match="allow takes hosts as"):
        fake.intercepting_requests(allow=[host])


def test_hosts_that_make_no_sense_are_refused(fake):
    with pytest.raises(TypeError, match=r"allow takes several hosts, such as \('localhost',\)"):
        fake.intercepting_requests(allow="localhost")
    with pytest.raises(
        ValueError, match=r"answered or allowed, not both, but got 'a\.example' in hosts and in allow"
    ):
        fake.intercepting_requests("a.example", allow=["A.example"])
    with pytest.raises(ValueError, match="but got none"):
        adapter_module.Interception(fake, [])


def test_a_blocked_host_is_an_error_that_says_how_to_fix_it(fake):
    interception = fake.intercepting_requests("a.example", "b.example:8080", allow=["localhost"])
    with pytest.raises(UnmatchedRequest) as caught, interception:
        requests.get("https://other.example/x?api_key=0123456789")
    assert str(caught.value).splitlines() == [
        "no reply for GET https://other.example/x?api_key=REDACTEDRE",
        "requests is intercepted, and other.example is not among its hosts.",
        "  answered: a.example, b.example:8080",
        "  allowed: localhost",
        "To fix it: 1. let it be answered: fake.intercepting_requests('a.example', 'b.example:8080', 'other.example');",
        "           2. let it go where it wants: fake.intercepting_requests(..., allow=['other.example']);",
        "           3. keep the code under test from asking it.",
    ]
    with pytest.raises(UnmatchedRequest):
        fake.assert_all_played()
    assert not fake.calls


def test_a_redirect_to_another_host_is_blocked(fake):
    anything(fake, Reply.of(status=302, headers={"Location": "https://other.example/"}))
    with pytest.raises(UnmatchedRequest, match=r"GET https://other\.example/"), fake.intercepting_requests():
        ask()


def test_an_allowed_host_goes_where_it_went_before(fake):
    other = FakeAivvm()
    anything(other, "from the network")
    with other.server() as server:
        host = server.url.removeprefix("http://")
        with fake.intercepting_requests(allow=[host]):
            assert requests.get(server.url).text == "from the network"
            assert ask().text == "Hello, big world"
        anything(other, "again")
        with fake.intercepting_requests("*", allow=["127.0.0.1"], must_be_asked=False):
            assert requests.get(server.url).text == "again"
        with fake.intercepting_requests("127.0.0.1", allow=["*"]):
            anything(fake, "by the narrower name")
            assert requests.get(server.url).text == "by the narrower name"


def test_the_narrowest_name_counts(fake):
    with pytest.raises(UnmatchedRequest), fake.intercepting_requests("*.example"):
        requests.get("https://example/")
    anything(fake, *"ab")
    with fake.intercepting_requests("*.a.example", "b.example", "c.example:80", "*", allow=["*.example"]):
        assert answer("https://x.a.example/") == "a"
        assert answer("https://b.example/") == "b"
        allowed = ["https://a.example/", "https://x.b.example/", "https://c.example/"]
        assert [adapter_module._answering("GET", url) for url in allowed] == [None] * 3


# What an interception says when it is left


def test_leaving_raises_what_the_code_has_swallowed(fake):
    fake.reply(Reply(Head(), (Chunk(b"a"),), Ending("closed")))

    swallowed = {
        ReadPastRecording: lambda: ask().content,
        UnmatchedRequest: lambda: requests.get("https://other.example/"),
    }
    for kind, read in swallowed.items():
        with pytest.raises(kind), fake.intercepting_requests(must_be_asked=False), suppress(kind):
            read()


@pytest.mark.parametrize("swallows", [False, True])
def test_a_failure_that_is_expected_is_caught_around_the_whole_block(fake, swallows):
    code = suppress(UnmatchedRequest) if swallows else nullcontext()
    with pytest.raises(UnmatchedRequest, match="is not among"), fake.intercepting_requests(), code:
        requests.get("https://other.example/")
    with fake.intercepting_requests():
        assert ask().text == "Hello, big world"


def test_leaving_says_that_nothing_came(fake):
    with pytest.raises(SetupFailure) as caught, fake.intercepting_requests("a.example", "b.example"):
        pass
    assert str(caught.value).splitlines() == [
        "requests was intercepted for a.example, b.example, but no request came.",
        "What may be wrong: 1. the code under test did not ask, or asked another host that is allowed;",
        "                   2. it asks without requests, or in another process: those need a server, such as",
        "                      fake.server(), or a RecordingProxy where they are recorded;",
        "                   3. its Session has an adapter that is no HTTPAdapter, or something that was",
        "                      entered later, such as a RequestsMock, answered in the fake's place;",
        "                   4. it need not ask: say must_be_asked=False.",
    ]
    with fake.intercepting_requests(must_be_asked=False):
        pass


@contextmanager
def translated(kind, other):
    try:
        yield
    except kind:
        raise other from None


def test_leaving_closes_the_connections(fake):
    with fake.intercepting_requests(), requests.Session() as session:
        response = ask(session)
        assert response.text == "Hello, big world"
        assert pool_of(response).pool.qsize() == 10
    assert pool_of(response).pool is None


def test_leaving_adds_nothing_to_an_error_that_is_on_its_way(fake):
    with pytest.raises(KeyError), fake.intercepting_requests():
        raise KeyError
    with pytest.raises(KeyError), fake.intercepting_requests(), translated(UnmatchedRequest, KeyError):
        requests.get("https://other.example/")


def test_an_interception_may_be_entered_again_but_not_twice_at_once(fake):
    interception = fake.intercepting_requests()
    for _ in range(2):
        with interception:
            assert ask().text == "Hello, big world"
            with pytest.raises(RuntimeError, match="entered already"):
                interception.__enter__()
    with pytest.raises(SetupFailure, match="no request came"), interception:
        pass


# Several at once


def named_fakes(*names):
    return [anything(FakeAivvm(), *[name] * 9) for name in names]


def answer(url):
    return requests.get(url).text


def test_the_innermost_answers_and_the_outer_ones_still_do(fake):
    inner, outer = named_fakes("inner", "outer")
    with outer.intercepting_requests("a.example", "b.example", allow=["c.example"]):
        with inner.intercepting_requests("a.example", allow=["b.example"]):
            assert answer("https://a.example/") == "inner"
            assert answer("https://b.example/") == "outer"
            with pytest.raises(UnmatchedRequest) as caught:
                answer("https://d.example/")
            assert "answered: a.example, b.example\n  allowed: b.example, c.example\n" in str(caught.value)
            inner_failure = adapter_module._active[-1].network.failure
            adapter_module._active[-1].network.failure = None
            assert inner_failure is caught.value
        assert answer("https://a.example/") == "outer"


def test_they_may_be_left_in_any_order():
    first, second = named_fakes("first", "second")
    original = HTTPAdapter.send
    one, other = first.intercepting_requests("a.example"), second.intercepting_requests("a.example")
    one.__enter__()
    other.__enter__()
    assert answer("https://a.example/") == "second"
    one.__exit__(KeyError, None, None)
    assert answer("https://a.example/") == "second"
    other.__exit__(None, None, None)
    assert HTTPAdapter.send is original
    assert not first.calls


def test_each_task_gets_the_answers_of_its_own_interception_in_other_threads_too():
    async def test(name):
        fake = FakeAivvm()
        fake.reply(name)
        with fake.intercepting_requests():
            await asyncio.sleep(0)
            answer = await asyncio.to_thread(requests.post, URL, json=CHAT)
            await asyncio.sleep(0)
            return answer.text

    async def together():
        return await asyncio.gather(*[test(name) for name in "ABC"])

    assert asyncio.run(together()) == ["A", "B", "C"]


def test_each_thread_gets_the_answers_of_its_own_interceptions():
    together = threading.Barrier(4)

    def test(name):
        (mine,) = named_fakes(name)
        for _ in range(3):
            together.wait(10)
            with mine.intercepting_requests():
                together.wait(10)
                assert ask().text == name
                together.wait(10)

    run_all([lambda name=name: test(name) for name in "0123"])


def test_entering_and_leaving_in_threads_leaves_nothing():
    def churn():
        (mine,) = named_fakes("x" * 9)
        for _ in range(50):
            with mine.intercepting_requests(must_be_asked=False):
                pass

    run_all([churn] * 8)
    assert adapter_module._active == ()


def test_a_thread_of_the_code_under_test_is_intercepted(fake):
    got = []
    with fake.intercepting_requests():
        run_all([lambda: got.append(ask().text)] * 4)
    assert got == ["Hello, big world"] * 4


# With others who replace `HTTPAdapter.send`


@contextmanager
def wrapped(seen, *, name="send", owner=HTTPAdapter, like=functools.wraps):
    """As a library does that adds something to every request."""
    original = getattr(owner, name)

    @like(original)
    def wrapper(self, request, *args, **options):
        seen.append((self, request.url, options.get("timeout")))
        if name == "send":
            options["timeout"] = options.get("timeout") or 7
        return original(self, request, *args, **options)

    with mock.patch.object(owner, name, wrapper):
        yield


@pytest.mark.parametrize("like", [functools.wraps, lambda original: lambda function: function])
def test_what_was_wrapped_around_sending_before_is_called_with_the_users_adapter(fake, like):
    fake.reply(Reply.of("a", wait(8), "b"))
    seen = []
    with wrapped(seen, like=like), fake.intercepting_requests(), requests.Session() as session:
        assert [type(error) for error in played(session)[1:]] == [requests.exceptions.ConnectionError]
        assert seen == [(session.get_adapter(URL), URL, None)]
    assert fake.clock.furthest == 7


def test_what_was_wrapped_around_connecting_before_is_asked_for_allowed_hosts_only(fake):
    seen = []
    (other,) = named_fakes("over the network")
    connecting = wrapped(seen, name="get_connection_with_tls_context")
    with other.server() as server, connecting, fake.intercepting_requests(allow=["127.0.0.1"]):
        assert ask().text == "Hello, big world"
        assert answer(server.url) == "over the network"
        assert [url for _, url, _ in seen] == [f"{server.url}/"]


def test_what_is_wrapped_around_responses_is_passed_as_well(fake):
    seen = []
    with responses.RequestsMock(assert_all_requests_are_fired=False), wrapped(seen):
        with fake.intercepting_requests():
            assert ask().text == "Hello, big world"
        # on top of one that passes `responses` by itself
        other = FakeAivvm().intercepting_requests("a.example", must_be_asked=False)
        with other, wrapped(seen), fake.intercepting_requests():
            assert ask().text == "Hello, big world"
    assert [url for _, url, _ in seen] == [URL]


def test_what_answers_by_itself_is_named_as_a_possible_reason(fake):
    canned = requests.Response()

    def send(self, request, **options):
        return canned

    with (
        mock.patch.object(HTTPAdapter, "send", send),
        pytest.raises(SetupFailure, match="answered in the fake's place"),
        fake.intercepting_requests(),
    ):
        assert ask() is canned


def test_the_methods_stay_functions_with_their_signatures(fake):
    signatures = [inspect.signature(method) for method in methods()]
    with fake.intercepting_requests(must_be_asked=False):
        assert all(map(inspect.isfunction, methods()))
        assert [inspect.signature(method) for method in methods()] == signatures
        assert [method.__qualname__ for method in methods()] == [
            "HTTPAdapter.send",
            "HTTPAdapter.get_connection_with_tls_context",
        ]
        spec = mock.create_autospec(HTTPAdapter)
        assert list(inspect.signature(spec.send).parameters) == list(signatures[0].parameters)[1:]
        assert pickle.loads(pickle.dumps(HTTPAdapter.send)) is HTTPAdapter.send


def test_a_session_can_be_copied_and_pickled_while_it_is_intercepted(fake):
    with fake.intercepting_requests(), requests.Session() as session:
        assert ask(session).text == "Hello, big world"
        for other in (copy.deepcopy(session), pickle.loads(pickle.dumps(session))):
            with other:
                assert ask(other).text == "Hello, big world"
    assert len(fake.calls) == 3


class Alone(HTTPAdapter):
    """Connections of its own, as for a socket in the file system."""

    def get_connection_with_tls_context(self, *args, **options):
        return self.poolmanager.connection_from_url("http://127.0.0.1:9")


class Adding(HTTPAdapter):
    """Everybody's connections, with something to them."""

    def get_connection_with_tls_context(self, *args, **options):
        pool = super().get_connection_with_tls_context(*args, **options)
        pool.headers["X-Added"] = "by the adapter"
        return pool


@pytest.mark.parametrize("kind", [Alone, Adding])
def test_an_adapter_with_another_way_to_connections_is_led_to_the_fake_too(fake, kind):
    class Inheriting(kind):
        pass

    original = vars(kind)["get_connection_with_tls_context"]
    with fake.intercepting_requests("a.example"):
        for adapter in (kind(), Inheriting(), kind()):
            with fake.intercepting_requests(), requests.Session() as session:
                session.mount("https://", adapter)
                assert ask(session).text == "Hello, big world"
                assert ask(session).text == "Hello, big world"
                pool = session.get_adapter(URL).get_connection_with_tls_context(
                    requests.Request("GET", URL).prepare(), True
                )
                assert pool.headers == ({"X-Added": "by the adapter"} if kind is Adding else {})
        with requests.Session() as session:
            session.mount("https://", kind())
            with pytest.raises(UnmatchedRequest):
                ask(session)
        assert vars(kind)["get_connection_with_tls_context"] is original
        anything(fake, "outer")
        assert answer("https://a.example/") == "outer"
        adapter_module._active[-1].network.failure = None


def test_what_the_fake_answers_can_be_recorded(fake, tmp_path):
    fake.reply("a", times=2)
    with fake.intercepting_requests(), requests.Session() as session:
        session.mount("https://", RecordingAdapter(tmp_path / "one.jsonl"))
        assert [ask(session).text, ask(session).text] == ["a", "a"]
    assert [exchange.reply.body for exchange in Recording.load(tmp_path / "one.jsonl")] == [b"a", b"a"]


def test_what_a_requests_mock_lets_through_is_answered_or_blocked(fake):
    (other,) = named_fakes("over the network")
    with other.server() as server, fake.intercepting_requests(allow=["127.0.0.1"]) as entered:
        with responses.RequestsMock() as rsps:
            rsps.add_passthru("http")
            rsps.get("https://mocked.example/", body="mocked")
            assert ask().text == "Hello, big world"
            assert answer("https://mocked.example/") == "mocked"
            assert answer(server.url) == "over the network"
            with pytest.raises(UnmatchedRequest) as caught:
                answer("https://other.example/")
        with responses.RequestsMock() as rsps:
            rsps.add(responses.PassthroughResponse("POST", URL))
            assert ask().text == "Hello, big world"
            assert len(rsps.calls) == 1
        with pytest.raises(UnmatchedRequest):
            entered.assert_all_played()
        assert adapter_module._active[0].network.failure is caught.value
        adapter_module._active[0].network.failure = None


def test_inside_a_requests_mock_the_interception_comes_first(fake):
    with responses.RequestsMock() as rsps:
        rsps.get("https://mocked.example/", body="mocked")
        with fake.intercepting_requests(allow=["mocked.example"]):
            assert ask().text == "Hello, big world"
            assert answer("https://mocked.example/") == "mocked"
        with pytest.raises(requests.ConnectionError, match="Connection refused by Responses"):
            ask()


def test_a_requests_mock_inside_the_interception_comes_first(fake):
    with fake.intercepting_requests():
        with responses.RequestsMock() as rsps:
            rsps.post(URL, body="mocked")
            assert ask().text == "mocked"
        assert ask().text == "Hello, big world"


def test_an_interception_inside_a_requests_mock_inside_an_interception_comes_first():
    inner, outer = named_fakes("inner", "outer")
    with outer.intercepting_requests("a.example"):
        with responses.RequestsMock() as rsps:
            rsps.get("https://b.example/", body="mocked")
            with inner.intercepting_requests("c.example", allow=["b.example"]):
                assert [answer(f"https://{name}.example/") for name in "abc"] == ["outer", "mocked", "inner"]
            assert answer("https://b.example/") == "mocked"
        assert answer("https://a.example/") == "outer"


def test_what_others_have_put_on_top_stays_there(fake):
    original = HTTPAdapter.send
    rsps = responses.RequestsMock(assert_all_requests_are_fired=False)
    with fake.intercepting_requests():
        assert ask().text == "Hello, big world"
        rsps.start()
    rsps.get("https://mocked.example/", body="mocked")
    assert answer("https://mocked.example/") == "mocked"
    rsps.stop()  # puts back what it found, which is of no use now
    assert HTTPAdapter.send is not original
    (network,) = named_fakes("let through")
    with network.server() as server:
        assert answer(server.url) == "let through"
    with fake.intercepting_requests():
        assert ask().text == "Hello, big world"
    assert HTTPAdapter.send is original


def test_what_is_left_behind_only_calls_on_and_is_taken_away_at_the_next_chance(fake):
    original = methods()
    (network,) = named_fakes("over the network")
    outer, inner = FakeAivvm(), FakeAivvm()
    with network.server() as server:
        one, other = [mine.intercepting_requests(must_be_asked=False) for mine in (outer, inner)]
        rsps = responses.RequestsMock()
        one.__enter__()
        rsps.start()
        other.__enter__()
        one.__exit__(None, None, None)
        assert ask().text == "Hello, big world"
        other.__exit__(None, None, None)
        rsps.stop()  # puts back what it found, which nobody uses any more
        assert methods()[0] is not original[0]
        assert methods()[1] is original[1]
        assert answer(server.url) == "over the network"
        with fake.intercepting_requests(allow=["127.0.0.1"], must_be_asked=False):
            assert answer(server.url) == "over the network"
    assert methods() == original
    assert (len(outer.calls), len(inner.calls)) == (0, 1)


def test_what_was_underneath_may_go_first(fake):
    rsps = responses.RequestsMock()
    rsps.start()
    with fake.intercepting_requests():
        rsps.stop()  # takes the stand-in for sending away; the one for connections is there
        assert ask().text == "Hello, big world"
        with pytest.raises(UnmatchedRequest):
            answer("https://other.example/")
        adapter_module._active[0].network.failure = None


def test_a_plain_mock_is_still_called_as_a_plain_mock(fake):
    with mock.patch.object(HTTPAdapter, "send", return_value=requests.Response()) as send:
        with fake.intercepting_requests(allow=["mocked.example"]):
            requests.get("https://mocked.example/")
            assert ask().text == "Hello, big world"
        assert HTTPAdapter.send is send
    (request,), _ = send.call_args
    assert request.url == "https://mocked.example/"


def test_a_mounted_fake_works_inside_a_requests_mock_and_an_interception(fake, session):
    with responses.RequestsMock(), FakeAivvm().intercepting_requests(must_be_asked=False):
        assert ask(session).text == "Hello, big world"


def test_a_transport_with_the_users_session_works(fake, session):
    with RequestsTransport(session) as transport:
        answer = Aivvm(transport=transport).create_completion(
            "gpt-4", [{"role": "user", "content": "a few words"}]
        )
        assert list(answer) == ["a", " few", " words"]


def test_what_kept_a_stand_in_for_ever_is_none_the_worse():
    code = f"""
import requests
from aivvm_testing import FakeAivvm
network, fake = FakeAivvm(), FakeAivvm()
with network.server() as server:
    with fake.intercepting_requests():
        import responses  # which takes what it finds for the real one
        print(requests.post("{URL}", json={CHAT!r}).text)
    with responses.RequestsMock() as rsps:
        rsps.add_passthru(server.url)
        print(requests.post(server.url + "/api/chat", json={CHAT!r}).text, len(network.calls))
        with fake.intercepting_requests("127.0.0.1"):
            print(requests.post(server.url + "/api/chat", json={CHAT!r}).text, len(fake.calls))
        print(len(network.calls))
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    answer = "Hello, big world"
    assert (run.stdout.splitlines(), run.stderr) == ([answer, f"{answer} 1", f"{answer} 2", "1"], "")


@pytest.mark.parametrize("first", ["responses", "aivvm_testing.replay.adapter"])
def test_it_does_not_matter_who_is_imported_while_what_is_patched(first):
    code = f"""
import requests, requests.adapters
from unittest import mock
with mock.patch("requests.adapters.HTTPAdapter.send", side_effect=RuntimeError("patched")):
    import {first}
from aivvm_testing import FakeAivvm
fake = FakeAivvm()
with fake.intercepting_requests():
    print(requests.post("{URL}", json={CHAT!r}).text)
with fake.responses():
    print(requests.post("{URL}", json={CHAT!r}).text)
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (run.stdout.splitlines(), run.stderr) == (["Hello, big world"] * 2, "")
