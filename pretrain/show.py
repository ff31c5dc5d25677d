"""``hcl data show``: a contact sheet of the crops a method will really see."""

from __future__ import annotations

import argparse
from pathlib import Path

from pretrain.core.arguments import add_output
from pretrain.core.command import Command
from pretrain.core.errors import InputError

MAX_ROWS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("index", metavar="INDEX", type=Path, help="folder of the index")
    parser.add_argument(
        "--config", required=True, metavar="C", help="configuration of pretraining: file or preset"
    )
    add_output(parser, "file to write", metavar="PNG")
    parser.add_argument(
        "--count", type=int, default=8, metavar="N", help="rows shown (default: %(default)s)"
    )
    parser.add_argument(
        "--rows", metavar="R,...", help="these rows (default: the first that the run will see)"
    )
    parser.add_argument("--epoch", type=int, default=0, metavar="E", help="default: %(default)s")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the configuration"
    )
    # Overrides may stand anywhere, not only next to INDEX.


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl data show ...``."""
    from pretrain.config import load_settings
    from pretrain.data.contact_sheet import sample, save_png, sheet
    from pretrain.data.index import Index
    from pretrain.data.pairs import PairTable, check_pairs
    from pretrain.data.sampler import permutation
    from pretrain.step import method_of

    if not 1 <= arguments.count <= MAX_ROWS:
        raise InputError(f"--count {arguments.count}: choose 1 to {MAX_ROWS}")
    if arguments.epoch < 0:
        raise InputError(f"--epoch {arguments.epoch}: it must be at least 0")
    index = Index.open(arguments.index)
    settings = load_settings(arguments.config, arguments.overrides)
    if len(index) == 0:
        raise InputError(f"{arguments.index}: the index has no images")
    if arguments.rows is not None:
        rows = _rows(arguments.rows, len(index))
    else:
        order = permutation(settings.seed, arguments.epoch, len(index))
        rows = order[: arguments.count].tolist()
    plan = method_of(settings, 1).view_plan
    pairs = None
    if plan.pairs and settings.data.pairs is not None:
        pairs = PairTable.open(Path(settings.data.pairs))
    check_pairs(pairs, plan, index)
    samples = [
        sample(
            index,
            plan,
            settings.views,
            settings.augment,
            seed=settings.seed,
            epoch=arguments.epoch,
            row=row,
            pairs=pairs,
        )
        for row in rows
    ]
    heading = (
        f"{settings.method_name}, views of {plan.size} px, seed {settings.seed}, "
        f"epoch {arguments.epoch}: {arguments.index}"
    )
    save_png(sheet(samples, plan, heading), arguments.output)
    fallback = sum(one.fallback for one in samples)
    unreadable = [one for one in samples if one.fault]
    print(
        f"{arguments.output}: {len(samples)} rows, {fallback} of them with too few boxes"
        f"{' or no pair' if plan.pairs else ''}, "
        f"{len(unreadable)} unreadable"
    )
    for one in unreadable:
        print(f"unreadable: {one.title}: {one.fault}")
    return 0


def _rows(text: str, count: int) -> list[int]:
    try:
        rows = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--rows {text}: give numbers between commas, as in 0,7,12") from None
    wrong = [row for row in rows if not 0 <= row < count]
    if wrong:
        raise InputError(f"--rows: the index has rows 0 to {count - 1}, not {wrong[0]}")
    if len(rows) > MAX_ROWS:
        raise InputError(f"--rows: at most {MAX_ROWS}")
    return rows


COMMAND = Command(
    "data show",
    "Write a PNG of what a run of this configuration sees: images with their boxes "
    "and the windows of all crops, the crops as cut and as augmented. Rows whose image had too "
    "few boxes are marked.",
    add_arguments,
    run,
    renamed={"--out": "--output"},
)
