from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hcl
from pretrain.core.errors import InputError
from pretrain.data.index import Index
from pretrain.datasets.index_writer import IndexWriter
from pretrain.datasets.selection import PAPER, Rule, choose, compare_with_paper, select


def build(folder, images: list[list[int]], classes: int = 5) -> Index:
    """Images of boxes with these labels; box n of an image begins at x = n."""
    with IndexWriter(folder, folder.parent) as writer:
        from pretrain.datasets.records import Record, Stream

        for number, labels in enumerate(images):
            boxes = np.array([[n, 0, n + 9, 9] for n in range(len(labels))], np.float32)
            flags = np.array([n % 3 for n in range(len(labels))], np.uint8)
            writer.append(
                Record(
                    f"part/{number:04x}.jpg",
                    50,
                    40,
                    boxes.reshape(-1, 4),
                    np.array(labels, np.int32),
                    100 + number,
                    flags,
                )
            )
        writer.finish(
            Stream(
                folder / "p",
                folder.parent,
                categories=tuple("abcdefgh"[:classes]),
                category_ids=tuple(range(1, classes + 1)),
            ),
            {"reader": "openimages"},
        )
    return Index.open(folder)


def test_the_rule_is_repeated_until_nothing_changes(tmp_path):
    # Class 2 has too few images; without it, image 3 has one class; without image 3, class 1 has
    # two images only; and so everything falls but what holds itself up: classes 3 and 4.
    images = [[0, 1], [0, 1, 1], [0], [1, 2], [3, 4], [4, 3, 3], [3, 4, 0], []]
    index = build(tmp_path / "index", images)
    chosen = choose(index, Rule(2, 3))
    assert chosen.rows.tolist() == [4, 5, 6]
    assert chosen.labels.tolist() == [3, 4]
    assert chosen.rounds > 2
    assert choose(index, Rule(2, 2)).rows.tolist() == [0, 1, 4, 5, 6]
    assert choose(index, Rule(1, 1)).rows.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert choose(index, Rule(3, 1)).rows.tolist() == [6]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 4), max_size=6), min_size=1, max_size=25),
    st.integers(1, 3),
    st.integers(1, 5),
)
def test_the_result_is_the_largest_that_satisfies_the_rule(
    tmp_path_factory, images, min_classes, min_images
):
    index = build(tmp_path_factory.mktemp("x") / "index", images)
    rule = Rule(min_classes, min_images)
    chosen = choose(index, rule)
    rows, labels = {*range(len(images))}, {*range(5)}
    while True:  # a plain restatement, one element at a time
        poor = [r for r in rows if len(labels & set(images[r])) < min_classes]
        rare = [n for n in labels if sum(n in images[r] for r in rows) < min_images]
        if not poor and not rare:
            break
        rows -= set(poor[:1])
        labels -= set(rare[:1])
    assert set(chosen.rows.tolist()) == rows
    assert set(chosen.labels.tolist()) == (labels if rows else set())


def test_the_selection_is_an_index_with_a_list(tmp_path):
    index = build(tmp_path / "index", [[0, 3, 4], [4, 3, 3], [3, 4], [1], [0]])
    chosen = select(index, tmp_path / "chosen", Rule(2, 3))
    chosen.verify()
    assert [chosen.file_name(row) for row in range(3)] == [f"part/000{n}.jpg" for n in range(3)]
    assert chosen.categories == ("d", "e")
    assert chosen.category_ids == (4, 5)
    assert chosen.boxes(0)[:, 0].tolist() == [1, 2]
    assert chosen.labels(0).tolist() == [0, 1]
    assert chosen.labels(1).tolist() == [1, 0, 0]
    assert chosen.flags(1).tolist() == [0, 1, 2]
    assert chosen.image_id(2) == 102
    assert chosen.meta["dropped"] == {"of images not chosen": 2, "of classes not chosen": 1}
    text = (tmp_path / "chosen/selection.txt").read_text()
    assert text == "0000\n0001\n0002\n"
    assert chosen.meta["selection"] == {
        "rule": {"min_classes": 2, "min_images": 3},
        "images": 3,
        "classes": 2,
        "rounds": 2,
        "list_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "from_fingerprint": index.fingerprint,
    }


def test_nothing_left(tmp_path):
    index = build(tmp_path / "index", [[0, 1]])
    with pytest.raises(InputError, match="no image has 2 classes of at least 900 images; lower"):
        select(index, tmp_path / "chosen", Rule())
    assert not (tmp_path / "chosen").exists()


def test_command(tmp_path, capsys):
    build(tmp_path / "index", [[0, 1]] * 900 + [[2]])
    arguments = ["data", "select", str(tmp_path / "index"), str(tmp_path / "out")]
    assert hcl.main(arguments) == 0
    said = capsys.readouterr().out
    assert "900 of 901 images, 1800 boxes" in said
    assert "published for OpenImages: 212753 images, 208 classes (NOT the same" in said
    assert hcl.main(arguments) == 2
    assert "out: exists already" in capsys.readouterr().err
    assert hcl.main([*arguments[:-1], str(tmp_path / "b"), "--min-images", "5"]) == 0
    assert "published" not in capsys.readouterr().out


def test_the_published_counts_are_recognized():
    assert "(the same)" in compare_with_paper(dict(PAPER))
