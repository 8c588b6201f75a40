"""What can go wrong, split by who must act.

    AivvmError
    ├── InvalidRequest (also ValueError)      the caller: raised at the call, before any I/O
    │   ├── UnsupportedModel
    │   ├── InvalidMessages
    │   └── InvalidOption
    ├── TransportError                        the network: the only errors that a transport raises
    │   ├── ConnectFailed                     no connection: nothing was sent
    │   ├── TimedOut                          connected, then nothing came for too long
    │   └── Interrupted                       the connection broke, before the head or within the body
    └── AnswerError                           the peer: an answer came, and it is not one
        ├── StatusError
        └── NotAnAnswer

Every error can be pickled, as test runners send them between processes. No message holds a secret.
"""

from __future__ import annotations

from reprlib import Repr
from typing import Literal


class AivvmError(Exception):
    """The root of all errors of this package.

    `text` is what the stream had given out before the error; the provider sets it.
    """

    text: str = ""


class InvalidRequest(AivvmError, ValueError):
    """An argument cannot become a request. Raised at the call, before any I/O."""


class UnsupportedModel(InvalidRequest):
    """The model's id is not one that the service knows."""


class InvalidMessages(InvalidRequest):
    """The messages are not a list of role-and-content objects that JSON can carry."""


class InvalidOption(InvalidRequest):
    """An option, the url or a timeout has a value that cannot be sent."""


class TransportError(AivvmError):
    """The network failed."""


class ConnectFailed(TransportError):
    """No connection came about, so the request was not sent.

    `kind` is `refused`, `unresolved` (DNS), `tls`, or `unreachable` (no route, or the connect timeout passed).
    """

    def __init__(
        self, message: str = "", *, kind: Literal["refused", "unresolved", "tls", "unreachable"] = "refused"
    ) -> None:
        super().__init__(message)
        self.kind = kind


class TimedOut(TransportError):
    """The peer was silent for longer than the read timeout: before the head, or between two reads."""


class Interrupted(TransportError):
    """The connection ended before the answer did: `kind` is `cut` (closed early) or `reset` (TCP RST)."""

    def __init__(self, message: str = "", *, kind: Literal["cut", "reset"] = "cut") -> None:
        super().__init__(message)
        self.kind = kind


class AnswerError(AivvmError):
    """The peer answered, with something that is not an answer of the model."""


class StatusError(AnswerError):
    """The status is not a success.

    `snippet`: the beginning of the body, one line of printable text. `retry_after`: seconds, or None.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int = 0,
        reason: str = "",
        snippet: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.snippet = snippet
        self.retry_after = retry_after


class NotAnAnswer(AnswerError):
    """A success status with a web page, or a challenge. `snippet`: its beginning, as one line of printable text."""

    def __init__(self, message: str = "", *, status: int = 200, snippet: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.snippet = snippet


def shown(value: object) -> str:
    """How a message shows a value that came: on one line, short, and with its type unless that is plain to see."""
    short = Repr()
    short.maxstring = short.maxother = 80
    try:
        text = short.repr(value)
    except Exception as error:  # whatever somebody's __repr__ raises: the message is about something else
        text = f"<a repr that raises {type(error).__name__}>"
    return text if value is None or isinstance(value, str) else f"{text} ({type(value).__name__})"
