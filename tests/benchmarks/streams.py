"""Area B: a stream of 64 MiB in chunks of 4 KiB, recorded while it is read, and then loaded and replayed.

Each contender is alone in a process (`python -m tests.benchmarks.streams record|replay NAME URL FOLDER CHUNKS`), and
so is the upstream. It first records and replays a small stream, so that imports and first uses are not what is
measured. Extra memory is the peak beyond what the process had before, less that of the bare reader. The tee is what is
least: each chunk is written to a file as it comes, without a buffer, as a journal is; it reads like the contender that
is compared with it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from tests.benchmarks.processes import PATIENCE, forget_peak, peak, peak_of_children, resident, run, serving
from tests.benchmarks.recorders import (
    BARE,
    BARE_TRANSPORT,
    READ_SIZE,
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
from tests.benchmarks.table import columns, figure, not_installed
from tests.benchmarks.upstream import CHUNK

TEE = "a plain tee to a file"
TEE_TRANSPORT = "a plain tee to a file, a transport"
FILE = "the tee's file, read"
OURS = (TAP_1, TAP_2, TAP_2_ADAPTER, TAP_3)
PEERS = ("vcrpy, YAML", "vcrpy, JSON", "betamax", "cassetter")
MIB = 1024 * 1024
WARM_UP = 16  # chunks


def report(*, quick: bool) -> str:
    size = 2 if quick else 64
    peers, missing = ([], []) if quick else installed(list(PEERS))
    recorders = [*OURS, *peers]
    chunks = size * MIB // len(CHUNK)
    took: dict[str, list[dict[str, Any]]] = {}
    replayed: dict[str, list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    with serving("upstream") as (port, _):
        url = f"http://127.0.0.1:{port}"
        for n in range(1 if quick else 3):
            for name in (BARE, BARE_TRANSPORT, TEE, TEE_TRANSPORT, *recorders):
                if n and name in peers:
                    continue  # once tells enough: they are slower by a multiple
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        took.setdefault(name, []).append(measure("record", name, url, folder, chunks))
                        if name in (TEE, *recorders):
                            found = measure("replay", name, url, folder, chunks)
                            replayed.setdefault(FILE if name == TEE else name, []).append(found)
                    except subprocess.SubprocessError as error:
                        failed[name] = _said(error)
    done = "\n\n".join([_recording(took, size), _replaying(replayed, size)])
    done += "".join([f"\n  {name} fails: {why}" for name, why in failed.items()])
    return done + ("\n  left out of a quick run: all others" if quick else not_installed(missing))


def measure(
    what: str, name: str, url: str, folder: str, chunks: int, patience: float = PATIENCE
) -> dict[str, Any]:
    """`seconds`, `cpu`, `first` (seconds until the first bytes are read) and `peak` (bytes, or None)."""
    found: dict[str, Any] = json.loads(run("streams", what, name, url, folder, chunks, patience=patience))
    return found


def _said(error: subprocess.SubprocessError) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in str(error.stderr).splitlines() if re.match(r"[\w.]+: ", line)]
        return lines[-1][:100] if lines else str(error)[:100]
    return type(error).__name__


def _middle(runs: dict[str, list[dict[str, Any]]], name: str, key: str) -> float | None:
    values = [one[key] for one in runs[name]]
    return None if None in values else median(values)


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def _extra(runs: dict[str, list[dict[str, Any]]], name: str, reference: str) -> str:
    used, least = _middle(runs, name, "peak"), _middle(runs, reference, "peak")
    return figure(None if used is None or least is None else max(0.0, used - least) / MIB, ".1f")


def _recording(runs: dict[str, list[dict[str, Any]]], size: int) -> str:
    rows = {}
    for name in runs:
        of_transports = name in (BARE_TRANSPORT, TEE_TRANSPORT, TAP_1)
        tee, none = (TEE_TRANSPORT, BARE_TRANSPORT) if of_transports else (TEE, BARE)
        seconds, cpu, first = (_middle(runs, name, key) for key in ("seconds", "cpu", "first"))
        rows[name] = (
            figure(seconds, ".3f"),
            figure(cpu, ".3f"),
            figure(_ratio(seconds, _middle(runs, tee, "seconds")), ".2f"),
            figure(_ratio(cpu, _middle(runs, tee, "cpu")), ".2f"),
            figure(None if first is None else first * 1e3, ".2f"),
            _extra(runs, name, none),
        )
    heads = ("seconds", "CPU, s", "x its tee", "CPU x its tee", "first byte, ms", "extra peak, MiB")
    return columns(f"B. {size} MiB in chunks of 4 KiB, recorded while it is read", heads, rows)


def _replaying(runs: dict[str, list[dict[str, Any]]], size: int) -> str:
    rows = {
        name: (
            figure(_middle(runs, name, "seconds"), ".3f"),
            figure(_middle(runs, name, "cpu"), ".3f"),
            figure(_ratio(_middle(runs, name, "seconds"), _middle(runs, TAP_1, "seconds")), ".2f"),
            figure(None if (first := _middle(runs, name, "first")) is None else first * 1e3, ".2f"),
            _extra(runs, name, FILE),
        )
        for name in runs
    }
    heads = ("seconds", "CPU, s", "x tap 1's", "first byte, ms", "extra peak, MiB")
    return columns(f"B. The recording of {size} MiB, loaded and replayed", heads, rows)


# Alone in a process


def _tee(door: Door) -> Door:
    @contextmanager
    def using(folder: str, url: str) -> Iterator[Client]:
        with door(folder, url) as client, open(os.path.join(folder, "tee"), "wb", buffering=0) as file:
            yield _Teeing(client, file.write)

    return using


class _Teeing(Client):
    def __init__(self, client: Client, write: Any) -> None:
        super().__init__(client.url, client.by)
        self._write = write

    @contextmanager
    def reading(self, *args: Any, **options: Any) -> Iterator[Iterator[bytes]]:
        with super().reading(*args, **options) as pieces:
            yield self._written(pieces)

    def _written(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._write(piece)
            yield piece


@contextmanager
def _reading_the_file(folder: str, url: str) -> Iterator[Client]:
    yield _FileReader(os.path.join(folder, "tee"))


class _FileReader(Client):
    def __init__(self, path: str) -> None:
        self._path = path

    @contextmanager
    def reading(self, *args: Any, **options: Any) -> Iterator[Iterator[bytes]]:
        with open(self._path, "rb") as file:
            yield iter(lambda: file.read(READ_SIZE), b"")


DOORS: dict[str, tuple[Door, Door]] = {
    BARE: (bare, bare),
    BARE_TRANSPORT: (bare_transport, bare_transport),
    TEE: (_tee(bare), _reading_the_file),
    TEE_TRANSPORT: (_tee(bare_transport), _reading_the_file),
    **{name: (recorder.recording, recorder.replaying) for name, recorder in RECORDERS.items()},
}


def _read(door: Door, folder: str, url: str, chunks: int) -> float:
    """Enters, reads the stream to its end, and leaves; seconds until the first bytes were read."""
    with door(folder, url) as client:
        begun, first, size = time.perf_counter(), 0.0, 0
        with client.reading(f"/stream/{chunks}") as pieces:
            for piece in pieces:
                first = first or time.perf_counter() - begun
                size += len(piece)
    assert size == chunks * len(CHUNK), f"{size} bytes instead of {chunks * len(CHUNK)}"
    return first


def main() -> None:
    what, name, url, folder, chunks = sys.argv[1:]
    recording, replaying = DOORS[name]
    with tempfile.TemporaryDirectory() as warm, contextlib.suppress(AssertionError):
        for door in (recording, replaying):
            _read(door, warm, url, WARM_UP)
    gc.collect()
    forget_peak()
    before, children = resident(), peak_of_children()
    begun, cpu = time.perf_counter(), time.process_time()
    first = _read(recording if what == "record" else replaying, folder, url, int(chunks))
    found = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu, "first": first}
    after, children = peak(), peak_of_children() - children
    extra = None if after is None or before is None else after - before + children
    print(json.dumps(found | {"peak": extra}))


if __name__ == "__main__":
    main()
