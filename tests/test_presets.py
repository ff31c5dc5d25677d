"""Every preset of pretraining: it builds, says what it would do, and runs scaled down."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_network import SMALL_WORDS

import hcl
from pretrain.config import RunSettings, load_settings
from pretrain.core.presets import configs_root
from pretrain.data.index import Index
from pretrain.data.pairs import Neighbor, PairTable
from pretrain.datasets.source import open_index
from pretrain.dry_run import plan_run
from pretrain.metrics import read_metrics

PRESETS = sorted(path.stem for path in (configs_root() / "pretrain").glob("*.yaml"))
PUBLISHED = [name for name in PRESETS if not name.startswith(("quickstart", "study_"))]
SMALL = [name for name in PRESETS if name not in PUBLISHED and name != "quickstart"]
STUDIED = ("study_scenes_moco_hcl", "study_scenes_densecl_hcl", "study_scenes_byol_hcl")
"""Of the study's presets those that are trained here: one of each method."""
IMAGES = {"coco": 118_287, "coco_plus": 241_690, "openimages": 212_753}
IMAGES_OF_SMALL = {"quickstart": 1_600, "study": 24_441}
DISTINCT = (
    "coco_r50_mocov2",
    "coco_r50_mocov2_hcl",
    "coco_r50_densecl_hcl",
    "coco_r50_byol",
    "coco_r50_orl",
    "coco_r50_orl_hcl",
)


def _runs_on_coco(preset: str) -> bool:
    """All but the study's, and one of those on one GPU, which differ in micro-batches alone."""
    if preset.endswith("_1gpu"):
        return preset == "coco_r50_densecl_hcl_1gpu"
    return not preset.startswith("study_")


def scaled(preset: str) -> list[str]:
    """The same method in seconds: a small network, small views, batch and queues."""
    settings = load_settings(preset)
    # A feature map of DenseCL's needs more than one cell.
    side = 64 if settings.method.name == "densecl" else 32
    small = [*SMALL_WORDS, f"views.size={side}", "optim.batch_size=8"]
    if "queue" in type(settings.method).model_fields:
        small += ["method.queue=64", "method.norm_group=2"]
    if "predictor_hidden" in type(settings.method).model_fields:
        small += ["model.hidden=64", "model.dim=32", "method.predictor_hidden=64"]
    if "patch_size" in type(settings.method).model_fields:
        small += ["method.patch_size=16"]
    if settings.hcl is not None:
        small += ["hcl.queue=64"]
    if settings.optim.accumulate > 1:
        small += ["optim.accumulate=2"]
    return small


def images_of(settings: RunSettings) -> int:
    name = Path(settings.output).name
    return IMAGES["coco_plus" if name.startswith("coco_plus") else name.split("_")[0]]


@pytest.mark.parametrize("preset", PUBLISHED)
def test_preset(preset: str) -> None:
    """Numbers that must agree with each other, whatever they are."""
    settings = load_settings(preset)
    assert settings.optim.base_batch == settings.optim.batch_size
    assert settings.output == f"runs/{preset}"
    assert settings.model.backbone == "resnet50"
    epoch = images_of(settings) // settings.optim.batch_size
    assert settings.train.checkpoint_every == epoch
    assert settings.train.keep_every is not None
    assert settings.train.keep_every % epoch == 0
    assert (settings.hcl is not None) == ("_hcl" in preset)
    crops = getattr(settings.method, "crops", "image")
    objects = "_objects" in preset or ("_hcl" in preset and "_orl_" not in preset)
    assert crops == ("object_context" if objects else "image")


@pytest.mark.parametrize("preset", PRESETS)
def test_preset__dry_run(preset: str, tmp_path: Path) -> None:
    where = ["data.index=null"] if load_settings(preset).data.reader != "index" else []
    settings = load_settings(preset, [*scaled(preset), f"output={tmp_path / 'run'}", *where])
    plan = plan_run(settings, images=1000, images_per_s=100)
    assert plan.schedule.epoch_steps == 125
    assert plan.seconds == (plan.schedule.total_steps or 0) * 8 / 100
    assert len(plan.queues) > 0 or plan.method in ("byol", "orl")
    assert sum(part.parameters for part in plan.networks if part.trained) > 3e5
    # What is not here is said, and nothing else is wrong but the scaled batch.
    assert not [w for w in plan.warnings if "has no such view" in w]


@pytest.mark.parametrize("preset", SMALL)
def test_preset__no_advice(preset: str) -> None:
    """On the number of images that it is for."""
    where = ["data.index=null"] if load_settings(preset).data.reader != "index" else []
    images = IMAGES_OF_SMALL[preset.split("_", maxsplit=1)[0]]
    plan = plan_run(load_settings(preset, where), images=images)
    assert [text for text in plan.warnings if "cannot be opened here" not in text] == []


