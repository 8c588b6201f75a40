"""The tree of errors of `aivvm`, and each of its messages. What a person meets most is in `test_messages.py`."""

from __future__ import annotations

import gzip
import pickle
import socket
import ssl
from collections.abc import Callable
from http.client import BadStatusLine, IncompleteRead, RemoteDisconnected
from io import BytesIO
from math import nan
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import urllib3
from requests.adapters import BaseAdapter

import aivvm
from aivvm import (
    Aivvm,
    AivvmError,
    AnswerError,
    ConnectFailed,
    Headers,
    Interrupted,
    InvalidMessages,
    InvalidOption,
    InvalidRequest,
    NotAnAnswer,
    Request,
    RequestsTransport,
    Response,
    StatusError,
    TimedOut,
    TransportError,
    UnsupportedModel,
    build_request,
)
from aivvm.errors import shown

# The tree


def test_errors_are_split_by_who_must_act() -> None:
    assert {
        error: error.__bases__
        for error in map(aivvm.__dict__.get, aivvm.__all__)
        if isinstance(error, type) and issubclass(error, AivvmError)
    } == {
        AivvmError: (Exception,),
        InvalidRequest: (AivvmError, ValueError),
        UnsupportedModel: (InvalidRequest,),
        InvalidMessages: (InvalidRequest,),
        InvalidOption: (InvalidRequest,),
        TransportError: (AivvmError,),
        ConnectFailed: (TransportError,),
        TimedOut: (TransportError,),
        Interrupted: (TransportError,),
        AnswerError: (AivvmError,),
        StatusError: (AnswerError,),
        NotAnAnswer: (AnswerError,),
    }


