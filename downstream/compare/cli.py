"""``hcl compare``: the table of several runs, and the report."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from pretrain.core.arguments import add_output
from pretrain.core.command import Command
from pretrain.core.errors import InputError
from pretrain.core.files import write_text

# Option: file in the output folder.
FORMATS = {
    "markdown": "table.md",
    "latex": "table.tex",
    "csv": "table.csv",
    "json": "comparison.json",
}


def run(arguments: argparse.Namespace) -> int:
    """Print the tables and write them in every format, and ``report.html``."""
    from downstream.compare import analysis_section as analyses
    from downstream.compare import cost, number_records, retrieval
    from downstream.compare import versus as beside
    from downstream.compare.report import render
    from downstream.compare.significance import analyze, significance
    from downstream.results import table
    from downstream.results import text_table as sheets
    from downstream.results.collect import collect

    for name in ("resamples", "seed"):
        if getattr(arguments, name) < 0:
            raise InputError(f"--{name} {getattr(arguments, name)}: must be 0 or more")
    found = collect(arguments.items)
    ks = _known(arguments.ks, retrieval.known_ks(found))
    output: Path = arguments.output
    # Before the work, not after it.
    with _writing(output):
        output.mkdir(parents=True, exist_ok=True)
    compared = beside.versus(found, arguments.against) if arguments.against else []
    analysis = analyze(
        found,
        annotations=arguments.annotations,
        resamples=arguments.resamples,
        seed=arguments.seed,
        say=_progress,
    )
    first = table.sheet(found)
    more = [beside.sheet(one) for one in compared]
    others = (retrieval.sheet(found, ks), significance(analysis), cost.sheet(found))
    more += [sheet for sheet in others if sheet is not None]
    listed = number_records.records(found, analysis, compared)
    told = "".join(f"\n{sheets.plain(note)}\n" for note in analysis.notes)
    markdown = "\n".join(map(sheets.markdown, [first, *more])) + told
    texts = {
        "markdown": f"# {arguments.title}\n\n{markdown}",
        "latex": "\n".join(map(sheets.latex, [first, *more])),
        "csv": number_records.as_csv(listed),
        "json": number_records.as_json(listed, found, analysis, compared),
    }
    section = analyses.section(arguments.items)
    texts["html"] = render(found, arguments.title, analysis, more, section)
    page = output / "report.html"
    with _writing(output):
        for name, file in {**FORMATS, "html": page.name}.items():
            write_text(output / file, texts[name])
    if arguments.format:
        print(texts[arguments.format], end="")
    else:
        print(markdown, end="")
        print(f"\n{page} ({page.stat().st_size / 2**20:.1f} MiB)")
    return 0


def _progress(line: str) -> None:
    # Beside the tables, which may go into a pipe.
    print(line, file=sys.stderr, flush=True)


def _known(asked: list[int] | None, measured: list[int]) -> list[int] | None:
    unknown = [k for k in asked or () if k not in measured]
    if unknown:
        told = ", ".join(map(str, measured)) or "none"
        raise InputError(f"--ks {unknown[0]}: no result has recall at this K; there is {told}")
    return asked


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What the system says against a folder, in the user's words."""
    try:
        yield
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--output {folder}: is or lies in a file; name a folder") from None
    except OSError as error:
        raise InputError(f"--output {folder}: cannot be written ({error.strerror})") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add(
        "items",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder searched for result.json and for runs of `hcl pretrain`, or a result file",
    )
    add(
        "--against",
        choices=("hcl", "densecl", "orl", "moco", "detectron2", "hypvit", "hypmix", "all"),
        metavar="PAPER",
        help="show published rows beside: hcl, densecl, orl, moco and detectron2 (detection), "
        "hypvit and hypmix (retrieval), or all",
    )
    add("--ks", type=int, nargs="+", metavar="K", help="recall at these K in the retrieval table")
    add_output(parser, "where the files go (default: report)", "report")
    kind = parser.add_mutually_exclusive_group()
    for name, file in FORMATS.items():
        text = f"print {file} instead of the terminal's tables"
        kind.add_argument(f"--{name}", dest="format", action="store_const", const=name, help=text)
    add(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="test annotations of the saved detections (default: those that each result names)",
    )
    add(
        "--resamples",
        type=int,
        default=2000,
        metavar="N",
        help="draws of the paired bootstrap; 0 leaves it out (default: 2000)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    add("--title", default="Comparison of pretraining runs", help="heading of the report")


COMMAND = Command(
    "compare",
    "Compare runs: tables on the terminal, in table.md, table.tex, table.csv and "
    "comparison.json, and report.html, one file with bars, curves, pictures and provenance. "
    "Results are seeds of one row where name (but for a seed at its end, as in moco-seed1), "
    "task and protocol are the same: their mean and standard deviation is shown. Runs with "
    "saved detections are compared by a paired bootstrap over the test images.",
    add_arguments,
    run,
)
