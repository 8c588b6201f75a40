"""From a caller's arguments to the one HTTP request that carries them. Pure: no I/O, and no argument is changed.

Body and headers are, byte for byte, what the known client of the service sends: `json.dumps` with its defaults and
the keys in that client's order. Everything that JSON cannot carry is refused here, with a message that says where it
is, so that nothing fails halfway through a request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from math import isfinite

from aivvm.base_provider import Messages
from aivvm.errors import InvalidMessages, InvalidOption, shown
from aivvm.models import find_model
from aivvm.transport import Headers, Request

DEFAULT_URL = "https://chat.aivvm.com"
DEFAULT_SYSTEM_MESSAGE = (
    "You are ChatGPT, a large language model trained by OpenAI. "
    "Follow the user's instructions carefully. Respond using markdown."
)
DEFAULT_TEMPERATURE = 0.7

_ROLES = frozenset(("system", "user", "assistant"))
_MAX_DEPTH = 100  # far below what exhausts the stack of any interpreter or JSON parser
_PLAIN = ["role", "content"]
_ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False)  # circles are found before

# The order of the known client. `referrer` is its spelling, and always names the public service.
_HEADERS_BEFORE_LENGTH = (
    ("accept", "text/event-stream"),
    ("accept-language", "en-US,en;q=0.9"),
    ("content-type", "application/json"),
)
_HEADERS_AFTER_LENGTH = (
    ("sec-ch-ua", '"Chrome";v="117", "Not;A=Brand";v="8", "Chromium";v="117"'),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", '"Windows"'),
    ("sec-fetch-dest", "empty"),
    ("sec-fetch-mode", "cors"),
    ("sec-fetch-site", "same-origin"),
    ("sec-gpc", "1"),
    ("referrer", "https://chat.aivvm.com/"),
    (
        "user-agent",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/117.0.0.0 Safari/537.36",
    ),
)


def build_request(
    model: str | None,
    messages: Messages,
    *,
    url: str = DEFAULT_URL,
    system_message: str | None = None,
    temperature: float | None = None,
    key: str | None = None,
) -> Request:
    """The request that asks `model` to answer `messages`; None stands for the default everywhere.

    `url` is the server's address, to which `/api/chat` is added. Keys of a message beyond `role` and `content` are
    sent too. Raises `UnsupportedModel`, `InvalidMessages` or `InvalidOption`, each a `ValueError`.
    """
    known = find_model(model)
    conversation = _written_messages(messages)
    if system_message is None:
        system_message = DEFAULT_SYSTEM_MESSAGE
    elif not isinstance(system_message, str):
        raise InvalidOption(f"system_message must be a string, but got {shown(system_message)}")
    degrees = _number(DEFAULT_TEMPERATURE if temperature is None else temperature)
    if key is None:
        key = ""
    elif not isinstance(key, str):
        raise InvalidOption(f"key must be a string, but got one of type {type(key).__name__}")
    body = (
        f'{{"model": {{"id": {_quoted(known.id)}, "name": {_quoted(known.name)}}}, '
        f'"messages": [{", ".join(conversation)}], '
        f'"key": {_quoted(key)}, "prompt": {_quoted(system_message)}, "temperature": {degrees}}}'
    ).encode("ascii")
    length = ("content-length", str(len(body)))
    headers = (*_HEADERS_BEFORE_LENGTH, length, *_HEADERS_AFTER_LENGTH)
    # Straight to the tuple: what Headers makes sure of is plain to see here, and a fifth of the whole cost.
    return Request("POST", chat_endpoint(url), tuple.__new__(Headers, headers), body)


def chat_endpoint(url: str) -> str:
    """Where the server at `url` takes chats; a trailing slash is tolerated.

    Raises `InvalidOption` unless `url` is http or https with a host, and without a query, a fragment or credentials.
    """
    if not isinstance(url, str):
        raise InvalidOption(f"url must be a string such as {DEFAULT_URL!r}, but got {shown(url)}")
    return _endpoint(url)


@lru_cache(maxsize=64)
def _endpoint(url: str) -> str:
    from urllib.parse import urlsplit

    if "@" in url.partition("//")[2].partition("/")[0]:
        raise InvalidOption(
            "url holds credentials, which would show up in messages and recordings: "
            "give them to a session instead, as in Aivvm(RequestsTransport(session), url=...)"
        )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidOption(f"url {shown(url)} cannot be read: {error}") from error
    if not url.isprintable() or " " in url or "\\" in url:
        raise InvalidOption(f"url {shown(url)} has a character that no url has: percent-encode it")
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidOption(
            f"url must be http or https with a host, such as {DEFAULT_URL!r}, but got {shown(url)}"
        )
    if not all(0 < len(label) < 64 for label in host.removesuffix(".").split(".")):
        raise InvalidOption(f"url {shown(url)} has a host that no server can have: {host!r}")
    if "?" in url or "#" in url:
        raise InvalidOption(f"url {shown(url)} has a query or a fragment: give the server's address alone")
    return url.rstrip("/") + "/api/chat"


def _number(temperature: object) -> str:
    if isinstance(temperature, float):
        if isfinite(temperature):
            return float.__repr__(temperature)
    elif isinstance(temperature, bool) or not isinstance(temperature, int):
        raise InvalidOption(f"temperature must be a number, but got {shown(temperature)}")
    else:
        with suppress(OverflowError):  # an integer beyond every float
            float(temperature)
            return int.__repr__(temperature)
    raise InvalidOption(f"temperature must be a finite number, but got {shown(temperature)}")


def _written_messages(messages: Messages) -> list[str]:
    """Each message as `json.dumps` writes it."""
    if not isinstance(messages, (list, tuple)) and (
        isinstance(messages, (str, bytes, bytearray, memoryview)) or not isinstance(messages, Sequence)
    ):
        raise InvalidMessages(
            'messages must be a list such as [{"role": "user", "content": "Hello"}], '
            f"but got {shown(messages)}"
        )
    written: list[str] = []
    for n, message in enumerate(messages):
        if not isinstance(message, (dict, Mapping)):
            raise InvalidMessages(
                f'messages[{n}] must be an object such as {{"role": "user", "content": "Hello"}}, '
                f"but got {shown(message)}"
            )
        copy: dict[str, object] = {**message}
        role, content = copy.get("role"), copy.get("content")
        if not (isinstance(role, str) and role in _ROLES and isinstance(content, str)):
            raise _wrong_message(f"messages[{n}]", copy)
        if [*copy] == _PLAIN:  # nearly always: writing it so takes a quarter of the time
            written.append(f'{{"role": {_quoted(role)}, "content": {_quoted(content)}}}')
        else:
            _check_extras(f"messages[{n}]", copy)
            written.append(_encoded(f"messages[{n}]", copy))
    return written


def _encoded(where: str, message: dict[str, object]) -> str:
    try:
        return _ENCODER.encode(message)
    except (RecursionError, TypeError, ValueError) as error:  # another thread changes it just now
        raise InvalidMessages(f"{where} cannot be written as JSON: {error}") from error


def _wrong_message(where: str, message: dict[str, object]) -> InvalidMessages:
    for key in ("role", "content"):
        if key not in message:
            return InvalidMessages(
                f"{where} must have a role and a content, but has no {key!r}: it is {shown(message)}"
            )
    role, content = message["role"], message["content"]
    if not (isinstance(role, str) and role in _ROLES):
        return InvalidMessages(
            f"""{where}["role"] must be 'system', 'user' or 'assistant', but got {shown(role)}"""
        )
    return InvalidMessages(f'{where}["content"] must be a string, but got {shown(content)}')


def _check_extras(where: str, message: dict[str, object]) -> None:
    for key, value in message.items():
        if not isinstance(key, str):
            raise InvalidMessages(f"the keys of {where} must be strings, but one is {shown(key)}")
        if key not in ("role", "content"):
            _check_json(place := f"{where}[{json.dumps(key)}]", value, place, ())


def _check_json(where: str, value: object, outermost: str, above: tuple[object, ...]) -> None:
    """Raises unless JSON gives back what is in `value`; `above` holds what `value` is within, back to `outermost`."""
    if value is None or isinstance(value, (str, bool)):
        return
    if isinstance(value, int):
        try:
            int.__repr__(value)
        except ValueError as error:
            raise InvalidMessages(f"{where} must be an integer that Python writes: {error}") from error
    elif isinstance(value, float):
        if not isfinite(value):
            raise InvalidMessages(
                f"{where} must be a finite number, as JSON has no other, but got {shown(value)}"
            )
    elif isinstance(value, (list, tuple, dict)):
        if any(value is outer for outer in above):
            raise InvalidMessages(f"{where} contains itself, which JSON cannot write")
        if len(above) == _MAX_DEPTH:
            raise InvalidMessages(f"{outermost} is nested deeper than {_MAX_DEPTH} levels")
        within = (*above, value)
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and not isinstance(key, str):
                raise InvalidMessages(f"the keys of {where} must be strings, but one is {shown(key)}")
            _check_json(f"{where}[{json.dumps(key)}]", item, outermost, within)
    else:
        raise InvalidMessages(
            f"{where} must be a string, number, boolean, null, list or object, but got {shown(value)}"
        )
