"""MiniPlaces in both of its forms, drawn small: lists, XML files and photographs of one color."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hcl
from downstream.probe.samples import choose_samples, source
from pretrain.core.errors import InputError
from pretrain.data.index import Index
from pretrain.datasets.miniplaces.layout import find_layout
from pretrain.datasets.miniplaces.object_files import read_outlines

SCENES = ("/a/abbey", "/b/bakery/shop", "/y/yard")
OBJECTS = ("bench", "door", "tree")

XML = """<filename>93353149.jpg</filename>
<folder>{scene}</folder>
<class>0</class>
<objects>
\t<class>2</class>
\t<polygon>
\t\t<pt><x>3</x><y>2</y></pt><pt><x>12</x><y>2</y></pt>
\t\t<pt><x>12</x><y>9</y></pt><pt><x>3</x><y>9</y></pt>
\t</polygon>
\t<bndbox><xmin>3</xmin><xmax>12</xmax><ymin>2</ymin><ymax>9</ymax></bndbox>
</objects>
<objects>
\t<class>0</class>
\t<polygon><pt><x>1</x><y>1</y></pt><pt><x>2</x><y>1</y></pt></polygon>
\t<bndbox><xmin>1</xmin><xmax>2</xmax><ymin>1</ymin><ymax>1</ymax></bndbox>
</objects>
"""


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (40, 90, 160)).save(path)


def train_names() -> list[tuple[str, int]]:
    return [(f"train{s}/{n:08d}.jpg", c) for c, s in enumerate(SCENES) for n in (1, 2)]


def val_names() -> list[tuple[str, int]]:
    return [(f"val/{n:08d}.jpg", (n * 2) % 3) for n in range(1, 4)]


def write_lists(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, names in (("categories", SCENES), ("object_categories", OBJECTS)):
        lines = [f"{text} {number}\n" for number, text in enumerate(names)]
        (folder / f"{name}.txt").write_text("".join(lines))
    for split, names in (("train", train_names()), ("val", val_names())):
        (folder / f"{split}.txt").write_text("".join(f"{n} {c}\n" for n, c in names))


def write_images(folder: Path) -> None:
    for name, _ in (*train_names(), *val_names()):
        picture(folder / "images" / name)
    for name in ("train/b/bakery/shop/00000002.xml", "val/00000001.xml"):
        file = folder / "objects" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(XML.format(scene="/b/bakery/shop"))


@pytest.fixture
def kit(tmp_path) -> Path:
    """The development kit with its archive unpacked into its data folder."""
    write_lists(tmp_path / "kit/data")
    write_images(tmp_path / "kit/data")
    return tmp_path / "kit"


@pytest.fixture
def subset(tmp_path) -> Path:
    """Lists as tables, images beside them, the objects as COCO-form files."""
    root = tmp_path / "subset"
    root.mkdir()
    lines = [f"{text} {number}\n" for number, text in enumerate(SCENES)]
    (root / "scene_categories.txt").write_text("".join(lines))
    for split, names in (("train", train_names()), ("val", val_names())):
        rows = [f"{n}\t{c}\t{int(i != 0)}\t{int(i == 1)}\n" for i, (n, c) in enumerate(names)]
        (root / f"scenes_{split}.tsv").write_text(
            "file\tscene\tbalanced\tannotated\n" + "".join(rows)
        )
        for name, _ in names:
            picture(root / name)
        image = {"id": 7, "file_name": names[1][0], "width": 16, "height": 16}
        box = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 1, 10, 8], "iscrowd": 0}
        content = {
            "images": [image],
            "annotations": [box],
            "categories": [{"id": 3, "name": "tree"}],
        }
        (root / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def run(capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = hcl.main(["data", "prepare", "miniplaces", *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_the_published_form_becomes_four_indexes(kit, run):
    status, out, _ = run(kit)
    assert status == 0
    scenes = Index.open(kit / "index-scenes-train")
    assert scenes.categories == ("abbey", "bakery/shop", "yard")
    assert [scenes.file_name(row) for row in range(len(scenes))] == [n for n, _ in train_names()]
    assert np.array(scenes.boxes(0)).tolist() == [[0, 0, 16, 16]]
    assert [int(scenes.labels(row)[0]) for row in range(6)] == [0, 0, 1, 1, 2, 2]
    assert not (kit / "index-scenes-train-balanced").exists()
    objects = Index.open(kit / "index-objects-train")
    assert (len(objects), objects.categories) == (1, OBJECTS)
    assert np.array(objects.boxes(0)).tolist() == [[2, 1, 12, 9]]
    assert objects.categories[int(objects.labels(0)[0])] == "tree"
    document = json.loads((kit / "annotations/instances_val.json").read_text())
    (annotation,) = document["annotations"]
    assert annotation["segmentation"] == [[2.5, 1.5, 11.5, 1.5, 11.5, 8.5, 2.5, 8.5]]
    assert annotation["area"] == 63
    assert "warning: train: 6 images, the whole set has 100,000" in out
    assert "warning: val: 1 images with outlined objects, the whole set has 371" in out


def test_an_object_without_outline_and_a_missing_image_are_named(kit, run):
    (kit / "data/images/train/y/yard/00000001.jpg").unlink()
    (kit / "data/images/val/00000003.jpg").write_bytes(b"no image")
    status, out, _ = run(kit)
    assert status == 0
    assert "left out as missing or faulty: 4, named in" in out
    faults = dict(
        line.split("\t") for line in (kit / "annotations/faults.tsv").read_text().splitlines()
    )
    assert faults["train/y/yard/00000001.jpg"] == "no such file"
    assert "val/00000003.jpg" in faults
    assert "object 2: outlines of fewer than three points" in faults["val/00000001.jpg"]
    assert len(Index.open(kit / "index-scenes-train")) == 5


def test_a_second_call_changes_nothing(kit, run):
    run(kit)
    before = (kit / "index-objects-val/meta.json").stat().st_ino
    assert run(kit)[0] == 0
    assert (kit / "index-objects-val/meta.json").stat().st_ino == before


def test_lists_and_archive_may_lie_in_the_root(tmp_path, run):
    write_lists(tmp_path / "kit")
    write_images(tmp_path / "unpacked")
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as archive:
        for name in ("images", "objects"):
            archive.add(tmp_path / "unpacked" / name, name)
    status, out, _ = run(tmp_path / "kit", "--archive", tmp_path / "data.tar.gz")
    assert status == 0
    assert "data.tar.gz: 11 files written" in out
    assert len(Index.open(tmp_path / "kit/index-objects-train")) == 1


def test_a_subset_keeps_its_objects_and_its_balanced_part(subset, run):
    status, out, _ = run(subset)
    assert status == 0
    assert len(Index.open(subset / "index-scenes-train")) == 6
    balanced = Index.open(subset / "index-scenes-train-balanced")
    assert [balanced.file_name(row) for row in range(5)] == [n for n, _ in train_names()[1:]]
    assert Index.open(subset / "index-objects-val").box_count == 1
    assert "warning: train: 6 images, the whole set has 100,000" in out


def test_the_scenes_are_labels_for_a_probe(kit, run):
    run(kit)
    train, val = (
        source([kit / f"index-scenes-{split}"], "error", f"--{split}") for split in ("train", "val")
    )
    bank, queries = choose_samples(train, val, "image", 100)
    assert bank.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert queries.targets.tolist() == [2, 1, 0]


def test_what_is_no_miniplaces_is_refused_with_the_remedy(kit, tmp_path, run):
    for root in (tmp_path / "nothing", tmp_path):
        status, _, error = run(root)
        assert (status, "no lists of MiniPlaces" in error) == (2, True)
    (kit / "data/categories.txt").write_text("/a/abbey 0\n/b/bakery/shop 1\n")
    with pytest.raises(InputError, match=r"train.txt: line 5: 2: expected the number of a scene"):
        find_layout(kit)
    (kit / "data/categories.txt").write_text("/a/abbey 1\n")
    with pytest.raises(InputError, match="line 1: expected NAME 0"):
        find_layout(kit)
    shutil.rmtree(kit / "data/images")
    with pytest.raises(InputError, match=r"images/train: not there; .*data.tar.gz"):
        find_layout(kit)


def test_a_list_of_paths_outside_or_twice_is_refused(kit):
    good = (kit / "data/val.txt").read_text()
    (kit / "data/val.txt").write_text(good + "../up.jpg 0\n")
    with pytest.raises(InputError, match=r"line 4: .*not a file below the images"):
        find_layout(kit)
    (kit / "data/val.txt").write_text(good + good)
    with pytest.raises(InputError, match=r"val/00000001.jpg is listed twice"):
        find_layout(kit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<class>2</class>", "<class>3</class>"), "object 1: <class> is '3'"),
        (("<xmin>3</xmin>", ""), "without its numbers"),
        (("</objects>", ""), "not valid XML"),
        (("<filename>", '<!ENTITY a "a"><filename>'), "holds a declaration"),
    ],
)
def test_faulty_xml_is_refused_by_name(tmp_path, change, message):
    file = tmp_path / "00000001.xml"
    file.write_text(XML.replace(*change, 1))
    with pytest.raises(InputError, match=rf"00000001.xml: .*{message}"):
        read_outlines(file, len(OBJECTS))
