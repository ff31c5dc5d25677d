"""The run folder as a guard."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pretrain.config import dump_yaml, load_settings
from pretrain.errors import InputError
from pretrain.run import RunFolder


def test_settings_that_an_older_version_did_not_have_count_as_their_defaults(
    tmp_path: Path,
) -> None:
    settings = load_settings("coco_r50_mocov2_hcl", [f"output={tmp_path}"])
    saved = yaml.safe_load(dump_yaml(settings))
    del saved["hcl"]["learn_curvature"], saved["optim"]["clip_norm"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    RunFolder(settings).check()
    other = load_settings("coco_r50_mocov2_hcl", [f"output={tmp_path}", "hcl.learn_curvature=true"])
    with pytest.raises(InputError, match=r"hcl\.learn_curvature: False -> True"):
        RunFolder(other).check()


def test_statistics_may_be_switched_in_mid_run(tmp_path: Path) -> None:
    settings = load_settings("coco_r50_mocov2_hcl", [f"output={tmp_path}"])
    (tmp_path / "config.yaml").write_text(dump_yaml(settings))
    RunFolder(
        load_settings("coco_r50_mocov2_hcl", [f"output={tmp_path}", "hcl.statistics=false"])
    ).check()
