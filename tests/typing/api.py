"""How the package is meant to be called, for the type checker alone: mypy --strict passes, nothing runs."""

from __future__ import annotations

from collections.abc import Iterator

import requests
from typing_extensions import assert_type

from aivvm import (
    MODELS,
    AbstractProvider,
    Aivvm,
    CreateResult,
    Headers,
    Messages,
    Model,
    PerChunkDecoder,
    Request,
    RequestsTransport,
    Response,
    SubpartDecoder,
    Transport,
    build_request,
)
from aivvm.transport import Timeout

messages: Messages = [{"role": "user", "content": "Hello"}]
as_tuple: Messages = ({"role": "user", "content": "Hello"},)

# On the class and on an instance, by position and by keyword.
assert_type(Aivvm.create_completion("gpt-4", messages), CreateResult)
assert_type(Aivvm.create_completion(model="gpt-4", messages=messages, stream=True), CreateResult)
assert_type(Aivvm.create_completion(None, as_tuple, False, temperature=0.5, timeout=(1, None)), CreateResult)
provider = Aivvm(transport=RequestsTransport(), url="http://127.0.0.1:3000", decoder=SubpartDecoder)
assert_type(provider.create_completion("gpt-4", messages), CreateResult)
assert_type(provider.create_completion(model="gpt-4", messages=messages, stream=False), CreateResult)
for text in provider.create_completion("gpt-4", [{"role": "user", "content": "Hello"}], system_message="Hi"):
    assert_type(text, str)

# What is wrong is seen: each of these comments is an error where there is none (warn_unused_ignores).
Aivvm.create_completion(5, messages)  # type: ignore[arg-type]  # a model is an id
Aivvm.create_completion("gpt-4", "Hello")  # type: ignore[arg-type]  # messages are objects
provider.create_completion("gpt-4", [{"role": "user", "content": 5}])  # type: ignore[dict-item]  # content is text
provider.create_completion("gpt-4")  # type: ignore[call-arg]  # messages are needed
Aivvm(decoder=PerChunkDecoder())  # type: ignore[arg-type]  # a factory, not a decoder


class Canned:
    """A complete fake, and no subclass of anything."""

    def send(self, request: Request, *, timeout: Timeout) -> Response:
        return Response(200, "OK", Headers(), [b"Hello"])


class Typed(AbstractProvider):
    """Somebody's own provider: an ordinary method."""

    url = "https://example.org"

    def create_completion(
        self, /, model: str | None, messages: Messages, stream: bool = True, **options: object
    ) -> CreateResult:
        yield "Hello"


class Loud(Aivvm):
    """Somebody's own kind of Aivvm: an ordinary method, too."""

    def create_completion(
        self, /, model: str | None, messages: Messages, stream: bool = True, **options: object
    ) -> CreateResult:
        for text in super().create_completion(model, messages, stream, **options):
            yield text.upper()


transport: Transport = Canned()
transport = RequestsTransport(requests.Session())
providers: list[AbstractProvider] = [Aivvm(Canned()), Typed(), Loud()]
answers: list[Iterator[str]] = [one.create_completion("gpt-4", messages) for one in providers]

assert_type(build_request("gpt-4", messages, temperature=1, key=None), Request)
assert_type(MODELS["gpt-4"], Model)
assert_type(Headers({"a": "b"}).get("a"), str | None)
assert_type(Headers({"a": "b"}).get("a", ""), str)
with transport.send(Request("GET", "http://127.0.0.1/"), timeout=None) as response:
    assert_type(next(response), bytes)
