"""What `hcl compare` finds: which results are one row, and folders that cannot be read."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

import hcl
from downstream.results.collect import collect
from downstream.results.result import Result, write_result
from pretrain.core.errors import InputError


def detection(folder: Path, run: str, ap: float, protocol: dict[str, Any] | None = None) -> Path:
    metrics = {"bbox/AP": ap}
    write_result(
        Result(task="detection", run=run, metrics=metrics, protocol=protocol or {}), folder
    )
    return folder


def rows_of(root: Path, *protocols: dict[str, object]) -> list[tuple[str, float]]:
    """Row and AP of results of one name, in the order of ``protocols``; the rows are in order."""
    for number, protocol in enumerate(protocols):
        detection(root / f"{number:02d}", f"m-seed{number}", float(number), protocol=protocol)
    found = collect([root])
    assert found.names == list(dict.fromkeys(m.row for m in found.results))
    return [(m.row, m.result.metrics["bbox/AP"]) for m in found.results]


def test_every_protocol_has_a_row(tmp_path):
    assert rows_of(
        tmp_path,
        {"size": 224, "k": 20},
        {"size": 128, "k": 20},
        {"size": 128, "k": 200},
        {"size": 128, "k": 20},
        {"size": 224, "k": 20},
        {"size": 224},
    ) == [
        ("m", 0.0),
        ("m [size=128]", 1.0),
        ("m [size=128, k=200]", 2.0),
        ("m [size=128]", 3.0),
        ("m", 4.0),
        ("m [k=None]", 5.0),
    ]


def test_protocols_whose_names_would_be_the_same_are_numbered(tmp_path):
    same = "of one beginning, "
    long, longer, longest = ({"labels": same + end, "x_sha256": "f" * 64} for end in "abc")
    assert [row for row, _ in rows_of(tmp_path, {}, long, longer, long, longest, longer)] == [
        "m",
        "m [labels=of one beginning, x_sha256=ffffffffffffffff]",
        "m [labels=of one beginning, x_sha256=ffffffffffffffff] #2",
        "m [labels=of one beginning, x_sha256=ffffffffffffffff]",
        "m [labels=of one beginning, x_sha256=ffffffffffffffff] #3",
        "m [labels=of one beginning, x_sha256=ffffffffffffffff] #2",
    ]


def test_a_run_keeps_its_name_before_a_row_of_that_name(tmp_path):
    for number, name in enumerate(("m", "m", "m [k=2]")):
        protocol = {"k": min(number + 1, 2)}
        detection(tmp_path / str(number), name, float(number), protocol=protocol)
    assert [m.row for m in collect([tmp_path]).results] == ["m", "m [k=2] #2", "m [k=2]"]


@pytest.fixture
def close(monkeypatch):
    """Makes a folder unreadable, for root too."""
    scandir = os.scandir

    def closing(folder: Path) -> None:
        def denied(path="."):
            if Path(os.fsdecode(path)) == folder:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", denied)

    return closing


def test_a_folder_below_that_cannot_be_read_is_named(tmp_path, close, capsys):
    detection(tmp_path / "runs/good", "moco", 20.0)
    locked = detection(tmp_path / "runs/other/locked", "lost", 30.0)
    close(locked)
    told = f"{locked}: cannot be read (Permission denied)"
    assert collect([tmp_path / "runs"]).unfinished == [told]
    output = ["--output", str(tmp_path / "out")]
    assert hcl.main(["compare", str(tmp_path / "runs"), *output]) == 0
    printed = capsys.readouterr().out
    assert f"Warning: {told}" in printed
    assert "| moco" in printed
    assert collect([tmp_path / "runs/good", locked.parent]).unfinished == [told]


def test_an_item_that_cannot_be_read_is_refused(tmp_path, close):
    good = detection(tmp_path / "good", "moco", 20.0)
    locked = detection(tmp_path / "above/locked", "lost", 30.0)
    close(locked)
    with pytest.raises(InputError, match=f"^{re.escape(str(locked))}: cannot be read"):
        collect([good, locked])
    with pytest.raises(InputError, match=r"nothing to compare in what can be read; .*locked"):
        collect([locked.parent])
