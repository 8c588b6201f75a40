"""`Aivvm` through transports that are plain Python: what it asks, what it gives, and what it lets go of."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from html import escape
from itertools import pairwise
from math import inf, nan
from time import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivvm import (
    AbstractProvider,
    Aivvm,
    AivvmError,
    AnswerError,
    ConnectFailed,
    Headers,
    Interrupted,
    InvalidMessages,
    InvalidOption,
    NotAnAnswer,
    PerChunkDecoder,
    Request,
    Response,
    StatusError,
    TimedOut,
    UnsupportedModel,
)
from aivvm.transport import Timeout

HELLO = [{"role": "user", "content": "Hello"}]
HTML = {"Content-Type": "text/html; charset=utf-8"}


class Scripted:
    """Gives the same answer every time, and notes what it was asked and what became of the response."""

    def __init__(
        self,
        *chunks: bytes | BaseException,
        status: int = 200,
        reason: str = "OK",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.script = chunks
        self.head = (status, reason, Headers(headers or {}))
        self.requests: list[Request] = []
        self.timeouts: list[Timeout] = []
        self.read = 0
        self.closed = 0

    def send(self, request: Request, *, timeout: Timeout) -> Response:
        self.requests.append(request)
        self.timeouts.append(timeout)
        return Response(*self.head, self.chunks(), self.close)

    def chunks(self) -> Iterator[bytes]:
        for part in self.script:
            self.read += 1
            if isinstance(part, BaseException):
                raise part
            yield part

    def close(self) -> None:
        self.closed += 1


class Untouchable:
    """Fails the test when it is used."""

    def send(self, request: Request, *, timeout: Timeout) -> Response:
        raise AssertionError(f"a request was sent: {request}")


def ask(transport: Any, **options: Any) -> list[str]:
    return list(Aivvm(transport).create_completion("gpt-4", HELLO, **options))


# What it looks like


def test_the_attributes_say_what_it_can_do() -> None:
    assert issubclass(Aivvm, AbstractProvider)
    assert Aivvm.url == "https://chat.aivvm.com"
    assert (Aivvm.supports_stream, Aivvm.working) == (True, False)
    assert (Aivvm.supports_gpt_35_turbo, Aivvm.supports_gpt_4) == (True, True)


def test_an_abstract_provider_has_to_be_filled_in() -> None:
    with pytest.raises(TypeError, match="abstract"):
        AbstractProvider()  # type: ignore[abstract]  # the mistake under test


def test_the_method_shows_its_signature_and_documentation_on_class_and_instance() -> None:
    for method in (Aivvm.create_completion, Aivvm().create_completion):
        assert list(inspect.signature(method).parameters) == ["model", "messages", "stream", "options"]
        assert "gpt-3.5-turbo" in (method.__doc__ or "")


# Calling it


def test_called_on_an_instance_it_uses_the_injected_transport_and_never_closes_it() -> None:
    class Closable(Scripted):
        def __exit__(self, *_: object) -> None:
            raise AssertionError("closed by the provider")

    transport = Closable(b"Hel", b"lo")
    assert ask(transport) == ["Hel", "lo"]
    assert transport.closed == 1


def test_called_on_a_class_it_makes_an_instance_of_that_class() -> None:
    transport = Scripted(b"Hello")

    class Mine(Aivvm):
        url = "http://mine.example/base"

        def __init__(self) -> None:
            super().__init__(transport)

    assert list(Mine.create_completion("gpt-4", HELLO)) == ["Hello"]
    assert list(Mine.create_completion(model="gpt-4", messages=HELLO, stream=False)) == ["Hello"]
    assert {request.url for request in transport.requests} == {"http://mine.example/base/api/chat"}


def test_without_a_transport_every_call_makes_its_own_and_closes_it_with_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Own] = []

    class Own(Scripted):
        def __init__(self) -> None:
            super().__init__(b"a", b"b")
            self.open = True
            made.append(self)

        def close(self) -> None:
            self.open = False

    monkeypatch.setattr("aivvm.requests_transport.RequestsTransport", Own)
    assert list(Aivvm.create_completion("gpt-4", HELLO)) == ["a", "b"]
    provider = Aivvm()
    first, second = (provider.create_completion("gpt-4", HELLO) for _ in range(2))
    assert len(made) == 1
    assert next(first) == next(second) == "a"
    assert [own.open for own in made] == [False, True, True]
    first.close()
    second.close()
    assert not any(own.open for own in made)


def test_the_request_is_sent_at_the_first_next() -> None:
    transport = Scripted(b"x")
    answer = Aivvm(transport).create_completion("gpt-4", HELLO)
    assert transport.requests == []
    next(answer)
    assert len(transport.requests) == 1
    answer.close()
    Aivvm(Untouchable()).create_completion("gpt-4", HELLO).close()


def test_options_reach_the_request() -> None:
    transport = Scripted()
    ask(transport, system_message="You translate.", temperature=0, key="k", timeout=(1, 2))
    body = transport.requests[0].json()
    assert (body["prompt"], body["temperature"], body["key"]) == ("You translate.", 0, "k")
    assert transport.timeouts == [(1.0, 2.0)]


def test_none_is_the_default_of_every_option_but_the_timeout() -> None:
    transport = Scripted()
    ask(transport)
    ask(transport, system_message=None, temperature=None, key=None, timeout=None)
    assert transport.requests[0] == transport.requests[1]
    assert transport.timeouts == [(10.0, 120.0), None]


@pytest.mark.parametrize(
    ("given_timeout", "used"),
    [
        (5, 5.0),
        (0.25, 0.25),
        ((3, None), (3.0, None)),
        ([None, 4], (None, 4.0)),
        ((None, None), (None, None)),
    ],
)
def test_a_timeout_is_seconds_or_a_pair(given_timeout: object, used: object) -> None:
    transport = Scripted()
    ask(transport, timeout=given_timeout)
    assert transport.timeouts == [used]


def test_each_instance_may_have_its_own_url() -> None:
    transport = Scripted()
    provider = Aivvm(transport, url="http://127.0.0.1:3000/")
    list(provider.create_completion("gpt-4", HELLO))
    assert transport.requests[0].url == "http://127.0.0.1:3000/api/chat"
    assert transport.requests[0].headers.get("referrer") == "https://chat.aivvm.com/"
    assert (provider.url, Aivvm.url) == ("http://127.0.0.1:3000/", "https://chat.aivvm.com")


def test_calls_do_not_influence_each_other() -> None:
    provider = Aivvm(Scripted(b"\xd0", b"\x9f"))
    first, second = (provider.create_completion("gpt-4", HELLO) for _ in range(2))
    assert [next(first), next(second)] == ["П", "П"]
    assert [*first, *second] == []


# What is refused at the call, before any I/O

BAD_CALLS: list[tuple[type[Exception], str | None, Any, dict[str, Any]]] = [
    (UnsupportedModel, "gpt-5", HELLO, {}),
    (InvalidMessages, "gpt-4", "Hello", {}),
    (InvalidMessages, "gpt-4", [{"role": "user", "content": 5}], {}),
    (InvalidMessages, "gpt-4", [{**HELLO[0], "n": nan}], {}),
    (InvalidOption, "gpt-4", HELLO, {"temperature": nan}),
    (InvalidOption, "gpt-4", HELLO, {"temperature": inf}),
    (InvalidOption, "gpt-4", HELLO, {"temperature": "hot"}),
    (InvalidOption, "gpt-4", HELLO, {"system_message": 5}),
    (InvalidOption, "gpt-4", HELLO, {"key": 5}),
    *[
        (InvalidOption, "gpt-4", HELLO, {"timeout": timeout})
        for timeout in (0, -1, nan, inf, 1e9, True, "5", (1, 2, 3), (0, 1), (1, "2"), ())
    ],
]


@pytest.mark.parametrize(("expected", "model", "messages", "options"), BAD_CALLS)
@pytest.mark.parametrize("stream", [True, False])
def test_bad_arguments_are_value_errors_at_the_call(
    expected: type[Exception], model: str, messages: Any, options: dict[str, Any], stream: bool
) -> None:
    assert issubclass(expected, ValueError)
    with pytest.raises(expected):
        Aivvm(Untouchable()).create_completion(model, messages, stream, **options)


@pytest.mark.parametrize(
    "arguments",
    [
        {"transport": "http://127.0.0.1:3000"},
        {"url": "127.0.0.1:3000"},
        {"url": ""},
        {"decoder": "utf-8"},
    ],
)
def test_bad_arguments_of_an_instance_are_refused_when_it_is_made(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        Aivvm(**arguments)


def test_a_url_that_a_subclass_got_wrong_is_refused_at_the_call() -> None:
    class Wrong(Aivvm):
        url = "chat.example"

    with pytest.raises(InvalidOption, match="url"):
        Wrong.create_completion("gpt-4", HELLO)


@pytest.mark.parametrize("call", [Aivvm.create_completion, Aivvm(Untouchable()).create_completion])
def test_an_unknown_option_warns_where_the_call_is_and_is_ignored(call: Callable[..., object]) -> None:
    with pytest.warns(UserWarning, match="unknown option 'temprature': did you mean 'temperature'") as caught:
        call("gpt-4", HELLO, temprature=0.5)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="unknown option 'proxy': the options are") as caught:
        assert ask(Scripted(b"x"), proxy="http://secret") == ["x"]
    assert "secret" not in str(caught[0].message)


def test_a_known_option_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ask(Scripted(b"x"), timeout=1, temperature=1, system_message="", key="") == ["x"]


# What it gives


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    cuts=st.lists(st.integers(0, 60), max_size=5),
)
def test_streamed_and_whole_are_the_same_text_however_it_is_cut(text: str, cuts: list[int]) -> None:
    body = text.encode()
    edges = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    chunks = [body[begin:end] for begin, end in pairwise(edges)]
    streamed = ask(Scripted(b"", *chunks, b""))
    assert "".join(streamed) == text
    assert "" not in streamed
    assert ask(Scripted(*chunks), stream=False) == [text]


def test_each_chunk_is_given_before_the_next_is_read() -> None:
    transport = Scripted(b"a", b"b", b"c")
    answer = Aivvm(transport).create_completion("gpt-4", HELLO)
    assert [(next(answer), transport.read) for _ in range(3)] == [("a", 1), ("b", 2), ("c", 3)]


def test_an_empty_answer_is_nothing_streamed_and_one_empty_text_whole() -> None:
    assert ask(Scripted()) == []
    assert ask(Scripted(b"", b"")) == []
    assert ask(Scripted(), stream=False) == [""]


def test_what_the_decoder_held_back_comes_at_the_end() -> None:
    assert ask(Scripted(b"caf\xc3")) == ["caf", "Ã"]
    assert ask(Scripted(b"caf\xc3"), stream=False) == ["cafÃ"]


def test_the_decoder_is_made_anew_for_each_answer() -> None:
    provider = Aivvm(Scripted(b"\xc3", b"\xa9"), decoder=PerChunkDecoder)
    assert list(provider.create_completion("gpt-4", HELLO)) == ["Ã", "©"]
    assert list(provider.create_completion("gpt-4", HELLO)) == ["Ã", "©"]


def test_a_model_that_writes_html_is_answering() -> None:
    assert ask(Scripted(b"<!DOCTYPE html><title>Mine</title>")) == ["<!DOCTYPE html><title>Mine</title>"]
    assert ask(Scripted(b"<p>", headers={"content-type": "text/plain"})) == ["<p>"]


# What it lets go of


def test_the_response_is_closed_at_the_end_at_an_early_end_and_after_an_error() -> None:
    whole = Scripted(b"a", b"b")
    ask(whole)
    assert whole.closed == 1

    left = Scripted(b"a", b"b")
    answer = Aivvm(left).create_completion("gpt-4", HELLO)
    next(answer)
    answer.close()
    assert (left.closed, left.read) == (1, 1)
    assert list(answer) == []

    broken = Scripted(b"a", Interrupted("cut"))
    with pytest.raises(Interrupted):
        ask(broken)
    assert broken.closed == 1

    refused = Scripted(b"Error", status=500, reason="No")
    with pytest.raises(StatusError):
        ask(refused)
    assert refused.closed == 1


# How it breaks


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "error",
    [
        Interrupted("cut"),
        TimedOut("slow"),
        RuntimeError("foreign"),
        AssertionError("a test's set-up"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_whatever_breaks_a_stream_has_the_text_so_far(error: BaseException, stream: bool) -> None:
    given_out: list[str] = []
    with pytest.raises(type(error)) as caught:
        given_out.extend(ask(Scripted("при".encode(), "вет\xe2".encode()[:-1], error), stream=stream))
    assert caught.value is error
    assert error.text == "привет"  # type: ignore[attr-defined]  # the provider sets it


def test_text_is_exactly_what_was_given_out_never_what_is_held_back() -> None:
    answer = Aivvm(Scripted(b"a\xd0", Interrupted("cut"))).create_completion("gpt-4", HELLO)
    assert next(answer) == "a"
    with pytest.raises(Interrupted) as caught:
        next(answer)
    assert caught.value.text == "a"


def test_a_decoder_that_raises_breaks_the_stream_with_the_text_so_far() -> None:
    provider = Aivvm(Scripted(b"ok", b"\xc3\\"), decoder=PerChunkDecoder)
    with pytest.raises(UnicodeDecodeError) as caught:
        list(provider.create_completion("gpt-4", HELLO))
    assert caught.value.text == "ok"  # type: ignore[attr-defined]  # the provider sets it


def test_an_error_that_takes_no_text_is_raised_all_the_same() -> None:
    class Sealed(Exception):
        @property
        def text(self) -> str:
            return "its own"

    with pytest.raises(Sealed) as caught:
        ask(Scripted(b"a", Sealed()))
    assert caught.value.text == "its own"


def test_an_error_before_the_answer_has_no_text() -> None:
    class Refusing:
        def send(self, request: Request, *, timeout: Timeout) -> Response:
            raise ConnectFailed("nobody there")

    with pytest.raises(ConnectFailed) as caught:
        ask(Refusing())
    assert caught.value.text == ""


# Answers that are none


@pytest.mark.parametrize("content_type", ["text/html", "TEXT/HTML ; charset=x", "application/xhtml+xml"])
@pytest.mark.parametrize("status", [200, 206, 299])
def test_a_web_page_is_no_answer_whatever_its_status(content_type: str, status: int) -> None:
    page = Scripted(
        b"<html><title>Welcome \xc2\xb7 nginx</title></html>",
        status=status,
        headers={"Content-TYPE": content_type},
    )
    with pytest.raises(NotAnAnswer) as caught:
        ask(page)
    assert (caught.value.status, caught.value.snippet) == (status, "Welcome · nginx")


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_success_is_an_answer(status: int) -> None:
    assert ask(Scripted(b"x", status=status)) == ["x"]


@pytest.mark.parametrize("status", [199, 300, 304, 400, 401, 403, 404, 418, 429, 500, 502, 599, 999])
def test_any_other_status_is_an_error(status: int) -> None:
    with pytest.raises(StatusError) as caught:
        ask(Scripted(b"why not", status=status, reason="Because"))
    assert (caught.value.status, caught.value.reason, caught.value.snippet) == (status, "Because", "why not")
    assert f" answered {status} Because" in str(caught.value)


@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html><html><head><title>Just a moment...</title>",
        b"<html><title>Attention Required! | Cloudflare</title>",
        b'<html><script src="/cdn-cgi/challenge-platform/h/b/orchestrate"></script>',
    ],
)
@pytest.mark.parametrize("status", [200, 403, 503])
def test_a_challenge_page_is_called_one(page: bytes, status: int) -> None:
    with pytest.raises((StatusError, NotAnAnswer), match="with a Cloudflare challenge page"):
        ask(Scripted(page, status=status, reason="Forbidden", headers=HTML))


def test_a_challenge_is_known_by_its_header_too() -> None:
    headers = {**HTML, "cf-mitigated": "challenge"}
    with pytest.raises(StatusError, match="challenge page"):
        ask(Scripted(b"<html>", status=403, headers=headers))
    with pytest.raises(StatusError, match=r"answered 403 OK with a web page \("):
        ask(Scripted(b"<html><title>No</title>", status=403, headers=HTML))


@pytest.mark.parametrize("status", [200, 204, 299, 302, 403, 503])
@pytest.mark.parametrize("kind", [{}, {"Content-Type": "text/plain"}, HTML])
@pytest.mark.parametrize("body", [b"", b"Enable JavaScript", b"<html>"])
def test_the_header_makes_it_a_challenge_whatever_else_came(
    status: int, kind: dict[str, str], body: bytes
) -> None:
    expected = NotAnAnswer if status < 300 else StatusError
    with pytest.raises(expected, match="with a Cloudflare challenge page"):
        ask(Scripted(body, status=status, headers={**kind, "CF-Mitigated": "Challenge"}))


def test_another_value_of_that_header_makes_no_challenge() -> None:
    assert ask(Scripted(b"Hello", headers={"cf-mitigated": "block"})) == ["Hello"]


@pytest.mark.parametrize(
    ("body", "snippet"),
    [
        (b"", ""),
        (b"  plain\r\n  text\t here ", "plain text here"),
        (b"bell \x07 esc \x1b[2J csi \xc2\x9b del \x7f", r"bell \x07 esc \x1b[2J csi \x9b del \x7f"),
        ("rtl \u202e override \u2066 isolate".encode(), r"rtl \u202e override \u2066 isolate"),
        (b"not utf-8 \xff", "not utf-8 �"),
        (b"x" * 1000, "x" * 199 + "…"),
        (b"<html><title> A &amp;\n B </title><p>more", "A & B"),
        (
            b"<HTML><TITLE></TITLE><style>p{}</style><script>1<2</script><!-- c --><p>Only &lt;text&gt;</p>",
            "Only <text>",
        ),
        (b"<!doctype html><p>cut off <b", "cut off"),
        (b"<html>" + b"<script" * 9000, ""),
        (b"<html>" + b"<title" * 9000, ""),
        (b"<html>" + b"<" * 16000, ""),
    ],
)
def test_a_snippet_is_one_line_of_printable_text(body: bytes, snippet: str) -> None:
    with pytest.raises(StatusError) as caught:
        ask(Scripted(body, status=500, reason="No"))
    assert caught.value.snippet == snippet


@given(st.binary(max_size=300), st.text(max_size=30), st.sampled_from([{}, HTML]))
def test_no_answer_can_send_commands_to_a_terminal(body: bytes, reason: str, headers: dict[str, str]) -> None:
    with pytest.raises(StatusError) as caught:
        ask(Scripted(body, status=500, reason=reason, headers=headers))
    for shown in (str(caught.value), caught.value.snippet):
        assert not any(c < " " or "\x7f" <= c < "\xa0" or "\ud800" <= c <= "\udfff" for c in shown)
        assert not set(shown) & set("\n\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


KEYS = st.text(st.sampled_from("aZ09-_&<é"), min_size=5, max_size=40).map(lambda rest: f"sk-{rest}")


@given(
    key=KEYS,
    status=st.sampled_from([200, 308, 401, 500]),
    kind=st.sampled_from([{}, HTML]),
    wrap=st.sampled_from(["{}", "wrong key: {}", "<html><title>{} is wrong</title>", "<html>{}", "{0} {0}"]),
    padding=st.integers(0, 300),
)
def test_the_callers_key_is_never_repeated(
    key: str, status: int, kind: dict[str, str], wrap: str, padding: int
) -> None:
    if status == 200:
        kind = HTML
    written = [key, escape(key)] if kind else [key]
    for body in [" " + "." * padding + wrap.format(form) for form in written]:
        with pytest.raises(AnswerError) as caught:
            ask(
                Scripted(
                    body.encode(), status=status, reason=f"No {key}!", headers={**kind, "location": f"/{key}"}
                ),
                key=key,
            )
        for shown in (str(caught.value), caught.value.snippet, getattr(caught.value, "reason", "")):
            assert key[:8] not in shown
        assert "No ***!" in str(caught.value)


def test_what_was_read_of_a_key_is_not_repeated_either() -> None:
    key = "sk-1234567890"
    with pytest.raises(StatusError) as caught:
        ask(Scripted(f"wrong: {key[:-1]}".encode(), Interrupted("cut"), status=401), key=key)
    assert caught.value.snippet == "wrong: ***"
    with pytest.raises(StatusError) as caught:
        ask(Scripted(b" " * (16 * 1024 - 9) + key.encode(), status=401), key=key)
    assert caught.value.snippet == "***"


@pytest.mark.parametrize("key", [None, "", "Error", "key: 12"])
def test_a_key_that_is_too_short_to_be_one_takes_nothing_away(key: str | None) -> None:
    with pytest.raises(StatusError) as caught:
        ask(Scripted(b"Error with key: 1234567", status=500, reason="Error"), key=key)
    assert (caught.value.reason, caught.value.snippet) == ("Error", "Error with key: 1234567")


def test_an_endless_error_body_is_read_only_a_little() -> None:
    def forever() -> Iterator[bytes]:
        while True:
            reads.append(1)
            yield b"x" * 1000

    class Endless:
        def send(self, request: Request, *, timeout: Timeout) -> Response:
            return Response(500, "No", Headers(), forever())

    reads: list[int] = []
    with pytest.raises(StatusError):
        ask(Endless())
    assert len(reads) <= 17


def test_an_error_body_that_drips_is_left_after_the_read_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    def drip() -> Iterator[bytes]:
        while True:
            clock[0] += 1.0
            yield b"x"

    class Dripping:
        def send(self, request: Request, *, timeout: Timeout) -> Response:
            clock[0] = 100.0
            return Response(500, "No", Headers(), drip())

    clock = [0.0]
    monkeypatch.setattr("aivvm.answers.monotonic", lambda: clock[0])
    for timeout, length in [(5, 5), ((1, 7), 7), ((1, None), 120), (None, 120)]:
        with pytest.raises(StatusError) as caught:
            ask(Dripping(), timeout=timeout)
        assert len(caught.value.snippet) == length


def test_an_error_body_that_breaks_changes_nothing_but_the_snippet() -> None:
    broken = Interrupted("cut")
    with pytest.raises(StatusError) as caught:
        ask(Scripted(b"half of it", broken, status=502, reason="Bad Gateway"))
    assert caught.value.snippet == "half of it"
    assert caught.value.__cause__ is broken
    assert caught.value.text == ""
    with pytest.raises(AssertionError, match="set-up"):
        ask(Scripted(b"half of it", AssertionError("set-up"), status=502))


def test_a_redirect_names_where_it_leads() -> None:
    with pytest.raises(StatusError, match=r"redirects to https://new\.example/api/chat"):
        ask(Scripted(status=308, reason="Moved", headers={"Location": "https://new.example/api/chat"}))
    with pytest.raises(StatusError, match="redirects to nowhere"):
        ask(Scripted(status=302, reason="Found"))


DATE = "Mon, 23 Nov 2026 01:43:19 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "30"}, 30.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Mon, 23 Nov 2026 01:44:19 GMT", "date": DATE}, 60.0),
        ({"retry-after": "Mon, 23 Nov 2026 01:40:00 GMT", "date": DATE}, 0.0),
        ({"retry-after": "Mon, 99 Nov 99999999999 01:40:00 GMT", "date": DATE}, None),
    ],
)
def test_retry_after_is_seconds_whatever_its_form(headers: dict[str, str], seconds: float | None) -> None:
    with pytest.raises(StatusError) as caught:
        ask(Scripted(status=429, reason="Too Many Requests", headers=headers))
    assert caught.value.retry_after == seconds


def test_a_date_to_retry_after_counts_from_now_where_the_answer_has_no_date() -> None:
    with pytest.raises(StatusError) as caught:
        ask(
            Scripted(
                status=503, reason="Busy", headers={"retry-after": formatdate(time() + 100, usegmt=True)}
            )
        )
    assert caught.value.retry_after is not None
    assert 90 < caught.value.retry_after <= 100


def test_every_error_of_the_peer_is_an_aivvm_error() -> None:
    scripts: Iterable[Scripted] = (
        Scripted(status=500),
        Scripted(headers=HTML),
        Scripted(Interrupted("cut")),
        Scripted(TimedOut("slow")),
    )
    for script in scripts:
        with pytest.raises(AivvmError):
            ask(script)
