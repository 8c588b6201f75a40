"""Adversity by name: what is done to every answer of a test, so that its client meets every chunking and every fault.

A `Case` is a chunking, a fault, or both, each written as on a command line; it is a fault itself, from reply to reply.
Which tests meet which cases is the plugin's business.

    chunkings     1  4096        chunks of so many bytes
                  whole          one chunk
                  random:7       sizes that the seed 7 gives; `random` alone is random:0
    faults        cut  cut@2     by its name in the catalogue, at chunk 2 where it takes `after`
                  cut@*          at every chunk
                  jitter(0.5)    as code
    both          all            each of `CHUNKINGS`, each of `every_fault()`
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache

from aivvm_testing import faults
from aivvm_testing.faults import Fault
from aivvm_testing.reply import Reply

CHUNKINGS = ("whole", "1", "2", "3", "7", "random:0", "random:1", "random:2")
"""What `all` stands for. Characters of UTF-8 have up to 4 bytes, escapes up to 10: small sizes cut them everywhere."""

MOST_CHUNKS = 8
"""What `@*` goes up to where the answers are not known before the test runs."""

_AT = re.compile(r"([A-Za-z_-]+)@(\d+|\*)")
_LONGEST_RANDOM_CHUNK = 12


@dataclass(frozen=True)
class Case:
    """What is done to an answer: first it is cut into chunks, then broken. Both are `""` for what leaves it as it is.

    A reply that cannot be broken so, as it is too short or has no head, stays as it is. `seen` has, for each answer that
    was to be broken, how many chunks it had and whether it is another now. Raises `ValueError` for what is no chunking or
    no fault.
    """

    chunking: str = ""
    fault: str = ""
    seen: list[tuple[int, bool]] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.chunking:
            _sizes(self.chunking, b"")
        if self.fault:
            _fault(self.fault)

    def __bool__(self) -> bool:
        return bool(self.chunking or self.fault)

    def __call__(self, reply: Reply) -> Reply:
        if self.chunking and reply.body:
            reply = reply.rechunk(_sizes(self.chunking, reply.body))
        if self.fault:
            whole = reply
            with suppress(ValueError):
                reply = _fault(self.fault)(whole)
            self.seen.append((len(whole.chunks), reply != whole))
        return reply

    @property
    def broke(self) -> bool:
        """Whether its fault has changed an answer."""
        return any([changed for _, changed in self.seen])

    @property
    def id(self) -> str:
        """Readable, and unlike any other case's."""
        parts = [f"rechunk={self.chunking}"] if self.chunking else []
        return "-".join([*parts, self.fault] if self.fault else parts) or "as-it-is"

    @property
    def options(self) -> list[str]:
        """What makes pytest do this."""
        options = [f"--aivvm-rechunk={self.chunking}"] if self.chunking else []
        return [*options, f"--aivvm-fault={self.fault}"] if self.fault else options

    def __repr__(self) -> str:
        return " ".join(self.options) or "no adversity"


def cases(
    chunkings: Iterable[object] = (), faults: Iterable[object] = (), *, chunks: int = MOST_CHUNKS
) -> list[Case]:
    """Each chunking with each fault; alone, where there are none of the others. `chunks`: how far `@*` goes."""
    cut = list(dict.fromkeys(_expanded_chunkings(chunkings)))
    broken = list(dict.fromkeys(_expanded_faults(faults, chunks)))
    return [Case(chunking, fault) for chunking in cut or [""] for fault in broken or [""]]


def every_fault(chunks: int = MOST_CHUNKS) -> list[str]:
    """Each fault of the catalogue as it is by default, then each that happens at a chunk, at each of so many chunks."""
    names = list(faults.CATALOGUE)
    return names + [f"{name}@{n}" for name in ("cut", "reset", "stall") for n in range(chunks)]


def _expanded_chunkings(given: Iterable[object]) -> Iterator[str]:
    for one in _listed(given, "chunkings"):
        yield from CHUNKINGS if str(one) == "all" else [str(one)]


def _expanded_faults(given: Iterable[object], chunks: int) -> Iterator[str]:
    for one in _listed(given, "faults"):
        text = getattr(one, "__name__", None) or str(one)
        if text == "all":
            yield from every_fault(chunks)
        elif text.endswith("@*"):
            yield from [f"{text[:-1]}{n}" for n in range(chunks)]
        else:
            yield text.removeprefix("faults.")


def _listed(given: object, what: str) -> Iterable[object]:
    if isinstance(given, (str, int, Fault)):
        return [given]
    if not isinstance(given, Iterable):
        raise TypeError(f"{what} are several, such as ['all'], but got {given!r}")
    return given


def _sizes(chunking: str, body: bytes) -> int | list[int]:
    kind, colon, seed = chunking.partition(":")
    if chunking == "whole":
        return max(1, len(body))
    if kind.isdecimal() and not colon and int(kind):
        return int(kind)
    if kind == "random" and (not colon or seed.isdecimal()):
        dice = random.Random(f"{int(seed or 0)}")
        left, sizes = len(body), []
        while left > 0:
            sizes.append(dice.randint(1, _LONGEST_RANDOM_CHUNK))
            left -= sizes[-1]
        return sizes
    raise ValueError(
        f"a chunking is a number of bytes, 'whole', 'random', 'random:SEED', or 'all' for several, but got {chunking!r}"
    )


@lru_cache(maxsize=256)
def _fault(text: str) -> Fault:
    at = _AT.fullmatch(text)
    if at is None:
        return faults.parse(text)
    name, n = at[1], at[2]
    make = faults.named(name)
    if "after" not in inspect.signature(make).parameters:
        raise ValueError(f"the fault {name!r} happens at no chunk of its own: say {name!r} alone")
    if n == "*":
        raise ValueError(
            f"{text!r} is many faults: name one chunk, as in '{name}@2', or all of them, where cases are listed"
        )
    return make(after=int(n))
