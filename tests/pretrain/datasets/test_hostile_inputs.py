"""Every kind of bad image, with what a reader, ``hcl data check`` and a run make of it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.core.errors import InputError
from pretrain.data.augment import AugmentSettings
from pretrain.data.decode import ImageError, jpeg_size, read_image
from pretrain.data.loader import build_loader
from pretrain.data.plan import Crop, ViewPlan
from pretrain.data.views import ViewSettings
from pretrain.datasets.check import check
from pretrain.datasets.index_writer import build_index
from pretrain.datasets.readers import coco, folder
from pretrain.datasets.readers.common import Options

SIZE = (60, 40)


@pytest.fixture
def rgb() -> Image.Image:
    y, x = np.mgrid[0:40, 0:60]
    return Image.fromarray(np.stack([4 * x, 6 * y, 2 * (x + y)], -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checked = name + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def jpeg_of_size(image: Image.Image, width: int, height: int) -> bytes:
    content = bytearray(encoded(image, "JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def fails(content: bytes, tmp_path: Path, message: str, size=SIZE) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        read_image(tmp_path / "a.jpg", size)


def test_truncated_jpeg(rgb, tmp_path):
    fails(encoded(rgb, "JPEG", quality=95)[:-60], tmp_path, "truncated")


def test_zero_bytes(tmp_path):
    fails(b"", tmp_path, "^the file is empty$")


def test_png_bomb(tmp_path):
    fails(png_of_size(50_000, 50_000), tmp_path, "decompression bomb")


def test_png_that_claims_more_than_it_holds(tmp_path):
    fails(png_of_size(*SIZE), tmp_path, "truncated")


def test_png_with_a_text_that_unpacks_to_gigabytes(rgb, tmp_path):
    content = encoded(rgb, "PNG")
    data = b"Comment\0\0" + zlib.compress(bytes(80_000_000), 9)
    text = struct.pack(">I", len(data)) + b"zTXt" + data
    text += struct.pack(">I", zlib.crc32(b"zTXt" + data))
    at = content.index(b"IDAT") - 4
    fails(content[:at] + text + content[at:], tmp_path, "Decompressed data too large")


def test_jpeg_bomb_takes_no_memory(rgb, tmp_path):
    content = jpeg_of_size(rgb, 65_000, 65_000)
    assert jpeg_size(content) == (65_000, 65_000)
    fails(content, tmp_path, "^it claims 65000x65000 px, more than is reasonable$")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"x" * 60_000}])
def test_size_in_the_header_of_a_jpeg(rgb, options):
    content = encoded(rgb, "JPEG", **options)
    assert jpeg_size(content) == SIZE
    start = content[:200]
    assert jpeg_size(start) in (None, SIZE)
    assert jpeg_size(b"\xff\xd8\xff\xff\xff" + content[3:]) == SIZE  # filling between markers
    for junk in (b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\x00\x00" * 9, b"\xff\xd8" + bytes(90)):
        assert jpeg_size(junk) is None


def test_cmyk_as_adobe_writes_it(rgb, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(rgb.convert("CMYK"), "JPEG", quality=95))
    found = read_image(tmp_path / "a.jpg", SIZE).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - np.asarray(rgb).astype(int)).mean() < 3


def test_grayscale_16_bits_and_palette_with_alpha(rgb, tmp_path):
    gray = rgb.convert("L")
    (tmp_path / "a.jpg").write_bytes(encoded(gray, "PNG"))
    found = read_image(tmp_path / "a.jpg", SIZE)
    assert torch.equal(found[0], torch.from_numpy(np.array(gray)))
    assert torch.equal(found[0], found[2])
    deep = np.asarray(gray).astype(np.uint16) * 257
    (tmp_path / "b.png").write_bytes(encoded(Image.fromarray(deep), "PNG"))
    assert torch.equal(read_image(tmp_path / "b.png", SIZE), found)
    palette = rgb.convert("P")
    alpha = bytes(range(256))
    (tmp_path / "c.png").write_bytes(encoded(palette, "PNG", transparency=alpha))
    expected = torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(read_image(tmp_path / "c.png", SIZE), expected)


def test_animated_gif_is_its_first_frame(tmp_path):
    frames = [Image.new("P", SIZE, color) for color in (1, 2, 3)]
    for frame in frames:
        frame.putpalette([0, 0, 0, 250, 10, 20, 9, 99, 9, 1, 2, 3])
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    found = read_image(tmp_path / "a.gif", SIZE)
    assert found.reshape(3, -1).unique(dim=1).flatten().tolist() == [250, 10, 20]


def test_exif_rotated(rgb, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded(rgb, "JPEG", quality=95, exif=exif))
    stored, turned = (
        read_image(tmp_path / "a.jpg", SIZE),
        read_image(tmp_path / "a.jpg", SIZE[::-1]),
    )
    assert torch.equal(torch.rot90(stored, -1, (1, 2)), turned)
    assert [(r.width, r.height) for r in folder.stream(tmp_path).read().records] == [SIZE[::-1]]


def test_directory_named_like_an_image(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(ImageError, match=r"^cannot be read: Is a directory$"):
        read_image(tmp_path / "a.jpg", SIZE)


def test_no_permission_to_read(rgb, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(rgb, "JPEG"))
    (tmp_path / "a.jpg").chmod(0)
    if os.access(tmp_path / "a.jpg", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ImageError, match=r"^cannot be read: Permission denied$"):
        read_image(tmp_path / "a.jpg", SIZE)
    with pytest.raises(InputError, match=r"a\.jpg: cannot be read: Permission denied"):
        folder.stream(tmp_path).read()


def test_a_folder_of_all_of_them(rgb, tmp_path):
    """The reader leaves out what has no size; check finds what cannot be decoded."""
    root = tmp_path / "photos"
    root.mkdir()
    good = {"cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG"), "gif.gif": encoded(rgb, "GIF")}
    no_size = {"empty.jpg": b"", "bomb.png": png_of_size(50_000, 50_000), "html.jpg": b"<html>"}
    damaged = {"cut.jpg": encoded(rgb, "JPEG")[:-60], "lies.png": png_of_size(*SIZE)}
    for name, content in {**good, **no_size, **damaged}.items():
        (root / name).write_bytes(content)
    (root / "folder.jpg").mkdir()
    with pytest.raises(InputError, match=r"bomb\.png: header cannot be read: Image size"):
        folder.stream(root).read()
    source = folder.stream(root, Options(on_bad_image="drop"))
    index = build_index(source, tmp_path / "index")
    names = [index.file_name(row) for row in range(len(index))]
    assert names == sorted([*good, *damaged])
    told = (tmp_path / "index/dropped.tsv").read_text().splitlines()
    assert sorted(line.split("\t")[1] for line in told) == sorted(no_size)
    faults = check(index).faults
    assert [fault.file for fault in faults] == sorted(damaged)
    assert all(fault.kind == "image" for fault in faults)

    plan = ViewPlan(16, (Crop("a", "image", True),))
    loader = build_loader(
        *(index, plan, ViewSettings(size=16), AugmentSettings()),
        batch_size=4,
        seed=0,
        start_step=0,
        total_steps=1,
    )
    (batch,) = loader
    assert {Path(path).name for _, path, _ in batch.bad} == set(damaged)
    assert {index.file_name(row) for row in batch.rows.tolist()} == set(good)


@pytest.mark.parametrize("garbage", ["x", "{}", "\0", ', "a": 1}', "]"])
def test_json_with_trailing_garbage(make_coco, garbage):
    made = make_coco(2)
    text = made.annotations.read_text()
    made.annotations.write_text(f"{text}\n {garbage}")
    with pytest.raises(InputError) as caught:
        coco.read(made.annotations, made.images)
    assert str(caught.value) == (
        f"{made.annotations}: not valid JSON at line 2, column 2: Extra data; download or write "
        "the file again"
    )


def test_json_with_a_key_twice(make_coco):
    made = make_coco(2)
    text = made.annotations.read_text()
    made.annotations.write_text(text.replace('"annotations"', '"images"'))
    with pytest.raises(InputError, match=r"line 1, column .*: the key 'images' is there twice"):
        coco.read(made.annotations, made.images)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "property name"),
        ('{"images": [1 2]}', "Expecting ',' delimiter"),
        ('{"images" [1]}', "Expecting ':' delimiter"),
        ('{"images": [1,]}', "Expecting value|Illegal trailing comma"),
        ('{"images": [], }', "property name|Illegal trailing comma"),
        ('{"images": [{"id": 1, "id"', "delimiter"),
        ('{"images": ' + "[" * 200_000, "nested too deeply"),
    ],
)
def test_broken_json(make_coco, text, message):
    made = make_coco(1)
    made.annotations.write_text(text)
    with pytest.raises(InputError, match=message):
        coco.read(made.annotations, made.images)


def test_json_with_a_byte_order_mark(make_coco):
    made = make_coco(4)
    made.annotations.write_bytes(b"\xef\xbb\xbf" + made.annotations.read_bytes())
    assert len(coco.read(made.annotations, made.images).records) == 4


def test_none_and_500_boxes(make_coco, tmp_path):
    made = make_coco(2)
    made.document["annotations"] = []
    for number in range(500):
        made.annotate(11, [number % 40, number % 50, 7, 9])
    made.save()
    index = build_index(coco.stream(made.annotations, made.images), tmp_path / "index")
    assert (len(index.boxes(0)), len(index.boxes(1))) == (0, 500)
    assert check(index).faults == []
    plan = ViewPlan(16, (Crop("o", "object", False), Crop("s", "scene", False)))
    loader = build_loader(
        *(index, plan, ViewSettings(size=16, min_box_area=1), AugmentSettings()),
        batch_size=2,
        seed=0,
        start_step=0,
        total_steps=1,
    )
    (batch,) = loader
    fallback = dict(zip(batch.rows.tolist(), batch.fallback.tolist(), strict=True))
    assert fallback == {0: True, 1: False}


@pytest.mark.parametrize("box", [[10**400, 1, 2, 3], [1, 2, 2**70, 3]])
def test_numbers_beyond_any_image(make_coco, box):
    made = make_coco(1)
    number = made.annotate(10, box)
    made.save()
    with pytest.raises(InputError, match=f"not a list of 4 numbers: annotation {number}: "):
        coco.read(made.annotations, made.images)


def test_ids_beyond_64_bits(make_coco):
    made = make_coco(1)
    made.document["images"][0]["id"] = 2**63
    made.save()
    with pytest.raises(InputError, match="'id' of images is not an integer"):
        coco.read(made.annotations, made.images)
