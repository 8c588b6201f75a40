"""Text from elsewhere, made safe to look at."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivvm.terminal import one_line, printable

hostile = st.text(st.characters() | st.sampled_from("\x1b\x9b\r\x07\x00\u202e\u2066\ud83d\n\t"), max_size=40)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("safe\rdanger", r"safe\x0ddanger"),
        ("\x00\x07\x08\x7f", r"\x00\x07\x08\x7f"),
        ("\u202eevil\u202c \u2066x\u2069", r"\u202eevil\u202c \u2066x\u2069"),
        ("\ud83d alone", r"\ud83d alone"),
        (
            "Привет, 世界 👩\u200d👩\u200d👧 e\u0301 \u200fשלום",
            "Привет, 世界 👩\u200d👩\u200d👧 e\u0301 \u200fשלום",
        ),
        ("non\u00a0breaking \u2028 line", "non\u00a0breaking \u2028 line"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_and_the_rest_stays(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(hostile)
def test_nothing_printable_is_a_control_or_unencodable(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") for c in shown)


@given(hostile, st.integers(0, 40))
def test_piece_by_piece_is_the_same_as_at_once(text: str, cut: int) -> None:
    assert printable(text[:cut]) + printable(text[cut:]) == printable(text)
    assert printable(printable(text)) == printable(text)


@given(hostile, st.integers(1, 30))
def test_one_line_is_one_line_and_no_longer_than_asked(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
    whole = one_line(text, 10_000)
    assert line == (whole if len(whole) <= limit else whole[: limit - 1] + "…")
