from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from pretrain.core.errors import InputError
from pretrain.datasets import archives
from pretrain.datasets.archives import unpack

FILES = {"train/a.jpg": b"a" * 5000, "train/b.jpg": b"bb" * 3000, "notes/readme.txt": b"hello"}
KINDS = ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz"]


def write(archive: Path, files: dict[str, bytes] | None = None) -> Path:
    files = FILES if files is None else files
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in files.items():
                opened.writestr(zipfile.ZipInfo(name), content)
        return archive
    mode = {".tar": "w", ".tgz": "w:gz"}.get(archive.suffix, f"w:{archive.suffix[1:]}")
    with tarfile.open(archive, mode) as opened:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return archive


def held(folder: Path) -> dict[str, bytes]:
    """All files below a folder, without the program's own notes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and archives.DONE not in path.parts
    }


@pytest.mark.parametrize("name", KINDS)
def test_unpacks_once(tmp_path, name):
    archive, out = write(tmp_path / name), tmp_path / "deep/out"
    seen: list[int] = []
    first = unpack(archive, out, seen.append)
    assert (first.written, first.present, first.skipped, first.before) == (3, 0, [], False)
    assert seen == [1, 2, 3]
    assert held(out) == FILES
    (out / "train/a.jpg").unlink()  # the note counts: the archive is not read again
    assert unpack(archive, out).before
    write(archive, {**FILES, "more.txt": b"more"})
    again = unpack(archive, out)
    assert (again.written, again.present, again.before) == (2, 2, False)
    assert held(out) == {**FILES, "more.txt": b"more"}


@pytest.mark.parametrize("name", KINDS)
def test_continues_after_an_interruption(tmp_path, name, monkeypatch):
    archive, out = write(tmp_path / name), tmp_path / "out"
    copy = archives.shutil.copyfileobj
    calls = []

    def interrupted(source, sink, length):
        calls.append(1)
        if len(calls) == 2:
            sink.write(b"half")
            raise KeyboardInterrupt
        copy(source, sink, length)

    monkeypatch.setattr(archives.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, out)
    assert held(out) == {"train/a.jpg": FILES["train/a.jpg"]}
    result = unpack(archive, out)
    assert (result.written, result.present) == (2, 1)
    assert held(out) == FILES


BAD_NAMES = {
    "../outside.txt": "a path with '..'",
    "train/../../outside.txt": "a path with '..'",
    "/tmp/hcl-absolute.txt": "an absolute path",
    "C:/windows.txt": "an absolute path",
    "a\\..\\b.txt": "a name with a backslash",
    ".unpacked/x.json": "a name this program keeps for itself",
}


@pytest.mark.parametrize("name", ["x.zip", "x.tar"])
def test_members_that_would_leave_the_folder_are_refused_and_named(tmp_path, name):
    inside = tmp_path / "a/b/out"
    archive = write(tmp_path / name, {**dict.fromkeys(BAD_NAMES, b"bad"), **FILES})
    before = set(tmp_path.rglob("*"))
    result = unpack(archive, inside)
    assert dict(result.skipped) == BAD_NAMES
    assert held(inside) == FILES
    outside = {path for path in tmp_path.rglob("*") if inside not in path.parents} - before
    assert outside == {tmp_path / "a", tmp_path / "a/b", inside}
    assert not Path("/tmp/hcl-absolute.txt").exists()
    # Not noted as complete, so that the refusals are told again.
    assert unpack(archive, inside).present == 3


@pytest.mark.parametrize("kind", ["symbolic", "hard", "fifo", "device"])
def test_links_and_devices_in_a_tar(tmp_path, kind):
    (tmp_path / "secret").write_text("secret")
    types = {
        "symbolic": tarfile.SYMTYPE,
        "hard": tarfile.LNKTYPE,
        "fifo": tarfile.FIFOTYPE,
        "device": tarfile.CHRTYPE,
    }
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("door")
        info.type, info.linkname = types[kind], "../secret"
        archive.addfile(info)
        through = tarfile.TarInfo("door/through.txt")
        through.size = 3
        archive.addfile(through, io.BytesIO(b"bad"))
    result = unpack(tmp_path / "x.tar", tmp_path / "out")
    reason = "a link" if kind in ("symbolic", "hard") else "a device or pipe"
    assert result.skipped == [("door", reason)]
    assert held(tmp_path / "out") == {"door/through.txt": b"bad"}
    assert not (tmp_path / "out/door").is_symlink()
    assert (tmp_path / "secret").read_text() == "secret"


def test_link_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("door")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc")
    result = unpack(tmp_path / "x.zip", tmp_path / "out")
    assert result.skipped == [("door", "a link")]
    assert held(tmp_path / "out") == {}


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.xz", "x.tar.bz2"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_truncated_archives_name_themselves_and_keep_what_is_done(tmp_path, name, share):
    archive = write(tmp_path / name, {f"{n}.bin": bytes([n]) * 40 for n in range(50)})
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError) as caught:
        unpack(archive, tmp_path / "out")
    assert str(caught.value).startswith(f"{archive}: damaged or incomplete archive after ")
    assert all(
        content == bytes([int(n[:-4])]) * 40 for n, content in held(tmp_path / "out").items()
    )


def test_damaged_member_of_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("good.txt", b"good")
        archive.writestr("bad.txt", b"precious")
    content = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(content.replace(b"precious", b"worthles", 1))
    with pytest.raises(InputError, match=r"after 1 files \(Bad CRC-32 for file 'bad\.txt'\)"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    assert held(tmp_path / "out") == {"good.txt": b"good"}


def test_missing_archive_and_a_file_in_the_way(tmp_path):
    with pytest.raises(InputError, match=r"x\.zip: cannot read the archive \(No such file"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    write(tmp_path / "x.zip")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/train").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot unpack .*x\.zip \(.*the next call continues"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    assert (tmp_path / "out/train").read_text() == "in the way"


def test_the_remains_of_a_killed_call_are_replaced(tmp_path):
    archive, out = write(tmp_path / "x.zip"), tmp_path / "out"
    (out / "train").mkdir(parents=True)
    (out / "train" / f"{archives.PARTIAL}x.zip").write_bytes(b"half a file")
    (out / "train/a.jpg").write_bytes(b"cut off by something else")
    assert unpack(archive, out).written == 3
    assert held(out) == FILES
