"""A minimal streaming chat provider with an injected transport.

    from aivvm import Aivvm

    for text in Aivvm.create_completion("gpt-4", [{"role": "user", "content": "Hello"}]):
        print(text, end="")

Names are imported when they are first used, and `requests` when something is first sent over the network.
"""

TYPE_CHECKING = False  # so that this module need not import `typing`; type checkers know the name
if TYPE_CHECKING:
    from aivvm.base_provider import AbstractProvider as AbstractProvider
    from aivvm.base_provider import CreateResult as CreateResult
    from aivvm.base_provider import Messages as Messages
    from aivvm.decoding import BoundarySafeDecoder as BoundarySafeDecoder
    from aivvm.decoding import Decoder as Decoder
    from aivvm.decoding import PerChunkDecoder as PerChunkDecoder
    from aivvm.decoding import SubpartDecoder as SubpartDecoder
    from aivvm.errors import AivvmError as AivvmError
    from aivvm.errors import AnswerError as AnswerError
    from aivvm.errors import ConnectFailed as ConnectFailed
    from aivvm.errors import Interrupted as Interrupted
    from aivvm.errors import InvalidMessages as InvalidMessages
    from aivvm.errors import InvalidOption as InvalidOption
    from aivvm.errors import InvalidRequest as InvalidRequest
    from aivvm.errors import NotAnAnswer as NotAnAnswer
    from aivvm.errors import StatusError as StatusError
    from aivvm.errors import TimedOut as TimedOut
    from aivvm.errors import TransportError as TransportError
    from aivvm.errors import UnsupportedModel as UnsupportedModel
    from aivvm.models import MODELS as MODELS
    from aivvm.models import Model as Model
    from aivvm.payload import build_request as build_request
    from aivvm.provider import Aivvm as Aivvm
    from aivvm.requests_transport import RequestsTransport as RequestsTransport
    from aivvm.transport import Headers as Headers
    from aivvm.transport import Request as Request
    from aivvm.transport import Response as Response
    from aivvm.transport import Transport as Transport

    __version__: str

_NAMES = {
    "base_provider": ("AbstractProvider", "CreateResult", "Messages"),
    "decoding": ("BoundarySafeDecoder", "Decoder", "PerChunkDecoder", "SubpartDecoder"),
    "errors": (
        "AivvmError",
        "AnswerError",
        "ConnectFailed",
        "Interrupted",
        "InvalidMessages",
        "InvalidOption",
        "InvalidRequest",
        "NotAnAnswer",
        "StatusError",
        "TimedOut",
        "TransportError",
        "UnsupportedModel",
    ),
    "models": ("MODELS", "Model"),
    "payload": ("build_request",),
    "provider": ("Aivvm",),
    "requests_transport": ("RequestsTransport",),
    "transport": ("Headers", "Request", "Response", "Transport"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(f"aivvm.{_HOMES[name]}"), name)
    elif name == "__version__":
        from importlib.metadata import version

        value = version("aivvm")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
