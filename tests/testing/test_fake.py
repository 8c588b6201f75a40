"""What the fake answers, what it remembers, and what it says when it has no answer."""

from __future__ import annotations

import json
import threading

import pytest
import requests

from aivvm import Aivvm
from aivvm.payload import build_request
from aivvm.transport import Request
from aivvm_testing import fixtures
from aivvm_testing.errors import SetupFailure, UnmatchedRequest, UnplayedReplies
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.recording import Exchange, Recording
from aivvm_testing.reply import Chunk, Ending, Head, Reply, wait

HELLO = [{"role": "user", "content": "Hello, world"}]


def ask(fake, content="Hello", model="gpt-4", **options):
    provider = Aivvm(transport=fake.transport())
    messages = [{"role": "user", "content": content}]
    return "".join(provider.create_completion(model, messages, stream=True, **options))


def post(path, body=b"", method="POST"):
    return Request(method, f"http://fake.invalid{path}", body=body)


def chat(**changes):
    body = json.loads(build_request("gpt-4", HELLO).body) | changes
    return post("/api/chat", json.dumps({k: v for k, v in body.items() if v is not ...}).encode())


def test_without_a_script_it_echoes_the_last_user_message():
    fake = FakeAivvm()
    messages = [*HELLO, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "  two words\n"}]
    answer = Aivvm(transport=fake.transport()).create_completion("gpt-4", messages)
    assert list(answer) == ["  two", " words", "\n"]


def test_scripted_replies_are_given_in_order_and_one_too_many_is_an_error():
    fake = FakeAivvm()
    fake.reply("one").reply(Reply.of("two"), times=2)
    assert [ask(fake) for _ in range(3)] == ["one", "two", "two"]
    with pytest.raises(UnmatchedRequest, match="3 of 3 scripted replies were given"):
        ask(fake)


def test_a_reply_can_be_given_for_ever():
    fake = FakeAivvm()
    fake.reply("again", forever=True)
    assert {ask(fake) for _ in range(20)} == {"again"}
    fake.assert_all_played()


def test_rules_come_first_in_the_order_they_were_made_then_the_queue():
    fake = FakeAivvm()
    fake.on(model="gpt-4").reply("from four")
    fake.on(contains="weather").reply("rain", forever=True)
    fake.reply("from the queue")
    assert ask(fake, "the weather?") == "from four"
    assert ask(fake, "the weather?") == "rain"
    assert ask(fake, "anything", model="gpt-3.5-turbo") == "from the queue"


def test_a_rule_can_be_any_callable_and_sees_every_path():
    fake = FakeAivvm()
    fake.on(lambda request: "x-test" in dict(request.headers), path="/v1/other", method="post").reply("yes")
    request = Request("POST", "http://fake.invalid/v1/other?q=1", (("x-test", "1"),))
    assert fake.answer(request).body == b"yes"


def test_a_rule_without_anything_to_go_by_is_refused():
    with pytest.raises(ValueError, match="needs something to go by"):
        FakeAivvm().on()


@pytest.mark.parametrize(("reply", "error"), [(3, TypeError), (None, TypeError)])
def test_only_replies_can_be_scripted(reply, error):
    with pytest.raises(error, match="a reply is text, bytes or a Reply"):
        FakeAivvm().reply(reply)


def test_a_reply_is_given_once_or_more():
    with pytest.raises(ValueError, match="times is a whole number, 1 or more"):
        FakeAivvm().reply("a", times=0)


def test_it_remembers_what_it_was_asked():
    fake = FakeAivvm()
    ask(fake, temperature=0.5, system_message="You are a translator.")
    assert fake.requests[-1].json()["temperature"] == 0.5
    assert fake.requests[-1].json()["prompt"] == "You are a translator."


