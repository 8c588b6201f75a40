"""Modes, over a real socket to a fake on loopback: what is asked of it is what went to the network."""

from __future__ import annotations

import io
import queue
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import pytest
import requests
import responses
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from aivvm import Aivvm
from aivvm.errors import Interrupted
from aivvm_testing import (
    FakeAivvm,
    Recording,
    RecordingDrift,
    Redaction,
    Reply,
    SetupFailure,
    UnmatchedRequest,
    UnplayedReplies,
    use_recording,
)
from aivvm_testing.record.use import ALIASES, RECORD_MODES


@pytest.fixture
def upstream():
    return FakeAivvm()


@pytest.fixture
def server(upstream):
    with upstream.server() as server:
        yield server


@pytest.fixture
def path(tmp_path):
    return tmp_path / "session.jsonl"


BODY = {"model": "gpt-4", "messages": [{"role": "user", "content": "Hello"}]}


def ask(server, said="Hello", **more):
    body = {"model": "gpt-4", "messages": [{"role": "user", "content": said}], **more}
    with requests.post(f"{server.url}/api/chat", json=body, timeout=5, stream=True) as answer:
        return [chunk for chunk in answer.iter_content(None)]


def asked(upstream):
    return [call.request.json()["messages"][-1]["content"] for call in upstream.calls]


def said(path):
    return [exchange.request.json()["messages"][-1]["content"] for exchange in Recording.load(path)]


def answers(path):
    return [exchange.reply.body.decode() for exchange in Recording.load(path)]


def recorded(path, server, *texts, **options):
    with use_recording(path, "rewrite", **options):
        return [ask(server, text) for text in texts]


