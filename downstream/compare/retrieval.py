"""The table of retrieval: a line for every way of ranking that a row was measured in."""

from __future__ import annotations

from collections.abc import Sequence

from downstream.results.collect import Collection
from downstream.results.protocols import measured_on
from downstream.results.table import SPACES, cells, value_of
from downstream.results.text_table import Sheet

AT_R = {"map@r": "mAP@R", "r-precision": "R-precision"}


def known_ks(found: Collection) -> list[int]:
    """Every K whose recall some result has."""
    names = {name for m in found.results for name in m.result.metrics if name.startswith("recall/")}
    return sorted({int(k) for name in names if (k := name.rpartition("@")[2]).isdecimal()})


def sheet(found: Collection, ks: Sequence[int] = ()) -> Sheet | None:
    """Recall@K, mAP@R and R-precision, mean over seeds and standard deviation.

    Args:
        found: the results.
        ks: the K to show, of those that were measured; none: 1, and only beside mAP@R.

    Returns:
        None where the first table already has all there is.
    """
    lines = [
        (name, space, measured_on(results[0]))
        for name in found.names
        if (results := found.of(name, "retrieval"))
        for space in SPACES
        if any(f"recall/{space}@" in metric for m in results for metric in m.result.metrics)
    ]
    # (title, start of the metric's name, its end)
    recalls = [(f"R@{k}", "recall", f"@{k}") for k in ks or (1,)]
    columns = [*recalls, *((title, kind, "") for kind, title in AT_R.items())]
    values = [
        [value_of(found, name, "retrieval", f"{kind}/{space}{end}") for name, space, _ in lines]
        for _, kind, end in columns
    ]
    kept = [
        (title, [v and v.times(100) for v in column])
        for (title, _, _), column in zip(columns, values, strict=True)
        if any(v is not None for v in column)
    ]
    if not lines or (not ks and len(kept) == len(recalls)):
        return None
    groups = [group for _, _, group in lines]
    shown = zip(*(cells(column, groups) for _, column in kept), strict=True)
    return Sheet(
        "Retrieval",
        ["run, ranked by", *(title for title, _ in kept)],
        [
            (f"{name}, {SPACES[space]}", list(row))
            for (name, space, _), row in zip(lines, shown, strict=True)
        ],
        [
            "Percent, mean ± standard deviation over seeds; in bold the best of each column among "
            "rows of one test set. mAP@R and R-precision go by the R nearest, R being the number "
            "of images of the query's class."
        ],
    )
