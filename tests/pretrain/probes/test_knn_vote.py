"""The vote against one written out, and which items take part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pretrain.core.errors import InputError
from pretrain.datasets.index_writer import build_index
from pretrain.datasets.records import Flag, Record, Stream
from pretrain.datasets.source import DataSettings
from pretrain.probes.items import UNKNOWN, choose_items
from pretrain.probes.knn import classify


def by_hand(queries: Any, bank: Any, labels: Any, k: int, temperature: float) -> tuple[Any, Any]:
    """One query after another in NumPy."""
    voted, nearest = [], []
    for query in queries:
        cosines = bank @ query
        order = np.argsort(-cosines)[:k]
        votes = np.zeros(labels.max() + 1)
        for place in order:
            votes[labels[place]] += np.exp(cosines[place] / temperature)
        voted.append(votes.argmax())
        nearest.append(labels[order[0]])
    return np.array(voted), np.array(nearest)


@pytest.mark.parametrize(
    ("k", "temperature"), [(1, 0.1), (7, 0.1), (7, 1.0), (40, 0.1), (500, 5.0)]
)
def test_vote__equals_one_written_out(k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(k)
    centers = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(6, (90,), generator=generator)
    bank = F.normalize(centers[labels] + torch.randn(90, 5, generator=generator).double(), dim=1)
    # More than a chunk of queries.
    queries = F.normalize(torch.randn(700, 5, generator=generator).double(), dim=1)
    voted, nearest = classify(queries, bank, labels, k=k, temperature=temperature)
    expected = by_hand(queries.numpy(), bank.numpy(), labels.numpy(), k, temperature)
    np.testing.assert_array_equal(voted.numpy(), expected[0])
    np.testing.assert_array_equal(nearest.numpy(), expected[1])


def test_vote__small_temperature_does_not_overflow() -> None:
    bank = F.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), dim=1)
    voted, _ = classify(bank[:1], bank, torch.tensor([2, 1, 1]), k=3, temperature=1e-4)
    assert voted.tolist() == [2]


# ------------------------------------------------------------------------------------ items


def index_of(
    folder: Path, images: list[list[tuple[int, int]]], names: tuple[str, ...]
) -> DataSettings:
    """A prepared index; images as lists of (label, flags), each with boxes of its own."""
    (folder / "images").mkdir(parents=True)
    records = []
    for row, boxes in enumerate(images):
        Image.new("RGB", (20, 10), (row % 256, 0, 0)).save(folder / f"images/{row}.png")
        corners = [[place, 0, place + 2, 5] for place in range(len(boxes))]
        records.append(
            Record(
                f"{row}.png",
                20,
                10,
                np.array(corners, np.float32).reshape(-1, 4),
                np.array([label for label, _ in boxes], np.int32),
                row,
                np.array([flags for _, flags in boxes], np.uint8),
            )
        )
    source = folder / "source.json"
    source.write_text("{}")
    stream = Stream(source, folder / "images")
    stream.records = iter(records)
    stream.categories = names
    stream.category_ids = tuple(range(len(names)))
    stream.source_size, stream.source_mtime_ns, stream.source_sha256 = 2, 0, "0" * 64
    build_index(stream, folder / "index", {})
    return DataSettings(reader="index", index=str(folder / "index"))


def objects(images: int) -> list[list[tuple[int, int]]]:
    return [[(row % 3, 0), ((row + 1) % 3, 0)] for row in range(images)]


def test_split__has_no_image_on_both_sides(tmp_path: Path) -> None:
    data = index_of(tmp_path, objects(23), ("a", "b", "c"))
    bank, queries = choose_items(data, None, "object", 1000)
    assert set(queries.rows) == {4, 9, 14, 19}
    assert not set(bank.rows) & set(queries.rows)
    assert len(bank) + len(queries) == 46
    again = choose_items(data, None, "object", 1000)
    np.testing.assert_array_equal(bank.rows, again[0].rows)


def test_split__skips_images_without_labels(tmp_path: Path) -> None:
    # Every fifth image has nothing on it: queries are every fifth of the others.
    images = [[] if row % 5 == 4 else boxes for row, boxes in enumerate(objects(25))]
    _, queries = choose_items(index_of(tmp_path, images, ("a", "b", "c")), None, "object", 1000)
    assert set(queries.rows) == {5, 11, 17, 23}


def test_limit__takes_items_from_everywhere(tmp_path: Path) -> None:
    data = index_of(tmp_path, objects(40), ("a", "b", "c"))
    bank, queries = choose_items(data, None, "object", 8)
    assert (len(bank), len(queries)) == (8, 8)
    assert bank.rows.min() < 10
    assert bank.rows.max() > 30


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_shares__are_everything_once(tmp_path: Path, size: int) -> None:
    bank, _ = choose_items(index_of(tmp_path, objects(9), ("a", "b", "c")), None, "object", 1000)
    shares = bank.shares(size)
    assert len(shares) == size
    np.testing.assert_array_equal(np.concatenate([s.rows for s in shares]), bank.rows)
    np.testing.assert_array_equal(np.concatenate([s.boxes for s in shares]), bank.boxes)
    owners = [set(share.rows) for share in shares]
    assert sum(map(len, owners)) == len(set().union(*owners))


def test_proposals__are_no_labels(tmp_path: Path) -> None:
    images = [[*boxes, (0, int(Flag.PROPOSAL))] for boxes in objects(10)]
    bank, queries = choose_items(index_of(tmp_path, images, ("a", "b", "c")), None, "object", 1000)
    assert len(bank) + len(queries) == 20
    assert bank.boxes[:, 0].max() == 1  # the proposal is the third box


def test_whole_images__are_those_of_one_category(tmp_path: Path) -> None:
    images: list[list[tuple[int, int]]] = [[(row % 2, 0)] * (row % 3) for row in range(30)]
    images[7] = [(0, 0), (1, 0)]
    bank, queries = choose_items(index_of(tmp_path, images, ("a", "b")), None, "image", 1000)
    rows = sorted([*bank.rows, *queries.rows])
    assert rows == [row for row in range(30) if row % 3 and row != 7]
    assert (bank.boxes == [0, 0, 20, 10]).all()
    np.testing.assert_array_equal(bank.labels, bank.rows % 2)


def test_own_queries__are_labeled_by_name(tmp_path: Path) -> None:
    data = index_of(tmp_path / "a", objects(10), ("cat", "dog", "emu"))
    test = index_of(tmp_path / "b", objects(6), ("dog", "fox", "cat"))
    bank, queries = choose_items(data, test, "object", 1000)
    assert len(bank) == 20
    assert [int(label) for label in queries.labels[:4]] == [1, UNKNOWN, UNKNOWN, 0]


@pytest.mark.parametrize(
    ("images", "names", "message"),
    [
        ([[]] * 10, ("a", "b"), "0 labeled boxes; a probe needs labels of two"),
        ([[(1, 0)]] * 10, ("a", "b"), "10 labeled boxes, all of the same category"),
        (objects(4), ("a", "b", "c"), "only 4 labeled images"),
    ],
)
def test_labels_of_no_use__are_refused(
    tmp_path: Path, images: Any, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        choose_items(index_of(tmp_path, images, names), None, "object", 1000)
    assert str(error.value).startswith(f"probe.data: {tmp_path}")


def test_images_on_both_sides__are_refused(tmp_path: Path) -> None:
    data = index_of(tmp_path, objects(10), ("a", "b", "c"))
    with pytest.raises(
        InputError, match=r"probe\.test: .*0\.png: this image is also in probe\.data"
    ):
        choose_items(data, data, "object", 1000)


def test_sets_without_a_common_category__are_refused(tmp_path: Path) -> None:
    data = index_of(tmp_path / "a", objects(10), ("a", "b", "c"))
    test = index_of(tmp_path / "b", objects(10), ("x", "y", "z"))
    with pytest.raises(InputError, match=r"probe\.test: .*shares no category with probe\.data"):
        choose_items(data, test, "object", 1000)


def test_folder_without_classes__is_refused(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for row in range(6):
        (images / "abc"[row % 3]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(images / "abc"[row % 3] / f"{row}.png")
    plain = {"reader": "folder", "images": str(images), "index": str(tmp_path / "plain")}
    with pytest.raises(InputError, match=r"probe\.data: .*0 images of one category.*class_folders"):
        choose_items(DataSettings(**plain), None, "image", 100)
    classes = {**plain, "index": str(tmp_path / "classes"), "class_folders": True}
    bank, queries = choose_items(DataSettings(**classes), None, "image", 100)
    assert len(bank) == 5
    assert json.dumps(queries.categories) == '["a", "b", "c"]'
