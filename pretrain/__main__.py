"""``python -m pretrain CONFIG key=value ...``, the same as ``hcl pretrain``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.core.arguments import positive, positive_int
from pretrain.core.command import Command, ConfigKind
from pretrain.core.exit_status import STOPPED

if TYPE_CHECKING:
    from pretrain.config import RunSettings


def run(arguments: argparse.Namespace) -> int:
    """Train; returns 0 when finished, 75 when a signal stopped a run that can be continued."""
    from pretrain.config import load_settings
    from pretrain.core.config import dump_yaml

    settings = load_settings(arguments.config, arguments.overrides)
    if arguments.print_config:
        print(dump_yaml(settings), end="")
        return 0
    if arguments.dry_run:
        return _dry_run(settings, arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    from pretrain import distributed
    from pretrain.processes import held
    from pretrain.replay import NonFiniteLossError
    from pretrain.trainer import Outcome, Trainer

    with (
        distributed.process_group(settings.train.device) as world,
        held(Path(settings.output), world, "another run is at work here"),
    ):
        command = arguments.command_line
        try:
            outcome = Trainer(settings, world, command, fresh=arguments.fresh).fit()
        except NonFiniteLossError as error:
            print(f"hcl pretrain: {error}", file=sys.stderr)
            return 1
    if outcome is Outcome.STOPPED:
        print(f"stopped by a signal; continue with the same command ({settings.output})")
        return STOPPED
    if world.is_main:
        print(f"finished: {settings.output}")
    return 0


def _dry_run(settings: RunSettings, arguments: argparse.Namespace) -> int:
    """Print what the run would be."""
    import json
    from dataclasses import asdict

    from pretrain.dry_run import plan_run
    from pretrain.dry_run_text import render

    plan = plan_run(
        settings,
        processes=arguments.processes,
        images=arguments.images,
        images_per_s=arguments.images_per_s,
    )
    print(json.dumps(asdict(plan), indent=2) + "\n" if arguments.json else render(plan), end="")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("config", help="a YAML file, or a preset's name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as in optim.lr=0.1")
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start over: replace the files of an earlier run of this folder",
    )
    parser.add_argument("--print-config", action="store_true", help="print settings and stop")
    dry = parser.add_argument_group("without training")
    dry.add_argument(
        "--dry-run",
        action="store_true",
        help="print data, views, networks, memory and schedule, and stop",
    )
    dry.add_argument("--images-per-s", type=positive, metavar="N", help="speed, for the duration")
    dry.add_argument(
        "--images", type=positive_int, metavar="N", help="images, where the data is not here"
    )
    dry.add_argument(
        "--processes",
        type=positive_int,
        metavar="N",
        default=1,
        help="processes of the run (default: 1)",
    )
    dry.add_argument("--json", action="store_true", help="print the plan as JSON")


def _output_of(config: str, overrides: Sequence[str]) -> str:
    from pretrain.config import load_settings

    return load_settings(config, overrides).output


def _read(path: Path) -> dict[str, Any]:
    from pretrain.config import read_values

    return read_values(path)


COMMAND = Command(
    "pretrain",
    "Self-supervised pretraining. Run again to resume; torchrun or srun for many processes.",
    add_arguments,
    run,
    config=ConfigKind("pretrain", _output_of, _read, output="output"),
    saves_on_stop=True,
)


if __name__ == "__main__":
    from pretrain.core.errors import InputError

    try:
        sys.exit(COMMAND.main(sys.argv[1:]))
    except InputError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        sys.exit(2)
