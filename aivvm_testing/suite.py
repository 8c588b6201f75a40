"""A suite that uses the plugin: its settings, which file is whose, what failed and how, and what is left over at its end.

Here is what the plugin does once it is used; pytest's hooks and fixtures are in `pytest_plugin`, which imports this when
it must. Nothing here plays or records.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aivvm.payload import build_request
from aivvm.terminal import one_line
from aivvm_testing import timeline
from aivvm_testing.adversity import MOST_CHUNKS, Case, cases
from aivvm_testing.errors import SetupFailure
from aivvm_testing.recording import Exchange, Recording, moment_of
from aivvm_testing.reply import Reply

if TYPE_CHECKING:
    import pytest

    from aivvm_testing.fake import FakeAivvm
    from aivvm_testing.record.use import RecordingSession

ORPHANS = ("report", "fail", "delete", "ignore")

_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-]+")
_LONGEST_NAME = 100  # characters; file systems take 255 bytes, and the ending and a journal's come to it
_SHOWN_FILES = 20
_HEADER = b'{"aivvm_recording"'
_DAY = 86400.0


def check_settings(settings: Mapping[str, str]) -> None:
    """Raises `ValueError` for a setting that cannot work."""
    if mode := settings["record"]:
        from aivvm_testing.record.use import checked_mode

        checked_mode(mode, "record")
    swept(None, settings["rechunk"], settings["fault"])
    if settings["orphans"] not in ("", *ORPHANS):
        raise ValueError(f"orphans is one of {', '.join(ORPHANS)}, but got {settings['orphans']!r}")
    _days(settings["max-age"])


def _days(text: str) -> float | None:
    try:
        days = float(text) if text else None
    except ValueError:
        days = -1.0
    if days is not None and not days >= 0:
        raise ValueError(f"max-age takes days, such as 90, but got {text!r}")
    return days


# Cases


def swept(marker: pytest.Mark | None, rechunk: str, fault: str) -> list[Case]:
    """The cases that a test runs in, by its marker and the two options."""
    given: dict[str, Any] = {"chunkings": [rechunk] if rechunk else [], "faults": [fault] if fault else []}
    if marker is not None:
        if marker.args or not {*marker.kwargs} <= {"chunkings", "faults", "chunks"}:
            raise TypeError(
                "it takes chunkings=[...], faults=[...] and chunks=N, how far '@*' goes, but got "
                + ", ".join([*map(repr, marker.args), *marker.kwargs])
            )
        given |= marker.kwargs
    return cases(given["chunkings"], given["faults"], chunks=given.get("chunks", MOST_CHUNKS))


# Whose file


def recording_path(item: pytest.Item, folder: str) -> Path:
    """Where the recording of this test is: the marker's `path`, seen from its module, else by the names of both."""
    marker = item.get_closest_marker("aivvm_recording")
    given = None if marker is None else marker.kwargs.get("path", marker.args[0] if marker.args else None)
    here = item.path.parent
    if given is not None:
        return here / str(given)
    names = item.nodeid.split("::", 1)[-1].replace("::", ".")
    case = getattr(item, "callspec", None)
    if case is not None and "aivvm_case" in case.params:  # each case plays the same recording
        names = _without(names, case.params["aivvm_case"].id)
    return here / (folder or "recordings") / safe_name(item.path.stem) / f"{safe_name(names)}.jsonl"


def _without(name: str, part: str) -> str:
    before, bracket, parameters = name.partition("[")
    left = "-".join([one for one in [parameters.removesuffix("]").replace(part, "", 1).strip("-")] if one])
    return f"{before}[{left}]" if bracket and left else before


def safe_name(name: str) -> str:
    """A file's name for this one, on any system; of two that would be the same by that, each has its own."""
    safe = _UNSAFE.sub("_", name).strip("._")[:_LONGEST_NAME] or "_"
    if safe == name:
        return safe
    return f"{safe}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


_TAKEN: tuple[str, ...] = (
    "path",
    "record_mode",
    "match_on",
    "ignore_json",
    "allow_playback_repeats",
    "speed",
    "hosts",
    "allow",
)
_TAKEN += ("on_unplayed", "redaction", "clock", "note")


