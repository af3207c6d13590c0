"""The examples of the TMPFS framework's document: import lines changed, the blank line in the class as `...`."""

from collections.abc import Callable
from pathlib import Path

from programs import Program
from servers import OwnServer, free_port

DOCUMENT = '''
>>> from shareddata.sensors import SensorReader, SensorWriter
>>> from shareddata.sensors import pack_to_zip
>>> from shareddata.sensors import read

>>> class DummyWriter(SensorWriter):
...     def __init__(self, filename):
...         super().__init__("dummy", filename)
...
...     def writer_worker(self, number):
...         self.write("number", number)
...         self.write("number_x2", number * 2)
...         pack_to_zip(["number", "number_x2"], self.data_path)

>>> dummy_writer = DummyWriter("first")
>>> dummy_writer.writer_worker(1)
>>> dummy_reader = SensorReader("dummy")

#Now it's possible to access the value
>>> dummy_reader.get_data("number")
1
>>> dummy_reader.number
1
>>> dummy_reader.get_data("number_x2")
2

# Verify updates
>>> for i in range(5):
...     dummy_writer.writer_worker(i)
...     print(f"{dummy_reader.number} {dummy_reader.number_x2}")
0 0
1 2
2 4
3 6
4 8

>>> from time import sleep
>>> from shareddata.sensors import TMPFS_PATH
>>> import os, shutil

>>> dummy_writer = DummyWriter("watchdog_test")
>>> dummy_writer.writer_worker(-1)

>>> dummy_reader = SensorReader("dummy","watchdog_test")
>>> dummy_reader2 = SensorReader("dummy")

#With default contructor we get previous
>>> dummy_reader2.number
4

#When specifying which directory to read
>>> dummy_reader.number
-1

>>> dummy_reader.attach_watchdog("number", print)
>>> for i in range(3):
...     dummy_writer.writer_worker(i)
...     sleep(0.01)
0
1
2

# Disable watchdog
>>> dummy_reader.disable_watchdog("number")

>>> dataset_path = os.path.join(TMPFS_PATH, "dummy_dataset")
>>> os.mkdir(dataset_path)
>>> dummy_reader.take_snapshot(dataset_path)
True
>>> zip_path = os.listdir(dataset_path)[0]
>>> read(os.path.join(dataset_path, zip_path))
{'number': 2, 'number_x2': 4}

>>> dummy_writer.writer_worker(123)
>>> dummy_reader.number
123
>>> read(os.path.join(dataset_path, zip_path))
{'number': 2, 'number_x2': 4}

#Skip doctest because timestamp will change
>>> print(zip_path)# doctest:+SKIP

>>> shutil.rmtree(dataset_path)

>>> os.mkdir(dataset_path)
>>> dummy_reader.start_write(dataset_path)
>>> for i in range(20):
...    dummy_writer.writer_worker(i)
...    sleep(0.01)
>>> dummy_reader.stop_watchdog()

>>> zip_list = os.listdir(dataset_path)
>>> len(zip_list)
20

>>> zip_files = sorted(os.listdir(dataset_path))
>>> for file in zip_files:
...    print (read(os.path.join(dataset_path, file)))
{'number': 0, 'number_x2': 0}
{'number': 1, 'number_x2': 2}
{'number': 2, 'number_x2': 4}
{'number': 3, 'number_x2': 6}
{'number': 4, 'number_x2': 8}
{'number': 5, 'number_x2': 10}
{'number': 6, 'number_x2': 12}
{'number': 7, 'number_x2': 14}
{'number': 8, 'number_x2': 16}
{'number': 9, 'number_x2': 18}
{'number': 10, 'number_x2': 20}
{'number': 11, 'number_x2': 22}
{'number': 12, 'number_x2': 24}
{'number': 13, 'number_x2': 26}
{'number': 14, 'number_x2': 28}
{'number': 15, 'number_x2': 30}
{'number': 16, 'number_x2': 32}
{'number': 17, 'number_x2': 34}
{'number': 18, 'number_x2': 36}
{'number': 19, 'number_x2': 38}

>>> shutil.rmtree(dataset_path)
'''

RUN = """
import doctest
test = doctest.DocTestParser().get_doctest(sys.argv[1], {}, "document", "document", 0)
runner = doctest.DocTestRunner()
runner.run(test, out=say)
say(runner.failures, "of", runner.tries, "failed")
"""
EXAMPLES = 41


def check(program: Callable[..., Program], url: str, folder: Path | None) -> None:
    """Run the document as its reader would: in a program of its own."""
    environment = {"SHAREDDATA_URL": url, "TMPFS_PATH": folder and str(folder)}
    lines = program(RUN, DOCUMENT, env=environment).finish()
    assert lines == [f"0 of {EXAMPLES} failed"], "\n".join(lines)


def test_the_document_on_one_machine(program: Callable[..., Program], url: str, tmp_path: Path) -> None:
    check(program, url, tmp_path / "made when it is needed")


def test_the_document_without_a_folder_of_its_own(program: Callable[..., Program], url: str) -> None:
    check(program, url, None)


def test_the_document_over_tcp(
    program: Callable[..., Program], own_server: Callable[..., OwnServer], kind: str, tmp_path: Path
) -> None:
    check(program, own_server(kind, port=free_port()).tcp_url, tmp_path)


def test_the_document_with_a_server_that_starts_by_itself(program: Callable[..., Program], short_path: Path) -> None:
    check(program, f"embedded://{short_path}/robot", short_path)
    program("from shareddata import server; server.stop(sys.argv[1])", short_path / "robot").finish()
