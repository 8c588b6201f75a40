"""Area F: what an import costs, and how late the first chunk comes while recording."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import requests

from aivvm import Aivvm
from aivvm.requests_transport import RequestsTransport
from aivvm_testing import FakeAivvm, RecordingTransport, Reply
from tests.benchmarks.table import render

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
SIX = Reply.of("one ", "two ", "three ", "four ", "five ", "six").pace(0.08)
MESSAGES = [{"role": "user", "content": "Hello"}]


def report(*, quick: bool) -> str:
    imports = _imports(1, IMPORTED[:3]) if quick else _imports(15, IMPORTED)
    return f"{imports}\n\n{_first_chunk(1 if quick else 40)}"


def _imports(rounds: int, wanted: Sequence[str]) -> str:
    names = [name for name in wanted if importlib.util.find_spec(name)]
    took: dict[str, list[float]] = {f"import {name}": [] for name in names}
    for _ in range(rounds):
        for name in names:
            took[f"import {name}"].append(_import_seconds(name))
    seconds = {name: median(times) for name, times in took.items()}
    table = render("F. Import", seconds, against="import requests", unit=1e-3, name="ms")
    missing = [name for name in wanted if name not in names]
    return table + (f"\n  not installed: {', '.join(missing)}" if missing else "")


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


def _first_chunk(rounds: int) -> str:
    with tempfile.TemporaryDirectory() as folder, FakeAivvm() as fake, fake.server() as server:
        fake.reply(SIX, forever=True)

        def bare(n: int) -> float:
            with RequestsTransport() as transport:
                return _time_to_first(Aivvm(transport=transport, url=server.url))

        def recorded(n: int) -> float:
            with (
                RequestsTransport() as transport,
                RecordingTransport(transport, os.path.join(folder, f"{n}.jsonl")) as tap,
            ):
                return _time_to_first(Aivvm(transport=tap, url=server.url))

        def with_vcr(n: int) -> float:
            import vcr

            with vcr.use_cassette(str(Path(folder) / f"{n}.yaml")):
                return _time_to_first_of_requests(requests.Session(), server.url)

        def with_betamax(n: int) -> float:
            import betamax

            session = requests.Session()
            with betamax.Betamax(session, cassette_library_dir=folder).use_cassette(f"b{n}", record="all"):
                return _time_to_first_of_requests(session, server.url)

        contenders = {"no recorder": bare, "aivvm, tap 1": recorded}
        for name, contender in (("vcr", with_vcr), ("betamax", with_betamax)):
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(name)
                contenders[name] = contender
        took: dict[str, list[float]] = {name: [] for name in contenders}
        for n in range(rounds + 1):
            for name, contender in contenders.items():
                seconds = contender(n)
                if n:
                    took[name].append(seconds)
    medians = {name: median(times) for name, times in took.items()}
    title = "F. First of six chunks that are sent 80 ms apart, while recording"
    return render(title, medians, against="no recorder", unit=1e-3, name="ms")


def _time_to_first(provider: Aivvm) -> float:
    begun = time.perf_counter()
    answer = provider.create_completion("gpt-4", MESSAGES, stream=True)
    next(answer)
    took = time.perf_counter() - begun
    answer.close()
    return took


def _time_to_first_of_requests(session: requests.Session, url: str) -> float:
    body = {"model": "gpt-4", "messages": MESSAGES}
    with session:
        begun = time.perf_counter()
        with session.post(f"{url}/api/chat", json=body, stream=True, timeout=5) as response:
            next(response.iter_content(4096))
            return time.perf_counter() - begun
