"""The plugin, tested through pytest itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from textwrap import dedent

import pytest
import requests

from aivvm_testing import FakeAivvm, Recording, use_recording
from aivvm_testing.adversity import every_fault

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def alone(pytester, monkeypatch):
    """Of the plugins that others have, none changes the order or warns: `test_neighbours.py` is about these."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:randomly -p no:asyncio")


def test_the_fixtures_work_without_configuration(pytester):
    pytester.makepyfile(
        """
        import requests

        HELLO = [{"role": "user", "content": "Hello"}]

        def test_provider(fake_aivvm, aivvm_provider):
            fake_aivvm.reply("Hi")
            assert list(aivvm_provider.create_completion("gpt-4", HELLO)) == ["Hi"]
            assert fake_aivvm.requests[0].json()["messages"] == HELLO

        def test_server(fake_aivvm, aivvm_server):
            fake_aivvm.reply("Hi")
            body = {"model": "gpt-4", "messages": HELLO}
            assert requests.post(aivvm_server.url + "/api/chat", json=body, timeout=5).text == "Hi"
        """
    )
    pytester.runpytest().assert_outcomes(passed=2)


def test_what_was_not_played_is_an_error_at_the_end_of_the_test(pytester):
    pytester.makepyfile(
        """
        def test_forgets_to_ask(fake_aivvm):
            fake_aivvm.reply("Hi")
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*UnplayedReplies: 1 not played (0 requests came):*", "*in the queue: *'Hi'*"]
    )


def test_an_unmatched_request_that_the_code_swallowed_is_an_error_all_the_same(pytester):
    pytester.makepyfile(
        """
        def test_swallows(fake_aivvm, aivvm_provider):
            fake_aivvm.on(model="gpt-4").reply("Hi", forever=True)
            try:
                list(aivvm_provider.create_completion("gpt-3.5-turbo", []))
            except BaseException:
                pass
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*UnmatchedRequest: no reply for POST *"])


def test_one_mistake_is_reported_once(pytester):
    pytester.makepyfile(
        """
        import requests

        def test_fails_by_itself(fake_aivvm):
            fake_aivvm.reply("Hi")
            assert "this" == "that"

        def test_asks_what_nobody_answers(fake_aivvm, aivvm_server):
            fake_aivvm.reply("Hi", forever=True)
            body = {"model": "gpt-4", "messages": []}
            assert requests.post(aivvm_server.url + "/api/chat", json=body, timeout=5).text == "Hi"
            fake_aivvm.on(path="/x").reply("x", forever=True)
            requests.get(aivvm_server.url + "/y", timeout=5)

        def test_swallows_through_a_socket(fake_aivvm, aivvm_server):
            fake_aivvm.reply("Hi")
            body = {"model": "gpt-4", "messages": []}
            answers = [requests.post(aivvm_server.url + "/api/chat", json=body, timeout=5) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [200, 501]
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*UnmatchedRequest: no reply for POST *"])
    assert "ExceptionGroup" not in result.stdout.str()


def test_a_test_that_stops_early_is_not_told_of_what_it_did_not_play(pytester):
    pytester.makepyfile(
        """
        import pytest

        def test_is_skipped(fake_aivvm):
            fake_aivvm.reply("Hi")
            pytest.skip("later")

        @pytest.mark.xfail(reason="known", strict=True)
        def test_is_expected_to_fail(fake_aivvm):
            fake_aivvm.reply("Hi")
            raise KeyError("the test's own")
        """
    )
    pytester.runpytest().assert_outcomes(skipped=1, xfailed=1)


def test_a_refused_connection_may_be_scripted_at_any_time(pytester):
    pytester.makepyfile(
        """
        import pytest, requests
        from aivvm_testing import Reply

        def test_refuses(fake_aivvm, aivvm_server):
            fake_aivvm.reply(Reply.no_answer("refused")).reply("Hi")
            body = {"model": "gpt-4", "messages": []}
            with pytest.raises(requests.ConnectionError, match="refused"):
                requests.post(aivvm_server.url + "/api/chat", json=body, timeout=5)
            aivvm_server.resume()
            assert requests.post(aivvm_server.url + "/api/chat", json=body, timeout=5).text == "Hi"
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


def fresh(code, *options):
    """What a new interpreter says to this; no plugin is loaded there but those that are named."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=True, env=environment
    )


def test_a_session_that_does_not_use_the_plugin_imports_nothing_but_the_plugin(pytester):
    pytester.makepyfile("def test_that_uses_nothing(): pass")
    code = """
        import sys, pytest
        options = ["-q", "-p", "no:cacheprovider"]
        assert pytest.main(options) == 0
        before = set(sys.modules)
        assert pytest.main([*options, "-p", "aivvm_testing.pytest_plugin"]) == 0
        print(sorted(set(sys.modules) - before))
        print({"requests", "urllib3", "responses", "hypothesis"} & set(sys.modules))
    """
    imported, heavy = fresh(dedent(code)).stdout.splitlines()[-2:]
    assert imported == "['aivvm_testing', 'aivvm_testing.pytest_plugin']"
    assert heavy == "set()"


def test_importing_the_plugin_takes_less_than_3_milliseconds_where_it_is_compiled(tmp_path):
    code = f"""
        import pytest, sys
        sys.pycache_prefix, sys.dont_write_bytecode = {str(tmp_path)!r}, False
        for _ in range(10):
            import aivvm_testing.pytest_plugin
            for name in [name for name in sys.modules if name.startswith("aivvm")]:
                del sys.modules[name]
    """
    told = fresh(dedent(code), "-X", "importtime").stderr
    took = [int(n) for n in re.findall(r"\| +(\d+) \| +aivvm_testing\.pytest_plugin$", told, re.MULTILINE)]
    assert len(took) == 10
    assert min(took[1:]) < 3000  # microseconds, what it imports included; the first had to compile it


CHAT = """
import requests

HELLO = [{"role": "user", "content": "Hello, мир"}]

def ask(url, said="Hello"):
    body = {"model": "gpt-4", "messages": [{"role": "user", "content": said}]}
    with requests.post(url + "/api/chat", json=body, stream=True, timeout=5) as answer:
        return b"".join(answer.iter_content(None)).decode()
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """A project of its own, with a client in a module."""
    for name in list(os.environ):
        if name.startswith("AIVVM_"):
            monkeypatch.delenv(name)
    pytester.makepyfile(client=CHAT)
    return pytester


@pytest.fixture
def upstream():
    with FakeAivvm().server() as server:
        yield server


RECORDED = """
from client import ask

def test_asks(aivvm_recording, aivvm_upstream):
    assert ask(aivvm_upstream, "one two") == "one two"
"""


def recorded(suite, upstream, *options):
    """A suite with one test, and its recording."""
    suite.makepyfile(test_mine=RECORDED)
    suite.runpytest("--aivvm-record=rewrite", f"--aivvm-upstream={upstream.url}", *options).assert_outcomes(
        passed=1
    )
    return suite.path / "recordings" / "test_mine" / "test_asks.jsonl"


def test_a_test_records_and_then_replays_by_its_name(suite, upstream):
    path = recorded(suite, upstream)
    assert Recording.load(path)[0].reply.body == b"one two"
    suite.runpytest().assert_outcomes(passed=1)


def test_without_a_recording_it_says_how_to_make_one(suite):
    suite.makepyfile(test_mine=RECORDED)
    result = suite.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*SetupFailure: test_mine.py::test_asks has no recording: there is no *recordings*test_mine*test_asks.jsonl.",
            "*python -m pytest test_mine.py::test_asks --aivvm-record=once",
        ]
    )
    assert not (suite.path / "recordings").exists()


