"""The reader that goes entry by entry accepts and refuses what json does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.core.errors import InputError
from pretrain.datasets.readers.json_lists import load

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
ENTRIES = st.lists(st.dictionaries(st.sampled_from("abc"), VALUES) | VALUES, max_size=4)
DOCUMENTS = st.dictionaries(
    st.sampled_from(["images", "annotations", "other", "ünï"]), ENTRIES | VALUES, max_size=4
)
WANTED = {"images": ("a", "b"), "annotations": ()}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("json") / "x.json"


def reduced(document: dict) -> dict:
    """What should be left of a document."""
    found = {}
    for key, value in document.items():
        if not isinstance(value, list):
            found[key] = value
        elif key not in WANTED:
            found[key] = []
        else:
            found[key] = [
                {k: e[k] for k in WANTED[key] if k in e} if isinstance(e, dict) else e
                for e in value
            ]
    return found


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS, st.sampled_from([None, 1]), st.sampled_from(["", "\n\t "]))
def test_sound_documents(file, document, indent, space):
    text = space + json.dumps(document, indent=indent, ensure_ascii=False) + space
    file.write_text(text, encoding="utf-8")
    found, stat, _ = load(file, "test file", WANTED)
    assert stat.st_size == file.stat().st_size
    assert repr(found) == repr(reduced(json.loads(text)))  # NaN is no NaN's equal


@settings(max_examples=150, deadline=None)
@given(DOCUMENTS, st.data())
def test_damaged_documents_are_refused_where_json_refuses_them(file, document, data):
    text = json.dumps(document)
    at = data.draw(st.integers(0, len(text)))
    kind = data.draw(st.sampled_from(["cut", "remove", "insert"]))
    junk = data.draw(st.sampled_from(list('{}[],:"0x\\ ')))
    text = {
        "cut": text[:at],
        "remove": text[:at] + text[at + 1 :],
        "insert": text[:at] + junk + text[at:],
    }[kind]
    file.write_text(text, encoding="utf-8")
    try:
        expected = json.loads(text)
    except json.JSONDecodeError as error:
        with pytest.raises(InputError) as caught:
            load(file, "test file", WANTED)
        # Which comma or bracket is to blame is told differently by different versions of Python.
        assert f"{file}: not valid JSON at line {error.lineno}, column " in str(caught.value)
        return
    try:
        found, _, _ = load(file, "test file", WANTED)
    except InputError as error:
        assert "is there twice" in str(error) or "outermost value" in str(error)
    else:
        assert repr(found) == repr(reduced(expected))
