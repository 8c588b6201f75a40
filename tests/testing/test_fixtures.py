from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aivvm import decoding
from aivvm.payload import build_request
from aivvm_testing import fixtures
from aivvm_testing.recording import Recording
from aivvm_testing.reply import Reply

FOLDER = Path(__file__).parent.parent.parent / "fixtures"
EVERY = {name: fixtures.load(name) for name in fixtures.names()}
STREAMS = {name: recording for name, recording in EVERY.items() if recording.origin == "written"}
CONVERTED = {name: recording for name, recording in EVERY.items() if recording.origin == "converted"}
RECORDED = {name: recording for name, recording in EVERY.items() if recording.origin == "recorded"}


def is_utf8(data: bytes) -> bool:
    return data.decode(errors="ignore").encode() == data


# Finding them


def test_names_are_sorted_stems() -> None:
    assert fixtures.names() == sorted(file.stem for file in FOLDER.glob("*.jsonl"))
    assert fixtures.path("ascii").name == "ascii.jsonl"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("split_emoji_4way", "did you mean 'split_emoji_4ways'"),
        ("split_emoji_4ways.jsonl", "did you mean 'split_emoji_4ways'"),
        ("zzz", "names() lists them"),
        ("", "names() lists them"),
        ("../fixtures/ascii", "names() lists them"),
        (None, "names() lists them"),
    ],
)
def test_an_unknown_name_is_an_error_that_guesses_the_right_one(name: Any, hint: str) -> None:
    with pytest.raises(LookupError, match=re.escape(repr(name))) as caught:
        fixtures.load(name)
    assert hint in str(caught.value)
    assert not isinstance(caught.value, KeyError), "its message would be shown in quotes"


def test_an_installed_package_has_them_beside_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = tmp_path / "_fixtures", tmp_path / "fixtures"
    monkeypatch.setattr(fixtures, "_FOLDERS", (inside, outside))
    with pytest.raises(LookupError, match="install the package again"):
        fixtures.names()
    outside.mkdir()
    shutil.copy(FOLDER / "ascii.jsonl", outside)
    assert fixtures.names() == ["ascii"]
    inside.mkdir()
    shutil.copy(FOLDER / "split_zwj.jsonl", inside)
    assert fixtures.names() == ["split_zwj"]
    assert fixtures.load("split_zwj") == EVERY["split_zwj"]


# All of them


@pytest.mark.parametrize("name", EVERY)
def test_saving_gives_the_same_file(name: str, tmp_path: Path) -> None:
    EVERY[name].save(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == fixtures.path(name).read_bytes()


@pytest.mark.parametrize("name", EVERY)
def test_each_has_a_note_that_explains_it(name: str) -> None:
    assert EVERY[name].note.endswith(".")
    assert len(EVERY[name]) >= 1


def test_the_readme_lists_them_with_the_beginning_of_their_notes() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## Origin `(\w+)`.*?\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    listed = {
        name: (origin, text)
        for origin, section in sections
        for name, text in re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    }
    assert listed == {
        name: (recording.origin, recording.note.partition(". ")[0].rstrip("."))
        for name, recording in EVERY.items()
    }


def test_the_folder_is_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir() if file.is_file()) < 600_000


# Origin `written`


def test_there_are_40_streams_and_19_of_them_are_well_formed() -> None:
    assert len(STREAMS) == 40
    assert sum(is_utf8(recording[0].reply.body) for recording in STREAMS.values()) == 19
    assert [name for name in EVERY if EVERY[name].expected] == list(STREAMS)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_one_answer_to_what_the_provider_sends(name: str) -> None:
    (exchange,) = STREAMS[name]
    assert exchange.request == build_request("gpt-3.5-turbo", [{"role": "user", "content": name}])
    moments = [0.1 + 0.02 * n for n in range(len(exchange.reply.chunks))]
    assert [chunk.at for chunk in exchange.reply.chunks] == pytest.approx(moments)
    assert exchange.reply.ending.kind == "complete"


@pytest.mark.parametrize("decoder", ["BoundarySafeDecoder", "PerChunkDecoder", "SubpartDecoder"])
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # of the codec, for `\d`
def test_each_decoder_gives_the_expected_text(name: str, decoder: str) -> None:
    expected = STREAMS[name].expected
    assert expected is not None
    assert text_and_failure(pieces_of(STREAMS[name][0].reply, decoder)) == text_and_failure(expected[decoder])


def pieces_of(reply: Reply, decoder_name: str) -> list[Any]:
    """The pieces as JSON keeps them, and how it failed if it did."""
    decoder = getattr(decoding, decoder_name)()
    pieces: list[Any] = []
    try:
        for chunk in reply.chunks:
            pieces.append(decoder.feed(chunk.data))
        pieces.append(decoder.finish())
    except UnicodeDecodeError as error:
        pieces.append({"raises": error.reason})
    kept: list[Any] = json.loads(json.dumps(pieces))
    return kept


