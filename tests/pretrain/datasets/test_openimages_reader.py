from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.core.errors import InputError
from pretrain.datasets.index_writer import build_index
from pretrain.datasets.readers import openimages
from pretrain.datasets.readers.common import Options
from pretrain.datasets.records import Flag

HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
    "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)
A, B, C = "000002b66c9c498e", "000002b97e5471a0", "fe0a3ab5c5a1b3a7"


def line(image, name="/m/01g317", box=(0.25, 0.5, 0.1, 0.9), flags=(0, 0, 0, 0, 0)) -> str:
    return ",".join([image, "xclick", name, "1", *map(str, box), *map(str, flags)])


class Set:
    def __init__(self, root: Path) -> None:
        self.csv = root / "boxes.csv"
        self.images = root / "images"
        for folder, name, size in (
            ("", A, (64, 48)),
            ("train_0", B, (40, 80)),
            ("train_f", C, (50, 50)),
        ):
            (self.images / folder).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, (200, 30, 60)).save(self.images / folder / f"{name}.jpg")
        self.write(line(A), line(A, "/m/0dzct", (0, 1, 0, 1)), line(B), line(C))

    def write(self, *lines: str, header: str = HEADER) -> None:
        self.csv.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")

    def read(self, **options):
        names = ("classes", "split", "cache")
        more = {name: options.pop(name) for name in names if name in options}
        return openimages.stream(self.csv, self.images, Options(**options), **more).read()

    def fails(self, *parts: str, **options) -> str:
        with pytest.raises(InputError) as caught:
            self.read(**options)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        for part in parts:
            assert part in message
        return message


@pytest.fixture
def data(tmp_path) -> Set:
    return Set(tmp_path)


def test_boxes_in_pixels_of_images_found_in_parts(data):
    report = data.read()
    names = [record.file_name for record in report.records]
    assert names == [f"{A}.jpg", f"train_0/{B}.jpg", f"train_f/{C}.jpg"]
    np.testing.assert_allclose(
        report.records[0].boxes, [[16, 4.8, 32, 43.2], [0, 0, 64, 48]], rtol=1e-6
    )
    assert report.records[1].boxes[0].tolist() == [10, 8, 20, 72]
    assert report.categories == ("/m/01g317", "/m/0dzct")
    assert report.records[0].labels.tolist() == [0, 1]
    assert report.dropped == {"group": 0, "without area": 0, "outside the image": 0}
    assert report.source_size == data.csv.stat().st_size


def test_flags_are_kept_and_filtered_as_asked(data):
    data.write(
        line(A, flags=(1, 1, 0, 0, 0)),
        line(A, flags=(-1, 0, 0, 0, 1)),
        line(A, flags=(0, 0, 1, 0, 0)),
        line(A, flags=(0, 0, 1, 1, 0)),
        line(A, flags=(0, 0, 0, 1, 0)),
    )
    everything = data.read(leave_out=()).records[0].flags
    expected = [
        Flag.OCCLUDED | Flag.TRUNCATED,
        Flag.INSIDE,
        Flag.GROUP,
        Flag.GROUP | Flag.DEPICTION,
        Flag.DEPICTION,
    ]
    assert everything.tolist() == [int(flag) for flag in expected]
    report = data.read()
    assert report.dropped["group"] == 2
    assert report.records[0].flags.tolist() == [int(expected[n]) for n in (0, 1, 4)]
    report = data.read(leave_out=("group", "depiction"))
    assert (report.dropped["group"], report.dropped["depiction"]) == (2, 1)
    assert len(report.records[0].boxes) == 2


def test_files_of_v4_without_flags_and_columns_in_another_order(data):
    data.write("0.1,0.9,0.25,0.5,/m/a," + A, header="YMin,YMax,XMin,XMax,LabelName,ImageID")
    report = data.read()
    np.testing.assert_allclose(report.records[0].boxes, [[16, 4.8, 32, 43.2]], rtol=1e-6)
    assert report.records[0].flags.tolist() == [0]


def test_byte_order_mark(data):
    data.csv.write_bytes(b"\xef\xbb\xbf" + data.csv.read_bytes())
    assert data.read().box_count == 4


@pytest.mark.parametrize("header", ["", "id,name\n", "LabelName,DisplayName\n"])
def test_class_descriptions_of_all_versions(data, tmp_path, header):
    classes = tmp_path / "classes.csv"
    classes.write_text(header + '/m/0dzct,"Face, human"\n/m/01g317,Person\n')
    report = data.read(classes=classes)
    assert report.categories == ("Face, human", "Person")
    assert report.category_ids == (1, 2)
    assert report.records[0].labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("/m/01g317,Person\n", ("line 3", "'/m/0dzct' is not in", "data.classes")),
        ("/m/01g317,Person\n/m/01g317,Man\n", ("line 2", "twice the same class")),
        ("/m/01g317\n", ("line 1", "not LabelName,DisplayName")),
        ("", ("no classes in it",)),
    ],
)
def test_faulty_class_descriptions(data, tmp_path, content, parts):
    (tmp_path / "classes.csv").write_text(content)
    data.fails("classes.csv", *parts, classes=tmp_path / "classes.csv")


