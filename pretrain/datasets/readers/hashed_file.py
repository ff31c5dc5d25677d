"""Text files that are read once, line by line, and hashed on the way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from pretrain.core.errors import InputError


class HashedFile:
    """A text file: its lines, and the sha256 of the bytes read so far.

    Args:
        path: of the file.
        setting: that names it, for messages.

    Raises:
        InputError: the file cannot be opened.
    """

    def __init__(self, path: Path, setting: str) -> None:
        try:
            self._file = path.open("rb")
            self.stat = os.fstat(self._file.fileno())
        except OSError as error:
            raise InputError(
                f"{path}: cannot read the file ({error.strerror}); check {setting}"
            ) from None
        self.path = path
        self._digest = hashlib.sha256()

    def lines(self) -> Iterator[str]:
        """The lines, decoded as UTF-8; a byte-order mark is skipped.

        Raises:
            InputError: not UTF-8, naming the line.
        """
        with self._file:
            for number, line in enumerate(self._file, start=1):
                self._digest.update(line)
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{self.path}: line {number} is not text in UTF-8 ({error.reason}); "
                        "download the file again"
                    ) from None

    @property
    def sha256(self) -> str:
        """Of what was read."""
        return self._digest.hexdigest()
