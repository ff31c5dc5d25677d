"""Commands looked at without being run."""

from __future__ import annotations

from pathlib import Path

import pytest

import hcl
from pretrain.core.errors import InputError
from slurm.commands import check_command, read_words

EVERY = {name: entry.load() for name, entry in hcl.COMMANDS.walk()}
INNER = [name.split() for name, command in EVERY.items() if command.for_jobs]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", INNER, ids=" ".join)
def test_every_command_reads_its_options_before_anything_else(words: list[str]) -> None:
    with pytest.raises(InputError, match=r"^wrong options: hcl [a-z\- ]+: error: "):
        check_command([*words, "--no-such-option"])
    assert check_command([*words, "--help"]) is None
    assert not list(Path().iterdir())


def test_commands_are_called_what_the_table_says() -> None:
    aliases = {"data prepare scenes": "data scenes"}
    assert {name: aliases.get(name, name) for name in EVERY} == {
        name: command.name for name, command in EVERY.items()
    }
    assert {name for name, command in EVERY.items() if command.saves_on_stop} == {
        "pretrain",
        "retrieve train",
    }
    assert {name: command.config.presets for name, command in EVERY.items() if command.config} == {
        "pretrain": "pretrain",
        "retrieve train": "retrieval",
        "detect": "detection",
    }


@pytest.mark.parametrize("words", [[], ["logs"], ["submit", "pretrain"], ["nothing"]])
def test_commands_about_other_commands_are_no_jobs(words: list[str]) -> None:
    with pytest.raises(InputError, match="for a job or step; one of data, pretrain, correspond"):
        check_command(words)


def test_nothing_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "scenes", "a b", "--images", "3"]
    _, found = read_words(words)
    assert found is not None
    assert (found.output, found.images) == (Path("a b"), 3)
    with pytest.raises(InputError):
        read_words(["data", "scenes"])
    assert not Path("a b").exists()
    assert capsys.readouterr() == ("", "")
    assert hcl.main([*words, "--val", "0", "--size", "64", "--workers", "1"]) == 0
    assert Path("a b/train").is_dir()


def test_folder_of_the_run() -> None:
    assert check_command(["pretrain", "quickstart", "output=a"]) == "a"
    assert check_command(["retrieve", "train", "hyp_vits_cub", "output=b", "--fresh"]) == "b"
    assert check_command(["compare", "a", "b"]) is None
