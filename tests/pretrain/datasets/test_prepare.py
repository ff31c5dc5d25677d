from __future__ import annotations

import http.server
import json
import shutil
import tarfile
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from data_formats import Document, openimages_rows, write_lvis, write_openimages, write_voc

import hcl
from pretrain.data.index import Index
from pretrain.datasets.download import Remote
from pretrain.datasets.releases import RELEASES, Release


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def run(capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = hcl.main(["data", "prepare", *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def zipped(archive: Path, folder: Path, *names: str, below: str = "") -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as opened:
        for name in names:
            for file in sorted((folder / name).rglob("*")):
                inside = file.relative_to(folder).as_posix()
                opened.write(file, inside.replace(name, below, 1) if below else inside)
    return archive


@pytest.fixture
def coco_archives(scenes, tmp_path):
    """As the release has them: annotations/instances_train2017.json and train2017/*.jpg."""
    folder = tmp_path / "source"
    (folder / "annotations").mkdir(parents=True)
    shutil.copy(
        scenes / "annotations/instances_train.json", folder / "annotations/instances_train2017.json"
    )
    shutil.copytree(scenes / "train", folder / "train2017")
    return (
        zipped(tmp_path / "local/annotations_trainval2017.zip", folder, "annotations"),
        zipped(tmp_path / "local/train2017.zip", folder, "train2017"),
    )


def test_coco_from_archives(coco_archives, tmp_path, run):
    root = tmp_path / "coco"
    status, out, _ = run("coco", root, "--archive", *coco_archives)
    assert status == 0
    assert "train2017.zip: 48 files written, 0 there" in out
    assert f"reader: index\n  index: {root}/index-train2017" in out
    index = Index.open(root / "index-train2017")
    assert len(index) == 48
    assert index.path(0).is_file()
    inode = (index.folder / "meta.json").stat().st_ino
    status, out, _ = run("coco", root, "--archive", *coco_archives)
    assert status == 0
    assert "train2017.zip: unpacked before" in out
    assert (index.folder / "meta.json").stat().st_ino == inode
    config = ["pretrain", "quickstart", "data.reader=index", f"data.index={index.folder}"]
    assert "--help" not in config  # the two lines said are what a run's settings take


def test_archives_below_the_root_are_found(coco_archives, tmp_path, run):
    root = tmp_path / "coco"
    (root / "downloads").mkdir(parents=True)
    shutil.copy(coco_archives[0], root / "downloads")
    shutil.copy(coco_archives[1], root)
    assert run("coco", root)[0] == 0


def test_what_is_missing_is_said_with_the_archives_to_get(tmp_path, run):
    status, _, error = run("coco", tmp_path / "coco")
    assert status == 2
    assert "coco/annotations/instances_train2017.json: not there" in error
    assert "annotations_trainval2017.zip, train2017.zip" in error
    assert "--download" in error
    status, _, error = run("coco", tmp_path, "--archive", tmp_path / "gone.zip")
    assert (status, "gone.zip: no such archive" in error) == (2, True)
    status, _, error = run("folder", tmp_path, "--archive", __file__)
    assert (status, "not a zip or tar archive by its name" in error) == (2, True)


def test_refused_members_are_named(coco_archives, tmp_path, run):
    with zipfile.ZipFile(coco_archives[0], "a") as archive:
        archive.writestr("../evil.txt", "x")
    status, out, _ = run("coco", tmp_path / "coco", "--archive", *coco_archives)
    assert status == 0
    assert "refused: '../evil.txt': a path with '..'" in out
    assert not (tmp_path / "evil.txt").exists()


def test_own_files_and_faulty_boxes(scenes, tmp_path, run):
    content = json.loads((scenes / "annotations/instances_train.json").read_text())
    content["annotations"][0]["bbox"][2] = 0
    (tmp_path / "mine.json").write_text(json.dumps(content))
    files = ["--annotations", tmp_path / "mine.json", "--images", scenes / "train"]
    status, out, _ = run("coco", tmp_path / "root", *files)
    assert status == 0
    assert "1 without area" in out
    dropped = tmp_path / "root/index-coco/dropped.tsv"
    assert str(dropped) in out
    first = content["annotations"][0]["id"]
    assert dropped.read_text().startswith("without area\t")
    assert f"annotation {first} (" in dropped.read_text()
    status, _, error = run("coco", tmp_path / "b", *files, "--on-bad-box", "error")
    assert status == 2
    assert "boxes without area" in error


def test_openimages(scenes, tmp_path, run):
    document = Document(scenes / "annotations/instances_train.json")
    root = tmp_path / "oi"
    boxes, classes = write_openimages(document, root / "annotations")
    boxes.rename(root / "annotations/oidv6-train-annotations-bbox.csv")
    classes.rename(root / "annotations/oidv7-class-descriptions-boxable.csv")
    (root / "downloads").mkdir()
    with tarfile.open(root / "downloads/train_0.tar.gz", "w:gz") as archive:
        for file in sorted((scenes / "train").iterdir()):
            archive.add(file, f"train_0/{file.name}")
    status, out, _ = run("openimages", root)
    assert status == 0
    assert "train_0.tar.gz: 48 files written" in out
    index = Index.open(root / "index-train")
    assert index.file_name(0).startswith("train_0/")
    assert index.path(0) == root / "images" / index.file_name(0)
    assert len(index) == 48
    chosen = tmp_path / "ids.txt"
    chosen.write_text("".join(f"{index.path(row).stem}\n" for row in range(5)))
    status, _, _ = run("openimages", root, "--split", chosen, "--output", tmp_path / "five")
    assert len(Index.open(tmp_path / "five")) == 5


def test_official_dictionaries(scenes, tmp_path, run):
    features: dict = {}
    for row in openimages_rows(Document(scenes / "annotations/instances_train.json"), 6):
        features.setdefault(row[0], {"data": []})["data"].append(row)
    np.save(tmp_path / "all.npy", features, allow_pickle=True)
    files = ["--annotations", tmp_path / "all.npy", "--images", scenes / "train"]
    assert run("ohms", tmp_path / "ohms", *files)[0] == 0
    index = Index.open(tmp_path / "ohms/index-ohms")
    assert (len(index), index.box_count) == (48, sum(len(e["data"]) for e in features.values()))


def test_voc_lvis_and_folder(scenes, tmp_path, run):
    document = Document(scenes / "annotations/instances_train.json")
    root = tmp_path / "voc"
    write_voc(document, scenes / "train", root / "VOCdevkit/VOC2012", "trainval")
    assert run("voc", root)[0] == 0
    voc = Index.open(root / "index-2012-trainval")
    write_lvis(document, tmp_path / "lvis.json", "train")
    files = ["--annotations", tmp_path / "lvis.json", "--images", scenes]
    assert run("lvis", tmp_path / "lvis", *files)[0] == 0
    lvis = Index.open(tmp_path / "lvis/index-lvis")
    assert lvis.box_count == voc.box_count > 100
    shutil.copytree(scenes / "train", tmp_path / "photos/shelf")
    assert run("folder", tmp_path / "photos", "--class-folders")[0] == 0
    photos = Index.open(tmp_path / "photos-index")
    assert (photos.categories, photos.box_count) == (("shelf",), 48)


@pytest.fixture
def server(coco_archives):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Quiet, directory=str(coco_archives[0].parent))
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    thread.join()
    made.server_close()


def test_download_unpack_index(server, coco_archives, tmp_path, run, monkeypatch):
    files = tuple(Remote(f"{server}/{file.name}", file.stat().st_size) for file in coco_archives)
    release = Release(files, "annotations/instances_train2017.json", "train2017")
    monkeypatch.setitem(RELEASES["coco"], "train2017", release)
    status, out, _ = run("coco", tmp_path / "coco", "--download")
    assert status == 0
    assert "no published checksum, size alone is checked: annotations_trainval2017.zip" in out
    assert len(Index.open(tmp_path / "coco/index-train2017")) == 48
    wrong = Release((Remote(files[0].url, md5="0" * 32),), "x", "y")
    monkeypatch.setitem(RELEASES["coco"], "train2017", wrong)
    status, _, error = run("coco", tmp_path / "again", "--download")
    assert status == 2
    assert "checksum (md5)" in error


def test_help_and_misuse(run):
    for arguments in (["--help"], ["coco", "--help"]):
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
        assert stop.value.code == 0
    assert run("kitti", "x")[0] == 2
    for arguments in (["coco"], ["folder", "x", "--download"]):
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
        assert stop.value.code == 2


def test_subcommands_of_data(capsys):
    for arguments, status in ((["--help"], 0), ([], 2)):
        with pytest.raises(SystemExit) as stop:
            hcl.main(["data", *arguments])
        assert stop.value.code == status
    said = capsys.readouterr().out
    for name in ("prepare", "check", "stats", "select", "scenes"):
        assert f"  {name}" in said
    assert hcl.main(["data", "chek"]) == 2
    assert "did you mean 'check'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "remote",
    [file for splits in RELEASES.values() for r in splits.values() for file in r.files],
    ids=lambda remote: remote.name,
)
def test_the_table_of_releases_is_well_formed(remote):
    assert remote.url.startswith(("http://", "https://"))
    assert remote.md5 == "" or (len(remote.md5) == 32 and int(remote.md5, 16))
    assert remote.size is None or remote.size > 10**6


def test_scenes_are_made_here_too(tmp_path, run):
    status, out, _ = run("scenes", tmp_path / "set", "--images", 2, "--size", 64)
    assert status == 0
    assert "2 training and 0 validation scenes" in out
