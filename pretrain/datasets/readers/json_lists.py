"""JSON files of long lists, decoded an entry at a time.

A file of annotations is mostly outlines that are not needed. Decoded whole, COCO's train2017 takes
several GB; here an entry lives only until what is wanted of it has been taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.core.errors import InputError

_SPACE = re.compile(r"[ \t\n\r]*")


def load(
    file: Path, kind: str, wanted: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Any], os.stat_result, str]:
    """Read an object whose values are lists of objects.

    Args:
        file: to read.
        kind: what it should be, for messages.
        wanted: keys of the entries to keep, by the name of the list; other lists are kept as
            empty lists, other values as they are.

    Returns:
        the object, the file's state, its sha256.

    Raises:
        InputError: not readable, or not such a file; with line and column.
    """
    try:
        with file.open("rb") as opened:
            stat = os.fstat(opened.fileno())
            content = opened.read()
    except OSError as error:
        raise InputError(
            f"{file}: cannot read the annotation file ({error.strerror}); check data.annotations"
        ) from None
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not JSON in UTF-8 ({error.reason} at {error.start})") from None
    del content
    try:
        document = _Scanner(text, wanted).document()
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}; "
            "download or write the file again"
        ) from None
    except RecursionError:
        raise InputError(f"{file}: not a {kind}: its values are nested too deeply") from None
    if not isinstance(document, dict):
        raise InputError(f"{file}: not a {kind}: the outermost value must be an object")
    return document, stat, sha256


class _Scanner:
    def __init__(self, text: str, wanted: Mapping[str, Sequence[str]]) -> None:
        self.text = text
        self.wanted = wanted
        self.at = 0
        self._decode = json.JSONDecoder().raw_decode

    def document(self) -> Any:
        value = self._object() if self._peek() == "{" else self._value()
        if self._peek():
            raise json.JSONDecodeError("Extra data", self.text, self.at)
        return value

    def _object(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in self._items("}"):
            if self._peek() != '"':
                message = "Expecting property name enclosed in double quotes"
                raise json.JSONDecodeError(message, self.text, self.at)
            start = self.at
            key = self._value()
            if key in found:
                raise json.JSONDecodeError(f"the key {key!r} is there twice", self.text, start)
            self._expect(":")
            found[key] = self._list(key) if self._peek() == "[" else self._value()
        return found

    def _list(self, key: str) -> list[Any]:
        """A list; of its objects only the wanted entries."""
        wanted = self.wanted.get(key)
        found: list[Any] = []
        for _ in self._items("]"):
            value = self._value()
            if wanted is not None:
                if isinstance(value, dict):
                    value = {name: value[name] for name in wanted if name in value}
                found.append(value)
        return found

    def _items(self, close: str) -> Iterator[None]:
        """From the opening bracket to past the closing one; a step where each item begins."""
        self.at += 1
        if self._peek() != close:
            yield
            while self._peek() != close:
                self._expect(",")
                yield
        self.at += 1

    def _value(self) -> Any:
        self._peek()
        value, self.at = self._decode(self.text, self.at)
        return value

    def _peek(self) -> str:
        """The next character that is no space; empty at the end."""
        match = _SPACE.match(self.text, self.at)
        assert match is not None, "the pattern matches the empty string"
        self.at = match.end()
        return self.text[self.at : self.at + 1]

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            raise json.JSONDecodeError(f"Expecting '{character}' delimiter", self.text, self.at)
        self.at += 1