def test_an_option_goes_before_the_environment_and_that_before_marker_module_and_ini(suite, monkeypatch):
    suite.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def aivvm_config():
            return {"record_mode": "rewrite"} if MODULE else {}

        MODULE = False

        @pytest.mark.aivvm_recording(record_mode="all")
        def test_marked(aivvm_recording):
            print("marked:", aivvm_recording.mode)

        def test_plain(aivvm_recording):
            print("plain:", aivvm_recording.mode)
        """
    )

    def modes(*options):
        lines = suite.runpytest("-s", *options).stdout.lines
        return [line.split(":")[-1].strip(" .") for line in lines if "marked:" in line or "plain:" in line]

    ini = "-o", "aivvm_record=once"
    assert modes(*ini) == ["all", "once"]
    path = suite.path / "test_an_option_goes_before_the_environment_and_that_before_marker_module_and_ini.py"
    path.write_text(path.read_text().replace("MODULE = False", "MODULE = True"))
    assert modes(*ini) == ["all", "rewrite"]
    monkeypatch.setenv("AIVVM_RECORD", "new_episodes")
    assert modes(*ini) == ["new_episodes", "new_episodes"]
    assert modes(*ini, "--aivvm-record=record") == ["all", "all"]


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("--aivvm-record=onse", "record is one of none, once, *but got 'onse'"),
        ("--aivvm-rechunk=0", "a chunking is a number of bytes, *but got '0'"),
        ("--aivvm-fault=cutt", "no fault is called 'cutt'; did you mean 'cut'*"),
        ("--aivvm-fault=html_page@3", "the fault 'html_page' happens at no chunk*"),
        ("--aivvm-orphans=eat", "orphans is one of report, fail, delete, ignore, but got 'eat'"),
        ("--aivvm-max-age=old", "max-age takes days, such as 90, but got 'old'"),
    ],
)
def test_a_setting_that_cannot_work_ends_the_run_at_once(suite, option, error):
    result = suite.runpytest(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: aivvm: {error}"])


def test_names_of_files_are_safe_and_never_shared(suite, upstream):
    suite.makepyfile(
        test_mine="""
        import pytest
        from client import ask

        @pytest.mark.parametrize("said", ["a/b", "a:b", "../../up", "plain", "x" * 300, "имя"])
        def test_it(aivvm_recording, aivvm_upstream, said):
            assert ask(aivvm_upstream, said) == said

        class TestOfAClass:
            def test_it(self, aivvm_recording, aivvm_upstream):
                ask(aivvm_upstream)
        """
    )
    record = "--aivvm-record=once", f"--aivvm-upstream={upstream.url}"
    suite.runpytest(*record).assert_outcomes(passed=7)
    suite.runpytest().assert_outcomes(passed=7)
    files = [path for path in suite.path.rglob("*") if path.suffix == ".jsonl"]
    assert len(files) == 7
    assert {path.parent for path in files} == {suite.path / "recordings" / "test_mine"}
    names = {path.stem for path in files}
    assert {"TestOfAClass.test_it"} < names
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,120}", name) for name in names)


def test_the_marker_takes_what_use_recording_takes(suite, upstream):
    suite.makepyfile(
        """
        import pytest
        from client import ask

        @pytest.mark.aivvm_recording(path="shared/one.jsonl", match_on=("path",), on_unplayed="ignore")
        def test_any(aivvm_recording, aivvm_upstream):
            assert ask(aivvm_upstream, "something else") == "one two"

        @pytest.mark.aivvm_recording("shared/one.jsonl", allow_playback_repeats=True, ignore_json=["model"])
        def test_repeats(aivvm_recording, aivvm_upstream):
            assert [ask(aivvm_upstream, "one two") for _ in range(3)] == ["one two"] * 3

        @pytest.mark.aivvm_recording(path="shared/one.jsonl", mode="all")
        def test_mistaken(aivvm_recording):
            pass
        """
    )
    path = suite.path / "shared" / "one.jsonl"
    path.parent.mkdir()
    with use_recording(path, "rewrite"):
        requests.post(
            f"{upstream.url}/api/chat",
            json={"model": "gpt-4", "messages": [{"role": "user", "content": "one two"}]},
            timeout=5,
        )
    result = suite.runpytest()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*SetupFailure: aivvm_recording takes path, record_mode, *, but got mode"])


def test_what_the_code_swallowed_and_what_it_did_not_ask_are_errors(suite, upstream):
    recorded(suite, upstream)
    suite.makepyfile(
        test_mine="""
        from client import ask

        def test_asks(aivvm_recording, aivvm_upstream):
            try:
                ask(aivvm_upstream, "other")
            except BaseException:
                pass
        """
    )
    result = suite.runpytest()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*UnmatchedRequest: no reply for POST *", "*Nearest: exchange 0 *"])
    suite.makepyfile(test_mine="def test_asks(aivvm_recording): pass")
    result = suite.runpytest()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*UnplayedReplies: 1 not played (0 requests came):*"])
    suite.makepyfile(test_mine="def test_asks(aivvm_recording): assert 0")
    suite.runpytest().assert_outcomes(failed=1)


def test_the_provider_asks_the_upstream_while_it_is_recorded(suite, upstream):
    suite.makepyfile(
        """
        from aivvm import Aivvm

        MESSAGES = [{"role": "user", "content": "a b"}]

        def test_on_the_class(aivvm_recording):
            assert list(Aivvm.create_completion("gpt-4", MESSAGES)) == ["a", " b"]

        def test_with_a_transport(aivvm_recording):
            provider = Aivvm(transport=aivvm_recording.transport())
            assert list(provider.create_completion("gpt-4", MESSAGES)) == ["a", " b"]
        """
    )
    suite.runpytest("--aivvm-record=once", f"--aivvm-upstream={upstream.url}").assert_outcomes(passed=2)
    suite.runpytest().assert_outcomes(passed=2)


# Adversity

NAIVE = """
import pytest
from aivvm_testing import Reply

