from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pretrain.core.errors import InputError
from pretrain.datasets.readers import voc
from pretrain.datasets.readers.common import Options
from pretrain.datasets.records import Flag

XML = """<annotation>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
  {objects}
</annotation>"""


def item(name="dog", box=(11, 21, 30, 40), more="") -> str:
    x1, y1, x2, y2 = box
    return (
        f"<object><name>{name}</name>{more}<bndbox><xmax>{x2}</xmax><xmin>{x1}</xmin>"
        f"<ymin>{y1}</ymin><ymax>{y2}</ymax></bndbox></object>"
    )


class Year:
    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (root / name).mkdir(parents=True)

    def add(self, name: str, *objects: str, size=(60, 50)) -> None:
        Image.new("RGB", (60, 50), (20, 130, 60)).save(self.root / f"JPEGImages/{name}.jpg")
        text = XML.format(width=size[0], height=size[1], objects="".join(objects))
        (self.root / f"Annotations/{name}.xml").write_text(text)

    def list(self, name: str, *lines: str) -> None:
        (self.root / f"ImageSets/Main/{name}.txt").write_text("".join(f"{x}\n" for x in lines))


@pytest.fixture
def year(tmp_path) -> Year:
    made = Year(tmp_path / "VOCdevkit/VOC2007")
    made.add("000005", item(), item("sofa", (1, 1, 60, 50)))
    made.add("000007", item("person", (2.5, 3, 10.5, 12)))
    made.list("trainval", "000005", "000007")
    return made


def read(year: Year, split="trainval", **options):
    return voc.stream(year.root, split, Options(**options)).read()


def fails(year: Year, *parts: str, split="trainval", **options) -> None:
    with pytest.raises(InputError) as caught:
        read(year, split, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert part in message


def test_corners_count_from_one_and_include_the_last_pixel(year):
    report = read(year)
    first, second = report.records
    assert first.file_name == "JPEGImages/000005.jpg"
    assert (first.width, first.height) == (60, 50)
    assert first.boxes.tolist() == [[10, 20, 30, 40], [0, 0, 60, 50]]
    assert second.boxes.tolist() == [[1.5, 2, 10.5, 12]]
    names = [report.categories[label] for label in [*first.labels, *second.labels]]
    assert names == ["dog", "sofa", "person"]
    assert report.categories == voc.CLASSES
    assert len(voc.CLASSES) == 20
    assert list(voc.CLASSES) == sorted(voc.CLASSES)


def test_difficult_truncated_occluded(year):
    year.add(
        "000005",
        item(more="<difficult>1</difficult>"),
        item(more="<truncated>1</truncated><difficult>0</difficult>"),
        item(more="<occluded>1</occluded><difficult>1</difficult>"),
    )
    flags = read(year).records[0].flags.tolist()
    assert flags == [
        int(Flag.DIFFICULT),
        int(Flag.TRUNCATED),
        int(Flag.OCCLUDED | Flag.DIFFICULT),
    ]
    report = read(year, leave_out=("difficult",))
    assert report.dropped["difficult"] == 2
    assert report.records[0].flags.tolist() == [int(Flag.TRUNCATED)]


def test_parts_are_no_objects_and_other_classes_are_added(year):
    head = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    year.add("000005", item("person", more=head), item("zebra"))
    report = read(year)
    assert len(report.records[0].boxes) == 2
    assert report.categories == (*voc.CLASSES, "zebra")


def test_lists_of_several_years_and_of_the_users_own(year, tmp_path):
    other = Year(tmp_path / "VOCdevkit/VOC2012")
    other.add("2008_000002", item("cat"))
    other.list("trainval", "2008_000002")
    root = tmp_path / "VOCdevkit"
    report = voc.stream(root, "VOC2007/trainval+VOC2012/trainval").read()
    assert [r.file_name for r in report.records] == [
        "VOC2007/JPEGImages/000005.jpg",
        "VOC2007/JPEGImages/000007.jpg",
        "VOC2012/JPEGImages/2008_000002.jpg",
    ]
    mine = tmp_path / "mine.txt"
    mine.write_text("000007\n")
    assert [r.file_name for r in read(year, str(mine)).records] == ["JPEGImages/000007.jpg"]


def test_lists_of_one_class(year):
    year.list("dog_trainval", "000005  1", "000007 -1")
    assert len(read(year, "dog_trainval").records) == 1


def test_state_follows_lists_and_annotations(year):
    before = voc.state(year.root, "trainval")
    year.add("000009", item())
    assert voc.state(year.root, "trainval") != before


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (["000005", "000005"], "line 2: twice the same image"),
        (["../000005"], "line 1: not the name of an image"),
        (["/etc/passwd"], "line 1: not the name of an image"),
    ],
)
def test_faulty_lists(year, lines, part):
    year.list("trainval", *lines)
    fails(year, "trainval.txt", part)


def test_no_such_list(year):
    fails(year, "no such list of images", "data.split ('test')", split="test")


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((31, 21, 30, 40), "without area"),
        (("nan", 21, 30, 40), "without area"),
        ((11, 21, 90, 40), "outside the image"),
        ((-5, 21, 30, 40), "outside the image"),
    ],
)
def test_bad_boxes(year, box, reason):
    year.add("000005", item(box=box), item())
    fails(year, "000005.xml", reason, "60x50", "on_bad_box=drop")
    report = read(year, on_bad_box="drop")
    assert report.dropped[reason] == 1
    assert len(report.records[0].boxes) == 1


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("<annotation><object>", "not valid XML"),
        ("", "not valid XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares a document type"),
        ("<annotation><size/><object><name> </name></object></annotation>", "object 1: no <name>"),
        (
            "<annotation><object><name>a</name><bndbox><xmin>1</xmin></bndbox></object>"
            "</annotation>",
            "object 1: <bndbox> without four numbers",
        ),
    ],
)
def test_faulty_xml(year, content, part):
    (year.root / "Annotations/000007.xml").write_text(content)
    fails(year, "000007.xml", part)


def test_size_from_the_header_where_the_xml_has_none(year):
    year.add("000005", item(), size=(0, 0))
    assert (read(year).records[0].width, read(year).records[0].height) == (60, 50)


def test_missing_images_and_annotations(year):
    (year.root / "JPEGImages/000005.jpg").unlink()
    fails(year, "JPEGImages/000005.jpg", "images missing", "on_bad_image=drop")
    report = read(year, on_bad_image="drop")
    assert report.dropped["images missing"] == 1
    (year.root / "Annotations/000007.xml").unlink()
    fails(year, "none of its images is there", on_bad_image="drop")
