"""The help of `aivvm-testing`, and docs/command-line.md: both tell what there is, and what they show is what happens."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path

import pytest

from aivvm.transport import Request
from aivvm_testing import Exchange, Recording, Reply, wait
from aivvm_testing.cli import main, make_parser
from aivvm_testing.journal import Journal
from aivvm_testing.reply import Chunk, Head

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CLIENT = """
import codecs, http.client, json, urllib.parse

def make(url, timeout):
    def ask(messages):
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=timeout)
        connection.request("POST", "/api/chat", json.dumps({"messages": messages}))
        with connection.getresponse() as response:
            chunks = iter(lambda: response.read1(65536), b"")
            yield from codecs.iterdecode(chunks, "utf-8", "replace")
        connection.close()
    return ask
"""
NOT_RUN = {"demo", "serve", "record"}  # they need time or a signal, and have tests of their own


def verbs():
    (group,) = [one for one in make_parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return group.choices


def section(verb):
    found = re.search(rf"^## {verb}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/command-line.md has no section {verb!r}"
    return found[1]


def commands(text):
    """The command lines of the shell blocks, without comments, each with the text block that follows it."""
    fences = list(FENCE.finditer(text))
    for n, fence in enumerate(fences):
        if fence[1] == "sh":
            lines = fence[2].splitlines()
            after = fences[n + 1][2] if n + 1 < len(fences) and fences[n + 1][1] == "text" else None
            for line in lines:
                yield shlex.split(line, comments=True), after if line == lines[-1] else None


def test_the_page_has_a_section_for_each_verb_and_no_other():
    told = re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)
    assert told == list(verbs())


@pytest.mark.parametrize("verb", list(verbs()))
def test_the_section_of_a_verb_names_all_that_it_takes(verb):
    text = section(verb)
    for action in verbs()[verb]._actions:
        for option in [one for one in action.option_strings if one not in ("-h", "--help", "--json")]:
            assert f"`{option}" in text or re.search(rf"\s{option}\b", text), f"{option} of {verb}"
    known = {option for action in verbs()[verb]._actions for option in action.option_strings}
    assert set(re.findall(r"`(--[\w-]+)", text)) <= known
    assert f"aivvm-testing {verb} " in text


@pytest.mark.parametrize("verb", list(verbs()))
def test_the_help_of_a_verb_says_what_it_does_and_shows_an_example_that_works(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: aivvm-testing {verb} ")
    assert "--json" in printed
    description, example = verbs()[verb].description, verbs()[verb].epilog.partition("example:\n")[2]
    assert len(description) > 60
    assert f"{description}\n" in printed
    name, *arguments = shlex.split(example)
    assert (name, arguments[0]) == ("aivvm-testing", verb)
    assert make_parser().parse_args(arguments).verb.prog == f"aivvm-testing {verb}"


def test_the_help_names_every_verb(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    for verb in verbs():
        assert re.search(rf"^    {verb} +\w", printed, re.MULTILINE)


@pytest.mark.parametrize("command", [command for command, _ in commands(PAGE)], ids=" ".join)
def test_every_command_of_the_page_can_be_typed(command):
    name, *arguments = command
    assert name == "aivvm-testing"
    assert make_parser().parse_args(arguments).run


def chat(text, reply, started=0.0):
    body = json.dumps({"model": "gpt-4", "messages": [{"role": "user", "content": text}]}).encode()
    return Exchange(Request("POST", "https://chat.aivvm.com/api/chat", body=body), reply, started)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    one = chat("Hello", Reply.of("Hel", wait(0.05), "lo"))
    moment = "2026-11-23T00:00:00Z"
    Recording([one, chat("Again?", Reply.of("Yes."), 2.0)], recorded_at=moment).save("session.jsonl")
    broken = Reply.of("Ye").cut()
    Recording([one, chat("Again?", broken, 2.0)], recorded_at=moment).save("after.jsonl")
    for n in (1, 2):
        Recording([chat(str(n), Reply.of("a"))], recorded_at=moment).save(f"worker-{n}.jsonl")
    (tmp_path / "recordings").mkdir()
    lines = (tmp_path / "session.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "recordings" / "a.jsonl").write_bytes(b"".join(lines[:3] + lines[6:]))
    journal = Journal("killed.jsonl")
    n = journal.begin(one.request, 0.0)
    journal.head(n, Head())
    journal.chunk(n, b"Hel", 0.1)
    journal.abandon()
    Journal("recordings/b.jsonl").abandon()
    (tmp_path / "my_client.py").write_text(CLIENT)
    secret = 'data: {"key": "sk-proj-Zq81xWvU7yTtAbCd", "customer": "cust-8f4e"}'
    reply = Reply(Head(), (Chunk(secret.encode()),))
    Recording([chat("Hello", reply)]).save("leaky.jsonl")
    return tmp_path


def test_what_the_page_shows_is_what_happens(folder, capsys):
    ran = set()
    for (_, verb, *arguments), expected in commands(PAGE):
        if verb in NOT_RUN:
            continue
        try:
            status = main([verb, *arguments])
        except SystemExit as stopped:
            status = stopped.code
        printed = capsys.readouterr()
        assert status in (0, 1), printed.err
        assert not printed.err, (verb, arguments)
        if expected is not None:
            ran.add(verb)
            shown = iter(printed.out.splitlines())
            for line in expected.splitlines():  # in order; "..." stands for any number of lines
                assert line.strip() == "..." or line in shown, f"{verb}: {line!r} is not in:\n{printed.out}"
    assert ran == set(verbs()) - NOT_RUN