def test_naive(fake_aivvm, aivvm_server):
    import requests
    fake_aivvm.reply(Reply.of("при", "вет"))
    with requests.post(aivvm_server.url + "/api/chat", json={"model": "gpt-4", "messages": [{"content": "x"}]}, stream=True, timeout=5) as answer:
        assert "".join(chunk.decode() for chunk in answer.iter_content(None)) == "привет"

def test_careful(fake_aivvm, aivvm_provider):
    fake_aivvm.reply(Reply.of("при", "вет"))
    assert "".join(aivvm_provider.create_completion("gpt-4", [])) == "привет"
"""


def test_every_answer_comes_in_the_chosen_chunks(suite):
    suite.makepyfile(NAIVE)
    suite.runpytest().assert_outcomes(passed=2)
    suite.runpytest("--aivvm-rechunk=2").assert_outcomes(passed=2)
    suite.runpytest("--aivvm-rechunk=1").assert_outcomes(passed=1, failed=1)
    suite.runpytest("-o", "aivvm_rechunk=3").assert_outcomes(passed=1, failed=1)


def test_with_all_a_test_runs_once_for_each_chunking_with_a_readable_id(suite):
    suite.makepyfile(NAIVE)
    result = suite.runpytest("--aivvm-rechunk=all", "-v")
    result.stdout.fnmatch_lines(
        ["*::test_naive[[]rechunk=1[]] FAILED*", "*::test_careful[[]rechunk=1[]] PASSED*"]
    )
    assert result.parseoutcomes()["passed"] >= 8 + 2


def test_a_fault_breaks_every_answer_and_the_report_says_which_and_how_to_see_it_again(suite):
    suite.makepyfile(NAIVE)
    result = suite.runpytest("--aivvm-fault=cut@1", "--aivvm-rechunk=4")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*- aivvm -*",
            "POST https://chat.aivvm.com/api/chat*",
            "     0.000  200 OK",
            "     0.000  +0.000    4 bytes  'пр'",
            "     0.000  +0.000  cut",
            "  the client took 1 of 1 chunk",
            "every answer was changed: rechunk=4-cut@1",
            "again: python -m pytest *::test_careful --aivvm-rechunk=4 --aivvm-fault=cut@1",
        ]
    )


def test_all_faults_find_what_a_naive_client_does_not_notice(suite):
    suite.makepyfile(
        """
        def test_naive(fake_aivvm, aivvm_provider):
            fake_aivvm.reply("Hello, world")
            text = ""
            try:
                for piece in aivvm_provider.create_completion("gpt-4", [], timeout=1):
                    text += piece
            except Exception as error:
                assert type(error).__module__ == "aivvm.errors"
            else:
                assert text == "Hello, world"
        """
    )
    result = suite.runpytest("--aivvm-fault=all", "-rf")
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] + outcomes["failed"] == len(every_fault())
    failed = {
        match[1] for line in result.stdout.lines if (match := re.match(r"FAILED [^[]*\[(.*?)\]( |$)", line))
    }
    # What changes the content, and says nothing of it: nobody can notice.
    assert {"duplicated_chunk", "empty_answer", "nul"} <= failed
    assert not failed & {"cut", "reset", "stall", "cut@0", "server_error", "html_page", "slow_drip"}


def test_a_replayed_recording_is_rechunked_and_broken_too(suite, upstream):
    recorded(suite, upstream)
    suite.runpytest("--aivvm-rechunk=all").assert_outcomes(passed=8)
    result = suite.runpytest("--aivvm-fault=reset@1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*reset*", "every answer was changed: reset@1"])


def test_a_sweep_runs_the_cases_that_it_names(suite):
    suite.makepyfile(
        """
        import pytest
        from aivvm_testing import faults

        @pytest.mark.aivvm_sweep(chunkings=[1, "random:5"], faults=[faults.cut(after=1), "stall@*"], chunks=2)
        def test_swept(fake_aivvm, aivvm_case):
            assert fake_aivvm is not None

        @pytest.mark.aivvm_sweep(faults=["cut@*"])
        def test_cut_after_every_chunk(fake_aivvm):
            pass
        """
    )
    lines = suite.runpytest("--collect-only", "-q").stdout.lines
    ids = [line.partition("::")[2] for line in lines if "::" in line]
    assert ids[:6] == [
        f"test_swept[{chunking}-{fault}]"
        for chunking in ("rechunk=1", "rechunk=random:5")
        for fault in ("cut(after=1)", "stall@0", "stall@1")
    ]
    assert ids[6:] == [f"test_cut_after_every_chunk[cut@{n}]" for n in range(8)]


def test_a_sweep_that_cannot_work_says_so(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.aivvm_sweep(chunkings=["all"])
        def test_without_a_fixture():
            pass
        """
    )
    result = suite.runpytest()
    result.stdout.fnmatch_lines(
        ["*aivvm_sweep changes what a fixture of aivvm answers, and the test uses none: *"]
    )
    suite.makepyfile(
        test_other="""
        import pytest

        @pytest.mark.aivvm_sweep(faults=["cutt"])
        def test_mistaken(fake_aivvm):
            pass
        """
    )
    suite.runpytest("test_other.py").stdout.fnmatch_lines(["*aivvm_sweep: no fault is called 'cutt'; *"])


