"""`Aivvm`: one request, its answer as text. The only place where transport, decoder and checks meet.

Arguments are checked at the call, I/O begins with the first `next()`, and whoever closes the answer closes the
connection. This module knows neither how bytes travel nor how they become characters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from aivvm.answers import check_answer
from aivvm.base_provider import AbstractProvider, CreateResult, Messages
from aivvm.decoding import BoundarySafeDecoder, Decoder
from aivvm.errors import InvalidOption, shown
from aivvm.payload import DEFAULT_URL, build_request, chat_endpoint
from aivvm.transport import DEFAULT_TIMEOUT, Request, Timeout, Transport

_Owner = TypeVar("_Owner")
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_OPTIONS = ("system_message", "temperature", "timeout", "key")
_LONGEST_TIMEOUT = 2_147_483.0  # seconds: sockets count a timeout in milliseconds, in 31 bits


class _OnClassOrInstance(Generic[_Owner, _Parameters, _Result]):
    """A method that, called on the class, is called on an instance made for that one call."""

    def __init__(self, function: Callable[Concatenate[_Owner, _Parameters], _Result]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: _Owner | None, owner: type[_Owner]) -> Callable[_Parameters, _Result]:
        method = MethodType(self._function, owner() if instance is None else instance)
        return cast("Callable[_Parameters, _Result]", method)


class Aivvm(AbstractProvider):
    """Chats with https://chat.aivvm.com, which is gone, or with any other Chatbot UI v1 server.

        for text in Aivvm.create_completion("gpt-4", [{"role": "user", "content": "Hello"}]):
            print(text, end="")

    `transport` carries the requests and is never closed here; without one each call makes its own and closes it with
    the answer. `url` is the server's address, a path included if it has one. `decoder` makes the decoder of an
    answer. Raises `InvalidOption` for an argument that cannot be one. An instance keeps no state between calls: it is
    as safe to share between threads as its transport is.
    """

    url = DEFAULT_URL
    supports_stream = True
    working = False
    supports_gpt_35_turbo = True
    supports_gpt_4 = True

    def __init__(
        self,
        transport: Transport | None = None,
        *,
        url: str | None = None,
        decoder: Callable[[], Decoder] = BoundarySafeDecoder,
    ) -> None:
        if transport is not None:
            _check_transport(transport)
        if not callable(decoder):
            raise InvalidOption(
                f"decoder must make a decoder when called, as a class does, but got {shown(decoder)}"
            )
        if url is not None:
            chat_endpoint(url)
            self.url = url
        self._transport = transport
        self._decoder = decoder

    @_OnClassOrInstance
    def create_completion(
        self, /, model: str | None, messages: Messages, stream: bool = True, **options: Any
    ) -> CreateResult:
        """The answer of `model` (empty or None: gpt-3.5-turbo) to `messages`, as an iterator of text.

        With `stream=True` text comes as it arrives, and never as `""`; with `stream=False` the whole of it comes
        once, also when it is empty. Options, where None means the default:

        - `system_message`: text that stands before the conversation;
        - `temperature`: a finite number, 0.7 by default;
        - `timeout`: the longest silence in seconds, or a pair (connect, read) of them, by default (10, 120). Here
          None means to wait for ever;
        - `key`: the caller's own API key, where the server takes one. One of 8 characters or more is `***` in errors that
          quote a server which repeats it.

        Any other option is ignored with a `UserWarning`. Raises an `InvalidRequest` (a `ValueError`) at the call for
        what cannot be sent. The iterator sends the request at its first `next()` and raises `TransportError` or
        `AnswerError`. Whatever it raises has `text`: what it had given out, or decoded with `stream=False`. Closing
        the iterator closes the connection.
        """
        timeout: Timeout = DEFAULT_TIMEOUT
        if options:
            for name in options:
                if name not in _OPTIONS:
                    warnings.warn(_unknown_option(name), UserWarning, stacklevel=2)
            timeout = _checked_timeout(options.get("timeout", timeout))
        key = options.get("key")
        request = build_request(
            model,
            messages,
            url=self.url,
            system_message=options.get("system_message"),
            temperature=options.get("temperature"),
            key=key,
        )
        return _answer(request, self._transport, self._decoder, timeout, stream, key or "")


def _answer(
    request: Request,
    transport: Transport | None,
    make_decoder: Callable[[], Decoder],
    timeout: Timeout,
    stream: bool,
    key: str,
) -> CreateResult:
    pieces: list[str] = []
    own = None
    try:
        if transport is None:
            from aivvm.requests_transport import RequestsTransport

            transport = own = RequestsTransport()
        response = transport.send(request, timeout=timeout)
        if not hasattr(response, "status"):
            raise TypeError(f"a transport's send returns an aivvm.Response, but returned {shown(response)}")
        try:
            check_answer(response, request.url, timeout, key)
            decoder = make_decoder()
            for chunk in response:
                if type(chunk) is not bytes:
                    raise TypeError(f"a transport's response gives chunks of bytes, but gave {shown(chunk)}")
                if text := decoder.feed(chunk):
                    pieces.append(text)
                    if stream:
                        yield text
            if text := decoder.finish():
                pieces.append(text)
                if stream:
                    yield text
            if not stream:
                yield "".join(pieces)
        finally:
            response.close()
    except GeneratorExit:
        raise
    except BaseException as error:
        _note_text(error, "".join(pieces))
        raise
    finally:
        if own is not None:
            own.close()


def _check_transport(transport: object) -> None:
    if isinstance(transport, type):
        raise InvalidOption(
            f"transport must be an object, but got a class: did you mean {transport.__name__}()?"
        )
    if not callable(getattr(transport, "send", None)):
        what = f"transport must have a method send(request, *, timeout), but got {shown(transport)}"
        if callable(getattr(transport, "transport", None)):
            raise InvalidOption(f"{what}: did you mean its .transport()?")
        raise InvalidOption(f"{what}; a server's address goes into url=")


def _note_text(error: BaseException, text: str) -> None:
    with suppress(AttributeError, TypeError):  # one with slots, or with a `text` of its own, stays as it is
        error.text = text  # type: ignore[attr-defined]  # errors of other packages take attributes, too


def _unknown_option(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, _OPTIONS, n=1)
    guess = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(_OPTIONS)}."
    return f"unknown option {name!r}: {guess} It is ignored."


def _checked_timeout(timeout: object) -> Timeout:
    if timeout is None:
        return None
    if isinstance(timeout, (tuple, list)) and len(timeout) == 2:
        connect, read = timeout
        return _checked_seconds(connect, "connect timeout"), _checked_seconds(read, "read timeout")
    return _checked_seconds(timeout, "timeout")


def _checked_seconds(seconds: object, name: str) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidOption(
            f"{name} must be seconds, a pair (connect, read) of them, or None to wait for ever, "
            f"but got {shown(seconds)}"
        )
    if not 0 < seconds <= _LONGEST_TIMEOUT:
        raise InvalidOption(
            f"{name} must be more than 0 and at most {_LONGEST_TIMEOUT:.0f} seconds, but got {shown(seconds)}; "
            "None waits for ever"
        )
    return float(seconds)
