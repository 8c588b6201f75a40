"""Fair timing and a plain table: every contender in turn, round after round, medians, and ratios to one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from statistics import median


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
    lines = [title, f"  {'':44} {name:>10} {'x ' + against:>24}"]
    for contender, value in seconds.items():
        lines.append(f"  {contender:44} {value / unit:10.2f} {value / base:24.3f}")
    return "\n".join(lines)
