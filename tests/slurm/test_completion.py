"""`hcl completion`: bash itself completes commands, options, presets and settings."""

from __future__ import annotations

import shutil
import subprocess

import pytest

import hcl
from slurm.completion import script

pytest.importorskip("shtab")

LINES = {
    ("re",): ["retrieve"],
    ("data", "pr"): ["prepare", "propose"],
    ("data", "prepare", "co"): ["coco"],
    ("retrieve", "ev"): ["eval"],
    ("pretrain", "quickstart_"): ["quickstart_r10"],
    ("pretrain", "quickstart", "--dr"): ["--dry-run"],
    ("pretrain", "quickstart", "optim.l"): ["optim.lr="],
    ("retrieve", "train", "hyp_vits_c"): ["hyp_vits_cars", "hyp_vits_cub"],
    ("detect", "quickstart_r1"): ["quickstart_r10_fpn", "quickstart_r18_fpn"],
    ("explain", "hcl.clip"): ["hcl.clip_radius"],
    ("presets", "pi"): ["pipeline"],
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # file names are offered as well
    text = script("bash")
    for line, expected in LINES.items():
        words = " ".join(f"'{word}'" for word in line)
        call = f"COMP_WORDS=(hcl {words}); COMP_CWORD={len(line)}; _shtab_hcl 2>/dev/null"
        done = subprocess.run(
            ["bash", "-c", f'{text}\n{call}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'],
            capture_output=True,
            text=True,
            check=True,
        )
        assert sorted(done.stdout.split()) == expected, line


def test_zsh(capsys: pytest.CaptureFixture[str]) -> None:
    assert hcl.main(["completion", "zsh"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("#compdef hcl")
    assert "_hcl_presets_pretrain() {" in text
    assert "--dry-run" in text


def test_another_shell_is_refused() -> None:
    with pytest.raises(SystemExit):
        hcl.main(["completion", "fish"])
