"""The pytest plugin: fixtures over fakes and recordings, and options that break whatever they answer.

It is loaded in every pytest session of an environment that has this distribution, so it must cost nothing and need none
of the extras: nothing but pytest is imported until a fixture, an option or a marker of it is used. What is done then is
other modules' business: `suite` (names, settings, what is left over), `adversity`, `timeline`, `record.use`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import pytest

if TYPE_CHECKING:
    from aivvm.provider import Aivvm
    from aivvm_testing.adversity import Case
    from aivvm_testing.fake import FakeAivvm
    from aivvm_testing.record.use import RecordingSession
    from aivvm_testing.replay.server import FakeServer
    from aivvm_testing.suite import Run

_OPTIONS = {
    "record": (
        "MODE",
        "how `aivvm_recording` is used: none (the default), once, new_episodes, all, rewrite, verify",
    ),
    "upstream": ("URL", "the server that is asked while recording, in the place of https://chat.aivvm.com"),
    "recordings": ("DIR", "the folder of recordings, seen from each test module (default: recordings)"),
    "rechunk": (
        "SIZE",
        "play every answer in chunks of 1, N, random[:SEED] or whole; all: each test once for each",
    ),
    "fault": (
        "NAME[@N]",
        "break every answer so, at chunk N; all: each test once for each fault of the catalogue",
    ),
    "orphans": ("WHAT", "recordings that no test uses: report (the default), fail, delete or ignore"),
    "max-age": ("DAYS", "report recordings that are older"),
    "save-failures": ("DIR", "where the shrunk stream of a failed property is saved as a recording"),
}
_MARKERS = (
    "aivvm_recording(path=None, record_mode=None, match_on=..., ignore_json=..., speed=0, on_unplayed='fail', ...): "
    "what `aivvm_recording` does in this test, as in `aivvm_testing.use_recording`",
    "aivvm_sweep(chunkings=[], faults=[]): the test runs once for each case, such as chunkings=['all'] or "
    "faults=['cut@*', 'stall']",
)

_runs: WeakKeyDictionary[pytest.Config, Run] = WeakKeyDictionary()
_partial: WeakSet[pytest.Config] = WeakSet()
"""Runs in which tests were left out."""
_stopped: WeakSet[pytest.Item] = WeakSet()
"""Tests that did not run to their end: failed, skipped or expected to fail, in set-up or in the test itself."""


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
            raise pytest.UsageError(f"aivvm: {error}") from error


def _setting(config: pytest.Config, name: str) -> str:
    """The option, else the environment variable, else the ini key, else `""`."""
    return _said(config, name) or str(config.getini(f"aivvm_{name.replace('-', '_')}") or "")


def _said(config: pytest.Config, name: str) -> str:
    """The option, else the environment variable, else `""`."""
    name = name.replace("-", "_")
    return str(config.getoption(f"aivvm_{name}", None) or os.environ.get(f"AIVVM_{name.upper()}") or "")


def _run(config: pytest.Config) -> Run:
    """What is known of this run; made when it is first needed."""
    run = _runs.get(config)
    if run is None:
        from aivvm_testing.suite import Run

        settings = {name: _setting(config, name) for name in _OPTIONS}
        run = _runs[config] = Run(settings, {name: _said(config, name) for name in _OPTIONS})
    return run


# Cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("aivvm_sweep")
    if "aivvm_case" not in metafunc.fixturenames:
        if marker is not None:
            pytest.fail(
                f"{metafunc.definition.nodeid}: aivvm_sweep changes what a fixture of aivvm answers, and the test uses none: "
                "take fake_aivvm, aivvm_server, aivvm_provider, aivvm_recording, or aivvm_case for a fake of your own",
                pytrace=False,
            )
        return
    rechunk, fault = _setting(metafunc.config, "rechunk"), _setting(metafunc.config, "fault")
    if marker is not None or "all" in (rechunk, fault) or fault.endswith("@*"):
        from aivvm_testing.suite import swept

        try:
            cases = swept(marker, rechunk, fault)
        except (TypeError, ValueError) as error:
            pytest.fail(f"{metafunc.definition.nodeid}: aivvm_sweep: {error}", pytrace=False)
        metafunc.parametrize("aivvm_case", cases, ids=[case.id for case in cases], indirect=True)


@pytest.fixture
def aivvm_case(request: pytest.FixtureRequest) -> Case:
    """What is done to every answer in this test: a callable from reply to reply. The fixtures do it; do it yourself to a
    fake of your own, with `fake.fault(aivvm_case, forever=True)`."""
    from aivvm_testing.adversity import Case

    given: Case | None = getattr(request, "param", None)
    if given is not None:
        return given
    return Case(_setting(request.config, "rechunk"), _setting(request.config, "fault"))


# Fakes


@pytest.fixture
def fake_aivvm(request: pytest.FixtureRequest, aivvm_case: Case) -> Iterator[FakeAivvm]:
    """A fake Aivvm service with virtual time.

    At the end of a test that ran to its end, all that was scripted must have been played, and all that was asked
    answered. A test that failed, or was skipped, is not told of it too.
    """
    from aivvm_testing.fake import FakeAivvm

    fake = FakeAivvm()
    if aivvm_case:
        fake.fault(aivvm_case, forever=True)
    yield fake
    if request.node not in _stopped:
        fake.assert_all_played()


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
                fake.assert_all_played()
        finally:
            fake.reset()


# Recordings


@pytest.fixture(scope="module")
def aivvm_config() -> dict[str, Any]:
    """Defaults of `aivvm_recording` for a module that overrides this fixture: arguments of `use_recording`."""
    return {}


@pytest.fixture
def aivvm_upstream(request: pytest.FixtureRequest) -> str:
    """The url to record from: `--aivvm-upstream`, else the service's own. Replays do not look at it."""
    return _setting(request.config, "upstream").rstrip("/") or "https://chat.aivvm.com"


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
    gives, `.transport()` included; `Aivvm` asks `aivvm_upstream` unless it is given a url.
    """
    from aivvm.provider import Aivvm
    from aivvm_testing.suite import session_of

    session = session_of(request.node, _run(request.config), aivvm_config)
    monkeypatch.setattr(Aivvm, "url", aivvm_upstream)
    session.__enter__()
    if aivvm_case:
        session.fake.fault(aivvm_case, forever=True)
    yield session
    session.__exit__(AssertionError if request.node in _stopped else None)


# Reports


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    if call.excinfo is not None:
        _stopped.add(item)
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed and report.when != "setup":
        used = getattr(item, "funcargs", None) or {}
        if "aivvm_case" in used:
            from aivvm_testing.suite import told

            report.sections += told(item.nodeid, used, _run(item.config))


@pytest.hookimpl(hookwrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    watch = None
    if hasattr(pyfuncitem.obj, "hypothesis") and (folder := _setting(pyfuncitem.config, "save-failures")):
        from aivvm_testing.suite import Watch

        watch = Watch(pyfuncitem, folder, _run(pyfuncitem.config))
    outcome: Any = yield
    if watch is not None:
        watch.stop(outcome.excinfo)


def pytest_collection_finish(session: pytest.Session) -> None:
    items = [item for item in session.items if "aivvm_recording" in getattr(item, "fixturenames", ())]
    if items:
        _run(session.config).claim(items)


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
