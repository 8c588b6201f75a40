"""Area C: long recordings, opened, and searched for requests that were not asked before.

Recordings are generated: each exchange is a question of its own and a short answer in three chunks. Each contender is
alone in a process (`python -m tests.benchmarks.lookups NAME FILE COUNT`), which opens a short recording first.
MiB: by how much the process has grown by opening. An answer is found by a request whose body nobody has asked before,
through the least of the tool's interface that searches and gives the answer; ours plays it, too. The first one ever is
the very first exchange; the others are medians of five in a row, at the beginning, in the middle and at the end.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from math import log
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tests.benchmarks.processes import resident, run
from tests.benchmarks.table import columns, figure, not_installed

OURS = "aivvm"
URL = "http://upstream.invalid/api/chat"
SHORT = 20  # exchanges of the recording that comes first
IN_A_ROW = 5
MIB = 1024 * 1024


class Format(NamedTuple):
    """A file that is `before`, then `exchange` of each number, with `between` between them, then `after`."""

    open: Callable[[str], Callable[[int], bytes]]
    needs: str
    ending: str
    before: str
    exchange: Callable[[int], str]
    between: str
    after: str
    most: int  # exchanges; with more it takes minutes, or gigabytes


def report(*, quick: bool) -> str:
    counts = (200, 2000) if quick else (1_000, 10_000, 100_000)
    wanted = [OURS] if quick else list(FORMATS)
    here = [name for name in wanted if importlib.util.find_spec(FORMATS[name].needs)]
    rows, opened, left_out = {}, {}, []
    for name in here:
        for count in counts:
            if count > FORMATS[name].most:
                left_out.append(f"{name} with {count:,}")
                continue
            found = _measure(name, count, rounds=1 if quick or name != OURS else 3)
            opened[name, count] = found["open"]
            rows[f"{name}, {count:,}"] = (
                f"{found['open']:.4f}",
                figure(found["grown"], ".1f"),
                *[f"{found[place]:.0f}" for place in ("ever", "first", "middle", "last")],
            )
    heads = ("opened, s", "MiB", "found: first ever, us", "first", "middle", "last")
    table = columns("C. Long recordings, by the number of their exchanges", heads, rows)
    for name in here:
        done = [count for count in counts if (name, count) in opened]
        grown = log(opened[name, done[-1]] / opened[name, done[0]]) / log(done[-1] / done[0])
        table += f"\n  {name}: opening grows with the {grown:.2f}th power from {done[0]:,} to {done[-1]:,}"
    if left_out:
        table += f"\n  left out, as they take minutes or gigabytes: {', '.join(left_out)}"
    missing = {FORMATS[name].needs for name in wanted if name not in here}
    return table + ("\n  left out of a quick run: all others" if quick else not_installed(sorted(missing)))


def _measure(name: str, count: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"session.{FORMATS[name].ending}")
        _write(FORMATS[name], path, count)
        runs = [json.loads(run("lookups", name, path, count)) for _ in range(rounds)]
    values = {key: [one[key] for one in runs] for key in runs[0]}
    return {key: None if None in some else median(some) for key, some in values.items()}


def _write(form: Format, path: str, count: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(form.before)
        for n in range(count):
            file.write((form.between if n else "") + form.exchange(n))
        file.write(form.after)


# Formats, ours and others


def _question(n: int) -> str:
    return json.dumps(
        {"model": "gpt-4", "messages": [{"role": "user", "content": f"Question {n}, at length?"}]}
    )


def _answer(n: int) -> list[str]:
    return [f"The answer to {n} ", "is a few words, ", "и ещё немного."]


def _whole(n: int) -> bytes:
    return "".join(_answer(n)).encode()


def _ours(n: int) -> str:
    fields = [["Content-Type", "application/json"]]
    request = {"method": "POST", "url": URL, "headers": fields, "json": json.loads(_question(n))}
    lines: list[dict[str, object]] = [
        {"request": request, "started": float(n)},
        {"reply": {"status": 200, "reason": "OK", "headers": []}, "at": 0.25},
        *[{"at": 0.5 + place, "text": text} for place, text in enumerate(_answer(n))],
        {"at": 4.0, "end": "complete"},
    ]
    return "".join([json.dumps(line, ensure_ascii=False) + "\n" for line in lines])


def _open_ours(path: str) -> Callable[[int], bytes]:
    from aivvm.transport import Headers, Request
    from aivvm_testing import FakeAivvm

    transport = FakeAivvm.replaying(path).transport()
    fields = Headers([("Content-Type", "application/json")])

    def find(n: int) -> bytes:
        return b"".join(transport.send(Request("POST", URL, fields, _question(n).encode()), timeout=5))

    return find


def _vcr_yaml(n: int) -> str:
    return (
        f"- request:\n    body: '{_question(n)}'\n    headers:\n      Content-Type:\n      - application/json\n"
        f"    method: POST\n    uri: {URL}\n"
        f"  response:\n    body:\n      string: '{''.join(_answer(n))}'\n    headers:\n      Content-Type:\n"
        "      - text/plain\n    status:\n      code: 200\n      message: OK\n"
    )


def _vcr_json(n: int) -> str:
    fields = {"Content-Type": ["application/json"]}
    request = {"method": "POST", "uri": URL, "body": _question(n), "headers": fields}
    status = {"code": 200, "message": "OK"}
    response = {"status": status, "headers": fields, "body": {"string": "".join(_answer(n))}}
    return json.dumps({"request": request, "response": response})


def _open_vcr(serializer: str) -> Callable[[str], Callable[[int], bytes]]:
    def opening(path: str) -> Callable[[int], bytes]:
        import vcr
        from vcr.request import Request

        match_on = ("method", "uri", "body")
        cassette = vcr.use_cassette(
            path, serializer=serializer, record_mode="none", match_on=match_on
        ).__enter__()  # never left: the process ends

        def find(n: int) -> bytes:
            asked = Request("POST", URL, _question(n).encode(), {"Content-Type": "application/json"})
            body: bytes = cassette.play_response(asked)["body"]["string"]
            return body

        return find

    return opening


def _betamax(n: int) -> str:
    fields = {"Content-Type": ["application/json"]}
    body = {"encoding": "utf-8", "string": _question(n)}
    answered = {"encoding": "utf-8", "string": "".join(_answer(n))}
    status = {"code": 200, "message": "OK"}
    return json.dumps(
        {
            "request": {"method": "POST", "uri": URL, "body": body, "headers": fields},
            "response": {"status": status, "headers": fields, "body": answered, "url": URL},
            "recorded_at": "2026-11-23T00:00:00",
        }
    )


def _open_betamax(path: str) -> Callable[[int], bytes]:
    import betamax
    import requests

    recorder = betamax.Betamax(requests.Session(), cassette_library_dir=str(Path(path).parent))
    recorder.use_cassette(Path(path).stem, record="none", match_requests_on=["method", "uri", "body"]).start()
    fields = {"Content-Type": "application/json"}

    def find(n: int) -> bytes:
        asked = requests.Request("POST", URL, headers=fields, data=_question(n)).prepare()
        body: bytes = recorder.current_cassette.find_match(asked).as_response().content
        return body

    return find


FORMATS = {
    OURS: Format(_open_ours, "aivvm_testing", "jsonl", '{"aivvm_recording": 1}\n', _ours, "", "", 100_000),
    "vcrpy, JSON": Format(
        _open_vcr("json"), "vcr", "json", '{"version": 1, "interactions": [', _vcr_json, ",\n", "]}", 10_000
    ),
    "vcrpy, YAML": Format(
        _open_vcr("yaml"), "vcr", "yaml", "interactions:\n", _vcr_yaml, "", "version: 1\n", 10_000
    ),
    "betamax": Format(
        _open_betamax,
        "betamax",
        "json",
        '{"http_interactions": [',
        _betamax,
        ",\n",
        '], "recorded_with": "betamax"}',
        10_000,
    ),
}


# Alone in a process


def _found(find: Callable[[int], bytes], numbers: range) -> Iterator[float]:
    """Microseconds for each."""
    for n in numbers:
        begun = time.perf_counter()
        body = find(n)
        yield (time.perf_counter() - begun) * 1e6
        assert body == _whole(n), f"the answer to {n} is {body!r}"


def main() -> None:
    name, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    form = FORMATS[name]
    with tempfile.TemporaryDirectory() as folder:
        short = os.path.join(folder, f"short.{form.ending}")
        _write(form, short, SHORT)
        list(_found(form.open(short), range(SHORT)))
    gc.collect()
    before, begun = resident(), time.perf_counter()
    find = form.open(path)
    found: dict[str, float | None] = {"open": time.perf_counter() - begun}
    after = resident()
    found["grown"] = None if before is None or after is None else (after - before) / MIB
    found["ever"] = next(_found(find, range(1)))
    for place, begin in (("first", 1), ("middle", count // 2), ("last", count - IN_A_ROW)):
        found[place] = median(_found(find, range(begin, begin + IN_A_ROW)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
