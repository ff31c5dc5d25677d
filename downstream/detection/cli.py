"""``hcl detect``."""

from __future__ import annotations

import argparse
import functools
import importlib.util
from collections.abc import Sequence

from downstream.results.result import FILE_NAME, Result
from pretrain.core.arguments import add_settings, read_settings
from pretrain.core.command import Command, ConfigKind, note
from pretrain.core.errors import InputError
from pretrain.core.presets import find_config


def run(arguments: argparse.Namespace) -> int:
    """Run the command; user errors are raised as ``InputError``."""
    from downstream.detection.options import Options
    from downstream.detection.run.seeds import run_all, summary

    options = read_settings(
        Options,
        arguments,
        source="hcl detect",
        config=find_config(arguments.config, "detection"),
        overrides=pairs(arguments.overrides),
        command=tuple(arguments.command_line),
    )
    results = run_all(options)
    for result in results:
        if options.seeds:
            print(f"seed {result.provenance['seed']}")
        print(table(result))
    if options.seeds and results:
        print(summary(options.output))
        print(options.output)
    elif results:
        print(options.output / FILE_NAME)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    from downstream.detection.options import Options

    parser.add_argument("config", metavar="CONFIG", help="preset name or native detectron2 YAML")
    add_settings(parser, Options)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="such as SOLVER.MAX_ITER=50"
    )


def pairs(overrides: Sequence[str]) -> tuple[str, ...]:
    """Overrides as detectron2 takes them, key and value in turn.

    Where no key has its value behind ``=``, they are pairs already: the way of earlier versions.
    """
    if overrides and "=" not in overrides[0]:
        note(f"write overrides as {overrides[0]}=VALUE")
        return tuple(overrides)
    for text in overrides:
        if "=" not in text:
            raise InputError(f"'{text}': overrides are written KEY=VALUE, as in SOLVER.MAX_ITER=50")
    return tuple(part for text in overrides for part in text.split("=", 1))


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
    _check(config, pairs(overrides))


COMMAND = Command(
    "detect",
    "Fine-tune a detectron2 detector from pretrained weights and measure average "
    "precision of boxes and masks: COCO's, LVIS's or PASCAL VOC's. Run again to resume.",
    add_arguments,
    run,
    config=ConfigKind("detection", _output_of, read=None),
    epilog="KEY=VALUE overrides the config: hcl detect quickstart_r18_fpn --weights "
    "w.pth --train a.json images --val b.json images --output out SOLVER.MAX_ITER=50",
    renamed={"--overwrite": "--fresh", "--resume": ""},
)
