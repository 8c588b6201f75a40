"""What the fake answers, what it remembers, and what it says when it has no answer."""

from __future__ import annotations

import inspect
import json
import re
import socket
import threading
from functools import partial

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from aivvm import Aivvm
from aivvm.errors import AivvmError, Interrupted, TimedOut
from aivvm.payload import DEFAULT_URL, build_request
from aivvm.transport import Headers, Request
from aivvm_testing import faults, fixtures
from aivvm_testing.errors import SetupFailure, UnmatchedRequest, UnplayedReplies
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.recording import Exchange, Recording
from aivvm_testing.reply import Chunk, Ending, Head, Reply, wait
from aivvm_testing.rules import Conditions
from aivvm_testing.wire import Refusal

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
    assert fake.answer(request).reply.body == b"yes"


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
    assert message.startswith("5 not played (1 request came):")  # one of them thrice
    assert "in the queue: Reply.of('one'" in message
    assert "(3 times)" in message
    assert "for on(model='gpt-4-32k'): Reply.of('nor this'" in message


def test_a_client_of_another_path_is_told_how_it_would_be_answered():
    fake = FakeAivvm().reply("one")
    request = Request("POST", f"{DEFAULT_URL}/v1/chat/completions", body=b"{}")
    assert fake.transport().send(request, timeout=None).status == 404
    with pytest.raises(UnplayedReplies) as caught:
        fake.assert_all_played()
    line = "/v1/chat/completions is no path of the service, and got 404: fake.on(path='/v1/chat/completions').reply(...)"
    assert line in str(caught.value)


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
    reply = FakeAivvm().answer(request_).reply
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
    reply = FakeAivvm().answer(request_).reply
    assert reply.status == 200
    assert [name for name, _ in reply.headers] == ["Date", "Connection", "Keep-Alive", "Transfer-Encoding"]


def test_models_are_listed_in_the_real_servers_form():
    for body in (b"{}", b'{"key": ""}'):
        reply = FakeAivvm().answer(post("/api/models", body)).reply
        assert json.loads(reply.body)[0] == {"id": "gpt-3.5-turbo", "name": "GPT-3.5"}
        assert reply.headers.get("content-type") == "text/plain;charset=UTF-8"


def test_a_trailing_slash_is_redirected_and_other_paths_are_not_found():
    moved = FakeAivvm().answer(post("/api/chat/", chat().body)).reply
    assert (moved.status, moved.headers.get("location"), moved.body) == (308, "/api/chat", b"/api/chat")
    lost = FakeAivvm().answer(post("/api/nope")).reply
    assert (lost.status, lost.headers.get("content-type")) == (404, "text/html; charset=utf-8")
    assert int(lost.headers.get("content-length")) == len(lost.body)


def test_a_reply_that_brings_its_own_connection_headers_is_left_alone():
    own = Reply.of("x", headers={"Transfer-Encoding": "chunked"})
    fake = FakeAivvm()
    fake.reply(own)
    assert fake.answer(chat()).reply is own


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
    assert "0 of 1 exchange played, matched on method, path, json." in message
    assert "Nearest: exchange 0 (" in message
    assert ", which differs in json:" in message
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
    assert FakeAivvm.replaying(recording, speed=1).answer(chat()).reply == reply
    assert FakeAivvm.replaying(recording, speed=4).answer(chat()).reply.ending.at == 0.5
    assert FakeAivvm.replaying(recording).answer(chat()).reply.ending.at == 0
    for wrong in (-1, float("inf"), "fast", True):
        with pytest.raises(ValueError, match="a speed is 0"):
            FakeAivvm.replaying(recording, speed=wrong)


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
    lines = [line.strip() for line in message.splitlines()]
    assert lines[1:3] == ["Nothing is scripted but rules.", "None of 6 rules answers it:"]
    rules = dict(zip(lines[3:-3:2], lines[4:-3:2], strict=False))
    assert rules["nearest rule: on(model='gpt-4'), 0 of 0 given"].startswith("it fits, and has nothing left")
    assert rules["rule: on(model='gpt4'), 0 of 1 given"] == "model: expected 'gpt4', but got 'gpt-4'"
    assert (
        rules["rule: on(contains='weather'), 0 of 1 given"]
        == "the last user message: expected something with 'weather', but got 'Hello'"
    )
    assert rules["rule: on(method='GET'), 0 of 1 given"] == "method: expected 'GET', but got 'POST'"
    assert "      path: expected '/api/other', but got '/api/chat'\n      method: expected 'GET'" in message
    assert "the predicate says no" in message


