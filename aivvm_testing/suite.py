"""A suite that uses the plugin: its settings, which file is whose, what failed and how, and what is left over at its end.

Here is what the plugin does once it is used; pytest's hooks and fixtures are in `pytest_plugin`, which imports this when
it must. Nothing here plays or records.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import SkipTest
from urllib.parse import urlsplit

from aivvm.payload import DEFAULT_URL, build_request
from aivvm.terminal import one_line, printable
from aivvm_testing import timeline
from aivvm_testing.adversity import MOST_CHUNKS, Case, cases
from aivvm_testing.errors import SetupFailure, UnplayedReplies
from aivvm_testing.journal import recover
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
    for name, rechunk, fault in (("rechunk", settings["rechunk"], ""), ("fault", "", settings["fault"])):
        try:
            swept((), rechunk, fault)
        except ValueError as error:
            raise ValueError(f"{name} cannot be {settings[name]!r}: {error}") from error
    if settings["orphans"] not in ("", *ORPHANS):
        raise ValueError(f"orphans is one of {', '.join(ORPHANS)}, but got {settings['orphans']!r}")
    _days(settings["max-age"])
    if upstream := settings["upstream"]:
        parts = urlsplit(upstream)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"upstream is a url, such as https://chat.aivvm.com, but got {upstream!r}")


def _days(text: str) -> float | None:
    try:
        days = float(text) if text else None
    except ValueError:
        days = -1.0
    if days is not None and not 0 <= days < inf:
        raise ValueError(f"max-age takes days, such as 90, but got {text!r}")
    return days


# Cases


def swept(
    markers: Iterable[tuple[Any, pytest.Mark]], rechunk: str, fault: str, chunks: int | None = None
) -> list[Case]:
    """The cases that a test runs in, by its markers, each with whose it is, the nearest first, and the two options.

    `chunks`: how many its longest answer has, where that is known.
    """
    given: dict[str, Any] = {}
    owners: dict[str, Any] = {}
    for owner, marker in markers:
        if marker.args or not {*marker.kwargs} <= {"chunkings", "faults", "chunks"}:
            raise TypeError(
                "it takes chunkings=[...], faults=[...] and chunks=N, how far '@*' goes, but got "
                + ", ".join([*map(repr, marker.args), *marker.kwargs])
            )
        for name, value in marker.kwargs.items():
            if owners.setdefault(name, owner) is owner and name in given:
                raise ValueError(f"two markers of the same test say {name}: make one of them")
            given.setdefault(name, value)
    if given and not given.get("chunkings", rechunk) and not given.get("faults", fault):
        raise ValueError("it names no case: say chunkings=['all'], faults=['all'], or some of them")
    if not isinstance(given.get("chunks", 0), int):
        raise TypeError(f"chunks is a number, how far '@*' goes, but got {given['chunks']!r}")
    given.setdefault("chunkings", [rechunk] if rechunk else [])
    given.setdefault("faults", [fault] if fault else [])
    if chunks is None or given["chunkings"]:
        chunks = MOST_CHUNKS
    else:
        chunks += 1  # before each, and after all
    return cases(given["chunkings"], given["faults"], chunks=given.get("chunks", chunks))


def recorded_chunks(item: pytest.Item, folder: str) -> int | None:
    """How many chunks the longest answer in the recording of this test has; None where that is not to be known."""
    with suppress(OSError, ValueError, SetupFailure):
        recording = Recording.load(recording_path(item, folder))
        return max([len(exchange.reply.chunks) for exchange in recording], default=None)
    return None


# Whose file


def recording_path(item: pytest.Item, folder: str) -> Path:
    """Where the recording of this test is: the marker's `path`, seen from its module, else by the names of both."""
    given = _marked(item).get("path")
    here = item.path.parent
    if given is not None:
        return here / str(given)
    return here / (folder or "recordings") / safe_name(item.path.stem) / f"{_test_name(item)}.jsonl"


def _test_name(item: pytest.Item) -> str:
    """A file's name for this test, without an ending, that no other test of its module has."""
    test, bracket, parameters = item.nodeid.split("::", 1)[-1].partition("[")
    parameters = parameters.removesuffix("]")
    case = getattr(item, "callspec", None)
    if case is not None and "aivvm_case" in case.params:  # each case plays the same recording
        ids = list(getattr(case, "_idlist", None) or [parameters])
        with suppress(ValueError):
            ids.remove(case.params["aivvm_case"].id)
        parameters = "-".join(ids)
        bracket = bracket if ids else ""
    name = test.replace("::", ".") + (f"[{parameters}]" if bracket else "")
    return safe_name(name, hashed=_differs_by_case(item))


