from __future__ import annotations

import os

import pytest
from PIL import Image

from pretrain.core.errors import InputError
from pretrain.data.decode import read_image
from pretrain.datasets.readers import folder
from pretrain.datasets.readers.common import Options


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for name, size in (("b.jpg", (30, 20)), ("cats/a.PNG", (16, 17)), ("dogs/deep/c.webp", (9, 8))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (9, 90, 200)).save(root / name)
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden.jpg").write_bytes(b"")
    (root / ".cache").mkdir()
    (root / ".cache/x.jpg").write_bytes(b"")
    return root


def test_all_images_below_without_boxes(photos):
    report = folder.stream(photos).read()
    assert [(r.file_name, r.width, r.height) for r in report.records] == [
        ("b.jpg", 30, 20),
        ("cats/a.PNG", 16, 17),
        ("dogs/deep/c.webp", 9, 8),
    ]
    assert report.box_count == 0
    assert [r.image_id for r in report.records] == [0, 1, 2]
    assert report.source_sha256 == folder.stream(photos).read().source_sha256


def test_class_folders(photos):
    (photos / "b.jpg").rename(photos / "dogs/b.jpg")
    report = folder.stream(photos, class_folders=True).read()
    assert report.categories == ("cats", "dogs")
    assert [r.labels.tolist() for r in report.records] == [[0], [1], [1]]
    assert report.records[0].boxes.tolist() == [[0, 0, 16, 17]]


def test_class_folders_with_an_image_outside(photos):
    with pytest.raises(InputError, match=r"b\.jpg: lies in no class folder"):
        folder.stream(photos, class_folders=True).read()


def test_images_turned_by_exif_have_the_size_they_are_decoded_in(photos):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (30, 20)).save(photos / "b.jpg", exif=exif)
    record = folder.stream(photos).read().records[0]
    assert (record.width, record.height) == (20, 30)
    assert read_image(photos / "b.jpg", (20, 30)).shape == (3, 30, 20)


def test_a_damaged_exif_block_is_no_hindrance(photos):
    Image.new("RGB", (30, 20)).save(photos / "b.jpg", exif=b"Exif\0\0II*\0\xff\xff")
    record = folder.stream(photos).read().records[0]
    assert (record.width, record.height) == (30, 20)


def test_the_header_alone_is_read(photos):
    content = (photos / "cats/a.PNG").read_bytes()
    (photos / "cats/a.PNG").write_bytes(content[: content.index(b"IDAT") + 4])
    assert folder.stream(photos).read().records[1].width == 16


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"<html>", "not an image of a known kind")],
)
def test_unreadable_images(photos, content, reason):
    (photos / "b.jpg").write_bytes(content)
    with pytest.raises(InputError, match=rf"b\.jpg: {reason}; .*on_bad_image=drop"):
        folder.stream(photos).read()
    source = folder.stream(photos, Options(on_bad_image="drop"))
    dropped = []
    source.on_drop = lambda *what: dropped.append(what)
    assert len(list(source.records)) == 2
    assert dropped == [("images unreadable", "b.jpg", reason)]


def test_a_folder_named_like_an_image_is_entered(photos):
    (photos / "album.jpg").mkdir()
    Image.new("RGB", (5, 6)).save(photos / "album.jpg/in.png")
    names = [record.file_name for record in folder.stream(photos).read().records]
    assert names == ["b.jpg", "album.jpg/in.png", "cats/a.PNG", "dogs/deep/c.webp"]


def test_no_images(tmp_path):
    with pytest.raises(InputError, match=r"no such image folder; check data\.images"):
        folder.stream(tmp_path / "gone").read()
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match="no images in it"):
        folder.stream(tmp_path).read()


def test_name_that_is_not_utf8(photos):
    with open(os.fsencode(photos) + b"/caf\xe9.jpg", "wb") as file:  # noqa: PTH123
        file.write((photos / "b.jpg").read_bytes())
    with pytest.raises(InputError, match=r"caf\\udce9\.jpg': the name is not UTF-8"):
        folder.stream(photos).read()
    source = folder.stream(photos, Options(on_bad_image="drop"), cache=photos / ".cache/sizes")
    assert len(source.read().records) == 3
    assert source.dropped == {"images unreadable": 1}
    assert len(folder.state(photos)) == 2


def test_links_that_lead_in_circles(photos):
    (photos / "cats/again").symlink_to(photos)
    (photos / "gone.jpg").symlink_to(photos / "nowhere")
    report = folder.stream(photos, Options(on_bad_image="drop")).read()
    assert len(report.records) == 3
    assert report.dropped == {"images unreadable": 1}


def test_state_changes_with_files_and_folders(photos):
    before = folder.state(photos)
    assert folder.state(photos) == before
    os.utime(photos / "cats", ns=(1, 1))
    (photos / "cats/new.jpg").write_bytes((photos / "b.jpg").read_bytes())
    assert folder.state(photos) != before
