from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data import decode as module
from pretrain.data.decode import (
    ImageError,
    Scratch,
    decode,
    decode_pillow,
    decode_simplejpeg,
    decode_torchvision,
    read_image,
)


@pytest.fixture
def rgb() -> Image.Image:
    y, x = np.mgrid[0:40, 0:60]
    return Image.fromarray(np.stack([4 * x, 6 * y, 2 * (x + y)], -1).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(image: torch.Tensor) -> np.ndarray:
    assert image.dtype == torch.uint8
    return image.permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_both_decoders_of_jpeg_agree(rgb, options):
    content = encode(rgb, "JPEG", quality=90, **options)
    assert torch.equal(decode_torchvision(content), decode_pillow(content))
    assert torch.equal(decode(content), decode_pillow(content))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_kinds_are_exact(rgb, kind):
    np.testing.assert_array_equal(pixels(decode(encode(rgb, kind))), np.asarray(rgb))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_of_other_modes(rgb, mode):
    converted = rgb.convert(mode)
    found = pixels(decode(encode(converted, "JPEG", quality=95)))
    assert np.abs(found - np.asarray(converted.convert("RGB")).astype(int)).mean() < 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_png_of_other_modes(rgb, mode):
    converted = rgb.convert(mode)
    found = pixels(decode(encode(converted, "PNG")))
    np.testing.assert_array_equal(found, np.asarray(converted.convert("RGB")))


@pytest.mark.filterwarnings("error")
def test_palette_with_transparency(rgb):
    palette = rgb.convert("P")
    found = pixels(decode(encode(palette, "PNG", transparency=bytes(range(256)))))
    np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))


def test_16_bits_are_scaled_not_cut_off():
    values = (np.arange(40 * 60).reshape(40, 60) * 27).astype(np.uint16)
    found = pixels(decode(encode(Image.fromarray(values), "PNG")))
    np.testing.assert_array_equal(found, np.repeat((values >> 8)[..., None], 3, -1))


def test_32_bits_are_refused():
    content = encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(ImageError, match="32 bits per channel"):
        decode(content)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("lost", [1, 2, 100, 0.5, 0.9])
def test_truncated_jpeg_is_found_by_both_decoders(rgb, progressive, lost):
    content = encode(rgb, "JPEG", quality=95, progressive=progressive)
    content = content[: -(lost if isinstance(lost, int) else int(lost * len(content)))]
    with pytest.raises(RuntimeError, match="incomplete or truncated"):
        decode_torchvision(content)
    with pytest.raises(ImageError, match=r"(?i)truncated|not an image"):
        decode_pillow(content)
    with pytest.raises(ImageError):
        decode(content)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "GIF"])
def test_truncated_files_of_other_kinds(rgb, kind):
    content = encode(rgb, kind)
    with pytest.raises(ImageError):
        decode(content[: len(content) // 2])


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\xff\xd8\xff", b"\0" * 50])
def test_files_that_are_no_images(content):
    with pytest.raises(ImageError, match=r"empty|not an image"):
        decode(content)


def test_missing_file(tmp_path):
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        read_image(tmp_path / "gone.jpg", (4, 4))


def test_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        read_image(tmp_path, (4, 4))


def test_other_size_than_annotated(rgb, tmp_path):
    file = tmp_path / "a.png"
    rgb.save(file)
    assert read_image(file, (60, 40)).shape == (3, 40, 60)
    with pytest.raises(ImageError, match="it has 60x40 px, but the annotations say 61x40"):
        read_image(file, (61, 40))
    with pytest.raises(ImageError, match="it has 60x40 px, but the annotations say 40x60"):
        read_image(file, (40, 60))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_turned_only_where_the_annotations_are(rgb, tmp_path, kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    file = tmp_path / "a"
    file.write_bytes(encode(rgb, kind, exif=exif))
    stored, upright = read_image(file, (60, 40)), read_image(file, (40, 60))
    assert torch.equal(torch.rot90(stored, -1, (1, 2)), upright)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_the_optional_decoder_gives_the_same_pixels(rgb, mode, options):
    pytest.importorskip("simplejpeg", reason="simplejpeg is optional and not installed")
    content = encode(rgb.convert(mode), "JPEG", quality=90, **options)
    expected = decode_pillow(content)
    assert torch.equal(decode_simplejpeg(content), expected)
    assert torch.equal(decode_simplejpeg(content, Scratch()), expected)


@pytest.mark.parametrize("lost", [1, 2, 100, 1000])
def test_the_optional_decoder_finds_truncation(rgb, lost):
    pytest.importorskip("simplejpeg", reason="simplejpeg is optional and not installed")
    content = encode(rgb, "JPEG", quality=95)
    with pytest.raises(ValueError, match=r"."):
        decode_simplejpeg(content[:-lost])


def test_the_optional_decoder_leaves_cmyk_to_the_others(rgb):
    pytest.importorskip("simplejpeg", reason="simplejpeg is optional and not installed")
    with pytest.raises(ValueError, match="color space CMYK"):
        decode_simplejpeg(encode(rgb.convert("CMYK"), "JPEG"))


def test_the_same_without_the_optional_decoder(rgb, monkeypatch):
    content = encode(rgb, "JPEG", quality=90)
    first = decode(content)
    monkeypatch.setattr(module, "simplejpeg", None)
    assert torch.equal(decode(content), first)


def test_scratch_memory_is_used_again(rgb, tmp_path):
    scratch, content = Scratch(), encode(rgb, "JPEG", quality=90)
    file, small = tmp_path / "a.jpg", tmp_path / "b.jpg"
    file.write_bytes(content)
    small.write_bytes(encode(rgb.resize((30, 20)), "JPEG", quality=90))
    first = read_image(file, (60, 40), scratch)
    assert torch.equal(first, decode_pillow(content))
    second = read_image(small, (30, 20), scratch)
    assert torch.equal(second, decode(small.read_bytes()))
    if module.simplejpeg is not None:
        assert first.data_ptr() == second.data_ptr()
