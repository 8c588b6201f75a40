"""The pytest plugin: fixtures over fakes and recordings, and options that break whatever they answer.

It is loaded in every pytest session of an environment that has this distribution, so it must cost nothing and need none
of the extras: nothing but pytest is imported until a fixture, an option or a marker of it is used. What is done then is
other modules' business: `suite` (names, settings, what is left over), `adversity`, `timeline`, `record.use`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import pytest

if TYPE_CHECKING:
    from aivvm.provider import Aivvm
    from aivvm_testing.adversity import Case
    from aivvm_testing.fake import FakeAivvm
    from aivvm_testing.record.use import RecordingSession
    from aivvm_testing.replay.server import FakeServer
    from aivvm_testing.suite import Run, Watch

_T = TypeVar("_T")

_OPTIONS = {
    "record": (
        "MODE",
        "how `aivvm_recording` is used: none (the default), once, new_episodes, all, rewrite, verify",
    ),
    "upstream": ("URL", "the server that is asked while recording, in the place of https://chat.aivvm.com"),
    "recordings": ("DIR", "the folder of recordings, seen from each test module (default: recordings)"),
    "rechunk": (
        "SIZE",
        "play every answer in chunks of 1, N, random[:SEED] or whole; all: each test once for each; none: as it is",
    ),
    "fault": (
        "NAME[@N]",
        "break every answer so, at chunk N; all: each test once for each fault of the catalogue; none: not at all",
    ),
    "orphans": ("WHAT", "recordings that no test uses: report (the default), fail, delete or ignore"),
    "max-age": ("DAYS", "report recordings that are older"),
    "save-failures": ("DIR", "where the shrunk stream of a failed property is saved as a recording"),
}
_MARKERS = (
    "aivvm_recording(path=None, record_mode=None, match_on=..., ignore_json=..., speed=0, on_unplayed='fail', ...): "
    "the test uses `aivvm_recording`, and this is what it does, as in `aivvm_testing.use_recording`",
    "aivvm_sweep(chunkings=[], faults=[]): the test runs once for each case, such as chunkings=['all'] or "
    "faults=['cut@*', 'stall']",
)

_runs: WeakKeyDictionary[pytest.Config, Run] = WeakKeyDictionary()
_partial: WeakSet[pytest.Config] = WeakSet()
"""Runs in which tests were left out."""
_stopped: WeakSet[pytest.Item] = WeakSet()
"""Tests that did not run to their end: failed, skipped or expected to fail, in set-up or in the test itself."""
_used: WeakKeyDictionary[pytest.Item, dict[str, Any]] = WeakKeyDictionary()
"""What the fixtures gave to each test, also to one that named them only when it ran."""
_SESSION = ("aivvm_session_fake", "aivvm_session_server")
_seed_key = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aivvm", "aivvm: record, replay and break streams")
    for name, (metavar, text) in _OPTIONS.items():
        group.addoption(f"--aivvm-{name}", metavar=metavar, help=text.replace("%", "%%"))
        parser.addini(f"aivvm_{name.replace('-', '_')}", text)


def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if any([_setting(config, name) for name in _OPTIONS]):
        from aivvm_testing.suite import check_settings

        try:
            check_settings({name: _setting(config, name) for name in _OPTIONS})
        except ValueError as error:
            what, _, why = str(error).partition(" ")
            where = _source(config, what) if what in _OPTIONS else what
            raise pytest.UsageError(f"aivvm: {where} {why}") from error


def _source(config: pytest.Config, name: str) -> str:
    """Who says what this setting is."""
    plain = name.replace("-", "_")
    if config.getoption(f"aivvm_{plain}", None) is not None:
        return f"--aivvm-{name}"
    variable = f"AIVVM_{plain.upper()}"
    return variable if os.environ.get(variable) else f"aivvm_{plain} of the ini file"


def _setting(config: pytest.Config, name: str) -> str:
    """The option, else the environment variable, else the ini key, else `""`."""
    said = _said(config, name)
    value = str(config.getini(f"aivvm_{name.replace('-', '_')}") or "") if said is None else said
    if name in ("rechunk", "fault"):
        value = {"none": "", "random": f"random:{_seed(config)}"}.get(value, value)
    return value


def _said(config: pytest.Config, name: str) -> str | None:
    """The option, `""` included, else the environment variable, else None."""
    name = name.replace("-", "_")
    option = config.getoption(f"aivvm_{name}", None)
    return os.environ.get(f"AIVVM_{name.upper()}") or None if option is None else str(option)


def _seed(config: pytest.Config) -> int:
    """That of `random` in this run, the same in each of its processes."""
    if _seed_key not in config.stash:
        told = getattr(config, "workerinput", {}).get("aivvm")
        config.stash[_seed_key] = told["seed"] if told else int.from_bytes(os.urandom(3), "big")
    return config.stash[_seed_key]


def _run(config: pytest.Config) -> Run:
    """What is known of this run; made when it is first needed."""
    run = _runs.get(config)
    if run is None:
        from aivvm_testing.suite import Run

        settings = {name: _setting(config, name) for name in _OPTIONS}
        said = {name: value for name in _OPTIONS if (value := _said(config, name)) is not None}
        told = getattr(config, "workerinput", {}).get("aivvm") or _invocation(config)
        run = _runs[config] = Run(settings, said, told["arguments"], told["folder"])
    return run


def _invocation(config: pytest.Config) -> dict[str, Any]:
    given = config.invocation_params
    return {"arguments": [str(one) for one in given.args], "folder": str(given.dir)}


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Of pytest-xdist: a worker begins."""
    node.workerinput["aivvm"] = {"seed": _seed(node.config), **_invocation(node.config)}