def test_split_chooses_images(data, tmp_path):
    (tmp_path / "ids.txt").write_text(f"# mine\n{C}\n\n{A}\n")
    report = data.read(split=tmp_path / "ids.txt")
    assert [Path(r.file_name).stem for r in report.records] == [A, C]
    (tmp_path / "ids.txt").write_text("\n")
    data.fails("ids.txt: no image ids in it", split=tmp_path / "ids.txt")
    (tmp_path / "ids.txt").write_text("ffffffffffffffff\n")
    data.fails("none of its images", split=tmp_path / "ids.txt")


@pytest.mark.parametrize("lost", ["XMin", "LabelName", "ImageID"])
def test_missing_column(data, lost):
    data.write(header=HEADER.replace(lost, "Other"))
    data.fails("boxes.csv", f"no column {lost}", "Source")


def test_empty_files(data):
    data.csv.write_text("")
    data.fails("boxes.csv", "no column ImageID", "found nothing")
    data.write()
    data.fails("boxes.csv: no boxes in it")


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        (line(B)[:-2], ("line 3", "12 fields, not 13")),
        (line(B).replace("0.25", "wide"), ("line 3", "could not convert string to float: 'wide'")),
        (line("../../etc/passwd"), ("not an ImageID",)),
    ],
)
def test_faulty_lines(data, bad, parts):
    data.write(line(A), bad)
    data.fails(*parts)


def test_binary_file(data):
    data.csv.write_bytes(HEADER.encode() + b"\n\xff\xfe\x00")
    data.fails("boxes.csv: line 2 is not text in UTF-8")


def test_an_image_again_after_others(data):
    data.write(line(A), line(B), line(A))
    data.fails("line 4", f"image {A} again", "sort the lines by ImageID")


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((0.5, 0.5, 0.1, 0.9), "without area"),
        ((0.6, 0.5, 0.1, 0.9), "without area"),
        (("nan", 0.5, 0.1, 0.9), "without area"),
        (("-inf", 0.5, 0.1, 0.9), "without area"),
        ((0.5, 1.5, 0.1, 0.9), "outside the image"),
        ((-0.2, 0.5, 0.1, 0.9), "outside the image"),
    ],
)
def test_bad_boxes(data, box, reason):
    data.write(line(A, box=box), line(A), line(B))
    data.fails("boxes.csv", f"image {A}", reason, "on_bad_box=drop")
    report = data.read(on_bad_box="drop")
    assert report.dropped[reason] == 1
    assert [len(record.boxes) for record in report.records] == [1, 1]


def test_a_box_over_the_border_by_less_than_a_pixel_is_clipped(data):
    data.write(line(A, box=(0.5, 1.01, 0, 1)))
    report = data.read()
    assert report.records[0].boxes.tolist() == [[32, 0, 64, 48]]
    assert report.clipped == 1


def test_missing_and_unreadable_images(data, tmp_path):
    (data.images / f"{A}.jpg").unlink()
    data.fails(f"{A}.jpg", "not in the image folder", "on_bad_image=drop")
    (data.images / "train_0" / f"{B}.jpg").write_bytes(b"")
    source = openimages.stream(data.csv, data.images, Options(on_bad_image="drop"))
    index = build_index(source, tmp_path / "index")
    assert [index.file_name(row) for row in range(len(index))] == [f"train_f/{C}.jpg"]
    assert index.meta["dropped"]["images missing"] == 1
    assert index.meta["dropped"]["images unreadable"] == 1
    lines = (index.folder / "dropped.tsv").read_text().splitlines()
    assert lines == [
        f"images missing\t{A}.jpg\tno such file",
        f"images unreadable\ttrain_0/{B}.jpg\tthe file is empty",
    ]


def test_no_image_at_all(data, tmp_path):
    data.images = tmp_path / "none"
    data.fails("none: no such image folder")
    data.images.mkdir()
    data.fails("none of its images is in", on_bad_image="drop")


def test_sizes_are_remembered_until_the_file_changes(data, tmp_path):
    cache = tmp_path / "cache/sizes.sqlite"
    assert data.read(cache=cache).records[0].width == 64
    file = data.images / f"{A}.jpg"
    stat = file.stat()
    # Same number of bytes and time of change: the remembered size counts, the header is not read.
    file.write_bytes(b"x" * stat.st_size)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert data.read(cache=cache).records[0].width == 64
    Image.new("RGB", (32, 24)).save(file)
    assert data.read(cache=cache).records[0].width == 32
    # A database that is none is no hindrance.
    cache.write_bytes(b"not a database" * 100)
    assert data.read(cache=cache).records[0].width == 32
