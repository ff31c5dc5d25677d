"""A small data set in COCO's format, with real JPEG files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SIZES = [(64, 48), (48, 64), (80, 60), (50, 50), (90, 40)]


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colors with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(6 * (a * x + b * y) + c) for a, b, c in rng.uniform(0, 3, (3, 3))]
    pixels = 128 + 100 * np.stack(waves, -1) + rng.normal(0, 8, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@dataclass
class CocoFolder:
    """A written data set; change ``document`` and call ``save``."""

    root: Path
    document: dict[str, Any]

    @property
    def annotations(self) -> Path:
        return self.root / "instances.json"

    @property
    def images(self) -> Path:
        return self.root / "images"

    def save(self) -> None:
        self.annotations.write_text(json.dumps(self.document))

    def annotate(self, image: int, box: list[float], category: int = 7, **more: Any) -> int:
        """Add an annotation and return its id."""
        number = 1000 + len(self.document["annotations"])
        entry = {"id": number, "image_id": image, "category_id": category, "bbox": box}
        self.document["annotations"].append(entry | {"iscrowd": 0} | more)
        return number


@pytest.fixture
def make_coco(tmp_path: Path) -> Callable[..., CocoFolder]:
    """Write ``count`` images; image ``10 + i`` has ``i % 5`` boxes of varied size."""

    def make(count: int = 10, name: str = "set") -> CocoFolder:
        folder = CocoFolder(tmp_path / name, {"images": [], "annotations": [], "categories": []})
        folder.images.mkdir(parents=True)
        document = folder.document
        document["categories"] = [{"id": 7, "name": "mug"}, {"id": 3, "name": "lamp"}]
        rng = np.random.default_rng(count)
        for number in range(count):
            width, height = SIZES[number % len(SIZES)]
            file_name = f"{number:06d}.jpg"
            picture(width, height, number).save(folder.images / file_name, quality=92)
            document["images"].append(
                {"id": 10 + number, "file_name": file_name, "width": width, "height": height}
            )
            for box in range(number % 5):
                x, y = rng.uniform(0, width / 2), rng.uniform(0, height / 2)
                w, h = rng.uniform(8, width - x), rng.uniform(8, height - y)
                folder.annotate(10 + number, [x, y, w, h], category=(3, 7)[box % 2])
        folder.save()
        return folder

    return make
