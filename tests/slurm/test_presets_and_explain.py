"""`hcl presets` and `hcl explain`: every preset and every setting has something to say."""

from __future__ import annotations

import pytest

import hcl
from pretrain.core.presets import configs_root
from pretrain.core.settings import sections_in
from slurm.explain import KINDS, settings_of
from slurm.list_presets import summary


def test_every_preset_is_listed_with_its_first_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert hcl.main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    files = sorted(configs_root().glob("*/*.yaml"))
    assert len(lines) == len(files) + len({file.parent for file in files})
    for file in files:
        (line,) = [line for line in lines if line.startswith(f"  {file.stem} ")]
        assert len(line.split(maxsplit=1)[1]) > 10, file
    assert hcl.main(["presets", "cluster"]) == 0
    assert capsys.readouterr().out.count("\n") == 1 + len(list(configs_root().glob("cluster/*")))


def test_a_sentence_ends_at_its_end(tmp_path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("# Of Ge et al. 2023: MoCo-v2\n# + HCL. From scratch.\nkey: 1\n# later\n")
    assert summary(file) == "Of Ge et al. 2023: MoCo-v2 + HCL"
    file.write_text("key: 1\n")
    assert summary(file) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_documented(kind: str) -> None:
    found = [setting for settings in settings_of(kind).values() for setting in settings]
    assert len(found) > 15
    for setting in found:
        assert sections_in(setting.field.annotation) or setting.meaning, setting.key


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert hcl.main(["explain", "optim.lr"]) == 0
    pretraining, retrieval = capsys.readouterr().out.split("\n\n")
    assert pretraining.startswith("optim.lr   (pretrain)\n  peak rate for `batch_size`")
    assert "\n  default: 0.03\n" in pretraining
    assert "\n  set to 0.002 in quickstart_r10" in pretraining
    assert "value: number, more than 0" in retrieval
    assert hcl.main(["explain", "method.queue"]) == 0
    assert "method.queue   (pretrain, method densecl, moco)" in capsys.readouterr().out
    assert hcl.main(["explain", "optim", "--kind", "pretrain"]) == 0
    assert "settings: optimizer, batch_size, accumulate," in capsys.readouterr().out
    assert hcl.main(["explain", "mem_gb"]) == 0
    assert "value: number or null, more than 0\n  default: null" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("lr", "did you mean 'optim.lr'?"),
        ("optim.lrr", "did you mean 'optim.lr'"),
        ("hcl.clip_radus", "did you mean 'hcl.clip_radius'"),
        ("zzz", "sections and settings at the top: output, "),
    ],
)
def test_explain__near_misses(key: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hcl.main(["explain", key]) == 2
    assert f"no setting '{key}'; {hint}" in capsys.readouterr().err
