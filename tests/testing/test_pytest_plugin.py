"""The plugin, tested through pytest itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from textwrap import dedent

import pytest
import requests

from aivvm.payload import build_request
from aivvm_testing import Exchange, FakeAivvm, Recording, Reply, use_recording
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


def test_what_is_to_be_recorded_must_be_told_from_where(suite, upstream):
    suite.makepyfile(
        test_mine="""
        from client import ask

        def test_asks(aivvm_recording, aivvm_upstream):
            ask(aivvm_upstream, "Hi")
        """
    )
    result = suite.runpytest("--aivvm-record=once")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["SetupFailure: test_mine.py::test_asks is to be recorded (once), and nothing says from where: *"]
    )
    assert not list(suite.path.rglob("*.jsonl"))
    suite.runpytest("--aivvm-record=once", f"--aivvm-upstream={upstream.url}").assert_outcomes(passed=1)
    suite.runpytest("--aivvm-record=once").assert_outcomes(passed=1)


def test_a_suite_may_say_itself_what_the_upstream_is(suite, upstream):
    suite.makeconftest(
        f"""
        import pytest

        @pytest.fixture
        def aivvm_upstream():
            return {upstream.url!r}
        """
    )
    suite.makepyfile(
        test_mine="""
        from aivvm import Aivvm

        def test_asks(aivvm_recording):
            provider = Aivvm(transport=aivvm_recording.transport())
            assert "".join(provider.create_completion("gpt-4", [{"role": "user", "content": "Hi"}])) == "Hi"
        """
    )
    # In processes of their own, as one here would leave the provider half imported for the next.
    suite.runpytest_subprocess("--aivvm-record=once").assert_outcomes(passed=1)
    suite.runpytest_subprocess().assert_outcomes(passed=1)


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
        return [line.split(":")[-1].strip(" .") for line in lines if re.search("(marked|plain): [a-z]", line)]

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
        ("--aivvm-record=onse", "--aivvm-record is one of none, once, *but got 'onse'"),
        ("--aivvm-rechunk=0", "--aivvm-rechunk cannot be '0': a chunking is a number of bytes, *but got '0'"),
        (
            "--aivvm-fault=cutt",
            "--aivvm-fault cannot be 'cutt': no fault is called 'cutt'; did you mean 'cut'*",
        ),
        (
            "--aivvm-fault=html_page@3",
            "--aivvm-fault cannot be 'html_page@3': the fault 'html_page' happens at no chunk*",
        ),
        ("--aivvm-orphans=eat", "--aivvm-orphans is one of report, fail, delete, ignore, but got 'eat'"),
        ("--aivvm-max-age=old", "--aivvm-max-age takes days, such as 90, but got 'old'"),
        ("--aivvm-max-age=inf", "--aivvm-max-age takes days, such as 90, but got 'inf'"),
        ("--aivvm-upstream=foo", "--aivvm-upstream is a url, such as https://chat.aivvm.com, but got 'foo'"),
    ],
)
def test_a_setting_that_cannot_work_ends_the_run_at_once(suite, option, error):
    result = suite.runpytest(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: aivvm: {error}"])


def test_a_setting_that_cannot_work_is_told_by_where_it_comes_from(suite, monkeypatch):
    suite.runpytest("-o", "aivvm_max_age=old").stderr.fnmatch_lines(
        ["ERROR: aivvm: aivvm_max_age of the ini file takes days, such as 90, but got 'old'"]
    )
    monkeypatch.setenv("AIVVM_RECORD", "bogus")
    suite.runpytest().stderr.fnmatch_lines(["ERROR: aivvm: AIVVM_RECORD is one of none, *but got 'bogus'"])


def test_names_of_files_are_safe_and_never_shared(suite, upstream):
    suite.makepyfile(
        test_mine="""
        import pytest
        from client import ask

        @pytest.mark.parametrize(
            "said",
            ["a/b", "a:b", "a::b", "a.b", "../../up", "plain", "x" * 300, "имя", "x-rechunk=1", "rechunk=1"],
        )
        def test_it(aivvm_recording, aivvm_upstream, said):
            assert ask(aivvm_upstream, said) == said

        class TestOfAClass:
            def test_it(self, aivvm_recording, aivvm_upstream):
                ask(aivvm_upstream)

        def test_two(aivvm_recording, aivvm_upstream):
            assert ask(aivvm_upstream, "two") == "two"

        def test_Two(aivvm_recording, aivvm_upstream):
            assert ask(aivvm_upstream, "Two") == "Two"
        """
    )
    record = "--aivvm-record=once", f"--aivvm-upstream={upstream.url}"
    suite.runpytest(*record).assert_outcomes(passed=13)
    suite.runpytest("--aivvm-rechunk=all").assert_outcomes(passed=13 * 8)
    suite.runpytest("test_mine.py::test_two").assert_outcomes(passed=1)
    files = [path for path in suite.path.rglob("*") if path.suffix == ".jsonl"]
    assert len(files) == 13
    assert {path.parent for path in files} == {suite.path / "recordings" / "test_mine"}
    names = {path.stem for path in files}
    assert {"TestOfAClass.test_it"} < names
    assert len({name.casefold() for name in names}) == 13
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


def test_the_marker_alone_keeps_a_test_from_the_network(suite, upstream):
    path = recorded(suite, upstream)
    suite.makepyfile(
        test_marked=f"""
        import unittest
        import pytest
        from client import ask

        @pytest.mark.aivvm_recording(path={str(path)!r})
        def test_plain():
            assert ask("http://127.0.0.1:9", "one two") == "one two"

        @pytest.mark.parametrize("said", [pytest.param("other", marks=pytest.mark.aivvm_recording(path={str(path)!r}))])
        def test_of_a_parameter(said):
            ask("http://127.0.0.1:9", said)

        @pytest.mark.aivvm_recording(path={str(path)!r})
        class TestOfUnittest(unittest.TestCase):
            def test_it(self):
                assert ask("http://127.0.0.1:9", "one two") == "one two"

        def test_later():
            assert ask("http://127.0.0.1:9", "one two") == "one two"
        """,
        conftest=f"""
        import pytest

        def pytest_collection_modifyitems(items):
            for item in items:
                if item.name.startswith("test_later"):
                    item.add_marker(pytest.mark.aivvm_recording(path={str(path)!r}))
        """,
    )
    result = suite.runpytest("test_marked.py")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*UnmatchedRequest: no reply for POST *"])
    result = suite.runpytest("test_marked.py", "--aivvm-rechunk=all", "-k", "plain or Unittest")
    result.assert_outcomes(passed=8, skipped=1)


def test_markers_of_module_class_and_function_are_one(suite, upstream):
    recorded(suite, upstream)
    suite.makepyfile(
        test_marked="""
        import pytest
        from client import ask

        pytestmark = pytest.mark.aivvm_recording("recordings/test_mine/test_asks.jsonl", on_unplayed="fail")

        @pytest.mark.aivvm_recording(match_on=["path"])
        class TestOfAClass:
            @pytest.mark.aivvm_recording(on_unplayed="ignore")
            def test_nothing(self, aivvm_recording):
                pass

            def test_other(self, aivvm_upstream):
                assert ask(aivvm_upstream, "other") == "one two"
        """
    )
    suite.runpytest("test_marked.py").assert_outcomes(passed=2)


def test_a_recording_leaves_the_server_of_the_fake_alone(suite, upstream):
    suite.makepyfile(
        """
        import pytest
        from client import ask

        def test_both(aivvm_recording, aivvm_upstream, aivvm_server, aivvm_session_server):
            assert [ask(url) for url in (aivvm_upstream, aivvm_server.url, aivvm_session_server.url)] == ["Hello"] * 3

        @pytest.mark.parametrize("asks", [True])
        def test_nothing(aivvm_recording, asks):
            pass
        """
    )
    result = suite.runpytest("--aivvm-record=once", f"--aivvm-upstream={upstream.url}")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["=* aivvm: tests that recorded nothing*=", "*::test_nothing[[]True[]]: *.jsonl"]
    )
    (path,) = suite.path.rglob("test_both.jsonl")
    assert [exchange.request.url for exchange in Recording.load(path)] == [f"{upstream.url}/api/chat"]
    again = suite.runpytest("-k", "test_nothing")
    again.assert_outcomes(passed=1, deselected=1)
    again.stdout.fnmatch_lines(
        ["=* aivvm: tests that recorded nothing*=", "*::test_nothing[[]True[]]: *.jsonl"]
    )
    suite.runpytest().assert_outcomes(passed=2)


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
    result.stdout.fnmatch_lines(
        [
            "*UnmatchedRequest: no reply for POST *",
            "*Nearest: exchange 0 *",
            "*2. record it: --aivvm-record=new_episodes adds what is new*",
            "*3. compare less: @pytest.mark.aivvm_recording(match_on=*",
        ]
    )
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
        """,
        test_twice="""
        import pytest

        @pytest.mark.aivvm_sweep(chunkings=[1])
        @pytest.mark.aivvm_sweep(chunkings=[2])
        def test_twice(fake_aivvm):
            pass
        """,
        test_several="""
        import pytest

        @pytest.mark.aivvm_sweep(chunkings=[1, 2], faults=["stall"])
        class TestOfAClass:
            @pytest.mark.aivvm_sweep(faults=["cut"])
            def test_it(self, fake_aivvm):
                pass
        """,
    )
    suite.makepyfile(
        test_none="""
        import pytest

        @pytest.mark.aivvm_sweep(faults=[])
        def test_none(fake_aivvm):
            pass
        """
    )
    suite.runpytest("test_none.py", "test_other.py", "test_twice.py").stdout.fnmatch_lines(
        [
            "*aivvm_sweep: it names no case: *",
            "*aivvm_sweep: no fault is called 'cutt'; *",
            "*aivvm_sweep: two markers of the same test say chunkings: *",
        ]
    )
    lines = suite.runpytest("test_several.py", "--collect-only", "-q").stdout.lines
    assert [line.partition("[")[2] for line in lines if "::" in line] == ["rechunk=1-cut]", "rechunk=2-cut]"]


