"""Fair timing and plain tables: every contender in turn, round after round, medians, and ratios to one of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from statistics import median

_NAME = 44  # columns


def interleaved(
    contenders: Mapping[str, Callable[[], AbstractContextManager[Callable[[], object]]]],
    *,
    rounds: int,
    turn: float,
) -> dict[str, float]:
    """Seconds per call: the median over `rounds` of the mean in a turn of `turn` seconds, contenders taking turns.

    A contender is set up for its turn and torn down after it, so that one that patches the process cannot slow the
    others; neither is timed, nor is the first call of a turn.
    """
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            # What was imported for one contender is not looked through at the cost of another.
            gc.collect()
            gc.freeze()
            with contender() as run:
                run()
                calls = 0
                now = begun = time.perf_counter()
                while now - begun < turn:
                    run()
                    calls += 1
                    now = time.perf_counter()
                took[name].append((now - begun) / calls)
    return {name: median(times) for name, times in took.items()}


def render(
    title: str, seconds: Mapping[str, float], *, against: str, unit: float = 1e-6, name: str = "us"
) -> str:
    """A table of the figures, and how many times `against`'s each of them is."""
    base = seconds[against]
    lines = [title, f"  {'':{_NAME}} {name:>10} {'x ' + against:>24}"]
    for contender, value in seconds.items():
        lines.append(f"  {contender:{_NAME}} {value / unit:10.2f} {value / base:24.3f}")
    return "\n".join(lines)


def columns(title: str, heads: Sequence[str], rows: Mapping[str, Sequence[object]]) -> str:
    """A table of words and figures, each column as wide as it must be."""
    cells = [("", *heads), *[(name, *map(str, row)) for name, row in rows.items()]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[0] = max(widths[0], _NAME)
    lines = [
        f"  {row[0]:{widths[0]}}"
        + "".join([f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)])
        for row in cells
    ]
    return "\n".join([title, *lines])


def figure(value: float | None, form: str) -> str:
    """The value in this form; a dash where there is none."""
    return "-" if value is None else format(value, form)


def not_installed(names: Iterable[str]) -> str:
    """The line that says so, with its line break; empty where there is nothing to say."""
    return f"\n  not installed: {', '.join(missing)}" if (missing := list(names)) else ""
