"""Area E: decoding 1 MiB in chunks of 4 KiB, clean and with one malformed chunk in a hundred, against the limit.

The limit is `codecs.utf_8_decode(chunk, "strict", False)` alone, on chunks that end between characters, as it cannot
read others. Contenders get the same bytes in chunks that end wherever 4,096 bytes do. `carrying` is the least that
reads those: the limit, and what it left over put before the next chunk.
"""

from __future__ import annotations

import codecs
import warnings
from contextlib import nullcontext
from functools import partial

from aivvm.decoding import BoundarySafeDecoder, SubpartDecoder
from tests.benchmarks.table import interleaved

SIZE = 4096
TEXTS = {
    "ASCII": "The quick brown fox jumps over the lazy dog.\n",
    "Cyrillic": "Съешь же ещё этих мягких французских булок, да выпей чаю.\n",
    "CJK": "敏捷的棕色狐狸跳过懒狗。",
    "emoji": "😀👩🚀💙",
}
STRAY = b"\xff"
STRAY_AND_ESCAPES = b"\xff\\n\\d"
AIMS = {"BoundarySafeDecoder": 0.9, "BoundarySafeDecoder, 1 % malformed": 0.8}


def report(*, quick: bool) -> str:
    """The table: the limit's MB/s, and each contender as a multiple of it (more is faster)."""
    columns = {
        name: _ratios(
            text, rounds=1 if quick else 61, turn=1e-6 if quick else 2e-3, chunks=64 if quick else 256
        )
        for name, text in TEXTS.items()
    }
    lines = [
        "E. Decoding in chunks of 4 KiB, as a multiple of the limit's speed (more is faster)",
        f"  {'':44}" + "".join([f"{name:>10}" for name in columns]) + "       aim",
    ]
    for contender in next(iter(columns.values())):
        figures = [column[contender] for column in columns.values()]
        form = "10.0f" if contender.endswith("MB/s") else "10.2f"
        aim = f">= {AIMS[contender]}" if contender in AIMS else ""
        lines.append(f"  {contender:44}" + "".join([f"{figure:{form}}" for figure in figures]) + f"{aim:>10}")
    return "\n".join(lines)


def _ratios(text: str, *, rounds: int, turn: float, chunks: int) -> dict[str, float]:
    whole = (text * (chunks * SIZE // len(text.encode()) + 1)).encode()[: chunks * SIZE]
    clean = [whole[place : place + SIZE] for place in range(0, len(whole), SIZE)]
    aligned = list(_between_characters(whole))
    stray, escapes = _malformed(clean, STRAY), _malformed(clean, STRAY_AND_ESCAPES)
    contenders = {
        "limit": lambda: _limit(aligned),
        "carrying": lambda: _carrying(clean),
        "incremental decoder of codecs": lambda: _feed(codecs.getincrementaldecoder("utf-8")().decode, clean),
        "literal per-chunk algorithm": lambda: _literal(clean),
        "BoundarySafeDecoder": lambda: _feed(BoundarySafeDecoder().feed, clean),
        "SubpartDecoder": lambda: _feed(SubpartDecoder().feed, clean),
        "literal, 1 % malformed": lambda: _literal(stray),
        "BoundarySafeDecoder, 1 % malformed": lambda: _feed(BoundarySafeDecoder().feed, stray),
        "SubpartDecoder, 1 % malformed": lambda: _feed(SubpartDecoder().feed, stray),
        "literal, 1 % malformed with escapes": lambda: _literal(escapes),
        "BoundarySafeDecoder, 1 % with escapes": lambda: _feed(BoundarySafeDecoder().feed, escapes),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the literal algorithm's
        seconds = interleaved(
            {name: partial(nullcontext, run) for name, run in contenders.items()}, rounds=rounds, turn=turn
        )
    ratios = {name: seconds["limit"] / value for name, value in seconds.items() if name != "limit"}
    return {"limit, MB/s": len(whole) / seconds["limit"] / 1e6, **ratios}


def _between_characters(whole):
    begin = 0
    while begin < len(whole):
        begin += (used := codecs.utf_8_decode(whole[begin : begin + SIZE], "strict", False)[1])
        if not used:
            return
        yield whole[begin - used : begin]


def _malformed(chunks, damage):
    """The chunks, with the damage in the middle of every hundredth."""
    middle = SIZE // 2
    damaged = list(chunks)
    for n in range(min(50, len(chunks) // 2), len(chunks), 100):
        damaged[n] = chunks[n][:middle] + damage + chunks[n][middle + len(damage) :]
    return damaged


def _limit(chunks):
    decode = codecs.utf_8_decode
    for chunk in chunks:
        decode(chunk, "strict", False)


def _carrying(chunks):
    decode, rest = codecs.utf_8_decode, b""
    for chunk in chunks:
        data = rest + chunk
        _, used = decode(data, "strict", False)
        rest = data[used:]


def _feed(feed, chunks):
    for chunk in chunks:
        feed(chunk)


def _literal(chunks):
    for chunk in chunks:
        try:
            chunk.decode("utf-8")
        except UnicodeDecodeError:
            chunk.decode("unicode-escape")
