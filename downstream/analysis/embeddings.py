"""What is analyzed: the embeddings of a run's test images, and how they were made."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downstream.analysis.options import OfRuns
from downstream.results.analysis_record import Source
from downstream.retrieval.datasets import LabeledImages, open_images
from downstream.retrieval.embed import QUALITY, to_ball
from downstream.retrieval.embed import embed as embed_objects
from downstream.retrieval.finetune.finetuned_model import load_finetuned, with_overrides
from downstream.retrieval.finetune.loss import ball_points
from downstream.retrieval.finetune.score import embed as embed_images
from downstream.retrieval.finetune.settings import FinetuneSettings
from downstream.retrieval.objects import choose_objects
from downstream.retrieval.run_evaluation import device_of
from downstream.retrieval.spaces import Floats, Rows
from pretrain.core.errors import InputError
from pretrain.core.files import sha256
from pretrain.datasets.readers.coco import read
from pretrain.pretrained import load_pretrained

CONTEXT = 0.1
MIN_SIDE = 16.0
BATCH = 128


@dataclass(frozen=True)
class TestSet:
    """How a fine-tuned run was trained, and the images it is tested on.

    Attributes:
        settings: of the run, data overridden.
        images: of the set.
        rows: (N,), the tested images' rows in the set.
        queries: positions in 0..N-1 of those that are searched for.
        keys: positions of those that are searched.
    """

    settings: FinetuneSettings
    images: LabeledImages
    rows: Rows
    queries: Rows
    keys: Rows


@dataclass(frozen=True)
class Scenes:
    """Whole images with several objects: points of the ball or projections, and how many objects.

    Attributes:
        projections: float64 (M, D).
        points: float64 (M, D) of the ball, or None.
        objects: int64 (M,), objects annotated in each.
        around: int64 (N,), objects annotated in the image of each embedded object.
        images: int64 (N,), the image of each embedded object.
        quality: values (M,) by name of what may change a scene's norm besides what it shows.
        object_quality: values (N,) by name, the same of the embedded objects.
    """

    projections: Tensor
    points: Tensor | None
    objects: NDArray[np.int64]
    around: NDArray[np.int64]
    images: NDArray[np.int64]
    quality: dict[str, Floats]
    object_quality: dict[str, Floats]


@dataclass(frozen=True)
class RunEmbeddings:
    """N embeddings of one run or file, on the CPU.

    Attributes:
        source: where they are from.
        features: float64 (N, F), of the backbone; None where only embeddings are known.
        projections: float64 (N, D), output of the head, not normalized.
        points: float64 (N, E) of the ball, None where there is none.
        c: its curvature is -c.
        clip_radius: norm to which the ball's input is clipped.
        labels: int64 (N,), positions in ``classes``.
        classes: names.
        tested: of a fine-tuned run.
        scenes: of a pretrained run.
    """

    source: Source
    features: Tensor | None
    projections: Tensor
    points: Tensor | None
    c: float | None
    clip_radius: float | None
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    tested: TestSet | None = None
    scenes: Scenes | None = None


def load_all(options: OfRuns) -> Iterator[RunEmbeddings]:
    """Embed what each run of an analysis is tested on, one after the other; see :func:`load`.

    Raises:
        InputError: also for options at which none of the runs or files would look.
    """
    chosen = options.model_dump(include={"annotations", "images", "split", "device"})
    arrays = all(path.suffix == ".npz" for path in options.runs)
    objects = any(chosen.get(name) is not None for name in ("annotations", "images"))
    if arrays and objects:
        raise InputError("--annotations and --images: are for runs of `hcl pretrain`, not for .npz")
    of_tuned = [*options.overrides, *(["--split train"] if chosen.get("split") == "train" else [])]
    if of_tuned and (arrays or objects):
        given = ".npz" if arrays else "--annotations"
        raise InputError(
            f"{of_tuned[0]}: is for runs of `hcl retrieve train` on their own images, not for "
            f"{given}; leave it out"
        )
    for path in options.runs:
        yield load(path, overrides=options.overrides, **chosen)


def load(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    annotations: Path | None = None,
    images: Path | None = None,
    device: str = "auto",
    split: Literal["test", "train"] = "test",
) -> RunEmbeddings:
    """Embed what a run is tested on, or read embeddings.

    Args:
        path: a run of ``hcl retrieve train``; with ``annotations``, one of ``hcl pretrain``; or an
            ``.npz`` with ``embeddings`` and ``labels``, and where there is a ball ``ball`` and
            ``c``.
        overrides: ``data.*`` and ``test.*`` of a fine-tuned run.
        annotations: COCO-format objects to embed with a pretrained run.
        images: their folder.
        device: where the network runs.
        split: ``train`` to embed a fine-tuned run's training images instead.

    Raises:
        InputError: a run, data or file that cannot be used, or embeddings that are not finite.
    """
    if path.suffix == ".npz":
        return from_arrays(path)
    if (annotations is None) != (images is None):
        raise InputError("--annotations and --images need each other")
    if annotations is not None and images is not None:
        return from_pretrained(path, annotations, images, device)
    return from_tuned(path, overrides, device, split)


def from_tuned(
    path: Path, overrides: Sequence[str], device: str, split: Literal["test", "train"] = "test"
) -> RunEmbeddings:
    """The test or training images of a run of ``hcl retrieve train``; see :func:`load`."""
    tuned = with_overrides(load_finetuned(path), overrides, source="hcl analyze")
    tuned.network.to(device_of(device))
    settings = tuned.settings
    images = open_images(settings.data)
    rows, queries, keys = images.tested(split)
    if len(rows) < 2:
        raise InputError(f"{images.root}: fewer than 2 images of the {split} split")
    made = embed_images(tuned.network, images, rows.tolist(), settings)
    projections = made.projections.double()
    _check_finite(tuned.checkpoint, made.features, projections)
    points = None
    if settings.loss.geometry != "sphere":
        # Without the released epsilons, whatever the training had.
        points = ball_points(projections, settings.loss.model_copy(update={"numerics": "exact"}))
    return RunEmbeddings(
        source=Source(
            name=settings.name or Path(settings.output).name,
            path=str(path),
            sha256=sha256(tuned.checkpoint),
            step=tuned.step,
            fingerprint=images.fingerprint,
        ),
        features=made.features.double(),
        projections=projections,
        points=points,
        c=None if points is None else settings.loss.curvature,
        clip_radius=None if points is None else settings.loss.clip_radius,
        labels=images.labels[rows],
        classes=images.classes,
        tested=TestSet(settings, images, rows, queries, keys),
    )


def from_pretrained(path: Path, annotations: Path, images: Path, device: str) -> RunEmbeddings:
    """Object crops and scenes of a COCO-format set by a run of ``hcl pretrain``."""
    pretrained = load_pretrained(path)
    report = read(annotations, images, on_bad_box="error")
    objects = choose_objects(report, min_side=MIN_SIDE, max_per_category=None)
    about = pretrained.description
    made = embed_objects(
        pretrained,
        objects,
        size=about.size,
        context=CONTEXT,
        batch=BATCH,
        device=device_of(device),
    )
    _check_finite(pretrained.checkpoint, made.backbone, made.head, made.scenes)
    counts = np.array([len(record.boxes) for record in objects.records])
    shown = np.unique(objects.image)
    c, clip = about.curvature, about.clip_radius
    named = about.config.get("name")
    return RunEmbeddings(
        source=Source(
            name=str(named) if named else path.resolve().name,
            path=str(path),
            sha256=sha256(pretrained.checkpoint),
            step=pretrained.step,
            fingerprint=report.source_sha256,
        ),
        features=made.backbone.double(),
        projections=made.head.double(),
        points=None if c is None else to_ball(made.head, c, clip),
        c=c,
        clip_radius=clip,
        labels=objects.labels.astype(np.int64),
        classes=objects.categories,
        scenes=Scenes(
            made.scenes.double(),
            None if c is None else to_ball(made.scenes, c, clip),
            counts[shown][counts[shown] > 1],
            counts[objects.image],
            objects.image,
            dict(zip(QUALITY, made.scene_quality.numpy().T, strict=True)),
            dict(zip(QUALITY, made.quality.numpy().T, strict=True)),
        ),
    )


def from_arrays(path: Path) -> RunEmbeddings:
    """Embeddings of an ``.npz``: ``embeddings`` (N, D), ``labels`` (N,), ``ball`` (N, E), ``c``."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; name an .npz of embeddings or a run folder")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: cannot be read (no archive); write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}); write it with numpy.savez") from None
    missing = [name for name in ("embeddings", "labels") if name not in arrays]
    if missing or ("ball" in arrays) != ("c" in arrays):
        raise InputError(
            f"{path}: has {', '.join(sorted(arrays)) or 'nothing'}; needed are embeddings and "
            "labels, and ball and c together where there is a ball"
        )
    labels = arrays["labels"]
    if labels.ndim != 1:
        raise InputError(f"{path}: 'labels' has shape {labels.shape}; it must be (N,), one of each")
    classes = np.unique(labels)
    embeddings = _matrix(path, "embeddings", arrays["embeddings"], len(labels))
    points = c = None
    if "ball" in arrays:
        points = _matrix(path, "ball", arrays["ball"], len(labels))
        if arrays["c"].size != 1 or arrays["c"].dtype.kind not in "iuf":
            raise InputError(
                f"{path}: 'c' has shape {arrays['c'].shape} of {arrays['c'].dtype}; it must be one "
                "positive number"
            )
        c = float(arrays["c"].item())
        if not (c > 0 and float((c * points.square().sum(1)).max()) < 1):
            raise InputError(f"{path}: 'ball' has points outside the ball of c={c:g}; check 'c'")
    return RunEmbeddings(
        source=Source(name=path.stem, path=str(path), sha256=sha256(path)),
        features=None,
        projections=embeddings,
        points=points,
        c=c,
        clip_radius=None,
        labels=np.searchsorted(classes, labels).astype(np.int64),
        classes=tuple(str(name) for name in classes),
    )


def _check_finite(checkpoint: Path, *embeddings: Tensor) -> None:
    if not all(bool(each.isfinite().all()) for each in embeddings):
        raise InputError(
            f"{checkpoint}: its embeddings are not finite: the run has diverged; take an earlier "
            "checkpoint"
        )


def _matrix(path: Path, name: str, values: NDArray[np.generic], count: int) -> Tensor:
    good = values.ndim == 2 and len(values) == count and np.issubdtype(values.dtype, np.floating)
    if not good or count < 2 or not np.isfinite(values).all():
        raise InputError(
            f"{path}: '{name}' has shape {values.shape} of {values.dtype}; it must be finite "
            f"floating-point numbers, a row for each of the {count} labels (at least 2)"
        )
    return torch.from_numpy(values.astype(np.float64))