def test_a_client_that_gives_up_after_a_fault_need_not_ask_for_the_rest(suite, upstream):
    suite.makepyfile(
        test_mine="""
        import requests
        from client import ask

        def both(url):
            try:
                assert [ask(url, "one"), ask(url, "two")] == ["one", "two"]
            except requests.RequestException:
                pass

        def test_recorded(aivvm_recording, aivvm_upstream):
            both(aivvm_upstream)

        def test_scripted(fake_aivvm, aivvm_server):
            fake_aivvm.reply("one").reply("two")
            both(aivvm_server.url)

        def test_of_the_session(aivvm_session_fake, aivvm_session_server):
            aivvm_session_fake.reply("one").reply("two")
            both(aivvm_session_server.url)

        def test_asks_the_wrong(fake_aivvm, aivvm_server):
            fake_aivvm.on(contains="one").reply("one").reply("two")
            both(aivvm_server.url)
            ask(aivvm_server.url, "three")
        """
    )
    tests = "-k", "not wrong"
    suite.runpytest("--aivvm-record=once", f"--aivvm-upstream={upstream.url}", *tests).assert_outcomes(
        passed=3
    )
    suite.runpytest("--aivvm-fault=cut", *tests).assert_outcomes(passed=3)
    result = suite.runpytest("--aivvm-fault=cut", "-k", "wrong")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*UnmatchedRequest: no reply for *"])
    result = suite.runpytest("--aivvm-fault=cut@7", *tests)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "=* aivvm: cases that changed nothing =*",
            "test_mine.py::test_of_the_session (cut@7): answers have 1 chunk",
            "test_mine.py::test_recorded (cut@7): answers have 1 chunk",
            "test_mine.py::test_scripted (cut@7): answers have 1 chunk",
        ]
    )


