"""What determines a set of scenes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pretrain.core.errors import InputError
from pretrain.datasets.scenes.procedural import ProceduralSource
from pretrain.datasets.scenes.scene_source import Source

GENERATOR = "hcl data scenes"
VERSION = "1"
"""Of what the generator draws: it changes whenever the same seed gives other bytes."""
MIN_SIZE = 64
MAX_SIZE = 2048
Record = dict[str, Any]
"""An object of a JSON file."""


@dataclass(frozen=True)
class SceneSet:
    """What to generate.

    Attributes:
        images: number of training images.
        val: number of validation images.
        seed: of everything random.
        size: side of the square images in pixels.
        out_of_context: share of scenes with one foreign object.
        source: of objects and backgrounds.
    """

    images: int
    val: int
    seed: int
    size: int = 256
    out_of_context: float = 0.15
    source: Source = field(default_factory=ProceduralSource)

    def __post_init__(self) -> None:
        faults = []
        if self.images < 1:
            faults.append(f"--images must be at least 1, got {self.images}")
        if self.val < 0:
            faults.append(f"--val must be 0 or more, got {self.val}")
        if self.seed < 0:
            faults.append(f"--seed must be 0 or more, got {self.seed}")
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            faults.append(f"--size must be {MIN_SIZE} to {MAX_SIZE} pixels, got {self.size}")
        if not 0.0 <= self.out_of_context <= 1.0:
            faults.append(f"--out-of-context must be 0 to 1, got {self.out_of_context}")
        if faults:
            raise InputError("; ".join(faults))

    def splits(self) -> list[tuple[str, int, int]]:
        """Name, first image id and number of images of each split."""
        splits = [("train", 1, self.images)]
        return [*splits, ("val", 1 + self.images, self.val)] if self.val else splits

    def info(self) -> Record:
        """The ``info`` of the annotation files: all that determines the set."""
        return {
            "description": self.source.description,
            "generator": GENERATOR,
            "version": VERSION,
            "source": self.source.name,
            "seed": self.seed,
            "images": self.images,
            "val": self.val,
            "size": self.size,
            "out_of_context": self.out_of_context,
            **self.source.info(),
            "contexts": {
                name: [category.name for category in members]
                for name, members in self.source.world.contexts.items()
            },
        }
