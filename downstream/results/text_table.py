"""A small table of texts, in Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

MISSING = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """A value as shown; ``best`` of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        title: heading; empty for the first table.
        columns: headings; the first is that of the rows' names.
        rows: name and cells.
        notes: what one must know to read it rightly.
        warnings: why its numbers may not be comparable.
        folded: shown in the report only when it is asked for.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    notes: Sequence[str] = field(default=())
    warnings: Sequence[str] = field(default=())
    folded: bool = False

    def told(self) -> list[str]:
        """Notes and warnings, as they stand under the table."""
        return [*self.notes, *(f"Warning: {warning}" for warning in self.warnings)]


def markdown(sheet: Sheet) -> str:
    """Aligned, so that it reads well on the terminal too."""
    header = list(sheet.columns)
    body = [
        [plain(name), *(f"**{plain(c.text)}**" if c.best else plain(c.text) for c in cells)]
        for name, cells in sheet.rows
    ]
    widths = [max(len(row[n]) for row in [header, *body]) for n in range(len(header))]
    rule = ["-" * widths[0], *["-" * (width - 1) + ":" for width in widths[1:]]]

    def line(row: Sequence[str]) -> str:
        first = row[0].ljust(widths[0])
        rest = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        return f"| {' | '.join([first, *rest])} |"

    table = "\n".join(line(row) for row in [header, rule, *body])
    heading = [f"## {plain(sheet.title)}"] if sheet.title else []
    return "\n\n".join([*heading, table, *map(plain, sheet.told())]) + "\n"


def latex(sheet: Sheet) -> str:
    """A ``tabular`` with booktabs' rules; notes are comments."""
    body = [
        " & ".join(
            [tex(name), *(rf"\textbf{{{tex(c.text)}}}" if c.best else tex(c.text) for c in cells)]
        )
        for name, cells in sheet.rows
    ]
    lines = [
        *([f"% {_one_line(sheet.title)}"] if sheet.title else []),
        rf"\begin{{tabular}}{{l{'r' * (len(sheet.columns) - 1)}}}",
        r"\toprule",
        " & ".join(map(tex, sheet.columns)) + r" \\",
        r"\midrule",
        *(f"{line} \\\\" for line in body),
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {_one_line(note)}" for note in sheet.told()),
    ]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Keep a name from being read as Markdown or HTML."""
    return re.sub(r"([\\|<*`\[])", r"\\\1", _one_line(text))


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    MISSING: "--",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def tex(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(_TEX.get(character, character) for character in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
