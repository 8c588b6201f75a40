"""The contracts: what is sound passes, each planted defect is found by its own checks, and by no other.

Defects are planted in classes of `contract_examples`, which know nothing of `aivvm`'s provider. Most of the time of a
check is spent waiting, so they run in a few processes beside each other.
"""

from __future__ import annotations

import json
import re
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from aivvm import Aivvm, RequestsTransport
from aivvm.decoding import PerChunkDecoder
from aivvm_testing import FakeAivvm, RecordingTransport, SetupFailure, contract
from aivvm_testing.cli import main, make_parser
from aivvm_testing.contract import (
    PROVIDER_CHECKS,
    TRANSPORT_CHECKS,
    Finding,
    Verdict,
    check_provider,
    check_transport,
)
from tests.testing import contract_examples as examples

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
PATIENCE = 1.0  # for what hangs on purpose: each such step takes that long
PROCESSES = 6
TRANSPORTS = [examples.PlainTransport, *examples.TRANSPORTS]
BROKEN = examples.PROVIDERS + examples.TRANSPORTS
CORRECT = [
    *[("PlainProvider", n) for n in range(5)],
    *[(name, 0) for name in ("plain_callable", "RetriesWithCare", "GivesTheWhole", "PlainTransport")],
]


def codes(verdict):
    return {finding.code for finding in verdict.findings}


# What is sound passes


class OverARecorder(RecordingTransport):
    """Closes what it records from, too."""

    def __init__(self, path):
        self.network = RequestsTransport()
        super().__init__(self.network, path)

    def close(self):
        super().close()
        self.network.close()


class Wired(Aivvm):
    """Our provider with a transport of its own, closed with it."""

    def __init__(self, url, transport):
        super().__init__(transport, url=url)
        self.transport = transport

    def close(self):
        self.transport.close()


def test_our_provider_has_no_finding():
    verdict = check_provider(Aivvm)
    assert not verdict.findings, verdict


def test_our_provider_has_no_finding_over_a_transport_that_is_shared_and_recorded(tmp_path):
    counted = iter(range(10_000))
    verdict = check_provider(lambda url: Wired(url, OverARecorder(tmp_path / f"{next(counted)}.jsonl")))
    assert not verdict.findings, verdict


def test_the_damage_of_decoding_each_chunk_alone_is_found_in_our_own_decoder():
    verdict = check_provider(
        lambda url: Aivvm(url=url, decoder=PerChunkDecoder), only=["AP01", "AP02", "AP15"]
    )
    assert codes(verdict) == {"AP01"}


def test_our_transports_have_no_finding(tmp_path):
    counted = iter(range(10_000))
    assert not (verdict := check_transport(RequestsTransport)).findings, verdict
    verdict = check_transport(lambda: OverARecorder(tmp_path / f"{next(counted)}.jsonl"))
    assert not verdict.findings, verdict


# What others wrote


def verdict_on(name, patience):
    """In a process of its own, where nothing else has threads and sockets."""
    make = getattr(examples, name)
    check = check_transport if make in TRANSPORTS else check_provider
    return check(make, patience=patience)


@pytest.fixture(scope="module")
def verdicts():
    """Verdicts to come, by name; the correct ones are judged beside those that hang and those that keep a core busy."""
    pool = ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn"))
    # Those that hang first, as they take longest.
    broken = sorted(BROKEN, key=lambda make: -len(make.finds))
    try:
        coming = {make.__name__: pool.submit(verdict_on, make.__name__, PATIENCE) for make in broken[:12]}
        coming |= {(name, n): pool.submit(verdict_on, name, contract.PATIENCE) for name, n in CORRECT}
        coming |= {make.__name__: pool.submit(verdict_on, make.__name__, PATIENCE) for make in broken[12:]}
        yield coming
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("name", "n"), CORRECT)
def test_a_correct_provider_or_transport_raises_no_false_alarm(name, n, verdicts):
    verdict = verdicts[name, n].result(timeout=120)
    assert [*verdict.findings, *verdict.accepted] == [], verdict


# Each planted defect is found


@pytest.mark.parametrize("name", [make.__name__ for make in BROKEN])
def test_a_planted_defect_is_found_by_its_own_checks_alone(name, verdicts):
    verdict = verdicts[name].result(timeout=120)
    tolerated = {finding.code for finding, _ in verdict.accepted}
    assert codes(verdict) | tolerated == getattr(examples, name).finds, verdict
    assert tolerated == getattr(examples, name).finds & {*contract.TOLERATED}


