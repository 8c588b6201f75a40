"""Content-codings with real coded bodies: each flushed part is a chunk of its own, and a few bytes never take gigabytes."""

from __future__ import annotations

import gzip
import http.client
import importlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.response import HTTPResponse

from aivvm_testing.fake import FakeAivvm
from aivvm_testing.record import coding as module
from aivvm_testing.record.adapter import RecordingAdapter
from aivvm_testing.record.coding import Decoding
from aivvm_testing.record.proxy import RecordingProxy
from aivvm_testing.recording import Recording
from tests.peers import END, HEAD, PATIENCE, framed, serving
from tests.testing.test_record_adapter import plain_session

Packer = Callable[[bytes], bytes]
"""Codes what it is given and flushes; with nothing, ends."""


def zlib_packer(bits: int) -> Packer:
    packer = zlib.compressobj(wbits=bits)
    return lambda data: packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH if data else zlib.Z_FINISH)


def br_packer() -> Packer:
    packer: Any = importlib.import_module("brotli").Compressor(quality=5)
    return lambda data: packer.process(data) + packer.flush() if data else packer.finish()


def zstd_packer() -> Packer:
    """Of whichever library this urllib3 decodes with, which depends on its version and Python's."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            zstd: Any = importlib.import_module(name)
        except ImportError:
            continue
        new = zstd.ZstdCompressor()
        return lambda data: new.compress(data, new.FLUSH_BLOCK) if data else new.flush()
    zstd = importlib.import_module("zstandard")
    old = zstd.ZstdCompressor().compressobj()
    return lambda data: old.compress(data) + old.flush(zstd.COMPRESSOBJ_FLUSH_BLOCK) if data else old.flush()


def needing(coding: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        coding not in HTTPResponse.CONTENT_DECODERS, reason=f"urllib3 finds no decoder for {coding}"
    )


PACKERS: dict[str, tuple[str, Callable[[], Packer]]] = {
    "gzip": ("gzip", lambda: zlib_packer(31)),
    "deflate": ("deflate", lambda: zlib_packer(15)),
    "raw deflate": ("deflate", lambda: zlib_packer(-15)),
    "br": ("br", br_packer),
    "zstd": ("zstd", zstd_packer),
}
every_coding = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needing(coding)) for name, (coding, _) in PACKERS.items()]
)
real_others = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needing(name)) for name in ("br", "zstd")]
)


def packed(name: str, *parts: bytes) -> list[bytes]:
    packer = PACKERS[name][1]()
    return [*[packer(part) for part in parts], packer(b"")]


@every_coding
@given(parts=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=6))
def test_each_flushed_part_decodes_as_soon_as_it_is_there(name: str, parts: list[bytes]) -> None:
    decoding = Decoding(PACKERS[name][0])
    *pieces, end = packed(name, *parts)
    assert [decoding.feed(piece) for piece in pieces] == parts
    assert decoding.feed(end) == b""
    decoding.finish()


@every_coding
@given(body=st.binary(min_size=1, max_size=2000), size=st.integers(1, 100))
def test_every_split_of_the_same_bytes_decodes_to_the_same(name: str, body: bytes, size: int) -> None:
    decoding = Decoding(PACKERS[name][0])
    data = b"".join(packed(name, body))
    assert b"".join([decoding.feed(data[at : at + size]) for at in range(0, len(data), size)]) == body
    decoding.finish()


@needing("br")
def test_codings_within_each_other_keep_the_cadence() -> None:
    inner, outer = br_packer(), zlib_packer(31)
    decoding = Decoding("br, gzip")
    assert [decoding.feed(outer(inner(part))) for part in (b"one", b"two")] == [b"one", b"two"]


@needing("zstd")
def test_the_end_of_zstd_is_missed_and_that_of_the_others_is_not() -> None:
    for coding in HTTPResponse.CONTENT_DECODERS:
        if coding in PACKERS:
            decoding = Decoding(coding)
            assert decoding.feed(packed(coding, b"one")[0]) == b"one"
            if coding == "zstd":
                with pytest.raises(ValueError, match="the end of its zstd is missing"):
                    decoding.finish()
            else:
                decoding.finish()


@every_coding
def test_a_few_bytes_that_unpack_to_more_than_the_limit_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PART", 1_000_000)
    coding = PACKERS[name][0]
    within, over = (b"".join(packed(name, b"\0" * size)) for size in (1_000_000, 1_000_001))
    assert len(Decoding(coding).feed(within)) == 1_000_000
    with pytest.raises(ValueError, match=f"{len(over)} bytes unpack to more than 1000000"):
        Decoding(coding).feed(over)


def test_members_of_gzip_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PART", 1_000_000)
    member = gzip.compress(b"\0" * 300_000)
    assert len(Decoding("gzip").feed(member * 3)) == 900_000
    with pytest.raises(ValueError, match="unpack to more than 1000000"):
        Decoding("gzip").feed(member * 4)
    assert len(Decoding("gzip").feed(member * 3 + b"padding")) == 900_000


class Bomb:
    """A decoder that makes a megabyte of every byte, as br can."""

    fed = 0

    def __init__(self, coding: str) -> None:
        pass

    def decompress(self, data: bytes) -> bytes:
        Bomb.fed += len(data)
        return bytes(len(data) << 20)


def test_a_decoder_that_knows_no_limit_is_stopped_soon_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib3.response.HTTPResponse.CONTENT_DECODERS", ["br"])
    monkeypatch.setattr("urllib3.response.MultiDecoder", Bomb)
    monkeypatch.setattr(Bomb, "fed", 0)
    with pytest.raises(ValueError, match=f"4096 bytes unpack to more than {module.MAX_PART}"):
        Decoding("br").feed(b"!" * 4096)
    assert Bomb.fed <= (module.MAX_PART >> 20) + 64


def test_an_error_without_words_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted(Bomb):
        def decompress(self, data: bytes) -> bytes:
            raise MemoryError

    monkeypatch.setattr("urllib3.response.HTTPResponse.CONTENT_DECODERS", ["br"])
    monkeypatch.setattr("urllib3.response.MultiDecoder", Exhausted)
    with pytest.raises(ValueError, match="damaged br: MemoryError"):
        Decoding("br").feed(b"!")


# From end to end

PARTS = [b"data: one\n\n", "data: дв".encode()[:-1], b"\xb2\n\n", b"data: three\n\n" * 50]


def answer(name: str) -> bytes:
    *pieces, end = packed(name, *PARTS)
    if end:
        pieces[-1] += end
    coding = PACKERS[name][0].encode()
    return HEAD[:-2] + b"Content-Encoding: " + coding + b"\r\n\r\n" + framed(*pieces) + END


def check_recorded(path: Path, name: str) -> None:
    [exchange] = Recording.load(path)
    assert [chunk.data for chunk in exchange.reply.chunks] == PARTS
    assert exchange.reply.ending.kind == "complete"
    assert exchange.reply.head is not None
    assert exchange.reply.head.decoded.get("content-encoding") == PACKERS[name][0]
    fake = FakeAivvm.replaying(path)
    with fake.server() as server, plain_session() as session:
        assert session.get(server.url, timeout=PATIENCE).content == b"".join(PARTS)


@every_coding
def test_the_adapter_records_the_parts_and_hands_on_the_answer(tmp_path: Path, name: str) -> None:
    path = tmp_path / "f.jsonl"
    with serving(answer(name)) as peer, RecordingAdapter(path) as adapter, plain_session(adapter) as session:
        assert session.get(peer.url, timeout=PATIENCE).content == b"".join(PARTS)
    check_recorded(path, name)


@every_coding
def test_the_proxy_records_the_parts_and_forwards_the_coded_bytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / "f.jsonl"
    with serving(answer(name)) as peer, RecordingProxy(peer.url, path) as proxy:
        client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=PATIENCE)
        client.request("GET", "/")
        response = client.getresponse()
        assert response.getheader("Content-Encoding") == PACKERS[name][0]
        coded = response.read()
        client.close()
    decoding = Decoding(PACKERS[name][0])
    assert decoding.feed(coded) == b"".join(PARTS)
    decoding.finish()
    check_recorded(path, name)


@real_others
def test_damage_within_a_part_ends_the_answer_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / "f.jsonl"
    first, *_ = packed(name, b"one", b"two")
    head = HEAD[:-2] + b"Content-Encoding: " + name.encode() + b"\r\n\r\n"
    damaged = head + framed(first, b"\xff" * 40) + END
    with serving(damaged) as peer, RecordingAdapter(path) as adapter:
        session = plain_session(adapter)
        with session, pytest.raises(OSError, match=name):
            session.get(peer.url, timeout=PATIENCE)
    [exchange] = Recording.load(path)
    assert [chunk.data for chunk in exchange.reply.chunks] == [b"one"]
    assert exchange.reply.ending.kind == "cut"
    assert f"damaged {name}: " in (exchange.reply.ending.error or "")