def text_and_failure(pieces: list[Any]) -> tuple[str, Any]:
    failure = pieces[-1] if isinstance(pieces[-1], dict) else None
    return "".join(pieces[:-1] if failure else pieces), failure


# Origin `converted`


def chunks_of(name: str) -> list[bytes]:
    (exchange,) = CONVERTED[name]
    return [chunk.data for chunk in exchange.reply.chunks]


@pytest.mark.parametrize(
    ("name", "chunks", "broken"),
    [
        ("real_flood", 12, 0),
        ("real_flood_nginx_buffering", 9, 7),
        ("real_flood_nginx_unbuffered", 15, 8),
    ],
)
def test_nginx_splits_characters_of_the_flood_and_the_server_does_not(
    name: str, chunks: int, broken: int
) -> None:
    assert len(chunks_of(name)) == chunks
    assert sum(not is_utf8(data) for data in chunks_of(name)) == broken
    assert b"".join(chunks_of(name)) == b"".join(chunks_of("real_flood"))
    assert len(b"".join(chunks_of(name))) == 49_500


def test_only_careless_decoding_damages_the_flood() -> None:
    reply = CONVERTED["real_flood_nginx_buffering"][0].reply
    right = reply.body.decode()
    assert "".join(pieces_of(reply, "BoundarySafeDecoder")) == right
    assert "".join(pieces_of(reply, "SubpartDecoder")) == right
    assert "".join(pieces_of(reply, "PerChunkDecoder")) != right


def test_the_chat_has_four_turns_one_after_another() -> None:
    chat = CONVERTED["real_chat"]
    assert len(chat) == 4
    assert [len(exchange.request.json()["messages"]) for exchange in chat] == [1, 3, 5, 7]
    for one, following in pairwise(chat):
        assert following.started == pytest.approx(one.started + one.reply.duration)
    assert all(is_utf8(chunk.data) for exchange in chat for chunk in exchange.reply.chunks)
    assert chat[0].reply.head is not None
    assert chat[0].reply.head.at < chat[0].reply.chunks[0].at < chat[0].reply.duration


def test_nginx_sends_the_head_of_the_chat_with_its_first_chunk() -> None:
    for alone, behind in zip(CONVERTED["real_chat"], CONVERTED["real_chat_nginx"], strict=True):
        assert [chunk.data for chunk in behind.reply.chunks] == [chunk.data for chunk in alone.reply.chunks]
        assert behind.reply.head is not None
        assert behind.reply.head.at == behind.reply.chunks[0].at
        assert behind.reply.headers.get("server") == "nginx/1.22.1"


def test_the_answers_of_the_server_have_no_content_type_and_are_never_compressed() -> None:
    for name in ("real_chat", "real_flood", "real_gzip", "real_empty_answer"):
        for exchange in CONVERTED[name]:
            assert exchange.reply.headers.get("content-type") is None
            assert exchange.reply.headers.get("content-encoding") is None
    assert CONVERTED["real_gzip"][0].request.headers.get("accept-encoding") == "gzip"


@pytest.mark.parametrize(
    ("name", "status", "body", "ending"),
    [
        ("real_rate_limit", 500, b"Error", "complete"),
        ("real_unreachable_upstream", 500, b"Error", "complete"),
        ("real_early_clean_end", 200, b"partial ", "complete"),
        ("real_hang", 200, b"partial ", "stall"),
        ("real_silence", None, b"", "stall"),
        ("real_empty_answer", 200, b"", "complete"),
        ("real_client_abort", 200, b"t0 t1 t2 ", "closed"),
    ],
)
def test_what_an_upstreams_trouble_looks_like(
    name: str, status: int | None, body: bytes, ending: str
) -> None:
    (exchange,) = CONVERTED[name]
    assert (exchange.reply.status, exchange.reply.body, exchange.reply.ending.kind) == (status, body, ending)


def test_a_rate_limit_is_told_in_the_reason_phrase() -> None:
    head = CONVERTED["real_rate_limit"][0].reply.head
    assert head is not None
    assert head.reason.startswith("Rate limit reached for default-gpt-3.5-turbo")
    assert head.headers.get("retry-after") is None


def test_models_are_json_sent_as_text() -> None:
    for exchange in CONVERTED["real_models"]:
        assert exchange.reply.headers.get("content-type") == "text/plain;charset=UTF-8"
        assert {"id": "gpt-4", "name": "GPT-4"} in json.loads(exchange.reply.body)


@pytest.mark.parametrize("name", CONVERTED)
def test_the_note_names_each_of_several_exchanges(name: str) -> None:
    _, _, names = CONVERTED[name].note.partition(" In order: ")
    assert len(CONVERTED[name]) == (len(names.split(", ")) if names else 1)