def pytest_report_header(config: pytest.Config) -> str | None:
    found = [f"--aivvm-{name}={value}" for name in ("rechunk", "fault") if (value := _setting(config, name))]
    return f"aivvm: every answer is changed: {' '.join(found)}" if found else None


# Cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    item, names = metafunc.definition, metafunc.fixturenames
    sweeps = list(item.iter_markers_with_node("aivvm_sweep"))
    recorded = "aivvm_recording" in names or item.get_closest_marker("aivvm_recording") is not None
    if "aivvm_case" not in names:
        if recorded or not set(_SESSION).isdisjoint(names):
            names.append("aivvm_case")
        elif sweeps:
            pytest.fail(
                f"{item.nodeid}: aivvm_sweep changes what a fixture of aivvm answers, and the test uses none: "
                "take fake_aivvm, aivvm_server, aivvm_provider, aivvm_recording, or aivvm_case for a fake of your own",
                pytrace=False,
            )
        else:
            return
    rechunk, fault = _setting(metafunc.config, "rechunk"), _setting(metafunc.config, "fault")
    if sweeps or _are_many(rechunk, fault):
        from aivvm_testing.suite import recorded_chunks, swept

        folder = _setting(metafunc.config, "recordings")
        chunks = recorded_chunks(item, folder) if recorded else None
        cases = _set_up(lambda: swept(sweeps, rechunk, fault, chunks), f"{item.nodeid}: aivvm_sweep")
        metafunc.parametrize("aivvm_case", cases, ids=[case.id for case in cases], indirect=True)


def _are_many(rechunk: str, fault: str) -> bool:
    return "all" in (rechunk, fault) or fault.endswith("@*")


def _complete(item: pytest.Item) -> None:
    """Adds the fixtures that a marker means, and those that go with one of the session."""
    names = getattr(item, "fixturenames", None)
    if not isinstance(names, list):
        return
    added = []
    if "aivvm_recording" not in names and item.get_closest_marker("aivvm_recording"):
        added = ["aivvm_recording"]
    if "aivvm_case" not in names and (added or not set(_SESSION).isdisjoint(names)):
        added.insert(0, "aivvm_case")
    if added:
        known = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
        own = [n for n, name in enumerate(names) if name in known and known[name][-1].scope == "function"]
        at = min(own, default=len(names))  # after those that outlive the test, before its own
        names[at:at] = added


