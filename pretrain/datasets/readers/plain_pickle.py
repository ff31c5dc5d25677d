"""numpy's files of Python objects, read without letting them run anything.

A pickle is a program: it may name any function and call it. This reader knows stand-ins for the
few names numpy writes for arrays and scalars, and refuses every other name. Arrays of numbers are
made by this module from their bytes, not by the pickle.
"""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from pretrain.core.errors import InputError

_PLAIN = re.compile(r"[<>|=]?[biufUS][0-9]{1,6}")
"""Types of numbers and text."""

_OBJECTS = re.compile(r"\|?O[0-9]*")


class _Dtype:
    """A type by its name; byte order comes with the state."""

    def __init__(self, name: str, *_: Any) -> None:
        if not isinstance(name, str) or not (_PLAIN.fullmatch(name) or _OBJECTS.fullmatch(name)):
            raise pickle.UnpicklingError(f"an array of type {name!r:.40}")
        self.name = name
        self.order = "|"

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("an array type of an unknown form")
        self.order = state[1]

    @property
    def holds_objects(self) -> bool:
        return _OBJECTS.fullmatch(self.name) is not None

    def real(self) -> np.dtype[Any]:
        order: Any = "=" if self.order == "|" else self.order
        return np.dtype(self.name).newbyteorder(order)


class _Array:
    """An array being filled: its values as a flat list."""

    def __init__(self, *_: Any) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.values: list[Any] = []

    def __setstate__(self, state: Any) -> None:
        try:
            _, shape, dtype, _, data = state
            count = 1
            for length in shape:
                count *= int(length)
        except (TypeError, ValueError):
            raise pickle.UnpicklingError("an array of an unknown form") from None
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("an array without a type")
        self.shape = tuple(shape)
        if dtype.holds_objects:
            if not isinstance(data, list) or len(data) != count:
                raise pickle.UnpicklingError("an array of another length than its shape")
            self.values = data
        else:
            self.values = _values(dtype, data, count)


def _values(dtype: _Dtype, data: Any, count: int) -> list[Any]:
    real = dtype.real()
    if not isinstance(data, bytes) or len(data) != count * real.itemsize:
        raise pickle.UnpicklingError("an array of another length than its shape")
    if not real.itemsize:
        return [""] * count
    if real.kind == "U":
        points = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(real.byteorder))
        if (points > sys.maxunicode).any():
            raise pickle.UnpicklingError("text that is no Unicode")
    values: list[Any] = np.frombuffer(data, real).tolist()
    return values


def _scalar(dtype: Any, data: Any = None) -> Any:
    if not isinstance(dtype, _Dtype) or dtype.holds_objects:
        raise pickle.UnpicklingError("a scalar of an unknown form")
    return _values(dtype, data, 1)[0]


def _latin1(text: Any, encoding: Any) -> bytes:
    """How old protocols write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes of an unknown form")
    return text.encode("latin1")


_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _NAMES[_module, "_reconstruct"] = _Array
    _NAMES[_module, "scalar"] = _scalar


class _Maker:
    """Hands on a call, and nothing else: a pickle can set no attribute of what it names."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _Maker(_NAMES[module, name])
        except KeyError:
            asked = ascii(f"{module}.{name}")[1:-1]
            raise pickle.UnpicklingError(f"it asks for {asked:.80}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it asks for objects outside the file")


def load_dictionary(file: Path, setting: str) -> dict[Any, Any]:
    """The dictionary in a file written by ``np.save(file, dictionary)``.

    Arrays in it arrive as (nested) lists of their values where they have one axis.

    Raises:
        InputError: the file cannot be read, holds something else, or asks for anything but
            containers, text, numbers and arrays.
    """
    try:
        with file.open("rb") as opened:
            _read_header(file, opened)
            content = _Unpickler(opened).load()
    except OSError as error:
        raise InputError(
            f"{file}: cannot read the file ({error.strerror}); check {setting}"
        ) from None
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{file}: refused, as it may run code or is damaged: {error}; only containers, text, "
            "numbers and arrays are read"
        ) from None
    except InputError:
        raise
    except (EOFError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise InputError(f"{file}: damaged: {error!a:.100}; download the file again") from None
    except (MemoryError, RecursionError):
        raise InputError(f"{file}: damaged or not made by numpy; download it again") from None
    if isinstance(content, _Array) and content.shape == () and len(content.values) == 1:
        content = content.values[0]
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds no dictionary; check {setting}")
    return content


def plain(value: Any) -> Any:
    """An array of one axis as a list, any other value as it is."""
    return value.values if isinstance(value, _Array) else value


def _read_header(file: Path, opened: BinaryIO) -> None:
    try:
        version = npy.read_magic(opened)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(opened)
    except ValueError:
        raise InputError(f"{file}: not a file of numpy's; check the path") from None
    if shape != () or not dtype.hasobject:
        raise InputError(f"{file}: holds an array of {dtype} {shape}, not a dictionary")