def session_of(item: pytest.Item, run: Run, config: Mapping[str, Any]) -> RecordingSession:
    """The session of this test; its mode is the option's or the environment's, else the marker's, the module's, the ini's.

    Raises `SetupFailure` where the test has no recording and the mode makes none, and for arguments that it does not take.
    """
    from aivvm_testing.record.use import use_recording

    marker = item.get_closest_marker("aivvm_recording")
    options: dict[str, Any] = dict(config)
    if marker is not None:
        options |= {**dict(zip(_TAKEN, marker.args, strict=False)), **marker.kwargs}
    if unknown := [name for name in options if name not in _TAKEN]:
        raise SetupFailure(f"aivvm_recording takes {', '.join(_TAKEN)}, but got {', '.join(unknown)}")
    mode = run.said.get("record") or options.pop("record_mode", None) or run.settings["record"] or "none"
    options.pop("record_mode", None)
    options.pop("path", None)
    path = recording_path(item, run.settings["recordings"])
    session = use_recording(path, mode, must_be_asked=False, **options)
    if session.mode in ("none", "verify") and not path.exists():
        raise SetupFailure(
            f"{item.nodeid} has no recording: there is no {path}.\nRecord it, with the real service at hand: "
            f"python -m pytest {shlex.quote(item.nodeid)} --aivvm-record=once"
        )
    if session.mode not in ("none", "verify"):
        path.parent.mkdir(parents=True, exist_ok=True)
    return session


class Run:
    """What is known of a run of pytest. `settings`: as the plugin found them; `said`: those of option or environment."""

    def __init__(self, settings: Mapping[str, str], said: Mapping[str, str]) -> None:
        self.settings = settings
        self.said = said
        self.session_fake: FakeAivvm | None = None
        self.partial = False
        self.saved: list[str] = []
        self.summary: list[tuple[str, list[str]]] = []
        self._claims: dict[Path, set[Path]] = {}  # of each folder of recordings, those that a test uses

    def claim(self, items: Iterable[pytest.Item]) -> None:
        """These tests have a recording each, which is no orphan."""
        folder = self.settings["recordings"] or "recordings"
        for item in items:
            self._claims.setdefault(item.path.parent / folder, set()).add(recording_path(item, folder))

    def claimed(self) -> dict[str, Any]:
        """What a worker tells the process that it works for."""
        claims = {str(folder): sorted(map(str, paths)) for folder, paths in self._claims.items()}
        return {"claims": claims, "partial": self.partial, "saved": self.saved}

    def merge(self, claimed: Mapping[str, Any]) -> None:
        """What a worker told."""
        for folder, paths in claimed["claims"].items():
            self._claims.setdefault(Path(folder), set()).update(map(Path, paths))
        self.partial = self.partial or claimed["partial"]
        self.saved += [one for one in claimed["saved"] if one not in self.saved]

    def finish(self, config: pytest.Config, exitstatus: int) -> bool:
        """Makes the summary; whether the run has failed for it."""
        failed = False
        if self.saved:
            self.summary.append(("aivvm: streams of failed properties", self.saved))
        wanted = self.settings["orphans"] or "report"
        whole = exitstatus in (0, 1) and not self.partial and _is_whole(config)
        if wanted != "ignore" and whole and (orphans := list(self._orphans())):
            failed = wanted == "fail"
            title = "aivvm: recordings that no test uses"
            if wanted == "delete":
                title += ", deleted"
                for orphan in orphans:
                    orphan.unlink()
            self.summary.append((title, _listed([str(orphan) for orphan in orphans])))
        days = _days(self.settings["max-age"])
        if days is not None and (stale := list(self._stale(days))):
            self.summary.append((f"aivvm: recordings older than {days:g} days", _listed(stale)))
        return failed

    def _orphans(self) -> Iterator[Path]:
        for folder, paths in sorted(self._claims.items()):
            for path in sorted(folder.rglob("*.jsonl")):
                if path not in paths and path.is_file() and not path.is_symlink() and _is_recording(path):
                    yield path

    def _stale(self, days: float) -> Iterator[str]:
        now = datetime.now(timezone.utc).timestamp()
        for path in sorted({path for paths in self._claims.values() for path in paths}):
            with suppress(OSError, ValueError, TypeError, KeyError), path.open("rb") as file:
                recorded_at = json.loads(file.readline(65536))["recorded_at"]
                age = (now - moment_of(recorded_at)) / _DAY
                if age > days:
                    yield f"{path} ({recorded_at}, {age:.0f} days ago)"