@pytest.fixture
def aivvm_case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """What is done to every answer in this test: a callable from reply to reply. The fixtures do it; do it yourself to a
    fake of your own, with `fake.fault(aivvm_case, forever=True)`."""
    from aivvm_testing.adversity import Case

    config, item = request.config, request.node
    rechunk, fault = _setting(config, "rechunk"), _setting(config, "fault")
    given: Case | None = getattr(request, "param", None)
    if given is None and item.get_closest_marker("aivvm_sweep"):
        pytest.fail(f"{item.nodeid}: aivvm_sweep: {_ONCE}", pytrace=False)
    if given is None and _are_many(rechunk, fault):
        options = [f"--aivvm-{n}={v}" for n, v in (("rechunk", rechunk), ("fault", fault)) if v]
        pytest.skip(f"{' '.join(options)}: {_ONCE}")
    case = Case(rechunk, fault) if given is None else Case(given.chunking, given.fault)
    run = _run(config)
    _use(request, "aivvm_case", case)
    if case and run.session_fake is not None:
        run.session_fake.fault(case, forever=True)
    yield case
    if item not in _stopped:
        run.went_through(item.nodeid, case)


_ONCE = (
    "not run once for each case, as pytest cannot repeat it: it is a test of unittest, a doctest, or takes its fixture "
    "with getfixturevalue. Name one case, or let a test function name the fixture"
)


def _use(request: pytest.FixtureRequest, name: str, value: object) -> None:
    _used.setdefault(request.node, {})[name] = value


def _check_played(check: Callable[[], object], case: Case | None) -> None:
    """Once a fault has changed an answer, the code under test need not come to what it would have asked for next."""
    from aivvm_testing.errors import UnplayedReplies

    try:
        check()
    except UnplayedReplies:
        if case is None or not case.broke:
            raise


# Fakes


@pytest.fixture
def fake_aivvm(request: pytest.FixtureRequest, aivvm_case: Case) -> Iterator[FakeAivvm]:
    """A fake Aivvm service with virtual time.

    At the end of a test that ran to its end, all that was scripted must have been played, unless a fault of
    `aivvm_case` has changed an answer, and all that was asked answered. A test that failed, or was skipped, is not told
    of it too.
    """
    from aivvm_testing.fake import FakeAivvm

    fake = FakeAivvm()
    _use(request, "fake_aivvm", fake)
    if aivvm_case:
        fake.fault(aivvm_case, forever=True)
    yield fake
    if request.node not in _stopped:
        _check_played(fake.assert_all_played, aivvm_case)


@pytest.fixture
def aivvm_provider(fake_aivvm: FakeAivvm) -> Aivvm:
    """The provider, connected to `fake_aivvm` without a network."""
    from aivvm.provider import Aivvm

    return Aivvm(transport=fake_aivvm.transport())


