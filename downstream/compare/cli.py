"""``hcl compare``: the table of several runs, and the report."""

from __future__ import annotations

import argparse
from pathlib import Path

from pretrain.errors import InputError


def main(argv: list[str]) -> int:
    """Print the table and write ``table.md`` and ``report.html``."""
    arguments = _parser().parse_args(argv)
    from downstream.compare.collect import collect
    from downstream.compare.report import render
    from downstream.compare.table import markdown

    output: Path = arguments.output
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output}: is a file; name a folder")
    found = collect(arguments.items)
    table = markdown(found)
    print(table, end="")
    output.mkdir(parents=True, exist_ok=True)
    _write(output / "table.md", f"# {arguments.title}\n\n{table}")
    page = _write(output / "report.html", render(found, arguments.title))
    print(f"\n{page} ({page.stat().st_size / 2**20:.1f} MiB)")
    return 0


def _write(path: Path, text: str) -> Path:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hcl compare",
        description="Compare runs: a table on the terminal and in table.md, and report.html, one "
        "file with curves, bars, pictures and provenance. Results of the same run and task are "
        "seeds: their mean and standard deviation is shown.",
    )
    add = parser.add_argument
    add(
        "items",
        type=Path,
        nargs="+",
        metavar="ITEM",
        help="folder searched for result.json and for runs of `hcl pretrain`, or a result file",
    )
    add(
        "--output",
        type=Path,
        default=Path("report"),
        metavar="DIR",
        help="where table.md and report.html go (default: report)",
    )
    add("--title", default="Comparison of pretraining runs", help="heading of the report")
    return parser
