"""Cars-196: the first 98 models to train on, in both layouts that are in circulation.

Both hold the same 16,185 images; the official division into training and test images is not the
one of metric learning, which divides the classes, and is not looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from downstream.retrieval.datasets.labeled_images import Item, LabeledImages, collect
from pretrain.core.errors import InputError

FOLDER = "cars196"
TRAIN_CLASSES = 98
JOINT = "cars_annos.mat"
TRAIN_LIST = "cars_train_annos.mat"
TEST_LIST = "cars_test_annos_withlabels.mat"
REMEDY = (
    f"unpack car_ims.tgz and put {JOINT} beside car_ims, or unpack cars_train.tgz and "
    f"cars_test.tgz and put {TRAIN_LIST} and {TEST_LIST} beside them or into devkit"
)


def read(root: Path) -> LabeledImages:
    """Read ``cars_annos.mat`` with its ``car_ims``, or the lists of ``cars_train``, ``cars_test``.

    Raises:
        InputError: neither is there, the test images' labels are missing, or a list is damaged.
    """
    for base in (root, root / FOLDER, root / "stanford_cars"):
        if (base / JOINT).is_file():
            return _collect(base, _pairs(base / JOINT, "relative_im_path"))
        lists = [_find(base, name) for name in (TRAIN_LIST, TEST_LIST)]
        if lists[0] is not None and lists[1] is not None:
            pairs = _pairs(lists[0], "fname", "cars_train/")
            return _collect(base, pairs + _pairs(lists[1], "fname", "cars_test/"))
        if lists[0] is not None:
            raise InputError(
                f"{base / TEST_LIST}: not there; cars_test_annos.mat holds no classes, get the "
                "list with labels and put it there or into devkit"
            )
    raise InputError(f"{root / JOINT}: not there; {REMEDY}")


def _find(base: Path, name: str) -> Path | None:
    return next((f for f in (base / "devkit" / name, base / name) if f.is_file()), None)


def _collect(base: Path, pairs: list[tuple[str, int]]) -> LabeledImages:
    # By class, then by name: the order does not depend on the layout's lists.
    items = [
        Item(path, f"{number:03d}", "train" if number <= TRAIN_CLASSES else "test")
        for path, number in sorted(pairs, key=lambda pair: (pair[1], pair[0]))
    ]
    return collect("cars", base, items)


def _pairs(file: Path, column: str, folder: str = "") -> list[tuple[str, int]]:
    """Path and class from 1 of every image in a list, whose ``column`` has names in ``folder``."""
    records = _records(file)
    lacking = [name for name in (column, "class") if name not in (records.dtype.names or ())]
    if lacking:
        raise InputError(
            f"{file}: its annotations have no '{lacking[0]}'; {TEST_LIST} and {TRAIN_LIST} have"
        )
    return [(f"{folder}{r[column].item()}", int(r["class"].item())) for r in records]


def _records(file: Path) -> Any:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise InputError(f"{file}: reading it needs scipy: pip install scipy") from None
    try:
        content = loadmat(file)
    except Exception as error:  # the parser lets through whatever a damaged file leads to
        raise InputError(f"{file}: not a readable MATLAB file ({error}); get it again") from None
    if "annotations" not in content or content["annotations"].dtype.names is None:
        raise InputError(f"{file}: has no struct 'annotations'; is it the list of Cars-196?")
    return content["annotations"].ravel()