def test_what_was_not_played_is_listed():
    fake = FakeAivvm()
    fake.reply("one").reply("two", times=3).on(model="gpt-4").reply("never")
    assert ask(fake) == "never"
    fake.on(model="gpt-4-32k").reply("nor this")
    with pytest.raises(UnplayedReplies) as caught:
        fake.assert_all_played()
    message = str(caught.value)
    assert message.startswith("3 not played (1 request came):")
    assert "in the queue: Reply.of('one'" in message
    assert "(3 times)" in message
    assert "for on(model='gpt-4-32k'): Reply.of('nor this'" in message


def test_an_unmatched_request_is_raised_again_if_the_code_under_test_swallowed_it():
    fake = FakeAivvm()
    fake.reply("one")
    ask(fake)
    try:
        ask(fake)
    except AssertionError:
        swallowed = True
    assert swallowed
    with pytest.raises(UnmatchedRequest):
        fake.assert_all_played()


def test_as_a_context_manager_it_checks_that_all_was_played():
    with pytest.raises(UnplayedReplies), FakeAivvm() as fake:
        fake.reply("one")


def test_as_a_context_manager_it_lets_the_tests_own_error_through():
    def failing_test():
        with FakeAivvm() as fake:
            fake.reply("one")
            raise KeyError("the test's own")

    with pytest.raises(KeyError):
        failing_test()


@pytest.mark.parametrize(
    "request_",
    [
        post("/api/chat", b"{"),
        post("/api/chat", b""),
        post("/api/chat", b"null"),
        post("/api/chat", b"[]"),
        chat(model=...),
        chat(messages=...),
        chat(messages=[{"role": "user", "content": None}]),
        *[post("/api/chat", b"", method) for method in ("GET", "HEAD", "OPTIONS", "DELETE")],
        post("/api/models", b"", "GET"),
        post("/api/models", b"null"),
        post("/api/models", b"{"),
    ],
)
def test_what_the_real_server_cannot_read_is_its_500(request_):
    reply = FakeAivvm().answer(request_)
    assert (reply.status, reply.head.reason, reply.body) == (500, "Internal Server Error", b"Error")
    assert reply.headers[0] == ("content-type", "text/plain;charset=UTF-8")


@pytest.mark.parametrize(
    "request_",
    [
        chat(),
        chat(model="gpt-4"),
        chat(messages=[]),
        chat(key=..., prompt="", temperature=None),
        chat(extra=[1]),
        post("/api/chat?x=1", chat().body),
        post("/api/chat", chat().body, "PUT"),
        post("/api/chat", b"\xef\xbb\xbf" + chat().body),
        post("/api/chat", chat().body.replace(b"world", b"w\xffrld")),
    ],
)
def test_what_the_real_server_puts_up_with_is_answered(request_):
    reply = FakeAivvm().answer(request_)
    assert reply.status == 200
    assert [name for name, _ in reply.headers] == ["Date", "Connection", "Keep-Alive", "Transfer-Encoding"]


def test_models_are_listed_in_the_real_servers_form():
    for body in (b"{}", b'{"key": ""}'):
        reply = FakeAivvm().answer(post("/api/models", body))
        assert json.loads(reply.body)[0] == {"id": "gpt-3.5-turbo", "name": "GPT-3.5"}
        assert reply.headers.get("content-type") == "text/plain;charset=UTF-8"


def test_a_trailing_slash_is_redirected_and_other_paths_are_not_found():
    moved = FakeAivvm().answer(post("/api/chat/", chat().body))
    assert (moved.status, moved.headers.get("location"), moved.body) == (308, "/api/chat", b"/api/chat")
    lost = FakeAivvm().answer(post("/api/nope"))
    assert (lost.status, lost.headers.get("content-type")) == (404, "text/html; charset=utf-8")
    assert int(lost.headers.get("content-length")) == len(lost.body)


def test_a_reply_that_brings_its_own_connection_headers_is_left_alone():
    own = Reply.of("x", headers={"Transfer-Encoding": "chunked"})
    fake = FakeAivvm()
    fake.reply(own)
    assert fake.answer(chat()) is own


