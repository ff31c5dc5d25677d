"""``hcl compare``: the table of several runs, and the report."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from downstream.results.published import Paper
from pretrain.core.arguments import Option, add_settings, read_settings
from pretrain.core.command import Command
from pretrain.core.errors import InputError
from pretrain.core.files import write_text
from pretrain.core.settings import Settings

# Option: file in the output folder.
FORMATS = {
    "markdown": "table.md",
    "latex": "table.tex",
    "csv": "table.csv",
    "json": "comparison.json",
}


class Options(Settings):
    """What ``hcl compare`` is asked for; its arguments are made from this.

    Attributes:
        items: folder searched for result.json and for runs of `hcl pretrain`, or a result file.
        against: show published rows beside: hcl, densecl, orl, moco and detectron2 (detection),
            hypvit and hypmix (retrieval), or all.
        ks: recall at these K in the retrieval table.
        output: where the files go.
        annotations: test annotations of the saved detections; default: those that each result
            names.
        resamples: draws of the paired bootstrap; 0 leaves it out.
        seed: of the draws.
        title: heading of the report.
        format: what is printed instead of the terminal's tables, of ``FORMATS``.
    """

    items: Annotated[tuple[Path, ...], Option("RUN", positional=True)]
    against: Annotated[Literal[Paper, "all"] | None, Option("PAPER")] = None
    ks: Annotated[tuple[int, ...], Option("K")] = ()
    output: Annotated[Path, Option("DIR", short="-o")] = Path("report")
    annotations: Annotated[Path | None, Option("FILE")] = None
    resamples: Annotated[int, Option("N")] = 2000
    seed: Annotated[int, Option("N")] = 0
    title: str = "Comparison of pretraining runs"
    format: Annotated[str | None, Option(hidden=True)] = None


def run(arguments: argparse.Namespace) -> int:
    """Print the tables and write them in every format, and ``report.html``."""
    from downstream.compare import cost, figures, number_records, retrieval
    from downstream.compare import versus as beside
    from downstream.compare.report import render
    from downstream.compare.significance import analyze, significance
    from downstream.results import table
    from downstream.results import text_table as sheets
    from downstream.results.collect import collect

    options = read_settings(Options, arguments, source="hcl compare")
    for name in ("resamples", "seed"):
        if getattr(options, name) < 0:
            raise InputError(f"--{name} {getattr(options, name)}: must be 0 or more")
    found = collect(options.items)
    ks = _known(options.ks, retrieval.known_ks(found))
    # Before the work, not after it.
    with _writing(options.output):
        options.output.mkdir(parents=True, exist_ok=True)
    compared = beside.versus(found, options.against) if options.against else []
    analysis = analyze(
        found,
        annotations=options.annotations,
        resamples=options.resamples,
        seed=options.seed,
        # Beside the tables, which may go into a pipe.
        say=functools.partial(print, file=sys.stderr, flush=True),
    )
    first = table.sheet(found)
    more = [beside.sheet(one) for one in compared]
    others = (retrieval.sheet(found, ks), significance(analysis), cost.sheet(found))
    more += [sheet for sheet in others if sheet is not None]
    listed = number_records.records(found, analysis, compared)
    told = "".join(f"\n{sheets.plain(note)}\n" for note in analysis.notes)
    markdown = "\n".join(map(sheets.markdown, [first, *more])) + told
    texts = {
        "markdown": f"# {options.title}\n\n{markdown}",
        "latex": "\n".join(map(sheets.latex, [first, *more])),
        "csv": number_records.as_csv(listed),
        "json": number_records.as_json(listed, found, analysis, compared),
        "html": render(found, options.title, analysis, more, figures.analyses(options.items)),
    }
    page = options.output / "report.html"
    with _writing(options.output):
        for name, file in {**FORMATS, "html": page.name}.items():
            write_text(options.output / file, texts[name])
    if options.format:
        print(texts[options.format], end="")
    else:
        print(markdown, end="")
        print(f"\n{page} ({page.stat().st_size / 2**20:.1f} MiB)")
    return 0


def _known(asked: Sequence[int], measured: Sequence[int]) -> Sequence[int]:
    unknown = [k for k in asked if k not in measured]
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
    add_settings(parser, Options)
    kind = parser.add_mutually_exclusive_group()
    for name, file in FORMATS.items():
        text = f"print {file} instead of the terminal's tables"
        kind.add_argument(f"--{name}", dest="format", action="store_const", const=name, help=text)


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
