"""The packed cache: decoded images, pre-shrunk, in a few large files that are mapped.

Decoding is most of what a worker does. Where disk space is cheaper than cores, a pack does it
once: a folder of ``shard-*.raw`` (raw bytes, image after image, each (height, width, 3) RGB),
``sizes.npy`` (int32 (n, 2)), ``offsets.npy`` (int64 (n,), within the row's shard) and
``pack.json``. ``packing.write`` makes it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.core.errors import InputError
from pretrain.core.files import read_versioned, sha256
from pretrain.data.decode import ImageError
from pretrain.data.index import Index

VERSION = 1
META = "pack.json"


class Pack:
    """The images of an index, by row.

    Attributes:
        folder: where the pack lies.
        meta: version, side, fingerprint of the index, shards with their checksums, bad images.
    """

    def __init__(
        self,
        folder: Path,
        meta: dict[str, Any],
        sizes: NDArray[np.int32],
        offsets: NDArray[np.int64],
    ) -> None:
        self.folder = folder
        self.meta = meta
        self._sizes = sizes
        self._offsets = offsets
        self._rows_per_shard = int(meta["rows_per_shard"])
        self._bad = {int(row): str(reason) for row, reason in meta["bad"]}
        self._shards: dict[int, NDArray[np.uint8]] = {}

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a complete pack is here, sound or not."""
        return (folder / META).is_file()

    @classmethod
    def open(cls, folder: Path) -> Pack:
        """Map a pack; its images are not read.

        Raises:
            InputError: there is none, it is incomplete or damaged, or of another version.
        """
        missing = "run hcl data pack, which goes on where it was interrupted"
        remedy = "delete the folder and pack again"
        meta = read_versioned(folder / META, VERSION, "complete pack", missing, remedy)
        try:
            sizes = np.load(folder / "sizes.npy", mmap_mode="r", allow_pickle=False)
            offsets = np.load(folder / "offsets.npy", mmap_mode="r", allow_pickle=False)
            if sizes.shape != (meta["count"], 2) or offsets.shape != (meta["count"],):
                raise ValueError(f"{len(sizes)} sizes, {len(offsets)} offsets")
            for number, shard in enumerate(meta["shards"]):
                found = shard_file(folder, number).stat().st_size
                if found != shard["bytes"]:
                    raise ValueError(
                        f"{shard_file(folder, number).name} has {found} bytes, not {shard['bytes']}"
                    )
            return cls(folder, meta, sizes, offsets)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: damaged pack ({error}); {remedy}") from None

    def __len__(self) -> int:
        return len(self._sizes)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker gets the name and maps the same pages, whatever the start method.
        return Pack.open, (self.folder,)

    @property
    def side(self) -> int | None:
        """Greatest shorter side of an image, px; None: as in the files."""
        side: int | None = self.meta["side"]
        return side

    @property
    def sizes(self) -> NDArray[np.int32]:
        """Width and height of all images in the pack, px: (n, 2)."""
        return self._sizes

    def size(self, row: int) -> tuple[int, int]:
        """Width and height in the pack, px; 0 of an image that could not be read."""
        width, height = self._sizes[row]
        return int(width), int(height)

    def image(self, row: int) -> Tensor:
        """The image as uint8 (3, height, width), RGB; not to be written to.

        Raises:
            ImageError: it could not be read when the pack was made.
        """
        if row in self._bad:
            raise ImageError(self._bad[row])
        width, height = self.size(row)
        start = int(self._offsets[row])
        pixels = self._shard(row // self._rows_per_shard)[start : start + 3 * width * height]
        return torch.from_numpy(pixels.reshape(height, width, 3)).permute(2, 0, 1)

    def _shard(self, number: int) -> NDArray[np.uint8]:
        if number not in self._shards:
            # Private pages instead of read-only ones: torch has no tensors that must not be
            # written to. Nobody writes, so all processes share the system's cache of the file.
            file = shard_file(self.folder, number)
            self._shards[number] = np.asarray(np.memmap(file, np.uint8, mode="c"))
        return self._shards[number]

    def check(self, index: Index) -> None:
        """Whether this pack holds the images of this index, whatever their boxes.

        Raises:
            InputError: it does not.
        """
        if self.meta["fingerprint"] == index.fingerprint:
            return
        if len(self) != len(index) or self.meta["images"] != image_digest(index):
            raise InputError(
                f"{self.folder}: this pack was made of other images than those of the index "
                f"{index.folder}; make one with: hcl data pack {index.folder} -o OUT"
            )

    def verify(self) -> None:
        """Read everything and compare it with the checksums.

        Raises:
            InputError: a shard is not what was written.
        """
        for number, shard in enumerate(self.meta["shards"]):
            file = shard_file(self.folder, number)
            if sha256(file) != shard["sha256"]:
                raise InputError(
                    f"{file}: the content has changed since it was written (sha256); delete the "
                    "folder and pack again"
                )


def open_pack(folder: str | None, index: Index) -> Pack | None:
    """The pack of ``data.pack``, if there is one.

    Raises:
        InputError: it cannot be opened, or is of other images than the index.
    """
    if folder is None:
        return None
    pack = Pack.open(Path(folder))
    pack.check(index)
    return pack


def shard_file(folder: Path, number: int) -> Path:
    """Where the shard's images lie."""
    return folder / f"shard-{number:05d}.raw"


def image_digest(index: Index) -> str:
    """sha256 of the names and sizes of all images."""
    digest = hashlib.sha256()
    for row in range(len(index)):
        width, height = index.size(row)
        digest.update(f"{index.file_name(row)}\0{width}x{height}\n".encode())
    return digest.hexdigest()
