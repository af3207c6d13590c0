"""Bytes become whole frames: what the recordings hold, in any pieces; damage is counted, and never half taken."""

import random
import re
from pathlib import Path

import pynmea2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shareddata.serialline import NMEA, VEDirect

DATA = Path(__file__).resolve().parents[1] / "data"
VICTRON = {name: (DATA / "victron-vedirect" / name).read_bytes() for name in ("bvm702.dump", "bluesolar_1.23.dump")}
NMEA_LOGS = sorted((DATA / "gpsd").glob("*.log")) + sorted((DATA / "pynmeagps").glob("*.log"))
BINARY = {"bu303-moving.log", "rtcm3.2.log", "ublox-neo-m8n.log"}


def without_hex(data):
    return re.sub(rb"(?<!\r\nChecksum\t):[0-9A-F]{3,}\n", b"", data)


def blocks_in(data):
    """Read a VE.Direct recording as a whole, in another way than the framer: the reference for the tests."""
    found = re.finditer(rb"\r\n(?:PID|H1)\t.*?\r\nChecksum\t.", without_hex(data), re.DOTALL)
    good = [match[0] for match in found if sum(match[0]) & 0xFF == 0]
    return [dict(re.findall(r"\r\n([^\t]+)\t([^\r]*)(?=\r)", block[:-1].decode("ascii"))) for block in good]


def as_bytes(block):
    """Return what a device would send for these fields."""
    body = "".join(f"\r\n{label}\t{value}" for label, value in block.items()).encode() + b"\r\nChecksum\t"
    return body + bytes([-sum(body) % 256])


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(any(each == candidate for candidate in rest) for each in part)


def feed(framer, data, cuts=()):
    edges = [0, *sorted(cuts), len(data)]
    return [frame for start, end in zip(edges, edges[1:]) for frame in framer.feed(data[start:end])]


def hurt(data, position, byte, how):
    if how == "wrong":
        return data[:position] + bytes([byte]) + data[position + 1 :]
    return data[:position] + (bytes([byte]) + data[position:] if how == "more" else data[position + 1 :])


# -- VE.Direct ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count", "dropped"), [("bvm702.dump", 906, 0), ("bluesolar_1.23.dump", 248, 1)])
def test_a_recording_gives_each_block_that_is_in_it(name, count, dropped):
    framer = VEDirect()
    blocks = framer.feed(VICTRON[name])
    assert blocks == blocks_in(VICTRON[name])
    assert (len(blocks), framer.dropped) == (count, dropped)


def test_the_recordings_hold_what_makes_framing_hard():
    assert b"\r\nChecksum\t:\r\n" in VICTRON["bvm702.dump"], "a checksum that looks like the start of a HEX frame"
    assert without_hex(VICTRON["bluesolar_1.23.dump"]) != VICTRON["bluesolar_1.23.dump"], "HEX frames in between"
    assert VICTRON["bluesolar_1.23.dump"].startswith(b"\xb4\r\nPID"), "the end of a block that began before"


@given(st.sampled_from(sorted(VICTRON)), st.sets(st.integers(0, 12000), max_size=40))
def test_the_pieces_in_which_bytes_come_do_not_matter(name, cuts):
    data = VICTRON[name][:12000]
    assert feed(VEDirect(), data, cuts) == VEDirect().feed(data)


def test_byte_by_byte_is_a_way_to_come_too():
    data = VICTRON["bluesolar_1.23.dump"][8300:11000]
    assert feed(VEDirect(), data, range(1, len(data))) == VEDirect().feed(data)


@pytest.mark.parametrize("name", sorted(VICTRON))
def test_a_line_that_is_opened_in_the_middle_of_a_block_begins_with_the_next_one(name):
    data = VICTRON[name][:1500]
    whole = VEDirect().feed(data)
    begins = [match.start() for match in re.finditer(rb"\r\n(PID|H1)\t", data)]
    for start in range(begins[3]):
        assert VEDirect().feed(data[start:]) == whole[sum(begin < start for begin in begins) :]


HOW = st.sampled_from(["wrong", "more", "less"])


