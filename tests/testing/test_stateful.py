"""The machine: correct providers pass through both doors, each planted defect is found and told."""

from __future__ import annotations

import codecs
import re

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from aivvm import Interrupted
from aivvm.payload import build_request
from aivvm_testing import Reply, faults, strategies
from aivvm_testing.stateful import FakeAndProvider
from tests.testing import contract_examples as examples
from tests.testing.contract_examples import PlainProvider as HttpProvider


def share(part):
    """The profile's settings with this part of its examples, as one of a machine is many steps."""
    return settings(max_examples=int(settings().max_examples * part), stateful_step_count=20)


class PlainProvider:
    """A correct provider over a transport, which tells what its subclasses get wrong."""

    def __init__(self, transport):
        self.transport = transport

    def create_completion(self, model, messages, stream=True, timeout=None):
        with self.transport.send(build_request(model, messages), timeout=timeout) as response:
            if response.status != 200 or "html" in response.headers.get("content-type", ""):
                raise RuntimeError(f"{response.status} {response.reason}")
            yield from self.texts(response)

    def texts(self, response):
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for chunk in response:
            if text := decoder.decode(chunk):
                yield text
        if text := decoder.decode(b"", True):
            yield text


# Correct ones


class OursInPython(FakeAndProvider):
    pass


class OursOverSockets(FakeAndProvider):
    door = "server"


class AnotherInPython(FakeAndProvider):
    def make(self, door):
        return PlainProvider(door)


class AnotherOverSockets(FakeAndProvider):
    door = "server"

    def make(self, door):
        return HttpProvider(door)  # which has a path of its own, and takes no timeout when it is asked


TestOursInPython = OursInPython.TestCase
TestOursInPython.settings = share(0.25)
TestOursOverSockets = OursOverSockets.TestCase
TestOursOverSockets.settings = share(0.2)
TestAnotherInPython = AnotherInPython.TestCase
TestAnotherInPython.settings = share(0.2)
TestAnotherOverSockets = AnotherOverSockets.TestCase
TestAnotherOverSockets.settings = share(0.1)


# Broken ones


class DecodesEachChunk(PlainProvider):
    def texts(self, response):
        for chunk in response:
            yield chunk.decode()


class IgnoresWhatEachChunkBreaks(PlainProvider):
    def texts(self, response):
        for chunk in response:
            yield chunk.decode("utf-8", "ignore")


class SwallowsACut(PlainProvider):
    def create_completion(self, *args, **options):
        try:
            yield from super().create_completion(*args, **options)
        except Interrupted:
            return


class KeepsTextBack(PlainProvider):
    """It gives all but the last piece when it comes, and that one at the end."""

    def texts(self, response):
        kept = ""
        for text in super().texts(response):
            if kept:
                yield kept
            kept = text
        if kept:
            yield kept


class RepeatsWhatItHadGiven(PlainProvider):
    """After an error it begins with what came before that."""

    def __init__(self, transport):
        super().__init__(transport)
        self.lost = ""

    def texts(self, response):
        if self.lost:
            yield self.lost
        given = ""
        try:
            for text in super().texts(response):
                given += text
                yield text
        except Interrupted:
            self.lost = given
            raise
        self.lost = ""


class AsksAgainOnItsOwn(PlainProvider):
    def create_completion(self, *args, **options):
        try:
            yield from super().create_completion(*args, **options)
        except Interrupted:
            yield from super().create_completion(*args, **options)


class RemembersAnswers(PlainProvider):
    """The same question is not asked a second time."""

    def __init__(self, transport):
        super().__init__(transport)
        self.known = {}

    def create_completion(self, model, messages, **options):
        if (known := self.known.get(str(messages))) is not None:
            yield known
            return
        text = ""
        for piece in super().create_completion(model, messages, **options):
            text += piece
            yield piece
        self.known[str(messages)] = text


class GivesBytes(PlainProvider):
    def texts(self, response):
        yield from response


class RefusesAnEmptyAnswer(PlainProvider):
    def texts(self, response):
        none = True
        for text in super().texts(response):
            none = False
            yield text
        if none:
            raise ValueError("no text at all")


class KeepsTheConnection(PlainProvider):
    """After an error status it does not let go."""

    def create_completion(self, model, messages, stream=True, timeout=None):
        response = self.transport.send(build_request(model, messages), timeout=timeout)
        if response.status != 200:
            self.kept = response
            raise RuntimeError(f"{response.status} {response.reason}")
        with response:
            yield from self.texts(response)


class Answer:
    """An iterator whose `close` is not what it should be."""

    def __init__(self, texts):
        self.texts = texts
        self.over = False

    def __iter__(self):
        return self

    def __next__(self):
        if self.over:
            raise StopIteration
        return next(self.texts)


class GoesOn(Answer):
    def close(self):
        pass


