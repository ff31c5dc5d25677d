"""``hcl compare``: the table of several runs, and the report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pretrain.errors import InputError

# Option: file in the output folder.
FORMATS = {
    "markdown": "table.md",
    "latex": "table.tex",
    "csv": "table.csv",
    "json": "comparison.json",
}


def main(argv: list[str]) -> int:
    """Print the tables and write them in every format, and ``report.html``."""
    arguments = _parser().parse_args(argv)
    from downstream.compare import analyses, cost, records, sheets, table
    from downstream.compare import versus as beside
    from downstream.compare.analysis import analyse, significance
    from downstream.compare.collect import collect
    from downstream.compare.report import render

    output: Path = arguments.output
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output}: is a file; name a folder")
    if arguments.resamples < 0:
        raise InputError(f"--resamples {arguments.resamples}: must be 0 or more")
    found = collect(arguments.items)
    compared = beside.versus(found, arguments.against) if arguments.against else []
    analysis = analyse(
        found,
        annotations=arguments.annotations,
        resamples=arguments.resamples,
        seed=arguments.seed,
        say=_progress,
    )
    first = table.sheet(found)
    more = [beside.sheet(found, one) for one in compared]
    more += [sheet for sheet in (significance(analysis), cost.sheet(found)) if sheet is not None]
    listed = records.records(found, analysis, compared)
    told = "".join(f"\n{sheets.plain(note)}\n" for note in analysis.notes)
    markdown = "\n".join(map(sheets.markdown, [first, *more])) + told
    texts = {
        "markdown": f"# {arguments.title}\n\n{markdown}",
        "latex": "\n".join(map(sheets.latex, [first, *more])),
        "csv": records.as_csv(listed),
        "json": records.as_json(listed, found, analysis, compared),
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, file in FORMATS.items():
        _write(output / file, texts[name])
    section = analyses.section(arguments.items)
    page = _write(output / "report.html", render(found, arguments.title, analysis, more, section))
    if arguments.format:
        print(texts[arguments.format], end="")
    else:
        print(markdown, end="")
        print(f"\n{page} ({page.stat().st_size / 2**20:.1f} MiB)")
    return 0


def _progress(line: str) -> None:
    # Beside the tables, which may go into a pipe.
    print(line, file=sys.stderr, flush=True)


def _write(path: Path, text: str) -> Path:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hcl compare",
        description="Compare runs: tables on the terminal, in table.md, table.tex, table.csv and "
        "comparison.json, and report.html, one file with bars, curves, pictures and provenance. "
        "Results are seeds of one row where name (but for a seed at its end, as in moco-seed1), "
        "task and protocol are the same: their mean and standard deviation is shown. Runs with "
        "saved detections are compared by a paired bootstrap over the test images.",
    )
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
        choices=("hcl", "densecl", "orl", "moco", "detectron2", "all"),
        metavar="PAPER",
        help="show published rows beside: hcl, densecl, orl, moco, detectron2 or all",
    )
    add(
        "--output",
        type=Path,
        default=Path("report"),
        metavar="DIR",
        help="where the files go (default: report)",
    )
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
        default=1000,
        metavar="N",
        help="draws of the paired bootstrap; 0 leaves it out (default: 1000)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    add("--title", default="Comparison of pretraining runs", help="heading of the report")
    return parser
