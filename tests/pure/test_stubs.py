"""Typed names: mypy finds a wrong field and nothing else, C and C++ compile them without a warning."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shareddata import descfile, stubs
from shareddata.datadesc import Record, parse_record

ROOT = Path(__file__).parents[2]
HEAD = [["ts", 0.0], ["sender", ""]]
NASTY = {
    "A.B-C": {
        "doc": 'It ends */ here """ and \\ there??/',
        "fields": [*HEAD, ["count", 0], ["index", 0.0], ["int", 0]],
    },
    "A_B_C": [*HEAD, ["default", "", {"unit": 'a"b\\?', "doc": "one\ntwo */ #define x"}], ["ünder", False]],
    "A_B_C_field": [*HEAD, ["x", 0.0, {"unit": "\\u00zz \u202e\x017", "doc": "type: ignore"}]],
    "A_B_C_KEY": [*HEAD, ["self", 0.0], ["float", 0.0], ["list", []], ["Any", None], ["np", 1, {"doc": "noqa"}]],
    **{n: [*HEAD, ["x", 0.0], ["y", {}]] for n in ("float", "dict", "property", "values", "--x", "_x", "_str", "time")},
    "1st": [*HEAD, ["list", []], ["object", {}], ["any", None]],
    "class": [*HEAD, ["x", 0.0, {"dtype": "<f4", "shape": [2, 3]}], ["y", False, {"dtype": "|b1", "shape": [2]}]],
    "Any": [*HEAD, ["c", 0.0, {"dtype": "<c8", "shape": [2]}], ["h", 0.0, {"dtype": "<f2", "shape": [2]}]],
    "empty": HEAD,
    "print": [*HEAD, ["u", 0, {"dtype": "<u2", "shape": [4]}], ["NDArray", 0], ["unix", 0], ["errno", 0]],
}


def nasty() -> dict[str, Record]:
    return {name: parse_record(name, declaration) for name, declaration in NASTY.items()}


def shipped() -> dict[str, Record]:
    return descfile.load(*sorted((ROOT / "datadesc").glob("*.json")))


def mypy(folder: Path, **files: str) -> str:
    """Return what mypy --strict says of files."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    # An editable install is nothing that mypy finds: the checkout is, with its own settings.
    settings = ["--config-file", str(ROOT / "setup.cfg"), "--cache-dir", str(folder / "cache"), "--no-error-summary"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *settings, *(f"{name}.py" for name in files)],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr


PROGRAM = """
from shareddata import DataDict
from records import BATTERY__measures, BATTERY__measuresData

def program(dd: DataDict) -> None:
    measures: BATTERY__measures | None = dd.next()[0]
    data: BATTERY__measuresData = dd.set_datas_to_write(["BATTERY__measures"])[0]
    if measures is not None:
        data.set(measures.voltage * 2, current=-1.5, ts=measures.ts)
        print(data.values.power, data.name)
"""


@pytest.mark.timeout(180)
def test_mypy_accepts_what_is_right_and_finds_what_is_wrong(tmp_path: Path) -> None:
    wrong = PROGRAM.replace("measures.voltage", "measures.voltge").replace("current=-1.5", "curent=-1.5")
    said = mypy(tmp_path, records=stubs.python(shipped()), right=PROGRAM, wrong=wrong)
    assert '"BATTERY__measures" has no attribute "voltge"' in said
    assert 'Unexpected keyword argument "curent"' in said
    assert "right.py" not in said and "records.py" not in said


@pytest.mark.timeout(180)
def test_nasty_names_pass_mypy(tmp_path: Path) -> None:
    assert mypy(tmp_path, records=stubs.python(nasty())) == ""


def test_python_classes_are_what_trames_are() -> None:
    found: dict[str, Any] = {}
    exec(stubs.python(nasty()), found)
    for record, name in (
        ("A.B-C", "A_B_C"),
        ("A_B_C", "A_B_C_"),
        ("1st", "_1st"),
        ("class", "class_"),
        ("Any", "Any_"),
    ):
        assert found[name]._fields == tuple(field.name for field in nasty()[record].fields)
    assert found["A_B_C"](*range(5)).count == 2


CHECK = """
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "records.h"
int main(void) {
    const char *words[] = A_B_C__HMGET;
    if (strcmp(A_B_C__unit.default_, "a\\"b\\\\?") || strcmp(words[4], A_B_C__field.default_)) return 1;
    if (strcmp(A_B_C_field__unit.x, "\\\\u00zz \\342\\200\\256\\0017")) return 4;
    if (A_B_C_COUNT != 5 || A_B_C_at_int_ != 4 || strcmp(A_B_C_KEY, "{usv1}:A.B-C")) return 2;
    class_ values;
    values.x[1][2] = 1.5f;
    return sizeof values.x == 24 && values.x[1][2] > 1 && sizeof(Any) >= 20 ? 0 : 3;
}
"""


@pytest.mark.parametrize(("compiler", "language"), [("gcc", "c99"), ("gcc", "gnu17"), ("g++", "gnu++17")])
def test_header_compiles(tmp_path: Path, compiler: str, language: str) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    (tmp_path / "records.h").write_text(stubs.header(nasty(), "usv1"))
    source = tmp_path / ("main.c" if compiler == "gcc" else "main.cpp")
    source.write_text(CHECK)
    strict = ["-Wall", "-Wextra", "-pedantic", "-Werror", f"-std={language}"]
    done = subprocess.run(
        [compiler, *strict, "-o", "main", source.name], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert subprocess.run([tmp_path / "main"], timeout=10).returncode == 0


def test_nothing_described() -> None:
    ast.parse(stubs.python({}))
    assert "#endif" in stubs.header({})


names = st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True)
texts = st.text(max_size=40)


@settings(max_examples=60)
@given(st.dictionaries(names, st.tuples(texts, texts), min_size=1, max_size=6))
@example({"0": ("/*", '*/ "')})
@example({"0": ('\\" /*', "")})
def test_any_names_and_texts_are_python(described: dict[str, tuple[str, str]]) -> None:
    records = {
        name: Record(name, parse_record(name, [*HEAD, ["x", 0.0, {"unit": unit, "doc": doc}]]).fields, doc)
        for name, (unit, doc) in described.items()
    }
    classes = [each.name for each in ast.parse(stubs.python(records)).body if isinstance(each, ast.ClassDef)]
    assert len(set(classes)) == 2 * len(records)
    code = re.sub(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"', "", stubs.header(records), flags=re.DOTALL)
    assert not re.search(r'/\*|\*/|"', code), "no text begins or ends a comment or a literal"
