"""The verbs about recordings' files: `check`, `diff`, `merge`, `recover` and `redact`.

What they say is found out elsewhere; here is which file is read, which is written, and how it is said. A file that is
there is replaced only where that was asked for, and then whole or not at all.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from errno import EEXIST, EISDIR
from pathlib import Path
from typing import NamedTuple

from aivvm.terminal import one_line
from aivvm_testing.damage import inspect, orphaned_journal
from aivvm_testing.differences import Difference, differences
from aivvm_testing.errors import CorruptRecording
from aivvm_testing.journal import recover as recovered
from aivvm_testing.journal import whose
from aivvm_testing.leaks import Leak, check_file, redact_recording
from aivvm_testing.matching import Matcher, describe
from aivvm_testing.recording import Recording
from aivvm_testing.redaction import Redaction
from aivvm_testing.verbs.lines import as_json, counted, say, without_cut_words
from aivvm_testing.verbs.sources import path_of, recording_of, without_secrets

_MANY = 100  # differences that are printed


def refuse_existing(path: str) -> None:
    """Raises `FileExistsError` where there is something at this path already."""
    if os.path.isdir(path):
        raise IsADirectoryError(EISDIR, "is a folder: name a file in it", path)
    if os.path.exists(path):
        raise FileExistsError(EEXIST, "is there already: name another file, or say --overwrite", path)


def _files(sources: Iterable[str]) -> list[str]:
    """The files that are named, and the recordings in the folders that are, with those of which there is only a journal."""
    found: list[str] = []
    for source in sources:
        if os.path.isdir(source):
            inside = {str(path) for path in Path(source).rglob("*.jsonl")}
            inside |= {str(path).removesuffix(".journal") for path in Path(source).rglob("*.jsonl.journal")}
            if not inside:
                raise FileNotFoundError(f"there is no recording (*.jsonl) in the folder {source}")
            found += sorted(inside)
        else:
            found.append(path_of(source))
    return list(dict.fromkeys(found))


# check


class _Finding(NamedTuple):
    file: str
    line: int
    kind: str
    why: str


def check(options: argparse.Namespace) -> int:
    """Reads everything; 1 where something is wrong."""
    paths = _files(options.recordings)
    findings: list[_Finding] = []
    sound = 0
    for path in paths:
        exchanges, found = _checked(path)
        sound += exchanges
        findings += found
        if not options.json:
            for one in found:
                where = f"{one.file}:{one.line}" if one.line else one.file
                say(f"{where}: {one.kind}: {one.why}")
    if options.json:
        facts = {"files": paths, "exchanges": sound, "findings": [one._asdict() for one in findings]}
        print(as_json(facts, indent=2))
    else:
        read = f"{counted(len(paths), 'file')}, {counted(sound, 'sound exchange')}"
        print(f"{read}, {counted(len(findings), 'finding')}")
    return 1 if findings else 0


def _checked(path: str) -> tuple[int, list[_Finding]]:
    findings: list[_Finding] = []
    exchanges = 0
    if orphaned_journal(path):
        why = "a recorder was stopped before it could finish: aivvm-testing recover makes a recording of it"
        findings.append(_Finding(f"{path}.journal", 0, "orphaned journal", why))
    if os.path.exists(path):
        try:
            exchanges, damages = inspect(path)
        except OSError as error:
            findings.append(_Finding(path, 0, "unreadable", error.strerror or str(error)))
        else:
            findings += [_Finding(path, one.line, "damage", without_cut_words(one.why)) for one in damages]
    elif not findings:
        findings.append(_Finding(path, 0, "unfinished", "its recorder is still at work"))
    return exchanges, findings


# diff


def diff(options: argparse.Namespace) -> int:
    """Says in what two recordings differ; 1 where they do."""
    was, now = recording_of(options.a), recording_of(options.b)
    redaction: Redaction = options.redaction
    found = differences(
        was,
        now,
        matcher=Matcher(options.match_on),
        ignore=options.ignore,
        times=options.times,
        redaction=redaction,
    )
    if options.json:
        told = [one._asdict() for one in found]
        facts = {
            "a": options.a,
            "b": options.b,
            "exchanges": [len(was), len(now)],
            "differences": told,
        }
        print(as_json(facts, indent=2))
        return 1 if told else 0
    count = 0
    last = -1
    for one in found:
        if count == 0:
            say(f"--- {options.a}\n+++ {options.b}")
        count += 1
        if count <= _MANY:
            if one.exchange != last:
                last = one.exchange
                of = next(without_secrets((was if last < len(was) else now)[last : last + 1], redaction))
                say(f"\n{last}: {describe(of.request)}")
            _print_difference(one)
    if count > _MANY:
        print(f"\n... {count - _MANY} more; --json tells all")
    compared = counted(max(len(was), len(now)), "exchange")
    print(f"\n{counted(count, 'difference')} in {compared}" if count else f"no difference in {compared}")
    return 1 if count else 0


def _print_difference(one: Difference) -> None:
    names = {"exchange": "only in one of them"}
    say("\n".join([
        f"   {names.get(one.aspect, one.aspect)}",
        *[f"   - {line}" for line in one.was],
        *[f"   + {line}" for line in one.now],
    ]))  # fmt: skip


# merge


def merge(options: argparse.Namespace) -> int:
    """Writes one recording of several; 1 where they cannot be one."""
    if not options.overwrite:
        refuse_existing(options.out)
    paths = [path_of(source) for source in options.recordings]
    for path in paths:
        if orphaned_journal(path):
            raise FileExistsError(
                EEXIST, "a recorder was stopped before it could finish: recover it first", f"{path}.journal"
            )
    real = [os.path.realpath(path) for path in paths]
    if twice := [path for n, path in enumerate(paths) if real[n] in real[:n]]:
        raise FileExistsError(EEXIST, "is named twice, and would be in the new recording twice", twice[0])
    recordings = [Recording.load(path) for path in paths]
    dated = [recording.recorded_at is not None for recording in recordings]
    if any(dated) and not all(dated):
        why = "has no recorded_at, and others have: give it one, or merge those without by themselves"
        raise CorruptRecording(paths[dated.index(False)], 1, why)
    merged = Recording.merged(recordings)
    merged.save(options.out)
    if options.json:
        print(as_json({"file": options.out, "files": paths, "exchanges": len(merged)}, indent=2))
    else:
        say(f"{options.out}: {counted(len(merged), 'exchange')} of {counted(len(paths), 'file')}")
    return 0


# recover


def recover(options: argparse.Namespace) -> int:
    """Makes a recording of what a killed recorder left."""
    recording = options.recording
    if recording.endswith(".journal") and os.path.exists(recording):
        recording = recording.removesuffix(".journal")
    out = options.out or recording
    journal = f"{recording}.journal"
    if not os.path.exists(journal):
        raise FileNotFoundError(f"there is no {journal}: no recorder of {recording} was stopped")
    count = recovered(recording, out=out)
    if options.json:
        print(as_json({"file": out, "exchanges": count}, indent=2))
    else:
        say(f"{out}: {counted(count, 'exchange')} recovered")
    found = len(check_file(out))
    if found:  # perhaps why its recorder did not finish
        advice = "redact --check shows where, and redact --in-place takes out what looks like one"
        print(f"aivvm-testing: {counted(found, 'secret')} in {one_line(out)}: {advice}", file=sys.stderr)
    return 0


# redact


def redact(options: argparse.Namespace) -> int:
    """Finds secrets, or takes them out; 1 where there are any, or any are left, or a file is damaged."""
    paths = _files(options.recordings)
    if options.out is not None and len(paths) > 1:
        print(
            "aivvm-testing redact: --out is for one RECORDING; --in-place takes any number", file=sys.stderr
        )
        return 2
    if options.out is not None and not options.overwrite:
        refuse_existing(options.out)
    for source in options.recordings:
        if options.in_place and not os.path.exists(source):
            if os.path.exists(f"{source}.journal"):
                raise FileNotFoundError(f"{source} is not written yet: {whose(f'{source}.journal')}")
            raise FileNotFoundError(f"{source} is no file, and what is shipped is not changed: say --out")
    told: list[dict[str, object]] = []
    left = damaged = 0
    for path in paths:
        if options.check:
            here = [name for name in (path, f"{path}.journal") if os.path.exists(name)]
            found = [(name, leak) for name in here for leak in _leaks(name, options.redaction)]
            damages = inspect(path)[1] if os.path.exists(path) else []
            damaged += len(damages)
            facts: dict[str, object] = {
                "file": path,
                "damages": [{"line": one.line, "why": without_cut_words(one.why)} for one in damages],
            }
            if not options.json:
                for one in damages:
                    say(f"{path}:{one.line}: damage: {without_cut_words(one.why)}")
        else:
            out = path if options.in_place else options.out
            recording = Recording.load(path)
            before = check_file(path, options.redaction)
            clean = redact_recording(recording, options.redaction)
            written = out != path or clean != recording  # what was written by hand stays as it was laid out
            if written:
                clean.save(out)
            found = [(out, leak) for leak in _leaks(out, options.redaction)]
            facts = {"file": path, "out": out, "exchanges": len(clean), "found": len(before)}
            if not options.json:
                done = f"written to {out}" if written else "it stays as it is"
                say(f"{path}: {counted(len(before), 'secret')} found; {done}, {len(found)} left")
        left += len(found)
        told.append({**facts, "leaks": [_leak(file, leak) for file, leak in found]})
        if not options.json:
            for file, leak in found:
                say(
                    f"{file}:{leak.line}: {leak.kind} in the {leak.part}, byte {leak.position}: {leak.glimpse}"
                )
    if options.json:
        print(as_json({"files": told, "leaks": left}, indent=2))
    elif options.check:
        said = f", {counted(damaged, 'damage')}" if damaged else ""
        print(f"{counted(len(told), 'file')}, {counted(left, 'secret')}{said}")
    return 1 if left or damaged else 0


def _leaks(path: str, redaction: Redaction) -> list[Leak]:
    return sorted(check_file(path, redaction), key=lambda leak: leak.line)


def _leak(file: str, leak: Leak) -> dict[str, object]:
    return {
        "file": file,
        "line": leak.line,
        "kind": leak.kind,
        "part": one_line(leak.part),
        "position": leak.position,
        "glimpse": leak.glimpse,
    }