def test_what_is_tolerated_is_told_and_a_finding_where_it_is_asked_for(pytester):
    make = next(make for make in examples.PROVIDERS if make.finds == {"AP21"})
    assert codes(check_provider(make, only=["AP21"])) == {"AP21"}
    pytester.makepyfile(
        f"""
        from aivvm_testing.contract import ProviderContract
        from tests.testing import contract_examples

        class TestMine(ProviderContract):
            def make(self, url):
                return contract_examples.{make.__name__}(url)
        """
    )
    result = pytester.runpytest("-k", "AP21", "-rx", "-p", "no:asyncio", "-p", "no:cacheprovider")
    result.assert_outcomes(xfailed=1, deselected=len(PROVIDER_CHECKS) - 1)
    result.stdout.fnmatch_lines([f"XFAIL *{contract.TOLERATED['AP21']}"])


@pytest.mark.parametrize(
    ("checks", "makes"),
    [(PROVIDER_CHECKS, examples.PROVIDERS), (TRANSPORT_CHECKS, examples.TRANSPORTS)],
    ids=["providers", "transports"],
)
def test_there_is_a_defect_for_every_check(checks, makes):
    assert {code for make in makes for code in make.finds} == {check.code for check in checks}


# A check that hangs, or raises, stops nothing


def test_a_provider_that_hangs_is_a_finding_and_the_other_checks_run():
    released = threading.Event()

    class Hangs(examples.PlainProvider):
        def texts(self, response):
            for text in super().texts(response):
                if "\ufeff" in text:  # only AP16 sends one
                    released.wait()
                yield text

    try:
        began = time.monotonic()
        verdict = check_provider(Hangs, only=["AP14", "AP16", "AP20"], patience=0.3)
        assert time.monotonic() - began < 5
    finally:
        released.set()
    assert verdict.codes == ("AP14", "AP16", "AP20")
    (finding,) = verdict.findings
    assert finding.code == "AP16"
    assert finding.happened == "after 0.3 s it was still to give the end of an answer with controls in it"


def test_an_answer_without_end_is_a_finding_and_its_thread_stops():
    class Endless(examples.PlainProvider):
        def texts(self, response):
            while True:
                yield "."

    threads = set(threading.enumerate())
    verdict = check_provider(Endless, only=["AP14"], patience=0.3)
    assert codes(verdict) == {"AP14"}
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
        assert not thread.is_alive()


def test_what_a_subject_raises_where_it_must_not_is_a_finding():
    class Raises(examples.PlainProvider):
        made = 0

        def __init__(self, url):
            super().__init__(url)
            Raises.made += 1
            if Raises.made > 1:  # the first is made to see whether it is a provider
                raise OSError("no second one")

    (finding,) = check_provider(Raises, only=["AP14"]).findings
    assert finding.happened == "it raised OSError: no second one"


def test_text_of_another_type_is_a_finding_where_it_comes_late():
    class SometimesBytes(examples.PlainProvider):
        def texts(self, response):
            for text in super().texts(response):
                yield text.encode() if "\ufeff" in text else text

    (finding,) = check_provider(SometimesBytes, only=["AP14", "AP16"]).findings
    assert finding.code == "AP16"
    assert finding.happened.endswith("(bytes) where str was due")


# How it is made and asked


def test_a_timeout_goes_to_make_or_to_the_call_by_name_or_by_place():
    seen = []

    class TakesItInTheCall(examples.PlainProvider):
        def create_completion(self, model, messages, stream=True, timeout=None):
            seen.append(timeout)
            self.timeout = timeout or 30
            return super().create_completion(model, messages, stream)

    def by_place(address, patience):
        seen.append(patience)
        return examples.PlainProvider(address, patience)

    def by_name(url, *, retries=0, timeout=None):
        seen.append(timeout)
        return examples.PlainProvider(url, timeout)

    for make in (lambda where: TakesItInTheCall(where), by_place, by_name):
        seen.clear()
        assert check_provider(make, only=["AP10"]).passed
        assert 0 < min(one for one in seen if one) < 1


def test_a_callable_is_asked_with_the_model_where_it_takes_one():
    seen = []

    def make(url):
        provider = examples.PlainProvider(url)

        def ask(model, messages):
            seen.append(model)
            return provider.create_completion(model, messages)

        return ask

    assert check_provider(make, only=["AP13"], model="my-model").passed
    assert set(seen) == {"my-model"}


