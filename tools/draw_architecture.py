"""Draw docs/architecture.svg: the packages of the project and which imports which.

    python tools/draw_architecture.py           # write the picture
    python tools/draw_architecture.py --check   # status 1 if it is not current

A box is a package or a module directly below `pretrain` or `downstream`, or all of `slurm`. Every
box is above those that it imports. An arrow is an import that no longer path of arrows implies;
imports inside functions count, those for type checkers alone do not. Imports in a
circle are an error.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs/architecture.svg"
PACKAGES = ("slurm", "downstream", "pretrain")
WHOLE = ("slurm",)
"""Packages that are one box."""
FILL = {"slurm": "#efe7f7", "downstream": "#e4f1e6", "pretrain": "#e5eefb"}
HEIGHT, STEP, GAP, WIDTH, MARGIN = 26, 62, 14, 1120, 16

Graph = dict[str, set[str]]


def box_of(module: str) -> str | None:
    """The box that a module belongs to, or None if it is not of the project."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return None
    if parts[0] in WHOLE or len(parts) == 1:
        return parts[0]
    return ".".join(parts[:2])


def imports(tree: ast.AST) -> Iterator[str]:
    """Modules that a file imports when it runs, wherever in the file."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from pretrain import distributed` names a module as well.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node)


def read_graph() -> Graph:
    """Each box and the boxes it imports."""
    graph: Graph = {}
    for file in sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        own = box_of(module.removesuffix(".__init__"))
        assert own is not None
        if own in PACKAGES and own not in WHOLE:
            continue  # the package's own __init__
        targets = {box_of(name) for name in imports(ast.parse(file.read_text(encoding="utf-8")))}
        graph.setdefault(own, set()).update(t for t in targets if t and t != own)
    # `from pretrain import __version__` names no module.
    return {box: {t for t in targets if t in graph} for box, targets in graph.items()}


def reachable(graph: Graph) -> Graph:
    """All boxes below each box.

    Raises:
        CycleError: boxes import each other in a circle.
    """
    found: Graph = {}
    for box in TopologicalSorter(graph).static_order():
        found[box] = graph[box].union(*(found[target] for target in graph[box]))
    return found


def levels(graph: Graph) -> dict[str, int]:
    """The height of each box: 0 imports nothing."""
    heights: dict[str, int] = {}
    for box in TopologicalSorter(graph).static_order():
        heights[box] = max((heights[target] + 1 for target in graph[box]), default=0)
    return heights


def reduced(graph: Graph, below: Graph) -> Graph:
    """The graph without arrows that a path through another box implies."""
    return {
        box: {t for t in targets if not any(t in below[other] for other in targets)}
        for box, targets in graph.items()
    }


def rows_of(graph: Graph) -> list[list[str]]:
    """Boxes from the bottom, package by package; each row in the order of what it imports."""
    rows: list[list[str]] = []
    place: dict[str, float] = {}

    def middle(box: str) -> float:
        known = [place[t] for t in graph[box] if t in place]
        return sum(known) / len(known) if known else 0.5

    for package in reversed(PACKAGES):
        own = {box: ts for box, ts in graph.items() if package_of(box) == package}
        inside = {box: {t for t in targets if t in own} for box, targets in own.items()}
        heights = levels(inside)
        for level in range(max(heights.values()) + 1):
            row = sorted((box for box in own if heights[box] == level), key=middle)
            place.update({box: (number + 0.5) / len(row) for number, box in enumerate(row)})
            rows.append(row)
    return rows


def package_of(box: str) -> str:
    """`pretrain` of `pretrain.data`."""
    return box.split(".", maxsplit=1)[0]


def width_of(box: str) -> int:
    """Of the box, in px."""
    return 18 + round(6.6 * len(box))


def lines_of(rows: list[list[str]]) -> Iterator[list[str]]:
    """Rows from the top, those too wide for the picture in several lines."""
    for row in reversed(rows):
        line: list[str] = []
        for box in row:
            if sum(width_of(b) + GAP for b in [*line, box]) > WIDTH - 2 * MARGIN:
                yield line
                line = []
            line.append(box)
        yield line


def draw(graph: Graph) -> str:
    """The picture as SVG."""
    arrows = reduced(graph, reachable(graph))
    position: dict[str, tuple[float, float]] = {}
    y = MARGIN
    for line in lines_of(rows_of(graph)):
        x = (WIDTH - sum(width_of(box) + GAP for box in line) + GAP) / 2
        for box in line:
            position[box] = x + width_of(box) / 2, y
            x += width_of(box) + GAP
        y += STEP
    height = y - STEP + HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="DejaVu Sans Mono, monospace" font-size="11">',
        "<!-- made by tools/draw_architecture.py -->",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#777"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for box in sorted(graph):
        for target in sorted(arrows[box]):
            (x1, y1), (x2, y2) = position[box], position[target]
            parts.append(
                f'<path d="M{x1:.0f} {y1 + HEIGHT:.0f} {x2:.0f} {y2:.0f}" fill="none" '
                'stroke="#999" stroke-width=".8" marker-end="url(#tip)"/>'
            )
    for box, (x, top) in sorted(position.items()):
        fill = FILL[package_of(box)]
        parts.append(
            f'<rect x="{x - width_of(box) / 2:.0f}" y="{top:.0f}" width="{width_of(box)}" '
            f'height="{HEIGHT}" rx="4" fill="{fill}" stroke="#555"/>'
            f'<text x="{x:.0f}" y="{top + 17:.0f}" text-anchor="middle">{escape(box)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Write the picture, or compare it with the imports as they are."""
    parser = argparse.ArgumentParser(description="Draw docs/architecture.svg from the imports.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if not current")
    arguments = parser.parse_args()
    picture = draw(read_graph())
    if arguments.check:
        if PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == picture:
            return 0
        print(f"{PICTURE.name} is not current: run tools/draw_architecture.py", file=sys.stderr)
        return 1
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