# What is left over


def orphaned(suite, upstream):
    path = recorded(suite, upstream)
    orphan = path.with_name("test_gone.jsonl")
    orphan.write_bytes(path.read_bytes())
    other = path.with_name("notes.jsonl")
    other.write_text('{"somebody": "else"}')
    return path, orphan, other


def test_recordings_that_no_test_uses_are_listed_or_fail_the_run_or_go(suite, upstream):
    path, orphan, other = orphaned(suite, upstream)
    result = suite.runpytest()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["=* aivvm: recordings that no test uses =*", str(orphan)])
    assert str(other) not in result.stdout.str()
    assert suite.runpytest("--aivvm-orphans=fail").ret == 1
    assert "no test uses" not in suite.runpytest("--aivvm-orphans=ignore").stdout.str()
    suite.runpytest("--aivvm-orphans=delete").stdout.fnmatch_lines(["*no test uses, deleted*", str(orphan)])
    assert (path.exists(), orphan.exists(), other.exists()) == (True, False, True)


@pytest.mark.parametrize(
    "options",
    [
        ["-k", "asks"],
        ["test_mine.py"],
        ["test_mine.py::test_asks"],
        ["-m", "not slow"],
        ["--ignore-glob=*_other.py"],
    ],
)
def test_a_part_of_a_suite_has_no_orphans(suite, upstream, options):
    _, orphan, _ = orphaned(suite, upstream)
    result = suite.runpytest("--aivvm-orphans=delete", *options)
    assert "no test uses" not in result.stdout.str()
    assert orphan.exists()