def test_a_replaying_fake_lists_models_and_falls_back_on_its_queue():
    recording = Recording([Exchange(build_request("gpt-4", HELLO), Reply.of("recorded"), 0.0)])
    fake = FakeAivvm.replaying(recording).reply("queued")
    assert fake.answer(post("/api/models", b"{}")).reply.status == 200
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
    assert fake.answer(chat()).reply.ending.at == 0.5
    assert fake.answer(chat()).reply.ending.at == 2
    fast = FakeAivvm.replaying(recording, speed=2)
    assert fast.answer(chat()).reply.ending.at == 1.0


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
        assert fake.answer(exchange.request).reply == exchange.reply.scale(0)
    fake.assert_all_played()


def cut(reply):
    return reply.cut(after=1)


def test_a_fault_is_done_to_the_answer_and_whoever_asks_again_is_given_it_whole():
    fake = FakeAivvm()
    fake.reply(Reply.of("one ", "two")).reply("three").fault(cut, times=2)
    for _ in range(2):
        with pytest.raises(Interrupted) as caught:
            ask(fake, "count")
        assert caught.value.text == "one "
    assert ask(fake, "count") == "one two"
    assert ask(fake, "go on") == "three"
    assert [call.faults for call in fake.calls] == [(cut,), (cut,), (), ()]
    fake.assert_all_played()


def test_a_fault_does_not_hold_up_a_client_that_goes_on_to_the_next_question():
    fake = FakeAivvm()
    fake.reply(Reply.of("one", "!")).reply("two").fault(cut)
    with pytest.raises(Interrupted):
        ask(fake, "first")
    assert ask(fake, "second") == "two"
    fake.assert_all_played()


def test_a_fault_meets_whatever_answers_and_takes_no_step_of_a_rule():
    fake = FakeAivvm()
    fake.on(contains="count").reply("one two").reply("next")
    fake.fault(cut)
    fake.on(model="gpt-4").fault(lambda reply: reply.delay(1))
    with pytest.raises(Interrupted):
        ask(fake, "count")
    assert len(fake.calls[0].faults) == 2
    assert [ask(fake, "count"), ask(fake, "count")] == ["one two", "next"]
    fake.assert_all_played()


@pytest.mark.parametrize("fault", [faults.slow_head(1), faults.sliced(2), faults.jitter(), faults.late_end()])
def test_a_fault_that_takes_nothing_away_uses_the_answer_up(fault):
    fake = FakeAivvm()
    fake.reply("one").reply("two").fault(fault, forever=True)
    assert [ask(fake), ask(fake)] == ["one", "two"]
    with pytest.raises(UnmatchedRequest):
        ask(fake)


def test_a_reply_is_dated_when_it_is_given(monkeypatch):
    fake = FakeAivvm()
    monkeypatch.setattr("aivvm_testing.service.time.time", lambda: 0.0)
    fake.reply("a", forever=True)
    monkeypatch.setattr("aivvm_testing.service.time.time", lambda: 3600.5)
    first, second = fake.answer(chat()).reply, fake.answer(chat()).reply
    assert first.headers.get("date") == "Thu, 01 Jan 1970 01:00:00 GMT"
    assert first is second


def test_a_rule_may_break_its_own_answer_first():
    fake = FakeAivvm()
    fake.on(contains="Hello").fault(faults.cut(), times=2).reply("It rains.")
    for _ in range(2):
        with pytest.raises(Interrupted):
            ask(fake)
    assert ask(fake) == "It rains."
    fake.assert_all_played()


