"""Pipelines of configs/pipeline: the tables they make, and what a cluster would be asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import hcl
from pretrain.core.presets import configs_root
from slurm.graph import Pipeline, load_pipeline

NAMES = sorted(file.stem for file in (configs_root() / "pipeline").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is neither Slurm nor data."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("HCL_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)


def dry_run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, dict[str, list[str]]]:
    """The graph, and the lines of each request by the first step that it is of."""
    profile = ["--cluster", "preemptible_gpu"]
    assert hcl.main(["pipeline", *words, *profile, "--dry-run"]) == 0, capsys.readouterr().err
    graph, *scripts = re.split(r"\n\n(?=# )", capsys.readouterr().out)
    requests, name = {}, ""
    for script in scripts:
        lines = script.splitlines()
        if "#!/bin/bash" in lines:  # or the rest of one
            name = re.sub(r"^# (0: )?", "", lines[0])
            requests[name] = [""]
        requests[name] += [x.removeprefix("#SBATCH --") for x in lines if x.startswith("#SBATCH")]
    return graph, requests


def words_of(pipeline: Pipeline, family: str) -> list[tuple[str, ...]]:
    return [step.words for step in pipeline.steps.values() if step.family == family]


@pytest.mark.parametrize("name", NAMES)
def test_pipeline__passes_and_shows_what_it_would_submit(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    graph, requests = dry_run(capsys, name)
    pipeline = load_pipeline(name)
    assert all(f"\n  {step}" in graph for step in pipeline.steps)
    tasks = 0
    for lines in requests.values():
        array = [line for line in lines if line.startswith("array=")]
        tasks += 1 + (int(re.split("[-%]", array[0])[1]) if array else 0)
    assert tasks == len(pipeline.steps)
    assert list(pipeline.steps)[-1] == "compare"
    assert not Path("runs").exists()


def test_hcl_table__one_submission(capsys: pytest.CaptureFixture[str]) -> None:
    graph, requests = dry_run(capsys, "hcl_coco_openimages", "coco=/d", "seeds=0 1 2 3 4")
    assert "\n  detect x 60  <- export\n" in graph
    arrays = {name: line for name in requests for line in requests[name] if "array=" in line}
    assert arrays["coco[row=coco_r50_mocov2]"] == "array=0-5%6"
    assert arrays["openimages[row=openimages_r50_densecl]"] == "array=0-3%4"
    assert arrays["orl[row=coco_r50_orl]"] == "array=0-1%2"
    detect = [name for name in requests if name.startswith("detect")]
    assert len(detect) == 12
    assert {arrays[name] for name in detect} == {"array=0-4%5"}
    hcl_row = requests["detect[row=coco_r50_densecl_hcl,seed=0]"]
    assert "dependency='afterok:<export[row=coco_r50_densecl_hcl]>'" in hcl_row
    assert {"gpus-per-node=8", "ntasks-per-node=8", "time=720"} <= set(hcl_row)
    assert "gpus-per-node=1" in requests["retrieve[row=coco_r50_mocov2]"]
    compare = requests["compare"]
    assert not any(line.startswith("gpus") for line in compare)
    (line,) = (line for line in compare if line.startswith("dependency="))
    assert line.count("<detect[") == 60
    assert line.count("<retrieve[") == 12


def test_hcl_table__rows_are_the_presets() -> None:
    """But for those of one GPU, which are the same rows, and COCO+, which is ORL's."""
    pipeline = load_pipeline("hcl_coco_openimages")
    rows = {
        words[1] for kind in ("coco", "openimages", "orl") for words in words_of(pipeline, kind)
    }
    presets = {file.stem for file in (configs_root() / "pretrain").glob("*_r50_*.yaml")}
    other = {name for name in presets if name.endswith(("_1gpu", "_byol")) or "plus" in name}
    assert rows == presets - other


def test_hcl_table__parts() -> None:
    """Without OpenImages and ORL nothing of theirs is left; on one GPU its presets are taken."""
    some = ["openimages_rows=", "orl_rows=", "seeds=7", "suffix=_1gpu", "gpus=1"]
    pipeline = load_pipeline("hcl_coco_openimages", some)
    assert {step.family for step in pipeline.steps.values()} == {
        *("coco", "export", "detect", "retrieve", "probe", "norms", "compare"),
    }
    assert len(pipeline.steps) == 6 * 6 + 1
    assert words_of(pipeline, "coco")[0][1] == "coco_r50_mocov2_1gpu"
    assert pipeline.steps["coco[row=coco_r50_mocov2]"].cluster[1] == ("gpus_per_node", "1")


def test_wrong_word_is_refused_before_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert hcl.main(["pipeline", "hcl_coco_openimages", "detector=mask_rcnn_fpn_1x_ssl"]) == 2
    said = capsys.readouterr().err
    assert "step 'detect[row=coco_r50_mocov2,seed=0]': config 'mask_rcnn_fpn_1x_ssl'" in said
    assert "did you mean 'mask_rcnn_r50_fpn_1x_ssl'?" in said
    assert not Path("runs").exists()


def test_densecl_tables() -> None:
    pipeline = load_pipeline("densecl_coco")
    assert len(words_of(pipeline, "detect_voc")) == 3 * 5  # papers: the mean of five
    assert {words[1] for words in words_of(pipeline, "detect_voc")} == {
        "faster_rcnn_r50_c4_voc_24k_ssl"
    }
    (long,) = words_of(pipeline, "pretrain_long")
    assert long[1:3] == ("coco_r50_densecl", "train.epochs=1600")
    assert len(words_of(load_pipeline("densecl_coco", ["long_rows="]), "export")) == 2


@pytest.mark.parametrize(
    ("name", "patterns", "more"),
    [
        ("hypvit", ["sph_*", "hyp_*"], set()),
        ("hypmix", ["*_cub", "*_cars", "*_sop"], {"hypmix_released_vits_cub"}),
    ],
)
def test_metric_learning__rows_are_the_presets(
    name: str, patterns: list[str], more: set[str]
) -> None:
    found = [step.words for step in load_pipeline(name).steps.values() if step.family != "compare"]
    root = configs_root() / "retrieval"
    published = {"sph", "hyp", "hypmix"}
    presets = {
        file.stem
        for pattern in patterns
        for file in root.glob(f"{pattern}.yaml")
        if file.stem.split("_")[0] in published
    }
    assert {words[2] for words in found} == presets | more
    assert len(found) == len(presets)
