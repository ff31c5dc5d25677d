"""How far a command is."""

from __future__ import annotations

import io
import sys

import pytest

from pretrain.core import progress
from pretrain.core.progress import Progress


class Terminal(io.StringIO):
    """A terminal as far as writing goes."""

    def isatty(self) -> bool:
        return True


def test_a_file_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    show = Progress("images", 400)
    for done in range(100, 401, 10):
        now[0] += 2.0
        show(done)
    show.close()
    lines = capsys.readouterr().err.splitlines()
    # Lines at 30 s and 60 s and at the end, which is 62 s. The first 100 were there before.
    assert [line.split(",")[0] for line in lines] == [
        *("images: 240/400", "images: 390/400", "images: 400/400")
    ]
    assert "00:30 passed, 00:34 left" in lines[0]


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    show = Progress("images")
    show(1, 3)
    show(3, 3)
    assert "/3" in terminal.getvalue()
    assert "\n" not in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")
