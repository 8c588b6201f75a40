"""How a fake is meant to be scripted, for the type checker alone: mypy --strict passes, nothing runs."""

from __future__ import annotations

from typing_extensions import assert_type

from aivvm_testing import Call, FakeAivvm, Reply, faults
from aivvm_testing.rules import Rule

fake = FakeAivvm()
assert_type(fake.on(model="gpt-4", query={"a": ["1", "2"]}, body=b"", nth=2).reply("text"), Rule)
assert_type(fake.on(lambda request: request.method == "GET", host="h:80", headers=None), Rule)
assert_type(fake.assert_any_call(url="http://h/", query="a=b", json={"a": 1}), Call)
assert_type(fake.assert_called_once_with(path="/", body="text", contains="x", method="get"), Call)
fake.fault(faults.cut(after=3), times=2, path="/api/chat").fault(lambda reply: reply.delay(1)).reply(
    Reply.of("a")
)

# What is wrong is seen: each of these comments is an error where there is none (warn_unused_ignores).
fake.on(modle="gpt-4")  # type: ignore[call-arg]  # a name that does not exist
fake.on(model=4)  # type: ignore[arg-type]  # a model is named
fake.assert_any_call(query={"a": 1})  # type: ignore[dict-item]  # a url is text
fake.assert_called_once_with(nth=1)  # type: ignore[call-arg]  # a call is none of several
fake.fault(faults.cut)  # type: ignore[arg-type]  # faults.cut() is a fault
