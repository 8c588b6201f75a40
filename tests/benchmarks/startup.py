"""Area F: what an import costs, and how late the first chunk comes while recording.

A recorder is compared with none that asks in the same way: through a transport, by a one-shot `requests.post`, by a
Session that has to connect, or by one whose connection is open. Each has had an answer before, so that what is timed is
one more request, not what setting up leaves in the caches of the processor. The upstream is a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import requests

from tests.benchmarks.processes import serving
from tests.benchmarks.recorders import (
    BARE,
    RECORDERS,
    TAP_1,
    TAP_2,
    TAP_2_ADAPTER,
    TAP_3,
    Client,
    Door,
    bare,
    bare_transport,
    installed,
)
from tests.benchmarks.table import columns, not_installed, render

IMPORTED = (
    "aivvm",
    "aivvm_testing",
    "requests",
    "responses",
    "requests_mock",
    "pytest_httpserver",
    "betamax",
    "vcr",
)
RECORDING_PEERS = ("vcrpy, YAML", "betamax", "cassetter")
TRANSPORT = "transport"
ONE_SHOT = "requests.post"
NEW_CONNECTION = "new connection"
KEPT_ALIVE = "open connection"
SLOW_ROUNDS = 5


def report(*, quick: bool) -> str:
    imports = _imports(1, IMPORTED[:3]) if quick else _imports(15, IMPORTED)
    return f"{imports}\n\n{_first_chunk(quick)}"


def _imports(rounds: int, wanted: Sequence[str]) -> str:
    names = [name for name in wanted if importlib.util.find_spec(name)]
    took: dict[str, list[float]] = {f"import {name}": [] for name in names}
    for _ in range(rounds):
        for name in names:
            took[f"import {name}"].append(_import_seconds(name))
    seconds = {name: median(times) for name, times in took.items()}
    table = render("F. Import", seconds, against="import requests", unit=1e-3, name="ms")
    missing = [name for name in wanted if name not in names]
    return table + not_installed(missing)


def _import_seconds(name: str) -> float:
    """Cumulative, as the interpreter itself counts it, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import {name}"],
        capture_output=True,
        text=True,
        check=True,
    )
    last = re.findall(rf"\|\s*(\d+) \| {name}$", run.stderr, re.MULTILINE)[-1]
    return int(last) / 1e6


def _one_shot(door: Door) -> Door:
    @contextmanager
    def using(folder: str, url: str) -> Iterator[Client]:
        with door(folder, url) as client:
            yield Client(client.url, requests)

    return using


FIRST_CHUNK: dict[str, dict[str, Door]] = {
    TRANSPORT: {BARE: bare_transport, TAP_1: RECORDERS[TAP_1].recording},
    ONE_SHOT: {
        BARE: _one_shot(bare),
        TAP_2: _one_shot(RECORDERS[TAP_2].recording),
    },
    NEW_CONNECTION: {BARE: bare, TAP_2_ADAPTER: RECORDERS[TAP_2_ADAPTER].recording},
    KEPT_ALIVE: {
        BARE: bare,
        TAP_2: RECORDERS[TAP_2].recording,
        TAP_2_ADAPTER: RECORDERS[TAP_2_ADAPTER].recording,
    },
    f"{ONE_SHOT}, proxy": {BARE: _one_shot(bare), TAP_3: _one_shot(RECORDERS[TAP_3].recording)},
    f"{KEPT_ALIVE}, proxy": {BARE: bare, TAP_3: RECORDERS[TAP_3].recording},
}


def _first_chunk(quick: bool) -> str:
    """Contenders of a kind take turns, in another order each time, as each feels what came before it; those that wait for
    the last chunk do so in `SLOW_ROUNDS` of their own."""
    rounds = 1 if quick else 600
    took: dict[str, list[float]] = {
        f"{kind}: {name}": [] for kind in FIRST_CHUNK for name in FIRST_CHUNK[kind]
    }
    order = random.Random(1)
    with serving("upstream") as (port, _), tempfile.TemporaryDirectory() as folder:
        url = f"http://127.0.0.1:{port}"
        slow, missing = ([], []) if quick else installed(list(RECORDING_PEERS))
        for kind, contenders in FIRST_CHUNK.items():
            names = list(contenders)
            for n in range(rounds + 1):
                order.shuffle(names)
                for name in names:
                    seconds = _time_to_first(contenders[name], f"{folder}/{n}-{kind}-{name}", url, kind)
                    if n:  # the first round only warms up
                        took[f"{kind}: {name}"].append(seconds)
        for n in range(SLOW_ROUNDS):
            for name in slow:
                seconds = _time_to_first(RECORDERS[name].recording, f"{folder}/{n}-{name}", url, ONE_SHOT)
                took.setdefault(f"{ONE_SHOT}: {name}", []).append(seconds)
    medians = {name: median(times) for name, times in took.items()}
    rows = {
        name: (f"{1000 * value:.2f}", f"{value / medians[f'{kind}: {BARE}']:.3f}")
        for name, value in medians.items()
        for kind in [name.partition(":")[0]]
    }
    title = "F. First of six chunks that are sent 80 ms apart, while recording"
    table = columns(title, ("ms", f"x {BARE} of its kind"), rows)
    return table + ("\n  left out of a quick run: peers" if quick else not_installed(missing))


def _time_to_first(door: Door, folder: str, url: str, kind: str) -> float:
    """Seconds."""
    os.mkdir(folder)
    below = "/kept" if kind.startswith(KEPT_ALIVE) else ""
    with door(folder, url) as client:
        client.read(f"{below}/echo/warm")
        begun = time.perf_counter()
        with client.reading(f"{below}/six") as pieces:
            next(pieces)
            return time.perf_counter() - begun
