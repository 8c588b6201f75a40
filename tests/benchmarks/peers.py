"""What recorders keep and lose, ours and each that is installed here, measured against the same truths.

A column is a recorder, a row a truth: `truths` defines them, `recorders` says how each tool is used, and docs/peers.md
explains the table. Each tool is alone in its processes, and the upstream in another. No figure is from anywhere but
this run; what is not installed has no column.
"""

from __future__ import annotations

import json
import subprocess
import tempfile

from tests.benchmarks import streams
from tests.benchmarks.processes import killed_when_ready, run, serving
from tests.benchmarks.recorders import BARE, RECORDERS, TAP_2, TAP_3, installed
from tests.benchmarks.table import columns, not_installed
from tests.benchmarks.truths import HANGS, KILLED, TRUTHS, WORST, Cell
from tests.benchmarks.upstream import CHUNK

OURS = {TAP_2: "aivvm", TAP_3: "aivvm's proxy"}
PEERS = ("vcrpy, YAML", "betamax", "responses' recorder", "mocket", "cassetter", "mitmproxy", "reel-vcr")
PATIENCE = 300.0  # seconds, for what takes up to one minute
PATIENCE_WITH_A_BODY = 15.0
MIB = 1024 * 1024
ALIKE = 2.0  # MiB


def report(*, quick: bool) -> str:
    peers, missing = ([], []) if quick else installed(list(PEERS))
    names = [*([TAP_2] if quick else OURS), *peers]
    size = 4 if quick else 40
    with serving("upstream") as (port, _):
        url = f"http://127.0.0.1:{port}"
        found = {name: _cells(name, url, quick) for name in names}
        body = f"{size} MiB body, extra peak, MiB"
        bare = _peak(BARE, url, size)
        for name in names:
            found[name][body] = _memory(name, url, size, bare)
    rows = {row: [found[name][row].text for name in names] for row in found[TAP_2]}
    table = columns(
        "What is kept, and what is lost (docs/peers.md)", [OURS.get(name, name) for name in names], rows
    )
    table += "".join([f"\n  worse than the best peer: {row}" for row in worse(found, peers)])
    return table + ("\n  left out of a quick run: all others" if quick else not_installed(missing))


def _cells(name: str, url: str, quick: bool) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    while rows := [row for row in TRUTHS if row not in cells]:
        cells |= _told(name, url, 1 if quick else 3, *rows) or dict.fromkeys(rows, Cell("fails", WORST))
    with tempfile.TemporaryDirectory() as folder:
        killed_when_ready("truths", "--record", name, url, folder, patience=RECORDERS[name].patience)
        return cells | (_told("--killed", name, url, folder) or {KILLED: HANGS})


def _told(*words: object) -> dict[str, Cell]:
    """What it tells until it hangs."""
    try:
        told = run("truths", *words, patience=PATIENCE)
    except subprocess.CalledProcessError:
        return {}
    except subprocess.TimeoutExpired as error:
        told = (error.stdout or b"").decode()
    return {row: Cell(*cell) for row, cell in map(json.loads, told.splitlines())}


def _peak(name: str, url: str, size: int) -> float | None:
    """MiB; None where that cannot be known here."""
    with tempfile.TemporaryDirectory() as folder:
        chunks = size * MIB // len(CHUNK)
        found = streams.measure("record", name, url, folder, chunks, PATIENCE_WITH_A_BODY)["peak"]
    return None if found is None else found / MIB


def _memory(name: str, url: str, size: int, bare: float | None) -> Cell:
    try:
        peak = _peak(name, url, size)
    except subprocess.TimeoutExpired:
        return Cell(f"no end in {PATIENCE_WITH_A_BODY:.0f} s", WORST)
    except subprocess.CalledProcessError:
        return Cell("fails", WORST)
    if bare is None or peak is None:
        return Cell("not known")
    extra = max(0.0, peak - bare)
    return Cell(f"{extra:.1f}", -(extra // ALIKE))


def worse(found: dict[str, dict[str, Cell]], peers: list[str]) -> list[str]:
    """The rows in which a peer keeps more than our first column."""
    return [
        row
        for row, cell in found[TAP_2].items()
        if any(
            other.worth is not None and (cell.worth is None or other.worth > cell.worth)
            for other in [found[name][row] for name in peers]
        )
    ]