def test_a_fault_without_an_answer_is_not_used_up():
    fake = FakeAivvm()
    fake.on(contains="Hello").fault(cut).reply("later")
    fake.on(contains="Bye").fault(cut)
    with pytest.raises(UnmatchedRequest, match="it fits, and has a fault but no answer to do it to"):
        ask(fake, "Bye")
    with pytest.raises(UnmatchedRequest):  # and is left over, which the error comes before
        fake.assert_all_played()
    ((times, line),) = fake._rules[1].left()
    assert (times, line[:23]) == (1, "for on(contains='Bye'):")


def test_a_miss_is_explained_in_time_that_no_recording_stretches():
    import time

    def taken(count):
        recording = Recording(
            [
                Exchange(chat(messages=[{"role": "user", "content": str(n)}]), Reply.of("a"))
                for n in range(count)
            ]
        )
        fake = FakeAivvm.replaying(recording)
        begin = time.process_time()
        with pytest.raises(UnmatchedRequest, match="Nearest: exchange"):
            fake.answer(chat())
        return time.process_time() - begin

    taken(10)
    assert taken(4000) < 20 * taken(200) + 0.1


def test_a_recorded_answer_is_broken_and_then_given():
    recording = Recording([Exchange(chat(), Reply.of("a", "b"))])
    fake = FakeAivvm.replaying(recording)
    fake.fault(lambda reply: Reply.error(503), times=2)
    assert [fake.answer(chat()).reply.status for _ in range(3)] == [503, 503, 200]
    fake.assert_all_played()


def test_faults_apply_to_the_echo_which_stays():
    fake = FakeAivvm()
    fake.fault(cut)
    with pytest.raises(Interrupted):
        ask(fake, "a b")
    assert ask(fake, "a b") == "a b"


def test_a_fault_is_done_to_the_answers_of_requests_that_fit():
    fake = FakeAivvm()
    fake.fault(cut, times=2, model="gpt-4", contains="count")
    assert ask(fake, "count", model="gpt-3.5-turbo") == "count"
    assert ask(fake, "Hello") == "Hello"
    for _ in range(2):
        with pytest.raises(Interrupted):
            ask(fake, "count a b")
    assert ask(fake, "count a b") == "count a b"
    fake.assert_all_played()


def test_a_fault_that_cannot_be_scripted_leaves_no_rule():
    fake = FakeAivvm()
    with pytest.raises(TypeError, match="a fault is a callable"):
        fake.fault("cut")
    with pytest.raises(ValueError, match="times is a whole number"):
        fake.fault(cut, times=0)
    assert ask(fake) == "Hello"
    fake.assert_all_played()


def test_a_fault_that_was_never_done_is_left_over():
    fake = FakeAivvm()
    fake.fault(cut, times=3)
    with pytest.raises(Interrupted):
        ask(fake, "a b")
    with pytest.raises(UnplayedReplies, match=r"for every request: <function cut .*> \(2 times\)"):
        fake.assert_all_played()


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (lambda reply: reply.cut(after=9), "ValueError: the reply has 1 chunks: after=9 is not within it"),
        (lambda reply: None, "TypeError: it gave None instead of a Reply"),
        (lambda reply: Reply.of(headers={"a b": "c"}), "ValueError: the name of a header field is a token"),
    ],
)
def test_a_fault_that_cannot_be_done_says_why_and_is_raised_again(fault, why):
    fake = FakeAivvm()
    fake.reply("a").fault(fault)
    with pytest.raises(SetupFailure, match=re.escape(why)) as caught:
        ask(fake)
    with pytest.raises(SetupFailure) as again:
        fake.assert_all_played()
    assert again.value is caught.value


@given(st.integers(1, 6))
def test_a_rule_for_the_nth_request_counts_those_that_fit(n):
    fake = FakeAivvm()
    fake.on(model="gpt-4", nth=n).reply("nth")
    fake.reply("other", forever=True)
    answers = []
    for _ in range(6):
        ask(fake, model="gpt-3.5-turbo")
        answers.append(ask(fake))
    assert answers == ["other"] * (n - 1) + ["nth"] + ["other"] * (6 - n)
    fake.assert_all_played()


def test_the_nth_request_is_counted_whichever_rule_answers_it():
    fake = FakeAivvm()
    fake.on(model="gpt-4").reply("first")
    fake.on(model="gpt-4", nth=2).reply("second")
    assert [ask(fake), ask(fake)] == ["first", "second"]