@given(st.sampled_from(sorted(VICTRON)), st.integers(7000, 11000), st.integers(0, 255), HOW)
def test_one_wrong_lost_or_additional_byte_never_gives_another_block(name, position, byte, how):
    data = VICTRON[name][6000:13000]
    damaged = hurt(data, position - 6000, byte, how)
    whole, framer = VEDirect().feed(data), VEDirect()
    blocks = framer.feed(damaged)
    framer.reset()
    assert is_subsequence(blocks, whole)
    assert len(blocks) >= len(whole) - 2
    assert framer.dropped or blocks == whole


@given(st.data())
def test_any_damage_is_survived_and_each_block_is_a_piece_of_what_came(data):
    recording = VICTRON[data.draw(st.sampled_from(sorted(VICTRON)))][8000:11000]
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(recording)))
        end = data.draw(st.integers(start, min(start + 400, len(recording))))
        recording = recording[:start] + data.draw(st.binary(max_size=60)) + recording[end:]
    framer = VEDirect()
    for block in framer.feed(recording):
        assert as_bytes(block) in without_hex(recording)


def test_of_heavier_damage_one_byte_of_checksum_lets_about_one_in_256_through():
    chance = random.Random(702)
    good = VEDirect().feed(VICTRON["bvm702.dump"][:600])[0]
    sent, passed, trials = as_bytes(good), 0, 20000
    printable = bytes(range(0x21, 0x7F))
    for _ in range(trials):
        value = re.search(rb"\t(-65473)\r", sent).start(1)  # in a value, so that the form stays right
        hit = sent[:value] + bytes(chance.choices(printable, k=6)) + sent[value + 6 :]
        passed += VEDirect().feed(hit) not in ([], [good])
    assert 0 < passed / trials < 2 / 256  # a receiver cannot do better: this is why a description has limits


@given(st.binary(max_size=3000))
def test_after_any_noise_a_block_is_found_again(noise):
    block = {"PID": "0x203", "V": "12065"}
    framer = VEDirect()
    framer.feed(noise)
    found = framer.feed(as_bytes(block) + as_bytes(block))
    assert found[-1:] == [block]


def test_a_lost_checksum_byte_costs_its_own_block_only():
    first, second = {"PID": "0x1", "V": "1"}, {"H1": "2", "H2": "3"}
    framer = VEDirect()
    assert framer.feed(as_bytes(first) + as_bytes(second)[:-1] + as_bytes(first)) == [first, first]
    assert framer.dropped == 1


def test_hex_frames_may_stand_in_the_middle_of_a_label_or_value():
    block = as_bytes({"PID": "0x203", "V": "12065", "SER#": "HQ1411MYIKN"})
    for place in range(len(block)):
        with_hex = block[:place] + b":7F0ED0071\n" + block[place:]
        expected = [] if place == len(block) - 1 else [{"PID": "0x203", "V": "12065", "SER#": "HQ1411MYIKN"}]
        assert VEDirect().feed(with_hex) == expected  # before the checksum byte a colon is the checksum byte


@pytest.mark.parametrize(
    "strange",
    [
        b"\r\nV\t1\r\nV\t2",  # twice the same label: two blocks run together
        b"\r\nV\t1\x002",  # not printable
        b"\r\nV 1",  # no tab
        b"\r\n\t1",  # no label
        b"",
    ],
)
def test_a_right_sum_is_not_enough(strange):
    body = b"\r\nPID\t0x1" + strange + b"\r\nChecksum\t" if strange else b"\r\nChecksum\t"
    framer = VEDirect()
    assert framer.feed(as_bytes({"PID": "0x1"}) + body + bytes([-sum(body) % 256])) == [{"PID": "0x1"}]
    assert framer.dropped == 1


@pytest.mark.parametrize("framer", [VEDirect(), NMEA()], ids=["VE.Direct", "NMEA"])
def test_noise_without_end_needs_little_memory(framer):
    chance = random.Random(1)
    for _ in range(200):
        framer.feed(chance.randbytes(4096).replace(b"\n", b"\r"))
    assert len(framer._pending) <= framer.LONGEST + 4096
    assert framer.dropped >= 200


def test_an_interrupted_block_counts_as_dropped():
    framer = VEDirect()
    framer.feed(as_bytes({"PID": "0x1", "V": "5"})[:12])
    framer.reset()
    assert framer.feed(as_bytes({"PID": "0x2"})) == [{"PID": "0x2"}]
    assert framer.dropped == 1


