"""``python -m pretrain CONFIG key=value ...``, the same as ``hcl pretrain``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pretrain.core.arguments import add_run, positive, positive_int
from pretrain.core.command import Command, run_configs
from pretrain.core.exit_status import FINISHED

if TYPE_CHECKING:
    from pretrain.config import RunSettings


def run(arguments: argparse.Namespace) -> int:
    """Train; returns 0 when finished, 75 when a signal stopped a run that can be continued."""
    from pretrain.config import CONFIGS

    settings = CONFIGS.of_command(arguments)
    if settings is None:
        return FINISHED
    if arguments.dry_run:
        return _dry_run(settings, arguments)

    from pretrain.loop import train
    from pretrain.trainer import Trainer

    return train(Trainer, settings, arguments)


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
    add_run(parser, "optim.lr=0.1")
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


COMMAND = Command(
    "pretrain",
    "Self-supervised pretraining. Run again to resume; torchrun or srun for many processes.",
    add_arguments,
    run,
    config=run_configs("pretrain", "pretrain.config"),
    saves_on_stop=True,
)


if __name__ == "__main__":
    from pretrain.core.errors import InputError

    try:
        sys.exit(COMMAND.main(sys.argv[1:]))
    except InputError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        sys.exit(2)
