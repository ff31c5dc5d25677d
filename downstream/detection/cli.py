"""``hcl detect``."""

from __future__ import annotations

import argparse
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from downstream.results.result import FILE_NAME, Result
from pretrain.core.command import Command, ConfigKind
from pretrain.core.errors import InputError
from pretrain.core.presets import find_config


def run(arguments: argparse.Namespace) -> int:
    """Run the command; user errors are raised as ``InputError``."""
    if arguments.num_gpus < 1:
        raise InputError(f"--num-gpus {arguments.num_gpus}: at least 1")

    from downstream.detection.options import Options
    from downstream.detection.run.seeds import run_all, summary

    options = Options(
        config=find_config(arguments.config, "detection"),
        output=arguments.output,
        weights=arguments.weights,
        train=tuple(arguments.train) if arguments.train else None,
        val=tuple(arguments.val) if arguments.val else None,
        labels=arguments.labels,
        name=arguments.name,
        form=arguments.form,
        overrides=tuple(arguments.overrides),
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        eval_only=arguments.eval_only,
        command=tuple(arguments.command_line),
    )
    results = run_all(options, arguments.seeds, arguments.num_gpus)
    for result in results:
        if arguments.seeds:
            print(f"seed {result.provenance['seed']}")
        print(table(result))
    if arguments.seeds and results:
        print(summary(arguments.output))
        print(arguments.output)
    elif results:
        print(arguments.output / FILE_NAME)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("config", metavar="CONFIG", help="preset name or native detectron2 YAML")
    add(
        "--weights",
        type=Path,
        metavar="FILE",
        help="a backbone: export, run folder or checkpoint of `hcl`, or a ResNet's checkpoint of "
        "torchvision, timm, MoCo, DenseCL or ORL (default: random initialisation)",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="result folder")
    for split in ("train", "val"):
        add(
            f"--{split}",
            type=Path,
            nargs=2,
            metavar=("ANNOTATIONS", "IMAGES"),
            help="COCO or LVIS annotations and image folder (default: the config's DATASETS, under "
            "the folder in DETECTRON2_DATASETS)",
        )
    add(
        "--labels",
        type=Path,
        metavar="LIST",
        help="training images that keep their labels: ids or file names, or a COCO file with them "
        "(default: HCL.LABELS of the config)",
    )
    add("--name", metavar="ROW", help="row of the table (default: the pretraining run's name)")
    add(
        "--form",
        choices=("ssl", "stock", "free"),
        help="protocol that the config must keep; free asks for nothing (default: what the "
        "config's name ends in)",
    )
    add(
        "--seeds",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="train once a seed, each in DIR/seedN, and show mean and standard deviation",
    )
    add(
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="processes on this machine, one a GPU; over several machines use torchrun or srun",
    )
    add("--overwrite", action="store_true", help="replace the folder's result")
    add("--resume", action="store_true", help="go on from the folder's last checkpoint")
    add(
        "--eval-only",
        type=Path,
        metavar="MODEL",
        help="measure this trained detector (model_*.pth, or its result folder); train nothing",
    )
    add("overrides", nargs="*", metavar="KEY VALUE", help="config overrides")


def table(result: Result) -> str:
    """Average precision in percent, a row for boxes and one for masks."""
    found = list(dict.fromkeys(key.partition("/")[2] for key in result.metrics))
    order = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    names = order if set(found) <= set(order) and "APs" in found else found
    lines = [f"{'':6}" + "".join(f"{name:>8}" for name in names)]
    for kind in ("bbox", "segm"):
        values = [result.metrics.get(f"{kind}/{name}") for name in names]
        if any(value is not None for value in values):
            cells = ["-" if value is None else f"{value:.2f}" for value in values]
            lines.append(f"{kind:6}" + "".join(f"{cell:>8}" for cell in cells))
    return "\n".join(lines)


@functools.cache
def _check(name: str, overrides: tuple[str, ...]) -> None:
    """The keys and types of a detector's config, where detectron2 is there to know them."""
    path = find_config(name, "detection")
    if importlib.util.find_spec("detectron2") is not None:
        from downstream.detection.model.config import load_config

        load_config(path, overrides)


def _output_of(config: str, overrides: Sequence[str]) -> None:
    _check(config, tuple(overrides))


COMMAND = Command(
    "detect",
    "Fine-tune a detectron2 detector from pretrained weights and measure average "
    "precision of boxes and masks: COCO's, LVIS's or PASCAL VOC's.",
    add_arguments,
    run,
    config=ConfigKind("detection", _output_of, read=None),
    epilog="KEY VALUE pairs override the config: hcl detect quickstart_r18_fpn --weights "
    "w.pth --train a.json images --val b.json images --output out SOLVER.MAX_ITER 50",
)
