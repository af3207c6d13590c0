"""File names made from metadata: what a template makes, and what no metadata can make of it."""

import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shareddata.errors import TemplateError
from shareddata.paths import LONGEST, FileName

DOCUMENT = "{{ file_path }}/testimg-{{ '%04d' % ( frame / 2 ) |round(0, 'floor') }}-{{ frame % 2 }}.npy"


def test_the_document_s_template() -> None:
    name = FileName(DOCUMENT)
    assert name.root is None
    made = [name.render({"file_path": "/mnt/mystorage/images"}, frame=frame) for frame in range(3)]
    assert made == [f"/mnt/mystorage/images/testimg-{end}.npy" for end in ("0000-0", "0000-1", "0001-0")]


@pytest.mark.parametrize(
    ("template", "root", "expected"),
    [
        ("/data/{{ run }}/{{ n }}.npy", None, "/data"),
        ("/data/run-{{ n }}.npy", None, "/data"),
        ("/{{ n }}.npy", None, "/"),
        ("/data/fixed.npy", None, "/data"),
        ("images/a/{{ n }}.npy", None, "/here/images/a"),
        ("img-{{ n }}.npy", None, "/here"),
        ("{{ n }}.npy", None, None),
        ("{% if n %}/a/{% endif %}b.npy", None, None),
        ("{# a comment #}/data/{{ n }}.npy", None, "/data"),
        ("{% raw %}/data/{{ }}{% endraw %}/{{ n }}.npy", None, "/data/{{ }}"),
        ("{{ n }}.npy", "/root/", "/root"),
        ("{{ n }}.npy", "below", "/here/below"),
        ("/data/{{ n }}.npy", "/data/..", "/"),
    ],
)
def test_root(template: str, root: str | None, expected: str | None) -> None:
    assert FileName(template, root, "/here").root == expected


@pytest.mark.parametrize(
    ("template", "root", "metadata", "expected"),
    [
        ("/data/{{ a }}.npy", None, {"a": "x"}, "/data/x.npy"),
        ("/data/{{ a }}.npy", None, {"a": "/etc/x"}, "/data/etc/x.npy"),
        ("/data/{{ a }}", None, {"a": "b//c/./d.npy"}, "/data/b/c/d.npy"),
        ("{{ a }}", None, {"a": "/any/where/x.npy"}, "/any/where/x.npy"),
        ("{{ a }}", None, {"a": "x.npy"}, "/here/x.npy"),
        ("below/{{ a }}", None, {"a": "x.npy"}, "/here/below/x.npy"),
        ("below/{{ a }}", "data", {"a": "x.npy"}, "/here/data/below/x.npy"),
        ("{{ a }}", "/data", {"a": "x.npy"}, "/data/x.npy"),
        ("{{ a }}", "/data", {"a": "/data/b/x.npy"}, "/data/b/x.npy"),
        ("{{ a }}", "/data", {"a": "//data/x.npy"}, None),
        ("/data/{{ a }}.npy", None, {"a": "{{ ''.__class__ }}"}, "/data/{{ ''.__class__ }}.npy"),
        ("/data/{{ a }}.npy", None, {"a": "Grün 7 µm"}, "/data/Grün 7 µm.npy"),
        (
            "/data/{{ a }}.npy",
            None,
            {"a": "．．／etc"},
            "/data/．．／etc.npy",
        ),
        ("/data/{{ a }}.npy", None, {"a": "x" * (LONGEST - 4)}, f"/data/{'x' * (LONGEST - 4)}.npy"),
        ("/data/{{ a.b[1] }}.npy", None, {"a": {"b": [1, 2]}}, "/data/2.npy"),
    ],
)
def test_name(template: str, root: str | None, metadata: dict[str, Any], expected: str | None) -> None:
    name = FileName(template, root, "/here")
    if expected is None:
        with pytest.raises(TemplateError, match="leaves the folder"):
            name.render(metadata)
    else:
        assert name.render(metadata) == expected


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("../../etc/x", r"'\.\.'"),
        ("..", r"'\.\.'|names no file|ends"),
        ("a/../../b", r"'\.\.'"),
        ("a\0b", r"U\+0000"),
        ("a\nb", r"U\+000A"),
        ("\x1b[2J", r"U\+001B"),
        ("\x85", r"U\+0085"),
        ("a\u202egnp.exe", r"U\+202E"),
        ("a\u2028b", r"U\+2028"),
        ("\ud800", r"U\+D800"),
        ("x" * 300, "a name of 300 bytes"),
        ("é" * 121, "a name of 242 bytes"),
        ("x" * 300 + "/a", "a name of 300 bytes"),
        ("", "blank|ends with"),
        (" ", "blank|ends with"),
        ("\u00a0", "blank|ends with"),
        ("a/", "slash"),
        ("a/ /b", "begins or ends with a blank"),
        ("a /b", "begins or ends with a blank"),
        (".", "names no file"),
        (".hidden", "begins with a dot"),
        (".shareddata-1.part", "begins with a dot"),
    ],
)
@pytest.mark.parametrize("template", ["/data/{{ a }}", "{{ a }}"])
def test_hostile_metadata(template: str, value: str, says: str) -> None:
    with pytest.raises(TemplateError, match=says) as refused:
        FileName(template, here="/here").render(a=value)
    assert repr(template) in str(refused.value), "the message names the template"
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("value", ["/etc/passwd", "/data", "/database/x", "//etc/x", "/"])
def test_absolute_paths_stay_below_a_given_root(value: str) -> None:
    with pytest.raises(TemplateError, match="leaves the folder /data|names no file|slash"):
        FileName("{{ a }}", "/data").render(a=value)