# -- NMEA 0183 ---------------------------------------------------------------------------------------------------------


exclusive_or = pynmea2.NMEASentence.checksum


def sentences_in(data):
    """Read an NMEA recording line by line with pynmea2's pattern and checksum: the reference for the tests."""
    found = []
    for line in data.decode("latin-1").split("\n"):
        start = max(line.rfind("$"), line.rfind("!"))
        match = pynmea2.NMEASentence.sentence_re.match("$" + line[start + 1 :].rstrip("\r"))
        if start >= 0 and match and match["checksum"] and int(match["checksum"], 16) == exclusive_or(match["nmea_str"]):
            found.append((line[start] + match["nmea_str"]).split(","))
    return found


@pytest.mark.parametrize("path", NMEA_LOGS, ids=lambda path: path.name)
def test_a_recording_gives_each_sentence_that_is_in_it(path):
    framer = NMEA()
    data = path.read_bytes()
    sentences = framer.feed(data)
    framer.reset()
    assert sentences == sentences_in(data)
    assert bool(sentences) != (path.name in BINARY)
    lines = [line for line in data.split(b"\n") if line.rstrip(b"\r")]
    if path.name not in BINARY:
        noise_in_front = path.name == "ublox-8.log"  # its first sentence stands behind noise on one line
        assert framer.dropped == len(lines) - len(sentences) + noise_in_front


TEXT_LOGS = st.sampled_from([path for path in NMEA_LOGS if path.name not in BINARY])


@given(TEXT_LOGS, st.sets(st.integers(0, 5000), max_size=40))
def test_the_pieces_in_which_sentences_come_do_not_matter(path, cuts):
    data = path.read_bytes()[:5000]
    assert feed(NMEA(), data, {min(cut, len(data)) for cut in cuts}) == NMEA().feed(data)


SOUND_LOGS = TEXT_LOGS.filter(lambda path: "badck" not in path.name)  # where a sentence is wrong, two bytes would be


@given(SOUND_LOGS, st.integers(0, 10**6), st.integers(0, 255))
def test_one_wrong_byte_never_gives_another_standard_sentence(path, position, byte):
    data = path.read_bytes()[-4000:]
    whole, framer = NMEA().feed(data), NMEA()
    sentences = framer.feed(hurt(data, position % len(data), byte, "wrong"))
    # A byte that becomes a $ may cut off the beginning, and the rest have the same checksum: not one that begins with a
    # standard address, which is nowhere in the middle of a sentence.
    assert is_subsequence([each for each in sentences if each[0][:2] != "$P"], whole)
    assert len(sentences) >= len(whole) - 2


@given(st.lists(st.one_of(st.binary(max_size=80), TEXT_LOGS.map(lambda path: path.read_bytes()[-300:]))))
def test_noise_and_sentences_mixed_give_whole_sentences_only(pieces):
    data = b"\n".join(pieces)
    for sentence in NMEA().feed(data):
        text = ",".join(sentence)
        assert f"{text}*{exclusive_or(text[1:]):02X}".encode().upper() in data.upper()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"$GPHDT,274.07,T*04", "another checksum"),
        (b"$GPHDT,274.07,T", "no checksum"),
        (b"# a comment", "not a sentence"),
        (b"$GPHDT,274\x00.07,T*03", "not printable"),
        (b"$gphdt,274.07,T*23", "no address"),
        (b"GPHDT,274.07,T*03", "no beginning"),
    ],
)
def test_a_line_that_is_no_sentence_is_dropped_and_counted(line, why):
    framer = NMEA()
    assert framer.feed(line + b"\r\n$GPHDT,274.07,T*03\r\n") == [["$GPHDT", "274.07", "T"]], why
    assert framer.dropped == 1


def test_noise_before_a_sentence_on_its_line_costs_nothing_but_the_noise():
    framer = NMEA()
    assert framer.feed(b"\xff\xfe\x80noise$GPHDT,274.07,T*03\n") == [["$GPHDT", "274.07", "T"]]
    assert framer.dropped == 1


def test_empty_lines_are_nothing():
    framer = NMEA()
    assert framer.feed(b"\r\n\n\r\n") == []
    assert framer.dropped == 0