def test_a_model_that_arrives_as_another_is_a_finding():
    class AsksForAnother(examples.PlainProvider):
        def send(self, connection, model, messages):
            super().send(connection, "cheaper", messages)

    (finding,) = check_provider(AsksForAnother, only=["AP13"]).findings
    assert finding.happened == "the model that arrived is 'cheaper', not 'gpt-4'"


# Mistakes of the test


def nothing(url):
    return None


async def a_coroutine(messages):
    return "text"


async def an_async_generator(messages):
    yield "text"


def bytes_of(url):
    def ask(messages):
        for text in examples.PlainProvider(url).create_completion("m", messages):
            yield text.encode()

    return ask


def refuses(url):
    raise OSError("no such file")


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (3, TypeError, "make is a callable, make(url) or make(url, timeout)"),
        (Aivvm(), TypeError, "did you mean lambda url: ...?"),
        (lambda: None, TypeError, "takes no address: did you mean lambda url, timeout"),
        (lambda a, b, c: None, TypeError, "takes a, b, c: did you mean"),
        (RequestsTransport, TypeError, "did you mean check_transport"),
        (nothing, TypeError, "create_completion(model, messages, stream=True), or a callable ask(messages)"),
        (lambda url: Aivvm, TypeError, "did you mean Aivvm(...), an instance?"),
        (lambda url: "text", TypeError, "make only makes; the checks do the asking"),
        (
            lambda url: a_coroutine([]),
            TypeError,
            "without await; let make give a callable that runs the loop",
        ),
        (lambda url: lambda: None, TypeError, "asked with (messages) or (model, messages), but"),
        (lambda url: lambda a, b, c: None, TypeError, "but what make gave takes a, b, c"),
        (lambda url: a_coroutine, TypeError, "gives text without await"),
        (lambda url: an_async_generator, TypeError, "gives text without await"),
        (lambda url: lambda messages: None, TypeError, "did it forget to yield?"),
        (lambda url: lambda messages: "text", TypeError, "gives an iterator of text, but gave 'text'"),
        (bytes_of, TypeError, "b'Hello' (bytes) where str was due; does it decode what it reads?"),
        (refuses, SetupFailure, "raised OSError: no such file: it must only make the provider"),
        (lambda url: lambda messages: iter(["Hi"]), SetupFailure, "sent no request to http://127.0.0.1:"),
        (
            lambda url: Aivvm(url="http://127.0.0.1:9"),
            SetupFailure,
            "Does it use the url that make is given?",
        ),
    ],
)
def test_what_is_no_provider_is_a_mistake_of_the_test_that_says_what_to_do(make, error, said):
    with pytest.raises(error) as raised:
        check_provider(make)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (RequestsTransport(), TypeError, "did you mean lambda: ...?"),
        (lambda: RequestsTransport, TypeError, "did you mean RequestsTransport()?"),
        (lambda: None, TypeError, "with send(request, *, timeout), but gave None"),
        (lambda: FakeAivvm().transport(), SetupFailure, "A transport without a network cannot be checked"),
    ],
)
def test_what_is_no_transport_is_a_mistake_of_the_test(make, error, said):
    with pytest.raises(error) as raised:
        check_transport(make)
    assert said in str(raised.value)


def test_a_response_that_is_none_is_a_mistake_of_the_test():
    class GivesText:
        def send(self, request, *, timeout):
            return "Hello"

    with pytest.raises(TypeError, match=r"such as aivvm.Response, but gave 'Hello'"):
        check_transport(GivesText)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"only": ["AP1"]}, ValueError, "no check has the code 'AP1'; did you mean AP01?"),
        ({"only": ["ap03"]}, ValueError, "did you mean AP03?"),
        ({"only": ["wrong"]}, ValueError, f"they are AP01 to {PROVIDER_CHECKS[-1].code}"),
        ({"only": "AP01"}, TypeError, "a list of codes, such as ['AP01']"),
        ({"only": []}, ValueError, "only names no check"),
        ({"allow": {"AT01": "why"}}, ValueError, "no check has the code 'AT01'"),
        ({"allow": {"AP01": " "}}, ValueError, "AP01 is allowed for a reason, in words"),
        ({"allow": ["AP01"]}, TypeError, "allow is a mapping of codes to reasons"),
        ({"patience": 0}, ValueError, "more than 0 seconds"),
        ({"patience": float("inf")}, ValueError, "more than 0 seconds"),
        ({"patience": True}, TypeError, "patience is a number of seconds"),
        ({"model": ""}, TypeError, "model is the id of a model"),
    ],
)
def test_options_that_cannot_be_are_errors_at_the_call(options, error, said):
    made = []
    with pytest.raises(error) as raised:
        check_provider(lambda url: made.append(url), **options)
    assert said in str(raised.value)
    assert not made