def _differs_by_case(item: pytest.Item) -> bool:
    """Whether its name and another one's would be the same file on some systems."""
    for node in item.listchain():
        name = getattr(node, "originalname", None) or node.name
        beside = dir(getattr(node.parent, "obj", None)) if hasattr(node, "obj") else []
        if any([one != name and one.casefold() == name.casefold() for one in beside]):
            return True
    return False


def _marked(item: pytest.Item) -> dict[str, Any]:
    """What its markers say; the nearest counts."""
    options: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers("aivvm_recording"))):
        options |= {**dict(zip(_TAKEN, marker.args, strict=False)), **marker.kwargs}
    return options


def safe_name(name: str, *, hashed: bool = False) -> str:
    """A file's name for this one, on any system; of two that would be the same by that, each has its own."""
    safe = _UNSAFE.sub("_", name).strip("._")[:_LONGEST_NAME] or "_"
    return safe if safe == name and not hashed else f"{safe}-{_digits(name)}"


def _digits(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


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


def mode_of(item: pytest.Item, run: Run, config: Mapping[str, Any]) -> str:
    """The record mode of this test: the option's or the environment's, else the marker's, the module's, the ini's."""
    said: str | None = {**config, **_marked(item)}.get("record_mode")
    return run.said.get("record") or said or run.settings["record"] or "none"


def upstream_of(item: pytest.Item, run: Run, config: Mapping[str, Any]) -> str:
    """The url that is asked while recording. Raises `SetupFailure` where the test takes that, is to be recorded, and nothing
    says what it is."""
    if upstream := run.settings["upstream"].rstrip("/"):
        return upstream
    takes_it = "aivvm_upstream" in inspect.signature(getattr(item, "function", lambda: None)).parameters
    mode = mode_of(item, run, config)
    there = _holds_any(recording_path(item, run.settings["recordings"]))
    if takes_it and mode not in ("none", "replay") and not (there and mode in ("once", "auto")):
        raise SetupFailure(
            f"{item.nodeid} is to be recorded ({mode}), and nothing says from where: say --aivvm-upstream=URL"
        )
    return DEFAULT_URL


def _holds_any(path: str | os.PathLike[str]) -> bool:
    """Whether there is a recording, and anything in it but its header."""
    with suppress(OSError), open(path, "rb") as file:
        file.readline()
        return bool(file.read(1))
    return False


def session_of(
    item: pytest.Item, run: Run, config: Mapping[str, Any], servers: Sequence[str] = ()
) -> RecordingSession:
    """The session of this test, which lets `servers` through.

    Raises `SetupFailure` where the test has no recording and the mode makes none, and for arguments that it does not take.
    """
    from aivvm_testing.record.use import use_recording

    options: dict[str, Any] = {**config, **_marked(item)}
    if unknown := [name for name in options if name not in _TAKEN]:
        raise SetupFailure(f"aivvm_recording takes {', '.join(_TAKEN)}, but got {', '.join(unknown)}")
    mode = mode_of(item, run, config)
    options.pop("record_mode", None)
    options.pop("path", None)
    if servers:
        options["allow"] = [*options.get("allow", ()), *[urlsplit(url).netloc for url in servers]]
    run.claim(item)
    path = recording_path(item, run.settings["recordings"])
    session = use_recording(path, mode, must_be_asked=False, **options)
    session.called = "@pytest.mark.aivvm_recording"
    session.advice, session.unasked = (
        _ADVICE,
        '@pytest.mark.aivvm_recording(on_unplayed="warn"), or "ignore",',
    )
    if session.mode in ("none", "verify") and not path.exists():
        raise SetupFailure(
            f"{item.nodeid} has no recording: there is no {path}.\nRecord it, with the real service at hand"
            + (
                ""
                if run.settings["upstream"]
                else " (and --aivvm-upstream=URL, where it asks aivvm_upstream)"
            )
            + f": {run.command(item, record='once', rechunk=None, fault=None)}"
        )
    if session.mode not in ("none", "verify"):
        path.parent.mkdir(parents=True, exist_ok=True)
    return session


_ADVICE = (
    "To fix it: 1. make the request equal to the recorded one, if the code under test is wrong;",
    "           2. record it: --aivvm-record=new_episodes adds what is new, --aivvm-record=rewrite begins again;",
    "           3. compare less: @pytest.mark.aivvm_recording(match_on=..., ignore_json=...);",
    "           4. let it pass, where it does not belong to the session: @pytest.mark.aivvm_recording(allow=[...]).",
)


class Run:
    """What is known of a run of pytest.

    `settings`: as the plugin found them; `said`: those of option or environment; `arguments` and `folder`: those of the
    command that began it.
    """

    def __init__(
        self, settings: Mapping[str, str], said: Mapping[str, str], arguments: Sequence[str], folder: str
    ) -> None:
        self.settings = settings
        self.said = said
        self.session_fake: FakeAivvm | None = None
        self.partial = False
        self.saved: list[str] = []
        self.summary: list[tuple[str, list[str]]] = []
        self._arguments = arguments
        self._folder = folder
        self._idle: list[str] = []  # cases that changed nothing
        self._empty: list[str] = []  # tests that recorded nothing
        self._folders: set[str] = set()
        self._claims: set[str] = set()  # real paths, as several ways may lead to one

    def claim(self, item: pytest.Item, *, perhaps: bool = False) -> None:
        """This test has a recording, or may have one, which is no orphan."""
        folder = self.settings["recordings"]
        if not perhaps:
            self._folders.add(os.path.realpath(item.path.parent / (folder or "recordings")))
        self._claims.add(os.path.realpath(recording_path(item, folder)))

    def went_through(self, nodeid: str, case: Case) -> None:
        """A test ran to its end with this case."""
        if case.fault and not case.broke:
            chunks = max([count for count, _ in case.seen], default=None)
            why = (
                "no answer came through it"
                if chunks is None
                else f"answers have {timeline.count(chunks, 'chunk')}"
            )
            self._idle.append(f"{nodeid} ({case.id}): {why}")

    def recorded(self, nodeid: str, path: str) -> None:
        """A test that has a recording ran to its end."""
        if not _holds_any(path):
            self._empty.append(f"{nodeid}: {path}")

    def claimed(self) -> dict[str, Any]:
        """What a worker tells the process that it works for."""
        return {"partial": self.partial, **{name: sorted(one) for name, one in self._shared().items()}}

    def merge(self, claimed: Mapping[str, Any]) -> None:
        """What a worker told."""
        self.partial = self.partial or claimed["partial"]
        for name, known in self._shared().items():
            if isinstance(known, set):
                known.update(claimed[name])
            else:
                known += [one for one in claimed[name] if one not in known]

    def _shared(self) -> dict[str, set[str] | list[str]]:
        return {
            "folders": self._folders,
            "claims": self._claims,
            "saved": self.saved,
            "idle": self._idle,
            "empty": self._empty,
        }

    def command(self, item: pytest.Item, **instead: str | None) -> str:
        """What runs this test again as it ran, with other values of some settings, or without them."""
        try:
            path = os.path.relpath(item.path, self._folder)
        except ValueError:  # another drive
            path = str(item.path)
        said = {name: self.said[name] for name in _REPEATED if name in self.said}
        if self.settings["rechunk"].startswith("random:"):
            said["rechunk"] = self.settings["rechunk"]
        options = [
            f"--aivvm-{name}={value}" for name, value in {**said, **instead}.items() if value is not None
        ]
        _, separator, test = item.nodeid.partition("::")
        words = [path + separator + test, *_kept(self._arguments), *options]
        return f"python -m pytest {shlex.join(words)}"

    def finish(self, config: pytest.Config, exitstatus: int) -> bool:
        """Makes the summary; whether the run has failed for it."""
        failed = False
        if self.saved:
            self.summary.append(("aivvm: streams of failed properties", self.saved))
        if self._idle:
            self.summary.append(
                ("aivvm: cases that changed nothing", _listed(sorted(self._idle, key=_naturally)))
            )
        if self._empty:
            self.summary.append(
                ("aivvm: tests that recorded nothing, as requests was not asked", _listed(self._empty))
            )
        wanted = self.settings["orphans"] or "report"
        whole = exitstatus in (0, 1) and not self.partial and _is_whole(config)
        if wanted != "ignore" and whole and (orphans := list(self._orphans(config))):
            failed = wanted == "fail"
            ours = [one for one in orphans if wanted == "delete" and _is_named_by_us(one, config)]
            for orphan in ours:
                orphan[1].unlink()
            for title, found in (
                ("aivvm: recordings that no test uses, deleted", ours),
                ("aivvm: recordings that no test uses", [one for one in orphans if one not in ours]),
            ):
                if found:
                    self.summary.append((title, _listed([str(path) for _, path in found])))
        days = _days(self.settings["max-age"])
        if days is not None and (stale := list(self._stale(days))):
            self.summary.append((f"aivvm: recordings older than {days:g} days", _listed(stale)))
        return failed

    def _orphans(self, config: pytest.Config) -> Iterator[tuple[Path, Path]]:
        """Each with its folder. A folder outside of what was collected may be that of other tests, too."""
        collected = [Path(os.path.realpath(config.invocation_params.dir / name)) for name in config.args]
        if config.args_source is config.ArgsSource.TESTPATHS:  # all there is
            collected.append(Path(os.path.realpath(config.rootpath)))
        seen = set()
        for folder in map(Path, sorted(self._folders)):
            if not any([folder.is_relative_to(one) for one in collected]):
                continue
            for path in sorted(folder.rglob("*.jsonl")):
                if path in seen or path.is_symlink() or not path.is_file() or not _is_recording(path):
                    continue
                seen.add(path)
                if os.path.realpath(path) not in self._claims:
                    yield folder, path

    def _stale(self, days: float) -> Iterator[str]:
        now = datetime.now(timezone.utc).timestamp()
        for path in sorted(self._claims):
            with suppress(OSError, ValueError, TypeError, KeyError), open(path, "rb") as file:
                recorded_at = json.loads(file.readline(65536))["recorded_at"]
                age = (now - moment_of(recorded_at)) / _DAY
                if age > days:
                    yield f"{path} ({recorded_at}, {age:.0f} days ago)"

    # What failed

    def told(self, item: pytest.Item, used: Mapping[str, Any], error: BaseException) -> list[tuple[str, str]]:
        """Sections for the report of a failed test: what went over the wire, what was done to it, and how to see it again."""
        case: Case | None = used.get("aivvm_case")
        session: RecordingSession | None = used.get("aivvm_recording")
        lines: list[str] = []
        for fake in (used.get("fake_aivvm"), getattr(session, "fake", None), self.session_fake):
            if fake is not None:
                lines += timeline.of_calls(fake.calls)
                lines += _missed(fake, error)
        if session is not None and session.records:
            lines += _recorded(session.path)
        elif session is not None and session.fake.calls:
            anew = self.command(item, record="rewrite", rechunk=None, fault=None)
            lines.append(f"answered from {session.path}; to record it anew: {anew}")
        if case:
            lines.append(f"every answer was changed: {case.id}")
        if lines:
            lines.append(f"again: {self.command(item)}")
        return [("aivvm", "\n".join(lines))] if lines else []


def _missed(fake: FakeAivvm, error: BaseException) -> Iterator[str]:
    """What the code under test was told of a request, and may have swallowed."""
    try:
        fake.assert_all_played()
    except UnplayedReplies:
        return
    except SetupFailure as failure:
        if failure is not error:
            yield printable(str(failure))


def _recorded(path: str) -> Iterator[str]:
    """What a recorder has written by now."""
    with suppress(OSError, ValueError, SetupFailure), tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "recording.jsonl")
        if os.path.exists(f"{path}.journal"):
            shutil.copyfile(f"{path}.journal", f"{copy}.journal")
            recover(copy)
        else:
            copy = path
        recording = Recording.load(copy)
        yield f"recorded in {path}: {timeline.count(len(recording), 'exchange')}"
        yield from timeline.of_exchanges(recording)