@given(st.integers(), st.floats(0.1, 0.9))
def test_chance_is_the_same_for_the_same_seed(seed, probability):
    def faulty():
        fake = FakeAivvm()
        fake.on(probability=probability, seed=seed).fault(cut, forever=True)
        return [fake.answer(chat()).faults for _ in range(20)]

    assert faulty() == faulty()


def test_chance_is_as_likely_as_it_says_and_leaves_nothing_over():
    fake = FakeAivvm()
    fake.on(probability=0.25, seed=1).fault(cut, times=1000)
    hit = sum([bool(fake.answer(chat()).faults) for _ in range(2000)])
    assert 400 < hit < 600
    fake.assert_all_played()


def test_fail_twice_then_answer_is_one_rule():
    fake = FakeAivvm()
    fake.on(contains="weather").reply(Reply.error(503), times=2).reply("It rains.")
    messages = [{"role": "user", "content": "The weather?"}]
    assert [fake.answer(chat(messages=messages)).reply.status for _ in range(3)] == [503, 503, 200]


def test_a_rule_looks_at_headers_and_members_of_the_body():
    fake = FakeAivvm()
    fake.on(json={"temperature": 0.5}, headers={"Content-Type": "application/json"}).reply("cool")
    fake.reply("warm", forever=True)
    assert ask(fake, temperature=0.5) == "cool"
    assert ask(fake, temperature=0.7) == "warm"


def test_the_journal_tells_how_far_each_client_came():
    fake = FakeAivvm()
    fake.reply(Reply.of("a", wait(3), "bc", "d")).reply(Reply.of("a", "b").cut()).reply(Reply.of("a").stall())
    provider = Aivvm(transport=fake.transport())
    stream = provider.create_completion("gpt-4", [{"role": "user", "content": "1"}])
    next(stream)
    call = fake.calls[0]
    assert (call.outcome, call.chunks_taken, call.bytes_taken, call.closed) == ("open", 1, 1, False)
    next(stream)
    stream.close()
    assert (call.outcome, call.chunks_taken, call.bytes_taken, call.closed) == ("closed", 2, 3, True)
    assert call.lasted == 3
    for error in (Interrupted, TimedOut):
        with pytest.raises(error):
            ask(fake, timeout=60)
    assert [call.outcome for call in fake.calls[1:]] == ["played", "played"]
    assert [call.chunks_taken for call in fake.calls[1:]] == [2, 1]
    assert fake.calls[2].lasted == 60
    assert fake.calls[0].at <= fake.calls[1].at <= fake.calls[2].at


def test_a_client_that_takes_nothing_has_closed_the_answer():
    fake = FakeAivvm()
    fake.transport().send(chat(), timeout=None).close()
    assert fake.calls[0].closed
    assert fake.calls[0].chunks_taken == 0


URL = "http://Fake.invalid:80/api/chat?b=2&a=1&a=3&token=s3cret-value"
BODY = '{"model": "gpt-4", "messages": [], "say": "café", "key": "s3cret-value"}'
FITTING = {
    "host": ["fake.invalid", "FAKE.invalid", "fake.invalid:80", "fake.invalid."],
    "url": [URL, URL.replace(":80", ""), URL.lower() + "#top"],
    "query": [
        "b=2&a=1&a=3&token=s3cret-value",
        {"b": "2"},
        {"a": ["1", "3"], "b": ("2",)},
        {"token": "s3cret-value"},
        {},
    ],
    "path": ["/api/chat"],
    "method": ["put", "PUT"],
    "body": [BODY, BODY.encode()],
    "headers": [{"x-a": "1"}],
}
MISFITTING = {
    "host": ["fake", "fake.invalid:81", "[::1]", "::1", "bücher.example"],
    "url": [
        "http://fake.invalid/api/chat",
        URL.replace("http:", "https:"),
        URL.replace("b=2", "b=3"),
        "http://[::1]:5",
    ],
    "query": ["", "b=2", {"b": "3"}, {"a": "1"}, {"a": ["3", "1"]}, {"c": ""}, {"token": "somebody-else"}],
    "path": ["/api", "/api/chat/"],
    "method": ["POST"],
    "body": [b"", BODY.replace("é", "e"), BODY + " ", BODY.encode("latin-1")],
    "headers": [{"x-a": "2"}, {"x-b": "1"}],
}


