"""Scenes from picture files, on small synthetic cut-outs and backgrounds."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pretrain.core.errors import InputError
from pretrain.datasets.scenes import sprites
from pretrain.datasets.scenes.coco_writer import annotation_file, write
from pretrain.datasets.scenes.contexts import Category, World
from pretrain.datasets.scenes.cutouts import CLUTTER, Bank, CutoutSource, Picture
from pretrain.datasets.scenes.scene_set import SceneSet
from pretrain.datasets.scenes.scene_source import Light

LIGHT = Light((0.0, -1.0), np.ones(3, np.float32))
WORLD = World(
    (
        Category("disc", ("north",), "free"),
        Category("box", ("north", "south")),
        Category("bar", ("south",), "leaning"),
    ),
    ("north", "south"),
)
COLORS = {"disc": (220, 30, 30), "box": (30, 200, 40), "bar": (40, 60, 230)}


def cutout(path: Path, kind: str, side: int, shade: int = 0) -> Picture:
    """An antialiased form in one color; transparent pixels are white, which must never show."""
    fine = 4
    alpha = Image.new("L", (side * fine, side * fine))
    pen, end = ImageDraw.Draw(alpha), side * fine
    if kind == "disc":
        pen.ellipse((8, 8, end - 8, end - 8), fill=255)
    else:
        pen.rectangle((8, 8, end - 8, end - 8 if kind == "box" else end // 3), fill=255)
    image = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    color = Image.new("RGBA", (side, side), tuple(max(c - shade, 0) for c in COLORS[kind]))
    mask = alpha.reduce(fine)
    image.paste(color, (0, 0), mask.point(lambda value: 255 if value else 0))
    image.putalpha(mask)
    image.save(path)
    return Picture(path.stem, path)


def photo(path: Path, seed: int, size: tuple[int, int] = (200, 150)) -> Picture:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
    return Picture(path.stem, path)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> CutoutSource:
    folder = tmp_path_factory.mktemp("pictures")
    banks = {}
    for number, split in enumerate(("train", "val")):
        banks[split] = Bank(
            {
                kind: tuple(
                    cutout(folder / f"{kind}_{split}_{n}.png", kind, 60 + 20 * n, 20 * n)
                    for n in range(2)
                )
                for kind in COLORS
            },
            (cutout(folder / f"other_{split}.png", "disc", 70, 100),),
            tuple(photo(folder / f"ground_{split}_{n}.jpg", 10 * number + n) for n in range(3)),
        )
    return CutoutSource("photos", "Small photographs", WORLD, banks, {"small": "1-2"})


def test_a_set_of_scenes_keeps_the_splits_apart(source: CutoutSource, tmp_path: Path) -> None:
    wanted = SceneSet(24, 12, seed=3, size=96, out_of_context=0.3, source=source)
    folder = tmp_path / "set"
    assert write(wanted, folder) == "made"
    assert write(wanted, folder) == "present"
    shown: dict[str, set[str]] = {}
    for split, count in (("train", 24), ("val", 12)):
        document = json.loads(annotation_file(folder, split).read_text())
        info = document["info"]
        assert info["source"] == "photos"
        assert info["packages"] == {"small": "1-2"}
        assert info["pictures"][split] == {"cutouts": 6, "distractors": 1, "backgrounds": 3}
        assert info["contexts"] == {"north": ["disc", "box"], "south": ["box", "bar"]}
        assert [c["name"] for c in document["categories"]] == list(COLORS)
        assert len(document["images"]) == count
        names = {c["id"]: c["name"] for c in document["categories"]}
        for image in document["images"]:
            assert image["background"].startswith(f"ground_{split}_")
        for entry in document["annotations"]:
            kind, part, _ = entry["cutout"].split("_")
            assert (kind, part) == (names[entry["category_id"]], split)
        shown[split] = {entry["cutout"] for entry in document["annotations"]}
        assert len(shown[split]) == 6
    other = SceneSet(24, 12, seed=3, size=96, out_of_context=0.3)
    with pytest.raises(InputError, match="source 'photos' instead of 'procedural'"):
        write(other, folder)


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(
    source: CutoutSource, tmp_path: Path
) -> None:
    wanted = SceneSet(4, 2, seed=1, size=64, source=source)
    write(wanted, tmp_path / "one", workers=1)
    write(wanted, tmp_path / "two", workers=2)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.j*"))
    assert len(files) == 6 + 2
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_sprite_is_the_picture_without_fringes(tmp_path: Path) -> None:
    picture = cutout(tmp_path / "disc.png", "disc", 100)
    loaded = sprites.load_cutout(picture.path)
    for angle in (0.0, 0.6, 2.0):
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        sprite = sprites.posed(loaded, turn, 64)
        red, green, blue, alpha = np.moveaxis(sprite, 2, 0)
        assert sprite.dtype == np.float32
        assert max(sprite.shape[:2]) <= 64 + 2
        # A disc of the same area wherever it is turned; its bounds are those of its square.
        extent = abs(math.cos(angle)) + abs(math.sin(angle))
        radius = 32 / extent
        assert alpha.sum() == pytest.approx(math.pi * radius**2, rel=0.05)
        seen = alpha > 0.4  # below, eight bits of a product say little of the color
        # The white of transparent pixels would lift green and blue at the edge.
        for channel, value in ((red, 220), (green, 30), (blue, 30)):
            assert np.abs(channel[seen] - value / 255).max() < 0.06
        assert 0 <= sprite.min() <= sprite.max() <= 1


def test_a_flipped_and_sheared_sprite_follows_its_map(tmp_path: Path) -> None:
    """The bar lies in the upper third; mirrored downwards it lies in the lower one."""
    loaded = sprites.load_cutout(cutout(tmp_path / "bar.png", "bar", 90).path)
    assert loaded.width == pytest.approx(3 * loaded.height, rel=0.1)  # cropped to what is there
    upright = sprites.posed(loaded, np.eye(2), 60)
    assert upright.shape[1] > 2.5 * upright.shape[0]
    quarter = sprites.posed(loaded, np.array([[0.0, -1.0], [1.0, 0.0]]), 60)
    assert quarter.shape[0] > 2.5 * quarter.shape[1]
    sheared = sprites.posed(loaded, np.array([[1.0, 0.9], [0.0, 1.0]]), 60)
    rows = sheared[..., 3] >= 0.5
    middle = [np.flatnonzero(row).mean() for row in rows if row.any()]
    assert middle[-1] > middle[0] + 5  # further right the further down


def test_small_pictures_stay_small_and_large_ones_are_kept_small(tmp_path: Path) -> None:
    small = sprites.load_cutout(cutout(tmp_path / "small.png", "box", 20).path)
    assert max(sprites.posed(small, np.eye(2), 200).shape[:2]) <= 20 * sprites.MAX_ENLARGEMENT + 2
    large = sprites.load_cutout(cutout(tmp_path / "large.png", "box", 700).path)
    assert max(large.size) == sprites.CUTOUT_SIDE
    wide = sprites.load_photo(photo(tmp_path / "wide.jpg", 0, (3000, 2400)).path)
    assert min(wide.size) == sprites.PHOTO_SIDE
    assert wide.size[0] / wide.size[1] == pytest.approx(1.25, rel=0.01)


def test_edges_are_of_every_kind_and_leave_the_inside_alone(tmp_path: Path) -> None:
    loaded = sprites.load_cutout(cutout(tmp_path / "disc.png", "disc", 120).path)
    plain = sprites.posed(loaded, np.eye(2), 100)
    solid = (plain[..., 3] >= 0.5).sum()
    partial = []
    for seed in range(80):
        sprite = sprites.edged(plain.copy(), np.random.default_rng(seed))
        alpha = sprite[..., 3]
        assert 0 <= sprite.min() <= sprite.max() <= 1
        assert 0.75 < (alpha >= 0.5).sum() / solid < 1.1
        height, width = alpha.shape
        center = sprite[height // 2 - 5 : height // 2 + 5, width // 2 - 5 : width // 2 + 5]
        np.testing.assert_allclose(center[..., 3], 1, atol=0.01)
        np.testing.assert_allclose(center[..., 0], 220 / 255, atol=0.02)
        partial.append(int(((alpha > 0.02) & (alpha < 0.98)).sum()))
    crisp, as_it_is = min(partial), int(((plain[..., 3] > 0.02) & (plain[..., 3] < 0.98)).sum())
    assert crisp < as_it_is < max(partial) / 2


def test_clutter_is_of_every_kind_in_its_share(
    source: CutoutSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: Counter[str] = Counter()
    pick = sprites.pick

    def noted(choices, rng):
        chosen = pick(choices, rng)
        if choices is CLUTTER:
            kinds[chosen] += 1
        return chosen

    monkeypatch.setattr(sprites, "pick", noted)
    rng = np.random.default_rng(0)
    for _ in range(250):
        sprite = source.draw_clutter(96, LIGHT, rng)
        assert sprite.ndim == 3
        assert sprite.shape[2] == 4
        assert 0 <= sprite.min() <= sprite.max() <= 1
    difference = sum(
        (kinds[kind] - 250 * share) ** 2 / (250 * share) for kind, share in CLUTTER.items()
    )
    assert difference < 16.27  # 3 degrees of freedom, 0.999
    assert sum(CLUTTER.values()) == pytest.approx(1)
    assert sum(sprites.EDGES.values()) == pytest.approx(1)


def test_backgrounds_are_of_the_split_and_half_of_them_have_shadows(source: CutoutSource) -> None:
    rng = np.random.default_rng(0)
    seen: Counter[str | None] = Counter()
    shadows = 0
    for _ in range(120):
        background = source.of_split("val").draw_background("north", 48, rng)
        assert background.image.shape == (48, 48, 3)
        assert background.image.dtype == np.float32
        assert 0 <= background.image.min() <= background.image.max() <= 1
        seen[background.name] += 1
        shadows += background.shadow > 0
    assert sorted(map(str, seen)) == [f"ground_val_{n}" for n in range(3)]
    assert abs(shadows - 60) < 4 * math.sqrt(30)


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    for name, load in (("x.png", sprites.load_cutout), ("x.jpg", sprites.load_photo)):
        (tmp_path / name).write_bytes(b"\x89PNG nothing")
        with pytest.raises(InputError, match=rf"{name}: cannot be read"):
            load(tmp_path / name)
