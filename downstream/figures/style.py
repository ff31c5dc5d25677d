"""The look of all figures: colors of runs, line styles, and matplotlib's settings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl

# At least 3:1 on white and on the dark page (#14171c).
PALETTE = ("#2f7ed8", "#d9641e", "#249168", "#b455c9", "#a9811b", "#d1477a", "#5c8296", "#6f8f1f")
LINES = ("-", "--", ":", "-.")
_LABEL = 24


@contextmanager
def style(ink: str, paper: str) -> Iterator[None]:
    """Figures are made, and written, within it: the same figure gives the same bytes.

    Args:
        ink: color of text and axes.
        paper: color of the background, or ``none``.
    """
    settings = {
        "svg.fonttype": "path",
        "svg.hashsalt": "hcl",
        "figure.facecolor": paper,
        "axes.facecolor": paper,
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": ink,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": ink,
        "ytick.color": ink,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "text.parse_math": False,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the page has it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def color_of(number: int) -> str:
    """Of the run with this number in the table."""
    return PALETTE[number % len(PALETTE)]


def short(name: str) -> str:
    """A name that fits into one line beside a figure."""
    flat = " ".join(name.split())
    return flat if len(flat) <= _LABEL else flat[: _LABEL - 1] + "…"