class Leaks(Answer):
    def close(self):
        self.over = True


class GoesOnAfterClose(PlainProvider):
    answer = GoesOn

    def create_completion(self, *args, **options):
        return self.answer(super().create_completion(*args, **options))


class LeaksWhenClosed(GoesOnAfterClose):
    answer = Leaks


class WaitsForEver(PlainProvider):
    def create_completion(self, model, messages, stream=True, timeout=None):
        return super().create_completion(model, messages)


FOUND = {
    DecodesEachChunk: "nothing is wrong with .* but it raised UnicodeDecodeError|had come",
    IgnoresWhatEachChunkBreaks: "expected the beginning of|had come",
    SwallowsACut: "it ended as if it were whole",
    KeepsTextBack: "had come, as its answer is",
    RepeatsWhatItHadGiven: "expected the beginning of|had come",
    AsksAgainOnItsOwn: "expected the requests|expected the beginning of|as if it were whole|no reply for POST",
    RemembersAnswers: "expected the (requests|beginning of)",
    GivesBytes: "expected text, but got b'",
    RefusesAnEmptyAnswer: "nothing is wrong with .* but it raised ValueError: no text at all",
    KeepsTheConnection: "it is over, and .* is not",
    GoesOnAfterClose: "it was closed, and gave",
    LeaksWhenClosed: "it is over, and .* is not",
    WaitsForEver: "the reader has no timeout",
}


def failure(machine, *phases, max_examples=1000):
    """What the machine finds, the same in each run."""
    how = settings(
        max_examples=max_examples,
        stateful_step_count=20,
        derandomize=True,
        deadline=None,
        phases=phases or [Phase.generate],
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(machine, settings=how)
    return caught.value


@pytest.mark.parametrize("provider", FOUND, ids=lambda provider: provider.__name__)
def test_each_defect_is_found_and_told(provider):
    class Machine(FakeAndProvider):
        replies = FakeAndProvider.replies.filter(lambda reply: reply.status == 200)
        faults = strategies.faults(
            names=["cut", "sliced", "stall", "empty_answer", "server_error"], max_steps=1
        )

        def make(self, door):
            return provider(door)

    with pytest.raises(AssertionError, match=FOUND[provider]):
        raise failure(Machine)


def test_a_defect_is_found_through_a_server_too():
    class Machine(FakeAndProvider):
        door = "server"
        replies = st.just(Reply.of(b"\xd0", b"\xbc"))

        def make(self, door):
            class DecodesEachRead(HttpProvider):
                def texts(self, response):
                    for data in self.chunks(response):
                        yield data.decode()

            return DecodesEachRead(door)

    assert "but it raised UnicodeDecodeError" in str(failure(Machine))


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        (examples.DecodesEachChunk, "but it raised UnicodeDecodeError"),
        (examples.ReplacesAtChunkEnds, "'né 日本 🙂' had come, as its answer is"),
        (examples.TakesAnEmptyAnswerForAnError, "but it raised RuntimeError: no text came"),
        (examples.BuffersEverything, "had come, as its answer is"),
        (examples.SwallowsCuts, "it ended as if it were whole"),
        (examples.MindsNoLength, "it ended as if it were whole"),
        (examples.RetriesAndRepeats, "expected the requests|expected the beginning|Hello, worHello, wor"),
    ],
)
def test_the_first_run_finds_what_is_basic_through_a_server(provider, said):
    class Machine(FakeAndProvider):
        door = "server"

        def make(self, door):
            return provider(door)

    with pytest.raises(AssertionError, match=said):
        raise failure(Machine, max_examples=1)


def test_truncation_may_go_unnoticed_where_that_is_allowed():
    class Machine(FakeAndProvider):
        notices_truncation = False

        def make(self, door):
            return SwallowsACut(door)

    run_state_machine_as_test(Machine, settings=share(0.1))


def test_a_failure_shrinks_to_the_steps_that_matter():
    class Machine(FakeAndProvider):
        replies = strategies.replies(endings=["complete"], with_head=True, max_chunks=3, plain=True)
        faults = st.just(faults.cut(after=1))

        def make(self, door):
            return RepeatsWhatItHadGiven(door)

    told = "\n".join(failure(Machine, Phase.generate, Phase.shrink).__notes__)
    steps = re.findall(r"state\.(ask\w*|read|close|reset|script|add_fault)\((.*)\)", told)
    assert len(steps) <= 6
    assert ("add_fault", "fault=faults.cut(after=1)") in steps
    assert {name for name, _ in steps} <= {"ask_first", "add_fault", "ask_for", "ask_again", "read"}


def test_what_does_not_answer_is_told():
    class NoProvider(FakeAndProvider):
        def make(self, door):
            return object()

    assert "it raised AttributeError: 'object' object has no attribute 'create_completion'" in str(
        failure(NoProvider)
    )