@pytest.mark.parametrize(
    "error",
    [
        UnsupportedModel("m"),
        InvalidMessages("m"),
        InvalidOption("m"),
        ConnectFailed("m", kind="tls"),
        TimedOut("m"),
        Interrupted("m", kind="reset"),
        StatusError("m", status=500, reason="r", snippet="s", retry_after=3.0),
        NotAnAnswer("m", status=200, snippet="s"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_travels_between_processes_whole(error: AivvmError) -> None:
    assert error.text == ""
    error.text = "so far"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.args, vars(copy)) == (error.args, vars(error))
    assert copy.text == "so far"


# How values are shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text\n\x1b", r"'text\n\x1b'"),
        (None, "None"),
        (5, "5 (int)"),
        (True, "True (bool)"),
        (b"x", "b'x' (bytes)"),
        ([1] * 10, "[1, 1, 1, 1, 1, 1, ...] (list)"),
        ("x" * 100, f"'{'x' * 37}...{'x' * 38}'"),
    ],
)
def test_a_value_is_shown_short_and_with_its_type(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_value_that_cannot_be_shown_is_shown_as_that() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert "Shy" in shown(Shy())
    assert "int" in shown(10**5000)


# Every message

HELLO = [{"role": "user", "content": "Hello"}]


def building(model: Any = "gpt-4", messages: Any = HELLO, **options: Any) -> Callable[[], object]:
    return lambda: build_request(model, messages, **options)


def making(*arguments: Any, **options: Any) -> Callable[[], object]:
    return lambda: Aivvm(*arguments, **options)


def calling(**options: Any) -> Callable[[], object]:
    return lambda: Aivvm().create_completion("gpt-4", HELLO, **options)


def answered(
    status: int, reason: str = "", body: bytes = b"", headers: dict[str, str] | None = None, **options: Any
) -> Callable[[], object]:
    class Answering:
        def send(self, request: Request, *, timeout: object) -> Response:
            return Response(status, reason, Headers(headers or {}), [body])

    return lambda: list(Aivvm(Answering(), url="http://host").create_completion("gpt-4", HELLO, **options))


class Failing(BaseAdapter):
    """Stands for a network that fails so: before the head, or at the first read after it."""

    def __init__(self, error: Exception, head_first: bool) -> None:
        super().__init__()
        self.error = error
        self.head_first = head_first

    def send(self, *_: object, **__: object) -> requests.Response:
        if not self.head_first:
            raise self.error
        answer = requests.Response()
        answer.status_code = 200
        answer.raw = self
        return answer

    def read(self, _: int) -> bytes:
        raise self.error

    def close(self) -> None:
        pass


def failing(error: Exception, *, head_first: bool = False, timeout: Any = (10, 120)) -> Callable[[], object]:
    def run() -> object:
        with requests.Session() as session:
            session.mount("http://", Failing(error, head_first))
            return list(
                RequestsTransport(session).send(Request("POST", "http://host:3000/api"), timeout=timeout)
            )

    return run


def unfinished_gzip() -> object:
    class Answering(Failing):
        def send(self, *_: object, **__: object) -> requests.Response:
            answer = requests.Response()
            answer.status_code = 200
            answer.raw = urllib3.HTTPResponse(
                BytesIO(gzip.compress(b"x")[:-1]), {"content-encoding": "gzip"}, preload_content=False
            )
            return answer

    with requests.Session() as session:
        session.mount("http://", Answering(OSError(), True))
        return list(RequestsTransport(session).send(Request("POST", "http://host:3000/api"), timeout=1))


HTML = {"content-type": "text/html"}
CHALLENGE = b"<!DOCTYPE html><title>Just a moment...</title>"
connection = urllib3.connection.HTTPConnection("host")
no_route = urllib3.exceptions.NewConnectionError(connection, "failed")
no_route.__cause__ = OSError(113, "No route to host")
circle: list[Any] = []
circle.append(circle)
deep: list[Any] = []
for _ in range(101):
    deep = [deep]

MESSAGES: list[tuple[Callable[[], object], type[AivvmError], str]] = [
    # The model
    (
        building("gpt4"),
        UnsupportedModel,
        "unknown model 'gpt4': did you mean 'gpt-4' or 'gpt-4-32k'?",
    ),
    (
        building("llama"),
        UnsupportedModel,
        "unknown model 'llama': the known ones are gpt-3.5-turbo, gpt-3.5-turbo-0613, gpt-3.5-turbo-16k, "
        "gpt-3.5-turbo-16k-0613, gpt-4, gpt-4-0613, gpt-4-32k, gpt-4-32k-0613",
    ),
    (building(4), UnsupportedModel, "model must be an id such as 'gpt-4', but got 4 (int)"),
    # The messages
    (
        building(messages="Hello"),
        InvalidMessages,
        """messages must be a list such as [{"role": "user", "content": "Hello"}], but got 'Hello'""",
    ),
    (
        building(messages=None),
        InvalidMessages,
        'messages must be a list such as [{"role": "user", "content": "Hello"}], but got None',
    ),
    (
        building(messages=[*HELLO, "Hello"]),
        InvalidMessages,
        """messages[1] must be an object such as {"role": "user", "content": "Hello"}, but got 'Hello'""",
    ),
    (
        building(messages=[{"content": "Hello"}]),
        InvalidMessages,
        "messages[0] must have a role and a content, but has no 'role': it is {'content': 'Hello'} (dict)",
    ),
    (
        building(messages=[{"role": "user", "text": "Hello"}]),
        InvalidMessages,
        "messages[0] must have a role and a content, but has no 'content': "
        "it is {'role': 'user', 'text': 'Hello'} (dict)",
    ),
    (
        building(messages=[{"role": "bot", "content": "Hello"}]),
        InvalidMessages,
        """messages[0]["role"] must be 'system', 'user' or 'assistant', but got 'bot'""",
    ),
    (
        building(messages=[*HELLO, *HELLO, {"role": "user", "content": 5}]),
        InvalidMessages,
        'messages[2]["content"] must be a string, but got 5 (int)',
    ),
    (
        building(messages=[{**HELLO[0], 1: 2}]),
        InvalidMessages,
        "the keys of messages[0] must be strings, but one is 1 (int)",
    ),
    (
        building(messages=[{**HELLO[0], "a": {None: 2}}]),
        InvalidMessages,
        'the keys of messages[0]["a"] must be strings, but one is None',
    ),
    (
        building(messages=[{**HELLO[0], "a": [nan]}]),
        InvalidMessages,
        'messages[0]["a"][0] must be a finite number, as JSON has no other, but got nan (float)',
    ),
    (
        building(messages=[{**HELLO[0], "a": b"x"}]),
        InvalidMessages,
        "messages[0][\"a\"] must be a string, number, boolean, null, list or object, but got b'x' (bytes)",
    ),
    (
        building(messages=[{**HELLO[0], "a": circle}]),
        InvalidMessages,
        'messages[0]["a"][0] contains itself, which JSON cannot write',
    ),
    (
        building(messages=[{**HELLO[0], "a": deep}]),
        InvalidMessages,
        'messages[0]["a"] is nested deeper than 100 levels',
    ),
    # The options
    (building(system_message=5), InvalidOption, "system_message must be a string, but got 5 (int)"),
    (building(key=["secret"]), InvalidOption, "key must be a string, but got one of type list"),
    (building(temperature="hot"), InvalidOption, "temperature must be a number, but got 'hot'"),
    (building(temperature=True), InvalidOption, "temperature must be a number, but got True (bool)"),
    (building(temperature=nan), InvalidOption, "temperature must be a finite number, but got nan (float)"),
    (
        calling(timeout="5"),
        InvalidOption,
        "timeout must be seconds, a pair (connect, read) of them, or None to wait for ever, but got '5'",
    ),
    (
        calling(timeout=(5, 0)),
        InvalidOption,
        "read timeout must be more than 0 and at most 2147483 seconds, but got 0 (int); None waits for ever",
    ),
    (
        calling(timeout=(nan, 1)),
        InvalidOption,
        "connect timeout must be more than 0 and at most 2147483 seconds, but got nan (float); None waits for ever",
    ),
    # The url, and what an instance is made of
    (
        making(url=80),
        InvalidOption,
        "url must be a string such as 'https://chat.aivvm.com', but got 80 (int)",
    ),
    (
        making(url="localhost:3000"),
        InvalidOption,
        "url must be http or https with a host, such as 'https://chat.aivvm.com', but got 'localhost:3000'",
    ),
    (
        making(url="http://h:x"),
        InvalidOption,
        "url 'http://h:x' cannot be read: Port could not be cast to integer value as 'x'",
    ),
    (
        making(url="http://h/a b"),
        InvalidOption,
        "url 'http://h/a b' has a character that no url has: percent-encode it",
    ),
    (
        making(url="http://a..b"),
        InvalidOption,
        "url 'http://a..b' has a host that no server can have: 'a..b'",
    ),
    (
        making(url="http://h?q"),
        InvalidOption,
        "url 'http://h?q' has a query or a fragment: give the server's address alone",
    ),
    (
        making(url="http://me:secret@h"),
        InvalidOption,
        "url holds credentials, which would show up in messages and recordings: give them to a session instead, "
        "as in Aivvm(RequestsTransport(session), url=...)",
    ),
    (
        making("http://h"),
        InvalidOption,
        "transport must have a method send(request, *, timeout), but got 'http://h'; a server's address goes into url=",
    ),
    (
        making(RequestsTransport),
        InvalidOption,
        "transport must be an object, but got a class: did you mean RequestsTransport()?",
    ),
    (
        making(SimpleNamespace(transport=print)),
        InvalidOption,
        "transport must have a method send(request, *, timeout), but got "
        "namespace(transport=<built-in function print>) (SimpleNamespace): did you mean its .transport()?",
    ),
    (
        making(decoder="utf-8"),
        InvalidOption,
        "decoder must make a decoder when called, as a class does, but got 'utf-8'",
    ),
    (
        lambda: RequestsTransport("http://h"),  # type: ignore[arg-type]  # the mistake under test
        InvalidOption,
        "session must be a requests.Session, but got 'http://h'",
    ),
    # No connection
    (
        failing(socket.gaierror(-2, "Name or service not known")),
        ConnectFailed,
        "cannot connect to host:3000: the name does not resolve (Name or service not known). "
        "Is the url right, and is there a network?",
    ),
    (
        failing(ConnectionRefusedError(111, "Connection refused")),
        ConnectFailed,
        "cannot connect to host:3000: connection refused. Is a server listening there?",
    ),
    (
        failing(urllib3.exceptions.ProxyError("no", ConnectionRefusedError(111, "Connection refused"))),
        ConnectFailed,
        "cannot connect to host:3000 through a proxy: connection refused. Is a server listening there?",
    ),
    (failing(no_route), ConnectFailed, "cannot connect to host:3000: No route to host"),
    (
        failing(requests.ConnectTimeout("slow")),
        ConnectFailed,
        "cannot connect to host:3000: no connection within 10 s",
    ),
    (
        failing(requests.ConnectTimeout("slow"), timeout=None),
        ConnectFailed,
        "cannot connect to host:3000: no connection",
    ),
    (
        failing(ssl.SSLCertVerificationError(1, "certificate has expired")),
        ConnectFailed,
        "cannot connect to host:3000: TLS failed (certificate has expired)",
    ),
    # Silence
    (
        failing(requests.ReadTimeout("slow")),
        TimedOut,
        "host:3000 sent nothing for 120 s before it answered; timeout=(connect, read) sets how long to wait",
    ),
    (
        failing(TimeoutError("slow"), head_first=True, timeout=0.5),
        TimedOut,
        "host:3000 sent nothing for 0.5 s within its answer; timeout=(connect, read) sets how long to wait",
    ),
    (
        failing(TimeoutError("slow"), timeout=None),
        TimedOut,
        "host:3000 sent nothing for too long before it answered; timeout=(connect, read) sets how long to wait",
    ),
    # Interruptions
    (failing(RemoteDisconnected("bye")), Interrupted, "host:3000 closed the connection before it answered"),
    (
        failing(ConnectionResetError(104, "reset")),
        Interrupted,
        "host:3000 reset the connection before it answered",
    ),
    (
        failing(ConnectionResetError(104, "reset"), head_first=True),
        Interrupted,
        "host:3000 reset the connection within its answer",
    ),
    (
        failing(urllib3.exceptions.ProtocolError("Connection aborted.", BadStatusLine("SSH-2.0\x1b\r\n"))),
        Interrupted,
        r"host:3000 sent something that is not an HTTP answer: SSH-2.0\x1b",
    ),
    (
        failing(urllib3.exceptions.ProtocolError("broken", IncompleteRead(b"abc", 6)), head_first=True),
        Interrupted,
        "the connection to host:3000 ended before its answer did: IncompleteRead(3 bytes read, 6 more expected)",
    ),
    (
        failing(urllib3.exceptions.DecodeError("failed to decode it"), head_first=True),
        Interrupted,
        "the answer of host:3000 does not decode as its content-encoding says: failed to decode it",
    ),
    (
        unfinished_gzip,
        Interrupted,
        "the answer of host:3000 does not decode as its content-encoding says: the end of its gzip is missing, and "
        "some of the answer may be, too",
    ),
    (
        failing(
            requests.exceptions.RetryError(urllib3.exceptions.ResponseError("too many 500 error responses"))
        ),
        Interrupted,
        "the session's retries gave up on host:3000 (too many 500 error responses); "
        "with Retry(raise_on_status=False) the last answer is handed over",
    ),
    # Answers that are none
    (
        answered(500, "Rate limit reached for default-gpt-3.5-turbo", b"Error"),
        StatusError,
        "http://host/api/chat answered 500 Rate limit reached for default-gpt-3.5-turbo",
    ),
    (
        answered(502, "Bad\x1b Gateway", b"up\nstream"),
        StatusError,
        r'http://host/api/chat answered 502 Bad\x1b Gateway ("up stream")',
    ),
    (
        answered(429, "Too Many Requests", headers={"retry-after": "30"}),
        StatusError,
        "http://host/api/chat answered 429 Too Many Requests: try again in 30 s",
    ),
    (
        answered(404, "Not Found", b"<html><title>404: This page could not be found"),
        StatusError,
        'http://host/api/chat answered 404 Not Found with a web page ("404: This page could not be found"): '
        "is url the address of a Chatbot UI server?",
    ),
    (
        answered(405, "Method Not Allowed"),
        StatusError,
        "http://host/api/chat answered 405 Method Not Allowed: is url the address of a Chatbot UI server?",
    ),
    (
        answered(401, "Unauthorized"),
        StatusError,
        "http://host/api/chat answered 401 Unauthorized: does the server want a key, or a session that logs in?",
    ),
    (
        answered(500, "Incorrect API key: sk-12345678", b"sk-12345678 is no key", key="sk-12345678"),
        StatusError,
        'http://host/api/chat answered 500 Incorrect API key: *** ("*** is no key")',
    ),
    (
        answered(308, "Permanent Redirect", headers={"location": "https://new.example/api/chat"}),
        StatusError,
        "http://host/api/chat answered 308 Permanent Redirect: it redirects to https://new.example/api/chat, and "
        "redirects are not followed. Is url the server's own address?",
    ),
    (
        answered(403, "Forbidden", CHALLENGE, HTML),
        StatusError,
        'http://host/api/chat answered 403 Forbidden with a Cloudflare challenge page ("Just a moment..."), '
        "which only lets browsers through: try later, from another network, or another url",
    ),
    (
        answered(200, "OK", CHALLENGE, HTML),
        NotAnAnswer,
        'http://host/api/chat answered 200 OK with a Cloudflare challenge page ("Just a moment..."), '
        "which only lets browsers through: try later, from another network, or another url",
    ),
    (
        answered(200, "OK", headers={"cf-mitigated": "challenge"}),
        NotAnAnswer,
        "http://host/api/chat answered 200 OK with a Cloudflare challenge page, "
        "which only lets browsers through: try later, from another network, or another url",
    ),
    (
        answered(200, "OK", b"<html><title>Welcome</title>", HTML),
        NotAnAnswer,
        'http://host/api/chat answered 200 OK with a web page ("Welcome"): '
        "is url the address of a Chatbot UI server?",
    ),
]


@pytest.mark.parametrize(("run", "expected", "text"), MESSAGES, ids=[text[:60] for _, _, text in MESSAGES])
def test_the_message_says_what_was_expected_what_came_and_what_to_do(
    run: Callable[[], object], expected: type[AivvmError], text: str
) -> None:
    with pytest.raises(expected) as caught:
        run()
    assert str(caught.value) == text
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("temprature", "unknown option 'temprature': did you mean 'temperature'? It is ignored."),
        (
            "proxy",
            "unknown option 'proxy': the options are system_message, temperature, timeout, key. It is ignored.",
        ),
    ],
)
def test_the_warning_names_the_option_that_was_meant(option: str, text: str) -> None:
    with pytest.warns(UserWarning, match="unknown option") as caught:
        Aivvm().create_completion("gpt-4", HELLO, **{option: 1})
    assert [str(warning.message) for warning in caught] == [text]


# A transport that keeps no contract


class Careless:
    def __init__(self, response: object) -> None:
        self.response = response

    def send(self, request: Request, *, timeout: object) -> Any:
        return self.response


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ("Hello", "a transport's send returns an aivvm.Response, but returned 'Hello'"),
        (
            Response(200, "OK", Headers(), ["Hello"]),
            "a transport's response gives chunks of bytes, but gave 'Hello'",
        ),  # type: ignore[list-item]  # the mistake under test
    ],
)
def test_a_careless_transport_is_told_what_is_wrong(response: object, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        list(Aivvm(Careless(response)).create_completion("gpt-4", HELLO))
    assert str(caught.value) == message


def test_a_response_takes_any_pairs_as_headers_and_no_bare_body() -> None:
    response = Response(200, "OK", [("A", "b")], [])  # type: ignore[arg-type]  # what careless code gives
    assert response.headers.get("a") == "b"
    with pytest.raises(
        TypeError, match=r"chunks is an iterable of bytes, such as \[b'Hello'\], but got b'Hello'"
    ):
        Response(200, "OK", Headers(), b"Hello")  # type: ignore[arg-type]  # the mistake under test
