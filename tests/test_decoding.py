r"""The decoders, against the shipped streams, an independent oracle and each promise of their contract."""

from __future__ import annotations

import codecs
import copy
import itertools
import time
import warnings
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivvm.decoding import BoundarySafeDecoder, PerChunkDecoder, SubpartDecoder
from aivvm_testing.fixtures import load, names
from aivvm_testing.strategies import ESCAPES, byte_streams, chunkings, malformed_utf8, well_formed_text

DECODERS = {decoder.__name__: decoder for decoder in (BoundarySafeDecoder, PerChunkDecoder, SubpartDecoder)}
HOLDING = pytest.mark.parametrize("decoder", [BoundarySafeDecoder, SubpartDecoder])
DRAWN = st.sampled_from([BoundarySafeDecoder, SubpartDecoder])


def decoded(decoder, chunks):
    """What each `feed` gave, and then what `finish` did."""
    return [decoder.feed(chunk) for chunk in chunks] + [decoder.finish()]


def held(decoder):
    """The bytes that the decoder holds back: a copy of it gives them out as latin-1 at the end."""
    return copy.copy(decoder).finish().encode("latin-1")


def is_well_formed(data):
    try:
        data.decode("utf-8", "strict")
    except UnicodeDecodeError:
        return False
    return True


# The oracle: a slow reading of the rules that shares nothing with the implementation. The Unicode Standard's table
# 3-7, "Well-Formed UTF-8 Byte Sequences", is its data.

CONTINUATION = range(0x80, 0xC0)
TABLE_3_7 = (
    (range(0x00, 0x80),),
    (range(0xC2, 0xE0), CONTINUATION),
    (range(0xE0, 0xE1), range(0xA0, 0xC0), CONTINUATION),
    (range(0xE1, 0xED), CONTINUATION, CONTINUATION),
    (range(0xED, 0xEE), range(0x80, 0xA0), CONTINUATION),
    (range(0xEE, 0xF0), CONTINUATION, CONTINUATION),
    (range(0xF0, 0xF1), range(0x90, 0xC0), CONTINUATION, CONTINUATION),
    (range(0xF1, 0xF4), CONTINUATION, CONTINUATION, CONTINUATION),
    (range(0xF4, 0xF5), range(0x80, 0x90), CONTINUATION, CONTINUATION),
)
CHARACTER, MALFORMED, UNFINISHED = "character", "malformed", "unfinished"


def units(data):
    """The characters and the maximal subparts of ill-formed sequences that make up `data`."""
    found = []
    begin = 0
    while begin < len(data):
        kind, length = MALFORMED, 1
        for row in TABLE_3_7:
            fitting = 0
            for allowed, byte in zip(row, data[begin:], strict=False):
                if byte not in allowed:
                    break
                fitting += 1
            if fitting == len(row):
                kind, length = CHARACTER, fitting
            elif fitting:
                kind, length = (UNFINISHED if begin + fitting == len(data) else MALFORMED), fitting
        found.append((kind, data[begin : begin + length]))
        begin += length
    return found


def character(unit):
    """The character of a well-formed sequence (Unicode, table 3-6)."""
    if len(unit) == 1:
        return chr(unit[0])
    point = unit[0] & (0x7F >> len(unit))
    for byte in unit[1:]:
        point = point << 6 | byte & 0x3F
    return chr(point)


def latin_1(data):
    return "".join([chr(byte) for byte in data])