def put():
    return Request("PUT", URL, Headers([("X-A", "1")]), BODY.encode())


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in FITTING for value in FITTING[name]])
def test_a_condition_that_fits_is_answered(name, value):
    fake = FakeAivvm()
    fake.on(**{name: value}).reply("yes")
    assert fake.answer(put()).reply.body == b"yes"
    assert fake.assert_called_once_with(**{name: value}) is fake.assert_any_call(**{name: value})
    fake.assert_all_played()


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in MISFITTING for value in MISFITTING[name]]
)
def test_a_condition_that_does_not_fit_says_how_and_tells_no_secret(name, value):
    fake = FakeAivvm()
    fake.on(**{name: value}).reply("no")
    with pytest.raises(UnmatchedRequest) as caught:
        fake.answer(put())
    where = rf"{name}(\[|:)" if name != "headers" else "header x-"
    assert re.search(rf"\n +{where}", str(caught.value))
    with pytest.raises(AssertionError, match=where) as again:
        fake.assert_any_call(**{name: value})
    for message in (str(caught.value), str(again.value)):
        assert "s3cret" not in message
        assert "somebody-else" not in message


def test_secrets_that_alone_differ_are_not_shown():
    body = BODY.replace("s3cret-value", "9876543210").encode()
    fake = FakeAivvm()
    fake.on(url="http://h/api/chat?token=0123456789").reply("no")
    fake.on(query="token=0123456789").reply("no")
    fake.on(body=body.replace(b"9876543210", b"0123456789")).reply("no")
    with pytest.raises(UnmatchedRequest) as caught:
        fake.answer(Request("POST", "http://h/api/chat?token=9876543210", Headers(), body))
    assert str(caught.value).count("it differs in what is not shown") == 3
    assert not re.search("0123456789|9876543210", str(caught.value))


def test_a_request_to_no_url_at_all_fits_no_url():
    fake = FakeAivvm()
    fake.on(url="http://h/").reply("no")
    fake.on(host="h").reply("no")
    with pytest.raises(UnmatchedRequest, match="url: expected 'http://h/', but got 'http://h:port/api/chat'"):
        fake.answer(Request("GET", "http://h:port/api/chat", body=BODY.encode()))


WRONG = [
    (
        {"host": "https://chat.aivvm.com"},
        ValueError,
        "host is a name, or name:port, such as 'chat.aivvm.com'",
    ),
    ({"host": "a:b"}, ValueError, "host is a name"),
    ({"host": ""}, ValueError, "host is a name"),
    ({"host": "me@there"}, ValueError, "host is a name"),
    ({"host": 1}, TypeError, r"host is text, but got 1 \(int\)"),
    ({"url": "/api/chat"}, ValueError, "url is a whole one, such as 'https://"),
    ({"url": "http://"}, ValueError, "url is a whole one"),
    ({"url": b"http://h/"}, TypeError, "url is text"),
    ({"query": "?a=b"}, ValueError, "query is written without its question mark"),
    ({"query": {"a": 1}}, TypeError, "query has text, or a list of texts, under each name"),
    ({"query": {"a": []}}, TypeError, "query has text"),
    ({"query": 5}, TypeError, "query is a mapping"),
    (
        {"body": {"a": 1}},
        TypeError,
        "body is bytes or text, all of it, but got .*; for a part of JSON say json=",
    ),
    ({"path": "api/chat"}, ValueError, "path begins with / and has no query"),
    ({"path": "/a?b"}, ValueError, "path begins with / and has no query"),
    ({"method": 5}, TypeError, "method is text"),
    ({"model": {"id": "gpt-4"}}, TypeError, "model is text"),
    ({"contains": b"a"}, TypeError, "contains is text"),
    ({"headers": {"a": 1}}, TypeError, "headers has text under each name"),
    ({"headers": "a: b"}, TypeError, "headers is a mapping"),
    ({"json": [1]}, TypeError, "json is a mapping"),
    ({"modle": "gpt-4"}, TypeError, "there is no condition modle='gpt-4': did you mean model="),
    ({"zzz": 1}, TypeError, r"there is no condition zzz=1 \(int\): there are model, contains, "),
]


