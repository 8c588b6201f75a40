"""Bad input, and the message that a person gets, whole: one row each, as they would meet it."""

from __future__ import annotations

import socket
import warnings

import pytest

from aivvm import (
    Aivvm,
    ConnectFailed,
    InvalidMessages,
    InvalidOption,
    NotAnAnswer,
    StatusError,
    UnsupportedModel,
)
from aivvm_testing import (
    CorruptRecording,
    FakeAivvm,
    ReadPastRecording,
    Recording,
    Reply,
    UnmatchedRequest,
    UnplayedReplies,
    WouldHang,
)

HELLO = [{"role": "user", "content": "Hello"}]
HEADER = '{"aivvm_recording": 1, "origin": "written", "note": ""}\n'
REQUEST = '{"request": {"method": "POST", "url": "http://h/api/chat", "headers": []}, "started": 0.0}\n'
HEAD = '{"reply": {"status": 200, "reason": "OK", "headers": []}, "at": 0.0}\n'


def asking(model="gpt-4", messages=HELLO, *, reply=None, **options):
    """Asks a fake that gives `reply`, or one that nobody may ask."""

    def run(tmp_path):
        fake = FakeAivvm()
        fake.reply(reply if reply is not None else Reply.error(599))
        return list(Aivvm(transport=fake.transport()).create_completion(model, messages, **options))

    return run


def refused(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        try:
            list(Aivvm(url=f"http://127.0.0.1:{port}").create_completion("gpt-4", HELLO))
        except ConnectFailed as error:
            raise ConnectFailed(str(error).replace(str(port), "PORT")) from error


def warned(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Aivvm.create_completion("gpt-4", HELLO, temprature=0.5)


def loading(text):
    def run(tmp_path):
        path = tmp_path / "bad.jsonl"
        path.write_bytes(text.encode())
        try:
            Recording.load(path)
        except CorruptRecording as error:
            raise CorruptRecording("bad.jsonl", error.line, error.why) from error

    return run


def once_too_often(tmp_path):
    fake = FakeAivvm()
    fake.reply("one")
    provider = Aivvm(transport=fake.transport())
    list(provider.create_completion("gpt-4", HELLO))
    list(provider.create_completion("gpt-4", HELLO))


def unplayed(tmp_path):
    with FakeAivvm() as fake:
        fake.reply("one")


def read_past(tmp_path):
    path = tmp_path / "session.jsonl"
    path.write_text(HEADER + REQUEST + HEAD + '{"at": 0.5, "text": "a"}\n{"at": 0.75, "end": "closed"}\n')
    fake = FakeAivvm()
    fake.reply(Reply.load(path))
    list(Aivvm(transport=fake.transport()).create_completion("gpt-4", HELLO))


BAD_INPUT = {
    "unknown model": (
        asking("gpt4"),
        UnsupportedModel,
        "unknown model 'gpt4': did you mean 'gpt-4' or 'gpt-4-32k'?",
    ),
    "NaN": (
        asking(temperature=float("nan")),
        InvalidOption,
        "temperature must be a finite number, but got nan (float)",
    ),
    "non-string content": (
        asking(messages=[{"role": "user", "content": 5}]),
        InvalidMessages,
        'messages[0]["content"] must be a string, but got 5 (int)',
    ),
    "wrong type of messages": (
        asking(messages="Hello"),
        InvalidMessages,
        """messages must be a list such as [{"role": "user", "content": "Hello"}], but got 'Hello'""",
    ),
    "unknown option": (
        warned,
        UserWarning,
        "unknown option 'temprature': did you mean 'temperature'? It is ignored.",
    ),
    "HTML as an answer": (
        asking(reply=Reply.of("<title>Welcome</title>", headers={"content-type": "text/html"})),
        NotAnAnswer,
        'https://chat.aivvm.com/api/chat answered 200 OK with a web page ("Welcome"): '
        "is url the address of a Chatbot UI server?",
    ),
    "500 with a reason": (
        asking(reply=Reply.error(500, reason="Rate limit reached")),
        StatusError,
        "https://chat.aivvm.com/api/chat answered 500 Rate limit reached",
    ),
    "refused connection": (
        refused,
        ConnectFailed,
        "cannot connect to 127.0.0.1:PORT: connection refused. Is a server listening there?",
    ),
    "a recording with a truncated line": (
        loading(HEADER + REQUEST + '{"reply": {"status": 200, "rea'),
        CorruptRecording,
        "bad.jsonl:3: not JSON (column 27: Unterminated string starting at), and the file ends here: it was cut off; "
        "restore it, or delete its last exchange",
    ),
    "a recording with bad JSON": (
        loading(HEADER + "{'request': 1}\n"),
        CorruptRecording,
        "bad.jsonl:2: not JSON (column 2: Expecting property name enclosed in double quotes): "
        "every line is one JSON object",
    ),
    "a recording of another version": (
        loading('{"aivvm_recording": 2, "origin": "written", "note": ""}\n'),
        CorruptRecording,
        "bad.jsonl:1: version 2 of the format, and this aivvm_testing reads version 1: was it written by a newer one? "
        "Then upgrade",
    ),
    "a recording in the wrong order": (
        loading(HEADER + REQUEST + '{"at": 0.0, "text": "a"}\n'),
        CorruptRecording,
        'bad.jsonl:3: a chunk before the head of exchange 0: a "reply" line comes first',
    ),
    "a recording without an ending": (
        loading(HEADER + REQUEST + HEAD),
        CorruptRecording,
        'bad.jsonl:3: exchange 0, begun in line 2, has no end: its last line is one such as {"end": "complete"}; '
        "restore it, or delete the exchange",
    ),
    "a fake asked once too often": (
        once_too_often,
        UnmatchedRequest,
        "no reply for POST https://chat.aivvm.com/api/chat (gpt-4: Hello)\n"
        "The queue is empty: 1 of 1 scripted replies were given.\n"
        "To fix it: 1. script one more, fake.reply(...);\n"
        "           2. let one answer for ever, fake.reply(..., forever=True);\n"
        "           3. look at fake.requests: was the code expected to ask so often?",
    ),
    "a fake asked too little": (
        unplayed,
        UnplayedReplies,
        "1 not played (0 requests came):\n"
        "  in the queue: Reply.of('one')\n"
        "To fix it: 1. make the code under test ask for what it should;\n"
        "           2. script, or record, no more than it asks for;\n"
        "           3. say fake.reply(..., forever=True) where it need not ask.",
    ),
    "reading on where the recorded reader stopped": (
        read_past,
        ReadPastRecording,
        "1 chunk was there when the recorded reader stopped, at 0.75 s: what would have come next is not known. "
        "Stop reading here too, or record the session again",
    ),
    "silence without a timeout": (
        asking(reply=Reply.of("a").stall(), timeout=None),
        WouldHang,
        "1 chunk was there, the peer stays silent, the reader has no timeout, and time is virtual: "
        "this would never end. Pass a timeout, or FakeAivvm(clock=SystemClock()) to hang for real",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_gets_a_message_that_a_person_can_act_on(name, tmp_path):
    run, error, message = BAD_INPUT[name]
    with pytest.raises(error) as caught:
        run(tmp_path)
    assert type(caught.value) is error
    assert str(caught.value) == message
