"""The official releases: addresses, sizes and checksums as far as they are public and sure.

An empty checksum or a missing size means that the publisher gives none that could be confirmed;
such a file is checked against the length its server tells, and by unpacking or reading it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.datasets.download import Remote

COCO_HOST = "http://images.cocodataset.org"
LVIS_HOST = "https://dl.fbaipublicfiles.com/LVIS"
VOC_HOST = "http://host.robots.ox.ac.uk/pascal/VOC"
OPENIMAGES_HOST = "https://storage.googleapis.com/openimages"
OPENIMAGES_IMAGES = "https://s3.amazonaws.com/open-images-dataset/tar"

COCO_TRAIN = Remote(
    f"{COCO_HOST}/zips/train2017.zip", 19336861798, "cced6f7f71b7629ddf16f17bbcfab6b2"
)
COCO_VAL = Remote(f"{COCO_HOST}/zips/val2017.zip", 815585330, "442b8da7639aecaf257c1dceb8ba8c80")
COCO_UNLABELED = Remote(
    f"{COCO_HOST}/zips/unlabeled2017.zip", None, "7ebc562819fdb32847aab79530457326"
)
COCO_ANNOTATIONS = Remote(
    f"{COCO_HOST}/annotations/annotations_trainval2017.zip",
    252907541,
    "f4bbac642086de4f52a3fdda2de5fa2c",
)
COCO_UNLABELED_INFO = Remote(
    f"{COCO_HOST}/annotations/image_info_unlabeled2017.zip",
    None,
    "ede38355d5c3e5251bb7f8b68e2c068f",
)
OPENIMAGES_CLASSES = Remote(
    f"{OPENIMAGES_HOST}/v7/oidv7-class-descriptions-boxable.csv", folder="annotations"
)


@dataclass(frozen=True)
class Release:
    """One split of a data set, as it lies below its root after unpacking.

    Attributes:
        files: to download; archives are unpacked into the root.
        annotations: below the root.
        images: below the root.
        classes: below the root; "" where there are none.
        split: of the reader; "" where it has none.
        unpack_to: folder below the root into which archives of images are unpacked.
    """

    files: tuple[Remote, ...]
    annotations: str
    images: str
    classes: str = ""
    split: str = ""
    unpack_to: str = ""


def _openimages(boxes: str, archives: tuple[str, ...]) -> Release:
    return Release(
        (
            OPENIMAGES_CLASSES,
            Remote(f"{OPENIMAGES_HOST}/{boxes}", folder="annotations"),
            *(Remote(f"{OPENIMAGES_IMAGES}/{name}.tar.gz") for name in archives),
        ),
        f"annotations/{boxes.rsplit('/', 1)[-1]}",
        "images",
        classes=f"annotations/{OPENIMAGES_CLASSES.name}",
        unpack_to="images",
    )


def _voc(year: int, split: str, date: str, md5: str) -> Release:
    file = Remote(f"{VOC_HOST}/voc{year}/VOC{split}_{date}-{year}.tar", md5=md5)
    return Release((file,), f"VOCdevkit/VOC{year}", "", split=split)


def _coco(annotations: str, *files: Remote) -> Release:
    return Release(files, f"annotations/{annotations}.json", annotations.rpartition("_")[2])


def _lvis(split: str) -> Release:
    file = f"lvis_v1_{split}.json"
    return Release((Remote(f"{LVIS_HOST}/{file}.zip"), COCO_TRAIN, COCO_VAL), file, "")


RELEASES: dict[str, dict[str, Release]] = {
    "coco": {
        "train2017": _coco("instances_train2017", COCO_ANNOTATIONS, COCO_TRAIN),
        "val2017": _coco("instances_val2017", COCO_ANNOTATIONS, COCO_VAL),
        "unlabeled2017": _coco("image_info_unlabeled2017", COCO_UNLABELED_INFO, COCO_UNLABELED),
    },
    "lvis": {"train": _lvis("train"), "val": _lvis("val")},
    "voc": {
        "2007-trainval": _voc(2007, "trainval", "06-Nov", "c52e279531787c972589f7e41ab4ae64"),
        "2007-test": _voc(2007, "test", "06-Nov", "b6e924de25625d8de591ea690078ad9f"),
        "2012-trainval": _voc(2012, "trainval", "11-May", "6cd6e144f989b92b3379bac3b3de84fd"),
    },
    "openimages": {
        "train": _openimages(
            "v6/oidv6-train-annotations-bbox.csv",
            tuple(f"train_{digit}" for digit in "0123456789abcdef"),
        ),
        "validation": _openimages("v5/validation-annotations-bbox.csv", ("validation",)),
        "test": _openimages("v5/test-annotations-bbox.csv", ("test",)),
    },
}
"""By reader and split."""
