"""A value means the same to every command, in a file and as ``key=value``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from downstream.retrieval.finetune.settings import load_settings as load_finetuning
from pretrain.config import load_settings as load_pretraining
from pretrain.core.config import read_value, read_yaml
from pretrain.core.errors import InputError
from slurm.cluster import choose_cluster

Read = Callable[[str, Sequence[str]], Any]

READERS: dict[str, tuple[Read, str, dict[str, Any]]] = {
    # name: (reader, a preset, what a file that stands on nothing needs)
    "pretrain": (load_pretraining, "quickstart", {"base": "quickstart"}),
    "retrieval": (load_finetuning, "hyp_vits_cub", {"base": "hyp_vits_cub"}),
    "cluster": (lambda name, texts: choose_cluster(name, texts)[0], "cpu", {}),
}
NUMBER = {"pretrain": "optim.lr", "retrieval": "optim.lr", "cluster": "mem_gb"}
TEXT = {"pretrain": "name", "retrieval": "name", "cluster": "partition"}


def value_of(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = getattr(settings, part)
    return settings


def from_file(reader: str, key: str, text: str, folder: Path) -> Any:
    """The value of ``key`` where a file says it with these characters."""
    read, _, values = READERS[reader]
    *sections, last = key.split(".")
    lines = [f"{name}: {value}" for name, value in values.items()]
    lines += [f"{'  ' * depth}{name}:" for depth, name in enumerate(sections)]
    file = folder / "a.yaml"
    file.write_text("\n".join([*lines, f"{'  ' * len(sections)}{last}: {text}\n"]))
    return value_of(read(str(file), ()), key)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("text", "number"),
    [("9e-1", 0.9), ("1E2", 100.0), ("2.e-3", 0.002), (".5e1", 5.0), ("0.25", 0.25), ("+3.5", 3.5)],
)
def test_numbers(reader: str, text: str, number: float, tmp_path: Path) -> None:
    key, (read, preset, _) = NUMBER[reader], READERS[reader]
    assert value_of(read(preset, [f"{key}={text}"]), key) == number
    assert from_file(reader, key, text, tmp_path) == number


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", ["nan", "infinity", "e5", "1e", "a=b", "[1"])
def test_text(reader: str, text: str, tmp_path: Path) -> None:
    key, (read, preset, _) = TEXT[reader], READERS[reader]
    assert value_of(read(preset, [f"{key}={text}"]), key) == text
    if text != "[1":  # in a file it is a list that does not end
        assert from_file(reader, key, text, tmp_path) == text


@pytest.mark.parametrize("reader", READERS)
def test_faults(reader: str) -> None:
    read, preset, _ = READERS[reader]
    with pytest.raises(InputError, match="overrides are written key=value"):
        read(preset, [TEXT[reader]])
    with pytest.raises(InputError, match=f"'{TEXT[reader]}'"):
        read(preset, [f"{TEXT[reader]}=1e3"])  # a number, not text
    with pytest.raises(InputError, match="is a value, not a section"):
        read(preset, [f"{TEXT[reader]}=a", f"{TEXT[reader]}.b=c"])


@pytest.mark.parametrize("read", [load_pretraining, load_finetuning])
def test_numbers_in_lists(read: Read) -> None:
    preset = "quickstart" if read is load_pretraining else "hyp_vits_cub"
    assert read(preset, ["optim.betas=[9e-1,0.999]"]).optim.betas == (0.9, 0.999)


def test_files_and_the_command_line_agree(tmp_path: Path) -> None:
    texts = ["1e-4", "-1e+5", "null", "true", "[1e-1, a]", "{a: 1e-1}", "'1e3'", "1e3x", "", "1.5"]
    (tmp_path / "a.yaml").write_text("".join(f"k{i}: {text}\n" for i, text in enumerate(texts)))
    assert list(read_yaml(tmp_path / "a.yaml").values()) == [read_value(text) for text in texts]
    assert yaml.safe_load("1e-4") == "1e-4", "PyYAML reads it as a number now: drop our loader"


@pytest.mark.parametrize("reader", READERS)
def test_a_fault_of_the_command_line_is_not_blamed_on_the_file(reader: str, tmp_path: Path) -> None:
    read, preset, values = READERS[reader]
    with pytest.raises(InputError, match=r"^command line: unknown key 'nme'"):
        read(preset, ["nme=x"])
    file = tmp_path / "a.yaml"
    file.write_text("".join(f"{key}: {value}\n" for key, value in values.items()) + "nme: x\n")
    with pytest.raises(InputError, match=r"a\.yaml: unknown key 'nme'"):
        read(str(file), [f"{TEXT[reader]}=x"])
