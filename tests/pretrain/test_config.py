"""Configuration files and overrides."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pretrain.config import from_values, load_settings
from pretrain.core.config import dump_yaml
from pretrain.core.errors import InputError
from pretrain.core.presets import configs_root

PRESETS = sorted(path.stem for path in (configs_root() / "pretrain").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_loads_and_survives_a_round_trip(preset: str) -> None:
    settings = load_settings(preset)
    assert from_values(yaml.safe_load(dump_yaml(settings)), source="again") == settings


def test_load_settings__nearest_preset() -> None:
    with pytest.raises(InputError, match="did you mean 'coco_r50_mocov2_hcl'"):
        load_settings("coco_r50_moco2_hcl")


def test_load_settings__overrides() -> None:
    settings = load_settings(
        "quickstart", ["optim.lr=1e-3", "hcl.weight=0", "train.epochs=null", "train.steps=3"]
    )
    assert settings.optim.lr == 1e-3
    assert settings.train.steps == 3
    assert settings.method_name == "moco"
    assert load_settings("quickstart", ["hcl=null"]).hcl is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "unknown key 'optim.lrr': did you mean 'lr'?"),
        ("method.temprature=1", "unknown key 'method.temprature': did you mean 'temperature'?"),
        ("hcl.curvatur=1", "unknown key 'hcl.curvatur': did you mean 'curvature'?"),
        ("method.name=mocco", "unknown method 'mocco'; did you mean 'moco'?"),
        ("device=cpu", "unknown key 'device': did you mean 'train.device'?"),
        ("epochs=5", "unknown key 'epochs': did you mean 'train.epochs'?"),
        ("optim.lr=fast", "'optim.lr'"),
        ("train.steps=5", "give exactly one of 'epochs' and 'steps'"),
        ("optim.lr", "overrides are written key=value"),
        ("optim.lr.x=1", "'lr' is a value, not a section"),
        (
            "optim.batch_size=0",
            "'optim.batch_size': input should be greater than or equal to 1",
        ),
    ],
)
def test_load_settings__fault(override: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_settings("quickstart", [override])
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_load_settings__all_faults_at_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "outptu: x\nmethod: {name: moco, queu: 3}\noptim: {lr: -1}\ntrain: {epochs: 1}\n"
    )
    with pytest.raises(InputError) as error:
        load_settings(str(file))
    text = str(error.value)
    for fault in ("missing key 'output'", "'outptu'", "'method.queu'", "'optim.lr'", "'data'"):
        assert fault in text


@pytest.mark.parametrize("text", ["a: [1", "just words", ""])
def test_load_settings__not_a_mapping(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"mine\.yaml: "):
        load_settings(str(file))
