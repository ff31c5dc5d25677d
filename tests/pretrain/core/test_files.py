"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from pretrain.core.errors import InputError
from pretrain.core.files import new_folder, remove_unfinished, replacing, sha256, write_json


def test_a_failed_block_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("before")
    with pytest.raises(RuntimeError), replacing(file) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert file.read_text() == "before"
    with replacing(file, durable=True) as stream:
        stream.write(b"after")
        assert file.read_text() == "before"
    assert file.read_text() == "after"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a.txt.0123.tmp", "b.tmp", ".lock"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"b.tmp", ".lock"}


def test_a_folder_appears_whole_and_readable(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "set"
    with new_folder(folder) as made:
        (made / "a").touch()
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    with pytest.raises(InputError, match="set: cannot be written"), new_folder(folder):
        pass
    with pytest.raises(KeyError), new_folder(tmp_path / "other"):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["set"]


def test_digest(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1]}, indent=1)
    content = b'{\n "b": [\n  1\n ]\n}\n'
    assert sha256(tmp_path / "a.json") == hashlib.sha256(content).hexdigest()
    with pytest.raises(InputError, match=r"missing: cannot be read \(No such file"):
        sha256(tmp_path / "missing")
