"""The published code's files, written by hand with all their oddities."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from correspondence_runs import command_line
from PIL import Image

import hcl
from pretrain.core.errors import InputError
from pretrain.correspondence.official import (
    read_correspondences,
    read_neighbors,
    read_proposals,
)
from pretrain.correspondence.regions import Regions
from pretrain.data.index import Index
from pretrain.data.pairs import PairTable
from pretrain.datasets.index_writer import build_index
from pretrain.datasets.readers import coco

SIZES = {"a.jpg": (300, 200), "b.jpg": (150, 250), "c.jpg": (400, 400)}

DOCUMENT: dict[str, Any] = {
    "info": {
        "bbox_min_size": 96,
        "bbox_max_aspect_ratio": 3,
        "bbox_max_iou": 0.5,
        "intra_bbox_num": 100,
        "knn_image_num": 2,
        "knn_bbox_pair_ratio": 0.1,
    },
    # Another order than the index, and ids that are no places.
    "images": {"file_name": ["c.jpg", "a.jpg", "b.jpg"], "id": [30, 10, 20]},
    "pseudo_annotations": {
        "image_id": [30, 10, 20],
        "bbox": [[[0, 0, 400, 400], [10, 20, 100, 110]], [[5, 6, 100, 97]], [[0, 0, 150, 250]]],
        "knn_image_id": [[1, 2], [0, 2], [1, 0]],
        "knn_bbox_pair": [
            [[[10, 20, 100, 110, 5, 6, 100, 97]], [[0, 0, 400, 400, 0, 0, 150, 250]]],
            [
                [[5, 6, 100, 97, 0, 0, 400, 400], [5, 6, 100, 97, 10, 20, 100, 110]],
                [[5, 6, 100, 97, 0, 0, 150, 250]],
            ],
            [[[0, 0, 150, 250, 5, 6, 100, 97]], [[0, 0, 150, 250, 0, 0, 400, 400]]],
        ],
    },
}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    images = [
        {"id": 10 * (place + 1), "file_name": name, "width": size[0], "height": size[1]}
        for place, (name, size) in enumerate(SIZES.items())
    ]
    for name, size in SIZES.items():
        Image.new("RGB", size, (90, 120, 150)).save(tmp_path / name)
    note = {"id": 1, "image_id": 10, "category_id": 1, "bbox": [0, 0, 50, 50], "iscrowd": 0}
    document = {"images": images, "annotations": [note]}
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(document | {"categories": [{"id": 1, "name": "mug"}]}))
    return build_index(coco.read(file, tmp_path), tmp_path / "index")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def save(document: Any) -> Path:
        (tmp_path / "official.json").write_text(json.dumps(document))
        return tmp_path / "official.json"

    return save


def test_the_table_of_a_file(index, write):
    found = read_correspondences(write(DOCUMENT), index)
    table = found.table
    # Rows of the index: a 0, b 1, c 2; places in the file: c 0, a 1, b 2.
    assert table.fingerprint == index.fingerprint
    assert table.neighbour_offsets.tolist() == [0, 2, 4, 6]
    assert table.neighbours.tolist() == [2, 1, 0, 2, 0, 1]
    assert table.pair_offsets.tolist() == [0, 2, 3, 4, 5, 6, 7]
    assert table.query[:3].tolist() == [[5, 6, 105, 103]] * 3
    assert table.key[:3].tolist() == [[0, 0, 400, 400], [10, 20, 110, 130], [0, 0, 150, 250]]
    assert table.query[5].tolist() == [10, 20, 110, 130]
    assert found.regions.of(2).tolist() == [[0, 0, 400, 400], [10, 20, 110, 130]]
    assert (found.absent, found.own) == (0, 0)
    assert found.info == DOCUMENT["info"]


def test_squeezed_lists(index, write):
    document = copy.deepcopy(DOCUMENT)
    notes = document["pseudo_annotations"]
    notes["bbox"][1] = [5, 6, 100, 97]
    notes["knn_bbox_pair"][2] = [pairs[0] for pairs in notes["knn_bbox_pair"][2]]
    found, whole = (read_correspondences(write(one), index) for one in (document, DOCUMENT))
    assert np.array_equal(found.table.key, whole.table.key)
    assert np.array_equal(found.regions.boxes, whole.regions.boxes)


def test_images_the_file_lacks_and_images_that_find_themselves(index, write):
    document = copy.deepcopy(DOCUMENT)
    for part in (document["images"], document["pseudo_annotations"]):
        for values in part.values():
            del values[2]
    notes = document["pseudo_annotations"]
    notes["knn_image_id"] = [[0], [0]]
    notes["knn_bbox_pair"] = [[[[0, 0, 9, 9, 0, 0, 9, 9]]], [[[0, 0, 9, 9, 0, 0, 9, 9]]]]
    notes["bbox"][0] = []
    found = read_correspondences(write(document), index)
    assert (found.absent, found.own) == (1, 1)
    assert np.diff(found.table.neighbour_offsets).tolist() == [1, 0, 1]
    assert found.regions.of(1).tolist() == [[0, 0, 150, 250]]
    assert found.regions.of(2).tolist() == [[0, 0, 400, 400]]


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(document: dict[str, Any]) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        part: Any = document
        for parent in parents:
            part = part[parent]
        part[last] = value

    return apply


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (change("images.file_name.1", "z.jpg"), "images.file_name[1]: 'z.jpg' is not in the index"),
        (change("images.file_name.1", "c.jpg"), "images.file_name[1]: 'c.jpg' is there twice"),
        (change("images.file_name", None), "images.file_name: no such list"),
        (change("images.id", [1]), "images.id: 1 entries for 3 images"),
        (change("pseudo_annotations", []), "pseudo_annotations.image_id: no such list"),
        (change("pseudo_annotations.bbox", [[]]), "pseudo_annotations.bbox: 1 entries for 3"),
        (change("pseudo_annotations.bbox.1.0", [1, 2]), "bbox[1]: must be a list of boxes, 4"),
        (change("pseudo_annotations.bbox.1.0.0", None), "bbox[1]: must be a list of boxes, 4"),
        (
            change("pseudo_annotations.bbox.0.1", [310, 0, 91, 10]),
            "bbox[0][1]: box [310, 0, 91, 10] is outside its image of 400 x 400 px",
        ),
        (
            change("pseudo_annotations.bbox.0.1", [310, 0, 0, 10]),
            "bbox[0][1]: box [310, 0, 0, 10] has no area",
        ),
        (
            change("pseudo_annotations.knn_image_id.2.1", 3),
            "knn_image_id[2]: 3 is no place in images.file_name, which has 3",
        ),
        (change("pseudo_annotations.knn_image_id.2", 1), "knn_image_id[2]: must be a list of"),
        (
            change("pseudo_annotations.knn_bbox_pair.2", []),
            "knn_bbox_pair[2]: must be a list of 2, one per neighbor",
        ),
        (
            # The key is in the neighbor, a.jpg, which is 300 x 200 px.
            change("pseudo_annotations.knn_bbox_pair.0.0.0", [10, 20, 100, 110, 210, 6, 100, 97]),
            "knn_bbox_pair[0][0][0]: box [210, 6, 100, 97] is outside its image of 300 x 200 px",
        ),
        (
            change("pseudo_annotations.knn_bbox_pair.0.0.0", [1, 2, 3, 4]),
            "knn_bbox_pair[0][0]: must be a list of boxes, 8 numbers each",
        ),
    ],
)
def test_faults_of_a_file(index, write, fault, message):
    document = copy.deepcopy(DOCUMENT)
    fault(document)
    file = write(document)
    with pytest.raises(InputError, match=re.escape(f"{file}: ") + ".*" + re.escape(message)):
        read_correspondences(file, index)


@pytest.mark.parametrize(
    ("content", "message"), [("[1]", "must hold an object"), ("{", "not a JSON file")]
)
def test_other_files(index, tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_correspondences(tmp_path / "x.json", index)
    with pytest.raises(InputError, match="cannot be read"):
        read_correspondences(tmp_path / "y.json", index)


def test_neighbors(index, write):
    found, order = read_neighbors(write(DOCUMENT), index, 2)
    assert order == [2, 0, 1]
    assert found.tolist() == [[2, 1], [0, 2], [0, 1]]
    own = copy.deepcopy(DOCUMENT)
    own["pseudo_annotations"]["knn_image_id"][1] = [1, 2]
    assert read_neighbors(write(own), index, 2)[0][0].tolist() == [1, -1]
    with pytest.raises(InputError, match=re.escape("knn_image_id[0]: 2 neighbors; set --nei")):
        read_neighbors(write(DOCUMENT), index, 3)


def test_proposals(index, write):
    # The first is squeezed; the second's small, long and overlapping boxes fall to the filter.
    wide = [[0, 0, 400, 100], [0, 0, 120, 120], [5, 5, 120, 120], [0, 0, 20, 20], [200, 9, 99, 99]]
    file = write({"bbox": [[7, 8, 50, 60], [], wide]})
    found = read_proposals(file, index)
    assert found[0].tolist() == [[7, 8, 57, 68]]
    assert found[1].tolist() == []
    assert found[2].tolist() == [[0, 0, 120, 120], [200, 9, 299, 108]]
    order = [1, 2, 0]
    file = write({"bbox": [[], wide, [7, 8, 50, 60]]})
    assert [part.tolist() for part in read_proposals(file, index, order)] == [
        part.tolist() for part in found
    ]
    with pytest.raises(InputError, match=re.escape("bbox[1][0]: box [0, 0, 400, 100] is outside")):
        read_proposals(file, index)
    with pytest.raises(InputError, match="bbox: 1 entries, but there are 3 images"):
        read_proposals(write({"bbox": [[]]}), index)


def test_there_and_back(index, write, tmp_path, capsys):
    file, back = write(DOCUMENT), tmp_path / "back.json"
    arguments = ["--official", str(file), "--index", str(index.folder), "-o", str(tmp_path / "out")]
    assert hcl.main(["correspond", *arguments, "--to-official", str(back)]) == 0
    assert "3 images, 6 neighbors, 7 pairs" in capsys.readouterr().out
    document = json.loads(back.read_text())
    # The same, in the order of the index.
    order = [1, 2, 0]
    assert document["info"] == DOCUMENT["info"]
    for part in ("images", "pseudo_annotations"):
        for name, values in DOCUMENT[part].items():
            expected = [values[place] for place in order]
            if name == "knn_image_id":
                expected = [[order.index(place) for place in places] for places in expected]
            assert document[part][name] == expected
    again = read_correspondences(back, index)
    table = PairTable.open(tmp_path / "out/pairs")
    for name in ("neighbour_offsets", "neighbours", "pair_offsets", "query", "key"):
        assert np.array_equal(getattr(again.table, name), getattr(table, name))
    # A second time there is nothing to do; another file is refused.
    assert hcl.main(["correspond", *arguments]) == 0
    assert "nothing to do" in capsys.readouterr().out
    changed = copy.deepcopy(DOCUMENT)
    changed["info"] = {}
    write(changed)
    assert hcl.main(["correspond", *arguments]) == 2
    assert "was begun with official" in capsys.readouterr().err
    picture = ["-o", str(tmp_path / "a.png")]
    assert hcl.main(["correspond", "show", str(tmp_path / "out"), *picture]) == 0


def test_neighbors_and_proposals_in_the_place_of_our_own(base, tmp_path):
    index = Index.open(base / "index")
    names = [index.file_name(row) for row in range(len(index))][::-1]
    ids = list(range(len(names)))
    neighbours = [[(place + 1) % 48, (place + 2) % 48] for place in ids]
    (tmp_path / "knn.json").write_text(
        json.dumps(
            {
                "images": {"file_name": names, "id": ids},
                "pseudo_annotations": {"image_id": ids, "knn_image_id": neighbours},
            }
        )
    )
    (tmp_path / "boxes.json").write_text(json.dumps({"bbox": [[0, 0, 96, 96]] * 48}))
    files = ["--neighbours-file", str(tmp_path / "knn.json"), "--neighbours", "2"]
    files += ["--proposals-file", str(tmp_path / "boxes.json")]
    out = tmp_path / "out"
    assert hcl.main(["correspond", *command_line(base, out, files)]) == 0
    assert not (out / "features.npy").exists()
    table = PairTable.open(out / "pairs")
    assert table.neighbours[:2].tolist() == [47, 46]
    assert np.array_equal(Regions.open(out / "regions").boxes, [[0, 0, 96, 96]] * 48)
    assert len(table.query) == 96


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x"], "give either RUN or --official FILE"),
        (["run", "--official", "f", "-o", "x"], "give either RUN or --official FILE"),
        (["--official", "f", "-o", "x"], "--official needs --index FOLDER"),
    ],
)
def test_wrong_calls(arguments, message, capsys):
    assert hcl.main(["correspond", *arguments]) == 2
    assert message in capsys.readouterr().err