@pytest.mark.parametrize("preset", [name for name in PUBLISHED if not name.endswith("_1gpu")])
def test_preset__no_advice_but_on_the_published_queue(preset: str) -> None:
    """At full size. K = 65,536 is more than a quarter of each data set, and stays as published."""
    where = ["data.index=null"] if load_settings(preset).data.reader != "index" else []
    settings = load_settings(preset, where)
    plan = plan_run(settings, images=images_of(settings))
    advice = [text for text in plan.warnings if "cannot be opened here" not in text]
    advice = [text for text in advice if not text.startswith("data.pairs")]
    queues = {queue.name.startswith("base.") or settings.hcl is None for queue in plan.queues}
    assert len(advice) == len(queues)
    for text in advice:
        assert ".queue=65536: the queue holds the keys of" in text
        assert "unless you reproduce a published recipe, which has 65,536" in text


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.endswith("_1gpu")])
def test_preset__one_gpu_has_the_same_step(preset: str) -> None:
    """But for micro-batches and the folder."""
    one = load_settings(preset).model_dump()
    many = load_settings(preset.removesuffix("_1gpu")).model_dump()
    assert one["optim"].pop("accumulate") > many["optim"].pop("accumulate")
    assert one.pop("output") == many.pop("output") + "_1gpu"
    assert one == many


def test_presets__every_row_of_the_table() -> None:
    coco = [f"coco_r50_{m}{v}" for m in ("mocov2", "densecl") for v in ("", "_objects", "_hcl")]
    rows = [*coco, "coco_r50_orl", "coco_r50_orl_hcl", "coco_r50_byol"]
    rows += [f"openimages_r50_densecl{v}" for v in ("", "_objects", "_hcl")]
    rows += ["openimages_r50_mocov2_hcl"]
    assert {*rows, *(f"{row}_1gpu" for row in rows)} <= set(PRESETS)


def pair_table(index: Index, folder: Path) -> Path:
    """Every image's first box, or all of it, paired with the next image's."""

    def box(row: int) -> np.ndarray:
        boxes = index.boxes(row)
        whole = np.array([[0, 0, *index.size(row)]], np.float32)
        return boxes[:1] if len(boxes) else whole

    def rows() -> Iterator[list[Neighbor]]:
        for row in range(len(index)):
            other = (row + 1) % len(index)
            yield [Neighbor(other, box(row), box(other))]

    if not folder.exists():
        PairTable.build(index.fingerprint, rows()).write(folder)
    return folder


def train(preset: str, data: list[str], cache: Path, run: Path, steps: int) -> None:
    given = load_settings(preset)
    reset = [f"data.{name}=null" for name in ("classes", "split", "class_folders", "pairs", "pack")]
    words = [
        preset,
        *scaled(preset),
        f"output={run}",
        "data.reader=coco",
        *reset,
        *data,
        f"data.index={cache / 'index'}",
        "data.leave_out=[group]",
        "data.on_bad_box=drop",
        "data.workers=0",
        "views.min_box_area=256",  # the small scenes have no larger ones
        "train.epochs=null",
        f"train.steps={steps}",
        "train.precision=fp32",
        "train.channels_last=false",  # faster on the CPU at this size
        "train.log_every=1",
        "train.checkpoint_every=1000",
        "train.keep_every=null",
        "train.threads=1",
        "train.tensorboard=false",
        "optim.lr=0.01",
        "optim.warmup_epochs=0",
    ]
    if given.method.name == "orl":
        index = open_index(load_settings(preset, words[1:]).data)
        words.append(f"data.pairs={pair_table(index, cache / 'pairs')}")
    assert hcl.main(["pretrain", *words]) == 0
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    losses = [value for line in lines for name, value in line.items() if name.startswith("loss")]
    assert losses
    assert all(math.isfinite(value) for value in losses)
    assert json.loads((run / "run.json").read_text())["state"] == "finished"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an index and a table of pairs are made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def coco_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coco_cache")


@pytest.mark.parametrize("preset", DISTINCT)
def test_preset__runs(preset: str, scenes: Path, cache: Path, tmp_path: Path) -> None:
    data = [
        f"data.annotations={scenes / 'annotations/instances_train.json'}",
        f"data.images={scenes / 'train'}",
    ]
    train(preset, data, cache, tmp_path / "run", steps=3)


@pytest.mark.coco
@pytest.mark.parametrize("preset", [n for n in PRESETS if n in STUDIED or _runs_on_coco(n)])
def test_preset__runs_on_coco(
    preset: str, coco_tiny: Path, coco_cache: Path, tmp_path: Path
) -> None:
    data = [
        f"data.annotations={coco_tiny / 'annotations/instances_train2017.json'}",
        f"data.images={coco_tiny / 'train2017'}",
    ]
    train(preset, data, coco_cache, tmp_path / "run", steps=6)