def test_every_chunk_is_every_chunk_of_the_recording(suite):
    path = suite.path / "long.jsonl"
    long = Reply.of(*[b"x"] * 11)
    Recording([Exchange(build_request("gpt-4", []), one) for one in (Reply.of("x"), long)]).save(path)
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.aivvm_recording(path="long.jsonl")
        def test_recorded():
            pass

        @pytest.mark.aivvm_recording(path="long.jsonl")
        @pytest.mark.aivvm_sweep(faults=["cut@*"], chunks=2)
        def test_few():
            pass

        def test_scripted(fake_aivvm):
            pass
        """
    )
    lines = suite.runpytest("--collect-only", "-q", "--aivvm-fault=cut@*").stdout.lines
    ids = [line.partition("::")[2] for line in lines if "::" in line]
    assert ids == [
        f"{name}[cut@{n}]"
        for name, count in (("test_recorded", 12), ("test_few", 2), ("test_scripted", 8))
        for n in range(count)
    ]


UNREPEATED = """
import unittest
import pytest
from client import ask

def test_named_while_it_runs(request):
    fake, server = request.getfixturevalue("fake_aivvm"), request.getfixturevalue("aivvm_server")
    fake.reply("Привет")
    assert ask(server.url) == "Привет"

class OfUnittest(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def fakes(self, fake_aivvm, aivvm_server):
        self.fake, self.url = fake_aivvm, aivvm_server.url

    def test_it(self):
        self.fake.reply("Привет")
        assert ask(self.url) == "Привет"

class InADocstring:
    '''
    >>> getfixture("fake_aivvm").reply("Hi") is not None
    True
    >>> ask(getfixture("aivvm_server").url)
    'Hi'
    '''
"""


def test_what_cannot_be_repeated_is_skipped_and_says_so(suite):
    suite.makepyfile(UNREPEATED)
    options = "--doctest-modules", "--import-mode=importlib", "-rs", "-o", "pythonpath=."
    suite.runpytest(*options, "--aivvm-rechunk=2").assert_outcomes(passed=3)
    result = suite.runpytest(*options, "--aivvm-rechunk=all", "--aivvm-fault=cut@*")
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(
        ["SKIPPED *--aivvm-rechunk=all --aivvm-fault=cut@[*]: not run once for each*"]
    )
    result = suite.runpytest(*options, "--aivvm-fault=cut")
    result.assert_outcomes(failed=3)
    suite.makepyfile(
        test_swept=UNREPEATED.replace(
            "    def test_it", "    @pytest.mark.aivvm_sweep(faults=['cut'])\n    def test_it"
        )
    )
    swept = suite.runpytest("test_swept.py", "-k", "OfUnittest")
    swept.assert_outcomes(errors=1)
    swept.stdout.fnmatch_lines(["*::OfUnittest::test_it: aivvm_sweep: not run once for each case, *"])
    result.stdout.fnmatch_lines(
        ["again: python -m pytest *::test_named_while_it_runs --doctest-modules --import-mode=importlib *"]
    )


def test_the_fake_of_a_session_is_broken_too(suite):
    suite.makepyfile(
        """
        import pytest
        from client import ask

        @pytest.fixture(scope="session")
        def url(aivvm_session_server):
            return aivvm_session_server.url

        def test_swallows(url, aivvm_session_fake):
            aivvm_session_fake.reply("Hello")
            assert ask(url) == "Hello"

        @pytest.mark.aivvm_sweep(chunkings=[1, 2])
        def test_swept(url, aivvm_session_fake):
            assert ask(url) == "Hello"
            sizes = [len(chunk.data) for chunk in aivvm_session_fake.calls[-1].reply.chunks]
            assert max(sizes) in (1, 2)
        """
    )
    suite.runpytest("--aivvm-rechunk=1").assert_outcomes(passed=3)
    suite.runpytest("--aivvm-rechunk=all").assert_outcomes(passed=10)
    result = suite.runpytest("--aivvm-fault=cut@*", "-k", "swallows")
    result.assert_outcomes(failed=2, passed=6)
    result.stdout.fnmatch_lines(
        [
            "*- aivvm -*",
            "  the client took 1 of 1 chunk",
            "every answer was changed: cut@1",
            "again: *::test_swallows[[]cut@1[]]*--aivvm-fault=cut@[*]*",
        ]
    )


def test_a_run_has_a_seed_of_its_own_that_it_tells(suite):
    suite.makepyfile(
        """
        def test_it(fake_aivvm, aivvm_provider):
            assert list(aivvm_provider.create_completion("gpt-4", [{"role": "user", "content": "Hi"}])) == []
        """
    )

    def seeds(*options):
        told = suite.runpytest("--aivvm-rechunk=random", *options).stdout.str()
        (header,) = re.findall(r"^aivvm: every answer is changed: --aivvm-rechunk=random:(\d+)$", told, re.M)
        assert set(re.findall(r"random:(\d+)", told)) == {header}
        assert re.search(r"^again: .* --aivvm-rechunk=random:", told, re.M)
        return header

    assert len({seeds(), seeds(), seeds("-n", "1")}) > 1


def test_an_option_switches_off_what_the_environment_says(suite, monkeypatch):
    suite.makepyfile(
        """
        def test_it(fake_aivvm, aivvm_case):
            assert not aivvm_case
        """
    )
    monkeypatch.setenv("AIVVM_FAULT", "all")
    for value in ("", "none"):
        options = "-o", "aivvm_rechunk=all", f"--aivvm-fault={value}", f"--aivvm-rechunk={value}"
        suite.runpytest(*options).assert_outcomes(passed=1)


def test_a_failure_repeats_from_where_the_run_began(suite, monkeypatch, upstream):
    folder = suite.mkdir("tests")
    (folder / "test_there.py").write_text(
        RECORDED
        + dedent("""
        def test_swallows(fake_aivvm, aivvm_server):
            fake_aivvm.on(contains="other").reply("other", forever=True)
            assert ask(aivvm_server.url).endswith("nothing of it")
        """)
    )
    suite.makefile(".ini", other="[pytest]\npythonpath = .\n")
    monkeypatch.chdir(folder)
    options = (
        "-c",
        "../other.ini",
        "--rootdir=..",
        f"--aivvm-upstream={upstream.url}",
        "--aivvm-recordings=there",
    )
    result = suite.runpytest(*options)
    kept = f"-c ../other.ini --rootdir=.. --aivvm-upstream={upstream.url} --aivvm-recordings=there"
    result.stdout.fnmatch_lines(
        [
            f"*python -m pytest test_there.py::test_asks {kept} --aivvm-record=once",
            "  no answer: nothing matched",
            "no reply for POST *",
            "*on(contains='other')*",
            f"again: python -m pytest test_there.py::test_swallows {kept}",
        ]
    )


def test_a_failed_test_says_what_it_was_answered_from_and_how_to_record_it_anew(suite, upstream):
    suite.makepyfile(RECORDED)
    suite.runpytest("--aivvm-record=once", f"--aivvm-upstream={upstream.url}").assert_outcomes(passed=1)
    suite.makepyfile(RECORDED.replace('== "one two"', '== "something else"'))
    result = suite.runpytest("--aivvm-record=once", f"--aivvm-upstream={upstream.url}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "answered from *test_asks.jsonl; to record it anew: python -m pytest *::test_asks --aivvm-record=rewrite *",
            "again: python -m pytest *",
        ]
    )


def test_what_a_failed_test_recorded_is_shown(suite, upstream):
    suite.makepyfile(RECORDED.replace('== "one two"', '== "something else"'))
    result = suite.runpytest("--aivvm-record=once", f"--aivvm-upstream={upstream.url}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "recorded in *test_asks.jsonl: 1 exchange",
            f"POST {upstream.url}/api/chat*",
            "  *  200 OK",
            "*'one*",
        ]
    )


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
    by_hand = suite.mkdir("beside") / "recordings" / "test_by_hand" / "test_it.jsonl"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(path.read_bytes())
    (suite.path / "beside" / "test_beside.py").write_text("def test_it(fake_aivvm): pass")
    result = suite.runpytest()
    assert result.ret == 0
    assert str(by_hand) not in result.stdout.str()
    result.stdout.fnmatch_lines(["=* aivvm: recordings that no test uses =*", str(orphan)])
    assert str(other) not in result.stdout.str()
    assert suite.runpytest("--aivvm-orphans=fail").ret == 1
    assert "no test uses" not in suite.runpytest("--aivvm-orphans=ignore").stdout.str()
    suite.runpytest("--aivvm-orphans=delete").stdout.fnmatch_lines(["*no test uses, deleted*", str(orphan)])
    assert (path.exists(), orphan.exists(), other.exists()) == (True, False, True)


def test_a_recording_that_is_in_use_or_may_be_another_s_is_not_deleted(suite, upstream):
    for name in ("one", "two"):
        suite.mkdir(name).joinpath(f"test_{name}.py").write_text(
            RECORDED
            + dedent("""
            import pytest

            @pytest.mark.skip(reason="now")
            def test_while_it_runs(request):
                request.getfixturevalue("aivvm_recording")
            """)
        )
    (suite.path / "conftest.py").write_text("def pytest_collection_modifyitems(items): items[:] = items[1:]")
    record = "--import-mode=importlib", "-o", "pythonpath=.", "-o", "aivvm_recordings=../data"
    suite.runpytest(*record, "-p", "no:cacheprovider", "-o", "aivvm_record=once", "one", "two", "--noconftest",
        f"--aivvm-upstream={upstream.url}").assert_outcomes(passed=2, skipped=2)  # fmt: skip
    used = sorted(suite.path.rglob("*.jsonl"))
    assert [path.name for path in used] == ["test_asks.jsonl"] * 2
    dynamic = used[0].with_name("test_while_it_runs.jsonl")
    gone = used[0].parent.with_name("test_gone") / "test_it.jsonl"
    gone.parent.mkdir()
    written = [used[0].with_name("by hand.jsonl"), suite.path / "data" / "kept" / "mine.jsonl"]
    written[1].parent.mkdir()
    for path in (dynamic, gone, *written):
        path.write_bytes(used[0].read_bytes())
    for options in (["--collect-only"], ["one"]):
        suite.runpytest(*record, "--aivvm-orphans=delete", *options)
        assert gone.exists()
    result = suite.runpytest(*record, "--aivvm-orphans=delete")
    result.assert_outcomes(passed=1, skipped=2)
    assert not gone.exists()
    assert all(path.exists() for path in (*used, dynamic, *written))
    lines = ["=* no test uses, deleted =*", str(gone), "=* no test uses =*", *sorted(map(str, written))]
    result.stdout.fnmatch_lines(lines, consecutive=True)


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
    path = suite.path / "found" / "test_mine.test_naive.reply.jsonl"
    result.stdout.fnmatch_lines(
        [
            "=* aivvm: streams of failed properties =*",
            "found*test_*.test_naive.reply.jsonl: aivvm_testing.Reply.load(*",
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
                "".join(chunk.data.decode() for chunk in Reply.load("found/test_mine.test_naive.reply.jsonl").chunks)
        """
    )
    suite.runpytest("test_again.py").assert_outcomes(passed=1)


