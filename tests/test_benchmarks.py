"""Every benchmark runs: a quick one of each area prints its table. What the figures are is not for a test to say.

What recorders keep is no matter of speed, so there our own column is tested: it says what the documentation says.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from tests.benchmarks import __main__, calls, lookups, peers, server, streams
from tests.benchmarks.processes import output_of
from tests.benchmarks.recorders import BARE, MITMDUMP, TAP_1, TAP_2, TAP_2_ADAPTER, TAP_3, installed
from tests.benchmarks.truths import TRUTHS, Cell

NAMED = {
    "A": (calls.DOOR_1, calls.DOOR_4, "responses"),
    "B": (BARE, streams.TEE, TAP_1, TAP_2, TAP_2_ADAPTER, TAP_3),
    "C": (f"{lookups.OURS}, 200", f"{lookups.OURS}, 2,000"),
    "D": (server.OURS, "asyncio in a thread, canned", "ThreadingHTTPServer"),
    "E": ("BoundarySafeDecoder", "limit, MB/s"),
    "F": (
        "import aivvm",
        "import requests",
        f"transport: {TAP_1}",
        f"open connection: {TAP_2_ADAPTER}",
        f"requests.post: {TAP_2}",
    ),
}
KEPT = {
    "chunks on replay, of 6": "6",
    "malformed bodies, of 9": "9",
    "iter_content(None)": "ok",
    "reset mid-stream": "reproduced",
    "early close": "reproduced",
    "one play too many": "error",
    "planted secrets in the file, of 5": "0",
    "8 threads x 3, of 24": "24",
    "killed while recording": "3 of 3",
}


def test_every_area_has_a_contender_of_ours_and_a_reference() -> None:
    assert {*NAMED, "peers"} == __main__.AREAS.keys()


def printed(area: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setattr("sys.argv", ["benchmarks", "--quick", area])
    assert __main__.main() == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("area", NAMED)
def test_a_quick_run_prints_the_table_of_our_contender_and_its_reference(
    area: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(area, monkeypatch, capsys)
    for name in NAMED[area]:
        figures = [line.removeprefix(f"  {name} ") for line in lines if line.startswith(f"  {name} ")]
        assert figures, f"no row for {name}"
        assert all(float(row.split()[0]) > 0 for row in figures)


def test_our_column_among_the_peers_says_that_everything_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed("peers", monkeypatch, capsys)
    rows = {
        row: line.removeprefix(f"  {row} ") for row in KEPT for line in lines if line.startswith(f"  {row} ")
    }
    assert rows.keys() == KEPT.keys()
    for row, cell in KEPT.items():
        assert rows[row].strip() == cell, row


def test_a_row_in_which_a_peer_keeps_more_is_named() -> None:
    rows = dict.fromkeys(TRUTHS, Cell("alike", 1))
    some, other, *_ = rows
    ours = rows | {some: Cell("less", 0), other: Cell("unknown")}
    assert peers.worse({TAP_2: ours, "a peer": rows}, ["a peer"]) == [some, other]
    assert peers.worse({TAP_2: rows, "a peer": ours}, ["a peer"]) == []


def test_a_peer_that_is_a_program_is_installed_when_it_is_on_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "elsewhere" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installed([TAP_2, "mitmproxy"]) == ([TAP_2], [MITMDUMP])
    (tmp_path / MITMDUMP).touch(0o755)
    assert installed([TAP_2, "mitmproxy"]) == ([TAP_2, "mitmproxy"], [])


def test_what_a_contender_has_started_and_left_behind_ends_with_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        left = f"import socket; s = socket.create_connection({listener.getsockname()}); print(flush=True); s.recv(1)"
        code = (
            f"import subprocess as s, sys; left = [sys.executable, '-c', {left!r}]; "
            "s.Popen(left, stdout=s.PIPE, stderr=s.DEVNULL).stdout.readline(); print('over')"
        )
        assert output_of(sys.executable, "-c", code, patience=30) == "over\n"
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(30)
            assert connection.recv(1) == b""


def test_an_area_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "G"])
    with pytest.raises(SystemExit):
        __main__.main()
    assert "there is no area G; there are A, B, C, D, E, F, peers" in capsys.readouterr().err
