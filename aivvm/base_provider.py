"""What every provider looks like from outside: its attributes and its one method. No behaviour lives here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeAlias

Messages: TypeAlias = Sequence[Mapping[str, str]]
"""The conversation so far, oldest first: `{"role": "system" | "user" | "assistant", "content": text}` each."""

CreateResult: TypeAlias = Generator[str, None, None]
"""An answer: an iterator of text. `close()` lets go of the connection, also when nothing was read yet."""


class AbstractProvider(ABC):
    """A service that answers conversations. The attributes say what it can do, before it is asked."""

    url: str
    """Where the service is; an instance may have its own."""
    supports_stream: bool = False
    working: bool = False
    """Whether the public service at `url` is known to answer."""
    supports_gpt_35_turbo: bool = False
    supports_gpt_4: bool = False

    @abstractmethod
    def create_completion(
        self, /, model: str | None, messages: Messages, stream: bool = True, **options: Any
    ) -> CreateResult:
        """The answer to `messages`: piece by piece as it arrives, or with `stream=False` whole and once."""
        ...