@cache
def fallback(data):
    """`unicode-escape`; UTF-8 with U+FFFD where it raises."""
    if b"\\" not in data:
        return latin_1(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return data.decode("unicode-escape")
        except UnicodeDecodeError:
            return "".join([character(unit) if kind is CHARACTER else "\ufffd" for kind, unit in units(data)])


def boundary_safe_oracle(chunks):
    texts = []
    waiting = b""
    for chunk in chunks:
        text = ""
        if waiting:
            kind, unit = units(waiting + chunk)[0]
            if kind is CHARACTER:  # rule 4
                text, chunk, waiting = character(unit), chunk[len(unit) - len(waiting) :], b""
            elif kind is UNFINISHED:  # rule 1
                chunk, waiting = b"", unit
            else:  # rule 3
                text, waiting = latin_1(waiting), b""
        parts = units(chunk)
        if parts and parts[-1][0] is UNFINISHED:
            waiting = parts.pop()[1]
        if all(kind is CHARACTER for kind, _ in parts):  # rule 1
            text += "".join([character(unit) for _, unit in parts])
        else:  # rule 5
            text += fallback(b"".join([unit for _, unit in parts]))
        texts.append(text)
    return [*texts, latin_1(waiting)]  # rule 6


def subpart_oracle(chunks):
    texts = []
    waiting = b""
    for chunk in chunks:
        parts = units(waiting + chunk)
        waiting = parts.pop()[1] if parts and parts[-1][0] is UNFINISHED else b""
        texts.append(
            "".join([character(unit) if kind is CHARACTER else latin_1(unit) for kind, unit in parts])
        )
    return [*texts, latin_1(waiting)]


ORACLES = {BoundarySafeDecoder: boundary_safe_oracle, SubpartDecoder: subpart_oracle}

PROPER_PREFIXES = {b""} | {
    bytes(start)
    for row in TABLE_3_7
    for length in range(1, len(row))
    for start in itertools.product(*row[:length])
}


def unfinished_tail(data):
    return max([data[-n:] for n in (1, 2, 3) if data[-n:] in PROPER_PREFIXES], key=len, default=b"")


def test_the_oracle_knows_well_formed_utf_8():
    for point in [*range(0xD800), *range(0xE000, 0x10000, 7), *range(0x10000, 0x110000, 1009), 0x10FFFF]:
        assert units(chr(point).encode()) == [(CHARACTER, chr(point).encode())]
        assert character(chr(point).encode()) == chr(point)


def test_the_oracle_finds_the_maximal_subparts_of_the_unicode_standard():
    # The Unicode Standard, tables 3-8 to 3-11: one U+FFFD for each.
    for data, lengths in [
        ("c0 af e0 80 bf f0 81 82 41", [1] * 9),
        ("ed a0 80 ed bf bf ed af 41", [1] * 9),
        ("f4 91 92 93 ff 41 80 bf 42", [1] * 9),
        ("e1 80 e2 f0 91 92 f1 bf 41", [2, 1, 3, 2, 1]),
    ]:
        assert [len(unit) for _, unit in units(bytes.fromhex(data))] == lengths


# The shipped streams


STREAMS = [name for name in names() if load(name).expected]


def stream(name):
    return [chunk.data for chunk in load(name)[0].reply.chunks]


def same(text):
    """JSON cannot tell two lone surrogates from the character that they would make as a pair."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def test_all_forty_streams_are_shipped():
    assert len(STREAMS) == 40
    assert sum(is_well_formed(b"".join(stream(name))) for name in STREAMS) == 19


@pytest.mark.parametrize("decoder", DECODERS.values())
@pytest.mark.parametrize("name", STREAMS)
def test_each_stream_gives_what_is_written_with_it(name, decoder):
    expected = load(name).expected[decoder.__name__]
    chunks = stream(name)
    reader, pieces, message = decoder(), [], None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if decoder is PerChunkDecoder else "error")
        try:
            for chunk in chunks:
                pieces.append(reader.feed(chunk))
            pieces.append(reader.finish())
        except UnicodeDecodeError as error:
            message = error.reason
    if isinstance(expected[-1], dict):
        assert message == expected.pop()["raises"]
    else:
        assert message is None
    assert same("".join(pieces)) == "".join(expected)
    if decoder is SubpartDecoder:  # its text is promised, and that it comes as early as it can
        assert pieces == subpart_oracle(chunks)
    else:
        assert [same(piece) for piece in pieces if piece] == expected


def cuts(data):
    """Every way to cut `data` in two or three; of a long one, in three near its middle boundary alone."""
    size = len(data)
    for place in range(size + 1):
        yield data[:place], data[place:]
    places = range(size + 1) if size < 100 else range(4096 - 8, 4096 + 9)
    for begin, end in itertools.combinations_with_replacement(places, 2):
        yield data[:begin], data[begin:end], data[end:]


@pytest.mark.parametrize("name", STREAMS)
def test_however_a_stream_is_cut_the_text_is_what_the_rules_say(name):
    data = b"".join(stream(name))
    exact = "".join(subpart_oracle([data]))
    if is_well_formed(data):
        assert exact == data.decode()
    for chunks in cuts(data):
        assert "".join(decoded(SubpartDecoder(), chunks)) == exact
        pieces = decoded(BoundarySafeDecoder(), chunks)
        if is_well_formed(data):
            assert "".join(pieces) == exact
        else:
            assert pieces == boundary_safe_oracle(chunks)


# Every short string over the bytes where a rule changes its mind: the ends of table 3-7's ranges, and escapes

CRITICAL = b"A\n\\nx7" + bytes.fromhex("80 8f 90 9f a0 bf c1 c2 df e0 e1 ed ef f0 f1 f4 f5 ff")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_short_string_under_every_chunking_is_decoded_by_the_rules(size):
    boundary_safe, subpart = BoundarySafeDecoder(), SubpartDecoder()
    for string in itertools.product(CRITICAL, repeat=size):
        data = bytes(string)
        for inner in range(size):
            for places in itertools.combinations(range(1, size), inner):
                chunks = [data[begin:end] for begin, end in pairwise((0, *places, size))]
                assert decoded(boundary_safe, chunks) == boundary_safe_oracle(chunks), chunks
                assert decoded(subpart, chunks) == subpart_oracle(chunks), chunks


# Streams composed of what matters: characters, escapes, ill-formed units

UNITS = st.one_of(
    st.sampled_from(
        [text.encode() for text in (*ESCAPES, "a", "é", "Л", "€", "\ufeff", "\ud7ff", "😀", "\U0010ffff")]
    ),
    malformed_utf8(),
    well_formed_text().map(str.encode),
)
STREAMS_OF_UNITS = st.one_of(
    byte_streams(),
    st.lists(UNITS, max_size=6).map(b"".join).flatmap(chunkings),
    st.lists(UNITS, max_size=6).map(tuple),
)


@given(decoder=DRAWN, chunks=STREAMS_OF_UNITS)
def test_composed_streams_are_decoded_by_the_rules_chunk_by_chunk(decoder, chunks):
    assert decoded(decoder(), chunks) == ORACLES[decoder](chunks)


@given(decoder=DRAWN, chunks=st.lists(st.binary(max_size=8), max_size=8))
def test_no_bytes_make_it_raise_or_warn(decoder, chunks):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(isinstance(text, str) for text in decoded(decoder(), chunks))


@given(decoder=DRAWN, chunks=byte_streams(well_formed=True))
def test_the_text_of_well_formed_input_is_exact_for_every_chunking(decoder, chunks):
    assert "".join(decoded(decoder(), chunks)) == b"".join(chunks).decode()


@given(data=malformed_utf8(), others=st.data())
def test_the_subpart_decoder_gives_the_same_text_for_every_chunking_of_malformed_input(data, others):
    chunks = others.draw(chunkings(data))
    assert "".join(decoded(SubpartDecoder(), chunks)) == "".join(decoded(SubpartDecoder(), [data]))


@given(decoder=DRAWN, chunks=STREAMS_OF_UNITS)
def test_it_holds_the_unfinished_tail_and_nothing_that_is_certain(decoder, chunks):
    reader, seen = decoder(), b""
    for chunk in chunks:
        reader.feed(chunk)
        seen += chunk
        assert held(reader) in PROPER_PREFIXES
        assert len(held(reader)) <= 3
        assert held(reader) == unfinished_tail(seen)


@given(decoder=DRAWN, chunks=STREAMS_OF_UNITS)
def test_empty_chunks_change_nothing(decoder, chunks):
    reader, pieces = decoder(), []
    for chunk in chunks:
        assert reader.feed(b"") == ""
        pieces.append(reader.feed(chunk))
        assert reader.feed(b"") == ""
    assert [*pieces, reader.finish()] == decoded(decoder(), chunks)


@given(decoder=DRAWN, before=STREAMS_OF_UNITS, chunks=STREAMS_OF_UNITS)
def test_a_finished_decoder_is_as_new(decoder, before, chunks):
    reader = decoder()
    decoded(reader, before)
    assert reader.finish() == ""
    assert decoded(reader, chunks) == decoded(decoder(), chunks)


# The rules, by number


def safe(*chunks):
    return decoded(BoundarySafeDecoder(), chunks)


def test_rule_1_well_formed_text_comes_at_once_and_an_unfinished_tail_is_held():
    assert safe(b"I \xf0\x9f", b"\x92\x99 ok") == ["I ", "💙 ok", ""]
    assert safe(b"\xf0", b"\x9f", b"\x98", b"\x80") == ["", "", "", "😀", ""]
    assert safe(b"C:\\new \xc3", b"\xa9\\n") == ["C:\\new ", "é\\n", ""]


@pytest.mark.parametrize("last", range(0xA0, 0xC0))
@HOLDING
def test_rule_2_an_encoded_surrogate_is_malformed_at_its_second_byte(decoder, last):
    surrogate = bytes([0xED, last])
    assert decoded(decoder(), [b"a" + surrogate, b"x"]) == ["a" + latin_1(surrogate), "x", ""]
    assert decoded(decoder(), [b"a", surrogate[:1], surrogate[1:]]) == ["a", "", latin_1(surrogate), ""]
    assert safe(b"\\n" + surrogate) == ["\n" + latin_1(surrogate), ""]


def test_rule_3_held_bytes_that_are_disproved_are_malformed_alone_and_nothing_cascades():
    assert safe(b"\xe2\x82", b"A\xd0\x9b\\n") == ["", "â\x82AЛ\\n", ""]
    assert safe(b"\xf0\x9f\x98", b"\xd0\x9b") == ["", "ð\x9f\x98Л", ""]
    assert safe(b"\xe2", b"\xf0\x9f", b"\x98\x80") == ["", "â", "😀", ""]
    assert safe(b"\xe2", b"\x82\xd0\x9b") == ["", "â\x82Ð\x9b", ""]
    assert safe(b"\xff\xe2\x82", b"\xac!") == ["ÿ", "€!", ""]


@pytest.mark.parametrize(
    "char", "\x80\u07ff\u0800\u0fff\u1000\ud7ff\ue000\uffff\U00010000\U0003ffff\U0010ffff"
)
def test_rule_4_a_straddling_character_survives_a_malformed_chunk(char):
    for place in range(1, len(char.encode())):
        begin, end = char.encode()[:place], char.encode()[place:]
        assert safe(begin, end + b"\xff") == ["", char + "ÿ", ""]
        assert safe(begin, end + b"\\n\xff\xe2") == ["", char + "\nÿ", "â"]
        assert safe(begin, end + b"\xed\xa0") == ["", char + "í\xa0", ""]


def test_rule_5_a_malformed_chunk_gets_the_fallback_as_a_whole_less_an_unfinished_tail():
    assert safe(b"\xd0\x9b\xff \\x41") == ["Ð\x9bÿ A", ""]
    assert safe(b"\xff\\n\xf0\x9f\x98", b"\x80") == ["ÿ\n", "😀", ""]


def test_rule_6_what_is_held_at_the_end_gets_the_fallback():
    assert safe(b"ok \xe2\x82") == ["ok ", "â\x82"]
    assert safe(b"a\\n\xe2\x82") == ["a\\n", "â\x82"]
    assert safe(b"\xf0\x9f\x98") == ["", "ð\x9f\x98"]


@pytest.mark.parametrize(
    "escape",
    ["\\", "\\x", "\\x4", "\\xg0", "\\u12", "\\U0001", "\\U00110000", "\\N", "\\N{", "\\N{}", "\\N{NO SUCH}"],
)
def test_rule_7_where_unicode_escape_raises_it_is_utf_8_with_replacement_characters(escape):
    with pytest.raises(UnicodeDecodeError):
        escape.encode().decode("unicode-escape")
    assert safe(b"\xff\xd0\x9b" + escape.encode()) == ["\ufffdЛ" + escape, ""]
    assert safe(b"\xff\\n\\d" + escape.encode()) == ["\ufffd\\n\\d" + escape, ""]


def test_rule_7_lone_surrogates_stay_as_the_codec_gives_them():
    assert safe(b"\xff\\ud83d") == ["ÿ\ud83d", ""]
    assert safe(b"\xff\\ud83d\\ude00") == ["ÿ\ud83d\ude00", ""]
    assert safe(b"\xff\\U0000dfff") == ["ÿ\udfff", ""]


@HOLDING
def test_rule_8_a_bom_is_kept_wherever_it_is(decoder):
    bom = "\ufeff".encode()
    assert decoded(decoder(), [bom + b"hi" + bom]) == ["\ufeffhi\ufeff", ""]
    assert "".join(decoded(decoder(), [bom[:1], bom[1:] + b"hi"])) == "\ufeffhi"


# What unicode-escape would warn about


def test_every_byte_after_a_backslash_is_what_unicode_escape_makes_of_it_without_a_warning():
    for byte in range(256):
        for before in (b"", b"\\\\", b"\\n", b"\\7", b"\\d"):
            for after in (b"", b"\\", b"\\\\", b"7", b"77", b"41", b"\\d", b"0041", b"{BULLET}"):
                data = b"\xff" + before + bytes([0x5C, byte]) + after
                assert safe(data) == boundary_safe_oracle([data]), data


def test_every_octal_escape_is_what_unicode_escape_makes_of_it_without_a_warning():
    for number in range(0o1000):
        for form in (
            "\\{:o}",
            "\\{:03o}",
            "\\\\{:03o}",
            "\\\\\\{:03o}8",
            "\\{0:03o}\\{0:03o}",
            "\\d\\{:03o}7",
        ):
            data = b"\xff" + form.format(number).encode()
            assert safe(data) == boundary_safe_oracle([data]), data


@given(
    st.lists(
        st.sampled_from(
            [b"\\", b"\\\\", b"4", b"7", b"00", b"x", b"u", b"N{", b"}", b"BULLET", b"n", b"\xe9"]
        )
    ).map(b"".join)
)
def test_any_run_of_escapes_is_what_unicode_escape_makes_of_it(run):
    data = b"\xff" + run + b" "
    assert safe(data) == boundary_safe_oracle([data])


@pytest.mark.parametrize("trouble", [b"\xff\\d", b"\xff\\777", b"\xff\\N{BULLET}\\-", b"\xff\\d\\"])
def test_warning_filters_are_neither_changed_nor_consulted(trouble, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("the decoder touches the warnings module")

    for name in ("catch_warnings", "simplefilter", "filterwarnings", "warn", "warn_explicit"):
        monkeypatch.setattr(warnings, name, forbidden)
    before = list(warnings.filters)
    texts = safe(trouble)
    assert warnings.filters == before
    monkeypatch.undo()
    assert texts == boundary_safe_oracle([trouble])


# Linear time

TROUBLE = (
    *(b"a", "你".encode(), b"\xff", b"\xe2\x82", b"\xed\xa0", b"\xf0\x9f\x98"),
    *(b"\\", b"\\n", b"\\d", b"\\777", b"\\\\", b"\\N{", b"\\N{BULLET}", b"\\u12", b"\\ud83d"),
)


@pytest.mark.parametrize("unit", [*TROUBLE, b"".join(TROUBLE)])
@pytest.mark.parametrize("chunk_size", [1 << 18, 5])
@HOLDING
def test_time_grows_with_the_input_and_not_with_its_square(decoder, chunk_size, unit):
    def seconds(size):
        data = b"\xff" + unit * (size // len(unit))
        chunks = [data[place : place + chunk_size] for place in range(0, len(data), chunk_size)]
        reader = decoder()
        begun = time.thread_time()
        decoded(reader, chunks)
        return time.thread_time() - begun

    # Eight times the input takes eight times as long, sixty-four times if it were its square. It is the processor's time,
    # and a busy machine may spoil one measurement, hardly five; below a tenth of a millisecond memory is measured.
    size = (1 << 18) if chunk_size > 5 else 1 << 14
    assert any(seconds(size) < 24 * max(1e-4, min(seconds(size // 8) for _ in range(3))) for _ in range(5))


# The literal algorithm


def outcome(call, *args):
    try:
        return call(*args)
    except UnicodeDecodeError as error:
        return error.args


@given(chunk=st.one_of(UNITS, st.lists(UNITS, max_size=4).map(b"".join)))
def test_per_chunk_is_the_specification_to_the_letter(chunk):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if is_well_formed(chunk):
            assert PerChunkDecoder().feed(chunk) == "".join([character(unit) for _, unit in units(chunk)])
            return
        assert outcome(PerChunkDecoder().feed, chunk) == outcome(codecs.decode, chunk, "unicode-escape")


def test_per_chunk_warns_as_the_codec_does_which_is_another_error_where_warnings_are():
    with pytest.warns(DeprecationWarning, match="invalid escape"):
        assert PerChunkDecoder().feed(b"\xff\\d") == "ÿ\\d"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DeprecationWarning):
            PerChunkDecoder().feed(b"\xff\\d")


def test_per_chunk_keeps_nothing_from_one_chunk_to_the_next():
    reader = PerChunkDecoder()
    assert decoded(reader, [b"\xc3", b"\xa9", b""]) == ["Ã", "©", "", ""]
    with pytest.raises(UnicodeDecodeError):
        reader.feed(b"\xff\\")
    assert reader.feed("é".encode()) == "é"