@pytest.mark.parametrize("other", ["import pytest; pytest.importorskip('not_there')", "import not_there"])
def test_a_suite_with_a_module_that_cannot_be_collected_has_no_orphans(suite, upstream, other):
    _, orphan, _ = orphaned(suite, upstream)
    suite.makepyfile(test_other=other)
    result = suite.runpytest("--aivvm-orphans=delete", "--continue-on-collection-errors")
    assert result.parseoutcomes()["passed"] == 1
    assert "no test uses" not in result.stdout.str()
    assert orphan.exists()


def test_recordings_that_are_old_are_listed(suite, upstream):
    path = recorded(suite, upstream)
    assert "older than" not in suite.runpytest("--aivvm-max-age=30").stdout.str()
    path.write_text(
        re.sub(r'"recorded_at": "[^"]*"', '"recorded_at": "2020-01-01T00:00:00Z"', path.read_text())
    )
    suite.runpytest("--aivvm-max-age=30").stdout.fnmatch_lines(
        ["=* aivvm: recordings older than 30 days =*", f"{path} (2020-01-01T00:00:00Z, * days ago)"]
    )


# Sessions, properties, neighbours


def test_a_server_of_the_session_begins_anew_for_each_test(suite):
    suite.makepyfile(
        """
        import pytest
        from client import ask

        @pytest.fixture(scope="session")
        def url(aivvm_session_server):
            return aivvm_session_server.url

        def test_scripted(url, aivvm_session_fake):
            aivvm_session_fake.reply("mine")
            assert ask(url) == "mine"

        def test_echo(url, aivvm_session_fake):
            assert ask(url, "echo") == "echo"
            assert len(aivvm_session_fake.calls) == 1

        def test_forgets(aivvm_session_fake):
            aivvm_session_fake.reply("never asked for")

        def test_after_that(url):
            assert ask(url, "echo") == "echo"
        """
    )
    result = suite.runpytest()
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["*UnplayedReplies: 1 not played*"])