# The verdict


FINDING = Finding("AP99", "a name", "it did this", "It does that.", "do that")


def test_a_verdict_tells_what_happened_what_was_expected_and_what_to_do():
    verdict = Verdict("make", ("AP98", "AP99"), (FINDING,), ((FINDING, "we know"),))
    assert not verdict.passed
    assert str(verdict) == (
        "make: 1 finding in 2 checks\n"
        "AP99 a name: it did this\n"
        "    expected: It does that.\n"
        "    → do that\n"
        "AP99 a name is allowed (we know): it did this"
    )
    with pytest.raises(AssertionError) as raised:
        verdict.raise_for_findings()
    assert type(raised.value) is AssertionError
    assert str(raised.value) == str(verdict)


def test_a_verdict_is_data_for_programs():
    verdict = Verdict("make", ("AP99",), (FINDING,), ((FINDING, "weiß ich"),), ("AP98",))
    facts = {
        "code": "AP99",
        "name": "a name",
        "happened": "it did this",
        "expected": "It does that.",
        "advice": "do that",
    }
    assert json.loads(verdict.json()) == verdict.to_dict()
    assert verdict.to_dict() == {
        "subject": "make",
        "passed": False,
        "checks": ["AP99"],
        "findings": [facts],
        "accepted": [{**facts, "reason": "weiß ich"}],
        "needless": ["AP98"],
    }
    assert verdict.json().isascii()


def test_a_status_is_told_only_where_it_stands_alone():
    class TellsAPort(examples.PlainProvider):
        def check(self, response):
            if response.status != 200:
                raise RuntimeError("no answer of 127.0.0.1:45003, nor of 127.0.0.1:54291")

    assert codes(check_provider(TellsAPort, only=["AP05"])) == {"AP05"}


def test_what_is_allowed_is_accepted_with_its_reason():
    verdict = check_provider(examples.TakesWebPages, only=["AP05", "AP06"], allow={"AP06": "they are shown"})
    assert verdict.passed
    verdict.raise_for_findings()
    ((finding, why),) = verdict.accepted
    assert (finding.code, why) == ("AP06", "they are shown")
    assert str(verdict).startswith("TakesWebPages: no findings in 2 checks\nAP06 no web page is allowed")


def test_what_is_allowed_for_no_reason_any_more_is_told():
    verdict = check_provider(
        examples.PlainProvider, only=["AP05", "AP14"], allow={"AP05": "old", "AP06": "old"}
    )
    assert verdict.passed
    assert verdict.needless == ("AP05",)  # AP06 was not run, so nobody knows
    assert str(verdict).endswith("\nAP05 is allowed, and nothing was found: allow need not name it any more")


def test_what_a_server_or_a_provider_says_commands_no_terminal():
    class Obscure(examples.PlainProvider):
        def check(self, response):
            raise RuntimeError("\x1b[2J")

    assert "\x1b" not in str(check_provider(Obscure, only=["AP14"]))


# As classes of pytest