def test_a_recording_answers_each_exchange_once_in_recorded_order():
    def exchange(text):
        return Exchange(build_request("gpt-4", HELLO), Reply.of(text), 0.0)

    fake = FakeAivvm.replaying(Recording([exchange("first"), exchange("second")]))
    assert [ask(fake, "Hello, world") for _ in range(2)] == ["first", "second"]
    with pytest.raises(UnmatchedRequest, match="Recorded as exchanges 0, 1, and played already"):
        ask(fake, "Hello, world")


def test_a_recording_plays_at_any_host_and_without_its_secrets():
    request = build_request("gpt-4", HELLO, url="https://chat.aivvm.com", key="REDACTEDRE")
    fake = FakeAivvm.replaying(Recording([Exchange(request, Reply.of("found"), 0.0)]))
    assert ask(fake, "Hello, world", key="sk-1234567") == "found"


def test_numbers_are_compared_by_meaning():
    request = build_request("gpt-4", HELLO, temperature=1)
    fake = FakeAivvm.replaying(Recording([Exchange(request, Reply.of("found"), 0.0)]))
    assert ask(fake, "Hello, world", temperature=1.0) == "found"


def test_a_miss_explains_itself():
    request = build_request("gpt-4", HELLO)
    fake = FakeAivvm.replaying(Recording([Exchange(request, Reply.of("x"), 0.0)]))
    with pytest.raises(UnmatchedRequest) as caught:
        ask(fake, "Goodbye, world")
    message = str(caught.value)
    assert "0 of 1 exchanges played, matched on method, path, json." in message
    assert "Nearest: exchange 0, which differs in json:" in message
    assert '-   "content": "Hello, world",' in message
    assert '+   "content": "Goodbye, world",' in message
    assert "To fix it: 1." in message


def test_match_on_takes_callables_and_refuses_what_does_not_exist():
    request = build_request("gpt-4", HELLO)
    recording = Recording([Exchange(request, Reply.of("x"), 0.0)])
    fake = FakeAivvm.replaying(recording, match_on=("path", lambda recorded, incoming: False))
    with pytest.raises(UnmatchedRequest, match="differs in callable"):
        ask(fake)
    with pytest.raises(ValueError, match=r"no criterion 'jsno': did you mean 'json'\?"):
        FakeAivvm.replaying(recording, match_on=("jsno",))
    with pytest.raises(ValueError, match="takes a sequence of criteria"):
        FakeAivvm.replaying(recording, match_on="json")


def test_a_recording_is_replayed_at_the_speed_asked_for():
    reply = Reply.of("a", wait(2), "b")
    recording = Recording([Exchange(chat(), reply, 0.0)])
    assert FakeAivvm.replaying(recording, speed=1).answer(chat()) == reply
    assert FakeAivvm.replaying(recording, speed=4).answer(chat()).ending.at == 0.5
    assert FakeAivvm.replaying(recording).answer(chat()).ending.at == 0
    with pytest.raises(ValueError, match="a speed is 0"):
        FakeAivvm.replaying(recording, speed=-1)


def test_each_of_many_threads_gets_one_reply_of_its_own():
    fake = FakeAivvm()
    for n in range(200):
        fake.reply(str(n))
    got = []

    def work():
        for _ in range(25):
            got.append(ask(fake))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, got)) == list(range(200))
    fake.assert_all_played()


def test_a_predicate_may_script_a_refusal_in_the_servers_own_thread():
    fake = FakeAivvm()
    fake.on(lambda request: fake.reply(Reply.no_answer("refused")) is None).reply("never")
    fake.reply("now")
    with fake.server() as server:
        url = f"{server.url}/api/chat"
        assert requests.post(url, data=chat().body, timeout=5).text == "now"
        with pytest.raises(requests.ConnectionError, match="refused"):
            requests.post(url, data=chat().body, timeout=5)


def test_a_predicate_may_ask_the_fake_something():
    fake = FakeAivvm()
    fake.on(lambda request: fake.reply("later") is None).reply("never")
    assert ask(fake) == "later"