def _is_recording(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(_HEADER)) == _HEADER
    return False


def _is_whole(config: pytest.Config) -> bool:
    """Whether every test was collected, as far as the command line tells."""
    names = [argument for argument in config.args if "::" in argument or not os.path.isdir(argument)]
    chosen = [
        config.getoption(name, None)
        for name in ("keyword", "markexpr", "lf", "failedfirst", "deselect", "ignore", "ignore_glob")
    ]
    return not names and not any(chosen)


def _listed(lines: Sequence[str]) -> list[str]:
    more = [f"... and {len(lines) - _SHOWN_FILES} more"] if len(lines) > _SHOWN_FILES else []
    return [*lines[:_SHOWN_FILES], *more]


# What failed


def told(nodeid: str, used: Mapping[str, Any], run: Run) -> list[tuple[str, str]]:
    """Sections for the report of a failed test: what went over the wire, what was done to it, and how to see it again."""
    case: Case = used["aivvm_case"]
    session = used.get("aivvm_recording")
    fakes = [used.get("fake_aivvm"), getattr(session, "fake", None)]
    if "aivvm_session_fake" in used or "aivvm_session_server" in used:
        fakes.append(run.session_fake)
    lines = [line for fake in fakes if fake is not None for line in timeline.of_calls(fake.calls)]
    if case:
        lines.append(f"every answer was changed: {case.id}")
    options = [
        f"--aivvm-{name}={value}" for name in ("rechunk", "fault", "record") if (value := run.said.get(name))
    ]
    if lines:
        lines.append(f"again: python -m pytest {shlex.join([nodeid, *options])}")
    return [("aivvm", "\n".join(lines))] if lines else []


class Watch:
    """Looks at a property while hypothesis runs it: what fails last is what it has shrunk the failure to."""

    def __init__(self, item: pytest.Function, folder: str, run: Run) -> None:
        self._item = item
        self._folder = Path(folder)
        self._run = run
        self._handle = item.obj.hypothesis
        self._inner: Callable[..., Any] = self._handle.inner_test
        self._failing: dict[str, Any] = {}

        @functools.wraps(self._inner)
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                return self._inner(*args, **kwargs)
            except Exception as error:
                if not type(error).__module__.startswith(
                    "hypothesis."
                ):  # how it leaves an example is its own business
                    self._failing = {**{str(n): one for n, one in enumerate(args)}, **kwargs}
                raise

        self._handle.inner_test = watched

    def stop(self, failure: Sequence[Any] | None) -> None:
        """The property is through; saves the streams of the failing example."""
        self._handle.inner_test = self._inner
        if failure is None:
            return
        streams = {
            name: reply for name, value in self._failing.items() if (reply := _stream(value)) is not None
        }
        for name, found in streams.items():
            test = safe_name(self._item.nodeid.split("::", 1)[-1].replace("::", "."))
            path = self._folder / f"{test}.{safe_name(name)}.jsonl"
            why = one_line(f"{failure[0].__name__}: {failure[1]}", 200)
            request = build_request(
                "gpt-4", [{"role": "user", "content": self._item.name.encode("utf-8", "replace").decode()}]
            )
            note = f"The {name} that {self._item.nodeid} fails with: {why}".encode(
                "utf-8", "replace"
            ).decode()
            recording = Recording([Exchange(request, found)], origin="written", note=note)
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                recording.save(path)
            except (OSError, ValueError) as error:
                self._run.saved.append(f"{path} could not be written: {error}")
            else:
                self._run.saved.append(
                    f"{path}: aivvm_testing.Reply.load({str(path)!r}) is the {name} of {self._item.nodeid}"
                )


def _stream(value: object) -> Reply | None:
    """What a value of `replies()`, `byte_streams()` or `recordings()` plays; None where it is no stream."""
    if isinstance(value, Reply):
        return value
    if isinstance(value, Recording):
        return value[0].reply if value else None
    if isinstance(value, (list, tuple)) and value and all(isinstance(part, bytes) for part in value):
        return Reply.of(*value)
    return None


def no_proxy() -> dict[str, str]:
    """The environment in which loopback is asked directly."""
    found = {}
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        found[name] = ",".join(
            [*hosts, *[host for host in ("127.0.0.1", "localhost", "::1") if host not in hosts]]
        )
    return found