def test_a_class_of_pytest_has_a_test_for_each_check(pytester):
    pytester.makepyfile(
        f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from aivvm_testing.contract import ProviderContract, TransportContract
        from tests.testing import contract_examples

        class TestMine(ProviderContract):
            allow = {{"AP06": "pages are shown", "AP14": "once it was so"}}

            def make(self, url, timeout):
                return contract_examples.TakesWebPages(url, timeout)

        class TestTheirs(TransportContract):
            patience = 2.0

            def make(self):
                return contract_examples.RaisesForStatus()
        """
    )
    result = pytester.runpytest(
        "-v", "-rX", "-p", "no:randomly", "-p", "no:asyncio", "-p", "no:cacheprovider"
    )
    result.assert_outcomes(
        passed=len(PROVIDER_CHECKS) - 2 + len(TRANSPORT_CHECKS) - 1,
        xfailed=1,
        xpassed=1,
        failed=1,
    )
    result.stdout.fnmatch_lines(
        [
            "*::TestMine::test_AP03_prompt_delivery PASSED*",
            "*::TestMine::test_AP06_no_web_page XFAIL*",
            "*::TestMine::test_AP14_empty_answer XPASS*",
            "*::TestTheirs::test_AT06_every_status FAILED*",
            "*AT06 every status: with 400*",
            "*→ do not call raise_for_status()*",
            "XPASS *test_AP14_empty_answer*AP14 is allowed, and nothing was found*",
        ]
    )


def test_a_class_without_make_says_so_in_one_line(pytester):
    pytester.makepyfile(
        """
        from aivvm_testing.contract import ProviderContract, TransportContract

        class TestNothing(ProviderContract):
            pass

        class TestNoTransport(TransportContract):
            pass
        """
    )
    result = pytester.runpytest("-q", "-k", "AP14 or AT17", "-p", "no:asyncio", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "TestNothing needs a method make(self, url) that gives its provider",
            "TestNoTransport needs a method make(self) that gives its transport",
        ]
    )
    assert "Traceback" not in result.stdout.str()
    assert "Error" not in result.stdout.str()


# From a shell


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"client_of_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(
        "from tests.testing.contract_examples import *\nfrom aivvm import Aivvm\nclass In: make = PlainProvider\nx = 3\n"
    )
    return name


def test_the_command_prints_the_verdict_and_tells_it_in_its_status(client, capsys):
    assert main(["contract", f"{client}:TakesWebPages", "--only", "AP05", "--only", "AP06"]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("TakesWebPages: 1 finding in 2 checks\nAP06 no web page: ")
    assert "    → raise where the content-type is text/html" in printed.out
    assert not printed.err
    assert main(["contract", f"{client}:In.make", "--only", "AP05", "--patience", "2"]) == 0
    assert capsys.readouterr().out == "PlainProvider: no findings in 1 check\n"
    assert main(["contract", f"{client}:RaisesForStatus", "--transport", "--only", "AT06"]) == 1


def test_the_command_prints_json_and_takes_what_is_allowed(client, capsys):
    ran = [
        "contract",
        f"{client}:TakesWebPages",
        "--json",
        "--only",
        "AP06",
        "--allow",
        "AP06=they are shown",
    ]
    assert main(ran) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["passed"] is True
    assert [(one["code"], one["reason"]) for one in facts["accepted"]] == [("AP06", "they are shown")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["CLIENT"], "MODULE:FACTORY is written as my_client:make"),
        (["no_such_module:make"], "no_such_module cannot be imported: ModuleNotFoundError"),
        (["CLIENT:nope"], "there is no 'nope' in"),
        (["CLIENT:x"], "make is a callable"),
        (["CLIENT:PlainTransport"], "did you mean check_transport (--transport)?"),
        (["CLIENT:PlainProvider", "--only", "AT01"], "no check has the code 'AT01'"),
        (["CLIENT:PlainProvider", "--allow", "AP06"], "a code and a reason"),
        (["CLIENT:PlainProvider", "--allow", "AP6=why"], "did you mean AP06?"),
        (["CLIENT:PlainProvider", "--patience", "0"], "more than 0 seconds"),
    ],
)
def test_misuse_is_status_2_and_says_what_is_wrong(client, capsys, arguments, said):
    arguments = [one.replace("CLIENT", client) for one in arguments]
    with pytest.raises(SystemExit) as stopped:
        main(["contract", *arguments])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert not printed.out


def test_the_patience_of_the_command_is_that_of_the_checks():
    assert make_parser().parse_args(["contract", "a:b"]).patience == contract.PATIENCE


# The page


@pytest.mark.parametrize("checks", [PROVIDER_CHECKS, TRANSPORT_CHECKS], ids=["providers", "transports"])
def test_the_page_lists_every_check_with_what_it_requires(checks):
    page = (ROOT / "docs" / "contracts.md").read_text(encoding="utf-8")
    prefix = checks[0].code[:2]
    rows = re.findall(rf"^\| ({prefix}\d\d) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    assert rows == [(check.code, check.name, check.requires) for check in checks]


@pytest.mark.parametrize("check", PROVIDER_CHECKS + TRANSPORT_CHECKS, ids=lambda check: check.code)
def test_a_check_has_a_name_one_sentence_and_advice(check):
    assert re.fullmatch(r"[A-Za-z][a-z ]+", check.name)
    assert check.requires.endswith(".")
    assert ". " not in check.requires
    assert check.advice
    assert not check.advice.endswith(".")