def test_a_name_that_is_missing() -> None:
    with pytest.raises(TemplateError, match=r"'frame' is undefined; the metadata hold file_path, run"):
        FileName(DOCUMENT).render(file_path="/a", run=1)
    with pytest.raises(TemplateError, match="no attribute 'b'"):
        FileName("/data/{{ a.b }}").render(a={})
    assert FileName("/data/{{ a | default('none') }}").render() == "/data/none"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("/data/{{ ''.__class__ }}", "unsafe|undefined"),
        ("/data/{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe|undefined"),
        ("/data/{{ a.__init__.__globals__ }}", "unsafe|undefined"),
        ("/data/{{ '{0.__class__}'.format(a) }}", "unsafe|undefined"),
        ("/data/{{ a / 0 }}", "TypeError|ZeroDivision"),
        ("/data/{{ a + 1 }}", "TypeError"),
        ("/data/{{ range(10**9) | list | length }}", "[Rr]ange"),
    ],
)
def test_the_sandbox(template: str, says: str) -> None:
    with pytest.raises(TemplateError, match=says):
        FileName(template).render(a="text")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("/data/{{ a", "/data/.*expected|unexpected end"),
        ("/data/{% include 'x' %}", "no loader|TypeError"),
        ("../data/{{ a }}", r"'\.\.'"),
        ("/data/../{{ a }}", r"'\.\.'"),
        ("/data/{{ a | nothing }}", "No filter named 'nothing'"),
    ],
)
def test_wrong_templates(template: str, says: str) -> None:
    with pytest.raises(TemplateError, match=says):
        FileName(template).render(a="x")


@given(st.text() | st.lists(st.sampled_from(["..", ".", "/", "a", "\0", " ", "~", "\\", "data"])).map("".join))
def test_no_text_leaves_the_root(text: str) -> None:
    for template in ("/data/{{ a }}", "/data/x{{ a }}.npy", "/data/{{ a }}/x.npy"):
        try:
            path = FileName(template).render(a=text)
        except TemplateError:
            continue
        assert os.path.normpath(path) == path and PurePosixPath(path).is_relative_to("/data") and path != "/data"
        assert all(0 < len(part.encode()) <= LONGEST for part in Path(path).parts[1:])
        assert not Path(path).name.startswith(".")
