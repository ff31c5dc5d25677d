"""Commands looked at without being run."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import hcl
from pretrain.core.errors import InputError
from pretrain.datasets import cli as data
from slurm.commands import OUTER, check_command, parsed

INNER = [
    *([name] for name in hcl.COMMANDS if name not in OUTER and name != "data"),
    *(["data", name] for name in data.COMMANDS),
    *(["retrieve", "train"], ["retrieve", "eval"], ["correspond", "show"]),
    ["data", "prepare", "cub"],
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", INNER, ids=" ".join)
def test_every_command_reads_its_options_before_anything_else(words: list[str]) -> None:
    with pytest.raises(InputError, match=r"^wrong options: hcl [a-z ]+: error: "):
        check_command([*words, "--no-such-option"])
    assert check_command([*words, "--help"]) is None
    assert not list(Path().iterdir())


def test_nothing_is_run_and_parsers_are_left_as_they_were(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_intermixed_args
    words = ["data", "scenes", "a b", "--images", "3"]
    found = parsed(words)
    assert found is not None
    assert (found.out, found.images) == (Path("a b"), 3)
    with pytest.raises(InputError):
        parsed(["data", "scenes"])
    after = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_intermixed_args
    assert after == before
    assert not Path("a b").exists()
    assert capsys.readouterr() == ("", "")
    assert hcl.main([*words, "--val", "0", "--size", "64", "--workers", "1"]) == 0
    assert Path("a b/train").is_dir()


def test_folder_of_the_run() -> None:
    assert check_command(["pretrain", "quickstart", "output=a"]) == "a"
    assert check_command(["retrieve", "train", "hyp_vits_cub", "output=b", "--fresh"]) == "b"
    assert check_command(["compare", "a", "b"]) is None