@pytest.fixture
def aivvm_server(fake_aivvm: FakeAivvm, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """`fake_aivvm` as a server on loopback and a free port, for clients of any kind: `aivvm_server.url`.

    No proxy of the environment is asked for it. What its client cannot be told (an unmatched request, say) is reported
    once, by `fake_aivvm`.
    """
    from aivvm_testing.suite import no_proxy

    for name, value in no_proxy().items():
        monkeypatch.setenv(name, value)
    server = fake_aivvm.server()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def aivvm_session_fake(request: pytest.FixtureRequest) -> Iterator[FakeAivvm]:
    """One fake for the whole session, which is reset after each test: the one behind `aivvm_session_server`.

    A test that uses one of the two, and runs to its end, must have played what it scripted.
    """
    from aivvm_testing.fake import FakeAivvm

    run = _run(request.config)
    run.session_fake = FakeAivvm()
    yield run.session_fake
    run.session_fake = None


@pytest.fixture(scope="session")
def aivvm_session_server(aivvm_session_fake: FakeAivvm) -> Iterator[FakeServer]:
    """One server for the whole session, for what is set up once and keeps a url: `aivvm_session_server.url`."""
    server = aivvm_session_fake.server()
    server.start()
    yield server
    server.stop()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    run = _runs.get(item.config)
    fake = None if run is None else run.session_fake
    if fake is not None:
        try:
            if item not in _stopped and "aivvm_session_fake" in getattr(item, "fixturenames", ()):
                _check_played(fake.assert_all_played, _used.get(item, {}).get("aivvm_case"))
        finally:
            fake.reset()


# Recordings


@pytest.fixture(scope="module")
def aivvm_config() -> dict[str, Any]:
    """Defaults of `aivvm_recording` for a module that overrides this fixture: arguments of `use_recording`."""
    return {}


@pytest.fixture
def aivvm_upstream(request: pytest.FixtureRequest, aivvm_config: dict[str, Any]) -> str:
    """The url to record from: `--aivvm-upstream`. Replays need none, and go without it to that of the service; where yours
    has a path, say it for them, too, in the ini file, as they compare the path."""
    from aivvm_testing.suite import upstream_of

    return _set_up(lambda: upstream_of(request.node, _run(request.config), aivvm_config))


def _set_up(make: Callable[[], _T], whose: str = "") -> _T:
    """What this makes. What is wrong with the set-up of a test fails it, and needs no traceback."""
    try:
        return make()
    except (AssertionError, TypeError, ValueError, OSError) as error:
        why = f"{whose or type(error).__name__}: {error}"
    pytest.fail(why, pytrace=False)


@pytest.fixture
def aivvm_recording(
    request: pytest.FixtureRequest,
    aivvm_config: dict[str, Any],
    aivvm_case: Case,
    aivvm_upstream: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[RecordingSession]:
    """Whatever `requests` asks in the test is answered from the test's recording, or recorded: `--aivvm-record`.

    The file is `recordings/<module>/<test>.jsonl` beside the module, or the marker's `path`. Gives what `use_recording`
    gives, `.transport()` included; `Aivvm` asks `aivvm_upstream` unless it is given a url. The servers of this plugin are
    asked as if it were not there.
    """
    from aivvm.provider import Aivvm
    from aivvm_testing.suite import session_of

    item, run = request.node, _run(request.config)
    names = [name for name in ("aivvm_server", "aivvm_session_server") if name in request.fixturenames]
    urls = [request.getfixturevalue(name).url for name in names]
    session = _set_up(lambda: session_of(item, run, aivvm_config, urls))
    monkeypatch.setattr(Aivvm, "url", aivvm_upstream)
    session.__enter__()
    _use(request, "aivvm_recording", session)
    if aivvm_case:
        session.fake.fault(aivvm_case, forever=True)
    yield session
    stopped = AssertionError if item in _stopped else None
    _check_played(lambda: session.__exit__(stopped), aivvm_case)
    if stopped is None:
        run.recorded(item.nodeid, session.path)


# Reports


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    if call.excinfo is not None:
        _stopped.add(item)
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed and report.when != "setup" and call.excinfo is not None:
        run = _runs.get(item.config)
        if run is not None and (item in _used or run.session_fake is not None):
            report.sections += run.told(item, _used.get(item, {}), call.excinfo.value)


@pytest.hookimpl(hookwrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    watch = _watch(pyfuncitem)
    yield
    if watch is not None:
        watch.stop()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    case = getattr(sys.modules.get("unittest"), "TestCase", None)
    own = case is not None and issubclass(getattr(item, "cls", None) or object, case)
    watch = _watch(item) if own else None
    yield
    if watch is not None:
        watch.stop()


def _watch(item: Any) -> Watch | None:
    if hasattr(item.obj, "hypothesis") and (folder := _setting(item.config, "save-failures")):
        from aivvm_testing.suite import Watch

        stops = (pytest.exit.Exception, pytest.skip.Exception, pytest.xfail.Exception)
        return Watch(item, folder, _run(item.config), stops=stops)
    return None


def pytest_itemcollected(item: pytest.Item) -> None:
    _complete(item)
    _claim(item)


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items:  # again, as others may have added markers
        pytest_itemcollected(item)


def _claim(item: pytest.Item) -> None:
    if "aivvm_recording" in getattr(item, "fixturenames", ()):
        _run(item.config).claim(item)


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    outcome: Any = yield
    if not outcome.get_result().passed:  # a module that is skipped, or cannot be imported
        _partial.add(collector.config)


def pytest_deselected(items: list[pytest.Item]) -> None:
    _partial.update([item.config for item in items[:1]])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Of pytest-xdist: a worker has finished."""
    if claimed := getattr(node, "workeroutput", {}).get("aivvm"):
        _run(node.config).merge(claimed)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    run = _runs.get(session.config)
    if run is None:
        return
    run.partial = run.partial or session.config in _partial
    for item in getattr(session, "items", ()):
        if "request" in getattr(item, "fixturenames", ()):  # it may have named a recording when it ran
            run.claim(item, perhaps=True)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["aivvm"] = run.claimed()
    elif run.finish(session.config, exitstatus) and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    run = _runs.get(config)
    for title, lines in () if run is None else run.summary:
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.line(line)
