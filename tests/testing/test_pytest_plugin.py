"""The plugin, tested through pytest itself."""

from __future__ import annotations

import subprocess
import sys

pytest_plugins = ["pytester"]


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


def test_loading_the_plugin_imports_nothing_heavy():
    code = (
        "import sys, pytest; before = set(sys.modules); import aivvm_testing.pytest_plugin; "
        "print(sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "['aivvm_testing', 'aivvm_testing.pytest_plugin']"
