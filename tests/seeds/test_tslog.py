"""The program of TSLog's document, with the lines changed that a Python elsewhere needs, and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest

from programs import Program

DOCUMENT = '''
######################################
# TSLog
#####################################
import time
from tslog import tslog

# open the log and provide a record format
# in this case a 64 bits integer followed by two floats
tlog = tslog.TSLog("/zerynth/test", formats=["Qff"])


#Let's define a reader thread thats keeps reading from the log
def reader_loop():
    print("Starting reader...")
    cnt = 0
    while True:
        sleep(250)
        values = treader.next()
        if values is None:
            print("NO DATA YET")
        else:
            print("=>",values)
            # commit every 10 records read
            cnt = cnt+1
            if cnt % 10 == 0:
                treader.commit()



sleep(1000)

# lets get a reader from the tslog
treader = tlog.reader(0)
# and start the thread
thread(reader_loop)

print("Starting writer...")

a=0.0
b=0.0
while True:
    a = a+1
    b = b-1
    ts = time.now()
    # now write data to the log according to the format "Qff"
    seqn = tlog.store(ts,a,b)
    print("<=",(ts,a,b))
    sleep(100)
    if seqn%100==0:
        print("Writer waits for reader to catch up...")
        tlog.commit()
        while True:
            # get some stats
            stats = tlog.stats()
            print("last seqn: ",stats[0])
            print("bucket:    ", stats[1])
            print("reader lag:",stats[2])
            # the reader lag indicates how behind the readers are with respect to the write
            if stats[2]<10:
                # reader is less than 10 records behind, let's wake up and write more data
                print("Reader is catching up, writer restarts...")
                break
            sleep(5000)
'''

# What another Python needs, and loops that end. Sleeping is shorter, except with --full; two threads that print at the
# same time print whole lines, one after the other: Python 3.11 loses text that threads write while it is flushed.
PRELUDE = """
import sys, threading
faster = float(sys.argv[1])
one = threading.Lock()
def print(*words):
    with one:
        sys.stdout.write(" ".join(map(str, words)) + "\\n")
"""
SUBSTITUTIONS = [
    ("from tslog import tslog", "from shareddata import tslog"),
    ("sleep(", "time.sleep(1 / faster / 1000 * "),
    ("time.now()", "int(time.time() * 1000)"),
    ("thread(reader_loop)", "reading = threading.Thread(target=reader_loop, daemon=True)\nreading.start()"),
    ("    cnt = 0\n    while True:", "    cnt = 0\n    while cnt < 300:"),
    ("b=0.0\nwhile True:", "b=0.0\nfor _ in range(300):"),
]
END = "\nreading.join()\nprint('missed', treader.missed)\ntreader.close()\ntlog.close()\n"


def document() -> str:
    text = DOCUMENT
    for old, new in SUBSTITUTIONS:
        assert old in text
        text = text.replace(old, new)
    return PRELUDE + text + END


def records(lines: list[str], arrow: str) -> list[Any]:
    """Return the records that the program says it has written or read, and check their times."""
    found = [eval(line.removeprefix(arrow)) for line in lines if line.startswith(arrow)]
    assert all(1.7e12 < ts < 4e12 for ts, _, _ in found)
    return found


@pytest.mark.timeout(180)
def test_the_program_of_the_document(url: str, program: Callable[..., Program], full: bool) -> None:
    """It runs to its end, at its own pace with --full; what is read is what was written, in order."""
    lines = program(document(), 1 if full else 250, env={"SHAREDDATA_URL": url}).finish(150)
    written, read = records(lines, "<="), records(lines, "=>")
    assert [row[1:] for row in written] == [(float(n), float(-n)) for n in range(1, 301)]
    assert read == written and "missed 0" in lines
    assert lines.count("Reader is catching up, writer restarts...") == 3
    assert "last seqn:  300" in lines and "bucket:     0" in lines


def test_it_goes_on_after_a_restart(url: str, program: Callable[..., Program]) -> None:
    """A second run goes on with the next numbers, behind the reader's committed cursor."""
    for run in (1, 2):
        lines = program(document(), 2000, env={"SHAREDDATA_URL": url}).finish(60)
        assert f"last seqn:  {300 * run}" in lines
        assert records(lines, "=>") == records(lines, "<=") and "missed 0" in lines


def test_the_document_s_signatures(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from shareddata import tslog

    monkeypatch.setenv("SHAREDDATA_URL", url)
    log = tslog.TSLog("/zerynth/all", ["Qff", "Qiii"], 128, 1024, 16, 1, False)
    assert log.store_with_tag(0, 100, 1.0, 2.0) == 1
    assert log.store_with_tag(1, 100, 1, 2, 3) == 2
    assert log.store_record(b"up to 20 bytes") == 3
    assert log.commit() == 3
    seqn, bucket, lag = log.stats()
    assert (seqn, bucket, lag) == (3, 0, 3)
    reader = log.reader(0)
    assert isinstance(reader, tslog.TSReader)
    assert reader.next() == (0, (100, 1.0, 2.0))
    assert reader.next() == (1, (100, 1, 2, 3))
    raw = reader.next_record()
    assert raw == bytearray(b"up to 20 bytes") and isinstance(raw, bytearray)
    assert reader.next() is None and reader.next_record() is None
    reader.commit()
    reader.close()
    log.close()
