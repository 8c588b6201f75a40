"""The service that the fake stands in for: what the real server answers by itself, and what is in its requests.

Facts of the protocol as they were seen on a real Chatbot UI v1 server, and nothing else: no script, no recording, no
state. A body is read as that server reads it: a byte order mark is accepted, ill-formed UTF-8 replaced.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from email.utils import formatdate
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from aivvm.models import MODELS
from aivvm.transport import Headers, Request
from aivvm_testing.reply import Reply

_SMALL = 64 * 1024
_WORDS = re.compile(r"\s*\S+|\s+")
_NOT_FOUND_PAGE = (
    "<!DOCTYPE html><html><head><title>404: This page could not be found</title></head>"
    "<body><h1>404</h1><p>This page could not be found.</p></body></html>"
)


def is_models(request: Request) -> bool:
    """Whether the models are asked for."""
    return urlsplit(request.url).path == "/api/models"


def answer_without_model(request: Request) -> Reply | dict[str, Any]:
    """What the server answers before it asks a model; else the body of the chat request that it would pass on."""
    answer = _answer(request)
    if request.method == "HEAD" and isinstance(answer, Reply):
        assert answer.head is not None
        # No body, so no word about its framing.
        return replace(answer, head=replace(answer.head, headers=answer.headers.without("transfer-encoding")))
    return answer


def _answer(request: Request) -> Reply | dict[str, Any]:
    path = urlsplit(request.url).path
    if len(path) > 1 and path.endswith("/"):
        target = "/" + path.strip("/")  # two slashes would begin the name of another host
        return dressed(
            Reply.of(target, status=308, headers={"Location": target, "Refresh": f"0;url={target}"})
        )
    if path == "/api/models":
        return _models() if isinstance(json_of(request.body), dict) else _server_error()
    if path != "/api/chat":
        return dressed(
            Reply.of(
                _NOT_FOUND_PAGE,
                status=404,
                headers={
                    "Content-Type": "text/html; charset=utf-8",
                    "Content-Length": str(len(_NOT_FOUND_PAGE)),
                },
            )
        )
    body = request.body
    return (_remembered_chat(body) if len(body) <= _SMALL else _chat(body)) or _server_error()


def _chat(body: bytes) -> dict[str, Any] | None:
    """A chat request that a model could be asked, None for what the server fails on."""
    asked = json_of(body)
    if not isinstance(asked, dict) or not asked.get("model") or not isinstance(asked.get("messages"), list):
        return None
    for message in asked["messages"]:
        if not isinstance(message, dict) or message.get("content") is None:
            return None
    return asked


_remembered_chat = lru_cache(maxsize=16)(_chat)


def _server_error() -> Reply:
    return dressed(Reply.error())


def _models() -> Reply:
    listed = [{"id": model.id, "name": model.name} for model in MODELS.values()]
    body = json.dumps(listed, separators=(",", ":"))
    return dressed(Reply.of(body, headers={"content-type": "text/plain;charset=UTF-8"}))


def json_of(body: bytes) -> Any:
    """A request's body as the server reads it, None where it is no JSON; not to be changed.

    Every rule looks at the same body, so a small one is kept for a while.
    """
    return _remembered(body) if len(body) <= _SMALL else _parsed(body)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None


_remembered = lru_cache(maxsize=16)(_parsed)


def model_id(body: dict[str, Any]) -> object:
    """The model that a chat request names, as an object or as a string."""
    model = body.get("model")
    return model.get("id") if isinstance(model, dict) else model


def last_user_message(body: dict[str, Any]) -> str:
    """What the user said last; empty where nothing was."""
    messages = body.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            return str(message.get("content"))
    return ""


def echo(body: dict[str, Any]) -> Reply:
    """An answer that repeats the last user message, a word a chunk."""
    text = last_user_message(body)
    words = [word.encode("utf-8", "replace") for word in _WORDS.findall(text)]
    return dressed(Reply.of(*words))


_today: tuple[int, str] = (0, "")


def date() -> str:
    """The value of a Date field that is sent now."""
    global _today
    now = int(time.time())
    if _today[0] != now:
        _today = (now, formatdate(now, usegmt=True))
    return _today[1]


def dressed(reply: Reply) -> Reply:
    """The reply with the connection's header fields that the real server sends, unless it brings its own."""
    head = reply.head
    if head is None or any(name.lower() in ("connection", "transfer-encoding") for name, _ in head.headers):
        return reply
    added = [("Date", date()), ("Connection", "keep-alive"), ("Keep-Alive", "timeout=5")]
    if head.headers.get("date") is not None:
        del added[0]
    if head.headers.get("content-length") is None:
        added.append(("Transfer-Encoding", "chunked"))
    return replace(reply, head=replace(head, headers=Headers([*head.headers, *added])))