# Origin `recorded`


@pytest.mark.parametrize(
    ("name", "status", "ending"),
    [
        ("recorded_challenge_page", 403, "complete"),
        ("recorded_html_answer", 200, "complete"),
        ("recorded_cut", 200, "cut"),
        ("recorded_gzip", 200, "complete"),
        ("recorded_reset", 200, "reset"),
        ("recorded_stall", 200, "stall"),
    ],
)
def test_our_own_tap_saw(name: str, status: int, ending: str) -> None:
    (exchange,) = RECORDED[name]
    assert exchange.request.json()["messages"] == [{"role": "user", "content": name}]
    assert (exchange.reply.status, exchange.reply.ending.kind) == (status, ending)
    assert len(exchange.reply.chunks) >= 2


# The scripts


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fixtures_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CONVERT = script("convert")
RECORD = script("record")


def test_each_script_makes_exactly_the_files_of_its_origin() -> None:
    assert sorted(session.name for session in CONVERT.SESSIONS) == list(CONVERTED)
    assert sorted(session.name for session in RECORD.SESSIONS) == list(RECORDED)


def test_recording_again_gives_the_same_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert RECORD.main(["--output", str(tmp_path)]) == 0
    assert "recorded_stall: 2 chunks, stall" in capsys.readouterr().out
    for name, committed in RECORDED.items():
        again = Recording.load(tmp_path / f"{name}.jsonl")
        assert again.note == committed.note
        assert [chunk.data for chunk in again[0].reply.chunks] == [
            chunk.data for chunk in committed[0].reply.chunks
        ]
        assert again[0].reply.ending.kind == committed[0].reply.ending.kind


def captured(
    *reads: str | tuple[float, str], end: str = "complete(keep-alive)", head: str = ""
) -> dict[str, Any]:
    head = head or "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    request = b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n{}"
    segments = [[round(0.1 * (n + 1), 1), data.encode().hex()] for n, data in enumerate([head, *reads])]
    return {"name": "x", "via": "y", "request_hex": request.hex(), "segments": segments, "end": end}


def test_a_chunk_came_when_its_last_byte_came() -> None:
    reply = CONVERT.reply_of(captured("3\r\nab", "c\r\n2\r\nde\r\n1", "\r\nf\r\n0\r\n", "\r\n"))
    assert [(chunk.data, chunk.at) for chunk in reply.chunks] == [(b"abc", 0.3), (b"de", 0.3), (b"f", 0.4)]
    assert (reply.head.at, reply.ending.kind, reply.ending.at) == (0.1, "complete", 0.5)


def test_what_is_not_chunked_is_cut_where_the_reads_were() -> None:
    head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"
    reply = CONVERT.reply_of(captured("cd", "e", head=head))
    assert [(chunk.data, chunk.at) for chunk in reply.chunks] == [(b"ab", 0.1), (b"cd", 0.2), (b"e", 0.3)]
    assert reply.ending.kind == "complete"


@pytest.mark.parametrize(
    ("fields", "end", "kind"),
    [
        ("Content-Length: 5", "server-closed(FIN)", "cut"),
        ("Content-Length: 2", "server-closed(FIN)", "complete"),
        ("Connection: close", "server-closed(FIN)", "complete"),
        ("Content-Length: 5", "timeout(still open)", "stall"),
        ("Content-Length: 5", "client-closed", "closed"),
    ],
)
def test_how_it_stopped_depends_on_the_framing(fields: str, end: str, kind: str) -> None:
    reply = CONVERT.reply_of(captured("ab", head=f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n", end=end))
    assert reply.ending.kind == kind


def test_no_byte_at_all_is_a_silent_server() -> None:
    assert CONVERT.reply_of({"segments": [], "end": "timeout(still open)"}) == Reply.no_answer("stall")


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ("3\r\nabcd\r\n", "the chunk of 3 bytes does not end where it says"),
        ("0\r\n\r\nmore", "4 bytes came after the end"),
        ("3\r\nabc\r\n", "said to be complete"),
    ],
)
def test_a_capture_that_contradicts_itself_is_an_error(read: str, said: str) -> None:
    session = CONVERT.Session("name", "y", ("x",), "Note.")
    with pytest.raises(ValueError, match=f"the exchange 'x' cannot be read: .*{said}"):
        CONVERT.convert(session, [captured(read)])


@pytest.mark.parametrize(
    ("text", "said"), [("[]", "not the capture"), ("{", "Expecting"), ("[1]", "not the capture")]
)
def test_a_file_that_is_no_capture_is_said_so(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "capture.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as caught:
        CONVERT.main([str(path), "--output", str(tmp_path)])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
