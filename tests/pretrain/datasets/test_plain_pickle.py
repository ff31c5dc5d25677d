from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.core.errors import InputError
from pretrain.datasets.readers import ohms
from pretrain.datasets.readers.plain_pickle import load_dictionary, plain

ROW = ["a", "xclick", "/m/1", "1", "0.1", "0.9", "0.2", "0.8", "0", "0", "1", "0", "0"]


def save(file: Path, content: bytes, shape: str = "()") -> Path:
    """An .npy file of one object with this pickle."""
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(117) + "\n"
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with file.open("ab") as opened:
        opened.write(content)
    return file


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_containers_text_numbers_and_arrays(tmp_path):
    content = {
        "text": ["a", ("b", None, True)],
        "numbers": np.array([1, 2, 3], ">i4"),
        "words": np.array(["x", "yz"]),
        "objects": np.array(["x", 2.5, [3]], object),
        "scalar": np.float64(2.5),
        "bytes": b"\x00\xff",
    }
    np.save(tmp_path / "a.npy", content, allow_pickle=True)
    found = load_dictionary(tmp_path / "a.npy", "x")
    assert found["text"] == ["a", ("b", None, True)]
    assert plain(found["numbers"]) == [1, 2, 3]
    assert plain(found["words"]) == ["x", "yz"]
    assert plain(found["objects"]) == ["x", 2.5, [3]]
    assert found["scalar"] == 2.5
    assert found["bytes"] == b"\x00\xff"


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {0}",), "posix.system"),
        (eval, ("open('{0}', 'w')",), ".eval"),
        (open, ("{0}", "w"), "io.open"),
        (getattr, (list, "append"), ".getattr"),
        (os.mkdir, ("{0}",), "posix.mkdir"),
        (np.fromfile, ("{0}",), "numpy"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_is_called(tmp_path, function, arguments, name, protocol):
    mark = tmp_path / "mark"
    arguments = tuple(a.format(mark) if isinstance(a, str) else a for a in arguments)
    content = pickle.dumps({"a": Evil(function, *arguments)}, protocol)
    file = save(tmp_path / "evil.npy", content)
    with pytest.raises(InputError) as caught:
        load_dictionary(file, "data.annotations")
    message = str(caught.value)
    assert message.startswith(f"{file}: refused, as it may run code or is damaged: it asks for ")
    assert name in message
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nndarray\n(I9999999999999999\ntR.",  # not called by numpy, and no memory is taken
        b"cnumpy\ndtype\n(VV8\ntR.",
        b"cnumpy\ndtype\n(S'O8'\ntR(I3\nVx\ntb.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I5\nt"
        b"cnumpy\ndtype\n(VU4\ntRI00\nS'short'\ntb.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt"
        b"cnumpy\ndtype\n(VU1\ntRI00\nc_codecs\nencode\n(V\xff\xff\xff\xff\nVlatin1\ntRtb.",
        b"cx\x85y\nz\n.",  # a name in several lines, to some
        b"c_codecs\nencode\n(Vrot\nVrot13\ntR.",
        b"P1\n.",  # a persistent id
        b"",
        b"\x80\x04",
        b"}.garbage that is not read",
        b"].",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00.",  # bytes of a length nobody has
    ],
)
def test_damaged_and_strange_pickles_are_refused_or_plain(tmp_path, content):
    file = save(tmp_path / "odd.npy", content)
    try:
        assert load_dictionary(file, "data.annotations") == {}
    except InputError as error:
        assert str(error).startswith(f"{file}: ")
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"", "not a file of numpy's"), (b"PK\x03\x04", "not a file of numpy's")],
)
def test_not_numpys(tmp_path, content, part):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InputError, match=part):
        load_dictionary(tmp_path / "x.npy", "x")


def test_an_array_and_a_missing_file(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"holds an array of float64 \(3,\), not a dictionary"):
        load_dictionary(tmp_path / "x.npy", "x")
    with pytest.raises(InputError, match=r"gone\.npy: cannot read the file \(No such file"):
        load_dictionary(tmp_path / "gone.npy", "x")


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "images/a.jpg")
    return tmp_path / "images"


def read(tmp_path, images, content, **options):
    np.save(tmp_path / "all.npy", content, allow_pickle=True)
    return ohms.stream(tmp_path / "all.npy", images, **options).read()


def test_group_boxes_are_flagged_and_left_out(tmp_path, images):
    report = read(tmp_path, images, {"a": {"data": [ROW, [*ROW[:10], "0", "0", "0"], ROW[:8]]}})
    assert report.dropped["group"] == 1
    assert report.box_count == 2
    np.testing.assert_allclose(report.records[0].boxes[0], [4, 4, 36, 16], rtol=1e-6)
    assert report.categories == ("/m/1",)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"a": {"rows": []}}, "image a: no list 'data'"),
        ({"a": [ROW]}, "image a: no list 'data'"),
        ({"a": {"data": [ROW[:5]]}}, "image a: row 0: not a line of OpenImages' box file"),
        ({"a": {"data": [[*ROW[:4], "wide", *ROW[5:]]]}}, "image a: row 0: could not convert"),
        ({7: {"data": []}}, "the key 7 is not an ImageID"),
    ],
)
def test_dictionaries_of_another_form(tmp_path, images, content, part):
    with pytest.raises(InputError, match=r"all\.npy") as caught:
        read(tmp_path, images, content)
    assert part in str(caught.value)


def test_a_split_that_asks_for_more(tmp_path, images):
    np.save(tmp_path / "chosen.npy", {"a": [], "b": []}, allow_pickle=True)
    with pytest.raises(InputError, match="image b: no list 'data' of boxes"):
        read(tmp_path, images, {"a": {"data": [ROW]}}, split=tmp_path / "chosen.npy")
