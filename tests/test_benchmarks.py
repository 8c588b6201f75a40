"""Every benchmark runs: a quick one of each area prints its table. What the figures are is not for a test to say."""

from __future__ import annotations

import pytest

from tests.benchmarks import __main__, calls, server

NAMED = {
    "A": (calls.DOOR_1, calls.DOOR_4, "responses"),
    "E": ("BoundarySafeDecoder", "limit, MB/s"),
    "F": ("import aivvm", "import requests", "aivvm, tap 1", "no recorder"),
    "D": (server.OURS, "asyncio in a thread, canned", "ThreadingHTTPServer"),
}


def test_every_area_has_a_contender_of_ours_and_a_reference() -> None:
    assert NAMED.keys() == __main__.AREAS.keys()


@pytest.mark.parametrize("area", __main__.AREAS)
def test_a_quick_run_prints_the_table_of_our_contender_and_its_reference(
    area: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "--quick", area])
    assert __main__.main() == 0
    lines = capsys.readouterr().out.splitlines()
    for name in NAMED[area]:
        figures = [line.removeprefix(f"  {name} ") for line in lines if line.startswith(f"  {name} ")]
        assert figures, f"no row for {name}"
        assert all(float(row.split()[0]) > 0 for row in figures)


def test_an_area_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "B"])
    with pytest.raises(SystemExit):
        __main__.main()
    assert "there is no area B; there are A, D, E, F" in capsys.readouterr().err
