"""``hcl detect``."""

from __future__ import annotations

import argparse
from pathlib import Path

from downstream.results import FILE_NAME, Result


def main(argv: list[str]) -> int:
    """Run the command; user errors are raised as ``InputError``."""
    parser = argparse.ArgumentParser(
        prog="hcl detect",
        description="Fine-tune a detectron2 detector from pretrained weights and measure COCO "
        "average precision of boxes and masks.",
        epilog="KEY VALUE pairs override the config: hcl detect quickstart_r18_fpn --weights "
        "w.pth --train a.json images --val b.json images --output out SOLVER.MAX_ITER 50",
    )
    parser.add_argument("config", metavar="CONFIG", help="preset name or native detectron2 YAML")
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="from `hcl export --to detectron2` (default: random initialisation)",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="result folder")
    for split in ("train", "val"):
        parser.add_argument(
            f"--{split}",
            type=Path,
            nargs=2,
            metavar=("ANNOTATIONS", "IMAGES"),
            help="COCO instances file and image folder (default: the config's DATASETS)",
        )
    parser.add_argument(
        "--name", metavar="ROW", help="row of the table (default: the pretraining run's name)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the folder's result")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the folder's last checkpoint"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config overrides")
    arguments = parser.parse_intermixed_args(argv)

    from downstream.detection.run import Options, detect
    from pretrain.presets import find_config

    options = Options(
        config=find_config(arguments.config, "detection"),
        output=arguments.output,
        weights=arguments.weights,
        train=tuple(arguments.train) if arguments.train else None,
        val=tuple(arguments.val) if arguments.val else None,
        name=arguments.name,
        overrides=tuple(arguments.overrides),
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        command=("hcl", "detect", *argv),
    )
    result = detect(options)
    print(table(result))
    print(arguments.output / FILE_NAME)
    return 0


def table(result: Result) -> str:
    """Average precision in percent, a row for boxes and one for masks."""
    from downstream.detection.evaluate import METRICS

    lines = [f"{'':6}" + "".join(f"{name:>8}" for name in METRICS)]
    for kind in ("bbox", "segm"):
        values = [result.metrics.get(f"{kind}/{name}") for name in METRICS]
        if any(value is not None for value in values):
            cells = ["-" if value is None else f"{value:.2f}" for value in values]
            lines.append(f"{kind:6}" + "".join(f"{cell:>8}" for cell in cells))
    return "\n".join(lines)