def _kept(arguments: Sequence[str]) -> Iterator[str]:
    """Of the arguments of a run, those that say where pytest finds what."""
    rest = iter(arguments)
    for one in rest:
        if one in _KEPT:
            yield from [one, *[value for value in [next(rest, None)] if value is not None]]
        elif one.startswith(tuple([f"{name}=" for name in _KEPT])) or re.match("-[co][^-]|--doctest", one):
            yield one


_KEPT = ("-c", "-o", "--config-file", "--confcutdir", "--import-mode", "--override-ini", "--rootdir")
_REPEATED = ("rechunk", "fault", "record", "upstream", "recordings")


def _is_named_by_us(orphan: tuple[Path, Path], config: pytest.Config) -> bool:
    """Whether the file is where a module's recordings are, under a name that a test may have."""
    names = orphan[1].relative_to(orphan[0]).parts
    if len(names) != 2 or _UNSAFE.search("".join(names)):
        return False
    modules = config.getini("python_files")
    return any([fnmatchcase(f"{names[0]}.py", str(one)) for one in modules])


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
    return not names and not any(chosen) and not config.getoption("collectonly", False)


def _naturally(line: str) -> list[str]:
    """For sorting: 2 goes before 10."""
    return [part.rjust(9, "0") if part.isdecimal() else part for part in re.split(r"(\d+)", line)]


