"""The fake server answers, on the wire, as the real one was seen to: each row of its captured exchanges."""

from __future__ import annotations

import socket
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest

from aivvm_testing import FakeAivvm, Reply, fixtures


def rows(*names, wanted=lambda exchange: True):
    return [
        pytest.param(exchange, id=f"{name}-{n}")
        for name in names
        for n, exchange in enumerate(fixtures.load(name))
        if wanted(exchange)
    ]


def on_the_wire(url, request):
    """The answer's status, reason, header names and body, to the very bytes of a request."""
    parts = urlsplit(request.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"{request.method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in request.headers]]
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=5) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + request.body)
        with HTTPResponse(sock, method=request.method) as response:
            response.begin()
            return seen(response.status, response.reason, response.getheaders(), response.read())


def seen(status, reason, headers, body):
    return status, reason, [name for name, _ in headers], body


def of(reply):
    return seen(reply.status, reply.head.reason, reply.headers, reply.body)


def upstream_is_well(exchange):
    return not exchange.request.body.startswith(b'{"key": "e')


@pytest.mark.parametrize(
    "exchange",
    rows("real_methods", "real_odd_requests", "real_models", "real_models_errors", wanted=upstream_is_well),
)
def test_what_needs_no_upstream_is_answered_as_the_real_server_answers(exchange):
    """Where a model was asked, the head is compared; the text is the fake's own."""
    with FakeAivvm().server() as server:
        came = on_the_wire(server.url, exchange.request)
    expected = of(exchange.reply)
    if exchange.reply.status == 200:
        came, expected = came[:3], expected[:3]
    assert came == expected


@pytest.mark.parametrize(
    "exchange", rows("real_upstream_errors", "real_rate_limit", "real_unreachable_upstream")
)
def test_an_upstreams_error_is_scripted_by_its_message_alone(exchange):
    reason = exchange.reply.head.reason
    if exchange.reply.headers.get("content-type") is None:
        reason = "a message that latin-1 cannot carry: Привет"
    fake = FakeAivvm()
    fake.reply(Reply.error(500, reason=reason))
    with fake.server() as server:
        assert on_the_wire(server.url, exchange.request) == of(exchange.reply)


@pytest.mark.parametrize(
    "exchange",
    rows(
        "real_chat",
        "real_flood",
        "real_empty_answer",
        "real_early_clean_end",
        "real_upstream_streams",
        wanted=lambda exchange: exchange.reply.ending.kind == "complete",
    ),
)
def test_a_recorded_answer_is_sent_with_its_own_head(exchange):
    fake = FakeAivvm()
    fake.reply(exchange.reply.scale(0))
    with fake.server() as server:
        assert on_the_wire(server.url, exchange.request) == of(exchange.reply)