@pytest.mark.parametrize(("wanted", "error", "match"), WRONG)
def test_a_condition_that_cannot_be_is_refused_at_the_call(wanted, error, match):
    fake = FakeAivvm()
    for method in (fake.on, partial(fake.fault, cut), fake.assert_any_call, fake.assert_called_once_with):
        with pytest.raises(error, match=match):
            method(**wanted)
    assert fake._rules == []


@pytest.mark.parametrize(
    ("args", "options", "error", "match"),
    [
        (["weather"], {}, TypeError, "a condition is a callable, or names as in contains='weather'"),
        ([], {"nth": 0}, ValueError, "nth counts the requests that fit from 1, but got 0"),
        ([], {"nth": 1.5}, ValueError, "nth counts the requests that fit from 1, but got 1.5"),
        ([], {"probability": 2}, ValueError, "a probability is 0 to 1, but got 2"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_at_the_call(args, options, error, match):
    fake = FakeAivvm()
    with pytest.raises(error, match=match):
        fake.on(*args, **options)
    assert fake._rules == []


def test_a_step_that_would_never_come_is_refused():
    fake = FakeAivvm()
    with pytest.raises(ValueError, match="times=2 or forever=True, not both"):
        fake.reply("a", times=2, forever=True)
    fake.reply("a", forever=True)
    with pytest.raises(ValueError, match="this would never come"):
        fake.reply("b")
    assert ask(fake) == "a"


def test_of_many_calls_the_last_are_shown():
    fake = FakeAivvm()
    for n in range(25):
        ask(fake, f"question {n}")
    with pytest.raises(AssertionError, match="expected no request, but 25 came:") as caught:
        fake.assert_not_called()
    lines = str(caught.value).splitlines()
    assert (lines[1], len(lines)) == ("  ... 5 earlier ones", 22)
    assert "question 24" in lines[-1]


def test_conditions_that_are_none_ask_for_nothing():
    with pytest.raises(ValueError, match="needs something to go by"):
        FakeAivvm().on(**dict.fromkeys(Conditions.__annotations__))


@pytest.mark.parametrize("method", ["on", "fault", "assert_called_once_with", "assert_any_call"])
def test_each_condition_is_in_the_signature(method):
    shown = inspect.signature(getattr(FakeAivvm(), method)).parameters
    assert [name for name in shown if name in Conditions.__annotations__] == list(Conditions.__annotations__)
    assert {shown[name].kind for name in Conditions.__annotations__} == {inspect.Parameter.KEYWORD_ONLY}
    assert not [one for one in shown.values() if one.kind is inspect.Parameter.VAR_KEYWORD]
    for name in Conditions.__annotations__:
        assert f"`{name}`" in FakeAivvm.on.__doc__


@pytest.mark.parametrize("rest", [{"times": 3}, {"forever": True}, {"times": 2, "forever": True}])
def test_the_nth_request_is_one(rest):
    fake = FakeAivvm()
    rule = fake.on(model="gpt-4", nth=2)
    why = r"on\(model='gpt-4', nth=2\) is for one request, so it is not given .*: for another one make another rule"
    with pytest.raises(ValueError, match=why):
        rule.reply("x", **rest)
    with pytest.raises(ValueError, match=why):
        rule.fault(cut, **rest)
    rule.reply("x")
    for more in (rule.reply, rule.fault):
        with pytest.raises(ValueError, match=r"it has its step already: .* fake\.on\(nth=3, \.\.\.\)"):
            more(cut)
    assert [ask(FakeAivvm()), len(fake._rules)] == ["Hello", 1]


@pytest.mark.parametrize("kind", faults.CATALOGUE.values(), ids=lambda kind: kind.name)
def test_a_fault_that_was_not_made_is_refused_at_the_call(kind):
    fake = FakeAivvm()
    for script in (fake.fault, fake.on(model="gpt-4").fault):
        with pytest.raises(TypeError, match=rf"makes a fault: did you mean faults\.{kind.name}\(\)\?"):
            script(getattr(faults, kind.name))


@pytest.mark.parametrize("wrong", ["cut", None, faults.Fault, Reply.of("a")])
def test_only_faults_can_be_done(wrong):
    with pytest.raises(TypeError, match=r"a fault is a callable, such as faults\.cut\(after=3\), but got"):
        FakeAivvm().fault(wrong)


def test_what_is_left_is_counted_by_how_often_it_was_to_come():
    fake = FakeAivvm()
    fake.reply("a", times=3).fault(cut, times=4)
    fake.on(model="gpt-4")
    with pytest.raises(UnplayedReplies, match=r"^8 not played \(0 requests came\):"):
        fake.assert_all_played()


def test_a_miss_says_what_is_scripted():
    def said(fake):
        with pytest.raises(UnmatchedRequest) as caught:
            ask(fake)
        return str(caught.value).splitlines()[1:3]

    only_a_rule, both, queue = FakeAivvm(), FakeAivvm(), FakeAivvm()
    only_a_rule.on(model="x").reply("a")
    assert said(only_a_rule) == ["Nothing is scripted but rules.", "The only rule does not answer it:"]
    both.reply("a").on(model="x").reply("a")
    both.on(model="y").reply("b")
    ask(both)
    assert said(both) == [
        "The queue is empty: 1 of 1 scripted replies were given.",
        "None of 2 rules answers it:",
    ]
    queue.reply("a", times=2)
    assert [ask(queue), ask(queue)] == ["a", "a"]
    assert said(queue)[0] == "The queue is empty: 2 of 2 scripted replies were given."


def test_what_a_server_refused_is_no_call_and_is_mentioned_where_one_is_missed():
    fake = FakeAivvm()
    fake.reply("a")
    with fake.server() as server:
        for sent in (b"\x1b[2J\r\n", b"GET /?token=s3cret-value HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
                sock.sendall(sent)
                assert sock.recv(13) == b"HTTP/1.1 400 "
                while sock.recv(999):
                    pass
        assert [one.status for one in fake.refusals] == [400, 400]
    fake.assert_not_called()
    said = [
        "  2 more requests were refused by a server, and not counted:",
        r"    a request begins with its method, but came b'\x1b[2J\r\n' (400)",
    ]
    for failing in (fake.assert_called_once_with, fake.assert_any_call, fake.assert_all_played):
        with pytest.raises(AssertionError) as caught:
            failing()
        message = str(caught.value)
        assert [line for line in message.splitlines() if line in said] == said
        assert re.search(
            r"GET http://127.0.0.1:\d+/\?token=.*: a request has one Host field, but got 0 \(400\)", message
        )
        assert "s3cret" not in message
    ask(fake)
    assert fake.assert_called_once_with() is fake.calls[0]
    fake.assert_all_played()


def test_refusals_are_bounded():
    fake = FakeAivvm()
    for n in range(1500):
        fake.refused(Refusal(400, str(n)))
    assert (len(fake.refusals), fake.refusals[-1].why) == (1000, "1499")


def test_assertions_about_calls_give_the_call_or_say_what_came():
    fake = FakeAivvm()
    fake.assert_not_called()
    with pytest.raises(AssertionError, match="expected one request, but none came"):
        fake.assert_called_once_with()
    ask(fake, "Hello")
    assert fake.assert_called_once_with(model="gpt-4", json={"temperature": 0.7}) is fake.calls[0]
    with pytest.raises(AssertionError) as caught:
        fake.assert_called_once_with(
            model="gpt-4", json={"temperature": 1, "key": "sk-0123456789", "top_p": 1}
        )
    assert str(caught.value).splitlines() == [
        "expected one request with model='gpt-4', json={'temperature': 1, 'key': '(secret)', 'top_p': 1}, "
        "but 1 came:",
        "  POST https://chat.aivvm.com/api/chat (gpt-4: Hello)",
        "      json['temperature']: expected 1 (int), but got 0.7 (float)",
        "      json['key']: another secret",
        "      json['top_p']: expected 1 (int), but it is missing",
    ]
    ask(fake, "Bye")
    assert fake.assert_any_call(contains="Bye") is fake.calls[1]
    with pytest.raises(AssertionError, match="expected one request, but 2 came"):
        fake.assert_called_once_with()
    with pytest.raises(AssertionError, match="the last user message: expected something with 'Hm'"):
        fake.assert_any_call(contains="Hm")
    with pytest.raises(AssertionError, match="expected no request, but 2 came"):
        fake.assert_not_called()


def asked_in_turn(fake, *texts):
    """What each gets, one asking after the other, through the Python door."""
    got = []
    for text in texts:
        try:
            got.append(ask(fake, text))
        except AivvmError as error:
            got.append(type(error).__name__)
    return got


def test_what_is_said_of_the_nth_request_comes_then_whatever_is_owed():
    fake = FakeAivvm()
    fake.on(nth=1).fault(faults.cut(after_bytes=1))
    fake.on(nth=2).reply(Reply.error(500))
    fake.reply("ok", forever=True)
    assert asked_in_turn(fake, "x", "x", "x") == ["Interrupted", "StatusError", "ok"]
    fake.assert_all_played()


@pytest.mark.parametrize(
    "fault",
    [
        faults.nul(),
        faults.byte_order_mark(),
        faults.duplicated_chunk(),
        faults.invalid_bytes(),
        faults.trailing_bytes(),
    ],
    ids=repr,
)
def test_a_fault_that_only_adds_uses_the_answer_up(fault):
    fake = FakeAivvm()
    fake.reply("A").reply("B").fault(fault)
    first, second = asked_in_turn(fake, "x", "x")
    assert (first[0] if first[0] != "\ufeff" else first[1], second) == ("A", "B")
    fake.assert_all_played()


def test_a_rule_by_chance_says_that_chance_decided():
    fake = FakeAivvm()
    fake.on(model="gpt-4", probability=0.0).reply("x")
    with pytest.raises(UnmatchedRequest, match=r"chance decided against it \(probability=0, seed=0\)"):
        ask(fake, "x")


def test_a_long_condition_is_shown_where_it_differs():
    fake = FakeAivvm()
    said = "word " * 100
    body = json.loads(build_request("gpt-4", [{"role": "user", "content": f"{said}ONE{said}"}]).body)
    fake.on(json={"messages": body["messages"], "key": "a-secret-of-somebody"}).reply("x")
    with pytest.raises(UnmatchedRequest) as caught:
        ask(fake, f"{said}TWO{said}")
    message = str(caught.value)
    assert "ONEword" in message
    assert "TWOword" in message
    assert "a-secret-of-somebody" not in message


def test_a_connection_is_not_refused_before_what_is_owed():
    fake = FakeAivvm()
    fake.reply("a").reply(Reply.no_answer("refused")).reply("b").fault(faults.cut(after_bytes=0))
    assert asked_in_turn(fake, "x") == ["Interrupted"]
    assert not fake.refuses_next()
    assert asked_in_turn(fake, "x") == ["a"]
    assert fake.refuses_next()


def test_after_a_reset_it_is_as_new():
    fake = FakeAivvm()
    fake.reply("never").reply("nor this").fault(faults.cut(), forever=True).on(path="/x").reply("x")
    with pytest.raises(Interrupted):
        ask(fake, "x")
    fake.reset()
    assert (ask(fake, "echo"), len(fake.calls)) == ("echo", 1)
    fake.assert_all_played()


def test_after_a_reset_a_recording_begins_again():
    recording = Recording([Exchange(build_request("gpt-4", HELLO), Reply.of("x"), 0.0)])
    fake = FakeAivvm.replaying(recording)
    for _ in range(3):
        assert ask(fake, HELLO[0]["content"]) == "x"
        fake.reset()


@pytest.mark.parametrize("path", ["//api/chat/", "///evil.example/", "//127.0.0.1:9/x/", "/api/chat/", "//"])
def test_a_redirect_never_leads_to_another_host(path):
    reply = FakeAivvm().answer(Request("POST", f"http://127.0.0.1{path}")).reply
    assert reply is not None
    target = reply.headers.get("location")
    assert target is None or re.fullmatch(r"/(?!/).*", target)