def test_a_rule_that_does_not_fit_says_why():
    fake = FakeAivvm()
    fake.on(model="gpt4").reply("x")
    fake.on(model="gpt-4")
    fake.on(contains="weather").reply("x")
    fake.on(path="/api/other", method="GET").reply("x")
    fake.on(method="GET").reply("x")
    fake.on(lambda request: False).reply("x")
    with pytest.raises(UnmatchedRequest) as caught:
        ask(fake, "Hello")
    message = str(caught.value)
    assert "on(model='gpt4'), 0 of 1 given; the model is 'gpt-4'" in message
    assert "on(model='gpt-4'), 0 of 0 given; it fits, and has no reply left: say .reply(...)" in message
    assert "on(contains='weather'), 0 of 1 given; the last user message is 'Hello'" in message
    assert "0 of 1 given; the path is '/api/chat'" in message
    assert "on(method='GET'), 0 of 1 given; the method is 'POST'" in message
    assert "the predicate says no" in message


def test_a_replaying_fake_lists_models_and_falls_back_on_its_queue():
    recording = Recording([Exchange(build_request("gpt-4", HELLO), Reply.of("recorded"), 0.0)])
    fake = FakeAivvm.replaying(recording).reply("queued")
    assert fake.answer(post("/api/models", b"{}")).status == 200
    assert ask(fake, "Something else") == "queued"
    assert ask(fake, "Hello, world") == "recorded"
    fake.assert_all_played()
    with pytest.raises(UnmatchedRequest):
        fake.answer(post("/api/other"))


def test_a_reader_that_left_is_given_as_long_again_at_any_speed():
    left = Reply(Head(), (Chunk(b"a", 1.0),), Ending("closed", 1.5))
    recording = Recording(
        [Exchange(chat(), left, 0.0), Exchange(chat(), Reply.no_answer("closed", at=2), 0.0)]
    )
    fake = FakeAivvm.replaying(recording)
    assert fake.answer(chat()).ending.at == 0.5
    assert fake.answer(chat()).ending.at == 2
    fast = FakeAivvm.replaying(recording, speed=2)
    assert fast.answer(chat()).ending.at == 1.0


@pytest.mark.parametrize(
    "reply",
    [
        Reply.of("a", headers={"a": "b\r\nX: y"}),
        Reply.of("a", headers={"a b": "c"}),
        Reply.of("a", headers={"a": "Ж"}),
        Reply.of("a", reason="two\nlines"),
    ],
)
def test_a_head_that_no_wire_can_carry_is_refused_when_it_is_scripted(reply):
    with pytest.raises(ValueError, match=r"a line of the head|a header field|a head is latin-1"):
        FakeAivvm().reply(reply)


def test_a_clock_is_one_of_two():
    with pytest.raises(TypeError, match=r"a clock is a VirtualClock\(\) or a SystemClock\(\), but got 5"):
        FakeAivvm(clock=5)


def test_a_refused_connection_that_comes_next_can_be_seen_and_skipped():
    fake = FakeAivvm()
    fake.reply(Reply.no_answer("refused")).reply("then")
    assert fake.refuses_next()
    fake.skip_refused()
    assert not fake.refuses_next()
    fake.skip_refused()
    assert ask(fake) == "then"
    replaying = FakeAivvm.replaying(Recording([Exchange(chat(), Reply.no_answer("refused"), 0.0)]))
    assert replaying.refuses_next()
    replaying.skip_refused()
    replaying.assert_all_played()


def test_a_failure_that_a_door_hands_over_is_raised_at_the_end():
    fake = FakeAivvm()
    error = SetupFailure("handed over")
    fake.failed(error)
    fake.failed(error)
    with pytest.raises(SetupFailure, match="handed over"):
        fake.assert_all_played()


@pytest.mark.parametrize("name", [n for n in fixtures.names() if fixtures.load(n).origin == "converted"])
def test_every_session_of_the_real_server_can_be_replayed_whole(name):
    recording = fixtures.load(name)
    fake = FakeAivvm.replaying(recording, match_on=("method", "path", "query", "body"))
    for exchange in recording:
        assert fake.answer(exchange.request) == exchange.reply.scale(0)
    fake.assert_all_played()