def test_what_was_recorded_is_replayed_chunk_for_chunk_without_a_socket(path, server, upstream, monkeypatch):
    live = recorded(path, server, "one two three", "four")
    assert live == [[b"one", b" two", b" three"], [b"four"]]
    before = path.read_bytes()

    def no_socket(*args, **options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", no_socket)
    monkeypatch.setattr(socket, "getaddrinfo", no_socket)
    with use_recording(path) as session:
        assert [ask(server, "one two three"), ask(server, "four")] == live
    assert not session.records
    assert len(session.fake.calls) == 2
    assert asked(upstream) == ["one two three", "four"]
    assert path.read_bytes() == before


def test_none_without_a_file_says_how_to_make_one(path):
    with (
        pytest.raises(FileNotFoundError, match="record_mode 'none' makes none: record it with"),
        use_recording(path),
    ):
        pass
    assert not path.exists()


def test_none_answers_nothing_that_is_not_recorded(path, server, upstream):
    recorded(path, server, "one")

    @use_recording(path)
    def replay():
        with pytest.raises(UnmatchedRequest):
            ask(server, "other")
        with pytest.raises(UnmatchedRequest):
            requests.get(f"{server.url}/api/models", timeout=5)

    with pytest.raises(UnmatchedRequest) as caught:
        replay()
    assert "(record_mode 'none'): 0 of 1 exchange played" in str(caught.value)
    assert 'record_mode="new_episodes" adds what is new' in str(caught.value)
    assert asked(upstream) == ["one"]


def test_once_records_where_there_is_no_file_and_replays_where_there_is_one(path, server, upstream):
    for _ in range(2):
        with use_recording(path, "once"):
            assert ask(server, "one") == [b"one"]
    assert asked(upstream) == ["one"]
    with pytest.raises(UnmatchedRequest), use_recording(path, "once"):
        ask(server, "two")


def test_new_episodes_records_what_the_file_does_not_answer_and_keeps_what_it_has(path, server, upstream):
    for texts in (["one"], ["one", "two"], ["three", "two", "one"]):
        with use_recording(path, "new_episodes"):
            assert [ask(server, text) for text in texts] == [[text.encode()] for text in texts]
    assert asked(upstream) == ["one", "two", "three"]
    assert said(path) == ["one", "two", "three"]
    started = [exchange.started for exchange in Recording.load(path)]
    assert started == sorted(started)


def test_new_episodes_that_brings_nothing_new_writes_nothing(path, server):
    recorded(path, server, "one")
    path.chmod(0o444)
    before = path.stat()
    with use_recording(path, "new_episodes"):
        ask(server, "one")
    assert path.stat() == before


def test_all_replaces_what_was_asked_again_and_keeps_the_rest(path, server, upstream):
    recorded(path, server, "one", "two", "three")
    upstream.reply("another one").reply("the second one")
    with use_recording(path, "all"):
        assert ask(server, "one") == [b"another one"]
        assert ask(server, "one") == [b"the second one"]
    assert said(path) == ["two", "three", "one", "one"]
    assert answers(path) == ["two", "three", "another one", "the second one"]


def test_rewrite_begins_again(path, server):
    recorded(path, server, "one", "two")
    recorded(path, server, "three")
    assert said(path) == ["three"]


@pytest.mark.parametrize("mode", ["new_episodes", "all"])
def test_a_recording_that_goes_on_keeps_its_beginning(path, server, mode):
    with use_recording(path, "rewrite", note="why"):
        ask(server, "one")
    first = Recording.load(path)
    with use_recording(path, mode, note="another"):
        ask(server, "two")
    assert (Recording.load(path).note, Recording.load(path).recorded_at) == ("why", first.recorded_at)


@pytest.mark.parametrize(("alias", "mode"), ALIASES.items())
def test_modes_have_aliases(path, alias, mode):
    assert use_recording(path, alias).mode == mode


def test_what_is_no_mode_is_refused_at_the_call(path):
    with pytest.raises(ValueError, match=r"record_mode is one of none, once, .*, but got 'onse'"):
        use_recording(path, "onse")
    with pytest.raises(ValueError, match="on_unplayed is one of fail, warn, ignore"):
        use_recording(path, on_unplayed="explode")
    with pytest.raises(ValueError, match="no criterion 'jsn'"):
        use_recording(path, match_on=("jsn",))
    with pytest.raises(ValueError, match="a speed is 0"):
        use_recording(path, speed=-1)


def test_verify_reports_drift_and_leaves_the_file_alone(path, server, upstream):
    upstream.reply(Reply.text("as before")).reply(Reply.of("a", "b", headers={"X-Old": "1"})).reply("three")
    recorded(path, server, "one", "two", "three")
    before = path.read_bytes()
    upstream.reply("before: as").reply(
        Reply.of("ab", status=503, reason="Out", headers={"content-type": "text/css"}).cut(after=1)
    )
    upstream.reply("four")

    @use_recording(path, "verify")
    def verify():
        assert ask(server, "one") == [b"before: as"]
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            ask(server, "two")
        ask(server, "four")

    with pytest.raises(RecordingDrift) as caught:
        verify()
    assert path.read_bytes() == before
    text = str(caught.value)
    assert text.startswith(f"{path}: 2 of 3 answers of the live upstream differ from the recording")
    assert "status: was 200 OK, is 503 Out" in text
    assert "headers: no x-old any more" in text
    assert "headers: content-type is new" in text
    assert "content-type: was none, is text/css" in text
    assert "ending: was complete, is cut" in text
    assert "is not in the recording" in text
    assert "exchange 0" not in text


def test_verify_finds_nothing_where_nothing_changed(path, server):
    recorded(path, server, "one", "two")
    with use_recording(path, "verify"):
        ask(server, "one")
        ask(server, "two")
    with pytest.raises(UnplayedReplies, match="1 not played"), use_recording(path, "verify"):
        ask(server, "one")


def test_what_is_left_over_is_reported_as_told(path, server):
    recorded(path, server, "one", "two")
    with pytest.raises(UnplayedReplies, match="1 not played") as raised, use_recording(path):
        ask(server, "one")
    assert '3. say on_unplayed="warn" or "ignore" where it need not ask' in str(raised.value)
    with pytest.warns(UserWarning, match="1 not played"), use_recording(path, on_unplayed="warn"):
        ask(server, "one")
    with use_recording(path, on_unplayed="ignore"):
        ask(server, "one")


def test_a_session_that_is_not_asked_says_so(path, server):
    recorded(path, server, "one")
    with pytest.raises(SetupFailure, match="no request came"), use_recording(path, on_unplayed="ignore"):
        pass
    with use_recording(path, on_unplayed="ignore", must_be_asked=False):
        pass


def test_what_was_recorded_until_an_exception_is_in_the_file(path, server):

    @use_recording(path, "rewrite")
    def broken():
        ask(server, "one")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        broken()
    assert said(path) == ["one"]


def test_a_failure_that_the_code_swallows_is_raised_at_the_end(path, server):
    recorded(path, server, "one")

    @use_recording(path, on_unplayed="ignore")
    def swallowing():
        with suppress(AssertionError):
            ask(server, "other")

    with pytest.raises(UnmatchedRequest):
        swallowing()


def test_repeats_are_given_where_they_are_allowed(path, server):
    recorded(path, server, "one")
    with use_recording(path, allow_playback_repeats=True):
        assert [ask(server, "one") for _ in range(3)] == [[b"one"]] * 3
    with pytest.raises(UnmatchedRequest, match="once too often"):
        use_recording(path)(lambda: [ask(server, "one") for _ in range(2)])()


def test_fields_can_be_ignored_and_criteria_chosen(path, server):
    with use_recording(path, "rewrite"):
        ask(server, "one", id=1)
    with use_recording(path, ignore_json=["id"]):
        assert ask(server, "one", id=2) == [b"one"]
    with use_recording(path, match_on=("path",)):
        assert ask(server, "anything") == [b"one"]


def test_a_secret_is_in_no_file_and_another_one_is_answered(path, server):
    with use_recording(path, "rewrite", redaction=Redaction(names=["tenant"])):
        ask(server, "one", key="sk-1234567890", tenant="north-west")
    assert b"sk-1234567890" not in path.read_bytes()
    assert b"north-west" not in path.read_bytes()
    with use_recording(path, redaction=Redaction(names=["tenant"])):
        assert ask(server, "one", key="", tenant="south") == [b"one"]


def test_hosts_that_are_let_pass_are_neither_recorded_nor_answered(path, server, upstream):
    recorded(path, server, "one")
    with FakeAivvm().server() as other, use_recording(path, allow=[f"127.0.0.1:{other.port}"]):
        assert ask(other, "let through") == [b"let", b" through"]
        assert ask(server, "one") == [b"one"]
    assert asked(upstream) == ["one"]


def test_redirects_and_retries_are_exchanges_of_their_own(path, server, upstream):
    upstream.reply(Reply.error(503)).reply("at last")
    upstream.on(path="/old").reply(Reply.of("", status=307, headers={"Location": "/api/chat"}), forever=True)
    retry = Retry(total=2, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    body = {"model": "gpt-4", "messages": [{"role": "user", "content": "x"}]}

    def retried():
        with requests.Session() as session:
            session.mount("http://", HTTPAdapter(max_retries=retry))
            return session.post(f"{server.url}/old", json=body, timeout=5).text

    with use_recording(path, "rewrite"):
        assert retried() == "at last"
    assert [exchange.reply.status for exchange in Recording.load(path)] == [307, 503, 200]
    with use_recording(path):
        assert retried() == "at last"


def test_the_same_exception_comes_at_the_same_place(path, server, upstream):
    upstream.reply(Reply.of("a", "b", "c").cut(after=2))

    def read():
        got = []
        body = {"model": "m", "messages": []}
        answer = requests.post(f"{server.url}/api/chat", json=body, stream=True, timeout=5)
        with pytest.raises(requests.exceptions.ChunkedEncodingError) as caught:
            got.extend(answer.iter_content(None))
        return got, type(caught.value)

    with use_recording(path, "rewrite"):
        live = read()
    with use_recording(path):
        assert read() == live


@pytest.mark.parametrize(
    "wrap", [io.BytesIO, lambda data: iter([data[:5], data[5:]])], ids=["file", "generator"]
)
def test_a_body_that_can_be_read_once_is_matched_and_sent(path, server, upstream, wrap):
    data = b'{"model": "gpt-4", "messages": [{"role": "user", "content": "once"}]}'
    for _ in range(2):
        with use_recording(path, "new_episodes"):
            assert requests.post(f"{server.url}/api/chat", data=wrap(data), timeout=5).text == "once"
    assert asked(upstream) == ["once"]
    assert Recording.load(path)[0].request.body == data


@pytest.mark.parametrize("mode", ["rewrite", "all", "new_episodes"])
def test_a_streamed_upload_is_sent_as_it_is_made(path, mode):
    came = queue.Queue()

    def parts():
        for part in (b"one", b"two", b"three"):
            yield part
            while part not in came.get(timeout=5):  # the server has it before the next one is made
                pass

    def serve(listener):
        connection, _ = listener.accept()
        with connection:
            data = b""
            while not data.endswith(b"0\r\n\r\n"):
                data += connection.recv(65536)
                came.put(data)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with use_recording(path, mode):
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/up"
            assert requests.post(url, data=parts(), timeout=5).text == "ok"
        thread.join()
    assert Recording.load(path)[0].request.body == b"onetwothree"


def test_all_replaces_what_was_uploaded_by_what_is_uploaded_again(path, server):
    body = b'{"model": "gpt-4", "messages": [{"role": "user", "content": "once"}]}'
    for _ in range(2):
        with use_recording(path, "all"):
            for _ in range(2):
                requests.post(f"{server.url}/api/chat", data=iter([body]), timeout=5)
    assert len(Recording.load(path)) == 2


def test_drift_is_a_note_of_the_error_that_it_led_to(path, server, upstream):
    recorded(path, server, "one")
    upstream.reply(Reply.error(503))

    @use_recording(path, "verify")
    def verify():
        return 1 / len(ask(server, "one")[5:])

    with pytest.raises(ZeroDivisionError) as caught:
        verify()
    (note,) = caught.value.__notes__
    assert "status: was 200 OK, is 503" in note


def test_it_decorates_functions(path, server, upstream):
    @use_recording(path, "once")
    def asking(text):
        """Asks."""
        return ask(server, text)

    assert asking("one") == asking("one") == [b"one"]
    assert asking.__doc__ == "Asks."
    assert asked(upstream) == ["one"]


def test_its_transport_is_recorded_and_answered_likewise(path, server, upstream):
    upstream.reply(Reply.of("a", b"\xd0", b"\xbf").cut(after=2))

    def told(session):
        provider = Aivvm(session.transport(), url=server.url)
        with pytest.raises(Interrupted) as caught:
            list(provider.create_completion("gpt-4", [{"role": "user", "content": "x"}]))
        return caught.value.kind, caught.value.text

    with use_recording(path, "rewrite") as session:
        live = told(session)
    with use_recording(path) as session:
        assert told(session) == live


@pytest.mark.parametrize("mode", ["rewrite", "new_episodes"])
def test_threads_record_into_one_file_and_all_of_it_is_replayed_without_a_socket(
    path, server, upstream, mode, monkeypatch
):
    texts = [f"{thread}.{n}" for thread in range(8) for n in range(25)]
    with use_recording(path, mode), ThreadPoolExecutor(8) as pool:
        live = list(pool.map(lambda text: ask(server, text), texts))
    assert sorted(said(path)) == sorted(texts)

    def no_socket(*args, **options):
        raise AssertionError("a socket was opened")

    with use_recording(path), ThreadPoolExecutor(8) as pool, monkeypatch.context() as without:
        without.setattr(socket, "socket", no_socket)
        without.setattr(socket, "getaddrinfo", no_socket)
        assert list(pool.map(lambda text: ask(server, text), texts)) == live
    assert len(upstream.calls) == len(texts)


def test_threads_that_ask_the_same_get_what_is_recorded_and_then_the_network(path, server, upstream):
    upstream.reply("recorded").reply("live", times=7)
    recorded(path, server, "same")
    barrier = threading.Barrier(8)

    def one(_):
        barrier.wait(10)
        return ask(server, "same")

    with use_recording(path, "new_episodes"), ThreadPoolExecutor(8) as pool:
        got = list(pool.map(one, range(8)))
    assert sorted(got) == [[b"live"]] * 7 + [[b"recorded"]]
    assert len(Recording.load(path)) == 8


def test_a_mock_beneath_answers_what_is_not_recorded(path, server):
    recorded(path, server, "one")
    with responses.RequestsMock() as mock:
        mock.add("GET", "http://other.invalid/", body="mocked")
        with use_recording(path, "new_episodes"):
            assert ask(server, "one") == [b"one"]
            assert requests.get("http://other.invalid/", timeout=5).text == "mocked"


def test_another_recorder_at_work_is_told_without_looking_like_the_network(path, server):
    recorded(path, server, "one")
    with use_recording(path, "rewrite"):
        with pytest.raises(FileExistsError, match="another recorder is at work"), use_recording(path, "all"):
            pass
        with pytest.raises(SetupFailure, match="cannot be recorded: "), use_recording(path, "new_episodes"):
            ask(server, "two")
        ask(server, "three")
    assert said(path) == ["three"]


def test_every_mode_is_in_the_table_of_the_module():
    from aivvm_testing.record import use

    assert use.__doc__ is not None
    for name in (*RECORD_MODES, *ALIASES):
        assert name in use.__doc__


@pytest.mark.parametrize("mode", ["once", "new_episodes"])
def test_a_request_that_reached_no_server_is_recorded_and_told_where_it_stays(path, mode):
    with FakeAivvm().server() as server:
        gone = SimpleNamespace(url=server.url)
    told = pytest.warns(UserWarning, match="has a request that reached no server")
    with told, use_recording(path, mode), pytest.raises(requests.ConnectionError):
        ask(gone)
    with use_recording(path), pytest.raises(requests.ConnectionError):
        ask(gone)
    assert Recording.load(path)[0].reply.ending.kind == "refused"
    with use_recording(path, "rewrite"), pytest.raises(requests.ConnectionError):
        ask(gone)  # no warning: it asks again


def test_a_recording_of_nothing_is_none_where_one_is_recorded_once(path, server, upstream):
    for _ in range(2):
        with use_recording(path, "once", must_be_asked=False):
            pass
    assert len(Recording.load(path)) == 0
    for _ in range(2):
        with use_recording(path, "once"):
            ask(server)
    assert len(upstream.calls) == 1


def test_what_ends_by_an_error_before_anything_was_asked_leaves_no_recording(path):
    with pytest.raises(ZeroDivisionError), use_recording(path, "once"):
        _ = 1 / 0
    assert not path.exists()
    Recording(note="earlier").save(path)
    with pytest.raises(ZeroDivisionError), use_recording(path, "rewrite"):
        _ = 1 / 0
    assert Recording.load(path).note == "earlier"


def test_folders_are_made_for_what_is_recorded(tmp_path, server):
    path = tmp_path / "not" / "yet" / "session.jsonl"
    with pytest.raises(FileNotFoundError), use_recording(path, "none"):
        pass
    assert not path.parent.exists()
    with use_recording(path, "once"):
        ask(server)
    assert len(Recording.load(path)) == 1


def test_how_long_a_reader_stayed_is_no_drift(path, server, upstream):
    upstream.reply(Reply.of("a").stall()).reply("a")
    with use_recording(path, "rewrite"):
        requests.post(f"{server.url}/api/chat", json=BODY, stream=True, timeout=5).close()
    assert Recording.load(path)[0].reply.ending.kind == "closed"
    with use_recording(path, "verify"):
        assert ask(server) == [b"a"]


def test_a_recorder_that_was_killed_is_told_where_no_recording_is(path):
    path.with_name("session.jsonl.journal").write_bytes(b"")
    with (
        pytest.raises(FileNotFoundError, match="`aivvm-testing recover` makes"),
        use_recording(path),
    ):
        pass


def test_a_host_that_is_blocked_is_told_by_the_name_of_what_blocks_it(path, server):
    message = r"use_recording\(\.\.\., hosts=\['api\.example', '127\.0\.0\.1'\]\)"
    with (
        pytest.raises(UnmatchedRequest, match=message),
        use_recording(path, "rewrite", hosts=["api.example"]),
    ):
        ask(server)
