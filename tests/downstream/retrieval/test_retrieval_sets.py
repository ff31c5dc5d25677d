"""Readers of the sets of metric learning on miniatures with the real layout."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import hcl
from downstream.retrieval.datasets import (
    DataSettings,
    cars,
    class_folders,
    dataset_specs,
    grocery,
    open_images,
)
from downstream.retrieval.datasets.prepare import prepare
from pretrain.core.errors import InputError
from pretrain.core.settings import parse


def picture(path: Path, color=(200, 30, 30), mode="RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), color).convert(mode).save(path)


@pytest.fixture
def cub_folder(tmp_path) -> Path:
    base = tmp_path / "CUB_200_2011"
    for number in range(1, 201):
        images = base / "images" / f"{number:03d}.Bird_{(number * 7) % 13}"
        for n in (1, 2):
            (images / f"Bird_{n:04d}.jpg").parent.mkdir(parents=True, exist_ok=True)
            (images / f"Bird_{n:04d}.jpg").write_bytes(b"")
    first = base / "images" / "001.Bird_7"
    (first / "._Bird_0001.jpg").write_bytes(b"mac")
    (base / "images" / "._001.Bird_7").write_bytes(b"mac")
    (base / "images.txt").write_text("1 001.Bird_7/Bird_0001.jpg\n")
    return base


@pytest.mark.parametrize("inside", [True, False], ids=["root is the set", "root is above"])
def test_cub_splits_by_folder_and_skips_resource_forks(cub_folder, inside):
    found = dataset_specs.read_cub(cub_folder if inside else cub_folder.parent)
    assert found.counts() == {"train": (200, 100), "test": (200, 100)}
    assert found.root == cub_folder
    assert found.paths[:2] == (
        "images/001.Bird_7/Bird_0001.jpg",
        "images/001.Bird_7/Bird_0002.jpg",
    )
    train = {found.classes[n] for n in found.labels[found.rows("train")]}
    assert train == {name for name in found.classes if int(name[:3]) <= 100}


def test_cub_missing_and_incomplete(cub_folder, tmp_path):
    with pytest.raises(InputError, match=r"CUB_200_2011/images: not there; .*tgz"):
        dataset_specs.read_cub(tmp_path / "nothing")
    for name in (cub_folder / "images" / "200.Bird_9").iterdir():
        name.unlink()
    (cub_folder / "images" / "200.Bird_9").rmdir()
    with pytest.raises(InputError, match="199 classes"):
        dataset_specs.read_cub(cub_folder)


def joint_layout(root: Path, extra: Path | None = None) -> None:
    """car_ims with cars_annos.mat, as the first release has it."""
    kind = [(n, object) for n in ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")]
    records = np.zeros((1, 392), dtype=[*kind, ("class", object), ("test", object)])
    for n in range(392):
        # Class and official part are not in the order of the files.
        record = (f"car_ims/{n + 1:06d}.jpg", 1, 1, 9, 9, (n * 5) % 196 + 1, n % 2)
        records[0, n] = record
        picture(root / record[0])
    savemat(root / "cars_annos.mat", {"annotations": records})


def two_lists(root: Path, devkit: bool) -> None:
    """cars_train and cars_test with a list each."""
    kind = [(n, object) for n in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    lists = root / "devkit" if devkit else root
    lists.mkdir(parents=True, exist_ok=True)
    for part, name in (("train", cars.TRAIN_LIST), ("test", cars.TEST_LIST)):
        records = np.zeros((1, 196), dtype=kind)
        for n in range(196):
            records[0, n] = (1, 1, 9, 9, (n * 3) % 196 + 1, f"{n + 1:05d}.jpg")
            picture(root / f"cars_{part}" / f"{n + 1:05d}.jpg")
        savemat(lists / name, {"annotations": records})


def test_cars_first_layout_ignores_the_official_parts(tmp_path):
    joint_layout(tmp_path / "cars196")
    found = cars.read(tmp_path)
    assert found.counts() == {"train": (196, 98), "test": (196, 98)}
    assert found.classes == tuple(f"{n:03d}" for n in range(1, 197))
    row = found.paths.index("car_ims/000002.jpg")
    assert (found.classes[found.labels[row]], found.splits[row]) == ("006", "train")
    found.check_files("")


@pytest.mark.parametrize("devkit", [True, False])
def test_cars_second_layout(tmp_path, devkit):
    two_lists(tmp_path, devkit)
    found = cars.read(tmp_path)
    assert found.counts() == {"train": (196, 98), "test": (196, 98)}
    both = [p for p in found.paths if p.endswith("00001.jpg")]
    assert sorted(both) == ["cars_test/00001.jpg", "cars_train/00001.jpg"]
    found.check_files("")


def test_cars_test_list_without_labels_and_damage(tmp_path):
    two_lists(tmp_path, devkit=True)
    (tmp_path / "devkit" / cars.TEST_LIST).rename(tmp_path / "devkit/cars_test_annos.mat")
    with pytest.raises(InputError, match=r"withlabels.mat: not there; .* holds no classes"):
        cars.read(tmp_path)
    kind = [("bbox_x1", object), ("fname", object)]
    savemat(tmp_path / cars.TEST_LIST, {"annotations": np.full((1, 2), 1, dtype=kind)})
    with pytest.raises(InputError, match="no 'class'"):
        cars.read(tmp_path)
    (tmp_path / cars.TEST_LIST).write_bytes(b"not a file of MATLAB's")
    with pytest.raises(InputError, match="not a readable MATLAB file"):
        cars.read(tmp_path)
    with pytest.raises(InputError, match=r"cars_annos.mat: not there; unpack car_ims.tgz"):
        cars.read(tmp_path / "elsewhere")


SOP_HEADER = "image_id class_id super_class_id path"


@pytest.fixture
def sop_folder(tmp_path) -> Path:
    base = tmp_path / "Stanford_Online_Products"
    rows = [(1, 1, "bicycle_final/1_0.JPG"), (2, 1, "bicycle_final/1_1.JPG"), (3, 2, "mug/2_0.JPG")]
    rest = [(4, 11319, "lamp_final/3_0.JPG"), (5, 11319, "lamp_final/3_1.JPG")]
    for name, lines in (("Ebay_train.txt", rows), ("Ebay_test.txt", rest)):
        base.mkdir(exist_ok=True)
        text = "\n".join(f"{image} {label} 1 {path}" for image, label, path in lines)
        (base / name).write_text(f"{SOP_HEADER}\n{text}\n")
        for _, _, path in lines:
            picture(base / path)
    return base


def test_sop(sop_folder):
    found = dataset_specs.read_sop(sop_folder.parent)
    assert found.counts() == {"train": (3, 2), "test": (2, 1)}
    assert found.classes == ("1", "2", "11319")
    assert found.paths[3] == "lamp_final/3_0.JPG"


def test_sop_faults(sop_folder):
    test = sop_folder / "Ebay_test.txt"
    test.write_text(f"{SOP_HEADER}\n1 2 3\n")
    with pytest.raises(InputError, match=r"Ebay_test.txt: line 2 has 3 columns"):
        dataset_specs.read_sop(sop_folder)
    test.write_text("4 11319 1 lamp_final/3_0.JPG\n")
    with pytest.raises(InputError, match="line 1 should be 'image_id"):
        dataset_specs.read_sop(sop_folder)
    test.unlink()
    with pytest.raises(InputError, match=r"Ebay_test.txt: not there; unpack"):
        dataset_specs.read_sop(sop_folder)


INSHOP = [
    ("img/WOMEN/Dresses/id_00000002/02_1_front.jpg", "id_00000002", "train"),
    ("img/WOMEN/Dresses/id_00000002/02_2_side.jpg", "id_00000002", "train"),
    ("img/MEN/Denim/id_00000080/01_1_front.jpg", "id_00000080", "query"),
    ("img/MEN/Denim/id_00000080/01_2_side.jpg", "id_00000080", "gallery"),
]


def inshop_list(file: Path, rows=INSHOP, count: int | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(f"{path:<70}{item}   {status}" for path, item, status in rows)
    count = len(rows) if count is None else count
    file.write_text(f"{count}\nimage_name item_id evaluation_status\n{lines}\n")


@pytest.mark.parametrize("below", ["Img", ""])
def test_inshop_query_and_gallery_share_labels(tmp_path, below):
    inshop_list(tmp_path / "Inshop_Clothes/Eval/list_eval_partition.txt")
    for path, _, _ in INSHOP:
        picture(tmp_path / "Inshop_Clothes" / below / path)
    found = dataset_specs.read_inshop(tmp_path)
    assert found.counts() == {"train": (2, 1), "query": (1, 1), "gallery": (1, 1)}
    assert found.has_gallery
    assert found.classes == ("2", "80")
    assert found.labels[2] == found.labels[3]
    found.check_files("")


@pytest.mark.parametrize(
    ("rows", "count", "words"),
    [
        (INSHOP, 5, "line 1 says 5 images, 4 follow"),
        ([*INSHOP, ("a.jpg", "id_x", "train")], None, r"line 7: item 'id_x' does not end"),
        ([*INSHOP, ("a.jpg", "id_03", "test")], None, "'test' is not train, query or gallery"),
        ([*INSHOP, ("a b.jpg", "id_03", "train")], None, "line 7 has 4 columns"),
    ],
)
def test_inshop_faults(tmp_path, rows, count, words):
    inshop_list(tmp_path / "Eval/list_eval_partition.txt", rows, count)
    with pytest.raises(InputError, match=words):
        dataset_specs.read_inshop(tmp_path)
    with pytest.raises(InputError, match=r"Eval/list_eval_partition.txt: not there"):
        dataset_specs.read_inshop(tmp_path / "elsewhere")


def test_folder_halves_or_named_splits(tmp_path):
    for name in ("a", "b", "c"):
        picture(tmp_path / "plain" / name / "1.png", mode="L")
    (tmp_path / "plain/.cache").mkdir()
    (tmp_path / "plain/a/notes.txt").write_text("no image")
    found = class_folders.read(tmp_path / "plain")
    assert found.counts() == {"train": (1, 1), "test": (2, 2)}
    assert class_folders.read(tmp_path / "plain", 2).counts() == {"train": (2, 2), "test": (1, 1)}
    with pytest.raises(InputError, match="3 of its 3 classes to train on leaves nothing"):
        class_folders.read(tmp_path / "plain", 3)
    for split in ("train", "query", "gallery"):
        picture(tmp_path / "split" / split / "x" / "1.png")
    named = class_folders.read(tmp_path / "split")
    assert list(named.counts()) == ["train", "query", "gallery"]
    assert named.classes == ("x",)
    with pytest.raises(InputError, match="no such folder"):
        class_folders.read(tmp_path / "none")


@pytest.fixture
def coco_set(tmp_path) -> Path:
    picture(tmp_path / "images/1.jpg")
    document = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 12, "height": 10}],
        "categories": [
            {"id": 3, "name": "cup", "supercategory": "kitchen"},
            {"id": 5, "name": "fork", "supercategory": "kitchen"},
            {"id": 9, "name": "boat", "supercategory": "outdoor"},
        ],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": category, "bbox": box, "area": 9, "iscrowd": 0}
            for n, (category, box) in enumerate(
                [(3, [0, 0, 5, 5]), (5, [5, 5, 5, 5]), (9, [2, 2, 8, 8]), (9, [0, 0, 2, 2])], 1
            )
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    return tmp_path


@pytest.mark.parametrize(
    ("classes", "names"), [("fine", ("cup", "fork", "boat")), ("coarse", ("kitchen", "outdoor"))]
)
def test_crops_fine_and_coarse(coco_set, classes, names):
    values = {"name": "crops", "root": str(coco_set / "images"), "classes": classes}
    values |= {"annotations": str(coco_set / "instances.json"), "min_side": 3.0, "context": 0.2}
    found = open_images(parse(DataSettings, values, source="test"))
    assert len(found) == 3
    assert found.classes == names
    assert found.boxes is not None
    assert found.boxes.tolist() == [[0, 0, 6, 6], [4, 4, 11, 10], [0, 0, 12, 10]]
    assert found.sizes.tolist() == [[12, 10]] * 3
    assert set(found.splits[found.labels == len(names) - 1]) == {"test"}


def test_settings_that_contradict():
    for values, words in (
        ({"name": "crops", "root": "."}, "annotations"),
        ({"name": "cub", "root": ".", "train_classes": 3}, "fixed by the protocol"),
        ({"name": "cubs", "root": "."}, "cubs"),
    ):
        with pytest.raises(InputError, match=words):
            parse(DataSettings, values, source="test")


def test_fingerprint_follows_the_split(tmp_path):
    for name in ("a", "b", "c"):
        picture(tmp_path / name / "1.png")
    one, same, other = (
        class_folders.read(tmp_path),
        class_folders.read(tmp_path),
        class_folders.read(tmp_path, 2),
    )
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_prepare_unpacks_counts_and_says_what_to_do(sop_folder, tmp_path, capsys):
    archive = tmp_path / "Stanford_Online_Products.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(sop_folder.rglob("*")):
            file.write(path, path.relative_to(tmp_path))
        file.writestr("../outside.txt", "no")
    target = tmp_path / "prepared"
    command = ["data", "prepare", "sop", str(target), "--archive", str(archive)]
    assert hcl.main(command) == 2
    assert "train 3 images of 2 classes, not 59551 of 11318" in capsys.readouterr().err
    assert hcl.main([*command, "--partial"]) == 0
    printed = capsys.readouterr().out
    assert "not the whole set" in printed
    assert "refused: '../outside.txt'" in printed
    assert not (tmp_path / "outside.txt").exists()
    assert hcl.main(["data", "prepare", "sop", str(target), "--archive", "no.zip"]) == 2


def test_prepare_finds_archives_and_names_lost_images(tmp_path):
    source = tmp_path / "source"
    for path, _, _ in INSHOP:
        picture(source / path)
    (tmp_path / "set/downloads").mkdir(parents=True)
    with tarfile.open(tmp_path / "set/downloads/other.tgz", "w:gz") as file:
        file.add(source / "img", "img")
    with zipfile.ZipFile(tmp_path / "set/downloads/img.zip", "w") as file:
        for path, _, _ in INSHOP[:-1]:
            file.write(source / path, path)
    inshop_list(tmp_path / "set/Eval/list_eval_partition.txt")
    with pytest.raises(InputError, match=r"01_2_side.jpg: not there, as 1 of 4 images; put"):
        prepare("inshop", tmp_path / "set", partial=True)


GROCERY = (
    # fine, coarse, department
    ("Pink-Lady", "Apple", "Fruit"),
    ("Royal-Gala", "Apple", "Fruit"),
    ("Lime", "Lime", "Fruit"),
    ("Oat-Milk", "Milk", "Packages"),
    ("Soy-Milk", "Milk", "Packages"),
    ("Leek", "Leek", "Vegetables"),
)


@pytest.fixture(params=[", ", " "], ids=["commas", "spaces"])
def grocery_folder(request, tmp_path) -> Path:
    """Two photographs of each class in every list, as the repository lays them out."""
    base = tmp_path / "GroceryStoreDataset/dataset"
    columns = [*grocery.COLUMNS, "Iconic Image Path (str)", "Product Description Path (str)"]
    coarse = list(dict.fromkeys(c for _, c, _ in GROCERY))
    rows = [
        f"{fine},{n},{above},{coarse.index(above)},/x,/y"
        for n, (fine, above, _) in enumerate(GROCERY)
    ]
    base.mkdir(parents=True)
    (base / "classes.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
    for name in grocery.LISTS:
        lines = []
        for n, (fine, above, department) in enumerate(GROCERY):
            for k in (1, 2):
                path = f"{name[:-4]}/{department}/{above}/{fine}/{fine}_{k:03d}.jpg"
                picture(base / path)
                lines.append(request.param.join([path, str(n), str(coarse.index(above))]))
        (base / name).write_text("\n".join(lines) + "\n")
    return base


def test_grocery_divides_classes_and_no_coarse_class(grocery_folder):
    found = grocery.read(grocery_folder.parent)
    assert found.counts() == {"train": (18, 3), "query": (6, 3), "gallery": (12, 3)}
    assert found.classes == tuple(fine for fine, _, _ in GROCERY)
    assert found.groups == tuple(above for _, above, _ in GROCERY)
    train = {found.classes[label] for label in found.labels[found.rows("train")]}
    assert train == {"Pink-Lady", "Royal-Gala", "Lime"}
    lists = {
        split: {found.paths[row].split("/")[0] for row in found.rows(split)}
        for split in ("train", "query", "gallery")
    }
    assert lists == {
        "train": {"train", "val", "test"},
        "query": {"test"},
        "gallery": {"train", "val"},
    }


def test_grocery_coarse_labels_keep_the_division(grocery_folder):
    values = {"name": "grocery", "root": str(grocery_folder)}
    fine, coarse = (
        open_images(parse(DataSettings, {**values, "classes": kind}, source="test"))
        for kind in ("fine", "coarse")
    )
    assert coarse.counts() == {"train": (18, 2), "query": (6, 2), "gallery": (12, 2)}
    assert coarse.classes == ("Apple", "Lime", "Milk", "Leek")
    assert coarse.paths == fine.paths
    assert (coarse.splits == fine.splits).all()
    assert coarse.fingerprint != fine.fingerprint


def test_validation_looks_at_training_classes_alone(grocery_folder):
    values = {"name": "grocery", "root": str(grocery_folder), "validation": True}
    with pytest.raises(InputError, match="3 classes to train on cannot be divided"):
        open_images(parse(DataSettings, values, source="test"))
    # As two coarse classes the first two can be divided.
    table = grocery_folder / "classes.csv"
    table.write_text(table.read_text().replace("Royal-Gala,1,Apple", "Royal-Gala,1,Pear"))
    found = open_images(parse(DataSettings, values, source="test"))
    assert found.classes == ("Pink-Lady", "Royal-Gala", "Lime")
    assert found.counts() == {"train": (6, 1), "query": (4, 2), "gallery": (8, 2)}
    assert not {"Oat-Milk", "Soy-Milk", "Leek"} & {path.split("/")[-2] for path in found.paths}


def test_validation_of_a_set_without_coarse_classes(tmp_path):
    for n in range(8):
        picture(tmp_path / f"class{n}/a.jpg")
    values = {"name": "folder", "root": str(tmp_path), "validation": True}
    found = open_images(parse(DataSettings, values, source="test"))
    assert found.counts() == {"train": (2, 2), "test": (2, 2)}
    assert found.classes == ("class0", "class1", "class2", "class3")


def test_grocery_files_that_are_not_as_they_should_be(grocery_folder, tmp_path):
    with pytest.raises(InputError, match=r"classes.csv: not there; clone GroceryStoreDataset"):
        grocery.read(tmp_path / "nothing")
    listed = (grocery_folder / "val.txt").read_text()
    for line, message in (
        ("a.jpg", "expected PATH, FINE, COARSE"),
        ("../a.jpg 0 0", "expected PATH, FINE, COARSE"),
        ("a.jpg 6 0", "class 6 is not in classes.csv"),
    ):
        (grocery_folder / "val.txt").write_text(f"{line}\n{listed}")
        with pytest.raises(InputError, match=rf"val.txt: line 1: .*{message}"):
            grocery.read(grocery_folder)
    (grocery_folder / "val.txt").unlink()
    with pytest.raises(InputError, match=r"val.txt: not there"):
        grocery.read(grocery_folder)
    (grocery_folder / "classes.csv").write_text("name,id\nApple,0\n")
    with pytest.raises(InputError, match="has no column 'Class Name"):
        grocery.read(grocery_folder)


def test_grocery_is_prepared_from_its_folder(grocery_folder, capsys):
    arguments = ["data", "prepare", "grocery", str(grocery_folder)]
    assert hcl.main(arguments) == 2
    assert "query 6 images of 3 classes, not 1149 of 43" in capsys.readouterr().err
    assert hcl.main([*arguments, "--partial"]) == 0
    assert "not the whole set" in capsys.readouterr().out


def test_coarse_classes_of_a_set_that_has_none_are_refused(tmp_path):
    values = {"name": "cub", "root": str(tmp_path), "classes": "coarse"}
    with pytest.raises(InputError, match="cub has no coarse classes"):
        parse(DataSettings, values, source="test")


def test_published_counts_add_up():
    total = {
        name: sum(images for images, _ in s.counts.values())
        for name, s in dataset_specs.KNOWN.items()
    }
    assert total == {
        "cub": 11_788,
        "cars": 16_185,
        "sop": 120_053,
        "inshop": 52_712,
        "grocery": 5_421,
    }


def test_help_lists_the_sets(capsys):
    with pytest.raises(SystemExit):
        hcl.main(["data", "prepare", "--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in dataset_specs.KNOWN)
