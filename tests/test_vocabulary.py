"""The same words mean the same in all commands; old spellings are still accepted."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import hcl
from pretrain.core.command import Command
from pretrain.core.errors import InputError

EVERY = {name: entry.load() for name, entry in hcl.COMMANDS.walk()}


def options(command: Command) -> dict[str, argparse.Action]:
    return {flag: action for action in command.parser()._actions for flag in action.option_strings}


@pytest.mark.parametrize("name", EVERY)
def test_the_words_of_a_command(name: str) -> None:
    known = options(EVERY[name])
    assert not {"--out", "--overwrite", "--resume", "--batch", "--dir", "--jobs"} & known.keys()
    assert known.get("-o") is known.get("--output")
    if "--output" in known:
        assert known["--output"].type is Path
    for flag, value in (("--workers", "0"), ("--batch-size", "0")):
        if flag in known:
            with pytest.raises(argparse.ArgumentTypeError, match="whole number from 1"):
                known[flag].type(value)  # type: ignore[operator,misc]
    if "--fresh" in known:
        assert known["--fresh"].nargs == 0
    positional = {action.dest for action in EVERY[name].parser()._get_positional_actions()}
    assert ("config" in positional) == (EVERY[name].config is not None)
    if EVERY[name].config is not None:
        assert {"config", "overrides"} <= positional


@pytest.mark.parametrize("name", EVERY)
def test_old_spellings_are_not_in_use_again(name: str) -> None:
    known = options(EVERY[name])
    for old, new in EVERY[name].renamed.items():
        assert old not in known
        assert new == "" or new in known


OLD = [
    # old words, new words
    ("probe r --train a --val b --output o --batch 8",
     "probe r --train a --val b -o o --batch-size 8"),
    ("retrieve r --annotations a --images b --output o --batch=8 --overwrite",
     "retrieve r --annotations a --images b --output o --batch-size=8 --fresh"),
    ("retrieve eval r --overwrite", "retrieve eval r --fresh"),
    ("analyze norms r --output o --overwrite", "analyze norms r -o o --fresh"),
    ("detect c --output o --overwrite", "detect c --output o --fresh"),
    ("detect c --output o --resume", "detect c --output o"),
    ("data show i --config c --out p.png", "data show i --config c -o p.png"),
    ("data prepare coco r --index i", "data prepare coco r -o i"),
    ("data pack i o --side 3", "data pack i -o o --side 3"),
    ("data pack i --side 3 o", "data pack i -o o --side 3"),
    ("data select i o", "data select i --output o"),
    ("data propose i --method grid o", "data propose i --method grid -o o"),
    ("data scenes o --images 3 --overwrite", "data scenes --output o --images 3 --fresh"),
    ("data crops a i o", "data crops a i -o o"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), OLD)
def test_an_old_spelling_means_the_new_one(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, rest = hcl.COMMANDS.find(new.split())
    wanted = vars(command.parse(rest))
    assert capsys.readouterr().err == ""
    found = vars(command.parse(hcl.COMMANDS.find(old.split())[1]))
    assert {**found, "command_line": wanted["command_line"]} == wanted
    assert "note: " in capsys.readouterr().err


def test_output_is_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (("i o -o p", "unrecognized arguments: o"), ("i", "-o/--output")):
        with pytest.raises(SystemExit) as stop:
            EVERY["data pack"].parse(words.split())
        assert stop.value.code == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pretrain", "retrieve train"])
def test_output_of_a_run_is_a_setting(name: str) -> None:
    config = EVERY[name].config
    assert config is not None
    preset = {"pretrain": "quickstart", "retrieve train": "hyp_vits_cub"}[name]
    for words in ([preset, "output=12a", "-o", "123"], ["--output=123", preset]):
        found = EVERY[name].parse(words)
        assert config.check(found.config, found.overrides) == "123"


def test_overrides_of_a_detector(capsys: pytest.CaptureFixture[str]) -> None:
    from downstream.detection.cli import pairs

    new = ["SOLVER.MAX_ITER=50", "MODEL.WEIGHTS=a=b"]
    assert pairs(new) == ("SOLVER.MAX_ITER", "50", "MODEL.WEIGHTS", "a=b")
    assert capsys.readouterr().err == ""
    assert pairs(["SOLVER.MAX_ITER", "50"]) == ("SOLVER.MAX_ITER", "50")
    assert "note: write overrides as SOLVER.MAX_ITER=VALUE" in capsys.readouterr().err
    with pytest.raises(InputError, match="'50': overrides are written KEY=VALUE"):
        pairs(["SOLVER.MAX_ITER=50", "50"])
