"""Text from elsewhere, made safe to look at. Pure; knows neither streams nor whether there is a terminal.

A terminal obeys what it prints: ESC and the C1 controls start commands, a carriage return overwrites the line, and
the bidirectional overrides reorder it. A lone surrogate cannot be printed at all. Text that goes to a file or a pipe
is somebody's data and needs none of this.
"""

from __future__ import annotations

import re

# Marks that Arabic, Hebrew and emoji need (U+200E, U+200F, U+061C, the joiners) only touch their neighbours: they stay.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with what a terminal would obey, or could not print, written as an escape such as `\x1b`.

    Newlines and tabs stay, and so does everything else. Each character is judged alone, so a stream can be treated
    piece by piece.
    """
    return _OBEYED.sub(_escaped, text)


def one_line(text: str, limit: int = 200) -> str:
    """The text as one printable line of at most `limit` characters; an ellipsis shows that there was more."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
