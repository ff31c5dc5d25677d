"""``python -m pretrain CONFIG key=value ...``, the same as ``hcl pretrain``."""

from __future__ import annotations

import argparse
import logging
import sys

STOPPED = 75  # EX_TEMPFAIL: saved on request, run the same command again


def main(argv: list[str]) -> int:
    """Train; returns 0 when finished, 75 when a signal stopped a run that can be continued."""
    arguments = _parser().parse_intermixed_args(argv)
    from pretrain.config import dump_yaml, load_settings

    settings = load_settings(arguments.config, arguments.overrides)
    if arguments.print_config:
        print(dump_yaml(settings), end="")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    from pretrain import distributed
    from pretrain.replay import NonFiniteLossError
    from pretrain.run import RunFolder
    from pretrain.trainer import Outcome, Trainer

    with distributed.process_group(settings.train.device) as world:
        if arguments.fresh:
            if world.is_main:
                RunFolder(settings).remove()
            distributed.barrier()
        try:
            outcome = Trainer(settings, world, ["hcl", "pretrain", *argv]).fit()
        except NonFiniteLossError as error:
            print(f"hcl pretrain: {error}", file=sys.stderr)
            return 1
    if outcome is Outcome.STOPPED:
        print(f"stopped by a signal; continue with the same command ({settings.output})")
        return STOPPED
    if world.is_main:
        print(f"finished: {settings.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hcl pretrain",
        description="Self-supervised pretraining. Run again to resume; torchrun or srun for many "
        "processes.",
    )
    parser.add_argument("config", help="a YAML file, or a preset's name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as in optim.lr=0.1")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run of this folder")
    parser.add_argument("--print-config", action="store_true", help="print settings and stop")
    return parser


if __name__ == "__main__":
    from pretrain.errors import InputError

    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        sys.exit(2)