def _listed(lines: Sequence[str]) -> list[str]:
    more = [f"... and {len(lines) - _SHOWN_FILES} more"] if len(lines) > _SHOWN_FILES else []
    return [*lines[:_SHOWN_FILES], *more]


class Watch:
    """Looks at a property while hypothesis runs it: what fails last is what it has shrunk the failure to.

    `stops`: the exceptions with which a test stops, and does not fail.
    """

    def __init__(
        self, item: pytest.Function, folder: str, run: Run, *, stops: Sequence[type[BaseException]]
    ) -> None:
        self._item = item
        self._folder = Path(folder)
        self._run = run
        self._handle = item.obj.hypothesis
        self._inner: Callable[..., Any] = self._handle.inner_test
        self._failing: tuple[BaseException, dict[str, Any]] | None = None
        passing: tuple[type[BaseException], ...] = (
            KeyboardInterrupt,
            SystemExit,
            GeneratorExit,
            SkipTest,
            *stops,
        )

        @functools.wraps(self._inner)
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                return self._inner(*args, **kwargs)
            except passing:
                raise
            except BaseException as error:
                if not type(error).__module__.startswith(
                    "hypothesis."
                ):  # how it leaves an example is its own business
                    self._failing = error, {**{str(n): one for n, one in enumerate(args)}, **kwargs}
                raise

        self._handle.inner_test = watched

    def stop(self) -> None:
        """The property is through; saves the streams of the failing example."""
        self._handle.inner_test = self._inner
        if self._failing is None:
            return
        error, values = self._failing
        streams = {name: one for name, value in values.items() if (one := _stream(value)) is not None}
        # Where there are others, an empty one is what hypothesis gives to an argument that does not matter.
        found = {name: one for name, one in streams.items() if one != [Reply.of()]} or streams
        for name, exchanges in found.items():
            self._save(name, exchanges, f"{type(error).__name__}: {error}")
        if not found:
            self._run.saved.append(
                f"nothing of {self._item.nodeid}: none of its arguments is a stream. What is drawn within data(), or "
                "is part of something larger, is not seen: make an argument of it"
            )

    def _save(self, name: str, exchanges: Sequence[Exchange | Reply], why: str) -> None:
        nodeid = self._item.nodeid
        request = build_request("gpt-4", [{"role": "user", "content": _text(self._item.name)}])
        known = [one if isinstance(one, Exchange) else Exchange(request, one) for one in exchanges]
        begins = _text(f"The {name} that {nodeid} fails with: ")
        recording = Recording(known, origin="written", note=begins + _text(one_line(why, 200)))
        stem = f"{safe_name(self._item.path.stem)}.{_test_name(self._item)}.{safe_name(name)}"
        path = self._folder / f"{stem}.jsonl"
        if path.exists() and not _notes(path).startswith(begins):
            path = self._folder / f"{stem}-{_digits(nodeid)}.jsonl"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            recording.save(path)
        except (OSError, ValueError) as error:
            self._run.saved.append(f"{path} could not be written: {error}")
        else:
            load = "Reply" if len(recording) == 1 else "Recording"
            self._run.saved.append(
                f"{path}: aivvm_testing.{load}.load({str(path)!r}) is the {name} of {nodeid}"
            )


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _notes(path: Path) -> str:
    with suppress(OSError, ValueError, SetupFailure):
        return Recording.load(path).note
    return ""


def _stream(value: object) -> Sequence[Exchange | Reply] | None:
    """What a value of `replies()`, `byte_streams()` or `recordings()` holds; None where it is none of them."""
    if isinstance(value, Reply):
        return [value]
    if isinstance(value, Recording):
        return list(value)
    # No chunks at all are a stream, too, as `byte_streams()` gives it: a tuple; an empty list may be anything.
    if (isinstance(value, tuple) or (isinstance(value, list) and value)) and all(
        [isinstance(part, bytes) for part in value]
    ):
        return [Reply.of(*value)]
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