def test_each_failure_is_saved_and_none_over_another(suite):
    settings = (
        "@settings(database=None, derandomize=True, phases=[Phase.generate, Phase.shrink], max_examples=30)"
    )
    suite.makepyfile(
        test_mine=f"""
        import unittest
        import pytest
        from hypothesis import Phase, given, settings, strategies as st
        from aivvm_testing import strategies

        BYTES = strategies.byte_streams()

        {settings}
        @given(stream=BYTES)
        def test_is_never_empty(stream):
            assert stream

        {settings}
        @given(stream=BYTES)
        def test_says_that_it_fails(stream):
            if b"".join(stream):
                pytest.fail("there is something")

        {settings}
        @given(recording=strategies.recordings(min_size=2))
        def test_of_several(recording):
            assert len(recording) < 2

        {settings}
        @given(data=st.data())
        def test_drawn(data):
            assert not data.draw(BYTES)

        class OfUnittest(unittest.TestCase):
            {settings}
            @given(stream=BYTES)
            def test_it(self, stream):
                assert not b"".join(stream)
        """
    )
    suite.mkdir("found")
    other = suite.path / "found" / "test_mine.test_is_never_empty.stream.jsonl"
    Recording([], note="of somebody else").save(other)
    result = suite.runpytest("--aivvm-save-failures=found")
    result.assert_outcomes(failed=5)
    assert Recording.load(other).note == "of somebody else"
    saved = {path.name: Recording.load(path) for path in (suite.path / "found").iterdir() if path != other}
    assert sorted(re.sub("-[0-9a-f]{8}", "-HASH", name) for name in saved) == [
        "test_mine.OfUnittest.test_it.stream.jsonl",
        "test_mine.test_is_never_empty.stream-HASH.jsonl",
        "test_mine.test_of_several.recording.jsonl",
        "test_mine.test_says_that_it_fails.stream.jsonl",
    ]
    assert {name.split(".")[1]: len(recording) for name, recording in saved.items()} == {
        "OfUnittest": 1, "test_is_never_empty": 1, "test_of_several": 2, "test_says_that_it_fails": 1
    }  # fmt: skip
    result.stdout.fnmatch_lines(["nothing of test_mine.py::test_drawn: none of its arguments is a stream. *"])


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
            "found*test_*.test_naive.reply.jsonl: aivvm_testing.Reply.load(*",
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