def test_no_proxy_of_the_environment_is_asked_for_the_server(suite, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    suite.makepyfile(
        """
        from client import ask

        def test_it(aivvm_server):
            assert ask(aivvm_server.url) == "Hello"
        """
    )
    suite.runpytest().assert_outcomes(passed=1)


PROPERTY = """
from hypothesis import Phase, given, settings
from aivvm_testing import strategies

@settings(database=None, derandomize=True, phases=[Phase.generate, Phase.shrink], max_examples=30)
@given(reply=strategies.replies(with_head=True, endings=["complete"]), other=strategies.byte_streams())
def test_naive(reply, other):
    "".join(chunk.data.decode() for chunk in reply.chunks)
"""


def test_the_stream_that_a_property_fails_with_is_saved_as_small_as_it_can_be(suite):
    suite.makepyfile(test_mine=PROPERTY)
    result = suite.runpytest("--aivvm-save-failures=found")
    result.assert_outcomes(failed=1)
    path = suite.path / "found" / "test_naive.reply.jsonl"
    result.stdout.fnmatch_lines(
        [
            "=* aivvm: streams of failed properties =*",
            "found*test_naive.reply.jsonl: aivvm_testing.Reply.load(*",
        ]
    )
    recording = Recording.load(path)
    assert recording.note.startswith(
        "The reply that test_mine.py::test_naive fails with: UnicodeDecodeError: "
    )
    assert recording[0].reply.body in {bytes([n]) for n in range(0x80, 0x100)}
    suite.makepyfile(
        test_again="""
        import pytest
        from aivvm_testing import Reply

        def test_it_by_name():
            with pytest.raises(UnicodeDecodeError):
                "".join(chunk.data.decode() for chunk in Reply.load("found/test_naive.reply.jsonl").chunks)
        """
    )
    suite.runpytest("test_again.py").assert_outcomes(passed=1)


def test_a_property_that_holds_saves_nothing(suite):
    suite.makepyfile(test_mine=PROPERTY.replace(".decode()", ".decode('utf-8', 'replace')"))
    suite.runpytest("--aivvm-save-failures=found").assert_outcomes(passed=1)
    assert not (suite.path / "found").exists()


def test_what_workers_know_comes_home(suite, upstream):
    path, orphan, other = orphaned(suite, upstream)
    suite.makepyfile(test_naive=NAIVE, test_property=PROPERTY)
    result = suite.runpytest(
        "-n", "2", "--aivvm-fault=cut@1", "--aivvm-orphans=delete", "--aivvm-save-failures=found"
    )
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["*- aivvm -*", "every answer was changed: cut@1"])
    result.stdout.fnmatch_lines(
        [
            "=* aivvm: streams of failed properties =*",
            "found*test_naive.reply.jsonl: aivvm_testing.Reply.load(*",
            "=* aivvm: recordings that no test uses, deleted =*",
            str(orphan),
        ],
        consecutive=True,
    )
    assert (path.exists(), orphan.exists(), other.exists()) == (True, False, True)


def test_each_fixture_is_listed_with_what_it_is(suite):
    lines = suite.runpytest("--fixtures", "-q").stdout.lines
    for name in (
        "fake_aivvm",
        "aivvm_server",
        "aivvm_session_server",
        "aivvm_session_fake",
        "aivvm_provider",
        "aivvm_recording",
        "aivvm_case",
        "aivvm_config",
        "aivvm_upstream",
    ):
        where = next(n for n, line in enumerate(lines) if line.startswith(f"{name} ") or line == name)
        assert lines[where + 1].strip(), name
